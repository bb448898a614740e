"""What a user asks for becomes data set, split, recipe and device."""

import dataclasses
import json
from pathlib import Path

import fresh_models
import numpy as np
import pytest

from openmm_mlbench.data.datasets import default_split
from openmm_mlbench.errors import DataError, TrainingError
from openmm_mlbench.training.recipe_files import recipe_for
from openmm_mlbench.training.start import (
    Request,
    chosen_device,
    dataset_for,
    new_trainer,
    size_in_name,
    split_for,
)


def request(**values):
    return Request(**({"model": "schnet", "source": "ethanol-gfn2", "out": Path("out")} | values))


def frames_of(n_frames):
    """As many frames as are wanted, the shipped ones again and again."""
    frames, _ = fresh_models.ethanol()
    return frames.select(np.arange(n_frames) % frames.n_frames)


@pytest.mark.parametrize(
    ("source", "size", "wanted"),
    [
        ("water", None, "water-1k"),
        ("water", "90k", "water-90k"),
        ("water-dft", None, "water-dft"),
        ("alanine-dipeptide", None, "alanine-dipeptide-obc"),
        ("alanine-dipeptide", "40k", "alanine-dipeptide-explicit"),
        ("ethanol", "10k", "ethanol"),
        ("my.npz", "1k", "my.npz"),
    ],
)
def test_the_data_set_of_a_system(source, size, wanted):
    said = []
    assert dataset_for(source, size, said.append) == wanted
    if source != wanted:
        assert said[0].startswith(f"{source}: taking the data set {wanted}; others are ")


def test_sizes_in_names():
    assert [size_in_name(name) for name in ("water-10k", "water-spcfw-1k", "ethanol", "lips-fm")] == [
        "10k", "1k", None, None,
    ]  # fmt: skip
    with pytest.raises(TrainingError, match="size '5k' is not known; use one of 1k, 10k"):
        dataset_for("water", "5k")


def test_a_size_decides_the_split():
    frames = frames_of(1500)
    split = split_for(request(size="1k"), "ethanol-gfn2", frames)
    # The rest is for testing: this data set has no split of its own with 950 training frames.
    assert [len(part) for part in (split.train, split.validation, split.test)] == [950, 50, 500]
    split = split_for(request(size="10k"), "ethanol-gfn2", frames_of(25_000))
    assert [len(part) for part in (split.train, split.validation, split.test)] == [9500, 500, 10_000]
    # Where the data set has one, it is that, whatever else there is.
    frames = frames_of(8600)
    own, asked = default_split("ethanol", frames), split_for(request(size="1k"), "ethanol", frames)
    assert own.hash == asked.hash
    assert len(own.test) == 1000


def test_sizes_that_do_not_fit():
    with pytest.raises(
        DataError, match=r"1500 frames are too few for --size 10k \(9500 training and 500 .*use --size 1k"
    ):
        split_for(request(size="10k"), "ethanol-gfn2", frames_of(1500))
    with pytest.raises(DataError, match=r"1000 frames are too few for --size 1k .*; leave --size out"):
        split_for(request(size="1k"), "ethanol-gfn2", frames_of(1000))
    with pytest.raises(TrainingError, match="--size and --train-frames both say"):
        split_for(request(size="1k", train_frames=10), "ethanol-gfn2", frames_of(1500))
    mine = dataclasses.replace(frames_of(3), name="mine")
    with pytest.raises(DataError, match=r"x\.npz has no default split; give --size"):
        split_for(request(), "x.npz", mine)


def test_devices():
    assert chosen_device("cpu") == "cpu"
    with pytest.raises(TrainingError, match="device 'tpu' is not known"):
        chosen_device("tpu")
    with pytest.raises(TrainingError, match="threads is 0"):
        new_trainer(request(threads=0))


def test_the_recipe_follows_the_system_and_the_request(tmp_path):
    few = {
        "train_frames": 4,
        "validation_frames": 2,
        "test_frames": 2,
        "out": tmp_path / "a",
        "device": "cpu",
    }
    trainer = new_trainer(request(source="alanine-dipeptide-obc", **few))
    assert trainer.recipe == recipe_for("schnet", "fast", "alanine-dipeptide")
    assert trainer.force_field.network.cutoff == 6.0
    trainer = new_trainer(request(recipe="paper", batch_size=2, seed=4, **few))
    assert trainer.recipe == recipe_for("schnet", "paper").with_overrides(batch_size=2, seed=4)
    assert trainer.force_field.network.cutoff == 5.0


def test_a_resumed_run_keeps_its_recipe(tmp_path):
    """Also after the recipe of that name has changed: the checkpoint carries it."""
    own = tmp_path / "own.json"
    own.write_text(json.dumps({"batch_size": 3, "hyperparameters": fresh_models.TINY["schnet"], "max_epochs": 1,
                               "schedule": "plateau"}))  # fmt: skip
    few = {
        "train_frames": 4,
        "validation_frames": 2,
        "test_frames": 2,
        "out": tmp_path / "run",
        "device": "cpu",
    }
    new_trainer(request(recipe=str(own), **few)).run()
    own.unlink()
    resumed = new_trainer(request(resume=True, epochs=2, **few))
    resumed.run(resume=True)
    assert resumed.recipe.batch_size == 3
    assert resumed.epoch == 2
    with pytest.raises(TrainingError, match=r"last\.pt is a run of schnet, asked for is nequip"):
        new_trainer(request(model="nequip", resume=True, **few))
    with pytest.raises(TrainingError, match="was made with another recipe"):
        new_trainer(request(resume=True, recipe="fast", **few)).run(resume=True)
