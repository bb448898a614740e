"""Copies systems/, protocols/ and torchscript_models/ into the wheel; all else stands in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent


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
            shutil.copytree(ROOT / kind, target / kind, ignore=shutil.ignore_patterns(".*"))


setup(cmdclass={"build_py": BuildWithAssets})
