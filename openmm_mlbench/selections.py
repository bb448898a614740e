"""Which atoms a measurement is about: topologies, mdtraj's selection language, pairs of elements, molecules."""

import os
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmm_mlbench.errors import MetricError, TrajectoryError
from openmm_mlbench.metrics.rdf import AtomPairs
from openmm_mlbench.units import ANGSTROM_PER_NM

# Words of mdtraj's language that compare with something, with nothing behind them.
_WITHOUT_VALUE = re.compile(
    r"\b(element|symbol|name|type|mass|radius|charge|resname|resn|resid|resi|residue|resSeq|index|chainid|code|rescode"
    r"|resc|n_bonds|segment_id|segname)\s*(?=$|\)|\band\b|\bor\b|&|\|)"
)


@dataclass(frozen=True, kw_only=True)
class MeasuredTopology:
    """A topology as mdtraj has it, with what measurements ask of it.

    Args:
        path: the file it was read from.
        topology: an ``mdtraj.Topology``.
        atomic_numbers: (n_atoms,); 0 for a site without element.
    """

    path: Path
    topology: Any
    atomic_numbers: NDArray[np.int64]

    @property
    def n_atoms(self) -> int:
        """Number of atoms."""
        return len(self.atomic_numbers)

    def select(self, text: str) -> NDArray[np.int64]:
        """Indices of atoms by mdtraj's selection language, "element O".

        Raises:
            MetricError: the text is no selection, or names no atom.
        """
        bare = _WITHOUT_VALUE.search(text)
        if bare:
            # mdtraj takes it for "all".
            raise MetricError(f"selection {text!r}: {bare[1]} wants a value; write 'element O', for example")
        try:
            with warnings.catch_warnings():
                # Its parser builds syntax trees in a way that newer Pythons call old.
                warnings.simplefilter("ignore")
                atoms = np.asarray(self.topology.select(text), dtype=np.int64)
        except Exception as error:  # pyparsing's and Python's own errors, whatever was typed
            reason = " ".join(str(error).split())[:80]
            raise MetricError(
                f"selection {text!r} is not in mdtraj's language ({reason}); write 'element O', for example"
            ) from error
        if not len(atoms):
            raise MetricError(f"selection {text!r} names no atom of {self.path}; it has {self._elements()}")
        return atoms

    def of_element(self, symbol: str) -> NDArray[np.int64]:
        """Indices of the atoms of one element.

        Raises:
            MetricError: there is none.
        """
        from ase.data import atomic_numbers

        number = atomic_numbers.get(symbol, -1)
        atoms = np.flatnonzero(self.atomic_numbers == number).astype(np.int64)
        if number < 1 or not len(atoms):
            raise MetricError(f"no atoms of element {symbol!r} in {self.path}; it has {self._elements()}")
        return atoms

    def _elements(self) -> str:
        from ase.data import chemical_symbols

        numbers, counts = np.unique(self.atomic_numbers, return_counts=True)
        return ", ".join(f"{n} {chemical_symbols[int(z)]}" for z, n in zip(numbers, counts, strict=True))

    def pairs(self, text: str) -> list[AtomPairs]:
        """Groups for RDFs, "O-O,O-H": element symbols, or selections in mdtraj's language; "all": one group of all atoms.

        Raises:
            MetricError: not of that form, or a group is empty.
        """
        if text.strip() == "all":
            everything = np.arange(self.n_atoms)
            return [AtomPairs(label="all", a=everything, b=everything)]
        found = []
        for part in text.split(","):
            names = [name.strip() for name in part.split("-")]
            if len(names) != 2 or not all(names):
                raise MetricError(f"pair {part.strip()!r} is not of two elements; write O-O or O-O,O-H")
            a, b = (self._group(name) for name in names)
            found.append(AtomPairs(label="-".join(names), a=a, b=b))
        return found

    def _group(self, name: str) -> NDArray[np.int64]:
        return self.select(name) if " " in name else self.of_element(name)

    def molecules(
        self, positions_nm: NDArray[np.float64], box_nm: NDArray[np.float64] | None
    ) -> NDArray[np.int64]:
        """(n_atoms,) number of the molecule each atom belongs to.

        By the bonds of the topology; where it has none, by covalent radii in this frame.

        Args:
            positions_nm: (n_atoms, 3).
            box_nm: (3, 3) or None.
        """
        from scipy.sparse import coo_matrix
        from scipy.sparse.csgraph import connected_components

        bonds = np.array([[bond[0].index, bond[1].index] for bond in self.topology.bonds], dtype=np.int64)
        if not len(bonds):
            bonds = self.bonds_by_distance(positions_nm, box_nm)
        graph = coo_matrix((np.ones(len(bonds)), (bonds[:, 0], bonds[:, 1])), shape=(self.n_atoms,) * 2)
        return connected_components(graph, directed=False)[1].astype(np.int64)

    def bonds_by_distance(
        self, positions_nm: NDArray[np.float64], box_nm: NDArray[np.float64] | None
    ) -> NDArray[np.int64]:
        """(n_bonds, 2), i < j: atoms closer than the scaled sum of their covalent radii, over periodic images."""
        from ase.data import covalent_radii
        from ase.neighborlist import primitive_neighbor_list

        from openmm_mlbench.topology import BOND_SCALE

        periodic = box_nm is not None
        cell = np.eye(3) if box_nm is None else box_nm * ANGSTROM_PER_NM
        radii = BOND_SCALE * covalent_radii[self.atomic_numbers]
        i, j = primitive_neighbor_list("ij", [periodic] * 3, cell, positions_nm * ANGSTROM_PER_NM, radii)
        pairs = np.stack([i, j], axis=1)[i < j]
        return np.unique(pairs, axis=0).astype(np.int64).reshape(-1, 2)


def load_topology(path: str | os.PathLike[str]) -> MeasuredTopology:
    """A topology in any form that mdtraj reads: PDB, GRO, PRMTOP, PSF, ...

    Raises:
        TrajectoryError: the file is missing or cannot be read.
    """
    import mdtraj

    path = Path(path)
    if not path.is_file():
        raise TrajectoryError(
            f"{path}: no such file; give the topology of the trajectory, a PDB file for example"
        )
    try:
        with warnings.catch_warnings():
            # mdtraj warns about unlikely cells, which a structure alone need not have.
            warnings.simplefilter("ignore")
            options = {"standard_names": False} if path.suffix.lower() == ".pdb" else {}
            topology = mdtraj.load_topology(str(path), **options)
    except Exception as error:  # mdtraj raises what its parsers happen to meet
        reason = " ".join(str(error).split())[:120]
        raise TrajectoryError(f"{path}: cannot be read as a topology ({reason}); export it again") from error
    if topology.n_atoms == 0:
        raise TrajectoryError(f"{path}: holds no atoms; wanted the structure that was simulated")
    numbers = [0 if atom.element is None else int(atom.element.number) for atom in topology.atoms]
    return MeasuredTopology(path=path, topology=topology, atomic_numbers=np.array(numbers, dtype=np.int64))
