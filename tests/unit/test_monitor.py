"""The monitor: each reason to stop on a made-up diatomic, and what the dossier says."""

import csv
import json
import struct
from dataclasses import asdict

import numpy as np
import pytest

from openmm_mlbench.simulation.dossier import write_dossier
from openmm_mlbench.simulation.monitor import FrameRecord, Monitor, Thresholds
from openmm_mlbench.simulation.progress import ProgressDisplay, ProgressUpdate

BONDS = np.array([[0, 1], [1, 2]])


def chain(first_A=1.0, second_A=1.5):
    """Three atoms on a line, nm."""
    return 0.1 * np.array([[0.0, 0, 0], [first_A, 0, 0], [first_A + second_A, 0, 0]])


def make_monitor(recent=None, **limits):
    return Monitor(
        thresholds=Thresholds(**limits),
        bonds=BONDS,
        equilibrium_A=np.array([1.0, 1.5]),
        atom_names=("C1", "O2", "H3"),
        temperature_K=300.0,
        frame_interval_ps=0.05,
        start_energy_kJ_mol=-10.0,
        positions_nm=chain(),
        recent=recent,
    )


def record(monitor, positions_nm, *, step=100, energy=-9.0, temperature=310.0, force=5.0):
    return FrameRecord(
        step=step,
        time_ps=step * 0.0005,
        potential_energy_kJ_mol=energy,
        kinetic_energy_kJ_mol=8.0,
        temperature_K=temperature,
        T_rot_K=300.0,
        T_vib_K=305.0,
        max_bond_deviation_A=float(monitor.bond_deviations_A(positions_nm).max(initial=0.0)),
        max_force_kJ_mol_nm=force,
    )


def check(monitor, positions_nm, **values):
    return monitor.check(record(monitor, positions_nm, **values), positions_nm)


def test_a_sound_frame_passes():
    monitor = make_monitor()
    assert check(monitor, chain(1.3, 1.2)) is None
    assert monitor.offence is None
    assert monitor.recent[-1].max_bond_deviation_A == pytest.approx(0.3)


def test_the_first_frame_beyond_the_limit_counts_and_the_run_goes_on_to_confirm():
    monitor = make_monitor(frames_after=3)
    assert check(monitor, chain(1.49), step=100) is None
    assert monitor.offence is None
    assert check(monitor, chain(1.0, 2.1), step=200) is None
    assert check(monitor, chain(2.0, 1.5), step=300) is None
    assert check(monitor, chain(1.0, 1.5), step=400) is None
    stop = check(monitor, chain(1.0, 3.0), step=500)
    assert (stop.reason, stop.step, stop.time_ps) == ("bond-deviation", 200, 0.1)
    assert stop.bond["atoms"] == [1, 2]
    assert stop.bond["names"] == ["O2", "H3"]
    assert (stop.bond["length_A"], stop.bond["equilibrium_A"]) == (pytest.approx(2.1), 1.5)
    assert "bond O2-H3 (atoms 1, 2) is 2.100 A long" in stop.message
    assert monitor.frames_beyond == 3


def test_without_frames_after_it_stops_at_once():
    assert check(make_monitor(frames_after=0), chain(1.51)).step == 100


@pytest.mark.parametrize(
    ("reason", "positions_nm", "values"),
    [
        ("not-finite", chain(np.nan), {}),
        ("not-finite", chain(np.inf), {}),
        ("not-finite", chain(), {"energy": np.nan}),
        ("not-finite", chain(), {"force": np.inf}),
        ("energy", chain(), {"energy": -10.0 - 3 * 1001.0}),
        ("temperature", chain(), {"temperature": 20.1 * 300.0}),
        ("displacement", chain() + 5.1, {}),
    ],
)
def test_other_collapses_stop_at_once(reason, positions_nm, values):
    with np.errstate(invalid="ignore"):
        stop = check(make_monitor(), positions_nm, **values)
    assert stop.reason == reason
    assert stop.step == 100


@pytest.mark.parametrize(
    ("positions_nm", "values"),
    [(chain(), {"energy": -10.0 + 3 * 999.0}), (chain(), {"temperature": 5999.0}), (chain() + 2.8, {})],
)
def test_just_below_the_limits_nothing_happens(positions_nm, values):
    assert check(make_monitor(), positions_nm, **values) is None


def test_jumps_are_measured_from_frame_to_frame():
    monitor = make_monitor()
    for number in range(1, 10):
        assert check(monitor, chain() + 2.0 * number) is None


def test_a_bond_that_broke_before_the_explosion_is_the_reason():
    monitor = make_monitor()
    assert check(monitor, chain(1.8), step=100) is None
    stop = check(monitor, chain(np.nan), step=200)
    assert (stop.reason, stop.step) == ("bond-deviation", 100)
    assert monitor.exploded(230, 0.115, "NaN").step == 100
    assert make_monitor().exploded(230, 0.115, "Particle coordinate is NaN").reason == "not-finite"


def test_a_stated_displacement_takes_the_place_of_the_speed():
    monitor = make_monitor(displacement_A=3.0)
    assert check(monitor, chain() + 0.17, step=100) is None
    stop = check(monitor, chain() + 0.17 + 0.18, step=200)
    assert stop.reason == "displacement"
    assert stop.message == "atom 0 (C1) moved 3.118 A between two frames; limit 3 A"


def test_unwrapped_atoms_that_move_with_the_cell_have_not_jumped():
    monitor = make_monitor(displacement_A=0.5)
    box = np.eye(3)
    far = chain() + 50.0
    monitor.previous_nm, monitor.previous_box_nm = far, box
    assert monitor.check(record(monitor, 1.01 * far), 1.01 * far, 1.01 * box) is None
    assert monitor.check(record(monitor, 1.02 * far), 1.02 * far, 1.01 * box).reason == "displacement"


def test_bonds_across_the_boundary_of_a_cell():
    monitor = make_monitor()
    box = np.diag([1.2, 1.3, 1.4])
    apart = chain() + np.array([[1.2, 0, 0], [0, -1.3, 0], [0, 0, 2.8]])
    assert monitor.bond_deviations_A(apart, box) == pytest.approx([0.0, 0.0], abs=1e-9)
    assert monitor.bond_deviations_A(apart).min() > 5.0
    assert monitor.broken_bond(record(monitor, chain()), apart, box) is None


class Spread:
    """A window criterion: the mean x of the second atom in A, under the label of a made-up pair."""

    threshold_A = 2.0
    frames_per_window = 3

    def deviations_A(self, positions_nm, box_vectors_nm):  # noqa: N802 - A is the unit
        assert positions_nm.shape == (3, 3, 3)
        assert box_vectors_nm.shape == (3, 3, 3)
        return {"C-C": 0.1, "C-O": float(10 * positions_nm[:, 1, 0].mean())}


def watch(held=None):
    return Monitor(
        thresholds=Thresholds(),
        bonds=np.empty((0, 2), dtype=int),
        equilibrium_A=np.empty(0),
        atom_names=("C1", "O2", "H3"),
        temperature_K=300.0,
        frame_interval_ps=0.05,
        start_energy_kJ_mol=-10.0,
        positions_nm=chain(),
        box_nm=np.eye(3),
        window=Spread(),
        held=held,
    )


def test_a_window_is_judged_when_it_is_whole_and_counts_from_its_first_frame():
    monitor = watch()
    values = [1.0, 1.0, 3.9, 2.0, 2.0, 2.1, 9.0]
    stops = []
    for n, value in enumerate(values, 1):
        now = FrameRecord(
            step=100 * n,
            time_ps=0.05 * n,
            potential_energy_kJ_mol=-9.0,
            kinetic_energy_kJ_mol=8.0,
            temperature_K=300.0,
            T_rot_K=None,
            T_vib_K=None,
            max_bond_deviation_A=0.0,
            max_force_kJ_mol_nm=1.0,
        )
        stops.append(monitor.check(now, chain(value), np.eye(3)))
        if stops[-1]:
            break
    assert [stop is None for stop in stops] == [True] * 5 + [False]
    stop = stops[-1]
    assert (stop.reason, stop.step, stop.time_ps) == ("rdf", 400, 0.2)
    assert stop.pair == {"label": "C-O", "deviation_A": pytest.approx(6.1 / 3), "window_frames": 3}
    assert stop.message.startswith("RDF of C-O over the window of 3 frames that ends at 0.3 ps is 2.03 A off")


def test_a_window_goes_on_after_a_checkpoint():
    held = [(chain(2.0), np.eye(3)), (chain(2.0), np.eye(3))]
    for value, reason in ((2.1, "rdf"), (1.9, None)):
        monitor = watch(held)
        stop = monitor.check(record(monitor, chain(), step=600), chain(value), np.eye(3))
        assert (stop.reason if stop else None) == reason


def test_recent_frames_survive_a_checkpoint():
    monitor = make_monitor(frames_before=3, frames_after=2)
    for step in range(100, 1100, 100):
        check(monitor, chain(), step=step)
    rows = json.loads(json.dumps(monitor.rows()))
    again = make_monitor(recent=rows, frames_before=3, frames_after=2)
    assert [item.step for item in again.recent] == [500, 600, 700, 800, 900, 1000]
    assert list(again.recent) == list(monitor.recent)


def test_dossier(tmp_path):
    monitor = make_monitor(frames_after=1)
    check(monitor, chain(), step=100, force=3.0)
    check(monitor, chain(1.8), step=200, force=4.0)
    stop = check(monitor, chain(2.8), step=300, force=np.inf, energy=np.nan)
    write_dossier(tmp_path / "dossier", stop, monitor, struct.pack("<i", 84))
    written = json.loads((tmp_path / "dossier" / "dossier.json").read_text())
    assert written["reason"] == "bond-deviation"
    assert written["step"] == 200
    assert written["bond"]["names"] == ["C1", "O2"]
    assert written["steps"] == [100, 200, 300]
    assert written["max_force_kJ_mol_nm"] == [3.0, 4.0, None]
    assert written["thresholds"] == asdict(monitor.thresholds)
    with open(tmp_path / "dossier" / "frames.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["max_bond_deviation_A"]) for row in rows] == pytest.approx([0.0, 0.8, 1.8])
    assert (tmp_path / "dossier" / "frames.dcd").read_bytes() == struct.pack("<i", 84)


class Stream:
    """A text stream that is, or is not, a terminal."""

    def __init__(self, terminal):
        self.text = ""
        self.terminal = terminal

    def isatty(self):
        return self.terminal

    def write(self, text):
        self.text += text

    def flush(self):
        pass


def update(replica, time_ps, state="running", speed=1000.0):
    return ProgressUpdate(
        replica=replica, n_replicas=2, time_ps=time_ps, length_ps=10.0, steps_per_second=speed, state=state
    )


def test_progress_adds_up_the_replicas():
    stream = Stream(terminal=False)
    with ProgressDisplay("ethanol", stream) as display:
        display(update(0, 4.0))
        display(update(1, 1.0, speed=500.0))
        assert display.done_ps() == (5.0, 20.0)
        assert display.line().startswith("ethanol: 5.0 of 20 ps, 1500 steps/s")
        display(update(1, 2.0, "unstable", speed=None))
        assert display.done_ps() == (14.0, 20.0)
        display(update(0, 10.0, "finished", speed=None))
    # Thirty seconds have not passed: one closing line only.
    assert stream.text == "ethanol: 20.0 of 20 ps, replica 1 unstable at 2 ps\n"


def test_progress_draws_a_bar_on_a_terminal():
    stream = Stream(terminal=True)
    with ProgressDisplay("ethanol", stream) as display:
        display(update(0, 4.0))
        display(update(1, 10.0, "finished", speed=None))
    assert "14.0 of 20 ps" in stream.text
