"""Loading the TorchForce plugins in any import order.

When openmm is imported before torch, its plugin libraries are opened before the
libraries of torch that they link to, and fail; importing openmmtorch first fails
the same way.  Importing torch, then openmmtorch, then loading the failed
libraries again cures both.
"""

import functools
import glob
import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class PluginStatus:
    """What stood in the way of TorchForce, if anything did.

    Args:
        available: TorchForce can be used on at least the Reference platform.
        reason: one line; why not, or what was loaded.
        failures: plugin libraries that did not load, with the loader's message.
        platforms: names of the OpenMM platforms whose TorchForce library is loaded.
    """

    available: bool
    reason: str
    failures: tuple[str, ...]
    platforms: tuple[str, ...] = ()


def _plugin_folders() -> list[str]:
    import openmm

    folders = (
        openmm.Platform.getDefaultPluginsDirectory(),
        os.path.join(openmm.version.openmm_library_path, "plugins"),
    )
    # In most installations they are one.
    return sorted({os.path.realpath(folder) for folder in folders if os.path.isdir(folder)})


def prepare_platforms() -> PluginStatus:
    """Make TorchForce usable, whatever was imported before; safe to call often."""
    try:
        import torch
    except ImportError as error:
        return PluginStatus(available=False, reason=f"torch does not import: {error}", failures=())
    import openmm

    # openmmtorch imports OpenMM by its old name, which logs a warning that no user can act on.
    disabled = logging.root.manager.disable
    logging.disable(max(disabled, logging.WARNING))
    try:
        import openmmtorch  # noqa: F401
    except ImportError as error:
        return PluginStatus(available=False, reason=f"openmmtorch does not import: {error}", failures=())
    finally:
        logging.disable(disabled)
    # Without this the second and third call of a scripted model compile for seconds and
    # differ from all later ones in the last bits.
    torch.jit.set_fusion_strategy([])
    failures: dict[str, str] = {}
    loaded: list[str] = []
    for library in sorted(
        path for folder in _plugin_folders() for path in glob.glob(os.path.join(folder, "libOpenMMTorch*.so"))
    ):
        name = os.path.basename(library)
        failed = any(name in failure for failure in openmm.Platform.getPluginLoadFailures())
        if failed and name not in _reloaded:
            try:
                openmm.Platform.loadPluginLibrary(library)
                _reloaded.add(name)
            except openmm.OpenMMException as error:
                failures[name] = str(error)
                continue
        loaded.append(name.removeprefix("libOpenMMTorch").removesuffix(".so"))
    available = "Reference" in loaded
    reason = f"{len(loaded)} TorchForce libraries loaded" if available else "no TorchForce library loads"
    return PluginStatus(
        available=available, reason=reason, failures=tuple(failures.values()), platforms=tuple(loaded)
    )


# OpenMM keeps the first failure in its list even after a later success.
_reloaded: set[str] = set()


@functools.cache
def torchforce_works() -> str | None:
    """None where a TorchForce can be evaluated, else why not, in one line.

    One is really evaluated: under torch 2.10 the plugin of openmmtorch 1.5 loads, and fails then.
    """
    status = prepare_platforms()
    if not status.available:
        return status.reason
    return try_torchforce(smallest_module())


def smallest_module() -> "torch.jit.ScriptModule":
    """Springs to the origin: the least that a learned force can be."""
    import torch

    class Spring(torch.nn.Module):
        def forward(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return (positions * positions).sum(), -2.0 * positions

    return torch.jit.script(Spring())


def try_torchforce(module: "torch.jit.ScriptModule") -> str | None:
    """None where a TorchForce of this module can be evaluated for one atom, else why not, in one line."""
    import openmm
    from openmmtorch import TorchForce

    force = TorchForce(module)
    force.setOutputsForces(True)
    system = openmm.System()
    system.addParticle(1.0)
    system.addForce(force)
    try:
        context = openmm.Context(
            system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
        )
        context.setPositions([[0.1, 0.2, 0.3]])
        context.getState(energy=True, forces=True)
    except openmm.OpenMMException as error:
        # What torch says is long; its last line is the exception itself.
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return f"it loads but fails when it is evaluated: {lines[-1] if lines else type(error).__name__}"
    return None
