"""Diffusivity of Brownian motion with known D, wrapped atom by atom."""

import numpy as np
import pytest

from openmm_mlbench.errors import MetricError
from openmm_mlbench.metrics.diffusivity import (
    compute_msd,
    diffusivity_at_lag,
    diffusivity_from_slope,
    diffusivity_mdsim,
    msd_of_paths,
    naive_msd,
    origin_series,
    origin_slopes,
    plot_diffusivity,
    unwrap,
    yeh_hummer_correction,
)
from openmm_mlbench.trajectory import Trajectory

CUBIC = 1.2 * np.eye(3)
TRICLINIC = np.array([[1.238, 0.0, 0.0], [-0.358, 1.173, 0.0], [-0.282, -0.375, 1.153]])
N_FRAMES, N_ATOMS, INTERVAL = 2000, 50, 0.1
D = 2.3


def brownian(drift_nm_ps=(0.0, 0.0, 0.0)):
    rng = np.random.default_rng(3)
    steps = rng.normal(scale=np.sqrt(2 * D * 1e-3 * INTERVAL), size=(N_FRAMES, N_ATOMS, 3)) + np.multiply(
        drift_nm_ps, INTERVAL
    )
    steps[0] = rng.uniform(size=(N_ATOMS, 3))
    return np.cumsum(steps, axis=0)


def wrapped(paths, box):
    return Trajectory(
        positions_nm=((paths @ np.linalg.inv(box)) % 1.0) @ box,
        box_vectors_nm=np.tile(box, (len(paths), 1, 1)),
        atomic_numbers=np.full(N_ATOMS, 3),
        frame_interval_ps=INTERVAL,
    )


@pytest.mark.parametrize("box", [CUBIC, TRICLINIC])
def test_unwrapping_restores_the_paths(box):
    paths = brownian((0.05, 0.0, -0.03))
    restored = unwrap(wrapped(paths, box).positions_nm, np.tile(box, (N_FRAMES, 1, 1)))
    np.testing.assert_allclose(restored - restored[0], paths - paths[0], atol=1e-11)


@pytest.mark.parametrize("box", [CUBIC, TRICLINIC])
@pytest.mark.parametrize("drift", [(0.0, 0.0, 0.0), (0.05, 0.0, -0.03)])
def test_known_diffusivity(box, drift):
    paths = brownian(drift)
    msd = compute_msd(wrapped(paths, box), remove_drift=True)
    free = paths - paths.mean(axis=1, keepdims=True)
    found = [
        diffusivity_at_lag(msd, 5.0, origin_series(free, 50)),
        diffusivity_from_slope(msd, 1.0, 8.0, origin_slopes(free, np.arange(10, 81), INTERVAL)),
        diffusivity_mdsim(free, INTERVAL, 5.0, 0.5),
    ]
    for one in found:
        assert one.estimate.stderr is not None
        assert 0.01 < one.estimate.stderr < 0.15
        # Subtracting the mean of N walkers takes 1/N of their motion away.
        assert abs(one.estimate.value - D * (1 - 1 / N_ATOMS)) < 4 * one.estimate.stderr
    kept = diffusivity_at_lag(compute_msd(wrapped(paths, box), remove_drift=False), 5.0).estimate.value
    ballistic = np.sum(np.square(drift)) * 5.0 / 6 * 1e3
    assert kept - ballistic == pytest.approx(D, rel=0.1)


def test_fourier_transform_against_the_naive_sum():
    paths = brownian()[:300]
    msd = msd_of_paths(paths)
    for lag in (1, 2, 17, 150, 299):
        np.testing.assert_allclose(msd[:, lag].mean(), naive_msd(paths, lag), rtol=1e-10)


def test_chunks_give_the_same_sums():
    one = wrapped(brownian((0.02, 0, 0)), TRICLINIC)

    def chunks():
        for start in range(0, N_FRAMES, 37):
            yield Trajectory(
                positions_nm=one.positions_nm[start : start + 37],
                box_vectors_nm=one.box_vectors_nm[start : start + 37],
                atomic_numbers=one.atomic_numbers,
                frame_interval_ps=INTERVAL,
            )

    whole = compute_msd(one)
    parts = compute_msd(chunks(), N_FRAMES, max_lag_ps=10.0)
    np.testing.assert_allclose(parts.msd_nm2, whole.msd_nm2[:101], rtol=1e-10)
    np.testing.assert_array_equal(parts.origins, N_FRAMES - np.arange(101))


@pytest.mark.parametrize(("n_origins", "factor"), [(2, 2.0), (5, 1.25)])
def test_mdsim_divides_by_one_origin_less(n_origins, factor):
    paths = brownian()[: 100 + (n_origins - 1) * 10 + 1]
    mdsim = diffusivity_mdsim(paths, INTERVAL, 10.0, 1.0).estimate.value
    assert mdsim == pytest.approx(factor * naive_msd(paths, 100, 10) / 60.0 * 1e3)


def test_mdsim_with_one_origin_says_why():
    with pytest.raises(MetricError, match=r"1 time origin\(s\) at a lag of 100 frames"):
        diffusivity_mdsim(brownian()[:101], INTERVAL, 10.0, 1.0)


def test_straight_paths_are_exact():
    times = np.arange(50) * INTERVAL
    paths = times[:, None, None] * np.array([[[0.3, 0.0, 0.0]], [[-0.3, 0.0, 0.0]]]).reshape(1, 2, 3)
    one = Trajectory(
        positions_nm=paths, box_vectors_nm=None, atomic_numbers=np.array([3, 3]), frame_interval_ps=INTERVAL
    )
    msd = compute_msd(one)
    np.testing.assert_allclose(msd.msd_nm2, 0.09 * msd.lags_ps**2, atol=1e-12)
    assert diffusivity_at_lag(msd, 2.0).estimate.value == pytest.approx(0.09 * 2.0 / 6 * 1e3)


def test_finite_size_correction_of_water():
    # k_B 300 K 2.837297 / (6 pi 0.85 mPa s 1.244 nm), by hand.
    boxes = np.tile(1.244 * np.eye(3), (2, 1, 1))
    assert yeh_hummer_correction(boxes, 300.0, 0.85) == pytest.approx(0.5896, rel=1e-3)
    with pytest.raises(MetricError, match="cubic cells only"):
        yeh_hummer_correction(TRICLINIC[None], 300.0, 0.85)


def test_clear_lines():
    one = wrapped(brownian()[:10], CUBIC)
    with pytest.raises(MetricError, match="wants at least two"):
        compute_msd(wrapped(brownian()[:1], CUBIC))
    with pytest.raises(MetricError, match=r"lag 5 ps; wanted 0\.1 to 0\.9 ps"):
        diffusivity_at_lag(compute_msd(one), 5.0)
    with pytest.raises(MetricError, match=r"fit from 0\.5 to 5 ps"):
        diffusivity_from_slope(compute_msd(one), 0.5, 5.0)


def test_plot():
    ax = plot_diffusivity(diffusivity_at_lag(compute_msd(wrapped(brownian()[:50], CUBIC)), 1.0))
    assert ax.get_ylabel() == "MSD / A^2"
