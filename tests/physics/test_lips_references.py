"""LiPS: references of the real frames, and how lithium diffusivity is read off frames at unequal distances."""

import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest

from openmm_mlbench.assets import asset_path
from openmm_mlbench.cells import reduce_cell
from openmm_mlbench.data.datasets import data_folder, default_split, load_dataset
from openmm_mlbench.measuring.floor_tables import FloorTable
from openmm_mlbench.metrics.rdf import AtomPairs, compute_rdf
from openmm_mlbench.reference_potentials.lips import CELL_A
from openmm_mlbench.references import reference_file
from openmm_mlbench.trajectory import Trajectory

CELL = np.array(CELL_A)
VOLUME_A3 = float(np.linalg.det(CELL))
needs_frames = pytest.mark.skipif(
    not (data_folder() / "lips.npz").is_file(), reason="the real frames of LiPS are not at hand"
)


@pytest.fixture(scope="module")
def make():
    """The script that made the references."""
    path = asset_path("systems", "lips", "references", "make.py")
    spec = importlib.util.spec_from_file_location("make_lips_references", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read(name, observable, mode="paper"):
    path = reference_file(name, observable, mode)
    assert path is not None, (name, observable, mode)
    return json.loads(path.read_text())


def result(record, name="diffusivity"):
    return next(found for found in record["results"] if found["name"] == name)


# --- What ships ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lips", "lips-fm"])
@pytest.mark.parametrize("mode", ["paper", "mdsim"])
def test_each_phosphorus_has_four_sulphurs(name, mode):
    record = read(name, "rdf", mode)
    assert record["inputs"]["made_by"]["script"]
    r, g = (np.array(record["curves"]["P-S"][axis]) for axis in "xy")
    shell = 4 * np.pi * 44 / VOLUME_A3 * (g * r**2 * (r[1] - r[0]))[r < 2.75].sum()
    assert shell == pytest.approx(4.0, abs=0.01)
    for label in ("all", "Li-Li", "Li-S", "S-S"):
        assert np.array(record["curves"][label]["y"])[r < 1.7].max() == 0.0
    floors = FloorTable.read(record["inputs"]["noise_floors"], "all")
    # The paper's threshold of stability, 1 A, is far above a window of 1 ps.
    assert 0.0 < floors.floor(25.0, 500).value < floors.floor(1.0, 20).value < 0.6


@pytest.mark.parametrize(("name", "least", "most"), [("lips", 1.0, 1.7), ("lips-fm", 0.3, 2.5)])
@pytest.mark.parametrize("mode", ["paper", "mdsim"])
def test_lithium_diffuses(name, least, most, mode):
    """The paper has 1.35e-9 m2/s from all 25,001 frames."""
    found = result(read(name, "diffusivity", mode))
    assert least < found["value"] < most
    assert 0 < found["stderr"] < 0.4 * found["value"]
    assert found["status"] == "ok"


@needs_frames
def test_real_frames_by_name():
    frames = load_dataset("lips")
    assert (frames.n_frames, frames.n_atoms, frames.interval_fs) == (1077, 83, 2.0)
    assert (np.diff(frames.frame_indices) > 0).all()
    assert (frames.frame_indices[0], frames.frame_indices[-1]) == (72, 24952)
    split = default_split("lips", frames)
    assert [len(part) for part in (split.train, split.validation, split.test)] == [900, 50, 127]
    box, _ = reduce_cell(frames.cells[0], frames.positions[0])
    assert np.allclose(box, CELL, rtol=0, atol=1e-6)


@needs_frames
def test_shipped_diffusivity_is_that_of_the_frames(make):
    frames = load_dataset("lips")
    times = frames.frame_indices * 0.002
    later = np.flatnonzero(times >= make.SKIP_PS)
    found = make.diffusivity_of_frames(frames.select(later), times[later], "paper")
    assert result(read("lips", "diffusivity"))["value"] == pytest.approx(found.results[0].value, rel=1e-9)


@needs_frames
@pytest.mark.slow
def test_fit_is_reproduced(tmp_path):
    out = tmp_path / "fit.json"
    subprocess.run(
        [sys.executable, str(asset_path("systems", "lips", "fit.py")), "--out", str(out)], check=True
    )
    shipped = json.loads(asset_path("systems", "lips", "lips-fm.json").read_text())
    again = json.loads(out.read_text())
    assert again["fit"] == shipped["fit"]
    for name, numbers in shipped["distances"].items():
        assert np.allclose(again["distances"][name]["coefficients_eV"], numbers["coefficients_eV"], atol=1e-4)


# --- The method -----------------------------------------------------------------------------------


def brownian(make, diffusivity, seed):
    """27 atoms with 1e-9 m2/s = 0.1 A^2/ps each, seen wrapped at unequal distances, as the real frames are."""
    random = np.random.default_rng(seed)
    indices = np.sort(random.choice(25_000, 1077, replace=False))
    times = indices * 0.002
    steps = random.normal(size=(len(times), 27, 3))
    steps *= np.sqrt(2 * 0.1 * diffusivity * np.diff(times, prepend=times[0]))[:, None, None]
    paths = np.cumsum(steps, axis=0) + random.uniform(0, 1, (27, 3)) @ CELL
    fractional = paths @ np.linalg.inv(CELL)
    wrapped = (fractional - np.floor(fractional)) @ CELL
    frames = make.Frames(
        name="brownian",
        atomic_numbers=np.full(27, 3),
        positions=wrapped,
        energies=None,
        forces=None,
        cells=np.tile(CELL, (len(times), 1, 1)),
        frame_indices=indices,
        interval_fs=2.0,
        constraints="none",
        level_of_theory="none",
        source="test",
    )
    return frames, times, paths


def test_paths_are_found_again_through_the_faces_of_the_cell(make):
    frames, _, paths = brownian(make, 1.3, seed=0)
    found, longest = make.lithium_paths(frames)
    expected = (paths - paths.mean(axis=1, keepdims=True)) / 10
    drift = (found - expected)[0] - (found - expected).mean(axis=0)
    assert np.abs(drift).max() < 1e-9
    assert longest < 0.559


def test_diffusivity_of_brownian_atoms_and_its_error(make):
    """Mean over runs, without the share of the mean that is subtracted; the stated error is the spread of runs."""
    found = []
    for seed in range(12):
        frames, times, _ = brownian(make, 1.3, seed)
        found.append(make.diffusivity_of_frames(frames, times, "paper"))
    for place in (0, 1):
        values = np.array([one.results[place].value for one in found])
        spread = values.std(ddof=1)
        assert abs(values.mean() - 1.3 * 26 / 27) < 4 * spread / np.sqrt(len(values))
        stated = np.mean([one.results[place].stderr for one in found])
        assert 0.5 < stated / spread < 2.0
    divided = make.diffusivity_of_frames(frames, times, "mdsim").results[0].value
    assert divided > found[-1].results[0].value


def test_pairs_of_frames_are_those_of_a_naive_search(make):
    random = np.random.default_rng(5)
    times = np.sort(random.uniform(0, 10, 80))
    paths = random.normal(size=(80, 2, 3))
    starts, lags, squares = make.squared_displacements(paths, times, 3.0, 0.2)
    naive = [
        (times[i], times[j] - times[i], ((paths[j] - paths[i]) ** 2).sum(axis=1))
        for i in range(80)
        for j in range(80)
        if abs(times[j] - times[i] - 3.0) <= 0.2
    ]
    assert np.allclose(starts, [one[0] for one in naive])
    assert np.allclose(lags, [one[1] for one in naive])
    assert np.allclose(squares, [one[2] for one in naive])


# --- The cell -------------------------------------------------------------------------------------


def random_rotation(seed):
    from scipy.spatial.transform import Rotation

    return Rotation.random(random_state=seed).as_matrix()


def rdf_of(positions_A, cell_A, n_bins=500):
    one = Trajectory(
        positions_nm=positions_A / 10,
        box_vectors_nm=np.tile(cell_A / 10, (len(positions_A), 1, 1)),
        atomic_numbers=np.full(positions_A.shape[1], 3),
        frame_interval_ps=0.1,
    )
    everything = np.arange(positions_A.shape[1])
    return compute_rdf(one, [AtomPairs(label="all", a=everything, b=everything)], n_bins=n_bins)[0]


def test_rdf_knows_no_orientation_and_no_basis():
    """The same crystal turned, with other lattice vectors, wrapped otherwise, and back in OpenMM's form."""
    random = np.random.default_rng(0)
    positions = random.uniform(0, 1, (4, 83, 3)) @ CELL
    turn = random_rotation(1)
    basis = np.array([[1, 0, 0], [1, 1, 0], [0, -1, 1]])
    cell = basis @ CELL @ turn
    moved = positions @ turn + random.integers(-2, 3, positions.shape) @ cell
    box, back = reduce_cell(cell, moved)
    expected = rdf_of(positions, CELL).counts
    # A distance that lies on an edge of a bin may fall on either side of it.
    for found in (rdf_of(moved, cell), rdf_of(back, box)):
        assert np.abs(found.counts - expected).sum() <= 8
    assert np.allclose(box, CELL)


def test_rdf_beyond_half_the_height_counts_every_image():
    """6 A reach further than one image, 5.59 A: a loop over atoms and images beside it."""
    positions = np.random.default_rng(3).uniform(0, 1, (12, 3)) @ CELL
    found = rdf_of(positions[None], CELL, n_bins=60)
    shifts = np.array(
        [[i, j, k] for i in (-2, -1, 0, 1, 2) for j in (-2, -1, 0, 1, 2) for k in (-2, -1, 0, 1, 2)]
    )
    counts = np.zeros(60, dtype=int)
    for i in range(12):
        for j in range(12):
            r = np.linalg.norm(positions[j] - positions[i] + shifts @ CELL, axis=1)
            counts += np.histogram(r[r > 1e-9], bins=60, range=(0, 6))[0]
    assert np.array_equal(found.counts, counts)
