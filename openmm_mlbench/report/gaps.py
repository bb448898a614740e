"""What was not measured: tables and figures of the paper without data here, each with the command that fills it."""

import shlex
from dataclasses import dataclass

from openmm_mlbench import paper
from openmm_mlbench.assets import asset_path
from openmm_mlbench.errors import MLBenchError


@dataclass(frozen=True, kw_only=True)
class Gap:
    """A figure of the paper that no run has the data for.

    Args:
        figure: its number.
        title: what it shows.
        dataset: of which data set.
        why: what is missing.
        commands: what fills it.
    """

    figure: str
    title: str
    dataset: str
    why: str
    commands: tuple[str, ...]


def is_shipped(dataset: str, model: str) -> bool:
    """Whether weights of this model are in the package."""
    try:
        return asset_path("torchscript_models", dataset, f"{model}.pt").is_file()
    except MLBenchError:
        return False


def _size_of(dataset: str) -> str:
    """What `train` calls the number of frames that the paper trains on; one in twenty is for validation."""
    table = next((table for table in paper.TABLES if table.dataset == dataset), None)
    return "" if table is None else f"{round(table.n_train / 950)}k"


def command_for(dataset: str, system: str, model: str, variant: str = "") -> str:
    """One line that trains (where no weights are shipped), simulates and analyzes a model.

    Args:
        dataset: that it is trained on.
        system: whose protocol is run.
        model: architecture.
        variant: of the protocol, empty for the main one.
    """
    folder = "-".join(filter(None, (f"runs/{dataset}-{model}", variant)))
    name, steps = f"{dataset}/{model}", []
    if not is_shipped(dataset, model):
        training, name = f"runs/train-{dataset}-{model}", f"models/{dataset}/{model}.pt"
        size = _size_of(dataset)
        steps.append(
            ["openmm-mlbench", "train", model, dataset, "--recipe", "paper"]
            + (["--size", size] if size and not dataset.endswith(size) else [])
            + ["-o", training]
        )
        steps.append(["openmm-mlbench", "export", f"{training}/best.pt", "-o", name])
    protocol = f"{system}-{variant}" if variant else system
    steps.append(["openmm-mlbench", "simulate", protocol, "--model", name, "-o", folder])
    steps.append(["openmm-mlbench", "analyze", folder])
    return " && ".join(shlex.join(step) for step in steps)
