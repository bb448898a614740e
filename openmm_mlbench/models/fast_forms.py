"""Energies and gradients for a processor: tables of the radial networks, and gradients written out by hand.

In condensed phase most of the time of SchNet and DeepPot-SE goes into small networks of the distance, and
then into reading and writing tensors of all pairs.  Here the former are read from tables
(:mod:`openmm_mlbench.models.radial_tables`), both directions of a pair share them, no graph is recorded, and
pairs are taken in blocks that stay in the processor's cache.  A GPU takes all pairs at once.
"""

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from openmm_mlbench.models.cutoffs import cosine_cutoff
from openmm_mlbench.models.deeppot_se import DeepPotSE
from openmm_mlbench.models.dimenet import DimeNet
from openmm_mlbench.models.fast_dimenet import FastDimeNet
from openmm_mlbench.models.fast_gemnet import FastGemNet
from openmm_mlbench.models.fast_nequip import FastNequIP
from openmm_mlbench.models.gemnet import GemNetT
from openmm_mlbench.models.neighbours import directed_edges, group_by_label
from openmm_mlbench.models.nequip import NequIP
from openmm_mlbench.models.network import Network
from openmm_mlbench.models.radial_tables import TOLERANCE, RadialTables, read_table, tabulate
from openmm_mlbench.models.schnet import SchNet, shifted_softplus


class FastSchNet(nn.Module):
    """SchNet with tabulated filters.

    Args:
        network: with its weights.
    """

    def __init__(self, network: SchNet) -> None:
        super().__init__()
        # Nothing asks for the gradient of weights, which would record every operation.
        self.network = copy.deepcopy(network).requires_grad_(requires_grad=False)
        self.block = 1024
        self.shortest = 0.0
        exact = copy.deepcopy(network).double()

        def filters(distances: Tensor) -> Tensor:
            basis = torch.exp(-exact.gamma * (distances.unsqueeze(1) - exact.centres).square())
            hidden = shifted_softplus(torch.matmul(basis, exact.filter_weight_1) + exact.filter_bias_1)
            result = torch.matmul(hidden, exact.filter_weight_2) + exact.filter_bias_2
            return result * cosine_cutoff(distances, exact.cutoff).unsqueeze(1)

        with torch.no_grad():
            self.tables: RadialTables = tabulate(
                filters,
                network.cutoff,
                dtype=network.output_1.weight.dtype,
                tolerance=TOLERANCE,
                ends_at_zero=True,
            )

    def forward(
        self, atomic_numbers: Tensor, pair_vectors: Tensor, pair_index: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Energies (n_atoms,), and their sum's gradient with respect to the pair vectors (n_pairs, 3)."""
        with torch.no_grad():
            return self.with_tables(pair_vectors, self.topology(atomic_numbers, pair_index))

    def topology(self, atomic_numbers: Tensor, pair_index: Tensor) -> list[Tensor]:
        """Index tensors that stay the same while species and pairs do: species, first and second atom of each pair."""
        return [atomic_numbers, pair_index[0], pair_index[1]]

    def with_tables(self, pair_vectors: Tensor, topology: list[Tensor]) -> tuple[Tensor, Tensor]:
        """The same, where nothing is recorded, with what :meth:`topology` returned."""
        network = self.network
        size = pair_vectors.size(0) if pair_vectors.is_cuda else self.block
        distances = torch.linalg.vector_norm(pair_vectors, dim=1)
        rows, weights = self.tables.places(distances)
        first, second = topology[1].split(max(size, 1)), topology[2].split(max(size, 1))
        block_rows, block_weights = rows.split(max(size, 1)), weights.split(max(size, 1))
        values, slopes = self.tables.values.unbind(0), self.tables.slopes.unbind(0)
        x = network.embedding(topology[0])
        # What the way back needs of each interaction: the atoms' messages, the middle layer, three matrices.
        sent: list[Tensor] = []
        middles: list[Tensor] = []
        into: list[Tensor] = []
        through: list[Tensor] = []
        out_of: list[Tensor] = []
        # TorchScript has no strict zip.
        layers = zip(network.atom_in, network.atom_mid, network.atom_out)  # noqa: B905
        for k, (atom_in, atom_mid, atom_out) in enumerate(layers):
            h = atom_in(x)
            gathered = torch.zeros_like(h)
            for i, j, near, share in zip(first, second, block_rows, block_weights):  # noqa: B905
                filters = read_table(values[k], near, share)
                gathered.index_add_(0, i, filters * h.index_select(0, j))
                gathered.index_add_(0, j, filters * h.index_select(0, i))
            middle = atom_mid(gathered)
            x = x + atom_out(shifted_softplus(middle))
            sent.append(h)
            middles.append(middle)
            into.append(atom_in.weight)  # type: ignore[arg-type]
            through.append(atom_mid.weight)  # type: ignore[arg-type]
            out_of.append(atom_out.weight)  # type: ignore[arg-type]
        hidden = network.output_1(x)
        energies = network.output_2(shifted_softplus(hidden)).squeeze(1)
        # The derivative of the shifted softplus is the sigmoid.
        of_x = torch.mm(torch.sigmoid(hidden) * network.output_2.weight, network.output_1.weight)
        along = [torch.zeros_like(part) for part in distances.split(max(size, 1))]
        for back in range(network.interactions):
            k = network.interactions - 1 - back
            h = sent[k]
            of_gathered = torch.mm(torch.mm(of_x, out_of[k]) * torch.sigmoid(middles[k]), through[k])
            of_h = torch.zeros_like(h)
            for block, (i, j) in enumerate(zip(first, second)):  # noqa: B905
                near, share = block_rows[block], block_weights[block]
                filters = read_table(values[k], near, share)
                at_i, at_j = of_gathered.index_select(0, i), of_gathered.index_select(0, j)
                of_filters = torch.addcmul(at_i * h.index_select(0, j), at_j, h.index_select(0, i))
                along[block] += (of_filters * read_table(slopes[k], near, share)).sum(1)
                of_h.index_add_(0, j, filters * at_i)
                of_h.index_add_(0, i, filters * at_j)
            of_x = of_x + torch.mm(of_h, into[k])
        if len(along) == 0:
            return energies, pair_vectors
        return energies, pair_vectors * (torch.cat(along) / distances).unsqueeze(1)

    @torch.jit.unused
    def fixed_topology(self, atomic_numbers: Tensor, pair_index: Tensor) -> list[Tensor]:
        """Index tensors for :meth:`fixed`: species, centre and neighbour of each edge."""
        return self.network.topology(atomic_numbers, pair_index)

    @torch.jit.unused
    def fixed(self, pair_vectors: Tensor, topology: list[Tensor]) -> tuple[Tensor, Tensor]:
        """What :meth:`with_tables` gives, in fewer and larger operations: for few pairs, to be traced."""
        network = self.network
        species, centre, neighbour = topology[0], topology[1], topology[2]
        distances = torch.linalg.vector_norm(pair_vectors, dim=1)
        rows, weights = self.tables.places(distances)
        # One reading for all interactions.
        values = read_table(self.tables.values.transpose(0, 1).flatten(1), rows, weights)
        slopes = read_table(self.tables.slopes.transpose(0, 1).flatten(1), rows, weights)
        both_ways = torch.cat([values, values]).chunk(network.interactions, 1)
        x = network.embedding(species)
        zeros = torch.zeros(x.size(0), both_ways[0].size(1), dtype=x.dtype, device=x.device)
        arriving: list[Tensor] = []
        middles: list[Tensor] = []
        for k in range(network.interactions):
            arriving.append(_linear(network.atom_in[k], x).index_select(0, neighbour))
            gathered = zeros.index_add(0, centre, both_ways[k] * arriving[k])
            middles.append(_linear(network.atom_mid[k], gathered))
            x = x + _after_softplus(network.atom_out[k], middles[k])
        hidden = _linear(network.output_1, x)
        energies = _after_softplus(network.output_2, hidden).squeeze(1)
        # The derivative of the shifted softplus is the sigmoid.
        of_x = torch.mm(torch.sigmoid(hidden) * network.output_2.weight, network.output_1.weight)
        of_filters: list[Tensor] = []
        for k in reversed(range(network.interactions)):
            into, through = _weight(network.atom_in[k]), _weight(network.atom_mid[k])
            of_middle = torch.mm(of_x, _weight(network.atom_out[k])) * torch.sigmoid(middles[k])
            at_centre = torch.mm(of_middle, through).index_select(0, centre)
            of_filters.insert(0, at_centre * arriving[k])
            of_x = of_x + torch.mm(zeros.index_add(0, neighbour, both_ways[k] * at_centre), into)
        ahead, back = torch.cat(of_filters, 1).chunk(2)
        along = ((ahead + back) * slopes).sum(1)
        return energies, pair_vectors * (along / distances).unsqueeze(1)


def _weight(layer: nn.Module) -> Tensor:
    assert isinstance(layer, nn.Linear)
    return layer.weight


def _linear(layer: nn.Module, x: Tensor) -> Tensor:
    assert isinstance(layer, nn.Linear)
    product = torch.mm(x, layer.weight.t())
    return product if layer.bias is None else product + layer.bias


def _after_softplus(layer: nn.Module, x: Tensor) -> Tensor:
    """A linear layer of the shifted softplus of x; the shift is in the bias."""
    assert isinstance(layer, nn.Linear)
    bias = layer.bias - math.log(2.0) * layer.weight.sum(1)
    return torch.mm(functional.softplus(x), layer.weight.t()) + bias


class FastDeepPotSE(nn.Module):
    """DeepPot-SE with tabulated embedding networks.

    Their argument s(r) / scale grows without limit towards r = 0: pairs closer than ``shortest`` are
    evaluated without tables.

    Args:
        network: with its weights.
    """

    ahead: Tensor
    back: Tensor

    def __init__(self, network: DeepPotSE) -> None:
        super().__init__()
        # Nothing asks for the gradient of weights, which would record every operation.
        self.network = copy.deepcopy(network).requires_grad_(requires_grad=False)
        self.block = 16
        exact = copy.deepcopy(network).double()
        kinds = network.n_species
        self.shortest = 0.4
        # Factors of (s, s x / r) of an edge along its pair's vector, and of one against it.
        scales = torch.stack([network.scale_radial] + [network.scale_angular] * 3, dim=1)
        self.register_buffer("ahead", 1.0 / scales)
        self.register_buffer("back", torch.tensor([1.0, -1.0, -1.0, -1.0]).to(scales.dtype) / scales)
        end = 1.0 / (self.shortest * float(network.scale_radial.min()))

        def embedded(arguments: Tensor) -> Tensor:
            return exact.embedding(arguments.view(1, -1, 1).expand(kinds * kinds, -1, -1))

        with torch.no_grad():
            self.tables: RadialTables = tabulate(
                embedded, end, dtype=network.scale_radial.dtype, spacing=end / 500, tolerance=TOLERANCE
            )

    def forward(
        self, atomic_numbers: Tensor, pair_vectors: Tensor, pair_index: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Energies (n_atoms,), and their sum's gradient with respect to the pair vectors (n_pairs, 3)."""
        close = pair_vectors.size(0) == 0
        if not close:
            close = float(torch.linalg.vector_norm(pair_vectors.detach(), dim=1).min()) < self.shortest
        if close:
            return self.without_tables(atomic_numbers, pair_vectors, pair_index)
        return self.with_tables(pair_vectors, self.topology(atomic_numbers, pair_index))

    def with_tables(self, pair_vectors: Tensor, topology: list[Tensor]) -> tuple[Tensor, Tensor]:
        """The same, of pairs that are not too close, with what :meth:`topology` returned."""
        network = self.network
        pairs, factors, ordered = topology[0], topology[1], topology[2]
        vectors = pair_vectors.detach().requires_grad_()
        environment = network.environment(vectors)
        # Frozen TorchScript drops detach: what shall not be recorded has to stand where nothing is.
        with torch.no_grad():
            rows = environment.index_select(0, pairs).view(factors.size()) * factors
            near, share = self.tables.places(rows[:, :, 0].flatten())
            near = (near + (2 * self.tables.n_knots) * ordered).view(rows.size())
            share = share.view(rows.size())
            product = self.products(rows, near, share)
        product.requires_grad_()
        energies = self.fitted(product, topology[3], topology[4])
        of_product = torch.autograd.grad([energies.sum()], [product])[0]
        assert of_product is not None
        with torch.no_grad():
            of_rows = self.gradient_of_rows(rows, near, share, of_product) * factors
            of_environment = torch.zeros_like(environment).index_add(0, pairs, of_rows.view(-1, 4))
        # TorchScript wants optional tensors here, and mypy plain ones.
        weights: list[Tensor | None] = [of_environment]
        gradient = torch.autograd.grad([environment], [vectors], weights)[0]  # type: ignore[arg-type]
        assert gradient is not None
        return energies.detach(), gradient

    def topology(self, atomic_numbers: Tensor, pair_index: Tensor) -> list[Tensor]:
        """Index tensors that stay the same while species and pairs do: edges in K places per atom, atoms by species.

        Returns:
            pairs (n_atoms * K,); factors (n_atoms, K, 4) of (s, s x / r), 0 in empty places; ordered
            pair of species (n_atoms * K, 1); atoms in equal groups by species (n_species * group,), and the
            place (n_atoms,) of each among them.
        """
        network = self.network
        kinds = network.lookup[atomic_numbers]
        n_atoms, n_pairs = kinds.size(0), pair_index.size(1)
        centre, neighbour = directed_edges(pair_index)
        places = group_by_label(centre, n_atoms)[0]
        filled = places < centre.size(0)
        # Empty places borrow edge 0 and multiply it by zero.
        edges = (places % centre.size(0)).flatten()
        ahead, back = self.ahead.index_select(0, kinds), self.back.index_select(0, kinds)
        factors = torch.where((places < n_pairs).unsqueeze(2), ahead.unsqueeze(1), back.unsqueeze(1))
        factors = factors * filled.unsqueeze(2)
        others = kinds.index_select(0, neighbour.index_select(0, edges)).view(n_atoms, -1)
        ordered = (kinds.unsqueeze(1) * network.n_species + others).view(-1, 1)
        atoms, slots = group_by_label(kinds, network.n_species)
        # What an empty place of a group holds is never read.
        return [edges % n_pairs, factors, ordered, atoms.clamp(max=n_atoms - 1).flatten(), slots]

    @torch.jit.unused
    def fixed_topology(self, atomic_numbers: Tensor, pair_index: Tensor) -> list[Tensor]:
        """Index tensors for :meth:`fixed`."""
        return self.topology(atomic_numbers, pair_index)

    @torch.jit.unused
    def fixed(self, pair_vectors: Tensor, topology: list[Tensor]) -> tuple[Tensor, Tensor]:
        """What :meth:`with_tables` gives, in the form for few pairs: to be traced."""
        return self.with_tables(pair_vectors, topology)

    def block_of(self, rows: Tensor) -> int:
        """Atoms that are taken together."""
        return rows.size(0) if rows.is_cuda else self.block

    def products(self, rows: Tensor, near: Tensor, share: Tensor) -> Tensor:
        """R^T G (n_atoms, 4, width) of environment matrices (n_atoms, K, 4)."""
        size = self.block_of(rows)
        values = self.tables.values.flatten(0, 1)
        result: list[Tensor] = []
        for row, n, s in zip(rows.split(size), near.split(size), share.split(size)):  # noqa: B905
            embedded = read_table(values, n.flatten(0, 1), s.flatten(0, 1))
            result.append(torch.bmm(row.transpose(1, 2), embedded.view(n.size(0), n.size(1), -1)))
        return torch.cat(result)

    def gradient_of_rows(self, rows: Tensor, near: Tensor, share: Tensor, of_product: Tensor) -> Tensor:
        """Gradient (n_atoms, K, 4) with respect to the environment matrices from that of their products."""
        size = self.block_of(rows)
        values, slopes = self.tables.values.flatten(0, 1), self.tables.slopes.flatten(0, 1)
        result: list[Tensor] = []
        for row, n, s, of_block in zip(  # noqa: B905
            rows.split(size), near.split(size), share.split(size), of_product.split(size)
        ):
            flat_n, flat_s, back = n.flatten(0, 1), s.flatten(0, 1), of_block.transpose(1, 2)
            embedded = read_table(values, flat_n, flat_s).view(n.size(0), n.size(1), -1)
            slope = read_table(slopes, flat_n, flat_s).view(n.size(0), n.size(1), -1)
            # G depends on the first column, s.  Not in place: a trace would lose what is written to a view.
            through = (torch.bmm(slope, back) * row).sum(2, keepdim=True)
            result.append(torch.bmm(embedded, back) + functional.pad(through, [0, 3]))
        return torch.cat(result)

    def fitted(self, product: Tensor, atoms: Tensor, slots: Tensor) -> Tensor:
        """Energies (n_atoms,) of R^T G (n_atoms, 4, width), with the last two tensors of :meth:`topology`."""
        network = self.network
        product = product * (1.0 / network.n_neighbours)
        n_atoms, width = product.size(0), product.size(2)
        descriptor = torch.bmm(product.transpose(1, 2), product[:, :, : network.axis]).reshape(n_atoms, -1)
        grouped = descriptor.index_select(0, atoms).view(network.n_species, -1, width * network.axis)
        return network.fitting(grouped).flatten().index_select(0, slots)

    def without_tables(
        self, atomic_numbers: Tensor, pair_vectors: Tensor, pair_index: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The same by the network itself."""
        vectors = pair_vectors.detach().requires_grad_()
        energies = self.network.atomic_energies(vectors, self.network.topology(atomic_numbers, pair_index))
        gradient = torch.autograd.grad([energies.sum()], [vectors])[0]
        assert gradient is not None
        return energies.detach(), gradient


def fast_form(network: Network) -> nn.Module | None:
    """The fast form of an architecture that has one.

    Raises:
        ModelError: its radial networks are too rough for tables.
    """
    if isinstance(network, SchNet):
        return FastSchNet(network)
    if isinstance(network, DeepPotSE):
        return FastDeepPotSE(network)
    if isinstance(network, NequIP):
        return FastNequIP(network)
    if isinstance(network, DimeNet):
        return FastDimeNet(network)
    if isinstance(network, GemNetT):
        return FastGemNet(network)
    return None
