"""Fixed shapes in a box: the same energies and forces, nothing asked of the host, no number where the list is full."""

import fresh_models
import numpy as np
import openmm
import pytest
import torch
from neighbour_lists import WAITING
from openmm import unit

from openmm_mlbench.data.datasets import load_dataset
from openmm_mlbench.export import ahead_of_time
from openmm_mlbench.export.exported_model import ExportedModel
from openmm_mlbench.forces.drivers import make_force
from openmm_mlbench.forces.platforms import prepare_platforms
from openmm_mlbench.models import padded_pairs
from openmm_mlbench.models.registry import ARCHITECTURES

prepare_platforms()

STATIC = sorted(ARCHITECTURES)
DTYPES = pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])


def lips(name, dtype=torch.float32):
    """A model with a cutoff of 6 A, and three frames, in nm."""
    frames = load_dataset("lips-fm").select(np.array([0, 400, 900]))
    field = fresh_models.force_field(name, fresh_models.TINY[name] | {"cutoff": 6.0}, frames=frames)
    model = ExportedModel(field).eval().to(dtype)
    return model, torch.as_tensor(frames.positions) / 10, torch.as_tensor(frames.cells[0]) / 10


def assert_same(found, wanted, tolerance=1e-5):
    size = float(wanted[1].abs().max())
    assert size > 1.0
    assert float((found[1] - wanted[1]).abs().max()) < tolerance * size
    assert float(found[0]) == pytest.approx(float(wanted[0]), rel=min(tolerance, 1e-7))


@DTYPES
@pytest.mark.parametrize("name", STATIC)
def test_other_configurations_than_the_first(name, dtype, tolerance):
    model, positions, box = lips(name, dtype)
    module = ahead_of_time.specialise_periodic(model, positions[0], box)
    for frame in positions:
        assert_same(module(frame, box), model(frame, box), tolerance)
    shifts = torch.as_tensor(np.random.default_rng(0).integers(-3, 4, (83, 3)), dtype=torch.float64)
    for scattered, cell in ((positions[1] + shifts @ box, box), (positions[2] * 0.99, box * 0.99)):
        assert_same(module(scattered, cell), model(scattered, cell), tolerance)
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
def test_a_full_list_is_said(name):
    """A collapse to twice the density: no neighbour is dropped in silence."""
    model, positions, box = lips(name)
    module = ahead_of_time.specialise_periodic(model, positions[0], box, shrink=0.7)
    energy, forces = module(positions[0] * 0.8, box * 0.8)
    assert torch.isposinf(energy)
    assert torch.isnan(forces).all()
    energy, forces = ahead_of_time.specialise_periodic(model, positions[0], box, shrink=0.7, room=3.0)(
        positions[0] * 0.8, box * 0.8
    )
    assert torch.isfinite(energy)
    assert torch.isfinite(forces).all()


# What each network lays out, shortened one after the other.
LENGTHS = [(name, k) for name, n in (("dimenet", 1), ("gemnet-t", 1), ("gemnet-dt", 1), ("nequip", 1),
           ("deeppot-se", 2)) for k in range(n)]  # fmt: skip


@pytest.mark.parametrize(("name", "place"), LENGTHS)
def test_any_length_that_is_too_short_is_said(name, place, monkeypatch):
    """The list itself has room; an atom far from all others, which has no pair, is told too."""
    model, positions, box = lips(name)
    exact = type(model.network).fixed_lengths

    def lengths(shortage):
        def changed(self, numbers, index, room):
            wanted = exact(self, numbers, index, 1.0)
            # Without the few places that are added to what is needed.
            wanted[place] += -4 - shortage
            return wanted

        return changed

    for shortage, lost in ((0, False), (1, True)):
        monkeypatch.setattr(type(model.network), "fixed_lengths", lengths(shortage))
        energy, forces = ahead_of_time.specialise_periodic(model, positions[0], box)(positions[0], box)
        assert bool(torch.isposinf(energy)) == lost
        assert bool(torch.isnan(forces).all()) == lost
        assert bool(torch.isnan(forces).any()) == lost


@pytest.mark.parametrize("name", STATIC)
def test_bins_serve_every_network(name, monkeypatch):
    """The search of large systems, forced upon a small one."""
    model, positions, box = lips(name)
    monkeypatch.setattr(padded_pairs, "_BINNED_COST", 0.0)
    module = ahead_of_time.specialise_periodic(model, positions[0], box)
    assert "searchsorted" in str(module.core.graph)
    assert "triu_indices" not in str(module.core.graph)
    for frame in positions[1:]:
        assert_same(module(frame, box), model(frame, box))


@pytest.mark.parametrize("name", STATIC)
def test_runs_where_it_was_not_traced(name):
    """On a device without numbers: what was traced here would look for its constants here, and whatever asks for
    a value fails."""
    model, positions, box = lips(name)
    periodic = ahead_of_time.specialise_periodic(model, positions[0], box).to("meta")
    open_space = ahead_of_time.specialise(model, positions[0]).to("meta")
    for found in (
        periodic(positions[0].to("meta"), box.to("meta")),
        open_space(positions[0].to("meta")),
    ):
        assert [value.device.type for value in found] == ["meta", "meta"]
        assert found[1].shape == (83, 3)


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
