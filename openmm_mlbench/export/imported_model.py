"""The module inside an archive of an imported model: the contract of exported models around a foreign one.

The contract is that of :mod:`openmm_mlbench.export.exported_model`.  What differs between
packages is one small module each (:mod:`openmm_mlbench.export.adapters`) with

    forward(atomic_numbers, positions, cell, pair_index, pair_vectors) -> (energy, forces)

in the units of the foreign model: positions (n_atoms, 3), cell (3, 3) or None, and a half
list of pairs as in :mod:`openmm_mlbench.models.neighbours`, empty where ``needs_pairs`` is
False; energy a scalar, forces (n_atoms, 3), of any dtype.
"""

from typing import Final

import torch
from torch import Tensor, nn

from openmm_mlbench.models.neighbours import open_pairs, periodic_pairs, zero_unless_lost


class ImportedModel(nn.Module):
    """A foreign model as OpenMM evaluates it; TorchScript-safe.

    Args:
        model: adapter around the foreign model.
        cutoff: of the pair list, in the model's unit of length.
        length_per_nm: the model's units of length in one nm.
        kjmol_per_energy: kJ/mol in the model's unit of energy.
        needs_pairs: whether the adapter wants a pair list.
        atomic_numbers: (n_atoms,) to start with.

    Attributes:
        atomic_numbers: (n_selected,), set anew for each topology.
        atoms: (n_selected,) places of the selected atoms among all, or empty for all atoms.
    """

    atomic_numbers: Tensor
    atoms: Tensor
    needs_pairs: Final[bool]

    def __init__(
        self,
        model: nn.Module,
        *,
        cutoff: float,
        length_per_nm: float,
        kjmol_per_energy: float,
        needs_pairs: bool,
        atomic_numbers: Tensor,
    ) -> None:
        super().__init__()
        self.model = model
        self.cutoff = cutoff
        self.length_per_nm = length_per_nm
        self.kjmol_per_energy = kjmol_per_energy
        self.needs_pairs = needs_pairs
        self.register_buffer("atomic_numbers", atomic_numbers.to(torch.long).clone())
        self.register_buffer("atoms", torch.zeros(0, dtype=torch.long))

    def forward(self, positions: Tensor, box_vectors: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Energy (float64, kJ/mol) and forces (kJ/mol/nm, in the dtype of the positions)."""
        # OpenMM's Reference kernel hands over positions that require a gradient, and frozen modules drop
        # detach(): what the model derives from must not depend on them a second time, through its pairs.
        with torch.no_grad():
            where = positions.detach()
            selected = where if self.atoms.size(0) == 0 else where[self.atoms]
            scaled = selected * self.length_per_nm
            cell: Tensor | None = None
            if box_vectors is not None:
                cell = box_vectors.detach().to(scaled.dtype) * self.length_per_nm
            pair_index = torch.zeros((2, 0), dtype=torch.long, device=scaled.device)
            pair_vectors = torch.zeros((0, 3), dtype=scaled.dtype, device=scaled.device)
            if self.needs_pairs:
                if cell is not None:
                    pair_index, pair_vectors = periodic_pairs(scaled, cell, self.cutoff)
                else:
                    pair_index, pair_vectors = open_pairs(scaled, self.cutoff)
        energy, forces = self.model(self.atomic_numbers, scaled, cell, pair_index, pair_vectors)
        energy = energy.detach().to(torch.float64).reshape(()) * self.kjmol_per_energy
        forces = forces.detach().reshape(-1, 3) * (self.kjmol_per_energy * self.length_per_nm)
        nothing = zero_unless_lost(selected, box_vectors)
        energy, forces = energy + nothing, (forces + nothing).to(where.dtype)
        if self.atoms.size(0) > 0:
            forces = torch.zeros_like(where).index_copy(0, self.atoms, forces)
        return energy, forces.contiguous()


def directed_vectors(pair_index: Tensor, pair_vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Both directions of a half list, [pairs; reversed pairs].

    A model that computes r_j - r_i + shift from positions is handed all positions as zero and
    these vectors as shifts: it sees the vectors exactly, wherever the atoms lie, and its
    derivative with respect to the positions is the right one.

    Returns:
        index (2, 2 n_pairs), centre and neighbour, and vectors (2 n_pairs, 3).
    """
    index = torch.cat([pair_index, pair_index.flip(0)], dim=1)
    return index, torch.cat([pair_vectors, -pair_vectors])


class SpeciesTable(nn.Module):
    """Atomic numbers to the numbering of a foreign model.

    Args:
        species: atomic number of each type, in the model's order.
    """

    types: Tensor

    def __init__(self, species: list[int]) -> None:
        super().__init__()
        types = torch.full((119,), -1, dtype=torch.long)
        for kind, number in enumerate(species):
            types[number] = kind
        self.register_buffer("types", types)

    def forward(self, atomic_numbers: Tensor) -> Tensor:
        """Types (n_atoms,) of atomic_numbers (n_atoms,)."""
        return self.types[atomic_numbers]
