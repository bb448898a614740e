"""NequIP: convolutions with spherical harmonics between features that rotate with the molecule.

Batzner et al., "E(3)-equivariant graph neural networks for data-efficient and
accurate interatomic potentials", Nat. Commun. 13, 2453 (2022), in the form of
the nequip package: tensor products of features with spherical harmonics of the
pair vectors, weighted by a radial network; self-connections with one matrix per
species; gates.

A feature has a degree l and one of two parities.  Here a kind of feature is
(l, 0), which inverts as (-1)^l like a spherical harmonic, or (l, 1), a
pseudotensor, which inverts as (-1)^(l + 1).  A product of degrees l_1 and l_2
that gives l_3 keeps the second number when l_1 + l_2 + l_3 is even and changes
it when odd.  Features of one kind are a tensor (n_atoms, 2 l + 1, channels).
"""

import functools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from openmm_mlbench.models.bases import bessel_basis
from openmm_mlbench.models.cutoffs import polynomial_envelope
from openmm_mlbench.models.neighbours import directed_edges, group_by_label, group_in_places, largest_row
from openmm_mlbench.models.network import Network

Kind = tuple[int, int]

# e3nn's factors that give an activation of a normal variable the second moment 1.
SILU_FACTOR = 1.6791767923989418
TANH_FACTOR = 1.5937334472592695


@functools.cache
def wigner_3j(l_1: int, l_2: int, l_3: int) -> Tensor:
    """e3nn's real Wigner 3j symbols (2 l_1 + 1, 2 l_2 + 1, 2 l_3 + 1), float64."""
    # Here, because importing e3nn takes longer than everything else of this file.
    from e3nn.o3 import wigner_3j as symbols

    return symbols(l_1, l_2, l_3, dtype=torch.float64)


def harmonic_steps(l_max: int) -> list[Tensor]:
    """Matrices (3 (2 l - 1), 2 l + 1) that make Y_l of the products of Y_(l-1) and a unit vector; l = 1, ..., l_max.

    Y_l is proportional to the product of Y_(l-1) and the vector that transforms with degree l;
    its sum of squares is 2 l + 1 (e3nn's normalization "component").
    """
    steps = []
    # Y_l of the unit vector along z, where all norms are read off.
    pole = torch.ones(1, dtype=torch.float64)
    along = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    for degree in range(1, l_max + 1):
        symbols = wigner_3j(degree - 1, 1, degree)
        value = torch.einsum("abc,a,b->c", symbols, pole, along)
        factor = math.sqrt(2 * degree + 1) / float(torch.linalg.vector_norm(value))
        pole = value * factor
        steps.append((symbols * factor).reshape(-1, 2 * degree + 1))
    return steps


def degrees_between(l_1: int, l_3: int, change: int, l_max: int) -> list[int]:
    """Degrees l_2 of spherical harmonics that couple l_1 to l_3 and keep (0) or change (1) the parity number."""
    reach = range(abs(l_1 - l_3), min(l_1 + l_3, l_max) + 1)
    return [l_2 for l_2 in reach if (l_1 + l_2 + l_3) % 2 == change]


def couplings_between(l_1: int, l_3: int, change: int, l_max: int) -> Tensor:
    """Coefficients ((l_max + 1)^2, n_paths * (2 l_3 + 1) * (2 l_1 + 1)) of all products from l_1 to l_3.

    They turn spherical harmonics into matrices from features to messages, with e3nn's
    normalization: sqrt(2 l_3 + 1) times the Wigner 3j symbols.
    """
    paths = degrees_between(l_1, l_3, change, l_max)
    table = torch.zeros((l_max + 1) ** 2, len(paths), 2 * l_3 + 1, 2 * l_1 + 1, dtype=torch.float64)
    for k, l_2 in enumerate(paths):
        symbols = wigner_3j(l_1, l_2, l_3) * math.sqrt(2 * l_3 + 1)
        table[l_2 * l_2 : (l_2 + 1) ** 2, k] = symbols.permute(1, 2, 0)
    return table.flatten(1)


def kinds_of_layers(layers: int, l_max: int, parity: bool) -> list[list[Kind]]:
    """Kinds of features before the first layer and after each layer: those that exist and that the energy depends on.

    The nequip package also computes features that nothing depends on, above all
    pseudotensors in the layer before the last.
    """
    every = [(degree, number) for number in range(2 if parity else 1) for degree in range(l_max + 1)]

    def connected(one: Kind, other: Kind) -> bool:
        return len(degrees_between(one[0], other[0], one[1] ^ other[1], l_max)) > 0

    existing = [[(0, 0)]]
    for _ in range(layers - 1):
        existing.append([kind for kind in every if any(connected(source, kind) for source in existing[-1])])
    needed = [[(0, 0)]]
    for kinds in reversed(existing):
        needed.insert(0, [kind for kind in kinds if any(connected(kind, target) for target in needed[0])])
    return needed


class _Mixing(nn.Module):
    """What the messages of one kind and the atom's own features become: ``linear_2`` and the self-connection.

    Args:
        n_paths: tensor products that end in this kind.
        own: place of this kind among the layer's inputs, or -1.
        groups: which of the layer's groups of products end here.
    """

    def __init__(
        self, n_paths: int, channels: int, width: int, n_species: int, own: int, groups: list[int]
    ) -> None:
        super().__init__()
        self.own = own
        self.groups = groups
        self.factor = 1.0 / math.sqrt(n_paths * channels)
        # e3nn's normalization of a tensor product with n_species channels, of which one is not zero.
        self.own_factor = math.sqrt(n_paths / n_species)
        self.weight = nn.Parameter(torch.randn(n_paths * channels, width))
        self.own_weight = nn.Parameter(torch.randn(n_species * channels if own >= 0 else 0, width))

    def forward(self, messages: list[Tensor], features: list[Tensor], species: Tensor) -> Tensor:
        """(n_atoms, 2 l + 1, width) from messages (n_paths, n_atoms, 2 l + 1, channels) of each group."""
        parts = [messages[group].permute(1, 2, 0, 3) for group in self.groups]
        weight: Tensor = self.weight
        if self.own >= 0:
            own = (species * self.own_factor).view(species.size(0), 1, -1, 1)
            parts.append(own * features[self.own].unsqueeze(2))
            weight = torch.cat([weight, self.own_weight])
        received = torch.cat(parts, dim=2)
        n_atoms, size = received.size(0), received.size(1)
        mixed = torch.mm(received.view(n_atoms * size, -1), weight * self.factor)
        return mixed.view(n_atoms, size, -1)


class Layer(nn.Module):
    """One interaction block and its gate.

    Products are done in groups that share the kinds before and after: a group has
    as many paths as there are degrees l_2 between them.

    Args:
        before: kinds of features that come in; (0, 0) first.
        after: kinds that go out; (0, 0) first.
    """

    def __init__(
        self,
        before: list[Kind],
        after: list[Kind],
        *,
        l_max: int,
        channels: int,
        radial_width: int,
        n_species: int,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.silu_factor = SILU_FACTOR
        self.tanh_factor = TANH_FACTOR
        # Of each group: place of its couplings in NequIP.couplings, paths, number of components after.
        self.coupling_places: list[int] = []
        self.group_paths: list[int] = []
        self.group_sizes: list[int] = []
        # Of each input: paths, components, and how many groups start there.
        self.input_paths: list[int] = []
        self.input_sizes: list[int] = []
        self.input_groups: list[int] = []
        ends: list[Kind] = []
        for l_1, number in before:
            starts = len(ends)
            for l_3, target in after:
                paths = len(degrees_between(l_1, l_3, number ^ target, l_max))
                if paths > 0:
                    self.coupling_places.append(coupling_place(l_1, l_3, number ^ target, l_max))
                    self.group_paths.append(paths)
                    self.group_sizes.append(2 * l_3 + 1)
                    ends.append((l_3, target))
            self.input_groups.append(len(ends) - starts)
            self.input_paths.append(sum(self.group_paths[starts:]))
            self.input_sizes.append(2 * l_1 + 1)
        self.n_paths = sum(self.group_paths)
        self.linear = nn.Parameter(torch.randn(len(before), channels, channels))
        self.radial = nn.Parameter(uniform(radial_width, self.n_paths * channels))
        self.scalars = [k for k, kind in enumerate(after) if kind[0] == 0]
        n_gates = len(after) - len(self.scalars)
        mixings = []
        for kind in after:
            groups = [k for k, end in enumerate(ends) if end == kind]
            mixings.append(
                _Mixing(
                    sum(self.group_paths[k] for k in groups),
                    channels,
                    channels * (1 + n_gates) if kind == (0, 0) else channels,
                    n_species,
                    before.index(kind) if kind in before else -1,
                    groups,
                )
            )
        self.mixings = nn.ModuleList(mixings)

    def messages(
        self, features: list[Tensor], radial: Tensor, couplings: list[Tensor], topology: list[Tensor]
    ) -> list[Tensor]:
        """The article's convolution: sums over neighbours of all products, (n_paths, n_atoms, 2 l_3 + 1, channels) per group."""
        neighbour, pair = topology[1], topology[2]
        n_atoms, channels = features[0].size(0), self.channels
        n_places = neighbour.size(0) // n_atoms
        filters = torch.mm(radial, self.radial).view(radial.size(0), self.n_paths, channels)
        filters_of_inputs = filters.transpose(0, 1).index_select(1, pair).split(self.input_paths, 0)
        sent = [
            torch.mm(features[k].view(-1, channels), weight).view(n_atoms, -1)
            for k, weight in enumerate(self.linear.unbind(0))
        ]
        widths = [size * channels for size in self.input_sizes]
        seen = torch.cat(sent, dim=1).index_select(0, neighbour).split(widths, 1)
        messages: list[Tensor] = []
        for k, size in enumerate(self.input_sizes):
            product = filters_of_inputs[k].view(-1, n_atoms, n_places, 1, channels) * seen[k].view(
                1, n_atoms, n_places, size, channels
            )
            first = len(messages)
            paths = self.group_paths[first : first + self.input_groups[k]]
            for part in product.split(paths, 0):
                group = len(messages)
                # Sum over neighbours and components at once.
                summed = torch.bmm(
                    couplings[self.coupling_places[group]],
                    part.reshape(-1, n_places * size, channels),
                )
                messages.append(summed.view(-1, n_atoms, self.group_sizes[group], channels))
        return messages

    def forward(
        self, features: list[Tensor], radial: Tensor, couplings: list[Tensor], topology: list[Tensor]
    ) -> list[Tensor]:
        """Features of each kind after the layer.

        Args:
            features: per kind (n_atoms, 2 l + 1, channels).
            radial: (n_pairs, radial_width), what the radial network has before its last layer.
            couplings: see :meth:`NequIP.couplings`.
            topology: see :meth:`NequIP.topology`.
        """
        return self.update(self.messages(features, radial, couplings, topology), features, topology[0])

    def update(self, messages: list[Tensor], features: list[Tensor], species: Tensor) -> list[Tensor]:
        """Features of each kind after the layer from what :meth:`messages` gave."""
        return self.gated([mixing(messages, features, species) for mixing in self.mixings])

    def gated(self, mixed: list[Tensor]) -> list[Tensor]:
        """Features of each kind after the layer from what the mixing of each kind gave."""
        # One gate per tensor feature, behind the scalars; silu suits even scalars, tanh odd ones.
        gates = (functional.silu(mixed[0]) * self.silu_factor).split(self.channels, 2)
        result: list[Tensor] = []
        used = 0
        for k, value in enumerate(mixed):
            if k == 0:
                result.append(gates[0])
            elif k in self.scalars:
                result.append(torch.tanh(value) * self.tanh_factor)
            else:
                used += 1
                result.append(value * gates[used])
        return result


def coupling_place(l_1: int, l_3: int, change: int, l_max: int) -> int:
    """Where the couplings of a group stand in the list of all."""
    return (l_1 * (l_max + 1) + l_3) * 2 + change


def uniform(*shape: int) -> Tensor:
    """Weights of mean 0 and variance 1, as the nequip package starts its radial networks."""
    return (2.0 * torch.rand(*shape) - 1.0) * math.sqrt(3.0)


class NequIP(Network):
    """Energy per atom from scalars that tensors of up to degree l_max have contributed to.

    Weights have variance 1 at the start; the factors that keep activations at the same size are
    part of the function, as in e3nn.

    Args:
        species: atomic numbers that the model knows.
        l_max: largest degree of features and spherical harmonics.
        parity: also have pseudotensors, which change sign the other way under inversion.
        features: channels of each kind.
        layers: interaction blocks.
        bessels: radial basis functions, with trained frequencies.
        envelope_power: p of the polynomial envelope of the basis.
        radial_layers: hidden layers of the radial networks.
        radial_width: their width.
        cutoff: A.
        rescale_species: also train a scale and a shift of the energy for each element.
        neighbours: mean number of neighbours that sums over them are normalised with; fit_statistics
            takes it from the training frames.
    """

    publication = "Batzner et al., Nat. Commun. 2022"
    all_pairs_up_to = 10
    compiled_up_to = 17
    lookup: Tensor
    neighbours: Tensor
    harmonics: Tensor
    coupling_table: Tensor
    # Empty where l_max is 0, which says nothing of its type.
    step_sizes: list[int]

    def __init__(
        self,
        *,
        species: list[int],
        l_max: int = 3,
        parity: bool = True,
        features: int = 32,
        layers: int = 5,
        bessels: int = 8,
        envelope_power: int = 6,
        radial_layers: int = 2,
        radial_width: int = 64,
        cutoff: float = 4.0,
        rescale_species: bool = False,
        neighbours: float = 1.0,
    ) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.l_max = l_max
        self.features = features
        self.n_layers = layers
        self.envelope_power = envelope_power
        self.radial_width = radial_width
        lookup = torch.full((119,), -1, dtype=torch.long)
        lookup[torch.tensor(sorted(species))] = torch.arange(len(species))
        self.register_buffer("lookup", lookup)
        self.register_buffer("neighbours", torch.tensor(neighbours))
        self.frequencies = nn.Parameter(math.pi * torch.arange(1.0, bessels + 1))
        self.embedding = nn.Parameter(torch.randn(len(species), features))
        self.radial_in = nn.Parameter(uniform(layers, bessels, radial_width))
        self.radial_mid = nn.Parameter(uniform(radial_layers - 1, layers, radial_width, radial_width))
        kinds = kinds_of_layers(layers, l_max, parity)
        self.layers = nn.ModuleList(
            Layer(
                kinds[k],
                kinds[k + 1],
                l_max=l_max,
                channels=features,
                radial_width=radial_width,
                n_species=len(species),
            )
            for k in range(layers)
        )
        self.readout = nn.Parameter(uniform(features, 1))
        self.rescale_species = rescale_species
        n_rescaled = len(species) if rescale_species else 0
        self.species_scale = nn.Parameter(torch.ones(n_rescaled, 1))
        self.species_shift = nn.Parameter(torch.zeros(n_rescaled, 1))
        self.register_constants(1 if not parity else 2)

    def register_constants(self, n_changes: int) -> None:
        """Constants in float64, whatever the network computes in: rounded ones would break the symmetry."""
        steps = harmonic_steps(self.l_max)
        self.step_sizes = [step.numel() for step in steps]
        table = (
            torch.cat([step.flatten() for step in steps]) if steps else torch.zeros(0, dtype=torch.float64)
        )
        self.register_buffer("harmonics", table)
        self.coupling_sizes: list[int] = []
        self.coupling_shapes: list[tuple[int, int, int]] = []
        columns = []
        for l_1 in range(self.l_max + 1):
            for l_3 in range(self.l_max + 1):
                for change in range(2):
                    used = change < n_changes
                    paths = len(degrees_between(l_1, l_3, change, self.l_max)) if used else 0
                    if paths > 0:
                        columns.append(couplings_between(l_1, l_3, change, self.l_max))
                    self.coupling_shapes.append((paths, 2 * l_3 + 1, 2 * l_1 + 1))
                    self.coupling_sizes.append(paths * (2 * l_3 + 1) * (2 * l_1 + 1))
        self.register_buffer("coupling_table", torch.cat(columns, dim=1))

    def topology(self, atomic_numbers: Tensor, pair_index: Tensor) -> list[Tensor]:
        """Index tensors that stay the same while species and pairs do.

        Directed edges are laid out as (n_atoms, K): K places for each atom, as many as
        the atom with the most neighbours has.

        Returns:
            species (n_atoms, n_species), 1 for the atom's own, else 0; of each of the n_atoms * K
            places the neighbouring atom, the pair, and its direction (n_places, 1): +-1, or 0 in
            an empty place.
        """
        centre, neighbour = directed_edges(pair_index)
        places = group_by_label(centre, atomic_numbers.size(0))[0].flatten()
        return self._in_rows(atomic_numbers, neighbour, places)

    def fixed_lengths(self, atomic_numbers: Tensor, pair_index: Tensor, room: float) -> list[int]:
        """Edges of an atom."""
        return [largest_row(pair_index, atomic_numbers.size(0), room)]

    def fixed_topology(
        self, atomic_numbers: Tensor, pair_index: Tensor, filled: Tensor, lengths: list[int]
    ) -> tuple[list[Tensor], Tensor]:
        """See the base class."""
        centre, neighbour = directed_edges(pair_index)
        n_atoms = atomic_numbers.size(0)
        labels = torch.where(filled.repeat(2), centre, torch.full_like(centre, n_atoms))
        places, _, full = group_in_places(labels, n_atoms, lengths[0])
        return self._in_rows(atomic_numbers, neighbour, places.flatten()), full

    def _in_rows(self, atomic_numbers: Tensor, neighbour: Tensor, places: Tensor) -> list[Tensor]:
        """The tensors of :meth:`topology` from the edge in each place, or n_edges in an empty one."""
        n_edges = neighbour.size(0)
        n_pairs = n_edges // 2
        filled = places < n_edges
        # Empty places borrow edge 0 and multiply it by zero.
        edges = torch.where(filled, places, torch.zeros_like(places))
        dtype = self.embedding.dtype
        direction = torch.where(edges < n_pairs, 1.0, -1.0).to(dtype) * filled
        kinds = self.lookup[atomic_numbers]
        species = kinds.unsqueeze(1) == torch.arange(self.embedding.size(0), device=kinds.device)
        if n_edges == 0:
            neighbour = torch.zeros(1, dtype=torch.long, device=places.device)
        return [
            species.to(dtype),
            neighbour.index_select(0, edges),
            edges % max(n_pairs, 1),
            direction.unsqueeze(1),
        ]

    def spherical_harmonics(self, vectors: Tensor) -> Tensor:
        """Y_l (n, (l_max + 1)^2) of unit vectors (n, 3), and 0 of zero vectors; e3nn's order and "component" norm."""
        degree = (vectors * vectors).sum(1, keepdim=True)
        result = [degree]
        steps = self.harmonics.to(vectors.dtype).split(self.step_sizes)
        for k, step in enumerate(steps):
            products = (degree.unsqueeze(2) * vectors.unsqueeze(1)).flatten(1)
            degree = torch.mm(products, step.view(-1, 2 * k + 3))
            result.append(degree)
        return torch.cat(result, dim=1)

    def scaled_harmonics(self, vectors: Tensor) -> Tensor:
        """Spherical harmonics with two normalizations: of the sums over neighbours and of the linear map before them."""
        factor = torch.rsqrt(self.neighbours * self.features)
        return self.spherical_harmonics(vectors) * factor.to(vectors.dtype)

    def couplings(self, vectors: Tensor, n_atoms: int) -> list[Tensor]:
        """Matrices (n_paths * n_atoms, 2 l_3 + 1, K (2 l_1 + 1)) from features of neighbours to their sum.

        Args:
            vectors: unit vectors (n_atoms * K, 3), or zero in an empty place.
            n_atoms: in the batch.
        """
        harmonics = self.scaled_harmonics(vectors)
        values = torch.mm(harmonics, self.coupling_table.to(harmonics.dtype)).split(self.coupling_sizes, 1)
        result: list[Tensor] = []
        for k, value in enumerate(values):
            paths, after, before = self.coupling_shapes[k]
            places = value.view(n_atoms, -1, paths, after, before) if paths > 0 else value
            if paths > 0:
                places = places.permute(2, 0, 3, 1, 4).reshape(paths * n_atoms, after, -1)
            result.append(places)
        return result

    def radial(self, distances: Tensor) -> list[Tensor]:
        """Hidden values (n_pairs, radial_width) of each layer's radial network, before its last layer."""
        scaled = distances * (1.0 / self.cutoff)
        basis = bessel_basis(scaled, self.frequencies) * polynomial_envelope(
            scaled, self.envelope_power
        ).unsqueeze(1)
        # The package's constant 2 / c of sin(n pi d / c) / d, and the normalization of the first layer.
        basis = basis * (2.0 / self.cutoff**2 / math.sqrt(basis.size(1)))
        hidden = torch.bmm(basis.unsqueeze(0).expand(self.n_layers, -1, -1), self.radial_in)
        # No biases: at the cutoff everything ends.
        factor = math.sqrt(2.0 / self.radial_width)
        hidden = functional.silu(hidden) * factor
        for weight in self.radial_mid.unbind(0):
            hidden = functional.silu(torch.bmm(hidden, weight)) * factor
        return list(hidden.unbind(0))

    def atomic_energies(self, pair_vectors: Tensor, topology: list[Tensor]) -> Tensor:
        """Energies (n_atoms,) in the network's unit.

        Args:
            pair_vectors: (n_pairs, 3), A; see :mod:`openmm_mlbench.models.neighbours`.
            topology: what :meth:`topology` returned for these pairs.
        """
        species, pair, direction = topology[0], topology[2], topology[3]
        if pair_vectors.size(0) == 0:
            # Something for empty places to borrow.
            pair_vectors = torch.cat(
                [pair_vectors, torch.ones(1, 3, dtype=species.dtype, device=species.device)]
            )
        distances = torch.linalg.vector_norm(pair_vectors, dim=1)
        units = pair_vectors / distances.unsqueeze(1)
        couplings = self.couplings(units.index_select(0, pair) * direction, species.size(0))
        radial = self.radial(distances)
        features = [torch.mm(species, self.embedding).unsqueeze(1)]
        for k, layer in enumerate(self.layers):
            features = layer(features, radial[k], couplings, topology)
        return self.read_out(features[0], species)

    def read_out(self, scalars: Tensor, species: Tensor) -> Tensor:
        """Energies (n_atoms,) from scalar features (n_atoms, 1, channels)."""
        energies = torch.mm(scalars.squeeze(1), self.readout) * (1.0 / math.sqrt(self.features))
        if self.rescale_species:
            energies = energies * torch.mm(species, self.species_scale) + torch.mm(
                species, self.species_shift
            )
        return energies.squeeze(1)

    @torch.no_grad()
    @torch.jit.unused
    def fit_statistics(self, atomic_numbers: Tensor, pair_vectors: Tensor, pair_index: Tensor) -> None:
        """Set the mean number of neighbours within the cutoff from training data."""
        within = pair_vectors.square().sum(1) < self.cutoff**2
        mean = 2.0 * float(pair_index[0, within].numel()) / atomic_numbers.size(0)
        # Isolated atoms alone leave it as it is.
        if mean > 0:
            self.neighbours.fill_(mean)
