"""Whether two numbers put models in the same order: Spearman's and Kendall's coefficients with intervals.

What it says: whether a model with a lower force error also simulates better.  When it misleads: a
handful of models is a small sample of all there could be, and models of one family are no
independent draws from it.  So the verdict wants two things at once, a bootstrap interval without
zero and an exact permutation test, and is "undecided" otherwise.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import permutations
from math import factorial

import numpy as np
from numpy.typing import NDArray

from openmm_mlbench.errors import MetricError

# Fewer models decide nothing: of four, even a perfect order has p = 2/24.
MIN_MODELS = 5
LEVEL = 0.95
N_RESAMPLES = 5_000
# All orders of so many are counted; of more, as many are drawn.
_MAX_EXACT = 7

Measure = Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]
ALIGNED, OPPOSED, UNDECIDED, TOO_FEW = "aligned", "opposed", "undecided", "too few models"


@dataclass(frozen=True, kw_only=True)
class Coefficient:
    """A rank correlation with its bootstrap interval and permutation test.

    Args:
        value: between -1 and 1; None where one of the two numbers is the same for all models.
        low: lower end of the interval; None without a value.
        high: upper end.
        p: share of all orders of one number that correlate at least as strongly, of either sign.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    p: float | None = None


@dataclass(frozen=True, kw_only=True)
class RankCorrelation:
    """Both coefficients, and what they decide.

    Args:
        n: models.
        spearman: of the ranks.
        kendall: tau-b, of pairs.
        verdict: ``aligned``, ``opposed``, ``undecided`` or ``too few models``.
    """

    n: int
    spearman: Coefficient
    kendall: Coefficient
    verdict: str


def rank_correlation(
    x: Sequence[float],
    y: Sequence[float],
    *,
    x_stderr: Sequence[float | None] | None = None,
    y_stderr: Sequence[float | None] | None = None,
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
) -> RankCorrelation:
    """Whether large x goes with large y (aligned), with small y (opposed), or neither is shown.

    Each resample draws models with replacement and shifts every number within its own standard error:
    both the choice of models and the noise of the runs count.  Resamples in which a number is the same
    for all are left out.

    Args:
        x: (n,), one number for each model.
        y: (n,), the other.
        x_stderr: (n,) standard errors, None where unknown.
        y_stderr: likewise of y.
        seed: of the resamples.
        n_resamples: how many.

    Raises:
        MetricError: lengths differ, or a number is not finite.
    """
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1:
        raise MetricError(f"{a.shape} and {b.shape} numbers; wanted one of each for every model")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise MetricError("a number is not finite; leave that model out")
    errors = [_errors(given, len(a)) for given in (x_stderr, y_stderr)]
    if len(a) < 2:
        nothing = Coefficient(value=None)
        return RankCorrelation(n=len(a), spearman=nothing, kendall=nothing, verdict=TOO_FEW)
    random = np.random.default_rng(seed)
    chosen = random.integers(0, len(a), size=(n_resamples, len(a)))
    resampled = [
        (values[chosen] + error[chosen] * random.standard_normal(chosen.shape))
        for values, error in zip((a, b), errors, strict=True)
    ]
    shuffled = a[_orders(len(a), random)]
    found = [
        _coefficient(measure, a, b, resampled[0], resampled[1], shuffled) for measure in (spearman, kendall)
    ]
    return RankCorrelation(
        n=len(a), spearman=found[0], kendall=found[1], verdict=_verdict(len(a), found[0], found[1])
    )


def _errors(given: Sequence[float | None] | None, n: int) -> NDArray[np.float64]:
    if given is None:
        return np.zeros(n)
    if len(given) != n:
        raise MetricError(f"{len(given)} standard errors for {n} models; wanted one for each, or None")
    return np.array([0.0 if error is None else float(error) for error in given])


def spearman(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Correlation of ranks, ties sharing theirs; NaN where all of x or of y are equal.

    Args:
        x: (..., n).
        y: (..., n).
    """
    from scipy.stats import rankdata

    a, b = (rankdata(values, axis=-1) for values in (x, y))
    a, b = a - a.mean(axis=-1, keepdims=True), b - b.mean(axis=-1, keepdims=True)
    norm = np.sqrt((a**2).sum(axis=-1) * (b**2).sum(axis=-1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((a * b).sum(axis=-1) / norm)


def kendall(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Tau-b: pairs in the same order less pairs in the opposite one, over the root of the untied pairs of each.

    Args:
        x: (..., n).
        y: (..., n).
    """
    a, b = (np.sign(values[..., :, None] - values[..., None, :]) for values in (x, y))
    norm = np.sqrt((a**2).sum(axis=(-2, -1)) * (b**2).sum(axis=(-2, -1)))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((a * b).sum(axis=(-2, -1)) / norm)


def _orders(n: int, random: np.random.Generator) -> NDArray[np.int64]:
    if n <= _MAX_EXACT:
        return np.array(list(permutations(range(n))), dtype=np.int64)
    drawn = random.permuted(np.tile(np.arange(n), (factorial(_MAX_EXACT), 1)), axis=1)
    # The order that was found is one of them, so that p is never zero.
    drawn[0] = np.arange(n)
    return drawn


def _coefficient(
    measure: Measure,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    resampled_x: NDArray[np.float64],
    resampled_y: NDArray[np.float64],
    shuffled_x: NDArray[np.float64],
) -> Coefficient:
    value = float(measure(x, y))
    if not np.isfinite(value):
        return Coefficient(value=None)
    drawn = measure(resampled_x, resampled_y)
    drawn = drawn[np.isfinite(drawn)]
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    by_chance = measure(shuffled_x, np.broadcast_to(y, shuffled_x.shape))
    p = float(np.mean(np.abs(by_chance) >= abs(value) - 1e-12))
    return Coefficient(value=value, low=float(low), high=float(high), p=p)


def _verdict(n: int, *found: Coefficient) -> str:
    if n < MIN_MODELS:
        return TOO_FEW
    signs = set()
    for one in found:
        if one.value is None or one.low is None or one.high is None or one.p is None:
            return UNDECIDED
        decided = (one.low > 0 or one.high < 0) and one.p < 1 - LEVEL
        signs.add(np.sign(one.value) if decided else 0)
    if signs == {1.0}:
        return ALIGNED
    return OPPOSED if signs == {-1.0} else UNDECIDED
