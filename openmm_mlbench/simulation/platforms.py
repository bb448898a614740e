"""Which OpenMM platform runs a System, and with which properties."""

import os
import sys
from dataclasses import dataclass, field
from typing import Any

from openmm_mlbench.errors import SimulationError
from openmm_mlbench.simulation.barostat import MOLECULES

# Forces that come from a network, and those that only touch velocities or the cell.
_LEARNED = ("TorchForce", "PythonForce", "Force", "CMMotionRemover", "MonteCarloBarostat")
# Below this size the CPU platform's overhead exceeds what its threads save.
_SMALL = 100


@dataclass(frozen=True, kw_only=True)
class PlatformChoice:
    """A platform by name, with the properties that a Context is made with."""

    name: str
    properties: dict[str, str] = field(default_factory=dict)


def choose_platform(name: str, system: Any, threads: int = 1) -> PlatformChoice:
    """The platform of this name, or the fastest sensible one for ``auto``.

    ``auto`` is CUDA where a device answers.  On CPUs it is Reference where a
    network does all the work (28 against 41 us overhead per step), else CPU.

    Raises:
        SimulationError: no such platform here.
    """
    import openmm

    available = [openmm.Platform.getPlatform(i).getName() for i in range(openmm.Platform.getNumPlatforms())]
    if name == "auto":
        if "CUDA" in available and _answers("CUDA"):
            name = "CUDA"
        else:
            name = "Reference" if _is_learned(system) or system.getNumParticles() < _SMALL else "CPU"
    if name not in available:
        raise SimulationError(f"platform {name!r} is not here; use auto or one of {', '.join(available)}")
    properties = {
        "CPU": {"Threads": str(threads), "DeterministicForces": "true"},
        # Forces in single precision, sums and integration in double.
        "CUDA": {"Precision": "mixed"},
        "OpenCL": {"Precision": "mixed"},
        "HIP": {"Precision": "mixed"},
    }
    return PlatformChoice(name=name, properties=properties.get(name, {}))


def create_context(system: Any, integrator: Any, choice: PlatformChoice) -> Any:
    """A Context on the chosen platform.

    Raises:
        SimulationError: OpenMM cannot make it.
    """
    import openmm

    try:
        platform = openmm.Platform.getPlatformByName(choice.name)
        return openmm.Context(system, integrator, platform, choice.properties)
    except openmm.OpenMMException as error:
        raise SimulationError(
            f"OpenMM cannot run this System on platform {choice.name}: {_one_line(error)}; "
            "try another --platform, and see `openmm-mlbench doctor`"
        ) from error


def context_properties(context: Any) -> dict[str, str]:
    """Every property of the platform with its value in this Context."""
    platform = context.getPlatform()
    return {name: platform.getPropertyValue(context, name) for name in platform.getPropertyNames()}


def limit_threads(threads: int) -> None:
    """Hold torch, where a force has imported it, to this many threads."""
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)


def _answers(name: str) -> bool:
    """Whether a device stands behind the platform: the plugin loads on machines without one."""
    import openmm

    system = openmm.System()
    system.addParticle(1.0)
    try:
        openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName(name))
    except openmm.OpenMMException:
        return False
    return True


def _is_learned(system: Any) -> bool:
    return all(
        type(force).__name__ in _LEARNED or force.getName() == MOLECULES for force in system.getForces()
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
