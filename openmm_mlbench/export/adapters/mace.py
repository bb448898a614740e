"""MACE: ``.model`` files, which are pickled.

The keys of the dictionaries are those of ``mace.data.AtomicData``.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from openmm_mlbench.export.adapters.foreign import Foreign, Stated
from openmm_mlbench.export.adapters.pickled import convert
from openmm_mlbench.export.imported_model import SpeciesTable, directed_vectors


class MACEAdapter(nn.Module):
    """Hands a compiled model its edges.

    Args:
        model: TorchScript module of a dictionary.
        species: atomic number of each type.
        dtype: of the weights.
        head: which of its readouts.
    """

    like: Tensor

    def __init__(
        self, model: torch.jit.ScriptModule, species: list[int], dtype: torch.dtype, head: int
    ) -> None:
        super().__init__()
        self.model = model
        self.table = SpeciesTable(species)
        self.n_types = len(species)
        self.head = head
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
        data = {
            "positions": torch.zeros_like(positions, dtype=dtype),
            "node_attrs": nn.functional.one_hot(self.table(atomic_numbers), self.n_types).to(dtype),
            "edge_index": index,
            "shifts": vectors,
            "unit_shifts": torch.zeros_like(vectors),
            "cell": torch.eye(3, dtype=dtype, device=positions.device),
            "batch": torch.zeros(n_atoms, dtype=torch.long, device=positions.device),
            "ptr": torch.tensor([0, n_atoms], device=positions.device),
            "head": torch.full((1,), self.head, dtype=torch.long, device=positions.device),
        }
        result = self.model(data)
        node_energy, forces = result["node_energy"], result["forces"]
        assert node_energy is not None
        assert forces is not None
        # Summed in float64: the energies of the free atoms are large.
        return node_energy.to(torch.float64).sum(), forces


def read(path: Path, stated: Stated) -> Foreign:
    """Open a pickled model; the caller has asked for trust.

    Raises:
        ModelError: mace-torch is missing, or the file holds something else.
    """
    module, facts = convert(path, "mace", stated)
    dtype = {"float32": torch.float32, "float64": torch.float64}[facts["dtype"]]
    return Foreign(
        module=MACEAdapter(module, facts["species"], dtype, facts["head"]),
        needs_pairs=True,
        species=facts["species"],
        cutoff=facts["cutoff"],
        dtype=facts["dtype"],
        n_parameters=facts["n_parameters"],
        energy_unit=stated.energy_unit or "eV",
        length_unit=stated.length_unit or "A",
        versions=facts["versions"],
    )
