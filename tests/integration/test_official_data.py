"""Official data through the commands: inspect, convert, train and export, by name and with --data."""

import numpy as np
import pytest
from mdsim_files import alanine_table, npy, water_table

from openmm_mlbench.cli import main
from openmm_mlbench.data.datasets import data_folder, load_dataset
from openmm_mlbench.export.archive import find_archive

needs_dft_water = pytest.mark.skipif(
    not (data_folder() / "water64_dft.npz").is_file(), reason="DFT water is not at hand (set MLBENCH_DATA)"
)


def run(*arguments):
    """Exit code of the command line."""
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as error:
        return error.code
    return 0


def train(name, out, *, data=None, frames=(8, 2, 2)):
    sizes = [f"--{part}-frames={n}" for part, n in zip(("train", "validation", "test"), frames, strict=True)]
    given = [] if data is None else ["--data", data]
    assert run("train", "schnet", name, "-o", out, *given, *sizes, "--epochs", 1) == 0
    assert run("export", out / "best.pt", "-o", out / "model.pt", *given) == 0
    return find_archive(str(out / "model.pt")).card


@pytest.mark.parametrize("name", ["alanine-dipeptide-explicit", "water-90k"])
def test_inspect_and_convert(tmp_path, capsys, name):
    table = alanine_table() if name.startswith("alanine") else water_table()
    file = npy(tmp_path / "x.npy", table)
    assert run("data", "inspect", name, "--data", file) == 0
    shown = capsys.readouterr().out
    assert ("C6H12N2O2" if name.startswith("alanine") else "H128O64") in shown
    assert "Zenodo 7196767" in shown
    for ending in (".npz", ".h5"):
        assert run("data", "convert", name, "--data", file, tmp_path / f"y{ending}") == 0
        again = load_dataset(name, path=tmp_path / f"y{ending}")
        assert again.content_hash() == load_dataset(name, path=file).content_hash()


def test_training_without_energies(tmp_path):
    """Forces in explicit water have no energies that belong to them."""
    file = npy(tmp_path / "x.npy", alanine_table(n_frames=12))
    card = train("alanine-dipeptide-explicit", tmp_path / "run", data=file)
    assert card.trained_on.dataset == "alanine-dipeptide-explicit"
    assert card.errors["force_mae_meV_A"] > 0
    assert "energy_mae_meV" not in card.errors


@needs_dft_water
def test_training_on_real_water(tmp_path):
    card = train("water-dft", tmp_path / "run", frames=(2, 1, 1))
    assert card.periodic
    assert np.isfinite(card.errors["energy_mae_meV"])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("water-10k", b"\x93NUMPY\x01\x00", "truncated or no npy file"),
        ("water-10k", None, "no such file"),
        ("alanine-dipeptide-explicit", b"<html>", "truncated or no npy file"),
    ],
)
def test_bad_files_are_one_line(tmp_path, capsys, name, content, message):
    path = tmp_path / "x.npy"
    if content is not None:
        path.write_bytes(content)
    assert run("data", "inspect", name, "--data", path) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
    path = path.rename(path.with_suffix(".csv")) if content is not None else tmp_path / "y.csv"
    path.write_bytes(b"x")
    assert run("data", "inspect", name, "--data", path) == 2
    assert "wanted one of .h5, .hdf5, .npy, .npz" in capsys.readouterr().err
