"""The module inside an archive: nm and kJ/mol outside, A and eV inside.

``forward(positions, box_vectors=None) -> (energy, forces)`` is the whole
contract with OpenMM: positions (n_atoms, 3) in nm, float32 or float64,
unwrapped; box vectors (3, 3) in nm or None; energy a float64 scalar in kJ/mol;
forces (n_atoms, 3) in kJ/mol/nm, contiguous, in the dtype of the positions.
"""

from typing import Final

import torch
from torch import Tensor, nn

from openmm_mlbench.models.force_field import ALL_PAIRS_LIMIT, ForceField
from openmm_mlbench.models.neighbours import (
    all_pairs,
    forces_from_pairs,
    open_pairs,
    periodic_pairs,
    zero_unless_lost,
)
from openmm_mlbench.units import ANGSTROM_PER_NM, KJMOL_NM_PER_EV_ANGSTROM, KJMOL_PER_EV

# Up to this many atoms a list of all pairs costs a processor no more than a search for those within the cutoff.
FEW_ATOMS = 12


class ExportedModel(nn.Module):
    """A force field as OpenMM evaluates it; TorchScript-safe.

    Args:
        force_field: trained weights, energy zero and scale.

    Attributes:
        atomic_numbers: (n_selected,), set anew for each topology.
        atoms: (n_selected,) places of the selected atoms among all, or empty for all atoms.
    """

    atomic_numbers: Tensor
    atoms: Tensor
    scale: Tensor
    reference: Tensor
    one: Tensor
    direct: Final[bool]
    remove_mean_force: Final[bool]
    predicts_energy: Final[bool]

    def __init__(self, force_field: ForceField) -> None:
        super().__init__()
        self.network = force_field.network
        self.cutoff = force_field.network.cutoff
        self.direct = force_field.network.direct
        self.remove_mean_force = force_field.remove_mean_force
        self.predicts_energy = force_field.predicts_energy
        self.register_buffer("atomic_numbers", force_field.atomic_numbers.clone())
        self.register_buffer("atoms", torch.zeros(0, dtype=torch.long))
        self.register_buffer("scale", force_field.scale.to(torch.float64).clone())
        self.register_buffer("reference", force_field.reference.to(torch.float64).clone())
        # Its dtype is the dtype of the network, also after .double().
        self.register_buffer("one", torch.ones(()))
        self.angstrom_per_nm = ANGSTROM_PER_NM
        self.kjmol_per_ev = KJMOL_PER_EV
        self.force_factor = KJMOL_NM_PER_EV_ANGSTROM
        self.all_pairs_limit = ALL_PAIRS_LIMIT
        self.few_atoms = FEW_ATOMS

    def pairs(self, positions: Tensor, box_vectors: Tensor | None) -> tuple[Tensor, Tensor]:
        """Pair list of positions (n_atoms, 3) in A; see :mod:`openmm_mlbench.models.neighbours`."""
        if box_vectors is not None:
            return periodic_pairs(
                positions, box_vectors.to(positions.dtype) * self.angstrom_per_nm, self.cutoff
            )
        limit = self.all_pairs_limit if positions.is_cuda else self.few_atoms
        if positions.size(0) <= limit:
            index = all_pairs(positions.size(0), positions.device)
            return index, positions[index[1]] - positions[index[0]]
        return open_pairs(positions, self.cutoff)

    def per_atom(
        self, pair_vectors: Tensor, pair_index: Tensor, topology: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Energies (n_selected,) and forces (n_selected, 3) as the network gives them, without energy zero and scale."""
        vectors = pair_vectors.detach().to(self.one.dtype)
        # A constant, so that TorchScript compiles one of the two branches.
        if self.direct:
            # Positions arrive requiring a gradient, and frozen TorchScript drops detach.
            with torch.no_grad():
                energies, forces = self.network.energies_and_forces(vectors, topology)
            return energies, forces
        vectors = vectors.requires_grad_()
        per_atom = self.network.atomic_energies(vectors, topology)
        gradient = torch.autograd.grad([per_atom.sum()], [vectors])[0]
        assert gradient is not None
        return per_atom, forces_from_pairs(gradient, pair_index, per_atom.size(0))

    def evaluate(
        self, pair_vectors: Tensor, pair_index: Tensor, topology: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Energy (float64, kJ/mol) and forces (n_selected, 3) in the network's dtype, kJ/mol/nm."""
        per_atom, forces = self.per_atom(pair_vectors, pair_index, topology)
        if self.direct and self.remove_mean_force:
            forces = forces - forces.mean(0, keepdim=True)
        return self.in_openmm_units(per_atom, forces)

    def in_openmm_units(self, per_atom: Tensor, forces: Tensor) -> tuple[Tensor, Tensor]:
        """Energy (float64, kJ/mol) and forces (n_selected, 3), kJ/mol/nm, from what :meth:`per_atom` gives."""
        energy = per_atom.detach().to(torch.float64).sum() * self.scale
        energy = (energy + self.reference[self.atomic_numbers].sum()) * self.kjmol_per_ev
        if not self.predicts_energy:
            # NaN stays NaN.
            energy = 0.0 * energy
        return energy, forces.detach() * (self.scale * self.force_factor).to(forces.dtype)

    def forward(self, positions: Tensor, box_vectors: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Energy and forces; see the head of this file."""
        # OpenMM's Reference kernel hands over positions that require a gradient nobody reads.
        where = positions.detach()
        selected = where if self.atoms.size(0) == 0 else where[self.atoms]
        pair_index, pair_vectors = self.pairs(selected * self.angstrom_per_nm, box_vectors)
        energy, forces = self.evaluate(
            pair_vectors, pair_index, self.network.topology(self.atomic_numbers, pair_index)
        )
        return self.of_all_atoms(where, selected, box_vectors, energy, forces)

    def of_all_atoms(
        self, where: Tensor, selected: Tensor, box_vectors: Tensor | None, energy: Tensor, forces: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Energy and forces (n_atoms, 3) in the dtype of the positions; NaN where an atom or the box is lost.

        Args:
            where: (n_atoms, 3), positions of all atoms.
            selected: (n_selected, 3), of those that the model acts on.
            box_vectors: (3, 3) or None.
            energy: kJ/mol.
            forces: (n_selected, 3), kJ/mol/nm.
        """
        nothing = zero_unless_lost(selected, box_vectors)
        energy, forces = energy + nothing, (forces + nothing).to(where.dtype)
        if self.atoms.size(0) > 0:
            forces = torch.zeros_like(where).index_copy(0, self.atoms, forces)
        return energy, forces.contiguous()
