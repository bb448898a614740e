"""What every architecture offers to training and export."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn


class Network(nn.Module, ABC):
    """Energies, or energies and forces, of atoms from pair vectors; TorchScript-safe, A inside, knows no cell.

    A conservative network offers :meth:`atomic_energies`, and whoever calls it derives
    the forces.  A direct network offers :meth:`energies_and_forces` and sets ``direct``.

    Attributes:
        cutoff: A; contributions of pairs beyond it are exactly zero.
        direct: forces are an output of their own, not the gradient of the energy.
        rotation: energies invariant and forces equivariant under rotation, by construction.
        parity: the same under inversion.
        heaviest: largest atomic number that it has weights for.
        all_pairs_up_to: atoms of a molecule up to which a processor compares all with all, in a graph that never
            changes; above, a list of the pairs within the cutoff is faster (measured at the paper's sizes, docs/speed.md).
        compiled_up_to: the same of compiled code, beside that list; drawn from timings of ethanol and aspirin alone.
        publication: the architecture's article, in a few words.
    """

    cutoff: float
    direct: ClassVar[bool] = False
    rotation: ClassVar[bool] = True
    parity: ClassVar[bool] = True
    heaviest: ClassVar[int] = 118
    all_pairs_up_to: ClassVar[int] = 12
    compiled_up_to: ClassVar[int] = 12
    publication: ClassVar[str] = ""

    @abstractmethod
    def topology(self, atomic_numbers: Tensor, pair_index: Tensor) -> list[Tensor]:
        """Index tensors that stay the same while species and pairs do.

        Args:
            atomic_numbers: (n_atoms,).
            pair_index: (2, n_pairs); see :mod:`openmm_mlbench.models.neighbours`.
        """

    def fixed_lengths(
        self,
        atomic_numbers: Tensor,  # noqa: ARG002 - for those that override this
        pair_index: Tensor,  # noqa: ARG002
        room: float,  # noqa: ARG002
    ) -> list[int]:
        """Lengths for :meth:`fixed_topology`, with room times what this configuration needs; waits for the host.

        Args:
            atomic_numbers: (n_atoms,).
            pair_index: (2, n_pairs), pairs within the cutoff.
            room: 1 or more.
        """
        return []

    def fixed_topology(
        self,
        atomic_numbers: Tensor,
        pair_index: Tensor,
        filled: Tensor,
        lengths: list[int],  # noqa: ARG002 - for those that override this
    ) -> tuple[list[Tensor], Tensor]:
        """What :meth:`topology` returns, with shapes that do not depend on the pairs.

        A network whose index tensors have lengths of their own overrides this and :meth:`fixed_lengths`.

        Args:
            atomic_numbers: (n_atoms,).
            pair_index: (2, capacity); see :mod:`openmm_mlbench.models.padded_pairs`.
            filled: (capacity,), which of them are pairs.
            lengths: from :meth:`fixed_lengths`.

        Returns:
            The index tensors, and whether one of the lengths was too short, a scalar.
        """
        return self.topology(atomic_numbers, pair_index), torch.zeros_like(filled[0])

    def atomic_energies(self, pair_vectors: Tensor, topology: list[Tensor]) -> Tensor:
        """Energies (n_atoms,) in the network's unit, of a conservative network.

        Args:
            pair_vectors: (n_pairs, 3), A.
            topology: what :meth:`topology` returned for these pairs.
        """
        raise NotImplementedError

    def energies_and_forces(self, pair_vectors: Tensor, topology: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Energies (n_atoms,) and forces (n_atoms, 3) in the network's unit, per A, of a direct network.

        Args:
            pair_vectors: (n_pairs, 3), A.
            topology: what :meth:`topology` returned for these pairs.
        """
        raise NotImplementedError

    def forward(self, atomic_numbers: Tensor, pair_vectors: Tensor, pair_index: Tensor) -> Tensor:
        """Energies (n_atoms,) from species (n_atoms,), pair_vectors (n_pairs, 3) A and pair_index (2, n_pairs)."""
        return self.atomic_energies(pair_vectors, self.topology(atomic_numbers, pair_index))
