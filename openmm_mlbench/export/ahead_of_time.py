"""Ahead-of-time forces: energy and forces as one graph without autograd at run time.

For a fixed set of atoms in open space the pair list is static (all pairs; the
networks' cutoffs make far ones exactly zero), so energy and gradient can be
traced into plain tensor operations once.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx

from openmm_mlbench.export.exported_model import ExportedModel
from openmm_mlbench.export.graph_passes import reuse_memory, silu_backward, sums_as_products, treat
from openmm_mlbench.models.neighbours import all_pairs, periodic_pairs, zero_unless_lost
from openmm_mlbench.models.padded_pairs import padded_pairs, plan_pairs

aten = torch.ops.aten


def _addmm(bias: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return aten.mm(a, b) + bias


def _baddbmm(bias: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return aten.bmm(a, b) + bias


# TorchForce always freezes its module, and freezing fails on fused multiply-adds of constants.
_DECOMPOSITIONS: dict[Any, Callable[..., Tensor]] = {
    aten.addmm.default: _addmm,
    aten.baddbmm.default: _baddbmm,
    aten.silu_backward.default: silu_backward,
}


def trace_without_autograd(
    function: Callable[..., tuple[Tensor, ...]], example: tuple[Tensor, ...], *, one_system: bool = True
) -> torch.jit.ScriptModule:
    """A function of tensors, which may take gradients inside, as a graph of plain operations.

    Args:
        function: of tensors of fixed shapes.
        example: tensors to trace with.
        one_system: nothing in it has to stay finite while something else does not.
    """
    graph_module = graph_without_autograd(function, example)
    if one_system:
        sums_as_products(graph_module)
    reuse_memory(graph_module)
    with torch.no_grad():
        return torch.jit.trace(graph_module, example, check_trace=False)


def graph_without_autograd(
    function: Callable[..., tuple[Tensor, ...]], example: tuple[Tensor, ...]
) -> fx.GraphModule:
    """The same before it becomes TorchScript."""
    with torch.enable_grad():
        traced = make_fx(function, decomposition_table=_DECOMPOSITIONS)(*example)
    return treat(traced)


class _Specialised(nn.Module):
    """Runs a traced graph on float64 positions and returns forces in the dtype that came.

    ``capturable``: shapes are fixed and nothing is asked of the host, so a CUDA graph can replay it.
    """

    atoms: Tensor

    def __init__(self, core: torch.jit.ScriptModule, atoms: Tensor) -> None:
        super().__init__()
        self.capturable = True
        self.core = core
        self.register_buffer("atoms", atoms)

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        # Positions arrive requiring a gradient; recording one would undo the gain.
        with torch.no_grad():
            where = positions.detach()
            selected = where if self.atoms.size(0) == 0 else where.index_select(0, self.atoms)
            energy, selected_forces = self.core(selected.to(torch.float64))
            forces = selected_forces.to(where.dtype)
            if self.atoms.size(0) > 0:
                forces = torch.zeros_like(where).index_copy(0, self.atoms, forces)
            return energy, forces.contiguous()


def specialise(model: ExportedModel, positions_nm: Tensor) -> torch.jit.ScriptModule:
    """A TorchScript module for these atoms in open space, without autograd.

    Args:
        model: with ``atomic_numbers`` and ``atoms`` set for the topology.
        positions_nm: (n_selected, 3), an ordinary configuration to trace with.

    Returns:
        A module with ``forward(positions)`` of the same contract as the model's.
    """
    example = positions_nm.detach().to(torch.float64)
    return specialised_around(trace_without_autograd(function_of_molecule(model), (example,)), model)


def specialised_around(core: torch.jit.ScriptModule, model: ExportedModel) -> torch.jit.ScriptModule:
    """A core for positions (n_selected, 3), float64, with the model's choice of atoms and OpenMM's contract."""
    with torch.no_grad():
        return torch.jit.script(_Specialised(core, model.atoms))


def function_of_molecule(model: ExportedModel) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Positions (n_selected, 3), nm, to energy and forces, with all pairs and nothing else."""
    index = all_pairs(model.atomic_numbers.size(0), model.atomic_numbers.device)
    topology = model.network.topology(model.atomic_numbers, index)

    def energy_and_forces(positions: Tensor) -> tuple[Tensor, Tensor]:
        scaled = positions * model.angstrom_per_nm
        vectors = scaled.index_select(0, index[1]) - scaled.index_select(0, index[0])
        return model.evaluate(vectors, index, topology)

    return energy_and_forces


class _SpecialisedPeriodic(nn.Module):
    """The same in a box."""

    atoms: Tensor

    def __init__(self, core: torch.jit.ScriptModule, atoms: Tensor) -> None:
        super().__init__()
        self.capturable = True
        self.core = core
        self.register_buffer("atoms", atoms)

    def forward(self, positions: Tensor, box_vectors: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            where = positions.detach()
            selected = where if self.atoms.size(0) == 0 else where.index_select(0, self.atoms)
            energy, selected_forces = self.core(
                selected.to(torch.float64), box_vectors.detach().to(torch.float64)
            )
            nothing = zero_unless_lost(selected, box_vectors)
            energy, forces = energy + nothing, (selected_forces + nothing).to(where.dtype)
            if self.atoms.size(0) > 0:
                forces = torch.zeros_like(where).index_copy(0, self.atoms, forces)
            return energy, forces.contiguous()


def specialise_periodic(
    model: ExportedModel, positions_nm: Tensor, box_nm: Tensor, *, room: float = 1.2, shrink: float = 0.9
) -> torch.jit.ScriptModule:
    """A TorchScript module for these atoms in a box: no autograd, fixed shapes, nothing asked of the host.

    Made for GPUs, also with CUDA graphs; a processor gains nothing from it.  Pairs live in a list of
    fixed length (:mod:`openmm_mlbench.models.padded_pairs`), and so does what networks lay out by atom or
    species: if one overflows, the energy is infinite and all forces are NaN.

    Args:
        model: with ``atomic_numbers`` and ``atoms`` set for the topology.
        positions_nm: (n_selected, 3), an ordinary configuration.
        box_nm: (3, 3), its box.
        room: places in the list for this times the pairs of that configuration.
        shrink: the heights of the box may become this times what they are.

    Returns:
        A module with ``forward(positions, box_vectors)`` of the same contract as the model's.
    """
    example = positions_nm.detach().to(torch.float64), box_nm.detach().to(torch.float64)
    positions_a, box_a = example[0] * model.angstrom_per_nm, example[1] * model.angstrom_per_nm
    evaluate = _padded_evaluation(model, positions_a, box_a, room=room, shrink=shrink)

    def energy_and_forces(positions: Tensor, box: Tensor) -> tuple[Tensor, Tensor]:
        return evaluate(positions * model.angstrom_per_nm, box * model.angstrom_per_nm)

    core = trace_without_autograd(energy_and_forces, example)
    with torch.no_grad():
        return torch.jit.script(_SpecialisedPeriodic(core, model.atoms))


# Heights of a box around everything beyond its extent, in cutoffs: no image of an atom is seen.
_AROUND = 2.1


def specialise_open(
    model: ExportedModel, positions_nm: Tensor, *, room: float = 1.2
) -> torch.jit.ScriptModule:
    """The same in open space, for more atoms than :func:`specialise` compares all with all.

    Args:
        model: with ``atomic_numbers`` and ``atoms`` set for the topology.
        positions_nm: (n_selected, 3), an ordinary configuration.
        room: places in the list for this times the pairs of that configuration.

    Returns:
        A module with ``forward(positions)`` of the same contract as the model's.
    """
    example = positions_nm.detach().to(torch.float64)
    heights = _extent(example * model.angstrom_per_nm) + _AROUND * model.cutoff
    evaluate = _padded_evaluation(
        model, example * model.angstrom_per_nm, torch.diag(heights), room=room, shrink=1.0
    )

    def energy_and_forces(positions: Tensor) -> tuple[Tensor, Tensor]:
        where = positions.detach() * model.angstrom_per_nm
        # It grows with the molecule and never becomes smaller than the list was made for; a lost atom moves no wall.
        known = torch.nan_to_num(where, nan=0.0, posinf=0.0, neginf=0.0)
        around = torch.maximum(_extent(known) + _AROUND * model.cutoff, heights)
        energy, forces = evaluate(where, torch.diag(around))
        nothing = zero_unless_lost(where, None)
        return energy + nothing, forces + nothing

    return specialised_around(trace_without_autograd(energy_and_forces, (example,)), model)


def _extent(positions: Tensor) -> Tensor:
    return positions.amax(0) - positions.amin(0)


def _padded_evaluation(
    model: ExportedModel, positions_a: Tensor, box_a: Tensor, *, room: float, shrink: float
) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Energy and forces from positions and box, A, with lists of the lengths that this configuration asks for."""
    plan = plan_pairs(positions_a, box_a, model.cutoff, room=room, shrink=shrink)
    index, _ = periodic_pairs(positions_a, box_a, model.cutoff)
    lengths = model.network.fixed_lengths(model.atomic_numbers, index, room)

    def evaluate(positions: Tensor, box: Tensor) -> tuple[Tensor, Tensor]:
        pairs = padded_pairs(positions, box, model.cutoff, plan)
        topology, crowded = model.network.fixed_topology(
            model.atomic_numbers, pairs.pair_index, pairs.filled, lengths
        )
        energy, forces = model.evaluate(pairs.pair_vectors, pairs.pair_index, topology)
        # Also where an atom has no pairs that could carry the NaN.  OpenMM's barostat accepts a trial whose
        # energy is NaN, and refuses one whose energy is infinite.
        full = pairs.full | crowded
        energy = torch.where(full, torch.full_like(energy, float("inf")), energy)
        return energy, torch.where(full, torch.full_like(forces, float("nan")), forces)

    return evaluate


class _BothForms(nn.Module):
    """Fixed shapes on a GPU, which then waits for nobody; searched lists on a processor, which has no use for padding."""

    def __init__(self, fixed: torch.jit.ScriptModule, searched: torch.jit.ScriptModule) -> None:
        super().__init__()
        self.capturable = True
        self.fixed = fixed
        self.searched = searched

    def forward(self, positions: Tensor, box_vectors: Tensor) -> tuple[Tensor, Tensor]:
        if positions.is_cuda:
            return self.fixed(positions, box_vectors)
        return self.searched(positions, box_vectors)


class _BothFormsOpen(nn.Module):
    """The same in open space."""

    def __init__(self, fixed: torch.jit.ScriptModule, searched: torch.jit.ScriptModule) -> None:
        super().__init__()
        self.capturable = True
        self.fixed = fixed
        self.searched = searched

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        if positions.is_cuda:
            return self.fixed(positions)
        return self.searched(positions)


def both_forms(
    fixed: torch.jit.ScriptModule, searched: torch.jit.ScriptModule, *, periodic: bool = True
) -> torch.jit.ScriptModule:
    """One module with both forms of a network; where the positions are decides which one runs."""
    return torch.jit.script((_BothForms if periodic else _BothFormsOpen)(fixed, searched))
