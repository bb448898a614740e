"""GemNet-T's energy and gradient for a processor: gradients written out by hand, edges in blocks.

Autograd keeps every tensor of every edge, and writes each gradient into one of its own.  Here edges, sorted by
their centre, are taken in blocks of whole atoms that stay in the processor's cache; what comes before each
activation is kept, and the rest made again on the way back.  Sums over the triplets of an atom are products of
matrices of just its number of edges.  Only the bases of the distance and the directions are differentiated by
autograd.
"""

import copy
import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from openmm_mlbench.models.bases import legendre_polynomials
from openmm_mlbench.models.fast_edges import first_atoms_and_sizes, joined, of_atoms, register, through
from openmm_mlbench.models.fast_nequip import optional
from openmm_mlbench.models.gemnet import GemNetT, Interaction, Residual
from openmm_mlbench.models.triplets import from_places, into_places

# Edges that are taken together, unless one atom has more.
BLOCK_EDGES = 800


class _Edges(NamedTuple):
    """The e edges of some atoms that follow each other."""

    counts: list[int]  # n, edges of each atom
    basis: Tensor  # (e, radial)
    of_basis: Tensor  # its gradient, which grows
    units: Tensor  # (e, 3), directions
    centre: Tensor  # (e,)
    neighbour: Tensor  # (e,)
    opposite: Tensor  # (e,), among all edges
    places: Tensor  # (a * K,), see triplets.neighbourhoods, but within the block
    slots: Tensor  # (e,)
    of_padded: Tensor  # (a, K * circular, K), gradient of the circular basis
    circular: list[Tensor]  # of each atom (n * circular, n)
    turned: list[Tensor]  # the same (n, n * circular)
    of_circular: list[Tensor]  # what of the padded gradient is not padding
    saved: list[Tensor]  # what the way back needs, in the order of the way there
    # Room for what is not kept, shared by all blocks: new memory would come from outside the cache.
    room: Tensor  # (e, edge)
    more: Tensor  # (e, edge)
    thin: Tensor  # (e, triplet)
    gathered: list[Tensor]  # of each atom (n * circular, triplet), all in the same place
    wide: list[Tensor]  # the same (n, circular * triplet)


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
        register(self, "first", first * scale)
        register(self, "second", second / 0.6, self.factor)

    def forward(self, x: Tensor, saved: list[Tensor], room: Tensor) -> None:
        """(n, width), changed in place, with room for as much."""
        z = torch.mm(x, self.first)
        saved.append(z)
        z = torch.mm(torch.ops.aten.silu(z, out=room), self.second)
        saved.append(z)
        x.add_(torch.ops.aten.silu(z, out=room), alpha=self.factor)

    @torch.jit.export
    def back(self, of_x: Tensor, saved: list[Tensor], room: Tensor) -> None:
        """From the gradient (n, width) of the output to that of the input, in place."""
        of_y = torch.mm(through(of_x, saved.pop()), self.second_back, out=room)
        of_x.addmm_(through(of_y, saved.pop()), self.first_back)


def _residuals(layers: nn.ModuleList, scale: float) -> list[_Residual]:
    """Layers that follow each other, the first of an input over ``scale``."""
    result = []
    for layer in layers:
        assert isinstance(layer, Residual)
        result.append(_Residual(layer.weight_1, layer.weight_2, scale))
        scale *= math.sqrt(0.5)
    return result


class _Head(nn.Module):
    """One output block: filter of the messages, and of their sums a dense layer, residual layers and a linear output.

    Args:
        network: with its weights.
        number: of the head.
    """

    radial: Tensor
    radial_back: Tensor
    first: Tensor
    first_back: Tensor
    last: Tensor
    last_back: Tensor

    def __init__(self, network: GemNetT, number: int) -> None:
        super().__init__()
        heads = network.energy
        filters = network.project_output @ network.filter_output[number]
        register(self, "radial", filters * (network.message_scale * network.scale_output[number]))
        register(self, "first", heads.first[number])
        register(self, "last", heads.last[number] * heads.scale)
        layers = [
            _Residual(heads.weight_1[k, number], heads.weight_2[k, number], math.sqrt(0.5) ** k / 0.6)
            for k in range(heads.layers)
        ]
        self.layers, self.layers_back = nn.ModuleList(layers), nn.ModuleList(reversed(layers))

    def forward(self, messages: list[Tensor], blocks: list[_Edges], n_atoms: int) -> tuple[Tensor, Tensor]:
        """Energies (A,) of messages (e, edge), and the gradient (A, edge) of their sums at atoms."""
        total = torch.zeros(n_atoms, self.first.size(0), dtype=self.first.dtype, device=self.first.device)
        for message, edges in zip(messages, blocks):  # noqa: B905
            filters = torch.mm(edges.basis, self.radial, out=edges.room)
            total.index_add_(0, edges.centre, filters.mul_(message))
        saved: list[Tensor] = []
        z = torch.mm(total, self.first)
        x = functional.silu(z)
        room = torch.empty_like(x)
        for layer in self.layers:
            layer(x, saved, room)
        energies = torch.mm(x, self.last).squeeze(1)
        of_x = self.last_back.repeat(n_atoms, 1)
        for layer in self.layers_back:
            layer.back(of_x, saved, room)  # type: ignore[operator]
        return energies, torch.mm(through(of_x, z), self.first_back)

    @torch.jit.export
    def back(
        self, of_total: Tensor, of_messages: list[Tensor], messages: list[Tensor], blocks: list[_Edges]
    ) -> None:
        """From the gradient of the sums to that of the messages, added to ``of_messages``."""
        for of_message, message, edges in zip(of_messages, messages, blocks):  # noqa: B905
            at_centre = torch.index_select(of_total, 0, edges.centre, out=edges.room)
            of_message.addcmul_(at_centre, torch.mm(edges.basis, self.radial, out=edges.more))
            edges.of_basis.addmm_(at_centre.mul_(message), self.radial_back)


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
    at_centre: Tensor
    at_centre_back: Tensor
    at_neighbour: Tensor
    at_neighbour_back: Tensor
    triplet_filter: Tensor
    triplet_filter_back: Tensor
    atom_filter: Tensor
    atom_filter_back: Tensor

    def __init__(self, network: GemNetT, number: int) -> None:
        super().__init__()
        block = network.interactions[number]
        assert isinstance(block, Interaction)
        self.circular_width = network.circular_width
        edge, atom = block.dense.size(0), block.atom_dense.size(1)
        scales = network.scales[number].detach()
        register(self, "own", block.dense[:, :edge] * block.message_scale)
        register(self, "arriving", block.dense[:, edge:] * block.message_scale)
        register(self, "down", block.down)
        register(self, "bilinear", block.bilinear * (scales[1] / 0.6))
        register(self, "there", block.up[:, :edge], math.sqrt(0.5))
        register(self, "away", block.up[:, edge:], math.sqrt(0.5))
        register(self, "atom_dense", block.atom_dense)
        register(self, "concat", block.concat_dense[2 * atom :] * block.middle_scale)
        register(self, "at_centre", block.concat_dense[atom : 2 * atom] * block.atom_scale)
        register(self, "at_neighbour", block.concat_dense[:atom] * block.atom_scale)
        filters = network.project_triplet @ network.filter_triplet[number]
        register(self, "triplet_filter", filters * (scales[0] / 0.6))
        filters = network.project_atom @ network.filter_atom[number]
        register(self, "atom_filter", filters * (scales[2] * block.middle_scale))
        before = _residuals(block.before_skip, math.sqrt(0.5) / 0.6)
        after = _residuals(block.after_skip, block.before_scale * math.sqrt(0.5))
        atoms = _residuals(block.atom_residual, 1.0 / 0.6)
        concat = _residuals(block.concat_residual, 1.0 / 0.6)
        # TorchScript goes through modules in one direction only.
        self.before, self.before_back = nn.ModuleList(before), nn.ModuleList(reversed(before))
        self.after, self.after_back = nn.ModuleList(after), nn.ModuleList(reversed(after))
        self.atoms, self.atoms_back = nn.ModuleList(atoms), nn.ModuleList(reversed(atoms))
        self.concats, self.concats_back = nn.ModuleList(concat), nn.ModuleList(reversed(concat))
        self.head = _Head(network, number + 1)
        self.skip = block.message_scale / block.before_scale
        self.atom_skip = block.atom_scale / block.update_scale
        self.result_skip = block.middle_scale / block.concat_scale

    def forward(
        self, messages: list[Tensor], atoms: Tensor, blocks: list[_Edges], saved: list[Tensor]
    ) -> tuple[list[Tensor], Tensor]:
        """Messages (e, edge) of each block and atom features (A, atom) after one round; see :class:`Interaction`."""
        own: list[Tensor] = []
        away: list[Tensor] = []
        for message, edges in zip(messages, blocks):  # noqa: B905 - TorchScript has no strict zip
            x, sent = self.send(message, edges)
            own.append(x)
            away.append(sent)
        sent = joined(away)
        total = torch.zeros(atoms.size(0), sent.size(1), dtype=sent.dtype, device=sent.device)
        for x, message, edges in zip(own, messages, blocks):  # noqa: B905
            self.mix(x, sent, message, total, edges)
        atoms = self.update(atoms, total, saved)
        at_centre, at_neighbour = torch.mm(atoms, self.at_centre), torch.mm(atoms, self.at_neighbour)
        results: list[Tensor] = []
        for x, edges in zip(own, blocks):  # noqa: B905
            results.append(self.result(x, at_centre, at_neighbour, edges))
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
    ) -> tuple[list[Tensor], Tensor]:
        """The way back of :meth:`forward`, and of the head on its results; uses up what it is given."""
        self.head.back(of_head, of_results, results, blocks)
        of_own: list[Tensor] = []
        of_ends = torch.zeros(
            2, of_atoms.size(0), self.own.size(0), dtype=of_atoms.dtype, device=of_atoms.device
        )
        of_centre, of_neighbour = of_ends[0], of_ends[1]
        for of_result, result, edges in zip(of_results, results, blocks):  # noqa: B905
            of_own.append(self.result_back(of_result, result, of_centre, of_neighbour, edges))
        of_atoms.addmm_(of_centre, self.at_centre_back).addmm_(of_neighbour, self.at_neighbour_back)
        of_atoms, of_total = self.update_back(of_atoms, saved)
        of_messages: list[Tensor] = []
        for of_x, edges in zip(of_own, blocks):  # noqa: B905
            of_messages.append(self.mix_back(of_x, of_total, edges))
        of_sent = joined(of_own)
        for of_message, of_x, edges in zip(of_messages, of_own, blocks):  # noqa: B905
            self.send_back(of_message, of_x, of_sent, edges)
        return of_messages, of_atoms

    def send(self, message: Tensor, edges: _Edges) -> tuple[Tensor, Tensor]:
        """Messages (e, edge) with their sums over triplets, and what goes to the opposite edges."""
        z = torch.mm(message, self.own)
        edges.saved.append(z)
        own = functional.silu(z)
        z = torch.mm(message, self.arriving)
        edges.saved.append(z)
        filtered = torch.mm(edges.basis, self.triplet_filter, out=edges.room)
        filtered.mul_(torch.ops.aten.silu(z, out=edges.more))
        z = torch.mm(filtered, self.down)
        edges.saved.append(z)
        arriving = torch.ops.aten.silu(z, out=edges.thin)
        x = arriving.new_empty(message.size(0), self.bilinear.size(1))
        for matrix, near, gathered, wide, result in zip(  # noqa: B905
            edges.circular, arriving.split(edges.counts), edges.gathered, edges.wide, x.split(edges.counts)
        ):
            torch.mm(matrix, near, out=gathered)
            torch.mm(wide, self.bilinear, out=result)
        z = torch.mm(x, self.there)
        edges.saved.append(z)
        own.add_(torch.ops.aten.silu(z, out=edges.room), alpha=math.sqrt(0.5))
        z = torch.mm(x, self.away)
        edges.saved.append(z)
        return own, functional.silu(z)

    def send_back(self, of_message: Tensor, of_own: Tensor, of_sent: Tensor, edges: _Edges) -> None:
        """The way back of :meth:`send`, added to ``of_message``; ``of_sent`` (E, edge) stands at the opposite edges."""
        of_away = torch.index_select(of_sent, 0, edges.opposite, out=edges.room)
        of_x = torch.mm(through(of_away, edges.saved.pop()), self.away_back)
        of_x.addmm_(through(of_own, edges.saved.pop()), self.there_back)
        z = edges.saved.pop()
        arriving, of_arriving = functional.silu(z), edges.thin
        for turned, of_matrix, near, of_near, of_gathered, of_wide, of_result in zip(  # noqa: B905
            edges.turned,
            edges.of_circular,
            arriving.t().split(edges.counts, 1),
            of_arriving.split(edges.counts),
            edges.gathered,
            edges.wide,
            of_x.split(edges.counts),
        ):
            torch.mm(of_result, self.bilinear_back, out=of_wide)
            torch.mm(turned, of_gathered, out=of_near)
            of_matrix.addmm_(of_gathered, near)
        of_filtered = torch.mm(through(of_arriving, z), self.down_back, out=edges.room)
        z = edges.saved.pop()
        of_filter = torch.ops.aten.silu(z, out=edges.more).mul_(of_filtered)
        edges.of_basis.addmm_(of_filter, self.triplet_filter_back)
        of_filtered.mul_(torch.mm(edges.basis, self.triplet_filter, out=edges.more))
        of_message.addmm_(through(of_filtered, z), self.arriving_back)
        of_message.addmm_(through(of_own, edges.saved.pop()), self.own_back)

    def mix(self, x: Tensor, sent: Tensor, message: Tensor, total: Tensor, edges: _Edges) -> None:
        """Messages x (e, edge) up to the atom update, in place; their sums are added to ``total`` (A, edge)."""
        arrived = torch.index_select(sent, 0, edges.opposite, out=edges.room)
        x.add_(arrived, alpha=math.sqrt(0.5))
        for layer in self.before:
            layer(x, edges.saved, edges.room)
        x.add_(message, alpha=self.skip)
        for layer in self.after:
            layer(x, edges.saved, edges.room)
        edges.saved.append(x)
        filters = torch.mm(edges.basis, self.atom_filter, out=edges.room)
        total.index_add_(0, edges.centre, filters.mul_(x))

    def mix_back(self, of_x: Tensor, of_total: Tensor, edges: _Edges) -> Tensor:
        """The way back of :meth:`mix`: the gradient of x in place, and that of the message."""
        at_centre = torch.index_select(of_total, 0, edges.centre, out=edges.room)
        of_x.addcmul_(at_centre, torch.mm(edges.basis, self.atom_filter, out=edges.more))
        x = edges.saved.pop()
        edges.of_basis.addmm_(at_centre.mul_(x), self.atom_filter_back)
        for layer in self.after_back:
            layer.back(of_x, edges.saved, edges.room)  # type: ignore[operator]
        of_message = torch.mul(of_x, self.skip, out=x)
        for layer in self.before_back:
            layer.back(of_x, edges.saved, edges.room)  # type: ignore[operator]
        return of_message

    def update(self, atoms: Tensor, total: Tensor, saved: list[Tensor]) -> Tensor:
        """Atom features (A, atom) from those before and the sums over messages."""
        z = torch.mm(total, self.atom_dense)
        saved.append(z)
        x, room = functional.silu(z), torch.empty_like(atoms)
        for layer in self.atoms:
            layer(x, saved, room)
        return x.add_(atoms, alpha=self.atom_skip)

    def update_back(self, of_atoms: Tensor, saved: list[Tensor]) -> tuple[Tensor, Tensor]:
        """The way back of :meth:`update`; changes ``of_atoms``."""
        before, room = of_atoms * self.atom_skip, torch.empty_like(of_atoms)
        for layer in self.atoms_back:
            layer.back(of_atoms, saved, room)  # type: ignore[operator]
        return before, torch.mm(through(of_atoms, saved.pop()), self.atom_dense_back)

    def result(self, x: Tensor, at_centre: Tensor, at_neighbour: Tensor, edges: _Edges) -> Tensor:
        """Messages (e, edge) after the block, from what atoms give (A, edge)."""
        z = torch.mm(x, self.concat)
        z.add_(torch.index_select(at_centre, 0, edges.centre, out=edges.room))
        z.add_(torch.index_select(at_neighbour, 0, edges.neighbour, out=edges.room))
        edges.saved.append(z)
        y = functional.silu(z)
        for layer in self.concats:
            layer(y, edges.saved, edges.room)
        return y.add_(x, alpha=self.result_skip)

    def result_back(
        self, of_message: Tensor, message: Tensor, of_centre: Tensor, of_neighbour: Tensor, edges: _Edges
    ) -> Tensor:
        """The way back of :meth:`result`: the gradient of x, where the message was; changes ``of_message``."""
        of_x = torch.mul(of_message, self.result_skip, out=message)
        for layer in self.concats_back:
            layer.back(of_message, edges.saved, edges.room)  # type: ignore[operator]
        of_ends = through(of_message, edges.saved.pop())
        of_centre.index_add_(0, edges.centre, of_ends)
        of_neighbour.index_add_(0, edges.neighbour, of_ends)
        return of_x.addmm_(of_ends, self.concat_back)


class FastGemNet(nn.Module):
    """GemNet-T without a graph of its messages.

    Args:
        network: with its weights.
    """

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
        self.first_head = _Head(network, 0)
        self.first_scale = 1.0 / (0.6 * network.message_scale)
        self.atom = network.embedding.weight.size(1)
        register(self, "edge_dense", network.edge_dense[2 * self.atom :], self.first_scale)
        circular = network.circular * network.norms.to(network.circular.dtype)
        register(self, "circular", circular.permute(1, 2, 0).reshape(network.radial, -1))
        self.circular_width, self.degrees = network.circular_width, network.spherical
        self.edge, self.triplet = blocks[0].down.size(0), blocks[0].down.size(1)
        self.shortest = 0.0
        self.block_edges = BLOCK_EDGES

    def forward(
        self, atomic_numbers: Tensor, pair_vectors: Tensor, pair_index: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Energies (n_atoms,), and their sum's gradient with respect to the pair vectors (n_pairs, 3)."""
        topology = self.network.topology(atomic_numbers, pair_index)
        if pair_vectors.size(0) == 0:
            return self.network.atomic_energies(pair_vectors, topology), pair_vectors
        vectors = pair_vectors.detach().requires_grad_()
        if vectors.is_cuda:
            # A GPU has no use for atoms that take turns.
            energies = self.network.atomic_energies(vectors, topology)
            gradient = torch.autograd.grad([energies.sum()], [vectors])[0]
        else:
            recorded = [self.network.radial_basis(vectors, topology), self.network.units(vectors, topology)]
            energies, of_recorded = self.by_hand(recorded[0], recorded[1], topology)
            # TorchScript wants optional tensors here, and mypy plain ones.
            gradient = torch.autograd.grad(recorded, [vectors], optional(of_recorded))[0]  # type: ignore[arg-type]
        assert gradient is not None
        return energies.detach(), gradient

    def by_hand(self, basis: Tensor, units: Tensor, topology: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Energies (n_atoms,), and their gradients with respect to basis (E, radial) and directions (E, 3)."""
        # Frozen TorchScript drops detach: what shall not be recorded has to stand where nothing is.
        with torch.no_grad():
            blocks = self.blocks(basis, units, topology)
            atoms, message = self.embed(topology[0], blocks)
            n_atoms = atoms.size(0)
            messages = [message]
            energies, of_total = self.first_head(message, blocks, n_atoms)
            of_totals = [of_total]
            # Of the layers of atoms what each block of edges has in a list of its own.
            saved: list[Tensor] = []
            for interaction in self.interactions:
                message, atoms = interaction(message, atoms, blocks, saved)
                messages.append(message)
                energy, of_total = interaction.head(message, blocks, n_atoms)  # type: ignore[operator]
                energies.add_(energy)
                of_totals.append(of_total)
            of_atoms = torch.zeros_like(atoms)
            of_message = [torch.zeros_like(part) for part in message]
            for interaction in self.backwards:
                of_message, of_atoms = interaction.back(  # type: ignore[operator]
                    of_totals.pop(), of_message, messages.pop(), of_atoms, blocks, saved
                )
            self.first_head.back(of_totals.pop(), of_message, messages.pop(), blocks)
            of_units: list[Tensor] = []
            for part, edges in zip(of_message, blocks):  # noqa: B905 - TorchScript has no strict zip
                edges.of_basis.addmm_(through(part, edges.saved.pop()), self.edge_dense_back)
                of_units.append(self.circular_basis_back(edges))
            of_basis = [edges.of_basis for edges in blocks]
            return energies, [joined(of_basis), joined(of_units)]

    def embed(self, species: Tensor, blocks: list[_Edges]) -> tuple[Tensor, list[Tensor]]:
        """Atom features (A, atom) and messages (e, edge) of each block before the first interaction."""
        atoms = self.network.embedding(species - 1)
        weights = self.network.edge_dense
        at_neighbour = torch.mm(atoms, weights[: self.atom])
        at_centre = torch.mm(atoms, weights[self.atom : 2 * self.atom])
        messages: list[Tensor] = []
        for edges in blocks:
            z = torch.mm(edges.basis, self.edge_dense)
            z.add_(at_neighbour.index_select(0, edges.neighbour))
            z.add_(at_centre.index_select(0, edges.centre))
            edges.saved.append(z)
            messages.append(functional.silu(z).mul_(self.first_scale))
        return atoms.mul_(1.0 / self.network.atom_scale), messages

    def blocks(self, basis: Tensor, units: Tensor, topology: list[Tensor]) -> list[_Edges]:
        """All edges, in blocks of whole atoms with about ``block_edges``, and their circular basis."""
        centre, slots, most = topology[1], topology[6], topology[9].size(2)
        counts: list[int] = torch.bincount(centre, minlength=topology[0].size(0)).tolist()
        first_atoms, sizes = first_atoms_and_sizes(counts, self.block_edges)
        largest = max(sizes)
        room = [
            basis.new_empty(largest, self.edge),
            basis.new_empty(largest, self.edge),
            basis.new_empty(largest, self.triplet),
        ]
        wide = basis.new_empty(max(counts), self.circular_width * self.triplet)
        blocks: list[_Edges] = []
        # Of each edge its place among those of its atom.
        tensors = [basis, units, centre, topology[2], topology[7], slots - centre * most]
        begin = 0
        for k, size in enumerate(sizes):
            end = first_atoms[k + 1] if k + 1 < len(sizes) else len(counts)
            here = [tensor.narrow(0, begin, size) for tensor in tensors]
            here += [tensor.narrow(0, 0, size) for tensor in room]
            blocks.append(self.block(counts[first_atoms[k] : end], first_atoms[k], here, wide))
            begin += size
        return blocks

    def block(self, counts: list[int], first_atom: int, tensors: list[Tensor], room: Tensor) -> _Edges:
        """One of them, of atoms from ``first_atom`` on, with its part of what :meth:`blocks` has."""
        basis, units, centre = tensors[0], tensors[1], tensors[2]
        n_atoms, largest = len(counts), max(counts)
        slots = (centre - first_atom) * largest + tensors[5]
        places = slots[:0]
        if n_atoms * largest > slots.size(0):
            # An empty place borrows the first edge; what comes of it is not read.
            places = torch.zeros(n_atoms * largest, dtype=slots.dtype, device=slots.device)
            places[slots] = torch.arange(slots.size(0), device=slots.device)
        radial, _, polynomials = self.factors(basis, units, places, largest)
        padded = torch.bmm(radial, polynomials.flatten(0, 1)).view(n_atoms, largest, -1, largest)
        # An edge with itself is no triplet.
        padded.diagonal(0, 1, 3).zero_()
        of_padded = torch.zeros(n_atoms, padded.size(1) * padded.size(2), largest, dtype=basis.dtype)
        circular = of_atoms(padded.view_as(of_padded), counts, self.circular_width, 1)
        wide = [room.narrow(0, 0, n) for n in counts]
        saved: list[Tensor] = []
        return _Edges(
            counts,
            basis,
            torch.zeros_like(basis),
            units,
            centre,
            tensors[3],
            tensors[4],
            places,
            slots,
            of_padded,
            circular,
            [matrix.t() for matrix in circular],
            of_atoms(of_padded, counts, self.circular_width, 1),
            saved,
            tensors[6],
            tensors[7],
            tensors[8],
            [part.view(-1, self.triplet) for part in wide],
            wide,
        )

    def factors(
        self, basis: Tensor, units: Tensor, places: Tensor, largest: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What the circular basis is made of, in all places of a block.

        Returns:
            weighted radial basis (a * K, circular, degrees), directions (a, K, 3), and Legendre polynomials
            (a, K, degrees, K) of the angles between them.
        """
        radial = into_places(torch.mm(basis, self.circular), places)
        directions = into_places(units, places).view(-1, largest, 3)
        cosines = torch.bmm(directions, directions.transpose(1, 2))
        polynomials = torch.stack(legendre_polynomials(cosines, self.degrees), dim=2)
        return radial.view(-1, self.circular_width, self.degrees), directions, polynomials

    def circular_basis_back(self, edges: _Edges) -> Tensor:
        """Gradient (e, 3) of directions; that of the radial basis is added to the edges' own.

        d / dc sum_l a_l P_l = sum_l (2 l + 1) P_l (a_(l+1) + a_(l+3) + ...).
        """
        n_atoms, largest, degrees = len(edges.counts), max(edges.counts), self.degrees
        radial, directions, polynomials = self.factors(edges.basis, edges.units, edges.places, largest)
        of_padded = edges.of_padded.view(n_atoms, largest, -1, largest)
        of_padded.diagonal(0, 1, 3).zero_()
        of_padded = of_padded.view(n_atoms * largest, -1, largest)
        of_radial = torch.bmm(of_padded, polynomials.flatten(0, 1).transpose(1, 2)).flatten(1)
        edges.of_basis.addmm_(from_places(of_radial, edges.places, edges.slots), self.circular_back)
        of_polynomials = torch.bmm(radial.transpose(1, 2), of_padded).view(n_atoms, largest, degrees, largest)
        of_degrees, values = of_polynomials.unbind(2), polynomials.unbind(2)
        of_cosines = torch.zeros(n_atoms, largest, largest, dtype=radial.dtype, device=radial.device)
        for degree in range(degrees - 2, -1, -1):
            above = of_degrees[degree + 1]
            of_cosines.addcmul_(values[degree], above, value=2.0 * degree + 1.0)
            if degree > 1:
                of_degrees[degree - 1].add_(above)
        of_directions = torch.bmm(of_cosines + of_cosines.transpose(1, 2), directions)
        return from_places(of_directions.view(-1, 3), edges.places, edges.slots)
