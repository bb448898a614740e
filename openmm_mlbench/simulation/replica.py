"""One replica in a Context of its own: from its start frame to its end, or to its collapse."""

import logging
import re
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmm_mlbench.errors import MLBenchError, SimulationError
from openmm_mlbench.files import write_text
from openmm_mlbench.forces.drivers import drop_cuda_graphs
from openmm_mlbench.simulation.barostat import seed_barostat
from openmm_mlbench.simulation.checkpoint import (
    INDEX,
    Checkpoint,
    engine_description,
    load_checkpoint,
    read_checkpoints,
    remove_unnamed,
    state_xml,
)
from openmm_mlbench.simulation.dossier import FullRate, Observation
from openmm_mlbench.simulation.fixed_lists import (
    NOTE,
    CollapseUnderFixedLists,
    has_fixed_lists,
    line_of,
)
from openmm_mlbench.simulation.logbook import Logbook, tell
from openmm_mlbench.simulation.metadynamics.bias import Bias, make_bias
from openmm_mlbench.simulation.metadynamics.hills import cut_back
from openmm_mlbench.simulation.momenta import RigidBonds, draw_velocities, velocity_lag_ps
from openmm_mlbench.simulation.monitor import Stop
from openmm_mlbench.simulation.outputs import Offsets
from openmm_mlbench.simulation.platforms import context_properties, create_context, limit_threads
from openmm_mlbench.simulation.progress import ProgressCallback
from openmm_mlbench.simulation.run_folder import (
    ReplicaStatus,
    disk_error,
    locked,
    read_status,
    remove_dossier,
    remove_replica,
    remove_temporaries,
    replica_folder,
)
from openmm_mlbench.simulation.seeds import barostat_seed, integrator_seed, velocity_generator
from openmm_mlbench.simulation.task import ReplicaTask, create_system, numbers, read_structure

# The first calls of a TorchScript model are slow and differ in the last bits from all later ones.
WARM_UP_CALLS = 3
_NAN = re.compile(r"\bnan\b", re.IGNORECASE)


def run_replica(
    task: ReplicaTask,
    *,
    system: Any = None,
    notify: ProgressCallback | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> ReplicaStatus:
    """Run, or go on with, one replica.

    Args:
        task: what to do.
        system: OpenMM System, if it has been made already.
        notify: is told how far the replica is.
        should_stop: asked after every frame; True ends the replica with a checkpoint.

    Returns:
        How it ended; a collapse is a result, not an error.

    Raises:
        SimulationError: it cannot start, or its files cannot be written.
    """
    try:
        task.folder.mkdir(parents=True, exist_ok=True)
        with locked(task.folder):
            return _run_locked(task, system, notify, should_stop or (lambda: False))
    except OSError as error:
        raise disk_error(task.folder, error, "at its start") from error


def _run_locked(
    task: ReplicaTask, system: Any, notify: ProgressCallback | None, should_stop: Callable[[], bool]
) -> ReplicaStatus:
    checkpoint = None
    if task.resume:
        status = read_status(task.folder)
        if status is not None and status.has_ended(task.n_steps):
            tell(task, status, notify)
            return status
        whole = read_checkpoints(task.folder)
        checkpoint = next(iter(whole), None)
        if checkpoint is None and (task.folder / INDEX).is_file():
            raise SimulationError(
                f"{task.folder}: none of its checkpoints is whole; put their files back, or start again with --overwrite"
            )
        remove_unnamed(task.folder, whole)
    if checkpoint is None:
        remove_replica(task.folder)
    else:
        remove_dossier(task.folder)
        remove_temporaries(task.folder)
    try:
        return _Replica(task, system, checkpoint, notify, should_stop).run()
    except CollapseUnderFixedLists as suspicion:
        checkpoint = next(iter(read_checkpoints(task.folder)), None)
        line = line_of(task.folder.name, suspicion.stop, checkpoint.time_ps if checkpoint else 0.0)
    logging.getLogger(__name__).warning(line)
    status = _run_locked(replace(task, resume=True, searched_lists=True), None, notify, should_stop)
    write_text(task.folder / NOTE, line + "\n")
    return status


def is_nan(error: Exception) -> bool:
    """Whether an error of the engine says that something is not a number."""
    return bool(_NAN.search(str(error)))


class _Replica:
    """The Context of a replica while it runs."""

    def __init__(
        self,
        task: ReplicaTask,
        system: Any,
        checkpoint: Checkpoint | None,
        notify: ProgressCallback | None,
        should_stop: Callable[[], bool],
    ) -> None:
        self.task = task
        self.should_stop = should_stop
        self.from_checkpoint = checkpoint
        start = checkpoint.step if checkpoint else 0
        topology = read_structure(task.structure)
        self.bias = self._make_bias()
        self.ahead_steps = checkpoint.ahead_steps if checkpoint else 0
        # A bias is added for good, so it wants a System of its own.
        if system is None or self.bias is not None:
            start_nm = None if task.searched_lists else task.positions_nm
            system = create_system(task.provider, task.protocol, topology, start_nm)
        self.system = system
        if self.bias is not None:
            self.bias.add_to(system)
        self.has_barostat = seed_barostat(system, barostat_seed(task.seed, task.replica, start))
        limit_threads(task.threads)
        # A stream that the State XML cannot restore must not be repeated: it depends on the step.
        self.integrator = task.protocol.make_integrator(integrator_seed(task.seed, task.replica, start))
        self.masses = np.array(
            [numbers(self.system.getParticleMass(i)) for i in range(self.system.getNumParticles())]
        )
        with self.bias.log() if self.bias is not None else nullcontext():
            self.context = create_context(self.system, self.integrator, task.platform)
        self.properties = context_properties(self.context)
        self.periodic = bool(self.system.usesPeriodicBoundaryConditions())
        self.book = Logbook(
            task,
            topology=topology,
            masses=self.masses,
            rigid_bonds=RigidBonds(self.system),
            lag_ps=velocity_lag_ps(self.integrator),
            periodic=self.periodic,
            platform=self.properties,
            checkpoint=checkpoint,
            notify=notify,
        )

    def run(self) -> ReplicaStatus:
        """From start or checkpoint to the end."""
        try:
            start_energy = self._warm_up()
            self._set_state()
        except MLBenchError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever the engine or the model raises
            return self.book.fail(error)
        try:
            return self._simulate(start_energy)
        except OSError as error:
            raise self.book.disk_error(error, None if self.bias is None else self._cut_bias_back) from error

    def _simulate(self, start_energy: float) -> ReplicaStatus:
        book = self.book
        try:
            positions_nm = self._positions()
            book.open(start_energy, positions_nm, self._box())
            if self.bias is not None:
                self.bias.begin(self.context)
            if not np.isfinite(start_energy):
                stop = book.monitor.exploded(0, 0.0, "energy of the start frame is NaN or infinite")
                return self._collapse(stop)
            book.remember(positions_nm, self.context.createCheckpoint())
            return self._loop()
        finally:
            book.close()
            if self.bias is not None:
                self.bias.close()

    def _loop(self) -> ReplicaStatus:
        book = self.book
        book.write_status("running")
        clock = time.perf_counter()
        while book.step < self.task.n_steps:
            try:
                stop = self._advance()
            except OSError:
                raise
            except Exception as error:  # noqa: BLE001 - whatever the engine or the model raises
                return book.fail(error)
            now = time.perf_counter()
            book.timed_seconds, clock = book.timed_seconds + now - clock, now
            if stop is not None:
                return self._collapse(stop)
            last = book.step >= self.task.n_steps
            interrupted = not last and self.should_stop()
            # The barostat starts anew at checkpoints, which must fall alike however often a run is stopped.
            due = book.is_due or ((last or interrupted) and not self.has_barostat)
            # While a bond is beyond its limit the last good checkpoint stays the last one.
            if book.monitor.offence is None and due:
                self._save()
                if self.has_barostat and not last:
                    self._renew()
            if interrupted:
                return book.end("interrupted", message=f"interrupted at {book.time_ps:g} ps")
            book.tell()
        if book.monitor.offence is not None:
            return self._collapse(book.monitor.offence)
        return book.end("finished")

    def _advance(self) -> Stop | None:
        """Simulate to the next frame, write it and judge it."""
        import openmm

        book = self.book
        n_steps = self.task.protocol.steps_per_frame
        begin = time.perf_counter()
        try:
            self._step(n_steps)
            # A collapsing frame may hold anything; the monitor looks at what comes out.
            with np.errstate(all="ignore"):
                now = self._observe(book.step + n_steps)
                if self.bias is not None:
                    self.bias.end_frame(book.step + n_steps)
        except openmm.OpenMMException as error:
            if not is_nan(error):
                raise
            return book.exploded(int(self.context.getStepCount()), error)
        stop = book.take(now, time.perf_counter() - begin)
        if book.monitor.offence is None:
            book.remember(now.positions_nm, self.context.createCheckpoint())
        return stop

    def _step(self, n_steps: int) -> None:
        """Simulate to the step that is so many after the last frame."""
        if self.bias is None:
            self.integrator.step(n_steps)
            return
        ahead, self.ahead_steps = self.ahead_steps, 0
        self.bias.advance(self.book.step + ahead, n_steps - ahead)

    def _make_bias(self) -> Bias | None:
        task, checkpoint = self.task, self.from_checkpoint
        if task.bias is None:
            return None
        return make_bias(
            task.bias,
            task.protocol,
            task.folder,
            walkers=[replica_folder(task.folder.parent, i) for i in range(task.n_replicas)],
            restart=checkpoint.offsets.bias_bytes if checkpoint else None,
        )

    def _cut_bias_back(self, offsets: Offsets) -> None:
        cut_back(self.task.folder, offsets.bias_bytes)

    def _observe(self, step: int) -> Observation:
        """The present configuration: one evaluation of energy and forces."""
        state = self.context.getState(positions=True, velocities=True, forces=True, energy=True)
        book = self.book
        return book.observation(
            step,
            numbers(state.getPositions(asNumpy=True)),
            numbers(state.getVelocities(asNumpy=True)),
            numbers(state.getForces(asNumpy=True)),
            float(numbers(state.getPotentialEnergy())),
            numbers(state.getPeriodicBoxVectors(asNumpy=True)) if self.periodic else None,
            # OpenMM's own, which for Verlet is that of a shifted time; with a thermostat and rigid bonds
            # that of the velocities without motion along these.
            float(numbers(state.getKineticEnergy()))
            if book.lag_ps or not len(book.rigid_bonds.pairs)
            else None,
        )

    def _warm_up(self) -> float:
        """Discarded force calls on the start frame; its potential energy, kJ/mol."""
        import openmm

        try:
            return self._evaluate_start()
        except openmm.OpenMMException as error:
            if not drop_cuda_graphs(self.context, error):
                raise
            return self._evaluate_start()

    def _evaluate_start(self) -> float:
        if self.from_checkpoint is not None:
            # What counts steps by itself (PLUMED) must not take these calls for the first step.
            self.context.setStepCount(self.book.step + self.ahead_steps)
        if self.periodic and self.task.box_nm is not None:
            self.context.setPeriodicBoxVectors(*self.task.box_nm)
        self.context.setPositions(self.task.positions_nm)
        if self.system.getNumConstraints():
            self.context.applyConstraints(self.integrator.getConstraintTolerance())
        for _ in range(WARM_UP_CALLS):
            state = self.context.getState(energy=True, forces=True)
        return float(numbers(state.getPotentialEnergy()))

    def _renew(self) -> None:
        """Make the Context anew, as resuming would: with the barostat in its first state."""
        content = self.context.createCheckpoint()
        self.context.reinitialize()
        self._warm_up()
        self.context.loadCheckpoint(content)

    def _set_state(self) -> None:
        """Draw the momenta, or load the checkpoint."""
        task = self.task
        checkpoint = self.from_checkpoint
        if checkpoint is None:
            generator = velocity_generator(task.seed, task.replica)
            self.context.setVelocities(draw_velocities(self.masses, task.protocol.temperature_K, generator))
            if self.system.getNumConstraints():
                self.context.applyVelocityConstraints(self.integrator.getConstraintTolerance())
            return
        loaded = load_checkpoint(task.folder, checkpoint, self.context, self.properties)
        # Once inexact, a run never becomes exact again.
        self.book.resume = "inexact" if "inexact" in (loaded, checkpoint.resume) else "exact"

    def _save(self) -> None:
        import openmm

        offsets = self.book.files.sync()
        if self.bias is not None:
            try:
                self._step(self.bias.ahead_steps)
            except openmm.OpenMMException:
                # The next frame will tell what this was; the checkpoint before stays the last one.
                return
            self.ahead_steps = self.bias.ahead_steps
            offsets = replace(offsets, bias_bytes=self.bias.sync())
        contents = {"chk": self.context.createCheckpoint(), "xml": state_xml(self.context).encode()}
        self.book.save(contents, offsets, engine_description(self.context, self.properties), self.ahead_steps)

    def _collapse(self, stop: Stop) -> ReplicaStatus:
        """Write the dossier, then the status that makes it valid."""
        if has_fixed_lists(self.system):
            raise CollapseUnderFixedLists(stop)
        book = self.book

        def repeat(atomic_numbers: NDArray[np.int64]) -> FullRate:
            return book.rewind.repeat(
                stop,
                book.monitor,
                atomic_numbers,
                self._observe,
                lambda: self.integrator.step(1),
                self.context.loadCheckpoint,
            )

        book.write_collapse(stop, repeat)
        return book.collapsed(stop)

    def _positions(self) -> NDArray[np.float64]:
        return numbers(self.context.getState(positions=True).getPositions(asNumpy=True))

    def _box(self) -> NDArray[np.float64] | None:
        if not self.periodic:
            return None
        return numbers(self.context.getState().getPeriodicBoxVectors(asNumpy=True))
