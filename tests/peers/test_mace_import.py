"""A MACE model, trained by mace-torch, imported."""

import os
import subprocess
import sys

import pytest
from imported_models import compare, imported, runs_alone
from tiny_data import run, write_frames

from openmm_mlbench.errors import ModelError
from openmm_mlbench.export.archive import read_card
from openmm_mlbench.files import sha256_file

TRAIN = (
    *(
        "-m",
        "mace.cli.run_train",
        "--name",
        "tiny",
        "--train_file",
        "train.extxyz",
        "--valid_fraction",
        "0.2",
    ),
    *("--E0s", "average", "--r_max", "4.0", "--num_channels", "8", "--max_L", "1", "--max_ell", "2"),
    *("--correlation", "2", "--num_interactions", "2", "--batch_size", "5", "--max_num_epochs", "2"),
    *("--default_dtype", "float64", "--device", "cpu", "--seed", "1", "--work_dir", "."),
    *("--energy_key", "REF_energy", "--forces_key", "REF_forces"),
)


def calculator(file, dtype="float64"):
    from mace.calculators import MACECalculator

    return MACECalculator(model_paths=str(file), device="cpu", default_dtype=dtype)


@pytest.fixture(scope="module", params=["MACE", "ScaleShiftMACE"])
def file(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mace")
    write_frames(folder / "train.extxyz")
    pair = ("--pair_repulsion",) if request.param == "ScaleShiftMACE" else ()
    run(*TRAIN, "--model", request.param, *pair, cwd=folder)
    return folder / "tiny.model"


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_model_file(file, tmp_path, dtype, request):
    potential = imported(file, "mace", tmp_path / "mace.pt", dtype=dtype)
    assert potential.card.dtype == dtype
    assert potential.card.species == [1, 6, 8]
    name = request.node.callspec.params["file"].lower()
    compare(
        f"{name}-import" + ("" if dtype == "float64" else "-float32"),
        potential,
        calculator(file, dtype),
        kind="mace",
        theirs=f"mace.calculators.MACECalculator ({request.node.callspec.params['file']})",
        packages=["mace-torch", "e3nn"],
        dtype=dtype,
    )
    if dtype == "float64":
        runs_alone(potential)


def test_an_interpreter_of_its_own(file, tmp_path):
    """What a user with two environments does: this one without MACE, `--python` names the other."""
    other = tmp_path / "python-with-mace"
    other.write_text(f'#!/bin/sh\nPYTHONPATH={os.environ["PYTHONPATH"]} exec {sys.executable} "$@"\n')
    other.chmod(0o755)
    alone = {key: value for key, value in os.environ.items() if key not in {"PYTHONPATH", "MLBENCH_PEER"}}
    command = [
        "-m",
        "openmm_mlbench.cli",
        "import",
        file,
        "--as",
        "mace",
        "-o",
        tmp_path / "mace.pt",
        "--trust",
    ]
    answers = [
        subprocess.run(
            [sys.executable, *command, *python], capture_output=True, text=True, check=False, env=alone
        )
        for python in ((), ("--python", other))
    ]
    assert answers[0].returncode == 2
    assert "mace-torch does not import here" in answers[0].stderr
    assert answers[1].returncode == 0, answers[1].stderr
    sha256 = sha256_file(file)
    for answer in answers:
        assert f"SHA-256 {sha256}" in answer.stderr
    assert read_card(tmp_path / "mace.pt").origin.sha256 == sha256


def test_files_that_are_no_models(file, tmp_path):
    checkpoint = next((file.parent / "checkpoints").glob("*.pt"))
    with pytest.raises(ModelError, match="holds a dict without r_max, not a MACE model"):
        imported(checkpoint, "mace", tmp_path / "mace.pt")
    with pytest.raises(ModelError, match="it has the heads Default; choose one with --head"):
        imported(file, "mace", tmp_path / "mace.pt", head="dft")
