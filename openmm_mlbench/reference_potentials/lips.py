"""LiPS: a classical potential, force-matched to the real frames, to make data and references with.

Spline potentials of all pairs within 5.55 A, of the fixed P-S bonds of the PS4 and P2S7 anions,
of the distances across one angle of these, and a polynomial in the cosine of S-P-S: 192 linear
parameters, no charges.  It is cheap and runs for as long as one likes; it is not LiPS: see
systems/lips/README.md for what it gets right.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmm_mlbench.assets import asset_path
from openmm_mlbench.cells import cell_heights
from openmm_mlbench.errors import DataError, PotentialError
from openmm_mlbench.reference_potentials.force_matching import (
    AngleTerm,
    DistancePotential,
    DistanceTerm,
    SplineBasis,
    Term,
)
from openmm_mlbench.units import ANGSTROM_PER_NM, KJMOL_PER_EV, NM_PER_ANGSTROM

ID = "lips-fm"
PARAMETERS = "lips-fm.json"
SOURCE = (
    "force-matched to 900 frames of Li6.75P3S11 (PBE, VASP) of Materials Cloud doi 10.24435/materialscloud:s0-5n, "
    "CC-BY-4.0"
)
# Atoms of each type: lithium, phosphorus, sulphur bound to one phosphorus, sulphur between two.
LI, P, S, BRIDGE = range(4)
TYPE_NAMES = ("Li", "P", "S", "Sb")
# Of the real frames, in the form that OpenMM wants; CRYST1 has three decimals only.
CELL_A = (
    (12.37651199, 0.0, 0.0),
    (-2.63045359, 11.97553969, 0.0),
    (-2.81716772, -4.34205295, 11.30880101),
)
# Half the smallest height of the cell is 5.59 A, and OpenMM takes the nearest image only.
CUTOFF_A = 5.55
KNOT_A = 0.2
STIFFNESS_EV_A2 = 5.0
_FIRST_KNOT_A = {(LI, LI): 2.3, (LI, P): 2.4, (LI, S): 1.9, (P, P): 3.2, (P, S): 3.3, (S, S): 2.6}
# Tables in nm for OpenMM: natural splines through points so close that they are the potential itself.
_TABLE_START_A, _TABLE_STOP_A, _TABLE_POINTS = 0.8, 6.8, 600


@dataclass(frozen=True, kw_only=True)
class Anions:
    """Who is bound to whom.

    Args:
        types: (n_atoms,) LI, P, S or BRIDGE.
        bonds: (n_bonds, 2): phosphorus, sulphur.
    """

    types: NDArray[np.int64]
    bonds: NDArray[np.int64]

    @classmethod
    def of(cls, atomic_numbers: NDArray[np.int64], bonds: NDArray[np.int64]) -> "Anions":
        """Types from elements and bonds.

        Raises:
            DataError: a bond joins others than phosphorus and sulphur, or a sulphur has no phosphorus.
        """
        first, second = bonds.T
        if (atomic_numbers[first] != 15).any() or (atomic_numbers[second] != 16).any():
            raise DataError("a bond joins others than phosphorus and sulphur; wanted pairs P, S")
        neighbours = np.bincount(second, minlength=len(atomic_numbers))
        types = np.select(
            [atomic_numbers == 3, atomic_numbers == 15, neighbours == 1, neighbours == 2],
            [LI, P, S, BRIDGE],
            -1,
        )
        if (types < 0).any():
            atom = int(np.flatnonzero(types < 0)[0])
            raise DataError(
                f"atom {atom} is no Li, no P, and no S bound to one or two P; give frames of whole anions"
            )
        return cls(types=types.astype(np.int64), bonds=bonds)

    @cached_property
    def angles(self) -> NDArray[np.int64]:
        """(n_angles, 3): sulphur, phosphorus, sulphur."""
        return self._around(self.bonds[:, 0], self.bonds[:, 1])

    @cached_property
    def bridges(self) -> NDArray[np.int64]:
        """(n_bridges, 3): phosphorus, sulphur, phosphorus."""
        return self._around(self.bonds[:, 1], self.bonds[:, 0])

    @staticmethod
    def _around(vertices: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.int64]:
        found = []
        for vertex in np.unique(vertices):
            others = np.sort(ends[vertices == vertex])
            found += [(a, vertex, b) for i, a in enumerate(others) for b in others[i + 1 :]]
        return np.array(found, dtype=np.int64).reshape(-1, 3)

    @cached_property
    def excluded(self) -> NDArray[np.int64]:
        """(n, 2): pairs one or two bonds apart, which have potentials of their own."""
        pairs = np.concatenate([self.bonds, self.angles[:, ::2], self.bridges[:, ::2]])
        return np.unique(np.sort(pairs, axis=1), axis=0)


def terms_of(anions: Anions) -> tuple[list[DistanceTerm], list[DistanceTerm], list[AngleTerm]]:
    """Terms between atoms that are not bound, within anions, and of angles."""
    types = anions.types
    i, j = np.triu_indices(len(types), k=1)
    n = len(types)
    taken = np.isin(i * n + j, anions.excluded[:, 0] * n + anions.excluded[:, 1])
    low, high = np.minimum(types[i], types[j]), np.maximum(types[i], types[j])
    pairs = []
    for a in range(len(TYPE_NAMES)):
        for b in range(a, len(TYPE_NAMES)):
            chosen = (low == a) & (high == b) & ~taken
            start = _FIRST_KNOT_A[min(a, S), min(b, S)]
            basis = SplineBasis(
                start_A=start, stop_A=CUTOFF_A, n_knots=round((CUTOFF_A - start) / KNOT_A), vanishing=True
            )
            pairs.append(
                DistanceTerm(
                    name=f"{TYPE_NAMES[a]}-{TYPE_NAMES[b]}",
                    basis=basis,
                    pairs=np.stack([i, j], axis=1)[chosen],
                )
            )
    at_bridge = types[anions.bonds[:, 1]] == BRIDGE
    across = (types[anions.angles[:, ::2]] == BRIDGE).any(axis=1)
    bond = SplineBasis(start_A=1.8, stop_A=2.7, n_knots=4, vanishing=False)
    edge = SplineBasis(start_A=2.6, stop_A=4.2, n_knots=5, vanishing=False)
    between = SplineBasis(start_A=3.1, stop_A=4.3, n_knots=4, vanishing=False)
    inside = [
        DistanceTerm(name="bond P-S", basis=bond, pairs=anions.bonds[~at_bridge]),
        DistanceTerm(name="bond P-Sb", basis=bond, pairs=anions.bonds[at_bridge]),
        DistanceTerm(name="S-P-S", basis=edge, pairs=anions.angles[~across][:, ::2]),
        DistanceTerm(name="S-P-Sb", basis=edge, pairs=anions.angles[across][:, ::2]),
        DistanceTerm(name="P-Sb-P", basis=between, pairs=anions.bridges[:, ::2]),
    ]
    angles = [
        AngleTerm(name="S-P-S", triples=anions.angles[~across]),
        AngleTerm(name="S-P-Sb", triples=anions.angles[across]),
    ]
    return pairs, inside, angles


def all_terms(anions: Anions) -> list[Term]:
    """All terms, in the order of the parameters."""
    pairs, inside, angles = terms_of(anions)
    return [*pairs, *inside, *angles]


def make(name: str) -> "LipsForceMatched":
    """The potential of this id."""
    path = asset_path("systems", "lips", PARAMETERS)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PotentialError(f"{path}: cannot be read ({error}); run systems/lips/fit.py again") from error
    return LipsForceMatched(id=name, record=record)


@dataclass(frozen=True, kw_only=True)
class LipsForceMatched:
    """Attributes as of ReferencePotential.

    Args:
        record: the parameter file.
    """

    id: str
    record: dict[str, Any] = field(repr=False)
    system: str = "lips"
    dataset: str | None = "lips-fm"
    summary: str = "classical potential force-matched to the real frames, 192 parameters"
    level_of_theory: str = "classical pair, bond and angle potential force-matched to PBE"
    source: str = SOURCE

    @property
    def description(self) -> dict[str, Any]:
        """For run records."""
        return {
            "model": self.id,
            "archive_sha256": None,
            "dataset": self.dataset,
            "card": None,
            "level_of_theory": self.level_of_theory,
            "source": self.source,
            "parameters": {
                "file": f"systems/lips/{PARAMETERS}",
                "cutoff_A": CUTOFF_A,
                "fit": self.record["fit"],
            },
        }

    @property
    def anions(self) -> Anions:
        """Types and bonds of the 83 atoms."""
        return Anions(
            types=np.array(self.record["types"], dtype=np.int64),
            bonds=np.array(self.record["bonds"], dtype=np.int64),
        )

    def distance_potential(self, term: DistanceTerm) -> DistancePotential:
        """The potential of one term."""
        numbers = self.record["distances"][term.name]
        return DistancePotential(
            basis=term.basis,
            coefficients=np.array(numbers["coefficients_eV"]),
            inner_A=numbers["inner_A"],
            outer_A=numbers["outer_A"],
            stiffness=STIFFNESS_EV_A2,
        )

    def create_system(self, topology: Any, *, constraints: Any = None) -> Any:
        """A System of the 83 atoms.

        Raises:
            PotentialError: other atoms, no cell, a cell too small for the cutoff, or constraints.
        """
        import openmm

        anions = self.anions
        self._check(topology, anions, constraints)
        system = openmm.System()
        for atom in topology.atoms():
            system.addParticle(atom.element.mass)
        system.setDefaultPeriodicBoxVectors(*topology.getPeriodicBoxVectors())
        pairs, inside, angles = terms_of(anions)
        system.addForce(self._nonbonded(anions, pairs))
        system.addForce(self._bonded(inside))
        for term in angles:
            system.addForce(self._angles(term))
        return system

    def _check(self, topology: Any, anions: Anions, constraints: Any) -> None:
        from openmm import unit

        elements = {3: LI, 15: P, 16: S}
        found = [elements.get(atom.element.atomic_number, -1) for atom in topology.atoms()]
        if found != np.minimum(anions.types, S).tolist():
            raise PotentialError(
                f"{self.id}: is made for the 83 atoms of systems/lips/topology.pdb in their order, and was given "
                f"{len(found)} others"
            )
        if constraints is not None:
            raise PotentialError(f"{self.id}: has no hydrogens to constrain; run without constraints")
        box = topology.getPeriodicBoxVectors()
        if box is None:
            raise PotentialError(f"{self.id}: the topology has no cell; wanted CRYST1")
        vectors = np.array(box.value_in_unit(unit.nanometer)) * ANGSTROM_PER_NM
        reach = float(cell_heights(vectors[None]).min()) / 2
        if reach < CUTOFF_A:
            raise PotentialError(
                f"{self.id}: half the smallest height of the cell is {reach:.3g} A; wanted at least {CUTOFF_A} A"
            )

    def _tables(self, terms: Sequence[DistanceTerm]) -> NDArray[np.float64]:
        """(n_terms, points): energies, kJ/mol, at equal distances; a gap between two tables lets splines settle."""
        r = np.linspace(_TABLE_START_A, _TABLE_STOP_A, _TABLE_POINTS, endpoint=False)
        return np.stack([self.distance_potential(term)(r) for term in terms]) * KJMOL_PER_EV

    def _nonbonded(self, anions: Anions, terms: Sequence[DistanceTerm]) -> Any:
        import openmm

        # One table for all, for a platform evaluates one function faster than ten.
        force = openmm.CustomNonbondedForce(f"u(r+{_length_nm()!r}*k(type1,type2))")
        force.addTabulatedFunction("u", _one_table(self._tables(terms)))
        kinds = np.zeros((len(TYPE_NAMES), len(TYPE_NAMES)))
        for k, (a, b) in enumerate(zip(*np.triu_indices(len(TYPE_NAMES)), strict=True)):
            kinds[a, b] = kinds[b, a] = k
        force.addTabulatedFunction("k", openmm.Discrete2DFunction(*kinds.shape, kinds.ravel()))
        force.addPerParticleParameter("type")
        for kind in anions.types:
            force.addParticle([float(kind)])
        for i, j in anions.excluded:
            force.addExclusion(int(i), int(j))
        force.setNonbondedMethod(openmm.CustomNonbondedForce.CutoffPeriodic)
        force.setCutoffDistance(CUTOFF_A * NM_PER_ANGSTROM)
        return force

    def _bonded(self, terms: Sequence[DistanceTerm]) -> Any:
        import openmm

        # CustomBondForce takes no tables.
        force = openmm.CustomCompoundBondForce(2, f"u(distance(p1,p2)+{_length_nm()!r}*kind)")
        force.addTabulatedFunction("u", _one_table(self._tables(terms)))
        force.addPerBondParameter("kind")
        for kind, term in enumerate(terms):
            for i, j in term.pairs:
                force.addBond([int(i), int(j)], [float(kind)])
        force.setUsesPeriodicBoundaryConditions(True)
        return force

    def _angles(self, term: AngleTerm) -> Any:
        import openmm

        numbers = [float(c) * KJMOL_PER_EV for c in self.record["angles"][term.name]]
        powers = "+".join(f"({c!r})*x^{power}" for power, c in enumerate(numbers, 1))
        force = openmm.CustomAngleForce(f"{powers}; x=cos(theta)+1/3")
        for triple in term.triples:
            force.addAngle(*(int(atom) for atom in triple))
        force.setUsesPeriodicBoundaryConditions(True)
        return force


def _length_nm() -> float:
    return (_TABLE_STOP_A - _TABLE_START_A) * NM_PER_ANGSTROM


def _one_table(tables: NDArray[np.float64]) -> Any:
    import openmm

    start = _TABLE_START_A * NM_PER_ANGSTROM
    values = np.append(tables.ravel(), tables[-1, -1])
    return openmm.Continuous1DFunction(values.tolist(), start, start + _length_nm() * len(tables))
