"""Recipes: everything that decides a training run, as data."""

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from openmm_mlbench.errors import TrainingError

LOSSES = ("mse", "mae", "l2")
SCHEDULES = ("plateau", "cosine", "exponential")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings of one training run.

    Args:
        model: architecture.
        hyperparameters: of the network; empty means the paper's MD17 values.
        batch_size: frames per step.
        learning_rate: of AdamW at the start.
        weight_decay: of AdamW; without it AdamW is Adam.
        epsilon: of AdamW.
        amsgrad: AdamW's variant with the maximum of past second moments.
        loss: of energies and force components: ``mse`` (mean square), ``mae`` (mean absolute), or ``l2``
            (mean absolute for energies, mean length of the error vector for forces).
        energy_weight: factor of the energy loss at the start and at the end.
        force_weight: factor of the force loss at the start and at the end.
        energy_atom_power: divide the energy loss by n_atoms to this power: 1 is DeePMD-kit's form,
            2 the square error per atom.
        schedule: ``plateau`` (the paper's), ``cosine`` or ``exponential`` over max_epochs.
        warmup_steps: steps over which the rate rises linearly from warmup_factor times itself.
        warmup_factor: see warmup_steps.
        patience: epochs without improvement before the plateau schedule acts.
        factor: what the plateau schedule multiplies the rate with.
        final_learning_rate: the run stops (plateau) or ends (others) at this rate.
        ema_decay: of the averaged weights that are validated and exported; 0 switches it off.
        clip_norm: largest gradient norm; 0 switches it off.
        max_epochs: upper limit.
        max_minutes: upper limit of computing time, over all resumes.
        seed: of weights and batch order.
        random_rotations: turn every training frame at random each time it is seen; for networks that
            are not equivariant by construction.
        learn_scale: start from outputs scaled with the RMS force of the training frames.
    """

    model: str
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    batch_size: int = 10
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    epsilon: float = 1e-8
    amsgrad: bool = False
    loss: str = "mse"
    energy_weight: tuple[float, float] = (0.05, 0.05)
    force_weight: tuple[float, float] = (0.95, 0.95)
    energy_atom_power: int = 0
    schedule: str = "plateau"
    warmup_steps: int = 0
    warmup_factor: float = 0.2
    patience: int = 5
    factor: float = 0.8
    final_learning_rate: float = 1e-6
    ema_decay: float = 0.999
    clip_norm: float = 10.0
    max_epochs: int = 2000
    max_minutes: float = 7 * 24 * 60.0
    seed: int = 0
    random_rotations: bool = False
    learn_scale: bool = True

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise TrainingError(f"schedule {self.schedule!r} is not known; use one of {', '.join(SCHEDULES)}")
        if self.loss not in LOSSES:
            raise TrainingError(f"loss {self.loss!r} is not known; use one of {', '.join(LOSSES)}")
        for key in ("batch_size", "learning_rate", "max_epochs", "max_minutes", "final_learning_rate"):
            if getattr(self, key) <= 0:
                raise TrainingError(f"{key} is {getattr(self, key)}; it must be positive")

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Recipe":
        """Inverse of :meth:`as_dict`; unknown keys raise."""
        unknown = set(values) - set(cls.__dataclass_fields__)
        if unknown:
            raise TrainingError(
                f"recipe has unknown keys {', '.join(sorted(unknown))}; known are {', '.join(cls.__dataclass_fields__)}"
            )
        values = dict(values)
        for key in ("energy_weight", "force_weight"):
            if key in values:
                values[key] = tuple(values[key])
        return cls(**values)

    def with_overrides(self, **overrides: Any) -> "Recipe":
        """A copy in which every value that is not None replaces the recipe's."""
        return replace(self, **{key: value for key, value in overrides.items() if value is not None})


# `paper`: the published settings for MD17 (Table 7, appendix E and the authors' configuration files).
# `small`: the same network and losses for about 1,000 frames and a limited time: smaller batches and
# a schedule that ends when the epochs do.
_ADAMW: dict[str, Any] = {"weight_decay": 2e-6, "epsilon": 1e-7, "amsgrad": True}
RECIPES: dict[str, dict[str, Recipe]] = {
    "schnet": {
        "paper": Recipe(
            model="schnet", batch_size=100, warmup_steps=5000, ema_decay=0.0, clip_norm=0.0, learn_scale=False
        ),
        "small": Recipe(model="schnet", batch_size=5, schedule="cosine", max_epochs=300, warmup_steps=500),
    },
    "deeppot-se": {
        "paper": Recipe(
            model="deeppot-se",
            batch_size=4,
            schedule="exponential",
            energy_weight=(1.0, 400.0),
            force_weight=(1000.0, 1.0),
            energy_atom_power=1,
            final_learning_rate=3.51e-8,
            ema_decay=0.0,
            clip_norm=0.0,
            max_epochs=1685,  # 4,000,000 steps of 4 frames with 9,500 training frames
            learn_scale=False,
        ),
        "small": Recipe(
            model="deeppot-se", batch_size=5, schedule="cosine", max_epochs=300, warmup_steps=500
        ),
    },
    "forcenet": {
        "paper": Recipe(
            model="forcenet",
            batch_size=8,
            energy_weight=(0.0, 0.0),
            force_weight=(1.0, 1.0),
            ema_decay=0.0,
            clip_norm=0.0,
            learn_scale=False,
        ),
        # A width of 128, the paper's on water, as 1,000 frames and an hour on a processor allow.  Averaged
        # weights would not fit the batch statistics, which are those of the current ones.
        "small": Recipe(
            model="forcenet",
            hyperparameters={"hidden": 128, "decoder": 128},
            batch_size=5,
            loss="mae",
            energy_weight=(0.0, 0.0),
            force_weight=(1.0, 1.0),
            schedule="cosine",
            max_epochs=300,
            warmup_steps=500,
            ema_decay=0.0,
            random_rotations=True,
        ),
    },
    "dimenet": {
        "paper": Recipe(
            model="dimenet",
            batch_size=32,
            **_ADAMW,
            loss="mae",
            energy_weight=(1.0, 1.0),
            force_weight=(1000.0, 1000.0),
            max_epochs=10_000,
            learn_scale=False,
        ),
        "small": Recipe(
            model="dimenet",
            batch_size=5,
            **_ADAMW,
            loss="mae",
            energy_weight=(1.0, 1.0),
            force_weight=(1000.0, 1000.0),
            schedule="cosine",
            max_epochs=100,
            warmup_steps=500,
        ),
    },
    **{
        name: {
            "paper": Recipe(
                model=name,
                batch_size=1,
                **_ADAMW,
                loss="l2",
                energy_weight=(1.0, 1.0),
                force_weight=(1000.0, 1000.0),
                max_epochs=10_000,
                learn_scale=False,
            ),
            "small": Recipe(
                model=name,
                batch_size=5,
                **_ADAMW,
                loss="l2",
                energy_weight=(1.0, 1.0),
                force_weight=(1000.0, 1000.0),
                schedule="cosine",
                max_epochs=100,
                warmup_steps=500,
            ),
        }
        for name in ("gemnet-t", "gemnet-dt")
    },
    "nequip": {
        "paper": Recipe(
            model="nequip",
            batch_size=5,
            learning_rate=5e-3,
            energy_weight=(1.0, 1.0),
            force_weight=(1000.0, 1000.0),
            energy_atom_power=2,
            ema_decay=0.99,
            clip_norm=0.0,
        ),
        # A fourteenth of the parameters.  Forces and energies per atom weigh the same: with a thousandth, the
        # energies of a short training keep an error of 1 eV.
        "small": Recipe(
            model="nequip",
            hyperparameters={"l_max": 2, "features": 16, "layers": 3},
            batch_size=5,
            learning_rate=5e-3,
            energy_weight=(1.0, 1.0),
            force_weight=(1.0, 1.0),
            energy_atom_power=2,
            schedule="cosine",
            ema_decay=0.99,
            max_epochs=300,
        ),
    },
}


def recipe_for(model: str, name: str = "small") -> Recipe:
    """A recipe by model and name (``paper`` or ``small``)."""
    if model not in RECIPES:
        raise TrainingError(f"model {model!r} has no recipe; use one of {', '.join(RECIPES)}")
    if name not in RECIPES[model]:
        raise TrainingError(
            f"recipe {name!r} of {model} is not known; use one of {', '.join(RECIPES[model])}"
        )
    return RECIPES[model][name]
