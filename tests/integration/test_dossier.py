"""The dossier of a collapse: 50 steps at full rate around the first offending one, and RDF windows that end a run."""

import csv
import dataclasses
import json

import harmonic_ethanol as ethanol
import killing
import numpy as np
import openmm
import periodic_argon as argon
import pytest

from openmm_mlbench.metadynamics import BiasVariable, Metadynamics
from openmm_mlbench.metrics.rdf import AtomPairs, compute_rdf
from openmm_mlbench.metrics.rdf_stability import RDFWindows, window_deviations
from openmm_mlbench.protocol import load_protocol
from openmm_mlbench.simulation.runner import run_protocol
from openmm_mlbench.topology import bond_lengths, read_topology
from openmm_mlbench.trajectory import read_dcd


def read(folder):
    """dossier.json, the rows of full-rate.csv and the trajectory at full rate."""
    dossier = json.loads((folder / "dossier" / "dossier.json").read_text())
    with open(folder / "dossier" / "full-rate.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return dossier, rows, folder / "dossier" / "full-rate.dcd"


def unstable_ethanol(out, provider, **options):
    options = {"start_frames": ethanol.frames(), "replicas": 2, "length_ps": 20.0} | options
    return run_protocol(load_protocol("ethanol-langevin"), provider, out, **options)


def test_the_steps_around_a_broken_bond(tmp_path):
    statuses = unstable_ethanol(tmp_path / "run", ethanol.BreakingEthanol())
    topology = read_topology(tmp_path / "run" / "topology.pdb")
    for status in statuses:
        dossier, rows, dcd = read(tmp_path / "run" / f"replica-{status.replica}")
        found = dossier["full_rate"]
        first = found["first_offending_step"]
        assert (found["reproduced"], found["largest_difference_A"]) == ("exact", 0.0)
        assert dossier["step"] - 100 < first <= dossier["step"]
        steps = [int(row["step"]) for row in rows]
        assert steps == list(range(steps[0], steps[0] + 50))
        assert steps.index(first) == min(25, first - 1)
        offending = [row["offending"] for row in rows]
        assert offending.index("bond-deviation") == steps.index(first)
        assert set(offending) == {"", "bond-deviation"}
        # The file holds the same steps: the bond gives way in the same frame of it.
        trajectory = read_dcd(dcd, topology, 0.0005)
        assert trajectory.n_frames == 50
        assert trajectory.times_ps[0] == pytest.approx(0.0005 * steps[0])
        lengths = bond_lengths(trajectory.positions_A, np.array([[1, 7]]))[:, 0]
        beyond = lengths - found["pair"]["equilibrium_A"] > 0.5
        assert int(beyond.argmax()) == steps.index(first)
        assert found["pair"]["atoms"] == [1, 7]
        assert found["pair"]["length_A"] == pytest.approx(lengths[steps.index(first)], abs=1e-4)
        # And it is the trajectory that was written: frame and step agree.
        if dossier["step"] in steps:
            whole = read_dcd(dcd.parents[1] / "trajectory.dcd", topology, 0.05)
            frame = whole.positions_A[dossier["step"] // 100 - 1]
            assert trajectory.positions_A[steps.index(dossier["step"])] == pytest.approx(frame, abs=1e-4)


def test_the_steps_before_a_nan(tmp_path):
    """The largest force and its atom are there for every step before."""
    statuses = run_protocol(
        load_protocol("ethanol"),
        ethanol.UndefinedEthanol(),
        tmp_path / "run",
        start_frames=ethanol.frames(),
        replicas=4,
        length_ps=2.0,
    )
    broken = [status for status in statuses if status.state == "unstable"]
    assert broken
    for status in broken:
        dossier, rows, _ = read(tmp_path / "run" / f"replica-{status.replica}")
        found = dossier["full_rate"]
        assert found["reproduced"] == "exact"
        place = [int(row["step"]) for row in rows].index(found["first_offending_step"])
        assert all(float(row["max_force_kJ_mol_nm"]) > 0 for row in rows[:place])
        assert rows[place]["max_force_kJ_mol_nm"] == ""
        assert rows[place]["offending"] == "not-finite"
        # The two atoms of the force that does not exist.
        assert int(rows[place]["max_force_atom"]) in (2, 8)


class Grudging(ethanol.BreakingEthanol):
    """Raises when it is asked for what it has answered before."""

    def create_system(self, topology, constraints=None):
        system = super().create_system(topology, constraints)
        latest = [-1]

        def compute(state):
            step = state.getStepCount()
            if step < latest[0]:
                raise RuntimeError("never again")
            latest[0] = step
            return 0.0, np.zeros((9, 3))

        system.addForce(openmm.PythonForce(compute))
        return system


def test_a_model_that_cannot_be_asked_again_does_not_spoil_the_finding(tmp_path):
    statuses = unstable_ethanol(tmp_path / "run", Grudging(), replicas=1)
    assert [status.state for status in statuses] == ["unstable"]
    dossier = json.loads((tmp_path / "run" / "replica-0" / "dossier" / "dossier.json").read_text())
    assert dossier["reason"] == "bond-deviation"
    assert "never again" in dossier["full_rate"]["missing"]
    assert not (tmp_path / "run" / "replica-0" / "dossier" / "full-rate.csv").exists()


@pytest.fixture(scope="module")
def gas(tmp_path_factory):
    """Argon in a triclinic cell, and the RDF of its first picosecond."""
    folder = tmp_path_factory.mktemp("argon")
    frames = argon.frames(argon.TRICLINIC)
    argon.write_pdb(folder / "argon.pdb", frames)
    protocol = argon.protocol(
        folder / "argon.pdb",
        stability_criterion="rdf",
        stability_threshold_A=0.6,
        stability_window_ps=0.2,
        stability_pairs=("Ar-Ar",),
        checkpoint_interval_ps=0.1,
    )
    run_protocol(protocol, argon.Argon(), folder / "run", start_frames=frames, replicas=1, length_ps=1.0)
    return folder, protocol, frames


def windows(gas, threshold_A):
    folder, _, _ = gas
    everything = np.arange(27)
    pair = AtomPairs(label="Ar-Ar", a=everything, b=everything)
    trajectory = read_dcd(
        folder / "run" / "replica-0" / "trajectory.dcd", read_topology(folder / "argon.pdb"), 0.05
    )
    reference = compute_rdf(trajectory, [pair], r_max_A=6.0, n_bins=50)[0].g_r
    return trajectory, RDFWindows(
        pairs=(pair,), references=(reference,), r_max_A=6.0, threshold_A=threshold_A, frames_per_window=4
    )


def test_a_window_ends_the_run_where_the_measurement_says_so(gas, tmp_path):
    folder, protocol, frames = gas
    trajectory, criterion = windows(gas, 1e9)
    measured = window_deviations(
        [trajectory], criterion.pairs, criterion.references, r_max_A=6.0, mode="paper", window_ps=0.2
    )
    # The monitor judges one window after another, the measurement from every frame on.
    assert len(measured.times_ps) == trajectory.n_frames - 3
    deviations = measured.deviations_A["Ar-Ar"][::4]
    # A threshold that some window but the first exceeds first.
    threshold_A = float(np.sort(deviations)[-2] + np.sort(deviations)[-1]) / 2
    expected_ps = measured.times_ps[::4][np.argmax(deviations > threshold_A)]
    assert measured.survival(threshold_A).time_ps <= expected_ps
    _, criterion = windows(gas, threshold_A)
    run = {"start_frames": frames, "replicas": 1, "window": criterion}
    status = run_protocol(protocol, argon.Argon(), tmp_path / "run", length_ps=1.0, **run)[0]
    assert (status.state, status.reason) == ("unstable", "rdf")
    assert status.stable_ps == pytest.approx(expected_ps)
    dossier, rows, dcd = read(tmp_path / "run" / "replica-0")
    assert dossier["pair"]["deviation_A"] == pytest.approx(deviations.max(), rel=1e-6)
    assert dossier["full_rate"]["reproduced"] == "exact"
    forces = [float(row["max_force_kJ_mol_nm"]) for row in rows]
    steps = [int(row["step"]) for row in rows]
    assert steps[int(np.argmax(forces))] == dossier["full_rate"]["first_offending_step"]
    assert read_dcd(dcd, read_topology(folder / "argon.pdb"), 0.0005).box_vectors_nm is not None
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["rdf_windows"]["threshold_A"] == threshold_A

    # Interrupted within a window, it comes to the same judgement.
    before = status.time_ps - 0.1
    first = run_protocol(protocol, argon.Argon(), tmp_path / "parts", length_ps=before, **run)[0]
    assert first.state == "finished"
    second = run_protocol(protocol, argon.Argon(), tmp_path / "parts", length_ps=1.0, resume=True, **run)[0]
    assert (second.reason, second.stable_ps) == (status.reason, status.stable_ps)
    killing.assert_same_run(tmp_path / "parts", tmp_path / "run")


def test_without_a_reference_nothing_watches_the_windows(gas, tmp_path):
    _, protocol, frames = gas
    options = {"start_frames": frames, "replicas": 1, "length_ps": 0.4}
    assert run_protocol(protocol, argon.Argon(), tmp_path / "run", **options)[0].state == "finished"


def test_the_first_step_of_a_displacement_is_found_within_its_frame_interval(tmp_path):
    """A kick far beyond the limit: the frame tells late, the repetition tells when."""
    frames = argon.frames()
    argon.write_pdb(tmp_path / "argon.pdb", frames)
    protocol = argon.protocol(tmp_path / "argon.pdb", monitor_displacement_A=0.2, stability_criterion="none")
    status = run_protocol(
        protocol, argon.Argon(), tmp_path / "run", start_frames=frames, replicas=1, length_ps=5.0
    )[0]
    assert status.reason == "displacement"
    dossier, rows, _ = read(tmp_path / "run" / "replica-0")
    first = dossier["full_rate"]["first_offending_step"]
    assert status.step - 100 < first <= status.step
    assert rows[[int(row["step"]) for row in rows].index(first)]["offending"] == "displacement"


def test_a_biased_run_is_repeated_without_new_hills(tmp_path):
    """Hills that were deposited meanwhile stay, so it may differ; HILLS gets no line from it."""
    variable = BiasVariable(name="phi", atoms=(1, 0, 2, 8), sigma_rad=0.35, grid_bins=60)
    bias = Metadynamics(
        height_kJ_mol=1.2, pace_steps=50, bias_factor=6.0, temperature_K=500.0, variables=(variable,)
    )
    protocol = dataclasses.replace(
        load_protocol("ethanol-langevin"), metadynamics=bias, observables=("stability", "F_phi")
    )
    status = run_protocol(
        protocol,
        ethanol.BreakingEthanol(),
        tmp_path / "run",
        start_frames=ethanol.frames(),
        replicas=1,
        length_ps=20.0,
        metadynamics="native",
    )[0]
    assert (status.state, status.reason) == ("unstable", "bond-deviation")
    dossier, rows, _ = read(tmp_path / "run" / "replica-0")
    assert len(rows) >= 49
    assert dossier["full_rate"]["reproduced"] != "exact"
    assert dossier["full_rate"]["largest_difference_A"] > 0
    hills = [
        line
        for line in (tmp_path / "run" / "replica-0" / "HILLS").read_text().splitlines()
        if not line.startswith("#")
    ]
    assert len(hills) == status.step // 50
