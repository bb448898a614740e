"""Several copies of a molecule or box as one block-diagonal graph: one call evaluates k replicas.

Pairs never cross copies: each copy has its own list, shifted by a whole number of copies.  What
couples rows of a network (sums over atoms, the mean force, the sign that an atom was lost) is taken
per copy, so that a NaN of one leaves the others what they are.
"""

import contextlib
from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor, nn

from openmm_mlbench.errors import ModelError
from openmm_mlbench.export.ahead_of_time import trace_without_autograd
from openmm_mlbench.export.analytic import analytic_or_network
from openmm_mlbench.export.exported_model import ExportedModel
from openmm_mlbench.models.neighbours import all_pairs


def repeat_pairs(pair_index: Tensor, n_atoms: int, copies: int) -> Tensor:
    """Pairs (2, copies * n_pairs) of all copies, copy after copy, of the pairs (2, n_pairs) of one."""
    offsets = n_atoms * torch.arange(copies, device=pair_index.device)
    return (pair_index.unsqueeze(1) + offsets.view(1, -1, 1)).reshape(2, -1)


class _Evaluation(nn.Module):
    """Energies and forces of all copies from the pairs of all copies.

    Args:
        model: with ``atomic_numbers`` set for one copy.
        copies: how many.
        masses: (n_atoms,) of one copy.  A direct model whose forces do not sum to zero would set its
            copy in motion: the part of the forces that accelerates the centre of mass is removed,
            as OpenMM's CMMotionRemover does for a copy by itself.
    """

    shares: Tensor
    numbers: Tensor
    copies: Final[int]
    direct: Final[bool]
    remove_mean_force: Final[bool]
    predicts_energy: Final[bool]

    def __init__(self, model: ExportedModel, copies: int, masses: Tensor) -> None:
        super().__init__()
        self.model = model
        self.copies = copies
        self.direct = model.direct
        self.remove_mean_force = model.remove_mean_force
        self.predicts_energy = model.predicts_energy
        self.register_buffer("numbers", model.atomic_numbers.repeat(copies))
        self.register_buffer("shares", (masses / masses.sum()).to(model.one.dtype).view(1, -1, 1))

    def forward(
        self, pair_vectors: Tensor, pair_index: Tensor, topology: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Energies (copies,), float64, kJ/mol, and forces (copies * n_atoms, 3), kJ/mol/nm, in the network's dtype."""
        per_atom, forces = self.model.per_atom(pair_vectors, pair_index, topology)
        return self.by_copy(per_atom, forces)

    def by_copy(self, per_atom: Tensor, forces: Tensor) -> tuple[Tensor, Tensor]:
        """The same from energies and forces of all atoms as the network gives them."""
        if self.direct:
            blocks = forces.view(self.copies, -1, 3)
            if self.remove_mean_force:
                blocks = blocks - blocks.mean(1, keepdim=True)
            else:
                blocks = blocks - self.shares * blocks.sum(1, keepdim=True)
            forces = blocks.reshape(-1, 3)
        energies = per_atom.detach().to(torch.float64).view(self.copies, -1).sum(1) * self.model.scale
        energies = (
            energies + self.model.reference[self.model.atomic_numbers].sum()
        ) * self.model.kjmol_per_ev
        if not self.predicts_energy:
            # NaN stays NaN.
            energies = 0.0 * energies
        return energies, forces.detach() * (self.model.scale * self.model.force_factor).to(forces.dtype)


class _Traced(nn.Module):
    """All copies in open space by a traced graph of fixed shapes, without autograd."""

    capturable: Final[bool]

    def __init__(self, core: torch.jit.ScriptModule) -> None:
        super().__init__()
        self.capturable = True
        self.core = core

    @torch.jit.export
    def by_copy(
        self,
        positions: Tensor,
        box_vectors: Tensor | None = None,  # noqa: ARG002 - one contract for both modules
    ) -> tuple[Tensor, Tensor]:
        """Energies (copies,), kJ/mol, and forces (copies * n_atoms, 3), kJ/mol/nm."""
        # Positions arrive requiring a gradient; recording one would undo the gain.
        with torch.no_grad():
            where = positions.detach()
            energies, forces = self.core(where.to(torch.float64))
            return energies, forces.to(where.dtype).contiguous()

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Energy of all copies together, and forces."""
        energies, forces = self.by_copy(positions, None)
        return energies.sum(), forces


class _Searched(nn.Module):
    """All copies with a pair list that is searched for each; in open space, or in a box that they share."""

    copies: Final[int]

    def __init__(self, evaluation: _Evaluation) -> None:
        super().__init__()
        self.evaluation = evaluation
        self.copies = evaluation.copies

    @torch.jit.export
    def by_copy(self, positions: Tensor, box_vectors: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Energies (copies,), kJ/mol, and forces (copies * n_atoms, 3), kJ/mol/nm."""
        where = positions.detach()
        n_atoms = where.size(0) // self.copies
        model = self.evaluation.model
        indices: list[Tensor] = []
        vectors: list[Tensor] = []
        for copy in range(self.copies):
            own = where[copy * n_atoms : (copy + 1) * n_atoms]
            pair_index, pair_vectors = model.pairs(own * model.angstrom_per_nm, box_vectors)
            indices.append(pair_index + copy * n_atoms)
            vectors.append(pair_vectors)
        pairs = torch.cat(indices, dim=1)
        topology = model.network.topology(self.evaluation.numbers, pairs)
        energies, forces = self.evaluation(torch.cat(vectors), pairs, topology)
        # 0, but NaN where a copy has lost an atom: one at NaN has no pairs and would vanish silently.
        nothing = 0.0 * where.view(self.copies, -1).sum(1)
        forces = forces.to(where.dtype).view(self.copies, -1, 3) + nothing.view(-1, 1, 1)
        return energies + nothing, forces.reshape(-1, 3).contiguous()

    def forward(self, positions: Tensor, box_vectors: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Energy of all copies together, and forces."""
        energies, forces = self.by_copy(positions, box_vectors)
        return energies.sum(), forces


class _Called(nn.Module):
    """All copies by one call each of a module for a single one, whatever is inside it."""

    shares: Tensor
    copies: Final[int]
    net_force: Final[bool]

    def __init__(
        self, module: torch.jit.ScriptModule, copies: int, masses: Tensor, *, net_force: bool
    ) -> None:
        super().__init__()
        self.module = module
        self.copies = copies
        self.net_force = net_force
        self.register_buffer("shares", (masses / masses.sum()).to(torch.float64).view(-1, 1))

    @torch.jit.export
    def by_copy(self, positions: Tensor, box_vectors: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Energies (copies,), kJ/mol, and forces (copies * n_atoms, 3), kJ/mol/nm."""
        where = positions.detach()
        n_atoms = where.size(0) // self.copies
        energies: list[Tensor] = []
        forces: list[Tensor] = []
        for copy in range(self.copies):
            own = where[copy * n_atoms : (copy + 1) * n_atoms]
            if box_vectors is None:
                energy, force = self.module(own)
            else:
                energy, force = self.module(own, box_vectors)
            if self.net_force:
                force = force - self.shares.to(force.dtype) * force.sum(0, keepdim=True)
            energies.append(energy.detach().reshape(()).to(torch.float64))
            forces.append(force.detach())
        return torch.stack(energies), torch.cat(forces).contiguous()

    def forward(self, positions: Tensor, box_vectors: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Energy of all copies together, and forces."""
        energies, forces = self.by_copy(positions, box_vectors)
        return energies.sum(), forces


class _SideBySide(nn.Module):
    """Groups of copies, each evaluated by a thread of its own."""

    sizes: Final[list[int]]
    copies: Final[int]

    def __init__(self, groups: list[torch.jit.ScriptModule], sizes: list[int]) -> None:
        super().__init__()
        self.groups = nn.ModuleList(groups)
        self.sizes = sizes
        self.copies = sum(sizes)

    @torch.jit.export
    def by_copy(self, positions: Tensor, box_vectors: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Energies (copies,), kJ/mol, and forces (copies * n_atoms, 3), kJ/mol/nm."""
        where = positions.detach()
        n_atoms = where.size(0) // self.copies
        tasks: list[torch.jit.Future[tuple[Tensor, Tensor]]] = []
        begin = 0
        for number, group in enumerate(self.groups):
            end = begin + self.sizes[number]
            own = where[begin * n_atoms : end * n_atoms]
            tasks.append(torch.jit.fork(group.by_copy, own, box_vectors))
            begin = end
        energies: list[Tensor] = []
        forces: list[Tensor] = []
        for task in tasks:
            energy, force = torch.jit.wait(task)
            energies.append(energy)
            forces.append(force)
        return torch.cat(energies), torch.cat(forces)

    def forward(self, positions: Tensor, box_vectors: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Energy of all copies together, and forces."""
        energies, forces = self.by_copy(positions, box_vectors)
        return energies.sum(), forces


def side_by_side(
    make: Callable[[int], torch.jit.ScriptModule], copies: int, groups: int
) -> torch.jit.ScriptModule:
    """The same contract with the copies in groups, which a processor evaluates at the same time on a thread each.

    Threads within the operations of a molecule wait for each other more than they work; copies have nothing to wait for.

    Args:
        make: a module for so many copies.
        copies: how many there are.
        groups: how many, as equal as can be; 1 to copies.
    """
    if groups == 1:
        return make(copies)
    sizes = [copies // groups + (number < copies % groups) for number in range(groups)]
    made = {size: make(size) for size in sorted(set(sizes))}
    return torch.jit.script(_SideBySide([made[size] for size in sizes], sizes).eval())


def trace_copies(
    model: ExportedModel, positions_nm: Tensor, copies: int, masses: Tensor, *, tables: bool = False
) -> torch.jit.ScriptModule:
    """A module without autograd at run time for copies of a small molecule in open space.

    Args:
        model: with ``atomic_numbers`` set for one copy.
        positions_nm: (n_atoms, 3) of one copy, any configuration with atoms apart.
        copies: how many.
        masses: (n_atoms,) of one copy.
        tables: take radial networks from tables on a processor, where the architecture has them.

    Returns:
        A module with ``forward(positions) -> (energy, forces)`` for OpenMM, and ``by_copy`` with the energies
        (copies,) one by one.
    """
    n_atoms = positions_nm.size(0)
    index = repeat_pairs(all_pairs(n_atoms, positions_nm.device), n_atoms, copies)
    evaluation = _Evaluation(model, copies, masses)
    topology = model.network.topology(evaluation.numbers, index)

    def energies_and_forces(positions: Tensor) -> tuple[Tensor, Tensor]:
        vectors = (positions[index[1]] - positions[index[0]]) * model.angstrom_per_nm
        energies, forces = evaluation(vectors, index, topology)
        return energies, forces

    example = positions_nm.detach().to(torch.float64).repeat(copies, 1)
    core = trace_without_autograd(energies_and_forces, (example,), one_system=False)
    if tables:
        # Where they are too rough for tables: the network itself.
        with contextlib.suppress(ModelError):
            core = analytic_or_network(
                model, index, evaluation.numbers, evaluation.by_copy, core, example, one_system=False
            )
    with torch.no_grad():
        return torch.jit.script(_Traced(core))


def script_copies(model: ExportedModel, copies: int, masses: Tensor) -> torch.jit.ScriptModule:
    """The same contract with searched pair lists and run-time autograd, for larger systems and shared boxes."""
    return torch.jit.script(_Searched(_Evaluation(model, copies, masses)).eval())


def call_copies(
    module: torch.jit.ScriptModule, copies: int, masses: Tensor, *, net_force: bool
) -> torch.jit.ScriptModule:
    """The same contract around a module of which nothing is known but its own contract.

    The network gains nothing by it; the replicas share the engine all the same.

    Args:
        module: ``forward(positions, box_vectors=None) -> (energy, forces)`` of one copy.
        copies: how many.
        masses: (n_atoms,) of one copy.
        net_force: the forces of a copy need not sum to zero, see the masses of :class:`_Evaluation`.
    """
    return torch.jit.script(_Called(module, copies, masses, net_force=net_force).eval())
