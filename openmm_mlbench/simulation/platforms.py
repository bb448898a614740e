"""Which OpenMM platform runs a System, with which properties, on how many threads, and why."""

import os
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from openmm_mlbench.errors import SimulationError
from openmm_mlbench.forces.drivers import driver_of, uses_cuda_graphs
from openmm_mlbench.forces.platforms import prepare_platforms
from openmm_mlbench.memory import keep_memory
from openmm_mlbench.simulation.barostat import MOLECULES

if TYPE_CHECKING:
    from openmm_mlbench.forces.drivers import Engine

# Forces that only touch velocities or the cell, beside those that come from a network.
_NO_WORK = ("CMMotionRemover", "MonteCarloBarostat")
# Below this size the CPU platform's overhead exceeds what its threads save, and torch's threads are slower too.
_SMALL = 100
_GPU = ("CUDA", "HIP", "OpenCL")
PROCESSOR_PLATFORMS = ("Reference", "CPU")
# Of forces; on GPUs `mixed` also sums and integrates in double precision.
PRECISIONS = {
    "Reference": ("double",),
    "CPU": ("single",),
    **dict.fromkeys(_GPU, ("mixed", "single", "double")),
}


@dataclass(frozen=True, kw_only=True)
class PlatformChoice:
    """Where a System runs, and why there.

    Args:
        name: of the OpenMM platform.
        properties: that a Context is made with.
        threads: of the processor, for OpenMM and torch.
        precision: of the platform.
        driver: of the learned force, or None where no network runs.
        cuda_graphs: whether the learned force is replayed as a CUDA graph.
        reason: for all that was not asked for.
    """

    name: str
    properties: dict[str, str] = field(default_factory=dict)
    threads: int = 1
    precision: str = ""
    driver: str | None = None
    cuda_graphs: bool = False
    reason: str = ""

    @property
    def line(self) -> str:
        """All of it in one line."""
        parts = [
            f"{self.precision} precision",
            f"{self.threads} thread{'' if self.threads == 1 else 's'}",
        ]
        if self.driver is not None:
            parts.append(f"driver {self.driver}")
            if self.name == "CUDA":
                parts.append(f"CUDA graphs {'on' if self.cuda_graphs else 'off'}")
        return f"platform {self.name} ({', '.join(parts)}): {self.reason}"


def choose_platform(
    name: str,
    system: Any,
    threads: int | None = None,
    precision: str = "auto",
    *,
    jobs: int = 1,
    engine: "Engine | None" = None,
) -> PlatformChoice:
    """The platform of this name, or the fastest sensible one for ``auto``.

    ``auto`` is CUDA where a device answers.  On processors it is Reference where a network does all
    the work (per step of 9 atoms, beside the network itself: 1-5 us against 9-15 us of the CPU
    platform), else CPU.

    Args:
        name: of a platform, or ``auto``.
        system: what shall run.
        threads: of one run, or None: one below 100 atoms, above that the cores shared out over the jobs.
        precision: ``single``, ``mixed``, ``double`` or ``auto``: mixed on GPUs.
        jobs: runs at the same time.
        engine: what is known of the learned force's driver.

    Raises:
        SimulationError: no such platform or device here, or a combination that cannot be.
    """
    drivers = [driver for driver in map(driver_of, system.getForces()) if driver is not None]
    driver = drivers[0] if drivers else None
    available = _available()
    reasons = []
    if name == "auto":
        name, reason = _fastest(system, available, driver)
        reasons.append(reason)
    elif name not in available:
        raise SimulationError(f"platform {name!r} is not here; use auto or one of {', '.join(available)}")
    elif name in _GPU and not _answers(name):
        raise SimulationError(f"platform {name!r} is here, but no device answers to it; use auto")
    if driver == "torchforce" and not _runs_torchforce(name):
        raise SimulationError(
            f"openmmtorch has no library for platform {name!r} that loads here; use --driver pythonforce, or "
            "another platform"
        )
    offered = PRECISIONS.get(name, ("auto",))
    if precision != "auto" and precision not in offered:
        raise SimulationError(
            f"platform {name} has {' or '.join(offered)} precision only, {precision!r} was asked for; use auto"
        )
    precision = offered[0] if precision == "auto" else precision
    if threads is None:
        threads, reason = _threads(system.getNumParticles(), jobs, gpu=name in _GPU)
        reasons.append(reason)
    if threads < 1:
        raise SimulationError(f"threads is {threads}; at least 1 is needed")
    # TorchForce is what runs where nothing is said.
    if engine is not None and engine.driver == "pythonforce" and engine.reason != "asked for":
        reasons.append(engine.reason)
    if engine is not None and engine.note:
        reasons.append(engine.note)
    properties = {"CPU": {"Threads": str(threads), "DeterministicForces": "true"}}
    properties |= {gpu: {"Precision": precision} for gpu in _GPU}
    return PlatformChoice(
        name=name,
        properties=properties.get(name, {}),
        threads=threads,
        precision=precision,
        driver=driver,
        cuda_graphs=name == "CUDA" and any(map(uses_cuda_graphs, system.getForces())),
        reason="; ".join(reasons) or "as asked for",
    )


def _available() -> list[str]:
    import openmm

    return [openmm.Platform.getPlatform(i).getName() for i in range(openmm.Platform.getNumPlatforms())]


def _fastest(system: Any, available: list[str], driver: str | None) -> tuple[str, str]:
    """Platform for ``auto``, and why."""
    why = "no CUDA device"
    if "CUDA" in available and _answers("CUDA"):
        if driver != "torchforce" or _runs_torchforce("CUDA"):
            return "CUDA", "a CUDA device answers"
        why = "a CUDA device answers, but openmmtorch's library for it does not load (--driver pythonforce runs there)"
    if _is_learned(system):
        return "Reference", f"{why}, and where a network does all the work Reference has the least overhead"
    if system.getNumParticles() < _SMALL:
        return (
            "Reference",
            f"{why}, and for {system.getNumParticles()} atoms Reference has the least overhead",
        )
    return "CPU", why


def _runs_torchforce(name: str) -> bool:
    """The CPU platform uses the library of Reference."""
    return ("Reference" if name == "CPU" else name) in prepare_platforms().platforms


def _threads(n_atoms: int, jobs: int, *, gpu: bool) -> tuple[int, str]:
    if gpu:
        return 1, "the GPU does the work of threads"
    if n_atoms < _SMALL:
        return 1, f"{n_atoms} atoms are too few for more threads"
    cores = available_threads()
    threads = max(1, cores // jobs)
    return (
        threads,
        f"{n_atoms} atoms, {cores} core{'' if cores == 1 else 's'} for {jobs} run{'' if jobs == 1 else 's'} at a time",
    )


def create_context(system: Any, integrator: Any, choice: PlatformChoice) -> Any:
    """A Context on the chosen platform.

    Raises:
        SimulationError: OpenMM cannot make it.
    """
    import openmm

    if choice.driver is not None and choice.name not in _GPU:
        keep_memory()
    try:
        platform = openmm.Platform.getPlatformByName(choice.name)
        return openmm.Context(system, integrator, platform, choice.properties)
    except openmm.OpenMMException as error:
        raise SimulationError(
            f"OpenMM cannot run this System on platform {choice.name}: {_one_line(error)}; "
            "try another --platform, and see `openmm-mlbench doctor`"
        ) from error


def context_properties(context: Any) -> dict[str, str]:
    """Every property of the platform with its value in this Context; the driver where it is not TorchForce."""
    platform = context.getPlatform()
    properties = {name: platform.getPropertyValue(context, name) for name in platform.getPropertyNames()}
    # What changes a network's forces in the last bits, so that a checkpoint of the other is not exact.
    drivers = [driver_of(force) for force in context.getSystem().getForces()]
    if "pythonforce" in drivers:
        properties["Driver"] = "pythonforce"
    torch = sys.modules.get("torch")
    # Reference has no such property; one thread is what earlier versions had and did not note.
    if platform.getName() == "Reference" and any(drivers) and torch and torch.get_num_threads() > 1:
        properties["Threads"] = str(torch.get_num_threads())
    return properties


def limit_threads(threads: int) -> None:
    """Hold torch, where a force has imported it, to this many threads."""
    if "OMP_NUM_THREADS" not in os.environ:
        os.environ["OMP_NUM_THREADS"] = str(threads)
        _held.append(str(threads))
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


def available_threads() -> int:
    """Threads that a run may use where nobody said how many: OMP_NUM_THREADS of the user's, or the cores."""
    asked = os.environ.get("OMP_NUM_THREADS")
    return int(asked) if asked and asked not in _held else _cores()


# What limit_threads has put into the environment, which is nobody's wish.
_held: list[str] = []


def _cores() -> int:
    # Only Linux knows which cores this process may use.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _is_learned(system: Any) -> bool:
    return all(
        type(force).__name__ in _NO_WORK or driver_of(force) is not None or force.getName() == MOLECULES
        for force in system.getForces()
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
