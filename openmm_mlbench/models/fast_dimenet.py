"""DimeNet's energy and gradient for a processor: gradients written out by hand, edges in blocks.

Autograd keeps every tensor of every edge, and writes each gradient into one of its own.  Here edges are taken in
blocks of whole atoms that stay in the processor's cache; the slope of each activation is kept, and the
spherical basis of each triplet; most of the rest is made again on the way back.  Atoms with equally many edges are next to
each other, so that sums over their triplets are a batch of equal matrices.  The bases of the distance are tables.
Only angles at the receiver are differentiated by autograd.
"""

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn

from openmm_mlbench.models.bases import legendre_polynomials
from openmm_mlbench.models.cutoffs import polynomial_envelope
from openmm_mlbench.models.dimenet import DimeNet, Interaction, Residual
from openmm_mlbench.models.fast_edges import (
    Layout,
    Silu,
    cosines_back,
    edges_in_blocks,
    in_products,
    joined,
    register,
    register_half,
    through,
)
from openmm_mlbench.models.fast_nequip import optional
from openmm_mlbench.models.radial_tables import TOLERANCE, RadialTables, read_table, tabulate

# Edges that are taken together, unless one atom has more.
BLOCK_EDGES = 900
# Triplets of a block up to which the spherical bases of all interactions are made at once: fewer operations, which need
# a copy of it all that has to stay in the cache.
AT_ONCE_TRIPLETS = 10_000
# Edges from which on groups of atoms get a product with the bilinear layer's weights for themselves; in blocks of more
# triplets than that all share one.
PRODUCT_EDGES = 96


class _Triplets(NamedTuple):
    """Of a group of a atoms with K edges each what sums over triplets need."""

    size: int  # a * K
    number: int  # a * K * K
    legendre: Tensor  # (a * K, K, degrees), P_l of the angle between two edges, 0 where that is no triplet
    parts: list[Tensor]  # of each interaction (a * K, degrees, bilinear), radial part of the spherical basis
    basis: list[Tensor]  # of each (a * K, K, bilinear), both multiplied, and on the way back the gradient
    filters: list[Tensor]  # the same (a, K, K * bilinear)
    filters_back: list[Tensor]  # the same (a, K * bilinear, K)
    near: Tensor  # (a, K, hidden), what arrives
    of_near: Tensor  # its gradient
    gathered: Tensor  # (a, K * bilinear, hidden), sums over what arrives
    turned: Tensor  # the same (a, hidden, K * bilinear)


class _Edges(NamedTuple):
    """The e edges of some atoms that follow each other."""

    triplets: list[_Triplets]  # of each group of atoms
    radial: Tensor  # (e, radial)
    of_radial: Tensor  # its gradient, which grows
    legendre: Tensor  # (t, degrees), of the angles of all groups
    at_once: bool  # the next is there before the first interaction
    basis: list[Tensor]  # of each interaction (t, bilinear), of all groups
    of_basis: Tensor  # (t, blocks * bilinear), room for those of all, or their gradients
    parts_back: Tensor  # (e, blocks * bilinear, degrees)
    centre: Tensor  # (e,)
    neighbour: Tensor  # (e,)
    opposite: Tensor  # (e,), among all edges
    saved: list[Tensor]  # what the way back needs, in the order of the way there
    # Room for what is not kept, shared by all blocks: new memory would come from outside the cache.
    room: Tensor  # (e, hidden)
    more: Tensor  # (e, hidden)
    filtered: Tensor  # (e, hidden)
    # Sums over triplets, of groups that share a product of n edges in the same place: these stay in the cache.
    products: list[list[int]]  # see in_products
    sizes: list[int]  # n of each
    wide: list[Tensor]  # of each (n, bilinear * hidden)


class _Dense(nn.Module):
    """Half of W x + b, as :class:`Silu` takes it.

    Args:
        weight: (n_out, n_in).
        bias: (n_out,).
    """

    weight: Tensor
    weight_back: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        register_half(self, "weight", weight.t())
        self.register_buffer("bias", 0.5 * bias.detach())
        self.silu = Silu(self.weight)

    def forward(self, x: Tensor, result: Tensor, edges: _Edges) -> Tensor:
        """silu(W x + b) (e, n_out) of x (e, n_in), in ``result``; what the way back needs is kept."""
        torch.mm(x, self.weight, out=result).add_(self.bias)
        edges.saved.append(self.silu(result))
        return result


class _Residual(nn.Module):
    """x + silu(W_2 silu(W_1 x)), and the way back."""

    def __init__(self, layer: Residual) -> None:
        super().__init__()
        self.first = _Dense(layer.dense_1.weight, layer.dense_1.bias)
        self.second = _Dense(layer.dense_2.weight, layer.dense_2.bias)

    def forward(self, x: Tensor, edges: _Edges) -> None:
        """(e, width), changed in place."""
        x.add_(self.second(self.first(x, edges.room, edges), edges.more, edges))

    @torch.jit.export
    def back(self, of_x: Tensor, edges: _Edges) -> None:
        """From the gradient (e, width) of the output to that of the input, in place."""
        of_h = through(of_x, edges.saved.pop(), edges.more)
        of_y = torch.mm(of_h, self.second.weight_back, out=edges.room)
        of_x.addmm_(through(of_y, edges.saved.pop(), of_y), self.first.weight_back)


class _Sums(nn.Module):
    """Sums of filtered messages over the edges of each atom, for an output block.

    Args:
        filters: (radial, hidden), from the radial basis.
    """

    filters: Tensor
    filters_back: Tensor

    def __init__(self, filters: Tensor) -> None:
        super().__init__()
        register(self, "filters", filters)

    def forward(self, messages: list[Tensor], blocks: list[_Edges], total: Tensor) -> None:
        """Messages (e, hidden) of each block added to the sums (A, hidden)."""
        for message, edges in zip(messages, blocks):  # noqa: B905 - TorchScript has no strict zip
            filters = torch.mm(edges.radial, self.filters, out=edges.room)
            total.index_add_(0, edges.centre, filters.mul_(message))

    @torch.jit.export
    def back(
        self, of_total: Tensor, of_messages: list[Tensor], messages: list[Tensor], blocks: list[_Edges]
    ) -> None:
        """The way back, added to ``of_messages``."""
        for of_message, message, edges in zip(of_messages, messages, blocks):  # noqa: B905
            at_centre = torch.index_select(of_total, 0, edges.centre, out=edges.room)
            of_message.addcmul_(at_centre, torch.mm(edges.radial, self.filters, out=edges.more))
            edges.of_radial.addmm_(at_centre.mul_(message), self.filters_back)


class _Layer(nn.Module):
    """A dense layer of all output blocks, half of it as :class:`Silu` takes it.

    Args:
        weight: (blocks + 1, hidden, hidden).
        bias: (blocks + 1, 1, hidden).
    """

    weight: Tensor
    weight_back: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        register_half(self, "weight", weight)
        self.register_buffer("bias", 0.5 * bias.detach())
        self.silu = Silu(self.weight)


class _ReadOut(nn.Module):
    """All output blocks: of the sums of messages dense layers and a linear output."""

    last: Tensor
    last_back: Tensor

    def __init__(self, network: DimeNet) -> None:
        super().__init__()
        register(self, "last", network.output_last)
        weights, biases = network.output_weight, network.output_bias
        layers = [_Layer(weights[k], biases[k]) for k in range(network.output_layers)]
        # TorchScript goes through modules in one direction only.
        self.layers, self.layers_back = nn.ModuleList(layers), nn.ModuleList(reversed(layers))

    def forward(self, totals: Tensor) -> tuple[Tensor, Tensor]:
        """Energies (A,) of sums (blocks + 1, A, hidden) of messages, and the gradient of these."""
        saved: list[Tensor] = []
        y = totals
        for layer in self.layers:
            y = torch.bmm(y, layer.weight).add_(layer.bias)  # type: ignore[arg-type]
            saved.append(layer.silu(y))  # type: ignore[operator]
        energies = torch.bmm(y, self.last).sum(0).squeeze(1)
        of_y = self.last_back.expand(-1, totals.size(1), -1)
        for layer in self.layers_back:
            slope = saved.pop()
            of_y = torch.bmm(through(of_y, slope, slope), layer.weight_back)  # type: ignore[arg-type]
        return energies, of_y


class _Interaction(nn.Module):
    """One interaction block on a block of edges, and its way back; what is kept stands in ``saved``.

    Args:
        network: with its weights.
        number: of the interaction block.
    """

    filter: Tensor
    filter_back: Tensor
    bilinear: Tensor
    bilinear_back: Tensor

    def __init__(self, network: DimeNet, number: int) -> None:
        super().__init__()
        block = network.interactions[number]
        assert isinstance(block, Interaction)
        self.number = number
        own, arriving = block.dense.weight.chunk(2)
        own_bias, arriving_bias = block.dense.bias.chunk(2)
        self.own, self.arriving = _Dense(own, own_bias), _Dense(arriving, arriving_bias)
        self.skip = _Dense(block.dense_skip.weight, block.dense_skip.bias)
        register(self, "filter", network.radial_weight[number])
        self.sums = _Sums(network.radial_weight[network.blocks + 1 + number])
        register(self, "bilinear", block.bilinear)
        before = [_Residual(layer) for layer in block.before_skip]  # type: ignore[arg-type]
        after = [_Residual(layer) for layer in block.after_skip]  # type: ignore[arg-type]
        # TorchScript goes through modules in one direction only.
        self.before, self.before_back = nn.ModuleList(before), nn.ModuleList(reversed(before))
        self.after, self.after_back = nn.ModuleList(after), nn.ModuleList(reversed(after))

    def forward(self, messages: list[Tensor], blocks: list[_Edges], sent: list[Tensor]) -> list[Tensor]:
        """Messages (e, hidden) of each block after one round, with room for as much; see :class:`Interaction`."""
        results: list[Tensor] = []
        for message, edges, part in zip(messages, blocks, sent[1:]):  # noqa: B905 - TorchScript has no strict zip
            results.append(self.send(message, edges, part))
        for x, message, edges in zip(results, messages, blocks):  # noqa: B905
            self.mix(x, sent[0], message, edges)
        return results

    @torch.jit.export
    def back(
        self,
        of_sum: Tensor,
        of_results: list[Tensor],
        results: list[Tensor],
        blocks: list[_Edges],
        of_sent: list[Tensor],
    ) -> list[Tensor]:
        """The way back of :meth:`forward`, and of the sums of its results; uses up what it is given."""
        self.sums.back(of_sum, of_results, results, blocks)
        for of_result, edges, of_own in zip(of_results, blocks, of_sent[1:]):  # noqa: B905
            self.mix_back(of_result, edges, of_own)
        for of_message, edges, of_own in zip(of_results, blocks, of_sent[1:]):  # noqa: B905
            self.send_back(of_message, of_own, of_sent[0], edges)
        return of_results

    def send(self, message: Tensor, edges: _Edges, sent: Tensor) -> Tensor:
        """Of the edges (e, hidden): what stays with them, and in ``sent`` what goes to the opposite ones."""
        arriving = self.arriving(message, torch.empty_like(message), edges)
        edges.saved.append(arriving)
        filters = torch.mm(edges.radial, self.filter, out=edges.room)
        torch.mul(arriving, filters, out=edges.filtered)
        for groups, wide, result in zip(edges.products, edges.wide, sent.split(edges.sizes)):  # noqa: B905
            for group in edges.triplets[groups[0] : groups[1]]:
                if not edges.at_once:
                    torch.bmm(group.legendre, group.parts[self.number], out=group.basis[self.number])
                torch.bmm(group.filters_back[self.number], group.near, out=group.gathered)
            torch.mm(wide, self.bilinear, out=result)
        return self.own(message, torch.empty_like(message), edges)

    def send_back(self, of_message: Tensor, of_own: Tensor, of_sent: Tensor, edges: _Edges) -> None:
        """The way back of :meth:`send`, added to ``of_message``; ``of_sent`` (E, hidden) stands at the opposite edges."""
        # Other blocks have yet to read of_own.
        of_message.addmm_(through(of_own, edges.saved.pop(), edges.room), self.own.weight_back)
        of_away = torch.index_select(of_sent, 0, edges.opposite, out=edges.more)
        arriving = edges.saved.pop()
        filters = torch.mm(edges.radial, self.filter, out=edges.room)
        torch.mul(arriving, filters, out=edges.filtered)
        for groups, wide, of_result in zip(edges.products, edges.wide, of_away.split(edges.sizes)):  # noqa: B905
            torch.mm(of_result, self.bilinear_back, out=wide)
            # From here on the gradient of what arrives stands where that of the result did.
            for group in edges.triplets[groups[0] : groups[1]]:
                torch.bmm(group.filters[self.number], group.gathered, out=group.of_near)
                torch.bmm(group.near, group.turned, out=group.filters[self.number])
        of_filtered = edges.more
        edges.of_radial.addmm_(arriving.mul_(of_filtered), self.filter_back)
        of_arriving = of_filtered.mul_(filters)
        of_message.addmm_(through(of_arriving, edges.saved.pop(), of_arriving), self.arriving.weight_back)

    def mix(self, x: Tensor, sent: Tensor, message: Tensor, edges: _Edges) -> None:
        """From what stays with the edges (e, hidden) and what arrives (E, hidden) to the result, in place of x."""
        x.add_(torch.index_select(sent, 0, edges.opposite, out=edges.room))
        for layer in self.before:
            layer(x, edges)
        torch.add(self.skip(x, edges.room, edges), message, out=x)
        for layer in self.after:
            layer(x, edges)

    def mix_back(self, of_x: Tensor, edges: _Edges, of_own: Tensor) -> None:
        """The way back of :meth:`mix`: that of what stays and arrives in ``of_own``, of the message in place of ``of_x``."""
        for layer in self.after_back:
            layer.back(of_x, edges)  # type: ignore[operator]
        of_h = through(of_x, edges.saved.pop(), edges.room)
        torch.mm(of_h, self.skip.weight_back, out=of_own)
        for layer in self.before_back:
            layer.back(of_own, edges)  # type: ignore[operator]


class FastDimeNet(nn.Module):
    """DimeNet without a graph of its messages.

    Args:
        network: with its weights.
    """

    at_centre: Tensor
    at_neighbour: Tensor
    third: Tensor
    third_back: Tensor
    angular: Tensor
    angular_back: Tensor
    values_and_slopes: Tensor

    def __init__(self, network: DimeNet) -> None:
        super().__init__()
        # Nothing asks for the gradient of weights, which would record every operation.
        self.network = copy.deepcopy(network).requires_grad_(requires_grad=False)
        blocks = [_Interaction(network, k) for k in range(network.blocks)]
        # TorchScript goes through modules in one direction only.
        self.interactions, self.backwards = nn.ModuleList(blocks), nn.ModuleList(reversed(blocks))
        first, second, third = network.embedding_dense.weight.chunk(3, dim=1)
        elements, bias = network.embedding.weight.detach(), network.embedding_dense.bias.detach()
        # Of all elements; half of it all, as Silu takes it.
        self.register_buffer("at_centre", 0.5 * (elements @ first.detach().t() + bias))
        self.register_buffer("at_neighbour", 0.5 * elements @ second.detach().t())
        self.first = _Dense(network.embedding_radial.weight, network.embedding_radial.bias)
        register_half(self, "third", third.t())
        self.silu = Silu(self.third)
        self.first_sums = _Sums(network.radial_weight[network.blocks])
        self.read_out = _ReadOut(network)
        # Of all interaction blocks.
        register(self, "angular", network.spherical_weight * network.norms.to(network.spherical_weight.dtype))
        self.shortest = 0.0
        self.block_edges = BLOCK_EDGES
        self.product_edges = PRODUCT_EDGES
        self.at_once_triplets = AT_ONCE_TRIPLETS
        exact = copy.deepcopy(network).double()

        def times_distance(distances: Tensor) -> Tensor:
            scaled = distances / exact.cutoff
            bases = torch.cat(
                [torch.sin(scaled.unsqueeze(1) * exact.frequencies), exact.bessel.anywhere(scaled)], dim=1
            )
            return (bases * polynomial_envelope(scaled, exact.power).unsqueeze(1)).unsqueeze(0)

        with torch.no_grad():
            # Of the bases times the scaled distance, by which they would be infinite at 0.
            self.tables: RadialTables = tabulate(
                times_distance,
                network.cutoff,
                dtype=network.spherical_weight.dtype,
                tolerance=TOLERANCE,
                ends_at_zero=True,
            )
        # Read together.
        table = torch.cat([self.tables.values[0], self.tables.slopes[0]], dim=1)
        self.register_buffer("values_and_slopes", table)

    def forward(
        self, atomic_numbers: Tensor, pair_vectors: Tensor, pair_index: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Energies (n_atoms,), and their sum's gradient with respect to the pair vectors (n_pairs, 3)."""
        network = self.network
        if pair_vectors.size(0) == 0:
            topology = network.topology(atomic_numbers, pair_index)
            return network.atomic_energies(pair_vectors, topology), pair_vectors
        if pair_vectors.is_cuda:
            # A GPU has no use for atoms that take turns.
            return self.fixed(pair_vectors, network.topology(atomic_numbers, pair_index))
        return self.by_hand(atomic_numbers, pair_vectors, pair_index)

    @torch.jit.unused
    def fixed_topology(self, atomic_numbers: Tensor, pair_index: Tensor) -> list[Tensor]:
        """Index tensors for :meth:`fixed`."""
        return self.network.topology(atomic_numbers, pair_index)

    def fixed(self, pair_vectors: Tensor, topology: list[Tensor]) -> tuple[Tensor, Tensor]:
        """What :meth:`forward` gives, by autograd but for the bases: to be traced for few pairs, and for a GPU."""
        with torch.no_grad():
            distances, bases, slopes = self.bases(pair_vectors)
        vectors = pair_vectors.detach().requires_grad_()
        bases.requires_grad_()
        energies = self.network.energies(bases, vectors, topology)
        of_bases, of_vectors = torch.autograd.grad([energies.sum()], [bases, vectors])
        assert of_bases is not None
        assert of_vectors is not None
        with torch.no_grad():
            along = (of_bases * slopes).sum(1, keepdim=True) / distances
            return energies.detach(), torch.addcmul(of_vectors, pair_vectors, along)

    def bases(self, pair_vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Distances (n_pairs, 1), what :meth:`DimeNet.bases` gives (n_pairs, all), and its slopes."""
        distances = torch.linalg.vector_norm(pair_vectors, dim=1)
        rows, weights = self.tables.places(distances)
        distances = distances.unsqueeze(1)
        read = read_table(self.values_and_slopes, rows, weights) * (self.network.cutoff / distances)
        bases, slopes = read.chunk(2, 1)
        return distances, bases, slopes - bases / distances

    def by_hand(self, species: Tensor, pair_vectors: Tensor, pair_index: Tensor) -> tuple[Tensor, Tensor]:
        """Energies (n_atoms,), and their sum's gradient with respect to the pair vectors (n_pairs, 3)."""
        # Frozen TorchScript drops detach: what shall not be recorded has to stand where nothing is.
        with torch.no_grad():
            layout = edges_in_blocks(pair_index, species.size(0), self.angular, self.block_edges)
            distances, bases, slopes = self.bases(pair_vectors)
            corners = pair_vectors.index_select(0, layout.pair) * layout.sign
            if not self.network.at_receiver:
                corners = corners / distances.index_select(0, layout.pair)
        angles: list[Tensor] = []
        arms: list[Tensor] = []
        begin = 0
        for groups in layout.blocks:
            for group in groups:
                size = group[0] * group[1]
                arm = corners.narrow(0, begin, size).view(group[0], group[1], 3)
                if self.network.at_receiver:
                    arm = arm.detach().requires_grad_()
                    apart = 1.0 - torch.eye(group[1], dtype=arm.dtype).unsqueeze(0)
                    angles.append(self.network.cosines(arm, apart))
                arms.append(arm)
                begin += size
        with torch.no_grad():
            blocks = self.blocks(layout, bases, arms, angles)
            exchanged = bases.new_empty(layout.centre.size(0), self.network.hidden)
            # The whole, then what belongs to each block.
            places = [exchanged]
            places.extend(exchanged.split([edges.centre.size(0) for edges in blocks]))
            message = self.embed(species, blocks)
            messages = [message]
            totals = bases.new_zeros(len(self.interactions) + 1, species.size(0), self.network.hidden)
            sums = totals.unbind(0)
            self.first_sums(message, blocks, sums[0])
            for k, interaction in enumerate(self.interactions):
                message = interaction(message, blocks, places)
                messages.append(message)
                interaction.sums(message, blocks, sums[k + 1])  # type: ignore[operator]
            energies, gradient = self.read_out(totals)
            of_sums = gradient.unbind(0)
            of_message = [torch.zeros_like(part) for part in message]
            for k, interaction in enumerate(self.backwards):
                of_sum = of_sums[len(of_sums) - 1 - k]
                of_message = interaction.back(of_sum, of_message, messages.pop(), blocks, places)  # type: ignore[operator]
            self.first_sums.back(of_sums[0], of_message, messages.pop(), blocks)
            self.embed_back(of_message, blocks)
            of_edges: list[Tensor] = []
            of_arms: list[Tensor] = []
            for edges in blocks:
                of_basis, of_legendre = self.triplets_back(edges)
                of_edges.append(of_basis)
                of_arms.extend(self.angles_back(of_legendre, edges, arms, angles, len(of_arms)))
            of_bases = torch.zeros_like(slopes).index_add_(0, layout.pair, joined(of_edges))
            along = of_bases.mul_(slopes).sum(1, keepdim=True) / distances
            of_corners = joined(of_arms)
            if not self.network.at_receiver:
                of_corners.sub_(corners * (of_corners * corners).sum(1, keepdim=True))
                of_corners.div_(distances.index_select(0, layout.pair))
            result = (pair_vectors * along).index_add_(0, layout.pair, of_corners.mul_(layout.sign))
        return energies, result

    def blocks(self, layout: Layout, bases: Tensor, arms: list[Tensor], angles: list[Tensor]) -> list[_Edges]:
        """All edges, with what depends on where atoms are.

        Args:
            layout: of the edges.
            bases: (n_pairs, all), of pairs.
            arms: of each group (a, K, 3), directions of its edges, or vectors where angles are at the receiver.
            angles: of each group their cosines (a, K, K), or none.
        """
        network = self.network
        hidden, width, degrees = network.hidden, network.bilinear, network.spherical
        sizes: list[int] = []
        triplets: list[int] = []
        products: list[list[list[int]]] = []
        widest = 0
        for groups in layout.blocks:
            n_edges, n_triplets = 0, 0
            for group in groups:
                n_edges += group[0] * group[1]
                n_triplets += group[0] * group[1] * group[1]
            sizes.append(n_edges)
            triplets.append(n_triplets)
            few = n_triplets <= self.at_once_triplets
            products.append(in_products(groups, self.product_edges if few else n_edges))
            for shared in products[-1]:
                widest = max(widest, shared[2])
        rooms = bases.new_empty(3, max(sizes), hidden).unbind(0)
        wide = bases.new_empty(widest, width * hidden)
        n_blocks = self.angular.size(2) // width
        basis = bases.new_empty(n_blocks, sum(triplets), width)
        of_basis = bases.new_empty(max(triplets), n_blocks * width)
        first_triplet = 0
        result: list[_Edges] = []
        begin, number = 0, 0
        for k, size in enumerate(sizes):
            own = bases.index_select(0, layout.pair.narrow(0, begin, size))
            radial = own.narrow(1, 0, network.radial).contiguous()
            spherical = own.narrow(1, network.radial, degrees * network.radial)
            spherical = spherical.reshape(size, degrees, network.radial).transpose(0, 1)
            parts = torch.bmm(spherical, self.angular).permute(1, 2, 0).contiguous()
            here = [room.narrow(0, 0, size) for room in rooms] + [wide]
            cosines = bases.new_empty(triplets[k])
            first = 0
            for group in layout.blocks[k]:
                atoms, most = group[0], group[1]
                table = cosines.narrow(0, first, atoms * most * most).view(atoms, most, most)
                if network.at_receiver:
                    table.copy_(angles[number])
                else:
                    torch.bmm(arms[number], arms[number].transpose(1, 2), out=table)
                first += atoms * most * most
                number += 1
            legendre = torch.stack(legendre_polynomials(cosines, degrees), dim=1)
            own_basis = basis.narrow(1, first_triplet, triplets[k])
            first_triplet += triplets[k]
            of_groups: list[_Triplets] = []
            first, start, product, place = 0, 0, 0, 0
            for j, group in enumerate(layout.blocks[k]):
                atoms, most = group[0], group[1]
                if j == products[k][product][1]:
                    product, place = product + 1, 0
                polynomials = legendre.narrow(0, first, atoms * most * most).view(atoms, most, most, degrees)
                # An edge with itself is no triplet.
                polynomials.diagonal(0, 1, 2).zero_()
                of_groups.append(self.triplets(group, first, start, place, legendre, own_basis, parts, here))
                first += atoms * most * most
                start += atoms * most
                place += atoms * most
            room = of_basis.narrow(0, 0, triplets[k])
            at_once = triplets[k] <= self.at_once_triplets
            if at_once:
                self.spherical_basis(of_groups, parts, room)
                own_basis.copy_(room.view(triplets[k], -1, width).transpose(0, 1))
            saved: list[Tensor] = []
            result.append(
                _Edges(
                    of_groups,
                    radial,
                    torch.zeros_like(radial),
                    legendre,
                    at_once,
                    list(own_basis.unbind(0)),
                    room,
                    parts,
                    layout.centre.narrow(0, begin, size),
                    layout.neighbour.narrow(0, begin, size),
                    layout.opposite.narrow(0, begin, size),
                    saved,
                    here[0],
                    here[1],
                    here[2],
                    products[k],
                    [shared[2] for shared in products[k]],
                    [wide.narrow(0, 0, shared[2]) for shared in products[k]],
                )
            )
            begin += size
        return result

    def spherical_basis(self, groups: list[_Triplets], parts: Tensor, result: Tensor) -> None:
        """Of all interactions (t, blocks * bilinear), from radial parts (e, blocks * bilinear, degrees)."""
        first, start = 0, 0
        for group in groups:
            own = result.narrow(0, first, group.number).view(group.size, -1, result.size(1))
            torch.bmm(group.legendre, parts.narrow(0, start, group.size).transpose(1, 2), out=own)
            first += group.number
            start += group.size

    def triplets(
        self,
        group: list[int],
        first: int,
        start: int,
        place: int,
        legendre: Tensor,
        basis: Tensor,
        parts: Tensor,
        rooms: list[Tensor],
    ) -> _Triplets:
        """Of one group of a block, its share of everything.

        Its triplets begin at ``first``, its edges at ``start``, and at ``place`` in its product.
        """
        atoms, most = group[0], group[1]
        size, width = atoms * most, self.network.bilinear
        gathered = rooms[3].narrow(0, place, size).view(atoms, most * width, -1)
        basis = basis.narrow(1, first, size * most).view(-1, size, most, width)
        filters = basis.view(-1, atoms, most, most * width)
        own = parts.narrow(0, start, size).transpose(1, 2)
        return _Triplets(
            size,
            size * most,
            legendre.narrow(0, first, size * most).view(size, most, -1),
            list(own.split(width, 2)),
            list(basis.unbind(0)),
            list(filters.unbind(0)),
            list(filters.transpose(2, 3).unbind(0)),
            rooms[2].narrow(0, start, size).view(atoms, most, -1),
            rooms[1].narrow(0, start, size).view(atoms, most, -1),
            gathered,
            gathered.transpose(1, 2),
        )

    def embed(self, species: Tensor, blocks: list[_Edges]) -> list[Tensor]:
        """Messages (e, hidden) of each block before the first interaction (eq. 10)."""
        at_centre = self.at_centre.index_select(0, species)
        at_neighbour = self.at_neighbour.index_select(0, species)
        messages: list[Tensor] = []
        for edges in blocks:
            radial = self.first(edges.radial, edges.room, edges)
            message = torch.mm(radial, self.third)
            message.add_(torch.index_select(at_centre, 0, edges.centre, out=edges.room))
            message.add_(torch.index_select(at_neighbour, 0, edges.neighbour, out=edges.room))
            edges.saved.append(self.silu(message))
            messages.append(message)
        return messages

    def embed_back(self, of_messages: list[Tensor], blocks: list[_Edges]) -> None:
        """The way back of :meth:`embed`, added to the gradient of the radial basis."""
        for of_message, edges in zip(of_messages, blocks):  # noqa: B905 - TorchScript has no strict zip
            of_h = through(of_message, edges.saved.pop(), of_message)
            of_radial = torch.mm(of_h, self.third_back, out=edges.room)
            edges.of_radial.addmm_(through(of_radial, edges.saved.pop(), of_radial), self.first.weight_back)

    def triplets_back(self, edges: _Edges) -> tuple[Tensor, Tensor]:
        """Gradients with respect to the bases (e, all) of edges and the polynomials (t, degrees)."""
        degrees = self.network.spherical
        of_basis = torch.cat(edges.basis, 1, out=edges.of_basis)
        of_legendre = torch.empty_like(edges.legendre)
        of_parts = of_basis.new_empty(edges.radial.size(0), degrees, of_basis.size(1))
        first, start = 0, 0
        for group in edges.triplets:
            size, number = group.size, group.number
            of_group = of_basis.narrow(0, first, number).view(size, -1, of_basis.size(1))
            back = edges.parts_back.narrow(0, start, size)
            torch.bmm(of_group, back, out=of_legendre.narrow(0, first, number).view(size, -1, degrees))
            torch.bmm(group.legendre.transpose(1, 2), of_group, out=of_parts.narrow(0, start, size))
            first += number
            start += size
        flat = torch.bmm(of_parts.transpose(0, 1), self.angular_back).transpose(0, 1).flatten(1)
        return torch.cat([edges.of_radial, flat], dim=1), of_legendre

    def angles_back(
        self, of_legendre: Tensor, edges: _Edges, arms: list[Tensor], angles: list[Tensor], number: int
    ) -> list[Tensor]:
        """Gradients (a * K, 3) with respect to the arms of each group; uses up that of the polynomials.

        Args:
            of_legendre: (t, degrees).
            edges: of a block.
            arms: of all groups; see :meth:`blocks`.
            angles: of all groups, or none.
            number: of the block's first group among all.
        """
        result: list[Tensor] = []
        of_cosines = cosines_back(list(of_legendre.unbind(1))[1:], list(edges.legendre.unbind(1)))
        first = 0
        for arm in arms[number : number + len(edges.triplets)]:
            most = arm.size(1)
            table = of_cosines.narrow(0, first, arm.size(0) * most * most).view(-1, most, most)
            if self.network.at_receiver:
                # TorchScript wants optional tensors here, and mypy plain ones.
                of_arm = torch.autograd.grad([angles[number]], [arm], optional([table]))[0]  # type: ignore[arg-type]
                assert of_arm is not None
            else:
                of_arm = torch.bmm(table + table.transpose(1, 2), arm)
            result.append(of_arm.view(-1, 3))
            first += table.numel()
            number += 1
        return result
