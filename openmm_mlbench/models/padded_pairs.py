"""Pair lists of a fixed length: what a GPU runs without waiting for the host.

A list of the pairs that happen to be there has another length at every step, and
whoever asks for it (``nonzero``) waits for the GPU.  Here the list has room for
more pairs than there are; empty places hold a pair beyond the cutoff, which every
network ignores exactly.  Too many pairs, or a cell that has shrunk so far that
more images would be needed, turn every vector, and so energy and forces, into NaN:
no neighbour is ever dropped silently.
"""

import torch
from torch import Tensor

from openmm_mlbench.models.neighbours import (
    all_pairs,
    cell_heights,
    half_shifts,
    inverse_cell,
    periodic_pairs,
)


def plan_pairs(
    positions: Tensor, cell: Tensor, cutoff: float, *, room: float = 1.2, shrink: float = 0.9
) -> tuple[Tensor, int]:
    """Lattice shifts (n_shifts, 3) and number of places for :func:`padded_pairs`; waits for the host once.

    Args:
        positions: (n_atoms, 3), A: an ordinary configuration.
        cell: (3, 3), lattice vectors in rows, A.
        cutoff: A.
        room: places for this times as many pairs as there are now.
        shrink: the heights of the cell may become this times what they are.
    """
    shifts = half_shifts(cell_heights(cell) * shrink, cutoff)
    n_pairs = periodic_pairs(positions, cell, cutoff)[0].size(1)
    return shifts, int(room * n_pairs) + 8


def padded_pairs(
    positions: Tensor, cell: Tensor, cutoff: float, shifts: Tensor, capacity: int
) -> tuple[Tensor, Tensor]:
    """What :func:`openmm_mlbench.models.neighbours.periodic_pairs` finds, in a list of fixed length.

    Args:
        positions: (n_atoms, 3), A, wrapped or not.
        cell: (3, 3), lattice vectors in rows, A; any shape.
        cutoff: A.
        shifts: (n_shifts, 3), from :func:`plan_pairs`.
        capacity: places in the list.

    Returns:
        pair_index (2, capacity) and pair_vectors (capacity, 3), A; the vectors of empty places are
        longer than the cutoff.  All vectors are NaN where pairs could be missing.
    """
    n_atoms, device = positions.size(0), positions.device
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
    # Each pair that is inside gets the next place; all others share one that is thrown away.
    rank = torch.cumsum(inside.to(torch.long), 0)
    n_found = rank[-1]
    place = torch.where(inside & (rank <= capacity), rank - 1, torch.full_like(rank, capacity))
    source = torch.zeros(capacity + 1, dtype=torch.long, device=device)
    source = source.scatter(0, place, torch.arange(candidates.size(0), device=device))[:capacity]
    places = torch.arange(capacity, device=device)
    filled = places < n_found
    spread = places % n_atoms
    index = torch.stack(
        [
            torch.where(filled, first.index_select(0, source), spread),
            torch.where(filled, second.index_select(0, source), spread),
        ]
    )
    far = torch.full((capacity, 3), cutoff, dtype=positions.dtype, device=device)
    found = torch.where(filled.unsqueeze(1), candidates.index_select(0, source), far)
    wanted = torch.floor(cutoff / cell_heights(cell) + 0.5)
    missing = (n_found > capacity) | (wanted > shifts.abs().amax(0)).any()
    return index, torch.where(missing, torch.full_like(found, float("nan")), found)
