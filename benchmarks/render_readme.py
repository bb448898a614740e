"""Write the measured tables of README.md and docs/models.md from benchmarks/results/*.json.

python benchmarks/render_readme.py            rewrite the tables
python benchmarks/render_readme.py --check    exit code 1 when a page says something else

A table stands between ``<!-- table: NAME -->`` and ``<!-- /table -->``; NAME.json holds its numbers.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import render_speed

ROOT = Path(__file__).resolve().parents[1]
MARKED = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- /table -->)", re.DOTALL)
MISSING = "\N{EN DASH}"
TIMES = "\N{MULTIPLICATION SIGN}"
Record = dict[str, Any]


def number(value: float | None, digits: int, stderr: float | None = None) -> str:
    """A value with as many digits after the point, and its standard error."""
    if value is None:
        return MISSING
    return f"{value:,.{digits}f}" + ("" if stderr is None else f" ± {stderr:,.{digits}f}")


def of_result(result: Record | None, digits: int) -> str:
    """A result of metrics.json, or a dash."""
    return MISSING if result is None else number(result["value"], digits, result["stderr"])


def table(heads: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; numbers stand right."""
    lines = [heads, ["---"] + ["---:"] * (len(heads) - 1), *rows]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in lines)


def training_table(record: Record) -> str:
    rows = []
    for model in record["models"]:
        errors, training, paper = model["errors"], model["training"], model["paper"]
        mae, stderr = errors.get("force_mae_meV_A"), errors.get("force_mae_stderr_meV_A")
        frames = (model["n_train"], model["n_validation"], errors.get("n_test"))
        rows.append(
            [
                f"`{model['id']}`",
                model["level_of_theory"],
                " / ".join(number(n, 0) for n in frames),
                number(mae, 1, stderr),
                MISSING if paper is None else f"{paper['force_mae_meV_A']} ({paper['n_train']:,})",
                f"{number(training['minutes'], 0)} min, {training['epochs']} epochs",
                str(training["machine"]),
            ]
        )
    heads = [
        *("Model", "Labels", "Frames: training / validation / test", "Force MAE, meV/Å"),
        *("The paper's (training frames)", "Training", "On"),
    ]
    return table(heads, rows)


def simulation_table(record: Record) -> str:
    rows = []
    for run in record["runs"]:
        results, paper = run["results"], run["paper"]
        t_vib = [replica["T_vib"] for replica in run["per_replica"] if replica["T_vib"] is not None]
        spread = f" ({min(t_vib):.0f} to {max(t_vib):.0f})" if t_vib else ""
        h_r = results.get("h_r_mae")
        rows.append(
            [
                f"`{run['id']}`, {run['protocol']}",
                f"{run['replicas']} {TIMES} {run['length_ps']:g} ps",
                stability(run),
                of_result(h_r, 3),
                MISSING if h_r is None else number(h_r["floor"], 3),
                of_result(results.get("temperature"), 0),
                of_result(results.get("T_rot"), 0),
                of_result(results.get("T_vib"), 0) + spread,
                f"{of_result(results.get('steps_per_second'), 0)} ({run['platform']})",
            ]
        )
        if paper is not None:
            rows.append(
                [
                    f"*the paper's, {paper['n_train']:,} training frames*",
                    f"{paper['replicas']} {TIMES} {paper['length_ps']:g} ps",
                    number(paper["stability_ps"], 0, paper["stability_stderr_ps"] or None),
                    number(paper["h_r_mae"], 2, paper["h_r_mae_stderr"] or None),
                    *[MISSING] * 4,
                    f"{number(paper['steps_per_second'], 0)} ({paper['machine']})",
                ]
            )
    heads = [
        *("Model, protocol", "Runs", "Stability, ps", "h(r) MAE", "Floor", "T, K", "T<sub>rot</sub>, K"),
        *("T<sub>vib</sub>, K (replicas)", "Steps/s"),
    ]
    return table(heads, rows)


def stability(run: Record) -> str:
    """Restricted mean and how many replicas outlived the run."""
    broke = sum(replica["broke"] for replica in run["per_replica"])
    n = len(run["per_replica"])
    return of_result(run["results"].get("stability"), 0) + f" ({n - broke} of {n} unbroken)"


def peers_table(record: Record) -> str:
    rows = []
    for entry in record["comparisons"].values():
        versions = ", ".join(f"{name} {version}" for name, version in entry["versions"].items())
        rows.append(
            [
                f"`{entry['ours']}`, `{entry['theirs']}`"
                if entry["kind"] == "weights"
                else f"`{entry['theirs']}`",
                {"weights": "weights copied across", "import": "imported model"}[entry["kind"]],
                entry["systems"] + (f"; {entry['note']}" if entry["note"] else ""),
                f"{entry['energy']:.0e}",
                f"{entry['forces']:.0e}",
                entry["dtype"],
                versions,
            ]
        )
    return table(["Compared", "How", "On", "Energy", "Forces", "dtype", "Versions"], rows)


def learning_table(record: Record) -> str:
    tests: dict[str, dict[str, Record]] = {}
    for test in record["tests"]:
        tests.setdefault(test["model"], {})[test["what"]] = test
    columns = ("ethanol", "cell", "water-1k", "lips-fm")

    def cell(test: Record | None) -> str:
        if test is None:
            return MISSING
        digits = 1 if test["measured"] == "force_mae_mev" else 3
        failed = "" if test["passed"] else ", failed"
        return f"{number(test['value'], digits)} ({number(test['seconds'], 0)} s{failed})"

    rows = [[f"`{model}`"] + [cell(row.get(what)) for what in columns] for model, row in tests.items()]
    heads = [
        *("Architecture", "10 frames of ethanol, meV/Å", "10 frames of Cu3Pd, meV/Å"),
        *("One frame of water: loss / first loss", "One frame of LiPS: loss / first loss"),
    ]
    return table(heads, rows)


TABLES: dict[str, Callable[[Record], str]] = {
    "training": training_table,
    "simulation": simulation_table,
    "speed": render_speed.short_table,
    "speed-loops": render_speed.loops_table,
    "speed-targets": render_speed.targets_table,
    "speed-peers": render_speed.peers_table,
    "speed-profile": render_speed.profile_table,
    "scaling": render_speed.scaling_table,
    "all-pairs": render_speed.all_pairs_table,
    "peers": peers_table,
    "learning": learning_table,
}


# Tables of a file of another name.
FILES = {
    "speed-loops": "speed",
    "speed-targets": "speed",
    "speed-peers": "peers_speed",
    "speed-profile": "profile",
    "all-pairs": "all_pairs",
}


def render(name: str, results: Path) -> str:
    """Table and origin of a file of results; says so where it has not been measured."""
    path = results / f"{FILES.get(name, name)}.json"
    if not path.is_file():
        return "*Not measured yet.*\n"
    record = json.loads(path.read_text(encoding="utf-8"))
    commit = (record["commit"] or "unknown")[:12] + (
        "-dirty" if str(record["commit"]).endswith("-dirty") else ""
    )
    origin = f"`{record['command']}`, commit {commit}, {record['date']}, {record['machine']}"
    return f"{TABLES[name](record)}\n<sub>{origin}; numbers: `benchmarks/results/{path.name}`</sub>\n"


def render_all(text: str, results: Path) -> str:
    """The text with every marked table written anew."""
    return MARKED.sub(lambda found: found[1] + render(found[2], results) + found[3], text)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    parser.add_argument(
        "--pages",
        type=Path,
        nargs="+",
        default=[ROOT / "README.md", *(ROOT / "docs" / name for name in ("models.md", "speed.md"))],
    )
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    arguments = parser.parse_args()
    for page in arguments.pages:
        text = page.read_text(encoding="utf-8")
        rendered = render_all(text, arguments.results)
        if not arguments.check:
            page.write_text(rendered, encoding="utf-8")
        elif rendered != text:
            sys.exit(f"error: {page} differs from {arguments.results}; run `make readme`")


if __name__ == "__main__":
    main()
