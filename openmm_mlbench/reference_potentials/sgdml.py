"""sGDML: a kernel model of one molecule, fitted to forces at DFT quality.

The descriptor x of a geometry holds the inverse distances of all pairs of atoms, 1/A.  With
training descriptors x_i, their coefficients a_i (projected on the descriptor) and the atom
permutations P under which the molecule is the same,

    E(x) = c + s * sum_P sum_i  w(d) (P x - x_i) . a_i,      d = sqrt(5) |P x - x_i| / sigma,
    w(d) = 5 / (3 sigma^2) * (1 + d) exp(-d),

which is the derivative of a Matern-5/2 kernel; forces are its exact gradient.  Kernel files
give sigma, c and, where it is not 1, s; energies in kcal/mol.

Source: Chmiela, Sauceda, Mueller, Tkatchenko, Nat. Commun. 9, 3887 (2018).  Float64 throughout:
energies are differences of large terms.
"""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmm_mlbench.errors import DataError, PotentialError
from openmm_mlbench.files import sha256_file
from openmm_mlbench.units import ANGSTROM_PER_NM, KJMOL_PER_KCALMOL

LEVEL_OF_THEORY = "sGDML fitted to PBE+vdW-TS"
SOURCE = (
    "kernel models of Chmiela et al., Nat. Commun. 9, 3887 (2018), fitted to 1,000 frames each of MD17; "
    "github.com/stefanch/sGDML (1017258), MIT"
)
MOLECULES = {
    "aspirin": "aspirin",
    "ethanol": "ethanol",
    "naphthalene": "naphthalene",
    "salicylic-acid": "salicylic_acid",
}
PREFIX = "sgdml-"
_KEYS = ("z", "sig", "c", "perms", "Rt_desc", "Rt_d_desc_alpha")
_Compiled = Callable[..., float]


@dataclass(frozen=True, kw_only=True)
class KernelModel:
    """The numbers of a kernel file, in an order fit to be summed.

    Args:
        atomic_numbers: (n_atoms,).
        sigma: length scale of the kernel, 1/A.
        scale: s, the factor on kernel energies and forces.
        offset_kcal_mol: c.
        permutations: (n_permutations, n_atoms), from 0, each a symmetry of the molecule.
        descriptors: (n_train, n_pairs), 1/A; pairs (1,0), (2,0), (2,1), (3,0), ...
        coefficients: (n_train, n_pairs).

    Raises:
        DataError: shapes do not fit, or numbers are not finite.
    """

    atomic_numbers: NDArray[np.int64]
    sigma: float
    scale: float
    offset_kcal_mol: float
    permutations: NDArray[np.int64]
    descriptors: NDArray[np.float64]
    coefficients: NDArray[np.float64]

    def __post_init__(self) -> None:
        n_atoms = len(self.atomic_numbers)
        n_pairs = n_atoms * (n_atoms - 1) // 2
        shape = self.descriptors.shape
        if len(shape) != 2 or shape[1] != n_pairs or self.coefficients.shape != shape:
            raise DataError(
                f"kernel model of {n_atoms} atoms has descriptors {shape} and coefficients "
                f"{self.coefficients.shape}; wanted (n_train, {n_pairs}) twice"
            )
        ordered = np.sort(self.permutations, axis=-1)
        if self.permutations.ndim != 2 or not (ordered == np.arange(n_atoms)).all():
            raise DataError(f"kernel model: permutations are not orders of its {n_atoms} atoms")
        numbers = (self.descriptors, self.coefficients, self.sigma, self.scale, self.offset_kcal_mol)
        if not all(np.isfinite(values).all() for values in numbers) or self.sigma <= 0:
            raise DataError("kernel model: numbers are not finite, or the kernel width is not positive")

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "KernelModel":
        """Read a kernel file as its authors distribute it (npz, kcal/mol and A).

        Raises:
            DataError: missing, damaged, or no kernel file.
        """
        from openmm_mlbench.data.npz import NpzFile

        archive = NpzFile(path)
        lacking = [key for key in _KEYS if key not in archive]
        if lacking:
            raise DataError(
                f"{path}: no sGDML kernel file, it lacks {', '.join(lacking)}; give one as its authors distribute it"
            )
        permutations = archive.numbers("perms").astype(np.int64)
        # Older files count atoms from 1.
        permutations = permutations - (permutations.min() if permutations.size else 0)
        coefficients = archive.numbers("Rt_d_desc_alpha").astype(np.float64)
        try:
            return cls(
                atomic_numbers=archive.numbers("z").astype(np.int64),
                sigma=float(archive.numbers("sig")),
                scale=float(archive.numbers("std")) if "std" in archive else 1.0,
                offset_kcal_mol=float(archive.numbers("c")),
                permutations=permutations,
                descriptors=np.ascontiguousarray(archive.numbers("Rt_desc").T.astype(np.float64)),
                coefficients=np.ascontiguousarray(coefficients.reshape(len(coefficients), -1)),
            )
        except (TypeError, DataError) as error:
            raise DataError(f"{path}: {error}") from error

    def compile(self) -> Callable[[NDArray[np.float64]], tuple[float, NDArray[np.float64]]]:
        """A function from positions (n_atoms, 3), A, to energy, kcal/mol, and forces, kcal/mol/A.

        Compiled by numba at its first call in a process that finds no machine code of it; one thread.
        """
        n_atoms = len(self.atomic_numbers)
        first, second = np.tril_indices(n_atoms, -1)
        place = np.zeros((n_atoms, n_atoms), dtype=np.int64)
        place[first, second] = place[second, first] = np.arange(len(first))
        # (n_permutations, n_pairs): the descriptor of the permuted molecule is x[columns].
        columns = np.array([place[order[first], order[second]] for order in self.permutations])
        root = math.sqrt(5.0) / self.sigma
        scaled = root * self.descriptors
        accumulate = _accumulate()

        def evaluate(positions_A: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            forces = np.empty((n_atoms, 3))
            energy = accumulate(
                np.ascontiguousarray(positions_A, dtype=np.float64),
                columns,
                scaled,
                self.coefficients,
                root,
                forces,
            )
            return self.offset_kcal_mol + self.scale * energy, self.scale * forces

        return evaluate


@cache
def _accumulate() -> _Compiled:
    import numba

    # The order of a sum may change, so that it runs in vector registers; NaN stays NaN.
    fast = {"reassoc", "contract", "nsz", "arcp"}
    try:
        return numba.njit(cache=True, nogil=True, fastmath=fast)(_kernel_sum)
    except RuntimeError:
        # Neither the package nor the home folder can be written: compile in each process.
        return numba.njit(nogil=True, fastmath=fast)(_kernel_sum)


def _kernel_sum(
    positions: NDArray[np.float64],
    columns: NDArray[np.int64],
    trained: NDArray[np.float64],
    coefficients: NDArray[np.float64],
    root: float,
    forces: NDArray[np.float64],
) -> float:
    """Energy and, in place, forces of the kernel sum, both without s and c.

    The training points stay as they are and the molecule is permuted: the same sum, and a
    table that is n_permutations times smaller, which then fits the cache.
    """
    n_atoms = positions.shape[0]
    n_permutations, n_pairs = columns.shape
    inverse = np.empty(n_pairs)
    pair = 0
    for i in range(n_atoms):
        for j in range(i):
            dx = positions[i, 0] - positions[j, 0]
            dy = positions[i, 1] - positions[j, 1]
            dz = positions[i, 2] - positions[j, 2]
            inverse[pair] = 1.0 / math.sqrt(dx * dx + dy * dy + dz * dz)
            pair += 1
    scaled = np.empty((n_permutations, n_pairs))
    for p in range(n_permutations):
        for k in range(n_pairs):
            scaled[p, k] = root * inverse[columns[p, k]]
    slopes = np.zeros((n_permutations, n_pairs))
    prefactor = root * root / 3.0
    energy = 0.0
    for i in range(trained.shape[0]):
        for p in range(n_permutations):
            squared = 0.0
            along = 0.0
            for k in range(n_pairs):
                difference = scaled[p, k] - trained[i, k]
                squared += difference * difference
                along += difference * coefficients[i, k]
            distance = math.sqrt(squared)
            decay = prefactor * math.exp(-distance)
            weight = decay * (1.0 + distance)
            energy += weight * along
            pull = decay * along
            for k in range(n_pairs):
                slopes[p, k] += weight * coefficients[i, k] - pull * (scaled[p, k] - trained[i, k])
    slope = np.zeros(n_pairs)
    for p in range(n_permutations):
        for k in range(n_pairs):
            slope[columns[p, k]] += slopes[p, k]
    forces[:] = 0.0
    pair = 0
    for i in range(n_atoms):
        for j in range(i):
            # d(1/r)/dr_i = -(r_i - r_j) / r^3
            strength = slope[pair] * inverse[pair] ** 3
            for axis in range(3):
                part = strength * (positions[i, axis] - positions[j, axis])
                forces[i, axis] += part
                forces[j, axis] -= part
            pair += 1
    return energy / root


def make(name: str) -> "SgdmlPotential":
    """The potential of this id."""
    return SgdmlPotential(molecule=name.removeprefix(PREFIX))


@dataclass(frozen=True, kw_only=True)
class SgdmlPotential:
    """sGDML of one molecule; attributes as of ReferencePotential.

    Its data set is the one whose labels it was fitted to.

    Args:
        molecule: one of ``MOLECULES``.
        path: the kernel file; ``sgdml/<molecule>.npz`` below $MLBENCH_DATA unless given.
    """

    molecule: str
    path: Path | None = None
    level_of_theory: str = field(default=LEVEL_OF_THEORY, init=False)
    source: str = field(default=SOURCE, init=False)

    def __post_init__(self) -> None:
        if self.molecule not in MOLECULES:
            raise PotentialError(
                f"there is no sGDML kernel model of {self.molecule!r}; there are {', '.join(MOLECULES)}"
            )

    @property
    def id(self) -> str:
        """Its name on the command line."""
        return f"{PREFIX}{self.molecule}"

    @property
    def system(self) -> str:
        """Folder in systems/."""
        return self.molecule

    @property
    def dataset(self) -> str:
        """MD17 with its original labels."""
        return self.molecule

    @property
    def summary(self) -> str:
        """One line for lists."""
        return f"kernel model fitted to MD17's labels of {self.molecule}; its file does not ship"

    @property
    def file(self) -> Path:
        """The kernel file, which need not exist."""
        from openmm_mlbench.data.datasets import data_folder

        return self.path or data_folder() / "sgdml" / f"{MOLECULES[self.molecule]}.npz"

    @property
    def description(self) -> dict[str, Any]:
        """For run records; the hash of the kernel file stands for its numbers."""
        self._check_file()
        return {
            "model": self.id,
            "archive_sha256": None,
            "dataset": self.dataset,
            "card": None,
            "level_of_theory": self.level_of_theory,
            "source": self.source,
            "parameters": {"kernel_file": self.file.name, "sha256": sha256_file(self.file)},
        }

    def _check_file(self) -> None:
        if not self.file.is_file():
            raise DataError(
                f"{self.id} needs the kernel file {self.file}, which does not ship; set MLBENCH_DATA to the folder "
                f"that holds sgdml/{self.file.name} (its authors' repository has it: github.com/stefanch/sGDML)"
            )

    def load(self) -> KernelModel:
        """The kernel model.

        Raises:
            DataError: its file is missing or damaged.
        """
        self._check_file()
        return KernelModel.read(self.file)

    def create_system(self, topology: Any, *, constraints: Any = None) -> Any:
        """An OpenMM System whose only force is the kernel model, evaluated in Python.

        Raises:
            PotentialError: another molecule, another atom order, a box, or constraints.
            DataError: the kernel file is missing or damaged.
        """
        import openmm

        if constraints is not None:
            raise PotentialError(
                f"{self.id} is fitted to flexible molecules, constraints={constraints} was asked for; "
                "use constraints=None and at most 1 fs"
            )
        if topology.getPeriodicBoxVectors() is not None:
            raise PotentialError(f"{self.id} is of one molecule in vacuum; give a topology without a box")
        model = self.load()
        elements = [atom.element for atom in topology.atoms()]
        numbers = [0 if element is None else element.atomic_number for element in elements]
        if numbers != model.atomic_numbers.tolist():
            raise PotentialError(
                f"{self.id} is of atoms {model.atomic_numbers.tolist()} in this order, the topology has {numbers}; "
                "give the molecule in MD17's atom order"
            )
        system = openmm.System()
        for element in elements:
            system.addParticle(element.mass)
        force = openmm.PythonForce(_Callback(model))
        force.setName(f"openmm-mlbench {self.id}")
        system.addForce(force)
        return system


class _Callback:
    """What OpenMM calls at every step: nm and kJ/mol."""

    def __init__(self, model: KernelModel) -> None:
        self._model = model
        self._evaluate = model.compile()

    def __call__(self, state: Any) -> tuple[float, NDArray[np.float64]]:
        # _value skips unit checks, which cost as much as the rest of the callback.
        positions_nm = state.getPositions(asNumpy=True)._value  # noqa: SLF001
        energy, forces = self._evaluate(positions_nm * ANGSTROM_PER_NM)
        return energy * KJMOL_PER_KCALMOL, forces * (KJMOL_PER_KCALMOL * ANGSTROM_PER_NM)

    def __reduce__(self) -> Any:
        return _Callback, (self._model,)
