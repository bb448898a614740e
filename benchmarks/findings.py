"""Write the tables of docs/findings.md from the committed runs, each number with a link to where it stands.

python benchmarks/findings.py            rewrite the tables
python benchmarks/findings.py --check    exit code 1 when the page says something else

A table stands between ``<!-- findings: NAME -->`` and ``<!-- /findings -->``; the runs are the folders in
benchmarks/results/runs/, of which run.json and metrics.json are kept.
"""

import argparse
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from openmm_mlbench import paper
from openmm_mlbench.report.collection import CONTROL, LEVEL_WORDS, collect, completeness, planned_length_ps
from openmm_mlbench.report.comparisons import (
    PAPER,
    STABILITY,
    Ranking,
    heading_of,
    paper_quantities,
    paper_ranking,
    rankings,
)
from openmm_mlbench.report.table import MISSING, format_lengths, format_number, results_of

ROOT = Path(__file__).resolve().parents[1]
MARKED = re.compile(r"(<!-- findings: ([\w-]+) -->\n).*?(<!-- /findings -->)", re.DOTALL)
Runs = list[dict[str, Any]]
# Results of the table of runs, in order.
SHOWN = (
    "h_r_mae",
    "rdf_mae_O-O",
    "rdf_mae_H-H",
    "rdf_mae_H-O",
    "rdf_mae_all",
    "diffusivity_mae",
    "F_phi_mae",
    "F_psi_mae",
)
# Beyond so many combined standard errors two numbers differ.
DIFFER = 2.0
# Results of labelled frames, which no length of a run decides.
OF_FRAMES = ("force_", "energy_")
# Speeds are of other machines, and the number of survivors says what stability says.
NOT_COMPARED = ("steps_per_second", "n_finished")


def markdown(heads: list[str], rows: list[list[str]]) -> str:
    """A table; what is empty says so."""
    if not rows:
        return "*Nothing was measured for this table yet.*\n"
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n" for cells in lines)


def links(run: dict[str, Any], page: Path) -> str:
    """To run.json and metrics.json of a run."""
    folder = os.path.relpath(Path(run["place"]).resolve(), page.resolve().parent)
    return f"[run]({folder}/run.json), [metrics]({folder}/metrics.json)"


def value_of(result: dict[str, Any] | None) -> str:
    """A number with its standard error, or why there is none."""
    if result is None:
        return MISSING
    if result["value"] is None:
        return str(result["status"]).replace("_", " ")
    return format_number(result["value"], result["stderr"])


def stability_of(metrics: dict[str, Any]) -> str:
    """Survivors of a run that was shorter than its protocol make a lower bound of it."""
    run, result = metrics["run"], results_of(metrics).get(STABILITY)
    if result is None or result["value"] is None:
        return value_of(result)
    alive = [replica for replica in run["replicas"] if not replica.get("broke")]
    counted = f"{len(alive)} of {len(run['replicas'])} unbroken"
    if any(replica["time_ps"] < planned_length_ps(run) * (1 - 1e-6) for replica in alive):
        return f"at least {format_number(result['value'])} ps (censored), {counted}"
    bound = "≥ " if len(alive) == len(run["replicas"]) else ""
    return f"{bound}{value_of(result)} ps, {counted}"


def runs_table(runs: Runs, page: Path) -> str:
    """Every committed run of a learned model."""
    learned = [metrics for metrics in runs if completeness(metrics["run"]) != CONTROL]
    names = [name for name in SHOWN if any(name in results_of(metrics) for metrics in learned)]
    rows = []
    for metrics in sorted(learned, key=lambda one: (one["run"]["dataset"], force_mae_of(one))):
        run, results = metrics["run"], results_of(metrics)
        row = [
            f"{run['label']}, {run['dataset']}",
            str(run["protocol"]),
            f"{format_lengths(replica['time_ps'] for replica in run['replicas'])} ({LEVEL_WORDS[completeness(run)]})",
            value_of(results.get("force_mae")),
            stability_of(metrics),
        ]
        for name in names:
            result = results.get(name)
            floor = (
                f" (floor {format_number(result['floor'])})" if result and result["floor"] is not None else ""
            )
            row.append(value_of(result) + floor)
        rows.append([*row, value_of(results.get("steps_per_second")), links(run, page)])
    heads = ["Model, data set", "Protocol", "Simulated", "Force MAE, meV/Å", "Stability"]
    return markdown([*heads, *map(heading_of, names), "Steps/s", "Source"], rows)


def force_mae_of(metrics: dict[str, Any]) -> float:
    """For sorting; unknown ones last."""
    result = results_of(metrics).get("force_mae")
    return float("inf") if result is None or result["value"] is None else float(result["value"])


def ranking_row(one: Ranking) -> list[str]:
    """One rank correlation with its intervals."""
    cells = [
        MISSING
        if found.value is None
        else f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f}), p {found.p:.2g}"
        for found in (one.correlation.spearman, one.correlation.kendall)
    ]
    return [
        one.dataset,
        one.heading.replace("Stability", "stability"),
        str(len(one.points)),
        one.ran,
        *cells,
        one.verdict,
    ]


RANK_HEADS = [
    "Data set",
    "Force MAE against",
    "Models",
    "Compared",
    "Spearman's rho",
    "Kendall's tau",
    "Verdict",
]


def ranks_table(runs: Runs, page: Path) -> str:
    """Whether a lower force error goes with a better simulation, in our runs."""
    of_run = {metrics["run"]["anchor"]: metrics["run"] for metrics in runs}
    rows = []
    for one in rankings(runs):
        if one.source == PAPER:
            continue
        sources = "; ".join(f"{point.label}: {links(of_run[point.anchor], page)}" for point in one.points)
        rows.append([*ranking_row(one), sources])
    return markdown([*RANK_HEADS, "Source"], rows)


def paper_ranks_table(_runs: Runs, _page: Path) -> str:
    """The same of the numbers that the paper prints."""
    rows = []
    for table in paper.TABLES:
        for quantity in paper_quantities(table):
            one = paper_ranking(table, quantity)
            rows.append([*ranking_row(one), table.name])
    return markdown([*RANK_HEADS, "Source"], rows)


def _model_of(run: dict[str, Any]) -> tuple[str, str]:
    return str(run["model"]), str(run["dataset"])


def differences_table(runs: Runs, page: Path) -> str:
    """Ours beside the paper's, and what of data and length is not the same."""
    from openmm_mlbench.report.table import compare_with_paper

    rows = []
    full = {_model_of(metrics["run"]) for metrics in runs if completeness(metrics["run"]) == "full"}
    for metrics in runs:
        run = metrics["run"]
        row = paper.paper_row(str(run["dataset"]), "", run.get("architecture") or "")
        if row is None or run["protocol"] != run.get("system"):
            continue
        short = completeness(run) != "full"
        if short and _model_of(run) in full:
            continue
        theirs = paper.paper_results(row)
        for name, result in results_of(metrics).items():
            other = theirs.get(name)
            if other is None or other.value is None or result["value"] is None or name in NOT_COMPARED:
                continue
            # What is printed was rounded: off by a third of a digit, of its last place.
            digit = 10.0 ** -paper.DECIMALS.get(name, paper.USUAL_DECIMALS)
            parts = (result["stderr"] or 0.0, other.stderr or 0.0, digit / 12**0.5)
            error = sum(part**2 for part in parts) ** 0.5 if any(parts[:2]) else 0.0
            apart = abs(result["value"] - other.value) / error if error else None
            censored = result["status"] == "censored"
            if short and name == STABILITY and censored:
                said = "ours is cut off"
                if apart is not None and apart > DIFFER and result["value"] > other.value:
                    said += f", and already longer by {apart:.1f} standard errors"
            elif short and name != STABILITY and not name.startswith(OF_FRAMES):
                said = "not compared: errors shrink with the length"
            elif apart is None:
                said = "no standard errors"
            else:
                said = f"{apart:.1f} standard errors" + (", differs" if apart > DIFFER else "")
            rows.append(
                [
                    f"{run['label']}, {run['dataset']}",
                    heading_of(name) or {"force_mae": "Force MAE", STABILITY: "Stability"}.get(name, name),
                    stability_of(metrics) if name == STABILITY else value_of(result),
                    format_number(other.value, other.stderr),
                    said,
                    compare_with_paper(run, row.table),
                    "; ".join((*paper.known_flaws(row), *paper.known_flaws(row, name))) or MISSING,
                    f"{links(run, page)}; {row.table.name}",
                ]
            )
    heads = [
        "Model, data set",
        "Number",
        "Ours",
        "The paper's",
        "Apart",
        "What else differs",
        "Known flaws of the paper's",
        "Source",
    ]
    return markdown(heads, rows)


TABLES: dict[str, Callable[[Runs, Path], str]] = {
    "runs": runs_table,
    "ranks": ranks_table,
    "paper-ranks": paper_ranks_table,
    "differences": differences_table,
}


def render_all(text: str, runs: Runs, page: Path) -> str:
    """The text with every marked table written anew."""
    return MARKED.sub(lambda found: found[1] + TABLES[found[2]](runs, page) + found[3], text)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "findings.md")
    parser.add_argument("--runs", type=Path, default=ROOT / "benchmarks" / "results" / "runs")
    arguments = parser.parse_args()
    old = arguments.page.read_text(encoding="utf-8")
    new = render_all(old, collect([arguments.runs]).runs, arguments.page)
    if arguments.check:
        if new != old:
            sys.exit(f"{arguments.page}: other tables than the runs have; run python benchmarks/findings.py")
        return
    arguments.page.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
