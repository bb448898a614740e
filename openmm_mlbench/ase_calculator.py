"""An exported model as a calculator of ASE."""

from typing import Any

import numpy as np
import torch
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.stress import full_3x3_to_voigt_6_stress
from numpy.typing import NDArray

from openmm_mlbench.errors import PotentialError
from openmm_mlbench.export.exported_model import ExportedModel
from openmm_mlbench.potential import Potential
from openmm_mlbench.units import ANGSTROM_PER_NM, KJMOL_NM_PER_EV_ANGSTROM, KJMOL_PER_EV, NM_PER_ANGSTROM


class MLBenchCalculator(Calculator):
    """Energies in eV and forces in eV/A from the scripted module of a potential; stresses in eV/A^3.

    Stresses are those of this package's own conservative networks, for atoms in a periodic cell.

    Args:
        potential: the model, evaluated on its ``device``; atoms are periodic in all directions or in none.
    """

    implemented_properties = ["energy", "free_energy", "forces", "stress"]  # noqa: RUF012 - as ASE declares it

    def __init__(self, potential: Potential) -> None:
        super().__init__()
        self.potential = potential
        self.device = torch.device(potential.device)
        card = potential.card
        energies = ["energy", "free_energy"] if card.predicts_energy else []
        stresses = ["stress"] if card.origin is None and card.claims.conservative else []
        self.implemented_properties = [*energies, "forces", *stresses]
        self._module: torch.jit.ScriptModule | None = None
        self._eager: ExportedModel | None = None
        self._key: tuple[Any, ...] = ()

    def calculate(
        self, atoms: Any = None, properties: Any = ("energy",), system_changes: Any = tuple(all_changes)
    ) -> None:
        """ASE's interface: fills ``results``.

        Raises:
            PotentialError: elements, cell or periodicity do not fit the model.
            PropertyNotImplementedError: a stress without a cell.
        """
        super().calculate(atoms, properties, system_changes)
        numbers = tuple(int(number) for number in self.atoms.numbers)
        periodic = bool(self.atoms.pbc.all())
        if self.atoms.pbc.any() and not periodic:
            raise PotentialError(
                f"pbc is {self.atoms.pbc.tolist()}; models are periodic in all directions or in none, set pbc=True with a "
                "cell that leaves empty space, or pbc=False"
            )
        if "stress" in properties and not periodic:
            raise PropertyNotImplementedError("a stress needs a periodic cell")
        if (numbers, periodic) != self._key:
            self._module = self.potential.module(numbers, periodic=periodic).to(self.device)
            self._eager = None
            self._key = (numbers, periodic)
        assert self._module is not None
        arguments = [torch.as_tensor(self.atoms.positions * NM_PER_ANGSTROM, device=self.device)]
        if periodic:
            box = self.atoms.cell.array * NM_PER_ANGSTROM
            self.potential.check_box(box)
            arguments.append(torch.as_tensor(box, device=self.device))
        energy, forces = self._module(*arguments)
        self.results = {"forces": forces.detach().cpu().numpy() / KJMOL_NM_PER_EV_ANGSTROM}
        if self.potential.card.predicts_energy:
            self.results["energy"] = self.results["free_energy"] = energy.item() / KJMOL_PER_EV
        if "stress" in properties:
            self.results["stress"] = full_3x3_to_voigt_6_stress(self._stress(numbers, *arguments))

    def _stress(
        self, numbers: tuple[int, ...], positions: torch.Tensor, box: torch.Tensor
    ) -> NDArray[np.float64]:
        """(dE / d strain) / volume (3, 3): the sum over pairs of r (dE / dr)^T."""
        if self._eager is None:
            self._eager = self.potential.archive.load_eager().to(self.device)
            self._eager.atomic_numbers = torch.tensor(numbers, device=self.device)
        model = self._eager
        pair_index, pair_vectors = model.pairs(positions * ANGSTROM_PER_NM, box)
        vectors = pair_vectors.to(model.one.dtype).requires_grad_()
        energies = model.network.atomic_energies(
            vectors, model.network.topology(model.atomic_numbers, pair_index)
        )
        (gradient,) = torch.autograd.grad(energies.sum(), vectors)
        virial = (vectors.detach().double().T @ gradient.double()) * model.scale
        stress: NDArray[np.float64] = (virial / torch.linalg.det(box * ANGSTROM_PER_NM).abs()).cpu().numpy()
        return stress
