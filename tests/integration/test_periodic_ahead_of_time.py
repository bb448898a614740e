"""Fixed shapes in a box: the same energies and forces, nothing asked of the host, NaN where the list is full."""

import fresh_models
import numpy as np
import openmm
import pytest
import torch
from neighbour_lists import WAITING
from openmm import unit

from openmm_mlbench.data.datasets import load_dataset
from openmm_mlbench.errors import ModelError
from openmm_mlbench.export import ahead_of_time
from openmm_mlbench.export.exported_model import ExportedModel
from openmm_mlbench.forces.drivers import make_force
from openmm_mlbench.forces.platforms import prepare_platforms
from openmm_mlbench.models.registry import ARCHITECTURES

prepare_platforms()

# Architectures whose index tensors can have fixed lengths.
STATIC = ("schnet", "forcenet", "dimenet", "gemnet-t", "gemnet-dt")


def lips(name):
    """A model with a cutoff of 6 A, and three frames, in nm."""
    frames = load_dataset("lips-fm").select(np.array([0, 400, 900]))
    field = fresh_models.force_field(name, fresh_models.TINY[name] | {"cutoff": 6.0}, frames=frames)
    model = ExportedModel(field).eval()
    return model, torch.as_tensor(frames.positions) / 10, torch.as_tensor(frames.cells[0]) / 10


def assert_same(found, wanted):
    size = float(wanted[1].abs().max())
    assert size > 1.0
    assert float((found[1] - wanted[1]).abs().max()) < 2e-5 * size
    assert float(found[0]) == pytest.approx(float(wanted[0]), rel=1e-7)


@pytest.mark.parametrize("name", STATIC)
def test_other_configurations_than_the_first(name):
    model, positions, box = lips(name)
    module = ahead_of_time.specialise_periodic(model, positions[0], box)
    for frame in positions:
        assert_same(module(frame, box), model(frame, box))
    shifts = torch.as_tensor(np.random.default_rng(0).integers(-3, 4, (83, 3)), dtype=torch.float64)
    for scattered, cell in ((positions[1] + shifts @ box, box), (positions[2] * 0.99, box * 0.99)):
        assert_same(module(scattered, cell), model(scattered, cell))
    forces = module(positions[0].float().requires_grad_(), box.float())[1]
    assert forces.dtype == torch.float32
    assert forces.is_contiguous()
    assert not forces.requires_grad


def test_an_atom_that_is_nowhere_does_not_vanish():
    model, positions, box = lips("schnet")
    module = ahead_of_time.specialise_periodic(model, positions[0], box)
    positions[1, 7, 0] = np.nan
    energy, forces = module(positions[1], box)
    assert np.isnan(float(energy))
    assert torch.isnan(forces).all()


@pytest.mark.parametrize("name", STATIC)
def test_nothing_waits_for_the_host(name):
    model, positions, box = lips(name)
    module = ahead_of_time.specialise_periodic(model, positions[0], box)
    graph = str(torch.jit.freeze(module.eval()).graph)
    assert graph.count("aten::") > 100
    for word in (*WAITING, "Int", "Bool"):
        assert f"aten::{word}(" not in graph, word


@pytest.mark.parametrize("name", STATIC)
def test_a_full_list_gives_nan(name):
    """A collapse to twice the density: no neighbour is dropped in silence."""
    model, positions, box = lips(name)
    module = ahead_of_time.specialise_periodic(model, positions[0], box, shrink=0.7)
    energy, forces = module(positions[0] * 0.8, box * 0.8)
    assert torch.isnan(energy)
    assert torch.isnan(forces).all()
    energy, forces = ahead_of_time.specialise_periodic(model, positions[0], box, shrink=0.7, room=3.0)(
        positions[0] * 0.8, box * 0.8
    )
    assert torch.isfinite(energy)
    assert torch.isfinite(forces).all()


def test_in_openmm():
    model, positions, box = lips("schnet")
    module = ahead_of_time.specialise_periodic(model, positions[0], box)
    system = openmm.System()
    for _ in range(83):
        system.addParticle(1.0)
    system.setDefaultPeriodicBoxVectors(*box.numpy())
    system.addForce(make_force(module, periodic=True))
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
    context.setPositions(positions[1].numpy())
    state = context.getState(energy=True, forces=True)
    forces = state.getForces(asNumpy=True).value_in_unit(unit.kilojoules_per_mole / unit.nanometer)
    energy = state.getPotentialEnergy().value_in_unit(unit.kilojoules_per_mole)
    assert_same((energy, torch.as_tensor(np.array(forces))), model(positions[1], box))


@pytest.mark.parametrize("name", sorted(set(ARCHITECTURES) - set(STATIC)))
def test_other_architectures_say_that_they_cannot(name):
    model, positions, box = lips(name)
    with pytest.raises(ModelError, match="no form with fixed shapes"):
        ahead_of_time.specialise_periodic(model, positions[0], box)
