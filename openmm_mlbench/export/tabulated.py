"""The form for processors in condensed phase: searched pairs, tables, gradients by hand."""

import torch
from torch import Tensor, nn

from openmm_mlbench.errors import ModelError
from openmm_mlbench.export.exported_model import ExportedModel
from openmm_mlbench.models.fast_forms import fast_form
from openmm_mlbench.models.neighbours import forces_from_pairs

# Architectures that have a fast form, as cards name them.
TABULATED = ("schnet", "deeppot-se")


class _Tabulated(nn.Module):
    """An exported model whose network is evaluated by its fast form."""

    def __init__(self, model: ExportedModel, fast: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.fast = fast

    def forward(self, positions: Tensor, box_vectors: Tensor | None = None) -> tuple[Tensor, Tensor]:
        model = self.model
        # Positions arrive requiring a gradient, and frozen TorchScript drops detach.
        with torch.no_grad():
            selected = positions if model.atoms.size(0) == 0 else positions.index_select(0, model.atoms)
            pair_index, found = model.pairs(selected * model.angstrom_per_nm, box_vectors)
            pair_vectors = found.to(model.one.dtype)
        per_atom, gradient = self.fast(model.atomic_numbers, pair_vectors, pair_index)
        with torch.no_grad():
            forces = forces_from_pairs(gradient, pair_index, per_atom.size(0))
            energy, forces = model.in_openmm_units(per_atom, forces)
            return model.of_all_atoms(positions, selected, box_vectors, energy, forces)


def tabulated(model: ExportedModel) -> torch.jit.ScriptModule:
    """A TorchScript module with the contract of the model's, of an architecture that has a fast form.

    Its radial networks differ from the model's by less than
    :data:`openmm_mlbench.models.fast_forms.TOLERANCE` of their largest value, about what float32 rounds away.

    Args:
        model: with ``atomic_numbers`` and ``atoms`` set for the topology.

    Raises:
        ModelError: an architecture without a fast form, or radial networks that are too rough for tables.
    """
    fast = fast_form(model.network)
    if fast is None:
        raise ModelError(f"{type(model.network).__name__} has no tabulated form; use evaluation='autograd'")
    return torch.jit.script(_Tabulated(model, fast).eval())
