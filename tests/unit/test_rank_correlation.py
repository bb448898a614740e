"""Rank correlations against SciPy's, their intervals and verdicts against known cases."""

import numpy as np
import pytest
from scipy import stats

from openmm_mlbench.errors import MetricError
from openmm_mlbench.metrics.rank_correlation import (
    ALIGNED,
    OPPOSED,
    TOO_FEW,
    UNDECIDED,
    kendall,
    rank_correlation,
    spearman,
)


@pytest.mark.parametrize("ties", [False, True])
def test_coefficients_are_scipys(ties):
    random = np.random.default_rng(3)
    x, y = random.normal(size=(2, 40, 7))
    if ties:
        x, y = np.round(x), np.round(y)
    for i in range(len(x)):
        assert spearman(x, y)[i] == pytest.approx(stats.spearmanr(x[i], y[i]).statistic)
        assert kendall(x, y)[i] == pytest.approx(stats.kendalltau(x[i], y[i]).statistic)


def test_p_is_the_share_of_all_orders():
    found = rank_correlation([1, 2, 3, 4, 5], [10, 20, 30, 40, 50])
    # Of 120 orders the same and the reverse one.
    assert found.spearman.p == pytest.approx(2 / 120)
    assert found.kendall.value == 1.0
    assert found.verdict == ALIGNED


def test_p_is_scipys_exact_one():
    x, y = [1.0, 2, 3, 4, 5, 6, 7], [2.0, 1, 4, 3, 7, 6, 5]
    expected = stats.kendalltau(x, y, method="exact").pvalue
    assert rank_correlation(x, y).kendall.p == pytest.approx(expected)


def test_the_reverse_order_is_opposed():
    found = rank_correlation(range(6), range(6, 0, -1))
    assert (found.spearman.value, found.verdict) == (pytest.approx(-1.0), OPPOSED)


def test_few_models_decide_nothing():
    assert rank_correlation([1, 2, 3, 4], [1, 2, 3, 4]).verdict == TOO_FEW
    assert rank_correlation([1.0], [2.0]).spearman.value is None


def test_equal_values_decide_nothing():
    """All seven outlived the protocol: nothing to rank."""
    found = rank_correlation(range(7), [300.0] * 7)
    assert (found.spearman.value, found.spearman.low, found.verdict) == (None, None, UNDECIDED)


def test_noise_decides_nothing():
    found = rank_correlation([1, 2, 3, 4, 5, 6, 7], [3, 6, 1, 7, 2, 5, 4])
    assert found.verdict == UNDECIDED
    assert found.spearman.low < 0 < found.spearman.high


def test_standard_errors_widen_the_interval():
    x, y = np.arange(7.0), np.arange(7.0)
    plain = rank_correlation(x, y)
    noisy = rank_correlation(x, y, y_stderr=[5.0] * 7)
    assert plain.spearman.low == pytest.approx(1.0)
    assert noisy.spearman.low < 0
    assert (plain.verdict, noisy.verdict) == (ALIGNED, UNDECIDED)
    # Unknown errors count as none.
    assert rank_correlation(x, y, y_stderr=[None] * 7) == plain


def test_the_interval_covers_the_correlation_of_many():
    """Drawn from a population of known rank correlation, nine intervals in ten or more hold it."""
    random = np.random.default_rng(0)
    r = 0.7
    truth = 6 / np.pi * np.arcsin(r / 2)
    inside = 0
    for i in range(40):
        x, noise = random.normal(size=(2, 20))
        found = rank_correlation(x, r * x + np.sqrt(1 - r**2) * noise, seed=i, n_resamples=500)
        inside += found.spearman.low <= truth <= found.spearman.high
    assert inside >= 34


def test_the_same_seed_gives_the_same():
    x, y = [1, 2, 3, 4, 5, 6], [1, 3, 2, 5, 4, 6]
    assert rank_correlation(x, y) == rank_correlation(x, y)


def test_what_does_not_fit():
    with pytest.raises(MetricError, match="wanted one of each"):
        rank_correlation([1, 2], [1, 2, 3])
    with pytest.raises(MetricError, match="leave that model out"):
        rank_correlation([1, np.nan], [1, 2])
    with pytest.raises(MetricError, match="standard errors for 2 models"):
        rank_correlation([1, 2], [1, 2], x_stderr=[1.0])
