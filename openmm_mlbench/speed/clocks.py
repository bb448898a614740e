"""Clocks that tell a slow program from a busy machine.

What is compared takes turns in short windows, so that whatever else the machine
does falls on all of it; the fastest window is the cost.  The median beside it,
and process time beside wall time, show how busy the machine was.  A step before
each window is not timed: steps of a simulation follow each other, and this one
finds the caches as another program left them.
"""

import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

Key = TypeVar("Key", bound=Hashable)


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Window:
    """What is timed.

    Args:
        run: runs so many steps.
        start: puts everything back to the same state; its time does not count.
    """

    run: Callable[[int], None]
    start: Callable[[], None] = _nothing


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Microseconds per step over windows that took turns with others.

    Args:
        wall_us_min: of the fastest window.
        wall_us_median: of all windows.
        process_us_min: processor time of the window that took least of it.
        process_us_median: of all windows.
        steps_per_window: steps in a window.
        windows: how many.
    """

    wall_us_min: float
    wall_us_median: float
    process_us_min: float
    process_us_median: float
    steps_per_window: int
    windows: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            key: round(value, 2) if isinstance(value, float) else value for key, value in asdict(self).items()
        }


def run_window(window: Window, n_steps: int) -> tuple[float, float]:
    """Wall and process time per step, us, after one that does not count."""
    window.start()
    window.run(1)
    wall, process = time.perf_counter(), time.process_time()
    window.run(n_steps)
    wall, process = time.perf_counter() - wall, time.process_time() - process
    return 1e6 * wall / n_steps, 1e6 * process / n_steps


def take_turns(
    windows: Mapping[Key, Window],
    *,
    seconds: float,
    window_s: float = 0.1,
    least_rounds: int = 3,
    warm_up: int = 2,
    note: Callable[[str], None] = lambda _: None,
) -> dict[Key, Timing]:
    """Time what takes turns.

    Args:
        windows: by name.
        seconds: after so long, and not before least_rounds, no further round begins.
        window_s: length of a window; at least one step.
        least_rounds: windows of each at least.
        warm_up: steps before the first window; scripted models compile in their first calls.
        note: hears of the progress.

    Returns:
        One timing per name.
    """
    steps: dict[Key, int] = {}
    samples: dict[Key, list[tuple[float, float]]] = {key: [] for key in windows}
    for key, window in windows.items():
        window.start()
        window.run(warm_up)
        wall = run_window(window, 1)[0]
        # A window of one step says little of fast ones.
        wall = min(wall, run_window(window, 5)[0]) if wall < 1e5 * window_s else wall
        steps[key] = max(1, round(1e6 * window_s / max(wall, 1e-3)))
    start = time.perf_counter()
    rounds = 0
    while rounds < least_rounds or time.perf_counter() - start < seconds:
        for key, window in windows.items():
            samples[key].append(run_window(window, steps[key]))
        rounds += 1
    note(f"{rounds} rounds of {len(windows)} windows in {time.perf_counter() - start:.0f} s")
    return {key: _timing(samples[key], steps[key]) for key in windows}


def _timing(samples: list[tuple[float, float]], n_steps: int) -> Timing:
    wall, process = zip(*samples, strict=True)
    return Timing(
        wall_us_min=min(wall),
        wall_us_median=statistics.median(wall),
        process_us_min=min(process),
        process_us_median=statistics.median(process),
        steps_per_window=n_steps,
        windows=len(samples),
    )
