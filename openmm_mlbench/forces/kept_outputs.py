"""Results of a network on a GPU in memory that stays the same, whichever CUDA graph computed them.

openmmtorch 1.5 records two graphs, one for calls that want forces and one for calls that want the energy alone, and
remembers only where the one recorded last leaves its results (``CudaTorchKernels.cpp``, ``execute``).  After a
``getState(energy=True)`` every step would go on with the forces of that moment.  Here both graphs write one place.
"""

import torch
from torch import Tensor, nn


class _Kept(nn.Module):
    energy: Tensor
    forces: Tensor

    def __init__(self, module: torch.jit.ScriptModule) -> None:
        super().__init__()
        self.module = module
        self.capturable = True
        self.register_buffer("energy", torch.zeros(0, dtype=torch.float64), persistent=False)
        self.register_buffer("forces", torch.zeros(0), persistent=False)

    def _keep(self, energy: Tensor, forces: Tensor) -> None:
        # In the calls before a recording; made anew, so that no two Contexts of a System share them.
        if self.forces.shape != forces.shape or self.forces.dtype != forces.dtype:
            self.energy = torch.empty_like(energy)
            self.forces = torch.empty_like(forces)
        self.energy.copy_(energy)
        self.forces.copy_(forces)


class _KeptInOpenSpace(_Kept):
    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        energy, forces = self.module(positions)
        if positions.is_cpu:
            return energy, forces
        self._keep(energy, forces)
        return self.energy, self.forces


class _KeptInBox(_Kept):
    def forward(self, positions: Tensor, box_vectors: Tensor) -> tuple[Tensor, Tensor]:
        energy, forces = self.module(positions, box_vectors)
        if positions.is_cpu:
            return energy, forces
        self._keep(energy, forces)
        return self.energy, self.forces


def keep_outputs(module: torch.jit.ScriptModule, *, periodic: bool) -> torch.jit.ScriptModule:
    """A module of the same contract that a TorchForce with ``useCUDAGraphs`` can ask for energies alone.

    Args:
        module: ``forward(positions[, box_vectors]) -> (energy, forces)`` of fixed shapes.
        periodic: whether box vectors are handed to it.
    """
    return torch.jit.script((_KeptInBox if periodic else _KeptInOpenSpace)(module).eval())
