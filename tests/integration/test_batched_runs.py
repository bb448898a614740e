"""Runs whose replicas share a Context: the same folders, the same meaning, and trouble stays where it began."""

import dataclasses
import functools
import json

import harmonic_ethanol as ethanol
import killing
import numpy as np
import openmm
import pytest
import torch

from openmm_mlbench.cli import main
from openmm_mlbench.errors import SimulationError
from openmm_mlbench.forces.copies import Copies
from openmm_mlbench.potential import Potential
from openmm_mlbench.protocol import load_protocol
from openmm_mlbench.simulation import batching
from openmm_mlbench.simulation.batching import Layout
from openmm_mlbench.simulation.platforms import PlatformChoice
from openmm_mlbench.simulation.run_folder import read_status
from openmm_mlbench.simulation.runner import RunInterrupted, run_protocol

N = 4
OTHERS = (0, 2, 3)


def run(out, name="ethanol", provider=None, *, checkpoint_ps=0.5, **options):
    protocol = dataclasses.replace(load_protocol(name), checkpoint_interval_ps=checkpoint_ps)
    options = {
        "start_frames": ethanol.frames(),
        "replicas": N,
        "platform": "Reference",
        "length_ps": 3.0,
        "batch_replicas": "on",
    } | options
    return run_protocol(protocol, provider or ethanol.CopiedEthanol(), out, **options)


def assert_same_replica(one, two):
    assert (one / "trajectory.dcd").read_bytes() == (two / "trajectory.dcd").read_bytes()
    assert killing.log_without_timing(one) == killing.log_without_timing(two)


class _RaisingCopies(ethanol.CopiedEthanol):
    """The force of all copies raises an error; when is decided by ``fails(call, positions)``."""

    def __init__(self, fails):
        super().__init__()
        self.fails = fails

    def create_copies(self, topology, n_copies, n_groups=1):
        copies = super().create_copies(topology, n_copies, n_groups)
        calls = iter(range(10**9))

        def compute(state):
            positions = state.getPositions(asNumpy=True)._value.reshape(n_copies, -1, 3)
            if self.fails(next(calls), positions):
                raise RuntimeError("the model has had enough")
            return 0.0, np.zeros((9 * n_copies, 3))

        copies.system.addForce(openmm.PythonForce(compute))
        return Copies(system=copies.system, n_copies=n_copies, evaluate=copies.evaluate)


def test_the_folders_are_those_of_separate_runs(tmp_path):
    """Same files, same columns, same verdicts; the numbers of Nose-Hoover to rounding for the first picosecond."""
    batched, separate = run(tmp_path / "on"), run(tmp_path / "off", batch_replicas="off")
    for one, two in zip(batched, separate, strict=True):
        changed = {"steps_per_second": None, "batch": None}
        assert dataclasses.replace(one, **changed) == dataclasses.replace(two, **changed)
        assert (one.batch, two.batch) == ([0, 1, 2, 3], None)
        folders = [tmp_path / name / f"replica-{one.replica}" for name in ("on", "off")]
        names = [sorted(path.name for path in folder.iterdir()) for folder in folders]
        assert names[0] == names[1]
        logs = [ethanol.read_log(folder) for folder in folders]
        for column in ("potential_energy_kJ_mol", "kinetic_energy_kJ_mol", "temperature_K", "T_vib_K"):
            assert logs[0][column][:20] == pytest.approx(logs[1][column][:20], abs=1e-3), column
    record = json.loads((tmp_path / "on" / "run.json").read_text())
    assert record["batching"] == {
        "asked": "on",
        "replicas": [0, 1, 2, 3],
        "gain": None,
        "threads": None,
        "groups": 1,
        "reason": "asked for",
    }
    assert record["sessions"][0]["batching"] == record["batching"]


@pytest.mark.parametrize("name", ["ethanol", "ethanol-langevin"])
def test_one_that_collapses_is_frozen_out(name, tmp_path):
    """Verdict and dossier of its own; with Nose-Hoover the others' files are byte for byte those without it."""
    odd = ethanol.CopiedEthanol({1: ethanol.BreakingEthanol()})
    statuses = run(tmp_path / "run", name, odd)
    assert [status.state for status in statuses] == ["finished", "unstable", "finished", "finished"]
    collapsed = tmp_path / "run" / "replica-1"
    dossier = json.loads((collapsed / "dossier" / "dossier.json").read_text())
    assert statuses[1].reason == dossier["reason"] == "bond-deviation"
    assert dossier["bond"]["atoms"] == [1, 7]
    assert dossier["full_rate"]["reproduced"] == "exact"
    assert dossier["full_rate"]["n_steps"] == 50
    assert statuses[1].stable_ps < statuses[1].time_ps < 3.0
    whole = tmp_path / "whole"
    run(whole, name)
    if name == "ethanol":
        for replica in OTHERS:
            assert_same_replica(tmp_path / "run" / f"replica-{replica}", whole / f"replica-{replica}")
    # Finished and collapsed is all there is to do.
    assert run(tmp_path / "run", name, odd, resume=True) == statuses


def test_the_verdict_is_that_of_a_separate_run(tmp_path):
    alone = run(tmp_path / "off", provider=ethanol.BreakingEthanol(), batch_replicas="off")[1]
    among = run(tmp_path / "on", provider=ethanol.CopiedEthanol({1: ethanol.BreakingEthanol()}))[1]
    for key in ("state", "reason", "message", "stable_ps", "time_ps", "n_frames"):
        assert getattr(alone, key) == getattr(among, key), key
    folders = [tmp_path / name / "replica-1" / "dossier" for name in ("on", "off")]
    assert sorted(path.name for path in folders[0].iterdir()) == sorted(
        path.name for path in folders[1].iterdir()
    )
    steps = [json.loads((folder / "dossier.json").read_text())["full_rate"] for folder in folders]
    assert steps[0]["first_offending_step"] == steps[1]["first_offending_step"]


def test_one_that_becomes_nan_is_frozen_out(tmp_path):
    odd = ethanol.CopiedEthanol({1: ethanol.UndefinedEthanol()})
    statuses = run(tmp_path / "run", provider=odd, length_ps=1.5)
    assert [status.state for status in statuses] == ["finished", "unstable", "finished", "finished"]
    assert statuses[1].reason == "not-finite"
    run(tmp_path / "whole", length_ps=1.5)
    for replica in OTHERS:
        names = [tmp_path / name / f"replica-{replica}" for name in ("run", "whole")]
        assert_same_replica(*names)


def test_all_collapse(tmp_path):
    everything = dict.fromkeys(range(N), ethanol.BreakingEthanol())
    statuses = run(tmp_path / "run", provider=ethanol.CopiedEthanol(everything), length_ps=20.0)
    assert {status.state for status in statuses} == {"unstable"}
    for replica in range(N):
        assert (tmp_path / "run" / f"replica-{replica}" / "dossier" / "dossier.json").is_file()


def test_an_error_of_one_replica_ends_that_one_only(tmp_path):
    """The force raises for a long O-H bond of replica 1, which is found by looking at each by itself."""

    def stretched(_, positions):
        return np.linalg.norm(positions[1, 8] - positions[1, 2]) > 0.102

    statuses = run(tmp_path / "run", provider=_RaisingCopies(stretched))
    assert [status.state for status in statuses] == ["finished", "failed", "finished", "finished"]
    assert "the model has had enough" in statuses[1].message
    text = (tmp_path / "run" / "replica-1" / "dossier" / "error.txt").read_text()
    assert "RuntimeError" in text or "OpenMMException" in text
    run(tmp_path / "whole")
    for replica in OTHERS:
        names = [tmp_path / name / f"replica-{replica}" for name in ("run", "whole")]
        assert_same_replica(*names)


def test_an_error_that_does_not_return_costs_nothing(tmp_path):
    statuses = run(tmp_path / "run", provider=_RaisingCopies(lambda call, _: call == 1234))
    assert [status.state for status in statuses] == ["finished"] * N
    run(tmp_path / "whole")
    for replica in range(N):
        names = [tmp_path / name / f"replica-{replica}" for name in ("run", "whole")]
        assert_same_replica(*names)


def test_an_error_of_nobody_ends_the_batch_and_no_replica(tmp_path):
    """Later on the force of all copies always raises: every replica goes on by itself from its checkpoint."""
    notes = []
    statuses = run(
        tmp_path / "run",
        provider=_RaisingCopies(lambda call, x: call > 2500 and len(x) > 1),
        note=notes.append,
    )
    assert [status.state for status in statuses] == ["finished"] * N
    assert {status.batch is None for status in statuses} == {True}
    assert {status.resume for status in statuses} == {"inexact"}
    assert any("go on one by one from their latest checkpoints" in note for note in notes)
    assert {len(ethanol.read_log(tmp_path / "run" / f"replica-{k}")) for k in range(N)} == {60}


def begin(name, **options):
    odd = {1: ethanol.BreakingEthanol()} if options.pop("breaks", False) else None
    return functools.partial(run, name=name, provider=ethanol.CopiedEthanol(odd), **options)


@pytest.mark.parametrize("name", ["ethanol", "ethanol-langevin"])
@pytest.mark.parametrize("breaks", [False, True])
def test_killed_at_random_moments(name, breaks, tmp_path):
    """kill -9: what a resumed batch leaves is byte for byte what an undisturbed one leaves."""
    go = begin(name, breaks=breaks)
    go(tmp_path / "whole")
    total = killing.bytes_written(tmp_path / "whole")
    moments = np.sort(np.random.default_rng().uniform(0.05, 0.95, 3)) * total
    for out in killing.attempts(tmp_path):
        codes = []
        for moment in moments:

            def due(out=out, moment=moment):
                return killing.bytes_written(out) >= moment

            codes.append(killing.in_child(lambda out=out: go(out, resume=True), kill_when=due))
        if -9 in codes:
            break
    statuses = go(out, resume=True)
    assert -9 in codes
    assert {status.resume for status in statuses} <= {"none", "exact"}
    killing.assert_same_run(out, tmp_path / "whole")


def operations(tmp_path, chosen, **options):
    """Kill a short run, with a collapse in it, just before each of the chosen file operations."""
    go = begin("ethanol", breaks=True, checkpoint_ps=0.2, replicas=3, length_ps=1.6, **options)
    go(tmp_path / "whole")
    n_killed = 0
    for number in chosen:
        out = tmp_path / f"run-{number}"
        out.mkdir()
        if not killing.killed_at_operation(lambda out=out: go(out, resume=True), out, number):
            break
        n_killed += 1
        go(out, resume=True)
        killing.assert_same_run(out, tmp_path / "whole")
    return n_killed


def test_killed_between_file_operations(tmp_path):
    chosen = np.random.default_rng().integers(60, 420, 6)
    assert operations(tmp_path, sorted(set(chosen.tolist()))) > 0


@pytest.mark.slow
def test_killed_before_every_seventh_file_operation(tmp_path):
    assert operations(tmp_path, range(3, 10**6, 7)) > 40


def test_interrupted_and_extended(tmp_path, monkeypatch):
    # However fast the machine, every frame is told.
    monkeypatch.setattr("openmm_mlbench.simulation.logbook._NOTIFY_INTERVAL_S", -1.0)
    with pytest.raises(RunInterrupted):
        run(tmp_path / "run", note=None, progress=_interrupt_at(1.2))
    assert {read_status(tmp_path / "run" / f"replica-{k}").state for k in range(N)} == {"interrupted"}
    run(tmp_path / "run", resume=True, length_ps=2.0)
    statuses = run(tmp_path / "run", resume=True, batch_replicas="auto")
    assert {status.state for status in statuses} == {"finished"}
    run(tmp_path / "whole")
    killing.assert_same_run(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize("batched", ["on", "off"])
def test_where_it_was_stopped_leaves_no_trace(batched, tmp_path, monkeypatch):
    """The checkpoint of the interruption, between those of the schedule, goes when the next is written."""
    monkeypatch.setattr("openmm_mlbench.simulation.logbook._NOTIFY_INTERVAL_S", -1.0)
    options = {"length_ps": 1.5, "batch_replicas": batched, "replicas": 2}
    with pytest.raises(RunInterrupted):
        run(tmp_path / "run", note=None, progress=_interrupt_at(1.2), **options)
    index = json.loads((tmp_path / "run" / "replica-0" / "checkpoint.json").read_text())["checkpoints"]
    assert [item["scheduled"] for item in index] == [False, True]
    assert 1.2 <= index[0]["time_ps"] < 1.5
    run(tmp_path / "run", resume=True, **options)
    run(tmp_path / "whole", **options)
    killing.assert_same_run(tmp_path / "run", tmp_path / "whole")


def _interrupt_at(time_ps):
    """A progress callback that presses Ctrl-C once."""
    import os
    import signal

    sent = []

    def tell(update):
        if update.time_ps >= time_ps and not sent:
            sent.append(True)
            os.kill(os.getpid(), signal.SIGINT)

    return tell


def test_more_replicas_and_another_platform(tmp_path):
    run(tmp_path / "run", length_ps=1.0)
    statuses = run(tmp_path / "run", length_ps=1.5, replicas=N + 1, platform="CPU", resume=True)
    assert [status.batch for status in statuses] == [[0, 1, 2, 3]] * N + [None]
    assert [status.resume for status in statuses] == ["inexact"] * N + ["none"]
    assert {status.state for status in statuses} == {"finished"}
    for replica in range(N):
        log = ethanol.read_log(tmp_path / "run" / f"replica-{replica}")
        assert len(log) == 30
        # The States hold the thermostats' chains too.
        assert np.abs(np.diff(log["total_energy_kJ_mol"])).max() < 100.0


def test_a_batch_goes_on_one_by_one_and_not_the_other_way(tmp_path):
    run(tmp_path / "run", length_ps=1.0)
    statuses = run(tmp_path / "run", length_ps=2.0, resume=True, batch_replicas="off")
    assert {(status.state, status.resume, status.batch) for status in statuses} == {
        ("finished", "inexact", None)
    }
    with pytest.raises(SimulationError, match="they began with a Context for each"):
        run(tmp_path / "run", length_ps=3.0, resume=True)
    notes = []
    run(tmp_path / "run", length_ps=3.0, resume=True, batch_replicas="auto", note=notes.append)
    assert notes[-1] == "replicas run one by one: they began with a Context for each"


@pytest.mark.parametrize(
    ("options", "obstacle"),
    [
        ({"replicas": 1}, "there is only one"),
        ({"jobs": 2}, "2 jobs at a time have a process each"),
        (
            {"provider": ethanol.HarmonicEthanol()},
            "harmonic-ethanol evaluates one molecule or box at a time",
        ),
    ],
)
def test_what_cannot_share_a_context_is_refused_in_one_line(options, obstacle, tmp_path):
    with pytest.raises(SimulationError, match=obstacle) as caught:
        run(tmp_path / "run", **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_an_unknown_mode_is_named(tmp_path):
    with pytest.raises(SimulationError, match="batch_replicas is 'maybe'; use auto, on or off"):
        run(tmp_path / "run", batch_replicas="maybe")
    assert not (tmp_path / "run").exists()


def test_auto_decides_by_a_timing_and_says_so(tmp_path):
    notes = []
    statuses = run(tmp_path / "run", length_ps=0.1, batch_replicas="auto", note=notes.append)
    found = json.loads((tmp_path / "run" / "run.json").read_text())["batching"]
    assert found["asked"] == "auto"
    assert found["gain"] > 0.0
    assert found["threads"] >= 1
    assert notes[-1].startswith(found["reason"])
    assert found["replicas"] == (statuses[0].batch or [])
    assert (found["gain"] >= 1.1) == bool(found["replicas"])


@pytest.mark.parametrize("batched", [True, False])
def test_auto_chooses_threads_and_a_resumed_run_keeps_them(batched, tmp_path, monkeypatch):
    """The fastest of what was timed becomes the run's, is recorded, and is what the run goes on with."""
    one, two, groups = Layout(1), Layout(2), Layout(1, 2)
    together = {one: 2.0, two: 1.0, groups: 1.05} if batched else {one: 9.0, two: 8.5, groups: 8.6}
    timed = []

    def times(first, batches, _, counts):
        timed.append(counts)
        assert first is batches[0].tasks[0]
        assert [batch.context.copies.n_groups for batch in batches] == [1, 2]
        return {one: 1.0, two: 0.5}, together

    monkeypatch.setattr(batching, "_step_times", times)
    notes = []
    options = {"batch_replicas": "auto", "note": notes.append}
    try:
        run(tmp_path / "run", length_ps=0.1, threads=2, **options)
        assert timed == [[1, 2]]
        assert torch.get_num_threads() == 2
        assert "on 2 threads: " in notes[-1]
        record = json.loads((tmp_path / "run" / "run.json").read_text())
        assert record["batching"]["threads"] == record["platform"]["threads"] == 2
        assert bool(record["batching"]["replicas"]) == batched
        torch.set_num_threads(1)
        run(tmp_path / "run", length_ps=0.2, resume=True, **options)
        assert torch.get_num_threads() == 2
        assert (
            json.loads((tmp_path / "run" / "run.json").read_text())["sessions"][1]["platform"]["threads"] == 2
        )
        # What the user allows is the limit all the same.
        run(tmp_path / "run", length_ps=0.3, resume=True, threads=1, **options)
        assert torch.get_num_threads() == 1
        assert len(timed) == 1
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize(("fastest", "jobs"), [(1, 1), (2, 1), (1, 2)])
def test_a_replica_that_shares_no_context_gets_threads_by_a_timing(fastest, jobs, tmp_path, monkeypatch):
    """One by one, as metadynamics or a barostat want it, replicas of a wide network gain from threads too."""
    timed = []

    def times(first, batches, _, counts):
        timed.append((first.replica, batches, counts))
        return {Layout(threads): 1.0 if threads == fastest else 2.0 for threads in counts}, {}

    monkeypatch.setattr(batching, "_step_times", times)
    notes = []
    options = {
        "batch_replicas": "auto",
        "note": notes.append,
        "replicas": jobs,
        "jobs": jobs,
        "provider": Potential.load("ethanol-gfn2/schnet"),
    }
    try:
        run(tmp_path / "run", length_ps=0.1, threads=2, **options)
        # As many jobs as threads leave nothing to choose.
        assert timed == ([] if jobs == 2 else [(0, [], [1, 2])])
        record = json.loads((tmp_path / "run" / "run.json").read_text())
        assert record["batching"]["threads"] == (None if jobs == 2 else fastest)
        assert record["batching"]["replicas"] == []
        if jobs == 1:
            assert record["platform"]["threads"] == torch.get_num_threads() == fastest
            assert notes[-1].endswith(f"every replica runs {Layout(fastest)}")
            run(tmp_path / "run", length_ps=0.2, resume=True, **options)
            assert torch.get_num_threads() == fastest
            assert len(timed) == 1
    finally:
        torch.set_num_threads(1)


def test_a_replica_whose_steps_cannot_be_timed_keeps_its_threads_and_says_why(tmp_path, monkeypatch):
    def times(*_):
        raise ValueError("no steps")

    monkeypatch.setattr(batching, "_step_times", times)
    notes = []
    options = {"batch_replicas": "auto", "replicas": 1, "provider": Potential.load("ethanol-gfn2/schnet")}
    (status,) = run(tmp_path / "run", length_ps=0.1, threads=2, note=notes.append, **options)
    torch.set_num_threads(1)
    assert status.state == "finished"
    assert notes[-1] == "threads as they are: no step could be timed (ValueError: no steps)"


def test_as_many_threads_are_timed_as_a_run_may_use():
    reference = PlatformChoice(name="Reference")
    assert batching._thread_counts(reference, 1) == [1]
    assert batching._thread_counts(reference, 2) == [1, 2]
    assert batching._thread_counts(reference, 6) == [1, 2, 4, 6]
    # A Context of the CPU platform is made for its threads.
    assert batching._thread_counts(PlatformChoice(name="CPU", threads=3), 6) == [3]
    # Threads that hardly help are left to others.
    one, two, four = Layout(1), Layout(2), Layout(4)
    assert batching._fewest_cores({one: 1.05, two: 1.0, four: 3.0}) == (one, 1.05)
    assert batching._fewest_cores({one: 2.0, two: 1.0, four: 0.98}) == (two, 1.0)
    # Of two that keep the same cores busy the faster.
    groups = Layout(1, 2)
    assert batching._fewest_cores({one: 2.0, two: 1.0, groups: 0.95}) == (groups, 0.95)


def test_groups_of_replicas_are_recorded_and_a_resumed_run_keeps_them(tmp_path, monkeypatch):
    """Where the timing favours groups, each has a thread; a run that goes on has the same groups."""

    def times(*_):
        return {Layout(1): 1.0, Layout(2): 1.0}, {Layout(1): 4.0, Layout(2): 3.0, Layout(1, 2): 2.0}

    monkeypatch.setattr(batching, "_step_times", times)
    notes = []
    options = {
        "batch_replicas": "auto",
        "note": notes.append,
        "provider": Potential.load("ethanol-gfn2/schnet"),
    }
    statuses = run(tmp_path / "run", length_ps=0.1, threads=2, **options)
    assert "in 2 groups on a thread each, " in notes[-1]
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    kept = {key: record["batching"][key] for key in ("gain", "threads", "groups", "replicas")}
    assert kept == {"gain": 2.0, "threads": 1, "groups": 2, "replicas": [0, 1, 2, 3]}
    assert record["platform"]["threads"] == torch.get_num_threads() == 1
    run(tmp_path / "run", length_ps=0.2, resume=True, **options)
    longer = run(tmp_path / "whole", length_ps=0.2, threads=2, **options)
    assert [status.resume for status in run(tmp_path / "run", length_ps=0.2, resume=True, **options)] == [
        "exact"
    ] * N
    for status in longer:
        assert_same_replica(*(tmp_path / name / f"replica-{status.replica}" for name in ("run", "whole")))
    # One thread is one group: other last bits, so that the States are what it goes on from.
    fewer = run(tmp_path / "run", length_ps=0.3, resume=True, threads=1, **options)
    assert [status.resume for status in fewer] == ["inexact"] * N
    assert statuses[0].batch == fewer[0].batch == [0, 1, 2, 3]


def _exit_code(*arguments):
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    return stop.value.code or 0


def test_a_shipped_model_through_the_command_line(tmp_path, capsys):
    """Frames, logs and analysis of replicas in one Context are those of replicas one by one, but for rounding."""
    command = ["simulate", "ethanol", "--model", "ethanol-gfn2/schnet", "--replicas", "3", "--length", "0.2"]
    for mode in ("on", "off"):
        assert _exit_code(*command, "--batch-replicas", mode, "-o", str(tmp_path / mode)) == 0
    assert "3 replicas share one Context: asked for" in capsys.readouterr().err
    for replica in range(3):
        logs = [ethanol.read_log(tmp_path / mode / f"replica-{replica}") for mode in ("on", "off")]
        for column in ("potential_energy_kJ_mol", "temperature_K", "max_bond_deviation_A"):
            assert logs[0][column] == pytest.approx(logs[1][column], rel=1e-4, abs=1e-3), column
    assert _exit_code("analyze", str(tmp_path / "on")) == 0
    metrics = json.loads((tmp_path / "on" / "metrics.json").read_text())
    assert metrics["measurements"]
    assert _exit_code(*command, "--batch-replicas", "on", "--jobs", "2", "-o", str(tmp_path / "x")) == 2
    assert "error: the replicas cannot share a Context: 2 jobs at a time" in capsys.readouterr().err
