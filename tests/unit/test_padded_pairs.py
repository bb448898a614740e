"""Lists of a fixed length hold the same pairs, ask the host for nothing, and say when they are full."""

import numpy as np
import pytest
import torch
from neighbour_lists import CELLS, CUTOFF, WAITING, ase_list, full_list, random_cells, scattered
from torch.fx.experimental.proxy_tensor import make_fx

from openmm_mlbench.models.neighbours import cell_heights, inverse_cell, periodic_pairs
from openmm_mlbench.models.padded_pairs import padded_pairs, plan_pairs

SEARCHES = pytest.mark.parametrize("binned", [False, True], ids=["all pairs", "bins"])


def planned(positions, cell, **options):
    return plan_pairs(torch.as_tensor(positions), torch.as_tensor(cell), CUTOFF, **options)


def padded(positions, cell, plan):
    return padded_pairs(torch.as_tensor(positions), torch.as_tensor(cell), CUTOFF, plan)


def assert_the_pairs_of(pairs, positions, cell):
    """Those of the search without fixed lengths, and nothing that is within the cutoff beside them."""
    wanted = full_list(*periodic_pairs(torch.as_tensor(positions), torch.as_tensor(cell), CUTOFF))
    found = full_list(pairs.pair_index[:, pairs.filled], pairs.pair_vectors[pairs.filled])
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, atol=1e-9)
    assert not pairs.full
    assert int(pairs.pair_index.max()) < len(positions)
    assert (torch.linalg.vector_norm(pairs.pair_vectors[~pairs.filled], dim=1) > CUTOFF).all()
    return len(wanted)


def test_200_random_cells():
    """With atoms up to three cells away, against ASE's list."""
    for cell, positions in random_cells(200):
        wanted = ase_list(positions, cell)
        for binned in (False, True):
            pairs = padded(positions, cell, planned(positions, cell, binned=binned))
            found = full_list(pairs.pair_index[:, pairs.filled], pairs.pair_vectors[pairs.filled])
            assert found.shape == wanted.shape
            np.testing.assert_allclose(found, wanted, atol=1e-9)
            assert not pairs.full
            assert int(pairs.pair_index.max()) < len(positions)


@SEARCHES
def test_one_plan_serves_other_configurations(binned):
    cell = CELLS["triclinic"]
    positions = scattered(cell, 40, 0)
    plan = planned(positions, cell, binned=binned)
    sizes = set()
    for seed in range(5):
        moved = positions + np.random.default_rng(seed).normal(scale=0.3, size=positions.shape)
        squeezed = cell * (1 - 0.005 * seed)
        pairs = padded(moved, squeezed, plan)
        sizes.add((pairs.pair_index.shape, assert_the_pairs_of(pairs, moved, squeezed)))
    assert len({shape for shape, _ in sizes}) == 1
    assert len(sizes) > 1


@SEARCHES
def test_a_full_list_is_not_a_shorter_one(binned):
    """One place too few, and nothing is a number; with just enough all is well."""
    cell = CELLS["orthorhombic"]
    positions = scattered(cell, 20, 1)
    plan = planned(positions, cell, binned=binned)
    n_pairs = periodic_pairs(torch.as_tensor(positions), torch.as_tensor(cell), CUTOFF)[0].size(1)
    exact = padded(positions, cell, plan._replace(capacity=n_pairs))
    assert exact.filled.all()
    assert_the_pairs_of(exact, positions, cell)
    short = padded(positions, cell, plan._replace(capacity=n_pairs - 1))
    assert short.full
    assert torch.isnan(short.pair_vectors).all()


def test_a_full_bin_says_so():
    """One atom more than a bin has places for."""
    cell = np.diag([18.0, 18.0, 18.0])
    # Two atoms in the first of 27 bins, one each in eight others.
    positions = np.array(
        [[1.0, 1.0, 1.0], [2.0, 2.0, 2.0], *([x, y, z] for x in (8, 14) for y in (8, 14) for z in (8, 14))]
    )
    plan = planned(positions, cell, binned=True)
    assert plan.n_cells == 27
    assert_the_pairs_of(padded(positions, cell, plan._replace(bin_places=2)), positions, cell)
    crowded = padded(positions, cell, plan._replace(bin_places=1))
    assert crowded.full
    assert torch.isnan(crowded.pair_vectors).all()


def test_a_cell_that_shrank_too_far_says_so():
    """More images would be needed than the plan has shifts for."""
    cell = np.diag([10.5, 10.5, 10.5])
    positions = scattered(cell, 5, 2)
    plan = planned(positions, cell, room=50, shrink=0.97, binned=False)
    assert len(plan.offsets) == 1
    assert torch.isfinite(padded(positions, 0.97 * cell, plan).pair_vectors).all()
    assert torch.isnan(padded(positions, 0.94 * cell, plan).pair_vectors).all()


def test_bins_that_became_narrower_than_the_cutoff_say_so():
    cell = np.diag([15.5, 16.0, 17.0])
    positions = scattered(cell, 50, 2)
    plan = planned(positions, cell, room=50, shrink=0.97, binned=True)
    assert plan.n_bins.tolist() == [3, 3, 3]
    assert_the_pairs_of(padded(0.97 * positions, 0.97 * cell, plan), 0.97 * positions, 0.97 * cell)
    assert torch.isnan(padded(0.96 * positions, 0.96 * cell, plan).pair_vectors).all()


def test_many_atoms_are_put_into_bins():
    rng = np.random.default_rng(3)
    for n_atoms, side, binned in ((100, 12.0, False), (3000, 31.0, True)):
        cell = np.diag([side] * 3)
        positions = scattered(cell, n_atoms, rng)
        plan = planned(positions, cell)
        assert (plan.n_cells > 0) == binned
        assert_the_pairs_of(padded(positions, cell, plan), positions, cell)


@SEARCHES
def test_an_atom_at_nan_harms_nothing(binned):
    cell = CELLS["triclinic"]
    positions = scattered(cell, 20, 1)
    plan = planned(positions, cell, binned=binned)
    positions[4] = np.nan
    pairs = padded(positions, cell, plan)
    assert int(pairs.pair_index.max()) < 20
    assert not (pairs.pair_index[:, pairs.filled] == 4).any()


@SEARCHES
@pytest.mark.parametrize("name", CELLS)
def test_nothing_waits_for_the_host(name, binned):
    cell = torch.as_tensor(CELLS[name])
    positions = torch.as_tensor(scattered(CELLS[name], 12, 4))
    plan = planned(positions, cell, binned=binned)

    def graph_of(function):
        graph = make_fx(function)(positions, cell).graph
        return {str(node.target) for node in graph.nodes if isinstance(node.target, torch._ops.OpOverload)}

    def waiting(names):
        return {name for name in names if any(word in name for word in WAITING)}

    operators = graph_of(lambda x, box: padded_pairs(x, box, CUTOFF, plan))
    assert len(operators) > 15
    assert waiting(operators) == set()
    # Only whole numbers, never a mask, say what is taken from where.
    assert not any("aten.index." in name for name in operators)
    # The test sees what it looks for.
    if name == "larger than twice the cutoff":
        assert waiting(graph_of(lambda x, box: torch.nonzero(x.sum(1) < CUTOFF)))
        assert waiting(graph_of(lambda x, box: torch.linalg.inv(box)))


@SEARCHES
def test_scripted(binned):
    cell = torch.as_tensor(CELLS["smaller than the cutoff"])
    positions = torch.as_tensor(scattered(cell.numpy(), 6, 5))
    plan = planned(positions, cell, binned=binned)
    one = padded_pairs(positions, cell, CUTOFF, plan)
    other = torch.jit.script(padded_pairs)(positions, cell, CUTOFF, plan)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("name", CELLS)
def test_inverse_of_a_cell(name):
    cell = torch.as_tensor(CELLS[name])
    np.testing.assert_allclose(inverse_cell(cell), np.linalg.inv(CELLS[name]), atol=1e-14)
    np.testing.assert_allclose(cell_heights(cell), 1 / np.linalg.norm(np.linalg.inv(CELLS[name]), axis=0))
