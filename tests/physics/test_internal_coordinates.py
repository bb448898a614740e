"""Bonds, angles and dihedrals: known distributions through the faces of a cell, mdtraj, hand-made basins, floors."""

import warnings

import numpy as np
import pytest

from openmm_mlbench.cells import nearest_images
from openmm_mlbench.errors import MetricError
from openmm_mlbench.metrics.bond_graph import angle_groups, bond_groups, dihedral_groups
from openmm_mlbench.metrics.floors import noise_floor
from openmm_mlbench.metrics.internal_coordinates import (
    BACKBONE,
    THREEFOLD,
    TWOFOLD,
    CoordinateGroup,
    DistributionAccumulator,
    angle_edges,
    backbone_basin_of,
    basin_of,
    bond_edges_A,
    compute_distributions,
    coordinate_values,
    distribution_mae,
    plot_basins,
    plot_distributions,
)
from openmm_mlbench.trajectory import Trajectory

BOX = np.array([[1.238, 0.0, 0.0], [-0.358, 1.173, 0.0], [-0.282, -0.375, 1.153]])


def water(n_frames, seed, length=0.101, width=0.003, angle=110.0, spread=4.0, n=5):
    """Water with normal bond lengths (nm) and angles (degrees), wrapped atom by atom into a triclinic cell."""
    rng = np.random.default_rng(seed)
    lengths = rng.normal(length, width, size=(n_frames, n, 2))
    angles = np.radians(rng.normal(angle, spread, size=(n_frames, n)))
    frames, _ = np.linalg.qr(rng.normal(size=(n_frames, n, 3, 3)))
    first = frames[..., 0] * lengths[..., :1]
    second = (
        np.cos(angles)[..., None] * frames[..., 0] + np.sin(angles)[..., None] * frames[..., 1]
    ) * lengths[..., 1:]
    oxygen = rng.uniform(-3, 3, size=(n_frames, n, 3))
    positions = np.stack([oxygen, oxygen + first, oxygen + second], axis=2).reshape(n_frames, -1, 3)
    wrapped = ((positions @ np.linalg.inv(BOX)) % 1.0) @ BOX
    trajectory = Trajectory(
        positions_nm=wrapped,
        box_vectors_nm=np.tile(BOX, (n_frames, 1, 1)),
        atomic_numbers=np.tile([8, 1, 1], n),
        frame_interval_ps=0.1,
        source="test",
    )
    return trajectory, 10 * lengths, np.degrees(angles)


def bonds_of_water(n):
    return np.array([[3 * k, 3 * k + h] for k in range(n) for h in (1, 2)])


def test_known_distributions_through_the_faces_of_a_triclinic_cell():
    one, lengths, angles = water(2000, 0)
    bonds = bonds_of_water(5)
    (found,) = compute_distributions(one, bond_groups(one.atomic_numbers, bonds))
    assert found.label == "O-H"
    assert found.unit == "A"
    assert (found.n_coordinates, found.n_frames) == (10, 2000)
    np.testing.assert_allclose(found.mean, lengths.mean(), rtol=1e-12)
    np.testing.assert_allclose(found.sd, lengths.std(), rtol=1e-8)
    np.testing.assert_allclose(np.sum(found.density * np.diff(found.edges)), 1)
    # Against the normal density it was drawn from.
    normal = np.exp(-((found.centres - 1.01) ** 2) / (2 * 0.03**2)) / (0.03 * np.sqrt(2 * np.pi))
    assert np.sum(np.abs(found.density - normal)) * 0.01 < 0.05
    (angle,) = compute_distributions(one, angle_groups(one.atomic_numbers, bonds))
    assert angle.label == "H-O-H"
    np.testing.assert_allclose(angle.mean, angles.mean(), rtol=1e-10)
    np.testing.assert_allclose(angle.sd, angles.std(), rtol=1e-6)


def test_values_agree_with_mdtraj():
    import mdtraj

    rng = np.random.default_rng(3)
    positions = rng.normal(scale=0.3, size=(20, 6, 3))
    topology = mdtraj.Topology()
    residue = topology.add_residue("X", topology.add_chain())
    for _ in range(6):
        topology.add_atom("C", mdtraj.element.carbon, residue)
    peer = mdtraj.Trajectory(positions.astype(np.float32), topology)
    single = positions.astype(np.float32).astype(np.float64)
    pairs, triples, quads = (np.array([[0, 1, 2, 3][:n], [5, 3, 4, 1][:n]]) for n in (2, 3, 4))
    np.testing.assert_allclose(
        coordinate_values(single, pairs), 10 * mdtraj.compute_distances(peer, pairs), rtol=1e-5
    )
    np.testing.assert_allclose(
        coordinate_values(single, triples), np.degrees(mdtraj.compute_angles(peer, triples)), atol=2e-3
    )
    np.testing.assert_allclose(
        coordinate_values(single, quads), np.degrees(mdtraj.compute_dihedrals(peer, quads)), atol=2e-3
    )


def test_naive_histogram_and_chunks():
    one, _, _ = water(60, 1)
    group = CoordinateGroup(label="O-H", atoms=bonds_of_water(5))
    edges = bond_edges_A(1.2, 40)
    counts, outside, values = np.zeros(40), 0, []
    for positions, box in zip(one.positions_nm, one.box_vectors_nm, strict=True):
        for i, j in group.atoms:
            r = 10 * np.linalg.norm(nearest_images((positions[j] - positions[i])[None], box[None]))
            values.append(r)
            if edges[0] <= r <= edges[-1]:
                counts[min(int((r - edges[0]) / (edges[1] - edges[0])), 39)] += 1
            else:
                outside += 1
    counting = DistributionAccumulator([group], 60, edges)
    for start in range(0, 60, 7):
        part = slice(start, start + 7)
        counting.add(
            Trajectory(
                positions_nm=one.positions_nm[part],
                box_vectors_nm=one.box_vectors_nm[part],
                atomic_numbers=one.atomic_numbers,
                frame_interval_ps=0.1,
            )
        )
    (found,) = counting.results()
    np.testing.assert_array_equal(found.sums[:-4], counts)
    assert found.sums[-4] == outside
    np.testing.assert_allclose([found.mean, found.sd], [np.mean(values), np.std(values)], rtol=1e-9)
    assert found.length_ps == pytest.approx(6.0)
    assert found.segments.shape == (60, 44)


def test_rigid_bonds_lie_in_one_bin():
    """Lengths like 1.09 A carry the rounding of single precision; on an edge they would fall to either side."""
    rng = np.random.default_rng(0)
    positions = np.zeros((500, 2, 3))
    positions[:, 1, 0] = 0.109 + rng.normal(scale=1e-7, size=500)
    one = Trajectory(
        positions_nm=positions,
        box_vectors_nm=None,
        atomic_numbers=np.array([6, 1]),
        frame_interval_ps=1.0,
    )
    (found,) = compute_distributions(one, [CoordinateGroup(label="C-H", atoms=np.array([[0, 1]]))])
    assert np.count_nonzero(found.density) == 1


def test_area_from_zero_to_two_and_what_lies_outside():
    one, two = np.array([1.0, 3, 0, 0, 4, 0, 0]), np.array([0.0, 0, 2, 0, 2, 0, 0])
    assert distribution_mae(one, one) == 0
    assert distribution_mae(one, 5 * one) == 0
    assert distribution_mae(one, two) == 2
    half_outside = np.array([1.0, 3, 0, 4, 8, 0, 0])
    assert distribution_mae(one, half_outside) == pytest.approx(1)
    with pytest.raises(MetricError, match="of 3 bins, its reference of 2"):
        distribution_mae(one, two[1:])


def test_the_floor_is_what_another_run_of_the_same_scores():
    group = [CoordinateGroup(label="O-H", atoms=bonds_of_water(5))]
    (reference,) = compute_distributions(water(4000, 10)[0], group)
    runs = [compute_distributions(water(200, seed)[0], group)[0] for seed in range(20, 40)]
    scores = [distribution_mae(run.sums, reference.sums) for run in runs]
    floor = noise_floor(reference.segments, 20.0, 400.0, distribution_mae)
    assert floor.value == pytest.approx(np.mean(scores), rel=0.1)


def test_groups_are_called_as_chemists_call_them():
    # Ethanol: C1 C2 O, two H on C1, three on C2, one on O.
    numbers = np.array([6, 6, 8, 1, 1, 1, 1, 1, 1])
    bonds = np.array([[0, 1], [0, 2], [0, 3], [0, 4], [1, 5], [1, 6], [1, 7], [2, 8]])
    assert {g.label: len(g.atoms) for g in bond_groups(numbers, bonds)} == {
        "C-C": 1,
        "C-O": 1,
        "C-H": 5,
        "O-H": 1,
    }
    angles = {g.label: g.atoms.tolist() for g in angle_groups(numbers, bonds)}
    assert {label: len(atoms) for label, atoms in angles.items()} == {
        "C-C-O": 1,
        "C-C-H": 5,
        "C-O-H": 1,
        "O-C-H": 2,
        "H-C-H": 4,
    }
    assert sorted(angles["C-O-H"][0]) == [0, 2, 8]
    assert angles["C-O-H"][0][1] == 2
    (dihedral,) = dihedral_groups(numbers, bonds)
    assert dihedral.group.label == "C-C-O-H"
    assert dihedral.group.atoms.tolist() == [[1, 0, 2, 8]]
    assert dihedral.basins is THREEFOLD


def test_dihedrals_of_rings_methyls_and_equal_molecules():
    # Twice phenol: a ring, and a hydroxyl that turns.
    ring = [[k, (k + 1) % 6] for k in range(6)]
    one = np.array([*ring, [0, 6], [6, 7]])
    numbers = np.array([6, 6, 6, 6, 6, 6, 8, 1])
    hydrogens = np.array([[k, 7 + k] for k in range(1, 6)])
    numbers = np.concatenate([numbers, np.ones(5, dtype=int)])
    bonds = np.concatenate([one, hydrogens])
    both = np.concatenate([bonds, bonds + 13])
    names = [f"A{k}" for k in range(13)] * 2
    (found,) = dihedral_groups(np.tile(numbers, 2), both, names)
    assert found.group.label == "C-C-O-H"
    assert found.group.atoms.tolist() == [[1, 0, 6, 7], [14, 13, 19, 20]]
    assert found.basins is TWOFOLD
    # Ethane has methyls only.
    ethane = np.array([[0, 1], *([0, k] for k in (2, 3, 4)), *([1, k] for k in (5, 6, 7))])
    assert dihedral_groups(np.array([6, 6, 1, 1, 1, 1, 1, 1]), ethane) == []
    # An amide, C-C(=O)-N-C, runs over its carbons: trans as in peptides.
    amide = np.array([[0, 1], [1, 2], [1, 3], [3, 4], [3, 5]])
    (peptide,) = dihedral_groups(np.array([6, 6, 8, 7, 6, 1]), amide)
    assert peptide.group.atoms.tolist() == [[0, 1, 3, 4]]


def test_basins_by_hand():
    degrees = np.array([0.0, 60.0, 119.9, 120.0, 180.0, -180.0, -121.0, -60.0, 359.9, 720.0])
    assert basin_of(degrees, THREEFOLD).tolist() == [0, 0, 0, 1, 1, 1, 1, 2, 2, 0]
    assert basin_of(np.array([0.0, 89.0, 90.0, -90.1, -90.0]), TWOFOLD).tolist() == [0, 0, 1, 1, 0]
    assert basin_of(np.array([10.0, 50.0]), {"near": (40.0, 60.0)}).tolist() == [-1, 0]
    # Minima of alanine dipeptide.
    phi, psi = np.array([[-75, -18], [-158, 164], [-74, 156], [71, -36], [-160, -48], [-74, -120]]).T
    names = [BACKBONE[k] for k in backbone_basin_of(phi.astype(float), psi.astype(float))]
    assert names == ["alpha", "beta", "PPII", "alpha_L", "alpha", "PPII"]
    grid = np.meshgrid(np.arange(-180.0, 180.0, 7), np.arange(-180.0, 180.0, 7))
    assert set(backbone_basin_of(*grid).ravel()) == {0, 1, 2, 3}


def test_clear_lines():
    one, _, _ = water(4, 0)
    group = CoordinateGroup(label="O-H", atoms=np.array([[0, 1]]))
    broken = one.positions_nm.copy()
    broken[2, 0] = np.nan
    bad = Trajectory(
        positions_nm=broken,
        box_vectors_nm=one.box_vectors_nm,
        atomic_numbers=one.atomic_numbers,
        frame_interval_ps=0.1,
        source="test",
    )
    with pytest.raises(MetricError, match=r"0\.2 ps holds NaN"):
        compute_distributions(bad, [group])
    with pytest.raises(MetricError, match="has atom 99; wanted 0 to 14"):
        compute_distributions(one, [CoordinateGroup(label="O-H", atoms=np.array([[0, 99]]))])
    with pytest.raises(MetricError, match="2 kinds of coordinates"):
        compute_distributions(one, [group, CoordinateGroup(label="H-O-H", atoms=np.array([[1, 0, 2]]))])
    with pytest.raises(MetricError, match="wanted \\(n, 2\\)"):
        CoordinateGroup(label="none", atoms=np.zeros((0, 2), dtype=int))
    with pytest.raises(MetricError, match="0 bins"):
        bond_edges_A(3.0, 0)
    with pytest.raises(MetricError, match="0 bins"):
        angle_edges(0)


def test_plots():
    one, _, _ = water(50, 0)
    found = compute_distributions(one, [CoordinateGroup(label="O-H", atoms=bonds_of_water(5))])
    with warnings.catch_warnings():
        # pyparsing's old names inside matplotlib.
        warnings.simplefilter("ignore", DeprecationWarning)
        ax = plot_distributions(found, references=found)
        bars = plot_basins({"trans": 0.7, "gauche": 0.3}, stderrs={"trans": 0.1}, references={"gauche": 0.2})
    assert ax.get_xlabel() == "bond length / A"
    assert 0.8 < ax.get_xlim()[0] < 1.0 < ax.get_xlim()[1] < 1.3
    assert [tick.get_text() for tick in bars.get_xticklabels()] == ["trans", "gauche"]
