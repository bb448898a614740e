"""Kill and resume: the files that a run leaves are those of a run that was never stopped."""

import dataclasses
import hashlib
import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time

import harmonic_ethanol as ethanol
import killing
import numpy as np
import pytest

from openmm_mlbench.errors import SimulationError
from openmm_mlbench.protocol import load_protocol
from openmm_mlbench.simulation.outputs import HEADER_BYTES
from openmm_mlbench.simulation.run_folder import read_status
from openmm_mlbench.simulation.runner import run_protocol

FRAME_BYTES = 3 * (4 * 9 + 8)

SCRIPT = """
import dataclasses
import sys
import harmonic_ethanol as ethanol
from openmm_mlbench.protocol import load_protocol
from openmm_mlbench.simulation.runner import run_protocol

if __name__ == "__main__":
    name, out, length_ps, jobs = sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4])
    protocol = dataclasses.replace(load_protocol(name), checkpoint_interval_ps=1.0)
    run_protocol(protocol, ethanol.HarmonicEthanol(), out, start_frames=ethanol.frames(), replicas=2,
                 length_ps=length_ps, jobs=jobs, resume=True)
"""


def run(out, name="ethanol", provider=None, **options):
    protocol = dataclasses.replace(load_protocol(name), checkpoint_interval_ps=1.0)
    options = {"start_frames": ethanol.frames(), "replicas": 2} | options
    return run_protocol(protocol, provider or ethanol.HarmonicEthanol(), out, **options)


def assert_same_run(out, other, replicas=2):
    for replica in range(replicas):
        folder, whole = (path / f"replica-{replica}" for path in (out, other))
        assert (folder / "trajectory.dcd").read_bytes() == (whole / "trajectory.dcd").read_bytes()
        assert ethanol.log_without_timing(folder) == ethanol.log_without_timing(whole)


def start(tmp_path, *arguments):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = os.environ | {"PYTHONPATH": os.path.dirname(ethanol.__file__)}
    return subprocess.Popen([sys.executable, str(script), *map(str, arguments)], env=environment)


def size(path):
    return path.stat().st_size if path.is_file() else 0


@pytest.mark.parametrize("name", ["ethanol-langevin"])
def test_killed_at_random_moments(name, tmp_path):
    """Fresh interpreters, as a user starts them; test_kill.py has the rest, in forks of one."""
    length_ps, n_kills = 24.0, 2
    run(tmp_path / "whole", name, length_ps=length_ps)
    total = 2 * size(tmp_path / "whole" / "replica-0" / "log.csv")
    generator = np.random.default_rng()
    for out in killing.attempts(tmp_path):
        killed_in = []
        for moment in sorted(generator.uniform(0, 0.95 * total, n_kills)):
            process = start(tmp_path, name, out, length_ps, 1)
            while process.poll() is None:
                if killing.bytes_written(out) >= moment:
                    process.send_signal(signal.SIGKILL)
                    break
                time.sleep(generator.uniform(0, 0.003))
            process.wait(timeout=300)
            status = [read_status(out / f"replica-{i}") for i in range(2)]
            killed_in += [item.state if item else "not begun" for item in status]
        if "running" in killed_in:
            break
    statuses = run(out, name, length_ps=length_ps, resume=True)
    assert [status.state for status in statuses] == ["finished", "finished"]
    assert "running" in killed_in, "never killed while running"
    assert {status.resume for status in statuses} <= {"none", "exact"}
    assert_same_run(out, tmp_path / "whole")


def test_a_killed_worker_is_one_failed_replica(tmp_path, monkeypatch):
    """The other replica goes on; resuming mends the first."""
    out, length_ps = tmp_path / "run", 4.0
    hold = killing.Hold(tmp_path / "hold", "replica-0/checkpoint.json", 3)
    killer = threading.Thread(target=lambda: os.kill(hold.wait(), signal.SIGKILL))
    killer.start()
    with monkeypatch.context() as patch:
        for name, value in hold.variables.items():
            patch.setenv(name, value)
        statuses = run(out, length_ps=length_ps, jobs=2)
    killer.join()
    assert [status.state for status in statuses] == ["failed", "finished"]
    assert statuses[0].reason == "process-died"
    assert "killed by signal 9" in statuses[0].message
    assert [status.state for status in run(out, length_ps=length_ps, resume=True)] == ["finished"] * 2
    run(tmp_path / "whole", length_ps=length_ps)
    assert_same_run(out, tmp_path / "whole")


@pytest.mark.parametrize("name", ["ethanol", "ethanol-langevin"])
def test_a_longer_length_extends_a_finished_run(name, tmp_path):
    run(tmp_path / "run", name, length_ps=2.5, replicas=1)
    run(tmp_path / "run", name, length_ps=4.0, replicas=2, resume=True)
    run(tmp_path / "whole", name, length_ps=4.0)
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (record["length_ps"], record["replicas"]) == (4.0, 2)
    # Nothing is left to do, and nothing is done.
    before = (tmp_path / "run" / "replica-0" / "status.json").stat().st_mtime_ns
    assert [status.time_ps for status in run(tmp_path / "run", name, length_ps=1.0, resume=True)] == [
        4.0,
        4.0,
    ]
    assert (tmp_path / "run" / "replica-0" / "status.json").stat().st_mtime_ns == before


def test_a_collapse_is_final(tmp_path):
    first = run(tmp_path / "run", "ethanol-langevin", ethanol.BreakingEthanol(), length_ps=20.0)
    again = run(tmp_path / "run", "ethanol-langevin", ethanol.BreakingEthanol(), length_ps=40.0, resume=True)
    assert {status.state for status in first} == {"unstable"}
    assert again == first


def stop_half_way(out, name="ethanol"):
    """A run of 4 ps that ended at 2.5 ps without having noticed."""
    run(out, name, length_ps=2.5, replicas=1)
    return out / "replica-0", json.loads((out / "replica-0" / "checkpoint.json").read_text())


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path):
    folder, index = stop_half_way(tmp_path / "run")
    latest, previous = index["checkpoints"]
    assert (latest["step"], previous["step"]) == (5000, 4000)
    # OpenMM would take this one without a word.
    path = folder / "checkpoint-000000005000.chk"
    path.write_bytes(path.read_bytes()[:-8])
    statuses = run(tmp_path / "run", length_ps=4.0, replicas=1, resume=True)
    assert statuses[0].resume == "exact"
    run(tmp_path / "whole", length_ps=4.0, replicas=1)
    assert_same_run(tmp_path / "run", tmp_path / "whole", replicas=1)


def test_without_a_checkpoint_it_starts_again(tmp_path):
    """A kill before the first checkpoint leaves frames, but nothing to go on from."""
    folder, _ = stop_half_way(tmp_path / "run")
    for path in folder.glob("checkpoint*"):
        path.unlink()
    (folder / "status.json").unlink()
    statuses = run(tmp_path / "run", length_ps=4.0, replicas=1, resume=True)
    assert (statuses[0].resume, statuses[0].state) == ("none", "finished")
    run(tmp_path / "whole", length_ps=4.0, replicas=1)
    assert_same_run(tmp_path / "run", tmp_path / "whole", replicas=1)


@pytest.mark.parametrize("name", ["ethanol", "ethanol-langevin"])
def test_another_engine_resumes_from_the_state_and_says_so(name, tmp_path):
    folder, index = stop_half_way(tmp_path / "run", name)
    index["checkpoints"][0]["engine"]["openmm"] = "8.4.0"
    (folder / "checkpoint.json").write_text(json.dumps(index))
    status = run(tmp_path / "run", name, length_ps=3.5, replicas=1, resume=True)[0]
    assert (status.state, status.resume, status.step) == ("finished", "inexact", 7000)
    assert json.loads((folder / "status.json").read_text())["resume"] == "inexact"
    # Later, exact, resumptions do not make the run as a whole exact.
    assert run(tmp_path / "run", name, length_ps=4.0, replicas=1, resume=True)[0].resume == "inexact"
    run(tmp_path / "whole", name, length_ps=4.0, replicas=1)
    log, whole = (ethanol.read_log(path / "replica-0") for path in (tmp_path / "run", tmp_path / "whole"))
    assert log["step"].tolist() == whole["step"].tolist()
    assert np.array_equal(log["potential_energy_kJ_mol"][:50], whole["potential_energy_kJ_mol"][:50])
    if name == "ethanol":
        # The state holds the thermostat's chain too, so only rounding differs.
        assert log["total_energy_kJ_mol"] == pytest.approx(whole["total_energy_kJ_mol"], abs=0.1)
    else:
        # The random stream is another one, not the old one from its start.
        assert not np.allclose(log["potential_energy_kJ_mol"][50:], whole["potential_energy_kJ_mol"][50:])
        assert not np.allclose(log["potential_energy_kJ_mol"][50:60], whole["potential_energy_kJ_mol"][:10])


def test_other_platform(tmp_path):
    stop_half_way(tmp_path / "run")
    status = run(tmp_path / "run", length_ps=4.0, replicas=1, resume=True, platform="CPU")[0]
    assert (status.state, status.resume, status.platform["name"]) == ("finished", "inexact", "CPU")


def test_a_planted_state_is_not_deserialized(tmp_path):
    """Only a State may reach OpenMM's deserializer: a System could bring code along."""
    folder, index = stop_half_way(tmp_path / "run")
    latest = index["checkpoints"][0]
    evil = '<?xml version="1.0" ?><System type="System" version="1"/>'
    (folder / "checkpoint-000000005000.xml").write_text(evil)
    latest["sha256"]["checkpoint-000000005000.xml"] = hashlib.sha256(evil.encode()).hexdigest()
    latest["engine"]["openmm"] = "8.4.0"
    (folder / "checkpoint.json").write_text(json.dumps(index))
    with pytest.raises(SimulationError, match="a System where a State was wanted"):
        run(tmp_path / "run", length_ps=4.0, replicas=1, resume=True)


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"format_version": 1, "checkpoints": [{}]}', '{"format_version": 99, "checkpoints": []}'],
)
def test_a_damaged_index_is_named(text, tmp_path):
    folder, _ = stop_half_way(tmp_path / "run")
    (folder / "checkpoint.json").write_text(text)
    with pytest.raises(SimulationError, match=r"replica-0/checkpoint\.json: ") as caught:
        run(tmp_path / "run", length_ps=4.0, replicas=1, resume=True)
    assert "\n" not in str(caught.value)


def test_a_shortened_trajectory_is_not_silently_repaired(tmp_path):
    folder, _ = stop_half_way(tmp_path / "run")
    os.truncate(folder / "trajectory.dcd", HEADER_BYTES + 3 * FRAME_BYTES)
    with pytest.raises(
        SimulationError, match=r"trajectory\.dcd: 672 bytes, but the checkpoint was taken at 6876"
    ):
        run(tmp_path / "run", length_ps=4.0, replicas=1, resume=True)


def test_a_protocol_in_other_words_goes_on(tmp_path):
    run(tmp_path / "run", length_ps=0.2, replicas=1)
    reworded = dataclasses.replace(
        load_protocol("ethanol"), checkpoint_interval_ps=1.0, description="the same in other words"
    )
    statuses = run_protocol(
        reworded,
        ethanol.HarmonicEthanol(),
        tmp_path / "run",
        start_frames=ethanol.frames(),
        replicas=1,
        length_ps=0.4,
        resume=True,
    )
    assert [status.state for status in statuses] == ["finished"]


def test_a_run_of_an_older_version_goes_on(tmp_path):
    """It hashed the whole protocol file and kept the versions of its first session only."""
    run(tmp_path / "run", length_ps=0.2, replicas=1)
    path = tmp_path / "run" / "run.json"
    record = json.loads(path.read_text())
    now = record["protocol"]["sha256"]
    copy = (tmp_path / "run" / "protocol.xml").read_bytes()
    record["protocol"]["sha256"] = hashlib.sha256(copy).hexdigest()
    del record["sessions"]
    record["git_commit"] = "of-then"
    path.write_text(json.dumps(record))
    run(tmp_path / "run", length_ps=0.4, replicas=1, resume=True)
    resumed = json.loads(path.read_text())
    assert resumed["protocol"]["sha256"] == now
    assert [session["git_commit"] == "of-then" for session in resumed["sessions"]] == [True, False]
    assert [session["length_ps"] for session in resumed["sessions"]] == [0.2, 0.4]
    # A copy that is not the protocol of the run proves nothing.
    record["length_ps"] = 0.4
    path.write_text(json.dumps(record))
    (tmp_path / "run" / "protocol.xml").write_bytes(copy + b"<!-- changed -->")
    with pytest.raises(SimulationError, match="another protocol"):
        run(tmp_path / "run", length_ps=0.6, replicas=1, resume=True)


def test_every_session_is_kept(tmp_path):
    for length_ps in (0.2, 0.4, 0.4):
        run(tmp_path / "run", length_ps=length_ps, replicas=1, resume=length_ps > 0.2)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert [session["length_ps"] for session in record["sessions"]] == [0.2, 0.4, 0.4]
    for session in record["sessions"]:
        assert set(session) == {
            "platform",
            "batching",
            "versions",
            "git_commit",
            "host",
            "length_ps",
            "replicas",
        }
        assert session["versions"]["openmm"]
    assert record["versions"] == record["sessions"][0]["versions"]


def test_half_written_frames_are_cut_off(tmp_path):
    folder, _ = stop_half_way(tmp_path / "run")
    with open(folder / "trajectory.dcd", "r+b") as file:
        file.seek(8)
        file.write(struct.pack("<i", 52))
        file.seek(0, os.SEEK_END)
        file.write(b"x" * (FRAME_BYTES + 50))
    with open(folder / "log.csv", "a") as file:
        file.write("5100,2.55,1")
    run(tmp_path / "run", length_ps=4.0, replicas=1, resume=True)
    run(tmp_path / "whole", length_ps=4.0, replicas=1)
    assert_same_run(tmp_path / "run", tmp_path / "whole", replicas=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": 1}, r"another (protocol|seed) \("),
        ({"name": "ethanol-langevin"}, r"another protocol \(name: ethanol then, ethanol-langevin now\)"),
        (
            {"provider": ethanol.HarmonicEthanol("other")},
            r"another model \(model: harmonic-ethanol then, other now\)",
        ),
        ({"start_frames": ethanol.frames(seed=1)}, r"another start frames \(sha256: "),
        ({"replicas": 1}, "begun with 2 replicas, not 1"),
    ],
)
def test_a_run_is_resumed_with_what_it_was_begun_with(options, message, tmp_path):
    run(tmp_path / "run", length_ps=0.2)
    with pytest.raises(SimulationError, match=message):
        run(tmp_path / "run", length_ps=0.4, resume=True, **options)
    assert [status.state for status in run(tmp_path / "run", length_ps=0.4, resume=True)] == ["finished"] * 2
