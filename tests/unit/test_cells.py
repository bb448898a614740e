"""Cells in OpenMM's form: the same lattice, the same distances."""

import numpy as np
import openmm
import periodic_argon as argon
import pytest

from openmm_mlbench.cells import cell_volumes, nearest_images, reduce_cell
from openmm_mlbench.errors import MetricError, SimulationError
from openmm_mlbench.simulation.starts import start_configuration
from openmm_mlbench.topology import bond_lengths, find_bonds


def cell_of(lengths, angles_degrees):
    """Lattice vectors of these lengths and angles, a along x."""
    cosines = np.cos(np.radians(angles_degrees))
    metric = np.outer(lengths, lengths) * np.array(
        [[1, cosines[2], cosines[1]], [cosines[2], 1, cosines[0]], [cosines[1], cosines[0], 1]]
    )
    return np.linalg.cholesky(metric)


# A superionic conductor's cell, one that must be reduced, and one with its vectors in left-handed order.
LIPS = cell_of([12.38, 12.26, 12.44], [107.0, 103.1, 102.4])
SHEARED = np.array([[10.0, 0.0, 0.0], [14.0, 11.0, 0.0], [-9.0, 17.0, 12.0]])
CELLS = {"lips": LIPS, "sheared": SHEARED, "left-handed": LIPS[[1, 0, 2]], "cubic": 12.4 * np.eye(3)}


def distances(positions, cell):
    """Between all atoms, nearest images."""
    vectors = positions[None, :, None] - positions[None, None, :]
    return np.linalg.norm(nearest_images(vectors, cell[None])[0], axis=-1)


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("turn", [np.eye(3), argon.rotation(3)], ids=["as it is", "turned"])
def test_reduced_cells_hold_the_same_lattice(name, turn):
    cell = CELLS[name] @ turn.T
    positions = np.random.default_rng(0).uniform(-20, 40, (12, 3))
    box, turned = reduce_cell(cell, positions)
    openmm.System().setDefaultPeriodicBoxVectors(*(0.1 * box))
    assert np.array_equal(box, np.tril(box))
    assert (np.diag(box) > 0).all()
    for one, diagonal in ((box[1, 0], box[0, 0]), (box[2, 0], box[0, 0]), (box[2, 1], box[1, 1])):
        assert 2 * abs(one) <= diagonal * (1 + 1e-12)
    assert cell_volumes(box[None]) == pytest.approx(cell_volumes(cell[None]))
    np.testing.assert_allclose(distances(turned, box), distances(positions, cell), atol=1e-9)
    # Turned, not mirrored: unwrapped positions keep their distances and their handedness.
    before, after = positions[1:4] - positions[0], turned[1:4] - turned[0]
    assert np.linalg.det(after) == pytest.approx(np.linalg.det(before))
    np.testing.assert_allclose(after @ after.T, before @ before.T, atol=1e-8)


def test_a_cell_in_the_right_form_is_left_alone():
    positions = np.random.default_rng(0).uniform(0, 10, (5, 3))
    box, same = reduce_cell(argon.TRICLINIC, positions)
    assert np.array_equal(box, argon.TRICLINIC)
    assert np.array_equal(same, positions)


def test_a_flat_cell_is_refused():
    flat = np.array([[1.0, 0, 0], [0, 1, 0], [1, 1, 0]])
    with pytest.raises(MetricError, match="no volume"):
        reduce_cell(flat, np.zeros((1, 3)))
    frames = argon.frames(flat)
    with pytest.raises(SimulationError, match="argon, frame 2: the cell has no volume"):
        start_configuration(frames, 2)


def test_energies_do_not_depend_on_how_a_cell_lies_in_space(tmp_path):
    """The same noise in each frame, so that only the turn differs."""
    energies = []
    for turn in (np.eye(3), argon.rotation(1)):
        straight = argon.frames(argon.TRICLINIC)
        cells = straight.cells @ turn.T
        frames = argon.dataclasses.replace(straight, cells=cells, positions=straight.positions @ turn.T)
        argon.write_pdb(tmp_path / "argon.pdb", frames)
        topology = openmm.app.PDBFile(str(tmp_path / "argon.pdb")).topology
        system = argon.Argon().create_system(topology)
        context = openmm.Context(
            system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
        )
        positions_nm, box_nm = start_configuration(frames, 1)
        context.setPeriodicBoxVectors(*box_nm)
        context.setPositions(positions_nm)
        energies.append(context.getState(energy=True).getPotentialEnergy()._value)
    assert energies[1] == pytest.approx(energies[0], abs=1e-8)


def test_start_frames_have_whole_molecules():
    frames = argon.frames(LIPS)
    bonds = np.array([[0, 1], [1, 2], [5, 4]])
    # Any image of any atom.
    images = np.random.default_rng(1).integers(-2, 3, (frames.n_atoms, 3)) @ LIPS
    scattered = argon.dataclasses.replace(frames, positions=frames.positions + images)
    positions_nm, _ = start_configuration(scattered, 0, bonds)
    vectors = 10 * (positions_nm[bonds[:, 1]] - positions_nm[bonds[:, 0]])
    nearest = distances(frames.positions[0], LIPS)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), [nearest[i, j] for i, j in bonds], atol=1e-9)
    # Without bonds, and for whole molecules, nothing moves.
    whole, _ = start_configuration(frames, 0, np.array([[0, 1]]))
    assert np.array_equal(whole, start_configuration(frames, 0)[0])


def test_bonds_across_the_boundary():
    """A chain of four carbon atoms, 1.5 A apart, that leaves a cell through its face."""
    cell = LIPS
    chain = np.array([[11.0, 1, 1], [12.5, 1, 1], [14.0, 1, 1], [15.5, 1, 1]])
    numbers = np.full(4, 6)
    wrapped = (chain @ np.linalg.inv(cell) % 1.0) @ cell
    bonds = find_bonds(numbers, wrapped, cell_A=cell)
    assert bonds.tolist() == [[0, 1], [1, 2], [2, 3]]
    assert find_bonds(numbers, chain).tolist() == bonds.tolist()
    lengths = bond_lengths(wrapped[None], bonds, cells=cell[None])
    np.testing.assert_allclose(lengths, [[1.5, 1.5, 1.5]])
    assert bond_lengths(wrapped, bonds).max() > 5
