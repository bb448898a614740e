"""Temperatures of replicas."""

import numpy as np
import pytest

from openmm_mlbench.errors import MetricError
from openmm_mlbench.metrics.temperature import temperature_result


def test_mean_error_and_spread_over_replicas():
    rng = np.random.default_rng(2)
    series = [mean + 50 * rng.normal(size=400) for mean in (480.0, 500.0, 540.0)]
    result, replicas = temperature_result("T_vib", series)
    means = [s.mean() for s in series]
    assert (result.name, result.unit, result.status, result.n_replicas) == ("T_vib", "K", "ok", 3)
    assert result.value == pytest.approx(np.mean(means))
    assert result.stderr == pytest.approx(np.std(means, ddof=1) / np.sqrt(3))
    assert [r.value for r in replicas] == pytest.approx(means)
    # White noise: 50 / sqrt(400) within each replica.
    assert [r.stderr for r in replicas] == pytest.approx([2.5] * 3, rel=0.2)
    assert f"replicas {min(means):.1f} to {max(means):.1f} K, SD " in result.note


def test_one_replica_falls_back_to_its_blocks():
    result, _ = temperature_result("temperature", [500 + np.random.default_rng(0).normal(size=400)])
    assert result.stderr == pytest.approx(0.05, rel=0.3)
    assert "one replica" in result.note


def test_replicas_that_broke_at_once_have_no_temperature():
    result, replicas = temperature_result("T_rot", [np.array([]), np.array([])])
    assert (result.status, result.value, replicas) == ("too_short", None, [None, None])


@pytest.mark.parametrize("bad", [np.nan, -1.0])
def test_impossible_temperatures(bad):
    with pytest.raises(MetricError, match="T_rot of replica 1"):
        temperature_result("T_rot", [np.array([1.0, 2.0]), np.array([1.0, bad])])
