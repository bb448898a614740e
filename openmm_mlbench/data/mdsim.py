"""The published data of "Forces are not Enough" (Zenodo 7196767), as the files are.

``water.npy`` and ``alanine_dipeptide.npy`` are dictionaries of arrays in a pickled .npy, in A
and kcal/mol; the keys are those that the authors' preprocessing reads (github kyonofx/MDsim).
Nothing is unpickled (``pickled_npy``).
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmm_mlbench.cells import nearest_images
from openmm_mlbench.data.file_units import MAX_HYDROGEN_DISTANCE, check_plausible
from openmm_mlbench.data.frames import Frames
from openmm_mlbench.data.npz import MAX_ARRAY_BYTES
from openmm_mlbench.data.pickled_npy import read_pickled_dict
from openmm_mlbench.data.whole import bond_tree, check_bonds, join_molecules, water_order
from openmm_mlbench.errors import DataError
from openmm_mlbench.units import EV_PER_KCALMOL

SOURCE = "Fu et al., Forces are not Enough, TMLR 2023; data: Zenodo 7196767"
WATER_INTERVAL_FS = 10.0
ALANINE_INTERVAL_FS = 2000.0
# Heavy atoms of a molecule at 300 K: C-C is 1.54 A, C=O and C-N shorter.
_LONGEST_BOND_A = 2.2
_CHUNK = 2000


def read_mdsim_water(
    path: str | os.PathLike[str], *, name: str = "water", check: bool = True, **description: Any
) -> Frames:
    """Read MDsim's water.npy: 100,001 frames of 64 molecules, 10 fs apart.

    Molecules are made whole and atoms ordered O, H, H, as in systems/water/topology.pdb; the
    file's wrapped coordinates are read.

    Args:
        path: the file.
        name: name of the data set.
        check: compare forces and distances with what the units make plausible.
        description: level_of_theory and source instead of the general ones.

    Raises:
        DataError: the file is damaged, holds other arrays, or no water molecules.
    """
    table = _Table(path)
    numbers = table.species("atom_types", "atomic_numbers", "atomic_number")
    positions = table.vectors("wrapped_coords", "pos", n_atoms=len(numbers))
    cells = table.cells(len(positions))
    if cells is None:
        raise DataError(f"{table.path}: has no lengths; wanted the box of the water")
    energies = table.energies("energy", n_frames=len(positions))
    forces = table.vectors("forces", "force", n_atoms=len(numbers), factor=EV_PER_KCALMOL)
    try:
        return whole_water(
            Frames(
                name=name,
                atomic_numbers=numbers,
                positions=positions,
                energies=energies,
                forces=forces,
                cells=cells,
                frame_indices=np.arange(len(positions)),
                interval_fs=WATER_INTERVAL_FS,
                constraints="none",
                level_of_theory=description.get("level_of_theory", "flexible SPC water of MDsim"),
                source=description.get("source", SOURCE),
            ),
            check=check,
        )
    except DataError as error:
        raise DataError(f"{table.path}: {error}") from error


def whole_water(frames: Frames, *, check: bool = True) -> Frames:
    """A box of water with its atoms ordered O, H, H and its molecules whole; labels go along.

    Oxygens keep their images; each hydrogen comes to the one nearest to its oxygen.

    Args:
        frames: of one box of water, atoms in any order and at any image.
        check: compare forces and distances with what the units make plausible.

    Raises:
        DataError: the atoms are no water molecules, or do not stay together in all frames.
    """
    if frames.cells is None:
        raise DataError(f"{frames.name}: has no cells; wanted a periodic box of water")
    order = water_order(frames.atomic_numbers, frames.positions[0], frames.cells[0])
    positions, forces = frames.positions, frames.forces
    if not np.array_equal(order, np.arange(len(order))):
        positions = positions[:, order]
        forces = None if forces is None else forces[:, order]
    oxygens = np.arange(0, len(order), 3)
    bonds = np.stack([np.repeat(oxygens, 2), np.setdiff1d(np.arange(len(order)), oxygens)], axis=1)
    positions = join_molecules(positions, frames.cells, bonds)
    check_bonds(positions, bonds, MAX_HYDROGEN_DISTANCE)
    whole = Frames(
        **{
            **frames.__dict__,
            "atomic_numbers": frames.atomic_numbers[order],
            "positions": positions,
            "forces": forces,
        }
    )
    if check:
        check_plausible(whole)
    return whole


def read_mdsim_alanine(
    path: str | os.PathLike[str],
    *,
    name: str = "alanine-dipeptide-explicit",
    check: bool = True,
    **description: Any,
) -> Frames:
    """Read MDsim's alanine_dipeptide.npy: the solute's atoms, with forces that hold those of the water.

    There are no energies: the forces are instantaneous ones in explicit water, projected on the
    solute by leaving the water away.  Hydrogen bond lengths were constrained.  The molecule is
    made whole; the box of the water it came from is left away, for the solute stands alone.
    The paper speaks of 23 atoms; the molecule has 22.

    Args:
        path: the file.
        name: name of the data set.
        check: compare forces and distances with what the units make plausible.
        description: level_of_theory and source instead of the general ones.

    Raises:
        DataError: the file is damaged, holds other arrays, or not one molecule.
    """
    table = _Table(path)
    numbers = table.species("atomic_number", "atomic_numbers", "atom_types")
    positions = table.vectors("pos", "wrapped_coords", n_atoms=len(numbers))
    forces = table.vectors("force", "forces", n_atoms=len(numbers), factor=EV_PER_KCALMOL)
    cells = table.cells(len(positions))
    try:
        positions = _one_molecule(numbers, positions, cells)
        frames = Frames(
            name=name,
            atomic_numbers=numbers,
            positions=positions,
            energies=None,
            forces=forces,
            cells=None,
            frame_indices=np.arange(len(positions)),
            interval_fs=ALANINE_INTERVAL_FS,
            constraints="h-bonds",
            level_of_theory=description.get("level_of_theory", "amber03 in explicit water, solute forces"),
            source=description.get("source", SOURCE),
        )
        if check:
            check_plausible(frames)
    except DataError as error:
        raise DataError(f"{table.path}: {error}") from error
    return frames


def _one_molecule(
    numbers: NDArray[np.int64], positions: NDArray[np.float64], cells: NDArray[np.float64] | None
) -> NDArray[np.float64]:
    """Positions (n_frames, n_atoms, 3) of one molecule, whole in every frame."""
    from openmm_mlbench.topology import find_bonds

    start = positions[0] if cells is None else _gathered(positions[0], cells[0])
    tree = bond_tree(find_bonds(numbers, start), len(numbers))
    if len(tree) != len(numbers) - 1:
        raise DataError(
            f"frame 0 holds {len(numbers) - len(tree)} separate molecules of {len(numbers)} atoms in all; wanted one"
        )
    if cells is not None:
        positions = join_molecules(positions, cells, tree)
    check_bonds(positions, tree, _LONGEST_BOND_A)
    return positions


def _gathered(positions: NDArray[np.float64], cell: NDArray[np.float64]) -> NDArray[np.float64]:
    """One molecule (n_atoms, 3): each next atom at the image nearest to one already placed."""
    placed, waiting = [0], set(range(1, len(positions)))
    whole = np.array(positions)
    while waiting:
        others = sorted(waiting)
        vectors = nearest_images((positions[others][:, None] - whole[placed][None])[None], cell[None])[0]
        distances = np.linalg.norm(vectors, axis=-1)
        other, origin = np.unravel_index(int(distances.argmin()), distances.shape)
        atom = others[int(other)]
        whole[atom] = whole[placed[int(origin)]] + vectors[other, origin]
        placed.append(atom)
        waiting.remove(atom)
    return whole


def read_mdsim(
    path: str | os.PathLike[str], *, name: str | None = None, check: bool = True, **description: Any
) -> Frames:
    """Read one of MDsim's two files, told apart by what they hold.

    Args:
        path: the file.
        name: name of the data set; the file's stem unless given.
        check: compare forces and distances with what the units make plausible.
        description: level_of_theory and source instead of the general ones.

    Raises:
        DataError: what the reader of that file refuses.
    """
    read = read_mdsim_water if "wrapped_coords" in _Table(path).arrays else read_mdsim_alanine
    return read(path, name=name or Path(path).stem, check=check, **description)


class _Table:
    """Checked access to the arrays of one file.

    Args:
        path: the file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.arrays = {
            key: np.asarray(value)
            for key, value in read_pickled_dict(path).items()
            if isinstance(value, np.ndarray)
        }

    def find(self, *keys: str) -> NDArray[Any]:
        """The array of the first of these keys; its numbers must be real."""
        for key in keys:
            if key in self.arrays:
                array = self.arrays[key]
                if array.dtype.kind not in "iuf":
                    raise DataError(f"{self.path}: {key!r} has type {array.dtype}; wanted real numbers")
                if array.size > MAX_ARRAY_BYTES // 8:
                    raise DataError(
                        f"{self.path}: {key!r} has shape {array.shape}, which is no honest data set"
                    )
                return array
        held = ", ".join(f"{key!r}"[:40] for key in list(self.arrays)[:12]) or "no arrays"
        raise DataError(f"{self.path}: holds {held}; wanted {' or '.join(map(repr, keys))}")

    def species(self, *keys: str) -> NDArray[np.int64]:
        """(n_atoms,)."""
        numbers = self.find(*keys)
        if numbers.ndim == 2 and len(numbers) and (numbers == numbers[0]).all():
            numbers = numbers[0]
        if numbers.ndim != 1 or numbers.size == 0 or (numbers != np.floor(numbers)).any():
            raise DataError(
                f"{self.path}: atomic numbers have shape {numbers.shape}; wanted one whole number per atom"
            )
        return numbers.astype(np.int64)

    def vectors(self, *keys: str, n_atoms: int, factor: float = 1.0) -> NDArray[np.float64]:
        """(n_frames, n_atoms, 3), times a factor; copied part by part."""
        array = self.find(*keys)
        if array.ndim != 3 or array.shape[1:] != (n_atoms, 3) or len(array) == 0:
            raise DataError(
                f"{self.path}: {' or '.join(keys)} has shape {array.shape}; wanted (n_frames, {n_atoms}, 3)"
            )
        result = np.empty(array.shape, dtype=np.float64)
        for start in range(0, len(array), _CHUNK):
            np.multiply(array[start : start + _CHUNK], factor, out=result[start : start + _CHUNK])
        return result

    def energies(self, *keys: str, n_frames: int) -> NDArray[np.float64]:
        """(n_frames,), eV."""
        array = self.find(*keys)
        if array.shape not in {(n_frames,), (n_frames, 1)}:
            raise DataError(f"{self.path}: energies have shape {array.shape}; wanted ({n_frames},)")
        return array.reshape(n_frames).astype(np.float64) * EV_PER_KCALMOL

    def cells(self, n_frames: int) -> NDArray[np.float64] | None:
        """(n_frames, 3, 3) of the lengths (A) and right angles (degrees), or None where there are none."""
        if "lengths" not in self.arrays:
            return None
        lengths = self._per_frame("lengths", n_frames)
        if not (lengths > 0).all():
            raise DataError(f"{self.path}: a cell length is not positive; the file is damaged")
        if "angles" in self.arrays and not np.allclose(self._per_frame("angles", n_frames), 90.0, atol=1e-3):
            raise DataError(f"{self.path}: cell angles are not 90 degrees; wanted the box of MDsim's files")
        return lengths[:, :, None] * np.eye(3)

    def _per_frame(self, key: str, n_frames: int) -> NDArray[np.float64]:
        array = self.find(key)
        if array.shape not in {(3,), (1, 3), (n_frames, 3)}:
            raise DataError(f"{self.path}: {key} have shape {array.shape}; wanted (3,) or ({n_frames}, 3)")
        return np.broadcast_to(array.astype(np.float64), (n_frames, 3))
