"""What was not measured: tables and figures of the paper without data here, each with the command that fills it."""

import shlex
from collections.abc import Collection, Sequence
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


# Section -> what it has nothing of, and what fills it: another model, these runs analyzed, or a system and its data.
_EMPTY: dict[str, tuple[str, str | tuple[str, str]]] = {
    "trade": ("No system has two runs with a force error, a stability and a speed.", "model"),
    "force": ("No data set has two models with a force error.", "model"),
    "structure": ("No run has a distribution of distances or an RDF.", "analyze"),
    "energy": (
        "No run has hills of metadynamics, which free energies are made of.",
        ("alanine-dipeptide", "alanine-dipeptide"),
    ),
    "motion": (
        "No run has displacements of a liquid, energies without a thermostat, or other time steps beside it.",
        ("water-1k", "water"),
    ),
    "collapse": ("No replica collapsed.", ""),
    "detail": ("No run has forces on test frames, bonds or angles.", "analyze"),
    "ranks": ("No run is of the protocol of the data set that its model was trained on.", "model"),
    "label": ("No run has errors on test frames.", "analyze"),
    "geometry": ("No run has bonds, angles or dihedrals.", "analyze"),
}


def empty_section(
    key: str, folders: Sequence[str], dataset: str, system: str, known: Collection[str]
) -> tuple[str, str]:
    """What a section of the page has nothing of, and the command that fills it, empty where nothing is missing.

    Args:
        key: of the section.
        folders: of the runs on the page.
        dataset: that a model of theirs was trained on.
        system: that was simulated.
        known: models that were run on it.
    """
    why, what = _EMPTY[key]
    if not what:
        return why, ""
    if what == "analyze":
        return why, shlex.join(["openmm-mlbench", "analyze", *folders])
    place = (dataset, system) if isinstance(what, str) else what
    models = sorted(paper.MODELS, key=lambda model: (model in known, not is_shipped(place[0], model)))
    return why, command_for(*place, models[0])
