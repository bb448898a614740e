"""ForceNet: forces straight from messages that know directions.

Hu et al., "ForceNet: A graph neural network for large-scale quantum
calculations", arXiv:2103.01436 (2021), in the form that the benchmark's paper
ran (Open Catalyst's, basis "sphallmul").  Forces are the output of a decoder,
not a gradient, and directions enter through spherical harmonics as plain
numbers: neither energy conservation nor rotation symmetry is built in.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from openmm_mlbench.errors import ModelError
from openmm_mlbench.models.cutoffs import quarter_cosine
from openmm_mlbench.models.elements import PROPERTIES, RADII_A
from openmm_mlbench.models.neighbours import directed_edges
from openmm_mlbench.models.network import Network

# Growth of the frequencies of the sines (section 4.2).
_FREQUENCY_RATIO = 1.1


def spherical_harmonics(unit: Tensor, degrees: int) -> Tensor:
    """Real and imaginary parts of Y_l^m, l < degrees and m >= 0, of unit vectors.

    Y_l^m = sqrt((2 l + 1) / (4 pi) (l - m)! / (l + m)!) P_l^m(cos theta) e^(i m phi), with the
    Condon-Shortley phase.  P_l^m / sin^m comes from the recursions in l, (sin theta e^(i phi))^m
    from products of (x + i y), so that the poles are no special case.

    Args:
        unit: (n, 3).
        degrees: number of degrees l, from 0.

    Returns:
        (n, degrees^2): the parts with m = 0 by l, then the real parts of all m > 0 by l and m,
        then their imaginary parts.
    """
    x, y, z = unit[:, 0], unit[:, 1], unit[:, 2]
    axial: list[Tensor] = []
    real: list[Tensor] = []
    imaginary: list[Tensor] = []
    for degree in range(degrees):
        for order in range(degree + 1):
            # (x + i y)^m
            a, b = torch.ones_like(x), torch.zeros_like(x)
            first = 1.0
            factor = (2.0 * degree + 1.0) / (4.0 * math.pi)
            for k in range(order):
                a, b = a * x - b * y, a * y + b * x
                first *= -(2.0 * k + 1.0)
            for k in range(degree - order + 1, degree + order + 1):
                factor /= float(k)
            before = torch.zeros_like(z)
            legendre = torch.full_like(z, first)
            for k in range(order + 1, degree + 1):
                step = ((2.0 * k - 1.0) * z * legendre - (k + order - 1.0) * before) / float(k - order)
                before = legendre
                legendre = step
            legendre = legendre * math.sqrt(factor)
            if order == 0:
                axial.append(legendre)
            else:
                real.append(legendre * a)
                imaginary.append(legendre * b)
    return torch.stack(axial + real + imaginary, dim=1)


class _NormalisedLinear(nn.Module):
    """A linear layer and batch normalisation; outside training one linear layer."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(n_in, n_out)
        self.norm = nn.BatchNorm1d(n_out)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return self.norm(self.linear(x))
        mean, variance = self.norm.running_mean, self.norm.running_var
        assert mean is not None
        assert variance is not None
        factor = self.norm.weight * torch.rsqrt(variance + self.norm.eps)
        weight = self.linear.weight * factor.unsqueeze(1)
        return functional.linear(x, weight, (self.linear.bias - mean) * factor + self.norm.bias)


class _Interaction(nn.Module):
    """One round of messages (section 4.1): filters from edge, neighbour and centre, then a node network."""

    def __init__(self, n_edge_features: int, hidden: int) -> None:
        super().__init__()
        self.edge_in = nn.Linear(n_edge_features, hidden)
        self.edge_1 = nn.Linear(3 * hidden, hidden)
        self.edge_2 = nn.Linear(hidden, hidden)
        self.edge_3 = nn.Linear(hidden, hidden)
        self.value = nn.Linear(hidden, hidden)
        self.self_weight = nn.Parameter(torch.empty(1, hidden))
        self.node_1 = _NormalisedLinear(hidden, hidden)
        self.node_2 = nn.Linear(hidden, hidden)

    def forward(self, x: Tensor, edges: Tensor, weights: Tensor, centre: Tensor, neighbour: Tensor) -> Tensor:
        """(n_atoms, hidden) from atoms, edge features (n_edges, n) and cutoff weights (n_edges, 1)."""
        # The first edge layer acts on [edge | neighbour | centre]: each part where it is small.
        of_edge, of_neighbour, of_centre = self.edge_1.weight.chunk(3, dim=1)
        pre = functional.linear(edges, of_edge @ self.edge_in.weight)
        bias = of_edge @ self.edge_in.bias + self.edge_1.bias
        pre = pre + functional.linear(x, of_neighbour).index_select(0, neighbour)
        pre = pre + functional.linear(x, of_centre, bias).index_select(0, centre)
        filters = self.edge_3(functional.silu(self.edge_2(functional.silu(pre)))) * weights
        values = self.value(x)
        messages = values.index_select(0, neighbour) * filters
        gathered = (values * self.self_weight).index_add(0, centre, messages)
        return self.node_2(functional.silu(self.node_1(gathered)))


class ForceNet(Network):
    """Forces, and energies, of atoms from directed messages.

    Args:
        species: atomic numbers that the model knows.
        hidden: width of atoms and filters.
        decoder: width of the force decoder.
        interactions: rounds of messages.
        degrees: degrees of the spherical harmonics, from 0 (``max_n``).
        frequencies: sines per distance and per property.
        cutoff: A.

    Raises:
        ModelError: an element without known properties.
    """

    publication = "Hu et al., arXiv 2021"
    heaviest = 53
    direct = True
    all_pairs_up_to = 18
    compiled_up_to = 18
    rotation = False
    parity = False

    lookup: Tensor
    features: Tensor
    radii: Tensor
    powers: Tensor
    signs: Tensor

    def __init__(
        self,
        *,
        species: list[int],
        hidden: int = 512,
        decoder: int = 512,
        interactions: int = 5,
        degrees: int = 3,
        frequencies: int = 50,
        cutoff: float = 6.0,
    ) -> None:
        super().__init__()
        unknown = sorted(set(species) - set(PROPERTIES))
        if unknown:
            raise ModelError(
                f"ForceNet knows no properties of the atomic numbers {unknown}; it covers H to I but for Kr"
            )
        self.cutoff = cutoff
        self.degrees = degrees
        self.frequencies = frequencies
        powers = _FREQUENCY_RATIO ** torch.arange(frequencies, dtype=torch.float64)
        self.register_buffer("powers", powers.unsqueeze(1))
        known = torch.tensor(list(PROPERTIES.values()), dtype=torch.float64)
        lowest, highest = known.min(0).values, known.max(0).values
        own = torch.tensor([PROPERTIES[number] for number in species], dtype=torch.float64)
        # Every property scaled to [0, 1], then sines.
        features = self._sines((own - lowest) / (highest - lowest))
        self.register_buffer("features", features.to(torch.get_default_dtype()))
        self.powers = self.powers.to(torch.get_default_dtype())
        self.register_buffer("radii", torch.tensor([RADII_A[number] for number in species]))
        lookup = torch.full((119,), -1, dtype=torch.long)
        lookup[torch.tensor(species)] = torch.arange(len(species))
        self.register_buffer("lookup", lookup)
        degree = [float(k) for k in range(degrees)] + 2 * [float(k) for k in range(degrees) for _ in range(k)]
        # Y_l^m(-r) = (-1)^l Y_l^m(r)
        self.register_buffer("signs", 1.0 - 2.0 * (torch.tensor(degree) % 2.0))
        self.embedding = nn.Linear(self.features.size(1), hidden)
        self.radial = nn.Linear(4 * frequencies, 4)
        self.interactions = nn.ModuleList(
            _Interaction(4 * degrees * degrees, hidden) for _ in range(interactions)
        )
        self.output = nn.Linear(hidden, decoder)
        self.decoder_1 = _NormalisedLinear(decoder, decoder)
        self.decoder_2 = nn.Linear(decoder, 3)
        self.energy = nn.Linear(decoder, 1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Glorot-uniform weights and zero biases."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
            elif isinstance(module, _Interaction):
                nn.init.xavier_uniform_(module.self_weight)

    def _sines(self, values: Tensor) -> Tensor:
        """sin(1.1^k v) of values (n, m): (n, frequencies * m), the frequency changing slowest."""
        return torch.sin(values.unsqueeze(1) * self.powers).flatten(1)

    def topology(self, atomic_numbers: Tensor, pair_index: Tensor) -> list[Tensor]:
        """Index tensors that stay the same while species and pairs do.

        Returns:
            places of the species (n_atoms,), centre and neighbour of the directed edges, and what is
            taken off the distance of each pair (n_pairs, 4), A: nothing, the second atom's radius,
            the first's, both.
        """
        centre, neighbour = directed_edges(pair_index)
        kinds = self.lookup[atomic_numbers]
        radii = self.radii.index_select(0, kinds)
        first, second = radii[pair_index[0]], radii[pair_index[1]]
        taken_off = torch.stack([torch.zeros_like(first), second, first, first + second], dim=1)
        return [kinds, centre, neighbour, taken_off]

    def edge_features(self, pair_vectors: Tensor, distances: Tensor, taken_off: Tensor) -> Tensor:
        """Products of radial and angular parts (2 n_pairs, 4 degrees^2) for both directions of each pair."""
        # In units of the cutoff; radii can exceed the distance.
        gaps = ((distances - taken_off) * (1.0 / self.cutoff)).clamp(min=1e-3)
        sines = self._sines(gaps)
        # Seen from the other atom the two radii change places, and nothing else in the sines.
        weight = self.radial.weight.view(4, self.frequencies, 4)
        mirrored = weight[:, :, [0, 2, 1, 3]]
        both = functional.linear(sines, torch.cat([weight, mirrored]).flatten(1)) + self.radial.bias.repeat(2)
        angular = spherical_harmonics(pair_vectors / distances, self.degrees)
        angular = torch.stack([angular, angular * self.signs])
        radial = both.view(-1, 2, 4).transpose(0, 1)
        return (angular.unsqueeze(3) * radial.unsqueeze(2)).view(-1, 4 * self.degrees * self.degrees)

    def energies_and_forces(self, pair_vectors: Tensor, topology: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Energies (n_atoms,) and forces (n_atoms, 3) in the network's unit, per A.

        Args:
            pair_vectors: (n_pairs, 3), A; see :mod:`openmm_mlbench.models.neighbours`.
            topology: what :meth:`topology` returned for these pairs.
        """
        kinds, centre, neighbour = topology[0], topology[1], topology[2]
        distances = torch.linalg.vector_norm(pair_vectors, dim=1, keepdim=True)
        edges = self.edge_features(pair_vectors, distances, topology[3])
        weights = quarter_cosine(distances, self.cutoff).repeat(2, 1)
        x = self.embedding(self.features.index_select(0, kinds))
        for interaction in self.interactions:
            x = x + interaction(x, edges, weights, centre, neighbour)
        x = functional.silu(self.output(x))
        forces = self.decoder_2(functional.silu(self.decoder_1(x)))
        return self.energy(x).squeeze(1), forces
