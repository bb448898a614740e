"""Ahead-of-time forces: energy and forces as one graph without autograd at run time.

For a fixed set of atoms in open space the pair list is static (all pairs; the
networks' cutoffs make far ones exactly zero), so energy and gradient can be
traced into plain tensor operations once.
"""

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx

from openmm_mlbench.export.exported_model import ExportedModel
from openmm_mlbench.models.neighbours import all_pairs

aten = torch.ops.aten


def _addmm(bias: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return aten.mm(a, b) + bias


def _baddbmm(bias: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return aten.bmm(a, b) + bias


# TorchForce always freezes its module, and freezing fails on fused multiply-adds of constants.
_DECOMPOSITIONS = {aten.addmm.default: _addmm, aten.baddbmm.default: _baddbmm}


def _drop_detach(graph_module: fx.GraphModule) -> None:
    """Remove detach nodes, which mean nothing without autograd."""
    for node in list(graph_module.graph.nodes):
        if node.op == "call_function" and node.target in (aten.detach.default, aten.alias.default):
            node.replace_all_uses_with(node.args[0])
            graph_module.graph.erase_node(node)
    graph_module.graph.eliminate_dead_code()
    graph_module.recompile()


# Larger constants than this are left to be computed: folding must not inflate the module.
_LARGEST_FOLD = 4_000_000


@torch.no_grad()
def _fold_constants(graph_module: fx.GraphModule) -> None:
    """Compute once what does not depend on the positions; transposed weights become contiguous."""
    values: dict[fx.Node, Tensor] = {}
    for node in list(graph_module.graph.nodes):
        if node.op == "get_attr":
            value = getattr(graph_module, str(node.target))
            if isinstance(value, Tensor):
                values[node] = value
            continue
        inputs = node.all_input_nodes
        if node.op != "call_function" or not inputs or any(source not in values for source in inputs):
            continue
        arguments, keywords = fx.node.map_arg((node.args, node.kwargs), lambda source: values[source])
        value = node.target(*arguments, **keywords)
        if not isinstance(value, Tensor) or value.numel() > _LARGEST_FOLD:
            continue
        values[node] = value
        name = f"folded_{node.name}"
        graph_module.register_buffer(name, value.contiguous())
        with graph_module.graph.inserting_before(node):
            constant = graph_module.graph.get_attr(name)
        values[constant] = value
        node.replace_all_uses_with(constant)
        graph_module.graph.erase_node(node)
    graph_module.graph.eliminate_dead_code()
    graph_module.recompile()


class _Specialised(nn.Module):
    """Runs a traced graph on float64 positions and returns forces in the dtype that came."""

    atoms: Tensor

    def __init__(self, core: torch.jit.ScriptModule, atoms: Tensor) -> None:
        super().__init__()
        self.core = core
        self.register_buffer("atoms", atoms)

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        # Positions arrive requiring a gradient; recording one would undo the gain.
        with torch.no_grad():
            where = positions.detach()
            selected = where if self.atoms.size(0) == 0 else where[self.atoms]
            energy, selected_forces = self.core(selected.to(torch.float64))
            forces = selected_forces.to(where.dtype)
            if self.atoms.size(0) > 0:
                forces = torch.zeros_like(where).index_copy(0, self.atoms, forces)
            return energy, forces.contiguous()


def specialise(model: ExportedModel, positions_nm: Tensor) -> torch.jit.ScriptModule:
    """A TorchScript module for these atoms in open space, without autograd.

    Args:
        model: with ``atomic_numbers`` and ``atoms`` set for the topology.
        positions_nm: (n_selected, 3), an ordinary configuration to trace with.

    Returns:
        A module with ``forward(positions)`` of the same contract as the model's.
    """
    index = all_pairs(model.atomic_numbers.size(0), model.atomic_numbers.device)
    topology = model.network.topology(model.atomic_numbers, index)

    def energy_and_forces(positions: Tensor) -> tuple[Tensor, Tensor]:
        scaled = positions * model.angstrom_per_nm
        vectors = scaled.index_select(0, index[1]) - scaled.index_select(0, index[0])
        return model.evaluate(vectors, index, topology)

    example = positions_nm.detach().to(torch.float64)
    with torch.enable_grad():
        graph_module = make_fx(energy_and_forces, decomposition_table=_DECOMPOSITIONS)(example)
    _drop_detach(graph_module)
    _fold_constants(graph_module)
    with torch.no_grad():
        core = torch.jit.trace(graph_module, (example,), check_trace=False)
        return torch.jit.script(_Specialised(core, model.atoms))
