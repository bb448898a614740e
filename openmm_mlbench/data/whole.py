"""Atom order and whole molecules: what files hold, brought to the order of topology.pdb."""

import numpy as np
from numpy.typing import NDArray

from openmm_mlbench.cells import nearest_images
from openmm_mlbench.data.file_units import MAX_HYDROGEN_DISTANCE
from openmm_mlbench.errors import DataError

# Frames unwrapped at a time: temporary arrays stay small beside the data.
_CHUNK = 2000


def water_order(
    atomic_numbers: NDArray[np.int64], positions: NDArray[np.float64], cell: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Places of the atoms of a box of water in the order O, H, H, O, H, H, ...

    Every hydrogen goes to its nearest oxygen; oxygens, and the two hydrogens of each, stay in
    the order of the file.

    Args:
        atomic_numbers: (n_atoms,).
        positions: (n_atoms, 3), A, any image.
        cell: (3, 3), A.

    Returns:
        (n_atoms,): ``array[order]`` is the array in the new order.

    Raises:
        DataError: the atoms are no water molecules.
    """
    numbers = np.asarray(atomic_numbers)
    oxygens, hydrogens = np.flatnonzero(numbers == 8), np.flatnonzero(numbers == 1)
    if len(hydrogens) != 2 * len(oxygens) or len(numbers) != 3 * len(oxygens) or len(numbers) == 0:
        raise DataError(
            f"{len(oxygens)} O and {len(hydrogens)} H of {len(numbers)} atoms are no box of water molecules"
        )
    vectors = positions[hydrogens][:, None] - positions[oxygens][None]
    distances = np.linalg.norm(nearest_images(vectors[None], cell[None])[0], axis=-1)
    owner = distances.argmin(axis=1)
    wrong = np.flatnonzero(np.bincount(owner, minlength=len(oxygens)) != 2)
    if len(wrong) or distances.min(axis=1).max() > MAX_HYDROGEN_DISTANCE:
        raise DataError(
            f"frame 0 holds no whole water molecules: {len(wrong)} of {len(oxygens)} O have not two H, and the longest "
            f"O-H is {distances.min(axis=1).max():.2f} A; check coordinates and cell"
        )
    # Stable: the two hydrogens of an oxygen stay in the order of the file.
    pairs = hydrogens[np.argsort(owner, kind="stable")].reshape(-1, 2)
    return np.column_stack([oxygens, pairs]).reshape(-1)


def join_molecules(
    positions: NDArray[np.float64], cells: NDArray[np.float64], bonds: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Positions with every second atom of a bond at the image nearest to the first.

    Args:
        positions: (n_frames, n_atoms, 3), A, any image.
        cells: (n_frames, 3, 3), A.
        bonds: (n_bonds, 2), a tree in the order from its root: every second atom stands in one
            row only, behind the row that places its first.

    Returns:
        (n_frames, n_atoms, 3); the first atoms keep their place.

    """
    whole = np.array(positions, dtype=np.float64)
    if len(bonds) == 0:
        return whole
    # All bonds of one distance from the roots at a time.
    depth = np.zeros(whole.shape[1], dtype=np.int64)
    for first, second in bonds:
        depth[second] = depth[first] + 1
    levels = [bonds[depth[bonds[:, 1]] == level] for level in range(1, depth.max() + 1)]
    for start in range(0, len(whole), _CHUNK):
        part, boxes = whole[start : start + _CHUNK], cells[start : start + _CHUNK]
        for level in levels:
            first = part[:, level[:, 0]]
            part[:, level[:, 1]] = first + nearest_images(part[:, level[:, 1]] - first, boxes)
    return whole


def check_bonds(positions: NDArray[np.float64], bonds: NDArray[np.int64], longest_A: float) -> None:
    """Raise DataError unless all bonds are short in all frames.

    Args:
        positions: (n_frames, n_atoms, 3), A, whole molecules.
        bonds: (n_bonds, 2).
        longest_A: limit, A.
    """
    for start in range(0, len(positions), _CHUNK):
        part = positions[start : start + _CHUNK]
        lengths = np.linalg.norm(part[:, bonds[:, 1]] - part[:, bonds[:, 0]], axis=-1)
        if lengths.max(initial=0.0) > longest_A:
            frame, bond = np.unravel_index(int(lengths.argmax()), lengths.shape)
            first, second = bonds[bond]
            raise DataError(
                f"atoms {first} and {second} are bonded in frame 0 and {lengths.max():.2f} A apart in frame "
                f"{start + int(frame)}; wanted one molecule throughout, at most {longest_A:g} A"
            )


def bond_tree(bonds: NDArray[np.int64], n_atoms: int) -> NDArray[np.int64]:
    """The bonds along which a molecule can be walked from atom 0 (and from the first atom of every other).

    Args:
        bonds: (n_bonds, 2).
        n_atoms: number of atoms.

    Returns:
        (n_atoms - n_molecules, 2): from an atom already reached to a new one, in order.
    """
    neighbours: list[list[int]] = [[] for _ in range(n_atoms)]
    for first, second in bonds.tolist():
        neighbours[first].append(second)
        neighbours[second].append(first)
    reached, tree = [False] * n_atoms, []
    for root in range(n_atoms):
        waiting = [] if reached[root] else [root]
        reached[root] = True
        while waiting:
            atom = waiting.pop(0)
            for other in neighbours[atom]:
                if not reached[other]:
                    reached[other] = True
                    tree.append((atom, other))
                    waiting.append(other)
    return np.array(tree, dtype=np.int64).reshape(-1, 2)
