"""How long a simulation stays physical: bonds within 0.5 A of their equilibrium length.

What is measured is a survival time, cut off (censored) by the end of the
simulation.  The plain mean of such times depends on the length of the runs, so
the Kaplan-Meier restricted mean is reported together with how many replicas
outlived the run.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from openmm_mlbench.errors import MetricError
from openmm_mlbench.metrics.aggregate import join_notes
from openmm_mlbench.results import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, kw_only=True)
class Survival:
    """One replica: stable until ``time_ps``, when it broke, or else its observation ended."""

    time_ps: float
    broke: bool
    n_stable_frames: int


@dataclass(frozen=True, kw_only=True)
class RestrictedMean:
    """Mean survival time up to a horizon; ``stderr_ps`` is None where the times show no spread."""

    value_ps: float
    stderr_ps: float | None
    horizon_ps: float
    n_broke: int


def first_broken_frame(max_deviation_A: NDArray[np.float64], threshold_A: float) -> int | None:
    """Index of the first frame with max |length - equilibrium| > threshold (paper, eq. 9).

    A deviation that is not finite has broken too.

    Args:
        max_deviation_A: (n_frames,), A.
        threshold_A: 0.5 A in the paper.
    """
    broken = np.flatnonzero(~(np.asarray(max_deviation_A) <= threshold_A))
    return int(broken[0]) if len(broken) else None


def survival(
    max_deviation_A: NDArray[np.float64],
    times_ps: NDArray[np.float64],
    threshold_A: float,
    *,
    end_ps: float | None = None,
    stopped_at_ps: float | None = None,
) -> Survival:
    """How long one replica stayed stable.

    Args:
        max_deviation_A: (n_frames,), A.
        times_ps: (n_frames,), ps.
        threshold_A: largest deviation that counts as stable, A.
        end_ps: end of the observation; the last frame where None.
        stopped_at_ps: when the simulation itself gave up (NaN energy, say), between or after frames.

    Raises:
        MetricError: the two arrays differ in length, or there is neither a frame nor an end.
    """
    if len(max_deviation_A) != len(times_ps):
        raise MetricError(
            f"{len(max_deviation_A)} deviations for {len(times_ps)} times; wanted one for each frame"
        )
    frame = first_broken_frame(max_deviation_A, threshold_A)
    # The frame that the simulation gave up at is no stable one, whatever gave it away.
    n_before = len(times_ps)
    if stopped_at_ps is not None:
        n_before = int(np.count_nonzero(np.asarray(times_ps) < stopped_at_ps * (1 - 1e-9)))
    if frame is not None:
        time_ps = float(times_ps[frame])
        if stopped_at_ps is not None:
            time_ps = min(time_ps, stopped_at_ps)
        return Survival(time_ps=time_ps, broke=True, n_stable_frames=min(frame, n_before))
    if stopped_at_ps is not None:
        return Survival(time_ps=stopped_at_ps, broke=True, n_stable_frames=n_before)
    if end_ps is None:
        if len(times_ps) == 0:
            raise MetricError("no frame and no end of the simulation; wanted at least one of them")
        end_ps = float(times_ps[-1])
    return Survival(time_ps=end_ps, broke=False, n_stable_frames=len(times_ps))


@dataclass(frozen=True, kw_only=True)
class SurvivalCurve:
    """Steps of S(t), all (n_events,): ``after`` is S just after each event time."""

    times_ps: NDArray[np.float64]
    n_broke: NDArray[np.int64]
    at_risk: NDArray[np.int64]
    after: NDArray[np.float64]


def kaplan_meier(times_ps: Sequence[float], broke: Sequence[bool]) -> SurvivalCurve:
    """Product-limit estimate S(t) = prod_{t_i <= t} (1 - d_i / n_i).

    A replica censored at t_i is still at risk for a break at t_i.

    Args:
        times_ps: (n_replicas,), ps.
        broke: (n_replicas,); False: the observation ended first.

    Source: Kaplan and Meier, J. Am. Stat. Assoc. 53, 457 (1958).
    """
    times, events = np.asarray(times_ps, dtype=np.float64), np.asarray(broke, dtype=bool)
    event_times = np.unique(times[events]).astype(np.float64)
    n_broke = np.array([np.count_nonzero(events & (times == t)) for t in event_times], dtype=np.int64)
    at_risk = np.array([np.count_nonzero(times >= t) for t in event_times], dtype=np.int64)
    after = np.cumprod(1.0 - n_broke / at_risk).astype(np.float64)
    return SurvivalCurve(times_ps=event_times, n_broke=n_broke, at_risk=at_risk, after=after)


def restricted_mean(
    times_ps: Sequence[float], broke: Sequence[bool], horizon_ps: float | None = None
) -> RestrictedMean:
    """Area under the Kaplan-Meier curve up to the horizon, with Greenwood's variance.

    mu = int_0^h S(t) dt;  var = n/(n-1) sum_i A_i^2 d_i / (n_i (n_i - d_i)),  A_i = int_{t_i}^h S(t) dt

    The factor n/(n-1) makes the standard error that of the plain mean of
    min(t, h) where nothing is censored before the horizon.

    Args:
        times_ps: (n_replicas,), ps.
        broke: (n_replicas,); False: the observation ended first.
        horizon_ps: at most the longest observation, which is taken where None.

    Raises:
        MetricError: no replicas, lengths differ, or a time is negative or not finite.
    """
    times = np.asarray(times_ps, dtype=np.float64)
    if len(times) == 0 or len(times) != len(broke):
        raise MetricError(f"{len(times)} times for {len(broke)} replicas; wanted one for each, at least one")
    if not np.isfinite(times).all() or (times < 0).any():
        raise MetricError(f"survival times {times.tolist()} ps; wanted finite ones, zero or above")
    # Beyond the longest observation S is unknown, unless the last one broke (then it is zero).
    longest = float(times.max())
    horizon = longest if horizon_ps is None else float(horizon_ps)
    if horizon > longest and not any(b for t, b in zip(times, broke, strict=True) if t == longest):
        horizon = longest
    curve = kaplan_meier(times.tolist(), broke)
    inside = curve.times_ps < horizon
    edges = np.concatenate([[0.0], curve.times_ps[inside], [horizon]])
    areas = np.diff(edges) * np.concatenate([[1.0], curve.after[inside]])
    value = float(areas.sum())
    n_broke = int(np.count_nonzero(broke))
    if n_broke == 0 or len(times) < 2:
        return RestrictedMean(value_ps=value, stderr_ps=None, horizon_ps=horizon, n_broke=n_broke)
    beyond = np.cumsum(areas[::-1])[::-1][1:]
    n_i, d_i = curve.at_risk[inside], curve.n_broke[inside]
    # Where all at risk break, nothing lies beyond and the term is zero.
    greenwood = float(np.sum(beyond**2 * d_i / (n_i * np.maximum(n_i - d_i, 1))))
    stderr = float(np.sqrt(greenwood * len(times) / (len(times) - 1)))
    # Replicas that all break in one frame tell nothing about the spread.
    known = stderr if stderr > 0 else None
    return RestrictedMean(value_ps=value, stderr_ps=known, horizon_ps=horizon, n_broke=n_broke)


def stability_results(replicas: Sequence[Survival], horizon_ps: float) -> list[Result]:
    """``stability`` (ps) and ``n_finished`` over the replicas of one run.

    When every replica outlives its simulation the value is only a lower bound:
    status ``censored``, no standard error.
    """
    mean = restricted_mean([r.time_ps for r in replicas], [r.broke for r in replicas], horizon_ps)
    n = len(replicas)
    n_frames = sum(replica.n_stable_frames for replica in replicas)
    n_censored = n - mean.n_broke
    early = sum(not r.broke and r.time_ps < horizon_ps * (1 - 1e-6) for r in replicas)
    cut = f"{early} of them interrupted before {horizon_ps:g} ps" if early else ""
    if mean.n_broke == 0:
        note = f"no replica of {n} broke: a lower bound, so without standard error"
    else:
        counted = f"{mean.n_broke} of {n} replicas broke, {n_censored} censored"
        note = f"{counted}; Kaplan-Meier mean restricted to {mean.horizon_ps:g} ps"
        if mean.stderr_ps is None:
            spread = "one replica has" if n == 1 else "equal times have"
            note = join_notes(note, f"{spread} no standard error")
    return [
        Result(
            name="stability",
            status="unstable" if mean.n_broke else "censored",
            unit="ps",
            value=mean.value_ps,
            stderr=mean.stderr_ps,
            n_frames=n_frames,
            n_replicas=n,
            note=join_notes(note, cut),
        ),
        Result(
            name="n_finished",
            status="ok",
            unit="replicas",
            value=float(n_censored - early),
            n_replicas=n,
            note=f"of {n} reached {horizon_ps:g} ps without breaking",
        ),
    ]


def plot_stability(
    times_ps: NDArray[np.float64],
    deviations_A: dict[str, NDArray[np.float64]],
    threshold_A: float,
    ax: "Axes | None" = None,
    ylabel: str = "deviation / A",
) -> "Axes":
    """Deviations against time and the threshold, the time at which the first of them exceeds it marked.

    Args:
        times_ps: (n,).
        deviations_A: label -> (n,): the largest of the bonds, or of the RDFs of each window.
        threshold_A: beyond it is unstable.
        ax: to draw on.
        ylabel: what deviates.
    """
    if ax is None:
        from matplotlib.figure import Figure

        ax = Figure(figsize=(5, 3.5), layout="constrained").subplots()
    for label, values in deviations_A.items():
        ax.plot(times_ps, values, lw=0.8, label=label)
    ax.axhline(threshold_A, color="k", ls="--", lw=1, label="threshold")
    broken = first_broken_frame(np.max(np.stack(list(deviations_A.values())), axis=0), threshold_A)
    if broken is not None:
        ax.axvline(
            times_ps[broken], color="#B00020", ls=":", lw=1, label=f"unstable at {times_ps[broken]:g} ps"
        )
    ax.set(xlabel="t / ps", ylabel=ylabel, ylim=(0, None))
    ax.legend()
    return ax
