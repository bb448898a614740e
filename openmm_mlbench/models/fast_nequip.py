"""NequIP's energy and gradient for a processor: gradients of the convolutions written out by hand, atoms in blocks.

The products of features and filters of a layer are up to a hundred times as many numbers as the sums over
neighbours that come out.  Nothing of them is kept here: atoms are taken in blocks whose products stay in the
processor's cache, and made again on the way back.  What is left, the radial networks, the spherical harmonics
and what becomes of the messages, is small, and differentiated by autograd.
"""

import copy

import torch
from torch import Tensor, nn

from openmm_mlbench.models.nequip import Layer, NequIP

# Numbers of the largest product of a block; in float32 1.6 MB, what a core has of cache for itself.
BLOCK_NUMBERS = 400_000


class _Convolution(nn.Module):
    """One layer's sums over neighbours and their gradients.

    A filter is the last, linear layer of the radial network at a pair; see :meth:`NequIP.couplings` for what
    couples the components of features and messages.

    Args:
        network: with its weights.
        number: of the layer.
    """

    filters: Tensor
    linear: Tensor

    def __init__(self, network: NequIP, number: int) -> None:
        super().__init__()
        layer = network.layers[number]
        assert isinstance(layer, Layer)
        self.channels = network.features
        self.input_of_group: list[int] = [
            k for k, groups in enumerate(layer.input_groups) for _ in range(groups)
        ]
        self.group_paths: list[int] = layer.group_paths
        self.group_sizes: list[int] = layer.group_sizes
        self.input_sizes: list[int] = layer.input_sizes
        self.widths: list[int] = [size * network.features for size in layer.input_sizes]
        # Numbers of the largest product, per neighbour.
        self.largest = network.features * max(
            layer.input_sizes[k] * paths
            for k, paths in zip(self.input_of_group, layer.group_paths, strict=True)
        )
        self.coupling_places: list[int] = layer.coupling_places
        self.register_buffer("linear", layer.linear.detach().clone())
        # (n_paths, radial_width, channels).
        filters = layer.radial.detach().view(network.radial_width, -1, network.features)
        self.register_buffer("filters", filters.transpose(0, 1).contiguous())

    def send(self, features: list[Tensor]) -> Tensor:
        """(n_atoms, all components * channels) of features (n_atoms, 2 l + 1, channels), after the linear map."""
        sent: list[Tensor] = []
        for feature, weight in zip(features, self.linear.unbind(0)):  # noqa: B905 - TorchScript has no strict zip
            sent.append(torch.mm(feature.reshape(-1, self.channels), weight).view(feature.size(0), -1))
        return torch.cat(sent, dim=1)

    def rows(self, near: Tensor, n_atoms: int) -> list[Tensor]:
        """Of each input where, among rows (all atoms * components), what a block's neighbours send stands.

        In the order (n_atoms, 2 l + 1, K): then a filter multiplies long runs of numbers.
        """
        first = (near * sum(self.input_sizes)).view(n_atoms, 1, -1)
        result: list[Tensor] = []
        begin = 0
        for size in self.input_sizes:
            component = torch.arange(begin, begin + size, device=near.device).view(1, -1, 1)
            result.append((first + component).flatten())
            begin += size
        return result

    def seen(self, sent: Tensor, near: Tensor, n_atoms: int) -> list[Tensor]:
        """Features (n_atoms, 2 l + 1, K, channels) of each input at a block's neighbours."""
        every = sent.view(-1, self.channels)
        result: list[Tensor] = []
        for k, rows in enumerate(self.rows(near, n_atoms)):
            found = every.index_select(0, rows)
            result.append(found.view(n_atoms, self.input_sizes[k], -1, self.channels))
        return result

    def forward(
        self,
        sent: Tensor,
        hidden: Tensor,
        couplings: list[list[Tensor]],
        neighbour: Tensor,
        pair: Tensor,
        size: int,
    ) -> list[Tensor]:
        """Messages (n_paths, n_atoms, 2 l_3 + 1, channels) of each group, as :meth:`Layer.messages` gives them.

        Args:
            sent: what :meth:`send` returned.
            hidden: (n_pairs, radial_width), what the radial network has before its last layer.
            couplings: of each block, see :meth:`NequIP.couplings`.
            neighbour: (n_atoms * K,), see :meth:`NequIP.topology`.
            pair: (n_atoms * K,).
            size: places (atoms * K) of a block.
        """
        n_atoms, channels = sent.size(0), self.channels
        n_places = neighbour.size(0) // n_atoms
        weights = self.filters.split(self.group_paths, 0)
        blocks: list[list[Tensor]] = []
        for near, own, couple in zip(neighbour.split(size), pair.split(size), couplings):  # noqa: B905
            here = near.size(0) // n_places
            radial = hidden.index_select(0, own).unsqueeze(0)
            seen = self.seen(sent, near, here)
            messages: list[Tensor] = []
            for group, weight in enumerate(weights):
                k = self.input_of_group[group]
                filters = torch.bmm(radial.expand(weight.size(0), -1, -1), weight)
                product = filters.view(-1, here, 1, n_places, channels) * seen[k].unsqueeze(0)
                summed = torch.bmm(
                    couple[self.coupling_places[group]],
                    product.view(weight.size(0) * here, -1, channels),
                )
                messages.append(summed.view(-1, here, self.group_sizes[group], channels))
            blocks.append(messages)
        return [torch.cat([messages[group] for messages in blocks], dim=1) for group in range(len(weights))]

    @torch.jit.export
    def back(
        self,
        of_messages: list[Tensor],
        sent: Tensor,
        hidden: Tensor,
        couplings: list[list[Tensor]],
        of_couplings: list[list[Tensor]],
        neighbour: Tensor,
        pair: Tensor,
        size: int,
    ) -> tuple[Tensor, Tensor]:
        """Gradients with respect to ``sent`` and ``hidden`` from that of the messages.

        That with respect to the couplings is added to ``of_couplings``.
        """
        n_atoms, channels = sent.size(0), self.channels
        n_places = neighbour.size(0) // n_atoms
        weights = self.filters.split(self.group_paths, 0)
        # (n_atoms * all components, channels).
        of_sent, of_hidden = torch.zeros_like(sent).view(-1, channels), torch.zeros_like(hidden)
        begin = 0
        for near, own, couple, of_couple in zip(  # noqa: B905
            neighbour.split(size), pair.split(size), couplings, of_couplings
        ):
            n_here = near.size(0)
            here = n_here // n_places
            radial = hidden.index_select(0, own).unsqueeze(0)
            seen = self.seen(sent, near, here)
            of_seen: list[Tensor] = [torch.zeros_like(part) for part in seen]
            along = torch.zeros(n_here, hidden.size(1), dtype=hidden.dtype, device=hidden.device)
            for group, weight in enumerate(weights):
                k, place = self.input_of_group[group], self.coupling_places[group]
                visible = seen[k]
                filters = torch.bmm(radial.expand(weight.size(0), -1, -1), weight)
                filters = filters.view(-1, here, 1, n_places, channels)
                arriving = of_messages[group].narrow(1, begin, here)
                arriving = arriving.reshape(-1, self.group_sizes[group], channels)
                product = (filters * visible.unsqueeze(0)).view(arriving.size(0), -1, channels)
                of_couple[place].baddbmm_(arriving, product.transpose(1, 2))
                of_product = torch.bmm(couple[place].transpose(1, 2), arriving)
                shape = [weight.size(0), here, -1, n_places, channels]
                for path, of_path in enumerate(of_product.view(shape).unbind(0)):
                    # Component by component: nothing of the size of a product is written.
                    of_filter = of_path[:, 0] * visible[:, 0]
                    for component in range(1, visible.size(1)):
                        of_filter.addcmul_(of_path[:, component], visible[:, component])
                    along.addmm_(of_filter.view(n_here, channels), weight[path].t())
                    of_seen[k].addcmul_(of_path, filters[path])
            for k, rows in enumerate(self.rows(near, here)):
                of_sent.index_add_(0, rows, of_seen[k].view(-1, channels))
            of_hidden.index_add_(0, own, along)
            begin += here
        return of_sent.view(n_atoms, -1), of_hidden

    @torch.jit.export
    def gradient_of_features(self, of_sent: Tensor) -> list[Tensor]:
        """The way back of :meth:`send`."""
        result: list[Tensor] = []
        for part, weight in zip(of_sent.split(self.widths, 1), self.linear.unbind(0)):  # noqa: B905
            back = torch.mm(part.reshape(-1, self.channels), weight.t())
            result.append(back.view(part.size(0), -1, self.channels))
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
            couplings: list[list[Tensor]] = []
            of_couplings: list[list[Tensor]] = []
            for around in harmonics.split(size):
                couple = self.couplings(around, around.size(0) // n_places)
                couplings.append(couple)
                of_couplings.append([torch.zeros_like(coupling) for coupling in couple])
            features = [torch.mm(species, network.embedding).unsqueeze(1)]
        # What the way back needs of each layer.
        sent: list[Tensor] = []
        inputs: list[list[Tensor]] = []
        outputs: list[list[Tensor]] = []
        for k, (convolution, layer) in enumerate(zip(self.convolutions, network.layers)):  # noqa: B905
            with torch.no_grad():
                sent.append(convolution.send(features))  # type: ignore[operator]
                messages = convolution(sent[k], radial[k], couplings, neighbour, pair, size)
            messages = [message.requires_grad_() for message in messages]
            features = [feature.requires_grad_() for feature in features]
            inputs.append(messages + features)
            outputs.append(layer.update(messages, features, species))  # type: ignore[operator]
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
            found = torch.autograd.grad(outputs[k], inputs[k], weights, allow_unused=True)  # type: ignore[arg-type]
            n_features = len(outputs[k - 1]) if k > 0 else 1
            with torch.no_grad():
                of_messages: list[Tensor] = []
                for of_message in found[: len(found) - n_features]:
                    assert of_message is not None
                    of_messages.append(of_message)
                of_sent, of_hidden = convolution.back(  # type: ignore[operator]
                    of_messages, sent[k], radial[k], couplings, of_couplings, neighbour, pair, size
                )
                of_radial.insert(0, of_hidden)
                own = found[len(found) - n_features :]
                of_features = []
                for j, of_feature in enumerate(convolution.gradient_of_features(of_sent)):  # type: ignore[operator]
                    beside = own[j]
                    of_features.append(of_feature if beside is None else of_feature + beside)
        with torch.no_grad():
            of_radial.append(
                torch.cat([self.gradient_of_harmonics(of_couple, n_places) for of_couple in of_couplings])
            )
        gradient = torch.autograd.grad(recorded, [vectors], optional(of_radial))[0]  # type: ignore[arg-type]
        assert gradient is not None
        return energies.detach(), gradient
