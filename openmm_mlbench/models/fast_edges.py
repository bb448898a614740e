"""What forms for processors share that take edges in blocks: their order, gradients by hand, memory that is written again."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from openmm_mlbench.models.neighbours import directed_edges


class Layout(NamedTuple):
    """Directed edges in the order of their atoms' numbers of edges: atoms that follow each other are a batch of equal matrices."""

    blocks: list[list[list[int]]]  # of each block its groups: atoms a, and edges K of each
    centre: Tensor  # (E,), atom at which an edge ends
    neighbour: Tensor  # (E,), the atom at its other end
    pair: Tensor  # (E,), its unordered pair
    sign: Tensor  # (E, 1), times the pair's vector it is r_neighbour - r_centre
    opposite: Tensor  # (E,), place of the edge in the other direction


def register(module: nn.Module, name: str, matrix: Tensor, factor_back: float = 1.0) -> None:
    """Keep a matrix and, times a factor, its transpose: products with contiguous ones are the fastest."""
    matrix = matrix.detach().clone().contiguous()
    module.register_buffer(name, matrix)
    module.register_buffer(f"{name}_back", (matrix * factor_back).transpose(-2, -1).contiguous())


def register_half(module: nn.Module, name: str, matrix: Tensor, factor_back: float = 1.0) -> None:
    """The same of a layer before :class:`Silu`, which takes half of what comes in."""
    register(module, name, 0.5 * matrix, factor_back)


def joined(parts: list[Tensor]) -> Tensor:
    """Rows of all blocks."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def cosines_back(of_polynomials: list[Tensor], polynomials: list[Tensor]) -> Tensor:
    """Gradient (n,) of cosines from those of Legendre polynomials (n,) of them, which it uses up.

    d / dc sum_l a_l P_l = sum_l (2 l + 1) P_l (a_(l+1) + a_(l+3) + ...).  It is 0 where all polynomials are set to 0.

    Args:
        of_polynomials: of P_1, P_2, ...
        polynomials: P_0, P_1, ..., one more.
    """
    result = torch.zeros_like(polynomials[0])
    for degree in range(len(of_polynomials) - 1, -1, -1):
        above = of_polynomials[degree]
        result.addcmul_(polynomials[degree], above, value=2.0 * degree + 1.0)
        if degree > 1:
            of_polynomials[degree - 2].add_(above)
    return result


class Silu(nn.Module):
    """silu(2 h) = h (1 + tanh h), and its derivative for the way back.

    A processor's library has tanh for vectors; silu and its derivative, with a division each, take half as long again.

    Args:
        like: a tensor of the dtype of h.
    """

    one: Tensor

    def __init__(self, like: Tensor) -> None:
        super().__init__()
        self.register_buffer("one", like.new_ones(()))

    def forward(self, half: Tensor) -> Tensor:
        """silu(2 h) in the place of h; what :func:`through` takes."""
        # New memory, from outside the cache, is written while there is most to compute.
        tanh = torch.tanh(half)
        half.addcmul_(half, tanh)
        return torch.lerp(half, self.one, tanh, out=tanh)


def through(of_y: Tensor, slope: Tensor, result: Tensor) -> Tensor:
    """Gradient of h from that of y = silu(2 h), in ``result``; ``slope`` is what :class:`Silu` left, t + y (1 - t) = dy/dh - 1.

    What was kept is not written again: it would have to go back to memory from outside the cache.
    """
    return torch.addcmul(of_y, of_y, slope, out=result)


def in_groups(counts: list[int], block_edges: int) -> list[list[list[int]]]:
    """Atoms that follow each other in groups with equally many edges, and these in blocks.

    Args:
        counts: (A,), edges of each atom, rising.
        block_edges: of a block, unless one atom has more.

    Returns:
        Of each block its groups, of each group its atoms and the edges K of each.
    """
    blocks: list[list[list[int]]] = []
    groups: list[list[int]] = []
    n_edges = 0
    for count in counts:
        if count > 0:
            if n_edges > 0 and n_edges + count > block_edges:
                blocks.append(groups)
                # A list of its own: TorchScript would keep one for all blocks.
                groups = groups[:0]
                n_edges = 0
            if len(groups) > 0 and groups[-1][1] == count:
                groups[-1][0] += 1
            else:
                groups.append([1, count])
            n_edges += count
    blocks.append(groups)
    return blocks


def in_products(groups: list[list[int]], product_edges: int) -> list[list[int]]:
    """Groups of a block that share a product, and what it reads, which then stays in the cache.

    Args:
        groups: see :func:`in_groups`.
        product_edges: a product has at least as many, but the last.

    Returns:
        Of each product its first group, that after its last, and the edges of all.
    """
    products: list[list[int]] = []
    begin, n_edges = 0, 0
    for k, group in enumerate(groups):
        n_edges += group[0] * group[1]
        if n_edges >= product_edges or k + 1 == len(groups):
            products.append([begin, k + 1, n_edges])
            begin, n_edges = k + 1, 0
    return products


def edges_in_blocks(pair_index: Tensor, n_atoms: int, like: Tensor, block_edges: int) -> Layout:
    """Both directions of all pairs, in blocks of whole atoms.

    Args:
        pair_index: (2, n_pairs), a half list with a pair at least; see :mod:`openmm_mlbench.models.neighbours`.
        n_atoms: A.
        like: a tensor of the dtype in which the network computes.
        block_edges: edges of a block, unless one atom has more.
    """
    # Few kinds of operations: the program of one that a step uses once has left the processor's cache by then.
    centre, neighbour = directed_edges(pair_index)
    n_pairs, device = pair_index.size(1), pair_index.device
    counts = torch.bincount(centre, minlength=n_atoms)
    counted: list[int] = counts.tolist()
    counted.sort()
    order = torch.sort(counts.index_select(0, centre) * n_atoms + centre, stable=True)[1]
    pairs, ones = torch.arange(n_pairs, device=device), like.new_ones(n_pairs, 1)
    place = torch.sort(order)[1]
    return Layout(
        in_groups(counted, block_edges),
        centre.index_select(0, order),
        neighbour.index_select(0, order),
        torch.cat([pairs, pairs]).index_select(0, order),
        torch.cat([ones, -ones]).index_select(0, order),
        torch.cat([place[n_pairs:], place[:n_pairs]]).index_select(0, order),
    )
