"""Figures of the metrics: what is drawn, and that drawing computes, saves and sets nothing."""

import warnings

import matplotlib as mpl
import numpy as np
import pytest

from openmm_mlbench.metrics.distances import compute_h_r, plot_h_r
from openmm_mlbench.metrics.force_errors import parity_curve, plot_parity
from openmm_mlbench.metrics.free_energy import FreeEnergySurface, grid_points, plot_profile, plot_surface
from openmm_mlbench.metrics.rdf import AtomPairs, compute_rdf, plot_rdf
from openmm_mlbench.metrics.stability import plot_stability
from openmm_mlbench.metrics.temperature import plot_temperature
from openmm_mlbench.trajectory import Trajectory


@pytest.fixture(autouse=True)
def nothing_global():
    with warnings.catch_warnings():
        # pyparsing's old names inside matplotlib.
        warnings.simplefilter("ignore", DeprecationWarning)
        import matplotlib.pyplot as plt

        before, figures = dict(mpl.rcParams), plt.get_fignums()
        yield
        assert dict(mpl.rcParams) == before
        assert plt.get_fignums() == figures


def texts(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_h_r_ends_where_distances_do():
    positions = np.random.default_rng(0).normal(size=(20, 5, 3))
    r, density = compute_h_r(positions)
    ax = plot_h_r((r, density), reference=(r, density), source="known")
    largest = r[density > 0].max()
    assert ax.get_xlim() == pytest.approx((0, 1.05 * largest))
    assert texts(ax) == ["h(r)", "known"]


def test_peak_of_bonds_does_not_flatten_the_rest():
    rng = np.random.default_rng(0)
    centres = rng.random((10, 30, 1, 3)) * 1.5
    positions = (centres + np.array([[0, 0, 0], [0.1, 0, 0]])).reshape(10, 60, 3)
    one = Trajectory(
        positions_nm=positions,
        box_vectors_nm=np.tile(1.5 * np.eye(3), (10, 1, 1)),
        atomic_numbers=np.tile([8, 1], 30),
        frame_interval_ps=1.0,
    )
    o, h = np.arange(0, 60, 2), np.arange(1, 60, 2)
    (bonded,) = compute_rdf(one, [AtomPairs(label="O-H", a=o, b=h)])
    (free,) = compute_rdf(one, [AtomPairs(label="O-O", a=o, b=o)], n_bins=30)
    ax = plot_rdf(bonded)
    assert ax.get_ylim() == (0, 5)
    assert f"up to {bonded.g_r.max():.3g}" in texts(ax)[0]
    assert texts(plot_rdf(free)) == ["O-O"]


def test_stability_marks_the_first_deviation_of_any():
    times = np.arange(5.0)
    series = {"O-O": np.array([1.0, 1, 1, 4, 1]), "H-H": np.array([1.0, 1, 5, 1, np.inf])}
    ax = plot_stability(times, series, 3.0, ylabel="RDF deviation / A")
    assert texts(ax) == ["O-O", "H-H", "threshold", "unstable at 2 ps"]
    assert "unstable" not in str(texts(plot_stability(times, {"a": np.ones(5)}, 3.0)))


def test_temperature_with_its_canonical_spread():
    series = np.random.default_rng(0).normal(300, 10, size=100)
    ax = plot_temperature(np.arange(100.0), series, canonical_sd_K=12.0)
    assert texts(ax)[0].startswith("mean 300") or texts(ax)[0].startswith("mean 30")
    assert "canonical SD 12 K" in texts(ax)[1]
    assert plot_temperature(np.arange(3.0), np.full(3, np.nan)).get_legend() is None


def test_free_energy_with_a_band():
    phi, psi = np.meshgrid(grid_points(24), grid_points(24), indexing="ij")
    F = 5 * np.cos(phi) + 3 * np.cos(psi)
    F[0, 0] = np.inf
    surface = FreeEnergySurface(F=F)
    ax = plot_profile(surface, 2.5, 0, stderr=np.full(24, 0.3), label="phi")
    (band,) = ax.collections
    assert band.get_paths()[0].get_extents().height > 9
    map_ = plot_surface(surface)
    assert map_.get_xlabel() == "phi / rad"
    # The pixel of the first grid point lies around -pi.
    assert map_.images[0].get_extent()[0] == pytest.approx(-np.pi - np.pi / 24)


def test_parity():
    true = np.linspace(-1, 1, 50)
    ax = plot_parity(parity_curve(true, true + 0.1, "eV/A"), label="model")
    assert ax.get_xlabel() == "true / (eV/A)"
    assert len(ax.lines) == 2
