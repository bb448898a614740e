"""Topologies and bonds against what a chemist would draw."""

import numpy as np
import pytest

from openmm_mlbench.assets import asset_path
from openmm_mlbench.data.datasets import load_dataset
from openmm_mlbench.errors import TrajectoryError
from openmm_mlbench.topology import (
    Topology,
    bond_lengths,
    find_bonds,
    max_bond_deviation,
    read_structure,
    read_topology,
)

ETHANOL_BONDS = [[0, 1], [0, 2], [0, 3], [0, 4], [1, 5], [1, 6], [1, 7], [2, 8]]
ETHANOL = asset_path("systems", "ethanol", "topology.pdb")


def test_shipped_ethanol():
    topology, positions = read_structure(ETHANOL)
    assert topology.atomic_numbers.tolist() == [6, 6, 8, 1, 1, 1, 1, 1, 1]
    assert topology.names == ("C1", "C2", "O", "H11", "H12", "H21", "H22", "H23", "HO")
    assert topology.n_atoms == 9
    assert find_bonds(topology.atomic_numbers, positions).tolist() == ETHANOL_BONDS
    lengths = bond_lengths(positions, np.array(ETHANOL_BONDS))
    np.testing.assert_allclose(lengths, [1.52, 1.41, 1.10, 1.10, 1.09, 1.09, 1.09, 0.96], atol=0.02)
    assert read_topology(ETHANOL).names == topology.names


def test_openmm_reads_the_same_bonds():
    app = pytest.importorskip("openmm.app")
    topology = app.PDBFile(str(ETHANOL)).topology
    assert sorted(sorted((a.index, b.index)) for a, b in topology.bonds()) == ETHANOL_BONDS
    assert topology.getNumResidues() == 1
    assert topology.getPeriodicBoxVectors() is None


def test_bonds_hold_through_thermal_motion():
    frames = load_dataset("ethanol-gfn2")
    for positions in frames.positions[::10]:
        assert find_bonds(frames.atomic_numbers, positions).tolist() == ETHANOL_BONDS


def test_find_bonds_against_a_naive_loop():
    from ase.data import covalent_radii

    rng = np.random.default_rng(0)
    numbers = rng.choice([1, 6, 8], 25)
    positions = rng.uniform(0, 6, (25, 3))
    naive = [
        [i, j]
        for i in range(25)
        for j in range(i + 1, 25)
        if np.sqrt(sum((positions[i] - positions[j]) ** 2))
        < 1.3 * (covalent_radii[numbers[i]] + covalent_radii[numbers[j]])
    ]
    assert len(naive) > 5
    assert find_bonds(numbers, positions).tolist() == naive


def test_no_bonds():
    bonds = find_bonds(np.array([2, 2]), np.array([[0, 0, 0], [3.0, 0, 0]]))
    assert bonds.shape == (0, 2)
    assert max_bond_deviation(np.zeros((4, 2, 3)), bonds, np.zeros(0)).tolist() == [0.0] * 4


def test_deviation_is_the_largest_of_either_sign():
    """Eq. 9 by hand: bonds of 1.0 and 1.5 A; stretched by 0.2, squeezed by 0.3, broken by 1.5."""
    bonds = np.array([[0, 1], [1, 2]])
    positions = np.array(
        [
            [[0, 0, 0], [1.0, 0, 0], [1.0, 1.5, 0]],
            [[0, 0, 0], [1.2, 0, 0], [1.2, 1.6, 0]],
            [[0, 0, 0], [1.0, 0, 0], [1.0, 0, 1.2]],
            [[0, 0, 0], [1.0, 0, 0], [1.0, 0, 3.0]],
        ]
    )
    deviation = max_bond_deviation(positions, bonds, np.array([1.0, 1.5]))
    np.testing.assert_allclose(deviation, [0.0, 0.2, 0.3, 1.5], atol=1e-12)
    assert bond_lengths(positions, bonds).shape == (4, 2)


def test_shapes_that_do_not_fit():
    with pytest.raises(TrajectoryError, match="3 equilibrium lengths for 1 bonds"):
        max_bond_deviation(np.zeros((1, 2, 3)), np.array([[0, 1]]), np.zeros(3))
    with pytest.raises(TrajectoryError, match=r"positions have shape \(1, 2, 3\); wanted \(2, 3\)"):
        find_bonds(np.array([1, 1]), np.zeros((1, 2, 3)))
    with pytest.raises(TrajectoryError, match="2 names for atomic numbers"):
        Topology(atomic_numbers=np.array([1]), names=("A", "B"), path=ETHANOL)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        ("", "holds no atoms|not a readable PDB"),
        ("{}\n", "holds no atoms|not a readable PDB"),
        ("ATOM      1  C1  EOH A   1       x.xxx   0.000   0.000  1.00  0.00           C\nEND\n", "not a readable PDB"),
        ("HETATM    1  Q   EOH A   1       0.000   0.000   0.000  1.00  0.00\nEND\n", "no element for atoms Q"),
    ],
)  # fmt: skip
def test_bad_pdb(tmp_path, content, message):
    path = tmp_path / "x.pdb"
    if content is not None:
        path.write_text(content)
    with pytest.raises(TrajectoryError, match=message) as caught:
        read_topology(path)
    assert "\n" not in str(caught.value)
