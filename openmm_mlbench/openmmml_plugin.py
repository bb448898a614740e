"""The plugin of OpenMM-ML: ``MLPotential("openmm-mlbench", model="ethanol/schnet")``.

OpenMM-ML imports this file through the entry-point group ``openmmml.potentials``
each time it is imported itself, so nothing heavy is imported here.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from openmmml.mlpotential import MLPotentialImpl, MLPotentialImplFactory

from openmm_mlbench.errors import PotentialError
from openmm_mlbench.units import NM_PER_ANGSTROM

if TYPE_CHECKING:
    import openmm
    from openmm import app

    from openmm_mlbench.potential import Potential


class MLBenchPotentialImplFactory(MLPotentialImplFactory):
    """``MLPotential("openmm-mlbench", model="ethanol/schnet")`` of OpenMM-ML."""

    def createImpl(  # noqa: N802
        self, name: str, *, model: str | None = None, **unknown: Any
    ) -> "MLBenchPotentialImpl":
        """OpenMM-ML calls this with the keywords of ``MLPotential``."""
        from openmm_mlbench.potential import Potential

        if model is None or unknown:
            raise PotentialError(
                f"MLPotential({name!r}) takes model=..., an id like 'ethanol/schnet' or a path of a .pt file, and "
                f"nothing else; got {', '.join(sorted(unknown)) or 'no model'}"
            )
        return MLBenchPotentialImpl(Potential.load(model))


class MLBenchPotentialImpl(MLPotentialImpl):
    """Adds the learned force to Systems that OpenMM-ML builds.

    Args:
        potential: the model.
    """

    def __init__(self, potential: "Potential") -> None:
        self.potential = potential

    def addForces(  # noqa: N802
        self,
        topology: "app.Topology",
        system: "openmm.System",
        atoms: Iterable[int] | None,
        forceGroup: int,
        constraints: Any = None,
        driver: str = "auto",
        evaluation: str = "auto",
    ) -> None:
        """OpenMM-ML calls this with the keywords of ``createSystem``."""
        if atoms is None:
            for i, j, length_A in self.potential.constraints(topology, constraints):
                system.addConstraint(i, j, length_A * NM_PER_ANGSTROM)
        else:
            atoms = list(atoms)
            self.potential.check_rigid_bonds(system, atoms)
        # Not add_to: to interpolate, OpenMM-ML collects the forces in a System without particles.
        system.addForce(
            self.potential.create_force(
                topology, atoms, force_group=forceGroup, driver=driver, evaluation=evaluation
            )
        )
