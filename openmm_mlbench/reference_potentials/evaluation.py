"""Energies and forces of a reference potential on given frames."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmm_mlbench.errors import PotentialError
from openmm_mlbench.reference_potentials.registry import ReferencePotential
from openmm_mlbench.units import EV_PER_KJMOL, KJMOL_NM_PER_EV_ANGSTROM, NM_PER_ANGSTROM


def evaluate_frames(
    potential: ReferencePotential,
    topology: Any,
    positions_A: NDArray[np.float64],
    cells_A: NDArray[np.float64] | None = None,
    *,
    constraints: Any = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Energies (n_frames,), eV, and forces (n_frames, n_atoms, 3), eV/A, in double precision.

    Args:
        potential: of :func:`find_reference_potential`.
        topology: OpenMM topology.
        positions_A: (n_frames, n_atoms, 3), A.
        cells_A: (n_frames, 3, 3), rows are box vectors, A, or None.
        constraints: of ``create_system``; forces of constraints are no part of the answer.

    Raises:
        PotentialError: the frames have other atoms, or the topology does not fit.
    """
    import openmm
    from openmm import unit

    if cells_A is not None:
        topology.setPeriodicBoxVectors(cells_A[0] * NM_PER_ANGSTROM * unit.nanometer)
    system = potential.create_system(topology, constraints=constraints)
    if system.getNumParticles() != positions_A.shape[1]:
        raise PotentialError(
            f"{potential.id} acts on {system.getNumParticles()} atoms, the frames have {positions_A.shape[1]}; "
            "give frames of everything that is simulated"
        )
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
    energies = np.empty(len(positions_A))
    forces = np.empty(positions_A.shape)
    for i, positions in enumerate(positions_A):
        if cells_A is not None:
            context.setPeriodicBoxVectors(*(cells_A[i] * NM_PER_ANGSTROM))
        context.setPositions(positions * NM_PER_ANGSTROM)
        state = context.getState(energy=True, forces=True)
        energies[i] = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole) * EV_PER_KJMOL
        forces[i] = state.getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.nanometer)
    return energies, forces / KJMOL_NM_PER_EV_ANGSTROM
