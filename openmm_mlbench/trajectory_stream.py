"""Trajectories too long for memory: DCD, XTC and NetCDF files read in chunks of frames."""

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmm_mlbench.errors import TrajectoryError
from openmm_mlbench.trajectory import AKMA_PS, Trajectory, _Header, _read_header
from openmm_mlbench.trajectory_sizes import check_netcdf_size, check_xtc_size
from openmm_mlbench.units import ANGSTROM_PER_NM, NM_PER_ANGSTROM

# Single-precision coordinates of one chunk; a few times that is held while a chunk is measured.
CHUNK_BYTES = 16 * 2**20
_HEAD_BYTES = 4096
# mdtraj has no time step to put into a DCD header and writes 1.
_UNSTATED_DELTA = 1.0
# Others write a constant that no simulation has as its time step.
_SHORTEST_PS = 1e-4


@dataclass(frozen=True, kw_only=True)
class TrajectoryFile:
    """A trajectory on disk: what is in it, and its frames in chunks.

    Args:
        path: DCD, XTC or NetCDF file.
        atomic_numbers: (n_atoms,).
        n_frames: whole frames in the file.
        frame_interval_ps: time between frames, ps.
        first_frame_ps: time of the first frame, ps.
        has_cell: whether frames have box vectors.
    """

    path: Path
    atomic_numbers: NDArray[np.int64]
    n_frames: int
    frame_interval_ps: float
    first_frame_ps: float
    has_cell: bool
    dcd: "_Dcd | None" = None

    @property
    def n_atoms(self) -> int:
        """Number of atoms."""
        return len(self.atomic_numbers)

    def frame_at(self, time_ps: float) -> int:
        """Index of the first frame at this time or later."""
        intervals = (time_ps - self.first_frame_ps) / self.frame_interval_ps
        return int(np.clip(np.ceil(intervals - 1e-6), 0, self.n_frames))

    def chunks(
        self,
        start: int = 0,
        stop: int | None = None,
        *,
        atoms: NDArray[np.int64] | None = None,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> Iterator[Trajectory]:
        """Frames ``start`` to ``stop`` in order, a few at a time.

        Args:
            start: first frame.
            stop: frame after the last; the end of the file where None.
            atoms: indices of the atoms to keep; all where None.
            chunk_bytes: single-precision coordinates read at once.

        Raises:
            TrajectoryError: the file is damaged.
        """
        stop = self.n_frames if stop is None else min(stop, self.n_frames)
        step = max(1, chunk_bytes // (12 * self.n_atoms))
        numbers = self.atomic_numbers if atoms is None else self.atomic_numbers[atoms]
        read = self._read_dcd if self.dcd is not None else self._read_with_mdtraj
        at = start
        for positions, boxes in read(start, stop, step, atoms):
            yield Trajectory(
                positions_nm=positions,
                box_vectors_nm=boxes,
                atomic_numbers=numbers,
                frame_interval_ps=self.frame_interval_ps,
                first_frame_ps=self.first_frame_ps + at * self.frame_interval_ps,
                source=str(self.path),
            )
            at += len(positions)
        if at < stop:
            raise TrajectoryError(f"{self.path}: ends at frame {at} of {stop}; it is cut, copy it again")

    def read(
        self, start: int = 0, stop: int | None = None, *, atoms: NDArray[np.int64] | None = None
    ) -> Trajectory:
        """Frames ``start`` to ``stop`` at once.

        Raises:
            TrajectoryError: the file is damaged, or there is no frame.
        """
        parts = list(self.chunks(start, stop, atoms=atoms))
        if not parts:
            raise TrajectoryError(
                f"{self.path}: no frame from {start} to {stop or self.n_frames}; it has {self.n_frames}"
            )
        boxes = [part.box_vectors_nm for part in parts if part.box_vectors_nm is not None]
        return Trajectory(
            positions_nm=np.concatenate([part.positions_nm for part in parts]),
            box_vectors_nm=np.concatenate(boxes) if boxes else None,
            atomic_numbers=parts[0].atomic_numbers,
            frame_interval_ps=self.frame_interval_ps,
            first_frame_ps=parts[0].first_frame_ps,
            source=str(self.path),
        )

    def _read_dcd(self, start: int, stop: int, step: int, atoms: NDArray[np.int64] | None) -> Iterator[tuple]:
        assert self.dcd is not None
        record = _record(self.dcd)
        with open(self.path, "rb") as file:
            file.seek(self.dcd.header.size + start * record.itemsize)
            for at in range(start, stop, step):
                frames = np.fromfile(file, dtype=record, count=min(step, stop - at))
                _check_markers(self.path, frames, 4 * self.n_atoms, at)
                positions = np.empty((len(frames), self.n_atoms if atoms is None else len(atoms), 3))
                for axis, name in enumerate("xyz"):
                    positions[..., axis] = frames[name] if atoms is None else frames[name][:, atoms]
                positions *= NM_PER_ANGSTROM
                boxes = None
                if self.has_cell:
                    boxes = _dcd_boxes(self.path, frames["cell"].astype(np.float64), at)
                yield positions, boxes

    def _read_with_mdtraj(
        self, start: int, stop: int, step: int, atoms: NDArray[np.int64] | None
    ) -> Iterator[tuple]:
        with _open_with_mdtraj(self.path) as file:
            if start:
                file.seek(start)
            for at in range(start, stop, step):
                yield _read_some(self.path, file, min(step, stop - at), atoms, has_cell=self.has_cell)


def open_trajectory(
    path: str | os.PathLike[str],
    atomic_numbers: NDArray[np.int64],
    frame_interval_ps: float,
    *,
    topology_path: str | os.PathLike[str] = "the topology",
    allow_partial: bool = False,
) -> TrajectoryFile:
    """Look at a trajectory file without reading its frames.

    Args:
        path: its ending says what it is: .dcd, .xtc, .nc (or .ncdf, .netcdf).
        atomic_numbers: (n_atoms,) of the topology.
        frame_interval_ps: time between frames; must agree with the file where the file says it.
        topology_path: for messages.
        allow_partial: take the whole frames of a DCD file whose end is missing, of a simulation that goes on.

    Raises:
        TrajectoryError: not such a file, truncated, without frames, of other atoms, or of another interval.
    """
    path = Path(path)
    if not (np.isfinite(frame_interval_ps) and frame_interval_ps > 0):
        raise TrajectoryError(
            f"frame interval {frame_interval_ps} ps; give the time between frames, above zero"
        )
    if not path.is_file():
        raise TrajectoryError(f"{path}: no such file; give a DCD, XTC or NetCDF trajectory")
    ending = path.suffix.lower()
    if ending == ".dcd":
        file = _look_at_dcd(path, atomic_numbers, frame_interval_ps, allow_partial=allow_partial)
    elif ending in _MDTRAJ_READERS:
        file = _look_with_mdtraj(path, atomic_numbers, frame_interval_ps)
    else:
        raise TrajectoryError(f"{path}: ending {ending!r} is not read; give a .dcd, .xtc or .nc file")
    n_atoms, n_frames = file[0], file[1].n_frames
    if n_atoms != len(atomic_numbers):
        raise TrajectoryError(
            f"{path}: {n_atoms} atoms, but {topology_path} has {len(atomic_numbers)}; "
            "give the topology that was simulated"
        )
    if n_frames == 0:
        raise TrajectoryError(f"{path}: holds no frames; wanted at least one")
    return file[1]


# --- DCD -----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Dcd:
    """What the header of a DCD file says.

    Args:
        header: counts, time step and size.
        order: ``<`` or ``>``, its byte order.
    """

    header: _Header
    order: str


def _dcd_header(path: Path, head: bytes) -> _Dcd:
    """The header of a DCD file of any common writer, in either byte order.

    CHARMM, NAMD and OpenMM give their version in the last control number; a file without one is of
    X-PLOR, which has a double precision time step where the others have the flag of the cell.
    """
    if len(head) >= 8 and 84 in (struct.unpack("<q", head[:8])[0], struct.unpack(">q", head[:8])[0]):
        raise TrajectoryError(f"{path}: a DCD file with 64-bit record markers; convert it with mdconvert")
    order = ">" if head[:4] == struct.pack(">i", 84) else "<"
    if head[:4] != struct.pack(f"{order}i", 84):
        raise TrajectoryError(
            f"{path}: not a DCD file, or cut inside its header; give a trajectory, or write it again"
        )
    header = _read_header(path, _native(head) if order == ">" else head)
    control = struct.unpack_from(f"{order}20i", head, 8)
    if control[19] == 0:
        (timestep,) = struct.unpack_from(f"{order}d", head, 8 + 9 * 4)
        header = replace(header, timestep_ps=timestep * AKMA_PS, has_cell=False)
    if control[8]:
        raise TrajectoryError(
            f"{path}: {control[8]} fixed atoms, which are in its first frame only; write it with all atoms in each frame"
        )
    if control[19] and control[11]:
        raise TrajectoryError(f"{path}: has a fourth dimension; convert it with mdconvert")
    return _Dcd(header=header, order=order)


def _native(head: bytes) -> bytes:
    """A big-endian header as a little-endian one; of its texts only the lengths matter."""
    swapped = bytearray(head[: len(head) // 4 * 4])
    swapped[:] = np.frombuffer(bytes(swapped), dtype=">u4").astype("<u4").tobytes()
    swapped[4:8] = head[4:8]
    return bytes(swapped)


def _look_at_dcd(
    path: Path, numbers: NDArray[np.int64], interval_ps: float, *, allow_partial: bool
) -> tuple[int, TrajectoryFile]:
    with open(path, "rb") as file:
        head = file.read(_HEAD_BYTES)
    dcd = _dcd_header(path, head)
    header = dcd.header
    n_whole, rest = divmod(path.stat().st_size - header.size, _record(dcd).itemsize)
    # Some writers never come back to count their frames.
    n_stated = header.n_frames or n_whole
    if (rest or n_whole != n_stated) and not allow_partial:
        raise TrajectoryError(
            f"{path}: its header says {header.n_frames} frames, the file holds {n_whole} and {rest} bytes more; "
            "it is truncated or still being written: finish the simulation or copy it again"
        )
    delta = header.timestep_ps / AKMA_PS
    stated_ps = (
        0.0 if np.isclose(delta, _UNSTATED_DELTA, rtol=1e-6) else header.interval_steps * header.timestep_ps
    )
    if stated_ps < _SHORTEST_PS:
        stated_ps = 0.0
    _check_interval(path, stated_ps, interval_ps)
    first = header.first_step / header.interval_steps if stated_ps > 0 else 0.0
    has_cell = header.has_cell and n_whole > 0 and _first_cell(path, dcd)[0] > 0
    return header.n_atoms, TrajectoryFile(
        path=path,
        atomic_numbers=np.asarray(numbers, dtype=np.int64),
        n_frames=n_whole,
        frame_interval_ps=interval_ps,
        first_frame_ps=first * interval_ps,
        has_cell=bool(has_cell),
        dcd=dcd,
    )


def _record(dcd: _Dcd) -> np.dtype:
    fields: list[tuple] = []
    mark, number, long = (f"{dcd.order}{kind}" for kind in ("i4", "f4", "f8"))
    if dcd.header.has_cell:
        fields += [("cell_open", mark), ("cell", long, (6,)), ("cell_close", mark)]
    for axis in "xyz":
        fields += [(f"{axis}_open", mark), (axis, number, (dcd.header.n_atoms,)), (f"{axis}_close", mark)]
    return np.dtype(fields)


def _first_cell(path: Path, dcd: _Dcd) -> NDArray[np.float64]:
    first = np.fromfile(path, dtype=_record(dcd), count=1, offset=dcd.header.size)["cell"][0]
    return np.asarray(first, dtype=np.float64)


def _check_markers(path: Path, frames: NDArray, n_bytes: int, at: int) -> None:
    for name in (frames.dtype.names or ())[::3]:
        expected = 48 if name == "cell_open" else n_bytes
        wrong = np.flatnonzero(frames[name] != expected)
        if len(wrong):
            raise TrajectoryError(
                f"{path}: damaged at frame {at + int(wrong[0])}; copy it again or run again"
            )


def _dcd_boxes(path: Path, cells: NDArray[np.float64], at: int) -> NDArray[np.float64]:
    """Box vectors, nm, from (a, gamma, b, beta, alpha, c): angles as cosines or, elsewhere, in degrees."""
    lengths = cells[:, [0, 2, 5]]
    angles = cells[:, [4, 3, 1]]
    in_degrees = (np.abs(angles) > 1).any(axis=1, keepdims=True)
    strange = np.flatnonzero((in_degrees & ((angles < 0) | (angles > 180))).any(axis=1))
    if len(strange):
        raise TrajectoryError(
            f"{path}: the cell of frame {at + int(strange[0])} has no angles ({angles[strange[0]]}), perhaps it is a "
            "shape matrix of CHARMM; convert it with mdconvert"
        )
    cosines = np.where(in_degrees, np.cos(np.radians(angles)), angles)
    return boxes_from_lengths(lengths, cosines, path, at) * NM_PER_ANGSTROM


def boxes_from_lengths(
    lengths: NDArray[np.float64], cosines: NDArray[np.float64], path: str | os.PathLike[str] = "", at: int = 0
) -> NDArray[np.float64]:
    """Box vectors (n, 3, 3) as rows, the first along x and the second in the xy plane.

    Args:
        lengths: (n, 3), a, b, c.
        cosines: (n, 3), of alpha, beta and gamma.
        path: for messages.
        at: number of the first frame, for messages.

    Raises:
        TrajectoryError: the numbers are no cell.
    """
    (a, b, c), (alpha, beta, gamma) = lengths.T, cosines.T
    vectors = np.zeros((len(lengths), 3, 3))
    with np.errstate(invalid="ignore", divide="ignore"):
        sine = np.sqrt(1 - gamma**2)
        vectors[:, 0, 0] = a
        vectors[:, 1, 0], vectors[:, 1, 1] = b * gamma, b * sine
        vectors[:, 2, 0], vectors[:, 2, 1] = c * beta, c * (alpha - beta * gamma) / sine
        vectors[:, 2, 2] = np.sqrt(c**2 - vectors[:, 2, 0] ** 2 - vectors[:, 2, 1] ** 2)
    wrong = ~(np.isfinite(vectors).all(axis=(1, 2)) & (np.einsum("nii->ni", vectors) > 0).all(axis=1))
    if wrong.any():
        frame = int(np.flatnonzero(wrong)[0])
        raise TrajectoryError(
            f"{path}: the cell of frame {at + frame} is none ({lengths[frame]}); write it again"
        )
    return vectors


def _check_interval(path: Path, stated_ps: float, given_ps: float) -> None:
    if stated_ps > 0 and not np.isclose(stated_ps, given_ps, rtol=1e-3):
        raise TrajectoryError(
            f"{path}: frames are {stated_ps:.6g} ps apart by the file, not {given_ps:.6g} ps; "
            "give the frame interval of this trajectory"
        )


# --- XTC and NetCDF, by mdtraj -------------------------------------------------------------------

_MDTRAJ_READERS = {
    ".xtc": "XTCTrajectoryFile",
    ".nc": "NetCDFTrajectoryFile",
    ".ncdf": "NetCDFTrajectoryFile",
    ".netcdf": "NetCDFTrajectoryFile",
}


@contextmanager
def _open_with_mdtraj(path: Path) -> Iterator[Any]:
    from mdtraj import formats

    try:
        file = getattr(formats, _MDTRAJ_READERS[path.suffix.lower()])(str(path))
    except Exception as error:  # its parsers raise OSError, ValueError, TypeError, RuntimeError, ...
        raise TrajectoryError(f"{path}: cannot be read ({error}); write it again") from error
    try:
        yield file
    finally:
        file.close()


def _read_some(
    path: Path, file: Any, count: int, atoms: NDArray[np.int64] | None, *, has_cell: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    try:
        content = file.read(n_frames=count, atom_indices=atoms)
    except Exception as error:
        raise TrajectoryError(f"{path}: damaged or truncated ({error}); write it again") from error
    positions = np.asarray(content[0], dtype=np.float64)
    if path.suffix.lower() == ".xtc":
        return positions, np.asarray(content[3], dtype=np.float64) if has_cell else None
    positions *= NM_PER_ANGSTROM
    if not has_cell:
        return positions, None
    lengths, degrees = (np.asarray(part, dtype=np.float64) for part in content[2:4])
    return positions, boxes_from_lengths(lengths, np.cos(np.radians(degrees)), path) / ANGSTROM_PER_NM


def _look_with_mdtraj(
    path: Path, numbers: NDArray[np.int64], interval_ps: float
) -> tuple[int, TrajectoryFile]:
    if path.suffix.lower() != ".xtc":
        check_netcdf_size(path)
    with _open_with_mdtraj(path) as file:
        try:
            n_frames = len(file)
            # The first two frames tell atoms, times and cell.
            content: Any = file.read(n_frames=min(2, n_frames)) if n_frames else ()
            last_frame_at = int(file.offsets[-1]) if n_frames and path.suffix.lower() == ".xtc" else 0
        except Exception as error:
            raise TrajectoryError(f"{path}: damaged or truncated ({error}); write it again") from error
    if not n_frames:
        raise TrajectoryError(f"{path}: holds no frames; wanted at least one")
    is_xtc = path.suffix.lower() == ".xtc"
    if is_xtc:
        check_xtc_size(path, last_frame_at)
    cell = content[3] if is_xtc else content[2]
    has_cell = cell is not None and len(cell) > 0 and bool(np.any(np.asarray(cell[0]) != 0))
    times = content[1]
    stated = float(times[1] - times[0]) if times is not None and len(times) > 1 else 0.0
    # A writer that knows no times numbers the frames.
    _check_interval(path, 0.0 if stated == 1.0 else stated, interval_ps)
    first = float(times[0]) if times is not None and len(times) and stated not in (0.0, 1.0) else 0.0
    return content[0].shape[1], TrajectoryFile(
        path=path,
        atomic_numbers=np.asarray(numbers, dtype=np.int64),
        n_frames=n_frames,
        frame_interval_ps=interval_ps,
        first_frame_ps=first,
        has_cell=has_cell,
    )
