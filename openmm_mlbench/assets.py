"""Where systems/, protocols/ and torchscript_models/ are found.

In a checkout they lie beside the package; in an installed wheel inside it,
under ``openmm_mlbench/_assets`` (see pyproject.toml).
"""

from pathlib import Path

from openmm_mlbench.errors import MLBenchError

_PACKAGE = Path(__file__).resolve().parent
KINDS = ("systems", "protocols", "torchscript_models")


def asset_root() -> Path:
    """The folder that holds systems/, protocols/ and torchscript_models/.

    Raises:
        MLBenchError: neither a checkout nor an installed wheel is around.
    """
    for root in (_PACKAGE / "_assets", _PACKAGE.parent):
        if all((root / kind).is_dir() for kind in KINDS):
            return root
    raise MLBenchError(
        f"systems/, protocols/ and torchscript_models/ are neither in {_PACKAGE / '_assets'} nor in "
        f"{_PACKAGE.parent}; reinstall the package or run from a complete checkout"
    )


def asset_path(kind: str, *parts: str) -> Path:
    """Path of an asset, which need not exist; parts cannot leave the folder."""
    root = (asset_root() / kind).resolve()
    path = root.joinpath(*parts).resolve()
    if kind not in KINDS or not path.is_relative_to(root):
        raise MLBenchError(f"{'/'.join(parts)!r} is not the name of anything in {kind}/")
    return path
