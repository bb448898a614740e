"""Leases: one holder at a time, and a successor only after the predecessor's death."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest

from openmm_mlbench.campaign.lease import HeldError, Lease, LeaseLost, Process, latest
from openmm_mlbench.errors import CampaignError

HOLD = """
import sys, time
from pathlib import Path
from openmm_mlbench.campaign.lease import Lease
lease = Lease(Path(sys.argv[1]), ttl_s=float(sys.argv[2]), lethal=True).acquire()
print("held", flush=True)
time.sleep(60)
"""


def holder(path, ttl_s=60.0):
    """Another process that holds the lease."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path), str(ttl_s)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    process.stdout.close()
    return process


def elsewhere(path, seconds=0.0):
    """Make the newest lease look as if a process of another machine held it; returns its generation."""
    generation, _ = latest(path)
    file = path.with_name(f"{path.name}.{generation}.json")
    record = json.loads(file.read_text())
    record["process"] |= {"host": "node7", "machine": "another kernel"}
    record["ttl_s"] = seconds
    file.write_text(json.dumps(record))
    return generation


def try_to_take(path, barrier, results, all_have_tried):
    barrier.wait()
    try:
        Lease(path).acquire()
        results.put(os.getpid())
        all_have_tried.wait()
    except HeldError:
        results.put(None)


def test_of_many_who_want_it_at_once_one_gets_it(tmp_path):
    context = multiprocessing.get_context("fork")
    for generation in range(3):
        path = tmp_path / "jobs" / f"one-{generation}"
        barrier, results, all_have_tried = context.Barrier(8), context.Queue(), context.Event()
        arguments = (path, barrier, results, all_have_tried)
        processes = [context.Process(target=try_to_take, args=arguments) for _ in range(8)]
        for process in processes:
            process.start()
        winners = [results.get(timeout=60) for _ in processes]
        all_have_tried.set()
        for process in processes:
            process.join()
        assert sum(winner is not None for winner in winners) == 1


def test_a_released_lease_is_free_at_once(tmp_path):
    path = tmp_path / "job"
    with Lease(path).acquire() as first:
        first.told = {"done": 3.0}
        first.renew()
        assert latest(path)[1].told == {"done": 3.0}
    second = Lease(path).acquire()
    assert second.predecessor is None
    second.release()
    assert [file.name for file in tmp_path.iterdir()] == ["job.2.json"]


def test_who_lives_on_this_machine_keeps_it_and_who_was_killed_loses_it(tmp_path):
    process = holder(tmp_path / "job")
    with pytest.raises(HeldError, match=f"process {process.pid} on .* is at work there"):
        Lease(tmp_path / "job").acquire(wait_s=0.3)
    # Stopped is not dead, however long it lasts.
    os.kill(process.pid, signal.SIGSTOP)
    with pytest.raises(HeldError):
        Lease(tmp_path / "job", ttl_s=0.1).acquire(wait_s=0.3)
    os.kill(process.pid, signal.SIGKILL)
    # Nobody has asked for its exit code: a zombie is dead too.
    with Lease(tmp_path / "job").acquire(wait_s=5.0) as mine:
        assert mine.predecessor.process.pid == process.pid
    process.wait()


def test_a_process_id_that_was_used_again_is_not_the_holder(tmp_path):
    with Lease(tmp_path / "job").acquire():
        pass
    file = tmp_path / "job.1.json"
    record = json.loads(file.read_text())
    assert record["released"]
    record |= {"released": False}
    # A process with our number that began at another time.
    record["process"]["started"] = "1"
    file.write_text(json.dumps(record))
    assert Lease(tmp_path / "job").acquire().predecessor is not None


def test_elsewhere_silence_is_waited_out_and_a_sign_of_life_is_believed(tmp_path):
    path = tmp_path / "job"
    Lease(path).acquire().release()
    file = tmp_path / "job.1.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"released": False}))
    elsewhere(path, seconds=0.5)
    begin = time.monotonic()
    successor = Lease(path).acquire()
    assert time.monotonic() - begin > 0.7
    assert str(successor.predecessor.process).endswith("on node7")
    successor.release()

    # Renewed while we look: it lives, and waiting longer is no use.
    record = json.loads((tmp_path / "job.2.json").read_text()) | {"released": False, "ttl_s": 30.0}
    record["process"] |= {"machine": "another kernel"}
    (tmp_path / "job.2.json").write_text(json.dumps(record))
    context = multiprocessing.get_context("fork")
    seen = context.Event()
    beating = context.Process(target=beat, args=(tmp_path / "job.2.json", seen))
    beating.start()
    begin = time.monotonic()
    with pytest.raises(HeldError):
        Lease(path).acquire()
    # Had it not been believed, the wait would have been one and a half times as long as its time.
    assert time.monotonic() - begin < 30.0
    seen.set()
    beating.join()


def beat(file, seen):
    number = 100
    while not seen.wait(0.1):
        number += 1
        record = json.loads(file.read_text()) | {"beat": number}
        temporary = file.with_suffix(".tmp")
        temporary.write_text(json.dumps(record))
        temporary.replace(file)


def test_a_holder_that_cannot_renew_is_ended_by_the_kernel(tmp_path):
    """Stopped from outside for longer than its time, it must not run one line more when it wakes."""
    process = holder(tmp_path / "job", ttl_s=1.0)
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(1.3)
    os.kill(process.pid, signal.SIGCONT)
    assert process.wait(timeout=60) == -signal.SIGALRM

    # And where the disk refuses.
    (tmp_path / "full").mkdir()
    process = holder(tmp_path / "full" / "job", ttl_s=1.0)
    (tmp_path / "full").rename(tmp_path / "gone")
    (tmp_path / "full").write_text("in the way")
    assert process.wait(timeout=60) == -signal.SIGALRM


def test_a_holder_that_renews_outlives_its_timer(tmp_path):
    # Long beside any pause that a busy machine makes.
    process = holder(tmp_path / "job", ttl_s=3.0)
    time.sleep(4.0)
    assert process.poll() is None
    process.kill()
    process.wait()


def test_whoever_was_superseded_notices(tmp_path):
    lost = []
    first = Lease(tmp_path / "job", ttl_s=0.6, on_lost=lambda: lost.append(True)).acquire()
    elsewhere(tmp_path / "job")
    # As from another machine: it sees no sign of life that it believes.
    second = Lease(tmp_path / "job")
    assert second._take(2)
    with pytest.raises(LeaseLost):
        first.renew()
    deadline = time.monotonic() + 60
    while not lost and time.monotonic() < deadline:
        time.sleep(0.05)
    assert lost
    first.release()
    assert not latest(tmp_path / "job")[1].released
    second.release()


def test_a_damaged_lease_is_named(tmp_path):
    (tmp_path / "job.1.json").write_text("{}")
    with pytest.raises(CampaignError, match=r"job\.1\.json: not a lease"):
        Lease(tmp_path / "job").acquire()


def test_this_process_is_here_and_lives():
    process = Process.current()
    assert process.is_here()
    assert not process.is_gone()
    assert process.pid == os.getpid()
