"""Two processes train like one with the same batches, write once, and end together."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import fresh_models
import numpy as np
import pytest

from openmm_mlbench.cli import main
from openmm_mlbench.training.launch import without_processes
from openmm_mlbench.training.trainer import load_checkpoint

# Sums in another order, float32, after 15 steps: 1e-6 was found.
TOLERANCE = 2e-5
# 21 frames in batches of 5: in the last one of an epoch the second process has no frame.
FRAMES = ["--train-frames", "21", "--validation-frames", "5", "--test-frames", "3", "--device", "cpu"]
RECIPE = {
    "batch_size": 5,
    "schedule": "plateau",
    "ema_decay": 0.9,
    "warmup_steps": 3,
    "patience": 0,
    "clip_norm": 1.0,
}


def write_recipe(folder, model, **changes):
    path = folder / f"{model}.json"
    hyperparameters = fresh_models.TINY[model]
    path.write_text(json.dumps({**RECIPE, "hyperparameters": hyperparameters, **changes}))
    return path


def train(model, recipe, out, *options, processes=1, **settings):
    """Runs the command; the processes are its children."""
    command = [sys.executable, "-m", "openmm_mlbench", "train", model, "ethanol-gfn2", "-o", str(out), *FRAMES,
               "--recipe", str(recipe), "--processes", str(processes), *options]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, **settings)


@pytest.fixture(scope="module")
def schnet(tmp_path_factory):
    """A recipe, the folder of a run of it by two processes, and what they said."""
    folder = tmp_path_factory.mktemp("schnet")
    recipe = write_recipe(folder, "schnet", max_epochs=3, random_rotations=True)
    return recipe, folder / "2", train("schnet", recipe, folder / "2", processes=2)


def read_log(folder):
    rows = (folder / "log.csv").read_text().splitlines()
    return rows[0].split(",")[:-1], np.array([[float(x) for x in row.split(",")[:-1]] for row in rows[1:]])


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        ("schnet", None),
        # Forces alone: the last bias of the energy has no gradient.
        ("deeppot-se", {"energy_weight": 0.0}),
        ("gemnet-dt", {"loss": "l2", "energy_weight": 0.0}),
        *(
            pytest.param(model, {"learning_rate": 1e-4}, marks=pytest.mark.slow)
            for model in ("dimenet", "gemnet-t", "nequip")
        ),
    ],
)
def test_two_processes_have_the_loss_curve_of_one(tmp_path, model, changes, schnet, capsys):
    if model == "schnet":
        recipe, pair, answer = schnet
    else:
        recipe, pair = write_recipe(tmp_path, model, max_epochs=3, **changes), tmp_path / "2"
        answer = train(model, recipe, pair, processes=2)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.count("validation force MAE") == 1
    assert "Warning" not in answer.stderr
    with pytest.raises(SystemExit) as stop:
        main(["train", model, "ethanol-gfn2", "-o", str(tmp_path / "1"), *FRAMES, "--recipe", str(recipe)])
    assert not stop.value.code
    assert capsys.readouterr().out.count("validation force MAE") == 1
    names, one = read_log(tmp_path / "1")
    _, two = read_log(pair)
    assert one.shape == two.shape == (3, len(names))
    np.testing.assert_allclose(one, two, rtol=TOLERANCE)
    assert sorted(p.name for p in pair.iterdir()) == [".lock", "best.pt", "last.pt", "log.csv"]
    first, second = (load_checkpoint(folder / "last.pt") for folder in (tmp_path / "1", pair))
    np.testing.assert_allclose(first["step_losses"], second["step_losses"], rtol=TOLERANCE)
    assert "2 processes" in json.loads(second["provenance"])["machine"]


def test_batch_normalisation_on_processors_is_of_each_share(tmp_path):
    recipe = write_recipe(tmp_path, "forcenet", max_epochs=1, energy_weight=0.0)
    answer = train("forcenet", recipe, tmp_path / "run", processes=2)
    assert answer.returncode == 0, answer.stderr
    assert answer.stderr.count("batch normalisation sees each process's share of a batch alone") == 1
    assert np.isfinite(read_log(tmp_path / "run")[1]).all()


def test_torchrun_limits_of_time_and_resuming(tmp_path, schnet):
    """As torchrun starts them; the limit ends both; what goes on in two processes is what was never cut."""
    recipe, whole, _ = schnet
    arguments = [
        "train",
        "schnet",
        "ethanol-gfn2",
        "-o",
        str(tmp_path / "cut"),
        *FRAMES,
        "--recipe",
        str(recipe),
    ]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone",
               "-m", "openmm_mlbench", *arguments, "--minutes", "1e-9"]  # fmt: skip
    answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert answer.returncode == 0, answer.stderr
    assert load_checkpoint(tmp_path / "cut" / "last.pt")["epoch"] == 1
    # Without --recipe: the run's own.
    command = [
        sys.executable,
        "-m",
        "openmm_mlbench",
        *arguments[:-2],
        "--resume",
        "--minutes",
        "9",
        "--processes=2",
    ]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert answer.returncode == 0, answer.stderr
    np.testing.assert_array_equal(read_log(tmp_path / "cut")[1], read_log(whole)[1])


def children_of(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_dies_ends_all_with_one_line(tmp_path, rank):
    recipe = write_recipe(tmp_path, "schnet", max_epochs=100_000, schedule="cosine")
    out = tmp_path / "run"
    command = [sys.executable, "-m", "openmm_mlbench", "train", "schnet", "ethanol-gfn2", "-o", str(out), *FRAMES,
               "--recipe", str(recipe), "--processes", "2"]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 200
        while not ((out / "log.csv").exists() and len((out / "log.csv").read_text().splitlines()) > 2):
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        workers = children_of(process.pid)
        environments = {pid: Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") for pid in workers}
        ranks = {
            pid: int(v.split(b"=")[1])
            for pid, all_ in environments.items()
            for v in all_
            if v.startswith(b"RANK=")
        }
        assert sorted(ranks.values()) == [0, 1]
        os.kill(next(pid for pid in ranks if ranks[pid] == rank), signal.SIGKILL)
        _, errors = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 2
    lines = [line for line in errors.splitlines() if "epoch" not in line]
    assert len(lines) == 1, errors
    assert lines[0].startswith("error: process ") or lines[0].startswith(
        "error: another process of this training"
    )
    assert "--resume" in lines[0]
    assert not any(Path(f"/proc/{pid}").exists() for pid in ranks)
    assert "epoch" in load_checkpoint(out / "last.pt")


@pytest.mark.parametrize(
    ("options", "processes", "words"),
    [
        (["--batch-size", "1"], 2, "error: 2 processes for batches of 1 frames; start at most as many"),
        (["--learning-rate", "-1"], 2, "error: learning_rate is -1.0; it must be positive"),
        ([], 0, "error: processes is 0; use 1 or more"),
    ],
)
def test_a_mistake_is_said_once(tmp_path, options, processes, words):
    recipe = write_recipe(tmp_path, "schnet", max_epochs=1)
    answer = train("schnet", recipe, tmp_path / "run", *options, processes=processes)
    assert answer.returncode == 2
    assert len(answer.stderr.splitlines()) == 1, answer.stderr
    assert answer.stderr.startswith(words)
    assert not (tmp_path / "run").exists()


def test_the_options_of_each_process():
    given = ["schnet", "--processes", "2", "x", "--processes=3", "--resume"]
    assert without_processes(given) == ["schnet", "x", "--resume"]
