"""GFN2 dynamics: forces are gradients, seeds decide, a killed run goes on unchanged."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from openmm_mlbench.assets import asset_path
from openmm_mlbench.data.datasets import load_dataset
from openmm_mlbench.data.readers import read_npz, read_provenance
from openmm_mlbench.errors import DataError
from openmm_mlbench.topology import read_structure

pytest.importorskip("tblite.interface", reason="tblite is not installed (extra xtb)")

from openmm_mlbench.data import generators
from openmm_mlbench.data.generators import Gfn2, GfnSettings, generate_gfn2
from openmm_mlbench.references import Reference, generate_reference_data

# 6 frames in segments of 2: 60 steps after 20 of equilibration.
TINY = {"n_frames": 6, "length_ps": 0.03, "interval_fs": 2.5, "equilibration_ps": 0.01}


@pytest.fixture
def short_segments(monkeypatch):
    monkeypatch.setattr(generators, "FRAMES_PER_SEGMENT", 2)


@pytest.fixture(scope="module")
def structure():
    return read_structure(asset_path("systems", "ethanol", "topology.pdb"))


def test_forces_are_minus_the_gradient(structure):
    topology, positions = structure
    gfn2 = Gfn2(topology.atomic_numbers, positions)
    positions = positions + np.random.default_rng(0).normal(0, 0.05, positions.shape)
    _, forces = gfn2(positions)
    step = 1e-3
    numerical = np.zeros_like(forces)
    for index in np.ndindex(*positions.shape):
        shift = np.zeros_like(positions)
        shift[index] = step
        numerical[index] = -(gfn2(positions + shift)[0] - gfn2(positions - shift)[0]) / (2 * step)
    assert np.abs(forces).max() > 1.0
    np.testing.assert_allclose(forces, numerical, atol=5e-5)


def test_warm_start_agrees_within_accuracy(structure):
    topology, positions = structure
    cold = Gfn2(topology.atomic_numbers, positions)
    warm = Gfn2(topology.atomic_numbers, positions, accuracy=generators.DYNAMICS_ACCURACY, warm_start=True)
    rng = np.random.default_rng(1)
    for _ in range(10):
        positions = positions + rng.normal(0, 0.005, positions.shape)
        (e_cold, f_cold), (e_warm, f_warm) = cold(positions), warm(positions)
        assert e_warm == pytest.approx(e_cold, abs=1e-7)
        np.testing.assert_allclose(f_warm, f_cold, atol=5e-5)


def test_against_another_program():
    """Energy (eV) and forces (eV/A) of water printed in the manual of xtb-python, another implementation."""
    from ase.build import molecule

    water = molecule("H2O")
    energy, forces = Gfn2(water.numbers, water.positions)(water.positions)
    assert energy == pytest.approx(-137.9677758730299, abs=2e-5)
    known = [[0, 0, -0.749514699], [0, -0.153501989, 0.374757349], [0, 0.153501989, 0.374757349]]
    np.testing.assert_allclose(forces, known, atol=2e-5)


def test_failing_calculation_is_one_line(structure):
    """What is raised inside OpenMM's callback comes out as an error of the data."""
    topology, positions = structure
    settings = GfnSettings(system="ethanol", seed=0, **TINY)
    dynamics = generators._Dynamics(settings, topology.atomic_numbers, positions)

    def fail(_):
        raise DataError("GFN2-xTB did not converge")

    dynamics._forces = fail
    with pytest.raises(DataError, match="GFN2 dynamics of ethanol stopped: GFN2-xTB did not converge"):
        dynamics.equilibrate()


def test_run_is_decided_by_its_seed(tmp_path, short_segments):
    runs = [
        generate_gfn2("ethanol", tmp_path / name / "x.npz", seed=seed, **TINY)
        for name, seed in (("a", 5), ("b", 5), ("c", 6))
    ]
    assert (tmp_path / "a/x.npz").read_bytes() == (tmp_path / "b/x.npz").read_bytes()
    np.testing.assert_array_equal(runs[0].trajectory_A, runs[1].trajectory_A)
    assert np.abs(runs[0].trajectory_A - runs[2].trajectory_A).max() > 0.01
    assert runs[0].trajectory_A.shape == (12, 9, 3)
    frames = read_npz(tmp_path / "a/x.npz")
    assert frames.n_frames == 6
    np.testing.assert_array_equal(frames.positions, runs[0].trajectory_A[1::2])
    assert frames.frame_indices.tolist() == [1, 3, 5, 7, 9, 11]
    assert frames.interval_fs == 2.5
    assert read_provenance(tmp_path / "a/x.npz")["seed"] == 5


def test_labels_belong_to_the_stored_positions(structure):
    """Shipped labels recomputed from the shipped, rounded positions."""
    frames = load_dataset("ethanol-gfn2")
    gfn2 = Gfn2(frames.atomic_numbers, frames.positions[0])
    for index in (0, 700, 1499):
        energy, forces = gfn2(frames.positions[index])
        assert energy == pytest.approx(frames.energies[index], abs=1e-6)
        np.testing.assert_allclose(forces, frames.forces[index], atol=1e-5)


def test_interrupted_run_goes_on_unchanged(tmp_path, short_segments):
    whole = generate_gfn2("ethanol", tmp_path / "whole.npz", seed=1, **TINY)

    def interrupt(done_ps, _):
        if done_ps > 0.015:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate_gfn2("ethanol", tmp_path / "cut.npz", seed=1, progress=interrupt, **TINY)
    assert not (tmp_path / "cut.npz").exists()
    assert len(list((tmp_path / "cut.work").glob("segment-*.npz"))) == 2
    seen = []
    resumed = generate_gfn2(
        "ethanol",
        tmp_path / "cut.npz",
        seed=1,
        progress=lambda done, total: seen.append((done, total)),
        **TINY,
    )
    np.testing.assert_array_equal(resumed.trajectory_A, whole.trajectory_A)
    assert (tmp_path / "cut.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()
    assert seen == [pytest.approx((ps, 0.03)) for ps in (0.01, 0.02, 0.03)]


def test_killed_process_goes_on_unchanged(tmp_path, short_segments):
    """kill -9 at any moment loses at most a segment."""
    whole = generate_gfn2("ethanol", tmp_path / "whole.npz", seed=2, **TINY)
    code = (
        "from openmm_mlbench.data import generators\n"
        "generators.FRAMES_PER_SEGMENT = 2\n"
        f"generators.generate_gfn2('ethanol', {str(tmp_path / 'cut.npz')!r}, seed=2, **{TINY!r})\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"OMP_NUM_THREADS": "1"}) as process:
        until = time.monotonic() + 120
        while not (tmp_path / "cut.work/segment-0000.npz").exists() and time.monotonic() < until:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    assert (tmp_path / "cut.work/segment-0000.npz").exists()
    resumed = generate_gfn2("ethanol", tmp_path / "cut.npz", seed=2, **TINY)
    np.testing.assert_array_equal(resumed.trajectory_A, whole.trajectory_A)
    assert (tmp_path / "cut.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()


def test_other_settings_in_the_same_folder_are_refused(tmp_path, short_segments):
    generate_gfn2("ethanol", tmp_path / "x.npz", seed=1, **TINY)
    with pytest.raises(DataError, match="a run with seed 1 was begun here, now 2 is wanted"):
        generate_gfn2("ethanol", tmp_path / "x.npz", seed=2, **TINY)
    segment = tmp_path / "x.work/segment-0001.npz"
    segment.write_bytes(segment.read_bytes()[:100])
    with pytest.raises(DataError, match="damaged"):
        generate_gfn2("ethanol", tmp_path / "x.npz", seed=1, **TINY)


def test_two_writers_are_refused(tmp_path):
    from filelock import FileLock

    (tmp_path / "x.work").mkdir()
    with (
        FileLock(tmp_path / "x.work/lock"),
        pytest.raises(DataError, match="another process is generating here"),
    ):
        generate_gfn2("ethanol", tmp_path / "x.npz", **TINY)


def test_data_and_reference_together(tmp_path, short_segments):
    data, reference = generate_reference_data("ethanol", tmp_path, seed=3, **TINY)
    assert data == tmp_path / "ethanol-gfn2.npz"
    assert reference == tmp_path / "references/ethanol-gfn2.json"
    loaded = Reference.load(reference)
    assert loaded.dataset == "ethanol-gfn2"
    assert loaded.n_frames == 12
    assert loaded.length_ps == pytest.approx(0.03)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_frames": 7}, "length_ps / n_frames is not a multiple of interval_fs"),
        ({"n_frames": 0}, "n_frames is 0; use a positive number"),
        ({"length_ps": float("nan")}, "length_ps is nan"),
        ({"seed": -1}, "seed -1"),
        ({"timestep_fs": 2.0}, "at most 1 fs"),
        ({"interval_fs": 2.75}, "not a multiple of timestep_fs"),
        ({"length_ps": 0.0301}, "not a multiple of interval_fs"),
        ({"equilibration_ps": -1.0}, "equilibration_ps"),
    ],
)
def test_bad_settings(change, message):
    with pytest.raises(DataError, match=message):
        GfnSettings(**({"system": "ethanol", "seed": 0} | TINY | change))


def test_settings_of_the_shipped_run():
    settings = GfnSettings(system="ethanol", n_frames=1500, length_ps=300.0, seed=0)
    assert settings.samples == 6000
    assert settings.samples_per_frame == 4
    assert settings.steps_per_sample == 100
    assert sum(settings.segments) == 1500
    with np.load(asset_path("systems", "ethanol", "ethanol-gfn2.npz"), allow_pickle=False) as archive:
        provenance = json.loads(str(archive["provenance"]))
    assert {key: provenance[key] for key in vars(settings)} == vars(settings)
