"""Degrees of freedom of a molecule with rigid bonds, on a test system of openmmtools."""

import numpy as np
import openmm
import pytest
from openmm import app, unit
from openmmtools import testsystems

from openmm_mlbench.simulation.momenta import compute_temperatures, draw_velocities

TEMPERATURE_K = 300.0
N_DRAWS = 400


@pytest.mark.parametrize("constraints", [None, app.HBonds], ids=["flexible", "h-bonds"])
def test_drawn_momenta_have_the_temperature_asked_for(constraints):
    """Projecting thermal momenta onto the constraints takes out exactly their degrees of freedom."""
    molecule = testsystems.AlanineDipeptideVacuum(constraints=constraints)
    system = molecule.system
    masses = np.array(
        [system.getParticleMass(i).value_in_unit(unit.dalton) for i in range(system.getNumParticles())]
    )
    n_constraints = system.getNumConstraints()
    assert (n_constraints > 0) == (constraints is not None)
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
    context.setPositions(molecule.positions)
    context.applyConstraints(1e-10)
    positions_nm = np.array(context.getState(positions=True).getPositions(asNumpy=True)._value)

    generator = np.random.default_rng(7)
    found = []
    for _ in range(N_DRAWS):
        context.setVelocities(draw_velocities(masses, TEMPERATURE_K, generator))
        context.applyVelocityConstraints(1e-10)
        velocities = np.array(context.getState(velocities=True).getVelocities(asNumpy=True)._value)
        temperatures = compute_temperatures(positions_nm, velocities, masses, n_constraints)
        found.append([temperatures.total, temperatures.rotation, temperatures.vibration])

    n_internal = 3 * len(masses) - 3 - n_constraints
    # A kinetic temperature over n degrees of freedom has the standard deviation T sqrt(2 / n).
    for values, n in zip(np.transpose(found), (n_internal, 3, n_internal - 3), strict=True):
        stderr = TEMPERATURE_K * np.sqrt(2 / n / N_DRAWS)
        assert abs(values.mean() - TEMPERATURE_K) < 3 * stderr
        assert values.std() == pytest.approx(TEMPERATURE_K * np.sqrt(2 / n), rel=0.15)
