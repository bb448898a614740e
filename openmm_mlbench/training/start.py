"""From what a user asks for to a Trainer: data set, split, recipe, device."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from openmm_mlbench.data.datasets import default_split, list_datasets, load_dataset
from openmm_mlbench.data.frames import Frames
from openmm_mlbench.data.splits import Split, make_split
from openmm_mlbench.errors import DataError, TrainingError
from openmm_mlbench.memory import keep_memory
from openmm_mlbench.training.config import Recipe
from openmm_mlbench.training.distributed import ALONE, Group
from openmm_mlbench.training.recipe_files import SIZES, recipe_for
from openmm_mlbench.training.trainer import Trainer, load_checkpoint

DEFAULT_RECIPE = "fast"
# Test frames of the paper; fewer where fewer are left.
TEST_FRAMES = 10_000
# Systems that no data set is named after: the data set of each size, the first being what is taken without one.
SYSTEMS: dict[str, dict[str, str]] = {
    "water": {"1k": "water-1k", "10k": "water-10k", "90k": "water-90k"},
    "alanine-dipeptide": {"1k": "alanine-dipeptide-obc", "40k": "alanine-dipeptide-explicit"},
}


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to train and how; None leaves a value to the data set or the recipe.

    Args:
        model: architecture.
        source: name of a system or data set, or a file.
        out: folder of the run.
        data: file of the data set, instead of where it is looked for.
        labels: label set of an MD17 file.
        recipe: name or file; without one the ``fast`` recipe, or that of the run to be resumed.
        size: label of the numbers of training and validation frames, a key of ``SIZES``.
        train_frames: training frames, instead of ``size`` and the default split.
        validation_frames: with train_frames.
        test_frames: with train_frames.
        epochs: upper limit.
        minutes: upper limit of computing time, over all resumes.
        batch_size: frames per step.
        learning_rate: at the start.
        seed: of weights, batch order and, with train_frames, the split.
        device: ``cpu``, ``cuda``, ``cuda:1``, or ``auto``; of several processes each takes its own GPU.
        gpu_recipe: whether to take the recipe's values for GPUs; as the device is if None.
        threads: of torch on processors.
        resume: go on in ``out``.
        command: what the user typed, for the card.
    """

    model: str
    source: str
    out: Path
    data: Path | None = None
    labels: str | None = None
    recipe: str | None = None
    size: str | None = None
    train_frames: int | None = None
    validation_frames: int = 50
    test_frames: int = 1000
    epochs: int | None = None
    minutes: float | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    seed: int | None = None
    device: str = "auto"
    gpu_recipe: bool | None = None
    threads: int = 1
    resume: bool = False
    command: str = ""


def new_trainer(
    request: Request, say: Callable[[str], None] = print, group: Group = ALONE, device: str | None = None
) -> Trainer:
    """A trainer that has everything but has not begun.

    Args:
        request: what to train and how.
        say: receives what was chosen where the user left it open.
        group: the processes that train together.
        device: that of this process, instead of the request's.

    Raises:
        TrainingError: recipe, device or numbers do not fit.
        DataError: the data are unknown, missing, or too few.
    """
    if request.threads < 1:
        raise TrainingError(f"threads is {request.threads}; use 1 or more")
    torch.set_num_threads(request.threads)
    device = chosen_device(request.device) if device is None else device
    if device == "cpu":
        keep_memory()
    name = dataset_for(request.source, request.size, say)
    entry = next((entry for entry in list_datasets() if entry.name == name), None)
    system = None if entry is None else entry.system
    own = group.of_first(_recipe_of_run(request))
    recipe = _changed(
        own
        or recipe_for(
            request.model,
            request.recipe or DEFAULT_RECIPE,
            system,
            request.size or size_in_name(name),
            gpu=device.startswith("cuda") if request.gpu_recipe is None else request.gpu_recipe,
        ),
        request,
    )
    frames = load_dataset(name, request.labels, path=request.data)
    if group.size > recipe.batch_size:
        raise TrainingError(
            f"{group.size} processes for batches of {recipe.batch_size} frames; start at most as many, or give a larger --batch-size"
        )
    split = split_for(request, name, frames)
    return Trainer(recipe, frames, split, request.out, device, request.command, group)


def chosen_device(device: str) -> str:
    """The device that is meant, if it is there."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.split(":", maxsplit=1)[0] not in {"cpu", "cuda"}:
        raise TrainingError(f"device {device!r} is not known; use cpu, cuda or auto")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise TrainingError(
            "device cuda was asked for, torch sees none; use --device cpu, and see `openmm-mlbench doctor`"
        )
    return device


def dataset_for(source: str, size: str | None, say: Callable[[str], None] = print) -> str:
    """The data set behind the name of a system; any other name, and a file, is returned as it is."""
    if size is not None and size not in SIZES:
        raise TrainingError(f"size {size!r} is not known; use one of {', '.join(SIZES)}")
    if source not in SYSTEMS:
        return source
    by_size = SYSTEMS[source]
    name = by_size[size] if size in by_size else next(iter(by_size.values()))
    others = ", ".join(e.name for e in list_datasets() if e.system == source and e.name != name)
    say(f"{source}: taking the data set {name}; others are {others}")
    return name


def size_in_name(name: str) -> str | None:
    """The size that the name of a data set states, as water-10k does."""
    ending = name.rsplit("-", 1)[-1]
    return ending if ending in SIZES else None


def _recipe_of_run(request: Request) -> Recipe | None:
    """The recipe of the run to be resumed, unless another is asked for: that of a name may have changed since."""
    last = request.out / "last.pt"
    if not request.resume or request.recipe is not None or not last.is_file():
        return None
    recipe = Recipe.from_dict(json.loads(load_checkpoint(last)["recipe"]))
    if recipe.model != request.model:
        raise TrainingError(
            f"{last} is a run of {recipe.model}, asked for is {request.model}; give that model, or another folder"
        )
    return recipe


def _changed(recipe: Recipe, request: Request) -> Recipe:
    """The recipe with what the request replaces."""
    return recipe.with_overrides(
        max_epochs=request.epochs,
        max_minutes=request.minutes,
        batch_size=request.batch_size,
        learning_rate=request.learning_rate,
        seed=request.seed,
    )


def split_for(request: Request, name: str, frames: Frames) -> Split:
    """Training, validation and test frames as asked for.

    Raises:
        DataError: the frames are not enough, or a file has no default split.
    """
    named = {entry.name for entry in list_datasets()}
    if name not in named and frames.name in named:
        raise DataError(
            f"{name} calls itself {frames.name}, which is the name of a data set of this package; give "
            f"`{frames.name} --data {name}` if it is that one, or another name"
        )
    if request.train_frames is not None:
        if request.size is not None:
            raise TrainingError("--size and --train-frames both say how many frames to train on; give one")
        sizes = (request.train_frames, request.validation_frames, request.test_frames)
        return make_split(frames, *sizes, request.seed or 0)
    if request.size is not None:
        return _split_of_size(request.size, name, frames)
    if name not in named:
        raise DataError(f"{name} has no default split; give --size, or --train-frames (and --test-frames)")
    return default_split(name, frames)


def _split_of_size(size: str, name: str, frames: Frames) -> Split:
    """The data set's own split where it has one of this size, else what the size leaves for testing."""
    n_train, n_validation = SIZES[size]
    left = frames.n_frames - n_train - n_validation
    if left < 1:
        fitting = [label for label, both in SIZES.items() if sum(both) < frames.n_frames]
        instead = f"use --size {fitting[-1]}, " if fitting else ""
        raise DataError(
            f"{os.fspath(name)}: {frames.n_frames} frames are too few for --size {size} ({n_train} training and "
            f"{n_validation} validation frames, and at least one to test); {instead}leave --size out for the default "
            "split, or give --train-frames"
        )
    known = next((entry.splits for entry in list_datasets() if entry.name == name), ())
    n_test = next(
        (own[2] for own in known if own[:2] == (n_train, n_validation) and sum(own) <= frames.n_frames),
        min(TEST_FRAMES, left),
    )
    return make_split(frames, n_train, n_validation, n_test, seed=0)
