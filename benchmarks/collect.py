"""Collect measured numbers into benchmarks/results/, from where README.md takes its tables.

python benchmarks/collect.py training              from the cards of the shipped models
python benchmarks/collect.py simulation RUN...     from analyzed run folders
"""

import argparse
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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="what", required=True)
    commands.add_parser("training")
    commands.add_parser("simulation").add_argument("runs", nargs="+", type=Path)
    arguments = parser.parse_args()
    if arguments.what == "training":
        rows = {"models": training_rows(list_archives())}
    else:
        rows = {"runs": [simulation_row(run) for run in arguments.runs]}
    path = RESULTS / f"{arguments.what}.json"
    write_json(path, {**provenance(), **rows})
    print(path)


if __name__ == "__main__":
    main()
