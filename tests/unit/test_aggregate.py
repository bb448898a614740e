"""Standard errors of series, blocks and replicas."""

import numpy as np
import pytest

from openmm_mlbench.errors import MetricError
from openmm_mlbench.metrics.aggregate import (
    Estimate,
    block_estimate,
    jackknife_stderr,
    join_notes,
    over_replicas,
    result_over_replicas,
    statistical_inefficiency,
    stderr_of_sd,
)
from openmm_mlbench.metrics.speed import compute_speed, speed_results
from openmm_mlbench.results import Result


def autoregressive(rng, n, phi):
    """x_k = phi x_{k-1} + noise, unit variance; its g is (1 + phi) / (1 - phi)."""
    noise = rng.normal(size=n) * np.sqrt(1 - phi**2)
    series = np.empty(n)
    series[0] = rng.normal()
    for k in range(1, n):
        series[k] = phi * series[k - 1] + noise[k]
    return series


@pytest.mark.parametrize("phi", [0.0, 0.8])
def test_inefficiency_of_a_known_process(phi):
    series = autoregressive(np.random.default_rng(3), 20000, phi)
    assert statistical_inefficiency(series) == pytest.approx((1 + phi) / (1 - phi), rel=0.2)


def test_block_estimate_covers_the_spread_of_correlated_means():
    rng = np.random.default_rng(5)
    estimates = [block_estimate(autoregressive(rng, 2000, 0.8)) for _ in range(60)]
    spread = np.std([estimate.value for estimate in estimates], ddof=1)
    # The spread of 60 means is itself known to 9 %.
    assert np.mean([estimate.stderr for estimate in estimates]) == pytest.approx(spread, rel=0.3)
    naive = 1 / np.sqrt(2000)
    assert spread > 2 * naive


def test_short_or_constant_series_have_no_standard_error():
    assert block_estimate(np.array([3.0])) == Estimate(
        value=3.0, stderr=None, n=1, note="one sample has no standard error"
    )
    constant = block_estimate(np.full(50, 2.0))
    assert (constant.value, constant.stderr) == (2.0, None)
    assert "too few" in constant.note
    slow = block_estimate(np.linspace(0, 1, 30))
    assert slow.stderr is None


def test_bad_series():
    with pytest.raises(MetricError, match="empty series"):
        block_estimate(np.array([]))
    with pytest.raises(MetricError, match="wanted two finite"):
        block_estimate(np.array([1.0, np.nan]))


def test_jackknife_of_a_mean_is_its_standard_error():
    values = np.array([1.0, 4.0, 2.0, 7.0])
    without = [np.delete(values, i).mean() for i in range(4)]
    assert jackknife_stderr(without) == pytest.approx(values.std(ddof=1) / 2)
    with pytest.raises(MetricError, match="at least two"):
        jackknife_stderr([1.0])


def test_over_replicas_by_hand():
    combined = over_replicas([Estimate(value=v, stderr=9.0, n=10) for v in (1.0, 2.0, 6.0)])
    assert (combined.value, combined.n) == (3.0, 3)
    assert combined.stderr == pytest.approx(np.sqrt(7.0) / np.sqrt(3))


def test_a_single_replica_keeps_its_own_error():
    combined = over_replicas([Estimate(value=1.0, stderr=0.1, n=10)])
    assert (combined.stderr, combined.note) == (0.1, "one replica: standard error within it")
    assert over_replicas([Estimate(value=1.0, stderr=None, n=1)]).stderr is None
    with pytest.raises(MetricError, match="no replica"):
        over_replicas([])


def test_result_tells_missing_replicas():
    known = Estimate(value=1.0, stderr=None, n=1)
    result = result_over_replicas("h_r_mae", "1", [known, None, known], floor=0.2)
    assert (result.status, result.value, result.floor, result.n_replicas) == ("ok", 1.0, 0.2, 2)
    assert "1 of 3 replicas have no value" in result.note
    empty = result_over_replicas("h_r_mae", "1", [None, None])
    assert (empty.status, empty.value, empty.stderr) == ("too_short", None, None)
    assert empty.note


def test_notes_are_joined_once():
    assert join_notes("a", "", "b", "a") == "a; b"


def test_speed_over_replicas():
    per_second, per_day, per_atom_step = speed_results([500.0, 700.0, None], 0.5, 9, platform="Reference")
    assert (per_second.name, per_second.unit, per_second.value, per_second.stderr) == (
        "steps_per_second",
        "1/s",
        600.0,
        100.0,
    )
    assert "Reference" in per_second.note
    # 600 steps of 0.5 fs a second are 300 fs/s, 25.92 ns a day.
    assert (per_day.name, per_day.unit) == ("ns_per_day", "ns/day")
    assert per_day.value == pytest.approx(25.92)
    assert (per_atom_step.name, per_atom_step.unit) == ("s_per_million_atom_steps", "s")
    assert per_atom_step.value == pytest.approx((1e6 / 4500 + 1e6 / 6300) / 2)
    assert compute_speed(1000.0, 2.0, 1000).s_per_million_atom_steps == pytest.approx(1.0)
    missing = speed_results([None, 0.0], 0.5, 9)
    assert {one.status for one in missing} == {"too_short"}
    assert {one.value for one in missing} == {None}
    assert "no standard error" in speed_results([500.0], 0.5, 9)[1].note
    with pytest.raises(MetricError, match="above zero"):
        compute_speed(100.0, 0.0, 9)


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
@pytest.mark.parametrize("status", ["ok", "censored"])
def test_what_is_no_number_is_never_ok(value, status):
    result = Result(name="x", status=status, unit="1", value=value, note="why")
    assert (result.status, result.value) == ("failed", None)
    assert result.note == f"the value is {value}, no finite number; why"
    assert Result(name="x", status="too_short", unit="1").status == "too_short"


def test_standard_error_of_a_standard_deviation_covers_its_spread():
    rng = np.random.default_rng(0)
    series = [rng.normal(scale=3.0, size=2000) for _ in range(200)]
    stated = np.mean([stderr_of_sd(one) for one in series])
    assert stated == pytest.approx(np.std([one.std(ddof=1) for one in series], ddof=1), rel=0.2)
    assert stderr_of_sd(np.ones(50)) is None
