"""Operations that no captured path may hold: their shapes, or the host, hang on values.

Shared by the test of executed operations and the test of the captured path's graph.
"""

from contextlib import contextmanager

import pytest

from openmm_mlbench.export import ahead_of_time
from openmm_mlbench.speed.operators import count_operators, data_dependent

__all__ = ["asked_while_tracing", "assert_capturable", "count_operators", "data_dependent", "offending_nodes"]


def offending_nodes(graph_module):
    """Data-dependent operations in a traced graph (``make_fx``), by name."""
    names = [
        ".".join(str(node.target).split(".")[:2])
        for node in graph_module.graph.nodes
        if node.op == "call_function" and "output_size" not in node.kwargs
    ]
    return data_dependent(names)


def assert_capturable(call):
    """Run ``call`` once and fail if it asks the host for a value or makes a shape of one."""
    found = data_dependent(count_operators(call, warm_up=1))
    assert not found, f"a CUDA graph cannot hold {', '.join(found)}"


@contextmanager
def asked_while_tracing():
    """Data-dependent operations of what is traced meanwhile, by name, executed and not looked up in the graph.

    A length that a search found (``x.nonzero().size(0)``) is a plain number for the tracer: it stands in the graph
    as a constant of the traced configuration, and the search behind it is gone.
    """
    asked = []
    make_fx = ahead_of_time.make_fx

    def tracer(function, **options):
        def trace(*example):
            asked.extend(data_dependent(count_operators(lambda: function(*example), warm_up=0)))
            return make_fx(function, **options)(*example)

        return trace

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ahead_of_time, "make_fx", tracer)
        yield asked
