"""What one replica leaves behind, whichever engine moves it: frames, log, verdict, checkpoints, dossier.

An engine (a Context of its own, or a share of one) hands over configurations; the logbook writes and judges
them and says when the replica has to end.
"""

import math
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmm_mlbench.errors import SimulationError
from openmm_mlbench.files import write_text
from openmm_mlbench.simulation.checkpoint import Checkpoint, save_checkpoint
from openmm_mlbench.simulation.dossier import FullRate, Observation, Rewind, write_dossier
from openmm_mlbench.simulation.momenta import RigidBonds, compute_temperatures
from openmm_mlbench.simulation.monitor import FrameRecord, Monitor, Stop
from openmm_mlbench.simulation.outputs import (
    Offsets,
    ReplicaFiles,
    dcd_bytes,
    last_frames,
    read_frames,
    truncate,
)
from openmm_mlbench.simulation.progress import ProgressCallback, ProgressUpdate
from openmm_mlbench.simulation.run_folder import ReplicaStatus, disk_error, remove_replica
from openmm_mlbench.simulation.task import ReplicaTask

_NOTIFY_INTERVAL_S = 0.25
# A DCD file holds A in single precision.
_LARGEST_POSITION_NM = 1e6


class Logbook:
    """The books of a replica while it runs.

    Args:
        task: what it is told to do.
        topology: OpenMM topology of one replica.
        masses: (n_atoms,), dalton.
        rigid_bonds: of the replica's System.
        lag_ps: of the integrator's velocities, see ``velocity_lag_ps``.
        periodic: whether it has a cell.
        platform: name and properties, for its status.
        checkpoint: where it goes on, or None.
        batch: numbers of the replicas that share its Context, or None where it has one of its own.
        notify: is told how far it is.

    Attributes:
        step: of the last frame.
    """

    files: ReplicaFiles
    monitor: Monitor

    def __init__(
        self,
        task: ReplicaTask,
        *,
        topology: Any,
        masses: NDArray[np.float64],
        rigid_bonds: RigidBonds,
        lag_ps: float,
        periodic: bool,
        platform: dict[str, str],
        checkpoint: Checkpoint | None,
        batch: list[int] | None = None,
        notify: ProgressCallback | None = None,
    ) -> None:
        self.task = task
        self.topology = topology
        self.masses = masses
        self.rigid_bonds = rigid_bonds
        self.lag_ps = lag_ps
        self.periodic = periodic
        self.platform = platform
        self.checkpoint = checkpoint
        self.batch = batch
        self.notify = notify
        self.step = checkpoint.step if checkpoint else 0
        self.timed_steps = checkpoint.timed_steps if checkpoint else 0
        self.timed_seconds = checkpoint.timed_seconds if checkpoint else 0.0
        self.resume = "none"
        self.speed = 0.0
        self.last_frame_written = True
        self.rewind = Rewind(task.protocol.steps_per_frame)
        self._notified = -math.inf

    @property
    def time_ps(self) -> float:
        """Simulated time at the last frame."""
        return self._time_of(self.step)

    @property
    def frames_per_checkpoint(self) -> int:
        """Frames from one checkpoint to the next."""
        protocol = self.task.protocol
        return round(protocol.checkpoint_interval_ps / protocol.frame_interval_ps)

    @property
    def is_due(self) -> bool:
        """Whether the protocol wants a checkpoint at this frame."""
        return self.files.n_frames % self.frames_per_checkpoint == 0

    def open(
        self, start_energy: float, positions_nm: NDArray[np.float64], box_nm: NDArray[np.float64] | None
    ) -> None:
        """Open the files at start or checkpoint.

        Args:
            start_energy: of the start frame, kJ/mol.
            positions_nm: (n_atoms, 3), where the replica stands.
            box_nm: (3, 3) or None.
        """
        task, checkpoint = self.task, self.checkpoint
        self.files = ReplicaFiles(
            task.folder,
            self.topology,
            task.protocol.timestep_ps,
            task.protocol.steps_per_frame,
            checkpoint.offsets if checkpoint else None,
        )
        self.monitor = Monitor(
            thresholds=task.thresholds,
            bonds=task.bonds,
            equilibrium_A=task.equilibrium_A,
            atom_names=tuple(atom.name for atom in self.topology.atoms()),
            temperature_K=task.protocol.temperature_K,
            frame_interval_ps=task.protocol.frame_interval_ps,
            start_energy_kJ_mol=start_energy,
            positions_nm=positions_nm,
            recent=checkpoint.recent if checkpoint else None,
            box_nm=box_nm,
            window=task.window,
            held=self._held_frames(),
        )

    def close(self) -> None:
        """Close the files, if they were opened."""
        if hasattr(self, "files"):
            self.files.close()

    def observation(
        self,
        step: int,
        positions_nm: NDArray[np.float64],
        velocities: NDArray[np.float64],
        forces: NDArray[np.float64],
        energy: float,
        box_nm: NDArray[np.float64] | None,
        kinetic_energy: float | None = None,
    ) -> Observation:
        """A configuration as the log and the monitor want it.

        Args:
            step: its number.
            positions_nm: (n_atoms, 3), unwrapped.
            velocities: (n_atoms, 3), nm/ps, as the integrator keeps them.
            forces: (n_atoms, 3), kJ/mol/nm.
            energy: potential energy, kJ/mol.
            box_nm: (3, 3) or None.
            kinetic_energy: kJ/mol, or None: from the velocities.
        """
        velocities = velocities + self.lag_ps * forces / self.masses[:, None]
        velocities = self.rigid_bonds.project(positions_nm, velocities, self.masses)
        temperatures = compute_temperatures(
            positions_nm,
            velocities,
            self.masses,
            len(self.rigid_bonds.pairs),
            isolated=not self.periodic,
        )
        if kinetic_energy is None:
            kinetic_energy = float(0.5 * self.masses @ (velocities**2).sum(axis=1))
        deviations = self.monitor.bond_deviations_A(positions_nm, box_nm)
        record = FrameRecord(
            step=step,
            time_ps=self._time_of(step),
            potential_energy_kJ_mol=energy,
            kinetic_energy_kJ_mol=kinetic_energy,
            temperature_K=temperatures.total,
            T_rot_K=temperatures.rotation,
            T_vib_K=temperatures.vibration,
            max_bond_deviation_A=float(deviations.max(initial=0.0)),
            max_force_kJ_mol_nm=float(np.sqrt((forces**2).sum(axis=1)).max()),
            volume_A3=None if box_nm is None else 1000.0 * abs(float(np.linalg.det(box_nm))),
        )
        return Observation(record=record, positions_nm=positions_nm, box_nm=box_nm, forces=forces)

    def take(self, now: Observation, seconds: float) -> Stop | None:
        """Write and judge a frame that took so many seconds; a Stop when the replica has to end here."""
        n_steps = now.record.step - self.step
        self.step = now.record.step
        self.timed_steps += n_steps
        self.speed = n_steps / seconds
        offended = self.monitor.offence is not None
        # A collapsing frame may hold anything; the monitor looks at what comes out.
        with np.errstate(all="ignore"):
            stop = self.monitor.check(now.record, now.positions_nm, now.box_nm)
        self.last_frame_written = bool((np.abs(now.positions_nm) < _LARGEST_POSITION_NM).all())
        if self.last_frame_written:
            self.files.append(now.record, now.positions_nm, now.box_nm, self.speed)
        if self.monitor.offence is not None and not offended:
            self.rewind.note(self.step, now.positions_nm)
        return stop

    def remember(self, positions_nm: NDArray[np.float64], content: bytes) -> None:
        """Keep a sound frame, with the engine's checkpoint there, to come back to after a collapse."""
        window = self.task.window
        begins = window is not None and self.files.n_frames % window.frames_per_window == 0
        self.rewind.keep(self.step, positions_nm, content, window_begins=begins)

    def exploded(self, step: int, error: Exception) -> Stop:
        """The Stop for a step that the engine refused because of a NaN."""
        return self.monitor.exploded(step, step * self.task.protocol.timestep_ps, one_line(error))

    def save(
        self,
        contents: dict[str, bytes],
        offsets: Offsets,
        engine: dict[str, str],
        ahead_steps: int = 0,
    ) -> None:
        """Write a checkpoint.

        Args:
            contents: of its files, by suffix.
            offsets: of the growing files, synced before the engine went on.
            engine: what has to be equal for the binary file to fit.
            ahead_steps: see Checkpoint.
        """
        self.checkpoint = save_checkpoint(
            self.task.folder,
            contents,
            step=self.step,
            time_ps=self.time_ps,
            offsets=offsets,
            ahead_steps=ahead_steps,
            engine=engine,
            resume=self.resume,
            timed_steps=self.timed_steps,
            timed_seconds=self.timed_seconds,
            recent=self.monitor.rows(),
            scheduled=self.is_due,
        )
        self.write_status("running")

    def write_collapse(self, stop: Stop, repeat: Callable[[NDArray[np.int64]], FullRate]) -> None:
        """Write the dossier; :meth:`end` then makes it valid.

        Args:
            stop: why and where.
            repeat: given the atomic numbers, comes to the offence again step by step.
        """
        task = self.task
        self.files.sync()
        n_kept = len(self.monitor.recent) - (not self.last_frame_written)
        frames = last_frames(task.folder, self.files.n_frames, n_kept, task.protocol.steps_per_frame)
        full_rate = self._full_rate(repeat)
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

    def _full_rate(self, repeat: Callable[[NDArray[np.int64]], FullRate]) -> FullRate | str:
        """The steps around the offence, or why there are none; no trouble here changes how the replica ended."""
        if self.task.bias is not None and self.task.bias.backend == "plumed":
            return "PLUMED would deposit the hills of a repetition again; see frames.dcd"
        atomic_numbers = np.array([atom.element.atomic_number for atom in self.topology.atoms()])
        try:
            with np.errstate(all="ignore"):
                return repeat(atomic_numbers)
        except Exception as error:  # noqa: BLE001 - whatever the engine or the model raises
            return f"could not be repeated ({type(error).__name__}: {one_line(error)})"

    def collapsed(self, stop: Stop) -> ReplicaStatus:
        """The verdict that makes a dossier valid."""
        return self.end("unstable", reason=stop.reason, message=stop.message, stable_ps=stop.time_ps)

    def fail(self, error: Exception) -> ReplicaStatus:
        """An error of the engine or the model: this replica ends, the others go on."""
        text = "".join(traceback.format_exception(error))
        write_text(self.task.folder / "dossier" / "error.txt", text)
        return self.end("failed", reason="error", message=f"{type(error).__name__}: {one_line(error)}")

    def end(self, state: str, **more: Any) -> ReplicaStatus:
        """Write how the replica ended, or was left."""
        status = self.write_status(state, **more)
        tell(self.task, status, self.notify)
        return status

    def write_status(self, state: str, **more: Any) -> ReplicaStatus:
        """Write status.json."""
        status = ReplicaStatus(
            replica=self.task.replica,
            state=state,
            step=self.step,
            time_ps=self.time_ps,
            length_ps=round(self.task.n_steps * self.task.protocol.timestep_ps, 9),
            n_frames=self.files.n_frames if hasattr(self, "files") else 0,
            steps_per_second=self.timed_steps / self.timed_seconds if self.timed_seconds > 0 else None,
            resume=self.resume,
            platform={"name": self.task.platform.name, **self.platform},
            batch=self.batch,
            **more,
        )
        status.write(self.task.folder)
        return status

    def tell(self) -> None:
        """Say how far the replica is, now and then."""
        if self.notify is not None and time.monotonic() - self._notified > _NOTIFY_INTERVAL_S:
            self._notified = time.monotonic()
            self.notify(
                ProgressUpdate(
                    replica=self.task.replica,
                    n_replicas=self.task.n_replicas,
                    time_ps=self.time_ps,
                    length_ps=self.task.n_steps * self.task.protocol.timestep_ps,
                    steps_per_second=self.speed,
                    state="running",
                )
            )

    def disk_error(
        self, error: OSError, cut_back: Callable[[Offsets], None] | None = None
    ) -> SimulationError:
        """Cut the files back to the last checkpoint; the line that says what happened.

        Args:
            error: of the disk.
            cut_back: does the same for other growing files.
        """
        folder, checkpoint = self.task.folder, self.checkpoint
        reached_ps = self.time_ps
        with suppress(OSError, SimulationError):
            if checkpoint is None:
                remove_replica(folder)
            else:
                truncate(folder, checkpoint.offsets, self.task.protocol.steps_per_frame)
                if cut_back is not None:
                    cut_back(checkpoint.offsets)
                self.step, self.files.n_frames = checkpoint.step, checkpoint.offsets.n_frames
                self.write_status("interrupted", reason="disk", message=one_line(error))
        return disk_error(folder, error, f"at {reached_ps:g} ps", checkpoint.time_ps if checkpoint else 0.0)

    def _time_of(self, step: int) -> float:
        return round(step * self.task.protocol.timestep_ps, 9)

    def _held_frames(self) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """Frames of the window that a checkpoint fell into."""
        if self.task.window is None or not self.files.n_frames:
            return []
        n_held = self.files.n_frames % self.task.window.frames_per_window
        return read_frames(self.task.folder, self.files.n_frames, n_held)


def tell(task: ReplicaTask, status: ReplicaStatus, notify: ProgressCallback | None) -> None:
    """Tell of a status."""
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


def one_line(error: Exception) -> str:
    """What an error says."""
    return " ".join(str(error).split())
