"""What forms for processors share that take edges in blocks: their order, gradients by hand, memory that is written again."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from openmm_mlbench.models.neighbours import directed_edges

# Empty places that a group of atoms may have; an operation more costs about as much.
MOST_EMPTY = 3


class Layout(NamedTuple):
    """Directed edges in the order of their atoms' numbers of edges: atoms that follow each other are a batch of equal matrices.

    An atom has K places, at most a few of them empty: those stand for the first edge of their atom, and what comes of
    them has to be multiplied by zero.
    """

    blocks: list[list[list[int]]]  # of each block its groups: atoms a, places K of each, and empty places
    centre: Tensor  # (e,), atom at which an edge ends
    neighbour: Tensor  # (e,), the atom at its other end
    pair: Tensor  # (e,), its unordered pair
    sign: Tensor  # (e, 1), times the pair's vector it is r_neighbour - r_centre
    opposite: Tensor  # (e,), place of the edge in the other direction
    real: Tensor  # (e, 1), 0 in empty places, or no elements where there are none


def register(module: nn.Module, name: str, matrix: Tensor, factor_back: float = 1.0) -> None:
    """Keep a matrix and, times a factor, its transpose: products with contiguous ones are the fastest."""
    matrix = matrix.detach().clone().contiguous()
    module.register_buffer(name, matrix)
    module.register_buffer(f"{name}_back", (matrix * factor_back).transpose(-2, -1).contiguous())


def joined(parts: list[Tensor]) -> Tensor:
    """Rows of all blocks."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def through(of_y: Tensor, z: Tensor) -> Tensor:
    """Gradient of z from that of silu(z), in z's place."""
    return torch.ops.aten.silu_backward(of_y, z, grad_input=z)


def in_groups(
    counts: list[int], block_edges: int, most_empty: int
) -> tuple[list[list[list[int]]], list[int]]:
    """Atoms that follow each other in groups with equally many places, and these in blocks.

    Args:
        counts: (A,), edges of each atom, rising.
        block_edges: places of a block, unless one atom has more.
        most_empty: empty places of a group.

    Returns:
        blocks, as in :class:`Layout`, and the places of each atom.
    """
    blocks: list[list[list[int]]] = []
    groups: list[list[int]] = []
    places: list[int] = []
    atoms, most, empty, filled = 0, 0, 0, 0
    for count in counts:
        if count == 0:
            places.append(0)
            continue
        full = filled + (atoms + 1) * count > block_edges
        more = empty + atoms * (count - most)
        if atoms > 0 and (full or more > most_empty):
            groups.append([atoms, most, empty])
            places += [most] * atoms
            filled += atoms * most
            atoms, more = 0, 0
            if filled + count > block_edges:
                blocks.append(groups)
                # A list of its own: TorchScript would keep one for all blocks.
                groups = groups[:0]
                filled = 0
        atoms, most, empty = atoms + 1, count, more
    if atoms > 0:
        groups.append([atoms, most, empty])
        places += [most] * atoms
    if len(groups) > 0:
        blocks.append(groups)
    return blocks, places


def edges_in_blocks(
    pair_index: Tensor, n_atoms: int, like: Tensor, block_edges: int, most_empty: int = MOST_EMPTY
) -> Layout:
    """Both directions of all pairs, in blocks of whole atoms.

    Args:
        pair_index: (2, n_pairs), a half list with a pair at least; see :mod:`openmm_mlbench.models.neighbours`.
        n_atoms: A.
        like: a tensor of the dtype in which the network computes.
        block_edges: places of a block, unless one atom has more.
        most_empty: empty places of a group.
    """
    centre, neighbour = directed_edges(pair_index)
    n_pairs, n_edges = pair_index.size(1), centre.size(0)
    counts, atoms = torch.sort(torch.bincount(centre, minlength=n_atoms), stable=True)
    counted: list[int] = counts.tolist()
    blocks, places_of_atoms = in_groups(counted, block_edges, most_empty)
    ranks = torch.empty_like(atoms)
    ranks[atoms] = torch.arange(n_atoms, device=atoms.device)
    rank, order = torch.sort(ranks[centre], stable=True)
    slots = torch.arange(n_edges, device=order.device)
    n_places = 0
    for n in places_of_atoms:
        n_places += n
    edges, real = order, order[:0].to(like.dtype)
    if n_places > n_edges:
        sizes = torch.tensor(places_of_atoms, device=order.device)
        first = torch.cumsum(counts, 0) - counts
        # Of each atom the empty places before its own.
        slots = slots + (torch.cumsum(sizes, 0) - sizes - first)[rank]
        edges = order[torch.repeat_interleave(first, sizes)]
        edges[slots] = order
        real = torch.zeros(n_places, 1, dtype=like.dtype, device=order.device)
        real[slots] = 1.0
    place_of_directed = torch.empty_like(order)
    place_of_directed[order] = slots
    sign = torch.where(edges < n_pairs, 1.0, -1.0).to(like.dtype).unsqueeze(1)
    opposite = place_of_directed[(edges + n_pairs) % n_edges]
    return Layout(blocks, centre[edges], neighbour[edges], edges % n_pairs, sign, opposite, real)


def first_atoms_and_sizes(counts: list[int], block_edges: int) -> tuple[list[int], list[int]]:
    """Blocks of whole atoms that follow each other: first atom, and number of edges, of each.

    Args:
        counts: (A,), edges of each atom.
        block_edges: of a block, unless one atom has more.
    """
    first_atoms = [0]
    sizes: list[int] = []
    n_edges = 0
    for atom, count in enumerate(counts):
        # A block has edges, and atoms without any are nowhere first but in the first.
        if n_edges > 0 and count > 0 and n_edges + count > block_edges:
            first_atoms.append(atom)
            sizes.append(n_edges)
            n_edges = 0
        n_edges += count
    sizes.append(n_edges)
    return first_atoms, sizes


def of_atoms(padded: Tensor, counts: list[int], height: int, width: int) -> list[Tensor]:
    """Of (a, K * height, K * width) what belongs to the n edges of each atom, (n * height, n * width)."""
    result: list[Tensor] = []
    # TorchScript has no strict zip.
    for n, matrix in zip(counts, padded.unbind(0)):  # noqa: B905
        result.append(matrix.narrow(0, 0, n * height).narrow(1, 0, n * width))
    return result
