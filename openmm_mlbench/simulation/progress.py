"""How far a run is: a bar on a terminal, a plain line now and then elsewhere."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Any, Self

PLAIN_INTERVAL_S = 30.0


@dataclass(frozen=True, kw_only=True)
class ProgressUpdate:
    """Where one of several replicas stands.

    Args:
        replica: its number.
        n_replicas: of how many.
        time_ps: simulated.
        length_ps: wanted.
        steps_per_second: now; None before the first frame and after the last.
        state: see ReplicaStatus.
    """

    replica: int
    n_replicas: int
    time_ps: float
    length_ps: float
    steps_per_second: float | None
    state: str


ProgressCallback = Callable[[ProgressUpdate], None]


class ProgressDisplay:
    """Shows simulated time of all replicas together, steps per second and time left.

    Use it as a context manager and give it to ``run_protocol`` as ``progress``.

    Args:
        label: what is running.
        stream: where to write.
    """

    def __init__(self, label: str, stream: IO[str] | None = None) -> None:
        self.label = label
        self.stream = stream if stream is not None else sys.stderr
        self._latest: dict[int, ProgressUpdate] = {}
        self._begin: dict[int, float] = {}
        # Loading and warming up a model says nothing about the time left.
        self._started: float | None = None
        self._printed = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        if self.stream.isatty():
            self._bar = _make_bar(self.stream)
            self._bar.start()
            self._task = self._bar.add_task(self.label, total=None, text="starting")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self._latest:
            self._print()

    def __call__(self, update: ProgressUpdate) -> None:
        """Take note of an update and show it."""
        if self._started is None:
            self._started = time.monotonic()
        self._begin.setdefault(update.replica, update.time_ps)
        self._latest[update.replica] = update
        done, total = self.done_ps()
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total, text=self._text(done, total))
        elif time.monotonic() - self._printed >= PLAIN_INTERVAL_S:
            self._print()

    def done_ps(self) -> tuple[float, float]:
        """Simulated time done and wanted over all replicas; one that ended early has no time left."""
        updates = list(self._latest.values())
        per_replica = updates[-1].length_ps
        over = ("finished", "unstable", "failed")
        done = sum(per_replica if item.state in over else item.time_ps for item in updates)
        return done, per_replica * updates[-1].n_replicas

    def line(self) -> str:
        """The plain form."""
        done, total = self.done_ps()
        ended = [item for item in self._latest.values() if item.state in ("unstable", "failed")]
        notes = [f", replica {item.replica} {item.state} at {item.time_ps:g} ps" for item in ended]
        return f"{self.label}: {self._text(done, total)}{''.join(notes)}"

    def _text(self, done: float, total: float) -> str:
        parts = (f"{done:.1f} of {total:g} ps", self._speed(), self._time_left(done, total))
        return ", ".join(part for part in parts if part)

    def _print(self) -> None:
        self._printed = time.monotonic()
        print(self.line(), file=self.stream, flush=True)

    def _speed(self) -> str:
        speeds = [item.steps_per_second for item in self._latest.values() if item.steps_per_second]
        return f"{sum(speeds):.0f} steps/s" if speeds else ""

    def _time_left(self, done: float, total: float) -> str:
        gained = done - sum(self._begin.values())
        if self._started is None or gained <= 0 or done >= total:
            return ""
        elapsed = time.monotonic() - self._started
        seconds = round((total - done) * elapsed / gained)
        hours, rest = divmod(seconds, 3600)
        return f"{hours}:{rest // 60:02d}:{rest % 60:02d} left"


def _make_bar(stream: IO[str]) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[text]}"),
        console=Console(file=stream),
    )
