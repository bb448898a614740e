"""Pair lists against ASE's, in every kind of cell."""

import numpy as np
import pytest
import torch
from neighbour_lists import CELLS, CUTOFF, ase_list, full_list, random_cells, scattered

from openmm_mlbench.models.neighbours import (
    all_pairs,
    cell_heights,
    cell_list_pairs,
    directed_edges,
    forces_from_pairs,
    open_pairs,
    periodic_pairs,
)


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("n_atoms", [1, 2, 11])
def test_periodic_pairs_are_those_of_ase(name, n_atoms):
    cell = CELLS[name]
    for seed in range(5):
        positions = scattered(cell, n_atoms, seed)
        found = full_list(*periodic_pairs(torch.as_tensor(positions), torch.as_tensor(cell), CUTOFF))
        wanted = ase_list(positions, cell)
        assert found.shape == wanted.shape
        np.testing.assert_allclose(found, wanted, atol=1e-9)


SEARCHES = {"dense": periodic_pairs, "cell list": cell_list_pairs}


@pytest.mark.parametrize("search", SEARCHES)
def test_200_random_cells(search):
    """With atoms up to three cells away."""
    n_images, n_pairs, smallest = [], [], np.inf
    for cell, positions in random_cells(200):
        tensors = torch.as_tensor(positions), torch.as_tensor(cell)
        found = full_list(*SEARCHES[search](*tensors, CUTOFF))
        wanted = ase_list(positions, cell)
        assert found.shape == wanted.shape
        np.testing.assert_allclose(found, wanted, atol=1e-9)
        heights = cell_heights(tensors[1])
        n_images.append(int(np.ceil(CUTOFF / float(heights.min()))))
        smallest = min(smallest, float(heights.min()))
        n_pairs.append(len(found))
    # They are what they are meant to be.
    assert smallest < 0.2 * CUTOFF
    assert np.mean(np.array(n_images) > 1) > 0.3
    assert min(n_pairs) < 10
    assert max(n_pairs) > 1000


@pytest.mark.parametrize("name", CELLS)
def test_the_cell_list_finds_the_pairs_of_many_atoms(name):
    """Cells with more than one bin along their axes, and coordinates on the faces."""
    cell = CELLS[name] * 2.6
    rng = np.random.default_rng(3)
    fractions = rng.uniform(-3, 4, (150, 3))
    fractions[:30] = (
        rng.integers(-3, 4, (30, 3)) + rng.integers(0, 5, (30, 3)) / 5 + rng.normal(size=(30, 3)) * 1e-3
    )
    fractions[30:33, 0] = [0.0, 1.0, -1e-18]
    positions = fractions @ cell
    found = full_list(*cell_list_pairs(torch.as_tensor(positions), torch.as_tensor(cell), CUTOFF))
    wanted = ase_list(positions, cell)
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, atol=1e-9)


def test_many_atoms_take_the_cell_list():
    """Both functions at their limit: same pairs in another order, and few candidates."""
    positions = np.random.default_rng(4).uniform(0, 20, (700, 3))
    cell = torch.diag(torch.tensor([20.0, 20.0, 20.0], dtype=torch.float64))
    tensor = torch.as_tensor(positions)
    for arguments, function in (((tensor, cell, CUTOFF), periodic_pairs), ((tensor, CUTOFF), open_pairs)):
        dense, sparse = (full_list(*function(*arguments, dense_limit=limit)) for limit in (10**6, 100))
        assert len(dense) > 10_000
        np.testing.assert_allclose(sparse, dense, atol=1e-9)
        assert torch.equal(function(*arguments)[0], function(*arguments, dense_limit=100)[0])


def test_atoms_without_a_place_have_no_pairs():
    """A step that blew up: the same as in the dense search, no crash."""
    positions = torch.rand(700, 3) * 20
    positions[3] = float("nan")
    index, vectors = periodic_pairs(positions, 20.0 * torch.eye(3), CUTOFF)
    assert torch.isfinite(vectors).all()
    assert not (index == 3).any()
    assert index.size(1) == periodic_pairs(positions, 20.0 * torch.eye(3), CUTOFF, dense_limit=1000)[0].size(
        1
    )


def test_open_pairs_are_those_of_ase():
    positions = np.random.default_rng(1).uniform(0, 12, (20, 3))
    found = full_list(*open_pairs(torch.as_tensor(positions), CUTOFF))
    wanted = ase_list(positions, None, pbc=False)
    assert 0 < len(wanted) < 20 * 19
    np.testing.assert_allclose(found, wanted, atol=1e-12)


def test_a_half_list_holds_every_pair_once():
    """Counted by hand: one atom in a cube of 3 A has 6 neighbours at 3 A and 12 at 4.24 A: 9 pairs."""
    index, vectors = periodic_pairs(
        torch.zeros(1, 3, dtype=torch.float64), 3.0 * torch.eye(3, dtype=torch.float64), CUTOFF
    )
    assert index.tolist() == [[0] * 9, [0] * 9]
    both = torch.cat([vectors, -vectors])
    assert len({tuple(row) for row in both.round(decimals=6).add(0.0).tolist()}) == 18
    lengths = torch.linalg.vector_norm(vectors, dim=1)
    assert int((lengths < 3.1).sum()) == 3


def test_half_list_at_exactly_half_a_cell():
    """Two atoms half a cell apart see each other through both faces."""
    cell = torch.diag(torch.tensor([6.0, 30.0, 30.0], dtype=torch.float64))
    positions = torch.tensor([[0.0, 0.0, 0.0], [3.0, 0.0, 0.0]], dtype=torch.float64)
    index, vectors = periodic_pairs(positions, cell, CUTOFF)
    assert index.tolist() == [[0, 0], [1, 1]]
    assert sorted(vectors[:, 0].tolist()) == [-3.0, 3.0]


def test_cell_heights_by_hand():
    cell = torch.tensor([[4.0, 0.0, 0.0], [2.0, 3.0, 0.0], [1.0, 1.0, 5.0]], dtype=torch.float64)
    # h_c = 5 (c_z); h_b = V / |c x a| = 60 / |(0, 20, -4)|; h_a = V / |b x c| = 60 / |(15, -10, -1)|.
    wanted = [60 / np.sqrt(326), 60 / np.sqrt(416), 5.0]
    np.testing.assert_allclose(cell_heights(cell).numpy(), wanted, rtol=1e-12)


def test_all_pairs_come_in_the_order_of_directed_edges():
    pairs = all_pairs(4, torch.device("cpu"))
    assert pairs.tolist() == [[0, 0, 0, 1, 1, 2], [1, 2, 3, 2, 3, 3]]
    centre, neighbour = directed_edges(pairs)
    assert torch.equal(centre[:6], neighbour[6:])
    assert torch.equal(centre[6:], neighbour[:6])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scripted_lists_equal_eager_ones(dtype):
    scripted = torch.jit.script(periodic_pairs)
    scripted_open = torch.jit.script(open_pairs)
    for cell in CELLS.values():
        positions = torch.as_tensor(scattered(cell, 7, 3), dtype=dtype)
        box = torch.as_tensor(cell, dtype=dtype)
        pairs = (
            (periodic_pairs(positions, box, CUTOFF), scripted(positions, box, CUTOFF)),
            (periodic_pairs(positions, box, CUTOFF, 1), scripted(positions, box, CUTOFF, 1)),
        )
        for eager, script in (*pairs, (open_pairs(positions, CUTOFF), scripted_open(positions, CUTOFF))):
            assert torch.equal(eager[0], script[0])
            assert torch.equal(eager[1], script[1])
            assert eager[1].dtype == dtype


def test_no_pairs_at_all():
    far = torch.tensor([[0.0, 0.0, 0.0], [9.0, 0.0, 0.0]])
    index, vectors = open_pairs(far, CUTOFF)
    assert index.shape == (2, 0)
    assert vectors.shape == (0, 3)
    index, vectors = periodic_pairs(far[:1], 20.0 * torch.eye(3), CUTOFF)
    assert index.shape == (2, 0)
    assert vectors.shape == (0, 3)


def test_forces_from_pairs_against_a_loop():
    """Each gradient pulls its first atom and pushes its second, so that nothing is left over."""
    rng = np.random.default_rng(0)
    pairs = rng.integers(0, 5, (2, 30))
    gradient = rng.normal(size=(30, 3))
    wanted = np.zeros((5, 3))
    for (i, j), g in zip(pairs.T, gradient, strict=True):
        wanted[i] += g
        wanted[j] -= g
    forces = forces_from_pairs(torch.as_tensor(gradient), torch.as_tensor(pairs), 5)
    np.testing.assert_allclose(forces.numpy(), wanted, atol=1e-14)
    assert np.abs(forces.sum(0).numpy()).max() < 1e-13
