"""TorchScript modules as other people write them: a Morse-like sum over pairs, in several guises."""

from typing import Dict, List, Tuple  # noqa: UP035 - TorchScript reads these everywhere

import torch
from torch import Tensor

CUTOFF = 4.0


def pair_energies(vectors: Tensor, numbers_i: Tensor, numbers_j: Tensor) -> Tensor:
    """Smooth at the cutoff of 4; eV and A."""
    r = torch.linalg.vector_norm(vectors, dim=1)
    strength = (numbers_i * numbers_j).to(r.dtype).sqrt()
    well = (1.0 - torch.exp(-1.2 * (r - 1.1))).square() - 1.0
    return 0.3 * strength * well * (1.0 - r / 4.0).clamp(min=0.0).pow(3)


class Edges(torch.nn.Module):
    """A dictionary with edges, as graph networks take it."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones((), dtype=dtype))

    def forward(self, data: Dict[str, Tensor]) -> Dict[str, Tensor]:  # noqa: UP006
        i, j = data["edge_index"][0], data["edge_index"][1]
        vectors = data["pos"][j] - data["pos"][i] + data["shift"]
        energy = 0.5 * pair_energies(vectors, data["z"][i], data["z"][j]).sum() * self.scale
        return {"energy": energy}


class Vectors(torch.nn.Module):
    """Ready-made vectors, and forces of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, numbers: Tensor, edges: Tensor, vectors: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
        leaf = vectors.detach().requires_grad_()
        energy = 0.5 * pair_energies(leaf, numbers[edges[0]], numbers[edges[1]]).sum() * self.scale
        gradient = torch.autograd.grad([energy], [leaf])[0]
        assert gradient is not None
        zeros = torch.zeros((numbers.size(0), 3), dtype=vectors.dtype)
        return energy, zeros.index_add(0, edges[0], gradient).index_add(0, edges[1], -gradient)


class Molecules(torch.nn.Module):
    """Species and coordinates with an axis of molecules, the energies among other things: no box."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = torch.nn.Parameter(
            torch.tensor([1.0, 6.0, 8.0], dtype=torch.float64), requires_grad=False
        )

    def forward(
        self,
        molecule: tuple[Tensor, Tensor],
        cell: Tensor | None = None,
    ) -> Tuple[Tensor, Tensor]:  # noqa: UP006
        species, coordinates = molecule
        assert cell is None
        index = torch.triu_indices(species.size(1), species.size(1), 1)
        numbers = self.numbers[species[0]]
        vectors = coordinates[0, index[1]] - coordinates[0, index[0]]
        return species, pair_energies(vectors, numbers[index[0]], numbers[index[1]]).sum().unsqueeze(0)


class Gradient(torch.nn.Module):
    """Lengths in nm and energies in kJ/mol, the gradient instead of forces; minimum image by itself."""

    def forward(self, positions: Tensor, numbers: Tensor, cell: Tensor) -> List[Tensor]:  # noqa: UP006
        leaf = positions.detach().requires_grad_()
        index = torch.triu_indices(leaf.size(0), leaf.size(0), 1)
        vectors = leaf[index[1]] - leaf[index[0]]
        if bool(cell.any()):
            vectors = vectors - torch.round(vectors @ torch.linalg.inv(cell)) @ cell
        energy = 96.48533212331 * pair_energies(10.0 * vectors, numbers[index[0]], numbers[index[1]]).sum()
        gradient = torch.autograd.grad([energy], [leaf])[0]
        assert gradient is not None
        return [energy.detach(), gradient]


def write(module: torch.nn.Module, path):
    torch.jit.script(module).save(str(path))
    return path
