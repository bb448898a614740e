"""Operations that no captured path may hold: their shapes, or the host, hang on values.

Shared by the test of executed operations and the test of the captured path's graph.
"""

from openmm_mlbench.speed.operators import count_operators, data_dependent

__all__ = ["assert_capturable", "count_operators", "data_dependent", "offending_nodes"]


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
