"""What every architecture offers to training and export."""

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Network(nn.Module, ABC):
    """Energy per atom from pair vectors; TorchScript-safe, A inside, knows no cell.

    Attributes:
        cutoff: A; contributions of pairs beyond it are exactly zero.
    """

    cutoff: float

    @abstractmethod
    def topology(self, atomic_numbers: Tensor, pair_index: Tensor) -> list[Tensor]:
        """Index tensors that stay the same while species and pairs do.

        Args:
            atomic_numbers: (n_atoms,).
            pair_index: (2, n_pairs); see :mod:`openmm_mlbench.models.neighbours`.
        """

    @abstractmethod
    def atomic_energies(self, pair_vectors: Tensor, topology: list[Tensor]) -> Tensor:
        """Energies (n_atoms,) in the network's unit.

        Args:
            pair_vectors: (n_pairs, 3), A.
            topology: what :meth:`topology` returned for these pairs.
        """

    def forward(self, atomic_numbers: Tensor, pair_vectors: Tensor, pair_index: Tensor) -> Tensor:
        """Energies (n_atoms,) from species (n_atoms,), pair_vectors (n_pairs, 3) A and pair_index (2, n_pairs)."""
        return self.atomic_energies(pair_vectors, self.topology(atomic_numbers, pair_index))
