"""Frozen trajectories and the DCD files that OpenMM writes."""

import os
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from openmm_mlbench.cells import cells_of_dcd
from openmm_mlbench.errors import TrajectoryError
from openmm_mlbench.topology import Topology
from openmm_mlbench.units import ANGSTROM_PER_NM, NM_PER_ANGSTROM

# CHARMM's time unit, which the DCD header uses for the time step, in ps.
AKMA_PS = 0.04888821


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """Positions of the same atoms at equal intervals.

    Coordinates may be NaN or Infinity: a simulation that blew up is still a
    trajectory, and the stability criterion counts such a frame as broken.

    Args:
        positions_nm: (n_frames, n_atoms, 3), nm, unwrapped.
        box_vectors_nm: (n_frames, 3, 3), rows are box vectors, nm, or None (not periodic).
        atomic_numbers: (n_atoms,).
        frame_interval_ps: time between frames, ps.
        first_frame_ps: time of the first frame, ps.
        source: file the frames come from.

    Raises:
        TrajectoryError: a shape or time does not fit.
    """

    positions_nm: NDArray[np.float64]
    box_vectors_nm: NDArray[np.float64] | None
    atomic_numbers: NDArray[np.int64]
    frame_interval_ps: float
    first_frame_ps: float = 0.0
    source: str = ""

    def __post_init__(self) -> None:
        shape = self.positions_nm.shape
        if len(shape) != 3 or shape[2] != 3:
            raise TrajectoryError(
                f"{self.source}: positions have shape {shape}; wanted (n_frames, n_atoms, 3)"
            )
        if self.atomic_numbers.shape != (shape[1],):
            raise TrajectoryError(
                f"{self.source}: {shape[1]} atoms per frame but {len(self.atomic_numbers)} atomic numbers; "
                "use the topology of this simulation"
            )
        if self.box_vectors_nm is not None and self.box_vectors_nm.shape != (shape[0], 3, 3):
            raise TrajectoryError(
                f"{self.source}: box vectors have shape {self.box_vectors_nm.shape}; wanted {(shape[0], 3, 3)}"
            )
        if not (np.isfinite(self.frame_interval_ps) and self.frame_interval_ps > 0):
            raise TrajectoryError(
                f"{self.source}: frame interval {self.frame_interval_ps} ps; give the protocol's, above zero"
            )

    @property
    def n_frames(self) -> int:
        """Number of frames."""
        return int(self.positions_nm.shape[0])

    @property
    def n_atoms(self) -> int:
        """Number of atoms."""
        return int(self.positions_nm.shape[1])

    @property
    def times_ps(self) -> NDArray[np.float64]:
        """(n_frames,), ps since the start of the simulation."""
        return self.first_frame_ps + self.frame_interval_ps * np.arange(self.n_frames, dtype=np.float64)

    @property
    def positions_A(self) -> NDArray[np.float64]:  # noqa: N802 - A is the unit
        """(n_frames, n_atoms, 3), A."""
        return self.positions_nm * ANGSTROM_PER_NM


@dataclass(frozen=True, kw_only=True)
class _Header:
    n_frames: int
    first_step: int
    interval_steps: int
    timestep_ps: float
    has_cell: bool
    n_atoms: int
    size: int


def read_dcd(
    path: str | os.PathLike[str],
    topology: Topology,
    frame_interval_ps: float,
    *,
    allow_partial: bool = False,
) -> Trajectory:
    """A DCD file as OpenMM writes it (little-endian, 32-bit records, A).

    The file is read here and not by mdtraj, whose reader prints to standard
    output and passes over missing frames; a test holds the two side by side.

    Args:
        path: the DCD file.
        topology: its atoms.
        frame_interval_ps: time between frames from the protocol; must agree with the header.
        allow_partial: read the whole frames of an interrupted simulation instead of refusing the file.

    Raises:
        TrajectoryError: no DCD file, truncated, other atoms than the topology's, another frame interval.
    """
    path = Path(path)
    try:
        content = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise TrajectoryError(f"{path}: cannot be read ({error.strerror}); give a DCD file") from error
    header = _read_header(path, content[:4096].tobytes())
    if header.n_atoms != len(topology.atomic_numbers):
        raise TrajectoryError(
            f"{path}: {header.n_atoms} atoms, but {topology.path} has {len(topology.atomic_numbers)}; "
            "give the topology that was simulated"
        )
    frames = _read_frames(path, content, header, allow_partial=allow_partial)
    header_interval_ps = header.interval_steps * header.timestep_ps
    if header_interval_ps > 0 and not np.isclose(header_interval_ps, frame_interval_ps, rtol=1e-3):
        raise TrajectoryError(
            f"{path}: frames are {header_interval_ps:.6g} ps apart by its header, not {frame_interval_ps:.6g} ps; "
            "give the protocol that made it"
        )
    positions_A = np.stack([frames["x"], frames["y"], frames["z"]], axis=-1).astype(np.float64)
    return Trajectory(
        positions_nm=positions_A * NM_PER_ANGSTROM,
        box_vectors_nm=NM_PER_ANGSTROM * cells_of_dcd(frames["cell"]) if header.has_cell else None,
        atomic_numbers=np.asarray(topology.atomic_numbers, dtype=np.int64),
        frame_interval_ps=frame_interval_ps,
        # Counted in intervals, for the header's time step is in single precision.
        first_frame_ps=frame_interval_ps
        * (header.first_step / header.interval_steps if header_interval_ps else 1),
        source=str(path),
    )


def _read_header(path: Path, head: bytes) -> _Header:
    refused = TrajectoryError(
        f"{path}: not a DCD file as OpenMM writes it, or cut inside its header; run again"
    )
    try:
        opening, magic = struct.unpack_from("<i4s", head, 0)
        control = struct.unpack_from("<20i", head, 8)
        (timestep,) = struct.unpack_from("<f", head, 8 + 9 * 4)
        closing, title_size = struct.unpack_from("<ii", head, 88)
        atoms_at = 92 + 4 + title_size + 4
        (title_end,) = struct.unpack_from("<i", head, atoms_at - 4) if 0 <= title_size < 4000 else (-1,)
        before, n_atoms, after = struct.unpack_from("<iii", head, atoms_at)
    except struct.error as error:
        raise refused from error
    if (opening, magic, closing, before, after) != (84, b"CORD", 84, 4, 4) or title_end != title_size:
        raise refused
    if control[0] < 0 or n_atoms < 1:
        raise refused
    return _Header(
        n_frames=control[0],
        first_step=control[1],
        interval_steps=control[2],
        timestep_ps=timestep * AKMA_PS,
        has_cell=control[10] != 0,
        n_atoms=n_atoms,
        size=atoms_at + 12,
    )


def _read_frames(path: Path, content: NDArray[np.uint8], header: _Header, *, allow_partial: bool) -> NDArray:
    fields: list[tuple] = [("cell_open", "<i4"), ("cell", "<f8", (6,)), ("cell_close", "<i4")]
    fields = fields if header.has_cell else []
    for axis in "xyz":
        fields += [(f"{axis}_open", "<i4"), (axis, "<f4", (header.n_atoms,)), (f"{axis}_close", "<i4")]
    record = np.dtype(fields)
    n_whole, rest = divmod(len(content) - header.size, record.itemsize)
    if (rest or n_whole != header.n_frames) and not allow_partial:
        raise TrajectoryError(
            f"{path}: its header says {header.n_frames} frames, the file holds {n_whole} and {rest} bytes more; "
            "the simulation was interrupted: finish it with --resume"
        )
    # A writer counts a frame before it writes it: more frames than counted are not its own.
    n_frames = min(n_whole, header.n_frames)
    frames = np.frombuffer(content, dtype=record, count=n_frames, offset=header.size) if n_frames else None
    if frames is None:
        return np.empty(0, dtype=record)
    for axis in "xyz":
        if (frames[f"{axis}_open"] != 4 * header.n_atoms).any():
            frame = int(np.flatnonzero(frames[f"{axis}_open"] != 4 * header.n_atoms)[0])
            raise TrajectoryError(f"{path}: damaged at frame {frame} of {n_frames}; run this replica again")
    return frames
