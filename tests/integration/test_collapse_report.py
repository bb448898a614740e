"""From a collapse to its picture: dossier, metrics.json, page."""

import json
import re
import shutil
from pathlib import Path

import harmonic_ethanol as ethanol
import numpy as np
import pytest
from matplotlib.figure import Figure

from openmm_mlbench.analysis import analyze
from openmm_mlbench.errors import MetricError
from openmm_mlbench.measuring.collapse_frames import MAX_ATOMS, _cut, collapse_frames
from openmm_mlbench.metrics.collapse import plot_dossier, read_collapse
from openmm_mlbench.protocol import load_protocol
from openmm_mlbench.report.page import build_report
from openmm_mlbench.simulation.runner import run_protocol
from openmm_mlbench.topology import Topology, read_topology
from openmm_mlbench.trajectory import Trajectory
from openmm_mlbench.units import KJMOL_NM_PER_EV_ANGSTROM


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("collapse") / "run"
    protocol = load_protocol("ethanol-langevin")
    run_protocol(
        protocol,
        ethanol.BreakingEthanol(),
        out,
        start_frames=ethanol.frames(),
        replicas=2,
        length_ps=20.0,
    )
    return out


def test_the_dossier_is_read_and_drawn(run):
    folder = run / "replica-0"
    collapse = read_collapse(folder)
    dossier = json.loads((folder / "dossier" / "dossier.json").read_text())
    assert collapse.reason == "bond-deviation"
    assert collapse.first_step == dossier["full_rate"]["first_offending_step"]
    assert len(collapse.steps) == 50
    assert collapse.time_per_step_ps == pytest.approx(0.0005)
    assert collapse.frame_forces_meV_A == pytest.approx(
        1000 * np.array(dossier["max_force_kJ_mol_nm"]) / KJMOL_NM_PER_EV_ANGSTROM
    )
    # Frames and steps are of one run: where both have a step they agree.
    for step, force in zip(collapse.frame_steps, collapse.frame_forces_meV_A, strict=True):
        if step in collapse.steps:
            assert collapse.forces_meV_A[collapse.steps == step][0] == pytest.approx(force)
    ax = plot_dossier(folder)
    assert "meV/A" in ax.get_ylabel()
    assert len(ax.lines) == 3
    given = Figure().subplots()
    assert plot_dossier(folder / "dossier", given) is given


def test_no_dossier(run, tmp_path):
    assert read_collapse(tmp_path) is None
    with pytest.raises(MetricError, match=r"holds no dossier\.json; give the folder of a replica"):
        plot_dossier(tmp_path)
    (tmp_path / "dossier.json").write_text('{"step": 3}')
    with pytest.raises(MetricError, match="not the dossier of a collapse"):
        read_collapse(tmp_path)


def test_the_structures_around_the_collapse_are_cut_out(run):
    """Before, at and after the first offending step: the bond that broke, and it alone, is longer than its limit."""
    collapse = analyze(run)["run"]["replicas"][0]["collapse"]
    found = collapse["structures"]
    assert [frame["label"] for frame in found["frames"]] == ["before", "first offending step", "after"]
    assert found["frames"][1]["step"] == collapse["first_step"]
    i, j = found["pair"]
    assert [i, j] in found["bonds"]
    positions = [np.array(frame["positions_A"]) for frame in found["frames"]]
    lengths = [np.linalg.norm(frame[i] - frame[j]) for frame in positions]
    assert lengths[0] < 1.08 + 0.5 < lengths[1] < lengths[2]
    others = [bond for bond in found["bonds"] if bond != [i, j]]
    assert all(np.linalg.norm(positions[1][a] - positions[1][b]) < 2.0 for a, b in others)


def test_a_damaged_dossier_has_no_structures(run, tmp_path):
    topology = read_topology(run / "topology.pdb")
    settings = {"frame_interval_ps": 0.05, "timestep_fs": 0.5}
    assert collapse_frames(tmp_path, topology, **settings) is None
    shutil.copytree(run / "replica-0" / "dossier", tmp_path / "dossier")
    assert collapse_frames(tmp_path, topology, **settings) is not None
    (tmp_path / "dossier" / "full-rate.dcd").write_bytes(b"no DCD")
    assert collapse_frames(tmp_path, topology, **settings) is None


def test_of_a_liquid_only_the_neighbourhood_is_cut_out():
    """Two atoms that offend across the boundary stay together, and what is far is left out."""
    box = np.eye(3) * 2.0
    positions = np.random.default_rng(0).uniform(0, 2, size=(3, 200, 3))
    positions[:, 0], positions[:, 1] = (0.05, 1.0, 1.0), (1.95, 1.0, 1.0)
    topology = Topology(
        atomic_numbers=np.full(200, 18), names=tuple(f"Ar{i}" for i in range(200)), path=Path("argon.pdb")
    )
    trajectory = Trajectory(
        positions_nm=positions, box_vectors_nm=np.stack([box] * 3), atomic_numbers=topology.atomic_numbers,
        frame_interval_ps=0.1, first_frame_ps=0.1, source="made",
    )  # fmt: skip
    found = _cut(trajectory, [1, 2, 3], 2, {"pair": {"atoms": [0, 1]}}, topology)
    assert found["pair"] is not None
    first = np.array(found["frames"][0]["positions_A"])
    i, j = found["pair"]
    assert np.linalg.norm(first[i] - first[j]) == pytest.approx(1.0)
    assert 2 < len(first) <= MAX_ATOMS
    at = np.array(found["frames"][1]["positions_A"])
    assert np.linalg.norm(at - at[i], axis=1).max() < 4.5


def test_the_page_shows_how_it_collapsed(run):
    metrics = analyze(run)
    found = [member["collapse"] for member in metrics["run"]["replicas"]]
    assert [collapse["reason"] for collapse in found] == ["bond-deviation"] * 2
    page = build_report([run], run / "report.html").read_text()
    assert "How breaking-ethanol collapsed" in page
    assert re.search(r"largest force", page)
