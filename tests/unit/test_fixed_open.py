"""Lists of fixed length in open space: what a GPU captures of molecules that are too large for all pairs."""

import captured_ops
import fresh_models
import numpy as np
import pytest
import torch

from openmm_mlbench import potential as potential_module
from openmm_mlbench.export.ahead_of_time import specialise_open
from openmm_mlbench.export.exported_model import ExportedModel
from openmm_mlbench.forces.drivers import driver_of, uses_cuda_graphs
from openmm_mlbench.models import padded_pairs
from openmm_mlbench.models.registry import ARCHITECTURES
from openmm_mlbench.potential import Potential
from openmm_mlbench.simulation.fixed_lists import has_fixed_lists

N_MOLECULES = 7


def cluster_nm():
    """63 atoms: molecules side by side, closer than the cutoff."""
    one = fresh_models.ethanol_positions_nm()
    steps = np.array([[i % 2, i // 2 % 2, i // 4] for i in range(N_MOLECULES)])
    return (one + 0.45 * steps[:, None]).reshape(-1, 3)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def model(request):
    field = fresh_models.force_field(request.param, fresh_models.TINY[request.param])
    found = ExportedModel(field).eval()
    fresh_models.awaken(found.network)
    found.atomic_numbers = found.atomic_numbers.repeat(N_MOLECULES)
    return found


def assert_same(module, model, positions_nm):
    where = torch.as_tensor(positions_nm)
    energy, forces = module(where)
    wanted_energy, wanted = model(where)
    assert float(energy) == pytest.approx(float(wanted_energy), rel=1e-6)
    torch.testing.assert_close(forces, wanted.to(forces.dtype), rtol=0, atol=2e-5 * float(wanted.abs().max()))


@pytest.mark.parametrize("binned", [False, True])
def test_the_forces_of_the_searched_lists(model, binned, monkeypatch):
    monkeypatch.setattr(padded_pairs, "_BINNED_COST", 0.0 if binned else 1e9)
    positions = cluster_nm()
    module = specialise_open(model, torch.as_tensor(positions))
    rng = np.random.default_rng(0)
    assert_same(module, model, positions)
    moved = positions + 0.005 * rng.standard_normal(positions.shape)
    assert_same(module, model, moved @ np.linalg.qr(rng.standard_normal((3, 3)))[0] + 5.0)
    # Larger, and beyond the box that it was made with.
    assert_same(module, model, 1.15 * positions)
    captured_ops.assert_capturable(lambda: module(torch.as_tensor(positions)))


def test_no_neighbour_is_dropped(model):
    positions = torch.as_tensor(cluster_nm())
    module = specialise_open(model, positions)
    energy, forces = module(0.6 * positions)
    assert not torch.isfinite(energy)
    assert not torch.isfinite(forces).any()
    for wrong in (float("nan"), float("inf")):
        lost = positions.clone()
        lost[3, 1] = wrong
        energy, forces = module(lost)
        assert not torch.isfinite(energy)
        assert not torch.isfinite(forces).any()


def test_a_large_molecule_on_a_gpu(monkeypatch, tmp_path):
    """The name says that the lists are fixed, so that a simulation knows what to do about a full one."""
    import openmm
    from openmm import app

    topology = app.Topology()
    chain = topology.addChain()
    for number in [6, 6, 8, 1, 1, 1, 1, 1, 1] * N_MOLECULES:
        topology.addAtom("X", app.Element.getByAtomicNumber(number), topology.addResidue("X", chain))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    potential = Potential.load("ethanol-gfn2/schnet")
    made = []
    monkeypatch.setattr(
        potential_module,
        "specialise_open",
        lambda *arguments: made.append(specialise_open(*arguments)) or made[-1],
    )
    system = potential.create_system(topology, positions=cluster_nm())
    assert len(made) == 1
    assert has_fixed_lists(system)
    (force,) = (force for force in system.getForces() if driver_of(force))
    assert uses_cuda_graphs(force)
    plain = potential.on("cpu").create_system(topology, positions=cluster_nm())
    assert not has_fixed_lists(plain)
    energies = []
    for one in (system, plain):
        context = openmm.Context(
            one, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
        )
        context.setPositions(cluster_nm())
        energies.append(context.getState(energy=True).getPotentialEnergy()._value)
    assert energies[0] == pytest.approx(energies[1], rel=1e-9)
