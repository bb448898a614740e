"""Recipes in files: ``recipes/<model>.yaml`` of this package, or a user's own.

A recipe holds keys of :class:`~openmm_mlbench.training.config.Recipe`, of which
``systems`` may replace some for a system, ``sizes``, inside a system, for a
number of training frames, and ``gpu``, in a recipe or inside a system, on GPUs.  A file of this package holds several recipes by
name, a user's file one.
"""

import inspect
import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_type_hints

from openmm_mlbench.errors import DependencyError, TrainingError
from openmm_mlbench.models.registry import ARCHITECTURES
from openmm_mlbench.training.config import Recipe

# One file per model.
FOLDER = Path(__file__).parent / "recipes"
ENDINGS = (".yaml", ".yml", ".json")
# Labels of data set sizes: training and validation frames (paper, section 3).
SIZES = {
    "1k": (950, 50),
    "10k": (9500, 500),
    "20k": (19_000, 1000),
    "40k": (38_000, 2000),
    "90k": (85_500, 4500),
}


def recipe_for(
    model: str, name: str = "fast", system: str | None = None, size: str | None = None, *, gpu: bool = False
) -> Recipe:
    """A recipe by model and name, for a system.

    Args:
        model: architecture.
        name: ``paper``, ``fast``, or a file.
        system: folder in systems/; a recipe that says nothing about it, and None, mean the values for MD17.
        size: label of the number of training frames, a key of ``SIZES``.
        gpu: with what the recipe replaces on GPUs.

    Raises:
        TrainingError: there is no such recipe, or its file is not valid: file and key are named.
    """
    path = FOLDER / f"{model}.yaml"
    if name.lower().endswith(ENDINGS):
        return _resolve(_checked(read_recipes(Path(name)), name, model), name, model, (system, size, gpu))
    if not path.is_file():
        known = [known for known in ARCHITECTURES if (FOLDER / f"{known}.yaml").is_file()]
        raise TrainingError(f"model {model!r} has no recipe; use one of {', '.join(known)}")
    recipes = read_recipes(path)
    if name not in recipes:
        raise TrainingError(
            f"recipe {name!r} of {model} is not known; use one of {', '.join(recipes)}, or give a file ({', '.join(ENDINGS)})"
        )
    where = f"{path}: {name}"
    return _resolve(_checked(recipes[name], where, model), where, model, (system, size, gpu))


def recipe_names(model: str) -> tuple[str, ...]:
    """Names of the recipes that come with this package for a model."""
    return tuple(read_recipes(FOLDER / f"{model}.yaml"))


def read_recipes(path: Path) -> dict[str, Any]:
    """What a YAML or JSON file says; without PyYAML the JSON file beside a YAML file, as a training kit has them."""
    if path.suffix.lower() != ".json" and find_spec("yaml") is None:
        beside = path.with_suffix(".json")
        if not beside.is_file():
            raise DependencyError(
                f"{path}: reading it needs PyYAML; install pyyaml, or give the recipe as a .json file"
            )
        path = beside
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TrainingError(f"{path}: cannot be read ({error}); give the file of a recipe") from error
    try:
        found = json.loads(text) if path.suffix.lower() == ".json" else _from_yaml(text, path)
    except ValueError as error:
        raise TrainingError(f"{path}: not valid JSON ({error}); correct it") from error
    if not isinstance(found, dict):
        raise TrainingError(
            f"{path}: holds {type(found).__name__}, wanted keys and values such as `batch_size: 5`"
        )
    return found


def _from_yaml(text: str, path: Path) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """Refuses a key given twice; reads 1e-3 as the number that YAML 1.2 sees in it."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            for key in keys:
                if keys.count(key) > 1:
                    raise TrainingError(
                        f"{path} line {node.start_mark.line + 1}: {key} is given twice; keep one"
                    )
            return super().construct_mapping(node, deep)

    number = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+.0123456789"))
    try:
        return yaml.load(text, Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        line = " ".join(str(error).split())
        raise TrainingError(f"{path}: not valid YAML ({line}); correct it") from error


_KINDS: dict[Any, tuple[str, Any]] = {
    bool: ("true or false", lambda v: isinstance(v, bool)),
    int: ("a whole number", lambda v: isinstance(v, int) and not isinstance(v, bool)),
    float: ("a number", lambda v: isinstance(v, (int, float)) and not isinstance(v, bool)),
    str: ("a word", lambda v: isinstance(v, str)),
    tuple[float, float]: (
        "a number, or two in a list: start and end",
        lambda v: all(_KINDS[float][1](one) for one in (v if isinstance(v, list) and len(v) == 2 else [v])),
    ),
}


def _checked(values: Any, where: str, model: str) -> dict[str, Any]:
    """The same recipe, if every key and value in it is sensible."""
    if isinstance(values, dict) and "model" in values:
        values = dict(values)
        stated = values.pop("model")
        if stated != model:
            raise TrainingError(
                f"{where}: model is {stated!r}, asked for is {model!r}; give the recipe of that one"
            )
    _check_keys(values, where, model, extra=("systems", "gpu"))
    _check_keys(values.get("gpu", {}), f"{where}: gpu", model, extra=())
    for system, changes in values.get("systems", {}).items():
        _check_keys(changes, f"{where}: systems: {system}", model, extra=("sizes", "gpu"))
        _check_keys(changes.get("gpu", {}), f"{where}: systems: {system}: gpu", model, extra=())
        for size, more in changes.get("sizes", {}).items():
            here = f"{where}: systems: {system}: sizes: {size}"
            if size not in SIZES:
                raise TrainingError(f"{here}: not a known size; use one of {', '.join(SIZES)}")
            _check_keys(more, here, model, extra=())
    return values


def _check_keys(values: Any, where: str, model: str, extra: tuple[str, ...]) -> None:
    if not isinstance(values, dict):
        raise TrainingError(f"{where}: is {values!r}, wanted keys and values such as `batch_size: 5`")
    hints = {key: hint for key, hint in get_type_hints(Recipe).items() if key != "model"}
    for key, value in values.items():
        if key in extra:
            if not isinstance(value, dict):
                raise TrainingError(f"{where}: {key} is {value!r}, wanted a block of {key}")
        elif key == "hyperparameters":
            _check_hyperparameters(value, f"{where}: {key}", model)
        elif key not in hints:
            known = ", ".join([*hints, *extra])
            raise TrainingError(f"{where}: key {key!r} is not known; known are {known}")
        else:
            wanted, fits = _KINDS[hints[key]]
            if not fits(value):
                raise TrainingError(f"{where}: {key} is {value!r}, wanted {wanted}")


def _check_hyperparameters(values: Any, where: str, model: str) -> None:
    if model not in ARCHITECTURES:
        raise TrainingError(f"model {model!r} is not known; use one of {', '.join(ARCHITECTURES)}")
    known = [key for key in inspect.signature(ARCHITECTURES[model]).parameters if key != "species"]
    if not isinstance(values, dict):
        raise TrainingError(f"{where}: is {values!r}, wanted keys and values such as `cutoff: 6.0`")
    for key in values:
        if key not in known:
            raise TrainingError(f"{where}: key {key!r} is not known; known are {', '.join(known)}")


def _resolve(
    values: dict[str, Any], where: str, model: str, place: tuple[str | None, str | None, bool]
) -> Recipe:
    """One recipe for a system, size and device: the special values replace the general ones key by key."""
    system, size, gpu = place
    changes = values.get("systems", {}).get(system, {})
    layers = [values, values.get("gpu", {}) if gpu else {}]
    layers += [changes, changes.get("gpu", {}) if gpu else {}, changes.get("sizes", {}).get(size, {})]
    merged: dict[str, Any] = {}
    hyperparameters: dict[str, Any] = {}
    for layer in layers:
        hyperparameters |= layer.get("hyperparameters", {})
        merged |= {key: value for key, value in layer.items() if key not in {"systems", "sizes", "gpu"}}
    hints = get_type_hints(Recipe)
    for key, value in merged.items():
        if hints[key] is float:
            merged[key] = float(value)
        elif hints[key] == tuple[float, float]:
            merged[key] = [float(one) for one in (value if isinstance(value, list) else [value] * 2)]
    try:
        return Recipe.from_dict(merged | {"model": model, "hyperparameters": hyperparameters})
    except TrainingError as error:
        raise TrainingError(f"{where}: {error}") from error
