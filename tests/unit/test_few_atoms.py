"""Which form a molecule gets: all pairs in a graph that never changes for few atoms, a searched list for more."""

import fresh_models
import numpy as np
import pytest
import torch
from openmm import app

from openmm_mlbench.models.force_field import ALL_PAIRS_LIMIT, Batcher
from openmm_mlbench.models.registry import ARCHITECTURES
from openmm_mlbench.potential import Potential
from openmm_mlbench.training.batches import FrameBatches, LabelledTensors

ETHANOL = [6, 6, 8, 1, 1, 1, 1, 1, 1]


def chain_nm(n_molecules):
    """Molecules of ethanol in a row, 0.45 nm apart: most atoms are beyond the cutoff of most others."""
    one = fresh_models.ethanol_positions_nm()
    steps = np.zeros((n_molecules, 1, 3))
    steps[:, 0, 0] = 0.45 * np.arange(n_molecules)
    return (one + steps).reshape(-1, 3)


@pytest.fixture(params=ARCHITECTURES)
def potential(request, tmp_path):
    return Potential.load(fresh_models.write_archive(tmp_path / "model.pt", request.param))


@pytest.fixture
def gpu(monkeypatch):
    """A GPU that is said to be there."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


def same(found, wanted):
    (energy, forces), (wanted_energy, wanted_forces) = found, wanted
    assert float(energy) == pytest.approx(float(wanted_energy), rel=1e-6)
    torch.testing.assert_close(forces, wanted_forces, rtol=0, atol=2e-5 * float(wanted_forces.abs().max()))


def test_more_than_a_few_atoms_search_their_pairs_on_a_processor(potential):
    limit = ARCHITECTURES[potential.card.model].all_pairs_up_to
    for n_molecules in (2, 5):
        numbers, where = ETHANOL * n_molecules, torch.as_tensor(chain_nm(n_molecules))
        module = potential.module(numbers)
        assert getattr(module, "capturable", False) == (len(numbers) <= limit)
        same(module(where), potential.module(numbers, evaluation="ahead-of-time")(where))
        same(module(where), potential.module(numbers, evaluation="autograd")(where))


def test_a_gpu_keeps_all_pairs_and_a_processor_beside_it_searches(potential, gpu):
    numbers, where = ETHANOL * 5, torch.as_tensor(chain_nm(5))
    assert len(numbers) <= ALL_PAIRS_LIMIT
    module = Potential.load(potential.id).module(numbers)
    assert module.capturable
    few = len(numbers) <= ARCHITECTURES[potential.card.model].all_pairs_up_to
    assert hasattr(module, "searched") != few
    same(module(where), potential.module(numbers)(where))


@pytest.mark.parametrize("potential", ["nequip", "gemnet-dt"], indirect=True)
def test_replicas_of_more_than_a_few_atoms(potential):
    """They share the engine, and each searches its pairs."""
    topology = app.Topology()
    residue = topology.addResidue("X", topology.addChain())
    for number in ETHANOL * 3:
        topology.addAtom("X", app.Element.getByAtomicNumber(number), residue)
    where = np.stack([chain_nm(3), 1.01 * chain_nm(3)])
    energies, forces = potential.create_copies(topology, 2).evaluate(where, None)
    module = potential.module(ETHANOL * 3)
    for k in range(2):
        energy, wanted = module(torch.as_tensor(where[k]))
        if not potential.card.claims.zero_net_force:
            masses = torch.tensor([atom.element.mass._value for atom in topology.atoms()])
            wanted = wanted - masses[:, None] / masses.sum() * wanted.sum(0)
        assert energies[k] == pytest.approx(float(energy), rel=1e-6)
        np.testing.assert_allclose(forces[k], wanted, rtol=0, atol=2e-5 * float(wanted.abs().max()))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_training_searches_the_pairs_of_more_than_a_few_atoms(name, monkeypatch):
    """Once for each frame; energies are those of all pairs."""
    field = fresh_models.force_field(name, fresh_models.TINY[name])
    fresh_models.awaken(field.network)
    frames = torch.stack([10.0 * torch.as_tensor(chain_nm(1)) * scale for scale in (1.0, 2.2)]).float()
    data = LabelledTensors(positions=frames, cells=None, energies=None, forces=torch.zeros_like(frames))
    found = []
    for limit, n_lists in ((9, 0), (8, 2)):
        monkeypatch.setattr(type(field.network), "all_pairs_up_to", limit)
        batches = FrameBatches(field, data)
        batch = batches(torch.tensor([0, 1]))
        assert batches.n_kept == n_lists
        assert torch.equal(Batcher(field)(frames, None).pair_index, batch.pair_index)
        assert (batch.pair_index.size(1) < 72) == (n_lists > 0)
        if field.network.direct:
            found.append(field.network.energies_and_forces(batch.pair_vectors, batch.topology)[1])
        else:
            found.append(field.network.atomic_energies(batch.pair_vectors, batch.topology))
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("potential", "n_molecules", "why"),
    [
        ("schnet", 2, "not compiled: above 15 atoms its tables are faster"),
        ("nequip", 3, "not compiled: its pair list has no fixed length"),
    ],
    indirect=["potential"],
)
def test_compiled_code_is_for_few_atoms_as_well(potential, n_molecules, why):
    topology = app.Topology()
    residue = topology.addResidue("X", topology.addChain())
    for number in ETHANOL * n_molecules:
        topology.addAtom("X", app.Element.getByAtomicNumber(number), residue)
    potential.create_force(topology, driver="pythonforce")
    assert potential.engine.note == why
