"""The speed program on small models: every loop runs, and the numbers hang together."""

import json

import fresh_models
import numpy as np
import pytest

from openmm_mlbench import cli
from openmm_mlbench.data.datasets import CACHE_VARIABLE
from openmm_mlbench.errors import ModelError
from openmm_mlbench.potential import Potential
from openmm_mlbench.speed import cases
from openmm_mlbench.speed.eager_calculator import EagerCalculator
from openmm_mlbench.speed.program import measure
from openmm_mlbench.speed.variants import VARIANTS


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return fresh_models.write_archive(tmp_path_factory.mktemp("speed") / "tiny.pt")


def test_a_molecule_in_every_loop(archive, monkeypatch):
    # Compiling takes a minute, and test_compiled.py does it.
    monkeypatch.setenv("CXX", "no-such-compiler")
    found = measure(str(archive), seconds=0.0, window_s=0.01, platform="Reference", most_threads=2)
    assert set(found["variants"]) == set(VARIANTS)
    assert found["missing"] == {}
    assert found["system"] == "ethanol"
    assert found["weights"] == "trained"
    us = {name: timing["process_us_min"] for name, timing in found["variants"].items()}
    # What computes nothing is faster than what does, and a loop in Python slower than one without.
    assert us["engine"] < 0.5 * us["torchforce"]
    assert us["torchforce"] < us["ase"]
    # Of a network as small as this one, five copies cost hardly more than one.
    assert us["engine"] < us["5 replicas"] < 5 * us["ase"]
    wall = {name: timing["wall_us_min"] for name, timing in found["variants"].items()}
    alone, together = (
        min(us for key, us in wall.items() if key.startswith(name) and "autograd" not in key)
        for name in ("torchforce", "5 replicas")
    )
    assert found["batching"]["gain"] == pytest.approx(5 * alone / together, rel=1e-2)
    assert (found["batching"]["threads"], found["batching"]["groups"]) in ((1, 1), (2, 1), (1, 2))
    same = 5 * wall["torchforce"] / wall["5 replicas"]
    assert found["batching"]["gain_on_the_same_threads"] == pytest.approx(same, rel=1e-2)
    assert found["operators"]["executed"] > 20
    assert found["operators"]["data_dependent"] == []


@pytest.mark.parametrize("periodic", [False, True])
def test_eager_pytorch_in_ase_has_the_same_forces(archive, periodic):
    """What research codes run and what we do are one function: only the time differs."""
    import ase

    potential = Potential.load(archive)
    atoms = ase.Atoms("H6C2O", positions=10 * fresh_models.ethanol_positions_nm())
    atoms.numbers = potential.card.example_atomic_numbers
    if periodic:
        atoms.set_cell(np.eye(3) * 7.0)
        atoms.set_pbc(True)
    found = []
    for calculator in (EagerCalculator(potential), potential.as_ase_calculator()):
        atoms.calc = calculator
        found.append((atoms.get_potential_energy(), atoms.get_forces()))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)
    assert np.abs(found[0][1]).max() > 0.01
    np.testing.assert_allclose(found[0][1], found[1][1], atol=1e-5 * np.abs(found[1][1]).max())


def test_fresh_weights_in_a_box(monkeypatch, tmp_path):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    monkeypatch.setitem(cases.PAPER_SIZES, ("schnet", "water"), fresh_models.TINY["schnet"])
    found = measure("schnet", "water", seconds=0.0, window_s=0.01, platform="Reference", scaling=True)
    assert found["n_atoms"] == 192
    assert found["weights"] == "fresh"
    (kept,) = (tmp_path / "fresh").iterdir()
    written = kept.stat().st_mtime_ns
    case = cases.make_case("schnet", "water", kept.parent)
    assert (case.potential.archive.path, kept.stat().st_mtime_ns) == (kept, written)
    assert set(found["scaling"]["us"]) == {"192", "1536"}
    # Eight times the atoms cost more, and a search among all pairs would cost 64 times as much.
    assert 0.3 < found["scaling"]["exponent"] < 1.8
    assert {"network", "torchforce", "pythonforce", "ase", "openmm-ml", "engine"} <= set(found["variants"])


def test_the_command_writes_numbers_and_a_figure(archive, tmp_path, capsys):
    out = tmp_path / "speed.json"
    with pytest.raises(SystemExit) as stop:
        cli.main(["speed", str(archive), "--seconds", "0", "--platform", "Reference", "-o", str(out)])
    assert not stop.value.code
    printed = capsys.readouterr()
    assert "TorchForce" in printed.out
    assert "CUDA: not measured" in printed.err
    record = json.loads(out.read_text())
    assert record["machine"]["versions"]["openmm"]
    assert record["entries"][0]["derived"]["steps_per_second"] > 0
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_what_is_not_there_is_refused(archive, tmp_path):
    with pytest.raises(ModelError, match="'benzene' is not timed; use one of ethanol"):
        measure(str(archive), "benzene", seconds=0.0)
    with pytest.raises(ModelError, match="no-such-model"):
        measure("no-such-model", seconds=0.0)
