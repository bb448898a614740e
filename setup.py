"""Copies systems/, protocols/ and the small ones of torchscript_models/ into the wheel; all else stands in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
# A wheel is downloaded by everybody: larger models stay in the repository.
LARGEST_MODEL_BYTES = 5_000_000


def left_out(folder: str, names: list[str]) -> set[str]:
    """Hidden files, and large models with their training logs."""
    large = {
        name.removesuffix(".pt")
        for name in names
        if name.endswith(".pt") and (Path(folder) / name).stat().st_size > LARGEST_MODEL_BYTES
    }
    return {name for name in names if name.startswith(".") or name.split(".")[0] in large}


class BuildWithAssets(build_py):
    """Puts the assets where openmm_mlbench/assets.py looks for them; a checkout is used as it lies."""

    def run(self) -> None:
        """Build as usual, then copy."""
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib) / "openmm_mlbench" / "_assets"
        shutil.rmtree(target, ignore_errors=True)
        for kind in ("systems", "protocols", "torchscript_models"):
            shutil.copytree(ROOT / kind, target / kind, ignore=left_out)


setup(cmdclass={"build_py": BuildWithAssets})
