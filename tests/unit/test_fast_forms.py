"""Tables and gradients by hand against the networks themselves, and these against the plainest form of them."""

import fresh_models
import naive_networks
import numpy as np
import pytest
import torch

from openmm_mlbench.data.datasets import load_dataset
from openmm_mlbench.errors import ModelError
from openmm_mlbench.export.analytic import ANALYTIC, ANALYTIC_MOLECULES, analytic, specialise_analytic
from openmm_mlbench.export.block_diagonal import trace_copies
from openmm_mlbench.export.exported_model import ExportedModel
from openmm_mlbench.models import fast_dimenet
from openmm_mlbench.models.fast_dimenet import FastDimeNet
from openmm_mlbench.models.fast_edges import edges_in_blocks
from openmm_mlbench.models.fast_forms import FastDeepPotSE, FastSchNet, fast_form
from openmm_mlbench.models.fast_gemnet import FastGemNet
from openmm_mlbench.models.fast_nequip import FastNequIP
from openmm_mlbench.models.neighbours import open_pairs, periodic_pairs
from openmm_mlbench.models.registry import build_network

NAMES = pytest.mark.parametrize("name", ANALYTIC)
OF_MOLECULES = pytest.mark.parametrize("name", ANALYTIC_MOLECULES)
DTYPES = pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 2e-6), (torch.float32, 1e-5)])
PAPER = {
    "schnet": {},
    "deeppot-se": {"axis": 16, "cutoff_start": 0.5},
    "nequip": {"l_max": 2, "layers": 3, "radial_layers": 3},
    "dimenet": {},
    "gemnet-t": {},
}
# Without tables: the network to rounding.
EXACT = ("nequip", "gemnet-t")


def lips(name, hyperparameters=None):
    """A force field with a cutoff of 6 A, three frames, A."""
    frames = load_dataset("lips-fm").select(np.array([0, 400, 900]))
    options = (fresh_models.TINY[name] if hyperparameters is None else hyperparameters) | {"cutoff": 6.0}
    field = fresh_models.force_field(name, options, frames=frames)
    return field, torch.as_tensor(frames.positions), torch.as_tensor(frames.cells[0])


def by_autograd(network, numbers, vectors, index):
    vectors = vectors.detach().requires_grad_()
    energies = network.atomic_energies(vectors, network.topology(numbers, index))
    (gradient,) = torch.autograd.grad(energies.sum(), vectors)
    return energies.detach(), gradient


def in_blocks(fast):
    """Blocks of 100 pairs of SchNet, of 7 atoms of DeepPot-SE, and of a few of the others' 83."""
    if isinstance(fast, FastNequIP):
        fast.block_numbers = 7 * 60 * max(part.largest for part in fast.convolutions)
    elif isinstance(fast, (FastDimeNet, FastGemNet)):
        fast.block_edges = 250
    else:
        fast.block = 100 if isinstance(fast, FastSchNet) else 7


def assert_same(found, wanted, tolerance):
    for one, other in zip(found, wanted, strict=True):
        assert one.shape == other.shape
        assert float(other.abs().max()) > 1e-3
        assert float((one.detach() - other).abs().max() / other.abs().max()) < tolerance


@DTYPES
@NAMES
def test_the_same_energies_and_gradients(name, dtype, tolerance):
    field, positions, cell = lips(name)
    network = field.network.to(dtype)
    fast = fast_form(network)
    if name in EXACT:
        tolerance = 1e-12 if dtype == torch.float64 else tolerance
    else:
        assert max(fast.tables.error) < 1e-6
    # Several blocks, the last of them shorter.
    in_blocks(fast)
    scripted = torch.jit.script(fast)
    for frame in positions:
        index, vectors = periodic_pairs(frame, cell, 6.0)
        arguments = field.atomic_numbers, vectors.to(dtype), index
        wanted = by_autograd(network, *arguments)
        assert_same(fast(*arguments), wanted, tolerance)
        for _ in range(3):
            assert_same(scripted(*arguments), wanted, tolerance)


@pytest.fixture
def fine_tables(monkeypatch):
    """Tables of DimeNet's bases to 1e-10, so that what is by hand can be seen to rounding."""
    monkeypatch.setattr(fast_dimenet, "TOLERANCE", 1e-10)


@NAMES
def test_at_the_size_of_the_paper(name):
    field, positions, cell = lips(name, PAPER[name])
    fast = fast_form(field.network)
    index, vectors = periodic_pairs(positions[0], cell, 6.0)
    arguments = field.atomic_numbers, vectors.float(), index
    assert_same(fast(*arguments), by_autograd(field.network, *arguments), 1e-5)


@NAMES
def test_few_pairs_or_none(name):
    """Two atoms, one atom, and a pair at the cutoff, beyond which nothing is left."""
    field, _, _ = lips(name)
    network = field.network.double()
    fast = torch.jit.script(fast_form(network))
    numbers = field.atomic_numbers[:3]
    nothing = torch.zeros(2, 0, dtype=torch.long)
    energies, gradient = fast(numbers, torch.zeros(0, 3, dtype=torch.float64), nothing)
    wanted = network.atomic_energies(
        torch.zeros(0, 3, dtype=torch.float64), network.topology(numbers, nothing)
    )
    torch.testing.assert_close(energies, wanted.detach(), rtol=1e-12, atol=1e-12)
    assert gradient.shape == (0, 3)
    index = torch.tensor([[0], [1]])
    for distance in (1.3, 5.999, 6.0, 7.0):
        vectors = torch.tensor([[0.6, 0.0, 0.8]], dtype=torch.float64) * distance
        found = fast(numbers, vectors, index)
        for one, other in zip(found, by_autograd(network, numbers, vectors, index), strict=True):
            torch.testing.assert_close(one.detach(), other, rtol=1e-5, atol=1e-6)
    assert not found[1].any()


def test_atoms_closer_than_the_table_reaches():
    field, _, _ = lips("deeppot-se")
    network = field.network.double()
    fast = torch.jit.script(FastDeepPotSE(network))
    index = torch.tensor([[0, 0], [1, 2]])
    numbers = field.atomic_numbers[:3]
    for distance in (0.1, 0.39, 0.41):
        vectors = torch.tensor([[0.0, distance, 0.0], [2.0, 0.0, 0.0]], dtype=torch.float64)
        assert_same(fast(numbers, vectors, index), by_autograd(network, numbers, vectors, index), 2e-6)


@NAMES
def test_as_a_module_for_openmm(name):
    """Energy zero, scale, some of the atoms, float32 positions, and atoms that are lost."""
    field, positions, cell = lips(name)
    model = ExportedModel(field).eval()
    model.atoms = torch.arange(83).flip(0)
    arguments = torch.cat([positions[1].flip(0), positions[1][:2]]) / 10, cell / 10
    module = torch.jit.freeze(analytic(model))
    wanted = [value.detach() for value in model(*arguments)]
    energy, forces = module(*arguments)
    # GemNet-T's sums run in another order; in float64 they agree to 1e-12, see above.
    limit = 1e-6 if name == "gemnet-t" else 1e-7
    assert float(abs(energy - wanted[0]) / abs(wanted[0])) < limit
    assert_same((forces,), (wanted[1],), 1e-5)
    assert not forces[83:].any()
    single = module(arguments[0].float().requires_grad_(), arguments[1].float())[1]
    assert single.dtype == torch.float32
    assert single.is_contiguous()
    assert not single.requires_grad
    arguments[0][5, 1] = np.nan
    energy, forces = module(*arguments)
    assert torch.isnan(energy)
    assert torch.isnan(forces[:83]).all()


@OF_MOLECULES
def test_a_molecule_with_all_its_pairs(name):
    """Some of the atoms, pairs that are closer than the tables reach, and an atom that is lost."""
    model = ExportedModel(fresh_models.force_field(name, fresh_models.TINY[name])).eval()
    positions = torch.as_tensor(fresh_models.ethanol_positions_nm())
    where = torch.cat([torch.zeros(2, 3, dtype=torch.float64), positions.flip(0)])
    model.atoms = torch.arange(10, 1, -1)
    module = torch.jit.freeze(specialise_analytic(model, positions).eval())
    # The shortest distances: a C-H bond, and 0.3 A, which the tables of DeepPot-SE do not reach.
    for moved in (0.0, 0.079):
        inside = where.clone()
        toward = inside[10] - inside[4]
        inside[4] += moved * toward / toward.norm()
        wanted = [value.detach() for value in model(inside)]
        for _ in range(3):
            energy, forces = module(inside.clone().requires_grad_())
            assert float(abs(energy - wanted[0]) / abs(wanted[0])) < 1e-6
            assert_same((forces,), (wanted[1],), 1e-5)
        assert not forces[:2].any()
        assert not forces.requires_grad
    inside[5, 1] = np.nan
    energy, forces = module(inside)
    assert torch.isnan(energy)
    assert torch.isnan(forces[2:]).all()


@OF_MOLECULES
def test_copies_of_a_molecule_do_not_touch_each_other(name):
    """Copies from tables against the network, one by one, also beside one that is lost."""
    model = ExportedModel(fresh_models.force_field(name, fresh_models.TINY[name])).eval()
    one = torch.as_tensor(fresh_models.ethanol_positions_nm())
    module = trace_copies(model, one, 3, torch.ones(9), tables=True)
    positions = one.repeat(3, 1) + 0.01 * torch.randn(
        27, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    wanted = [model(part) for part in positions.split(9)]
    energies, forces = module.by_copy(positions)
    for copy, (energy, force) in enumerate(wanted):
        assert float(abs(energies[copy] - energy) / abs(energy)) < 1e-6
        assert_same((forces[9 * copy : 9 * copy + 9],), (force.detach(),), 1e-5)
    lost = positions.clone()
    lost[12, 0] = np.nan
    beside, forces_beside = module.by_copy(lost)
    assert torch.isnan(beside).tolist() == [False, True, False]
    assert torch.equal(forces_beside[:9], forces[:9])
    assert torch.equal(forces_beside[18:], forces[18:])


@pytest.mark.parametrize("block_edges", [1, 30, 10_000])
@pytest.mark.parametrize("name", ["dimenet", "gemnet-t"])
def test_atoms_that_have_no_neighbours(name, block_edges, fine_tables):
    """First, last and between others, beside two molecules; blocks of one atom, of a few and of all."""
    field = fresh_models.force_field(name, fresh_models.TINY[name])
    network = field.network.double()
    fast = fast_form(network)
    fast.block_edges = block_edges
    one = 10.0 * torch.as_tensor(fresh_models.ethanol_positions_nm())
    far = torch.tensor([[50.0, 0.0, 0.0]], dtype=torch.float64)
    where = torch.cat([-far, one, far, one + 2 * far, 3 * far, 4 * far])
    numbers = torch.tensor([8, 6, 6, 8, 1, 1, 1, 1, 1, 1, 6, 6, 6, 8, 1, 1, 1, 1, 1, 1, 1, 1])
    index, vectors = open_pairs(where, network.cutoff)
    scripted = torch.jit.freeze(torch.jit.script(fast).eval())
    wanted = by_autograd(network, numbers, vectors, index)
    limit = 1e-9 if name == "dimenet" else 1e-12
    for _ in range(3):
        assert_same(scripted(numbers, vectors, index), wanted, limit)
    assert_same(fast(numbers, vectors, index), wanted, limit)


def test_gemnet_of_other_depths():
    """Fitted scale factors that are not 1, no or two residual layers, and two degrees of the angle."""
    _, positions, cell = lips("gemnet-t")
    index, vectors = periodic_pairs(positions[0], cell, 5.0)
    for options in (
        {"before_skip": 0, "after_skip": 2, "concat": 0, "atom_layers": 1},
        {"before_skip": 2, "after_skip": 0, "concat": 2, "atom_layers": 0},
        {"blocks": 1, "spherical": 2},
    ):
        field, _, _ = lips("gemnet-t", fresh_models.TINY["gemnet-t"] | options)
        network = field.network.double()
        for scales in (network.scales, network.scale_output):
            scales.copy_(0.5 + torch.rand_like(scales))
        arguments = field.atomic_numbers, vectors, index
        assert_same(torch.jit.script(fast_form(network))(*arguments), by_autograd(network, *arguments), 1e-12)


@pytest.mark.parametrize("product_edges", [1, 10_000])
@pytest.mark.parametrize("by_degree_from", [0, 1000])
@pytest.mark.parametrize("block_edges", [400, 10_000])
def test_gemnet_in_groups(block_edges, by_degree_from, product_edges):
    """In one block and in several, sums over triplets in both orders, products of groups by themselves and together."""
    field, positions, cell = lips("gemnet-t")
    network = field.network.double()
    fast = fast_form(network)
    fast.block_edges, fast.by_degree_from, fast.product_edges = block_edges, by_degree_from, product_edges
    index, vectors = periodic_pairs(positions[0], cell, 5.0)
    layout = edges_in_blocks(index, 83, vectors, block_edges)
    assert (len(layout.blocks) > 1) == (block_edges == 400)
    assert max(len(groups) for groups in layout.blocks) > 1
    arguments = field.atomic_numbers, vectors, index
    wanted = by_autograd(network, *arguments)
    assert_same(torch.jit.freeze(torch.jit.script(fast).eval())(*arguments), wanted, 1e-12)


@pytest.mark.parametrize(("at_once_triplets", "product_edges"), [(0, 1), (10**9, 1), (10**9, 10_000)])
def test_dimenet_with_bases_of_all_interactions_at_once(at_once_triplets, product_edges, fine_tables):
    """Or of one interaction after the other; products of groups by themselves and together."""
    field, positions, cell = lips("dimenet")
    network = field.network.double()
    fast = fast_form(network)
    fast.at_once_triplets, fast.product_edges, fast.block_edges = at_once_triplets, product_edges, 400
    arguments = field.atomic_numbers, *reversed(periodic_pairs(positions[0], cell, 5.0))
    wanted = by_autograd(network, *arguments)
    assert_same(torch.jit.freeze(torch.jit.script(fast).eval())(*arguments), wanted, 1e-9)


def test_dimenet_of_other_depths(fine_tables):
    """No or two residual layers, few degrees of the angle, and the angle at the receiver, which is not symmetric."""
    _, positions, cell = lips("dimenet")
    index, vectors = periodic_pairs(positions[0], cell, 5.0)
    for options in (
        {"before_skip": 0, "after_skip": 1},
        {"before_skip": 2, "after_skip": 0, "spherical": 2},
        {"blocks": 1, "bilinear": 3},
        {"angle_at": "receiver"},
    ):
        field, _, _ = lips("dimenet", fresh_models.TINY["dimenet"] | options)
        network = field.network.double()
        fast = fast_form(network)
        fast.block_edges = 250
        arguments = field.atomic_numbers, vectors, index
        assert_same(torch.jit.script(fast)(*arguments), by_autograd(network, *arguments), 1e-9)


def test_dimenet_by_hand_is_the_network_to_rounding(fine_tables):
    """Several blocks; beside the tables nothing is approximate."""
    field, positions, cell = lips("dimenet")
    network = field.network.double()
    fast = fast_form(network)
    assert max(fast.tables.error) < 1e-10
    in_blocks(fast)
    index, vectors = periodic_pairs(positions[1], cell, 6.0)
    arguments = field.atomic_numbers, vectors, index
    assert_same(torch.jit.script(fast)(*arguments), by_autograd(network, *arguments), 1e-9)


def test_other_architectures_have_none():
    field = fresh_models.force_field("forcenet", fresh_models.TINY["forcenet"])
    with pytest.raises(ModelError, match="ForceNet has no analytic form"):
        analytic(ExportedModel(field))


@pytest.mark.parametrize("name", EXACT)
def test_a_form_for_searched_pairs_does_not_serve_a_molecule(name):
    """Asked for one, it names what does."""
    field = fresh_models.force_field(name, fresh_models.TINY[name])
    positions = torch.as_tensor(fresh_models.ethanol_positions_nm())
    with pytest.raises(ModelError, match="for searched pairs; use evaluation='ahead-of-time'"):
        specialise_analytic(ExportedModel(field), positions)


def test_nequip_with_scales_of_elements_and_one_layer():
    """What the energy may have beside the features, and a network without tensors."""
    _, positions, cell = lips("nequip")
    index, vectors = periodic_pairs(positions[0], cell, 5.0)
    for options in (
        {"rescale_species": True, "parity": False},
        {"layers": 1},
        {"l_max": 0, "radial_layers": 1},
    ):
        field, _, _ = lips("nequip", fresh_models.TINY["nequip"] | options)
        network = field.network.double()
        arguments = field.atomic_numbers, vectors, index
        assert_same(torch.jit.script(fast_form(network))(*arguments), by_autograd(network, *arguments), 1e-12)


@pytest.mark.parametrize("name", naive_networks.PLAIN)
def test_the_plain_form_is_the_same_function(name):
    field, positions, cell = lips(name)
    plain = naive_networks.PLAIN[name].__new__(naive_networks.PLAIN[name])
    plain.__dict__ = field.network.__dict__
    plain.double()
    index, vectors = periodic_pairs(positions[0], cell, 6.0)
    arguments = field.atomic_numbers, vectors, index
    network = build_network(name, fresh_models.TINY[name] | {"cutoff": 6.0}, [3, 15, 16]).double()
    network.load_state_dict(plain.state_dict())
    assert_same(by_autograd(plain, *arguments), by_autograd(network, *arguments), 1e-12)
