"""Dihedral angles of positions, IUPAC's sign."""

import numpy as np
from numpy.typing import NDArray

from openmm_mlbench.cells import nearest_images
from openmm_mlbench.errors import MetricError


def compute_dihedrals(
    positions: NDArray[np.float64],
    quadruplets: NDArray[np.int64],
    box_vectors: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Dihedral angles in radians, -pi to pi, zero when cis (IUPAC's sign).

    Args:
        positions: (n_frames, n_atoms, 3).
        quadruplets: (n_angles, 4), 0-based indices of the atoms along each angle.
        box_vectors: (n_frames, 3, 3), same unit; bonds are then taken to the nearest image.

    Returns:
        (n_frames, n_angles); NaN where a position is.

    Raises:
        MetricError: an atom does not exist or stands in an angle twice.
    """
    quads = np.asarray(quadruplets, dtype=np.int64).reshape(-1, 4)
    n_atoms = positions.shape[1]
    for quad in quads:
        if len(set(quad.tolist())) != 4 or quad.min() < 0 or quad.max() >= n_atoms:
            raise MetricError(
                f"dihedral {','.join(map(str, quad))}; wanted four different indices from 0 to {n_atoms - 1}"
            )
    bonds = [positions[:, quads[:, k + 1]] - positions[:, quads[:, k]] for k in range(3)]
    if box_vectors is not None:
        bonds = [nearest_images(bond, box_vectors) for bond in bonds]
    first, middle, last = bonds
    before, after = np.cross(first, middle), np.cross(middle, last)
    sine = (first * after).sum(axis=-1) * np.linalg.norm(middle, axis=-1)
    return np.arctan2(sine, (before * after).sum(axis=-1))
