"""Flexible SPC water (SPC/Fw), as published and as in the published benchmark data set.

E = sum k_OH/2 (r - r0)^2 + sum k_HOH/2 (theta - theta0)^2 + Coulomb + Lennard-Jones between
molecules.  Parameters: Wu, Tepper, Voth, J. Chem. Phys. 124, 024503 (2006), Table I.

The forces of the benchmark's own water data are those of this model with both force
constants doubled, as a program computes that writes a harmonic term as K x^2 and is given k
for K.  ``spcfw`` is the model as published, ``spcfw-mdsim`` the one of the benchmark's data.
"""

import math
from dataclasses import dataclass
from typing import Any

from openmm_mlbench.errors import PotentialError
from openmm_mlbench.units import ANGSTROM_PER_NM, KJMOL_PER_KCALMOL, NM_PER_ANGSTROM

OH_LENGTH_A = 1.012
HOH_ANGLE_DEG = 113.24
OH_CONSTANT_KCAL_MOL_A2 = 1059.162
HOH_CONSTANT_KCAL_MOL_RAD2 = 75.90
HYDROGEN_CHARGE = 0.41
OXYGEN_EPSILON_KCAL_MOL = 0.1553
OXYGEN_SIGMA_A = 3.1655

# The cell of 64 molecules is 12.443 A wide, and half of it is the longest cutoff possible, below
# the 9 A of the published model.  Ewald sums for r^-1 and r^-6 alike leave a cutoff nothing to truncate
# but the repulsion and the tails of the real-space sums: 5e-5 eV jump at 6 A, no force.
CUTOFF_A = 6.0
# Measured in this cell: forces within 0.08 meV/A (root mean square) of the limit, at 1,300 steps/s.
EWALD_ALPHA_PER_NM = 5.0
EWALD_GRID_PER_NM = 16.0
DISPERSION_ALPHA_PER_NM = 4.5
DISPERSION_GRID_PER_NM = 9.6

# Factor on both force constants, data set, summary.
_VARIANTS = {
    "spcfw": (1.0, "water-spcfw-1k", "flexible SPC water as published (Wu 2006)"),
    "spcfw-mdsim": (
        2.0,
        "water-1k",
        "flexible SPC water with doubled force constants, as in the paper's data",
    ),
}


def make(name: str) -> "FlexibleSPC":
    """The potential of this id."""
    factor, dataset, summary = _VARIANTS[name]
    return FlexibleSPC(id=name, dataset=dataset, summary=summary, stiffness=factor)


@dataclass(frozen=True, kw_only=True)
class FlexibleSPC:
    """SPC/Fw; attributes as of ReferencePotential.

    Args:
        stiffness: factor on both force constants.
    """

    id: str
    dataset: str | None
    summary: str
    stiffness: float
    system: str = "water"

    @property
    def level_of_theory(self) -> str:
        """As data sets state it."""
        doubled = "" if self.stiffness == 1.0 else f", force constants x {self.stiffness:g}"
        return f"SPC/Fw classical water{doubled}, Ewald sums for Coulomb and dispersion"

    @property
    def source(self) -> str:
        """Where the parameters come from."""
        return "Wu, Tepper, Voth, J. Chem. Phys. 124, 024503 (2006)"

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
                "OH_length_A": OH_LENGTH_A,
                "HOH_angle_deg": HOH_ANGLE_DEG,
                "OH_constant_kcal_mol_A2": self.stiffness * OH_CONSTANT_KCAL_MOL_A2,
                "HOH_constant_kcal_mol_rad2": self.stiffness * HOH_CONSTANT_KCAL_MOL_RAD2,
                "hydrogen_charge": HYDROGEN_CHARGE,
                "oxygen_epsilon_kcal_mol": OXYGEN_EPSILON_KCAL_MOL,
                "oxygen_sigma_A": OXYGEN_SIGMA_A,
                "cutoff_A": CUTOFF_A,
                "ewald_alpha_per_nm": EWALD_ALPHA_PER_NM,
                "ewald_grid_per_nm": EWALD_GRID_PER_NM,
                "dispersion_alpha_per_nm": DISPERSION_ALPHA_PER_NM,
                "dispersion_grid_per_nm": DISPERSION_GRID_PER_NM,
            },
        }

    def create_system(self, topology: Any, *, constraints: Any = None) -> Any:
        """A System of whole molecules in the order O, H, H; without a cell, plain Coulomb and Lennard-Jones.

        Raises:
            PotentialError: constraints are wanted, or the topology is not water in this order.
        """
        import openmm

        if constraints is not None:
            raise PotentialError(
                f"{self.id} is a flexible model, constraints={constraints} was asked for; use constraints=None"
            )
        molecules = self._molecules(topology)
        system = openmm.System()
        for atom in topology.atoms():
            system.addParticle(atom.element.mass)
        box = topology.getPeriodicBoxVectors()
        if box is not None:
            system.setDefaultPeriodicBoxVectors(*box)
        for force in (self._bonds(molecules), self._angles(molecules), _nonbonded(molecules, box)):
            system.addForce(force)
        return system

    def _molecules(self, topology: Any) -> list[int]:
        """Places of the oxygens."""
        symbols = [atom.element.symbol if atom.element is not None else "?" for atom in topology.atoms()]
        if not symbols or symbols != ["O", "H", "H"] * (len(symbols) // 3):
            raise PotentialError(
                f"{self.id}: the topology begins with {' '.join(symbols[:6]) or 'no atoms'}; "
                "wanted water molecules, each O, H, H"
            )
        return list(range(0, len(symbols), 3))

    def _bonds(self, molecules: list[int]) -> Any:
        import openmm

        constant = self.stiffness * OH_CONSTANT_KCAL_MOL_A2 * KJMOL_PER_KCALMOL * ANGSTROM_PER_NM**2
        force = openmm.HarmonicBondForce()
        for oxygen in molecules:
            for hydrogen in (oxygen + 1, oxygen + 2):
                force.addBond(oxygen, hydrogen, OH_LENGTH_A * NM_PER_ANGSTROM, constant)
        return force

    def _angles(self, molecules: list[int]) -> Any:
        import openmm

        constant = self.stiffness * HOH_CONSTANT_KCAL_MOL_RAD2 * KJMOL_PER_KCALMOL
        force = openmm.HarmonicAngleForce()
        for oxygen in molecules:
            force.addAngle(oxygen + 1, oxygen, oxygen + 2, math.radians(HOH_ANGLE_DEG), constant)
        return force


def _nonbonded(molecules: list[int], box: Any) -> Any:
    import openmm
    from openmm import unit

    force = openmm.NonbondedForce()
    for oxygen in molecules:
        epsilon = OXYGEN_EPSILON_KCAL_MOL * KJMOL_PER_KCALMOL
        force.addParticle(-2 * HYDROGEN_CHARGE, OXYGEN_SIGMA_A * NM_PER_ANGSTROM, epsilon)
        for _ in range(2):
            force.addParticle(HYDROGEN_CHARGE, 1.0, 0.0)
        for one, other in ((0, 1), (0, 2), (1, 2)):
            force.addException(oxygen + one, oxygen + other, 0.0, 1.0, 0.0)
    if box is None:
        force.setNonbondedMethod(openmm.NonbondedForce.NoCutoff)
        return force
    edges_nm = [box[axis][axis].value_in_unit(unit.nanometer) for axis in range(3)]
    if min(edges_nm) < 2 * CUTOFF_A * NM_PER_ANGSTROM:
        raise PotentialError(
            f"the cell is {min(edges_nm) * ANGSTROM_PER_NM:.2f} A wide; wanted at least {2 * CUTOFF_A:g} A, twice the cutoff"
        )
    force.setNonbondedMethod(openmm.NonbondedForce.LJPME)
    force.setCutoffDistance(CUTOFF_A * NM_PER_ANGSTROM)
    force.setPMEParameters(EWALD_ALPHA_PER_NM, *(math.ceil(EWALD_GRID_PER_NM * edge) for edge in edges_nm))
    force.setLJPMEParameters(
        DISPERSION_ALPHA_PER_NM, *(math.ceil(DISPERSION_GRID_PER_NM * edge) for edge in edges_nm)
    )
    return force
