"""The log that goes with an exported model: ``<model>.training.csv`` beside ``<model>.pt``."""

import csv
import io
from pathlib import Path

from openmm_mlbench.errors import TrainingError
from openmm_mlbench.files import write_text

# Longer runs are thinned out: a curve needs no more, and the file ships with the model.
MOST_ROWS = 1000


def log_beside(archive: str | Path) -> Path:
    """Path of the training log of an archive."""
    return Path(archive).with_suffix(".training.csv")


def write_log(checkpoint: str | Path, archive: str | Path) -> Path | None:
    """Copy the log of a checkpoint's run to beside the archive exported from it.

    Six digits of every number; of more than 1,000 epochs evenly spaced ones, the best and the last.

    Returns:
        the path, or None where the checkpoint came without a log.

    Raises:
        TrainingError: the log is damaged.
    """
    source = Path(checkpoint).parent / "log.csv"
    if not source.is_file():
        return None
    with open(source, encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    if not rows or any(len(row) != len(rows[0]) for row in rows):
        raise TrainingError(
            f"{source}: a line has another number of columns than the first; mend or remove it"
        )
    head, rows = rows[0], rows[1:]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    try:
        kept = _thinned([[float(value) for value in row] for row in rows], head.index("best_force_mae_meV_A"))
    except ValueError as error:
        raise TrainingError(f"{source}: {error}; mend or remove it") from error
    writer.writerows(
        [f"{value:.0f}" if value.is_integer() else f"{value:.6g}" for value in row] for row in kept
    )
    path = log_beside(archive)
    write_text(path, text.getvalue())
    return path


def _thinned(rows: list[list[float]], best: int) -> list[list[float]]:
    """Every n-th row, the first with the smallest value of column ``best``, and the last."""
    if len(rows) <= MOST_ROWS:
        return rows
    step = -(-len(rows) // MOST_ROWS)
    places = set(range(0, len(rows), step))
    places |= {min(range(len(rows)), key=lambda k: rows[k][best]), len(rows) - 1}
    return [rows[place] for place in sorted(places)]
