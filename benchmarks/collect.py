"""Collect measured numbers into benchmarks/results/, from where README.md takes its tables.

python benchmarks/collect.py training              from the cards of the shipped models
python benchmarks/collect.py simulation RUN...     from analyzed run folders
python benchmarks/collect.py learning XML...       from pytest -m slow tests/physics/test_learning.py -o junit_family=xunit1 --junitxml XML
"""

import argparse
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from record import RESULTS, provenance

from openmm_mlbench import paper
from openmm_mlbench.export.archive import find_archive, list_archives
from openmm_mlbench.files import read_json, sha256_file, write_json


def paper_row(dataset: str, model: str | None) -> paper.PaperRow | None:
    """The paper's figures, for models trained on the paper's own labels only."""
    return paper.paper_row(dataset, "", model) if model else None


def training_rows(ids: Iterable[str]) -> list[dict[str, Any]]:
    """One row per model, all from its card."""
    rows = []
    for name in ids:
        archive = find_archive(name)
        card = archive.card
        theirs = paper_row(card.trained_on.dataset, card.model)
        rows.append(
            {
                "id": name,
                "model": card.model,
                "n_parameters": card.n_parameters,
                "dataset": card.trained_on.dataset,
                "level_of_theory": card.trained_on.level_of_theory,
                "n_train": card.trained_on.n_train,
                "n_validation": card.trained_on.n_validation,
                "errors": card.errors,
                "training": {
                    key: card.training.get(key) for key in ("epochs", "minutes", "machine", "command")
                },
                "archive_sha256": archive.sha256,
                "paper": theirs
                and {
                    "force_mae_meV_A": theirs.printed["force_mae"].value,
                    "n_train": theirs.table.n_train,
                    "n_parameters": theirs.n_parameters,
                },
            }
        )
    return rows


def simulation_row(folder: Path) -> dict[str, Any]:
    """One row per run folder, all from its metrics.json."""
    path = folder / "metrics.json"
    metrics = read_json(path)
    run = metrics["run"]
    results = {result["name"]: result for item in metrics["measurements"] for result in item["results"]}
    theirs = paper_row(run["dataset"], run["architecture"])
    kept = ("value", "stderr", "status", "unit", "floor", "n_replicas", "note")
    names = (
        *("force_mae", "stability", "n_finished", "h_r_mae", "temperature", "T_rot", "T_vib"),
        "steps_per_second",
    )
    record = run["provenance"]
    return {
        "id": run["model"],
        "model": run["architecture"],
        "dataset": run["dataset"],
        "protocol": run["protocol"],
        "replicas": run["n_replicas"],
        "length_ps": run["length_ps"],
        "platform": run["platform"],
        "results": {name: {key: results[name].get(key) for key in kept} for name in names if name in results},
        "per_replica": [
            {
                key: replica.get(key)
                for key in ("stable_ps", "broke", "h_r_mae", "temperature", "T_rot", "T_vib")
            }
            for replica in run["replicas"]
        ],
        "start_frames": record["start_frames"]["dataset"],
        "archive_sha256": record["model"]["archive_sha256"],
        "protocol_sha256": record["protocol"]["sha256"],
        "commit": record["git_commit"],
        "versions": record["versions"],
        "metrics_sha256": sha256_file(path),
        "paper": theirs
        and {
            "replicas": theirs.table.n_simulations,
            "length_ps": theirs.table.length_ps,
            "n_train": theirs.table.n_train,
            "stability_ps": theirs.printed["stability"].value,
            "stability_stderr_ps": paper.stderr_from_sd(theirs.printed["stability"].sd or 0.0),
            "h_r_mae": theirs.printed["h_r_mae"].value,
            "h_r_mae_stderr": paper.stderr_from_sd(theirs.printed["h_r_mae"].sd or 0.0),
            "steps_per_second": theirs.printed["steps_per_second"].value,
            "machine": paper.HARDWARE,
        },
    }


# Tests of tests/physics/test_learning.py, and the name of what each measures.
LEARNING = {
    "test_ten_frames_of_ethanol": ("ethanol", "force_mae_mev"),
    "test_ten_frames_of_a_cell_below_twice_the_cutoff": ("cell", "force_mae_mev"),
    "test_the_loss_of_a_whole_frame_falls_tenfold": ("fall", "fall"),
}


def learning_rows(files: Iterable[Path]) -> list[dict[str, Any]]:
    """One row per test that was run: architecture, what was learnt, the value, whether it passed, seconds."""
    rows = []
    for file in files:
        for case in ET.parse(file).getroot().iter("testcase"):
            test, architecture, dataset = re.fullmatch(
                r"(\w+)\[([\w-]+?)(?:-(water-1k|lips-fm))?\]", case.attrib["name"]
            ).groups()
            what, measured = LEARNING[test]
            values = {item.attrib["name"]: float(item.attrib["value"]) for item in case.iter("property")}
            rows.append(
                {
                    "model": architecture,
                    "what": dataset or what,
                    "measured": measured,
                    "value": values.get(measured),
                    "passed": not [child for child in case if child.tag in {"failure", "error", "skipped"}],
                    "seconds": float(case.attrib["time"]),
                }
            )
    return sorted(rows, key=lambda row: (row["model"], row["what"]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="what", required=True)
    commands.add_parser("training")
    commands.add_parser("simulation").add_argument("runs", nargs="+", type=Path)
    commands.add_parser("learning").add_argument("files", nargs="+", type=Path)
    arguments = parser.parse_args()
    if arguments.what == "training":
        rows = {"models": training_rows(list_archives())}
    elif arguments.what == "learning":
        rows = {"tests": learning_rows(arguments.files)}
    else:
        rows = {"runs": [simulation_row(run) for run in arguments.runs]}
    path = RESULTS / f"{arguments.what}.json"
    write_json(path, {**provenance(), **rows})
    print(path)


if __name__ == "__main__":
    main()
