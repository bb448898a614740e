"""The card of a model: what it is, what it claims, what it was trained on.

It travels inside the archive as ``extra/card.json`` and is read without
running anything of the model.
"""

import json
from dataclasses import asdict, dataclass, field
from typing import Any, get_origin, get_type_hints

from openmm_mlbench.errors import ModelError

FORMAT = 1


def _check_types(record: Any) -> None:
    """Raise TypeError unless every field of a dataclass holds what its annotation says."""
    for name, kind in get_type_hints(type(record)).items():
        wanted = get_origin(kind) or kind
        value = getattr(record, name)
        if not isinstance(value, (int, float) if wanted is float else wanted):
            raise TypeError(f"{name} is a {type(value).__name__}, wanted {wanted.__name__}")


@dataclass(frozen=True, kw_only=True)
class Claims:
    """Symmetries that ``openmm-mlbench check`` holds the model to.

    Args:
        conservative: forces are the negative gradient of the energy.
        rotation: energy invariant and forces equivariant under rotation.
        parity: the same under inversion.
        zero_net_force: forces of an isolated system sum to zero.
    """

    conservative: bool
    rotation: bool
    parity: bool
    zero_net_force: bool

    def __post_init__(self) -> None:
        _check_types(self)


@dataclass(frozen=True, kw_only=True)
class TrainedOn:
    """The data behind the weights.

    Args:
        dataset: name; it stands for one potential.
        dataset_hash: ``Frames.content_hash()``.
        split_hash: hash of the index lists.
        split_seed: seed of the permutation.
        n_train: training frames.
        n_validation: validation frames.
        level_of_theory: of the labels.
        source: origin and licence of the data.
        constraints: ``none`` or ``h-bonds``.
        constraint_bonds: ``[i, j, length in A]`` of every constrained bond, atoms as in
            ``example_atomic_numbers``; empty without constraints.
    """

    dataset: str
    dataset_hash: str
    split_hash: str
    split_seed: int
    n_train: int
    n_validation: int
    level_of_theory: str
    source: str
    constraints: str
    constraint_bonds: list[list[float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        _check_types(self)
        if (self.constraints == "none") == bool(self.constraint_bonds):
            raise ValueError(f"constraints {self.constraints!r} with {len(self.constraint_bonds)} bonds")


@dataclass(frozen=True, kw_only=True)
class Card:
    """Everything a user needs to know before running a model.

    Args:
        model: architecture.
        hyperparameters: of the network, as given (missing ones have their defaults).
        n_parameters: trained parameters.
        species: atomic numbers seen in training.
        example_atomic_numbers: of the training frames, in order.
        cutoff_A: reach of the network, A.
        dtype: of the network.
        periodic: trained on periodic frames.
        claims: symmetries.
        trained_on: data.
        remove_mean_force: the exported module subtracts the mean force.
        errors: of the test frames: ``force_mae_meV_A``, its standard error over frames,
            ``energy_mae_meV``, ``n_test``; empty when no test frames were evaluated.
        training: recipe, epochs, minutes, machine, command.
        versions: package and torch at export.
        licence: of the weights.
    """

    model: str
    hyperparameters: dict[str, Any]
    n_parameters: int
    species: list[int]
    example_atomic_numbers: list[int]
    cutoff_A: float
    dtype: str
    periodic: bool
    claims: Claims
    trained_on: TrainedOn
    remove_mean_force: bool = False
    errors: dict[str, float] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    licence: str = "MIT"

    def __post_init__(self) -> None:
        _check_types(self)
        numbers = [*self.species, *self.example_atomic_numbers]
        if not self.species or not all(type(number) is int and 0 < number < 119 for number in numbers):
            raise ValueError("species and example_atomic_numbers must be atomic numbers")
        if not 0 < self.cutoff_A < float("inf"):
            raise ValueError(f"cutoff_A is {self.cutoff_A}")
        if not all(isinstance(value, int | float) for value in self.errors.values()):
            raise ValueError("errors must be numbers")

    def to_json(self) -> str:
        """Text of ``card.json``."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str) -> "Card":
        """Read and check a card.

        Args:
            text: of ``card.json``.
            where: name for error messages.

        Raises:
            ModelError: not JSON, another format, or missing or unknown entries.
        """
        try:
            record = json.loads(text)
            found = record.pop("format", None)
            if found != FORMAT:
                raise ModelError(
                    f"{where}: card has format {found!r}, this version reads {FORMAT}; export the model again"
                )
            record["claims"] = Claims(**record["claims"])
            record["trained_on"] = TrainedOn(**record["trained_on"])
            return cls(**record)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ModelError(f"{where}: its card is not valid ({error}); export the model again") from error
