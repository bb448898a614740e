"""h(r): known densities, a naive loop, and the paper's bins."""

import numpy as np
import pytest

from openmm_mlbench.errors import MetricError
from openmm_mlbench.metrics import distances
from openmm_mlbench.metrics.distances import (
    compute_h_r,
    density_from_counts,
    h_r_counts,
    h_r_mae,
    histogram_bin_width,
)


def test_triangle_by_hand():
    """Sides 3, 4, 5 A: three bins hold a third each, 1/3 / 0.02 A."""
    triangle = np.array([[[0, 0, 0], [3.005, 0, 0], [0, 4.005, 0]]], dtype=float)
    r, density = compute_h_r(np.repeat(triangle, 7, axis=0))
    full = np.flatnonzero(density)
    np.testing.assert_allclose(r[full], [3.01, 4.01, 5.01], atol=0.0101)
    np.testing.assert_allclose(density[full], 1 / 3 / 0.02, rtol=1e-6)
    assert density.sum() * histogram_bin_width() == pytest.approx(1.0)
    assert len(r) == 500
    assert r[0] == pytest.approx(0.01, abs=1e-5)
    assert r[-1] == pytest.approx(9.99, abs=1e-5)


def test_against_naive_loop_and_the_definition():
    """Eq. 1 counts ordered pairs i != j; so does the paper's code, which also drops i = j by its first edge."""
    rng = np.random.default_rng(1)
    positions = rng.normal(0, 1.5, (6, 5, 3))
    edges = np.linspace(1e-6, 10.0, 501)
    everything = [
        np.sqrt(((frame[i] - frame[j]) ** 2).sum()) for frame in positions for i in range(5) for j in range(5)
    ]
    naive, _ = np.histogram(everything, edges, density=True)
    np.testing.assert_allclose(compute_h_r(positions)[1], naive, rtol=1e-12)


def test_chunks_do_not_matter(monkeypatch):
    positions = np.random.default_rng(2).normal(0, 1, (50, 6, 3))
    whole = h_r_counts(positions)
    monkeypatch.setattr(distances, "_CHUNK", 40)
    np.testing.assert_array_equal(h_r_counts(positions), whole)
    assert whole.sum() == 50 * 15


def test_maxwell_distribution():
    """Two atoms with normal coordinates of width s: |d| is Maxwell with width s sqrt(2)."""
    positions = np.random.default_rng(3).normal(0, 0.6, (200_000, 2, 3))
    r, density = compute_h_r(positions, n_bins=100, r_max=8.0)
    a = 0.6 * np.sqrt(2)
    exact = np.sqrt(2 / np.pi) * r**2 * np.exp(-(r**2) / (2 * a**2)) / a**3
    assert h_r_mae(density, exact, 0.08) < 0.015
    assert np.abs(density - exact).max() < 0.02


def test_invariant_under_motion_and_exchange():
    rng = np.random.default_rng(4)
    positions = rng.normal(0, 1.5, (20, 5, 3))
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    moved = positions[:, rng.permutation(5)] @ rotation + rng.normal(size=(20, 1, 3))
    # A pair within rounding of an edge may change its bin.
    assert np.abs(h_r_counts(positions) - h_r_counts(moved)).sum() <= 2


def test_pairs_out_of_range_do_not_count():
    positions = np.array([[[0, 0, 0], [1.0, 0, 0], [20.0, 0, 0]]])
    counts = h_r_counts(positions)
    assert counts.sum() == 1
    assert density_from_counts(counts, 0.02).sum() * 0.02 == pytest.approx(1.0)


def test_mae_from_zero_to_two():
    one, other = np.zeros(500), np.zeros(500)
    one[10], other[11] = 50.0, 50.0
    assert h_r_mae(one, one, 0.02) == 0.0
    assert h_r_mae(one, other, 0.02) == pytest.approx(2.0)
    assert h_r_mae((one + other) / 2, other, 0.02) == pytest.approx(1.0)


def test_mae_is_the_mean_over_bins_times_the_range():
    """The form in which the paper's code has it."""
    rng = np.random.default_rng(5)
    one, other = rng.random(500), rng.random(500)
    assert h_r_mae(one, other, 10 / 500) == pytest.approx(np.abs(one - other).mean() * 10)


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        (np.zeros((3, 3)), r"shape \(3, 3\)"),
        (np.zeros((2, 1, 3)), "2 or more atoms"),
        (np.full((1, 2, 3), np.nan), "NaN"),
        (np.zeros((0, 2, 3)), "at least one frame"),
    ],
)
def test_bad_positions(positions, message):
    with pytest.raises(MetricError, match=message):
        compute_h_r(positions)


def test_bad_bins():
    positions = np.zeros((1, 2, 3))
    for arguments in ({"n_bins": 0}, {"r_min": 2.0, "r_max": 1.0}, {"r_min": -1.0}):
        with pytest.raises(MetricError, match="bins from"):
            h_r_counts(positions, **arguments)
    with pytest.raises(MetricError, match="same bins"):
        h_r_mae(np.zeros(3), np.zeros(4), 0.1)
    with pytest.raises(MetricError, match="bin width 0"):
        h_r_mae(np.zeros(3), np.zeros(3), 0.0)
