"""Survival times and their Kaplan-Meier mean against hand-computed and brute-force numbers."""

import numpy as np
import pytest

from openmm_mlbench.errors import MetricError
from openmm_mlbench.metrics.stability import (
    Survival,
    first_broken_frame,
    kaplan_meier,
    restricted_mean,
    stability_results,
    survival,
)


def test_first_broken_frame_is_the_first_above_the_threshold():
    assert first_broken_frame(np.array([0.1, 0.5, 0.51, 0.2, 0.9]), 0.5) == 2
    assert first_broken_frame(np.array([0.1, 0.5]), 0.5) is None
    assert first_broken_frame(np.array([]), 0.5) is None


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_blown_up_frame_is_broken(bad):
    assert first_broken_frame(np.array([0.1, bad, 0.1]), 0.5) == 1


def test_survival_of_a_broken_replica():
    times_ps = 0.05 * np.arange(1, 5)
    result = survival(np.array([0.1, 0.2, 0.7, 0.1]), times_ps, 0.5, end_ps=0.2)
    assert result.broke
    assert result.time_ps == pytest.approx(0.15)
    assert result.n_stable_frames == 2


def test_survival_of_a_stable_replica_is_censored_at_its_end():
    result = survival(np.array([0.1, 0.2]), np.array([0.05, 0.1]), 0.5, end_ps=0.12)
    assert result == Survival(time_ps=0.12, broke=False, n_stable_frames=2)
    assert survival(np.array([0.1, 0.2]), np.array([0.05, 0.1]), 0.5).time_ps == 0.1


def test_blow_up_between_frames_is_a_break():
    result = survival(np.array([0.1, 0.2]), np.array([0.05, 0.1]), 0.5, end_ps=0.2, stopped_at_ps=0.13)
    assert result == Survival(time_ps=0.13, broke=True, n_stable_frames=2)


def test_blow_up_before_the_first_frame():
    result = survival(np.array([]), np.array([]), 0.5, stopped_at_ps=0.01)
    assert result == Survival(time_ps=0.01, broke=True, n_stable_frames=0)


def test_survival_wants_a_time_for_each_frame():
    with pytest.raises(MetricError, match="3 deviations for 2 times"):
        survival(np.zeros(3), np.zeros(2), 0.5)
    with pytest.raises(MetricError, match="no frame and no end"):
        survival(np.array([]), np.array([]), 0.5)


def test_kaplan_meier_by_hand():
    # At risk 6, 5, 3: S = 5/6, 5/6 * 4/5, 5/6 * 4/5 * 2/3; times 4 and 9 are censored.
    curve = kaplan_meier([1, 3, 4, 6, 9, 9], [True, True, False, True, False, False])
    np.testing.assert_array_equal(curve.times_ps, [1, 3, 6])
    np.testing.assert_array_equal(curve.at_risk, [6, 5, 3])
    np.testing.assert_allclose(curve.after, [5 / 6, 4 / 6, 4 / 9])


def test_restricted_mean_by_hand():
    mean = restricted_mean([1, 3, 4, 6, 9, 9], [True, True, False, True, False, False], 9.0)
    areas = [1.0, 2 * 5 / 6, 3 * 4 / 6, 3 * 4 / 9]
    assert mean.value_ps == pytest.approx(sum(areas))
    terms = [
        sum(areas[1:]) ** 2 * 1 / (6 * 5),
        sum(areas[2:]) ** 2 * 1 / (5 * 4),
        areas[3] ** 2 * 1 / (3 * 2),
    ]
    assert mean.stderr_ps == pytest.approx(np.sqrt(6 / 5 * sum(terms)))
    assert (mean.n_broke, mean.horizon_ps) == (3, 9.0)


@pytest.mark.parametrize("seed", range(5))
def test_without_early_censoring_it_is_the_plain_mean_and_its_standard_error(seed):
    horizon = 300.0
    times = np.random.default_rng(seed).exponential(250.0, size=7)
    cut = np.minimum(times, horizon)
    mean = restricted_mean(cut, times < horizon, horizon)
    assert mean.value_ps == pytest.approx(cut.mean())
    assert mean.stderr_ps == pytest.approx(cut.std(ddof=1) / np.sqrt(7))


def test_standard_error_covers_the_truth():
    # Exponential breaking and uniform interruption: the truth is known in closed form.
    rng = np.random.default_rng(1)
    scale, horizon, n = 40.0, 50.0, 40
    truth = scale * (1 - np.exp(-horizon / scale))
    errors, stderrs = [], []
    for _ in range(200):
        breaking, ending = rng.exponential(scale, n), rng.uniform(20.0, 120.0, n)
        seen = np.minimum(breaking, ending)
        mean = restricted_mean(seen, breaking < ending, horizon)
        errors.append(mean.value_ps - truth)
        stderrs.append(mean.stderr_ps)
    # The spread of 200 repeats is known to 5 %.
    assert np.std(errors) == pytest.approx(np.mean(stderrs), rel=0.15)
    assert abs(np.mean(errors)) < 3 * np.std(errors) / np.sqrt(200)


def test_all_censored_has_no_standard_error():
    mean = restricted_mean([5.0, 5.0], [False, False], 5.0)
    assert (mean.value_ps, mean.stderr_ps, mean.n_broke) == (5.0, None, 0)


def test_horizon_ends_where_nothing_was_seen():
    assert restricted_mean([2.0, 3.0], [True, False], 10.0).horizon_ps == 3.0
    # All broke: the curve is zero afterwards and the horizon may stay.
    assert restricted_mean([2.0, 3.0], [True, True], 10.0).horizon_ps == 10.0
    assert restricted_mean([2.0, 3.0], [True, True], 10.0).value_ps == pytest.approx(2.5)


def test_equal_times_and_single_replicas_have_no_standard_error():
    assert restricted_mean([0.05, 0.05, 0.05], [True] * 3, 5.0).stderr_ps is None
    assert restricted_mean([2.0], [True], 5.0).stderr_ps is None


@pytest.mark.parametrize(
    ("times", "broke"), [([], []), ([1.0], [True, False]), ([np.nan], [True]), ([-1.0], [True])]
)
def test_bad_times(times, broke):
    with pytest.raises(MetricError):
        restricted_mean(times, broke)


def test_results_when_all_outlive_the_run():
    stability, n_finished = stability_results(
        [Survival(time_ps=5.0, broke=False, n_stable_frames=100)] * 2, 5.0
    )
    assert (stability.status, stability.value, stability.stderr) == ("censored", 5.0, None)
    assert "lower bound" in stability.note
    assert (n_finished.value, n_finished.n_replicas) == (2.0, 2)


def test_results_when_some_break():
    replicas = [
        Survival(time_ps=300.0, broke=False, n_stable_frames=6000),
        Survival(time_ps=100.0, broke=True, n_stable_frames=2000),
        Survival(time_ps=200.0, broke=False, n_stable_frames=4000),
    ]
    stability, n_finished = stability_results(replicas, 300.0)
    assert stability.status == "unstable"
    # S falls to 2/3 at 100 ps and stays there.
    assert stability.value == pytest.approx(100 + 200 * 2 / 3)
    assert "1 of 3 replicas broke, 2 censored" in stability.note
    assert "1 of them interrupted before 300 ps" in stability.note
    assert n_finished.value == 1.0


def test_results_of_one_broken_replica():
    stability, n_finished = stability_results([Survival(time_ps=1.0, broke=True, n_stable_frames=20)], 5.0)
    assert (stability.status, stability.value, stability.stderr) == ("unstable", 1.0, None)
    assert "one replica has no standard error" in stability.note
    assert n_finished.value == 0.0


def test_the_frame_that_the_simulation_gave_up_at_is_not_stable():
    """Whatever gave it away: no bond need be long where atoms fly at 20,000 K."""
    times = 0.1 * np.arange(1, 14)
    calm = survival(np.zeros(13), times, 0.5, stopped_at_ps=1.1)
    assert (calm.time_ps, calm.broke, calm.n_stable_frames) == (1.1, True, 10)
    # A deviation that the file's rounding brings below the threshold again.
    rounded = np.where(times > 0.55, 0.49999997, 0.1)
    assert survival(rounded, times, 0.5, stopped_at_ps=times[5]).n_stable_frames == 5
