"""schnetpack: ``best_model`` files, which are pickled.

The keys of the dictionaries are those of ``schnetpack.properties``.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from openmm_mlbench.errors import ModelError
from openmm_mlbench.export.adapters.foreign import Foreign, Stated, atomic_numbers_of
from openmm_mlbench.export.adapters.pickled import convert
from openmm_mlbench.export.imported_model import directed_vectors


class SchNetPackAdapter(nn.Module):
    """Hands a scripted potential its edges.

    Args:
        model: TorchScript module of a dictionary.
        dtype: of the weights.
        constants: (119,), energy to add for each atom by atomic number.
        energy_key: name of the energy among its outputs.
        forces_key: name of the forces.
    """

    like: Tensor
    constants: Tensor

    def __init__(
        self,
        model: torch.jit.ScriptModule,
        dtype: torch.dtype,
        constants: Tensor,
        energy_key: str,
        forces_key: str,
    ) -> None:
        super().__init__()
        self.register_buffer("constants", constants.to(torch.float64))
        self.model = model
        self.energy_key = energy_key
        self.forces_key = forces_key
        self.register_buffer("like", torch.zeros((), dtype=dtype))

    def forward(
        self,
        atomic_numbers: Tensor,
        positions: Tensor,
        cell: Tensor | None,
        pair_index: Tensor,
        pair_vectors: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Energy and forces (n_atoms, 3)."""
        dtype = self.like.dtype
        n_atoms = positions.size(0)
        index, vectors = directed_vectors(pair_index, pair_vectors.to(dtype))
        device = positions.device
        data = {
            "_atomic_numbers": atomic_numbers,
            "_positions": torch.zeros_like(positions, dtype=dtype),
            "_cell": torch.eye(3, dtype=dtype, device=device).unsqueeze(0),
            "_pbc": torch.ones((1, 3), dtype=torch.bool, device=device),
            "_idx_i": index[0],
            "_idx_j": index[1],
            "_offsets": vectors,
            "_idx_m": torch.zeros(n_atoms, dtype=torch.long, device=device),
            "_n_atoms": torch.tensor([n_atoms], device=device),
            "_idx": torch.zeros(1, dtype=torch.long, device=device),
        }
        result = self.model(data)
        energy = result[self.energy_key].to(torch.float64).sum() + self.constants[atomic_numbers].sum()
        return energy, result[self.forces_key]


def read(path: Path, stated: Stated) -> Foreign:
    """Open a pickled potential; the caller has asked for trust.

    Raises:
        ModelError: schnetpack is missing, the file holds something else, or units or elements are not stated.
    """
    if stated.energy_unit is None or stated.length_unit is None or stated.elements is None:
        raise ModelError(
            f"{path}: schnetpack keeps neither units nor elements in its file; give --energy-unit, --length-unit and "
            "--elements, for example kcal/mol, A and H,C,O"
        )
    module, facts = convert(path, "schnetpack", stated)
    dtype = {"float32": torch.float32, "float64": torch.float64}[facts["dtype"]]
    constants = facts["offset"] + torch.tensor(facts["atomref"], dtype=torch.float64)
    return Foreign(
        module=SchNetPackAdapter(module, dtype, constants, stated.energy_key, stated.forces_key),
        needs_pairs=True,
        species=atomic_numbers_of(stated.elements, "--elements"),
        cutoff=facts["cutoff"],
        dtype=facts["dtype"],
        n_parameters=facts["n_parameters"],
        energy_unit=stated.energy_unit,
        length_unit=stated.length_unit,
        versions=facts["versions"],
    )
