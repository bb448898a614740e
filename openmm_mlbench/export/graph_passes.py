"""What is done to a traced graph of plain operations: the same numbers from fewer and cheaper ones."""

import operator
from typing import Any

import torch
from torch import Tensor, fx

aten = torch.ops.aten

# The derivative of silu is one operation, which tracing would take apart into eight: it passes under
# this name, and gets its own back in the graph.
_LIBRARY = torch.library.Library("openmm_mlbench", "DEF")
_LIBRARY.define("silu_backward(Tensor gradient, Tensor x) -> Tensor")
_LIBRARY.impl("silu_backward", aten.silu_backward.default, "CompositeExplicitAutograd")
silu_backward = torch.ops.openmm_mlbench.silu_backward


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
        if node.target == silu_backward.default:
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


def _sum_at_constant_places(graph_module: fx.GraphModule, node: fx.Node) -> tuple[Tensor, fx.Node] | None:
    """Index and source of a sum of rows into zeros, if it is one and the index is a constant."""
    if node.op != "call_function" or node.target != aten.index_add.default or node.kwargs:
        return None
    zeros, dimension, index_node, source = node.args
    index = _constant(graph_module, index_node)
    empty = isinstance(zeros, fx.Node) and zeros.target in (aten.new_zeros.default, aten.zeros.default)
    if index is None or not empty or dimension != 0 or not isinstance(source, fx.Node):
        return None
    return index, source


@torch.no_grad()
def _gather_permuted(graph_module: fx.GraphModule) -> None:
    """A sum into zeros at places that are each hit once is a gather: the gradient of a permutation is its inverse."""
    for node in list(graph_module.graph.nodes):
        summed = _sum_at_constant_places(graph_module, node)
        if summed is None:
            continue
        index, source = summed
        order = torch.argsort(index)
        if node.meta["val"].size(0) != index.size(0) or not torch.equal(
            index[order], torch.arange(index.size(0), device=index.device)
        ):
            continue
        name = f"inverse_{node.name}"
        graph_module.register_buffer(name, order)
        with graph_module.graph.inserting_before(node):
            inverse = graph_module.graph.get_attr(name)
        inverse.meta["val"] = order
        _replace(node, aten.index_select.default, (source, 0, inverse))
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


def _turn_products(graph_module: fx.GraphModule) -> None:
    """A batch of products that is copied into the other order is made in that order: (A B)^T = B^T A^T."""
    graph = graph_module.graph
    for node in list(graph.nodes):
        if node.op != "call_function" or node.target != aten.clone.default:
            continue
        turned = node.args[0]
        if turned.target != aten.transpose.int or set(turned.args[1:]) != {1, 2} or len(turned.users) > 1:
            continue
        product = turned.args[0]
        if product.target != aten.bmm.default or len(product.users) > 1:
            continue
        factors = []
        with graph.inserting_before(node):
            for factor in reversed(product.args):
                other = graph.call_function(aten.transpose.int, (factor, 1, 2))
                other.meta["val"] = factor.meta["val"].transpose(1, 2)
                factors.append(other)
        _replace(node, aten.bmm.default, tuple(factors))
    graph.eliminate_dead_code()
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


# Constants up to this size are compared by value.
_SMALL = 1024


def _merge_equal(graph_module: fx.GraphModule) -> None:
    """The same operation on the same operands once: nothing in the graph works in place."""
    seen: dict[Any, fx.Node] = {}
    for node in list(graph_module.graph.nodes):
        if node.op not in ("call_function", "get_attr"):
            continue
        key: Any = (node.op, str(node.target), repr(node.args), repr(sorted(node.kwargs.items())))
        value = _constant(graph_module, node)
        if value is not None:
            small = value.numel() <= _SMALL
            content = value.detach().cpu().numpy().tobytes() if small else value.data_ptr()
            key = (str(value.dtype), tuple(value.shape), value.stride(), content)
        if key in seen:
            node.replace_all_uses_with(seen[key])
            graph_module.graph.erase_node(node)
        else:
            seen[key] = node
    graph_module.recompile()


def treat(graph_module: fx.GraphModule) -> fx.GraphModule:
    """All that leaves the graph a function without side effects."""
    _drop_detach(graph_module)
    _out_of_place(graph_module)
    _follow_the_input(graph_module)
    _restore_silu(graph_module)
    _typed_scalars(graph_module)
    _fold_constants(graph_module)
    _gather_permuted(graph_module)
    _scale_constants(graph_module)
    _turn_products(graph_module)
    _merge_views(graph_module)
    _merge_equal(graph_module)
    return graph_module


# Entries of the largest matrix that sums rows; a larger one takes longer than the sum.
_LARGEST_SUM = 50_000


@torch.no_grad()
def sums_as_products(graph_module: fx.GraphModule) -> None:
    """Sums of rows at constant places as products with a matrix of ones and zeros, where that is small.

    A row that is not finite then spoils all sums and not only its own.
    """
    for node in list(graph_module.graph.nodes):
        summed = _sum_at_constant_places(graph_module, node)
        if summed is None:
            continue
        index, source = summed
        shape = (node.meta["val"].size(0), index.size(0))
        if source.meta["val"].dim() != 2 or shape[0] * shape[1] > _LARGEST_SUM:
            continue
        ones = torch.zeros(shape, dtype=source.meta["val"].dtype, device=index.device)
        ones[index, torch.arange(index.size(0), device=index.device)] = 1.0
        name = f"places_{node.name}"
        graph_module.register_buffer(name, ones)
        with graph_module.graph.inserting_before(node):
            places = graph_module.graph.get_attr(name)
        places.meta["val"] = ones
        _replace(node, aten.mm.default, (places, source))
    graph_module.graph.eliminate_dead_code()
    graph_module.recompile()


# Operations whose result is memory of its own.
_FRESH = {
    *(aten.mm.default, aten.bmm.default, aten.addmm_.default, aten.cat.default, aten.stack.default),
    *(
        aten.add.Tensor,
        aten.add_.Tensor,
        aten.sub.Tensor,
        aten.sub_.Tensor,
        aten.mul.Tensor,
        aten.mul_.Tensor,
    ),
    *(aten.index_select.default, aten.index_add.default, aten.sum.dim_IntList, aten.neg.default),
    *(aten.silu.default, aten.silu_backward.default, aten.silu_backward.grad_input, aten.clone.default),
}
# Operations whose result may be another name for the memory of an operand.
_RENAMES = {
    *_RESHAPES,
    *(aten.transpose.int, aten.permute.default, aten.t.default, aten.expand.default, aten.select.int),
    *(aten.slice.Tensor, aten.split.Tensor, aten.split_with_sizes.default, aten.unbind.int),
    *(aten.alias.default, aten.detach.default, aten.contiguous.default, aten.squeeze.dims, operator.getitem),
}
_IN_PLACE = {
    aten.add.Tensor: aten.add_.Tensor,
    aten.sub.Tensor: aten.sub_.Tensor,
    aten.mul.Tensor: aten.mul_.Tensor,
}


def reuse_memory(graph_module: fx.GraphModule) -> None:
    """Results go where an operand stands that nothing reads afterwards; a product is added to a sum as it is made.

    A network's tensors pass through the processor's cache many times per step, and each that is not written
    anew leaves room there.  The last of all passes: others take operations for functions.
    """
    order = {node: k for k, node in enumerate(graph_module.graph.nodes)}

    def is_free(operand: Any, node: fx.Node) -> bool:
        """Whether memory of the result's size and type may be written over by this operation."""
        if not isinstance(operand, fx.Node) or operand.target not in _FRESH or "val" not in operand.meta:
            return False
        old, new = operand.meta["val"], node.meta["val"]
        if old.shape != new.shape or old.dtype != new.dtype or not old.is_contiguous():
            return False
        # A view's own users would have to be followed.
        return all(
            user is node
            or (order[user] < order[node] and user.op == "call_function" and user.target not in _RENAMES)
            for user in operand.users
        )

    def can_wait(product: Any) -> bool:
        """Whether this is a product for one sum alone, of factors that nothing may write over until then."""
        if not isinstance(product, fx.Node) or product.target != aten.mm.default or len(product.users) > 1:
            return False
        return all(
            order[user] <= order[product]
            for factor in product.all_input_nodes
            if factor.op == "call_function"
            for user in factor.users
        )

    for node in list(graph_module.graph.nodes):
        if node.op != "call_function":
            continue
        if node.target == aten.silu_backward.default and is_free(node.args[0], node):
            node.target = aten.silu_backward.grad_input
            node.kwargs = {"grad_input": node.args[0]}
        elif node.target in _IN_PLACE and node.args[0] is not node.args[1]:
            first, second = node.args
            # a + b with alpha is not b + a with alpha.
            turns = not node.kwargs and node.target != aten.sub.Tensor
            pairs = [(first, second), *([(second, first)] if turns else [])]
            free = [pair for pair in pairs if is_free(pair[0], node)]
            products = [pair for pair in free if can_wait(pair[1]) and not node.kwargs]
            if node.target == aten.add.Tensor and products:
                kept, product = products[0]
                node.target, node.args = aten.addmm_.default, (kept, *product.args)
                graph_module.graph.erase_node(product)
            elif free:
                node.target, node.args = _IN_PLACE[node.target], free[0]
    graph_module.recompile()
