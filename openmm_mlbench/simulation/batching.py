"""Whether the replicas of a run share a Context: what forbids it, what the run began with, what a short timing says."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from openmm_mlbench.errors import MLBenchError, SimulationError
from openmm_mlbench.simulation.batch import shared_context
from openmm_mlbench.simulation.logbook import one_line
from openmm_mlbench.simulation.platforms import create_context
from openmm_mlbench.simulation.run_folder import read_status
from openmm_mlbench.simulation.seeds import integrator_seed
from openmm_mlbench.simulation.shared_context import WARM_UP_CALLS, SharedContext
from openmm_mlbench.simulation.task import ReplicaTask

MODES = ("auto", "on", "off")
# Below this gain the advantage of replicas that do not wait for each other is the greater one.
WORTHWHILE = 1.1
_WINDOWS, _WINDOW_S, _LONGEST_S = 5, 0.1, 3.0


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
    note: Callable[[str], None] | None = None,
) -> tuple[Batch | None, dict[str, Any]]:
    """Decide, and say so in one line.

    Args:
        mode: ``on``, ``off``, or ``auto``: as the run began, else where all together advance faster than one by one.
        tasks: of all replicas.
        system: of a single one.
        topology: of a single one.
        jobs: processes.
        note: is told the decision and its reason, except where nothing was asked for or decided.

    Returns:
        The batch or None, and what run.json keeps of the decision: ``asked``, ``replicas`` (empty: none share a
        Context), ``gain`` (how many times as fast, where it was timed) and ``reason``.

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
    batch = None
    if not obstacle:
        try:
            copies = tasks[0].provider.create_copies(topology, len(chosen))  # type: ignore[attr-defined]
            batch = Batch(tasks=chosen, context=shared_context(chosen, copies))
        except MLBenchError as error:
            obstacle = one_line(error)
    if obstacle:
        if mode == "on":
            raise SimulationError(
                f"the replicas cannot share a Context: {obstacle}; leave out --batch-replicas on"
            )
        if note is not None and len(tasks) > 1:
            note(f"replicas run one by one: {obstacle}")
        return None, _record(mode, None, obstacle)
    if former or mode == "on":
        reason = "as the run began" if former else "asked for"
        if note is not None:
            note(f"{len(chosen)} replicas share one Context: {reason}")
        return batch, _record(mode, batch, reason)
    assert batch is not None
    return _timed(batch, system, note)


def _timed(
    batch: Batch, system: Any, note: Callable[[str], None] | None
) -> tuple[Batch | None, dict[str, Any]]:
    """Keep the batch if a short timing is in favour of it."""
    n = len(batch.tasks)
    try:
        alone_s, together_s = _step_times(batch, system)
    except Exception as error:  # noqa: BLE001 - whatever the engine or the model raises; a run will tell
        reason = f"no step could be timed ({type(error).__name__}: {one_line(error)})"
        if note is not None:
            note(f"replicas run one by one: {reason}")
        return None, _record("auto", None, reason)
    gain = n * alone_s / together_s
    reason = f"{n / together_s:.0f} steps/s of {n} replicas in one Context, {1 / alone_s:.0f} one by one: {gain:.2f} times as fast"
    pays = gain >= WORTHWHILE
    if note is not None:
        note(f"{reason}; they {'share one Context' if pays else 'run one by one'}")
    kept = batch if pays else None
    return kept, _record("auto", kept, reason, round(gain, 3))


def _record(asked: str, batch: Batch | None, reason: str, gain: float | None = None) -> dict[str, Any]:
    replicas = [] if batch is None else [task.replica for task in batch.tasks]
    return {"asked": asked, "replicas": replicas, "gain": gain, "reason": reason}


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


def _step_times(batch: Batch, system: Any) -> tuple[float, float]:
    """Least seconds per step of one replica and of all together, in windows that take turns."""
    first = batch.tasks[0]
    alone = first.protocol.make_integrator(integrator_seed(first.seed, first.replica))
    context = create_context(system, alone, first.platform)
    if first.box_nm is not None and system.usesPeriodicBoundaryConditions():
        context.setPeriodicBoxVectors(*first.box_nm)
    context.setPositions(first.positions_nm)
    batch.context.make(list(range(len(batch.tasks))), integrator_seed(first.seed, first.replica))
    engines = (alone, batch.context.integrator)
    for engine in engines:
        engine.step(WARM_UP_CALLS)
    steps = [max(1, int(_WINDOW_S / _seconds(engine, 1))) for engine in engines]
    least = [np.inf, np.inf]
    begin = time.perf_counter()
    for _ in range(_WINDOWS):
        for i, engine in enumerate(engines):
            least[i] = min(least[i], _seconds(engine, steps[i]) / steps[i])
        if time.perf_counter() - begin > _LONGEST_S:
            break
    return least[0], least[1]


def _seconds(engine: Any, n_steps: int) -> float:
    begin = time.perf_counter()
    engine.step(n_steps)
    return time.perf_counter() - begin
