"""Momenta and temperatures: hand-computed cases, and the textbook's loop beside the fast form."""

import harmonic_ethanol
import numpy as np
import openmm
import pytest
from openmm import unit

from openmm_mlbench.simulation.momenta import (
    compute_temperatures,
    draw_velocities,
    rotational_energy,
    velocity_lag_ps,
)
from openmm_mlbench.simulation.seeds import choose_start_frames, integrator_seed, velocity_generator
from openmm_mlbench.units import BOLTZMANN_KJMOL_K

MASSES = np.array([12.0, 12.0, 16.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0])
POSITIONS_NM = 0.1 * harmonic_ethanol.POSITIONS


def naive_rotational_energy(positions, velocities, masses):
    """1/2 L . I^-1 L with sums written out."""
    total = sum(masses)
    centre = sum(m * x for m, x in zip(masses, positions, strict=True)) / total
    momentum, inertia = np.zeros(3), np.zeros((3, 3))
    for m, x, v in zip(masses, positions, velocities, strict=True):
        arm = x - centre
        momentum += m * np.array(
            [arm[1] * v[2] - arm[2] * v[1], arm[2] * v[0] - arm[0] * v[2], arm[0] * v[1] - arm[1] * v[0]]
        )
        for a in range(3):
            for b in range(3):
                inertia[a, b] += m * ((arm @ arm if a == b else 0.0) - arm[a] * arm[b])
    return 0.5 * momentum @ np.linalg.inv(inertia) @ momentum


def test_rotational_energy_against_the_naive_form():
    generator = np.random.default_rng(1)
    for _ in range(20):
        velocities = draw_velocities(MASSES, 500.0, generator)
        energy, freedom = rotational_energy(POSITIONS_NM, velocities, MASSES)
        assert freedom == 3
        assert energy == pytest.approx(naive_rotational_energy(POSITIONS_NM, velocities, MASSES), rel=1e-10)


def test_rigid_rotation_is_all_rotation():
    """Four unit masses at distance 1 on two axes, turning about the third: K = 1/2 * 4 * w^2."""
    positions = np.array([[1.0, 0, 0], [-1.0, 0, 0], [0, 1.0, 0], [0, -1.0, 0]])
    velocities = np.cross([0.0, 0.0, 3.0], positions)
    temperatures = compute_temperatures(positions, velocities, np.ones(4))
    assert temperatures.rotation == pytest.approx(2 * 18.0 / (3 * BOLTZMANN_KJMOL_K))
    assert temperatures.vibration == pytest.approx(0.0, abs=1e-9)
    assert temperatures.total == pytest.approx(2 * 18.0 / (9 * BOLTZMANN_KJMOL_K))


def test_breathing_is_all_vibration_and_drift_is_nothing():
    positions = np.array([[1.0, 0, 0], [-1.0, 0, 0], [0, 1.0, 0], [0, -1.0, 0]])
    temperatures = compute_temperatures(positions, 2.0 * positions + [5.0, 6.0, 7.0], np.ones(4))
    assert temperatures.rotation == pytest.approx(0.0, abs=1e-9)
    assert temperatures.vibration == pytest.approx(2 * 8.0 / (6 * BOLTZMANN_KJMOL_K))


def test_constraints_reduce_the_degrees_of_freedom():
    positions = np.array([[1.0, 0, 0], [-1.0, 0, 0], [0, 1.0, 0], [0, -1.0, 0]])
    free = compute_temperatures(positions, positions, np.ones(4))
    held = compute_temperatures(positions, positions, np.ones(4), n_constraints=2)
    assert held.total == pytest.approx(free.total * 9 / 7)
    assert held.vibration == pytest.approx(free.vibration * 6 / 4)


@pytest.mark.parametrize(
    ("positions", "freedom"),
    [
        (np.array([[0.0, 0, 0]]), 0),
        (np.array([[0.0, 0, 0], [0, 0, 1]]), 2),
        (np.array([[-1.0, 1, 0], [0, 0, 0], [1, -1, 0]]), 2),
    ],
    ids=["atom", "diatomic", "linear triatomic"],
)
def test_linear_molecules_turn_about_two_axes(positions, freedom):
    velocities = np.random.default_rng(0).standard_normal(positions.shape)
    masses = np.ones(len(positions))
    assert rotational_energy(positions, velocities, masses)[1] == freedom
    temperatures = compute_temperatures(positions, velocities, masses)
    assert (temperatures.rotation is None) == (freedom == 0)


def test_periodic_systems_have_no_temperature_of_rotation():
    temperatures = compute_temperatures(
        POSITIONS_NM, draw_velocities(MASSES, 300.0, np.random.default_rng(0)), MASSES, isolated=False
    )
    assert temperatures.rotation is None
    assert temperatures.vibration is None
    assert temperatures.total > 0


def test_drawn_momenta_are_thermal_over_3n_minus_3_degrees_of_freedom():
    """The centre of mass rests in every draw; T, T_rot and T_vib are 500 K on average."""
    generator = np.random.default_rng(7)
    drawn = []
    for _ in range(4000):
        velocities = draw_velocities(MASSES, 500.0, generator)
        assert np.abs(MASSES @ velocities).max() < 1e-12
        temperatures = compute_temperatures(POSITIONS_NM, velocities, MASSES)
        drawn.append((temperatures.total, temperatures.rotation, temperatures.vibration))
    means = np.mean(drawn, axis=0)
    # Chi-squared: the standard deviation of T over f degrees of freedom is T sqrt(2/f).
    stderr = 500.0 * np.sqrt(2 / np.array([24, 3, 21])) / np.sqrt(len(drawn))
    assert (np.abs(means - 500.0) < 3 * stderr).all()
    assert np.std(drawn, axis=0) == pytest.approx(500.0 * np.sqrt(2 / np.array([24, 3, 21])), rel=0.05)


@pytest.mark.parametrize(
    "integrator",
    [
        openmm.VerletIntegrator(0.001),
        openmm.LangevinMiddleIntegrator(500, 10, 0.001),
        openmm.NoseHooverIntegrator(500, 100, 0.001),
    ],
    ids=lambda integrator: type(integrator).__name__,
)
def test_the_lag_is_the_one_in_openmms_kinetic_energy(integrator):
    system = harmonic_ethanol.HarmonicEthanol().create_system(harmonic_ethanol.topology())
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(POSITIONS_NM)
    context.setVelocitiesToTemperature(500.0, 3)
    integrator.step(50)
    state = context.getState(velocities=True, forces=True, energy=True)
    masses = np.array([system.getParticleMass(i)._value for i in range(9)])
    velocities = state.getVelocities(asNumpy=True)._value
    moved_on = (
        velocities + velocity_lag_ps(integrator) * state.getForces(asNumpy=True)._value / masses[:, None]
    )
    kinetic = 0.5 * masses @ (moved_on**2).sum(axis=1)
    assert kinetic == pytest.approx(state.getKineticEnergy().value_in_unit(unit.kilojoule_per_mole), rel=1e-9)


def test_streams_do_not_depend_on_the_number_of_replicas():
    assert choose_start_frames(100, 3, seed=5).tolist() == choose_start_frames(100, 8, seed=5)[:3].tolist()
    assert sorted(choose_start_frames(8, 8, seed=0).tolist()) == list(range(8))
    assert choose_start_frames(100, 3, seed=5).tolist() != choose_start_frames(100, 3, seed=6).tolist()


def test_every_replica_has_streams_of_its_own():
    draws = {
        (seed, replica): velocity_generator(seed, replica).standard_normal(4).tobytes()
        for seed in range(3)
        for replica in range(5)
    }
    assert len(set(draws.values())) == len(draws)
    assert velocity_generator(1, 2).standard_normal(4).tobytes() == draws[1, 2]
    seeds = {
        integrator_seed(seed, replica, step) for seed in range(3) for replica in range(5) for step in (0, 100)
    }
    assert len(seeds) == 30
    assert all(0 < seed < 2**31 for seed in seeds)
