"""The card of a model: what it is, what it claims, what it was trained on.

It travels inside the archive as ``extra/card.json`` and is read without
running anything of the model.
"""

import json
from dataclasses import asdict, dataclass, field
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from openmm_mlbench.errors import ModelError

FORMAT = 1


def _check_types(record: Any) -> None:
    """Raise TypeError unless every field of a dataclass holds what its annotation says."""
    for name, hint in get_type_hints(type(record)).items():
        value = getattr(record, name)
        kinds = get_args(hint) if isinstance(hint, UnionType) else (hint,)
        wanted = tuple(get_origin(kind) or kind for kind in kinds)
        if not isinstance(value, (*wanted, int) if float in wanted else wanted):
            names = " or ".join("null" if kind is NoneType else kind.__name__ for kind in wanted)
            raise TypeError(f"{name} is a {type(value).__name__}, wanted {names}")


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
    """The data behind the weights; of an imported model what its user says, and None elsewhere.

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
    dataset_hash: str | None
    split_hash: str | None
    split_seed: int | None
    n_train: int | None
    n_validation: int | None
    level_of_theory: str
    source: str
    constraints: str
    constraint_bonds: list[list[float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        _check_types(self)
        if (self.constraints == "none") == bool(self.constraint_bonds):
            raise ValueError(f"constraints {self.constraints!r} with {len(self.constraint_bonds)} bonds")


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where an imported model comes from, and what it needs wherever it runs.

    Args:
        kind: ``nequip``, ``mace``, ``deepmd``, ``schnetpack`` or ``torchscript``.
        file: name of the file that was imported.
        sha256: of its bytes.
        options: units and all else that the user stated.
        versions: of the package that read it, where one did.
        open_space: it runs without a box.
        any_box: it runs in a periodic box.
        packages: Python packages that have to be imported before it is loaded.
        operators: custom TorchScript operators that it calls, as ``namespace::name``.
        libraries: file names of the libraries that they came from at import.
        unused_operators: schemas of operators that its code names and its weights never call.
        driver: ``auto``, or ``pythonforce`` where TorchForce does not give the same numbers.
        tried_on: atomic numbers and positions (A) of the structure it was tried on.
    """

    kind: str
    file: str
    sha256: str
    options: dict[str, Any]
    versions: dict[str, str]
    open_space: bool
    any_box: bool
    packages: list[str]
    operators: list[str]
    libraries: list[str]
    unused_operators: list[str]
    driver: str
    tried_on: dict[str, Any]

    def __post_init__(self) -> None:
        _check_types(self)


@dataclass(frozen=True, kw_only=True)
class Card:
    """Everything a user needs to know before running a model.

    Args:
        model: architecture; of an imported model its kind.
        hyperparameters: of the network, as given (missing ones have their defaults).
        n_parameters: trained parameters; 0 where an imported model does not tell.
        species: atomic numbers seen in training.
        example_atomic_numbers: of the training frames, in order; of an imported model those of the
            structure that it was tried on.
        cutoff_A: reach of the network, A.
        dtype: of the network.
        periodic: trained on periodic frames; of an imported model: runs in a periodic box.
        claims: symmetries.
        trained_on: data.
        remove_mean_force: the exported module subtracts the mean force.
        predicts_energy: False where a direct network was trained on forces alone; its energy is 0.
        errors: of the test frames: ``force_mae_meV_A``, its standard error over frames,
            ``energy_mae_meV``, ``n_test``; empty when no test frames were evaluated.
        training: recipe, epochs, minutes, machine, command.
        versions: package and torch at export.
        licence: of the weights.
        origin: of an imported model, else None.
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
    predicts_energy: bool = True
    errors: dict[str, float] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    licence: str = "MIT"
    origin: Origin | None = None

    def __post_init__(self) -> None:
        _check_types(self)
        numbers = [*self.species, *self.example_atomic_numbers]
        if not self.species or not all(type(number) is int and 0 < number < 119 for number in numbers):
            raise ValueError("species and example_atomic_numbers must be atomic numbers")
        trained = self.trained_on
        known = (
            trained.dataset_hash,
            trained.split_hash,
            trained.split_seed,
            trained.n_train,
            trained.n_validation,
        )
        if self.origin is None and None in known:
            raise ValueError("trained_on has gaps, which only the card of an imported model may have")
        if self.dtype not in {"float32", "float64"}:
            raise ValueError(f"dtype is {self.dtype!r}; a model runs in float32 or float64")
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
            if record.get("origin") is not None:
                record["origin"] = Origin(**record["origin"])
            return cls(**record)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ModelError(f"{where}: its card is not valid ({error}); export the model again") from error
