"""What research codes run today: the network in eager PyTorch, with run-time autograd, as a calculator of ASE."""

from typing import Any

import torch
from ase.calculators.calculator import Calculator, all_changes

from openmm_mlbench.potential import Potential
from openmm_mlbench.units import KJMOL_NM_PER_EV_ANGSTROM, KJMOL_PER_EV, NM_PER_ANGSTROM


class EagerCalculator(Calculator):
    """Energies (eV) and forces (eV/A) of the weights as a training leaves them; nothing is scripted, traced or tabulated.

    Pairs are found at each call: all of them in a molecule, those within the cutoff in a box.

    Args:
        potential: the model.

    Raises:
        ModelError: an imported model, which has no network class here.
    """

    implemented_properties = ["energy", "free_energy", "forces"]  # noqa: RUF012 - as ASE declares it

    def __init__(self, potential: Potential) -> None:
        super().__init__()
        self.device = torch.device(potential.device)
        self.model = potential.archive.load_eager().to(self.device)

    def calculate(
        self, atoms: Any = None, properties: Any = ("energy",), system_changes: Any = tuple(all_changes)
    ) -> None:
        """ASE's interface: fills ``results``."""
        super().calculate(atoms, properties, system_changes)
        if "numbers" in system_changes:
            self.model.atomic_numbers = torch.tensor(self.atoms.numbers, dtype=torch.long, device=self.device)
        positions, cell = (
            torch.as_tensor(value * NM_PER_ANGSTROM, device=self.device)
            for value in (self.atoms.positions, self.atoms.cell.array)
        )
        energy, forces = self.model(positions, cell if self.atoms.pbc.all() else None)
        self.results = {
            "energy": energy.item() / KJMOL_PER_EV,
            "free_energy": energy.item() / KJMOL_PER_EV,
            "forces": forces.cpu().numpy() / KJMOL_NM_PER_EV_ANGSTROM,
        }
