"""Learned force fields, driven by OpenMM, judged by the simulations they produce."""

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openmm_mlbench.potential import Potential

try:
    __version__ = version("openmm-mlbench")
except PackageNotFoundError:  # a source tree that was never installed, as on a bare training host
    __version__ = "0.0.0"

__all__ = ["Potential", "__version__"]


def __getattr__(name: str) -> Any:
    """Import OpenMM and torch only when the potential is asked for."""
    if name == "Potential":
        from openmm_mlbench.potential import Potential

        return Potential
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
