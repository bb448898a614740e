"""DeePMD-kit: files of ``dp --pt freeze`` (``.pth``), which search for neighbours themselves."""

from pathlib import Path

import torch
from torch import Tensor, nn

from openmm_mlbench.errors import ModelError
from openmm_mlbench.export.adapters.foreign import (
    Foreign,
    Stated,
    atomic_numbers_of,
    count_parameters,
    dtype_of,
    load_torchscript,
)
from openmm_mlbench.export.imported_model import SpeciesTable

# Operators of its library that a model names where it was frozen with the library at hand, and
# calls only where it was compressed.
TABULATED = (
    "deepmd::tabulate_fusion_se_a(Tensor a, Tensor b, Tensor c, Tensor d, int e) -> Tensor[]",
    "deepmd::tabulate_fusion_se_r(Tensor a, Tensor b, Tensor c, int d) -> Tensor[]",
    "deepmd::tabulate_fusion_se_t(Tensor a, Tensor b, Tensor c, Tensor d, int e) -> Tensor[]",
    "deepmd::tabulate_fusion_se_t_tebd(Tensor a, Tensor b, Tensor c, Tensor d, int e) -> Tensor[]",
    "deepmd::tabulate_fusion_se_atten(Tensor a, Tensor b, Tensor c, Tensor d, Tensor e, int f, bool g) -> Tensor[]",
)


class DeePMDAdapter(nn.Module):
    """Hands a frozen model coordinates in float64, types and the box.

    Args:
        model: TorchScript module of an energy model.
        species: atomic number of each type.
    """

    def __init__(self, model: torch.jit.ScriptModule, species: list[int]) -> None:
        super().__init__()
        self.model = model
        self.table = SpeciesTable(species)

    def forward(
        self,
        atomic_numbers: Tensor,
        positions: Tensor,
        cell: Tensor | None,
        pair_index: Tensor,
        pair_vectors: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Energy and forces (n_atoms, 3)."""
        box: Tensor | None = None
        if cell is not None:
            box = cell.to(torch.float64).reshape(1, 9)
        else:
            # Far from the origin differences of coordinates lose digits.
            positions = positions - positions.mean(0, keepdim=True)
        coordinates = positions.to(torch.float64).unsqueeze(0)
        result = self.model(coordinates, self.table(atomic_numbers).unsqueeze(0), box)
        return result["energy"], result["force"]


def read(path: Path, stated: Stated) -> Foreign:
    """Read a frozen model.

    Raises:
        ModelError: not a frozen energy model, or its types are no elements.
    """
    module, _ = load_torchscript(path)
    if not all(hasattr(module, name) for name in ("get_type_map", "get_rcut", "model_output_type")):
        raise ModelError(
            f"{path} is TorchScript, but not of DeePMD-kit (it has no get_type_map); freeze the checkpoint with "
            "`dp --pt freeze`, or import it as torchscript"
        )
    if "energy" not in module.model_output_type():
        raise ModelError(
            f"{path} gives {', '.join(module.model_output_type())}, not an energy; freeze an energy model"
        )
    if module.get_dim_fparam() or module.get_dim_aparam():
        raise ModelError(f"{path} needs frame or atomic parameters, which OpenMM has not")
    species = atomic_numbers_of(list(module.get_type_map()), str(path), override=stated.elements)
    return Foreign(
        module=DeePMDAdapter(module, species),
        needs_pairs=False,
        species=species,
        cutoff=float(module.get_rcut()),
        dtype=dtype_of(module, str(path)),
        n_parameters=count_parameters(module),
        energy_unit=stated.energy_unit or "eV",
        length_unit=stated.length_unit or "A",
    )
