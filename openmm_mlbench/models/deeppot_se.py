"""DeepPot-SE: smooth local descriptors from embedded environment matrices.

Zhang et al., "End-to-end symmetry preserving inter-atomic potential energy
model for finite and extended systems", NeurIPS 2018, in DeePMD-kit's form
``se_e2_a`` with one embedding network per ordered pair of species and one
fitting network per species.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from openmm_mlbench.models.cutoffs import quintic_switch
from openmm_mlbench.models.neighbours import directed_edges, group_by_label, group_in_places, largest_row
from openmm_mlbench.models.network import Network


class _StackedLayer(nn.Module):
    """One dense layer of n_networks networks side by side, with DeePMD-kit's skip connection.

    A tanh layer of equal width adds its input, one of double width adds it twice.
    With ``timestep`` the new part of such a layer is scaled by a trained vector.
    """

    def __init__(
        self, n_networks: int, n_in: int, n_out: int, *, timestep: bool, linear: bool = False
    ) -> None:
        super().__init__()
        self.linear = linear
        self.skip = n_out // n_in if n_out in (n_in, 2 * n_in) and not linear else 0
        self.has_scale = timestep and self.skip > 0
        self.weight = nn.Parameter(torch.randn(n_networks, n_in, n_out) / math.sqrt(n_in + n_out))
        bias = torch.zeros if linear else torch.randn
        self.bias = nn.Parameter(bias(n_networks, 1, n_out))
        self.scale = nn.Parameter(0.1 + 0.001 * torch.randn(n_networks, 1, n_out if self.has_scale else 0))

    def forward(self, x: Tensor) -> Tensor:
        """(n_networks, n_items, n_in) -> (n_networks, n_items, n_out)."""
        y = torch.baddbmm(self.bias, x, self.weight)
        if self.linear:
            return y
        y = torch.tanh(y)
        if self.has_scale:
            y = y * self.scale
        if self.skip == 1:
            y = y + x
        elif self.skip == 2:
            y = y + torch.cat([x, x], dim=2)
        return y


def _stacked_network(n_networks: int, widths: list[int], *, timestep: bool, output: bool) -> nn.Sequential:
    """n_networks tanh networks of these widths, with a linear output of width 1 if asked for."""
    layers = [_StackedLayer(n_networks, n_in, n_out, timestep=timestep) for n_in, n_out in pairwise(widths)]
    if output:
        layers.append(_StackedLayer(n_networks, widths[-1], 1, timestep=False, linear=True))
    return nn.Sequential(*layers)


class DeepPotSE(Network):
    """Energy per atom from a descriptor of its neighbourhood.

    Args:
        species: atomic numbers that the model knows.
        embedding: widths of the embedding networks.
        axis: columns of the second factor of the descriptor (M_2 in eq. 5).
        fitting: hidden widths of the fitting networks.
        cutoff_start: where the switch begins, A.
        cutoff: A.
        selection: neighbours per species that normalise the descriptor (``sel``).
    """

    publication = "Zhang et al., NeurIPS 2018"
    all_pairs_up_to = 50
    compiled_up_to = 12
    lookup: Tensor
    scale_radial: Tensor
    scale_angular: Tensor

    def __init__(
        self,
        *,
        species: list[int],
        embedding: tuple[int, ...] = (25, 50, 100),
        axis: int = 12,
        fitting: tuple[int, ...] = (240, 120, 60, 30, 10),
        cutoff_start: float = 1.0,
        cutoff: float = 6.0,
        selection: int | tuple[int, ...] = 40,
    ) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.cutoff_start = cutoff_start
        self.axis = axis
        self.n_species = len(species)
        per_species = (selection,) * len(species) if isinstance(selection, int) else tuple(selection)
        self.n_neighbours = float(sum(per_species))
        lookup = torch.full((119,), -1, dtype=torch.long)
        lookup[torch.tensor(sorted(species))] = torch.arange(len(species))
        self.register_buffer("lookup", lookup)
        # Standard deviation of (s, s x / r) per centre species; set from data by fit_statistics.
        self.register_buffer("scale_radial", torch.ones(len(species)))
        self.register_buffer("scale_angular", torch.ones(len(species)))
        self.embedding = _stacked_network(len(species) ** 2, [1, *embedding], timestep=False, output=False)
        self.fitting = _stacked_network(
            len(species), [embedding[-1] * axis, *fitting], timestep=True, output=True
        )

    def topology(self, atomic_numbers: Tensor, pair_index: Tensor) -> list[Tensor]:
        """Index tensors that stay the same while species and pairs do.

        Edges are laid out as (n_atoms, K): K places for each atom, as many as the
        atom with the most neighbours has.

        Returns:
            pairs (n_atoms * K,) of the edges; their directions (n_atoms * K, 4), the
            factors of (s, s x / r): +-1, or 0 in an empty place; species of their
            centres (n_atoms * K,); places grouped by ordered species pair
            (n_species^2, largest group); where each place stands in that (n_atoms * K,);
            atoms grouped by species; where each atom stands in that.
        """
        centre, neighbour = directed_edges(pair_index)
        kinds = self.lookup[atomic_numbers]
        places = group_by_label(centre, kinds.size(0))[0].flatten()
        edge_kinds = kinds[centre] * self.n_species + kinds[neighbour]
        kind_edges, edge_slots = group_by_label(edge_kinds, self.n_species * self.n_species)
        kind_atoms, atom_slots = group_by_label(kinds, self.n_species)
        return self._in_places(kinds, places, kind_edges, edge_slots, kind_atoms, atom_slots)

    def fixed_lengths(self, atomic_numbers: Tensor, pair_index: Tensor, room: float) -> list[int]:
        """Edges of an atom, edges of an ordered pair of species, atoms of a species."""
        kinds = self.lookup[atomic_numbers]
        centre, neighbour = directed_edges(pair_index)
        edges = torch.bincount(kinds[centre] * self.n_species + kinds[neighbour], minlength=1).max()
        return [
            largest_row(pair_index, kinds.size(0), room),
            int(room * int(edges)) + 4,
            int(torch.bincount(kinds).max()),
        ]

    def fixed_topology(
        self, atomic_numbers: Tensor, pair_index: Tensor, filled: Tensor, lengths: list[int]
    ) -> tuple[list[Tensor], Tensor]:
        """See the base class."""
        centre, neighbour = directed_edges(pair_index)
        kinds = self.lookup.index_select(0, atomic_numbers)
        n_atoms, n_kinds, exists = kinds.size(0), self.n_species * self.n_species, filled.repeat(2)
        labels = torch.where(exists, centre, torch.full_like(centre, n_atoms))
        places, _, crowded = group_in_places(labels, n_atoms, lengths[0])
        edge_kinds = kinds.index_select(0, centre) * self.n_species + kinds.index_select(0, neighbour)
        edge_kinds = torch.where(exists, edge_kinds, torch.full_like(edge_kinds, n_kinds))
        kind_edges, edge_slots, full = group_in_places(edge_kinds, n_kinds, lengths[1])
        kind_atoms, atom_slots, _ = group_in_places(kinds, self.n_species, lengths[2])
        # An edge that is none has some slot; nothing reads it.
        edge_slots = edge_slots.clamp(max=n_kinds * lengths[1] - 1)
        tensors = self._in_places(kinds, places.flatten(), kind_edges, edge_slots, kind_atoms, atom_slots)
        return tensors, crowded | full

    def _in_places(
        self,
        kinds: Tensor,
        places: Tensor,
        kind_edges: Tensor,
        edge_slots: Tensor,
        kind_atoms: Tensor,
        atom_slots: Tensor,
    ) -> list[Tensor]:
        """The tensors of :meth:`topology` from edges and atoms in their groups."""
        n_atoms, n_edges = kinds.size(0), edge_slots.size(0)
        n_pairs = n_edges // 2
        filled = places < n_edges
        # Empty places borrow edge 0 and multiply it by zero.
        edges = torch.where(filled, places, torch.zeros_like(places))
        sign = torch.where(edges < n_pairs, 1.0, -1.0)
        direction = torch.stack([torch.ones_like(sign), sign, sign, sign], dim=1) * filled.unsqueeze(1)
        pairs = edges % max(n_pairs, 1)
        # One more, so that an atom without neighbours has an edge 0 to borrow.
        edge_slots = torch.cat([edge_slots, torch.zeros(1, dtype=torch.long, device=kinds.device)])
        place_of_edge = torch.zeros(n_edges + 1, dtype=torch.long, device=kinds.device)
        place_of_edge = place_of_edge.scatter(0, places, torch.arange(places.size(0), device=kinds.device))
        return [
            pairs,
            direction.to(self.scale_radial.dtype),
            kinds.unsqueeze(1).expand(-1, places.size(0) // max(n_atoms, 1)).flatten(),
            place_of_edge.index_select(0, kind_edges.flatten()).view(kind_edges.size()),
            edge_slots.index_select(0, edges),
            # What an empty place of a group holds is never read.
            torch.where(kind_atoms < n_atoms, kind_atoms, torch.zeros_like(kind_atoms)),
            atom_slots,
        ]

    def environment(self, pair_vectors: Tensor) -> Tensor:
        """Rows (s(r), s(r) x / r) of the environment matrix (eqs. 1, 2) of each pair (n_pairs, 4)."""
        distances = torch.linalg.vector_norm(pair_vectors, dim=1, keepdim=True)
        inverse = torch.reciprocal(distances)
        radial = quintic_switch(distances, self.cutoff_start, self.cutoff) * inverse
        return torch.cat([radial, pair_vectors * (radial * inverse)], dim=1)

    def atomic_energies(self, pair_vectors: Tensor, topology: list[Tensor]) -> Tensor:
        """Energies (n_atoms,) in the network's unit.

        Args:
            pair_vectors: (n_pairs, 3), A; see :mod:`openmm_mlbench.models.neighbours`.
            topology: what :meth:`topology` returned for these pairs.
        """
        pairs, direction, centre_kinds, kind_places = topology[0], topology[1], topology[2], topology[3]
        place_slots, kind_atoms, atom_slots = topology[4], topology[5], topology[6]
        n_atoms = atom_slots.size(0)
        scales = torch.stack(
            [self.scale_radial, self.scale_angular, self.scale_angular, self.scale_angular], dim=1
        )
        factors = direction / scales.index_select(0, centre_kinds)
        rows = self.environment(pair_vectors)
        if rows.size(0) == 0:
            rows = torch.cat([rows, torch.zeros(1, 4, dtype=rows.dtype, device=rows.device)])
        rows = rows.index_select(0, pairs) * factors
        radial = rows[:, 0].index_select(0, kind_places.flatten())
        embedded = self.embedding(radial.view(kind_places.size(0), -1, 1))
        width = embedded.size(2)
        embedded = embedded.reshape(-1, width).index_select(0, place_slots).view(n_atoms, -1, width)
        # Eq. 5: D = (G^T R)(R^T G_<) / N_c^2.
        product = torch.bmm(rows.view(n_atoms, -1, 4).transpose(1, 2), embedded) * (1.0 / self.n_neighbours)
        descriptor = torch.bmm(product.transpose(1, 2), product[:, :, : self.axis]).reshape(n_atoms, -1)
        descriptor = descriptor.index_select(0, kind_atoms.flatten())
        energies = self.fitting(descriptor.view(kind_atoms.size(0), -1, width * self.axis))
        return energies.flatten().index_select(0, atom_slots)

    @torch.no_grad()
    @torch.jit.unused
    def fit_statistics(self, atomic_numbers: Tensor, pair_vectors: Tensor, pair_index: Tensor) -> None:
        """Set the scales of the environment matrix from training data.

        As DeePMD-kit counts it: standard deviation over all ``sel`` places of a
        neighbourhood, empty ones being zero.
        """
        centre, _ = directed_edges(pair_index)
        rows = self.environment(pair_vectors)
        radial, angular = rows[:, 0].repeat(2), rows[:, 1:].repeat(2, 1)
        kinds = self.lookup[atomic_numbers]
        for kind in range(self.n_species):
            of_kind = kinds[centre] == kind
            places = float((kinds == kind).sum()) * self.n_neighbours
            if places == 0 or not of_kind.any():
                continue
            mean = radial[of_kind].sum() / places
            variance = radial[of_kind].square().sum() / places - mean.square()
            self.scale_radial[kind] = variance.sqrt().clamp(min=0.01)
            self.scale_angular[kind] = (angular[of_kind].square().sum() / (3 * places)).sqrt().clamp(min=0.01)
