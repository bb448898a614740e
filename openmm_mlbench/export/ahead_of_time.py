"""Ahead-of-time forces: energy and forces as one graph without autograd at run time.

For a fixed set of atoms in open space the pair list is static (all pairs; the
networks' cutoffs make far ones exactly zero), so energy and gradient can be
traced into plain tensor operations once.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx

from openmm_mlbench.export.exported_model import ExportedModel
from openmm_mlbench.models.neighbours import all_pairs, periodic_pairs, zero_unless_lost
from openmm_mlbench.models.padded_pairs import padded_pairs, plan_pairs

aten = torch.ops.aten


def _addmm(bias: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return aten.mm(a, b) + bias


def _baddbmm(bias: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return aten.bmm(a, b) + bias


# The derivative of silu is one operation, which tracing would take apart into eight: it passes under
# this name, and gets its own back in the graph.
_LIBRARY = torch.library.Library("openmm_mlbench", "DEF")
_LIBRARY.define("silu_backward(Tensor gradient, Tensor x) -> Tensor")
_LIBRARY.impl("silu_backward", aten.silu_backward.default, "CompositeExplicitAutograd")
_silu_backward = torch.ops.openmm_mlbench.silu_backward


# TorchForce always freezes its module, and freezing fails on fused multiply-adds of constants.
_DECOMPOSITIONS: dict[Any, Callable[..., Tensor]] = {
    aten.addmm.default: _addmm,
    aten.baddbmm.default: _baddbmm,
    aten.silu_backward.default: _silu_backward,
}


def _drop_detach(graph_module: fx.GraphModule) -> None:
    """Remove detach nodes, which mean nothing without autograd."""
    for node in list(graph_module.graph.nodes):
        if node.op == "call_function" and node.target in (aten.detach.default, aten.alias.default):
            node.replace_all_uses_with(node.args[0])
            graph_module.graph.erase_node(node)
    graph_module.graph.eliminate_dead_code()
    graph_module.recompile()


def _restore_silu(graph_module: fx.GraphModule) -> None:
    """The derivative of silu under its own name."""
    for node in graph_module.graph.nodes:
        if node.target == _silu_backward.default:
            node.target = aten.silu_backward.default
    graph_module.recompile()


_WITH_SCALARS = (aten.mul.Tensor, aten.mul.Scalar, aten.add.Tensor, aten.sub.Tensor, aten.div.Tensor)


def _typed_scalars(graph_module: fx.GraphModule) -> None:
    """Python numbers become constants of the other operand's dtype: a float64 one is converted at each call."""
    for node in list(graph_module.graph.nodes):
        if node.op != "call_function" or node.target not in _WITH_SCALARS:
            continue
        first, second = node.args
        if isinstance(first, fx.Node) and isinstance(second, float):
            dtype = node.meta["val"].dtype
            name = f"scalar_{node.name}"
            graph_module.register_buffer(name, torch.tensor(second, dtype=dtype))
            with graph_module.graph.inserting_before(node):
                node.args = (first, graph_module.graph.get_attr(name))
            if node.target == aten.mul.Scalar:
                node.target = aten.mul.Tensor
    graph_module.recompile()


# Larger constants than this are left to be computed: folding must not inflate the module.
_LARGEST_FOLD = 4_000_000


def _out_of_place(graph_module: fx.GraphModule) -> None:
    """Autograd's few operations in place (masked_fill_) as new tensors: constants must stay what they are."""
    for node in graph_module.graph.nodes:
        packet, _, overload = str(node.target).removeprefix("aten.").partition(".")
        if packet.endswith("_") and not packet.endswith("__"):
            node.target = getattr(getattr(aten, packet.removesuffix("_")), overload)
    graph_module.recompile()


def _follow_the_input(graph_module: fx.GraphModule) -> None:
    """No device by name: what is made anew is made where its operand is, also after a move to a GPU."""
    for node in graph_module.graph.nodes:
        if node.op == "call_function" and node.all_input_nodes and "device" in node.kwargs:
            node.kwargs = {key: value for key, value in node.kwargs.items() if key != "device"}
    graph_module.recompile()


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
        if node.op != "call_function" or any(source not in values for source in inputs):
            continue
        arguments, keywords = fx.node.map_arg((node.args, node.kwargs), lambda source: values[source])
        value = node.target(*arguments, **keywords)
        if isinstance(value, list | tuple):
            # Pieces of a constant: each becomes one where it is taken out.
            values[node] = value  # type: ignore[assignment]
            continue
        # What has no operand would stay on the device of the trace.
        if not isinstance(value, Tensor) or (inputs and value.numel() > _LARGEST_FOLD):
            continue
        values[node] = value
        name = f"folded_{node.name}"
        graph_module.register_buffer(name, value.contiguous())
        with graph_module.graph.inserting_before(node):
            constant = graph_module.graph.get_attr(name)
        values[constant] = value
        constant.meta["val"] = value
        node.replace_all_uses_with(constant)
        graph_module.graph.erase_node(node)
    graph_module.graph.eliminate_dead_code()
    graph_module.recompile()


def _constant(graph_module: fx.GraphModule, node: Any) -> Tensor | None:
    """The value of a node that is a constant tensor."""
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    value = getattr(graph_module, str(node.target))
    return value if isinstance(value, Tensor) else None


def _replace(node: fx.Node, target: Any, arguments: tuple[Any, ...]) -> None:
    """Another operation with the same result in the place of a node."""
    with node.graph.inserting_before(node):
        new = node.graph.call_function(target, arguments)
    new.meta = dict(node.meta)
    node.replace_all_uses_with(new)
    node.graph.erase_node(node)


@torch.no_grad()
def _gather_permuted(graph_module: fx.GraphModule) -> None:
    """A sum into zeros at places that are each hit once is a gather: the gradient of a permutation is its inverse."""
    for node in list(graph_module.graph.nodes):
        if node.op != "call_function" or node.target != aten.index_add.default or node.kwargs:
            continue
        zeros, dimension, index_node, source = node.args
        index = _constant(graph_module, index_node)
        empty = isinstance(zeros, fx.Node) and zeros.target in (aten.new_zeros.default, aten.zeros.default)
        if index is None or not empty:
            continue
        order = torch.argsort(index)
        if node.meta["val"].size(dimension) != index.size(0) or not torch.equal(
            index[order], torch.arange(index.size(0), device=index.device)
        ):
            continue
        name = f"inverse_{node.name}"
        graph_module.register_buffer(name, order)
        with graph_module.graph.inserting_before(node):
            inverse = graph_module.graph.get_attr(name)
        inverse.meta["val"] = order
        _replace(node, aten.index_select.default, (source, dimension, inverse))
    graph_module.graph.eliminate_dead_code()
    graph_module.recompile()


@torch.no_grad()
def _scale_constants(graph_module: fx.GraphModule) -> None:
    """A number that multiplies what meets nothing but a constant matrix next goes into that matrix.

    The derivative of an activation is linear in the gradient that comes, so a number passes through it.
    """
    for node in list(graph_module.graph.nodes):
        if node.op != "call_function" or node.target != aten.mul.Tensor:
            continue
        number = _constant(graph_module, node.args[1])
        if number is None or number.dim() > 0:
            continue
        ahead = node
        while len(ahead.users) == 1:
            user = next(iter(ahead.users))
            if user.args[0] is not ahead or user.target not in (aten.silu_backward.default, aten.mm.default):
                break
            ahead = user
            if user.target == aten.mm.default:
                break
        if ahead.target != aten.mm.default:
            continue
        matrix = _constant(graph_module, ahead.args[1])
        if matrix is None:
            continue
        name = f"scaled_{node.name}"
        graph_module.register_buffer(name, matrix * number)
        with graph_module.graph.inserting_before(ahead):
            scaled = graph_module.graph.get_attr(name)
        scaled.meta["val"] = matrix
        ahead.args = (ahead.args[0], scaled)
        node.replace_all_uses_with(node.args[0])
        graph_module.graph.erase_node(node)
    graph_module.graph.eliminate_dead_code()
    graph_module.recompile()


_RESHAPES = (
    *(aten.view.default, aten._unsafe_view.default, aten.unsqueeze.default),  # noqa: SLF001 - its name
    *(aten.squeeze.default, aten.squeeze.dim),
)


def _merge_views(graph_module: fx.GraphModule) -> None:
    """Views of views of contiguous tensors as one, and none where the shape is the first one's."""
    for node in list(graph_module.graph.nodes):
        if node.op != "call_function" or node.target not in _RESHAPES:
            continue
        first = node.args[0]
        while first.target in _RESHAPES and first.args[0].meta["val"].is_contiguous():
            first = first.args[0]
        if not first.meta["val"].is_contiguous():
            continue
        shape = list(node.meta["val"].shape)
        if list(first.meta["val"].shape) == shape:
            node.replace_all_uses_with(first)
            graph_module.graph.erase_node(node)
        elif first is not node.args[0]:
            _replace(node, aten.view.default, (first, shape))
    graph_module.graph.eliminate_dead_code()
    graph_module.recompile()


def _merge_equal(graph_module: fx.GraphModule) -> None:
    """The same operation on the same operands once: nothing in the graph works in place."""
    seen: dict[Any, fx.Node] = {}
    for node in list(graph_module.graph.nodes):
        if node.op not in ("call_function", "get_attr"):
            continue
        key = (node.op, str(node.target), repr(node.args), repr(sorted(node.kwargs.items())))
        if key in seen:
            node.replace_all_uses_with(seen[key])
            graph_module.graph.erase_node(node)
        else:
            seen[key] = node
    graph_module.recompile()


def _treated(graph_module: fx.GraphModule) -> fx.GraphModule:
    _drop_detach(graph_module)
    _out_of_place(graph_module)
    _follow_the_input(graph_module)
    _restore_silu(graph_module)
    _typed_scalars(graph_module)
    _fold_constants(graph_module)
    _gather_permuted(graph_module)
    _scale_constants(graph_module)
    _merge_views(graph_module)
    _merge_equal(graph_module)
    return graph_module


def trace_without_autograd(
    function: Callable[..., tuple[Tensor, ...]], example: tuple[Tensor, ...]
) -> torch.jit.ScriptModule:
    """A function of tensors, which may take gradients inside, as a graph of plain operations.

    Args:
        function: of tensors of fixed shapes.
        example: tensors to trace with.
    """
    graph_module = graph_without_autograd(function, example)
    with torch.no_grad():
        return torch.jit.trace(graph_module, example, check_trace=False)


def graph_without_autograd(
    function: Callable[..., tuple[Tensor, ...]], example: tuple[Tensor, ...]
) -> fx.GraphModule:
    """The same before it becomes TorchScript."""
    with torch.enable_grad():
        traced = make_fx(function, decomposition_table=_DECOMPOSITIONS)(*example)
    return _treated(traced)


class _Specialised(nn.Module):
    """Runs a traced graph on float64 positions and returns forces in the dtype that came.

    ``capturable``: shapes are fixed and nothing is asked of the host, so a CUDA graph can replay it.
    """

    atoms: Tensor

    def __init__(self, core: torch.jit.ScriptModule, atoms: Tensor) -> None:
        super().__init__()
        self.capturable = True
        self.core = core
        self.register_buffer("atoms", atoms)

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        # Positions arrive requiring a gradient; recording one would undo the gain.
        with torch.no_grad():
            where = positions.detach()
            selected = where if self.atoms.size(0) == 0 else where.index_select(0, self.atoms)
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
    example = positions_nm.detach().to(torch.float64)
    return specialised_around(trace_without_autograd(function_of_molecule(model), (example,)), model)


def specialised_around(core: torch.jit.ScriptModule, model: ExportedModel) -> torch.jit.ScriptModule:
    """A core for positions (n_selected, 3), float64, with the model's choice of atoms and OpenMM's contract."""
    with torch.no_grad():
        return torch.jit.script(_Specialised(core, model.atoms))


def function_of_molecule(model: ExportedModel) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Positions (n_selected, 3), nm, to energy and forces, with all pairs and nothing else."""
    index = all_pairs(model.atomic_numbers.size(0), model.atomic_numbers.device)
    topology = model.network.topology(model.atomic_numbers, index)

    def energy_and_forces(positions: Tensor) -> tuple[Tensor, Tensor]:
        scaled = positions * model.angstrom_per_nm
        vectors = scaled.index_select(0, index[1]) - scaled.index_select(0, index[0])
        return model.evaluate(vectors, index, topology)

    return energy_and_forces


class _SpecialisedPeriodic(nn.Module):
    """The same in a box."""

    atoms: Tensor

    def __init__(self, core: torch.jit.ScriptModule, atoms: Tensor) -> None:
        super().__init__()
        self.capturable = True
        self.core = core
        self.register_buffer("atoms", atoms)

    def forward(self, positions: Tensor, box_vectors: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            where = positions.detach()
            selected = where if self.atoms.size(0) == 0 else where.index_select(0, self.atoms)
            energy, selected_forces = self.core(
                selected.to(torch.float64), box_vectors.detach().to(torch.float64)
            )
            nothing = zero_unless_lost(selected, box_vectors)
            energy, forces = energy + nothing, (selected_forces + nothing).to(where.dtype)
            if self.atoms.size(0) > 0:
                forces = torch.zeros_like(where).index_copy(0, self.atoms, forces)
            return energy, forces.contiguous()


def specialise_periodic(
    model: ExportedModel, positions_nm: Tensor, box_nm: Tensor, *, room: float = 1.2, shrink: float = 0.9
) -> torch.jit.ScriptModule:
    """A TorchScript module for these atoms in a box: no autograd, fixed shapes, nothing asked of the host.

    Made for GPUs, also with CUDA graphs; a processor gains nothing from it.  Pairs live in a list of
    fixed length (:mod:`openmm_mlbench.models.padded_pairs`), and so does what networks lay out by atom or
    species: if one overflows, the energy is infinite and all forces are NaN.

    Args:
        model: with ``atomic_numbers`` and ``atoms`` set for the topology.
        positions_nm: (n_selected, 3), an ordinary configuration.
        box_nm: (3, 3), its box.
        room: places in the list for this times the pairs of that configuration.
        shrink: the heights of the box may become this times what they are.

    Returns:
        A module with ``forward(positions, box_vectors)`` of the same contract as the model's.
    """
    example = positions_nm.detach().to(torch.float64), box_nm.detach().to(torch.float64)
    positions_a, box_a = example[0] * model.angstrom_per_nm, example[1] * model.angstrom_per_nm
    evaluate = _padded_evaluation(model, positions_a, box_a, room=room, shrink=shrink)

    def energy_and_forces(positions: Tensor, box: Tensor) -> tuple[Tensor, Tensor]:
        return evaluate(positions * model.angstrom_per_nm, box * model.angstrom_per_nm)

    core = trace_without_autograd(energy_and_forces, example)
    with torch.no_grad():
        return torch.jit.script(_SpecialisedPeriodic(core, model.atoms))


# Heights of a box around everything beyond its extent, in cutoffs: no image of an atom is seen.
_AROUND = 2.1


def specialise_open(
    model: ExportedModel, positions_nm: Tensor, *, room: float = 1.2
) -> torch.jit.ScriptModule:
    """The same in open space, for more atoms than :func:`specialise` compares all with all.

    Args:
        model: with ``atomic_numbers`` and ``atoms`` set for the topology.
        positions_nm: (n_selected, 3), an ordinary configuration.
        room: places in the list for this times the pairs of that configuration.

    Returns:
        A module with ``forward(positions)`` of the same contract as the model's.
    """
    example = positions_nm.detach().to(torch.float64)
    heights = _extent(example * model.angstrom_per_nm) + _AROUND * model.cutoff
    evaluate = _padded_evaluation(
        model, example * model.angstrom_per_nm, torch.diag(heights), room=room, shrink=1.0
    )

    def energy_and_forces(positions: Tensor) -> tuple[Tensor, Tensor]:
        where = positions.detach() * model.angstrom_per_nm
        # It grows with the molecule and never becomes smaller than the list was made for; a lost atom moves no wall.
        known = torch.nan_to_num(where, nan=0.0, posinf=0.0, neginf=0.0)
        around = torch.maximum(_extent(known) + _AROUND * model.cutoff, heights)
        energy, forces = evaluate(where, torch.diag(around))
        nothing = zero_unless_lost(where, None)
        return energy + nothing, forces + nothing

    return specialised_around(trace_without_autograd(energy_and_forces, (example,)), model)


def _extent(positions: Tensor) -> Tensor:
    return positions.amax(0) - positions.amin(0)


def _padded_evaluation(
    model: ExportedModel, positions_a: Tensor, box_a: Tensor, *, room: float, shrink: float
) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Energy and forces from positions and box, A, with lists of the lengths that this configuration asks for."""
    plan = plan_pairs(positions_a, box_a, model.cutoff, room=room, shrink=shrink)
    index, _ = periodic_pairs(positions_a, box_a, model.cutoff)
    lengths = model.network.fixed_lengths(model.atomic_numbers, index, room)

    def evaluate(positions: Tensor, box: Tensor) -> tuple[Tensor, Tensor]:
        pairs = padded_pairs(positions, box, model.cutoff, plan)
        topology, crowded = model.network.fixed_topology(
            model.atomic_numbers, pairs.pair_index, pairs.filled, lengths
        )
        energy, forces = model.evaluate(pairs.pair_vectors, pairs.pair_index, topology)
        # Also where an atom has no pairs that could carry the NaN.  OpenMM's barostat accepts a trial whose
        # energy is NaN, and refuses one whose energy is infinite.
        full = pairs.full | crowded
        energy = torch.where(full, torch.full_like(energy, float("inf")), energy)
        return energy, torch.where(full, torch.full_like(forces, float("nan")), forces)

    return evaluate


class _BothForms(nn.Module):
    """Fixed shapes on a GPU, which then waits for nobody; searched lists on a processor, which has no use for padding."""

    def __init__(self, fixed: torch.jit.ScriptModule, searched: torch.jit.ScriptModule) -> None:
        super().__init__()
        self.capturable = True
        self.fixed = fixed
        self.searched = searched

    def forward(self, positions: Tensor, box_vectors: Tensor) -> tuple[Tensor, Tensor]:
        if positions.is_cuda:
            return self.fixed(positions, box_vectors)
        return self.searched(positions, box_vectors)


class _BothFormsOpen(nn.Module):
    """The same in open space."""

    def __init__(self, fixed: torch.jit.ScriptModule, searched: torch.jit.ScriptModule) -> None:
        super().__init__()
        self.capturable = True
        self.fixed = fixed
        self.searched = searched

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        if positions.is_cuda:
            return self.fixed(positions)
        return self.searched(positions)


def both_forms(
    fixed: torch.jit.ScriptModule, searched: torch.jit.ScriptModule, *, periodic: bool = True
) -> torch.jit.ScriptModule:
    """One module with both forms of a network; where the positions are decides which one runs."""
    return torch.jit.script((_BothForms if periodic else _BothFormsOpen)(fixed, searched))
