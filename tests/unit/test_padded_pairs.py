"""Lists of a fixed length hold the same pairs, ask the host for nothing, and say when they are full."""

import numpy as np
import pytest
import torch
from neighbour_lists import CELLS, CUTOFF, WAITING, full_list, random_cells, scattered
from torch.fx.experimental.proxy_tensor import make_fx

from openmm_mlbench.models.neighbours import cell_heights, inverse_cell, periodic_pairs
from openmm_mlbench.models.padded_pairs import padded_pairs, plan_pairs


def padded(positions, cell, plan=None):
    positions, cell = torch.as_tensor(positions), torch.as_tensor(cell)
    return padded_pairs(positions, cell, CUTOFF, *(plan or plan_pairs(positions, cell, CUTOFF)))


def filled(index, vectors):
    kept = torch.linalg.vector_norm(vectors, dim=1) < CUTOFF
    return index[:, kept], vectors[kept]


def test_the_same_pairs_in_random_cells():
    for cell, positions in random_cells(40):
        index, vectors = padded(positions, cell)
        wanted = full_list(*periodic_pairs(torch.as_tensor(positions), torch.as_tensor(cell), CUTOFF))
        found = full_list(*filled(index, vectors))
        assert found.shape == wanted.shape
        np.testing.assert_allclose(found, wanted, atol=1e-9)
        assert int(index.max()) < len(positions)
        assert torch.isfinite(vectors).all()


def test_one_plan_serves_other_configurations():
    cell = CELLS["triclinic"]
    positions = scattered(cell, 40, 0)
    plan = plan_pairs(torch.as_tensor(positions), torch.as_tensor(cell), CUTOFF)
    sizes = set()
    for seed in range(5):
        moved = positions + np.random.default_rng(seed).normal(scale=0.3, size=positions.shape)
        squeezed = cell * (1 - 0.005 * seed)
        index, vectors = padded(moved, squeezed, plan)
        wanted = full_list(*periodic_pairs(torch.as_tensor(moved), torch.as_tensor(squeezed), CUTOFF))
        np.testing.assert_allclose(full_list(*filled(index, vectors)), wanted, atol=1e-9)
        sizes.add((index.shape, len(wanted)))
    assert len({shape for shape, _ in sizes}) == 1
    assert len(sizes) > 1


def test_a_full_list_is_not_a_shorter_one():
    """One place too few, and nothing is a number; with just enough all is well."""
    cell = CELLS["orthorhombic"]
    positions = torch.as_tensor(scattered(cell, 20, 1))
    cell = torch.as_tensor(cell)
    shifts, _ = plan_pairs(positions, cell, CUTOFF)
    n_pairs = periodic_pairs(positions, cell, CUTOFF)[0].size(1)
    exact = padded_pairs(positions, cell, CUTOFF, shifts, n_pairs)[1]
    assert torch.isfinite(exact).all()
    assert float(torch.linalg.vector_norm(exact, dim=1).max()) < CUTOFF
    assert torch.isnan(padded_pairs(positions, cell, CUTOFF, shifts, n_pairs - 1)[1]).all()


def test_a_cell_that_shrank_too_far_says_so():
    """More images would be needed than the plan has shifts for."""
    cell = np.diag([10.5, 10.5, 10.5])
    positions = scattered(cell, 5, 2)
    plan = plan_pairs(torch.as_tensor(positions), torch.as_tensor(cell), CUTOFF, room=50, shrink=0.97)
    assert len(plan[0]) == 1
    assert torch.isfinite(padded(positions, 0.97 * cell, plan)[1]).all()
    assert torch.isnan(padded(positions, 0.94 * cell, plan)[1]).all()


@pytest.mark.parametrize("name", CELLS)
def test_nothing_waits_for_the_host(name):
    cell = torch.as_tensor(CELLS[name])
    positions = torch.as_tensor(scattered(CELLS[name], 12, 4))
    shifts, capacity = plan_pairs(positions, cell, CUTOFF)

    def graph_of(function):
        graph = make_fx(function)(positions, cell).graph
        return {str(node.target) for node in graph.nodes if node.op == "call_function"}

    def waiting(names):
        return {name for name in names if any(word in name for word in WAITING)}

    operators = graph_of(lambda x, box: padded_pairs(x, box, CUTOFF, shifts, capacity))
    assert len(operators) > 15
    assert waiting(operators) == set()
    # Only whole numbers, never a mask, say what is taken from where.
    assert not any("aten.index." in name for name in operators)
    # The test sees what it looks for.
    if name == "larger than twice the cutoff":
        assert waiting(graph_of(lambda x, box: torch.nonzero(x.sum(1) < CUTOFF)))
        assert waiting(graph_of(lambda x, box: torch.linalg.inv(box)))


def test_scripted():
    cell = torch.as_tensor(CELLS["smaller than the cutoff"])
    positions = torch.as_tensor(scattered(cell.numpy(), 6, 5))
    plan = plan_pairs(positions, cell, CUTOFF)
    one = padded_pairs(positions, cell, CUTOFF, *plan)
    other = torch.jit.script(padded_pairs)(positions, cell, CUTOFF, *plan)
    assert torch.equal(one[0], other[0])
    assert torch.equal(one[1], other[1])


@pytest.mark.parametrize("name", CELLS)
def test_inverse_of_a_cell(name):
    cell = torch.as_tensor(CELLS[name])
    np.testing.assert_allclose(inverse_cell(cell), np.linalg.inv(CELLS[name]), atol=1e-14)
    np.testing.assert_allclose(cell_heights(cell), 1 / np.linalg.norm(np.linalg.inv(CELLS[name]), axis=0))
