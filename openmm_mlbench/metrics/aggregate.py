"""Standard errors: within one time series, over blocks, over replicas."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from openmm_mlbench.errors import MetricError
from openmm_mlbench.results import Result

# Below this many independent samples a standard error of one series is a guess.
MIN_INDEPENDENT = 5


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean with its standard error; ``stderr`` is None where it cannot be known."""

    value: float
    stderr: float | None
    n: int
    note: str = ""


def statistical_inefficiency(series: NDArray[np.float64]) -> float:
    """How many consecutive samples count as one independent sample, g = 1 + 2 tau.

    Raises:
        MetricError: fewer than two samples, or a sample is not finite.
    """
    if len(series) < 2 or not np.isfinite(series).all():
        raise MetricError(
            f"{len(series)} samples (all finite: {np.isfinite(series).all()}); wanted two finite ones"
        )
    if np.ptp(series) == 0:
        # A constant series holds one value, however often it was written down.
        return float(len(series))
    # pymbar logs advice about JAX and short series when it is imported.
    logging.getLogger("pymbar").setLevel(logging.ERROR)
    from pymbar import timeseries

    return float(timeseries.statistical_inefficiency(np.asarray(series, dtype=np.float64)))


def block_estimate(series: NDArray[np.float64]) -> Estimate:
    """Mean of one correlated series; stderr = s sqrt(g / n).

    Valid for a stationary series much longer than its correlation time; with
    fewer than five independent samples the standard error is None.

    Args:
        series: (n_samples,), one or more.
    """
    if len(series) == 0:
        raise MetricError("an empty series has no mean; wanted at least one sample")
    mean = float(np.mean(series))
    if len(series) < 2:
        return Estimate(value=mean, stderr=None, n=1, note="one sample has no standard error")
    g = statistical_inefficiency(series)
    n_independent = len(series) / g
    if n_independent < MIN_INDEPENDENT:
        note = f"{n_independent:.1f} independent samples are too few for a standard error"
        return Estimate(value=mean, stderr=None, n=len(series), note=note)
    stderr = float(np.std(series, ddof=1) / np.sqrt(n_independent))
    return Estimate(value=mean, stderr=stderr, n=len(series))


def stderr_of_sd(series: NDArray[np.float64]) -> float | None:
    """Standard error of the standard deviation of one correlated series; None with fewer than five independent samples.

    That of the variance, the mean of squares, carried over to its root.

    Args:
        series: (n_samples,), two or more.
    """
    sd = float(np.std(series, ddof=1))
    squares = (series - series.mean()) ** 2
    n_independent = len(series) / statistical_inefficiency(squares)
    if n_independent < MIN_INDEPENDENT or sd == 0:
        return None
    return float(np.std(squares, ddof=1) / np.sqrt(n_independent) / (2 * sd))


def jackknife_stderr(values_without_block: Sequence[float]) -> float:
    """Standard error of a statistic from its values with each block left out in turn.

    s^2 = (n - 1) / n  sum_b (v_b - <v>)^2

    Raises:
        MetricError: fewer than two blocks.
    """
    values = np.asarray(values_without_block, dtype=np.float64)
    n = len(values)
    if n < 2:
        raise MetricError(f"{n} blocks; a jackknife wants at least two")
    return float(np.sqrt((n - 1) / n * np.sum((values - values.mean()) ** 2)))


def over_replicas(estimates: Sequence[Estimate]) -> Estimate:
    """Mean over independent replicas; stderr = SD / sqrt(n).

    One replica keeps its own standard error, and the note says so.

    Raises:
        MetricError: no replica.
    """
    if not estimates:
        raise MetricError("no replica has a value; wanted at least one")
    if len(estimates) == 1:
        only = estimates[0]
        note = "one replica: standard error within it" if only.stderr is not None else "one replica"
        return Estimate(value=only.value, stderr=only.stderr, n=1, note=join_notes(note, only.note))
    values = np.asarray([estimate.value for estimate in estimates])
    stderr = float(np.std(values, ddof=1) / np.sqrt(len(values)))
    return Estimate(value=float(values.mean()), stderr=stderr, n=len(values))


def join_notes(*notes: str) -> str:
    """The non-empty notes, once each, separated by semicolons."""
    return "; ".join(dict.fromkeys(note for note in notes if note))


def result_over_replicas(
    name: str,
    unit: str,
    estimates: Sequence[Estimate | None],
    *,
    floor: float | None = None,
    n_frames: int | None = None,
    missing_status: str = "too_short",
    note: str = "",
) -> Result:
    """Combine replicas into one result; a replica without a value is None and is told in the note."""
    known = [estimate for estimate in estimates if estimate is not None]
    if not known:
        wanted = join_notes("no replica has a value", note)
        return Result(
            name=name, status=missing_status, unit=unit, n_replicas=0, n_frames=n_frames, note=wanted
        )
    combined = over_replicas(known)
    n_missing = len(estimates) - len(known)
    missing = f"{n_missing} of {len(estimates)} replicas have no value" if n_missing else ""
    return Result(
        name=name,
        status="ok",
        unit=unit,
        value=combined.value,
        stderr=combined.stderr,
        floor=floor,
        n_frames=n_frames,
        n_replicas=len(known),
        note=join_notes(missing, combined.note, note),
    )
