"""Triplets: pairs of edges that share an atom, as a dense (K, K) table per atom.

Directed edges are sorted by their centre and laid out as (n_atoms, K) places, K
being the number of edges of the atom that has the most.  Two different places of
one atom j are a triplet k - j - i.  k and i may be the same atom in different
images; only an edge with itself is none.  Sums over triplets are batched matrix
products over this table, without a list of triplets.
"""

import torch
from torch import Tensor

from openmm_mlbench.models.neighbours import directed_edges, group_in_places


def neighbourhoods(pair_index: Tensor, n_atoms: int, like: Tensor) -> list[Tensor]:
    """Directed edges sorted by centre, and their layout as (n_atoms, K) places.

    Args:
        pair_index: (2, n_pairs), a half list; see :mod:`openmm_mlbench.models.neighbours`.
        n_atoms: A.
        like: a tensor of the dtype in which the network computes.

    Returns:
        centre (E,), atom at which an edge ends;
        neighbour (E,), the atom at its other end;
        pair (E,), its unordered pair;
        sign (E, 1), +1 or -1: times the pair's vector it is r_neighbour - r_centre;
        places (A * K,), the edge in each place (an empty one borrows edge 0), or no
        elements at all where every atom has K edges: places are then the edges in order;
        slots (E,), the place of each edge;
        opposite (E,), the edge in the other direction of each edge;
        reverse (E,), the place of that one;
        apart (A or 1, K, K), 1 where places p and q of an atom hold two different
        edges, else 0.
    """
    centre, neighbour = directed_edges(pair_index)
    n_pairs, n_edges, device = pair_index.size(1), centre.size(0), centre.device
    order = torch.argsort(centre, stable=True)
    centre, neighbour = centre[order], neighbour[order]
    zeros = torch.zeros(n_atoms, dtype=torch.long, device=device)
    counts = zeros.index_add(0, centre, torch.ones_like(centre))
    # The host has to ask for this; fixed_neighbourhoods does not.
    largest = int(counts.max()) if n_edges > 0 else 0
    first = torch.cumsum(counts, 0) - counts
    edges = torch.arange(n_edges, device=device)
    slots = centre * largest + edges - first[centre]
    edge_of_directed = torch.empty_like(order)
    edge_of_directed[order] = edges
    opposite = edge_of_directed[(order + n_pairs) % max(n_edges, 1)]
    sign = torch.where(order < n_pairs, 1.0, -1.0).to(like.dtype).unsqueeze(1)
    apart = (1.0 - torch.eye(largest, dtype=like.dtype, device=device)).unsqueeze(0)
    places = edges[:0]
    if n_atoms * largest > n_edges:
        places = torch.zeros(n_atoms * largest, dtype=torch.long, device=device)
        places[slots] = edges
        filled = torch.zeros(n_atoms * largest, dtype=like.dtype, device=device)
        filled[slots] = 1.0
        apart = apart * filled.view(n_atoms, largest, 1) * filled.view(n_atoms, 1, largest)
    return [
        centre,
        neighbour,
        order % max(n_pairs, 1),
        sign,
        places,
        slots,
        opposite,
        slots[opposite],
        apart,
    ]


def fixed_neighbourhoods(
    pair_index: Tensor, filled: Tensor, n_atoms: int, like: Tensor, n_places: int
) -> tuple[list[Tensor], Tensor]:
    """What :func:`neighbourhoods` returns of a list of fixed length, with a given K; asks nothing of the host.

    Edges are not sorted: those of pairs in their order, then those in the other direction.  An edge of an
    empty place has some slot, and what it reads there is multiplied by zero, because it is beyond the cutoff.

    Args:
        pair_index: (2, capacity); see :mod:`openmm_mlbench.models.padded_pairs`.
        filled: (capacity,), which of them are pairs.
        n_atoms: A.
        like: a tensor of the dtype in which the network computes.
        n_places: K.

    Returns:
        The index tensors, and whether an atom has more than K edges, a scalar.
    """
    centre, neighbour = directed_edges(pair_index)
    n_pairs, n_edges = pair_index.size(1), centre.size(0)
    labels = torch.where(filled.repeat(2), centre, torch.full_like(centre, n_atoms))
    members, slots, full = group_in_places(labels, n_atoms, n_places)
    occupied = (members < n_edges).to(like.dtype)
    places = torch.where(members < n_edges, members, torch.zeros_like(members)).flatten()
    slots = slots.clamp(max=n_atoms * n_places - 1)
    edges = torch.arange(n_edges, device=centre.device)
    opposite = (edges + n_pairs) % n_edges
    sign = torch.where(edges < n_pairs, 1.0, -1.0).to(like.dtype).unsqueeze(1)
    apart = 1.0 - torch.eye(n_places, dtype=like.dtype, device=like.device)
    apart = apart * occupied.unsqueeze(2) * occupied.unsqueeze(1)
    reverse = slots.index_select(0, opposite)
    return [centre, neighbour, edges % n_pairs, sign, places, slots, opposite, reverse, apart], full


def into_places(values: Tensor, places: Tensor) -> Tensor:
    """Values (E, ...) of edges in all places (A * K, ...)."""
    return values if places.size(0) == 0 else values.index_select(0, places)


def from_places(values: Tensor, places: Tensor, slots: Tensor) -> Tensor:
    """Values (A * K, ...) of places for the edges (E, ...)."""
    return values if places.size(0) == 0 else values.index_select(0, slots)


def sum_at_centres(values: Tensor, centre: Tensor, places: Tensor, n_atoms: int) -> Tensor:
    """Sums (n_sets, A, width) of values (n_sets, E, width) over the edges of each atom."""
    n_sets, n_edges, width = values.size(0), values.size(1), values.size(2)
    if places.size(0) == 0 and n_edges > 0:
        return values.view(n_sets, n_atoms, n_edges // n_atoms, width).sum(2)
    zeros = torch.zeros(n_sets, n_atoms, width, dtype=values.dtype, device=values.device)
    return zeros.index_add(1, centre, values)
