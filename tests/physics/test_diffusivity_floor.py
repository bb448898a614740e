"""What right runs score against a reference, and what the floor says they do."""

import json

import mdtraj
import numpy as np
import pytest

from openmm_mlbench.files import write_json
from openmm_mlbench.measuring.diffusivity import DiffusivityOptions, measure_diffusivity
from openmm_mlbench.measuring.measurement import Source
from openmm_mlbench.selections import load_topology
from openmm_mlbench.trajectory_stream import open_trajectory

N_ATOMS, SIGMA_NM = 12, 0.02
OPTIONS = DiffusivityOptions(lag_ps=2.0)


def source(folder, name, n_frames, seed):
    rng = np.random.default_rng(seed)
    topology = mdtraj.Topology()
    residue = topology.add_residue("X", topology.add_chain())
    for _ in range(N_ATOMS):
        topology.add_atom("Ar", mdtraj.element.argon, residue)
    paths = np.cumsum(rng.normal(scale=SIGMA_NM, size=(n_frames, N_ATOMS, 3)), axis=0)
    frames = mdtraj.Trajectory(paths.astype(np.float32), topology)
    frames[0].save_pdb(folder / "top.pdb")
    frames.save_dcd(folder / f"{name}.dcd")
    known = load_topology(folder / "top.pdb")
    return Source(topology=known, files=[open_trajectory(folder / f"{name}.dcd", known.atomic_numbers, 0.1)])


def results(measured):
    return {one.name: one for one in measured.measurement.results}


def test_floor_is_what_right_runs_score(tmp_path):
    atoms = np.arange(N_ATOMS)
    floors, scores = [], []
    for k in range(12):
        reference = source(tmp_path, "reference", 4000, 100 + k)
        for run in range(2):
            one = source(tmp_path, "run", 800, 1000 + 10 * k + run)
            found = results(measure_diffusivity(one, atoms, OPTIONS, reference))["diffusivity_mae"]
            floors.append(found.floor)
            scores.append(found.value)
    # The mean of 24 absolute values of a normal distribution is known to 15 %, and runs share references.
    assert np.mean(floors) == pytest.approx(np.mean(scores), rel=0.45)


def test_the_json_of_a_reference_gives_the_same_floor(tmp_path):
    atoms = np.arange(N_ATOMS)
    reference, run = source(tmp_path, "reference", 3000, 1), source(tmp_path, "run", 500, 2)
    written = tmp_path / "reference.json"
    write_json(written, measure_diffusivity(reference, atoms, OPTIONS).measurement.as_json())
    of_file, of_frames = (
        results(measure_diffusivity(run, atoms, OPTIONS, given))["diffusivity_mae"]
        for given in (written, reference)
    )
    assert of_file.floor == pytest.approx(of_frames.floor)
    assert of_file.value == pytest.approx(of_frames.value)
    record = json.loads(written.read_text())
    record["results"][0]["stderr"] = None
    write_json(written, record)
    without = results(measure_diffusivity(run, atoms, OPTIONS, written))["diffusivity_mae"]
    assert without.floor is None
    assert "no floor: the reference has no standard error" in without.note
