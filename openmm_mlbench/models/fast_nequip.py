"""NequIP's energy and gradient for a processor: gradients of the convolutions written out by hand, atoms in blocks.

The products of features and filters of a layer are up to a hundred times as many numbers as the sums over
neighbours that come out.  Nothing of them is kept here: atoms are taken in blocks whose products stay in the
processor's cache, and made again on the way back; filters are kept where one block holds all atoms.  What is left, the
radial networks, the spherical harmonics and the gates, is small, and differentiated by autograd.
"""

import copy

import torch
from torch import Tensor, nn

from openmm_mlbench.models.nequip import Layer, NequIP, _Mixing

# Numbers of the largest product of a block; in float32 1.6 MB, what a core has of cache for itself.
BLOCK_NUMBERS = 400_000


class _Convolution(nn.Module):
    """One layer's sums over neighbours, what is mixed of them and of the atom itself, and the gradients of it all.

    A filter is the last, linear layer of the radial network at a pair; see :meth:`NequIP.couplings` for what
    couples the components of features and messages.

    Args:
        network: with its weights.
        number: of the layer.
    """

    filters: Tensor
    linear: Tensor
    mixing: Tensor
    own_mixing: Tensor

    def __init__(self, network: NequIP, number: int) -> None:
        super().__init__()
        layer = network.layers[number]
        assert isinstance(layer, Layer)
        self.channels = network.features
        self.group_sizes: list[int] = layer.group_sizes
        self.input_sizes: list[int] = layer.input_sizes
        self.input_paths: list[int] = layer.input_paths
        input_of_group = [k for k, groups in enumerate(layer.input_groups) for _ in range(groups)]
        # Of each input: how many paths every group has that starts there.
        self.paths_of_input: list[list[int]] = [
            [paths for k, paths in zip(input_of_group, layer.group_paths, strict=True) if k == number]
            for number in range(len(layer.input_sizes))
        ]
        # Numbers of the largest product, per neighbour.
        self.largest = network.features * max(
            layer.input_sizes[k] * paths for k, paths in zip(input_of_group, layer.group_paths, strict=True)
        )
        self.coupling_places: list[int] = layer.coupling_places
        self.register_buffer("linear", layer.linear.detach().clone())
        # (n_paths, radial_width, channels).
        filters = layer.radial.detach().view(network.radial_width, -1, network.features)
        self.register_buffer("filters", filters.transpose(0, 1).contiguous())
        # Of each group: the kind where it ends, and the first of its paths among those that end there.
        self.kind_of_group: list[int] = [0] * len(layer.group_paths)
        self.place_in_kind: list[int] = [0] * len(layer.group_paths)
        # Of each kind: the input of the same kind or -1, components, and what the mixing gives.
        self.own: list[int] = []
        self.kind_sizes: list[int] = []
        self.kind_widths: list[int] = []
        mixing, own_mixing = [], []
        for kind, part in enumerate(layer.mixings):
            assert isinstance(part, _Mixing)
            self.own.append(part.own)
            self.kind_sizes.append(layer.group_sizes[part.groups[0]])
            self.kind_widths.append(part.weight.size(1))
            own_mixing.append(part.own_weight.detach().flatten() * (part.factor * part.own_factor))
            mixing.append(part.weight.detach().flatten() * part.factor)
            place = 0
            for group in part.groups:
                self.kind_of_group[group], self.place_in_kind[group] = kind, place
                place += layer.group_paths[group]
        self.mixing_sizes: list[int] = [part.numel() for part in mixing]
        self.own_sizes: list[int] = [part.numel() for part in own_mixing]
        self.register_buffer("mixing", torch.cat(mixing))
        self.register_buffer("own_mixing", torch.cat(own_mixing))

    def send(self, features: list[Tensor]) -> Tensor:
        """(n_atoms, all components, channels) of features (n_atoms, 2 l + 1, channels), after the linear map."""
        sent: list[Tensor] = []
        for feature, weight in zip(features, self.linear.unbind(0)):  # noqa: B905 - TorchScript has no strict zip
            sent.append(
                torch.mm(feature.reshape(-1, self.channels), weight).view(feature.size(0), -1, self.channels)
            )
        return torch.cat(sent, dim=1)

    def rows(self, near: Tensor, n_atoms: int) -> Tensor:
        """Where, among rows (all atoms * components), what a block's neighbours send stands.

        In the order (n_atoms, components, K): then a filter multiplies long runs of numbers.
        """
        n_components = sum(self.input_sizes)
        component = torch.arange(n_components, device=near.device).view(1, -1, 1)
        return ((near * n_components).view(n_atoms, 1, -1) + component).flatten()

    def filters_at(self, hidden: Tensor, own: Tensor) -> list[Tensor]:
        """Filters (paths, places, channels) of each input in the places of a block."""
        # Both atoms of a pair have the same filters, but a small block holds few pairs of all.
        shared = own.size(0) > hidden.size(0)
        radial = (hidden if shared else hidden.index_select(0, own)).unsqueeze(0)
        result: list[Tensor] = []
        for weight in self.filters.split(self.input_paths, 0):
            filters = torch.bmm(radial.expand(weight.size(0), -1, -1), weight)
            result.append(filters.index_select(1, own) if shared else filters)
        return result

    def beside(self, features: list[Tensor], species: Tensor) -> list[Tensor]:
        """Of each kind (n_atoms * (2 l + 1), width), what the atom's own features contribute."""
        n_atoms, n_species = species.size(0), species.size(1)
        result: list[Tensor] = []
        for kind, weight in enumerate(self.own_mixing.split(self.own_sizes)):
            rows, width, own = n_atoms * self.kind_sizes[kind], self.kind_widths[kind], self.own[kind]
            if own < 0:
                result.append(torch.zeros(rows, width, dtype=species.dtype, device=species.device))
            else:
                by_species = species.view(n_atoms, 1, n_species, 1) * features[own].unsqueeze(2)
                result.append(torch.mm(by_species.view(rows, -1), weight.view(-1, width)))
        return result

    def forward(
        self,
        features: list[Tensor],
        species: Tensor,
        sent: Tensor,
        hidden: Tensor,
        kept: list[Tensor],
        couplings: list[list[Tensor]],
        neighbour: Tensor,
        pair: Tensor,
        size: int,
    ) -> list[Tensor]:
        """What :class:`_Mixing` gives of each kind, (n_atoms, 2 l + 1, width).

        Args:
            features: per kind (n_atoms, 2 l + 1, channels).
            species: (n_atoms, n_species).
            sent: what :meth:`send` returned.
            hidden: (n_pairs, radial_width), what the radial network has before its last layer.
            kept: filters of a block of all atoms, or nothing.
            couplings: of each block, see :meth:`NequIP.couplings`.
            neighbour: (n_atoms * K,), see :meth:`NequIP.topology`.
            pair: (n_atoms * K,).
            size: places (atoms * K) of a block.
        """
        n_atoms, channels = sent.size(0), self.channels
        n_places = neighbour.size(0) // n_atoms
        mixings = self.mixing.split(self.mixing_sizes)
        mixed = self.beside(features, species)
        begin = 0
        for near, own, couple in zip(neighbour.split(size), pair.split(size), couplings):  # noqa: B905
            here = near.size(0) // n_places
            filters = kept if len(kept) > 0 else self.filters_at(hidden, own)
            seen = sent.view(-1, channels).index_select(0, self.rows(near, here))
            # One piece of memory for all products stays in the cache, which fresh ones would push out.
            scratch = torch.empty(near.size(0) * self.largest, dtype=sent.dtype, device=sent.device)
            messages: list[list[Tensor]] = [[] for _ in mixed]
            group = 0
            for k, visible in enumerate(seen.view(here, -1, n_places, channels).split(self.input_sizes, 1)):
                of_input = filters[k].view(-1, here, 1, n_places, channels)
                for weight in of_input.split(self.paths_of_input[k], 0):
                    paths = weight.size(0)
                    flat = scratch[: weight.numel() * visible.size(1)]
                    torch.mul(weight, visible, out=flat.view(paths, here, -1, n_places, channels))
                    message = torch.bmm(
                        couple[self.coupling_places[group]], flat.view(paths * here, -1, channels)
                    )
                    messages[self.kind_of_group[group]].append(message.view(paths, -1, channels))
                    group += 1
            for part, mixing, after, of_kind in zip(mixed, mixings, self.kind_sizes, messages):  # noqa: B905
                weight = mixing.view(-1, channels, part.size(1))
                part.narrow(0, begin * after, here * after).addbmm_(torch.cat(of_kind), weight)
            begin += here
        return [part.view(n_atoms, -1, part.size(1)) for part in mixed]

    @torch.jit.export
    def back(
        self,
        of_mixed: list[Tensor],
        sent: Tensor,
        hidden: Tensor,
        kept: list[Tensor],
        couplings: list[list[Tensor]],
        of_couplings: list[list[Tensor]],
        neighbour: Tensor,
        pair: Tensor,
        size: int,
    ) -> tuple[Tensor, Tensor]:
        """Gradients with respect to ``sent`` and ``hidden`` from that of each kind (n_atoms * (2 l + 1), width).

        That with respect to the couplings is added to ``of_couplings``.
        """
        n_atoms, channels = sent.size(0), self.channels
        n_places = neighbour.size(0) // n_atoms
        mixings = self.mixing.split(self.mixing_sizes)
        transposed = self.filters.transpose(1, 2).split(self.input_paths, 0)
        # Of each kind (n_paths, n_atoms * (2 l + 1), channels).
        of_messages: list[Tensor] = []
        for part, mixing in zip(of_mixed, mixings):  # noqa: B905
            weight = mixing.view(-1, channels, part.size(1)).transpose(1, 2)
            of_messages.append(torch.bmm(part.unsqueeze(0).expand(weight.size(0), -1, -1), weight))
        # (n_atoms * all components, channels).
        every = sent.view(-1, channels)
        of_sent, of_hidden = torch.zeros_like(every), torch.zeros_like(hidden)
        begin = 0
        for near, own, couple, of_couple in zip(  # noqa: B905
            neighbour.split(size), pair.split(size), couplings, of_couplings
        ):
            n_here = near.size(0)
            here = n_here // n_places
            filters = kept if len(kept) > 0 else self.filters_at(hidden, own)
            rows = self.rows(near, here)
            seen = every.index_select(0, rows)
            of_seen = torch.zeros_like(seen)
            along = torch.zeros(n_here, hidden.size(1), dtype=hidden.dtype, device=hidden.device)
            shape = [here, -1, n_places, channels]
            of_parts = of_seen.view(shape).split(self.input_sizes, 1)
            scratch = torch.empty(n_here * self.largest, dtype=sent.dtype, device=sent.device)
            group = 0
            for k, visible in enumerate(seen.view(shape).split(self.input_sizes, 1)):
                components = visible.unbind(1)
                of_filters = torch.empty_like(filters[k])
                shape = [-1, here, n_places, channels]
                for weight, of_weight in zip(  # noqa: B905
                    filters[k].view(shape).split(self.paths_of_input[k], 0),
                    of_filters.view(shape).split(self.paths_of_input[k], 0),
                ):
                    paths, after, place = weight.size(0), self.group_sizes[group], self.coupling_places[group]
                    of_message = of_messages[self.kind_of_group[group]].narrow(
                        0, self.place_in_kind[group], paths
                    )
                    of_message = of_message.narrow(1, begin * after, here * after).reshape(
                        -1, after, channels
                    )
                    spread = weight.unsqueeze(2)
                    # The product, and in its place, when nothing needs it any more, its gradient.
                    flat = scratch[: weight.numel() * visible.size(1)]
                    of_product, matrices = (
                        flat.view(paths, here, -1, n_places, channels),
                        flat.view(paths * here, -1, channels),
                    )
                    torch.mul(spread, visible, out=of_product)
                    of_couple[place].baddbmm_(of_message, matrices.transpose(1, 2))
                    torch.bmm(couple[place].transpose(1, 2), of_message, out=matrices)
                    # Component by component: nothing of the size of a product is written.
                    for component, of_component in enumerate(of_product.unbind(2)):
                        if component == 0:
                            torch.mul(of_component, components[0], out=of_weight)
                        else:
                            of_weight.addcmul_(of_component, components[component])
                    for of_path, path in zip(of_product.unbind(0), spread.unbind(0)):  # noqa: B905
                        of_parts[k].addcmul_(of_path, path)
                    group += 1
                along.addbmm_(of_filters, transposed[k])
            of_sent.index_add_(0, rows, of_seen)
            of_hidden.index_add_(0, own, along)
            begin += here
        return of_sent.view(n_atoms, -1, channels), of_hidden

    @torch.jit.export
    def gradient_of_features(self, of_sent: Tensor, of_mixed: list[Tensor], species: Tensor) -> list[Tensor]:
        """The way back of :meth:`send` and :meth:`beside`."""
        n_atoms, n_species, channels = species.size(0), species.size(1), self.channels
        result: list[Tensor] = []
        for part, weight in zip(of_sent.split(self.input_sizes, 1), self.linear.unbind(0)):  # noqa: B905
            result.append(torch.mm(part.reshape(-1, channels), weight.t()).view(n_atoms, -1, channels))
        for kind, weight in enumerate(self.own_mixing.split(self.own_sizes)):
            own = self.own[kind]
            if own >= 0:
                by_species = torch.mm(of_mixed[kind], weight.view(-1, self.kind_widths[kind]).t())
                by_species = by_species.view(n_atoms, -1, n_species, channels)
                result[own] = result[own] + (by_species * species.view(n_atoms, 1, n_species, 1)).sum(2)
        return result


def optional(tensors: list[Tensor]) -> list[Tensor | None]:
    """What TorchScript wants for the weights of ``torch.autograd.grad``."""
    result: list[Tensor | None] = []
    for tensor in tensors:
        result.append(tensor)  # noqa: PERF402 - a copy would keep the type of the elements
    return result


class FastNequIP(nn.Module):
    """NequIP without a graph of its convolutions.

    Args:
        network: with its weights.
    """

    def __init__(self, network: NequIP) -> None:
        super().__init__()
        # Nothing asks for the gradient of weights, which would record every operation.
        self.network = copy.deepcopy(network).requires_grad_(requires_grad=False)
        convolutions = [_Convolution(network, number) for number in range(network.n_layers)]
        self.convolutions = nn.ModuleList(convolutions)
        # TorchScript goes through modules in one direction only.
        self.backwards = nn.ModuleList(reversed(convolutions))
        self.shortest = 0.0
        self.block_numbers = BLOCK_NUMBERS
        self.largest = max(convolution.largest for convolution in convolutions)

    def forward(
        self, atomic_numbers: Tensor, pair_vectors: Tensor, pair_index: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Energies (n_atoms,), and their sum's gradient with respect to the pair vectors (n_pairs, 3)."""
        topology = self.network.topology(atomic_numbers, pair_index)
        if pair_vectors.size(0) == 0:
            return self.network.atomic_energies(pair_vectors, topology), pair_vectors
        return self.with_topology(pair_vectors, topology)

    def block_of(self, neighbour: Tensor, n_atoms: int) -> int:
        """Places of the atoms that are taken together; a GPU takes all."""
        n_places = neighbour.size(0) // n_atoms
        if neighbour.is_cuda:
            return neighbour.size(0)
        return n_places * max(1, min(n_atoms, self.block_numbers // (n_places * self.largest)))

    def couplings(self, harmonics: Tensor, n_atoms: int) -> list[Tensor]:
        """What :meth:`NequIP.couplings` gives, from scaled harmonics, with the last axis ((2 l_1 + 1) K)."""
        network = self.network
        result: list[Tensor] = []
        values = torch.mm(harmonics, network.coupling_table.to(harmonics.dtype))
        for k, value in enumerate(values.split(network.coupling_sizes, 1)):
            paths, after, before = network.coupling_shapes[k]
            places = value
            if paths > 0:
                places = value.view(n_atoms, -1, paths, after, before).permute(2, 0, 3, 4, 1)
                places = places.reshape(paths * n_atoms, after, -1)
            result.append(places)
        return result

    def gradient_of_harmonics(self, of_couplings: list[Tensor], n_places: int) -> Tensor:
        """The way back of :meth:`couplings`: (n_atoms * K, (l_max + 1)^2)."""
        network = self.network
        parts: list[Tensor] = []
        for k, value in enumerate(of_couplings):
            paths, after, before = network.coupling_shapes[k]
            if paths > 0:
                places = value.view(paths, -1, after, before, n_places).permute(1, 4, 0, 2, 3)
                parts.append(places.reshape(-1, paths * after * before))
        values = torch.cat(parts, dim=1)
        return torch.mm(values, network.coupling_table.to(values.dtype).t())

    def with_topology(self, pair_vectors: Tensor, topology: list[Tensor]) -> tuple[Tensor, Tensor]:
        """The same, of one pair or more, with what :meth:`NequIP.topology` returned."""
        network = self.network
        species, neighbour, pair, direction = topology[0], topology[1], topology[2], topology[3]
        n_atoms = species.size(0)
        n_places = neighbour.size(0) // n_atoms
        vectors = pair_vectors.detach().requires_grad_()
        distances = torch.linalg.vector_norm(vectors, dim=1)
        units = (vectors / distances.unsqueeze(1)).index_select(0, pair) * direction
        recorded = network.radial(distances)
        recorded.append(network.scaled_harmonics(units))
        # Frozen TorchScript drops detach: what shall not be recorded has to stand where nothing is.
        with torch.no_grad():
            radial = [result.clone() for result in recorded]
            harmonics = radial.pop()
            size = self.block_of(neighbour, n_atoms)
            few = neighbour.size(0) * self.largest <= self.block_numbers
            couplings: list[list[Tensor]] = []
            of_couplings: list[list[Tensor]] = []
            for around in harmonics.split(size):
                couple = self.couplings(around, around.size(0) // n_places)
                couplings.append(couple)
                of_couplings.append([torch.zeros_like(coupling) for coupling in couple])
            features = [torch.mm(species, network.embedding).unsqueeze(1)]
        # What the way back needs of each layer.
        sent: list[Tensor] = []
        kept: list[list[Tensor]] = []
        inputs: list[list[Tensor]] = []
        outputs: list[list[Tensor]] = []
        for k, (convolution, layer) in enumerate(zip(self.convolutions, network.layers)):  # noqa: B905
            with torch.no_grad():
                sent.append(convolution.send(features))  # type: ignore[operator]
                filters: list[Tensor] = []
                if few:
                    filters = convolution.filters_at(radial[k], pair)  # type: ignore[operator]
                kept.append(filters)
                mixed = convolution(
                    features, species, sent[k], radial[k], kept[k], couplings, neighbour, pair, size
                )
            mixed = [part.requires_grad_() for part in mixed]
            inputs.append(mixed)
            outputs.append(layer.gated(mixed))  # type: ignore[operator]
            with torch.no_grad():
                features = [feature.clone() for feature in outputs[k]]
        scalars = features[0].requires_grad_()
        energies = network.read_out(scalars, species)
        of_scalars = torch.autograd.grad([energies.sum()], [scalars])[0]
        assert of_scalars is not None
        of_features = [of_scalars]
        of_radial: list[Tensor] = []
        for step, convolution in enumerate(self.backwards):
            k = network.n_layers - 1 - step
            # TorchScript wants optional tensors here, and mypy plain ones.
            weights = optional(of_features)
            found = torch.autograd.grad(outputs[k], inputs[k], weights)  # type: ignore[arg-type]
            with torch.no_grad():
                of_mixed: list[Tensor] = []
                for of_part in found:
                    assert of_part is not None
                    of_mixed.append(of_part.reshape(-1, of_part.size(2)))
                of_sent, of_hidden = convolution.back(  # type: ignore[operator]
                    of_mixed, sent[k], radial[k], kept[k], couplings, of_couplings, neighbour, pair, size
                )
                of_radial.insert(0, of_hidden)
                of_features = convolution.gradient_of_features(of_sent, of_mixed, species)  # type: ignore[operator]
        with torch.no_grad():
            of_radial.append(
                torch.cat([self.gradient_of_harmonics(of_couple, n_places) for of_couple in of_couplings])
            )
        gradient = torch.autograd.grad(recorded, [vectors], optional(of_radial))[0]  # type: ignore[arg-type]
        assert gradient is not None
        return energies.detach(), gradient
