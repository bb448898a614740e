"""Lists of fixed length in simulations: the same forces, and a run that outlives a list that is too short."""

import dataclasses
import re

import fresh_models
import numpy as np
import openmm
import pytest
import torch
from openmm import app, unit

from openmm_mlbench import potential as potential_module
from openmm_mlbench.assets import asset_path
from openmm_mlbench.errors import PotentialError
from openmm_mlbench.export.ahead_of_time import both_forms, specialise_periodic
from openmm_mlbench.forces.drivers import uses_cuda_graphs
from openmm_mlbench.models.neighbours import periodic_pairs
from openmm_mlbench.potential import Potential
from openmm_mlbench.protocol import load_protocol
from openmm_mlbench.simulation.fixed_lists import NOTE, has_fixed_lists
from openmm_mlbench.simulation.runner import run_protocol
from openmm_mlbench.simulation.task import create_system
from openmm_mlbench.topology import read_topology
from openmm_mlbench.trajectory import read_dcd

# Narrow enough for pairs with images, whose number changes from step to step.
BOX_NM = 0.8 * np.array([[0.9, 0.0, 0.0], [0.2, 0.85, 0.0], [-0.3, 0.3, 0.8]])
POSITIONS_NM = fresh_models.ethanol_positions_nm()


@pytest.fixture(scope="module")
def potential():
    return Potential.load("ethanol-gfn2/schnet")


@pytest.fixture
def topology():
    topology = app.PDBFile(str(asset_path("systems", "ethanol", "topology.pdb"))).topology
    topology.setPeriodicBoxVectors(BOX_NM * unit.nanometer)
    return topology


def forces_of(system, positions_nm):
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(0.0005), platform)
    context.setPositions(positions_nm)
    state = context.getState(energy=True, forces=True)
    forces = state.getForces(asNumpy=True).value_in_unit(unit.kilojoules_per_mole / unit.nanometer)
    return state.getPotentialEnergy().value_in_unit(unit.kilojoules_per_mole), np.array(forces)


def test_the_same_forces(potential, topology):
    searched = potential.create_system(topology, evaluation="autograd")
    fixed = potential.create_system(
        topology, evaluation="fixed-shapes", positions=POSITIONS_NM * unit.nanometer
    )
    assert has_fixed_lists(fixed)
    assert not has_fixed_lists(searched)
    moved = POSITIONS_NM + 0.005 * np.random.default_rng(0).standard_normal((9, 3))
    energy, forces = forces_of(fixed, moved)
    wanted_energy, wanted = forces_of(searched, moved)
    assert energy == pytest.approx(wanted_energy, rel=1e-6)
    np.testing.assert_allclose(forces, wanted, atol=2e-5 * np.abs(wanted).max())


def test_some_of_the_atoms(potential, topology):
    """Positions are of all atoms, also where the force acts on some."""
    everything = [*range(8, -1, -1)]
    force = potential.create_force(
        topology, everything[:6], evaluation="fixed-shapes", positions=POSITIONS_NM
    )
    plain = potential.create_force(topology, everything[:6], evaluation="autograd")
    systems = [openmm.System(), openmm.System()]
    for system, one in zip(systems, (force, plain), strict=True):
        for _ in range(9):
            system.addParticle(1.0)
        system.setDefaultPeriodicBoxVectors(*BOX_NM)
        system.addForce(one)
    found, wanted = (forces_of(system, POSITIONS_NM)[1] for system in systems)
    assert not wanted[:3].any()
    np.testing.assert_allclose(found, wanted, atol=2e-5 * np.abs(wanted).max())


def test_a_processor_searches(potential):
    """With both forms in one module; and without a GPU there is no reason to carry the other."""
    numbers = [6, 6, 8, 1, 1, 1, 1, 1, 1]
    searched = potential.module(numbers, periodic=True, evaluation="autograd")
    start = {"positions_nm": POSITIONS_NM, "box_nm": BOX_NM}
    fixed = potential.module(numbers, periodic=True, evaluation="fixed-shapes", **start)
    module = both_forms(fixed, searched)
    arguments = torch.as_tensor(POSITIONS_NM), torch.as_tensor(BOX_NM)
    for found, wanted in zip(module(*arguments), searched(*arguments), strict=True):
        assert torch.equal(found, wanted)
    # On a GPU the other form runs: the condition is there, and says so.
    assert "is_cuda" in str(module.graph)
    assert fixed.capturable
    assert module.capturable
    assert not getattr(searched, "capturable", False)
    by_itself = potential.module(numbers, periodic=True, **start)
    assert getattr(by_itself, "capturable", False) == torch.cuda.is_available()


def test_what_fixed_shapes_want(potential, topology):
    with pytest.raises(PotentialError, match="needs positions=, which say"):
        potential.create_system(topology, evaluation="fixed-shapes")
    with pytest.raises(PotentialError, match=r"\(8, 3\).*give \(n_atoms, 3\) = \(9, 3\)"):
        potential.create_system(topology, evaluation="fixed-shapes", positions=POSITIONS_NM[:8])
    system = potential.create_system(topology)
    system.addForce(openmm.MonteCarloBarostat(1.0, 300.0))
    with pytest.raises(PotentialError, match="has a barostat"):
        potential.add_to(system, topology, evaluation="fixed-shapes", positions=POSITIONS_NM)
    assert not uses_cuda_graphs(potential.add_to(system, topology, positions=POSITIONS_NM))


def test_a_barostat_refuses_a_box_that_the_lists_do_not_fit(potential, topology, monkeypatch):
    """OpenMM would accept a trial whose energy is NaN; one whose energy is infinite it does not."""
    n_pairs = count_pairs()
    monkeypatch.setattr(potential_module, "specialise_periodic", with_room_for(n_pairs, n_pairs))
    system = potential.create_system(topology, evaluation="fixed-shapes", positions=POSITIONS_NM)
    # 1 Mbar: every trial that shrinks the box would be welcome.
    barostat = openmm.MonteCarloBarostat(1e6, 300.0, 1)
    barostat.setRandomNumberSeed(1)
    system.addForce(barostat)
    for place in range(system.getNumParticles()):
        system.setParticleMass(place, 0.0)
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(1e-6), platform)
    context.setPositions(POSITIONS_NM)
    for _ in range(40):
        context.getIntegrator().step(1)
        state = context.getState(energy=True, forces=True)
        assert np.isfinite(state.getPotentialEnergy()._value)
    assert np.isfinite(state.getForces(asNumpy=True)._value).all()


def count_pairs(positions_nm=POSITIONS_NM):
    return periodic_pairs(torch.as_tensor(10 * positions_nm), torch.as_tensor(10 * BOX_NM), 5.0)[0].size(1)


def with_room_for(n_places, n_pairs):
    """A specialisation whose pair list has exactly so many places for these pairs."""

    def specialised(*arguments, **options):
        return specialise_periodic(*arguments, **options | {"room": (n_places - 7.5) / n_pairs})

    return specialised


class FixedEthanol:
    """A force provider with lists of a length that the test chooses."""

    takes_positions = True

    def __init__(self, potential, evaluation):
        self.potential, self.evaluation = potential, evaluation
        self.description = potential.description

    def create_system(self, topology, constraints=None, positions=None):
        evaluation = self.evaluation if positions is not None else "autograd"
        return self.potential.create_system(topology, evaluation=evaluation, positions=positions)


@pytest.fixture(scope="module")
def protocol(tmp_path_factory):
    """A frame at each step and a checkpoint at every fourth."""
    topology = app.PDBFile(str(asset_path("systems", "ethanol", "topology.pdb"))).topology
    topology.setPeriodicBoxVectors(BOX_NM * unit.nanometer)
    path = tmp_path_factory.mktemp("structure") / "topology.pdb"
    with open(path, "w") as file:
        app.PDBFile.writeFile(topology, POSITIONS_NM * unit.nanometer, file)
    like = load_protocol("ethanol-langevin")
    return dataclasses.replace(
        like,
        structure=str(path),
        stability_criterion="none",
        frame_interval_fs=like.timestep_fs,
        checkpoint_interval_ps=4 * like.timestep_fs / 1000,
    )


def run(protocol, provider, folder, n_steps=12):
    frames = fresh_models.ethanol()[0].select(np.array([fresh_models.ethanol()[1].test[0]]))
    frames = dataclasses.replace(frames, cells=10 * BOX_NM[None])
    (status,) = run_protocol(
        protocol,
        provider,
        folder,
        start_frames=frames,
        replicas=1,
        length_ps=n_steps * protocol.timestep_fs / 1000,
        platform="Reference",
        seed=3,
    )
    return status


def log_of(folder):
    """Rows of the log without the column of the speed."""
    rows = [line.split(",") for line in (folder / "replica-0" / "log.csv").read_text().splitlines()]
    keep = [k for k, name in enumerate(rows[0]) if "second" not in name]
    return [[row[k] for k in keep] for row in rows]


def test_a_list_that_is_too_short_from_the_start(potential, protocol, tmp_path, monkeypatch, caplog):
    """The run is the one with searched lists, byte by byte."""
    n_pairs = count_pairs()
    monkeypatch.setattr(potential_module, "specialise_periodic", with_room_for(n_pairs - 1, n_pairs))
    searched = run(protocol, FixedEthanol(potential, "autograd"), tmp_path / "searched")
    found = run(protocol, FixedEthanol(potential, "fixed-shapes"), tmp_path / "fixed")
    assert searched.state == found.state == "finished"
    assert [record.message for record in caplog.records] == [
        (tmp_path / "fixed" / "replica-0" / NOTE).read_text().strip()
    ]
    assert "searched lists" in caplog.text
    assert log_of(tmp_path / "fixed") == log_of(tmp_path / "searched")
    assert len(log_of(tmp_path / "fixed")) == 13
    one, other = (tmp_path / name / "replica-0" / "trajectory.dcd" for name in ("fixed", "searched"))
    assert one.read_bytes() == other.read_bytes()
    files = {path.name for path in (tmp_path / "searched" / "replica-0").iterdir()}
    assert {path.name for path in (tmp_path / "fixed" / "replica-0").iterdir()} == files | {NOTE}


def test_a_list_that_becomes_too_short_during_a_run(potential, protocol, tmp_path, monkeypatch):
    """From the last checkpoint on, and to the end."""
    n_steps = 120
    searched = run(protocol, FixedEthanol(potential, "autograd"), tmp_path / "searched", n_steps)
    # Each step is a frame: how many pairs there are, and a length that lasts for a while but not to the end.
    topology = read_topology(tmp_path / "searched" / "topology.pdb")
    frames = read_dcd(tmp_path / "searched" / "replica-0" / "trajectory.dcd", topology, 0.0005).positions_A
    counts = [count_pairs(frame / 10) for frame in frames]
    lasts = next(k for k in range(8, n_steps) if counts[k] > max(counts[:k], default=0))
    monkeypatch.setattr(
        potential_module, "specialise_periodic", with_room_for(max(counts[:lasts]), count_pairs())
    )
    found = run(protocol, FixedEthanol(potential, "fixed-shapes"), tmp_path / "fixed", n_steps)
    assert searched.state == found.state == "finished"
    line = (tmp_path / "fixed" / "replica-0" / NOTE).read_text()
    came_to, went_on = (
        float(number) for number in re.search(r"at (\S+) ps with .* went on from (\S+) ps", line).groups()
    )
    assert 0 < went_on < came_to <= (lasts + 2) * 0.0005
    assert found.resume == "exact"
    one, other = log_of(tmp_path / "fixed"), log_of(tmp_path / "searched")
    assert len(one) == len(other) == n_steps + 1
    place = one[0].index("potential_energy_kJ_mol")
    energies = np.array([[float(row[place]) for row in rows[1:]] for rows in (one, other)])
    assert np.ptp(energies[1]) > 1.0
    # Fixed lists add up in another order; so few steps do not let that grow much.
    np.testing.assert_allclose(energies[0], energies[1], atol=0.02)


class Unstable(FixedEthanol):
    """Searched lists are no better: forces that are NaN."""

    def create_system(self, topology, constraints=None, positions=None):
        system = super().create_system(topology, constraints, positions)
        if positions is None:
            trap = openmm.CustomExternalForce("sqrt(-1 - x*x)")
            trap.addParticle(0, [])
            system.addForce(trap)
        return system


def test_a_collapse_that_repeats_is_real(potential, protocol, tmp_path, monkeypatch):
    n_pairs = count_pairs()
    monkeypatch.setattr(potential_module, "specialise_periodic", with_room_for(n_pairs - 1, n_pairs))
    found = run(protocol, Unstable(potential, "fixed-shapes"), tmp_path / "run")
    assert found.state == "unstable"
    assert (tmp_path / "run" / "replica-0" / "dossier" / "dossier.json").is_file()
    assert (tmp_path / "run" / "replica-0" / NOTE).is_file()


def test_no_fixed_lists_under_a_barostat(potential, protocol, topology):
    provider = FixedEthanol(potential, "fixed-shapes")
    assert has_fixed_lists(create_system(provider, protocol, topology, POSITIONS_NM))
    npt = dataclasses.replace(protocol, ensemble="NPT", pressure_bar=1.0, barostat_interval_steps=10)
    assert not has_fixed_lists(create_system(provider, npt, topology, POSITIONS_NM))
    assert not has_fixed_lists(create_system(provider, protocol, topology))
