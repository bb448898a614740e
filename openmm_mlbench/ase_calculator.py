"""An exported model as a calculator of ASE."""

from typing import Any

import torch
from ase.calculators.calculator import Calculator, all_changes

from openmm_mlbench.potential import Potential
from openmm_mlbench.units import KJMOL_NM_PER_EV_ANGSTROM, KJMOL_PER_EV, NM_PER_ANGSTROM


class MLBenchCalculator(Calculator):
    """Energies in eV and forces in eV/A from the scripted module of a potential.

    Args:
        potential: the model; atoms with any ``pbc`` are taken as periodic in all directions.
    """

    implemented_properties = ["energy", "free_energy", "forces"]  # noqa: RUF012 - as ASE declares it

    def __init__(self, potential: Potential) -> None:
        super().__init__()
        self.potential = potential
        self._module: torch.jit.ScriptModule | None = None
        self._key: tuple[Any, ...] = ()

    def calculate(
        self, atoms: Any = None, properties: Any = None, system_changes: Any = tuple(all_changes)
    ) -> None:
        """ASE's interface: fills ``results``."""
        super().calculate(atoms, properties, system_changes)
        numbers = tuple(int(number) for number in self.atoms.numbers)
        periodic = bool(self.atoms.pbc.any())
        if (numbers, periodic) != self._key:
            self._module = self.potential.module(numbers, periodic=periodic)
            self._key = (numbers, periodic)
        assert self._module is not None
        arguments = [torch.as_tensor(self.atoms.positions * NM_PER_ANGSTROM)]
        if periodic:
            self.potential.check_box(self.atoms.cell.array * NM_PER_ANGSTROM)
            arguments.append(torch.as_tensor(self.atoms.cell.array * NM_PER_ANGSTROM))
        energy, forces = self._module(*arguments)
        energy_ev = energy.item() / KJMOL_PER_EV
        self.results = {
            "energy": energy_ev,
            "free_energy": energy_ev,
            "forces": forces.detach().numpy() / KJMOL_NM_PER_EV_ANGSTROM,
        }
