"""A folder to train from on a machine that has torch, numpy, h5py and e3nn, and no package index."""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

from openmm_mlbench.data.datasets import load_dataset
from openmm_mlbench.data.readers import write_npz
from openmm_mlbench.errors import TrainingError
from openmm_mlbench.files import write_text
from openmm_mlbench.training.recipe_files import FOLDER, read_recipes

PACKAGE = Path(__file__).resolve().parents[1]
README = """To train here: Python 3.11 or newer with torch, numpy, h5py and e3nn; nothing is installed and nothing fetched.

{commands}
  torchrun --nproc-per-node 4 -m openmm_mlbench train ...     the same on four GPUs

Each writes best.pt, last.pt and log.csv into the folder after -o.  A run that was cut goes on with --resume.
--recipe paper, --recipe fast, or a .json file; --help lists the rest.

Bring the folders after -o back, and export where OpenMM and the pinned torch are:

  openmm-mlbench export FOLDER/best.pt -o MODEL.pt
"""
COMMAND = "  python -m openmm_mlbench train {model} {name} --data data/{name}.npz -o {model}-{name}"


def write_kit(datasets: Iterable[str], out: Path, model: str = "schnet") -> list[str]:
    """Write package, recipes and data sets; returns the commands of its README.

    Args:
        datasets: names of data sets, whose files are at hand.
        out: folder, which must not exist or be empty.
        model: architecture of the commands.

    Raises:
        TrainingError: the folder holds something.
        DataError: a data set is not known or not at hand.
    """
    names = tuple(dict.fromkeys(datasets))
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise TrainingError(f"{out} exists and is not an empty folder; give another")
    frames = [load_dataset(name) for name in names]
    shutil.copytree(
        PACKAGE, out / "openmm_mlbench", ignore=shutil.ignore_patterns("__pycache__", "_assets", "*.tmp")
    )
    # Where PyYAML is missing these are read in place of their neighbours.
    for path in sorted(FOLDER.glob("*.yaml")):
        copied = out / "openmm_mlbench" / "training" / "recipes" / f"{path.stem}.json"
        write_text(copied, json.dumps(read_recipes(path), indent=1) + "\n")
    for name, these in zip(names, frames, strict=True):
        write_npz(these, out / "data" / f"{name}.npz")
    commands = [COMMAND.format(model=model, name=name) for name in names]
    write_text(out / "README", README.format(commands="\n".join(commands)))
    return [command.strip() for command in commands]
