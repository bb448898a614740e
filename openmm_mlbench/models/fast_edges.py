"""What forms for processors share that take edges in blocks: gradients by hand, memory that is written again."""

import torch
from torch import Tensor, nn


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
