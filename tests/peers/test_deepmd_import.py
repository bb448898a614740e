"""A DeePMD-kit model, trained and frozen by its PyTorch backend, imported."""

import json

import numpy as np
import pytest
from imported_models import compare, imported, runs_alone
from tiny_data import frames, run

NAMES = ["H", "C", "O"]
DESCRIPTORS = {
    "se_e2_a": {
        "type": "se_e2_a", "sel": [40, 40, 40], "rcut": 4.0, "rcut_smth": 1.0, "neuron": [4, 8], "axis_neuron": 4,
        "precision": "float64", "seed": 1,
    },
    "se_atten": {
        "type": "se_atten", "sel": 80, "rcut": 4.0, "rcut_smth": 1.0, "neuron": [4, 8], "axis_neuron": 4,
        "attn": 8, "attn_layer": 1, "precision": "float64", "seed": 1,
    },
}  # fmt: skip
# The same stand-in as in conftest.py, for programs.
PROGRAM = """
import sys, types
stub = types.ModuleType("deepmd.pt.cxx_op")
stub.ENABLE_CUSTOMIZED_OP = False
sys.modules["deepmd.pt.cxx_op"] = stub
from deepmd.main import main
main(sys.argv[1:])
"""


def write_data(folder):
    data = folder / "data" / "set.000"
    data.mkdir(parents=True)
    chosen = frames()
    np.save(data / "coord.npy", np.stack([atoms.positions.ravel() for atoms in chosen]))
    np.save(data / "energy.npy", np.array([atoms.info["REF_energy"] for atoms in chosen]))
    np.save(data / "force.npy", np.stack([atoms.arrays["REF_forces"].ravel() for atoms in chosen]))
    (folder / "data" / "nopbc").write_text("")
    types = [str(NAMES.index(symbol)) for symbol in chosen[0].get_chemical_symbols()]
    (folder / "data" / "type.raw").write_text("\n".join(types))
    (folder / "data" / "type_map.raw").write_text("\n".join(NAMES))


def trained(folder, descriptor):
    write_data(folder)
    settings = {
        "model": {
            "type_map": NAMES,
            "descriptor": DESCRIPTORS[descriptor],
            "fitting_net": {"neuron": [16, 16], "precision": "float64", "seed": 1},
        },
        "learning_rate": {"type": "exp", "start_lr": 1e-3, "stop_lr": 1e-4, "decay_steps": 10},
        "loss": {"type": "ener", "start_pref_e": 0.02, "limit_pref_e": 1, "start_pref_f": 1000, "limit_pref_f": 1},
        "training": {
            "training_data": {"systems": ["data"], "batch_size": 4},
            "numb_steps": 30, "seed": 1, "disp_freq": 30, "save_freq": 30,
        },
    }  # fmt: skip
    (folder / "input.json").write_text(json.dumps(settings))
    run("-c", PROGRAM, "--pt", "train", "input.json", cwd=folder)
    run("-c", PROGRAM, "--pt", "freeze", "-o", "tiny.pth", cwd=folder)
    return folder / "tiny.pth"


def calculator(file):
    from deepmd.calculator import DP

    return DP(model=str(file))


@pytest.mark.parametrize("descriptor", DESCRIPTORS)
def test_a_frozen_model(tmp_path, descriptor):
    file = trained(tmp_path, descriptor)
    potential = imported(file, "deepmd", tmp_path / "deepmd.pt")
    assert potential.card.dtype == "float64"
    assert potential.card.species == [1, 6, 8]
    assert potential.card.origin.operators == []
    compare(
        f"deepmd-import-{descriptor}",
        potential,
        calculator(file),
        kind="deepmd",
        theirs=f"deepmd.calculator.DP ({descriptor})",
        packages=["deepmd-kit"],
        note="its own neighbour search",
    )
    runs_alone(potential)
