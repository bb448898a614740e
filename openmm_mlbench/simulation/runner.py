"""Running a protocol: all its replicas, one after another or in several processes."""

import dataclasses
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmm_mlbench.data.frames import Frames
from openmm_mlbench.errors import SimulationError
from openmm_mlbench.protocol import Protocol
from openmm_mlbench.simulation.batch import BatchEndedError, run_batch
from openmm_mlbench.simulation.batching import Batch, plan_batch, with_threads
from openmm_mlbench.simulation.metadynamics.bias import BiasPlan, plan_bias
from openmm_mlbench.simulation.metadynamics.walkers import cut_back_walkers
from openmm_mlbench.simulation.monitor import Thresholds, WindowCriterion
from openmm_mlbench.simulation.platforms import available_threads, choose_platform
from openmm_mlbench.simulation.progress import ProgressCallback
from openmm_mlbench.simulation.replica import run_replica
from openmm_mlbench.simulation.run_folder import (
    RUN,
    ReplicaStatus,
    check_folder,
    disk_error,
    locked,
    make_folder,
    read_run,
    replica_folder,
)
from openmm_mlbench.simulation.run_record import Plan, is_recorded, write_run_record
from openmm_mlbench.simulation.starts import choose_starts, start_configuration
from openmm_mlbench.simulation.task import ForceProvider, ReplicaTask, create_system, read_structure
from openmm_mlbench.simulation.workers import run_in_processes
from openmm_mlbench.topology import bond_lengths, find_bonds

# Writing a record takes milliseconds; a process that was stopped in between holds its lock.
_RECORD_WAIT_S = 120.0


class RunInterrupted(SimulationError):  # noqa: N818 - an interruption is no fault
    """The user or the queue ended the run; ``statuses`` says how far it came."""

    def __init__(self, message: str, statuses: list[ReplicaStatus]) -> None:
        super().__init__(message)
        self.statuses = statuses


def run_protocol(
    protocol: Protocol,
    provider: ForceProvider,
    out: str | Path,
    *,
    start_frames: Frames,
    replicas: int | None = None,
    length_ps: float | None = None,
    platform: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    jobs: int = 1,
    seed: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: ProgressCallback | None = None,
    note: Callable[[str], None] | None = None,
    reference_bonds: NDArray[np.int64] | None = None,
    equilibrium_A: NDArray[np.float64] | None = None,
    thresholds: Thresholds | None = None,
    window: WindowCriterion | None = None,
    metadynamics: str = "auto",
    walkers: str = "independent",
    only: Sequence[int] | None = None,
    batch_replicas: str = "off",
    campaign: dict[str, Any] | None = None,
) -> list[ReplicaStatus]:
    """Run a protocol's replicas into a run folder.

    Args:
        protocol: what to simulate.
        provider: the forces; its ``description`` is recorded.
        out: run folder, new or empty unless resume or overwrite.
        start_frames: frames (the test split) to draw the start positions from, or those of
            ``starts.structure_frames`` where the protocol starts from a structure.
        replicas: how many; the protocol's number if None.
        length_ps: of one replica; the protocol's if None.
        platform: OpenMM platform or ``auto``.
        precision: of the platform, or ``auto``.
        threads: CPU threads of one replica; chosen if None.  ``batch_replicas="auto"`` times fewer as well, and where
            none are given up to as many as there are cores; a resumed run has those that it began with.
        jobs: replicas at a time, each in a process of its own if more than one.  A script
            that asks for this needs the usual ``if __name__ == "__main__":``.
        seed: instead of the protocol's.
        resume: go on with what is in the folder; a longer length extends finished replicas.
        overwrite: remove the run that is in the folder, and only that.
        progress: is told how far each replica is.
        note: is told in one line which platform, driver and threads were chosen, and why.
        reference_bonds: (n_bonds, 2); those of the first of start_frames if None.
        equilibrium_A: (n_bonds,), mean lengths in the reference; in start_frames if None.
        thresholds: where collapse begins; the protocol's if None.
        window: judges the RDFs of windows of frames, for protocols whose stability criterion is ``rdf``
            (``metrics.rdf_stability.RDFWindows``); without one nothing watches them.
        metadynamics: ``native``, ``plumed``, or ``auto``: plumed where openmmplumed imports.
        walkers: ``independent``, or ``shared``: all replicas run at once and feel each other's hills.
        only: these replicas, while other processes run others of the same folder at the same time; the record
            is written by whoever comes first, and again where the run shall become longer or larger.
        batch_replicas: ``on``: all replicas in one Context; ``off``: one by one; ``auto``: whichever a short timing
            finds faster, on the number of threads that is, and a resumed run as it began.
        campaign: what a campaign calls model, system and seed, for the record.

    Returns:
        The status of every replica that was asked for: finished, unstable (a result) or failed.

    Raises:
        SimulationError: it cannot start, or files cannot be written.
        RunInterrupted: Ctrl-C or SIGTERM; everything is ready for resume.
    """
    protocol = dataclasses.replace(protocol, seed=protocol.seed if seed is None else seed)
    n_replicas = protocol.replicas if replicas is None else replicas
    _check_counts(n_replicas, jobs, 1 if threads is None else threads)
    _check_only(only, n_replicas, walkers)
    topology = read_structure(protocol.structure_path)
    _check_atoms(protocol, topology, start_frames)
    places = choose_starts(protocol, start_frames, n_replicas)
    bonds, equilibrium = _watched_bonds(protocol, start_frames, reference_bonds, equilibrium_A)
    # Made here once, so that a misfit of model and molecule is found before anything is written.
    first_nm, _ = start_configuration(start_frames, int(places[0]))
    most_threads = available_threads() if threads is None else threads
    former_groups = None
    if resume:
        threads, former_groups = _as_it_began(Path(out), threads)
    system = create_system(provider, protocol, topology, first_nm)
    _check_cells(protocol, system, start_frames)
    plan = Plan(
        protocol=protocol,
        description=provider.description,
        frames=start_frames,
        places=places,
        n_steps=protocol.n_steps(length_ps),
        bonds=bonds,
        equilibrium_A=equilibrium,
        thresholds=thresholds or thresholds_of(protocol),
        window=window if protocol.stability_criterion == "rdf" else None,
        platform=choose_platform(
            platform, system, threads, precision, jobs=jobs, engine=getattr(provider, "engine", None)
        ),
    )
    out = Path(out)
    bias = _plan_bias(protocol, metadynamics, walkers, out if resume else None)
    if bias is not None and bias.walkers == "shared" and not 2 <= n_replicas <= jobs:
        raise SimulationError(
            f"{n_replicas} walkers that share hills with jobs = {jobs}; they run at the same time: "
            "use at least 2 replicas and as many jobs"
        )
    plan = dataclasses.replace(plan, bias=bias, campaign=campaign)
    check_folder(out, resume=resume, overwrite=overwrite)
    remarks = [plan.platform.line]
    tasks = _tasks(out, plan, provider, topology, resume=resume)
    tasks = [task for task in tasks if only is None or task.replica in only]
    batch, batching = plan_batch(
        batch_replicas,
        tasks,
        system,
        topology,
        jobs=jobs,
        most_threads=most_threads,
        former_groups=former_groups,
        note=remarks.append,
    )
    if batching["threads"] is not None:
        tasks = [with_threads(task, batching["threads"]) for task in tasks]
        plan = dataclasses.replace(plan, platform=tasks[0].platform)
    plan = dataclasses.replace(plan, batching=batching)
    # Nothing is refused any more.
    make_folder(out)
    if note is not None:
        for remark in remarks:
            note(remark)
    if only is not None:
        # Each replica has a lock of its own; that of the run is for its record.
        with locked(out, wait_s=_RECORD_WAIT_S):
            if not is_recorded(out, plan):
                _write_record(out, plan, resume=resume)
    with nullcontext() if only is not None else locked(out), _stop_on_signals() as stopped:
        if only is None:
            _write_record(out, plan, resume=resume)
        if resume and bias is not None and bias.walkers == "shared":
            cut_back_walkers([replica_folder(out, i) for i in range(n_replicas)], plan.n_steps)
        if batch is not None:
            statuses = _run_together(batch, tasks, system, progress, stopped, note)
        elif min(jobs, len(tasks)) > 1:
            statuses = run_in_processes(tasks, jobs, progress, stopped)
        else:
            statuses = _run_here(tasks, system, progress, stopped)
    if len(statuses) < len(tasks) or any(status.state == "interrupted" for status in statuses):
        done = ", ".join(f"{status.time_ps:g}" for status in statuses) or "0"
        raise RunInterrupted(
            f"{out}: interrupted at {done} of {plan.length_ps:g} ps; the same command with --resume goes on",
            statuses,
        )
    return statuses


def _as_it_began(out: Path, threads: int | None) -> tuple[int | None, int | None]:
    """Threads, and groups of replicas, of a run that goes on: those of its beginning, but never more than asked for."""
    record = read_run(out) if (out / RUN).is_file() else {}
    batching = record.get("batching") or {}
    limit = float("inf") if threads is None else threads
    chosen, groups = (
        None if batching.get(key) is None else int(min(batching[key], limit)) for key in ("threads", "groups")
    )
    return threads if chosen is None else chosen, groups


def _write_record(out: Path, plan: Plan, *, resume: bool) -> None:
    try:
        write_run_record(out, plan, resume=resume)
    except OSError as error:
        raise disk_error(out, error, "at its start") from error


def _tasks(
    out: Path, plan: Plan, provider: ForceProvider, topology: Any, *, resume: bool
) -> list[ReplicaTask]:
    bonds = np.array([[bond[0].index, bond[1].index] for bond in topology.bonds()], dtype=np.int64)
    starts = [start_configuration(plan.frames, int(place), bonds) for place in plan.places]
    return [
        ReplicaTask(
            replica=replica,
            n_replicas=plan.n_replicas,
            folder=replica_folder(out, replica),
            structure=out / "topology.pdb",
            protocol=plan.protocol,
            provider=provider,
            positions_nm=positions_nm,
            box_nm=box_nm,
            window=plan.window,
            n_steps=plan.n_steps,
            seed=plan.protocol.seed,
            bonds=plan.bonds,
            equilibrium_A=plan.equilibrium_A,
            thresholds=plan.thresholds,
            platform=plan.platform,
            threads=plan.platform.threads,
            resume=resume,
            bias=plan.bias,
        )
        for replica, (positions_nm, box_nm) in enumerate(starts)
    ]


def _plan_bias(protocol: Protocol, metadynamics: str, walkers: str, resumed: Path | None) -> BiasPlan | None:
    former = read_run(resumed).get("metadynamics") if resumed and (resumed / RUN).is_file() else None
    return plan_bias(protocol, metadynamics, walkers, former)


def _run_here(
    tasks: list[ReplicaTask], system: Any, progress: ProgressCallback | None, stopped: threading.Event
) -> list[ReplicaStatus]:
    statuses = []
    for task in tasks:
        if stopped.is_set():
            break
        statuses.append(run_replica(task, system=system, notify=progress, should_stop=stopped.is_set))
    return statuses


def _run_together(
    batch: Batch,
    tasks: list[ReplicaTask],
    system: Any,
    progress: ProgressCallback | None,
    stopped: threading.Event,
    note: Callable[[str], None] | None,
) -> list[ReplicaStatus]:
    """The batch, then one by one whoever does not belong to it or could not stay in it."""
    try:
        ended = run_batch(batch.tasks, batch.context, notify=progress, should_stop=stopped.is_set)
    except BatchEndedError as error:
        if note is not None:
            note(f"replicas go on one by one from their latest checkpoints: {error}")
        ended = {}
    begun = {task.replica for task in batch.tasks}
    others = [
        # What the batch left is to be gone on with.
        dataclasses.replace(task, resume=task.resume or task.replica in begun)
        for task in tasks
        if task.replica not in ended
    ]
    ended |= {status.replica: status for status in _run_here(others, system, progress, stopped)}
    return [ended[replica] for replica in sorted(ended)]


@contextmanager
def _stop_on_signals() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C or SIGTERM into a request; the second acts as usual."""
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    former = {
        number: signal.getsignal(number) or signal.SIG_DFL for number in (signal.SIGINT, signal.SIGTERM)
    }

    def restore() -> None:
        for number, handler in former.items():
            signal.signal(number, handler)

    def request(*_: Any) -> None:
        stopped.set()
        restore()

    for number in former:
        signal.signal(number, request)
    try:
        yield stopped
    finally:
        restore()


def _check_counts(n_replicas: int, jobs: int, threads: int) -> None:
    for name, value in (("replicas", n_replicas), ("jobs", jobs), ("threads", threads)):
        if value < 1:
            raise SimulationError(f"{name} is {value}; at least 1 is needed")


def _check_only(only: Sequence[int] | None, n_replicas: int, walkers: str) -> None:
    if only is None:
        return
    if not only or not set(only) <= set(range(n_replicas)):
        raise SimulationError(
            f"replicas {list(only)} of {n_replicas}; use numbers from 0 to {n_replicas - 1}"
        )
    if walkers == "shared":
        raise SimulationError("walkers that share hills run at the same time; run all replicas in one call")


def thresholds_of(protocol: Protocol) -> Thresholds:
    """Where the protocol says that a simulation has collapsed."""
    bonds = protocol.stability_criterion == "bonds"
    wanted: dict[str, Any] = {
        "bond_deviation_A": protocol.stability_threshold_A if bonds else None,
        "energy_kJ_mol_per_atom": protocol.monitor_energy_kJ_mol_per_atom,
        "temperature_ratio": protocol.monitor_temperature_ratio,
        "displacement_A": protocol.monitor_displacement_A,
    }
    return Thresholds(**{key: value for key, value in wanted.items() if value is not None})


def _check_atoms(protocol: Protocol, topology: Any, frames: Frames) -> None:
    numbers = np.array([atom.element.atomic_number for atom in topology.atoms()])
    wanted = frames.atomic_numbers
    if len(numbers) != len(wanted):
        difference = f"{len(numbers)} atoms ({_formula(numbers)}) but {frames.name} has {len(wanted)} ({_formula(wanted)})"
    elif (numbers != wanted).any():
        first = int(np.flatnonzero(numbers != wanted)[0])
        difference = (
            f"atom {first} has atomic number {numbers[first]}, in {frames.name} it has {wanted[first]}"
        )
    else:
        return
    raise SimulationError(
        f"{protocol.structure_path}: {difference}; use frames of the same system in the same atom order"
    )


def _formula(numbers: NDArray[np.int64]) -> str:
    from ase.data import chemical_symbols

    kinds, counts = np.unique(numbers, return_counts=True)
    return " ".join(f"{chemical_symbols[int(kind)]}{n}" for kind, n in zip(kinds, counts, strict=True))


def _check_cells(protocol: Protocol, system: Any, frames: Frames) -> None:
    if frames.cells is not None and not system.usesPeriodicBoundaryConditions():
        raise SimulationError(
            f"{frames.name} has cells, but the System of {protocol.structure_path} is not periodic; "
            "give its PDB file a CRYST1 record"
        )


def _watched_bonds(
    protocol: Protocol,
    frames: Frames,
    bonds: NDArray[np.int64] | None,
    equilibrium_A: NDArray[np.float64] | None,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The bonds that the monitor watches, and their lengths in the reference; none where RDFs are watched."""
    if protocol.stability_criterion != "bonds":
        return np.empty((0, 2), dtype=np.int64), np.empty(0)
    if bonds is None:
        cell = None if frames.cells is None else frames.cells[0]
        bonds = find_bonds(frames.atomic_numbers, frames.positions[0], cell_A=cell)
    bonds = np.asarray(bonds, dtype=np.int64)
    fits = bonds.ndim == 2 and bonds.shape[1] == 2
    fits = fits and (not bonds.size or 0 <= bonds.min() <= bonds.max() < frames.n_atoms)
    if fits and equilibrium_A is None:
        equilibrium_A = bond_lengths(frames.positions, bonds, cells=frames.cells).mean(axis=0)
    equilibrium = np.asarray(equilibrium_A, dtype=np.float64)
    if not fits or equilibrium.shape != (len(bonds),):
        raise SimulationError(
            f"bonds of shape {bonds.shape} with {equilibrium.size} equilibrium lengths do not fit "
            f"{frames.n_atoms} atoms; give (n_bonds, 2) indices and one length each"
        )
    return bonds, equilibrium
