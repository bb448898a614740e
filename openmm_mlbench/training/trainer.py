"""The training loop: data on the device, resumable after a kill, one CSV line per epoch."""

import csv
import io
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from openmm_mlbench import __version__
from openmm_mlbench.data.frames import Frames
from openmm_mlbench.data.splits import Split
from openmm_mlbench.errors import TrainingError
from openmm_mlbench.files import atomic_path, locked
from openmm_mlbench.hardware import processor_name
from openmm_mlbench.models.force_field import Batcher, ForceField
from openmm_mlbench.models.network import Network
from openmm_mlbench.models.registry import build_network
from openmm_mlbench.topology import rigid_hydrogen_bonds
from openmm_mlbench.training.batches import FrameBatches, LabelledTensors, turned
from openmm_mlbench.training.config import Recipe
from openmm_mlbench.training.distributed import ALONE, Group, contact, synchronised

# Between checkpoints for --resume; the last epochs before a cut are taken again.
SAVE_INTERVAL_S = 60.0
VALIDATION_BATCH = 50
LOG_COLUMNS = (
    "epoch",
    "step",
    "learning_rate",
    "train_loss",
    "validation_loss",
    "validation_energy_mae_meV",
    "validation_force_mae_meV_A",
    "best_force_mae_meV_A",
    "seconds",
)


def fit_reference_energies(frames: Frames) -> np.ndarray:
    """Reference energy per element (119,), eV, float64: least squares over the frames.

    Frames of one composition cannot tell the elements apart; least squares of
    minimal norm then shares the mean energy by counts.
    """
    counts = np.bincount(frames.atomic_numbers, minlength=119).astype(np.float64)
    if frames.energies is None:
        return np.zeros(119)
    return counts * (frames.energies.mean() / (counts @ counts))


def _predicts_energy(recipe: Recipe, network: Network, has_energies: bool) -> bool:
    """A direct network that sees no energies in training learns none."""
    return not network.direct or (has_energies and max(recipe.energy_weight) > 0)


def new_force_field(recipe: Recipe, training_frames: Frames) -> ForceField:
    """A force field with seeded fresh weights, energy zero, scale and statistics of the training frames."""
    torch.manual_seed(recipe.seed)
    species = sorted({int(number) for number in training_frames.atomic_numbers})
    network = build_network(recipe.model, recipe.hyperparameters, species)
    force_field = ForceField(network, torch.as_tensor(training_frames.atomic_numbers))
    force_field.predicts_energy = _predicts_energy(recipe, network, training_frames.energies is not None)
    if force_field.predicts_energy:
        force_field.reference = torch.as_tensor(fit_reference_energies(training_frames))
    if training_frames.forces is None:
        raise TrainingError(f"{training_frames.name} has no forces; training needs them")
    if recipe.learn_scale or recipe.normalize_labels:
        force_field.scale = torch.tensor(
            float(np.sqrt(np.mean(training_frames.forces**2))), dtype=torch.float64
        )
    fit_statistics = getattr(network, "fit_statistics", None)
    if fit_statistics is not None:
        some = training_frames.select(np.arange(min(200, training_frames.n_frames)))
        cells = None if some.cells is None else torch.as_tensor(some.cells).float()
        batch = Batcher(force_field)(torch.as_tensor(some.positions).float(), cells)
        numbers = force_field.atomic_numbers.repeat(some.n_frames)
        fit_statistics(numbers, batch.pair_vectors, batch.pair_index)
    return force_field


def _constraint_bonds(frames: Frames) -> list[list[float]]:
    """Rigid bonds [i, j, length in A]: whoever runs the model has to hold them too."""
    if frames.constraints == "none":
        return []
    bonds, lengths = rigid_hydrogen_bonds(frames.atomic_numbers, frames.positions)
    return [[int(i), int(j), round(float(length), 6)] for (i, j), length in zip(bonds, lengths, strict=True)]


def machine(device: torch.device) -> str:
    """Processor, or GPU, in words: for cards and benchmark records."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{processor_name()}, {os.cpu_count()} cores, {torch.get_num_threads()} torch threads"


Tensors = tuple[Tensor, ...] | list[Tensor]


def ema_update(decay: float) -> Callable[[Tensors, Tensors, Tensor | int], None]:
    """Exponential moving average whose decay min(decay, (1 + n) / (10 + n)) forgets the first weights fast."""

    @torch.no_grad()
    def update(averaged: Tensors, current: Tensors, n_averaged: Tensor | int) -> None:
        n = float(n_averaged)
        torch._foreach_lerp_(averaged, current, 1.0 - min(decay, (1.0 + n) / (10.0 + n)))

    return update


def energy_loss(errors: Tensor, kind: str) -> Tensor:
    """Loss of energy errors (n_frames,), eV; kinds as in :class:`Recipe`."""
    return errors.square().mean() if kind == "mse" else errors.abs().mean()


def force_loss(errors: Tensor, kind: str) -> Tensor:
    """Loss of force errors (n_frames, n_atoms, 3), eV/A; kinds as in :class:`Recipe`."""
    if kind == "l2":
        # A tiny number under the root keeps its gradient finite where the error is zero.
        return (errors.square().sum(-1) + 1e-12).sqrt().mean()
    return errors.square().mean() if kind == "mse" else errors.abs().mean()


@contextmanager
def _arithmetic(recipe: Recipe, device: torch.device) -> Iterator[None]:
    """Products of float32 matrices in TF32 where the recipe says so and the GPU can."""
    before = torch.get_float32_matmul_precision()
    if recipe.tf32 and device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


class _Loss(nn.Module):
    """A force field as a module whose forward is the loss of a batch, which is what gradients of several processes need."""

    def __init__(self, force_field: ForceField, compute: Callable[[Tensor, Tensor | None], Tensor]) -> None:
        super().__init__()
        self.force_field = force_field
        self._compute = compute

    def forward(self, places: Tensor, rotations: Tensor | None) -> Tensor:
        """Loss of the training frames at these places."""
        return self._compute(places, rotations)


class Trainer:
    """Trains one force field in one folder.

    The folder holds ``log.csv``, ``last.pt`` (to resume) and ``best.pt`` (to
    export).  Batch order depends on seed and epoch only, so a resumed run takes
    the steps that an uninterrupted one would have taken.

    Args:
        recipe: all settings.
        frames: the whole data set.
        split: which frames train and validate.
        folder: made if needed.
        device: where data, network and loss live.
        command: what started the run, for the card.
        group: the processes that train together; each is given the same arguments.
    """

    def __init__(
        self,
        recipe: Recipe,
        frames: Frames,
        split: Split,
        folder: Path,
        device: str = "cpu",
        command: str = "",
        group: Group = ALONE,
    ) -> None:
        if len(split.validation) == 0:
            raise TrainingError(
                f"{frames.name}: the split has no validation frames, which decide what best.pt is; give at least one"
            )
        self.recipe = recipe
        self.frames = frames
        self.constraint_bonds = _constraint_bonds(frames)
        self.split = split
        self.folder = Path(folder)
        self.group = group
        if group.writes:
            self.folder.mkdir(parents=True, exist_ok=True)
        self.device = torch.device(device)
        self.command = command
        training_frames = frames.select(split.train)
        self.force_field = new_force_field(recipe, training_frames).to(self.device)
        synchronised(self.force_field, group)
        reference = float(self.force_field.reference_energy())
        # What losses are computed in units of: eV/A, and eV.
        self.label_unit = float(self.force_field.scale) if recipe.normalize_labels else 1.0
        self.training, self.validation = (
            FrameBatches(
                self.force_field, LabelledTensors.from_frames(some, reference, self.device, torch.float32)
            )
            for some in (training_frames, frames.select(split.validation))
        )
        module = _Loss(self.force_field, self._step_loss)
        self.optimizer = torch.optim.AdamW(
            self.force_field.parameters(),
            lr=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            eps=recipe.epsilon,
            amsgrad=recipe.amsgrad,
            fused=self.device.type in {"cpu", "cuda"},
        )
        self.plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
            self.optimizer, factor=recipe.factor, patience=recipe.patience
        )
        self.averaged = (
            AveragedModel(self.force_field, multi_avg_fn=ema_update(recipe.ema_decay))
            if recipe.ema_decay > 0
            else None
        )
        self._training_loss = group.wrap(module, group.size > 1 and self._some_unused())
        self.epoch = 0
        self.step = 0
        self.seconds = 0.0
        self.best_force_mae = float("inf")
        self.step_losses: list[float] = []

    @property
    def evaluated(self) -> ForceField:
        """The weights that are validated and exported: averaged ones where there are any."""
        if self.averaged is None:
            return self.force_field
        averaged = self.averaged.module
        assert isinstance(averaged, ForceField)
        return averaged

    @property
    def has_batch_statistics(self) -> bool:
        """Whether a layer normalises with means over a batch."""
        return any(
            isinstance(module, nn.BatchNorm1d | nn.SyncBatchNorm) for module in self.force_field.modules()
        )

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in one pass over the training frames."""
        return -(-len(self.split.train) // self.recipe.batch_size)

    @property
    def last_epoch(self) -> int:
        """Number of epochs after which the run ends and its schedule, if it has an end, does."""
        if self.recipe.max_steps == 0:
            return self.recipe.max_epochs
        return min(self.recipe.max_epochs, -(-self.recipe.max_steps // self.steps_per_epoch))

    def loss(
        self,
        force_field: ForceField,
        batches: FrameBatches,
        places: Tensor,
        rotations: Tensor | None = None,
        *,
        training: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, absolute energy errors (eV) and absolute force errors (eV/A) of frames.

        Args:
            force_field: what predicts.
            batches: the frames.
            places: (n,), which of them.
            rotations: (n, 3, 3), how they are turned, or None.
            training: keep the graph.
        """
        data = batches.data
        energies, forces = force_field(batches(places, rotations), training=training)
        there = places.to(self.device)
        force_error = forces - turned(data.forces[there], rotations)
        unit = self.label_unit
        decay = self.optimizer.param_groups[0]["lr"] / self.recipe.learning_rate
        energy_weight, force_weight = (
            end + (start - end) * decay
            for start, end in (self.recipe.energy_weight, self.recipe.force_weight)
        )
        kind = self.recipe.loss
        loss = force_weight * force_loss(force_error / unit, kind)
        if data.energies is None or not force_field.predicts_energy:
            return loss, torch.zeros_like(energies), force_error.abs()
        energy_error = energies - data.energies[there]
        per = float(force_field.atomic_numbers.size(0)) ** self.recipe.energy_atom_power
        loss = loss + energy_weight * energy_loss(energy_error / unit, self.recipe.energy_loss or kind) / per
        return loss, energy_error.abs(), force_error.abs()

    def _some_unused(self) -> bool:
        """Whether the loss leaves parameters out."""
        loss = self._step_loss(torch.zeros(1, dtype=torch.long), None)
        gradients = torch.autograd.grad(loss, list(self.force_field.parameters()), allow_unused=True)
        return any(gradient is None for gradient in gradients)

    def _step_loss(self, places: Tensor, rotations: Tensor | None) -> Tensor:
        """Loss of training frames, with the graph of its gradients."""
        return self.loss(self.force_field, self.training, places, rotations, training=True)[0]

    def train_epoch(self) -> float:
        """One pass over the training frames; returns the mean loss."""
        generator = np.random.default_rng([self.recipe.seed, self.epoch])
        order = torch.as_tensor(generator.permutation(len(self.split.train)))
        total = torch.zeros((), device=self.device)
        matrices = None
        if self.recipe.random_rotations:
            # One for every frame, in its place, so that each process has the same.
            found = Rotation.random(len(order), random_state=generator).as_matrix()
            matrices = torch.as_tensor(found, device=self.device).float()
        self.force_field.train()
        for places in order.split(self.recipe.batch_size):
            total += self._take_step(places, matrices) * len(places)
        return float(self.group.sum(total)) / self.group.size / len(order)

    def _take_step(self, places: Tensor, matrices: Tensor | None) -> Tensor:
        """One optimizer step with a batch; returns the loss, of several processes each its part of their mean."""
        rate = self._scheduled_rate()
        share = self.group.share(places)
        # Gradients are averaged over the processes.  One without a frame in the last batch of an epoch takes part
        # with weight 0.
        weight = len(share) * self.group.size / len(places)
        share = share if len(share) > 0 else places[:1]
        rotations = None if matrices is None else matrices[share.to(self.device)]
        loss = weight * self._training_loss(share, rotations)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.recipe.clip_norm > 0:
            torch.nn.utils.clip_grad_norm_(self.force_field.parameters(), self.recipe.clip_norm)
        # The schedule owns the rate; warm-up scales it for this step alone.
        for group in self.optimizer.param_groups:
            group["lr"] = rate * self._warmup()
        self.optimizer.step()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.step += 1
        if self.averaged is not None:
            self.averaged.update_parameters(self.force_field)
        if self.step <= 10:
            self.step_losses.append(float(self.group.sum(loss.detach())) / self.group.size)
        return loss.detach()

    def _warmup(self) -> float:
        """Factor of the learning rate, rising linearly to 1."""
        if self.step >= self.recipe.warmup_steps:
            return 1.0
        return (
            self.recipe.warmup_factor + (1 - self.recipe.warmup_factor) * self.step / self.recipe.warmup_steps
        )

    def _scheduled_rate(self) -> float:
        """Learning rate of the next step, before warm-up."""
        start, end = self.recipe.learning_rate, self.recipe.final_learning_rate
        done = min(1.0, self.step / (self.last_epoch * self.steps_per_epoch))
        if self.recipe.schedule == "cosine":
            rate = end + (start - end) * 0.5 * (1.0 + float(np.cos(np.pi * done)))
        elif self.recipe.schedule == "exponential":
            rate = start * (end / start) ** done
        else:
            rate = float(self.optimizer.param_groups[0]["lr"])
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def validate(self) -> tuple[float, float, float]:
        """Loss, energy MAE (meV) and force MAE (meV/A) of the validation frames, shared among the processes."""
        sums = torch.zeros(3, dtype=torch.float64, device=self.device)
        places = torch.arange(len(self.split.validation))
        self.evaluated.eval()
        for chunk in self.group.share(places).split(VALIDATION_BATCH):
            loss, energy_error, force_error = self.loss(
                self.evaluated, self.validation, chunk, training=False
            )
            # Of each frame, so that chunks and shares may differ in length.
            means = (loss.detach(), energy_error.detach().mean(), force_error.detach().mean())
            sums += len(chunk) * torch.stack([mean.double() for mean in means])
        loss_mean, energy_mae, force_mae = (self.group.sum(sums) / len(places)).tolist()
        return loss_mean, 1000.0 * energy_mae, 1000.0 * force_mae

    def run(
        self, *, resume: bool = False, on_epoch: Callable[["Trainer", dict[str, Any]], None] | None = None
    ) -> Path:
        """Train until the rate, the epochs or the minutes run out; returns the path of ``best.pt``.

        Raises:
            TrainingError: the folder holds another run, another training is at work there, the loss is no longer
                finite, or another process ended.
        """
        with contact(self.group), self._alone(), _arithmetic(self.recipe, self.device):
            return self._run(resume, on_epoch)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other trainings out of the folder; all processes of this one hear of it."""
        refusal = ""
        with ExitStack() as held:
            if self.group.writes:
                try:
                    held.enter_context(locked(self.folder, TrainingError))
                except TrainingError as error:
                    refusal = str(error)
            if refusal := self.group.of_first(refusal):
                raise TrainingError(refusal)
            yield

    def _run(self, resume: bool, on_epoch: Callable[["Trainer", dict[str, Any]], None] | None) -> Path:
        last = self.folder / "last.pt"
        begun = self.group.of_first(last.exists())
        if begun and not resume:
            raise TrainingError(
                f"{self.folder} holds a training run; give --resume to go on, or another folder"
            )
        if begun:
            self.load(last)
        elif resume:
            raise TrainingError(f"{last} does not exist; start without --resume")
        elif self.group.writes:
            (self.folder / "log.csv").unlink(missing_ok=True)
            # From here on the folder can be resumed, whenever the run is cut.
            self.save(last)
        saved = float("-inf")
        while self.epoch < self.last_epoch and self.seconds < 60 * self.recipe.max_minutes:
            start = time.monotonic()
            train_loss = self.train_epoch()
            if not np.isfinite(train_loss):
                raise TrainingError(
                    f"the loss of epoch {self.epoch + 1} is {train_loss}; start again in another folder with a lower --learning-rate"
                )
            validation_loss, energy_mae, force_mae = self.validate()
            if not np.isfinite([validation_loss, force_mae]).all():
                # Before anything is written: the checkpoint is from before this epoch.
                raise TrainingError(
                    f"after epoch {self.epoch + 1} the errors on validation frames are not finite (loss {validation_loss}); "
                    "start again in another folder with a lower --learning-rate"
                )
            if self.recipe.schedule == "plateau":
                self.plateau.step(validation_loss)
            rate = float(self.optimizer.param_groups[0]["lr"])
            self.epoch += 1
            improved = force_mae < self.best_force_mae
            self.best_force_mae = min(force_mae, self.best_force_mae)
            # One clock, so that all processes end together.
            self.seconds = self.group.of_first(self.seconds + time.monotonic() - start)
            row = dict(
                zip(
                    LOG_COLUMNS,
                    (
                        self.epoch,
                        self.step,
                        rate,
                        train_loss,
                        validation_loss,
                        energy_mae,
                        force_mae,
                        self.best_force_mae,
                        round(self.seconds, 2),
                    ),
                    strict=True,
                )
            )
            stop = self.recipe.schedule == "plateau" and rate < self.recipe.final_learning_rate
            if self.group.writes:
                if improved:
                    self.save(self.folder / "best.pt")
                self._log(row)
                if on_epoch is not None:
                    on_epoch(self, row)
                if time.monotonic() - saved > SAVE_INTERVAL_S:
                    self.save(last)
                    saved = time.monotonic()
            if stop:
                break
        if self.group.writes:
            self.save(last)
        return self.folder / "best.pt"

    def _log(self, row: dict[str, Any]) -> None:
        path = self.folder / "log.csv"
        is_new = not path.exists()
        text = io.StringIO()
        writer = csv.DictWriter(text, LOG_COLUMNS, lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerow(row)
        with open(path, "a", encoding="utf-8") as file:
            file.write(text.getvalue())

    def save(self, path: Path) -> None:
        """Write everything that a resumed run or an export needs."""
        record = {
            "format": 1,
            "package_version": __version__,
            "recipe": json.dumps(self.recipe.as_dict()),
            "provenance": json.dumps(self.provenance()),
            "force_field": self.force_field.state_dict(),
            "averaged": None if self.averaged is None else self.averaged.state_dict(),
            "evaluated": self.evaluated.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "plateau": self.plateau.state_dict(),
            "epoch": self.epoch,
            "step": self.step,
            "seconds": self.seconds,
            "best_force_mae": self.best_force_mae,
            "step_losses": self.step_losses,
        }
        # Through memory: torch turns a full disk into a RuntimeError without its cause.
        buffer = io.BytesIO()
        torch.save(record, buffer)
        with atomic_path(path) as temporary:
            temporary.write_bytes(buffer.getbuffer())

    def provenance(self) -> dict[str, Any]:
        """What the weights were trained on."""
        return {
            "dataset": self.frames.name,
            "level_of_theory": self.frames.level_of_theory,
            "source": self.frames.source,
            "constraints": self.frames.constraints,
            "constraint_bonds": self.constraint_bonds,
            "periodic": self.frames.cells is not None,
            "atomic_numbers": [int(number) for number in self.frames.atomic_numbers],
            "dataset_hash": self.split.dataset_hash,
            "split_hash": self.split.hash,
            "split_seed": self.split.seed,
            "n_train": len(self.split.train),
            "n_validation": len(self.split.validation),
            "n_test": len(self.split.test),
            "has_energies": self.frames.energies is not None,
            "command": self.command,
            "machine": machine(self.device)
            + (f", {self.group.size} processes" if self.group.size > 1 else ""),
        }

    def load(self, path: Path) -> None:
        """Go on from ``last.pt``; lines logged after it are dropped.

        Raises:
            TrainingError: the checkpoint belongs to another recipe or data set.
        """
        # Of the first process: the others may be on nodes that do not see its folder.
        record = self.group.of_first(load_checkpoint(path) if self.group.writes else None)
        recipe = Recipe.from_dict(json.loads(record["recipe"]))
        # Limits may grow between resumes; anything else would make another run of it.
        limits = {"max_minutes": 1.0} | ({"max_epochs": 1} if recipe.schedule == "plateau" else {})
        # As the file has it: tuples among the hyperparameters come back as lists.
        own = Recipe.from_dict(json.loads(json.dumps(self.recipe.as_dict())))
        if recipe.with_overrides(**limits) != own.with_overrides(**limits):
            raise TrainingError(
                f"{path} was made with another recipe; leave out --recipe and what else changes it, or give another folder"
            )
        provenance = json.loads(record["provenance"])
        # A split's hash covers places only; the other label set of the same frames has the same places.
        if (provenance["dataset_hash"], provenance["split_hash"]) != (
            self.split.dataset_hash,
            self.split.hash,
        ):
            raise TrainingError(
                f"{path} was made with another data set or split; give the same, or another folder"
            )
        # All that was typed, each line once.
        typed = [*provenance.get("command", "").split("; "), self.command]
        self.command = "; ".join(filter(None, dict.fromkeys(typed)))
        self.force_field.load_state_dict(record["force_field"])
        if self.averaged is not None:
            self.averaged.load_state_dict(record["averaged"])
        self.optimizer.load_state_dict(record["optimizer"])
        self.plateau.load_state_dict(record["plateau"])
        self.epoch, self.step = record["epoch"], record["step"]
        self.seconds, self.best_force_mae = record["seconds"], record["best_force_mae"]
        self.step_losses = record["step_losses"]
        log = self.folder / "log.csv"
        if self.group.writes and log.exists():
            lines = log.read_text(encoding="utf-8").splitlines(keepends=True)
            with atomic_path(log) as temporary:
                temporary.write_text("".join(lines[: 1 + self.epoch]), encoding="utf-8")


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint; only tensors and plain values are allowed in it.

    Raises:
        TrainingError: missing, damaged, or not a checkpoint of this package.
    """
    path = Path(path)
    if not path.is_file():
        raise TrainingError(f"{path} does not exist; give the best.pt or last.pt of a training folder")
    try:
        record = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise TrainingError(
            f"{path} is not a readable checkpoint ({type(error).__name__}); train or copy it again"
        ) from error
    wanted = {"recipe", "provenance", "force_field", "averaged", "evaluated", "optimizer", "plateau"}
    if not isinstance(record, dict) or record.get("format") != 1 or not wanted <= set(record):
        raise TrainingError(f"{path} is not a checkpoint of this package (format 1 wanted)")
    return record


def force_field_from_checkpoint(record: dict[str, Any]) -> ForceField:
    """The evaluated (averaged) force field of a checkpoint."""
    recipe = Recipe.from_dict(json.loads(record["recipe"]))
    provenance = json.loads(record["provenance"])
    numbers = provenance["atomic_numbers"]
    network = build_network(recipe.model, recipe.hyperparameters, sorted(set(numbers)))
    force_field = ForceField(network, torch.tensor(numbers))
    force_field.predicts_energy = _predicts_energy(recipe, network, provenance.get("has_energies", True))
    force_field.load_state_dict(record["evaluated"])
    return force_field


def predict(
    force_field: ForceField, frames: Frames, batch_size: int = 50
) -> tuple[np.ndarray | None, np.ndarray]:
    """Energies (n_frames,), eV, reference included, or None, and forces (n_frames, n_atoms, 3), eV/A."""
    device = force_field.scale.device
    dtype = next(force_field.parameters()).dtype
    batcher = Batcher(force_field.eval())
    energies, forces = [], []
    for start in range(0, frames.n_frames, batch_size):
        chunk = slice(start, start + batch_size)
        cells = (
            None if frames.cells is None else torch.as_tensor(frames.cells[chunk], device=device).to(dtype)
        )
        batch = batcher(torch.as_tensor(frames.positions[chunk], device=device).to(dtype), cells)
        energy, force = force_field(batch)
        energies.append(energy.detach().double() + force_field.reference_energy())
        forces.append(force.detach().double())
    found = torch.cat(energies).cpu().numpy() if force_field.predicts_energy else None
    return found, torch.cat(forces).cpu().numpy()
