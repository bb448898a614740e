"""What every file in benchmarks/results/ says about where its numbers come from."""

import datetime as dt
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def provenance() -> dict[str, Any]:
    """Command, commit of the checkout, date and machine."""
    import torch

    from openmm_mlbench.training.trainer import machine

    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    answer = subprocess.run(git, capture_output=True, text=True, check=False)
    return {
        "command": shlex.join(["python", *_relative(sys.argv)]),
        "commit": answer.stdout.strip() or None,
        "date": dt.datetime.now(tz=dt.UTC).date().isoformat(),
        "machine": machine(torch.device("cpu")),
    }


def _relative(arguments: list[str]) -> list[str]:
    """Arguments with the checkout's own path taken out."""
    return [argument.replace(f"{ROOT}/", "") for argument in arguments]
