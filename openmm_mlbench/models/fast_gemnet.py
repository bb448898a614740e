"""GemNet-T's energy and gradient for a processor: gradients written out by hand, edges in blocks.

Autograd keeps every tensor of every edge, and writes each gradient into one of its own.  Here edges are taken in
blocks of whole atoms that stay in the processor's cache; the slope of each activation is kept, and most of the rest
made again on the way back.  Atoms with equally many edges follow each other, so that the sums over triplets of all
of them are one batch of products.
"""

import copy
import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from openmm_mlbench.models.bases import gaussian_basis
from openmm_mlbench.models.cutoffs import polynomial_envelope
from openmm_mlbench.models.fast_edges import (
    Layout,
    Silu,
    cosines_back,
    edges_in_blocks,
    in_products,
    register,
    register_half,
    through,
)
from openmm_mlbench.models.gemnet import GemNetT, Interaction, Residual

# Edges that are taken together, unless one atom has more.
BLOCK_EDGES = 800
# Edges from which on groups of atoms get a product with the bilinear layer's weights for themselves.
PRODUCT_EDGES = 96
# Edges of an atom from which on sums over its triplets are made for each degree of the angle, before the radial part
# comes in: fewer operations with larger tables, and more with smaller ones.
BY_DEGREE_FROM = 30


class _Edges(NamedTuple):
    """The e edges of some atoms; lists are of their groups, of a atoms with K edges each."""

    basis: Tensor  # (e, radial)
    of_basis: Tensor  # (radial, e), its gradient, which grows
    centre: Tensor  # (e,)
    as_centre: Tensor  # (e,), its row among those of atoms as centre and as neighbour
    as_neighbour: Tensor  # (e,), the same of the neighbour
    opposite: Tensor  # (e,), among all edges
    of_weighted: Tensor  # (e, circular * degrees), gradient of the radial part of the circular basis
    legendre: Tensor  # (degrees, all a * K * K), P_l of the angles, 0 where that is no triplet
    sizes: list[int]  # a * K
    numbers: list[int]  # a * K * K
    directions: list[Tensor]  # (a, K, 3)
    weighted: list[Tensor]  # (a * K, circular, degrees), radial part of the circular basis
    of_weighted_of: list[Tensor]  # its gradient
    # Circular basis, or where atoms have many edges only the polynomials: n is the number of either.
    by_degree: bool
    basis_of: list[Tensor]  # (a, K * n, K)
    turned: list[Tensor]  # the same (a, K, K * n)
    of_basis_of: list[Tensor]  # its gradient (a, K * n, K), which grows
    saved: list[Tensor]  # what the way back needs, in the order of the way there
    # Room for what is not kept, shared by all blocks: new memory would come from outside the cache.
    room: Tensor  # (e, edge)
    more: Tensor  # (e, edge)
    thin: Tensor  # (e, triplet)
    slim: Tensor  # (e, triplet)
    summed: Tensor  # (e, bilinear)
    in_thin: list[Tensor]  # of it (a, K, triplet)
    turned_thin: list[Tensor]  # the same (a, triplet, K)
    in_slim: list[Tensor]  # (a, K, triplet)
    # Sums over triplets, of groups that share a product of n edges in the same place: these stay in the cache.
    products: list[list[int]]  # first group of each product, and that after its last
    wide: list[Tensor]  # of each (n, circular * triplet)
    in_summed: list[Tensor]  # of each (n, bilinear)
    in_wide: list[Tensor]  # of groups (a, K * circular, triplet), or by degree (a * K, circular, triplet)
    sent: Tensor  # (all, edge), what goes to opposite edges, and on the way back its gradient
    here: Tensor  # of it (e, edge)


class _Residual(nn.Module):
    """(x + sigma(W_2 sigma(W_1 x))) / sqrt(2) of x / scale, and the way back.

    Args:
        first: (width, width), W_1.
        second: (width, width), W_2.
        scale: of the input; see :class:`openmm_mlbench.models.gemnet.Residual`.
    """

    first: Tensor
    second: Tensor
    first_back: Tensor
    second_back: Tensor

    def __init__(self, first: Tensor, second: Tensor, scale: float) -> None:
        super().__init__()
        self.factor = 1.0 / (0.6 * scale)
        register_half(self, "first", first * scale)
        register_half(self, "second", second / 0.6, self.factor)
        self.silu = Silu(self.first)

    def forward(self, x: Tensor, saved: list[Tensor], room: Tensor, more: Tensor) -> None:
        """(n, width), changed in place, with room for twice as much."""
        h = torch.mm(x, self.first, out=room)
        saved.append(self.silu(h))
        h = torch.mm(h, self.second, out=more)
        saved.append(self.silu(h))
        x.add_(h, alpha=self.factor)

    @torch.jit.export
    def back(self, of_x: Tensor, saved: list[Tensor], room: Tensor, more: Tensor) -> None:
        """From the gradient (n, width) of the output to that of the input, in place."""
        of_y = torch.mm(through(of_x, saved.pop(), more), self.second_back, out=room)
        of_x.addmm_(through(of_y, saved.pop(), of_y), self.first_back)


def _residuals(layers: nn.ModuleList, scale: float) -> list[_Residual]:
    """Layers that follow each other, the first of an input over ``scale``."""
    result = []
    for layer in layers:
        assert isinstance(layer, Residual)
        result.append(_Residual(layer.weight_1, layer.weight_2, scale))
        scale *= math.sqrt(0.5)
    return result


class _ResidualOfHeads(_Residual):
    """The same of all heads at once, which have weights (heads, width, width) of their own."""

    def forward(self, x: Tensor, saved: list[Tensor], room: Tensor, more: Tensor) -> None:
        """(heads, n, width), changed in place, with room for twice as much."""
        h = torch.bmm(x, self.first, out=room)
        saved.append(self.silu(h))
        h = torch.bmm(h, self.second, out=more)
        saved.append(self.silu(h))
        x.add_(h, alpha=self.factor)

    @torch.jit.export
    def back(self, of_x: Tensor, saved: list[Tensor], room: Tensor, more: Tensor) -> None:
        """From the gradient (heads, n, width) of the output to that of the input, in place."""
        of_y = torch.bmm(through(of_x, saved.pop(), more), self.second_back, out=room)
        of_x.baddbmm_(through(of_y, saved.pop(), of_y), self.first_back)


class _Heads(nn.Module):
    """All output blocks: of the sums of messages a dense layer, residual layers and a linear output.

    Args:
        network: with its weights.
    """

    first: Tensor
    first_back: Tensor
    last: Tensor
    last_back: Tensor

    def __init__(self, network: GemNetT) -> None:
        super().__init__()
        heads = network.energy
        register_half(self, "first", heads.first)
        self.silu = Silu(self.first)
        register(self, "last", heads.last * heads.scale)
        layers = [
            _ResidualOfHeads(heads.weight_1[k], heads.weight_2[k], math.sqrt(0.5) ** k / 0.6)
            for k in range(heads.layers)
        ]
        self.layers, self.layers_back = nn.ModuleList(layers), nn.ModuleList(reversed(layers))

    def forward(self, totals: Tensor) -> tuple[Tensor, Tensor]:
        """Energies (A,) of sums (heads, A, edge) of messages, and the gradient of these."""
        saved: list[Tensor] = []
        x = torch.bmm(totals, self.first)
        slope = self.silu(x)
        room, more = torch.empty_like(x), torch.empty_like(x)
        for layer in self.layers:
            layer(x, saved, room, more)
        energies = torch.bmm(x, self.last).sum(0).squeeze(1)
        of_x = x.copy_(self.last_back)
        for layer in self.layers_back:
            layer.back(of_x, saved, room, more)  # type: ignore[operator]
        return energies, torch.bmm(through(of_x, slope, of_x), self.first_back)


class _Sums(nn.Module):
    """Sums of filtered messages over the edges of each atom, for an output block.

    Args:
        filters: (radial, edge), from the radial basis.
    """

    filters: Tensor
    filters_back: Tensor

    def __init__(self, filters: Tensor) -> None:
        super().__init__()
        register(self, "filters", filters)

    def forward(self, message: Tensor, total: Tensor, edges: _Edges) -> None:
        """Messages (e, edge) added to the sums (A, edge)."""
        filters = torch.mm(edges.basis, self.filters, out=edges.room)
        total.index_add_(0, edges.centre, filters.mul_(message))

    @torch.jit.export
    def back(self, of_message: Tensor, message: Tensor, of_total: Tensor, edges: _Edges) -> None:
        """The way back, added to ``of_message``."""
        at_centre = torch.index_select(of_total, 0, edges.centre, out=edges.room)
        of_message.addcmul_(at_centre, torch.mm(edges.basis, self.filters, out=edges.more))
        edges.of_basis.addmm_(self.filters, at_centre.mul_(message).t())


class _Interaction(nn.Module):
    """One interaction block on a block of edges, and its way back; what is kept stands in ``saved``.

    Args:
        network: with its weights.
        number: of the interaction block.
    """

    own: Tensor
    own_back: Tensor
    arriving: Tensor
    arriving_back: Tensor
    down: Tensor
    down_back: Tensor
    bilinear: Tensor
    bilinear_back: Tensor
    there: Tensor
    there_back: Tensor
    away: Tensor
    away_back: Tensor
    atom_dense: Tensor
    atom_dense_back: Tensor
    concat: Tensor
    concat_back: Tensor
    ends: Tensor
    ends_back: Tensor
    triplet_filter: Tensor
    triplet_filter_back: Tensor
    skip_back: Tensor
    atom_skip_back: Tensor
    result_skip_back: Tensor

    def __init__(self, network: GemNetT, number: int) -> None:
        super().__init__()
        block = network.interactions[number]
        assert isinstance(block, Interaction)
        edge, atom = block.dense.size(0), block.atom_dense.size(1)
        scales = network.scales[number].detach()
        register_half(self, "own", block.dense[:, :edge] * block.message_scale)
        register_half(self, "arriving", block.dense[:, edge:] * block.message_scale)
        register_half(self, "down", block.down)
        register(self, "bilinear", block.bilinear * (scales[1] / 0.6))
        register_half(self, "there", block.up[:, :edge], math.sqrt(0.5))
        register_half(self, "away", block.up[:, edge:], math.sqrt(0.5))
        register_half(self, "atom_dense", block.atom_dense)
        register_half(self, "concat", block.concat_dense[2 * atom :] * block.middle_scale)
        # Of an atom as centre, and as neighbour: one product gives the rows of both, which follow each other.
        at_neighbour, at_centre = block.concat_dense[: 2 * atom].chunk(2)
        register_half(self, "ends", torch.cat([at_centre, at_neighbour], dim=1) * block.atom_scale)
        self.silu = Silu(self.own)
        filters = network.project_triplet @ network.filter_triplet[number]
        register(self, "triplet_filter", filters * (scales[0] / 0.6))
        filters = network.project_atom @ network.filter_atom[number]
        self.sums = _Sums(filters * (scales[2] * block.middle_scale))
        self.head = _Sums(_head_filters(network, number + 1))
        before = _residuals(block.before_skip, math.sqrt(0.5) / 0.6)
        after = _residuals(block.after_skip, block.before_scale * math.sqrt(0.5))
        atoms = _residuals(block.atom_residual, 1.0 / 0.6)
        concat = _residuals(block.concat_residual, 1.0 / 0.6)
        # TorchScript goes through modules in one direction only.
        self.before, self.before_back = nn.ModuleList(before), nn.ModuleList(reversed(before))
        self.after, self.after_back = nn.ModuleList(after), nn.ModuleList(reversed(after))
        self.atoms, self.atoms_back = nn.ModuleList(atoms), nn.ModuleList(reversed(atoms))
        self.concats, self.concats_back = nn.ModuleList(concat), nn.ModuleList(reversed(concat))
        self.skip = block.message_scale / block.before_scale
        self.atom_skip = block.atom_scale / block.update_scale
        self.result_skip = block.middle_scale / block.concat_scale
        # Numbers that multiply a tensor: one of another dtype would be converted at each call.
        self.register_buffer("skip_back", self.own.new_tensor(self.skip))
        self.register_buffer("atom_skip_back", self.own.new_tensor(self.atom_skip))
        self.register_buffer("result_skip_back", self.own.new_tensor(self.result_skip))
        # On the way back the last block is the first that has a gradient for the circular basis.
        self.last = number == network.blocks - 1

    def forward(
        self,
        messages: list[Tensor],
        atoms: Tensor,
        blocks: list[_Edges],
        saved: list[Tensor],
        sums: list[Tensor],
    ) -> tuple[list[Tensor], Tensor]:
        """Messages (e, edge) of each block and atom features (A, atom) after one round; see :class:`Interaction`.

        From the end of ``sums`` it takes two (A, edge) that are zero: for the atom update, and for the head.
        """
        at_atoms, total = sums.pop(), sums.pop()
        own: list[Tensor] = []
        for message, edges in zip(messages, blocks):  # noqa: B905 - TorchScript has no strict zip
            own.append(self.send(message, edges))
        for x, message, edges in zip(own, messages, blocks):  # noqa: B905
            self.mix(x, message, at_atoms, edges)
        atoms = self.update(atoms, at_atoms, saved)
        ends = torch.mm(atoms, self.ends).view(2 * atoms.size(0), -1)
        results: list[Tensor] = []
        for x, edges in zip(own, blocks):  # noqa: B905
            result = self.result(x, ends, edges)
            self.head(result, total, edges)
            results.append(result)
        return results, atoms

    @torch.jit.export
    def back(
        self,
        of_head: Tensor,
        of_results: list[Tensor],
        results: list[Tensor],
        of_atoms: Tensor,
        blocks: list[_Edges],
        saved: list[Tensor],
        of_ends: list[Tensor],
    ) -> tuple[list[Tensor], Tensor]:
        """The way back of :meth:`forward`, and of the head on its results; uses up what it is given, of ``of_ends`` a zero (2 A, edge)."""
        of_end = of_ends.pop()
        for of_result, result, edges in zip(of_results, results, blocks):  # noqa: B905
            self.head.back(of_result, result, of_head, edges)
            self.result_back(of_result, of_end, edges)
        of_atoms.addmm_(of_end.view(of_atoms.size(0), -1), self.ends_back)
        of_atoms, of_total = self.update_back(of_atoms, saved)
        of_messages = [self.mix_back(of_total, edges) for edges in blocks]
        for of_message, edges in zip(of_messages, blocks):  # noqa: B905
            self.send_back(of_message, edges)
        return of_messages, of_atoms

    def send(self, message: Tensor, edges: _Edges) -> Tensor:
        """Messages (e, edge) with their sums over triplets; what goes to the opposite edges stands in ``sent``."""
        arriving = torch.mm(message, self.arriving)
        edges.saved.append(self.silu(arriving))
        edges.saved.append(arriving)
        filtered = torch.mm(edges.basis, self.triplet_filter, out=edges.room).mul_(arriving)
        near = torch.mm(filtered, self.down)
        edges.saved.append(self.silu(near))
        edges.saved.append(near)
        # Where sums over triplets look for it.
        edges.thin.copy_(near)
        if edges.by_degree:
            self.gather_by_degree(edges)
        else:
            self.gather(edges)
        own = torch.mm(message, self.own)
        edges.saved.append(self.silu(own))
        x = edges.summed
        there = torch.mm(x, self.there, out=edges.room)
        edges.saved.append(self.silu(there))
        own.add_(there, alpha=math.sqrt(0.5))
        edges.saved.append(self.silu(torch.mm(x, self.away, out=edges.here)))
        return own

    def send_back(self, of_message: Tensor, edges: _Edges) -> None:
        """The way back of :meth:`send`, added to ``of_message``; what arrives at edges has its gradient in ``sent``."""
        of_own = edges.here
        of_away = torch.index_select(edges.sent, 0, edges.opposite, out=edges.room)
        of_x = torch.mm(through(of_away, edges.saved.pop(), of_away), self.away_back, out=edges.summed)
        of_x.addmm_(through(of_own, edges.saved.pop(), edges.more), self.there_back)
        of_message.addmm_(through(of_own, edges.saved.pop(), edges.more), self.own_back)
        if edges.by_degree:
            sums = edges.saved.pop()
            edges.thin.copy_(edges.saved.pop())
            self.gather_by_degree_back(sums, edges)
        else:
            edges.thin.copy_(edges.saved.pop())
            self.gather_back(edges)
        of_filtered = torch.mm(
            through(edges.slim, edges.saved.pop(), edges.slim), self.down_back, out=edges.room
        )
        of_filter = edges.saved.pop().mul_(of_filtered)
        edges.of_basis.addmm_(self.triplet_filter, of_filter.t())
        of_filtered.mul_(torch.mm(edges.basis, self.triplet_filter, out=edges.more))
        of_message.addmm_(through(of_filtered, edges.saved.pop(), of_filtered), self.arriving_back)

    def gather(self, edges: _Edges) -> None:
        """Sums over triplets of what arrives, from ``thin``, and the bilinear layer, to ``summed``."""
        for groups, wide, result in zip(edges.products, edges.wide, edges.in_summed):  # noqa: B905
            for k in range(groups[0], groups[1]):
                torch.bmm(edges.basis_of[k], edges.in_thin[k], out=edges.in_wide[k])
            torch.mm(wide, self.bilinear, out=result)

    def gather_back(self, edges: _Edges) -> None:
        """The way back of :meth:`gather`, from ``summed`` to ``slim``, with what arrived in ``thin``."""
        for groups, wide, of_result in zip(edges.products, edges.wide, edges.in_summed):  # noqa: B905
            torch.mm(of_result, self.bilinear_back, out=wide)
            for k in range(groups[0], groups[1]):
                of_gathered, near, of_matrix = edges.in_wide[k], edges.turned_thin[k], edges.of_basis_of[k]
                torch.bmm(edges.turned[k], of_gathered, out=edges.in_slim[k])
                if self.last:
                    torch.bmm(of_gathered, near, out=of_matrix)
                else:
                    of_matrix.baddbmm_(of_gathered, near)

    def gather_by_degree(self, edges: _Edges) -> None:
        """What :meth:`gather` does, with sums of each degree; these are kept."""
        thin = edges.thin
        sums = thin.new_empty(thin.size(0), edges.legendre.size(0), thin.size(1))
        edges.saved.append(sums)
        totals = sums.split(edges.sizes)
        for groups, wide, result in zip(edges.products, edges.wide, edges.in_summed):  # noqa: B905
            for k in range(groups[0], groups[1]):
                near, total = edges.in_thin[k], totals[k]
                torch.bmm(edges.basis_of[k], near, out=total.view(near.size(0), -1, near.size(2)))
                torch.bmm(edges.weighted[k], total, out=edges.in_wide[k])
            torch.mm(wide, self.bilinear, out=result)

    def gather_by_degree_back(self, sums: Tensor, edges: _Edges) -> None:
        """The way back of :meth:`gather_by_degree`; uses up what this kept."""
        totals = sums.split(edges.sizes)
        for groups, wide, of_result in zip(edges.products, edges.wide, edges.in_summed):  # noqa: B905
            torch.mm(of_result, self.bilinear_back, out=wide)
            for k in range(groups[0], groups[1]):
                near, of_gathered, total = edges.turned_thin[k], edges.in_wide[k], totals[k]
                of_weighted, of_matrix = edges.of_weighted_of[k], edges.of_basis_of[k]
                if self.last:
                    torch.bmm(of_gathered, total.transpose(1, 2), out=of_weighted)
                else:
                    of_weighted.baddbmm_(of_gathered, total.transpose(1, 2))
                torch.bmm(edges.weighted[k].transpose(1, 2), of_gathered, out=total)
                of_total = total.view(near.size(0), -1, near.size(1))
                torch.bmm(edges.turned[k], of_total, out=edges.in_slim[k])
                if self.last:
                    torch.bmm(of_total, near, out=of_matrix)
                else:
                    of_matrix.baddbmm_(of_total, near)

    def mix(self, x: Tensor, message: Tensor, total: Tensor, edges: _Edges) -> None:
        """Messages x (e, edge) up to the atom update, in place; their sums are added to ``total`` (A, edge)."""
        arrived = torch.index_select(edges.sent, 0, edges.opposite, out=edges.room)
        x.add_(arrived, alpha=math.sqrt(0.5))
        for layer in self.before:
            layer(x, edges.saved, edges.room, edges.more)
        x.add_(message, alpha=self.skip)
        for layer in self.after:
            layer(x, edges.saved, edges.room, edges.more)
        edges.saved.append(x)
        self.sums(x, total, edges)

    def mix_back(self, of_total: Tensor, edges: _Edges) -> Tensor:
        """The way back of :meth:`mix`: the gradient of x in place, and that of the message."""
        of_x, x = edges.here, edges.saved.pop()
        self.sums.back(of_x, x, of_total, edges)
        for layer in self.after_back:
            layer.back(of_x, edges.saved, edges.room, edges.more)  # type: ignore[operator]
        of_message = torch.mul(of_x, self.skip_back, out=x)
        for layer in self.before_back:
            layer.back(of_x, edges.saved, edges.room, edges.more)  # type: ignore[operator]
        return of_message

    def update(self, atoms: Tensor, total: Tensor, saved: list[Tensor]) -> Tensor:
        """Atom features (A, atom) from those before and the sums over messages."""
        x = torch.mm(total, self.atom_dense)
        saved.append(self.silu(x))
        room, more = torch.empty_like(x), torch.empty_like(x)
        for layer in self.atoms:
            layer(x, saved, room, more)
        return x.add_(atoms, alpha=self.atom_skip)

    def update_back(self, of_atoms: Tensor, saved: list[Tensor]) -> tuple[Tensor, Tensor]:
        """The way back of :meth:`update`; changes ``of_atoms``."""
        before = of_atoms * self.atom_skip_back
        room, more = torch.empty_like(before), torch.empty_like(before)
        for layer in self.atoms_back:
            layer.back(of_atoms, saved, room, more)  # type: ignore[operator]
        return before, torch.mm(through(of_atoms, saved.pop(), of_atoms), self.atom_dense_back)

    def result(self, x: Tensor, ends: Tensor, edges: _Edges) -> Tensor:
        """Messages (e, edge) after the block, from what atoms give as ends of edges (2 A, edge)."""
        y = torch.mm(x, self.concat)
        y.add_(torch.index_select(ends, 0, edges.as_centre, out=edges.room))
        y.add_(torch.index_select(ends, 0, edges.as_neighbour, out=edges.room))
        edges.saved.append(self.silu(y))
        for layer in self.concats:
            layer(y, edges.saved, edges.room, edges.more)
        return y.add_(x, alpha=self.result_skip)

    def result_back(self, of_message: Tensor, of_end: Tensor, edges: _Edges) -> None:
        """The way back of :meth:`result`, to the gradient of x in ``here``; uses up what it is given."""
        of_x = torch.mul(of_message, self.result_skip_back, out=edges.here)
        for layer in self.concats_back:
            layer.back(of_message, edges.saved, edges.room, edges.more)  # type: ignore[operator]
        of_h = through(of_message, edges.saved.pop(), of_message)
        of_end.index_add_(0, edges.as_centre, of_h)
        of_end.index_add_(0, edges.as_neighbour, of_h)
        of_x.addmm_(of_h, self.concat_back)


def _head_filters(network: GemNetT, number: int) -> Tensor:
    """Filters (radial, edge) of messages for one of the output blocks."""
    filters = network.project_output @ network.filter_output[number]
    return filters * (network.message_scale * network.scale_output[number])


class FastGemNet(nn.Module):
    """GemNet-T without a graph.

    Args:
        network: with its weights.
    """

    embedding: Tensor
    ends: Tensor
    edge_dense: Tensor
    edge_dense_back: Tensor
    circular: Tensor
    circular_back: Tensor

    def __init__(self, network: GemNetT) -> None:
        super().__init__()
        # Nothing asks for the gradient of weights, which would record every operation.
        self.network = copy.deepcopy(network).requires_grad_(requires_grad=False)
        blocks = [_Interaction(network, k) for k in range(network.blocks)]
        # TorchScript goes through modules in one direction only.
        self.interactions, self.backwards = nn.ModuleList(blocks), nn.ModuleList(reversed(blocks))
        self.heads, self.first_head = _Heads(network), _Sums(_head_filters(network, 0))
        self.first_scale = 1.0 / (0.6 * network.message_scale)
        elements, weights = network.embedding.weight.detach(), network.edge_dense.detach()
        atom = elements.size(1)
        self.register_buffer("embedding", elements / network.atom_scale)
        at_neighbour, at_centre = weights[: 2 * atom].chunk(2)
        self.register_buffer("ends", 0.5 * elements @ torch.cat([at_centre, at_neighbour], dim=1))
        register_half(self, "edge_dense", weights[2 * atom :], self.first_scale)
        self.silu = Silu(self.edge_dense)
        circular = network.circular * network.norms.to(network.circular.dtype)
        register(self, "circular", circular.permute(1, 2, 0).reshape(network.radial, -1))
        self.circular_width, self.degrees = network.circular_width, network.spherical
        self.edge, self.triplet = blocks[0].down.size(0), blocks[0].down.size(1)
        self.widths = [self.edge, self.edge, self.triplet, self.triplet, blocks[0].there.size(0)]
        self.shortest = 0.0
        self.block_edges = BLOCK_EDGES
        self.product_edges = PRODUCT_EDGES
        self.by_degree_from = BY_DEGREE_FROM

    def forward(
        self, atomic_numbers: Tensor, pair_vectors: Tensor, pair_index: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Energies (n_atoms,), and their sum's gradient with respect to the pair vectors (n_pairs, 3)."""
        if pair_vectors.size(0) == 0:
            topology = self.network.topology(atomic_numbers, pair_index)
            return self.network.atomic_energies(pair_vectors, topology), pair_vectors
        if pair_vectors.is_cuda:
            # A GPU has no use for atoms that take turns.
            vectors = pair_vectors.detach().requires_grad_()
            topology = self.network.topology(atomic_numbers, pair_index)
            energies = self.network.atomic_energies(vectors, topology)
            gradient = torch.autograd.grad([energies.sum()], [vectors])[0]
            assert gradient is not None
            return energies.detach(), gradient
        return self.by_hand(atomic_numbers, pair_vectors, pair_index)

    def by_hand(
        self, atomic_numbers: Tensor, pair_vectors: Tensor, pair_index: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What :meth:`forward` returns, of a pair at least."""
        # Frozen TorchScript drops detach: what shall not be recorded has to stand where nothing is.
        with torch.no_grad():
            n_atoms = atomic_numbers.size(0)
            layout = edges_in_blocks(pair_index, n_atoms, self.circular, self.block_edges)
            # At least what torch.nn.functional.normalize takes.
            lengths = torch.linalg.vector_norm(pair_vectors, dim=1, keepdim=True).clamp(min=1e-12)
            units = pair_vectors / lengths
            scaled = lengths * (1.0 / self.network.cutoff)
            gaussians = gaussian_basis(scaled.squeeze(1), self.network.centres, self.network.gamma)
            basis = gaussians * polynomial_envelope(scaled, self.network.power)
            energies, of_basis, of_units = self.of_edges(atomic_numbers, basis, units, layout)
            of_basis = torch.zeros_like(basis).index_add_(0, layout.pair, of_basis)
            of_units = torch.zeros_like(units).index_add_(0, layout.pair, of_units)
            # The envelope's slope is - p (p + 1) (p + 2) / 2 x^(p - 1) (1 - x)^2.
            p = float(self.network.power)
            x = scaled.clamp(max=1.0)
            slope = (1.0 - x).square() * (-0.5 * p * (p + 1.0) * (p + 2.0))
            for _ in range(self.network.power - 1):
                slope = slope * x
            away = (self.network.centres - scaled) * (2.0 * self.network.gamma)
            of_scaled = torch.addcmul(gaussians * slope, away, basis).mul_(of_basis).sum(1, keepdim=True)
            along = (units * of_units).sum(1, keepdim=True)
            # Of the unit vector only what is across it.
            across = torch.addcmul(of_units, units, along, value=-1.0) / lengths
            gradient = torch.addcmul(across, units, of_scaled, value=1.0 / self.network.cutoff)
            return energies, gradient

    def of_edges(
        self, species: Tensor, basis: Tensor, units: Tensor, layout: Layout
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Energies from radial basis (n_pairs, radial) and directions (n_pairs, 3) of pairs, and gradients at edges.

        Returns:
            energies (A,), and what each edge adds to the gradients of its pair, (E, radial) and (E, 3).
        """
        basis = basis.index_select(0, layout.pair)
        of_basis, of_units = torch.zeros_like(basis), units.new_empty(basis.size(0), 3)
        directions = units.index_select(0, layout.pair).mul_(layout.sign)
        blocks = self.blocks(basis, of_basis, directions, layout)
        n_atoms, n_heads = species.size(0), len(self.interactions) + 1
        # Of all heads, of the atom updates, and on the way back of both ends of edges.
        zeros = basis.new_zeros(4 * n_heads - 3, n_atoms, self.edge)
        totals = zeros.narrow(0, 0, n_heads)
        sums = list(zeros.unbind(0))
        of_ends = list(zeros[2 * n_heads - 1 :].view(n_heads - 1, 2 * n_atoms, self.edge).unbind(0))
        atoms, message = self.embed(species, blocks)
        messages = [message]
        for part, edges in zip(message, blocks):  # noqa: B905 - TorchScript has no strict zip
            self.first_head(part, sums[0], edges)
        # Of the layers of atoms what each block of edges has in a list of its own.
        saved: list[Tensor] = []
        for k, interaction in enumerate(self.interactions):
            message, atoms = interaction(message, atoms, blocks, saved, [sums[k + 1], sums[n_heads + k]])
            messages.append(message)
        energies, gradient = self.heads(totals)
        of_sums = gradient.unbind(0)
        of_atoms = torch.zeros_like(atoms)
        of_message = [torch.zeros_like(part) for part in message]
        for k, interaction in enumerate(self.backwards):
            of_message, of_atoms = interaction.back(  # type: ignore[operator]
                of_sums[n_heads - 1 - k], of_message, messages.pop(), of_atoms, blocks, saved, of_ends
            )
        message = messages.pop()
        begin = 0
        for of_part, part, edges in zip(of_message, message, blocks):  # noqa: B905
            self.first_head.back(of_part, part, of_sums[0], edges)
            edges.of_basis.t().addmm_(through(of_part, edges.saved.pop(), of_part), self.edge_dense_back)
            self.circular_basis_back(edges, of_units.narrow(0, begin, edges.basis.size(0)))
            begin += edges.basis.size(0)
        return energies, of_basis, of_units.mul_(layout.sign)

    def embed(self, species: Tensor, blocks: list[_Edges]) -> tuple[Tensor, list[Tensor]]:
        """Atom features (A, atom) and messages (e, edge) of each block before the first interaction."""
        rows = species - 1
        ends = self.ends.index_select(0, rows).view(2 * rows.size(0), -1)
        messages: list[Tensor] = []
        for edges in blocks:
            message = torch.mm(edges.basis, self.edge_dense)
            message.add_(torch.index_select(ends, 0, edges.as_centre, out=edges.room))
            message.add_(torch.index_select(ends, 0, edges.as_neighbour, out=edges.room))
            edges.saved.append(self.silu(message))
            messages.append(message.mul_(self.first_scale))
        return self.embedding.index_select(0, rows), messages

    def blocks(self, basis: Tensor, of_basis: Tensor, directions: Tensor, layout: Layout) -> list[_Edges]:
        """All edges in their blocks, and their circular basis."""
        sizes: list[int] = []
        tables: list[int] = []
        products: list[list[list[int]]] = []
        widest = 0
        for groups in layout.blocks:
            size, table = 0, 0
            for group in groups:
                size += group[0] * group[1]
                table += group[0] * group[1] * group[1]
            sizes.append(size)
            tables.append(table)
            products.append(in_products(groups, self.product_edges))
            for shared in products[-1]:
                widest = max(widest, shared[2])
        largest = max(sizes)
        rooms = [basis.new_empty(largest, width) for width in self.widths]
        wide = basis.new_empty(widest, self.circular_width * self.triplet)
        sent = basis.new_empty(basis.size(0), self.edge)
        blocks: list[_Edges] = []
        begin = 0
        tensors = [basis, of_basis, directions, layout.centre, 2 * layout.centre, 2 * layout.neighbour + 1]
        tensors += [layout.opposite, sent]
        for k, size in enumerate(sizes):
            here = [tensor.narrow(0, begin, size) for tensor in tensors]
            here += [room.narrow(0, 0, size) for room in rooms]
            blocks.append(self.block(layout.blocks[k], products[k], tables[k], here, wide, sent))
            begin += size
        return blocks

    def block(
        self,
        groups: list[list[int]],
        products: list[list[int]],
        n_table: int,
        here: list[Tensor],
        wide: Tensor,
        sent: Tensor,
    ) -> _Edges:
        """One of them, of these groups, with its part of what :meth:`blocks` has."""
        basis, units = here[0], here[2]
        degrees, width = self.degrees, self.circular_width
        sizes = [group[0] * group[1] for group in groups]
        numbers = [group[0] * group[1] * group[1] for group in groups]
        weighted = torch.mm(basis, self.circular)
        of_weighted = torch.empty_like(weighted)
        legendre = basis.new_empty(max(degrees, 2), n_table)
        by_degree = groups[0][1] >= self.by_degree_from
        n = degrees if by_degree else width
        own_table, of_table = basis.new_empty(n_table * n), basis.new_empty(n_table * n)
        saved: list[Tensor] = []
        edges = _Edges(
            basis,
            here[1].t(),
            here[3],
            here[4],
            here[5],
            here[6],
            of_weighted,
            legendre.narrow(0, 0, degrees),
            sizes,
            numbers,
            saved[:0],
            list(weighted.view(-1, width, degrees).split(sizes)),
            list(of_weighted.view(-1, width, degrees).split(sizes)),
            by_degree,
            saved[:0],
            saved[:0],
            saved[:0],
            saved,
            here[8],
            here[9],
            here[10],
            here[11],
            here[12],
            saved[:0],
            saved[:0],
            saved[:0],
            products,
            [wide.narrow(0, 0, product[2]) for product in products],
            list(here[12].split([product[2] for product in products])),
            saved[:0],
            sent,
            here[7],
        )
        cosines, of_units = legendre[1].split(numbers), units.split(sizes)
        in_thin, in_slim = edges.thin.split(sizes), edges.slim.split(sizes)
        product, begin = 0, 0
        for k, group in enumerate(groups):
            atoms, most = group[0], group[1]
            if k == products[product][1]:
                product, begin = product + 1, 0
            directions = of_units[k].view(atoms, most, 3)
            edges.directions.append(directions)
            torch.bmm(directions, directions.transpose(1, 2), out=cosines[k].view(atoms, most, most))
            near = in_thin[k].view(atoms, most, -1)
            edges.in_thin.append(near)
            edges.turned_thin.append(near.transpose(1, 2))
            edges.in_slim.append(in_slim[k].view(atoms, most, -1))
            shape = (atoms * most, width, -1) if by_degree else (atoms, most * width, -1)
            edges.in_wide.append(wide.narrow(0, begin, atoms * most).view(shape))
            begin += atoms * most
        self.polynomials(legendre)
        of_legendre = edges.legendre.split(numbers, 1)
        lengths = [number * n for number in numbers]
        tables, of_tables = own_table.split(lengths), of_table.split(lengths)
        for k, group in enumerate(groups):
            atoms, most = group[0], group[1]
            own = of_legendre[k].view(degrees, atoms, most, most)
            # An edge with itself is no triplet.
            own.diagonal(0, 2, 3).zero_()
            polynomials, matrix = own.view(degrees, -1, most).transpose(0, 1), tables[k].view(-1, n, most)
            if by_degree:
                matrix.copy_(polynomials)
            else:
                torch.bmm(edges.weighted[k], polynomials, out=matrix)
            matrix = matrix.view(atoms, -1, most)
            edges.basis_of.append(matrix)
            edges.turned.append(matrix.transpose(1, 2))
            edges.of_basis_of.append(of_tables[k].view(atoms, -1, most))
        return edges

    def polynomials(self, values: Tensor) -> None:
        """Legendre polynomials (degrees, n), by Bonnet's recursion from the cosines that stand in the second row."""
        rows = values.unbind(0)
        rows[0].fill_(1.0)
        for degree in range(1, len(rows) - 1):
            factor = (2.0 * degree + 1.0) / (degree + 1.0)
            row = torch.mul(rows[1], rows[degree], out=rows[degree + 1]).mul_(factor)
            row.sub_(rows[degree - 1], alpha=degree / (degree + 1.0))

    def circular_basis_back(self, edges: _Edges, of_units: Tensor) -> None:
        """Gradient (e, 3) of directions; that of the radial basis is added to the edges' own."""
        values = edges.legendre
        of_polynomials = torch.empty_like(values.narrow(0, 1, self.degrees - 1))
        of_rows, rows = of_polynomials.split(edges.numbers, 1), values.split(edges.numbers, 1)
        for k, directions in enumerate(edges.directions):
            most = directions.size(1)
            by_edge = edges.of_basis_of[k].view(edges.sizes[k], -1, most)
            of_row = of_rows[k].view(self.degrees - 1, -1, most).transpose(0, 1)
            if edges.by_degree:
                of_row.copy_(by_edge.narrow(1, 1, self.degrees - 1))
            else:
                polynomials = rows[k].view(self.degrees, -1, most).permute(1, 2, 0)
                torch.bmm(by_edge, polynomials, out=edges.of_weighted_of[k])
                weighted = edges.weighted[k].narrow(2, 1, self.degrees - 1)
                of_row.copy_(torch.bmm(weighted.transpose(1, 2), by_edge))
        of_cosines = cosines_back(list(of_polynomials.unbind(0)), list(values.unbind(0))).split(edges.numbers)
        results = of_units.split(edges.sizes)
        for k, directions in enumerate(edges.directions):
            table = of_cosines[k].view(-1, directions.size(1), directions.size(1))
            torch.bmm(table + table.transpose(1, 2), directions, out=results[k].view_as(directions))
        edges.of_basis.t().addmm_(edges.of_weighted, self.circular_back)
