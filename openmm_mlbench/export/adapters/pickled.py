"""Pickled models, which are code: opened in a process of their own, by an interpreter that has their package."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from openmm_mlbench.errors import ModelError
from openmm_mlbench.export.adapters.foreign import Stated, load_torchscript
from openmm_mlbench.files import write_json

# What has to be installed where a kind of file is opened.
DISTRIBUTIONS = {"mace": "mace-torch", "schnetpack": "schnetpack"}
TIMEOUT_S = 600


def ask_trust(path: Path, kind: str, sha256: str, *, trusted: bool, note: Callable[[str], None]) -> None:
    """Say which file will be opened, and refuse to without the user's consent.

    Raises:
        ModelError: not trusted.
    """
    note(f"{path}: SHA-256 {sha256}")
    if not trusted:
        raise ModelError(
            f"{path} (SHA-256 {sha256}) is a pickle of {DISTRIBUTIONS[kind]}: opening it runs whatever code is in it; give "
            "--trust if you trust where it comes from"
        )


def convert(path: Path, kind: str, stated: Stated) -> tuple[torch.jit.ScriptModule, dict[str, Any]]:
    """The model of a pickled file as TorchScript, and facts about it.

    Raises:
        ModelError: the interpreter lacks the package, or the file holds something else.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        out = folder / "model.pt"
        request = {
            "kind": kind,
            "file": str(path.resolve()),
            "out": str(out),
            "dtype": stated.dtype,
            "head": stated.head,
            "energy_key": stated.energy_key,
            "forces_key": stated.forces_key,
        }
        write_json(folder / "request.json", request)
        program = Path(__file__).with_name("unpickle.py")
        python = stated.python or sys.executable
        try:
            answer = subprocess.run(  # noqa: S603 - the user's interpreter, our program
                [python, "-W", "ignore", str(program), str(folder / "request.json")],
                capture_output=True,
                text=True,
                timeout=TIMEOUT_S,
                check=False,
            )
        except OSError as error:
            raise ModelError(
                f"{python} does not run ({error.strerror}); give --python a Python interpreter"
            ) from error
        except subprocess.TimeoutExpired as error:
            raise ModelError(f"{path} was not opened within {TIMEOUT_S} s; is it complete?") from error
        lines = answer.stdout.splitlines()
        if answer.returncode != 0 or not lines:
            said = [
                line for line in answer.stderr.splitlines() if "Error" in line
            ] or answer.stderr.splitlines()
            last = (said or ["no word"])[-1].strip()[:300]
            raise ModelError(
                f"{path} cannot be opened as {kind} ({last}); is it a complete file of that kind?"
            )
        facts: dict[str, Any] = json.loads(lines[-1])
        if "refused" in facts:
            raise ModelError(
                f"{path} cannot be imported as {kind}: {facts['refused']}; the interpreter is {python}, and --python "
                f"chooses one that has {DISTRIBUTIONS[kind]}"
            )
        module, _ = load_torchscript(out)
        return module, facts
