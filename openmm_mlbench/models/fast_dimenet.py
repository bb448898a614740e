"""DimeNet's energy and gradient for a processor: gradients written out by hand, edges in blocks.

Autograd keeps every tensor of every edge, and writes each gradient into one of its own.  Here edges, sorted by
their centre, are taken in blocks of whole atoms that stay in the processor's cache; what comes before each
activation is kept, and the rest made again on the way back.  Sums over the triplets of an atom are products of
matrices of just its number of edges.  Only the bases of the distance, the cosines and the output layers of atoms
are differentiated by autograd.
"""

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from openmm_mlbench.models.bases import legendre_polynomials
from openmm_mlbench.models.dimenet import DimeNet, Interaction, Residual
from openmm_mlbench.models.fast_edges import first_atoms_and_sizes, joined, of_atoms, register, through
from openmm_mlbench.models.fast_nequip import optional
from openmm_mlbench.models.triplets import into_places

# Edges that are taken together, unless one atom has more.
BLOCK_EDGES = 600


class _Layout(NamedTuple):
    """Where the e edges of some atoms that follow each other stand; K is the most edges of one of these a atoms."""

    counts: list[int]  # n, edges of each atom
    begin: int  # the first of the edges
    size: int  # e
    places: Tensor  # (a * K,), see triplets.neighbourhoods, but within the block
    slots: Tensor  # (e,)
    apart: Tensor  # (a, K, K), 1 where two places hold two edges


class _Edges(NamedTuple):
    """The e edges of some atoms that follow each other; K is the most edges of one of these a atoms."""

    counts: list[int]  # n, edges of each atom
    radial: Tensor  # (e, radial)
    of_radial: Tensor  # its gradient, which grows
    parts: list[Tensor]  # of each interaction (a * K, degrees, bilinear), radial part of the spherical basis
    of_parts: list[Tensor]  # its gradient
    legendre: Tensor  # (a * K, K, degrees), P_l of the angle between two places, 0 where that is no triplet
    of_legendre: Tensor  # its gradient, which grows
    centre: Tensor  # (e,)
    neighbour: Tensor  # (e,)
    opposite: Tensor  # (e,), among all edges
    slots: Tensor  # (e,), the place of each
    saved: list[Tensor]  # what the way back needs, in the order of the way there
    # Room for what is not kept, shared by all blocks: new memory would come from outside the cache.
    room: Tensor  # (e, hidden)
    more: Tensor  # (e, hidden)
    wide: Tensor  # (e * bilinear, hidden)
    basis: Tensor  # (a * K, K, bilinear), spherical basis of triplets times its weights
    of_basis: Tensor  # its gradient
    basis_of: list[Tensor]  # of each atom (n, n * bilinear)
    turned_of: list[Tensor]  # the same (n * bilinear, n)
    of_basis_of: list[Tensor]  # of its gradient (n, n * bilinear)


class _Dense(nn.Module):
    """W x + b, without its activation.

    Args:
        weight: (n_out, n_in).
        bias: (n_out,).
    """

    weight: Tensor
    weight_back: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        register(self, "weight", weight.t())
        self.register_buffer("bias", bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """(n, n_in) -> (n, n_out)."""
        return torch.mm(x, self.weight).add_(self.bias)


class _Residual(nn.Module):
    """x + silu(W_2 silu(W_1 x)), and the way back."""

    def __init__(self, layer: Residual) -> None:
        super().__init__()
        self.first = _Dense(layer.dense_1.weight, layer.dense_1.bias)
        self.second = _Dense(layer.dense_2.weight, layer.dense_2.bias)

    def forward(self, x: Tensor, saved: list[Tensor], room: Tensor) -> None:
        """(n, width), changed in place, with room for as much."""
        z = self.first(x)
        saved.append(z)
        z = self.second(torch.ops.aten.silu(z, out=room))
        saved.append(z)
        x.add_(torch.ops.aten.silu(z, out=room))

    @torch.jit.export
    def back(self, of_x: Tensor, saved: list[Tensor], room: Tensor) -> None:
        """From the gradient (n, width) of the output to that of the input, in place."""
        of_y = torch.mm(through(of_x, saved.pop()), self.second.weight_back, out=room)
        of_x.addmm_(through(of_y, saved.pop()), self.first.weight_back)


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
        self.width = network.bilinear
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

    def forward(self, messages: list[Tensor], blocks: list[_Edges]) -> list[Tensor]:
        """Messages (e, hidden) of each block after one round; see :class:`Interaction`."""
        results: list[Tensor] = []
        away: list[Tensor] = []
        for message, edges in zip(messages, blocks):  # noqa: B905 - TorchScript has no strict zip
            x, sent = self.send(message, edges)
            results.append(x)
            away.append(sent)
        sent = joined(away)
        for x, message, edges in zip(results, messages, blocks):  # noqa: B905
            self.mix(x, sent, message, edges)
        return results

    @torch.jit.export
    def back(
        self, of_sum: Tensor, of_results: list[Tensor], results: list[Tensor], blocks: list[_Edges]
    ) -> list[Tensor]:
        """The way back of :meth:`forward`, and of the sums of its results; uses up what it is given."""
        self.sums.back(of_sum, of_results, results, blocks)
        of_own: list[Tensor] = []
        for of_result, edges in zip(of_results, blocks):  # noqa: B905
            of_own.append(self.mix_back(of_result, edges))
        of_sent = joined(of_own)
        for of_message, of_x, edges in zip(of_results, of_own, blocks):  # noqa: B905
            self.send_back(of_message, of_x, of_sent, edges)
        return of_results

    def send(self, message: Tensor, edges: _Edges) -> tuple[Tensor, Tensor]:
        """Of the edges (e, hidden): what stays with them, and what goes to the opposite ones."""
        z = self.own(message)
        edges.saved.append(z)
        own = functional.silu(z)
        z = self.arriving(message)
        edges.saved.append(z)
        filtered = torch.mm(edges.radial, self.filter).mul_(torch.ops.aten.silu(z, out=edges.room))
        edges.saved.append(filtered)
        torch.bmm(edges.legendre, edges.parts[self.number], out=edges.basis)
        places = [self.width * n for n in edges.counts]
        for matrix, near, gathered in zip(  # noqa: B905
            edges.turned_of, filtered.split(edges.counts), edges.wide.split(places)
        ):
            torch.mm(matrix, near, out=gathered)
        return own, torch.mm(edges.wide.view(message.size(0), self.bilinear.size(0)), self.bilinear)

    def send_back(self, of_message: Tensor, of_own: Tensor, of_sent: Tensor, edges: _Edges) -> None:
        """The way back of :meth:`send`, added to ``of_message``; ``of_sent`` (E, hidden) stands at the opposite edges."""
        of_away = torch.index_select(of_sent, 0, edges.opposite, out=edges.room)
        torch.mm(of_away, self.bilinear_back, out=edges.wide.view(of_away.size(0), self.bilinear.size(0)))
        parts = edges.parts[self.number]
        torch.bmm(edges.legendre, parts, out=edges.basis)
        filtered, of_filtered = edges.saved.pop(), edges.more
        places = [self.width * n for n in edges.counts]
        for matrix, of_matrix, near, of_near, of_gathered in zip(  # noqa: B905
            edges.basis_of,
            edges.of_basis_of,
            filtered.split(edges.counts),
            of_filtered.split(edges.counts),
            edges.wide.split(places),
        ):
            torch.mm(matrix, of_gathered, out=of_near)
            torch.mm(near, of_gathered.t(), out=of_matrix)
        edges.of_legendre.baddbmm_(edges.of_basis, parts.transpose(1, 2))
        torch.bmm(edges.legendre.transpose(1, 2), edges.of_basis, out=edges.of_parts[self.number])
        z = edges.saved.pop()
        of_filters = torch.ops.aten.silu(z, out=filtered).mul_(of_filtered)
        edges.of_radial.addmm_(of_filters, self.filter_back)
        of_filtered.mul_(torch.mm(edges.radial, self.filter, out=edges.room))
        of_message.addmm_(through(of_filtered, z), self.arriving.weight_back)
        of_message.addmm_(through(of_own, edges.saved.pop()), self.own.weight_back)

    def mix(self, x: Tensor, sent: Tensor, message: Tensor, edges: _Edges) -> None:
        """From what stays with the edges (e, hidden) and what arrives (E, hidden) to the result, in place of x."""
        x.add_(torch.index_select(sent, 0, edges.opposite, out=edges.room))
        for layer in self.before:
            layer(x, edges.saved, edges.room)
        z = self.skip(x)
        edges.saved.append(z)
        torch.ops.aten.silu(z, out=x).add_(message)
        for layer in self.after:
            layer(x, edges.saved, edges.room)

    def mix_back(self, of_x: Tensor, edges: _Edges) -> Tensor:
        """The way back of :meth:`mix`: the gradient of what stays and arrives; that of the message in place of ``of_x``."""
        for layer in self.after_back:
            layer.back(of_x, edges.saved, edges.room)  # type: ignore[operator]
        of_own = torch.mm(through(of_x, edges.saved.pop()), self.skip.weight_back)
        for layer in self.before_back:
            layer.back(of_own, edges.saved, edges.room)  # type: ignore[operator]
        return of_own


class FastDimeNet(nn.Module):
    """DimeNet without a graph of its messages.

    Args:
        network: with its weights.
    """

    at_centre: Tensor
    at_neighbour: Tensor
    angular: Tensor
    angular_back: Tensor

    def __init__(self, network: DimeNet) -> None:
        super().__init__()
        # Nothing asks for the gradient of weights, which would record every operation.
        self.network = copy.deepcopy(network).requires_grad_(requires_grad=False)
        blocks = [_Interaction(network, k) for k in range(network.blocks)]
        # TorchScript goes through modules in one direction only.
        self.interactions, self.backwards = nn.ModuleList(blocks), nn.ModuleList(reversed(blocks))
        first, second, third = network.embedding_dense.weight.chunk(3, dim=1)
        register(self, "at_centre", first.t())
        register(self, "at_neighbour", second.t())
        self.first = _Dense(network.embedding_radial.weight, network.embedding_radial.bias)
        self.second = _Dense(third, network.embedding_dense.bias)
        self.first_sums = _Sums(network.radial_weight[network.blocks])
        # Of all interaction blocks.
        register(self, "angular", network.spherical_weight * network.norms.to(network.spherical_weight.dtype))
        self.shortest = 0.0
        self.block_edges = BLOCK_EDGES

    def forward(
        self, atomic_numbers: Tensor, pair_vectors: Tensor, pair_index: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Energies (n_atoms,), and their sum's gradient with respect to the pair vectors (n_pairs, 3)."""
        network = self.network
        topology = network.topology(atomic_numbers, pair_index)
        if pair_vectors.size(0) == 0:
            return network.atomic_energies(pair_vectors, topology), pair_vectors
        vectors = pair_vectors.detach().requires_grad_()
        if vectors.is_cuda:
            # A GPU has no use for atoms that take turns.
            energies = network.atomic_energies(vectors, topology)
            gradient = torch.autograd.grad([energies.sum()], [vectors])[0]
        else:
            layouts = self.layouts(atomic_numbers.size(0), topology)
            around = vectors.index_select(0, topology[3]) * topology[4]
            recorded = [network.bases(vectors)]
            sizes = [layout.size for layout in layouts]
            for near, layout in zip(around.split(sizes), layouts):  # noqa: B905
                placed = into_places(near, layout.places).view(layout.apart.size(0), -1, 3)
                recorded.append(network.cosines(placed, layout.apart))
            energies, of_recorded = self.by_hand(recorded, layouts, topology)
            # TorchScript wants optional tensors here, and mypy plain ones.
            gradient = torch.autograd.grad(recorded, [vectors], optional(of_recorded))[0]  # type: ignore[arg-type]
        assert gradient is not None
        return energies.detach(), gradient

    def layouts(self, n_atoms: int, topology: list[Tensor]) -> list[_Layout]:
        """All edges, in blocks of whole atoms with about ``block_edges``."""
        centre, most = topology[1], topology[9].size(2)
        counts: list[int] = torch.bincount(centre, minlength=n_atoms).tolist()
        first_atoms, sizes = first_atoms_and_sizes(counts, self.block_edges)
        result: list[_Layout] = []
        begin = 0
        for k, size in enumerate(sizes):
            end = first_atoms[k + 1] if k + 1 < len(sizes) else len(counts)
            # A slice: TorchScript would keep one list for all blocks.
            here = counts[first_atoms[k] : end]
            largest = max(here)
            own = centre.narrow(0, begin, size) - first_atoms[k]
            slots = own * largest + topology[6].narrow(0, begin, size) - centre.narrow(0, begin, size) * most
            places = slots[:0]
            apart = 1.0 - torch.eye(largest, dtype=self.angular.dtype, device=slots.device)
            apart = apart.expand(len(here), -1, -1)
            if len(here) * largest > size:
                # An empty place borrows the first edge.
                places = torch.zeros(len(here) * largest, dtype=slots.dtype, device=slots.device)
                places[slots] = torch.arange(size, device=slots.device)
                filled = torch.zeros(len(here) * largest, dtype=apart.dtype, device=slots.device)
                filled[slots] = 1.0
                apart = apart * filled.view(-1, largest, 1) * filled.view(-1, 1, largest)
            result.append(_Layout(here, begin, size, places, slots, apart))
            begin += size
        return result

    def by_hand(
        self, recorded: list[Tensor], layouts: list[_Layout], topology: list[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """Energies (n_atoms,), and their gradients with respect to bases of pairs and cosines of blocks."""
        # Frozen TorchScript drops detach: what shall not be recorded has to stand where nothing is.
        with torch.no_grad():
            n_atoms = topology[0].size(0)
            blocks = self.blocks(recorded, layouts, topology)
            message = self.embed(topology[0], blocks)
            messages = [message]
            totals = torch.zeros(
                len(self.interactions) + 1, n_atoms, self.network.hidden, dtype=self.angular.dtype
            )
            sums = totals.unbind(0)
            self.first_sums(message, blocks, sums[0])
            for k, interaction in enumerate(self.interactions):
                message = interaction(message, blocks)
                messages.append(message)
                interaction.sums(message, blocks, sums[k + 1])  # type: ignore[operator]
        totals.requires_grad_()
        energies = self.network.read_out(totals)
        gradient = torch.autograd.grad([energies.sum()], [totals])[0]
        assert gradient is not None
        with torch.no_grad():
            of_sums = gradient.unbind(0)
            of_message = [torch.zeros_like(part) for part in message]
            for k, interaction in enumerate(self.backwards):
                of_sum = of_sums[len(of_sums) - 1 - k]
                of_message = interaction.back(of_sum, of_message, messages.pop(), blocks)  # type: ignore[operator]
            self.first_sums.back(of_sums[0], of_message, messages.pop(), blocks)
            self.embed_back(of_message, blocks)
            of_recorded = self.of_recorded(recorded, blocks, topology)
        return energies, of_recorded

    def blocks(self, recorded: list[Tensor], layouts: list[_Layout], topology: list[Tensor]) -> list[_Edges]:
        """All edges, with what depends on where atoms are."""
        n_radial, hidden, width = self.network.radial, self.network.hidden, self.network.bilinear
        degrees = self.network.spherical
        bases = recorded[0].index_select(0, topology[3])
        most = max([layout.size for layout in layouts])
        table = max([cosines.numel() for cosines in recorded[1:]])
        room, more = bases.new_empty(most, hidden), bases.new_empty(most, hidden)
        wide = bases.new_empty(most * width, hidden)
        # What a block's padding has of others' numbers meets zeros.
        basis, of_basis = bases.new_empty(table * width), bases.new_zeros(table * width)
        result: list[_Edges] = []
        for layout, cosines in zip(layouts, recorded[1:]):  # noqa: B905
            here, begin, size, places = layout.counts, layout.begin, layout.size, layout.places
            n_atoms, largest = len(here), max(here)
            own = bases.narrow(0, begin, size)
            radial = own.narrow(1, 0, n_radial).contiguous()
            spherical = into_places(own.narrow(1, n_radial, degrees * n_radial), places)
            spherical = spherical.reshape(-1, degrees, n_radial).transpose(0, 1)
            parts = torch.bmm(spherical, self.angular).view(degrees, n_atoms * largest, -1, width)
            of_parts = parts.new_empty(parts.size(2), parts.size(1), degrees, width)
            polynomials = torch.stack(legendre_polynomials(cosines, degrees), dim=3)
            legendre = polynomials.mul_(layout.apart.unsqueeze(3)).view(-1, largest, degrees)
            shape = (n_atoms, largest, largest * width)
            numbers = n_atoms * largest * largest * width
            tables = basis.narrow(0, 0, numbers).view(shape)
            of_tables = of_basis.narrow(0, 0, numbers).view(shape)
            of_each = of_atoms(tables, here, 1, width)
            saved: list[Tensor] = []
            result.append(
                _Edges(
                    here,
                    radial,
                    torch.zeros_like(radial),
                    list(parts.permute(2, 1, 0, 3).contiguous().unbind(0)),
                    list(of_parts.unbind(0)),
                    legendre,
                    torch.zeros_like(legendre),
                    topology[1].narrow(0, begin, size),
                    topology[2].narrow(0, begin, size),
                    topology[7].narrow(0, begin, size),
                    layout.slots,
                    saved,
                    room.narrow(0, 0, size),
                    more.narrow(0, 0, size),
                    wide.narrow(0, 0, size * width),
                    tables.view(-1, largest, width),
                    of_tables.view(-1, largest, width),
                    of_each,
                    [matrix.t() for matrix in of_each],
                    of_atoms(of_tables, here, 1, width),
                )
            )
        return result

    def embed(self, species: Tensor, blocks: list[_Edges]) -> list[Tensor]:
        """Messages (e, hidden) of each block before the first interaction (eq. 10)."""
        atoms = self.network.embedding(species)
        at_centre, at_neighbour = torch.mm(atoms, self.at_centre), torch.mm(atoms, self.at_neighbour)
        messages: list[Tensor] = []
        for edges in blocks:
            z = self.first(edges.radial)
            edges.saved.append(z)
            z = self.second(torch.ops.aten.silu(z, out=edges.room))
            z.add_(torch.index_select(at_centre, 0, edges.centre, out=edges.room))
            z.add_(torch.index_select(at_neighbour, 0, edges.neighbour, out=edges.room))
            edges.saved.append(z)
            messages.append(functional.silu(z))
        return messages

    def embed_back(self, of_messages: list[Tensor], blocks: list[_Edges]) -> None:
        """The way back of :meth:`embed`, added to the gradient of the radial basis."""
        for of_message, edges in zip(of_messages, blocks):  # noqa: B905
            z = edges.saved.pop()
            of_z = torch.mm(through(of_message, z), self.second.weight_back, out=edges.room)
            edges.of_radial.addmm_(through(of_z, edges.saved.pop()), self.first.weight_back)

    def of_recorded(
        self, recorded: list[Tensor], blocks: list[_Edges], topology: list[Tensor]
    ) -> list[Tensor]:
        """Gradients with respect to bases of pairs (n_pairs, all) and the cosines (a, K, K) of each block."""
        of_edges: list[Tensor] = []
        result: list[Tensor] = [recorded[0]]
        for k, edges in enumerate(blocks):
            of_parts = torch.stack(edges.of_parts, 2).permute(1, 0, 2, 3).flatten(2)
            flat = torch.bmm(of_parts, self.angular_back).transpose(0, 1).flatten(1)
            of_edges.append(torch.cat([edges.of_radial, flat.index_select(0, edges.slots)], dim=1))
            result.append(self.of_cosines(edges, recorded[k + 1]))
        result[0] = torch.zeros_like(recorded[0]).index_add(0, topology[3], joined(of_edges))
        return result

    def of_cosines(self, edges: _Edges, cosines: Tensor) -> Tensor:
        """Gradient (a, K, K) with respect to the cosines; uses up that of the polynomials.

        d / dc sum_l a_l P_l = sum_l (2 l + 1) P_l (a_(l+1) + a_(l+3) + ...), with P_l of different places only.
        """
        of_degrees, values = edges.of_legendre.unbind(2), edges.legendre.unbind(2)
        result = torch.zeros_like(of_degrees[0])
        for degree in range(len(values) - 2, -1, -1):
            above = of_degrees[degree + 1]
            result.addcmul_(values[degree], above, value=2.0 * degree + 1.0)
            if degree > 1:
                of_degrees[degree - 1].add_(above)
        return result.view(cosines.size())
