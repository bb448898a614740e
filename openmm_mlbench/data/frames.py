"""Frames: labelled configurations of one system, checked when made."""

import hashlib
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from openmm_mlbench.errors import DataError

CONSTRAINTS = ("none", "h-bonds")


@dataclass(frozen=True, kw_only=True)
class Frames:
    """Configurations with labels, all of the same atoms, in A and eV.

    Args:
        name: name of the data set; it stands for one potential (``ethanol-gfn2``).
        atomic_numbers: (n_atoms,).
        positions: (n_frames, n_atoms, 3), A.
        energies: (n_frames,), eV, or None.
        forces: (n_frames, n_atoms, 3), eV/A, or None.
        cells: (n_frames, 3, 3), rows are lattice vectors, A, or None (not periodic).
        frame_indices: (n_frames,), place of each frame in its original trajectory.
        interval_fs: time between consecutive frame indices, fs, or None.
        constraints: ``none`` or ``h-bonds``: what was held rigid when the labels were made.
        level_of_theory: for example ``PBE+vdW-TS``.
        source: where the data come from, and their licence.

    Raises:
        DataError: a shape does not fit, or a value is not finite.
    """

    name: str
    atomic_numbers: NDArray[np.int64]
    positions: NDArray[np.float64]
    energies: NDArray[np.float64] | None
    forces: NDArray[np.float64] | None
    cells: NDArray[np.float64] | None
    frame_indices: NDArray[np.int64]
    interval_fs: float | None
    constraints: str
    level_of_theory: str
    source: str

    def __post_init__(self) -> None:
        if self.positions.ndim != 3 or self.positions.shape[2] != 3 or 0 in self.positions.shape:
            raise DataError(
                f"{self.name}: positions have shape {self.positions.shape}; wanted (n_frames, n_atoms, 3)"
            )
        wanted: dict[str, tuple[int, ...]] = {
            "atomic_numbers": (self.n_atoms,),
            "energies": (self.n_frames,),
            "forces": self.positions.shape,
            "cells": (self.n_frames, 3, 3),
            "frame_indices": (self.n_frames,),
        }
        for key, shape in wanted.items():
            array = getattr(self, key)
            if array is not None and array.shape != shape:
                raise DataError(f"{self.name}: {key} have shape {array.shape}; wanted {shape}")
        for key in ("positions", "energies", "forces", "cells"):
            array = getattr(self, key)
            if array is not None and not np.isfinite(array).all():
                frames = np.flatnonzero(~np.isfinite(array).reshape(self.n_frames, -1).all(axis=1))
                raise DataError(
                    f"{self.name}: {key} hold NaN or Infinity in {len(frames)} frames, first in frame "
                    f"{frames[0]}; remove these frames"
                )
        if ((self.atomic_numbers < 1) | (self.atomic_numbers > 118)).any():
            raise DataError(
                f"{self.name}: atomic numbers must lie in 1-118, got {self.atomic_numbers.tolist()}"
            )
        if self.constraints not in CONSTRAINTS:
            raise DataError(
                f"{self.name}: constraints {self.constraints!r}; use one of {', '.join(CONSTRAINTS)}"
            )

    @property
    def n_frames(self) -> int:
        """Number of configurations."""
        return int(self.positions.shape[0])

    @property
    def n_atoms(self) -> int:
        """Number of atoms, the same in every frame."""
        return int(self.positions.shape[1])

    def select(self, indices: NDArray[np.int64]) -> "Frames":
        """The frames at these places (0-based, not trajectory indices), in this order."""

        def take(array: NDArray[np.float64] | None) -> NDArray[np.float64] | None:
            return None if array is None else array[indices]

        return replace(
            self,
            positions=self.positions[indices],
            energies=take(self.energies),
            forces=take(self.forces),
            cells=take(self.cells),
            frame_indices=self.frame_indices[indices],
        )

    def content_hash(self) -> str:
        """SHA-256 over species, positions and labels: two data sets with one hash are the same."""
        digest = hashlib.sha256()
        for key in ("atomic_numbers", "positions", "energies", "forces", "cells"):
            array = getattr(self, key)
            digest.update(key.encode())
            if array is not None:
                digest.update(str(array.shape).encode())
                digest.update(np.ascontiguousarray(array, dtype="<f8").tobytes())
        return digest.hexdigest()
