"""Energy drift of a diatomic in NVE, canonical fluctuations, and RDF windows that break at a known time."""

import numpy as np
import pytest

from openmm_mlbench.errors import MetricError
from openmm_mlbench.metrics.canonical import canonical_sd, temperature_fluctuation
from openmm_mlbench.metrics.drift import compute_drift, plot_drift
from openmm_mlbench.metrics.rdf import AtomPairs, compute_rdf
from openmm_mlbench.metrics.rdf_stability import window_deviations
from openmm_mlbench.trajectory import Trajectory


def diatomic(n_steps=20_000, step=0.05):
    """Velocity Verlet of a harmonic bond with period 2 pi: no drift, but E oscillates by step^2 / 8 or so."""
    x, v, energies = 1.0, 0.0, []
    for _ in range(n_steps):
        v -= 0.5 * step * x
        x += step * v
        v -= 0.5 * step * x
        energies.append(0.5 * v * v + 0.5 * x * x)
    return step * np.arange(1, n_steps + 1), np.array(energies)


@pytest.mark.parametrize("length", [19_000, 19_013, 19_031])
def test_diatomic_in_nve_oscillates_and_does_not_drift(length):
    t, E = (series[:length] for series in diatomic())
    found = compute_drift(t, E, n_atoms=2)
    # Half of the amplitude step^2 / 8, over root 2, per atom.
    assert found.oscillation == pytest.approx(0.05**2 / 8 / 2 / 2 / np.sqrt(2), rel=0.02)
    assert abs(found.slope) * t[-1] < 1e-6 * found.oscillation
    line = np.polyfit(t, E / 2, 1)[0]
    assert abs(found.slope) < abs(line)


def test_drift_under_an_oscillation_is_found():
    t, E = diatomic()
    found = compute_drift(t, E + 3e-7 * t - 4000, n_atoms=2)
    assert found.slope == pytest.approx(1.5e-7, rel=1e-3)
    assert plot_drift(found).get_xlabel() == "t / ps"


def test_standard_error_covers_noise():
    rng = np.random.default_rng(0)
    t = np.arange(400.0)
    found = [compute_drift(t, rng.normal(size=400) + 0.01 * t, n_atoms=1) for _ in range(60)]
    pulls = [(one.slope - 0.01) / one.stderr for one in found]
    assert 0.6 < np.std(pulls) < 1.4


def test_clear_lines():
    t = np.arange(20.0)
    with pytest.raises(MetricError, match="a drift wants 10 or more"):
        compute_drift(t[:5], t[:5], 1)
    with pytest.raises(MetricError, match="NaN or Infinity"):
        compute_drift(t, np.full(20, np.nan), 1)
    with pytest.raises(MetricError, match="do not increase at row 3"):
        compute_drift(np.where(t == 3, 0, t), t, 1)


@pytest.mark.parametrize("quenched", [1.0, 0.3])
def test_canonical_fluctuation(quenched):
    rng = np.random.default_rng(1)
    n_dof = 60
    series = 300 * rng.chisquare(n_dof, size=4000) / n_dof
    found = temperature_fluctuation(300 + quenched * (series - 300), n_dof)
    assert canonical_sd(300, n_dof) == pytest.approx(300 * np.sqrt(2 / 60))
    assert found.ratio.value == pytest.approx(quenched, rel=0.05)
    assert found.ratio.stderr is not None
    assert abs(found.ratio.value - quenched) < 5 * found.ratio.stderr


def test_rdf_windows_break_where_the_liquid_freezes():
    rng = np.random.default_rng(2)
    box = 1.2 * np.eye(3)
    positions = rng.uniform(size=(100, 64, 3)) * 1.2
    lattice = np.stack(np.meshgrid(*[np.arange(4)] * 3), axis=-1).reshape(-1, 3) * 0.3
    positions[63:] = lattice

    def trajectory(frames):
        return Trajectory(
            positions_nm=frames,
            box_vectors_nm=np.tile(box, (len(frames), 1, 1)),
            atomic_numbers=np.full(64, 8),
            frame_interval_ps=0.1,
        )

    pair = AtomPairs(label="O-O", a=np.arange(64), b=np.arange(64))
    (reference,) = compute_rdf(trajectory(rng.uniform(size=(50, 64, 3)) * 1.2), [pair], n_bins=30)
    chunks = (trajectory(positions[a : a + 7]) for a in range(0, 98, 7))
    # Chunks know their own times in a file.
    chunks = (Trajectory(**{**chunk.__dict__, "first_frame_ps": 0.7 * k}) for k, chunk in enumerate(chunks))
    found = window_deviations(chunks, [pair], [reference.g_r], r_max_A=6.0, mode="paper", window_ps=1.0)
    # A window from every frame on that nine more follow: 98 frames of the chunks.
    np.testing.assert_allclose(found.times_ps, 0.1 * np.arange(89), atol=1e-9)
    mean = lambda a: compute_rdf(trajectory(positions[a : a + 10]), [pair], n_bins=30)[0].g_r  # noqa: E731
    naive = [np.sum(np.abs(mean(a) - reference.g_r)) * 0.2 for a in range(89)]
    np.testing.assert_allclose(found.deviations_A["O-O"], naive, rtol=1e-9)
    survival = found.survival(3.0)
    assert survival.broke
    # The lattice begins at 6.3 ps; no window that ends before it is off, and one of half lattice is.
    assert survival.time_ps == pytest.approx(0.1 * int(np.argmax(np.array(naive) > 3.0)))
    assert 5.4 < survival.time_ps < 6.3
    assert survival.n_stable_frames == round(survival.time_ps / 0.1)
    assert found.deviations_A["O-O"][:53].max() < 1.5
    assert not found.survival(100.0).broke
    assert found.survival(100.0).time_ps == pytest.approx(9.7)
    assert found.survival(100.0).n_stable_frames == 98
