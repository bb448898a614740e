"""Degrees of freedom of a molecule with rigid bonds, on a test system of openmmtools."""

import numpy as np
import openmm
import pytest
from openmm import app, unit
from openmmtools import testsystems

from openmm_mlbench.simulation.momenta import RigidBonds, compute_temperatures, draw_velocities
from openmm_mlbench.units import BOLTZMANN_KJMOL_K

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


def test_motion_along_rigid_bonds_is_taken_away_as_openmm_does_it():
    molecule = testsystems.AlanineDipeptideExplicit(constraints=app.HBonds, rigid_water=True)
    system = molecule.system
    masses = np.array(
        [system.getParticleMass(i).value_in_unit(unit.dalton) for i in range(system.getNumParticles())]
    )
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
    context.setPositions(molecule.positions)
    context.applyConstraints(1e-10)
    positions_nm = np.array(context.getState(positions=True).getPositions(asNumpy=True)._value)
    velocities = draw_velocities(masses, TEMPERATURE_K, np.random.default_rng(3))
    context.setVelocities(velocities)
    context.applyVelocityConstraints(1e-10)
    wanted = np.array(context.getState(velocities=True).getVelocities(asNumpy=True)._value)
    found = RigidBonds(system).project(positions_nm, velocities, masses)
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert np.abs(found - velocities).max() > 0.1


def test_langevin_dynamics_with_rigid_bonds_has_the_temperature_asked_for():
    """The stored velocities alone would read 1 % too hot at this friction and time step."""
    molecule = testsystems.AlanineDipeptideVacuum(constraints=app.HBonds)
    system = molecule.system
    for index in reversed(range(system.getNumForces())):
        if isinstance(system.getForce(index), openmm.CMMotionRemover):
            system.removeForce(index)
    masses = np.array(
        [system.getParticleMass(i).value_in_unit(unit.dalton) for i in range(system.getNumParticles())]
    )
    integrator = openmm.LangevinMiddleIntegrator(TEMPERATURE_K, 49.0, 0.002)
    integrator.setRandomNumberSeed(5)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(molecule.positions)
    context.setVelocitiesToTemperature(TEMPERATURE_K, 1)
    integrator.step(1000)
    rigid = RigidBonds(system)
    stored, projected = [], []
    for _ in range(8000):
        integrator.step(8)
        state = context.getState(positions=True, velocities=True)
        positions_nm = state.getPositions(asNumpy=True)._value
        velocities = state.getVelocities(asNumpy=True)._value
        for found, values in (
            (stored, velocities),
            (projected, rigid.project(positions_nm, velocities, masses)),
        ):
            # All momenta are thermal here, the centre of mass's too.
            found.append((masses @ (values**2).sum(axis=1)) / ((3 * len(masses) - 12) * BOLTZMANN_KJMOL_K))
    stderr = TEMPERATURE_K * np.sqrt(2 / (3 * len(masses) - 12) / (len(stored) / 3))
    assert abs(np.mean(projected) - TEMPERATURE_K) < 3 * stderr
    # 12 (1 - exp(-2 friction step)) / 4 of the degrees of freedom; the difference hardly fluctuates.
    excess = np.mean(stored) - np.mean(projected)
    wanted = TEMPERATURE_K * 12 * (1 - np.exp(-2 * 49 * 0.002)) / 4 / (3 * len(masses) - 12)
    assert excess == pytest.approx(wanted, rel=0.1)
