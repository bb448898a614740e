"""OpenMM forces that evaluate a module with ``forward(positions, box_vectors=None)``."""

import logging
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from openmm_mlbench.errors import PotentialError
from openmm_mlbench.forces.platforms import prepare_platforms, torchforce_works

if TYPE_CHECKING:
    import openmm
    import torch

DRIVERS = ("auto", "torchforce", "pythonforce")


@dataclass(frozen=True, kw_only=True)
class Engine:
    """What evaluates a learned force.

    Args:
        driver: ``torchforce`` or ``pythonforce``.
        reason: why that one; one line.
        cuda_graphs: whether a TorchForce records and replays CUDA graphs on CUDA.
        note: how a PythonForce evaluates the network, in one line, or empty.
    """

    driver: str
    reason: str
    cuda_graphs: bool = False
    note: str = ""


def choose_driver(driver: str) -> tuple[str, str]:
    """The driver that will run, and why.

    Raises:
        PotentialError: unknown name, or TorchForce was asked for and does not work.
    """
    if driver not in DRIVERS:
        raise PotentialError(f"driver {driver!r} is not known; use one of {', '.join(DRIVERS)}")
    if driver == "pythonforce":
        return driver, "asked for"
    fault = torchforce_works()
    if fault is None:
        loaded = f"{prepare_platforms().reason}, and one TorchForce was evaluated"
        return "torchforce", "asked for" if driver == "torchforce" else loaded
    if driver == "torchforce":
        raise PotentialError(
            f"TorchForce does not work: {fault}; run `openmm-mlbench doctor`, or use driver pythonforce"
        )
    return "pythonforce", f"TorchForce does not work: {fault}"


def make_force(
    module: "torch.jit.ScriptModule | Callable[..., Any]",
    *,
    periodic: bool,
    driver: str = "auto",
    device: str = "auto",
) -> "openmm.Force":
    """A force for a System.

    Args:
        module: returns energy (kJ/mol, float64) and forces (kJ/mol/nm).  Where its attribute ``capturable``
            is true it has fixed shapes and asks nothing of the host, and a TorchForce replays it as a CUDA graph.
        periodic: whether box vectors are handed to the module.
        driver: ``torchforce``, ``pythonforce`` (needs no plugin) or ``auto``.
        device: where a PythonForce evaluates it: ``cpu``, ``cuda`` or ``auto``.
    """
    chosen, _ = choose_driver(driver)
    if chosen == "pythonforce":
        return _python_force(module, periodic=periodic, device=device)
    from openmmtorch import TorchForce

    from openmm_mlbench.forces.one_function import as_one_function

    capturable = getattr(module, "capturable", False)
    if capturable:
        from openmm_mlbench.forces.kept_outputs import keep_outputs

        module = keep_outputs(cast("torch.jit.ScriptModule", module), periodic=periodic)
    force = TorchForce(as_one_function(cast("torch.jit.ScriptModule", module)))
    force.setOutputsForces(True)
    force.setUsesPeriodicBoundaryConditions(periodic)
    if capturable:
        force.setProperty("useCUDAGraphs", "true")
    return force


def driver_of(force: "openmm.Force") -> str | None:
    """The driver behind a force of a System, or None where no network is."""
    import openmm

    if isinstance(force, openmm.PythonForce):
        return "pythonforce"
    # OpenMM's Python layer knows a force of a plugin by its base class only.
    if type(force) is openmm.Force and prepare_platforms().available:
        from openmmtorch import TorchForce

        return "torchforce" if TorchForce.isinstance(force) else None
    return None


# How the name of a force ends whose neighbour lists have a fixed length, whatever drives it.
FIXED_LISTS = ", neighbour lists of fixed length"


def uses_cuda_graphs(force: "openmm.Force") -> bool:
    """Whether a force asks for CUDA graphs, where it runs on CUDA."""
    if driver_of(force) != "torchforce":
        return False
    from openmmtorch import TorchForce

    return bool(TorchForce.cast(force).getProperties()["useCUDAGraphs"] == "true")


# What openmmtorch says where a network cannot be recorded.
_NOT_RECORDED = ("into a CUDA graph", "before graph construction")


def drop_cuda_graphs(context: "openmm.Context", error: Exception) -> bool:
    """Make a Context anew without CUDA graphs, if it was their recording that failed.

    Args:
        context: whose first evaluation raised; its positions have to be set again.
        error: what it raised.

    Returns:
        Whether it may work now.
    """
    forces = [force for force in context.getSystem().getForces() if uses_cuda_graphs(force)]
    if not forces or not any(words in str(error) for words in _NOT_RECORDED):
        return False
    from openmmtorch import TorchForce

    for force in forces:
        TorchForce.cast(force).setProperty("useCUDAGraphs", "false")
    last = [line.strip() for line in str(error).splitlines() if line.strip()][-1]
    logging.getLogger(__name__).warning(
        "CUDA graphs are off, because the network cannot be recorded: %s", last
    )
    context.reinitialize()
    return True


class Computation:
    """What a PythonForce calls at each step.

    Args:
        module: ``(positions[, box_vectors])`` to energy and forces, tensors or numbers and arrays.
        periodic: whether box vectors are handed to it.
        device: ``cpu``, ``cuda``, or ``auto``: the GPU where there is one.
    """

    def __init__(self, module: Callable[..., Any], *, periodic: bool, device: str = "auto") -> None:
        import numpy as np
        import torch
        from openmm import State

        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        # Compiled code belongs to the device that it was made for.
        self.device = getattr(module, "device", None) or torch.device(device)
        self.module = module.to(self.device) if isinstance(module, torch.nn.Module) else module
        self.periodic = periodic
        # Looked up once: each of the few microseconds around the network is paid at every step.
        self._on_host = self.device.type == "cpu"
        self._empty, self._tensor, self._kind = np.empty, torch.from_numpy, State.Positions

    def __call__(self, state: Any) -> tuple[float, Any]:
        """Energy, kJ/mol, and forces (n_particles, 3), kJ/mol/nm, of a State with positions."""
        # State.getPositions looks through all its attributes and attaches a unit: 8 us.
        values = self._empty((state._getNumParticles(), 3))  # noqa: SLF001
        state._getVectorAsNumpy(self._kind, values)  # noqa: SLF001
        positions = self._tensor(values)
        if not self._on_host:
            positions = positions.to(self.device)
        if self.periodic:
            box = self._tensor(state.getPeriodicBoxVectors(asNumpy=True)._value).to(self.device)  # noqa: SLF001
            energy, forces = self.module(positions, box)
        else:
            energy, forces = self.module(positions)
        if not self._on_host:
            energy, forces = energy.cpu(), forces.cpu()
        return energy.item(), forces.detach().numpy()

    def __reduce__(self) -> Any:
        """A System XML with a pickle in it would run code where it is read: there is none of ours."""
        raise pickle.PicklingError(
            "the PythonForce of a learned model is not saved; make it anew from card and archive with Potential"
        )


def _python_force(module: Callable[..., Any], *, periodic: bool, device: str) -> "openmm.Force":
    import openmm

    force = openmm.PythonForce(Computation(module, periodic=periodic, device=device))
    force.setUsesPeriodicBoundaryConditions(periodic)
    return force
