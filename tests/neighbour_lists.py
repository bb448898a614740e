"""Cells of every kind, and pair lists in one order, to compare neighbour searches."""

import ase
import numpy as np
import torch
from ase.neighborlist import neighbor_list

from openmm_mlbench.models.neighbours import cell_heights, directed_edges

# Rows are lattice vectors, A; the cutoff of 5 A exceeds half of most heights and all of the last cell's.
CELLS = {
    "larger than twice the cutoff": np.diag([11.0, 12.0, 13.0]),
    "orthorhombic": np.diag([7.0, 8.5, 9.0]),
    "triclinic": np.array([[8.0, 0.0, 0.0], [3.5, 7.0, 0.0], [-2.0, 3.0, 6.5]]),
    "rotated, left-handed": np.array([[1.0, 7.0, 2.0], [6.5, -1.0, 0.5], [0.0, 2.0, 8.0]]),
    "smaller than the cutoff": np.diag([3.1, 4.0, 2.7]),
    "small and strongly skewed": np.array([[4.0, 0.0, 0.0], [3.6, 3.0, 0.0], [3.4, 2.5, 2.9]]),
}
CUTOFF = 5.0


# What makes the host wait for a GPU, or the shape depend on the values.
WAITING = ("nonzero", "_local_scalar_dense", "item", "masked_select", "unique", "bincount", "repeat_interleave.Tensor",
           "inv_ex", "linalg_inv", "linalg_det", "_linalg_det", "is_nonzero")  # fmt: skip


def full_list(pair_index, pair_vectors):
    """Directed pairs (i, j, x, y, z), sorted, from a half list."""
    i, j = (index.numpy() for index in directed_edges(pair_index))
    vectors = np.concatenate([pair_vectors.numpy(), -pair_vectors.numpy()])
    return sort_rows(np.column_stack([i, j, vectors]))


def sort_rows(rows):
    # Rounded keys: the last bits of the vectors must not decide the order.
    return rows[np.lexsort(np.round(rows, 6).T[::-1])]


def ase_list(positions, cell, pbc=True):
    atoms = ase.Atoms("H" * len(positions), positions=positions, cell=cell, pbc=pbc)
    i, j, vectors = neighbor_list("ijD", atoms, CUTOFF)
    return sort_rows(np.column_stack([i, j, vectors]))


def scattered(cell, n_atoms, seed, reach=3):
    """Atoms up to ``reach`` cells away from the origin."""
    fractions = np.random.default_rng(seed).uniform(-reach, reach + 1, (n_atoms, 3))
    return fractions @ cell


def random_cells(n_cells):
    """Cells of any orientation, handedness and skew, down to volumes of a few A^3, with up to 11 atoms."""
    rng = np.random.default_rng(5)
    while n_cells:
        cell = rng.normal(size=(3, 3)) * rng.uniform(1.5, 8)
        if rng.random() < 0.3:
            # Very skewed: whole rows added to others leave the lattice, and the cell far from reduced.
            cell[1] += rng.integers(-4, 5) * cell[0]
            cell[2] += rng.integers(-4, 5) * cell[1]
        volume = abs(np.linalg.det(cell))
        n_atoms = int(rng.integers(1, 12))
        heights = cell_heights(torch.as_tensor(cell))
        # What ASE needs seconds for is left out: some hundred images of each atom are enough.
        if volume > 3 and n_atoms * 524 / volume < 200 and float(heights.min()) > 0.7:
            n_cells -= 1
            yield cell, scattered(cell, n_atoms, rng)
