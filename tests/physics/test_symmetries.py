"""What every architecture owes to physics: one contract for all, in float64, through the exported model."""

import fresh_models
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from openmm_mlbench.export.exported_model import ExportedModel
from openmm_mlbench.models.force_field import Batcher
from openmm_mlbench.models.registry import ARCHITECTURES

TOLERANCE = 1e-9
# Ethanol in a cell below twice the cutoff of both networks, nm; heights 0.61, 0.58, 0.60.
CELL = torch.tensor([[0.66, 0.0, 0.0], [0.21, 0.61, 0.0], [-0.17, 0.2, 0.6]], dtype=torch.float64)
# Three images along the first axis.
SMALL_CELL = torch.tensor([[0.33, 0.0, 0.0], [0.05, 0.9, 0.0], [0.02, -0.1, 0.45]], dtype=torch.float64)


@pytest.fixture(scope="module", params=sorted(ARCHITECTURES))
def model(request):
    return ExportedModel(fresh_models.force_field(request.param)).double().eval()


@pytest.fixture
def positions():
    return torch.as_tensor(fresh_models.ethanol_positions_nm())


def interaction(model, energy):
    """Energy without the reference, which would hide everything in relative differences."""
    return float(energy - model.reference[model.atomic_numbers].sum() * model.kjmol_per_ev)


def assert_same(model, one, other, turn=None):
    """Energies and forces agree, forces after a (3, 3) matrix or a permutation of the second."""
    forces = other[1] if turn is None else turn(other[1])
    assert interaction(model, one[0]) == pytest.approx(interaction(model, other[0]), rel=TOLERANCE)
    size = float(forces.abs().max())
    assert size > 1.0
    assert float((one[1] - forces).abs().max()) < TOLERANCE * size


@pytest.mark.parametrize("seed", [0, 1])
def test_rotation(model, positions, seed):
    matrix = torch.as_tensor(Rotation.random(random_state=seed).as_matrix())
    assert_same(model, model(positions @ matrix.T), model(positions), lambda f: f @ matrix.T)


def test_rotation_of_a_periodic_cell(model, positions):
    matrix = torch.as_tensor(Rotation.random(random_state=2).as_matrix())
    turned = model(positions @ matrix.T, CELL @ matrix.T)
    assert_same(model, turned, model(positions, CELL), lambda f: f @ matrix.T)


def test_inversion(model, positions):
    assert_same(model, model(-positions), model(positions), lambda f: -f)


@pytest.mark.parametrize("cell", [None, CELL], ids=["open", "periodic"])
def test_permutation(model, positions, cell):
    order = torch.as_tensor(np.random.default_rng(0).permutation(9))
    plain = model(positions, cell)
    numbers = model.atomic_numbers
    try:
        model.atomic_numbers = numbers[order]
        permuted = model(positions[order], cell)
    finally:
        model.atomic_numbers = numbers
    assert_same(model, permuted, plain, lambda f: f[order])


def test_equal_atoms_are_interchangeable(model, positions):
    """Two hydrogens of the methyl group change places, the list of species does not."""
    order = torch.tensor([0, 1, 2, 3, 4, 6, 5, 7, 8])
    assert_same(model, model(positions[order]), model(positions), lambda f: f[order])


def test_translation(model, positions):
    shift = torch.tensor([0.3, -7.0, 1.1], dtype=torch.float64)
    assert_same(model, model(positions + shift), model(positions))
    assert_same(model, model(positions + shift, CELL), model(positions, CELL))


@pytest.mark.parametrize("cell", [CELL, SMALL_CELL], ids=["cell", "small cell"])
def test_lattice_translations_of_single_atoms(model, positions, cell):
    """Unwrapped positions: each atom up to three cells away by itself."""
    shifts = np.random.default_rng(1).integers(-3, 4, (9, 3))
    scattered = positions + torch.as_tensor(shifts, dtype=torch.float64) @ cell
    assert_same(model, model(scattered, cell), model(positions, cell))


@pytest.mark.parametrize("cell", [None, CELL, SMALL_CELL], ids=["open", "cell", "small cell"])
def test_forces_are_minus_the_gradient(model, positions, cell):
    forces = model(positions, cell)[1]
    step = 2e-5
    numerical = torch.zeros_like(forces)
    for place in np.ndindex(*forces.shape):
        moved = positions.clone()
        moved[place] += step
        up = model(moved, cell)[0]
        moved[place] -= 2 * step
        numerical[place] = -(up - model(moved, cell)[0]) / (2 * step)
    size = float(forces.abs().max())
    assert size > 1.0
    assert float((forces - numerical).abs().max()) < 1e-6 * size


@pytest.mark.parametrize("cell", [None, CELL], ids=["open", "periodic"])
def test_net_force_and_torque(model, positions, cell):
    forces = model(positions, cell)[1]
    size = float(forces.abs().max())
    assert float(forces.sum(0).abs().max()) < TOLERANCE * size
    if cell is None:
        torque = torch.linalg.cross(positions, forces).sum(0)
        assert float(torque.abs().max()) < TOLERANCE * size


@pytest.mark.parametrize("cell", [CELL, SMALL_CELL], ids=["cell", "small cell"])
def test_a_supercell_has_the_energy_of_its_cells(model, positions, cell):
    """Several images of a small cell are what a larger cell holds as atoms of their own."""
    numbers = model.atomic_numbers
    counts = (2, 2, 2) if cell is CELL else (3, 1, 2)
    offsets = torch.as_tensor(np.array(list(np.ndindex(*counts))), dtype=torch.float64) @ cell
    many = (positions.unsqueeze(0) + offsets.unsqueeze(1)).reshape(-1, 3)
    single = model(positions, cell)
    n_copies = len(offsets)
    try:
        model.atomic_numbers = numbers.repeat(n_copies)
        super_cell = cell * torch.tensor(counts, dtype=torch.float64).unsqueeze(1)
        energy, forces = model(many, super_cell)
    finally:
        model.atomic_numbers = numbers
    assert_same(model, (energy / n_copies, forces[:9]), single)
    assert_same(model, (energy / n_copies, forces[-9:]), single)


def test_a_large_cell_is_open_space(model, positions):
    far = 5.0 * torch.eye(3, dtype=torch.float64)
    assert_same(model, model(positions, far), model(positions))


def test_two_molecules_far_apart_add_up(model, positions):
    """Above the limit of the static pair list the list is searched; nothing else changes."""
    numbers = model.atomic_numbers
    copies = 6
    offsets = torch.arange(copies, dtype=torch.float64).view(-1, 1, 1) * torch.tensor([3.0, 0.0, 0.0])
    many = (positions.unsqueeze(0) + offsets).reshape(-1, 3)
    single = model(positions)
    try:
        model.atomic_numbers = numbers.repeat(copies)
        assert len(model.atomic_numbers) > model.all_pairs_limit
        energy, forces = model(many)
    finally:
        model.atomic_numbers = numbers
    assert_same(model, (energy / copies, forces[:9]), single)


@pytest.mark.parametrize("periodic", [False, True], ids=["open", "periodic"])
@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_a_batch_equals_its_frames(name, periodic):
    """Block-diagonal graphs: no frame sees another."""
    field = fresh_models.force_field(name, fresh_models.TINY[name])
    field.network.double()
    frames, split = fresh_models.ethanol()
    positions = torch.as_tensor(frames.positions[split.test[:4]])
    cells = None
    if periodic:
        scale = torch.tensor([1.0, 1.1, 1.3, 0.9], dtype=torch.float64).view(-1, 1, 1)
        cells = 10.0 * CELL * scale
    batcher = Batcher(field)
    energies, forces = field(batcher(positions, cells))
    for k in range(4):
        energy, force = field(batcher(positions[k : k + 1], None if cells is None else cells[k : k + 1]))
        np.testing.assert_allclose(energies[k].detach(), energy[0].detach(), rtol=1e-12)
        np.testing.assert_allclose(forces[k].detach(), force[0].detach(), rtol=1e-9, atol=1e-10)
