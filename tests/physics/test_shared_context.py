"""Replicas in one Context: temperature, degrees of freedom, energy, and that none feels another."""

import dataclasses

import harmonic_ethanol as ethanol
import numpy as np
import openmm
import pytest

from openmm_mlbench.protocol import load_protocol
from openmm_mlbench.simulation import shared_context
from openmm_mlbench.simulation.momenta import centre_of_mass, compute_temperatures, draw_velocities
from openmm_mlbench.simulation.platforms import PlatformChoice
from openmm_mlbench.simulation.shared_context import SharedContext
from openmm_mlbench.units import BOLTZMANN_KJMOL_K

K = 5


def starts(n=K):
    return ethanol.frames().positions[:n] / 10.0


def shared(protocol, n=K, odd=None, seed=3, starts_nm=None):
    """A Context of n replicas with thermal momenta; those of a replica do not depend on n."""
    starts_nm = starts(n) if starts_nm is None else starts_nm
    copies = ethanol.CopiedEthanol(odd).create_copies(ethanol.topology(), n)
    context = SharedContext(copies, protocol, PlatformChoice(name="Reference"), 1, starts_nm, None)
    context.make(list(range(n)), seed)
    velocities = [
        draw_velocities(context.masses, protocol.temperature_K, np.random.default_rng(number))
        for number in range(n)
    ]
    context.set_velocities(np.array(velocities))
    return context


def temperatures(protocol, n_frames, seed=3):
    """Mean temperature of each replica over its own 3N - 3 degrees of freedom, and of all frames."""
    context = shared(protocol, seed=seed)
    found = np.empty((n_frames, K))
    for frame in range(n_frames):
        context.integrator.step(20)
        if frame % 5 == 0:
            context.rest()
        now = context.observe()
        found[frame] = [
            compute_temperatures(now.positions_nm[k], now.velocities[k], context.masses).total
            for k in range(K)
        ]
    return found


@pytest.mark.parametrize("name", ["ethanol", "ethanol-langevin"])
def test_temperature_of_every_replica(name):
    """500 K over 3N - 3 degrees of freedom; a chain that counted 3N would give 562 K."""
    protocol = load_protocol(name)
    found = temperatures(protocol, 2000)[100:]
    blocks = found.reshape(19, -1, K).mean(axis=1)
    error = blocks.std(axis=0, ddof=1) / np.sqrt(len(blocks))
    # Four of them do not reach 562 K.
    assert (error < 15.0).all()
    assert (np.abs(found.mean(axis=0) - 500.0) < 4.0 * error).all(), (found.mean(axis=0), error)
    # All together, where the error is small enough to tell it from 562.5 K with certainty.
    assert found.mean() == pytest.approx(500.0, abs=12.0)


def test_fluctuation_is_canonical():
    """var(K) / <K>^2 = 2 / (3N - 3), of each replica."""
    found = temperatures(load_protocol("ethanol-langevin"), 2000)[100:]
    relative = found.var(axis=0) / found.mean(axis=0) ** 2
    assert relative.mean() == pytest.approx(2.0 / 24.0, rel=0.12)


def test_every_chain_counts_the_internal_degrees_of_freedom():
    context = shared(load_protocol("ethanol"))
    chains = [context.integrator.getThermostat(k) for k in range(K)]
    assert [chain.getNumDegreesOfFreedom() for chain in chains] == [24] * K
    assert [len(chain.getThermostatedAtoms()) for chain in chains] == [9] * K
    context.freeze([0, 2], 7)
    chains = [context.integrator.getThermostat(k) for k in range(context.integrator.getNumThermostats())]
    assert [chain.getNumDegreesOfFreedom() for chain in chains] == [24] * 2


def test_degrees_of_freedom_of_a_context_that_was_made_anew_without_graphs(monkeypatch):
    """OpenMM counts all when it makes a Context anew, 3N, which would be 27 / 24 of the temperature."""
    copies = ethanol.CopiedEthanol().create_copies(ethanol.topology(), 2)
    errors = [openmm.OpenMMException("cannot be recorded")]
    evaluate = copies.evaluate

    def fails_once(*arguments):
        if errors:
            raise errors.pop()
        return evaluate(*arguments)

    def anew(context, error):
        context.reinitialize()
        return True

    monkeypatch.setattr(shared_context, "drop_cuda_graphs", anew)
    context = SharedContext(
        dataclasses.replace(copies, evaluate=fails_once),
        load_protocol("ethanol"),
        PlatformChoice(name="Reference"),
        1,
        starts(2),
        None,
    )
    context.make([0, 1], 3)
    assert not errors
    chains = [context.integrator.getThermostat(k) for k in range(2)]
    assert [chain.getNumDegreesOfFreedom() for chain in chains] == [24] * 2


def test_the_centre_of_every_replica_rests():
    """Also under noise, which moves it between frames."""
    for name in ("ethanol", "ethanol-langevin"):
        context = shared(load_protocol(name))
        before = np.array([centre_of_mass(x, context.masses) for x in context.observe().positions_nm])
        for _ in range(20):
            now = context.advance(100)
        after = np.array([centre_of_mass(x, context.masses) for x in now.positions_nm])
        speed = np.array([centre_of_mass(v, context.masses) for v in now.velocities])
        assert np.abs(after - before).max() < 1e-9, name
        assert np.abs(speed).max() < 1e-12, name


def test_the_same_positions_as_one_by_one():
    """Nose-Hoover is deterministic: a replica among five is the same as alone, to the last bit."""
    protocol = load_protocol("ethanol")
    together = shared(protocol)
    alone = [shared(protocol, 1, starts_nm=starts()[k : k + 1]) for k in range(K)]
    for k, context in enumerate(alone):
        generator = np.random.default_rng(k)
        velocities = draw_velocities(context.masses, protocol.temperature_K, generator)
        context.set_velocities(velocities[None])
    for _ in range(40):
        now = together.advance(100)
        for k, context in enumerate(alone):
            own = context.advance(100)
            assert np.array_equal(own.positions_nm[0], now.positions_nm[k])
            assert np.array_equal(own.velocities[0], now.velocities[k])
            assert own.energies[0] == now.energies[k]


def test_the_same_positions_as_with_a_remover_of_its_own():
    """A Context with OpenMM's own count of degrees of freedom and CMMotionRemover: rounding apart, for 1 ps."""
    protocol = load_protocol("ethanol")
    together = shared(protocol)
    others = []
    for k in range(K):
        system = ethanol.HarmonicEthanol().create_system(ethanol.topology())
        integrator = protocol.make_integrator()
        context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
        context.setPositions(starts()[k])
        context.setVelocities(
            draw_velocities(together.masses, protocol.temperature_K, np.random.default_rng(k))
        )
        others.append(context)
    for _ in range(20):
        now = together.advance(100)
    for k, context in enumerate(others):
        context.getIntegrator().step(2000)
        state = context.getState(positions=True, energy=True)
        assert np.abs(state.getPositions(asNumpy=True)._value - now.positions_nm[k]).max() < 1e-7
        assert state.getPotentialEnergy()._value == pytest.approx(now.energies[k], abs=1e-4)


@pytest.mark.parametrize("name", ["ethanol", "ethanol-langevin"])
def test_freezing_one_leaves_the_others_as_they_are(name):
    """Half way one replica is frozen out: with Nose-Hoover the others are the same to the last bit."""
    protocol = load_protocol(name)
    disturbed, whole = shared(protocol), shared(protocol)
    for context in (disturbed, whole):
        for _ in range(5):
            context.advance(100)
    disturbed.freeze([0, 2, 3, 4], 11)
    for _ in range(20):
        one, two = disturbed.advance(100), whole.advance(100)
    if name == "ethanol":
        assert np.array_equal(one.positions_nm[[0, 2, 3, 4]], two.positions_nm[[0, 2, 3, 4]])
        assert np.array_equal(one.velocities[[0, 2, 3, 4]], two.velocities[[0, 2, 3, 4]])
    # The frozen one stands where it started.
    assert np.array_equal(one.positions_nm[1], starts()[1])
    assert not one.velocities[1].any()
    assert np.isfinite(one.positions_nm).all()


def test_a_replica_at_nan_leaves_the_others_as_they_are():
    protocol = load_protocol("ethanol")
    lost, whole = shared(protocol), shared(protocol)
    for _ in range(3):
        now = lost.advance(100)
        whole.advance(100)
    now.positions_nm[1] = np.nan
    lost.context.setPositions(now.positions_nm.reshape(-1, 3))
    for _ in range(20):
        one, two = lost.advance(100), whole.advance(100)
    others = [0, 2, 3, 4]
    assert lost.lost() == [1]
    assert np.array_equal(one.positions_nm[others], two.positions_nm[others])
    assert np.isfinite(one.energies).tolist() == [True, False, True, True, True]


def test_nve_drift_of_every_replica():
    """Verlet at 0.5 fs: the energy of each replica by itself stays; the exchange of any two would show."""
    protocol = dataclasses.replace(
        load_protocol("ethanol"),
        ensemble="NVE",
        integrator_xml=openmm.XmlSerializer.serialize(openmm.VerletIntegrator(0.0005)),
    )
    context = shared(protocol)
    energies = []
    for _ in range(100):
        now = context.advance(100)
        velocities = now.velocities + context.lag_ps * now.forces / context.masses[:, None]
        kinetic = 0.5 * (context.masses[:, None] * velocities**2).sum(axis=(1, 2))
        energies.append(now.energies + kinetic)
    energies = np.array(energies)
    drift = np.polyfit(0.05 * np.arange(100), energies, 1)[0] / 9
    # kJ/mol per atom and ps, and the noise of each; kT is 4.2 kJ/mol.
    assert (np.abs(drift) < 0.002).all(), drift
    assert (energies.std(axis=0) < 0.15 * 24 * BOLTZMANN_KJMOL_K * 500.0 / 2).all()
    assert np.ptp(energies.mean(axis=0)) > 1.0


def test_states_travel_through_files():
    """What every replica saves by itself puts all of them together again."""
    protocol = load_protocol("ethanol")
    context, again = shared(protocol), shared(protocol)
    context.advance(100)
    states = context.states()
    again.set_states(states)
    for _ in range(5):
        one, two = context.advance(100), again.advance(100)
    assert np.array_equal(one.positions_nm, two.positions_nm)
    # And one of them alone goes on in a System of its own.
    system = ethanol.HarmonicEthanol().create_system(ethanol.topology())
    single = openmm.Context(
        system, protocol.make_integrator(), openmm.Platform.getPlatformByName("Reference")
    )
    single.setState(openmm.XmlSerializer.deserialize(states[3]))
    single.getIntegrator().step(500)
    found = single.getState(positions=True)
    assert np.abs(found.getPositions(asNumpy=True)._value - one.positions_nm[3]).max() < 1e-7
    assert found.getStepCount() == 600
