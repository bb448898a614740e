"""Slow and plain: what the fast code is compared with."""

import ase
from ase.neighborlist import neighbor_list


def neighbours_of(positions, cutoff, cell=None):
    """For each atom a list of (neighbour, vector to it), periodic images included."""
    atoms = ase.Atoms("H" * len(positions), positions=positions, cell=cell, pbc=cell is not None)
    lists = [[] for _ in positions]
    for i, j, vector in zip(*neighbor_list("ijD", atoms, cutoff), strict=True):
        lists[i].append((int(j), vector))
    return lists
