"""Neighbour search outside the networks: pairs within a cutoff, any cell.

A pair list is a half list: every unordered pair, periodic images included,
stands in it once.  ``pair_index`` (2, n_pairs) holds atoms i and j, and
``pair_vectors`` (n_pairs, 3) the vector r_j + shift - r_i.  Networks that send
messages both ways make directed edges of it with :func:`directed_edges`, always
ordered [pairs; reversed pairs].

All functions are TorchScript-safe, take unwrapped positions, and compute
differences in the dtype of the positions.
"""

import torch
from torch import Tensor


def all_pairs(n_atoms: int, device: torch.device) -> Tensor:
    """Indices (2, n (n - 1) / 2) of all unordered pairs: the static list of a small molecule."""
    return torch.triu_indices(n_atoms, n_atoms, offset=1, device=device)


def directed_edges(pair_index: Tensor) -> tuple[Tensor, Tensor]:
    """Centre and neighbour atom (2 n_pairs,) of both directions: [pairs; reversed pairs]."""
    centre = torch.cat([pair_index[0], pair_index[1]])
    neighbour = torch.cat([pair_index[1], pair_index[0]])
    return centre, neighbour


def largest_row(index: Tensor, n_atoms: int, room: float) -> int:
    """Room for the most pairs (2, n_pairs) that an atom has here; waits for the host."""
    most = torch.bincount(index.flatten(), minlength=max(n_atoms, 1)).max()
    return int(room * int(most)) + 4


def group_by_label(labels: Tensor, n_groups: int) -> tuple[Tensor, Tensor]:
    """Pad items into equal groups by label.

    Returns:
        members (n_groups, largest group), item indices padded with len(labels),
        and slots (n_items,), the flat place of every item in it.
    """
    counts = torch.bincount(labels, minlength=n_groups)
    largest = int(counts.max()) if labels.size(0) > 0 else 1
    order = torch.argsort(labels, stable=True)
    first = torch.cumsum(counts, 0) - counts
    sorted_labels = labels[order]
    rank = torch.arange(labels.size(0), device=labels.device) - first[sorted_labels]
    sorted_slots = sorted_labels * largest + rank
    members = torch.full((n_groups * largest,), labels.size(0), dtype=torch.long, device=labels.device)
    members[sorted_slots] = order
    slots = torch.empty_like(order)
    slots[order] = sorted_slots
    return members.view(n_groups, largest), slots


def group_in_places(labels: Tensor, n_groups: int, n_places: int) -> tuple[Tensor, Tensor, Tensor]:
    """The same with a given number of places per group, for fixed shapes: nothing is asked of the host.

    Args:
        labels: (n_items,); items labelled n_groups belong nowhere.
        n_groups: labels are below it.
        n_places: of each group.

    Returns:
        members (n_groups, n_places), padded with len(labels); slots (n_items,), n_groups * n_places
        for an item without a place; and whether a group had too few places, a scalar.
    """
    n_items, n_slots = labels.size(0), n_groups * n_places
    zeros = torch.zeros(n_groups + 1, dtype=torch.long, device=labels.device)
    counts = zeros.index_add(0, labels, torch.ones_like(labels))
    first = torch.cumsum(counts, 0) - counts
    order = torch.argsort(labels, stable=True)
    sorted_labels = labels.index_select(0, order)
    items = torch.arange(n_items, device=labels.device)
    rank = items - first.index_select(0, sorted_labels)
    placed = (sorted_labels < n_groups) & (rank < n_places)
    sorted_slots = torch.where(placed, sorted_labels * n_places + rank, torch.full_like(rank, n_slots))
    nobody = torch.full((n_slots + 1,), n_items, dtype=torch.long, device=labels.device)
    # All items without a place share the last slot, which is cut off.
    members = nobody.scatter(0, sorted_slots, order)[:n_slots]
    slots = torch.zeros_like(order).scatter(0, order, sorted_slots)
    return members.view(n_groups, n_places), slots, (counts[:n_groups] > n_places).any()


def zero_unless_lost(positions: Tensor, cell: Tensor | None) -> Tensor:
    """0, but NaN where positions or cell are not finite: an atom at NaN has no pair and would vanish silently."""
    nothing = 0.0 * positions.sum()
    if cell is not None:
        nothing = nothing + 0.0 * cell.detach().sum()
    return nothing


def open_pairs(positions: Tensor, cutoff: float, dense_limit: int = 600) -> tuple[Tensor, Tensor]:
    """Pairs within the cutoff without periodicity.

    Args:
        positions: (n_atoms, 3), A.
        cutoff: A.
        dense_limit: number of atoms above which a cell list is faster than looking at all pairs.

    Returns:
        pair_index (2, n_pairs) and pair_vectors (n_pairs, 3), A.
    """
    if positions.size(0) > dense_limit:
        # A box around everything, with more than the cutoff between the images.
        extent = positions.max(0).values - positions.min(0).values
        return cell_list_pairs(positions, torch.diag(extent + 1.1 * cutoff), cutoff)
    pair_index = all_pairs(positions.size(0), positions.device)
    vectors = positions[pair_index[1]] - positions[pair_index[0]]
    inside = (vectors * vectors).sum(1) < cutoff * cutoff
    kept = torch.nonzero(inside).squeeze(1)
    return pair_index[:, kept], vectors[kept]


def _face_normals(cell: Tensor) -> Tensor:
    """Cross products b x c, c x a, a x b of a cell with lattice vectors a, b, c in rows."""
    following = torch.stack([cell[1], cell[2], cell[0]])
    return torch.linalg.cross(following, torch.stack([cell[2], cell[0], cell[1]]))


def inverse_cell(cell: Tensor) -> Tensor:
    """Inverse (3, 3); unlike ``torch.linalg.inv`` it does not wait for a GPU to say that it succeeded."""
    normals = _face_normals(cell)
    return normals.t() / (cell[0] * normals[0]).sum()


def cell_heights(cell: Tensor) -> Tensor:
    """Distances (3,) between opposite faces of a cell with lattice vectors in rows."""
    normals = _face_normals(cell)
    return (cell[0] * normals[0]).sum().abs() / torch.linalg.vector_norm(normals, dim=1)


def half_shifts(heights: Tensor, cutoff: float) -> Tensor:
    """Lattice shifts (n, 3) that can bring the nearest image of a pair within the cutoff.

    Differences are first rounded to fractional coordinates within +-1/2; image n
    along an axis of height h is then at least (|n| - 1/2) h away.  The zero
    shift comes first; of every other pair +s, -s both are kept, because the pair
    (i, j) with i < j needs both.
    """
    reach = torch.floor(cutoff / heights + 0.5).to(torch.long)
    a = torch.arange(-int(reach[0]), int(reach[0]) + 1, device=heights.device)
    b = torch.arange(-int(reach[1]), int(reach[1]) + 1, device=heights.device)
    c = torch.arange(-int(reach[2]), int(reach[2]) + 1, device=heights.device)
    shifts = torch.cartesian_prod(a, b, c)
    order = torch.argsort((shifts != 0).any(1).to(torch.int8), stable=True)
    return shifts[order]


def periodic_pairs(
    positions: Tensor, cell: Tensor, cutoff: float, dense_limit: int = 600
) -> tuple[Tensor, Tensor]:
    """Pairs within the cutoff over all periodic images; the cell may be smaller than the cutoff.

    Args:
        positions: (n_atoms, 3), A, wrapped or not.
        cell: (3, 3), lattice vectors in rows, A; any shape.
        cutoff: A.
        dense_limit: number of atoms above which a cell list is faster than looking at all pairs.

    Returns:
        pair_index (2, n_pairs), in which an atom can pair with its own images,
        and pair_vectors (n_pairs, 3), A.
    """
    n_atoms = positions.size(0)
    if n_atoms > dense_limit:
        return cell_list_pairs(positions, cell, cutoff)
    base = all_pairs(n_atoms, positions.device)
    vectors = positions[base[1]] - positions[base[0]]
    vectors = vectors - torch.round(vectors @ inverse_cell(cell)) @ cell
    shifts = half_shifts(cell_heights(cell), cutoff)
    n_shifts = shifts.size(0)
    limit = cutoff * cutoff
    if n_shifts == 1:
        kept = torch.nonzero((vectors * vectors).sum(1) < limit).squeeze(1)
        return base[:, kept], vectors[kept]
    offsets = shifts.to(positions.dtype) @ cell
    images = (vectors.unsqueeze(0) + offsets.unsqueeze(1)).reshape(-1, 3)
    kept = torch.nonzero((images * images).sum(1) < limit).squeeze(1)
    pair_index = base[:, kept % base.size(1)]
    # An atom and its own images: one of each +s, -s, the lexicographically positive one.
    code = shifts[:, 0].sign() * 4 + shifts[:, 1].sign() * 2 + shifts[:, 2].sign()
    own = offsets[code > 0]
    own = own[(own * own).sum(1) < limit]
    atoms = torch.arange(n_atoms, device=positions.device)
    own_index = atoms.repeat_interleave(own.size(0)).expand(2, -1)
    return (
        torch.cat([pair_index, own_index], dim=1),
        torch.cat([images[kept], own.repeat(n_atoms, 1)]),
    )


def half_stencil(reach: list[int], device: torch.device) -> Tensor:
    """Offsets (n, 3) within the reach: zero first, then one of every o, -o, the lexicographically positive one."""
    ranges = [torch.arange(-r, r + 1, device=device) for r in reach]
    offsets = torch.cartesian_prod(ranges[0], ranges[1], ranges[2])
    code = offsets[:, 0].sign() * 4 + offsets[:, 1].sign() * 2 + offsets[:, 2].sign()
    return torch.cat([torch.zeros(1, 3, dtype=torch.long, device=device), offsets[code > 0]])


def bins_of(positions: Tensor, cell: Tensor, n_bins: Tensor) -> tuple[Tensor, Tensor]:
    """Bins (n_atoms, 3) of atoms in a cell with n_bins (3,) along its vectors, and the wrapped positions (n_atoms, 3)."""
    fractions = positions @ inverse_cell(cell)
    whole = torch.floor(fractions)
    bins = ((fractions - whole) * n_bins).to(torch.long)
    # A fraction of -1e-20 is rounded to 1, and one that is NaN to a huge negative number.
    bins = torch.minimum(bins, n_bins - 1).clamp(min=0)
    return bins, positions - whole @ cell


def bin_strides(n_bins: Tensor) -> Tensor:
    """Factors (3,) that number the bins of n_bins (3,): their sum of products with a bin's place on the axes."""
    return torch.stack([n_bins[1] * n_bins[2], n_bins[2], torch.ones_like(n_bins[0])])


def bins_along(heights: Tensor, cutoff: float, n_atoms: int) -> Tensor:
    """Bins (3,) along the vectors of a cell with these heights (3,): as wide as the cutoff where it allows."""
    # No more bins than atoms: a molecule in a huge cell would need millions.
    most = int(float(n_atoms) ** (1.0 / 3.0)) + 1
    return torch.floor(heights / cutoff).to(torch.long).clamp(1, most)


def cell_list_pairs(positions: Tensor, cell: Tensor, cutoff: float) -> tuple[Tensor, Tensor]:
    """What :func:`periodic_pairs` returns, in another order, in time proportional to the number of atoms.

    Atoms are sorted into bins at least as wide as the cutoff wherever the cell allows.  Bins are
    numbered beyond the cell's faces too: bin b + o is bin (b + o) mod n, shifted by floor((b + o) / n)
    lattice vectors, so that a cell smaller than the cutoff is one bin with many shifts.

    Args:
        positions: (n_atoms, 3), A, wrapped or not.
        cell: (3, 3), lattice vectors in rows, A; any shape.
        cutoff: A.
    """
    n_atoms = positions.size(0)
    device = positions.device
    heights = cell_heights(cell)
    n_bins = bins_along(heights, cutoff, n_atoms)
    reach: list[int] = torch.ceil(cutoff * n_bins / heights).to(torch.long).tolist()
    bins, wrapped = bins_of(positions, cell, n_bins)
    strides = bin_strides(n_bins)
    flat = (bins * strides).sum(1)
    order = torch.argsort(flat)
    counts = torch.bincount(flat, minlength=int(n_bins.prod()))
    first = torch.cumsum(counts, 0) - counts
    sorted_bins, sorted_positions = bins[order], wrapped[order]
    columns = sorted_positions.t().contiguous().unbind(0)
    limit = cutoff * cutoff
    indices: list[Tensor] = []
    vectors: list[Tensor] = []
    for number, offset in enumerate(half_stencil(reach, device)):
        target = sorted_bins + offset
        shift = torch.floor_divide(target, n_bins)
        target = ((target - shift * n_bins) * strides).sum(1)
        # Every atom with all atoms of one bin; i and j are places in the sorted order.
        candidates = counts[target]
        i = torch.repeat_interleave(candidates)
        start = first[target] - (torch.cumsum(candidates, 0) - candidates)
        j = torch.arange(i.size(0), device=device) + start.index_select(0, i)
        origin = sorted_positions - shift.to(positions.dtype) @ cell
        # One axis after the other, which takes a third of the time of vectors.
        origins = origin.t().contiguous().unbind(0)
        squares = (columns[0].index_select(0, j) - origins[0].index_select(0, i)).square()
        for axis in range(1, 3):
            along = columns[axis].index_select(0, j) - origins[axis].index_select(0, i)
            squares = torch.addcmul(squares, along, along)
        inside = squares < limit
        if number == 0:
            inside = inside & (i < j)
        kept = torch.nonzero(inside).squeeze(1)
        i, j = i.index_select(0, kept), j.index_select(0, kept)
        indices.append(torch.stack([order.index_select(0, i), order.index_select(0, j)]))
        vectors.append(sorted_positions.index_select(0, j) - origin.index_select(0, i))
    return torch.cat(indices, dim=1), torch.cat(vectors)


def forces_from_pairs(pair_gradient: Tensor, pair_index: Tensor, n_atoms: int) -> Tensor:
    """Forces (n_atoms, 3) from dE / d pair_vectors (n_pairs, 3); their sum is zero by construction."""
    forces = torch.zeros(n_atoms, 3, dtype=pair_gradient.dtype, device=pair_gradient.device)
    forces = forces.index_add(0, pair_index[0], pair_gradient)
    return forces.index_add(0, pair_index[1], -pair_gradient)
