"""What a molecule is made of: elements, names and bonds.  Knows no OpenMM and no torch."""

import math
import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from openmm_mlbench.cells import nearest_images
from openmm_mlbench.errors import TrajectoryError
from openmm_mlbench.units import ANGSTROM_PER_NM

# Chosen on 500 K dynamics: in 8,600 frames each of ethanol, aspirin and naphthalene, factors from
# 1.3 to 1.35 find the chemical bonds in every single frame; 1.2 loses stretched ones in up to 14.
BOND_SCALE = 1.3
# Constrained lengths vary by the rounding of the files that hold them; free ones by 0.03 A at 300 K.
RIGID_SPREAD_A = 0.005


@dataclass(frozen=True, kw_only=True)
class Topology:
    """Elements and names of the atoms of one system, in file order.

    Args:
        atomic_numbers: (n_atoms,).
        names: atom names, unique within a residue.
        path: the file they were read from.
    """

    atomic_numbers: NDArray[np.int64]
    names: tuple[str, ...]
    path: Path

    def __post_init__(self) -> None:
        if self.atomic_numbers.shape != (len(self.names),):
            raise TrajectoryError(
                f"{self.path}: {len(self.names)} names for atomic numbers of shape {self.atomic_numbers.shape}; "
                "give one number per atom"
            )

    @property
    def n_atoms(self) -> int:
        """Number of atoms."""
        return len(self.names)


def _check_records(path: Path) -> None:
    """Refuse what mdtraj's parser would fail on without naming the line (and leave the file open)."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise TrajectoryError(
            f"{path}: no such file; wanted the PDB file of the simulated structure"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise TrajectoryError(f"{path}: not a readable PDB file ({error}); export it again") from error
    n_atoms = 0
    for number, line in enumerate(lines, 1):
        if not line.startswith(("ATOM  ", "HETATM")):
            continue
        n_atoms += 1
        fields = (line[30:38], line[38:46], line[46:54])
        try:
            finite = all(math.isfinite(float(field)) for field in fields)
        except ValueError:
            finite = False
        if not finite:
            raise TrajectoryError(
                f"{path}: not a readable PDB file, line {number} has coordinates {' '.join(fields)!r}; export it again"
            )
    if n_atoms == 0:
        raise TrajectoryError(f"{path}: holds no atoms; wanted ATOM or HETATM records")


def read_structure(path: str | os.PathLike[str]) -> tuple[Topology, NDArray[np.float64]]:
    """Read a PDB file: topology and the positions (n_atoms, 3) of its first model, A.

    Raises:
        TrajectoryError: the file is missing, is no PDB or has atoms without a known element.
    """
    import mdtraj

    pdb_path = Path(path)
    _check_records(pdb_path)
    try:
        with warnings.catch_warnings():
            # mdtraj warns about unlikely cells; a structure without a cell is normal here.
            warnings.simplefilter("ignore")
            structure = mdtraj.load_pdb(str(pdb_path), standard_names=False)
    except Exception as error:  # mdtraj raises what its parser happens to meet: ValueError, KeyError, ...
        raise TrajectoryError(f"{pdb_path}: not a readable PDB file ({error}); export it again") from error
    atoms = list(structure.topology.atoms)
    unknown = [atom.name for atom in atoms if atom.element is None or atom.element.number < 1]
    if unknown:
        raise TrajectoryError(
            f"{pdb_path}: no element for atoms {', '.join(unknown[:5])}; fill in columns 77-78 of the PDB file"
        )
    topology = Topology(
        atomic_numbers=np.array([atom.element.number for atom in atoms], dtype=np.int64),
        names=tuple(atom.name for atom in atoms),
        path=pdb_path,
    )
    return topology, structure.xyz[0].astype(np.float64) * ANGSTROM_PER_NM


def read_topology(path: str | os.PathLike[str]) -> Topology:
    """Read elements and names from a PDB file.

    Raises:
        TrajectoryError: the file is missing, is no PDB or has atoms without a known element.
    """
    return read_structure(path)[0]


def find_bonds(
    atomic_numbers: NDArray[np.int64],
    positions_A: NDArray[np.float64],
    scale: float = BOND_SCALE,
    *,
    cell_A: NDArray[np.float64] | None = None,
) -> NDArray[np.int64]:
    """Pairs of atoms closer than the scaled sum of their covalent radii, i < j, in order.

    Args:
        atomic_numbers: (n_atoms,).
        positions_A: (n_atoms, 3), A.
        scale: factor on r_i + r_j (radii of Cordero et al. 2008, as ase has them).
        cell_A: (3, 3), rows are lattice vectors: nearest periodic images count.

    Returns:
        (n_bonds, 2) indices.

    Raises:
        TrajectoryError: the shapes do not fit.
    """
    from ase.data import covalent_radii

    numbers = np.asarray(atomic_numbers, dtype=np.int64)
    positions = np.asarray(positions_A, dtype=np.float64)
    if positions.shape != (len(numbers), 3):
        raise TrajectoryError(
            f"positions have shape {positions.shape}; wanted ({len(numbers)}, 3) for one frame"
        )
    if cell_A is not None:
        from ase.neighborlist import primitive_neighbor_list

        radii = scale * covalent_radii[numbers]
        i, j = primitive_neighbor_list("ij", [True] * 3, np.asarray(cell_A), positions, radii)
        return np.unique(np.stack([i, j], axis=1)[i < j], axis=0).astype(np.int64).reshape(-1, 2)
    first, second = np.triu_indices(len(numbers), k=1)
    reach = scale * (covalent_radii[numbers[first]] + covalent_radii[numbers[second]])
    bonded = np.linalg.norm(positions[second] - positions[first], axis=1) < reach
    return np.stack([first[bonded], second[bonded]], axis=1).astype(np.int64)


def bond_lengths(
    positions: NDArray[np.float64],
    bonds: NDArray[np.int64],
    *,
    cells: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Lengths of the bonds, in the unit of the positions.

    Args:
        positions: (..., n_atoms, 3).
        bonds: (n_bonds, 2).
        cells: (n_frames, 3, 3) with positions (n_frames, n_atoms, 3): nearest periodic images count.

    Returns:
        (..., n_bonds).
    """
    pairs = np.asarray(bonds, dtype=np.int64).reshape(-1, 2)
    vectors = positions[..., pairs[:, 1], :] - positions[..., pairs[:, 0], :]
    if cells is not None and len(pairs):
        vectors = nearest_images(vectors, cells)
    return np.linalg.norm(vectors, axis=-1)


def max_bond_deviation(
    positions_A: NDArray[np.float64], bonds: NDArray[np.int64], equilibrium_A: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Largest deviation of any bond from its equilibrium length, per frame.

    max over bonds (i, j) of | |x_i - x_j| - b_ij |        (paper, eq. 9)

    Args:
        positions_A: (n_frames, n_atoms, 3), A.
        bonds: (n_bonds, 2).
        equilibrium_A: (n_bonds,), mean lengths in the reference, A.

    Returns:
        (n_frames,), A; zero where there are no bonds.

    Raises:
        TrajectoryError: the number of equilibrium lengths is not the number of bonds.
    """
    lengths = bond_lengths(np.asarray(positions_A, dtype=np.float64), bonds)
    equilibrium = np.asarray(equilibrium_A, dtype=np.float64)
    if equilibrium.shape != lengths.shape[-1:]:
        raise TrajectoryError(
            f"{equilibrium.size} equilibrium lengths for {lengths.shape[-1]} bonds; give one length per bond"
        )
    return np.abs(lengths - equilibrium).max(axis=-1, initial=0.0)


def rigid_hydrogen_bonds(
    atomic_numbers: NDArray[np.int64], positions_A: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The bonds to hydrogen of frames that were made with these bonds constrained.

    Args:
        atomic_numbers: (n_atoms,).
        positions_A: (n_frames, n_atoms, 3), A, whole molecules.

    Returns:
        (n_bonds, 2) indices and (n_bonds,) lengths, A: their means over the frames.

    Raises:
        TrajectoryError: there are none, or a length varies.
    """
    numbers = np.asarray(atomic_numbers, dtype=np.int64)
    bonds = find_bonds(numbers, positions_A[0])
    bonds = bonds[(numbers[bonds] == 1).any(axis=1)]
    if not len(bonds):
        raise TrajectoryError('no bonds to hydrogen in frames with constraints "h-bonds"; call them "none"')
    lengths = bond_lengths(np.asarray(positions_A, dtype=np.float64), bonds)
    spread = np.ptp(lengths, axis=0)
    worst = int(spread.argmax())
    if spread[worst] > RIGID_SPREAD_A:
        i, j = bonds[worst]
        raise TrajectoryError(
            f'the bond of atoms {i} and {j} varies by {spread[worst]:.3f} A in frames with constraints "h-bonds", '
            f'at most {RIGID_SPREAD_A:g} A is rigid; use constraints "none" if the hydrogens were free'
        )
    return bonds, lengths.mean(axis=0)
