"""The training kit works where nothing but torch, numpy, h5py and e3nn is installed; export works at home."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer

from openmm_mlbench import cli
from openmm_mlbench.data.datasets import load_dataset
from openmm_mlbench.errors import TrainingError
from openmm_mlbench.training.__main__ import parser
from openmm_mlbench.training.kit import write_kit
from openmm_mlbench.workflow import export_checkpoint

# Import names of the four packages and of what they require themselves (scipy, sympy and so on come with e3nn and torch).
BARE = (
    *("torch", "torchgen", "functorch", "numpy", "numpy.libs", "h5py", "h5py.libs", "e3nn"),
    *("scipy", "scipy.libs", "sympy", "mpmath", "opt_einsum", "opt_einsum_fx", "typing_extensions.py"),
    *(
        "networkx",
        "jinja2",
        "markupsafe",
        "fsspec",
        "filelock",
        "setuptools",
        "packaging",
        "nvidia",
        "triton",
    ),
)


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """Runs Python in a kit, with these packages and the standard library alone."""
    folder = tmp_path_factory.mktemp("bare")
    write_kit(["ethanol-gfn2"], folder / "kit")
    installed = Path(np.__file__).parents[1]
    (folder / "packages").mkdir()
    for name in BARE:
        if (installed / name).exists():
            (folder / "packages" / name).symlink_to(installed / name)

    def run(*arguments):
        # -S leaves this environment's packages out.
        return subprocess.run(
            [sys.executable, "-S", *arguments],
            capture_output=True, text=True, check=False, cwd=folder / "kit",
            env={"PYTHONPATH": str(folder / "packages"), "HOME": str(folder), "PATH": os.defpath, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    return folder / "kit", run


SMALL = [
    *("--train-frames", "12", "--validation-frames", "3", "--test-frames", "3"),
    *("--epochs", "2", "--device", "cpu", "--batch-size", "4"),
]


def test_the_host_is_bare(bare):
    _, run = bare
    for name in (
        "openmm",
        "openmmtorch",
        "mdtraj",
        "typer",
        "rich",
        "yaml",
        "ase",
        "lxml",
        "numba",
        "matplotlib",
    ):
        assert run("-c", f"import {name}").returncode == 1, name
    assert run("-c", "import torch, numpy, h5py, e3nn").returncode == 0


@pytest.mark.parametrize("model", ["schnet", "nequip"])
def test_train_there_export_here(bare, tmp_path, model):
    kit, run = bare
    words = (kit / "README").read_text()
    assert (
        "python -m openmm_mlbench train schnet ethanol-gfn2 --data data/ethanol-gfn2.npz -o schnet-ethanol-gfn2"
        in words
    )
    out = kit / f"{model}-out"
    command = [
        "-m",
        "openmm_mlbench",
        "train",
        model,
        "ethanol-gfn2",
        "--data",
        "data/ethanol-gfn2.npz",
        "-o",
        str(out),
    ]
    answer = run(*command, *SMALL)
    assert answer.returncode == 0, answer.stderr
    assert "validation force MAE" in answer.stdout
    with open(out / "log.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 2
    answer = run(*command, "--resume")
    assert answer.returncode == 2
    assert answer.stderr.startswith("error: ")
    assert len(answer.stderr.splitlines()) == 1
    card = export_checkpoint(out / "best.pt", tmp_path / "model.pt")
    assert card.errors["n_test"] == 3
    assert card.training["command"].startswith(f"python -m openmm_mlbench.training {model} ")


def test_the_data_of_a_kit_are_the_same(bare):
    kit, _ = bare
    here = load_dataset("ethanol-gfn2")
    there = load_dataset("ethanol-gfn2", path=kit / "data" / "ethanol-gfn2.npz")
    assert here.content_hash() == there.content_hash()
    assert (here.level_of_theory, here.source) == (there.level_of_theory, there.source)


def test_a_folder_with_something_in_it_is_left_alone(tmp_path):
    (tmp_path / "mine").write_text("x")
    with pytest.raises(TrainingError, match="is not an empty folder"):
        write_kit(["ethanol-gfn2"], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_both_command_lines_have_the_same_options():
    command = typer.main.get_command(cli.app).commands["train"]
    theirs = {
        option: parameter.default
        for parameter in command.params
        for option in parameter.opts
        if option.startswith("--") and option != "--help"
    }
    ours = {
        option: action.default
        for action in parser()._actions
        for option in action.option_strings
        if option.startswith("--") and option != "--help"
    }
    assert set(ours) == set(theirs)
    for option, default in ours.items():
        assert (default or None) == (theirs[option] or None), option
