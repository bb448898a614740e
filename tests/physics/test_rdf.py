"""RDFs with known answers: ideal gases, lattices, a naive sum over images, mdtraj and freud."""

import warnings

import numpy as np
import pytest

from openmm_mlbench.errors import MetricError
from openmm_mlbench.metrics.rdf import AtomPairs, compute_rdf, plot_rdf, rdf_mae
from openmm_mlbench.trajectory import Trajectory

CUBIC = 1.2 * np.eye(3)
# The cell of LiPS: half its smallest height is 5.6 A.
TRICLINIC = np.array([[1.238, 0.0, 0.0], [-0.358, 1.173, 0.0], [-0.282, -0.375, 1.153]])
# Skewed beyond what OpenMM would accept: rounding alone misses nearest images.
SKEWED = np.array([[1.0, 0.0, 0.0], [0.9, 1.0, 0.0], [0.8, -0.9, 1.0]])


def trajectory(positions_nm, box):
    box = np.asarray(box)
    boxes = np.tile(box, (len(positions_nm), 1, 1)) if box.ndim == 2 else box
    return Trajectory(
        positions_nm=positions_nm,
        box_vectors_nm=boxes,
        atomic_numbers=np.full(positions_nm.shape[1], 6),
        frame_interval_ps=0.1,
        source="test",
    )


def gas(box, n_frames=100, n_atoms=64, seed=0):
    fractional = np.random.default_rng(seed).uniform(-2, 2, size=(n_frames, n_atoms, 3))
    return trajectory(fractional @ box, box)


def all_of(n, label="X-X"):
    return AtomPairs(label=label, a=np.arange(n), b=np.arange(n))


def naive_counts(one, pair, r_max_A, n_bins, extent=4):
    """Every pair and every image, one after the other."""
    counts = np.zeros(n_bins, dtype=int)
    steps = range(-extent, extent + 1)
    images = np.array([[i, j, k] for i in steps for j in steps for k in steps], dtype=float)
    for positions, box in zip(one.positions_nm, one.box_vectors_nm, strict=True):
        shifts = 10 * images @ box
        wrapped = 10 * ((positions @ np.linalg.inv(box)) % 1.0) @ box
        for i in pair.a:
            for j in pair.b:
                r = np.linalg.norm(wrapped[j] - wrapped[i] + shifts, axis=1)
                if i == j:
                    r = r[r > 1e-9]
                counts += np.histogram(r, bins=n_bins, range=(0, r_max_A))[0]
    return counts


@pytest.mark.parametrize(
    ("box", "r_max"), [(CUBIC, 5), (CUBIC, 13), (TRICLINIC, 6), (TRICLINIC, 14), (SKEWED, 9)]
)
def test_counts_are_those_of_the_naive_sum_over_images(box, r_max):
    one = gas(box, n_frames=2, n_atoms=7)
    overlapping = AtomPairs(label="A-B", a=np.array([0, 1, 2, 3]), b=np.array([2, 3, 4, 5, 6]))
    for pair in (all_of(7), overlapping):
        (rdf,) = compute_rdf(one, [pair], r_max_A=r_max, n_bins=40)
        np.testing.assert_array_equal(rdf.counts, naive_counts(one, pair, r_max, 40))


@pytest.mark.parametrize(("box", "r_max"), [(CUBIC, 6), (CUBIC, 11.5), (TRICLINIC, 6), (TRICLINIC, 11)])
def test_ideal_gas_is_one_and_in_mode_mdsim_less_by_the_self_pairs(box, r_max):
    one = gas(box)
    (paper,) = compute_rdf(one, [all_of(64)], r_max_A=r_max, n_bins=20)
    (mdsim,) = compute_rdf(one, [all_of(64)], r_max_A=r_max, n_bins=20, mode="mdsim")
    expected = paper.n_pairs / np.linalg.det(box * 10) * 4 / 3 * np.pi * np.diff(paper.edges_A**3) * 100
    # Each pair is counted from both ends, so half of the counts are independent.
    deviation = (paper.g_r - 1) * np.sqrt(expected / 2)
    assert np.abs(deviation).max() < 4
    np.testing.assert_allclose(mdsim.g_r, paper.g_r * 63 / 64, rtol=1e-12)
    a, b = np.arange(20), np.arange(20, 64)
    groups = [AtomPairs(label="A-B", a=a, b=b)]
    (paper_ab,), (mdsim_ab,) = (
        compute_rdf(one, groups, r_max_A=r_max, mode=mode) for mode in ("paper", "mdsim")
    )
    np.testing.assert_array_equal(mdsim_ab.g_r, paper_ab.g_r)
    (turned,) = compute_rdf(one, [AtomPairs(label="B-A", a=b, b=a)], r_max_A=r_max)
    np.testing.assert_allclose(turned.g_r, paper_ab.g_r, rtol=1e-12)
    np.testing.assert_allclose(turned.coordination * 44, paper_ab.coordination * 20)


@pytest.mark.parametrize("copies", [1, 2])
def test_shells_of_fcc_beyond_half_the_cell(copies):
    a = 4.0
    primitive = a / 2 * np.array([[1.0, 1.0, 0.0], [1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
    grid = np.stack(np.meshgrid(*[np.arange(copies)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    one = trajectory((grid @ primitive)[None] / 10, copies * primitive / 10)
    (rdf,) = compute_rdf(one, [all_of(copies**3)], r_max_A=6.0, n_bins=600)
    shells = [(a / np.sqrt(2), 12), (a, 6), (a * np.sqrt(1.5), 24), (a * np.sqrt(2), 12)]
    around = 0
    for radius, n in shells:
        before, after = np.searchsorted(rdf.edges_A, [radius - 0.05, radius + 0.05])
        assert rdf.counts[:before].sum() == around * copies**3
        around += n
        assert rdf.counts[:after].sum() == around * copies**3
        assert rdf.coordination[after] == around
    assert np.count_nonzero(rdf.counts) <= 2 * len(shells)


def test_one_simple_cubic_atom_and_its_images():
    (rdf,) = compute_rdf(
        trajectory(np.zeros((1, 1, 3)), 0.3 * np.eye(3)), [all_of(1)], r_max_A=4.0, n_bins=40
    )
    assert rdf.coordination[-1] == 6
    density = 1 / 27
    integral = np.sum(rdf.g_r * 4 / 3 * np.pi * np.diff(rdf.edges_A**3)) * density
    np.testing.assert_allclose(integral, 6)


def test_changing_volume_is_averaged_frame_by_frame():
    boxes = np.stack([s * CUBIC for s in (1.0, 1.3)])
    fractional = np.random.default_rng(1).uniform(size=(2, 30, 3))
    both = compute_rdf(
        trajectory(np.einsum("fni,fij->fnj", fractional, boxes), boxes), [all_of(30)], n_bins=30
    )[0]
    each = [
        compute_rdf(trajectory((f @ b)[None], b), [all_of(30)], n_bins=30)[0].g_r
        for f, b in zip(fractional, boxes, strict=True)
    ]
    np.testing.assert_allclose(both.g_r, np.mean(each, axis=0), rtol=1e-12)


@pytest.mark.parametrize("r_max", [5.0, 9.0])
def test_intramolecular_pairs_left_out(r_max):
    rng = np.random.default_rng(2)
    centres = rng.uniform(size=(50, 30, 1, 3)) @ TRICLINIC
    bond = np.array([[0, 0, 0], [0.1, 0, 0]])
    positions = (centres + bond).reshape(50, 60, 3)
    molecules = np.arange(60) // 2
    one = trajectory(positions, TRICLINIC)
    (kept,) = compute_rdf(one, [all_of(60)], r_max_A=r_max, n_bins=50)
    (left,) = compute_rdf(one, [all_of(60)], r_max_A=r_max, n_bins=50, molecules=molecules)
    # The bond lies on an edge of bins.
    at_bond = slice(int(50 / r_max) - 1, int(50 / r_max) + 2)
    assert kept.counts[at_bond].sum() - left.counts[at_bond].sum() == 60 * 50
    assert kept.counts.sum() - left.counts.sum() == 60 * 50
    assert left.n_pairs == 60 * 58
    np.testing.assert_allclose(left.g_r[25:].mean(), 1, atol=0.03)


def test_agrees_with_mdtraj_and_freud():
    """All three count in other precision: bins are coarse, and frames are those in which none crosses an edge."""
    import mdtraj

    one = gas(CUBIC, n_frames=3, n_atoms=40, seed=5)
    single = (one.positions_nm % 1.2).astype(np.float32)
    one = trajectory(single.astype(np.float64), CUBIC.astype(np.float32).astype(np.float64))
    pair = AtomPairs(label="A-B", a=np.arange(15), b=np.arange(15, 40))
    ours = compute_rdf(one, [all_of(40), pair], r_max_A=5.5, n_bins=11)
    topology = mdtraj.Topology()
    residue = topology.add_residue("X", topology.add_chain())
    for _ in range(40):
        topology.add_atom("C", mdtraj.element.carbon, residue)
    theirs = mdtraj.Trajectory(
        single, topology, unitcell_lengths=np.full((3, 3), 1.2), unitcell_angles=np.full((3, 3), 90.0)
    )
    for rdf, groups in zip(ours, ((np.arange(40), np.arange(40)), (pair.a, pair.b)), strict=True):
        pairs = topology.select_pairs(*groups)
        r_nm, g = mdtraj.compute_rdf(theirs, pairs, r_range=(0, 0.55), n_bins=11)
        np.testing.assert_allclose(10 * r_nm, rdf.r_A, rtol=1e-6)
        np.testing.assert_allclose(g, rdf.g_r, rtol=1e-6)
    freud = pytest.importorskip("freud", reason="freud-analysis is not installed")
    box = freud.box.Box.cube(12.0)
    for rdf, mode in ((ours[0], "finite_size"), (ours[1], "exact")):
        peer = freud.density.RDF(11, 5.5, normalization_mode=mode)
        for frame in single:
            a, b = (box.wrap(10 * frame[group]) for group in (pair.a, pair.b))
            if mode == "finite_size":
                peer.compute((box, box.wrap(10 * frame)), reset=False)
            else:
                peer.compute((box, b), query_points=a, neighbors={"r_max": 5.5}, reset=False)
        np.testing.assert_allclose(peer.rdf, rdf.g_r, rtol=1e-6)


def test_mae_is_the_integral_of_the_difference():
    edges = np.linspace(0, 6, 4)
    assert rdf_mae(np.array([0.0, 1.0, 2.0]), np.array([1.0, 1.0, 1.0]), edges) == pytest.approx(4.0)
    with pytest.raises(MetricError, match="3 bins, its reference 2"):
        rdf_mae(np.zeros(3), np.zeros(2), edges)


def test_clear_lines():
    one = gas(CUBIC, n_frames=2, n_atoms=4)
    with pytest.raises(MetricError, match="have no cell"):
        compute_rdf(
            Trajectory(
                positions_nm=one.positions_nm,
                box_vectors_nm=None,
                atomic_numbers=one.atomic_numbers,
                frame_interval_ps=1.0,
            ),
            [all_of(4)],
        )
    broken = one.positions_nm.copy()
    broken[1, 2, 0] = np.nan
    with pytest.raises(MetricError, match=r"0\.1 ps holds NaN"):
        compute_rdf(trajectory(broken, CUBIC), [all_of(4)])
    with pytest.raises(MetricError, match="times the height of the cell"):
        compute_rdf(one, [all_of(4)], r_max_A=300)
    with pytest.raises(MetricError, match="selection of Z-Z is empty"):
        AtomPairs(label="Z-Z", a=np.array([], dtype=int), b=np.array([1]))


def test_plot():
    (rdf,) = compute_rdf(gas(CUBIC, n_frames=2, n_atoms=4), [all_of(4)])
    with warnings.catch_warnings():
        # pyparsing's old names inside matplotlib.
        warnings.simplefilter("ignore", DeprecationWarning)
        ax = plot_rdf(rdf, reference=rdf)
    assert ax.get_xlabel() == "r / A"
    assert len(ax.lines) == 2
