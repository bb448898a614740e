"""Edges in groups of atoms that have equally many."""

import pytest
import torch

from openmm_mlbench.models.fast_edges import Silu, edges_in_blocks, in_groups, in_products, through


def test_groups_and_blocks():
    assert in_groups([0, 0, 2, 2, 3], 100) == [[[2, 2], [1, 3]]]
    # Whole atoms, an atom with more than a block has, and a group that two blocks share.
    assert in_groups([2, 2, 2, 7], 4) == [[[2, 2]], [[1, 2]], [[1, 7]]]
    assert in_groups([1, 1, 1], 2) == [[[2, 1]], [[1, 1]]]


def test_groups_that_share_a_product():
    groups = [[2, 3], [1, 4], [1, 9], [1, 10]]
    assert in_products(groups, 10) == [[0, 2, 10], [2, 4, 19]]
    assert in_products(groups, 1) == [[0, 1, 6], [1, 2, 4], [2, 3, 9], [3, 4, 10]]
    assert in_products(groups, 100) == [[0, 4, 29]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_silu_from_tanh(dtype):
    """And its derivative, also where silu is all but 0 or its argument; NaN stays NaN."""
    x = (
        torch.cat([torch.linspace(-200.0, 200.0, 4001), torch.linspace(-1e-3, 1e-3, 11)])
        .to(dtype)
        .requires_grad_()
    )
    of_y = torch.cos(x.detach())
    wanted = torch.nn.functional.silu(x)
    (of_x,) = torch.autograd.grad(wanted, x, of_y)
    half = 0.5 * x.detach()
    slope = Silu(half)(half)
    limit = 100 * torch.finfo(dtype).eps
    torch.testing.assert_close(half, wanted.detach(), rtol=10 * torch.finfo(dtype).eps, atol=limit)
    result = torch.empty_like(half)
    # Of half of the argument it is twice as large.
    torch.testing.assert_close(0.5 * through(of_y, slope, result), of_x, rtol=limit, atol=limit)
    assert torch.equal(through(of_y, slope, of_y), result)
    lost = torch.full((3,), torch.nan, dtype=dtype)
    assert torch.isnan(Silu(lost)(lost)).all()
    assert torch.isnan(lost).all()


@pytest.mark.parametrize("block_edges", [1, 12, 1000])
@pytest.mark.parametrize("density", [0.05, 0.5, 1.0])
def test_every_edge_has_a_place(density, block_edges):
    """Also where two atoms are a pair twice, by way of an image, and atoms have no pair at all."""
    generator = torch.Generator().manual_seed(7)
    chosen = torch.rand(14, 14, generator=generator) < density
    chosen[3], chosen[:, 3] = False, False
    index = torch.nonzero(torch.triu(chosen, 1)).t()
    index = torch.cat([index, index[:, :2].flip(0)], dim=1)
    scripted = torch.jit.script(edges_in_blocks)
    for function in (edges_in_blocks, scripted, scripted):
        layout = function(index, 14, torch.zeros(1, dtype=torch.float64), block_edges)
        assert layout.sign.dtype == torch.float64
        found = torch.stack([layout.centre, layout.neighbour])
        wanted = torch.cat([index, index.flip(0)], dim=1)
        assert sorted(map(tuple, found.t().tolist())) == sorted(map(tuple, wanted.t().tolist()))
        first, last = index.index_select(1, layout.pair)
        assert torch.equal(torch.where(layout.sign[:, 0] > 0, first, last), layout.centre)
        assert torch.equal(layout.centre[layout.opposite], layout.neighbour)
        assert torch.equal(layout.pair[layout.opposite], layout.pair)
        assert torch.equal(layout.sign[layout.opposite], -layout.sign)
        begin = 0
        for groups in layout.blocks:
            assert sum(atoms * edges for atoms, edges in groups) <= max(block_edges, groups[-1][1])
            for atoms, edges in groups:
                own = layout.centre[begin : begin + atoms * edges].view(atoms, edges)
                assert (own == own[:, :1]).all()
                assert len(own[:, 0].unique()) == atoms
                begin += atoms * edges
        assert begin == layout.centre.size(0)
