"""One replica: from its start frame to its end, or to its collapse."""

import math
import re
import time
import traceback
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from typing import Protocol as Interface

import numpy as np
from numpy.typing import NDArray

from openmm_mlbench.errors import MLBenchError, SimulationError
from openmm_mlbench.files import write_text
from openmm_mlbench.protocol import Protocol
from openmm_mlbench.simulation.barostat import add_barostat, seed_barostat
from openmm_mlbench.simulation.checkpoint import (
    INDEX,
    Checkpoint,
    engine_description,
    load_checkpoint,
    read_checkpoints,
    remove_unnamed,
    save_checkpoint,
)
from openmm_mlbench.simulation.dossier import FullRate, Observation, Rewind, write_dossier
from openmm_mlbench.simulation.metadynamics.bias import Bias, BiasPlan, make_bias
from openmm_mlbench.simulation.metadynamics.hills import cut_back
from openmm_mlbench.simulation.momenta import (
    RigidBonds,
    compute_temperatures,
    draw_velocities,
    velocity_lag_ps,
)
from openmm_mlbench.simulation.monitor import FrameRecord, Monitor, Stop, Thresholds, WindowCriterion
from openmm_mlbench.simulation.outputs import ReplicaFiles, dcd_bytes, last_frames, read_frames, truncate
from openmm_mlbench.simulation.platforms import (
    PlatformChoice,
    context_properties,
    create_context,
    limit_threads,
)
from openmm_mlbench.simulation.progress import ProgressCallback, ProgressUpdate
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

# The first calls of a TorchScript model are slow and differ in the last bits from all later ones.
WARM_UP_CALLS = 3
_NOTIFY_INTERVAL_S = 0.25
# A DCD file holds A in single precision.
_LARGEST_POSITION_NM = 1e6
_NAN = re.compile(r"\bnan\b", re.IGNORECASE)


class ForceProvider(Interface):
    """What a simulation asks of a force field.

    ``description`` is plain JSON and names the model: keys ``model``,
    ``archive_sha256``, ``dataset`` and ``card``.  With ``jobs`` above one the
    provider is pickled and made again in each process.
    """

    @property
    def description(self) -> dict[str, Any]:
        """Of the model, for the run's record."""

    def create_system(self, topology: Any, *, constraints: Any = None) -> Any:
        """An OpenMM System for this OpenMM Topology."""


@dataclass(frozen=True, kw_only=True)
class ReplicaTask:
    """Everything that one replica needs; can be sent to another process.

    Args:
        replica: its number.
        n_replicas: of how many.
        folder: where it writes.
        structure: PDB file of the molecule.
        protocol: how to simulate.
        provider: the forces.
        positions_nm: (n_atoms, 3), nm, the start frame.
        n_steps: where to end.
        seed: of the whole run.
        bonds: (n_bonds, 2), watched by the monitor.
        equilibrium_A: (n_bonds,), their lengths in the reference.
        thresholds: where collapse begins.
        platform: OpenMM platform.
        threads: CPU threads.
        resume: go on from the latest checkpoint.
        box_nm: (3, 3), rows are the box vectors of the start frame, nm, or None: those of the structure, if any.
        window: judges windows of frames, or None.
        bias: how metadynamics is carried out, or None.
    """

    replica: int
    n_replicas: int
    folder: Path
    structure: Path
    protocol: Protocol
    provider: ForceProvider
    positions_nm: NDArray[np.float64]
    n_steps: int
    seed: int
    bonds: NDArray[np.int64]
    equilibrium_A: NDArray[np.float64]
    thresholds: Thresholds
    platform: PlatformChoice
    threads: int = 1
    resume: bool = False
    box_nm: NDArray[np.float64] | None = None
    window: WindowCriterion | None = None
    bias: BiasPlan | None = None


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
            _tell(task, status, notify)
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
    return _Replica(task, system, checkpoint, notify, should_stop).run()


def create_system(provider: ForceProvider, protocol: Protocol, topology: Any) -> Any:
    """The provider's System with the protocol's constraints and barostat, its centre of mass kept at rest.

    OpenMM's Nose-Hoover counts 3N - 3 degrees of freedom only where the System
    has a CMMotionRemover; without one the internal temperature would be wrong
    by a factor of up to (3N) / (3N - 3).

    Raises:
        SimulationError: a barostat for forces without energy, or without a cell.
    """
    import openmm
    from openmm import app

    constraints = {"none": None, "h-bonds": app.HBonds}[protocol.constraints]
    system = provider.create_system(topology, constraints=constraints)
    if not any(isinstance(force, openmm.CMMotionRemover) for force in system.getForces()):
        system.addForce(openmm.CMMotionRemover())
    if protocol.ensemble == "NPT":
        add_barostat(system, protocol, topology, provider.description)
    return system


def read_structure(path: Path) -> Any:
    """The OpenMM topology of a PDB file.

    Raises:
        SimulationError: missing, unreadable, or an atom without element.
    """
    from openmm import app

    try:
        topology = app.PDBFile(str(path)).topology
    except Exception as error:  # the parser raises whatever it meets
        raise SimulationError(
            f"{path}: not a readable PDB file ({error}); give the structure's PDB file"
        ) from error
    if not topology.getNumAtoms() or any(atom.element is None for atom in topology.atoms()):
        raise SimulationError(f"{path}: has no atoms, or atoms without element; fill in columns 77-78")
    return topology


class _Replica:
    """The state of a replica while it runs."""

    def __init__(
        self,
        task: ReplicaTask,
        system: Any,
        checkpoint: Checkpoint | None,
        notify: ProgressCallback | None,
        should_stop: Callable[[], bool],
    ) -> None:
        self.task = task
        self.notify = notify
        self.should_stop = should_stop
        self.checkpoint = checkpoint
        self.step = checkpoint.step if checkpoint else 0
        self.timed_steps = checkpoint.timed_steps if checkpoint else 0
        self.timed_seconds = checkpoint.timed_seconds if checkpoint else 0.0
        self.resume = "none"
        self.last_frame_written = True
        self.notified = -math.inf
        self.topology = read_structure(task.structure)
        self.bias = self._make_bias()
        self.ahead_steps = checkpoint.ahead_steps if checkpoint else 0
        # A bias is added for good, so it wants a System of its own.
        if system is None or self.bias is not None:
            system = create_system(task.provider, task.protocol, self.topology)
        self.system = system
        if self.bias is not None:
            self.bias.add_to(system)
        self.has_barostat = seed_barostat(system, barostat_seed(task.seed, task.replica, self.step))
        limit_threads(task.threads)
        # A stream that the State XML cannot restore must not be repeated: it depends on the step.
        self.integrator = task.protocol.make_integrator(integrator_seed(task.seed, task.replica, self.step))
        self.lag_ps = velocity_lag_ps(self.integrator)
        self.rigid_bonds = RigidBonds(self.system)
        self.masses = np.array(
            [_numbers(self.system.getParticleMass(i)) for i in range(self.system.getNumParticles())]
        )
        with self.bias.log() if self.bias is not None else nullcontext():
            self.context = create_context(self.system, self.integrator, task.platform)
        self.properties = context_properties(self.context)
        self.periodic = bool(self.system.usesPeriodicBoundaryConditions())
        self.rewind = Rewind(self.context, task.protocol.steps_per_frame)

    def run(self) -> ReplicaStatus:
        """From start or checkpoint to the end."""
        try:
            start_energy = self._warm_up()
            self._set_state()
        except MLBenchError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever the engine or the model raises
            return self._fail(error)
        try:
            return self._simulate(start_energy)
        except OSError as error:
            raise self._disk_error(error) from error

    def _simulate(self, start_energy: float) -> ReplicaStatus:
        task = self.task
        checkpoint = self.checkpoint
        self.files = ReplicaFiles(
            task.folder,
            self.topology,
            task.protocol.timestep_ps,
            task.protocol.steps_per_frame,
            checkpoint.offsets if checkpoint else None,
        )
        try:
            self.monitor = Monitor(
                thresholds=task.thresholds,
                bonds=task.bonds,
                equilibrium_A=task.equilibrium_A,
                atom_names=tuple(atom.name for atom in self.topology.atoms()),
                temperature_K=task.protocol.temperature_K,
                frame_interval_ps=task.protocol.frame_interval_ps,
                start_energy_kJ_mol=start_energy,
                positions_nm=self._positions(),
                recent=checkpoint.recent if checkpoint else None,
                box_nm=self._box(),
                window=task.window,
                held=self._held_frames(),
            )
            if self.bias is not None:
                self.bias.begin(self.context)
            if not math.isfinite(start_energy):
                return self._collapse(
                    self.monitor.exploded(0, 0.0, "energy of the start frame is NaN or infinite")
                )
            self._remember(self.monitor.previous_nm)
            return self._loop()
        finally:
            self.files.close()
            if self.bias is not None:
                self.bias.close()

    def _loop(self) -> ReplicaStatus:
        self._status("running").write(self.task.folder)
        frames_per_checkpoint = round(
            self.task.protocol.checkpoint_interval_ps / self.task.protocol.frame_interval_ps
        )
        clock = time.perf_counter()
        while self.step < self.task.n_steps:
            try:
                stop = self._advance()
            except OSError:
                raise
            except Exception as error:  # noqa: BLE001 - whatever the engine or the model raises
                return self._fail(error)
            now = time.perf_counter()
            self.timed_seconds, clock = self.timed_seconds + now - clock, now
            if stop is not None:
                return self._collapse(stop)
            last = self.step >= self.task.n_steps
            interrupted = not last and self.should_stop()
            due = self.files.n_frames % frames_per_checkpoint == 0
            # The barostat starts anew at checkpoints, which must fall alike however often a run is stopped.
            due = due or ((last or interrupted) and not self.has_barostat)
            # While a bond is beyond its limit the last good checkpoint stays the last one.
            if self.monitor.offence is None and due:
                self._save()
                if self.has_barostat and not last:
                    self._renew()
            if interrupted:
                return self._end("interrupted", message=f"interrupted at {self._time_ps():g} ps")
            self._tell()
        if self.monitor.offence is not None:
            return self._collapse(self.monitor.offence)
        return self._end("finished")

    def _advance(self) -> Stop | None:
        """Simulate to the next frame, write it and judge it."""
        import openmm

        n_steps = self.task.protocol.steps_per_frame
        begin = time.perf_counter()
        try:
            self._step(n_steps)
            # A collapsing frame may hold anything; the monitor looks at what comes out.
            with np.errstate(all="ignore"):
                now = self._observe(self.step + n_steps)
                if self.bias is not None:
                    self.bias.end_frame(self.step + n_steps)
        except openmm.OpenMMException as error:
            if not _NAN.search(str(error)):
                raise
            step = int(self.context.getStepCount())
            return self.monitor.exploded(step, step * self.task.protocol.timestep_ps, _one_line(error))
        self.step += n_steps
        self.timed_steps += n_steps
        self.speed = n_steps / (time.perf_counter() - begin)
        offence = self.monitor.offence
        with np.errstate(all="ignore"):
            stop = self.monitor.check(now.record, now.positions_nm, now.box_nm)
        self.last_frame_written = bool((np.abs(now.positions_nm) < _LARGEST_POSITION_NM).all())
        if self.last_frame_written:
            self.files.append(now.record, now.positions_nm, now.box_nm, self.speed)
        if self.monitor.offence is None:
            self._remember(now.positions_nm)
        elif offence is None:
            self.rewind.note(self.step, now.positions_nm)
        return stop

    def _step(self, n_steps: int) -> None:
        """Simulate to the step that is so many after the last frame."""
        if self.bias is None:
            self.integrator.step(n_steps)
            return
        ahead, self.ahead_steps = self.ahead_steps, 0
        self.bias.advance(self.step + ahead, n_steps - ahead)

    def _make_bias(self) -> Bias | None:
        task, checkpoint = self.task, self.checkpoint
        if task.bias is None:
            return None
        return make_bias(
            task.bias,
            task.protocol,
            task.folder,
            walkers=[replica_folder(task.folder.parent, i) for i in range(task.n_replicas)],
            restart=checkpoint.offsets.bias_bytes if checkpoint else None,
        )

    def _remember(self, positions_nm: NDArray[np.float64]) -> None:
        window = self.task.window
        begins = window is not None and self.files.n_frames % window.frames_per_window == 0
        self.rewind.keep(self.step, positions_nm, window_begins=begins)

    def _observe(self, step: int) -> Observation:
        """The present configuration: one evaluation of energy and forces."""
        state = self.context.getState(positions=True, velocities=True, forces=True, energy=True)
        positions_nm = _numbers(state.getPositions(asNumpy=True))
        forces = _numbers(state.getForces(asNumpy=True))
        velocities = _numbers(state.getVelocities(asNumpy=True)) + self.lag_ps * forces / self.masses[:, None]
        velocities = self.rigid_bonds.project(positions_nm, velocities, self.masses)
        box_nm = _numbers(state.getPeriodicBoxVectors(asNumpy=True)) if self.periodic else None
        temperatures = compute_temperatures(
            positions_nm,
            velocities,
            self.masses,
            self.system.getNumConstraints(),
            isolated=not self.periodic,
        )
        record = FrameRecord(
            step=step,
            time_ps=round(step * self.task.protocol.timestep_ps, 9),
            potential_energy_kJ_mol=float(_numbers(state.getPotentialEnergy())),
            kinetic_energy_kJ_mol=self._kinetic_energy(state, velocities),
            temperature_K=temperatures.total,
            T_rot_K=temperatures.rotation,
            T_vib_K=temperatures.vibration,
            max_bond_deviation_A=float(self.monitor.bond_deviations_A(positions_nm, box_nm).max(initial=0.0)),
            max_force_kJ_mol_nm=float(np.sqrt((forces**2).sum(axis=1)).max()),
            volume_A3=None if box_nm is None else 1000.0 * abs(float(np.linalg.det(box_nm))),
        )
        return Observation(record=record, positions_nm=positions_nm, box_nm=box_nm, forces=forces)

    def _kinetic_energy(self, state: Any, velocities: NDArray[np.float64]) -> float:
        """OpenMM's own, which for Verlet is that of a shifted time; with a thermostat without motion along rigid bonds."""
        if self.lag_ps or not len(self.rigid_bonds.pairs):
            return float(_numbers(state.getKineticEnergy()))
        return float(0.5 * self.masses @ (velocities**2).sum(axis=1))

    def _warm_up(self) -> float:
        """Discarded force calls on the start frame; its potential energy, kJ/mol."""
        if self.checkpoint is not None:
            # What counts steps by itself (PLUMED) must not take these calls for the first step.
            self.context.setStepCount(self.step + self.ahead_steps)
        if self.periodic and self.task.box_nm is not None:
            self.context.setPeriodicBoxVectors(*self.task.box_nm)
        self.context.setPositions(self.task.positions_nm)
        if self.system.getNumConstraints():
            self.context.applyConstraints(self.integrator.getConstraintTolerance())
        for _ in range(WARM_UP_CALLS):
            state = self.context.getState(energy=True, forces=True)
        return float(_numbers(state.getPotentialEnergy()))

    def _renew(self) -> None:
        """Make the Context anew, as resuming would: with the barostat in its first state."""
        content = self.context.createCheckpoint()
        self.context.reinitialize()
        self._warm_up()
        self.context.loadCheckpoint(content)

    def _set_state(self) -> None:
        """Draw the momenta, or load the checkpoint."""
        task = self.task
        if self.checkpoint is None:
            generator = velocity_generator(task.seed, task.replica)
            self.context.setVelocities(draw_velocities(self.masses, task.protocol.temperature_K, generator))
            if self.system.getNumConstraints():
                self.context.applyVelocityConstraints(self.integrator.getConstraintTolerance())
            return
        loaded = load_checkpoint(task.folder, self.checkpoint, self.context, self.properties)
        # Once inexact, a run never becomes exact again.
        self.resume = "inexact" if "inexact" in (loaded, self.checkpoint.resume) else "exact"

    def _save(self) -> None:
        import openmm

        offsets = self.files.sync()
        if self.bias is not None:
            try:
                self._step(self.bias.ahead_steps)
            except openmm.OpenMMException:
                # The next frame will tell what this was; the checkpoint before stays the last one.
                return
            self.ahead_steps = self.bias.ahead_steps
            offsets = replace(offsets, bias_bytes=self.bias.sync())
        self.checkpoint = save_checkpoint(
            self.task.folder,
            self.context,
            step=self.step,
            time_ps=self._time_ps(),
            offsets=offsets,
            ahead_steps=self.ahead_steps,
            engine=engine_description(self.context, self.properties),
            resume=self.resume,
            timed_steps=self.timed_steps,
            timed_seconds=self.timed_seconds,
            recent=self.monitor.rows(),
        )
        self._status("running").write(self.task.folder)

    def _collapse(self, stop: Stop) -> ReplicaStatus:
        """Write the dossier, then the status that makes it valid."""
        task = self.task
        self.files.sync()
        n_kept = len(self.monitor.recent) - (not self.last_frame_written)
        frames = last_frames(task.folder, self.files.n_frames, n_kept, task.protocol.steps_per_frame)
        full_rate = self._full_rate(stop)
        trajectory = b""
        if isinstance(full_rate, FullRate):
            trajectory = dcd_bytes(
                self.topology,
                full_rate.positions_nm,
                full_rate.boxes_nm,
                timestep_ps=task.protocol.timestep_ps,
                first_step=full_rate.steps[0].step,
            )
        write_dossier(task.folder / "dossier", stop, self.monitor, frames, full_rate, trajectory)
        return self._end("unstable", reason=stop.reason, message=stop.message, stable_ps=stop.time_ps)

    def _full_rate(self, stop: Stop) -> FullRate | str:
        """The steps around the offence, or why there are none; no trouble here changes how the replica ended."""
        if self.task.bias is not None and self.task.bias.backend == "plumed":
            return "PLUMED would deposit the hills of a repetition again; see frames.dcd"
        numbers = np.array([atom.element.atomic_number for atom in self.topology.atoms()])
        try:
            with np.errstate(all="ignore"):
                return self.rewind.repeat(
                    stop, self.monitor, numbers, self._observe, lambda: self.integrator.step(1)
                )
        except Exception as error:  # noqa: BLE001 - whatever the engine or the model raises
            return f"could not be repeated ({type(error).__name__}: {_one_line(error)})"

    def _fail(self, error: Exception) -> ReplicaStatus:
        """An error of the engine or the model: this replica ends, the others go on."""
        text = "".join(traceback.format_exception(error))
        write_text(self.task.folder / "dossier" / "error.txt", text)
        return self._end("failed", reason="error", message=f"{type(error).__name__}: {_one_line(error)}")

    def _disk_error(self, error: OSError) -> SimulationError:
        """Cut the files back to the last checkpoint; the line that says what happened."""
        folder, checkpoint = self.task.folder, self.checkpoint
        reached_ps = self._time_ps()
        with suppress(OSError, SimulationError):
            if checkpoint is None:
                remove_replica(folder)
            else:
                truncate(folder, checkpoint.offsets, self.task.protocol.steps_per_frame)
                if self.bias is not None:
                    cut_back(folder, checkpoint.offsets.bias_bytes)
                self.step, self.files.n_frames = checkpoint.step, checkpoint.offsets.n_frames
                self._status("interrupted", reason="disk", message=_one_line(error)).write(folder)
        return disk_error(folder, error, f"at {reached_ps:g} ps", checkpoint.time_ps if checkpoint else 0.0)

    def _status(self, state: str, **more: Any) -> ReplicaStatus:
        files = getattr(self, "files", None)
        return ReplicaStatus(
            replica=self.task.replica,
            state=state,
            step=self.step,
            time_ps=self._time_ps(),
            length_ps=round(self.task.n_steps * self.task.protocol.timestep_ps, 9),
            n_frames=files.n_frames if files else 0,
            steps_per_second=self.timed_steps / self.timed_seconds if self.timed_seconds > 0 else None,
            resume=self.resume,
            platform={"name": self.task.platform.name, **self.properties},
            **more,
        )

    def _end(self, state: str, **more: Any) -> ReplicaStatus:
        status = self._status(state, **more)
        status.write(self.task.folder)
        _tell(self.task, status, self.notify)
        return status

    def _tell(self) -> None:
        if self.notify is not None and time.monotonic() - self.notified > _NOTIFY_INTERVAL_S:
            self.notified = time.monotonic()
            self.notify(
                ProgressUpdate(
                    replica=self.task.replica,
                    n_replicas=self.task.n_replicas,
                    time_ps=self._time_ps(),
                    length_ps=self.task.n_steps * self.task.protocol.timestep_ps,
                    steps_per_second=self.speed,
                    state="running",
                )
            )

    def _time_ps(self) -> float:
        return round(self.step * self.task.protocol.timestep_ps, 9)

    def _positions(self) -> NDArray[np.float64]:
        return _numbers(self.context.getState(positions=True).getPositions(asNumpy=True))

    def _box(self) -> NDArray[np.float64] | None:
        if not self.periodic:
            return None
        return _numbers(self.context.getState().getPeriodicBoxVectors(asNumpy=True))

    def _held_frames(self) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """Frames of the window that a checkpoint fell into."""
        if self.task.window is None or not self.files.n_frames:
            return []
        n_held = self.files.n_frames % self.task.window.frames_per_window
        return read_frames(self.task.folder, self.files.n_frames, n_held)


def _tell(task: ReplicaTask, status: ReplicaStatus, notify: ProgressCallback | None) -> None:
    if notify is not None:
        notify(
            ProgressUpdate(
                replica=task.replica,
                n_replicas=task.n_replicas,
                time_ps=status.time_ps,
                length_ps=status.length_ps,
                steps_per_second=None,
                state=status.state,
            )
        )


def _numbers(quantity: Any) -> Any:
    """The numbers of a quantity in OpenMM's own units (nm, ps, kJ/mol)."""
    import openmm

    return quantity.value_in_unit_system(openmm.unit.md_unit_system)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
