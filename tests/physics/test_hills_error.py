"""Standard errors from one HILLS file against the spread of independent runs on a known surface."""

import math
from itertools import combinations

import numba
import numpy as np
import pytest

from openmm_mlbench.measuring.free_energy import measure_free_energy, surface_of_hills
from openmm_mlbench.metrics.free_energy import FreeEnergySurface, Hills, grid_points, profile_mae
from openmm_mlbench.metrics.hills_error import HillsBlocks, hills_blocks

KT, GAMMA, HEIGHT, SIGMA, N_BINS = 2.494, 6.0, 1.2, 0.35, 60


@numba.njit
def slope(x, y):
    return (
        6.0 * math.sin(x - 0.3) + 3.0 * math.sin(x + y) + 4.0 * math.sin(2.0 * x),
        8.0 * math.sin(2.0 * y + 0.5) + 3.0 * math.sin(x + y),
    )


@numba.njit
def moved(n_hills, diffusion, rng):
    """Overdamped motion on the surface of :func:`known_surface` with well-tempered hills: angles and heights."""
    m, dt = 72, 0.02
    spacing = 2 * math.pi / m
    bias, along_x, along_y = np.zeros((m, m)), np.zeros((m, m)), np.zeros((m, m))
    x, y = 0.0, 0.0
    hills = np.zeros((n_hills, 3))
    for hill in range(n_hills):
        for _ in range(50):
            i, j = int((x + math.pi) / spacing) % m, int((y + math.pi) / spacing) % m
            fx, fy = slope(x, y)
            kick = math.sqrt(2 * diffusion * dt)
            x += diffusion * dt / KT * (fx - along_x[i, j]) + kick * rng.normal()
            y += diffusion * dt / KT * (fy - along_y[i, j]) + kick * rng.normal()
            x -= 2 * math.pi * math.floor((x + math.pi) / (2 * math.pi))
            y -= 2 * math.pi * math.floor((y + math.pi) / (2 * math.pi))
        i, j = int((x + math.pi) / spacing) % m, int((y + math.pi) / spacing) % m
        height = HEIGHT * math.exp(-bias[i, j] / (KT * (GAMMA - 1)))
        hills[hill] = (x, y, height)
        for a in range(m):
            dx = -math.pi + (a + 0.5) * spacing - x
            dx -= 2 * math.pi * np.rint(dx / (2 * math.pi))
            for b in range(m):
                dy = -math.pi + (b + 0.5) * spacing - y
                dy -= 2 * math.pi * np.rint(dy / (2 * math.pi))
                exponent = (dx * dx + dy * dy) / (2 * SIGMA * SIGMA)
                if exponent < 6.25:
                    kernel = height * math.exp(-exponent)
                    bias[a, b] += kernel
                    along_x[a, b] -= kernel * dx / SIGMA**2
                    along_y[a, b] -= kernel * dy / SIGMA**2
    return hills


def metadynamics(n_hills, diffusion, seed):
    return moved(n_hills, diffusion, np.random.default_rng(seed))


def known_surface():
    phi, psi = np.meshgrid(grid_points(N_BINS), grid_points(N_BINS), indexing="ij")
    F = 6 * np.cos(phi - 0.3) + 4 * np.cos(2 * psi + 0.5) + 3 * np.cos(phi + psi) + 2 * np.cos(2 * phi)
    return FreeEnergySurface(F=F, source="known")


def hills_file(rows):
    n = len(rows)
    return Hills(
        times_ps=np.arange(1, n + 1.0),
        centres=rows[:, :2],
        sigmas=np.full((n, 2), SIGMA),
        heights=rows[:, 2] * GAMMA / (GAMMA - 1),
        bias_factor=GAMMA,
        stretched=False,
        names=("phi", "psi"),
        source="HILLS",
    )


@pytest.fixture(scope="module")
def runs():
    return [
        surface_of_hills(hills_file(metadynamics(1500, 0.25, seed)), n_bins=N_BINS, kT=KT)
        for seed in range(16)
    ]


def test_standard_error_of_one_run_is_the_spread_of_many(runs):
    known = known_surface()
    for axis in (0, 1):
        expected = known.profile(axis, KT)
        low = expected < 20
        profiles = np.stack([run.surface.profile(axis, KT) for run in runs])
        centred = profiles - profiles.mean(axis=1, keepdims=True)
        spread = np.sqrt(centred.var(axis=0, ddof=1)[low].mean())
        stderrs = np.stack([run.profile_stderr(axis, KT) for run in runs])
        assert np.sqrt((stderrs**2).mean(axis=0)[low].mean()) == pytest.approx(spread, rel=0.3)
        # The MAE is a sum of absolute values, never far below its mean: its error is stated rather too large.
        maes = [profile_mae(profile, expected, align="mean") for profile in profiles]
        results = [
            measure_free_energy(
                [run],
                kT=KT,
                mode="paper",
                inputs={},
                reference=surface_known(known),
            ).measurement.results
            for run in runs[:8]
        ]
        name = f"F_{('phi', 'psi')[axis]}_mae_mean_aligned"
        stated = [one.stderr for measured in results for one in measured if one.name == name]
        ratio = np.sqrt(np.mean(np.square(stated))) / np.std(maes, ddof=1)
        assert 0.7 < ratio < 2.2


def test_floor_of_either_alignment_is_the_distance_of_right_runs(runs):
    for align, ending in (("minimum", "mae"), ("mean", "mae_mean_aligned")):
        for axis, name in enumerate(("phi", "psi")):
            profiles = [run.profile(axis, KT) for run in (one.surface for one in runs)]
            apart = [profile_mae(a, b, align=align) for a, b in combinations(profiles, 2)]
            floors = [
                one.floor
                for run in runs[:8]
                for one in measure_free_energy(
                    [runs[8]], kT=KT, mode="paper", inputs={}, reference=run
                ).measurement.results
                if one.name == f"F_{name}_{ending}"
            ]
            assert np.mean(floors) == pytest.approx(np.mean(apart), rel=0.15)


def surface_known(known):
    from openmm_mlbench.measuring.free_energy import SampledSurface

    return SampledSurface(surface=known, note="known")


def test_floor_of_one_run_is_the_distance_of_two(runs):
    distances = [
        profile_mae(a.surface.profile(0, KT), b.surface.profile(0, KT), align="mean")
        for k, a in enumerate(runs)
        for b in runs[k + 1 :]
    ]
    floors = []
    for one in runs[:8]:
        measured = measure_free_energy([runs[-1]], kT=KT, mode="paper", inputs={}, reference=one).measurement
        (result,) = [r for r in measured.results if r.name == "F_phi_mae_mean_aligned"]
        assert "standard errors of the reference" in result.note
        floors.append(result.floor)
    assert np.mean(floors) == pytest.approx(np.mean(distances), rel=0.3)


def test_weights_undo_the_bias(runs):
    """Reweighted centres of hills alone give the known profile."""
    known = known_surface().profile(0, KT)
    low = known < 15
    errors = []
    for run in runs:
        assert isinstance(run.blocks, HillsBlocks)
        F = -KT * np.log(run.blocks.visits.sum(axis=(0, 2)) + 1e-300)
        difference = (F - known)[low]
        errors.append(difference - difference.mean())
    assert np.abs(np.mean(errors, axis=0)).max() < 0.6


def test_too_few_hills_say_so():
    few = hills_file(metadynamics(60, 0.2, 0))
    assert "60 hills are too few" in hills_blocks(few, KT, N_BINS)
    run = surface_of_hills(few, n_bins=N_BINS, kT=KT)
    known = surface_known(known_surface())
    results = measure_free_energy([run], kT=KT, mode="paper", inputs={}, reference=known).measurement.results
    for result in results:
        assert result.stderr is None
        assert "60 hills are too few" in result.note
        assert "no floor" in result.note
