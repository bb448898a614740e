"""What a training run shows while it goes on."""

import sys
import time
from importlib.util import find_spec
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from rich.progress import Progress

    from openmm_mlbench.training.trainer import Trainer

PLAIN_INTERVAL_S = 30.0


class TrainingDisplay:
    """A bar on a terminal, a line every half minute elsewhere and where rich is not installed.

    Args:
        label: what is trained.
        epochs: upper limit.
    """

    def __init__(self, label: str, epochs: int) -> None:
        self.label = label
        self.epochs = epochs
        self._bar: Progress | None = None
        self._task: Any = None
        self._printed = 0.0

    def __enter__(self) -> Self:
        if sys.stderr.isatty() and find_spec("rich") is not None:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed:.0f}/{task.total:.0f} epochs"),
                TextColumn("{task.fields[errors]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task(self.label, total=self.epochs, errors="")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, _: "Trainer", row: dict[str, Any]) -> None:
        """Show an epoch."""
        errors = (
            f"force MAE {row['validation_force_mae_meV_A']:.1f} (best {row['best_force_mae_meV_A']:.1f}) meV/A, "
            f"rate {row['learning_rate']:.1e}"
        )
        if self._bar is not None:
            self._bar.update(self._task, completed=row["epoch"], errors=errors)
        elif time.monotonic() - self._printed > PLAIN_INTERVAL_S:
            self._printed = time.monotonic()
            print(
                f"{self.label}: epoch {row['epoch']} of {self.epochs}, {errors}",
                file=sys.stderr,
                flush=True,
            )
