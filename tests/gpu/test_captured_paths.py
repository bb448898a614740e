"""On a GPU: captured paths give the processor's forces, with and without CUDA graphs, and never wait for the host."""

import fresh_models
import numpy as np
import openmm
import pytest
import torch
from openmm import app, unit

from openmm_mlbench.assets import asset_path
from openmm_mlbench.export.ahead_of_time import specialise, specialise_open, specialise_periodic
from openmm_mlbench.export.block_diagonal import trace_copies
from openmm_mlbench.export.exported_model import ExportedModel
from openmm_mlbench.forces.drivers import make_force
from openmm_mlbench.forces.platforms import prepare_platforms
from openmm_mlbench.models import padded_pairs
from openmm_mlbench.models.registry import ARCHITECTURES
from openmm_mlbench.potential import Potential
from openmm_mlbench.simulation.fixed_lists import has_fixed_lists

prepare_platforms()

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
BOX_NM = np.array([[0.76, 0.0, 0.0], [0.21, 0.71, 0.0], [-0.17, 0.2, 0.7]])
POSITIONS_NM = fresh_models.ethanol_positions_nm()
FORMS = ("molecule", "molecule, list", "box, all pairs", "box, bins")
CASES = [pytest.param(name, form, id=f"{name}, {form}") for name in sorted(ARCHITECTURES) for form in FORMS]


def case(name, form, monkeypatch):
    """The captured module, arguments for it, and the plain model."""
    model = ExportedModel(fresh_models.force_field(name, fresh_models.TINY[name])).eval()
    positions, box = torch.as_tensor(POSITIONS_NM), torch.as_tensor(BOX_NM)
    if form == "molecule":
        return specialise(model, positions), (positions,), model
    if form == "molecule, list":
        return specialise_open(model, positions), (positions,), model
    monkeypatch.setattr(padded_pairs, "_BINNED_COST", 0.0 if form == "box, bins" else 1e9)
    return specialise_periodic(model, positions, box), (positions, box), model


def assert_close(found, wanted):
    energy, forces = (np.asarray(value, dtype=float) for value in found)
    wanted_energy, wanted_forces = (np.asarray(value, dtype=float) for value in wanted)
    assert abs(energy - wanted_energy) < 1e-5 * max(abs(wanted_energy), 1.0)
    np.testing.assert_allclose(forces, wanted_forces, atol=1e-4 * np.abs(wanted_forces).max())


@pytest.mark.parametrize(("name", "form"), CASES)
def test_nothing_waits(name, form, monkeypatch):
    """CUDA itself raises where a call synchronises."""
    module, arguments, model = case(name, form, monkeypatch)
    module = torch.jit.freeze(module.to("cuda").eval())
    on_gpu = [argument.to("cuda") for argument in arguments]
    for _ in range(3):
        module(*on_gpu)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = module(*on_gpu)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert_close([value.cpu() for value in found], model(*arguments))


@pytest.mark.parametrize(("name", "form"), CASES)
def test_replayed_graphs_give_the_same(name, form, monkeypatch):
    """One recording serves configurations with another number of pairs."""
    module, arguments, model = case(name, form, monkeypatch)
    module = torch.jit.freeze(module.to("cuda").eval())
    places = [argument.to("cuda") for argument in arguments]
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            module(*places)
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        recorded = module(*places)
    for seed in range(3):
        moved = POSITIONS_NM + 0.01 * np.random.default_rng(seed).standard_normal((9, 3))
        places[0].copy_(torch.as_tensor(moved))
        graph.replay()
        torch.cuda.synchronize()
        wanted = model(torch.as_tensor(moved), *arguments[1:])
        assert_close([value.cpu() for value in recorded], wanted)


def run(module, positions_nm, periodic, graphs, n_steps):
    """Energy and forces at the start, and positions after some steps, in OpenMM."""
    system = openmm.System()
    for _ in positions_nm:
        system.addParticle(12.0)
    if periodic:
        system.setDefaultPeriodicBoxVectors(*BOX_NM)
    force = make_force(module, periodic=periodic, driver="torchforce")
    force.setProperty("useCUDAGraphs", "true" if graphs else "false")
    system.addForce(force)
    platform = openmm.Platform.getPlatformByName("CUDA")
    context = openmm.Context(
        system,
        openmm.VerletIntegrator(0.0002),
        platform,
        {"Precision": "mixed", "DeterministicForces": "true"},
    )
    context.setPositions(positions_nm)
    state = context.getState(energy=True, forces=True)
    forces = state.getForces(asNumpy=True).value_in_unit(unit.kilojoules_per_mole / unit.nanometer)
    context.getIntegrator().step(n_steps)
    end = context.getState(positions=True).getPositions(asNumpy=True).value_in_unit(unit.nanometer)
    return state.getPotentialEnergy().value_in_unit(unit.kilojoules_per_mole), forces, end


@pytest.mark.parametrize(("name", "form"), CASES)
def test_in_openmm_with_graphs_and_without(name, form, monkeypatch):
    module, arguments, model = case(name, form, monkeypatch)
    periodic = form.startswith("box")
    *with_graphs, end = run(module, POSITIONS_NM, periodic, graphs=True, n_steps=20)
    *without, plain_end = run(module, POSITIONS_NM, periodic, graphs=False, n_steps=20)
    assert_close(with_graphs, without)
    assert_close(with_graphs, model(*arguments))
    np.testing.assert_allclose(end, plain_end, atol=1e-4)


def test_a_box_with_positions_is_captured():
    """What ``Potential`` makes by default here, and what it gives."""
    topology = app.PDBFile(str(asset_path("systems", "ethanol", "topology.pdb"))).topology
    topology.setPeriodicBoxVectors(BOX_NM * unit.nanometer)
    potential = Potential.load("ethanol-gfn2/schnet")
    system = potential.create_system(topology, positions=POSITIONS_NM)
    assert has_fixed_lists(system)
    results = []
    for name, made in (
        ("CUDA", system),
        ("Reference", potential.create_system(topology, evaluation="autograd")),
    ):
        platform = openmm.Platform.getPlatformByName(name)
        context = openmm.Context(made, openmm.VerletIntegrator(0.0005), platform)
        context.setPositions(POSITIONS_NM)
        state = context.getState(energy=True, forces=True)
        forces = state.getForces(asNumpy=True).value_in_unit(unit.kilojoules_per_mole / unit.nanometer)
        results.append((state.getPotentialEnergy().value_in_unit(unit.kilojoules_per_mole), forces))
    assert_close(*results)


N_COPIES = 5


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_copies_are_captured_and_a_lost_one_is_lost_alone(name):
    model = ExportedModel(fresh_models.force_field(name, fresh_models.TINY[name])).eval()
    positions = torch.as_tensor(POSITIONS_NM)
    masses = torch.full((len(positions),), 12.0)
    module = trace_copies(model, positions, N_COPIES, masses)
    frozen = torch.jit.freeze(module.to("cuda").eval(), preserved_attrs=["by_copy"])
    together = positions.repeat(N_COPIES, 1).to("cuda")
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            frozen.by_copy(together, None)
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        energies, forces = frozen.by_copy(together, None)
    together[4] = float("nan")
    graph.replay()
    torch.cuda.synchronize()
    _, wanted = trace_copies(model, positions, 1, masses)(positions)
    found = forces.cpu().view(N_COPIES, -1, 3)
    assert not torch.isfinite(found[0]).all()
    assert torch.isfinite(energies[1:]).all()
    for copy in range(1, N_COPIES):
        torch.testing.assert_close(found[copy], wanted, rtol=0, atol=1e-4 * float(wanted.abs().max()))


@pytest.mark.parametrize("form", FORMS)
def test_asking_for_the_energy_leaves_the_forces_what_they_are(form, monkeypatch):
    """Graphs for energies alone and for forces are two recordings; reporters ask for energies between steps."""
    ends = []
    for graphs, asks in ((True, True), (True, False), (False, True)):
        module, _, _ = case("schnet", form, monkeypatch)
        system = openmm.System()
        for _ in POSITIONS_NM:
            system.addParticle(12.0)
        if form.startswith("box"):
            system.setDefaultPeriodicBoxVectors(*BOX_NM)
        force = make_force(module, periodic=form.startswith("box"), driver="torchforce")
        force.setProperty("useCUDAGraphs", "true" if graphs else "false")
        system.addForce(force)
        # Its kinetic energy needs no forces, so that OpenMM asks for none.
        integrator = openmm.LangevinMiddleIntegrator(300.0, 1.0, 0.0005)
        integrator.setRandomNumberSeed(1)
        platform = openmm.Platform.getPlatformByName("CUDA")
        properties = {"Precision": "mixed", "DeterministicForces": "true"}
        context = openmm.Context(system, integrator, platform, properties)
        context.setPositions(POSITIONS_NM)
        for _ in range(20):
            integrator.step(1)
            if asks:
                context.getState(energy=True)
        state = context.getState(energy=True, forces=True, positions=True)
        alone = context.getState(energy=True).getPotentialEnergy()._value
        assert alone == pytest.approx(state.getPotentialEnergy()._value, rel=1e-6)
        ends.append(state.getPositions(asNumpy=True).value_in_unit(unit.nanometer))
    np.testing.assert_allclose(ends[0], ends[2], atol=1e-4)
    np.testing.assert_allclose(ends[0], ends[1], atol=1e-4)
