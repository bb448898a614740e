"""The growing files of one replica: trajectory.dcd and log.csv.

Both can be cut back to the byte offsets that a checkpoint remembers, so that
a resumed run leaves the files that it would have left without the break.
"""

import io
import os
import struct
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from openmm_mlbench.cells import cells_of_dcd
from openmm_mlbench.errors import SimulationError
from openmm_mlbench.simulation.monitor import FrameRecord
from openmm_mlbench.units import NM_PER_ANGSTROM

TRAJECTORY = "trajectory.dcd"
LOG = "log.csv"
COLUMNS = (
    "step",
    "time_ps",
    "potential_energy_kJ_mol",
    "kinetic_energy_kJ_mol",
    "total_energy_kJ_mol",
    "temperature_K",
    "T_rot_K",
    "T_vib_K",
    "max_bond_deviation_A",
    "steps_per_second",
)
# In a periodic cell only; before the last column, the only one that a clock decides.
_VOLUME = "volume_A3"
# Layout of OpenMM's DCD header: frame count, last step, second title line, number of atoms, whole header.
_FRAMES_AT, _LAST_STEP_AT, _TITLE_AT, _ATOMS_AT, HEADER_BYTES = 8, 20, 180, 268, 276
# Beyond this a DCD file, A in single precision, says nothing.
_EDGE_NM = 1e6
_TITLE = b"Unwrapped coordinates, written by openmm_mlbench"


@dataclass(frozen=True, kw_only=True)
class Offsets:
    """How long each file was, in bytes, and how many frames it held; HILLS and COLVAR by name."""

    trajectory_bytes: int
    log_bytes: int
    n_frames: int
    bias_bytes: dict[str, int] = field(default_factory=dict)


class ReplicaFiles:
    """Appends frames to trajectory.dcd (unwrapped positions) and rows to log.csv.

    Args:
        folder: of the replica.
        topology: OpenMM topology.
        timestep_ps: integration step.
        steps_per_frame: steps between frames; the first frame is that of this step.
        offsets: where to go on; None begins new files.

    Raises:
        SimulationError: a file is shorter than its offset.
    """

    def __init__(
        self, folder: Path, topology: Any, timestep_ps: float, steps_per_frame: int, offsets: Offsets | None
    ) -> None:
        from openmm.app import DCDFile

        self.folder = folder
        if offsets is not None:
            truncate(folder, offsets, steps_per_frame)
        periodic = topology.getPeriodicBoxVectors() is not None
        self._columns: tuple[str, ...] = (*COLUMNS[:-1], _VOLUME, COLUMNS[-1]) if periodic else COLUMNS
        if offsets is not None:
            # As they were begun, maybe by another version.
            with open(folder / LOG, encoding="utf-8") as file:
                self._columns = tuple(file.readline().strip().split(","))
        mode = "w+b" if offsets is None else "r+b"
        self._trajectory: IO[bytes] = open(folder / TRAJECTORY, mode)  # noqa: SIM115 - closed by close()
        self._log: IO[str] = open(folder / LOG, "w" if offsets is None else "a", newline="")  # noqa: SIM115
        self._dcd = DCDFile(
            self._trajectory,
            topology,
            timestep_ps,
            steps_per_frame,
            steps_per_frame,
            append=offsets is not None,
        )
        self.n_frames = offsets.n_frames if offsets is not None else 0
        if offsets is None:
            # OpenMM puts the date here, and then no two runs would leave equal files.
            self._trajectory.seek(_TITLE_AT)
            self._trajectory.write(_TITLE.ljust(80, b"\0"))
            self._log.write(",".join(self._columns) + "\n")
            self.flush()

    def append(
        self,
        record: FrameRecord,
        positions_nm: NDArray[np.float64],
        box_nm: NDArray[np.float64] | None,
        steps_per_second: float,
    ) -> None:
        """Write one frame and its row; both reach the operating system at once."""
        self._dcd.writeModel(positions_nm, periodicBoxVectors=_quantity(box_nm))
        self.n_frames += 1
        values = [getattr(record, name) for name in self._columns[2:-1]]
        row = [str(record.step), f"{record.time_ps:.10g}", *(_text(value) for value in values)]
        self._log.write(",".join([*row, f"{steps_per_second:.1f}"]) + "\n")
        self.flush()

    def flush(self) -> None:
        """Hand everything to the operating system."""
        self._trajectory.flush()
        self._log.flush()

    def sync(self) -> Offsets:
        """Make everything durable; the offsets to remember."""
        self.flush()
        for file in (self._trajectory, self._log):
            os.fsync(file.fileno())
        return Offsets(
            trajectory_bytes=os.fstat(self._trajectory.fileno()).st_size,
            log_bytes=os.fstat(self._log.fileno()).st_size,
            n_frames=self.n_frames,
        )

    def close(self) -> None:
        """Close both files; what a full disk did not take is lost silently, for it was reported before."""
        for file in (self._trajectory, self._log):
            with suppress(OSError):
                file.close()


def truncate(folder: Path, offsets: Offsets, steps_per_frame: int) -> None:
    """Cut both files back to these offsets and mend the DCD header.

    Raises:
        SimulationError: a file is missing or shorter than its offset.
    """
    for name, size in ((TRAJECTORY, offsets.trajectory_bytes), (LOG, offsets.log_bytes)):
        path = folder / name
        found = path.stat().st_size if path.is_file() else 0
        if found < size:
            raise SimulationError(
                f"{path}: {found} bytes, but the checkpoint was taken at {size}; the file was changed since: "
                "put it back, or start again with --overwrite"
            )
        os.truncate(path, size)
    with open(folder / TRAJECTORY, "r+b") as file:
        _write_counts(file, offsets.n_frames, steps_per_frame)


def last_frames(folder: Path, n_frames: int, n_kept: int, steps_per_frame: int) -> bytes:
    """A DCD file with the last frames of trajectory.dcd.

    Args:
        folder: of the replica.
        n_frames: frames in trajectory.dcd.
        n_kept: how many to take.
        steps_per_frame: for the header.
    """
    content = (folder / TRAJECTORY).read_bytes()
    header, frames = content[:HEADER_BYTES], content[HEADER_BYTES:]
    size = len(frames) // n_frames if n_frames else 0
    n_kept = min(n_kept, n_frames)
    first_step = (n_frames - n_kept + 1) * steps_per_frame
    counts = struct.pack("<2i", n_kept, first_step)
    header = header[:_FRAMES_AT] + counts + header[_FRAMES_AT + 8 :]
    return header + frames[(n_frames - n_kept) * size :]


def read_frames(
    folder: Path, n_frames: int, n_kept: int
) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Positions (n_atoms, 3) and box vectors (3, 3), nm, of the last of the first n_frames of a periodic trajectory.

    Args:
        folder: of the replica.
        n_frames: frames up to where.
        n_kept: how many of them to take.
    """
    if not n_kept:
        return []
    (n_atoms,) = np.fromfile(folder / TRAJECTORY, dtype="<i4", count=1, offset=_ATOMS_AT)
    axis = [("open", "<i4"), ("values", "<f4", (n_atoms,)), ("close", "<i4")]
    frame = np.dtype(
        [
            ("cell_open", "<i4"),
            ("cell", "<f8", (6,)),
            ("cell_close", "<i4"),
            ("x", axis),
            ("y", axis),
            ("z", axis),
        ]
    )
    begin = HEADER_BYTES + (n_frames - n_kept) * frame.itemsize
    frames = np.fromfile(folder / TRAJECTORY, dtype=frame, count=n_kept, offset=begin)
    positions_A = np.stack([frames[name]["values"] for name in "xyz"], axis=-1).astype(np.float64)
    return list(
        zip(positions_A * NM_PER_ANGSTROM, cells_of_dcd(frames["cell"]) * NM_PER_ANGSTROM, strict=True)
    )


def dcd_bytes(
    topology: Any,
    positions_nm: NDArray[np.float64],
    boxes_nm: NDArray[np.float64] | None,
    *,
    timestep_ps: float,
    first_step: int,
) -> bytes:
    """A DCD file with a frame for every step.

    Args:
        topology: OpenMM topology.
        positions_nm: (n_frames, n_atoms, 3).
        boxes_nm: (n_frames, 3, 3) or None.
        timestep_ps: time between frames.
        first_step: step of the first one.
    """
    from openmm.app import DCDFile

    file = io.BytesIO()
    dcd = DCDFile(file, topology, timestep_ps, first_step, 1)
    for i, positions in enumerate(positions_nm):
        # What left the range of the file stays at its edge.
        inside = np.clip(np.nan_to_num(positions), -_EDGE_NM, _EDGE_NM)
        dcd.writeModel(inside, periodicBoxVectors=None if boxes_nm is None else _quantity(boxes_nm[i]))
    file.seek(_TITLE_AT)
    file.write(_TITLE.ljust(80, b"\0"))
    return file.getvalue()


def _quantity(box_nm: NDArray[np.float64] | None) -> Any:
    """Box vectors as OpenMM's file writers want them."""
    import openmm

    return None if box_nm is None else [openmm.Vec3(*row) for row in box_nm] * openmm.unit.nanometer


def _write_counts(file: IO[bytes], n_frames: int, steps_per_frame: int) -> None:
    file.seek(_FRAMES_AT)
    file.write(struct.pack("<i", n_frames))
    file.seek(_LAST_STEP_AT)
    file.write(struct.pack("<i", n_frames * steps_per_frame))


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.10g}"
