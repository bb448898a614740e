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
        energy_loss: of energies where it is another than ``loss``; empty means the same.
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
        max_epochs: upper limit; the schedules other than ``plateau`` end there.
        max_steps: upper limit in optimizer steps, rounded up to whole epochs; 0 leaves it to max_epochs.
        max_minutes: upper limit of computing time, over all resumes.
        seed: of weights and batch order.
        random_rotations: turn every training frame at random each time it is seen; for networks that
            are not equivariant by construction.
        learn_scale: start from outputs scaled with the RMS force of the training frames.
        normalize_labels: compute the losses in units of that RMS force (energies: of it times 1 A), and
            scale outputs with it.  The authors divide energies by their own standard deviation, which no
            energy whose gradient is the force can follow.
        tf32: on GPUs, multiply float32 matrices with the 10 bits of mantissa of TF32.
    """

    model: str
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    batch_size: int = 10
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    epsilon: float = 1e-8
    amsgrad: bool = False
    loss: str = "mse"
    energy_loss: str = ""
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
    max_steps: int = 0
    max_minutes: float = 7 * 24 * 60.0
    seed: int = 0
    random_rotations: bool = False
    learn_scale: bool = True
    normalize_labels: bool = False
    tf32: bool = False

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise TrainingError(f"schedule {self.schedule!r} is not known; use one of {', '.join(SCHEDULES)}")
        for key in ("loss", "energy_loss"):
            value = getattr(self, key)
            if value not in LOSSES and not (key == "energy_loss" and value == ""):
                raise TrainingError(f"{key} {value!r} is not known; use one of {', '.join(LOSSES)}")
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
