"""Pair lists of a fixed length: what a GPU runs without waiting for the host.

A list of the pairs that happen to be there has another length at every step, and
whoever asks for it (``nonzero``) waits for the GPU.  Here the list has room for
more pairs than there are; empty places hold a pair beyond the cutoff, which every
network ignores exactly.  Too many pairs, too many atoms in a bin, or a cell that has
shrunk so far that more images would be needed, turn every vector, and so energy and
forces, into NaN: no neighbour is ever dropped silently.

Few atoms are compared all with all; many are sorted into bins of a fixed capacity.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from openmm_mlbench.models.neighbours import (
    all_pairs,
    bin_strides,
    bins_along,
    bins_of,
    cell_heights,
    group_in_places,
    half_shifts,
    half_stencil,
    inverse_cell,
    periodic_pairs,
)


class PairPlan(NamedTuple):
    """Lengths and constants of a search with fixed shapes, from :func:`plan_pairs`.

    Attributes:
        capacity: places in the list.
        offsets: (n_offsets, 3), zero first: lattice shifts where all atoms are compared with all, else
            half of the offsets from a bin to those around it.
        n_bins: (3,), bins along each axis.
        n_cells: number of all bins; 0 where all atoms are compared with all.
        bin_places: atoms that a bin can hold.
    """

    capacity: int
    offsets: Tensor
    n_bins: Tensor
    n_cells: int
    bin_places: int


class PaddedPairs(NamedTuple):
    """A half list of fixed length.

    Attributes:
        pair_index: (2, capacity), atoms i and j; in empty places some atom twice.
        pair_vectors: (capacity, 3), A; in empty places longer than the cutoff; all NaN if ``full``.
        filled: (capacity,), whether the place holds a pair.
        full: whether pairs could be missing, a scalar.
    """

    pair_index: Tensor
    pair_vectors: Tensor
    filled: Tensor
    full: Tensor


# What a candidate of the bins costs beside one of all pairs, measured on a processor; a GPU was not at hand.
_BINNED_COST = 0.5


def plan_pairs(
    positions: Tensor,
    cell: Tensor,
    cutoff: float,
    *,
    room: float = 1.2,
    shrink: float = 0.9,
    binned: bool | None = None,
) -> PairPlan:
    """Shapes for :func:`padded_pairs`; waits for the host.

    Args:
        positions: (n_atoms, 3), A: an ordinary configuration.
        cell: (3, 3), lattice vectors in rows, A.
        cutoff: A.
        room: places for this times as many pairs, and atoms in the fullest bin, as there are now.
        shrink: the heights of the cell may become this times what they are.
        binned: whether to sort atoms into bins; None takes what compares fewer.
    """
    n_atoms = positions.size(0)
    heights = cell_heights(cell) * shrink
    capacity = int(room * periodic_pairs(positions, cell, cutoff)[0].size(1)) + 8
    shifts = half_shifts(heights, cutoff)
    n_bins = bins_along(heights, cutoff, n_atoms)
    reach = torch.ceil(cutoff * n_bins / heights).to(torch.long).tolist()
    stencil = half_stencil(reach, positions.device)
    bins, _ = bins_of(positions, cell, n_bins)
    fullest = int(torch.bincount((bins * bin_strides(n_bins)).sum(1)).max())
    bin_places = min(int(room * fullest) + 4, n_atoms)
    if binned is None:
        compared = shifts.size(0) * (n_atoms + 1) / 2
        binned = _BINNED_COST * stencil.size(0) * bin_places < compared
    if binned:
        return PairPlan(capacity, stencil, n_bins, int(n_bins.prod()), bin_places)
    return PairPlan(capacity, shifts, n_bins, 0, 0)


def padded_pairs(positions: Tensor, cell: Tensor, cutoff: float, plan: PairPlan) -> PaddedPairs:
    """What :func:`openmm_mlbench.models.neighbours.periodic_pairs` finds, in a list of fixed length.

    Args:
        positions: (n_atoms, 3), A, wrapped or not.
        cell: (3, 3), lattice vectors in rows, A; any shape.
        cutoff: A.
        plan: from :func:`plan_pairs`.
    """
    if plan.n_cells > 0:
        return _binned_pairs(positions, cell, cutoff, plan)
    return _compared_pairs(positions, cell, cutoff, plan)


def _compared_pairs(positions: Tensor, cell: Tensor, cutoff: float, plan: PairPlan) -> PaddedPairs:
    """All atoms with all."""
    n_atoms, device, shifts = positions.size(0), positions.device, plan.offsets
    base = all_pairs(n_atoms, device)
    vectors = positions.index_select(0, base[1]) - positions.index_select(0, base[0])
    vectors = vectors - torch.round(vectors @ inverse_cell(cell)) @ cell
    offsets = shifts.to(positions.dtype) @ cell
    images = (vectors.unsqueeze(0) + offsets.unsqueeze(1)).reshape(-1, 3)
    # An atom and its own images: one of each +s, -s, the lexicographically positive one.
    code = shifts[:, 0].sign() * 4 + shifts[:, 1].sign() * 2 + shifts[:, 2].sign()
    own = torch.where(code.unsqueeze(1) > 0, offsets, torch.full_like(offsets, 2.0 * cutoff))
    atoms = torch.arange(n_atoms, device=device)
    first = torch.cat([base[0].repeat(shifts.size(0)), atoms.repeat(shifts.size(0))])
    second = torch.cat([base[1].repeat(shifts.size(0)), atoms.repeat(shifts.size(0))])
    candidates = torch.cat([images, own.repeat_interleave(n_atoms, dim=0, output_size=n_atoms * own.size(0))])
    inside = (candidates * candidates).sum(1) < cutoff * cutoff
    source, filled, overflow = _first_places(inside, plan.capacity)
    wanted = torch.floor(cutoff / cell_heights(cell) + 0.5)
    full = overflow | (wanted > shifts.abs().amax(0)).any()
    index = torch.stack([first.index_select(0, source), second.index_select(0, source)])
    return _padded(index, candidates.index_select(0, source), filled, full, cutoff, n_atoms)


def _binned_pairs(positions: Tensor, cell: Tensor, cutoff: float, plan: PairPlan) -> PaddedPairs:
    """Each atom with all places of the bins around it, in time proportional to the number of atoms.

    Bins are numbered beyond the cell's faces as in :func:`openmm_mlbench.models.neighbours.cell_list_pairs`.
    """
    n_atoms, device, n_bins = positions.size(0), positions.device, plan.n_bins
    n_places, n_offsets = plan.bin_places, plan.offsets.size(0)
    bins, wrapped = bins_of(positions, cell, n_bins)
    strides = bin_strides(n_bins)
    members, _, crowded = group_in_places((bins * strides).sum(1), plan.n_cells, n_places)
    target = bins.unsqueeze(1) + plan.offsets
    shift = torch.floor_divide(target, n_bins)
    near = ((target - shift * n_bins) * strides).sum(2)
    # Where the atom stands, seen from the bin: (n_atoms * n_offsets, 3).
    origin = (wrapped.unsqueeze(1) - shift.to(positions.dtype) @ cell).view(-1, 3)
    second = members.index_select(0, near.flatten())
    # Empty places of a bin hold an atom at infinity.
    nowhere = torch.full((1, 3), float("inf"), dtype=positions.dtype, device=device)
    known = torch.cat([wrapped, nowhere])
    # One axis after the other: three times less memory than vectors would take.
    others = second.flatten()
    x = known[:, 0].index_select(0, others).view(second.size()) - origin[:, 0:1]
    y = known[:, 1].index_select(0, others).view(second.size()) - origin[:, 1:2]
    z = known[:, 2].index_select(0, others).view(second.size()) - origin[:, 2:3]
    inside = (x * x + y * y + z * z < cutoff * cutoff).view(n_atoms, n_offsets, n_places)
    # Within a bin each pair once.
    atoms = torch.arange(n_atoms, device=device).view(-1, 1, 1)
    later = second.view(n_atoms, n_offsets, n_places)[:, :1] > atoms
    inside = torch.cat([inside[:, :1] & later, inside[:, 1:]], dim=1).flatten()
    source, filled, overflow = _first_places(inside, plan.capacity)
    place = torch.div(source, n_places, rounding_mode="floor")
    first = torch.div(place, n_offsets, rounding_mode="floor")
    index = torch.stack([first, others.index_select(0, source)])
    # An empty place borrows some atom, which may be the one at infinity.
    vectors = known.index_select(0, index[1]) - origin.index_select(0, place)
    wanted = torch.ceil(cutoff * n_bins / cell_heights(cell))
    full = crowded | overflow | (wanted > plan.offsets.abs().amax(0)).any()
    return _padded(index, vectors, filled, full, cutoff, n_atoms)


def _first_places(inside: Tensor, capacity: int) -> tuple[Tensor, Tensor, Tensor]:
    """Where the first pairs of inside (n_candidates,) stand (capacity,), which of these exist, and whether there are more."""
    rank = torch.cumsum(inside.to(torch.long), 0)
    places = torch.arange(capacity, device=inside.device)
    # The k-th pair stands where the number of pairs so far first is k.
    source = torch.searchsorted(rank, places, right=True)
    filled = places < rank[-1]
    return torch.where(filled, source, torch.zeros_like(source)), filled, rank[-1] > capacity


def _padded(
    index: Tensor, vectors: Tensor, filled: Tensor, full: Tensor, cutoff: float, n_atoms: int
) -> PaddedPairs:
    """With something harmless in empty places, shared out over the atoms."""
    spread = torch.arange(filled.size(0), device=filled.device) % n_atoms
    index = torch.where(filled, index, spread)
    vectors = torch.where(filled.unsqueeze(1), vectors, torch.full_like(vectors, cutoff))
    vectors = torch.where(full, torch.full_like(vectors, float("nan")), vectors)
    return PaddedPairs(index, vectors, filled, full)
