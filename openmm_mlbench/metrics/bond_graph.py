"""Which bonds, angles and dihedrals a system has, from its elements and bonds, sorted by what they are called."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from openmm_mlbench.metrics.internal_coordinates import THREEFOLD, TWOFOLD, CoordinateGroup


@dataclass(frozen=True, kw_only=True)
class DihedralGroup:
    """A dihedral, of every molecule that has it, with its basins.

    Args:
        group: (n, 4) atoms.
        basins: name -> edges in degrees, as :func:`~openmm_mlbench.metrics.internal_coordinates.basin_of` takes them.
    """

    group: CoordinateGroup
    basins: dict[str, tuple[float, float]]


def _symbols(atomic_numbers: NDArray[np.int64]) -> list[str]:
    from ase.data import chemical_symbols

    return [chemical_symbols[int(number)] for number in atomic_numbers]


def _rank(symbol: str) -> tuple[bool, bool, str]:
    # As chemists write them: carbon first, hydrogen last.
    return (symbol == "H", symbol != "C", symbol)


def bond_groups(atomic_numbers: NDArray[np.int64], bonds: NDArray[np.int64]) -> list[CoordinateGroup]:
    """Bonds by their pair of elements: "C-C", "C-H", "O-H".

    Args:
        atomic_numbers: (n_atoms,).
        bonds: (n_bonds, 2).
    """
    symbols = _symbols(atomic_numbers)
    found: dict[str, list[list[int]]] = defaultdict(list)
    for i, j in bonds.tolist():
        found["-".join(sorted((symbols[i], symbols[j]), key=_rank))].append([i, j])
    return _sorted_groups(found)


def angle_groups(atomic_numbers: NDArray[np.int64], bonds: NDArray[np.int64]) -> list[CoordinateGroup]:
    """Angles between two bonds of an atom, by elements: "H-O-H", "C-C-H".

    Args:
        atomic_numbers: (n_atoms,).
        bonds: (n_bonds, 2).
    """
    symbols = _symbols(atomic_numbers)
    neighbours = bond_neighbours(len(atomic_numbers), bonds)
    found: dict[str, list[list[int]]] = defaultdict(list)
    for middle, around in enumerate(neighbours):
        for k, first in enumerate(around):
            for last in around[k + 1 :]:
                one, other = sorted((symbols[first], symbols[last]), key=_rank)
                found[f"{one}-{symbols[middle]}-{other}"].append([first, middle, last])
    return _sorted_groups(found)


def _sorted_groups(found: dict[str, list[list[int]]]) -> list[CoordinateGroup]:
    labels = sorted(found, key=lambda label: [_rank(symbol) for symbol in label.split("-")])
    return [CoordinateGroup(label=label, atoms=np.array(found[label], dtype=np.int64)) for label in labels]


def bond_neighbours(n_atoms: int, bonds: NDArray[np.int64]) -> list[list[int]]:
    """For each atom those it is bonded to, in order."""
    neighbours: list[list[int]] = [[] for _ in range(n_atoms)]
    for i, j in bonds.tolist():
        neighbours[i].append(j)
        neighbours[j].append(i)
    return [sorted(set(around)) for around in neighbours]


def dihedral_groups(
    atomic_numbers: NDArray[np.int64], bonds: NDArray[np.int64], names: Sequence[str] = ()
) -> list[DihedralGroup]:
    """One dihedral about each bond that molecules turn about, the same of equal molecules together.

    Left out are bonds in rings, those to a group of one atom and hydrogens only in threes (methyl, whose
    basins are equal by symmetry), and those in a straight chain.  The dihedral runs over the heaviest
    neighbours, the first of them in order; about bonds C-N over carbons, as in peptides.  About a trigonal carbon its basins are cis and trans,
    else gauche+, trans and gauche-.

    Args:
        atomic_numbers: (n_atoms,).
        bonds: (n_bonds, 2).
        names: (n_atoms,) of the atoms, the same in equal molecules; tell dihedrals of equal elements apart.

    Returns:
        Labelled by their elements, "C-C-O-H", where no other has these, else by the names of their atoms.
    """
    numbers = np.asarray(atomic_numbers)
    neighbours = bond_neighbours(len(numbers), bonds)
    symbols = _symbols(numbers)
    called = list(names) if len(names) == len(numbers) else [f"{s}{i}" for i, s in enumerate(symbols)]
    found: dict[tuple[str, ...], list[list[int]]] = defaultdict(list)
    basins: dict[tuple[str, ...], dict[str, tuple[float, float]]] = {}
    for j, k in np.unique(np.sort(bonds, axis=1), axis=0).tolist():
        if not (_turns(j, k, neighbours, numbers) and _turns(k, j, neighbours, numbers)):
            continue
        if _in_ring(j, k, neighbours):
            continue
        quad = [_heaviest(j, k, neighbours, numbers), j, k, _heaviest(k, j, neighbours, numbers)]
        if _rank(symbols[quad[0]]) > _rank(symbols[quad[3]]):
            quad.reverse()
        key = tuple(called[atom] for atom in quad)
        found[key].append(quad)
        basins[key] = basins_about(j, k, numbers, neighbours)
    elements = {key: "-".join(symbols[atom] for atom in quads[0]) for key, quads in found.items()}
    groups = []
    for key, quads in found.items():
        alone = list(elements.values()).count(elements[key]) == 1
        label = elements[key] if alone else "-".join(key)
        group = CoordinateGroup(label=label, atoms=np.array(quads, dtype=np.int64))
        groups.append(DihedralGroup(group=group, basins=basins[key]))
    return groups


def basins_about(
    one: int, other: int, atomic_numbers: NDArray[np.int64], neighbours: list[list[int]]
) -> dict[str, tuple[float, float]]:
    """Cis and trans about a bond of a trigonal carbon, else gauche+, trans and gauche-."""
    trigonal = any(atomic_numbers[atom] == 6 and len(neighbours[atom]) == 3 for atom in (one, other))
    return TWOFOLD if trigonal else THREEFOLD


def _turns(atom: int, partner: int, neighbours: list[list[int]], numbers: NDArray[np.int64]) -> bool:
    others = [other for other in neighbours[atom] if other != partner]
    top = len(others) == 3 and all(numbers[other] == 1 for other in others)
    straight = len(neighbours[atom]) == 2 and numbers[atom] == 6
    return bool(others) and not top and not straight


def _heaviest(atom: int, partner: int, neighbours: list[list[int]], numbers: NDArray[np.int64]) -> int:
    others = [other for other in neighbours[atom] if other != partner]
    # About the C-N bond of an amide carbon goes before oxygen, so that trans is what it is called in peptides.
    amide = {int(numbers[atom]), int(numbers[partner])} == {6, 7}
    return max(others, key=lambda other: (amide and numbers[other] == 6, numbers[other], -other))


def _in_ring(one: int, other: int, neighbours: list[list[int]]) -> bool:
    seen, waiting = {one}, [atom for atom in neighbours[one] if atom != other]
    while waiting:
        atom = waiting.pop()
        if atom == other:
            return True
        if atom not in seen:
            seen.add(atom)
            waiting += neighbours[atom]
    return False
