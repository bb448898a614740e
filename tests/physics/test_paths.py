"""Long paths in a temporary file give what short ones in memory give, and what the whole arrays give."""

import numpy as np
import pytest

from openmm_mlbench.errors import MetricError
from openmm_mlbench.metrics.diffusivity import (
    compute_msd,
    diffusivity_mdsim,
    naive_msd,
    origin_series,
    origin_slopes,
    unwrapped_chunks,
)
from openmm_mlbench.metrics.paths import Paths
from openmm_mlbench.trajectory import Trajectory

BOX = np.array([[1.238, 0.0, 0.0], [-0.358, 1.173, 0.0], [-0.282, -0.375, 1.153]])
N_FRAMES, N_ATOMS = 500, 7


def chunks(sizes=(130, 200, 170)):
    rng = np.random.default_rng(0)
    paths = np.cumsum(rng.normal(scale=0.05, size=(N_FRAMES, N_ATOMS, 3)), axis=0)
    wrapped = ((paths @ np.linalg.inv(BOX)) % 1.0) @ BOX
    at = 0
    for size in sizes:
        yield Trajectory(
            positions_nm=wrapped[at : at + size],
            box_vectors_nm=np.tile(BOX, (size, 1, 1)),
            atomic_numbers=np.full(N_ATOMS, 8),
            frame_interval_ps=0.1,
            first_frame_ps=0.1 * at,
            source="test",
        )
        at += size


@pytest.mark.parametrize("remove_drift", [True, False])
@pytest.mark.parametrize("max_held_bytes", [2**30, 60_000, 1])
def test_in_memory_and_in_a_file(remove_drift, max_held_bytes):
    whole = np.concatenate(list(unwrapped_chunks(chunks(), remove_drift=remove_drift)))
    expected = compute_msd(chunks(), N_FRAMES, max_lag_ps=10.0, remove_drift=remove_drift)
    with Paths(chunks(), N_FRAMES, remove_drift=remove_drift, max_held_bytes=max_held_bytes) as paths:
        np.testing.assert_array_equal(np.concatenate(list(paths.parts()), axis=1), whole)
        msd = paths.msd(10.0)
        np.testing.assert_allclose(msd.per_atom_nm2, expected.per_atom_nm2, atol=1e-12)
        np.testing.assert_allclose(msd.lags_ps, expected.lags_ps)
        assert msd.msd_nm2[40] == pytest.approx(naive_msd(whole, 40))
        np.testing.assert_allclose(paths.origin_series(30), origin_series(whole, 30))
        lags = np.arange(10, 60)
        np.testing.assert_allclose(paths.origin_slopes(lags), origin_slopes(whole, lags, 0.1))
        found, wanted = paths.mdsim(5.0, 0.5), diffusivity_mdsim(whole, 0.1, 5.0, 0.5)
    assert found.estimate.value == pytest.approx(wanted.estimate.value)
    assert found.estimate.value == pytest.approx(naive_msd(whole, 50, 5, one_less=True) * 1e3 / 30)
    assert found.estimate.stderr == pytest.approx(wanted.estimate.stderr)
    assert found.estimate.note == wanted.estimate.note


def test_clear_lines():
    with pytest.raises(MetricError, match="330 of 500 frames"):
        Paths(chunks((130, 200)), N_FRAMES, remove_drift=True)
    single = [
        Trajectory(
            positions_nm=np.zeros((5, 1, 3)),
            box_vectors_nm=None,
            atomic_numbers=np.array([8]),
            frame_interval_ps=0.1,
        )
    ]
    with pytest.raises(MetricError, match="one tracked atom"):
        Paths(single, 5, remove_drift=True)
    with (
        Paths(chunks(), N_FRAMES, remove_drift=True) as paths,
        pytest.raises(MetricError, match=r"0 time origin\(s\) at a lag of 600"),
    ):
        paths.mdsim(60.0, 1.0)
    with (
        Paths(chunks(), N_FRAMES, remove_drift=True) as paths,
        pytest.raises(MetricError, match="stride 0 ps"),
    ):
        paths.mdsim(6.0, 0.0)
