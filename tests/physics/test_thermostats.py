"""The temperatures of a protocol on an analytic potential: the right ones, over the right degrees of freedom.

The trajectories are fixed by their seeds.  Errors are block errors; the limits
on them make sure that a wrong count of degrees of freedom (562 K or 444 K
instead of 500 K) cannot hide behind them.
"""

import dataclasses

import harmonic_ethanol
import numpy as np
import openmm
import periodic_argon
import pytest

from openmm_mlbench.protocol import load_protocol
from openmm_mlbench.simulation.momenta import compute_temperatures, draw_velocities
from openmm_mlbench.simulation.runner import run_protocol
from openmm_mlbench.simulation.task import create_system

EQUILIBRATION_PS = 5.0
N_BLOCKS = 20


def temperatures(tmp_path, name, replicas, length_ps):
    """(n_replicas, n_frames) of T, T_rot and T_vib after equilibration."""
    run_protocol(
        load_protocol(name),
        harmonic_ethanol.HarmonicEthanol(),
        tmp_path / "run",
        start_frames=harmonic_ethanol.frames(),
        replicas=replicas,
        length_ps=length_ps,
        seed=1,
    )
    logs = [harmonic_ethanol.read_log(tmp_path / "run" / f"replica-{i}") for i in range(replicas)]
    kept = logs[0]["time_ps"] > EQUILIBRATION_PS
    return {
        key: np.array([log[key][kept] for log in logs]) for key in ("temperature_K", "T_rot_K", "T_vib_K")
    }


def block_stderr(values):
    """Standard error of the mean over all replicas, from block means."""
    blocks = np.concatenate([[block.mean() for block in np.array_split(row, N_BLOCKS)] for row in values])
    return blocks.std(ddof=1) / np.sqrt(len(blocks))


def test_nose_hoover_holds_the_temperature_over_3n_minus_3_degrees_of_freedom(tmp_path, record_property):
    found = temperatures(tmp_path, "ethanol", replicas=8, length_ps=45.0)
    total = found["temperature_K"]
    stderr = block_stderr(total)
    assert stderr < 3.0
    assert abs(total.mean() - 500.0) < 3 * stderr
    # Rotation keeps what it was given: replicas differ far more than their errors, and vibration pays.
    rotation, vibration = found["T_rot_K"].mean(axis=1), found["T_vib_K"].mean(axis=1)
    spread = (
        f"T {total.mean():.1f} +- {stderr:.1f} K; over 8 replicas T_rot {rotation.min():.0f} to {rotation.max():.0f} K, "
        f"T_vib {vibration.min():.0f} to {vibration.max():.0f} K, standard deviation {vibration.std(ddof=1):.0f} K"
    )
    record_property("spread", spread)
    print(spread)
    assert vibration.std(ddof=1) > 10.0
    assert np.allclose((3 * rotation + 21 * vibration) / 24, total.mean(axis=1))


def test_langevin_thermalises_vibration_and_rotation_alike(tmp_path, record_property):
    found = temperatures(tmp_path, "ethanol-langevin", replicas=4, length_ps=155.0)
    report = []
    for key, limit in (("T_vib_K", 4.0), ("T_rot_K", 8.0), ("temperature_K", 4.0)):
        stderr = block_stderr(found[key])
        report.append(f"{key} {found[key].mean():.1f} +- {stderr:.1f}")
        assert stderr < limit
        assert abs(found[key].mean() - 500.0) < 3 * stderr, report
    record_property("control", ", ".join(report))
    print(", ".join(report))
    assert found["T_vib_K"].mean(axis=1).std(ddof=1) < 10.0


def test_without_a_centre_of_mass_remover_nose_hoover_would_be_wrong():
    """Then OpenMM counts 3N degrees of freedom and heats the internal 3N - 3 to T 3N / (3N - 3)."""
    system = harmonic_ethanol.HarmonicEthanol().create_system(harmonic_ethanol.topology())
    remover = next(
        i for i, force in enumerate(system.getForces()) if isinstance(force, openmm.CMMotionRemover)
    )
    system.removeForce(remover)
    integrator = load_protocol("ethanol").make_integrator()
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
    masses = np.array([system.getParticleMass(i)._value for i in range(9)])
    context.setPositions(0.1 * harmonic_ethanol.POSITIONS)
    context.setVelocities(draw_velocities(masses, 500.0, np.random.default_rng(0)))
    integrator.step(10_000)
    samples = []
    for _ in range(2000):
        integrator.step(100)
        state = context.getState(positions=True, velocities=True)
        positions, velocities = (
            state.getPositions(asNumpy=True)._value,
            state.getVelocities(asNumpy=True)._value,
        )
        samples.append(compute_temperatures(positions, velocities, masses).total)
    assert np.mean(samples) == pytest.approx(500.0 * 27 / 24, abs=10.0)


class NoRemover(harmonic_ethanol.HarmonicEthanol):
    """A provider that leaves the centre of mass alone."""

    def create_system(self, topology, constraints=None):
        system = super().create_system(topology, constraints)
        system.removeForce(system.getNumForces() - 1)
        return system


def test_the_runner_adds_a_missing_remover_and_no_second_one():
    protocol, topology = load_protocol("ethanol"), harmonic_ethanol.topology()
    for provider in (NoRemover(), harmonic_ethanol.HarmonicEthanol()):
        system = create_system(provider, protocol, topology)
        assert [type(force).__name__ for force in system.getForces()].count("CMMotionRemover") == 1


def test_nve_conserves_the_total_energy_of_the_log(tmp_path):
    """Kinetic energy half a step off would show as fluctuations of many kJ/mol."""
    protocol = load_protocol("ethanol")
    nve = dataclasses.replace(
        protocol,
        ensemble="NVE",
        timestep_fs=0.1,
        integrator_xml=openmm.XmlSerializer.serialize(openmm.VerletIntegrator(0.0001)),
    )
    run_protocol(
        nve,
        harmonic_ethanol.HarmonicEthanol(),
        tmp_path / "run",
        start_frames=harmonic_ethanol.frames(),
        replicas=1,
        length_ps=10.0,
    )
    log = harmonic_ethanol.read_log(tmp_path / "run" / "replica-0")
    assert log["potential_energy_kJ_mol"].std() > 5.0
    assert np.ptp(log["total_energy_kJ_mol"]) < 0.5


class RigidEthanol(harmonic_ethanol.HarmonicEthanol):
    """The lengths of the six C-H bonds and of the O-H bond are held."""

    def create_system(self, topology, constraints=None):
        system = super().create_system(topology, constraints)
        for (i, j), length in zip(harmonic_ethanol.BONDS.tolist(), harmonic_ethanol.EQUILIBRIUM, strict=True):
            if harmonic_ethanol.ATOMIC_NUMBERS[j] == 1:
                system.addConstraint(i, j, 0.1 * length)
        return system


@pytest.mark.parametrize("name", ["ethanol", "ethanol-langevin"])
def test_constraints_are_no_degrees_of_freedom(name, tmp_path, record_property):
    """3N - 3 - 6 = 18 of them: with 24 counted the temperature would be 667 K, with 21 583 K."""
    protocol = load_protocol(name)
    integrator = protocol.make_integrator()
    integrator.setStepSize(0.002)
    protocol = dataclasses.replace(
        protocol,
        timestep_fs=2.0,
        constraints="h-bonds",
        integrator_xml=openmm.XmlSerializer.serialize(integrator),
    )
    frames = harmonic_ethanol.frames()
    run_protocol(protocol, RigidEthanol(), tmp_path / "run", start_frames=frames, replicas=2, length_ps=60.0)
    logs = [harmonic_ethanol.read_log(tmp_path / "run" / f"replica-{i}") for i in range(2)]
    values = np.array([log["temperature_K"][100:] for log in logs])
    stderr = block_stderr(values)
    record_property("temperature", f"{name}: {values.mean():.1f} +- {stderr:.1f} K")
    print(name, values.mean(), stderr)
    assert stderr < 15.0
    assert abs(values.mean() - 500.0) < 3 * stderr


class RemovedMotion(periodic_argon.Argon):
    """The provider removes the motion of the centre of mass itself, and only every tenth step."""

    def create_system(self, topology, constraints=None):
        system = super().create_system(topology, constraints)
        system.addForce(openmm.CMMotionRemover(10))
        return system


@pytest.mark.parametrize("provider", [periodic_argon.Argon, RemovedMotion])
def test_nose_hoover_in_a_periodic_cell(provider, tmp_path, record_property):
    """120 K over 3N - 3 = 78 degrees of freedom, whoever removes the motion; with 81 counted 124.6 K."""
    frames = periodic_argon.frames()
    periodic_argon.write_pdb(tmp_path / "argon.pdb", frames)
    integrator = openmm.NoseHooverIntegrator(120.0, 10.0, 0.004)
    protocol = periodic_argon.protocol(
        tmp_path / "argon.pdb",
        "ethanol",
        timestep_fs=4.0,
        frame_interval_fs=40.0,
        checkpoint_interval_ps=40.0,
        demo_length_ps=4.0,
        toy_length_ps=4.0,
        length_ps=40.0,
        integrator_xml=openmm.XmlSerializer.serialize(integrator),
    )
    run_protocol(protocol, provider(), tmp_path / "run", start_frames=frames, replicas=1)
    values = harmonic_ethanol.read_log(tmp_path / "run" / "replica-0")["temperature_K"][None, 100:]
    stderr = block_stderr(values)
    record_property("temperature", f"{values.mean():.2f} +- {stderr:.2f} K")
    print(values.mean(), stderr)
    assert stderr < 1.2
    assert abs(values.mean() - 120.0) < 2.5 * stderr + 0.2
