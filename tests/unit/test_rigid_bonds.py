"""Lengths of constrained bonds are read off the frames that were made with them."""

import numpy as np
import pytest

from openmm_mlbench.errors import TrajectoryError
from openmm_mlbench.topology import rigid_hydrogen_bonds

WATER = np.array([8, 1, 1])


def water_frames(free):
    """(20, 3, 3), A: O-H 1.0 and 0.96, turned about; ``free`` is the spread of the second."""
    generator = np.random.default_rng(0)
    frames = []
    for _ in range(20):
        turn = np.linalg.qr(generator.normal(size=(3, 3)))[0]
        second = 0.96 + free * generator.uniform(-1, 1)
        frames.append(np.array([[0, 0, 0], [1.0, 0, 0], [-0.3 * second, 0.954 * second, 0]]) @ turn)
    return np.array(frames)


def test_lengths_are_those_of_the_frames():
    bonds, lengths = rigid_hydrogen_bonds(WATER, water_frames(free=0.0))
    assert bonds.tolist() == [[0, 1], [0, 2]]
    np.testing.assert_allclose(lengths, [1.0, 0.96 * np.hypot(0.3, 0.954)], rtol=1e-12)


def test_free_hydrogens_that_call_themselves_rigid_are_refused():
    with pytest.raises(TrajectoryError, match=r"bond of atoms 0 and 2 varies by 0\.0\d+ A"):
        rigid_hydrogen_bonds(WATER, water_frames(free=0.03))


def test_without_hydrogens_nothing_can_be_rigid():
    with pytest.raises(TrajectoryError, match="no bonds to hydrogen"):
        rigid_hydrogen_bonds(np.array([8, 8]), np.array([[[0, 0, 0], [1.2, 0, 0]]]))
