"""What is done to a traced graph: the same numbers from fewer operations."""

from collections import Counter

import pytest
import torch
from torch.nn import functional

from openmm_mlbench.export.ahead_of_time import graph_without_autograd

aten = torch.ops.aten


def traced(function, *example):
    """The treated graph of a function, and how often it calls each operation; both give the same numbers."""
    graph = graph_without_autograd(function, example)
    for factor in (1.0, -0.3):
        arguments = [factor * value for value in example]
        for found, wanted in zip(graph(*arguments), function(*arguments), strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-13)
    return Counter(node.target for node in graph.graph.nodes if node.op == "call_function")


def gradient_of(function):
    def energy_and_gradient(x):
        x = x.detach().requires_grad_()
        energy = function(x).sum()
        return energy.detach(), torch.autograd.grad(energy, x)[0]

    return energy_and_gradient


def random(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(len(shape)))


X = random(6, 4)


@pytest.mark.parametrize(
    ("index", "sums", "gathers"),
    [
        # A permutation's gradient is the inverse permutation; what repeats or leaves out has to be summed.
        ([3, 0, 5, 1, 2, 4], 0, 2),
        ([3, 0, 5, 1, 2, 2], 1, 1),
        ([3, 0, 5], 1, 1),
    ],
)
def test_the_gradient_of_a_permutation_is_a_gather(index, sums, gathers):
    weights = random(len(index), 4, 1).squeeze(2)
    calls = traced(gradient_of(lambda x: (x.index_select(0, torch.tensor(index)) * weights).square()), X)
    assert calls[aten.index_add.default] == sums
    assert calls[aten.index_select.default] == gathers


def test_a_number_goes_into_the_matrix_that_follows():
    matrix = random(4, 5)

    def through(x):
        return x + 0.7 * functional.silu(torch.mm(x, matrix)).mm(matrix.t())

    calls = traced(gradient_of(through), X)
    # Forward the number meets a sum, on the way back a matrix.
    assert calls[aten.mul.Tensor] <= 1


def test_a_number_stays_where_more_than_a_matrix_follows():
    matrix = random(4, 5)

    def twice(x):
        scaled = x * 0.7
        return torch.mm(scaled, matrix), scaled.clone()

    assert traced(twice, X)[aten.mul.Tensor] == 1


def test_pieces_of_constants_are_constants():
    weights = random(3, 4, 4)

    def function(x):
        first, second, third = (weights / 0.6).unbind(0)
        return (torch.mm(x, first.t()) + torch.mm(x, second * 2.0) + torch.mm(x, third),)

    calls = traced(function, X)
    assert set(calls) == {aten.mm.default, aten.add.Tensor}


def test_views_of_views_and_repetitions_go():
    def function(x):
        same = x.view(3, 8).unsqueeze(0).view(6, 4)
        pieces = x.t().unsqueeze(1).view(4, 6)
        return torch.exp(same) + torch.exp(x), pieces.sum(0) + x.view(2, 12).view(24).view(4, 6).sum(0)

    calls = traced(function, X)
    assert calls[aten.exp.default] == 1
    assert calls[aten.view.default] == 2
