"""The forms for processors: gradients by hand, radial networks from tables; pairs searched, or all of a molecule."""

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor, nn

from openmm_mlbench.errors import ModelError
from openmm_mlbench.export.ahead_of_time import (
    function_of_molecule,
    specialised_around,
    trace_without_autograd,
)
from openmm_mlbench.export.exported_model import ExportedModel
from openmm_mlbench.models.fast_forms import fast_form
from openmm_mlbench.models.neighbours import all_pairs, forces_from_pairs

# Architectures that have a fast form, as cards name them, and those whose form also serves molecules.
ANALYTIC = ("schnet", "deeppot-se", "nequip", "dimenet", "gemnet-t")
ANALYTIC_MOLECULES = ("schnet", "deeppot-se", "dimenet")


class _Analytic(nn.Module):
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


def analytic(model: ExportedModel) -> torch.jit.ScriptModule:
    """A TorchScript module with the contract of the model's, of an architecture that has a fast form.

    Tabulated radial networks (SchNet, DeepPot-SE) and bases (DimeNet) differ from the model's by less than
    :data:`openmm_mlbench.models.radial_tables.TOLERANCE` of their largest value, about what float32 rounds away.

    Args:
        model: with ``atomic_numbers`` and ``atoms`` set for the topology.

    Raises:
        ModelError: an architecture without a fast form, or radial networks that are too rough for tables.
    """
    return torch.jit.script(_Analytic(model, fast_form_of(model)).eval())


def fast_form_of(model: ExportedModel, *, molecule: bool = False) -> nn.Module:
    """The fast form of a model's network; raises as :func:`analytic` does."""
    fast = fast_form(model.network)
    if fast is None:
        raise ModelError(f"{type(model.network).__name__} has no analytic form; use evaluation='autograd'")
    if molecule and not hasattr(fast, "fixed"):
        # Measured: traced for a molecule it is slower than what autograd gives, traced.
        raise ModelError(
            f"{type(model.network).__name__}'s analytic form is for searched pairs; use evaluation='ahead-of-time'"
        )
    return fast


class _TablesOrNetwork(nn.Module):
    """Tables on a processor, the network itself on a GPU, which waits for nobody there, and for pairs that are too close."""

    shortest: Final[float]

    def __init__(
        self, tables: torch.jit.ScriptModule, network: torch.jit.ScriptModule, shortest: float
    ) -> None:
        super().__init__()
        self.tables = tables
        self.network = network
        self.shortest = shortest

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        if positions.is_cuda:
            return self.network(positions)
        energy, forces, close = self.tables(positions)
        if self.shortest > 0.0 and bool(close):
            return self.network(positions)
        return energy, forces


def analytic_or_network(
    model: ExportedModel,
    pair_index: Tensor,
    atomic_numbers: Tensor,
    finish: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    network: torch.jit.ScriptModule,
    example: Tensor,
    *,
    one_system: bool = True,
) -> torch.jit.ScriptModule:
    """A traced core with tables for a fixed list of pairs.

    Args:
        model: of an architecture that has a fast form.
        pair_index: (2, n_pairs).
        atomic_numbers: (n,), of all that the pairs are between.
        finish: from energies (n,) and forces (n, 3) in the network's units to what comes out.
        network: the same without tables.
        example: positions (n, 3), nm, float64.
        one_system: see :func:`trace_without_autograd`.

    Raises:
        ModelError: an architecture without a fast form, or radial networks that are too rough for tables.
    """
    fast = fast_form_of(model, molecule=True)
    topology = fast.fixed_topology(atomic_numbers, pair_index)  # type: ignore[operator]

    def evaluate(positions: Tensor) -> tuple[Tensor, ...]:
        scaled = positions * model.angstrom_per_nm
        vectors = scaled.index_select(0, pair_index[1]) - scaled.index_select(0, pair_index[0])
        vectors = vectors.to(model.one.dtype)
        per_atom, gradient = fast.fixed(vectors, topology)  # type: ignore[operator]
        # NaN is not close: it has to come out.
        close = (torch.linalg.vector_norm(vectors, dim=1) < fast.shortest).any()
        return *finish(per_atom, forces_from_pairs(gradient, pair_index, per_atom.size(0))), close

    tables = trace_without_autograd(evaluate, (example,), one_system=one_system)
    return torch.jit.script(_TablesOrNetwork(tables, network, float(fast.shortest)))  # type: ignore[arg-type]


def specialise_analytic(model: ExportedModel, positions_nm: Tensor) -> torch.jit.ScriptModule:
    """A TorchScript module with tables for these atoms in open space; on a GPU the network itself, ahead of time.

    Args:
        model: with ``atomic_numbers`` and ``atoms`` set for the topology.
        positions_nm: (n_selected, 3), an ordinary configuration to trace with.

    Raises:
        ModelError: as :func:`analytic`, and of an architecture whose form is not for molecules.
    """
    example = positions_nm.detach().to(torch.float64)
    network = trace_without_autograd(function_of_molecule(model), (example,))
    index = all_pairs(model.atomic_numbers.size(0), model.atomic_numbers.device)
    core = analytic_or_network(model, index, model.atomic_numbers, model.in_openmm_units, network, example)
    return specialised_around(core, model)
