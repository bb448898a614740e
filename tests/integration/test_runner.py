"""Running a protocol on an analytic potential: what it writes, how it ends, what it refuses."""

import contextlib
import dataclasses
import json
import os
import resource
import signal
import subprocess
import sys
import threading

import harmonic_ethanol as ethanol
import numpy as np
import pytest
from filelock import FileLock

from openmm_mlbench.errors import ProtocolError, SimulationError
from openmm_mlbench.files import sha256_file
from openmm_mlbench.protocol import load_protocol
from openmm_mlbench.simulation.monitor import Thresholds
from openmm_mlbench.simulation.outputs import COLUMNS
from openmm_mlbench.simulation.platforms import choose_platform
from openmm_mlbench.simulation.run_folder import read_status
from openmm_mlbench.simulation.runner import RunInterrupted, run_protocol
from openmm_mlbench.simulation.seeds import choose_start_frames
from openmm_mlbench.topology import read_topology
from openmm_mlbench.trajectory import read_dcd


def run(out, provider=None, protocol="ethanol", **options):
    options = {"start_frames": ethanol.frames(), "replicas": 2, "length_ps": 2.0} | options
    return run_protocol(load_protocol(protocol), provider or ethanol.HarmonicEthanol(), out, **options)


def assert_same_files(folder, other):
    assert (folder / "trajectory.dcd").read_bytes() == (other / "trajectory.dcd").read_bytes()
    assert ethanol.log_without_timing(folder) == ethanol.log_without_timing(other)


def test_what_a_run_leaves_behind(tmp_path):
    frames = ethanol.frames()
    statuses = run(tmp_path / "run", start_frames=frames)
    assert [(status.state, status.step, status.n_frames) for status in statuses] == [
        ("finished", 4000, 40)
    ] * 2
    assert all(status.steps_per_second > 0 for status in statuses)

    record = json.loads((tmp_path / "run" / "run.json").read_text())
    places = choose_start_frames(20, 2, seed=0).tolist()
    assert record["start_places"] == places
    assert record["start_frame_indices"] == [7 * place for place in places]
    assert record["start_frames"]["sha256"] == frames.content_hash()
    assert record["model"]["model"] == "harmonic-ethanol"
    assert record["protocol"]["sha256"] == load_protocol("ethanol").sha256
    assert record["platform"]["name"] == "Reference"
    assert record["bonds"] == ethanol.BONDS.tolist()
    assert {"openmm-mlbench", "openmm", "numpy", "python"} <= set(record["versions"])
    assert load_protocol(tmp_path / "run" / "protocol.xml") == load_protocol("ethanol")

    folder = tmp_path / "run" / "replica-1"
    log = ethanol.read_log(folder)
    assert tuple((folder / "log.csv").read_text().splitlines()[0].split(",")) == COLUMNS
    assert log["time_ps"] == pytest.approx(0.05 * np.arange(1, 41))
    assert log["total_energy_kJ_mol"] == pytest.approx(
        log["potential_energy_kJ_mol"] + log["kinetic_energy_kJ_mol"]
    )
    assert (log["temperature_K"] * 24) == pytest.approx(3 * log["T_rot_K"] + 21 * log["T_vib_K"])
    trajectory = read_dcd(folder / "trajectory.dcd", read_topology(tmp_path / "run" / "topology.pdb"), 0.05)
    assert trajectory.n_frames == 40
    assert trajectory.first_frame_ps == pytest.approx(0.05)
    equilibrium = np.array(record["equilibrium_A"])
    lengths = np.linalg.norm(
        trajectory.positions_A[:, ethanol.BONDS[:, 0]] - trajectory.positions_A[:, ethanol.BONDS[:, 1]],
        axis=-1,
    )
    assert log["max_bond_deviation_A"] == pytest.approx(np.abs(lengths - equilibrium).max(axis=1), abs=1e-5)
    assert not (folder / "dossier").exists()


def test_processes_and_order_make_no_difference(tmp_path):
    run(tmp_path / "one", replicas=3)
    updates = []
    run(tmp_path / "two", replicas=3, jobs=2, progress=updates.append)
    run(tmp_path / "again", replicas=2)
    for replica in range(3):
        assert_same_files(*(tmp_path / name / f"replica-{replica}" for name in ("one", "two")))
    again = tmp_path / "again" / "replica-1" / "trajectory.dcd"
    assert again.read_bytes() == (tmp_path / "one" / "replica-1" / "trajectory.dcd").read_bytes()
    assert {(update.replica, update.time_ps) for update in updates if update.state == "finished"} == {
        (0, 2.0),
        (1, 2.0),
        (2, 2.0),
    }


def test_seeds_and_replicas_give_different_trajectories(tmp_path):
    run(tmp_path / "a", replicas=2, length_ps=0.1)
    run(tmp_path / "b", replicas=2, length_ps=0.1, seed=1)
    found = {
        (tmp_path / name / f"replica-{i}" / "trajectory.dcd").read_bytes() for name in "ab" for i in range(2)
    }
    assert len(found) == 4
    assert json.loads((tmp_path / "b" / "run.json").read_text())["seed"] == 1


def test_a_broken_bond_ends_its_replica_with_a_dossier(tmp_path):
    statuses = run(tmp_path / "run", ethanol.BreakingEthanol(), "ethanol-langevin", length_ps=20.0)
    assert [status.state for status in statuses] == ["unstable", "unstable"]
    assert [status.reason for status in statuses] == ["bond-deviation"] * 2
    for status in statuses:
        folder = tmp_path / "run" / f"replica-{status.replica}"
        log = ethanol.read_log(folder)
        beyond = log["max_bond_deviation_A"] > 0.5
        first = int(beyond.argmax())
        assert status.stable_ps == pytest.approx(log["time_ps"][first])
        assert len(log) == status.n_frames == first + 1 + Thresholds().frames_after
        dossier = json.loads((folder / "dossier" / "dossier.json").read_text())
        assert dossier["step"] == log["step"][first]
        assert dossier["bond"]["atoms"] == [1, 7]
        assert dossier["bond"]["names"] == ["C2", "H23"]
        frames = read_dcd(
            folder / "dossier" / "frames.dcd", read_topology(tmp_path / "run" / "topology.pdb"), 0.05
        )
        whole = read_dcd(folder / "trajectory.dcd", read_topology(tmp_path / "run" / "topology.pdb"), 0.05)
        assert frames.n_frames == len(dossier["steps"]) == min(26, whole.n_frames)
        assert np.array_equal(frames.positions_nm, whole.positions_nm[-frames.n_frames :])
        assert frames.times_ps == pytest.approx(whole.times_ps[-frames.n_frames :])


def test_a_nan_ends_its_replica_and_not_the_others(tmp_path):
    statuses = run(tmp_path / "run", ethanol.UndefinedEthanol(), replicas=4)
    assert {status.state for status in statuses} == {"unstable", "finished"}
    assert {status.reason for status in statuses} == {"not-finite", ""}
    for status in statuses:
        if status.state == "finished":
            continue
        folder = tmp_path / "run" / f"replica-{status.replica}"
        trajectory = read_dcd(
            folder / "trajectory.dcd", read_topology(tmp_path / "run" / "topology.pdb"), 0.05
        )
        assert trajectory.n_frames == status.n_frames
        assert np.isfinite(trajectory.positions_nm).all()
        assert json.loads((folder / "dossier" / "dossier.json").read_text())["reason"] == "not-finite"


@pytest.mark.parametrize("n_calls", [1, 500], ids=["in the warm-up", "later"])
def test_an_error_of_the_model_ends_its_replica_and_not_the_others(n_calls, tmp_path):
    statuses = run(tmp_path / "run", ethanol.RaisingEthanol(n_calls), length_ps=1.0)
    assert [status.state for status in statuses] == ["failed", "finished"]
    assert "the model has had enough" in statuses[0].message
    assert "Traceback" in (tmp_path / "run" / "replica-0" / "dossier" / "error.txt").read_text()
    # What failed is tried again; the provider counts on in this process and does not raise twice.
    again = run(tmp_path / "run", ethanol.RaisingEthanol(10**9), length_ps=1.0, resume=True)
    assert [status.state for status in again] == ["finished", "finished"]
    assert not (tmp_path / "run" / "replica-0" / "dossier").exists()


def test_an_existing_run_is_neither_mixed_nor_lost(tmp_path):
    out = tmp_path / "run"
    run(out, length_ps=0.2)
    before = sha256_file(out / "replica-0" / "trajectory.dcd")
    (out / "notes.txt").write_text("mine")
    (out / "replica-0" / "notes.txt").write_text("mine too")
    with pytest.raises(SimulationError, match="holds a run already; use --resume"):
        run(out, length_ps=0.2)
    with pytest.raises(SimulationError, match="exclude each other"):
        run(out, length_ps=0.2, resume=True, overwrite=True)
    assert sha256_file(out / "replica-0" / "trajectory.dcd") == before
    run(out, length_ps=0.2, seed=3, replicas=1, overwrite=True)
    assert sha256_file(out / "replica-0" / "trajectory.dcd") != before
    assert not (out / "replica-1").exists()
    assert (out / "notes.txt").read_text() == "mine"
    assert (out / "replica-0" / "notes.txt").read_text() == "mine too"


@pytest.mark.parametrize("name", ["precious.txt", "run.json"])
def test_a_folder_of_somebody_else_is_refused_even_with_overwrite(name, tmp_path):
    (tmp_path / name).write_text('{"name": "of another program"}')
    for options in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(SimulationError, match=r"choose (an empty or new|another) folder|another folder"):
            run(tmp_path, **options)
    assert sorted(path.name for path in tmp_path.iterdir()) == [name]


def test_overwrite_does_not_follow_links(tmp_path):
    run(tmp_path / "run", length_ps=0.1)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "log.csv").write_text("keep")
    (tmp_path / "run" / "replica-7").symlink_to(tmp_path / "elsewhere")
    run(tmp_path / "run", length_ps=0.1, overwrite=True)
    assert (tmp_path / "elsewhere" / "log.csv").read_text() == "keep"


def test_a_lock_keeps_two_writers_apart(tmp_path):
    run(tmp_path / "run", length_ps=0.1)
    for locked in (tmp_path / "run", tmp_path / "run" / "replica-1"):
        with (
            FileLock(locked / ".lock"),
            pytest.raises(SimulationError, match="another process is writing there"),
        ):
            run(tmp_path / "run", length_ps=0.2, resume=True)
    assert [status.state for status in run(tmp_path / "run", length_ps=0.2, resume=True)] == ["finished"] * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"replicas": 0}, "replicas is 0; at least 1"),
        ({"jobs": 0}, "jobs is 0"),
        ({"replicas": 21}, "21 replicas but only 20 start frames"),
        ({"platform": "Abacus"}, "platform 'Abacus' is not here; use auto or one of Reference"),
        ({"reference_bonds": np.array([[0, 9]])}, "do not fit 9 atoms"),
        ({"equilibrium_A": np.ones(3)}, "bonds of shape .8, 2. with 3 equilibrium lengths"),
        (
            {
                "start_frames": dataclasses.replace(
                    ethanol.frames(), atomic_numbers=np.array([6, 6, 8, 1, 1, 1, 1, 1, 9])
                )
            },
            "same atom order",
        ),
    ],
)
def test_mistakes_are_found_before_anything_is_written(options, message, tmp_path):
    with pytest.raises(SimulationError, match=message):
        run(tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_a_length_that_is_not_whole_frames(tmp_path):
    with pytest.raises(ProtocolError, match="whole number of frames"):
        run(tmp_path / "run", length_ps=0.06)
    assert not (tmp_path / "run").exists()


def test_a_damaged_structure_is_named(tmp_path):
    (tmp_path / "bad.pdb").write_text("ATOM nonsense\n")
    protocol = dataclasses.replace(load_protocol("ethanol"), structure=str(tmp_path / "bad.pdb"))
    with pytest.raises(SimulationError, match=r"bad\.pdb: "):
        run_protocol(protocol, ethanol.HarmonicEthanol(), tmp_path / "run", start_frames=ethanol.frames())


def test_auto_takes_reference_for_small_systems():
    system = ethanol.HarmonicEthanol().create_system(ethanol.topology())
    choice = choose_platform("auto", system)
    assert choice.name in ("Reference", "CUDA")
    assert choose_platform("CPU", system, threads=3).properties == {
        "Threads": "3",
        "DeterministicForces": "true",
    }


def test_the_cpu_platform_is_recorded_with_its_properties(tmp_path):
    statuses = run(tmp_path / "run", platform="CPU", replicas=1, length_ps=0.1)
    assert statuses[0].platform == {"name": "CPU", "Threads": "1", "DeterministicForces": "true"}


def test_it_runs_outside_the_main_thread(tmp_path):
    found = []
    thread = threading.Thread(target=lambda: found.extend(run(tmp_path / "run", length_ps=0.1)))
    thread.start()
    thread.join()
    assert [status.state for status in found] == ["finished", "finished"]


SCRIPT = """
import sys
import harmonic_ethanol as ethanol
from openmm_mlbench.errors import MLBenchError
from openmm_mlbench.protocol import load_protocol
from openmm_mlbench.simulation.runner import run_protocol

if __name__ == "__main__":
    out, jobs, length_ps, resume = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4:] == ["resume"]
    told = set()
    def progress(update):
        # Once all that run at a time have told of a frame.
        if len(told) < jobs and update.state == "running":
            told.add(update.replica)
            if len(told) == jobs:
                print("begun", flush=True)
    try:
        run_protocol(load_protocol("ethanol"), ethanol.HarmonicEthanol(), out, start_frames=ethanol.frames(),
                     replicas=2, length_ps=length_ps, jobs=jobs, resume=resume, progress=progress)
    except MLBenchError as error:
        sys.exit(f"error: {error}")
"""


def start(tmp_path, *arguments, **options):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = os.environ | {"PYTHONPATH": os.path.dirname(ethanol.__file__)}
    return subprocess.Popen(
        [sys.executable, str(script), *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.mark.parametrize(("jobs", "number"), [(1, signal.SIGINT), (2, signal.SIGINT), (2, signal.SIGTERM)])
def test_an_interrupted_run_says_how_to_go_on(jobs, number, tmp_path):
    out = tmp_path / "run"
    process = start(tmp_path, out, jobs, 10_000)
    with contextlib.closing(process.stdout):
        assert process.stdout.readline() == "begun\n"
        process.send_signal(number)
        complaint = process.stderr.read()
        process.stderr.close()
    assert process.wait(timeout=300) == 1
    assert complaint.startswith(f"error: {out}: interrupted at ")
    assert complaint.endswith("of 10000 ps; the same command with --resume goes on\n")
    assert complaint.count("\n") == 1
    for replica in range(jobs):
        status = read_status(out / f"replica-{replica}")
        assert status.state == "interrupted"
        checkpoint = json.loads((out / f"replica-{replica}" / "checkpoint.json").read_text())["checkpoints"][
            0
        ]
        assert checkpoint["step"] == status.step
        assert (
            checkpoint["offsets"]["trajectory_bytes"]
            == (out / f"replica-{replica}" / "trajectory.dcd").stat().st_size
        )


def test_interrupted_statuses_come_with_the_error(tmp_path, monkeypatch):
    # However fast the machine, every frame is told.
    monkeypatch.setattr("openmm_mlbench.simulation.logbook._NOTIFY_INTERVAL_S", -1.0)

    def interrupt(update):
        if update.replica == 1 and update.state == "running":
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(RunInterrupted) as caught:
        run(tmp_path / "run", replicas=3, length_ps=1.0, progress=interrupt)
    assert [status.state for status in caught.value.statuses] == ["finished", "interrupted"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert [status.state for status in run(tmp_path / "run", replicas=3, length_ps=1.0, resume=True)] == [
        "finished"
    ] * 3
    run(tmp_path / "whole", replicas=3, length_ps=1.0)
    for replica in range(3):
        assert_same_files(*(tmp_path / name / f"replica-{replica}" for name in ("run", "whole")))


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_full_disk_gives_one_line_and_whole_files(jobs, tmp_path):
    """A limit on file sizes stands in for the disk: the writes fail in the same way, half way through a frame."""
    out, length_ps = tmp_path / "run", 20.0
    limit = 30_000

    def limit_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    process = start(tmp_path, out, jobs, length_ps, preexec_fn=limit_files)
    _, complaint = process.communicate(timeout=300)
    assert process.returncode == 1
    assert complaint.startswith(f"error: {out}/replica-")
    assert "free some space and go on from 10 ps with --resume" in complaint
    assert complaint.count("\n") == 1
    # With two processes either can be the first to hit the limit; the other is asked to stop.
    full = out / complaint.removeprefix(f"error: {out}/").split(":")[0]
    trajectory = full / "trajectory.dcd"
    assert read_dcd(trajectory, read_topology(out / "topology.pdb"), 0.05).n_frames == 200
    assert len(ethanol.read_log(full)) == 200

    status = read_status(full)
    assert (status.state, status.reason, status.time_ps, status.n_frames) == (
        "interrupted",
        "disk",
        10.0,
        200,
    )

    statuses = run(out, length_ps=length_ps, resume=True)
    assert [status.state for status in statuses] == ["finished", "finished"]
    run(tmp_path / "whole", length_ps=length_ps)
    for name in ("replica-0", "replica-1"):
        assert_same_files(out / name, tmp_path / "whole" / name)


@pytest.mark.parametrize(("limit", "where"), [(500, "run"), (5_000, "run/replica-0")])
def test_a_disk_that_is_full_at_once(limit, where, tmp_path):
    def limit_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    process = start(tmp_path, tmp_path / "run", 1, 3.0, preexec_fn=limit_files)
    _, complaint = process.communicate(timeout=300)
    assert process.returncode == 1
    assert complaint.startswith(f"error: {tmp_path / where}: cannot write at ")
    assert complaint.endswith("free some space and go on from 0 ps with --resume\n")
    assert complaint.count("\n") == 1
    assert [status.state for status in run(tmp_path / "run", length_ps=3.0, resume=True)] == ["finished"] * 2


def test_a_provider_that_cannot_travel(tmp_path):
    provider = ethanol.HarmonicEthanol()
    provider.cannot_be_pickled = lambda: None
    with pytest.raises(SimulationError, match=r"cannot be sent to another process .*; use jobs=1"):
        run(tmp_path / "run", provider, jobs=2)
    assert [status.state for status in run(tmp_path / "run", provider, length_ps=0.1, resume=True)] == [
        "finished"
    ] * 2


def test_processes_that_share_a_run_folder_make_the_run_of_one_call(tmp_path):
    """Each takes replicas of its own: same files, one session in the record."""
    run(tmp_path / "whole", replicas=3, length_ps=1.0)
    shared = tmp_path / "shared"
    for replicas in ([2], [0, 1]):
        statuses = run(shared, replicas=3, length_ps=1.0, only=replicas, resume=True)
        assert [(status.replica, status.state) for status in statuses] == [(i, "finished") for i in replicas]
    for i in range(3):
        assert_same_files(shared / f"replica-{i}", tmp_path / "whole" / f"replica-{i}")
    record = json.loads((shared / "run.json").read_text())
    assert record == json.loads((tmp_path / "whole" / "run.json").read_text())

    # A longer or a larger run is written down, and only then.
    run(shared, replicas=4, length_ps=1.5, only=[3], resume=True)
    larger = json.loads((shared / "run.json").read_text())
    assert (larger["replicas"], larger["length_ps"], len(larger["sessions"])) == (4, 1.5, 2)
    run(shared, replicas=2, length_ps=1.0, only=[0], resume=True)
    assert json.loads((shared / "run.json").read_text()) == larger

    with pytest.raises(SimulationError, match=r"replicas \[4\] of 4; use numbers from 0 to 3"):
        run(shared, replicas=4, only=[4], resume=True)
    with pytest.raises(SimulationError, match="begun with another protocol"):
        run(shared, replicas=4, only=[1], resume=True, seed=5)


def test_a_replica_that_another_process_runs_is_left_alone(tmp_path):
    run(tmp_path / "run", length_ps=1.0)
    lock = FileLock(tmp_path / "run" / "replica-1" / ".lock")
    with lock, pytest.raises(SimulationError, match="another process is writing there"):
        run(tmp_path / "run", length_ps=2.0, only=[1], resume=True)
    assert run(tmp_path / "run", length_ps=2.0, only=[0], resume=True)[0].time_ps == 2.0
