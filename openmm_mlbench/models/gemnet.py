"""GemNet-T and GemNet-dT: geometric message passing with triplets.

Gasteiger, Becker and Guennemann, "GemNet: Universal Directional Graph Neural
Networks for Molecules", NeurIPS 2021, without its quadruplets, in the form that
the benchmark's paper used (the Open Catalyst Project's: Gaussian radial basis,
spherical harmonics for the angle).  GemNet-T's forces are the gradient of its
energy, GemNet-dT's an output of their own.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from openmm_mlbench.models.bases import gaussian_basis, harmonic_norms, legendre_polynomials
from openmm_mlbench.models.cutoffs import polynomial_envelope
from openmm_mlbench.models.neighbours import largest_row
from openmm_mlbench.models.network import Network
from openmm_mlbench.models.triplets import (
    fixed_neighbourhoods,
    from_places,
    into_places,
    neighbourhoods,
    sum_at_centres,
)

# Scale factors are fitted to no more edges than this.
_FIT_EDGES = 20_000


def _he_orthogonal(*shape: int) -> nn.Parameter:
    """Random semi-orthogonal matrices (..., n_in, n_out), each output standardised to variance 1 / n_in."""
    weight = torch.empty(*shape)
    for matrix in weight.view(-1, shape[-2], shape[-1]):
        rows = nn.init.orthogonal_(torch.empty(shape[-1], shape[-2]))
        variance, mean = torch.var_mean(rows, dim=1, keepdim=True)
        matrix.copy_(((rows - mean) / torch.sqrt(variance + 1e-6) / math.sqrt(shape[-2])).t())
    return nn.Parameter(weight)


def _variance(x: Tensor, weights: Tensor | None = None) -> Tensor:
    """Variance over the first dimension, averaged over the second; rows may weigh more than once."""
    if weights is None:
        return x.var(0).mean()
    total = weights.sum()
    shares = (weights / total).unsqueeze(1)
    deviations = x - (shares * x).sum(0)
    return (shares * deviations.square()).sum(0).mean() * total / (total - 1.0)


# The activation is sigma(x) = silu(x) / 0.6 (section 6), and every sum of two branches is divided by sqrt(2).
# Tensors stand without such factors: x as x / s, with a plain number s that goes into the matrix that
# follows, which is a constant once the network is trained.
_SIGMA = 1.0 / 0.6
_HALF = math.sqrt(0.5)


class Residual(nn.Module):
    """(x + sigma(W_2 sigma(W_1 x))) / sqrt(2)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight_1 = _he_orthogonal(width, width)
        self.weight_2 = _he_orthogonal(width, width)

    def forward(self, x: Tensor, scale: float) -> Tensor:
        """(n, width) -> (n, width), from x / scale to the result / (scale sqrt(1/2))."""
        y = functional.silu(torch.mm(x, self.weight_1 * scale))
        y = functional.silu(torch.mm(y, self.weight_2 / 0.6))
        return torch.add(x, y, alpha=1.0 / (0.6 * scale))


class Interaction(nn.Module):
    """Interaction block without quadruplets (figure 2): triplets, then atoms, then messages again."""

    def __init__(
        self,
        atom: int,
        edge: int,
        triplet: int,
        circular: int,
        bilinear: int,
        before_skip: int,
        after_skip: int,
        concat: int,
        atom_layers: int,
    ) -> None:
        super().__init__()
        # Dense layers of the message itself and of the message as it arrives at a triplet, side by side.
        self.dense = nn.Parameter(torch.cat([_he_orthogonal(edge, edge) for _ in range(2)], dim=1))
        self.down = _he_orthogonal(edge, triplet)
        self.bilinear = _he_orthogonal(circular * triplet, bilinear)
        # To the message c -> a and to its opposite.
        self.up = nn.Parameter(torch.cat([_he_orthogonal(bilinear, edge) for _ in range(2)], dim=1))
        self.before_skip = nn.ModuleList(Residual(edge) for _ in range(before_skip))
        self.after_skip = nn.ModuleList(Residual(edge) for _ in range(after_skip))
        self.atom_dense = _he_orthogonal(edge, atom)
        self.atom_residual = nn.ModuleList(Residual(atom) for _ in range(atom_layers))
        self.concat_dense = _he_orthogonal(2 * atom + edge, edge)
        self.concat_residual = nn.ModuleList(Residual(edge) for _ in range(concat))
        self.fitting = False
        # Scales of x / s: of atoms and messages before and after a block, and of messages at the atom update.
        self.update_scale = _SIGMA * _HALF**atom_layers
        self.atom_scale = self.update_scale * _HALF
        self.concat_scale = _SIGMA * _HALF**concat
        self.message_scale = self.concat_scale * _HALF
        self.before_scale = _SIGMA * _HALF ** (1 + before_skip)
        self.middle_scale = self.before_scale * _HALF ** (1 + after_skip)

    @torch.jit.unused
    def fit(self, scale: Tensor, y: Tensor, reference: Tensor, weights: Tensor | None = None) -> Tensor:
        """Set a scale factor so that y, times it, has the variance of the reference; returns that product."""
        scale.copy_(torch.sqrt(_variance(reference, weights) / _variance(y)))
        return y * scale

    def forward(
        self,
        atoms: Tensor,
        messages: Tensor,
        radial_filters: Tensor,
        atom_filters: Tensor,
        basis: Tensor,
        scales: Tensor,
        topology: list[Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Atom features (A, atom) and messages (E, edge) after one round, as x / scale before and after.

        Args:
            atoms: (A, atom), over ``atom_scale``.
            messages: (E, edge), m_ca at the edge of centre a and neighbour c, over ``message_scale``.
            radial_filters: (E, edge), of the arriving message; holds the activation's factor.
            atom_filters: (E, edge), of the sum over messages at an atom; holds ``middle_scale``.
            basis: (A, K_q * circular, K_p), circular basis of the triplets b -> a <- c times its
                weights; q is the place of c, p that of b.
            scales: (3,), scale factors of the radial filter, the bilinear layer and the sum at atoms;
                the filters hold the first and the last already.
            topology: see :func:`neighbourhoods`, after the species.
        """
        centre, neighbour, places, slots = topology[1], topology[2], topology[5], topology[6]
        n_atoms, largest = atoms.size(0), basis.size(2)
        dense = functional.silu(torch.mm(messages, self.dense * self.message_scale))
        own, arriving = dense.split(messages.size(1), dim=1)
        # Eqs. 8 to 10 without the second neighbour: radial filter, projection, circular basis, bilinear layer.
        filtered = arriving * radial_filters
        if not torch.jit.is_scripting() and self.fitting:
            filtered = self.fit(scales[0], filtered, arriving / 0.6)
        arriving = functional.silu(torch.mm(filtered, self.down))
        placed = into_places(arriving, places).view(n_atoms, largest, arriving.size(1))
        gathered = torch.bmm(basis, placed).view(n_atoms * largest, self.bilinear.size(0))
        x = torch.mm(gathered, self.bilinear * (scales[1] / 0.6))
        x = from_places(x, places, slots)
        if not torch.jit.is_scripting() and self.fitting:
            copies = topology[9].sum(2).expand(n_atoms, -1).reshape(-1).index_select(0, slots)
            x = self.fit(scales[1], x, arriving / 0.6, copies)
        there, back = functional.silu(torch.mm(x, self.up)).split(messages.size(1), dim=1)
        x = torch.add(own, there + back.index_select(0, topology[7]), alpha=math.sqrt(0.5))
        scale = math.sqrt(0.5) / 0.6
        for layer in self.before_skip:
            x = layer(x, scale)
            scale *= math.sqrt(0.5)
        x = torch.add(x, messages, alpha=self.message_scale / self.before_scale)
        scale = self.before_scale * math.sqrt(0.5)
        for layer in self.after_skip:
            x = layer(x, scale)
            scale *= math.sqrt(0.5)
        # Atom update.
        total = sum_at_centres((x * atom_filters).unsqueeze(0), centre, places, n_atoms).squeeze(0)
        if not torch.jit.is_scripting() and self.fitting:
            total = self.fit(scales[2], total, x * self.middle_scale)
        update = functional.silu(torch.mm(total, self.atom_dense))
        scale = 1.0 / 0.6
        for layer in self.atom_residual:
            update = layer(update, scale)
            scale *= math.sqrt(0.5)
        atoms = torch.add(update, atoms, alpha=self.atom_scale / self.update_scale)
        # Messages from the atoms at both ends and themselves; the atoms' part depends on atoms only.
        width = atoms.size(1)
        y = torch.mm(x, self.concat_dense[2 * width :] * self.middle_scale)
        ends = torch.cat([self.concat_dense[:width], self.concat_dense[width : 2 * width]], dim=1)
        at_neighbour, at_centre = torch.mm(atoms, ends * self.atom_scale).split(y.size(1), dim=1)
        y = y + at_neighbour.index_select(0, neighbour)
        y = functional.silu(y + at_centre.index_select(0, centre))
        scale = 1.0 / 0.6
        for layer in self.concat_residual:
            y = layer(y, scale)
            scale *= math.sqrt(0.5)
        return atoms, torch.add(y, x, alpha=self.middle_scale / self.concat_scale)


class Outputs(nn.Module):
    """The same head of every block, evaluated together: dense layer, residual layers, linear output."""

    def __init__(self, n_heads: int, n_in: int, width: int, layers: int) -> None:
        super().__init__()
        self.first = _he_orthogonal(n_heads, n_in, width)
        self.weight_1 = _he_orthogonal(layers, n_heads, width, width)
        self.weight_2 = _he_orthogonal(layers, n_heads, width, width)
        self.last = _he_orthogonal(n_heads, width, 1)
        self.layers = layers
        self.scale = _SIGMA * _HALF**layers

    def hidden(self, x: Tensor, scale: float) -> Tensor:
        """(n_heads, n, n_in) -> (n_heads, n, width), from x / scale to the result over the head's own ``scale``."""
        x = functional.silu(torch.bmm(x, self.first * scale))
        weights_1, weights_2 = self.weight_1.unbind(0), (self.weight_2 / 0.6).unbind(0)
        scale = 1.0 / 0.6
        for k in range(self.layers):
            y = functional.silu(torch.bmm(x, weights_1[k] * scale))
            y = functional.silu(torch.bmm(y, weights_2[k]))
            x = torch.add(x, y, alpha=1.0 / (0.6 * scale))
            scale *= math.sqrt(0.5)
        return x

    def total(self, x: Tensor, scale: float) -> Tensor:
        """(n_heads, n, width) over scale -> (n,), summed over the heads."""
        return torch.bmm(x, self.last * scale).sum(0).squeeze(1)


class _GemNet(Network):
    """What both variants share.

    Bases are evaluated once per unordered pair, radial filters at once for all blocks, sums over
    triplets as batched matrix products over a dense table of the edges of each atom, and the
    output blocks together.

    Args:
        atom: width of atom features.
        edge: width of messages.
        triplet: width of messages in a triplet.
        radial_width: width of the projected radial basis.
        circular_width: width of the projected circular basis.
        bilinear: width after the bilinear layer.
        blocks: interaction blocks.
        spherical: degrees of the circular basis.
        radial: Gaussians between 0 and the cutoff.
        envelope: p of the envelope.
        before_skip: residual layers of messages before the skip connection.
        after_skip: residual layers of messages after it.
        concat: residual layers after the concatenation with atoms.
        atom_layers: residual layers of atoms and outputs.
        cutoff: A.
    """

    publication = "Gasteiger et al., NeurIPS 2021"
    heaviest = 83

    centres: Tensor
    norms: Tensor
    scales: Tensor
    scale_output: Tensor
    scale_force: Tensor

    def __init__(
        self,
        *,
        atom: int = 128,
        edge: int = 128,
        triplet: int = 64,
        radial_width: int = 16,
        circular_width: int = 16,
        bilinear: int = 64,
        blocks: int = 4,
        spherical: int = 7,
        radial: int = 6,
        envelope: int = 5,
        before_skip: int = 1,
        after_skip: int = 1,
        concat: int = 1,
        atom_layers: int = 2,
        cutoff: float = 5.0,
    ) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.blocks = blocks
        self.spherical = spherical
        self.radial = radial
        self.circular_width = circular_width
        self.power = envelope
        self.fitting = False
        centres = torch.linspace(0.0, 1.0, radial)
        self.register_buffer("centres", centres)
        self.gamma = 0.5 * (radial - 1) ** 2
        self.register_buffer("norms", harmonic_norms(spherical).view(-1, 1, 1))
        self.embedding = nn.Embedding(83, atom)
        nn.init.uniform_(self.embedding.weight, -math.sqrt(3.0), math.sqrt(3.0))
        self.edge_dense = _he_orthogonal(2 * atom + radial, edge)
        # Radial basis: shared projections for triplets, atoms and outputs, then one filter per block.
        self.project_triplet = _he_orthogonal(radial, radial_width)
        self.project_atom = _he_orthogonal(radial, radial_width)
        self.project_output = _he_orthogonal(radial, radial_width)
        self.filter_triplet = _he_orthogonal(blocks, radial_width, edge)
        self.filter_atom = _he_orthogonal(blocks, radial_width, edge)
        self.filter_output = _he_orthogonal(blocks + 1, radial_width, edge)
        # Circular basis: (degree, radial function) to its width, shared by all blocks.
        self.circular = nn.Parameter(
            _he_orthogonal(spherical * radial, circular_width).data.view(spherical, radial, circular_width)
        )
        self.interactions = nn.ModuleList(
            Interaction(
                *(atom, edge, triplet, circular_width, bilinear),
                *(before_skip, after_skip, concat, atom_layers),
            )
            for _ in range(blocks)
        )
        # Of messages and atoms between blocks, see Interaction.
        self.message_scale = _SIGMA * _HALF ** (concat + 1)
        self.middle_scale = _SIGMA * _HALF ** (before_skip + after_skip + 2)
        self.atom_scale = _SIGMA * _HALF ** (atom_layers + 1)
        self.energy = Outputs(blocks + 1, edge, atom, atom_layers)
        # Scale factors, see fit_statistics.
        self.register_buffer("scales", torch.ones(blocks, 3))
        self.register_buffer("scale_output", torch.ones(blocks + 1, 1, 1))
        if self.direct:
            self.filter_force = _he_orthogonal(blocks + 1, radial_width, edge)
            self.force = Outputs(blocks + 1, edge, edge, atom_layers)
            self.register_buffer("scale_force", torch.ones(blocks + 1, 1, 1))

    def topology(self, atomic_numbers: Tensor, pair_index: Tensor) -> list[Tensor]:
        """Index tensors that stay the same while species and pairs do: species, then neighbourhoods."""
        n_atoms = atomic_numbers.size(0)
        return [atomic_numbers] + neighbourhoods(pair_index, n_atoms, self.circular)  # noqa: RUF005

    def fixed_lengths(self, atomic_numbers: Tensor, pair_index: Tensor, room: float) -> list[int]:
        """Edges of an atom."""
        return [largest_row(pair_index, atomic_numbers.size(0), room)]

    def fixed_topology(
        self, atomic_numbers: Tensor, pair_index: Tensor, filled: Tensor, lengths: list[int]
    ) -> tuple[list[Tensor], Tensor]:
        """See the base class."""
        n_atoms = atomic_numbers.size(0)
        tensors, full = fixed_neighbourhoods(pair_index, filled, n_atoms, self.circular, lengths[0])
        return [atomic_numbers, *tensors], full

    def radial_basis(self, pair_vectors: Tensor, topology: list[Tensor]) -> Tensor:
        """Gaussians of the distance under the envelope (E, radial)."""
        scaled = torch.linalg.vector_norm(pair_vectors, dim=1) * (1.0 / self.cutoff)
        basis = gaussian_basis(scaled, self.centres, self.gamma)
        basis = basis * polynomial_envelope(scaled, self.power).unsqueeze(1)
        return basis.index_select(0, topology[3])

    def circular_basis(self, units: Tensor, basis: Tensor, topology: list[Tensor]) -> Tensor:
        """Circular basis of all triplets times its weights (A, K_q * circular_width, K_p).

        Args:
            units: (E, 3), directions from centre to neighbour.
            basis: (E, radial).
            topology: what :meth:`topology` returned.
        """
        places, apart = topology[5], topology[9]
        n_atoms, largest = topology[0].size(0), apart.size(2)
        directions = into_places(units, places).view(n_atoms, largest, 3)
        cosines = torch.bmm(directions, directions.transpose(1, 2))
        polynomials = torch.stack(legendre_polynomials(cosines, self.spherical), dim=2) * apart.unsqueeze(2)
        weights = (self.circular * self.norms.to(basis.dtype)).permute(1, 2, 0).reshape(self.radial, -1)
        radial = torch.mm(into_places(basis, places), weights)
        radial = radial.view(n_atoms * largest, self.circular_width, self.spherical)
        polynomials = polynomials.view(n_atoms * largest, self.spherical, largest)
        return torch.bmm(radial, polynomials).view(n_atoms, largest * self.circular_width, largest)

    def run(self, units: Tensor, basis: Tensor, topology: list[Tensor]) -> Tensor:
        """Messages (blocks + 1, E, edge) of the embedding and after each interaction block, over ``message_scale``."""
        species, centre, neighbour = topology[0], topology[1], topology[2]
        circular = self.circular_basis(units, basis, topology)
        to_triplets = torch.matmul(self.project_triplet / 0.6, self.filter_triplet)
        to_atoms = torch.matmul(self.project_atom * self.middle_scale, self.filter_atom)
        scales = torch.cat([self.scales[:, 0], self.scales[:, 2]]).view(-1, 1, 1)
        weights = torch.cat([to_triplets, to_atoms]) * scales
        filters = torch.bmm(basis.unsqueeze(0).expand(2 * self.blocks, -1, -1), weights).unbind(0)
        atoms = self.embedding(species - 1)
        width = atoms.size(1)
        x = torch.mm(basis, self.edge_dense[2 * width :])
        x = x + torch.mm(atoms, self.edge_dense[:width]).index_select(0, neighbour)
        x = x + torch.mm(atoms, self.edge_dense[width : 2 * width]).index_select(0, centre)
        x = functional.silu(x) * (1.0 / (0.6 * self.message_scale))
        atoms = atoms * (1.0 / self.atom_scale)
        messages = [x]
        for k, block in enumerate(self.interactions):
            atoms, x = block(
                atoms, x, filters[k], filters[self.blocks + k], circular, self.scales[k], topology
            )
            messages.append(x)
        return torch.stack(messages)

    def energies(self, messages: Tensor, basis: Tensor, topology: list[Tensor]) -> Tensor:
        """Energies (n_atoms,) from the messages of all blocks."""
        weights = (
            torch.matmul(self.project_output * self.message_scale, self.filter_output) * self.scale_output
        )
        filters = torch.bmm(basis.unsqueeze(0).expand(self.blocks + 1, -1, -1), weights)
        total = sum_at_centres(messages * filters, topology[1], topology[5], topology[0].size(0))
        if not torch.jit.is_scripting() and self.fitting:
            total = self.fit_heads(self.scale_output, total, messages * self.message_scale)
        return self.energy.total(self.energy.hidden(total, 1.0), self.energy.scale)

    @torch.jit.unused
    def fit_heads(self, scales: Tensor, y: Tensor, reference: Tensor) -> Tensor:
        """Set one scale factor per head; see :meth:`Interaction.fit`."""
        for k, (values, wanted) in enumerate(zip(y, reference, strict=True)):
            scales[k] = torch.sqrt(_variance(wanted) / _variance(values))
        return y * scales

    @torch.no_grad()
    @torch.jit.unused
    def fit_statistics(self, atomic_numbers: Tensor, pair_vectors: Tensor, pair_index: Tensor) -> None:
        """Fit the scale factors (section 6) to training data: each keeps the variance of what it multiplies.

        In one pass, in the order in which they are used, so that each sees the ones before
        it at their final values.  Pairs beyond the cutoff count for nothing here, and of a
        batch only as many whole frames are used as have 20,000 edges.
        """
        inside = torch.linalg.vector_norm(pair_vectors, dim=1) < self.cutoff
        pair_vectors, pair_index = pair_vectors[inside], pair_index[:, inside]
        n_atoms = _whole_frames(pair_index, atomic_numbers.size(0), _FIT_EDGES // 2)
        kept = (pair_index < n_atoms).all(0)
        topology = self.topology(atomic_numbers[:n_atoms], pair_index[:, kept])
        if topology[1].size(0) < 2:
            return
        for name, buffer in self.named_buffers():
            if name.startswith("scale"):
                buffer.fill_(1.0)
        self._set_fitting(True)
        try:
            vectors = pair_vectors[kept].to(self.circular.dtype)
            if self.direct:
                self.energies_and_forces(vectors, topology)
            else:
                self.atomic_energies(vectors, topology)
        finally:
            self._set_fitting(False)

    @torch.jit.unused
    def _set_fitting(self, fitting: bool) -> None:
        self.fitting = fitting
        for module in self.interactions.children():
            assert isinstance(module, Interaction)
            module.fitting = fitting

    def units(self, pair_vectors: Tensor, topology: list[Tensor]) -> Tensor:
        """Directions (E, 3) from centre to neighbour."""
        units = functional.normalize(pair_vectors, dim=1)
        return units.index_select(0, topology[3]) * topology[4]


def _whole_frames(pair_index: Tensor, n_atoms: int, most_pairs: int) -> int:
    """Number of leading atoms that no pair connects to the rest, with at most this many pairs, or the fewest."""
    first, last = pair_index.amin(0), pair_index.amax(0)
    # A pair (i, j) crosses the borders i + 1, ..., j.
    crossing = torch.zeros(n_atoms + 2, dtype=torch.long, device=pair_index.device)
    ones = torch.ones_like(first)
    crossing = crossing.index_add(0, first + 1, ones).index_add(0, last + 1, -ones).cumsum(0)
    before = torch.bincount(last + 1, minlength=n_atoms + 1).cumsum(0)[: n_atoms + 1]
    borders = torch.nonzero((crossing[: n_atoms + 1] == 0) & (before > 0)).flatten()
    small = borders[before[borders] <= most_pairs]
    chosen = small[-1:] if small.size(0) > 0 else borders[:1]
    return int(chosen) if chosen.size(0) > 0 else n_atoms


class GemNetT(_GemNet):
    """Energy per atom from messages that know distances and angles; forces are its gradient.

    Arguments as of the base class.
    """

    all_pairs_up_to = 10
    compiled_up_to = 18

    def atomic_energies(self, pair_vectors: Tensor, topology: list[Tensor]) -> Tensor:
        """Energies (n_atoms,) in the network's unit.

        Args:
            pair_vectors: (n_pairs, 3), A; see :mod:`openmm_mlbench.models.neighbours`.
            topology: what :meth:`topology` returned for these pairs.
        """
        basis = self.radial_basis(pair_vectors, topology)
        messages = self.run(self.units(pair_vectors, topology), basis, topology)
        return self.energies(messages, basis, topology)


class GemNetDT(_GemNet):
    """Energies and, from an output of their own, forces: sums of scalars along the edges.

    Arguments as of the base class.
    """

    direct = True
    all_pairs_up_to = 20
    compiled_up_to = 24

    def energies_and_forces(self, pair_vectors: Tensor, topology: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Energies (n_atoms,) and forces (n_atoms, 3) in the network's unit, per A.

        Args:
            pair_vectors: (n_pairs, 3), A; see :mod:`openmm_mlbench.models.neighbours`.
            topology: what :meth:`topology` returned for these pairs.
        """
        basis = self.radial_basis(pair_vectors, topology)
        units = self.units(pair_vectors, topology)
        messages = self.run(units, basis, topology)
        energies = self.energies(messages, basis, topology)
        weights = torch.matmul(self.project_output, self.filter_force) * self.scale_force
        filters = torch.bmm(basis.unsqueeze(0).expand(self.blocks + 1, -1, -1), weights)
        hidden = self.force.hidden(messages, self.message_scale)
        filtered = hidden * filters
        if not torch.jit.is_scripting() and self.fitting:
            filtered = self.fit_heads(self.scale_force, filtered, hidden)
        # Along the edge, from neighbour to centre.
        along = self.force.total(filtered, self.force.scale).unsqueeze(1) * -units
        forces = sum_at_centres(along.unsqueeze(0), topology[1], topology[5], energies.size(0)).squeeze(0)
        return energies, forces
