"""The log beside an exported model, and the command in its card."""

import csv
import json

import fresh_models
import numpy as np
import pytest

from openmm_mlbench.data.splits import make_split
from openmm_mlbench.errors import TrainingError
from openmm_mlbench.training.config import Recipe
from openmm_mlbench.training.log import MOST_ROWS, log_beside, write_log
from openmm_mlbench.training.trainer import LOG_COLUMNS, Trainer, load_checkpoint


def rows_of(path):
    with open(path, newline="") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def write_run(folder, n_epochs, best=None):
    lines = [",".join(LOG_COLUMNS)]
    for epoch in range(1, n_epochs + 1):
        mae = 1.0 if epoch == best else 2.0 + 1.0 / epoch
        smallest = 1.0 if best is not None and epoch >= best else mae
        lines.append(f"{epoch},{10 * epoch},0.000123456789,{np.pi},1e-7,3,{mae},{smallest},{0.25 * epoch}")
    (folder / "log.csv").write_text("\n".join(lines) + "\n")


def test_a_short_log_is_there_whole(tmp_path):
    write_run(tmp_path, 7)
    path = write_log(tmp_path / "best.pt", tmp_path / "models" / "schnet.pt")
    assert (
        path == tmp_path / "models" / "schnet.training.csv" == log_beside(tmp_path / "models" / "schnet.pt")
    )
    rows = rows_of(path)
    assert tuple(rows[0]) == LOG_COLUMNS
    assert [row["epoch"] for row in rows] == list(range(1, 8))
    assert rows[3]["train_loss"] == 3.14159
    assert rows[3]["learning_rate"] == 0.000123457
    assert "\n4,40," in path.read_text()


def test_a_long_log_keeps_the_best_and_the_last(tmp_path):
    write_run(tmp_path, 4321, best=2222)
    rows = rows_of(write_log(tmp_path / "best.pt", tmp_path / "x.pt"))
    assert MOST_ROWS / 2 < len(rows) <= MOST_ROWS + 2
    epochs = [row["epoch"] for row in rows]
    assert epochs == sorted(epochs)
    assert {1, 2222, 4321} <= set(epochs)


def test_what_is_no_log(tmp_path):
    assert write_log(tmp_path / "best.pt", tmp_path / "x.pt") is None
    for text in ("", ",".join(LOG_COLUMNS) + "\n1,2\n", ",".join(LOG_COLUMNS) + "\n" + "x," * 8 + "1\n"):
        (tmp_path / "log.csv").write_text(text)
        with pytest.raises(TrainingError, match=r"log\.csv: .*; mend or remove it"):
            write_log(tmp_path / "best.pt", tmp_path / "x.pt")
    assert not log_beside(tmp_path / "x.pt").exists()


def test_a_resumed_run_keeps_all_its_commands(tmp_path):
    frames, _ = fresh_models.ethanol()
    frames = frames.select(np.arange(12))
    recipe = Recipe(
        model="schnet", hyperparameters=fresh_models.TINY["schnet"], batch_size=4, max_minutes=1e-9
    )
    split = make_split(frames, 8, 4, 0, 0)
    commands = (
        "train schnet",
        "train schnet --resume",
        "train schnet --resume",
        "train schnet --resume --minutes 3",
    )
    for k, command in enumerate(commands):
        Trainer(recipe, frames, split, tmp_path, command=command).run(resume=k > 0)
    found = json.loads(load_checkpoint(tmp_path / "last.pt")["provenance"])["command"]
    assert found == "train schnet; train schnet --resume; train schnet --resume --minutes 3"
