"""What is done to a traced graph: the same numbers from fewer operations."""

from collections import Counter

import pytest
import torch
from torch.nn import functional

from openmm_mlbench.export.ahead_of_time import graph_without_autograd, trace_without_autograd
from openmm_mlbench.export.graph_passes import reuse_memory, sums_as_products

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


def test_a_copy_of_products_in_the_other_order_is_made_in_that_order():
    weights = random(2, 4, 3)

    def function(x):
        return ((torch.bmm(x, weights).transpose(1, 2).contiguous() * 2.0).view(6, 6).exp(),)

    calls = traced(function, random(2, 6, 4))
    assert calls[aten.bmm.default] == 1
    assert calls[aten.clone.default] == 0

    def read_twice(x):
        product = torch.bmm(x, weights)
        return product.transpose(1, 2).contiguous().exp(), product

    assert traced(read_twice, random(2, 6, 4))[aten.clone.default] == 1


# ---- what is not a function any more ----


def executed(function, *example, passes=(reuse_memory,)):
    """The same after these passes; what comes in stays as it is, and a second call gives the same."""
    graph = graph_without_autograd(function, example)
    for change in passes:
        change(graph)
    graph.graph.lint()
    for factor in (1.0, -0.3, 1.0):
        arguments = [factor * value for value in example]
        before = [value.clone() for value in arguments]
        for found, wanted in zip(graph(*arguments), function(*arguments), strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-13)
        for argument, value in zip(arguments, before, strict=True):
            assert torch.equal(argument, value)
    return Counter(node.target for node in graph.graph.nodes if node.op == "call_function")


def test_results_go_where_an_operand_is_no_longer_read():
    first, second, bias = random(4, 4), random(4, 4).flip(0), random(4)

    def residual(x):
        x = torch.mm(x, first)
        y = functional.silu(torch.mm(x, first) + bias)
        return ((x + torch.mm(y, second)).square(),)

    calls = executed(gradient_of(lambda x: residual(x)[0]), X)
    # Forward the residual sum, on the way back what comes through it; the bias needs no memory either.
    assert calls[aten.addmm_.default] >= 1
    assert calls[aten.add_.Tensor] >= 1
    assert calls[aten.silu_backward.grad_input] == 1
    assert calls[aten.add.Tensor] == 0


def test_memory_that_is_read_later_is_not_written_over():
    matrix = random(4, 4)

    def later(x):
        y = torch.mm(x, matrix)
        return y + x, y * x, y

    assert executed(later, X)[aten.add_.Tensor] == 0

    def by_another_name(x):
        y = torch.mm(x, matrix)
        view = y.view(3, 8)
        z = y + x
        return z, view * 2.0

    assert executed(by_another_name, X)[aten.add_.Tensor] == 0

    other = random(6, 4)

    def what_comes_in(x):
        return (x + other,)

    assert executed(what_comes_in, X)[aten.add_.Tensor] == 0


def test_a_constant_is_not_written_over():
    constant = random(6, 4).exp()

    def function(x):
        return ((constant * 2.0) + x,)

    assert executed(function, X)[aten.add_.Tensor] == 0


def test_a_product_waits_for_its_sum_only_with_factors_that_stay():
    matrix = random(4, 4)

    def function(x):
        factor = torch.mm(x, matrix)
        total = functional.silu(x)
        product = torch.mm(factor, matrix)
        # Written over the factor, before the sum that the product is for.
        changed = factor * x
        return total + product, changed

    calls = executed(function, X)
    assert calls[aten.mul_.Tensor] == 1
    assert calls[aten.addmm_.default] == 0


def test_differences_keep_their_order_and_factor():
    matrix = random(4, 4)

    def function(x):
        return x - torch.mm(x, matrix), torch.add(x, torch.mm(x, matrix), alpha=0.5), torch.mm(x, matrix) - x

    executed(function, X)


def test_small_sums_at_constant_places_are_products():
    index = torch.tensor([0, 2, 2, 1, 0, 0])

    def function(x):
        return (x.new_zeros(5, 4).index_add(0, index, x.exp()),)

    calls = executed(function, X, passes=(sums_as_products, reuse_memory))
    assert calls[aten.index_add.default] == 0
    assert calls[aten.mm.default] == 1

    many = torch.arange(3000) % 50

    def larger(x):
        return (x.new_zeros(50, 4).index_add(0, many, x.exp()),)

    rows = torch.linspace(-1.0, 1.0, 12000, dtype=torch.float64).view(3000, 4)
    assert executed(larger, rows, passes=(sums_as_products,))[aten.index_add.default] == 1


@pytest.mark.parametrize("one_system", [True, False])
def test_what_is_lost_in_one_of_several_systems_stays_there(one_system):
    index = torch.tensor([0, 0, 0, 1, 1, 1])

    def function(x):
        return (x.new_zeros(2, 4).index_add(0, index, x.exp()),)

    module = trace_without_autograd(function, (X,), one_system=one_system)
    lost = X.clone()
    lost[0, 0] = float("nan")
    found = module(lost)[0]
    assert torch.isnan(found[0, 0])
    assert bool(torch.isfinite(found[1]).all()) != one_system
