"""A MACE model, trained by mace-torch, imported."""

import pytest
from imported_models import compare, imported, runs_alone
from tiny_data import run, write_frames

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
