"""The ledger: finished work is known by its hashes, failed tries are kept, and the order in which jobs may run."""

import dataclasses
import os
import threading
import time

import pytest

from openmm_mlbench.campaign.jobs import Cell, Job, Matrix, identify
from openmm_mlbench.campaign.lease import Lease, Process, latest
from openmm_mlbench.campaign.ledger import Attempt, Ledger, Output, Record, digest_of, hash_of
from openmm_mlbench.campaign.scheduling import Schedule
from openmm_mlbench.campaign.task import lease_path
from openmm_mlbench.errors import CampaignError
from openmm_mlbench.files import write_json


def record(ledger, key="train/a", identity="f" * 64, files=("out.txt",), **more):
    for name in files:
        path = ledger.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_text(name)
    outputs = ledger.outputs_of(files)
    return Record(
        key=key,
        identity=identity,
        settings={},
        outputs=outputs,
        digest=digest_of(outputs),
        **{"state": "done"} | more,
    )


def test_a_hash_hangs_on_values_and_not_on_their_order():
    assert hash_of({"a": 1, "b": [1.5, None]}) == hash_of({"b": [1.5, None], "a": 1})
    assert hash_of({"a": 1}) != hash_of({"a": 1.0001})
    with pytest.raises(ValueError):
        hash_of({"a": float("nan")})


def test_an_output_is_known_by_its_content(tmp_path):
    path = tmp_path / "x"
    path.write_text("abc")
    output = Output.of(path)
    os.utime(path, (1, 1))
    assert output.is_at(path)
    path.write_text("abd")
    os.utime(path, (2, 2))
    assert not output.is_at(path)
    path.write_text("abcd")
    assert not output.is_at(path)
    path.unlink()
    assert not output.is_at(path)


def test_what_is_written_comes_back(tmp_path):
    ledger = Ledger(tmp_path)
    done = record(ledger, facts={"speed": 3.5}).with_attempt(
        Attempt(where="process 1 on x", began="now", seconds=2.0, outcome="done")
    )
    ledger.write(done)
    assert ledger.read("train/a", "f" * 64) == done
    assert ledger.read_all("train/a") == [done]
    assert ledger.is_valid(done)
    # Another identity with the same beginning is another way to do it.
    assert ledger.read("train/a", "f" * 16 + "0" * 48) is None
    (tmp_path / "out.txt").unlink()
    assert not ledger.is_valid(done)
    assert not ledger.is_valid(None)
    assert not ledger.is_valid(dataclasses.replace(done, state="failed", outputs={}))


def test_a_try_that_died_is_added_and_harms_no_result(tmp_path):
    ledger = Ledger(tmp_path)
    died = Attempt(where="process 1 on x", began="now", seconds=2.0, outcome="died", reason="killed")
    first = ledger.add_attempt("train/a", "f" * 64, {"k": 1}, died)
    assert (first.state, first.reason, len(first.attempts)) == ("failed", "killed", 1)
    ledger.write(record(ledger).with_attempt(died))
    again = ledger.add_attempt("train/a", "f" * 64, {"k": 1}, died)
    assert (again.state, len(again.attempts)) == ("done", 2)


def test_a_damaged_record_is_named(tmp_path):
    ledger = Ledger(tmp_path)
    path = ledger.path("train/a", "f" * 64)
    path.parent.mkdir(parents=True)
    for text in ("{", "[]", "{}", '{"format": "openmm-mlbench job", "format_version": 1, "key": "a"}'):
        path.write_text(text)
        with pytest.raises(CampaignError, match=r"ffff\.json: "):
            ledger.read("train/a", "f" * 64)


class Workers:
    """A backend that does every job at once, as a script says: key -> how its tries end."""

    def __init__(self, ledger, script=None, on_submit=None):
        self.ledger, self.script, self.order, self.on_submit = ledger, script or {}, [], on_submit
        self.ended = []

    def has_room(self):
        return len(self.ended) < 1

    def submit(self, task, *, gpu, avoid):
        key = task["key"]
        self.order.append((key, avoid))
        if self.on_submit:
            self.on_submit(key)
        ends = self.script.get(key, [])
        state, retry = ends.pop(0) if ends else ("done", False)
        found = None
        if state == "done":
            found = record(self.ledger, key, task["identity"], files=(f"{key}.txt",))
            self.ledger.write(found)
        self.ended.append(
            (
                key,
                {
                    "state": state,
                    "reason": "" if state == "done" else f"{state} on purpose",
                    "retry": retry,
                    "record": found and found.as_json(),
                    "where": "process 1 on x",
                    "worker": "w1",
                    "began": "now",
                    "seconds": 1.0,
                },
            )
        )

    def finished(self, timeout_s):
        ended, self.ended = self.ended, []
        return ended

    def withdraw(self, keys):
        return []

    def note(self):
        return ""


def chain(length_ps=1.0):
    """Two models: train -> simulate (two replicas) -> analyze, and a report of both."""
    jobs = {}
    for model in "ab":
        train = Job(key=f"train/{model}", kind="train", settings={"model": model})
        runs = [
            Job(
                key=f"simulate/{model}/{i}",
                kind="simulate",
                settings={"length_ps": length_ps},
                needs=(train.key,),
            )
            for i in range(2)
        ]
        analyze = Job(key=f"analyze/{model}", kind="analyze", settings={}, follows=tuple(j.key for j in runs))
        jobs |= {job.key: job for job in (train, *runs, analyze)}
    jobs["report"] = Job(key="report", kind="report", settings={}, follows=("analyze/a", "analyze/b"))
    cells = {
        Cell(model=model, system="x", seed=None): tuple(key for key in jobs if f"/{model}" in key)
        for model in "ab"
    }
    return Matrix(jobs=jobs, cells=cells)


def run(root, script=None, stopped=None, on_submit=None, made=None, length_ps=1.0, **options):
    schedule = Schedule(matrix=chain(length_ps), root=root, **options)
    schedule.survey()
    if made:
        made(schedule)
    workers = Workers(Ledger(root), script, on_submit)
    schedule.run(workers, stopped or threading.Event())
    return schedule, workers


def states(schedule):
    return {key: state.state for key, state in schedule.states.items()}


def test_everything_runs_once_after_what_it_builds_on(tmp_path):
    schedule, workers = run(tmp_path)
    assert set(states(schedule).values()) == {"done"}
    order = [key for key, _ in workers.order]
    assert len(order) == len(set(order)) == 9
    for key, job in schedule.matrix.jobs.items():
        assert all(order.index(before) < order.index(key) for before in job.before)
    # What is furthest comes first: the first model is measured before the second is simulated.
    assert order[:5] == ["train/a", "simulate/a/0", "simulate/a/1", "analyze/a", "train/b"]
    again, workers = run(tmp_path)
    assert workers.order == []
    assert all(state.found for state in again.states.values())


def test_a_failure_blocks_what_needs_it_and_nothing_else(tmp_path):
    schedule, _ = run(tmp_path, {"train/a": [("failed", False)], "simulate/b/1": [("failed", False)]})
    assert states(schedule) == {
        "train/a": "failed", "simulate/a/0": "blocked", "simulate/a/1": "blocked", "analyze/a": "blocked",
        "train/b": "done", "simulate/b/0": "done", "simulate/b/1": "failed", "analyze/b": "done", "report": "done",
    }  # fmt: skip
    assert schedule.states["simulate/a/0"].reason == "needs train/a"
    # Next time all that is missing gets another chance, and what hangs on it is done again.
    again, workers = run(tmp_path)
    assert set(states(again).values()) == {"done"}
    assert "train/b" not in [key for key, _ in workers.order]
    assert {"analyze/b", "report"} <= {key for key, _ in workers.order}


def test_tries_are_counted_and_go_elsewhere(tmp_path):
    died = [("died", True)]
    schedule, workers = run(tmp_path, {"simulate/a/0": died * 2, "simulate/b/0": died * 5}, retries=2)
    assert schedule.states["simulate/a/0"].state == "done"
    assert schedule.states["simulate/b/0"].state == "failed"
    tries = [avoid for key, avoid in workers.order if key == "simulate/a/0"]
    assert tries == ["", "w1", "w1"]
    assert len([key for key, _ in workers.order if key == "simulate/b/0"]) == 3
    # Those whose process wrote nothing stand in the ledger too.
    (failed,) = Ledger(tmp_path).read_all("simulate/b/0")
    assert [attempt.reason for attempt in failed.attempts] == ["died on purpose"] * 3


def test_a_try_that_got_further_is_not_counted(tmp_path):
    """As of a job that is longer than the walltime of its workers."""
    done, tries = iter((5.0, 10.0, 15.0, 20.0, 20.0, 20.0, 20.0)), []
    schedules = []

    def identity(key):
        return schedules[-1].states[key].identity

    def get_on(key):
        if key == "simulate/a/0":
            tries.append(key)
            with Lease(lease_path(tmp_path, key)).acquire() as lease:
                lease.told = {"identity": identity(key), "done": next(done), "total": 100.0}

    script = {"simulate/a/0": [("stopped", False), ("died", True)] * 10}
    schedule, _ = run(tmp_path, script, on_submit=get_on, made=schedules.append, retries=2)
    # Four that got on, then three that did not.
    assert len(tries) == 7
    assert schedule.states["simulate/a/0"].state == "failed"
    tries.clear()
    done = iter((25.0, 30.0))
    run(tmp_path, script, on_submit=get_on, made=schedules.append, retries=0)
    assert len(tries) == 1
    # What another job of that name once said is not how far this one came.
    tries.clear()
    done = iter((1.0, 2.0, 3.0, 3.0, 3.0, 3.0))
    schedules.clear()
    run(tmp_path, script, on_submit=get_on, made=schedules.append, length_ps=2.0, retries=2)
    assert len(tries) == 6


class Queue(Workers):
    """A backend that keeps jobs until it has workers, which are one that has begun a job and no more."""

    def has_room(self):
        return True

    def submit(self, task, *, gpu, avoid):
        self.order.append((task["key"], avoid))

    def withdraw(self, keys):
        return list(keys)

    def note(self):
        return f"{len(self.order)} jobs wait"


def test_jobs_that_nobody_has_begun_are_taken_back_when_all_shall_stop(tmp_path):
    schedule = Schedule(matrix=chain(), root=tmp_path)
    schedule.survey()
    stopped, said = threading.Event(), []
    queue = Queue(Ledger(tmp_path))

    def refresh():
        if len(queue.order) == 2:
            stopped.set()

    schedule.tell, schedule.refresh = said.append, refresh
    schedule.run(queue, stopped)
    assert set(states(schedule).values()) == {"stopped"}
    assert [event.reason for event in said] == ["2 jobs wait"]


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_job_whose_worker_died_without_a_word_is_taken_back_too(elsewhere, tmp_path):
    """Dask keeps it for the next worker: its lease tells by its process, or from elsewhere by its silence."""
    dead = dataclasses.replace(
        Process.current(), pid=2**22 + 1, **({"machine": "another"} if elsewhere else {})
    )
    schedule = Schedule(matrix=chain(), root=tmp_path)
    schedule.survey()
    stopped = threading.Event()
    queue = Queue(Ledger(tmp_path))

    def refresh():
        if len(queue.order) == 2 and not stopped.is_set():
            for key, _ in queue.order:
                path = lease_path(tmp_path, key)
                with Lease(path).acquire():
                    pass
                holder = dataclasses.replace(latest(path)[1], process=dead, released=False, ttl_s=0.2)
                write_json(path.with_name(path.name + ".1.json"), dataclasses.asdict(holder))
                assert latest(path)[1].process == dead
            stopped.set()
            refresh.began = time.monotonic()

    schedule.refresh = refresh
    schedule.run(queue, stopped)
    assert set(states(schedule).values()) == {"stopped"}
    # A sign of life from elsewhere is believed for 1.5 times as long as a lease lasts.
    assert not elsewhere or time.monotonic() - refresh.began > 0.3


def test_a_busy_job_comes_back_and_costs_no_try(tmp_path, monkeypatch):
    monkeypatch.setattr("openmm_mlbench.campaign.scheduling._BUSY_PAUSE_S", 0.01)
    schedule, workers = run(tmp_path, {"train/a": [("busy", False)] * 5}, retries=0)
    assert set(states(schedule).values()) == {"done"}
    assert [key for key, _ in workers.order].count("train/a") == 6


def test_stopping_begins_nothing_more(tmp_path):
    (tmp_path / ".leases").mkdir()
    stopped = threading.Event()
    schedule, workers = run(
        tmp_path,
        {"simulate/a/0": [("stopped", False)]},
        stopped=stopped,
        on_submit=lambda key: stopped.set() if key == "simulate/a/0" else None,
    )
    assert workers.order[-1][0] == "simulate/a/0"
    assert schedule.states["simulate/a/0"].state == "stopped"
    assert schedule.states["report"].state == "stopped"
    assert (tmp_path / ".leases" / "stop").is_file()
    again, _ = run(tmp_path)
    assert set(states(again).values()) == {"done"}


def test_a_longer_simulation_holds_the_shorter(tmp_path):
    schedule, _ = run(tmp_path)
    ledger = Ledger(tmp_path)
    digests = {key: state.record.digest for key, state in schedule.states.items()}
    job = schedule.matrix.jobs["simulate/a/0"]
    settings = job.settings | {"before": {"train/a": digests["train/a"]}}
    ledger.write(dataclasses.replace(schedule.states[job.key].record, settings=settings))
    shorter = dataclasses.replace(job, settings={"length_ps": 0.5})
    known = schedule._known(shorter, identify(shorter, digests), digests)
    assert known is not None
    assert known.identity == schedule.states[job.key].identity
    for other in (
        dataclasses.replace(job, settings={"length_ps": 2.0}),
        dataclasses.replace(job, settings={"length_ps": 0.5, "seed": 1}),
    ):
        assert schedule._known(other, identify(other, digests), digests) is None
