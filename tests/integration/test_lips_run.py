"""LiPS from frames to numbers: a triclinic cell in any orientation is simulated and analyzed like any other."""

import dataclasses
import json

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from openmm_mlbench.analysis import analyze
from openmm_mlbench.cells import reduce_cell
from openmm_mlbench.data.datasets import load_dataset
from openmm_mlbench.data.readers import write_npz
from openmm_mlbench.metrics.rdf import AtomPairs, compute_rdf
from openmm_mlbench.protocol import load_protocol
from openmm_mlbench.reference_potentials.lips import CELL_A
from openmm_mlbench.topology import read_topology
from openmm_mlbench.trajectory import read_dcd
from openmm_mlbench.workflow import find_model, simulate

LENGTH_PS = 0.05


@pytest.fixture(scope="module")
def turn():
    return Rotation.from_euler("xyz", (0.3, -1.1, 2.0)).as_matrix()


@pytest.fixture(scope="module")
def run(tmp_path_factory, turn):
    """A short run whose start frames come in another orientation, with other vectors of the same lattice."""
    folder = tmp_path_factory.mktemp("lips")
    frames = load_dataset("lips-fm")
    basis = np.array([[1.0, 0, 0], [1, 1, 0], [0, -1, 1]])
    turned = dataclasses.replace(frames, positions=frames.positions @ turn, cells=basis @ frames.cells @ turn)
    write_npz(turned, folder / "turned.npz")
    statuses = simulate(
        load_protocol("lips"),
        find_model("lips-fm"),
        folder / "run",
        data=folder / "turned.npz",
        replicas=2,
        length_ps=LENGTH_PS,
        platform="Reference",
    )
    assert [status.state for status in statuses] == ["finished", "finished"]
    return folder / "run"


def trajectory(run, replica):
    return read_dcd(
        run / f"replica-{replica}" / "trajectory.dcd", read_topology(run / "topology.pdb"), 0.0125
    )


def test_frames_are_in_openmms_form(run, turn):
    found = trajectory(run, 0)
    assert found.n_frames == 4
    assert np.allclose(found.box_vectors_nm * 10, CELL_A, rtol=0, atol=1e-4)
    record = json.loads((run / "run.json").read_text())
    frames = load_dataset("lips-fm")
    place = int(np.flatnonzero(frames.frame_indices == record["start_frame_indices"][0])[0])
    _, start = reduce_cell(frames.cells[place] @ turn, frames.positions[place] @ turn)
    moved = np.linalg.norm(found.positions_A[0] - start, axis=1)
    # 50 steps of 0.25 fs at 520 K.
    assert 0.0 < moved.max() < 0.5


def test_temperature_and_energy_are_those_of_the_crystal(run):
    metrics = analyze(run)
    results = {found["name"]: found for part in metrics["measurements"] for found in part["results"]}
    assert 300 < results["temperature"]["value"] < 800
    rows = [line.split(",") for line in (run / "replica-0" / "log.csv").read_text().splitlines()]
    energies = np.array([row[rows[0].index("potential_energy_kJ_mol")] for row in rows[1:]], dtype=float)
    frames = load_dataset("lips-fm")
    spread = frames.energies.std() * 96.485
    assert np.abs(energies - frames.energies.mean() * 96.485).max() < 6 * spread


def test_analyzed_rdf_is_that_of_the_frames_as_they_came(run, turn):
    metrics = analyze(run)
    rdf = next(part for part in metrics["measurements"] if part["observable"] == "rdf")
    result = next(found for found in rdf["results"] if found["name"] == "rdf_mae_all")
    # Four frames: far from the reference, but measured.
    assert result["status"] == "ok"
    assert 0.1 < result["value"] < 2.0
    everything = np.arange(83)
    pair = [AtomPairs(label="all", a=everything, b=everything)]
    curves = []
    for replica in (0, 1):
        found = trajectory(run, replica)
        turned_back = dataclasses.replace(
            found, positions_nm=found.positions_nm @ turn, box_vectors_nm=found.box_vectors_nm @ turn
        )
        curves.append(compute_rdf(turned_back, pair)[0].g_r)
    expected = np.mean(curves, axis=0)
    difference = np.abs(np.array(rdf["curves"]["all"]["y"]) - expected)
    # A distance on an edge of a bin may fall on either side of it.
    assert difference.max() < 0.2
    assert difference.sum() < 0.005 * expected.sum()
