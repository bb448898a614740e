"""DimeNet: directional messages with a bilinear layer.

Gasteiger, Gross and Guennemann, "Directional Message Passing for Molecular
Graphs", ICLR 2020, the original network and not its successor DimeNet++, in the
form that the benchmark's paper used (PyTorch Geometric's layers).
"""

import math
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from openmm_mlbench.errors import ModelError
from openmm_mlbench.models.bases import (
    SphericalBesselBasis,
    bessel_basis,
    harmonic_norms,
    legendre_polynomials,
)
from openmm_mlbench.models.cutoffs import polynomial_envelope
from openmm_mlbench.models.neighbours import largest_row
from openmm_mlbench.models.network import Network
from openmm_mlbench.models.triplets import fixed_neighbourhoods, into_places, neighbourhoods, sum_at_centres

ANGLES = ("sender", "receiver")


def _glorot_orthogonal(weight: Tensor) -> None:
    """Semi-orthogonal matrices (..., n_out, n_in) with Glorot's variance 2 / (n_in + n_out)."""
    for matrix in weight.data.view(-1, weight.size(-2), weight.size(-1)):
        nn.init.orthogonal_(matrix)
        matrix.mul_(torch.sqrt(2.0 / (sum(matrix.shape) * matrix.var())))


class Residual(nn.Module):
    """x + silu(W_2 silu(W_1 x))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense_1 = nn.Linear(width, width)
        self.dense_2 = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(n, width) -> (n, width)."""
        return x + functional.silu(self.dense_2(functional.silu(self.dense_1(x))))


class Interaction(nn.Module):
    """Interaction block of figure 4: what a message hears from those that arrive at its sender."""

    def __init__(self, hidden: int, bilinear: int, before_skip: int, after_skip: int) -> None:
        super().__init__()
        # Both dense layers of a message, x_ji and x_kj, side by side.
        self.dense = nn.Linear(hidden, 2 * hidden)
        self.bilinear = nn.Parameter(
            torch.randn(bilinear * hidden, hidden) * (0.125 / math.sqrt(bilinear * hidden))
        )
        self.before_skip = nn.ModuleList(Residual(hidden) for _ in range(before_skip))
        self.dense_skip = nn.Linear(hidden, hidden)
        self.after_skip = nn.ModuleList(Residual(hidden) for _ in range(after_skip))

    def forward(
        self,
        messages: Tensor,
        filters: Tensor,
        harmonics: Tensor,
        radial: Tensor,
        places: Tensor,
        reverse: Tensor,
    ) -> Tensor:
        """Messages (E, hidden) after one round.

        Args:
            messages: (E, hidden), m_ji at the edge of centre i and neighbour j.
            filters: (E, hidden), radial basis times its weights.
            harmonics: (A * K, K, n_degrees), P_l of the angle between places p and q of an atom.
            radial: (A * K, n_degrees, n_bilinear), radial part of the spherical basis of each
                place times its weights.
            places: see :func:`neighbourhoods`.
            reverse: see :func:`neighbourhoods`.
        """
        # Two products: halves of one would have to be joined again for the gradient.
        weights, biases = self.dense.weight.chunk(2), self.dense.bias.chunk(2)
        own = functional.silu(functional.linear(messages, weights[0], biases[0]))
        arriving = functional.silu(functional.linear(messages, weights[1], biases[1]))
        n_places, largest, width = harmonics.size(0), harmonics.size(1), messages.size(1)
        n_atoms = n_places // max(largest, 1)
        arriving = into_places(arriving * filters, places).view(n_atoms, largest, width)
        # Spherical basis times its weights: (A, K_p, K_q * n_bilinear).
        basis = torch.bmm(harmonics, radial).view(n_atoms, largest, largest * radial.size(2))
        # Bilinear layer: first the sum over arriving messages p, then over both of its inputs.
        gathered = torch.bmm(basis.transpose(1, 2), arriving).view(n_places, radial.size(2) * width)
        x = own + torch.mm(gathered, self.bilinear).index_select(0, reverse)
        for layer in self.before_skip:
            x = layer(x)
        x = functional.silu(self.dense_skip(x)) + messages
        for layer in self.after_skip:
            x = layer(x)
        return x


class DimeNet(Network):
    """Energy per atom from messages that know distances and angles.

    Bases are evaluated once per unordered pair; sums over triplets run over a dense
    table of the edges of each atom; the output blocks are evaluated together.

    Args:
        hidden: width of messages and atom features.
        blocks: interaction blocks.
        bilinear: width of the spherical basis in the bilinear layer.
        spherical: degrees of the spherical basis.
        radial: radial functions of both bases.
        envelope: exponent of the envelope after division by the distance; p is one more.
        before_skip: residual layers before the skip connection.
        after_skip: residual layers after it.
        output_layers: hidden layers of an output block.
        cutoff: A.
        angle_at: the corner of the triplet k -> j -> i at which the angle lies: ``sender`` (j,
            the article's) or ``receiver`` (i, PyTorch Geometric's).
    """

    publication = "Gasteiger et al., ICLR 2020"
    heaviest = 94
    all_pairs_up_to = 10
    compiled_up_to = 18

    frequencies: Tensor
    norms: Tensor
    at_receiver: Final[bool]

    def __init__(
        self,
        *,
        hidden: int = 128,
        blocks: int = 6,
        bilinear: int = 8,
        spherical: int = 7,
        radial: int = 6,
        envelope: int = 5,
        before_skip: int = 1,
        after_skip: int = 2,
        output_layers: int = 3,
        cutoff: float = 5.0,
        angle_at: str = "sender",
    ) -> None:
        super().__init__()
        if angle_at not in ANGLES:
            raise ModelError(f"angle_at of dimenet is {angle_at!r}; use one of {', '.join(ANGLES)}")
        self.cutoff = cutoff
        self.at_receiver = angle_at == "receiver"
        self.hidden = hidden
        self.blocks = blocks
        self.bilinear = bilinear
        self.spherical = spherical
        self.radial = radial
        self.power = envelope + 1
        self.output_layers = output_layers
        self.frequencies = nn.Parameter(math.pi * torch.arange(1, radial + 1))
        self.bessel = SphericalBesselBasis(spherical, radial)
        self.register_buffer("norms", harmonic_norms(spherical).view(-1, 1, 1))
        self.embedding = nn.Embedding(95, hidden)
        self.embedding_radial = nn.Linear(radial, hidden)
        self.embedding_dense = nn.Linear(3 * hidden, hidden)
        # Radial weights of all interaction blocks, then of all output blocks.
        self.radial_weight = nn.Parameter(torch.empty(2 * blocks + 1, radial, hidden))
        self.spherical_weight = nn.Parameter(torch.empty(spherical, radial, blocks * bilinear))
        self.interactions = nn.ModuleList(
            Interaction(hidden, bilinear, before_skip, after_skip) for _ in range(blocks)
        )
        self.output_weight = nn.Parameter(torch.empty(output_layers, blocks + 1, hidden, hidden))
        self.output_bias = nn.Parameter(torch.zeros(output_layers, blocks + 1, 1, hidden))
        self.output_last = nn.Parameter(torch.empty(blocks + 1, hidden, 1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Orthogonal weights of Glorot's variance, zero biases, uniform embeddings of unit variance.

        Two differences from the authors' program.  The bilinear layer starts at a quarter of
        its size, because messages otherwise grow by a factor of 3 with each block.  The last
        layer starts small and not at zero, so that a fresh network has forces.
        """
        nn.init.uniform_(self.embedding.weight, -math.sqrt(3.0), math.sqrt(3.0))
        for parameter in (self.radial_weight, self.output_weight, self.output_last):
            _glorot_orthogonal(parameter)
        self.output_last.data.mul_(0.1)
        # One matrix per block, over all degrees and zeros.
        matrices = torch.empty(self.blocks, self.bilinear, self.spherical * self.radial)
        _glorot_orthogonal(matrices)
        shape = (self.blocks * self.bilinear, self.spherical, self.radial)
        with torch.no_grad():
            self.spherical_weight.copy_(matrices.view(shape).permute(1, 2, 0))
        for module in self.interactions.modules():
            if isinstance(module, nn.Linear):
                for matrix in module.weight.data.split(self.hidden):
                    _glorot_orthogonal(matrix)
                nn.init.zeros_(module.bias)

    def topology(self, atomic_numbers: Tensor, pair_index: Tensor) -> list[Tensor]:
        """Index tensors that stay the same while species and pairs do: species, then neighbourhoods."""
        n_atoms = atomic_numbers.size(0)
        return [atomic_numbers] + neighbourhoods(pair_index, n_atoms, self.radial_weight)  # noqa: RUF005

    def fixed_lengths(self, atomic_numbers: Tensor, pair_index: Tensor, room: float) -> list[int]:
        """Edges of an atom."""
        return [largest_row(pair_index, atomic_numbers.size(0), room)]

    def fixed_topology(
        self, atomic_numbers: Tensor, pair_index: Tensor, filled: Tensor, lengths: list[int]
    ) -> tuple[list[Tensor], Tensor]:
        """See the base class."""
        n_atoms = atomic_numbers.size(0)
        tensors, full = fixed_neighbourhoods(pair_index, filled, n_atoms, self.radial_weight, lengths[0])
        return [atomic_numbers, *tensors], full

    def cosines(self, vectors: Tensor, apart: Tensor) -> Tensor:
        """Cosines (A, K, K) of the angles of triplets, from vectors (A, K, 3) of places, A.

        Places p and q of atom j hold the vectors to k and to i of the triplet k -> j -> i.
        """
        products = torch.bmm(vectors, vectors.transpose(1, 2))
        squares = vectors.square().sum(2)
        if self.at_receiver:
            # Between r_j - r_i and r_k - r_i; finite also where k is i, which is no triplet.
            to_sender = squares.unsqueeze(1)
            third = squares.unsqueeze(2) - 2.0 * products + (2.0 - apart) * to_sender
            return (to_sender - products) * torch.rsqrt(third * to_sender)
        inverse = torch.rsqrt(squares)
        return products * (inverse.unsqueeze(1) * inverse.unsqueeze(2))

    def bases(self, pair_vectors: Tensor) -> Tensor:
        """Radial basis and radial part of the spherical basis (n_pairs, radial + spherical * radial) of pairs.

        Section 5: both with the envelope divided by the distance as in the authors' program.
        """
        scaled = torch.linalg.vector_norm(pair_vectors, dim=1) * (1.0 / self.cutoff)
        spherical = self.bessel(scaled) * torch.reciprocal(scaled).unsqueeze(1)
        bases = torch.cat([bessel_basis(scaled, self.frequencies), spherical], dim=1)
        return bases * polynomial_envelope(scaled, self.power).unsqueeze(1)

    def read_out(self, y: Tensor) -> Tensor:
        """Energies (n_atoms,) from the sums of filtered messages (blocks + 1, n_atoms, hidden)."""
        weights, biases = self.output_weight.unbind(0), self.output_bias.unbind(0)
        for k in range(self.output_layers):
            y = functional.silu(torch.baddbmm(biases[k], y, weights[k]))
        return torch.bmm(y, self.output_last).sum(0).squeeze(1)

    def atomic_energies(self, pair_vectors: Tensor, topology: list[Tensor]) -> Tensor:
        """Energies (n_atoms,) in the network's unit.

        Args:
            pair_vectors: (n_pairs, 3), A; see :mod:`openmm_mlbench.models.neighbours`.
            topology: what :meth:`topology` returned for these pairs.
        """
        return self.energies(self.bases(pair_vectors), pair_vectors, topology)

    def energies(self, bases: Tensor, pair_vectors: Tensor, topology: list[Tensor]) -> Tensor:
        """The same with what :meth:`bases` returned for these pairs."""
        species, centre, neighbour, pair = topology[0], topology[1], topology[2], topology[3]
        sign, places, reverse, apart = topology[4], topology[5], topology[8], topology[9]
        n_atoms, largest, n_radial = species.size(0), apart.size(2), self.radial
        bases = bases.index_select(0, pair)
        radial = bases[:, :n_radial]
        filters = torch.bmm(radial.unsqueeze(0).expand(2 * self.blocks + 1, -1, -1), self.radial_weight)
        inner_filters, outer_filters = filters.split([self.blocks, self.blocks + 1])
        vectors = into_places(pair_vectors.index_select(0, pair) * sign, places)
        cosines = self.cosines(vectors.view(n_atoms, largest, 3), apart)
        harmonics = torch.stack(legendre_polynomials(cosines, self.spherical), dim=3) * apart.unsqueeze(3)
        harmonics = harmonics.view(n_atoms * largest, largest, self.spherical)
        angular = into_places(bases[:, n_radial:], places).view(-1, self.spherical, n_radial)
        weighted = torch.bmm(angular.transpose(0, 1), self.spherical_weight * self.norms.to(bases.dtype))
        weighted = weighted.view(self.spherical, n_atoms * largest, self.blocks, self.bilinear)
        parts = weighted.permute(2, 1, 0, 3).contiguous().unbind(0)
        # Eq. 10: embedding of a message; its first factors depend on atoms only.
        first, second, third = self.embedding_dense.weight.chunk(3, dim=1)
        atoms = self.embedding(species)
        x = functional.silu(self.embedding_radial(radial))
        x = functional.linear(x, third, self.embedding_dense.bias)
        x = x + torch.mm(atoms, first.t()).index_select(0, centre)
        x = functional.silu(x + torch.mm(atoms, second.t()).index_select(0, neighbour))
        messages = [x]
        inner = inner_filters.unbind(0)
        for k, interaction in enumerate(self.interactions):
            x = interaction(x, inner[k], harmonics, parts[k], places, reverse)
            messages.append(x)
        # Output blocks: sum over arriving messages, then dense layers on atoms.
        y = sum_at_centres(torch.stack(messages) * outer_filters, centre, places, n_atoms)
        return self.read_out(y)
