"""Every table of a report as plain rows, for CSV and JSON."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openmm_mlbench.files import write_json, write_text
from openmm_mlbench.report.comparisons import Ranking
from openmm_mlbench.report.gaps import Gap
from openmm_mlbench.report.table import Column, Row

Scalar = str | float | int | bool | None
_PARTS = ("value", "stderr", "floor", "status")


@dataclass(frozen=True, kw_only=True)
class PlainTable:
    """A table without layout.

    Args:
        name: of its files.
        title: what it is.
        rows: one dictionary for each; all have the same keys.
    """

    name: str
    title: str
    rows: list[dict[str, Scalar]]

    @property
    def columns(self) -> list[str]:
        """Names, in order."""
        return list(self.rows[0]) if self.rows else []

    def as_csv(self) -> str:
        """With a line of titles; an unknown number is an empty field."""
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return text.getvalue()

    def as_json(self) -> dict[str, Any]:
        """Title and rows; an unknown number is null."""
        return {"table": self.name, "title": self.title, "rows": self.rows}


def write_tables(tables: Sequence[PlainTable], folder: Path) -> list[Path]:
    """Each as NAME.csv and NAME.json."""
    written = []
    for table in tables:
        for path in (folder / f"{table.name}.csv", folder / f"{table.name}.json"):
            if path.suffix == ".csv":
                write_text(path, table.as_csv())
            else:
                write_json(path, table.as_json())
            written.append(path)
    return written


def board_table(
    name: str, title: str, rows: Sequence[Row], columns: Sequence[Column], runs: Sequence[dict[str, Any]]
) -> PlainTable:
    """A leaderboard, or another table with a cell for each column."""
    of_anchor = {metrics["run"].get("anchor"): metrics["run"] for metrics in runs}
    found = []
    for row in rows:
        run = of_anchor.get(row.anchor) or {}
        replicas = run.get("replicas") or []
        record: dict[str, Scalar] = {
            "kind": row.kind,
            "label": row.label,
            "model": row.model,
            "dataset": row.dataset,
            "protocol": run.get("protocol"),
            "covers": row.level,
            "simulated": row.simulated.replace("\N{NO-BREAK SPACE}", " "),
            "simulated_ps": sum(replica["time_ps"] for replica in replicas) if replicas else None,
            "differs_from_paper": row.comparison,
            "run": row.folder,
            "command": row.command,
        }
        for column, cell in zip(columns, row.cells, strict=True):
            word = column.name + (f" ({column.mode})" if column.mode and column.shown_mode else "")
            unit = f" [{column.unit}]" if column.unit else ""
            for part in _PARTS:
                key = word + unit if part == "value" else f"{word} {part}"
                record[key] = cell.result.get(part)
        found.append(record)
    return PlainTable(name=name, title=title, rows=found)


def replica_table(runs: Sequence[dict[str, Any]]) -> PlainTable:
    """Every replica of every run."""
    keys = ("index", "time_ps", "stable_ps", "broke", "state", "reason", "h_r_mae", "temperature", "T_rot",
            "T_vib", "steps_per_second", "resume")  # fmt: skip
    rows: list[dict[str, Scalar]] = [
        {
            "model": str(metrics["run"].get("label") or metrics["run"]["model"]),
            "dataset": metrics["run"]["dataset"],
            "protocol": metrics["run"]["protocol"],
            "run": metrics["run"].get("folder"),
            **{key: replica.get(key) for key in keys},
        }
        for metrics in runs
        for replica in metrics["run"]["replicas"]
    ]
    return PlainTable(name="replicas", title="Every replica", rows=rows)


def number_table(runs: Sequence[dict[str, Any]]) -> PlainTable:
    """Every number of every run."""
    rows: list[dict[str, Scalar]] = [
        {
            "model": str(metrics["run"].get("label") or metrics["run"]["model"]),
            "dataset": metrics["run"]["dataset"],
            "protocol": metrics["run"]["protocol"],
            "run": metrics["run"].get("folder"),
            "result": result["name"],
            "mode": measurement["mode"],
            **{
                key: result.get(key)
                for key in ("value", "stderr", "floor", "unit", "status", "n_frames", "n_replicas", "note")
            },
        }
        for metrics in runs
        for measurement in metrics["measurements"]
        for result in measurement["results"]
    ]
    return PlainTable(name="numbers", title="Every number", rows=rows)


def ranking_table(rankings: Sequence[Ranking]) -> PlainTable:
    """Rank correlations of the force MAE with everything else."""
    rows: list[dict[str, Scalar]] = []
    for one in rankings:
        record: dict[str, Scalar] = {
            "dataset": one.dataset,
            "force MAE against": one.quantity,
            "source": one.source,
            "models": len(one.points),
            "which": ", ".join(point.label for point in one.points),
            "compared": one.ran.replace("\N{NO-BREAK SPACE}", " "),
        }
        for name, found in (("spearman", one.correlation.spearman), ("kendall", one.correlation.kendall)):
            record |= {
                name: found.value,
                f"{name} low": found.low,
                f"{name} high": found.high,
                f"{name} p": found.p,
            }
        rows.append(record | {"verdict": one.verdict})
    return PlainTable(name="rank-correlations", title="Force MAE against simulation, by rank", rows=rows)


def gap_table(gaps: Sequence[Gap]) -> PlainTable:
    """Figures of the paper without data here."""
    rows: list[dict[str, Scalar]] = [
        {
            "figure of the paper": gap.figure,
            "shows": gap.title,
            "dataset": gap.dataset,
            "why": gap.why,
            "commands": "\n".join(gap.commands),
        }
        for gap in gaps
    ]
    return PlainTable(name="not-measured", title="Not measured yet", rows=rows)
