"""Recipes in files: the paper's facts, ours, and what a file may not say."""

import json

import pytest

from openmm_mlbench.data.datasets import list_datasets
from openmm_mlbench.errors import DependencyError, TrainingError
from openmm_mlbench.models.registry import ARCHITECTURES, build_network
from openmm_mlbench.training import recipe_files
from openmm_mlbench.training.config import Recipe
from openmm_mlbench.training.recipe_files import SIZES, recipe_for, recipe_names

PLACES = [(None, None), *((entry.system, size) for entry in list_datasets() for size in (None, *SIZES))]


@pytest.mark.parametrize("name", ["paper", "fast"])
@pytest.mark.parametrize("model", sorted(ARCHITECTURES))
def test_every_recipe_of_every_system_builds_its_network(model, name):
    assert recipe_names(model) == ("paper", "fast")
    seen = []
    for system, size in dict.fromkeys(PLACES):
        recipe = recipe_for(model, name, system, size)
        on_gpu = recipe_for(model, name, system, size, gpu=True)
        assert on_gpu.tf32 == (name == "fast")
        assert on_gpu.hyperparameters == recipe.hyperparameters
        if name == "paper" or recipe.batch_size == 1:
            # The rate goes with the batch.
            assert (on_gpu.batch_size, on_gpu.learning_rate) == (recipe.batch_size, recipe.learning_rate)
        assert Recipe.from_dict(json.loads(json.dumps(recipe.as_dict()))) == recipe
        if recipe.hyperparameters not in seen:
            seen.append(recipe.hyperparameters)
            build_network(model, recipe.hyperparameters, [1, 8])


def test_table_7():
    """Batch sizes, largest numbers of epochs and patience of the paper's table, model by model."""
    batch = {
        "deeppot-se": 4,
        "schnet": 100,
        "dimenet": 32,
        "gemnet-t": 1,
        "gemnet-dt": 1,
        "nequip": 5,
        "forcenet": 8,
    }
    rows = {
        ("ethanol", None): (None, 2000, 5),
        ("water", "1k"): (1, 10_000, 50),
        ("water", "10k"): (1, 2000, 5),
        ("water", "90k"): (1, 400, 3),
        ("alanine-dipeptide", None): (5, 2000, 5),
        ("lips", None): (1, 2000, 5),
    }
    for (system, size), (batch_size, epochs, patience) in rows.items():
        for model in ARCHITECTURES:
            recipe = recipe_for(model, "paper", system, size)
            if model == "deeppot-se":  # trained by steps, with DeePMD-kit's own batch size
                assert (recipe.batch_size, recipe.max_steps, recipe.schedule) == (4, 4_000_000, "exponential")
                continue
            # GemNet's files keep the batch of MD17, 1, which is that of water and LiPS as well.
            assert recipe.batch_size == (batch[model] if batch_size is None else batch_size)
            assert (recipe.max_epochs, recipe.patience) == (epochs, patience)
            assert (recipe.schedule, recipe.factor, recipe.final_learning_rate) == ("plateau", 0.8, 1e-6)
            assert recipe.max_minutes == 7 * 24 * 60


def test_appendix_e():
    """Networks that differ from those of MD17; alanine dipeptide without energies; NequIP's learning rate."""
    cutoffs = {"schnet": 6.0, "dimenet": 5.0, "gemnet-t": 5.0, "forcenet": 6.0, "deeppot-se": 6.0}
    for model, cutoff in cutoffs.items():
        network = build_network(model, recipe_for(model, "paper", "water").hyperparameters, [1, 8])
        assert network.cutoff == cutoff
    assert recipe_for("forcenet", "paper", "water").hyperparameters == {"hidden": 128, "decoder": 128}
    assert recipe_for("forcenet", "paper", "lips").hyperparameters == {}
    assert recipe_for("nequip", "paper", "water").hyperparameters["cutoff"] == 6.0
    assert recipe_for("nequip", "paper", "lips").hyperparameters["cutoff"] == 5.0
    for model in ARCHITECTURES:
        recipe = recipe_for(model, "paper", "alanine-dipeptide")
        assert recipe.energy_weight == (0.0, 0.0)
        assert recipe.learning_rate == (1e-2 if model == "nequip" else 1e-3)
        assert not recipe_for(model, "paper").normalize_labels
    assert recipe_for("nequip", "paper", "lips").force_weight == (83.0**2, 83.0**2)
    assert recipe_for("gemnet-t", "paper", "lips").force_weight == (0.999, 0.999)
    assert recipe_for("schnet", "paper", "lips").force_weight == (1000.0, 1000.0)
    assert recipe_for("schnet", "paper", "lips").normalize_labels


def test_unknown_names():
    for call, message in (
        (lambda: recipe_for("painn"), "model 'painn' has no recipe; use one of schnet, deeppot-se"),
        (
            lambda: recipe_for("schnet", "big"),
            "recipe 'big' of schnet is not known; use one of paper, fast, or give a file",
        ),
        (lambda: recipe_for("schnet", "none.yaml"), "none.yaml: cannot be read"),
    ):
        with pytest.raises(TrainingError, match=message):
            call()


OWN = """
model: schnet
batch_size: 7
learning_rate: 1e-3
energy_weight: [1, 2]
force_weight: 3
hyperparameters: {cutoff: 4.5, gaussians: 9}
systems:
  water:
    batch_size: 2
    hyperparameters: {cutoff: 6}
    sizes:
      90k: {patience: 3}
"""


def test_a_file_of_ones_own(tmp_path):
    path = tmp_path / "my.yaml"
    path.write_text(OWN)
    plain = recipe_for("schnet", str(path), "ethanol")
    assert (plain.batch_size, plain.learning_rate, plain.energy_weight) == (7, 1e-3, (1.0, 2.0))
    assert plain.force_weight == (3.0, 3.0)
    water = recipe_for("schnet", str(path), "water", "90k")
    assert (water.batch_size, water.patience) == (2, 3)
    assert water.hyperparameters == {"cutoff": 6, "gaussians": 9}
    # The same as JSON, which needs no YAML library.
    other = tmp_path / "my.json"
    other.write_text(json.dumps({"batch_size": 7, "energy_weight": [1, 2], "force_weight": 3,
                                 "hyperparameters": {"cutoff": 4.5, "gaussians": 9}}))  # fmt: skip
    assert recipe_for("schnet", str(other)) == plain


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("batchsize: 5", "key 'batchsize' is not known; known are hyperparameters, batch_size"),
        ("batch_size: 5\nbatch_size: 6", "line 1: batch_size is given twice"),
        ("batch_size: five", "batch_size is 'five', wanted a whole number"),
        ("batch_size: true", "batch_size is True, wanted a whole number"),
        ("learning_rate: [1]", r"learning_rate is \[1\], wanted a number"),
        ("energy_weight: [1, 2, 3]", "energy_weight is .* wanted a number, or two in a list"),
        ("random_rotations: 1", "random_rotations is 1, wanted true or false"),
        ("schedule: step", "schedule 'step' is not known"),
        (
            "hyperparameters: {hiden: 3}",
            "hyperparameters: key 'hiden' is not known; known are hidden, filters",
        ),
        ("hyperparameters: 3", "hyperparameters: is 3, wanted keys"),
        ("systems: {water: {batchsize: 5}}", "systems: water: key 'batchsize' is not known"),
        ("systems: {water: {systems: {}}}", "systems: water: key 'systems' is not known"),
        ("systems: {water: {sizes: {2k: {}}}}", "sizes: 2k: not a known size; use one of 1k, 10k"),
        ("systems: [water]", "systems is .*, wanted a block"),
        ("model: nequip", "model is 'nequip', asked for is 'schnet'"),
        ("- 1", "holds list, wanted keys and values"),
        ("a: [", "not valid YAML"),
        ("a: !!python/object/apply:os.getcwd []", "not valid YAML"),
    ],
)
def test_what_a_file_may_not_say(tmp_path, text, words):
    path = tmp_path / "my.yaml"
    path.write_text(text)
    with pytest.raises(TrainingError, match=words) as caught:
        recipe_for("schnet", str(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_recipes_are_read_as_strictly(tmp_path, monkeypatch):
    (tmp_path / "schnet.yaml").write_text("fast: {epochs: 3}")
    monkeypatch.setattr(recipe_files, "FOLDER", tmp_path)
    with pytest.raises(TrainingError, match=r"schnet\.yaml: fast: key 'epochs' is not known"):
        recipe_for("schnet")
    with pytest.raises(TrainingError, match="'nequip' has no recipe; use one of schnet"):
        recipe_for("nequip")


def test_without_a_yaml_library_json_serves(tmp_path, monkeypatch):
    (tmp_path / "my.json").write_text('{"batch_size": 3}')
    (tmp_path / "other.yaml").write_text("batch_size: 4")
    monkeypatch.setattr(recipe_files, "find_spec", lambda name: None)
    assert recipe_for("schnet", str(tmp_path / "my.json")).batch_size == 3
    with pytest.raises(DependencyError, match=r"install pyyaml, or give the recipe as a \.json file"):
        recipe_for("schnet", str(tmp_path / "other.yaml"))
    # As in a training kit.
    (tmp_path / "other.json").write_text('{"batch_size": 5}')
    assert recipe_for("schnet", str(tmp_path / "other.yaml")).batch_size == 5


def test_values_for_gpus_replace_key_by_key(tmp_path):
    path = tmp_path / "my.yaml"
    path.write_text(
        "batch_size: 5\ngpu: {batch_size: 50, tf32: true}\nsystems: {water: {batch_size: 1, gpu: {batch_size: 8}}}"
    )
    found = {
        (system, gpu): recipe_for("schnet", str(path), system, gpu=gpu)
        for system in ("ethanol", "water")
        for gpu in (False, True)
    }
    assert [recipe.batch_size for recipe in found.values()] == [5, 50, 1, 8]
    assert [recipe.tf32 for recipe in found.values()] == [False, True, False, True]
    path.write_text("gpu: {batchsize: 5}")
    with pytest.raises(TrainingError, match="gpu: key 'batchsize' is not known"):
        recipe_for("schnet", str(path))
