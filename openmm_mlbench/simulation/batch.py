"""Several replicas in one Context: the same folders as those of replicas that have a Context each.

Trouble of one replica is its own.  Whoever collapses gets verdict and dossier, and is frozen out of a
Context that goes back to the last frame; the others repeat nothing but what the trouble interrupted, and
reach the same numbers.  An error that cannot be laid at one replica's door ends the batch, not the
replicas: they go on one by one.

All replicas are saved at the same frames.  A kill can fall between their checkpoints, so a resumed batch
goes on from the latest one that all of its replicas have.  Those of the others are written before the
verdict on a collapse, so that a verdict never stands alone.
"""

import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack

import numpy as np
from numpy.typing import NDArray

from openmm_mlbench.errors import MLBenchError, SimulationError
from openmm_mlbench.forces.copies import Copies
from openmm_mlbench.simulation.checkpoint import (
    Checkpoint,
    go_back_to,
    read_binary,
    read_checkpoints,
    read_state,
)
from openmm_mlbench.simulation.dossier import FullRate, Observation
from openmm_mlbench.simulation.logbook import Logbook, one_line, tell
from openmm_mlbench.simulation.momenta import RigidBonds, draw_velocities
from openmm_mlbench.simulation.monitor import Stop
from openmm_mlbench.simulation.progress import ProgressCallback
from openmm_mlbench.simulation.replica import is_nan
from openmm_mlbench.simulation.run_folder import (
    ReplicaStatus,
    disk_error,
    locked,
    read_status,
    remove_dossier,
    remove_replica,
    remove_temporaries,
)
from openmm_mlbench.simulation.seeds import integrator_seed, velocity_generator
from openmm_mlbench.simulation.shared_context import SharedContext, SharedFrame
from openmm_mlbench.simulation.task import ReplicaTask, read_structure

# Where a replica can go on: step and hash of a checkpoint, or its start.
_Place = tuple[int, str]
_START: _Place = (0, "")


class BatchEndedError(SimulationError):
    """The engine failed for no single replica; all of them can go on one by one."""


def shared_context(tasks: list[ReplicaTask], copies: Copies) -> SharedContext:
    """The Context of these replicas, not made yet."""
    first = tasks[0]
    return SharedContext(
        copies,
        first.protocol,
        first.platform,
        first.threads,
        np.stack([task.positions_nm for task in tasks]),
        first.box_nm,
    )


def run_batch(
    tasks: list[ReplicaTask],
    context: SharedContext,
    *,
    notify: ProgressCallback | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> dict[int, ReplicaStatus]:
    """Run, or go on with, replicas in one Context.

    Args:
        tasks: of one protocol, platform and length; the copies in this order.
        context: of :func:`shared_context`.
        notify: is told how far each replica is.
        should_stop: asked after every frame; True ends all with a checkpoint.

    Returns:
        Statuses by the number of the replica, of those that are where they should be; others, whose latest
        checkpoint is none of the batch's, can go on one by one.

    Raises:
        BatchEndedError: so can all replicas, from their latest checkpoints.
        SimulationError: they cannot start, or their files cannot be written.
    """
    with ExitStack() as stack:
        for task in tasks:
            try:
                task.folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(task.folder))
            except OSError as error:
                raise disk_error(task.folder, error, "at its start") from error
        return _run_locked(tasks, context, notify, should_stop or (lambda: False))


def _run_locked(
    tasks: list[ReplicaTask],
    context: SharedContext,
    notify: ProgressCallback | None,
    should_stop: Callable[[], bool],
) -> dict[int, ReplicaStatus]:
    statuses: dict[int, ReplicaStatus] = {}
    waiting: dict[int, ReplicaTask] = {}
    for copy, task in enumerate(tasks):
        status = read_status(task.folder) if task.resume else None
        if status is not None and status.has_ended(task.n_steps):
            tell(task, status, notify)
            statuses[task.replica] = status
        else:
            waiting[copy] = task
    if not waiting:
        return statuses
    checkpoints = _common_checkpoints(waiting)
    try:
        for copy, checkpoint in checkpoints.items():
            folder = waiting[copy].folder
            if checkpoint is None:
                remove_replica(folder)
            else:
                go_back_to(folder, checkpoint)
                remove_dossier(folder)
                remove_temporaries(folder)
    except OSError as error:
        raise disk_error(tasks[0].folder, error, "at its start") from error
    batch = _Batch(tasks, context, checkpoints, notify, should_stop)
    return statuses | batch.run()


def _common_checkpoints(waiting: dict[int, ReplicaTask]) -> dict[int, Checkpoint | None]:
    """The latest place that most replicas can go on from together, with the checkpoint of each of them there."""
    places: dict[int, dict[_Place, Checkpoint | None]] = {}
    for copy, task in waiting.items():
        found = read_checkpoints(task.folder) if task.resume else []
        places[copy] = {(item.step, item.sha256.get(f"{item.stem}.chk", "")): item for item in found}
        # Whoever has only one began it from the start.
        if len(found) < 2:
            places[copy][_START] = None
    counts = Counter(place for own in places.values() for place in own)
    chosen = max(counts, key=lambda place: (counts[place], place))
    return {copy: own[chosen] for copy, own in places.items() if chosen in own}


class _Batch:
    """The replicas while they run."""

    def __init__(
        self,
        tasks: list[ReplicaTask],
        context: SharedContext,
        checkpoints: dict[int, Checkpoint | None],
        notify: ProgressCallback | None,
        should_stop: Callable[[], bool],
    ) -> None:
        self.tasks = tasks
        self.context = context
        self.checkpoints = checkpoints
        self.notify = notify
        self.should_stop = should_stop
        self.first = tasks[next(iter(checkpoints))]
        self.statuses: dict[int, ReplicaStatus] = {}
        self.books: dict[int, Logbook] = {}
        self.step = next((item.step for item in checkpoints.values() if item is not None), 0)
        self.owed = False
        self.saved = self.step
        self.repeated = False

    @property
    def live(self) -> list[int]:
        """Copies that still move."""
        return self.context.live

    def run(self) -> dict[int, ReplicaStatus]:
        """From start or checkpoint to the end of all."""
        try:
            energies = self._begin()
        except MLBenchError:
            raise
        except Exception as error:
            raise BatchEndedError(f"{type(error).__name__}: {one_line(error)}") from error
        try:
            self._open(energies)
            self._loop()
        except OSError as error:
            raise self._disk_error(error) from error
        finally:
            for book in self.books.values():
                book.close()
        return self.statuses

    def _seed(self) -> int:
        """The stream of all copies' noise, that of the first replica from this step on, ended or not."""
        return integrator_seed(self.tasks[0].seed, self.tasks[0].replica, self.step)

    def _begin(self) -> NDArray[np.float64]:
        """Bring all copies to start or checkpoint; energies of the start frames."""
        known = {copy: item for copy, item in self.checkpoints.items() if item is not None}
        if not known:
            energies = self.context.make(list(self.checkpoints), self._seed())
            self.context.set_velocities(self._momenta())
            resume = "none"
        else:
            energies, resume = self._load(known)
        topology = read_structure(self.first.structure)
        for copy, checkpoint in self.checkpoints.items():
            book = Logbook(
                self.tasks[copy],
                topology=topology,
                masses=self.context.masses,
                rigid_bonds=RigidBonds(self.context.copies.system),
                lag_ps=self.context.lag_ps,
                periodic=self.context.periodic,
                platform=self.context.properties,
                checkpoint=checkpoint,
                batch=[task.replica for task in self.tasks],
                notify=self.notify,
            )
            book.resume = "inexact" if checkpoint is not None and checkpoint.resume == "inexact" else resume
            self.books[copy] = book
        return energies

    def _momenta(self) -> NDArray[np.float64]:
        velocities = np.zeros_like(self.context.starts_nm)
        for copy in self.live:
            task = self.tasks[copy]
            generator = velocity_generator(task.seed, task.replica)
            velocities[copy] = draw_velocities(self.context.masses, task.protocol.temperature_K, generator)
        return velocities

    def _load(self, known: dict[int, Checkpoint]) -> tuple[NDArray[np.float64], str]:
        """Bring the copies to their checkpoints; ``exact`` or ``inexact``."""
        copy, checkpoint = next(iter(known.items()))
        folder = self.tasks[copy].folder
        saved = checkpoint.engine.get("copies", "").partition(" of ")[0]
        # Those that moved then, which the binary checkpoint was made with.
        then = [int(place) for place in saved.split()] or list(known)
        energies = self.context.make(then, self._seed())
        content = read_binary(folder, checkpoint, self.context.engine())
        if content is not None:
            self.context.restore(content)
            if then != list(known):
                self.context.freeze(list(known), self._seed())
            return energies, "exact"
        energies = self.context.make(list(known), self._seed())
        try:
            states = {place: read_state(self.tasks[place].folder, item) for place, item in known.items()}
        except (OSError, ValueError) as error:
            raise SimulationError(
                f"{folder}: no State can be read ({one_line(error)}); start again with --overwrite"
            ) from error
        self.context.set_states(states)
        return energies, "inexact"

    def _open(self, energies: NDArray[np.float64]) -> None:
        frame = self.context.observe()
        stops = {}
        for copy, book in self.books.items():
            book.open(float(energies[copy]), frame.positions_nm[copy], frame.box_nm)
            if not np.isfinite(energies[copy]):
                stops[copy] = book.monitor.exploded(0, 0.0, "energy of the start frame is NaN or infinite")
        self._remember(frame, but=stops)
        for book in self.books.values():
            book.write_status("running")
        if stops:
            self._collapse(stops)

    def _loop(self) -> None:
        clock = time.perf_counter()
        while self.books and self.step < self.first.n_steps:
            begin = time.perf_counter()
            try:
                # A collapsing frame may hold anything; the monitor looks at what comes out.
                with np.errstate(all="ignore"):
                    frame = self.context.advance(self.first.protocol.steps_per_frame)
                    seen = self._observe(frame, self.step + self.first.protocol.steps_per_frame)
            except OSError:
                raise
            except Exception as error:  # noqa: BLE001 - whatever the engine or the model raises
                self._solve(error)
                continue
            self.step += self.first.protocol.steps_per_frame
            self.repeated = False
            seconds = time.perf_counter() - begin
            stops = {}
            for copy, book in self.books.items():
                stop = book.take(seen[copy], seconds)
                if stop is not None:
                    stops[copy] = stop
            now = time.perf_counter()
            for book in self.books.values():
                book.timed_seconds += now - clock
            clock = now
            self._remember(frame, but=stops)
            if stops:
                self._collapse(stops)
            if self._rest():
                return
        for copy in list(self.books):
            offence = self.books[copy].monitor.offence
            if offence is not None:
                self._collapse({copy: offence})
        for book in self.books.values():
            self._ended(book.end("finished"))

    def _rest(self) -> bool:
        """What is due at a frame: a checkpoint, a word of progress; whether the run was interrupted here."""
        last = self.step >= self.first.n_steps
        interrupted = bool(self.books) and not last and self.should_stop()
        due = any(book.is_due for book in self.books.values())
        self.owed = self.owed or ((due or last or interrupted) and self.saved < self.step)
        self._save()
        for book in self.books.values():
            if interrupted:
                self._ended(book.end("interrupted", message=f"interrupted at {book.time_ps:g} ps"))
            else:
                book.tell()
        return interrupted

    def _observe(self, frame: SharedFrame, step: int) -> dict[int, Observation]:
        """What the books of the copies say of a frame."""
        return {
            copy: book.observation(
                step,
                frame.positions_nm[copy],
                frame.velocities[copy],
                frame.forces[copy],
                float(frame.energies[copy]),
                frame.box_nm,
            )
            for copy, book in self.books.items()
        }

    def _remember(self, frame: SharedFrame, but: dict[int, Stop]) -> None:
        self.present = self.context.content()
        for copy, book in self.books.items():
            if copy not in but and book.monitor.offence is None:
                book.remember(frame.positions_nm[copy], self.present)

    def _save(self) -> None:
        """A checkpoint of all, if one is owed; not while a bond is beyond its limit: that replica may have to go back."""
        if not self.owed or not self.books or self._pending():
            return
        self.owed, self.saved = False, self.step
        content, engine, states = self.context.content(), self.context.engine(), self.context.states()
        # All frames first: no checkpoint may name what another one's kill could still lose.
        offsets = {copy: book.files.sync() for copy, book in self.books.items()}
        for copy, book in self.books.items():
            book.save({"chk": content, "xml": states[copy].encode()}, offsets[copy], engine)

    def _pending(self) -> bool:
        return any(book.monitor.offence is not None for book in self.books.values())

    def _collapse(self, stops: dict[int, Stop]) -> None:
        """Dossiers of the collapsed, the others free of them and saved, then the verdicts."""
        for copy, stop in stops.items():
            self.books[copy].write_collapse(stop, self._repetition(copy, stop))
        leaving = self._part(list(stops))
        for copy, book in leaving.items():
            self._ended(book.collapsed(stops[copy]))
            book.close()

    def _repetition(self, copy: int, stop: Stop) -> Callable[[NDArray[np.int64]], FullRate]:
        book, per_frame = self.books[copy], self.first.protocol.steps_per_frame

        def observe(step: int) -> Observation:
            return self._observe(self.context.observe(), step)[copy]

        def step_once() -> None:
            self.context.integrator.step(1)
            if int(self.context.context.getStepCount()) % per_frame == 0:
                self.context.rest()

        def repeat(atomic_numbers: NDArray[np.int64]) -> FullRate:
            return book.rewind.repeat(
                stop, book.monitor, atomic_numbers, observe, step_once, self.context.restore
            )

        return repeat

    def _part(self, leaving: list[int]) -> dict[int, Logbook]:
        """Freeze copies out, with the others at the present frame; the books of those that leave."""
        gone = {copy: self.books.pop(copy) for copy in leaving}
        if not self.books:
            return gone
        self.context.restore(self.present)
        self.context.freeze(list(self.books), self._seed())
        frame = self.context.observe()
        for book in self.books.values():
            book.rewind.forget()
        self._remember(frame, but={})
        # Also where there is one of this frame: the binary file belongs to the Context that is no more.
        self.owed = self.step > 0
        self._save()
        return gone

    def _solve(self, error: Exception) -> None:
        try:
            self._trouble(error)
        except (OSError, MLBenchError):
            raise
        except Exception as another:
            raise BatchEndedError(f"{type(another).__name__}: {one_line(another)}") from another

    def _trouble(self, error: Exception) -> None:
        """The engine stopped between two frames: find out for whom, and let the others go on from the frame before."""
        lost = self.context.lost()
        if lost and (is_nan(error) or len(lost) < len(self.books)):
            step = int(self.context.context.getStepCount())
            self._collapse({copy: self.books[copy].exploded(step, error) for copy in lost})
            return
        culprits = self.context.culprits()
        # What each of several does by itself is the engine's doing.
        if culprits and (len(culprits) < len(self.books) or len(self.books) == 1):
            for copy, book in self._part(list(culprits)).items():
                self._ended(book.fail(culprits[copy]))
                book.close()
            return
        if not self.repeated:
            self.repeated = True
            self.context.restore(self.present)
            return
        for book in self.books.values():
            book.write_status("interrupted", message=f"the batch ended: {one_line(error)}")
        raise BatchEndedError(f"{type(error).__name__}: {one_line(error)}") from error

    def _ended(self, status: ReplicaStatus) -> None:
        self.statuses[status.replica] = status

    def _disk_error(self, error: OSError) -> SimulationError:
        lines = [book.disk_error(error) for book in self.books.values()]
        return lines[0]
