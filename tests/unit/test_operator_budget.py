"""No network executes more operations per force call than was recorded; captured paths ask the host for nothing."""

import captured_ops
import operator_budget
import pytest
import torch

from openmm_mlbench.export import ahead_of_time
from openmm_mlbench.models.registry import ARCHITECTURES


@pytest.fixture(scope="module", params=ARCHITECTURES)
def traced(request, tmp_path_factory):
    """A network, its forms, and what was asked of the host while they were traced."""
    with captured_ops.asked_while_tracing() as asked:
        forms = operator_budget.network_calls(request.param, tmp_path_factory.mktemp("budget"))
    return request.param, forms, asked


@pytest.fixture(scope="module")
def calls(traced):
    return traced[:2]


def test_no_network_executes_more_than_its_budget(calls):
    model, forms = calls
    found = {form: sum(captured_ops.count_operators(call).values()) for form, call in forms.items()}
    allowed = operator_budget.budget()[model]
    assert set(found) == set(allowed)
    over = {form: count for form, count in found.items() if count > allowed[form]}
    assert not over, (
        f"{model} executes more operations than its budget: {over}, allowed {allowed}; find out which, and if they "
        "have to be there run `python tests/operator_budget.py --record`"
    )


@pytest.mark.parametrize("form", ["molecule, captured", "copies, captured", "box, fixed shapes"])
def test_captured_paths_ask_the_host_for_nothing(calls, form):
    _, forms = calls
    captured_ops.assert_capturable(forms[form])


def test_what_is_traced_asks_the_host_for_nothing(traced):
    assert traced[2] == []


def test_a_search_whose_length_alone_is_used_is_found():
    """It leaves no node behind, and the number of this configuration for all others."""

    def per_positive(x):
        return x.sum() / (x > 0.0).nonzero().size(0), -x

    example = (torch.tensor([1.0, -1.0, 3.0]),)
    with captured_ops.asked_while_tracing() as asked:
        graph = ahead_of_time.graph_without_autograd(per_positive, example)
    assert captured_ops.offending_nodes(graph) == []
    assert float(graph(torch.tensor([1.0, 2.0, 3.0]))[0]) == 3.0
    assert asked == ["aten.nonzero"]


def test_a_search_is_found(calls):
    """The searched lists of a box cannot be captured: a check that finds nothing there finds nothing anywhere."""
    _, forms = calls
    with pytest.raises(AssertionError, match=r"aten\.nonzero"):
        captured_ops.assert_capturable(forms["box"])


def test_every_network_has_a_budget():
    found = operator_budget.budget()
    assert set(found) == set(ARCHITECTURES)
    assert all(set(forms) == set(operator_budget.FORMS) for forms in found.values())


def test_what_changed_is_said():
    old = {"schnet": {"molecule": 100, "box": 150}}
    new = {"schnet": {"molecule": 100, "box": 140}, "nequip": {"molecule": 7}}
    assert operator_budget.changes(old, new) == [
        "schnet, box: 150 -> 140",
        "nequip, molecule: nothing -> 7",
    ]


def test_nodes_of_a_traced_graph_are_checked():
    from torch.fx.experimental.proxy_tensor import make_fx

    x = torch.arange(4.0)
    searching = make_fx(torch.nonzero, tracing_mode="symbolic")(x)
    assert captured_ops.offending_nodes(searching) == ["aten.nonzero"]
    assert captured_ops.offending_nodes(make_fx(lambda x: torch.cumsum(x, 0) * 2.0)(x)) == []
