"""OpenMM forces that evaluate a module with ``forward(positions, box_vectors=None)``."""

from typing import TYPE_CHECKING, Any

from openmm_mlbench.errors import PotentialError
from openmm_mlbench.forces.platforms import prepare_platforms

if TYPE_CHECKING:
    import openmm
    import torch

DRIVERS = ("auto", "torchforce", "pythonforce")


def choose_driver(driver: str) -> tuple[str, str]:
    """The driver that will run, and why.

    Raises:
        PotentialError: unknown name, or TorchForce was asked for and does not load.
    """
    if driver not in DRIVERS:
        raise PotentialError(f"driver {driver!r} is not known; use one of {', '.join(DRIVERS)}")
    status = prepare_platforms()
    if driver == "pythonforce":
        return driver, "asked for"
    if status.available:
        return "torchforce", status.reason
    if driver == "torchforce":
        raise PotentialError(
            f"TorchForce does not load: {status.reason}; run `openmm-mlbench doctor`, or use driver pythonforce"
        )
    return "pythonforce", f"TorchForce is not there: {status.reason}"


def make_force(module: "torch.jit.ScriptModule", *, periodic: bool, driver: str = "auto") -> "openmm.Force":
    """A force for a System.

    Args:
        module: returns energy (kJ/mol, float64) and forces (kJ/mol/nm).
        periodic: whether box vectors are handed to the module.
        driver: ``torchforce``, ``pythonforce`` (slower, needs no plugin) or ``auto``.
    """
    chosen, _ = choose_driver(driver)
    if chosen == "pythonforce":
        return _python_force(module, periodic=periodic)
    from openmmtorch import TorchForce

    force = TorchForce(module)
    force.setOutputsForces(True)
    force.setUsesPeriodicBoundaryConditions(periodic)
    return force


def _python_force(module: "torch.jit.ScriptModule", *, periodic: bool) -> "openmm.Force":
    import openmm
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    module = module.to(device)

    def compute(state: Any) -> tuple[float, Any]:
        positions = torch.as_tensor(state.getPositions(asNumpy=True)._value, device=device)  # noqa: SLF001
        arguments = [positions]
        if periodic:
            box = state.getPeriodicBoxVectors(asNumpy=True)._value  # noqa: SLF001
            arguments.append(torch.as_tensor(box, device=device))
        energy, forces = module(*arguments)
        return energy.item(), forces.detach().cpu().numpy()

    force = openmm.PythonForce(compute)
    force.setUsesPeriodicBoundaryConditions(periodic)
    return force
