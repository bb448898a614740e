"""Loading the TorchForce plugins in any import order.

When openmm is imported before torch, its plugin libraries are opened before the
libraries of torch that they link to, and fail; importing openmmtorch first fails
the same way.  Importing torch, then openmmtorch, then loading the failed
libraries again cures both.
"""

import glob
import logging
import os
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class PluginStatus:
    """What stood in the way of TorchForce, if anything did.

    Args:
        available: TorchForce can be used on at least the Reference platform.
        reason: one line; why not, or what was loaded.
        failures: plugin libraries that did not load, with the loader's message.
    """

    available: bool
    reason: str
    failures: tuple[str, ...]


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
    loaded = 0
    for library in sorted(
        path for folder in _plugin_folders() for path in glob.glob(os.path.join(folder, "libOpenMMTorch*.so"))
    ):
        name = os.path.basename(library)
        if not any(name in failure for failure in openmm.Platform.getPluginLoadFailures()):
            loaded += 1
            continue
        if name in _reloaded:
            loaded += 1
            continue
        try:
            openmm.Platform.loadPluginLibrary(library)
            _reloaded.add(name)
            loaded += 1
        except openmm.OpenMMException as error:
            failures[name] = str(error)
    available = loaded > 0 and "libOpenMMTorchReference.so" not in failures
    reason = f"{loaded} TorchForce libraries loaded" if available else "no TorchForce library loads"
    return PluginStatus(available=available, reason=reason, failures=tuple(failures.values()))


# OpenMM keeps the first failure in its list even after a later success.
_reloaded: set[str] = set()
