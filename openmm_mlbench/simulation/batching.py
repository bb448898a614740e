"""Whether the replicas of a run share a Context: what forbids it, what the run began with, what a short timing says.

Several copies are enough work for threads where one molecule is not, so the timing tries both with as many threads
as the run may use, and the copies also in as many groups, each on a thread of its own; whichever is the fastest
becomes the run's.  Where replicas cannot share a Context, one of them is timed by itself.
"""

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from openmm_mlbench.errors import MLBenchError, SimulationError
from openmm_mlbench.simulation.batch import shared_context
from openmm_mlbench.simulation.logbook import one_line
from openmm_mlbench.simulation.platforms import PlatformChoice, create_context, limit_threads
from openmm_mlbench.simulation.run_folder import read_status
from openmm_mlbench.simulation.seeds import integrator_seed
from openmm_mlbench.simulation.shared_context import WARM_UP_CALLS, SharedContext
from openmm_mlbench.simulation.task import ReplicaTask

MODES = ("auto", "on", "off")
# Below this gain the advantage of replicas that do not wait for each other is the greater one.
WORTHWHILE = 1.1
_WINDOWS, _WINDOW_S, _LONGEST_S = 5, 0.1, 3.0


class Layout(NamedTuple):
    """How the work is spread over a processor.

    Args:
        threads: of each operation.
        groups: of copies, at the same time.
    """

    threads: int
    groups: int = 1

    @property
    def cores(self) -> int:
        """That it keeps busy."""
        return self.threads * self.groups

    def __str__(self) -> str:
        """On what."""
        if self.groups > 1:
            return f"in {self.groups} groups on a thread each"
        return f"on {self.threads} thread{'' if self.threads == 1 else 's'}"


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Replicas that share a Context.

    Args:
        tasks: of these replicas, in the order of the copies.
        context: not made yet.
    """

    tasks: list[ReplicaTask]
    context: SharedContext


def plan_batch(
    mode: str,
    tasks: list[ReplicaTask],
    system: Any,
    topology: Any,
    *,
    jobs: int = 1,
    most_threads: int = 1,
    former_groups: int | None = None,
    note: Callable[[str], None] | None = None,
) -> tuple[Batch | None, dict[str, Any]]:
    """Decide, and say so in one line.

    Args:
        mode: ``on``, ``off``, or ``auto``: as the run began, else where all together advance faster than one by one.
        tasks: of all replicas.
        system: of a single one.
        topology: of a single one.
        jobs: processes.
        most_threads: that ``auto`` may choose.
        former_groups: of copies, of a run that goes on in one Context.
        note: is told the decision and its reason, except where nothing was asked for or decided.

    Returns:
        The batch or None, and what run.json keeps of the decision: ``asked``, ``replicas`` (empty: none share a
        Context), ``gain`` (how many times as fast, where it was timed), ``threads`` (where they were chosen by that
        timing; a resumed run keeps them), ``groups`` (of copies, each on a thread of its own) and ``reason``.

    Raises:
        SimulationError: ``on``, and it cannot be done.
    """
    if mode not in MODES:
        raise SimulationError(f"batch_replicas is {mode!r}; use auto, on or off")
    if mode == "off":
        return None, _record(mode, None, "asked for")
    if all(_has_ended(task) for task in tasks):
        return None, _record(mode, None, "nothing is left to do")
    chosen, obstacle, former = _members(tasks, jobs)
    batches: list[Batch] = []
    platform = tasks[0].platform
    most_groups = platform.threads if mode == "on" else most_threads
    if former:
        most_groups = former_groups or 1
    # Neither a GPU nor the CPU platform's own threads have a use for groups.
    most_groups = min(most_groups, len(chosen)) if platform.name == "Reference" else 1
    groups = sorted({1, most_groups}) if mode == "auto" and not former else [most_groups]
    if not obstacle:
        try:
            batches = [_batch(chosen, topology, n_groups) for n_groups in groups]
        except MLBenchError as error:
            obstacle = one_line(error)
    if obstacle:
        if mode == "on":
            raise SimulationError(
                f"the replicas cannot share a Context: {obstacle}; leave out --batch-replicas on"
            )
        if note is not None and len(tasks) > 1:
            note(f"replicas run one by one: {obstacle}")
        counts = _thread_counts(platform, max(1, most_threads // jobs))
        begun = any(task.resume and read_status(task.folder) is not None for task in tasks)
        # Fewer or more threads would change the last bits of what has begun.
        threads = (
            None
            if begun or len(counts) < 2 or platform.driver is None
            else _alone(tasks[0], system, counts, note)
        )
        return None, _record(mode, None, obstacle, threads=threads)
    if former or mode == "on":
        reason = "as the run began" if former else "asked for"
        if note is not None:
            note(f"{len(chosen)} replicas share one Context: {reason}")
        return batches[0], _record(mode, batches[0], reason)
    return _timed(batches, system, _thread_counts(platform, most_threads), note)


def _batch(tasks: list[ReplicaTask], topology: Any, n_groups: int) -> Batch:
    copies = tasks[0].provider.create_copies(topology, len(tasks), n_groups)  # type: ignore[attr-defined]
    if n_groups > 1:
        tasks = [with_threads(task, 1) for task in tasks]
    return Batch(tasks=tasks, context=shared_context(tasks, copies))


def with_threads(task: ReplicaTask, threads: int) -> ReplicaTask:
    """A task on another number of threads."""
    platform = dataclasses.replace(task.platform, threads=threads)
    return dataclasses.replace(task, platform=platform, threads=threads)


def _thread_counts(platform: PlatformChoice, most: int) -> list[int]:
    """Numbers of threads worth a timing: 1, 2, 4 ... and the most."""
    # The CPU platform's are part of its Context, and a GPU has no use for them.
    if platform.name != "Reference":
        return [platform.threads]
    return sorted({1, most, *(2**k for k in range(most.bit_length()) if 2**k <= most)})


def _timed(
    batches: list[Batch], system: Any, counts: list[int], note: Callable[[str], None] | None
) -> tuple[Batch | None, dict[str, Any]]:
    """Keep the batch that a short timing is in favour of, on the threads that it is in favour of."""
    n = len(batches[0].tasks)
    try:
        alone, together = _step_times(batches[0].tasks[0], batches, system, counts)
    except Exception as error:  # noqa: BLE001 - whatever the engine or the model raises; a run will tell
        reason = f"no step could be timed ({type(error).__name__}: {one_line(error)})"
        if note is not None:
            note(f"replicas run one by one: {reason}")
        return None, _record("auto", None, reason)
    # One by one or together: layout, seconds per step.
    one, all_of_them = _fewest_cores(alone), _fewest_cores(together)
    gain = n * one[1] / all_of_them[1]
    pays = gain >= WORTHWHILE
    layout = all_of_them[0] if pays else one[0]
    reason = (
        f"{n / all_of_them[1]:.0f} steps/s of {n} replicas in one Context{_on(all_of_them[0], counts)}, "
        f"{1 / one[1]:.0f} one by one{_on(one[0], counts)}: {gain:.2f} times as fast"
    )
    if note is not None:
        note(f"{reason}; they {'share one Context' if pays else 'run one by one'}{_on(layout, counts)}")
    kept = None
    if pays:
        batch = next(batch for batch in batches if batch.context.copies.n_groups == layout.groups)
        kept = Batch(
            tasks=[with_threads(task, layout.threads) for task in batch.tasks], context=batch.context
        )
        kept.context.platform, kept.context.threads = kept.tasks[0].platform, layout.threads
    return kept, _record("auto", kept, reason, round(gain, 3), layout.threads)


def _alone(
    task: ReplicaTask, system: Any, counts: list[int], note: Callable[[str], None] | None
) -> int | None:
    """Threads that a short timing of one replica is in favour of."""
    try:
        seconds, _ = _step_times(task, [], system, counts)
    except Exception as error:  # noqa: BLE001 - whatever the engine or the model raises; a run will tell
        if note is not None:
            note(f"threads as they are: no step could be timed ({type(error).__name__}: {one_line(error)})")
        return None
    layout, _ = _fewest_cores(seconds)
    if note is not None:
        rates = ", ".join(f"{1 / needed:.4g} steps/s {found}" for found, needed in seconds.items())
        note(f"{rates}: every replica runs {layout}")
    return layout.threads


def _fewest_cores(seconds: dict[Layout, float]) -> tuple[Layout, float]:
    """The layout with the fewest busy cores that is hardly slower than the fastest, and seconds per step."""
    fastest = min(seconds.values())
    near = [(layout, s) for layout, s in seconds.items() if s < WORTHWHILE * fastest]
    return min(near, key=lambda found: (found[0].cores, found[1]))


def _on(layout: Layout, counts: list[int]) -> str:
    """Where there was a choice."""
    return f" {layout}" if len(counts) > 1 else ""


def _record(
    asked: str, batch: Batch | None, reason: str, gain: float | None = None, threads: int | None = None
) -> dict[str, Any]:
    replicas, groups = [], None
    if batch is not None:
        replicas = [task.replica for task in batch.tasks]
        groups = batch.context.copies.n_groups
        if groups > 1:
            threads = 1
    return {
        "asked": asked,
        "replicas": replicas,
        "gain": gain,
        "threads": threads,
        "groups": groups,
        "reason": reason,
    }


def _has_ended(task: ReplicaTask) -> bool:
    status = read_status(task.folder) if task.resume else None
    return status is not None and status.has_ended(task.n_steps)


def _members(tasks: list[ReplicaTask], jobs: int) -> tuple[list[ReplicaTask], str, bool]:
    """Who shares a Context, what stands against it, and whether the run began so."""
    statuses = [read_status(task.folder) for task in tasks if task.resume]
    known = [status for status in statuses if status is not None]
    former = next((status.batch for status in known if status.batch is not None), None)
    if former is None:
        obstacle = "they began with a Context for each" if known else ""
        return tasks, obstacle or _obstacle(tasks, jobs), False
    chosen = [task for task in tasks if task.replica in former]
    obstacle = ""
    if len(chosen) < len(former):
        obstacle = f"they began in one Context with replicas {', '.join(map(str, former))}, which were not all asked for"
    return chosen, obstacle or _obstacle(chosen, jobs), True


def _obstacle(tasks: list[ReplicaTask], jobs: int) -> str:
    """What forbids that these replicas share a Context, or nothing."""
    first = tasks[0]
    protocol = first.protocol
    integrator = protocol.make_integrator()
    if len(tasks) < 2:
        return "there is only one"
    if jobs > 1:
        return f"{jobs} jobs at a time have a process each"
    if first.bias is not None:
        return "metadynamics biases one System at a time"
    if protocol.ensemble == "NPT":
        return "a barostat would scale one box for all"
    if protocol.constraints != "none":
        return "constraints are solved for all together, until the worst of them is met"
    if getattr(integrator, "getNumThermostats", lambda: 1)() != 1:
        return f"the integrator of {protocol.name} has several thermostats of its own"
    # All or none have one.
    boxes = [task.box_nm for task in tasks if task.box_nm is not None]
    if any((box != boxes[0]).any() for box in boxes):
        return "their start frames have different boxes"
    if not hasattr(first.provider, "create_copies"):
        return f"{first.provider.description.get('model')} evaluates one molecule or box at a time"
    return ""


def _step_times(
    first: ReplicaTask, batches: list[Batch], system: Any, counts: list[int]
) -> tuple[dict[Layout, float], dict[Layout, float]]:
    """Least seconds per step by layout, of one replica and of all together, in windows that take turns."""
    seed = integrator_seed(first.seed, first.replica)
    alone = first.protocol.make_integrator(seed)
    context = create_context(system, alone, first.platform)
    if first.box_nm is not None and system.usesPeriodicBoundaryConditions():
        context.setPeriodicBoxVectors(*first.box_nm)
    context.setPositions(first.positions_nm)
    one: dict[Layout, Any] = {Layout(threads): alone for threads in counts}
    together: dict[Layout, Any] = {}
    for batch in batches:
        batch.context.make(list(range(len(batch.tasks))), seed)
        groups = batch.context.copies.n_groups
        for threads in counts if groups == 1 else [1]:
            together[Layout(threads, groups)] = batch.context.integrator
    least: tuple[dict[Layout, float], dict[Layout, float]] = ({}, {})
    windows = [
        (seconds, *window)
        for seconds, found in zip(least, (one, together), strict=True)
        for window in found.items()
    ]
    steps = []
    try:
        for _, layout, engine in windows:
            limit_threads(layout.threads)
            # The first steps are slow, and the first of a number of threads starts them.
            engine.step(WARM_UP_CALLS)
            steps.append(max(1, int(_WINDOW_S / _seconds(engine, 1))))
        begin = time.perf_counter()
        for _ in range(_WINDOWS):
            for (seconds, layout, engine), n_steps in zip(windows, steps, strict=True):
                limit_threads(layout.threads)
                needed = _seconds(engine, n_steps) / n_steps
                seconds[layout] = min(seconds.get(layout, np.inf), needed)
            if time.perf_counter() - begin > _LONGEST_S:
                break
    finally:
        limit_threads(first.threads)
    return least


def _seconds(engine: Any, n_steps: int) -> float:
    begin = time.perf_counter()
    engine.step(n_steps)
    return time.perf_counter() - begin
