"""NequIP and Allegro: files of ``nequip-compile --mode torchscript`` (``.nequip.pth``).

The keys of the dictionaries are those of ``nequip.data.AtomicDataDict``.
"""

from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from openmm_mlbench.errors import ModelError
from openmm_mlbench.export.adapters.foreign import (
    Foreign,
    Stated,
    atomic_numbers_of,
    count_parameters,
    load_torchscript,
)
from openmm_mlbench.export.imported_model import SpeciesTable, directed_vectors

# Extra files of the archive, beside which there is no other record of them.
METADATA = ("r_max", "type_names", "model_dtype", "per_edge_type_cutoff")


class NequIPAdapter(nn.Module):
    """Hands a compiled model its edges; positions and cell are float64 outside it, whatever is inside.

    Args:
        model: TorchScript module of a dictionary.
        species: atomic number of each type.
        type_cutoffs: (n_types, n_types), from centre to neighbour, or None where there is one cutoff.
    """

    type_cutoffs: Tensor
    has_type_cutoffs: Final[bool]

    def __init__(
        self, model: torch.jit.ScriptModule, species: list[int], type_cutoffs: Tensor | None
    ) -> None:
        super().__init__()
        self.model = model
        self.table = SpeciesTable(species)
        self.has_type_cutoffs = type_cutoffs is not None
        self.register_buffer("type_cutoffs", torch.zeros((0, 0)) if type_cutoffs is None else type_cutoffs)

    def forward(
        self,
        atomic_numbers: Tensor,
        positions: Tensor,
        cell: Tensor | None,
        pair_index: Tensor,
        pair_vectors: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Energy and forces (n_atoms, 3)."""
        types = self.table(atomic_numbers)
        index, vectors = directed_vectors(pair_index, pair_vectors.to(torch.float64))
        if self.has_type_cutoffs:
            reach = self.type_cutoffs[types[index[0]], types[index[1]]]
            kept = torch.nonzero((vectors * vectors).sum(1) <= reach * reach).squeeze(1)
            index, vectors = index[:, kept], vectors[kept]
        # With a unit cell the shifts are the edge vectors themselves.
        data = {
            "pos": torch.zeros_like(positions, dtype=torch.float64),
            "atom_types": types,
            "edge_index": index,
            "edge_cell_shift": vectors,
            "cell": torch.eye(3, dtype=torch.float64, device=positions.device).unsqueeze(0),
        }
        result = self.model(data)
        return result["total_energy"], result["forces"]


def read(path: Path, stated: Stated) -> Foreign:
    """Read a compiled model.

    Raises:
        ModelError: not a TorchScript file of NequIP's, or its types are no elements.
    """
    module, found = load_torchscript(path, dict.fromkeys(METADATA, ""))
    if not found["r_max"] or not found["type_names"]:
        raise ModelError(
            f"{path} is TorchScript, but not of NequIP (it has no r_max and type_names); compile the checkpoint with "
            "`nequip-compile --mode torchscript`, or import it as torchscript"
        )
    names = found["type_names"].split()
    per_type = found["per_edge_type_cutoff"].split()
    n_types = len(names)
    return Foreign(
        module=NequIPAdapter(
            module,
            atomic_numbers_of(names, str(path), override=stated.elements),
            torch.tensor([float(value) for value in per_type], dtype=torch.float64).reshape(n_types, n_types)
            if per_type
            else None,
        ),
        needs_pairs=True,
        species=atomic_numbers_of(names, str(path), override=stated.elements),
        cutoff=float(found["r_max"]),
        dtype=found["model_dtype"] or "float64",
        n_parameters=count_parameters(module),
        energy_unit=stated.energy_unit or "eV",
        length_unit=stated.length_unit or "A",
    )
