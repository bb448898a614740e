"""Free energies with known answers: von Mises angles, single hills, reweighted samples, PLUMED's own file."""

import os
from pathlib import Path

import numpy as np
import pytest

from openmm_mlbench.dihedrals import compute_dihedrals
from openmm_mlbench.errors import MetricError
from openmm_mlbench.files import write_json
from openmm_mlbench.measuring.free_energy import SampledSurface, measure_free_energy, surface_from_json
from openmm_mlbench.metrics.dihedrals import basin_fractions
from openmm_mlbench.metrics.free_energy import (
    FreeEnergySurface,
    bias_offsets,
    frame_weights,
    grid_points,
    mean_surface,
    plot_profile,
    plot_surface,
    profile_mae,
    read_fes,
    read_hills,
    read_plumed,
    surface_from_angles,
    surface_from_hills,
    thermal_energy,
    write_fes,
)

KT = thermal_energy(300.0)
DATA = Path(os.environ.get("MLBENCH_DATA", Path(__file__).parents[3] / "shared" / "data"))
HILLS_HEAD = """#! FIELDS time phi psi sigma_phi sigma_psi height biasf
#! SET multivariate false
#! SET kerneltype {kernel}
#! SET min_phi -pi
#! SET max_phi pi
"""


def write_hills(path, rows, kernel="stretched-gaussian"):
    lines = [" ".join(f"{value:.12g}" for value in row) for row in rows]
    path.write_text(HILLS_HEAD.format(kernel=kernel) + "\n".join(lines) + "\n")
    return path


def test_von_mises_angle_has_the_known_profile():
    rng = np.random.default_rng(0)
    kappa, mu = 1.5, -2.9
    angles = np.stack([rng.vonmises(mu, kappa, 200_000), rng.uniform(-np.pi, np.pi, 200_000)], axis=1)
    surface = surface_from_angles(angles, KT, n_bins=36)
    points = grid_points(36)
    expected = KT * kappa * (1 - np.cos(points - mu))
    found = surface.profile(0, KT)
    # The density is averaged over a bin, and each bin holds 700 frames or more.
    np.testing.assert_allclose(found - found.mean(), expected - expected.mean(), atol=0.4)
    assert np.abs(surface.profile(1, KT)).max() < 0.2
    assert profile_mae(found, expected) < 0.8
    assert profile_mae(found, expected, align="mean") < 0.8


def test_profile_of_a_surface_is_the_sum_over_the_other_angle():
    rng = np.random.default_rng(1)
    F = rng.uniform(0, 20, size=(12, 12))
    surface = FreeEnergySurface(F=F)
    for axis in (0, 1):
        naive = []
        for k in range(12):
            row = F[k] if axis == 0 else F[:, k]
            naive.append(-KT * np.log(sum(np.exp(-f / KT) for f in row)))
        np.testing.assert_allclose(surface.profile(axis, KT), np.array(naive) - min(naive), atol=1e-10)


@pytest.mark.parametrize("kernel", ["gaussian", "stretched-gaussian"])
def test_hills_against_a_naive_sum_over_periodic_images(tmp_path, kernel):
    rows = [(1, 3.0, -3.0, 0.35, 0.3, 1.44, 6), (2, 0.1, 0.2, 0.35, 0.3, 1.2, 6)]
    surface = surface_from_hills(read_hills(write_hills(tmp_path / "HILLS", rows, kernel)), n_bins=20)
    points = grid_points(20)
    total = np.zeros((20, 20))
    for _, phi, psi, s_phi, s_psi, height, _ in rows:
        for i, x in enumerate(points):
            for j, y in enumerate(points):
                dx = min((x - phi + 2 * np.pi * k for k in (-1, 0, 1)), key=abs)
                dy = min((y - psi + 2 * np.pi * k for k in (-1, 0, 1)), key=abs)
                exponent = dx**2 / 2 / s_phi**2 + dy**2 / 2 / s_psi**2
                if exponent < 6.25:
                    value = np.exp(-exponent)
                    if kernel == "stretched-gaussian":
                        value = (value - np.exp(-6.25)) / (1 - np.exp(-6.25))
                    total[i, j] += height * value
    np.testing.assert_allclose(surface.F, total.max() - total, atol=1e-9)


def test_reweighting_undoes_a_static_bias(tmp_path):
    """Samples of exp(-(F + V) / kT) with V = -F / 2, so weights exp(V / kT) must give F back."""
    rng = np.random.default_rng(2)
    kappa = 2.0
    phi, psi = rng.vonmises(0.5, kappa / 2, 100_000), rng.uniform(-np.pi, np.pi, 100_000)
    bias = -0.5 * KT * kappa * (1 - np.cos(phi - 0.5))
    lines = [
        f"{0.1 * k:.4f} {a:.9f} {b:.9f} {v:.9f}"
        for k, (a, b, v) in enumerate(zip(phi, psi, bias, strict=True))
    ]
    path = tmp_path / "COLVAR"
    path.write_text("#! FIELDS time phi psi metad.rbias\n" + "\n".join(lines) + "\n")
    table = read_plumed(path)
    weights, how = frame_weights(table, KT)
    assert "rbias" in how
    angles = np.stack([table["phi"], table["psi"]], axis=1)
    found = surface_from_angles(angles, KT, weights=weights, n_bins=24).profile(0, KT)
    expected = KT * kappa * (1 - np.cos(grid_points(24) - 0.5))
    np.testing.assert_allclose(found - found.mean(), expected - expected.mean(), atol=0.3)


def test_offset_of_the_bias_after_one_hill(tmp_path):
    hills = read_hills(write_hills(tmp_path / "HILLS", [(1, 0.0, 0.0, 0.35, 0.35, 1.44, 6)]))
    V = 1.2 * hills.kernel(0, grid_points(60))
    expected = KT * np.log(np.exp(1.2 * V / KT).mean() / np.exp(V / 5 / KT).mean())
    np.testing.assert_allclose(bias_offsets(hills, KT), [0.0, expected], atol=1e-12)
    path = tmp_path / "COLVAR"
    path.write_text("#! FIELDS time phi psi metad.bias\n0.5 0 0 0\n1.5 0 0 1.2\n")
    weights, _ = frame_weights(read_plumed(path), KT, hills)
    np.testing.assert_allclose(np.log(weights[1] / weights[0]), (1.2 - expected) / KT)


def test_mae_in_both_modes_and_alignments():
    zero, step = np.zeros(4), np.array([0.0, 0.0, 1.0, 1.0])
    assert profile_mae(step, zero) == pytest.approx(np.pi)
    assert profile_mae(step, zero, mode="mdsim") == pytest.approx(3.14)
    assert profile_mae(step + 7, zero) == pytest.approx(np.pi)
    assert profile_mae(step, zero, align="mean") == pytest.approx(np.pi)
    assert profile_mae(np.array([0, 4.0, 4, 4]), zero, align="mean") == pytest.approx(2 * np.pi * 1.5)
    # A bin that was never visited stands at the highest value seen.
    assert profile_mae(np.array([0.0, 1.0, np.inf, 1.0]), zero) == pytest.approx(2 * np.pi * 0.75)
    assert thermal_energy(300.0, "mdsim") == 2.49


def test_fes_file_there_and_back(tmp_path):
    F = np.random.default_rng(3).uniform(0, 50, size=(10, 10))
    F[3, 4] = np.inf
    write_fes(tmp_path / "fes.dat", FreeEnergySurface(F=F))
    again = read_fes(tmp_path / "fes.dat")
    np.testing.assert_allclose(again.F, F, atol=1e-8)
    assert again.names == ("phi", "psi")
    rows = [line for line in (tmp_path / "fes.dat").read_text().splitlines() if line and line[0] != "#"]
    assert float(rows[1].split()[0]) == pytest.approx(-np.pi + np.pi / 5)
    assert float(rows[1].split()[2]) == pytest.approx(F[1, 0])


def test_surface_of_the_papers_authors():
    path = DATA / "references" / "fes.dat"
    if not path.is_file():
        pytest.skip(f"no {path}: set MLBENCH_DATA to the folder of real data")
    surface = read_fes(path)
    assert surface.F.shape == (60, 60)
    # First rows of the file: phi runs fastest.
    np.testing.assert_allclose(surface.F[:3, 0], [8.888837523, 7.126572470, 5.867676373])
    phi, psi = surface.profile(0, KT), surface.profile(1, KT)
    assert phi.min() == psi.min() == 0.0
    # Left-handed and extended alanine: phi < 0 is where the molecule is.
    assert grid_points(60)[np.argmin(phi)] < 0
    assert 15 < phi.max() < 60


def test_dihedrals_agree_with_mdtraj_also_through_the_faces_of_the_cell():
    import mdtraj

    rng = np.random.default_rng(4)
    box = np.array([[1.0, 0, 0], [0.3, 1.1, 0], [-0.2, 0.3, 1.2]])
    positions = np.cumsum(rng.uniform(-0.15, 0.15, size=(20, 6, 3)), axis=1)
    quads = np.array([[0, 1, 2, 3], [2, 3, 4, 5]])
    topology = mdtraj.Topology()
    residue = topology.add_residue("X", topology.add_chain())
    for _ in range(6):
        topology.add_atom("C", mdtraj.element.carbon, residue)
    expected = mdtraj.compute_dihedrals(
        mdtraj.Trajectory(positions.astype(np.float32), topology), quads, periodic=False
    )
    difference = compute_dihedrals(positions, quads) - expected
    np.testing.assert_allclose(np.angle(np.exp(1j * difference)), 0, atol=1e-4)
    wrapped = ((positions @ np.linalg.inv(box)) % 1.0) @ box
    found = compute_dihedrals(wrapped, quads, np.tile(box, (20, 1, 1)))
    np.testing.assert_allclose(found, compute_dihedrals(positions, quads), atol=1e-9)


def test_share_of_time_in_each_basin():
    angles = np.radians(np.tile([60.0, 180.0, -60.0, 61.0], 50))
    shares = {result.name: result.value for result in basin_fractions("phi", angles)}
    assert shares == {"phi_gauche+": 0.5, "phi_trans": 0.25, "phi_gauche-": 0.25}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("nothing here\n", "no line .#! FIELDS"),
        ("#! FIELDS time phi psi\n", "holds no rows"),
        ("#! FIELDS time phi psi\n1 2 3\n1 2\n1 2 3\n", "line 3: not 3 numbers"),
        ("#! FIELDS time phi psi\n1 2 3\n", "no column"),
    ],
)
def test_damaged_files(tmp_path, text, wanted):
    path = tmp_path / "COLVAR"
    path.write_text(text)
    with pytest.raises(MetricError, match=wanted):
        frame_weights(read_plumed(path), KT)


def test_a_row_cut_off_by_a_kill_is_left_out(tmp_path):
    path = tmp_path / "COLVAR"
    path.write_text("#! FIELDS time phi psi\n1 2 3\n2 2 3\n3 2 0.")
    assert len(read_plumed(path).rows) == 2


def test_plots():
    surface = FreeEnergySurface(F=np.random.default_rng(5).uniform(0, 5, size=(8, 8)))
    assert plot_profile(surface, KT).get_xlabel() == "phi / rad"
    assert plot_surface(surface).get_ylabel() == "psi / rad"


def wells(shift):
    """Two wells on a grid of 30, one deeper by the shift."""
    x = grid_points(30)
    return FreeEnergySurface(F=10 * (1 + np.cos(2 * x))[:, None] + (5 + shift * np.sin(x))[None, :])


def test_the_json_of_a_measurement_is_a_reference(tmp_path):
    """It holds every run: the reference is their mean, and their distance is the floor."""
    kT = 2.5
    runs = [wells(1.0), wells(3.0)]
    first = measure_free_energy(
        [SampledSurface(surface=run, n_frames=10) for run in runs], kT=kT, mode="paper", inputs={}
    )
    path = tmp_path / "reference.json"
    write_json(path, first.measurement.as_json() | first.more)
    reference = surface_from_json(path, kT)
    np.testing.assert_allclose(
        reference.surface.profile(1, kT), mean_surface(runs, kT, "").profile(1, kT), atol=1e-3
    )
    expected = profile_mae(runs[0].profile(1, kT), runs[1].profile(1, kT))
    between = {result.name: result.value for result in first.measurement.results}
    assert between["F_psi_mae_between_runs"] == pytest.approx(expected)
    again = measure_free_energy(
        [SampledSurface(surface=runs[0])], kT=kT, mode="paper", inputs={}, reference=reference
    ).measurement
    found = {result.name: result for result in again.results}
    assert found["F_psi_mae"].floor == pytest.approx(expected, abs=1e-3)
    assert 0 < found["F_psi_mae"].value < expected
    assert found["F_phi_mae"].value == pytest.approx(0.0, abs=1e-3)
    # Of F itself: |sin| has the mean 2 / pi, and the mean of the two runs lies about half way.
    assert found["F_phi_psi_mae"].floor == pytest.approx(2.0 * 2 / np.pi, rel=0.01)
    for text, message in (
        ("[]", "is no measurement of a free energy"),
        ('{"observable": "rdf"}', "is no measurement of a free energy"),
        ('{"observable": "free_energy"}', "not the JSON of `measure free-energy`"),
        ('{"observable": "free_energy", "surfaces": []}', "holds no surface"),
        ("{", "not valid JSON"),
    ):
        path.write_text(text)
        with pytest.raises(MetricError, match=message):
            surface_from_json(path, kT)
    with pytest.raises(MetricError, match="cannot be read"):
        surface_from_json(tmp_path / "none.json", kT)
