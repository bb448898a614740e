"""What every architecture owes to physics: one contract for all, through the exported model.

An architecture that is added to ``models/registry.py`` is tested here without
further words; ``tests/fresh_models.py`` may name small hyperparameters for it.
What a class does not claim (``direct``, ``rotation``, ``parity``) is measured in
the place of the promise, and must really be absent: a network that turns out to
have a symmetry should claim it.
"""

import itertools

import fresh_models
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from openmm_mlbench.data.datasets import load_dataset
from openmm_mlbench.export.exported_model import ExportedModel
from openmm_mlbench.models.force_field import Batcher
from openmm_mlbench.models.registry import ARCHITECTURES

TOLERANCE = 1e-9
# Of single float64 evaluations.
ROUNDING = 1e-11
# Relative, of the whole float32 network: some thousand roundings of 6e-8.
FLOAT32_TOLERANCE = 1e-4
# What counts as a broken symmetry: far above rounding.
BROKEN = 1e-4
# Ethanol in a cell below twice the cutoff of every network, nm; heights 0.61, 0.58, 0.60.
CELL = torch.tensor([[0.66, 0.0, 0.0], [0.21, 0.61, 0.0], [-0.17, 0.2, 0.6]], dtype=torch.float64)
# Several images along the first axis.
SMALL_CELL = torch.tensor([[0.33, 0.0, 0.0], [0.05, 0.9, 0.0], [0.02, -0.1, 0.45]], dtype=torch.float64)
# Everything inside it is an isolated molecule, and the pair list is searched, not static.
HUGE_CELL = 12.0 * torch.eye(3, dtype=torch.float64)


def exported(name, frames=None, remove_mean_force=False, **hyperparameters):
    field = fresh_models.force_field(name, fresh_models.TINY.get(name, {}) | hyperparameters, frames=frames)
    fresh_models.awaken(field.network)
    field.remove_mean_force = remove_mean_force
    return ExportedModel(field).double().eval()


@pytest.fixture(scope="module", params=sorted(ARCHITECTURES))
def model(request):
    return exported(request.param)


@pytest.fixture
def positions():
    return torch.as_tensor(fresh_models.ethanol_positions_nm())


@pytest.fixture(scope="module", params=sorted(ARCHITECTURES))
def lips(request):
    """A model of LiPS with a cutoff of 6 A, above half the heights of the cell, and a frame: (model, positions, cell)."""
    frames = load_dataset("lips-fm").select(np.arange(3))
    frame = torch.as_tensor(frames.positions[0]) / 10, torch.as_tensor(frames.cells[0]) / 10
    return exported(request.param, frames=frames, cutoff=6.0), *frame


def with_atoms(model, numbers, positions, cell=None):
    """Energy and forces of other atoms than the model's own."""
    own = model.atomic_numbers
    try:
        model.atomic_numbers = torch.as_tensor(numbers)
        return model(positions, cell)
    finally:
        model.atomic_numbers = own


def interaction(model, energy, numbers=None):
    """Energy without the reference, which would hide everything in relative differences."""
    numbers = model.atomic_numbers if numbers is None else numbers
    return float(energy - model.reference[numbers].sum() * model.kjmol_per_ev)


def difference(model, one, other, turn=None):
    """Largest relative difference of energies, and of forces after a turn of the second's."""
    forces = other[1] if turn is None else turn(other[1])
    size = float(forces.abs().max())
    assert size > 1.0
    energies = [interaction(model, result[0]) for result in (one, other)]
    in_energy = abs(energies[0] - energies[1]) / max(abs(energies[1]), 1e-300)
    in_forces = float((one[1] - forces).abs().max()) / size
    assert np.isfinite([in_energy, in_forces]).all()
    return max(in_energy, in_forces)


def assert_same(model, one, other, turn=None):
    assert difference(model, one, other, turn) < TOLERANCE


def assert_claimed(claimed, violation, record_property, name):
    """A claim holds to rounding; what is not claimed is measured, and is not there."""
    record_property(name, violation)
    if claimed:
        assert violation < TOLERANCE
    else:
        assert violation > BROKEN


# ---- symmetries ----


@pytest.mark.parametrize("cell", [None, CELL], ids=["open", "periodic"])
@pytest.mark.parametrize("seed", [0, 1])
def test_rotation(model, positions, cell, seed, record_property):
    matrix = torch.as_tensor(Rotation.random(random_state=seed).as_matrix())
    turned = model(positions @ matrix.T, None if cell is None else cell @ matrix.T)
    violation = difference(model, turned, model(positions, cell), lambda f: f @ matrix.T)
    assert_claimed(model.network.rotation, violation, record_property, "rotation")


def test_inversion(model, positions, record_property):
    violation = difference(model, model(-positions), model(positions), lambda f: -f)
    assert_claimed(model.network.parity, violation, record_property, "parity")


@pytest.mark.parametrize("cell", [None, CELL], ids=["open", "periodic"])
def test_permutation(model, positions, cell):
    order = torch.as_tensor(np.random.default_rng(0).permutation(9))
    permuted = with_atoms(model, model.atomic_numbers[order], positions[order], cell)
    assert_same(model, permuted, model(positions, cell), lambda f: f[order])


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


# ---- forces ----


@pytest.mark.parametrize("cell", [None, CELL, SMALL_CELL], ids=["open", "cell", "small cell"])
def test_forces_are_minus_the_gradient(model, positions, cell, record_property):
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
    violation = float((forces - numerical).abs().max()) / size
    record_property("curl", violation)
    if model.network.direct:
        assert violation > BROKEN
    else:
        assert violation < 1e-6


@pytest.mark.parametrize("cell", [None, CELL], ids=["open", "periodic"])
def test_net_force_and_torque(model, positions, cell, record_property):
    forces = model(positions, cell)[1]
    size = float(forces.abs().max())
    net = float(forces.sum(0).abs().max()) / size
    assert_claimed(not model.network.direct, net, record_property, "net force")
    if cell is None and not model.network.direct and model.network.rotation:
        torque = torch.linalg.cross(positions, forces).sum(0)
        assert float(torque.abs().max()) < TOLERANCE * size


@pytest.mark.parametrize("name", sorted(name for name, kind in ARCHITECTURES.items() if kind.direct))
def test_a_mean_force_is_removed_on_demand(name, positions):
    """What is left is the same force but for one vector that all atoms share."""
    plain, removed = exported(name)(positions), exported(name, remove_mean_force=True)(positions)
    size = float(plain[1].abs().max())
    assert float(plain[1].sum(0).abs().max()) > BROKEN * size
    assert float(removed[1].sum(0).abs().max()) < TOLERANCE * size
    shared = plain[1] - removed[1]
    assert float((shared - plain[1].mean(0)).abs().max()) < TOLERANCE * size
    assert float(plain[0]) == float(removed[0])


# ---- cells smaller than the reach ----


@pytest.mark.parametrize("cell", [CELL, SMALL_CELL], ids=["cell", "small cell"])
def test_a_supercell_has_the_energy_of_its_cells(model, positions, cell):
    """Several images of a small cell are what a larger cell holds as atoms of their own."""
    counts = (2, 2, 2) if cell is CELL else (3, 1, 2)
    offsets = torch.as_tensor(np.array(list(np.ndindex(*counts))), dtype=torch.float64) @ cell
    many = (positions.unsqueeze(0) + offsets.unsqueeze(1)).reshape(-1, 3)
    n_copies = len(offsets)
    super_cell = cell * torch.tensor(counts, dtype=torch.float64).unsqueeze(1)
    energy, forces = with_atoms(model, model.atomic_numbers.repeat(n_copies), many, super_cell)
    single = model(positions, cell)
    assert_same(model, (energy / n_copies, forces[:9]), single)
    assert_same(model, (energy / n_copies, forces[-9:]), single)


def test_a_large_cell_is_open_space(model, positions):
    assert_same(model, model(positions, HUGE_CELL), model(positions))


def test_lips_sees_several_images(lips):
    """83 atoms, half the smallest height 5.59 A: the doubled cell, unwrapped atoms, and the slope along a line."""
    model, positions, cell = lips
    heights = 1.0 / torch.linalg.vector_norm(torch.linalg.inv(cell), dim=0)
    assert float(heights.min()) < 2 * 0.6
    energy, forces = model(positions, cell)
    shifts = np.random.default_rng(3).integers(-3, 4, (83, 3))
    scattered = positions + torch.as_tensor(shifts, dtype=torch.float64) @ cell
    assert_same(model, model(scattered, cell), (energy, forces))
    shortest = int(heights.argmin())
    doubled = cell.clone()
    doubled[shortest] *= 2
    twice = torch.cat([positions, positions + cell[shortest]])
    energy_2, forces_2 = with_atoms(model, model.atomic_numbers.repeat(2), twice, doubled)
    assert_same(model, (energy_2 / 2, forces_2[83:]), (energy, forces))
    if model.network.direct:
        return
    line = torch.as_tensor(np.random.default_rng(4).normal(size=(83, 3)))
    step = 1e-5
    up, down = (model(positions + sign * step * line, cell)[0] for sign in (1, -1))
    slope = -float((forces * line).sum())
    assert float(up - down) / (2 * step) == pytest.approx(slope, rel=1e-6)


# ---- reach ----


def jumps_are_bounded(model, place, cell=None):
    """Whether energy and forces of ``place(distance in A)`` go smoothly through the cutoff.

    A fine grid of distances on both sides: between neighbours of it nothing may change by more
    than ten times the sizes of energy and force per A of distance, however fine the grid is.
    """
    numbers = place(model.cutoff)[0]
    for step in (1e-2, 1e-4, 1e-6):
        energies, forces = [], []
        for k in range(-10, 11):
            energy, force = with_atoms(model, *place(model.cutoff + step * (k + 0.5)), cell)
            energies.append(interaction(model, energy, torch.as_tensor(numbers)))
            forces.append(force)
        force_size = max(float(force.abs().max()) for force in forces)
        energy_size = max(*map(abs, energies), 0.1 * force_size)
        limit = 10.0 * step + ROUNDING
        assert np.isfinite(energies).all()
        assert np.abs(np.diff(energies)).max() < limit * energy_size
        steps = [float((one - other).abs().max()) for one, other in itertools.pairwise(forces)]
        assert max(steps) < limit * force_size


@pytest.mark.parametrize("cell", [None, HUGE_CELL], ids=["static list", "searched list"])
def test_a_lone_atom_comes_within_reach(model, positions, cell):
    """Toward the rim of a molecule; beyond the cutoff nothing is felt."""
    direction = torch.tensor([0.8, 0.6, 0.0], dtype=torch.float64)
    turned = positions - positions.mean(0)
    rim = turned[(turned @ direction).argmax()]
    numbers = torch.cat([model.atomic_numbers, torch.tensor([8])])

    def place(distance):
        # The nearest atom of the molecule decides; the others are farther away.
        along = torch.linspace(0, 2, 4001, dtype=torch.float64).unsqueeze(1) * direction + rim
        nearest = torch.cdist(along, turned).min(1).values * 10.0
        start = along[(nearest - distance).abs().argmin()]
        atom = int(torch.cdist(start.unsqueeze(0), turned).argmin())
        unit = (start - turned[atom]) / torch.linalg.vector_norm(start - turned[atom])
        return numbers, torch.cat([turned, (turned[atom] + unit * distance / 10.0).unsqueeze(0)])

    jumps_are_bounded(model, place, cell)
    alone = with_atoms(model, [8], torch.zeros(1, 3, dtype=torch.float64), cell)
    molecule = model(turned, cell)
    beyond = with_atoms(model, *place(model.cutoff + 1e-3), cell)
    inside = with_atoms(model, *place(0.6 * model.cutoff), cell)
    size = float(molecule[1].abs().max())
    assert float((beyond[1] - torch.cat([molecule[1], alone[1]])).abs().max()) < TOLERANCE * size
    assert float(beyond[0]) == pytest.approx(float(molecule[0] + alone[0]), rel=1e-12)
    assert float((inside[1] - beyond[1]).abs().max()) > BROKEN * size


@pytest.mark.parametrize("cell", [None, HUGE_CELL], ids=["static list", "searched list"])
def test_an_atom_of_a_molecule_leaves_the_reach_of_another(model, cell):
    """A bent chain longer than the cutoff: its last atom has near neighbours while a far one lets go."""
    rng = np.random.default_rng(2)
    chain = torch.as_tensor(np.column_stack([1.25 * np.arange(9), rng.normal(scale=0.5, size=(9, 2))]))
    far = int((torch.linalg.vector_norm(chain - chain[8], dim=1) - model.cutoff).abs().argmin())
    assert 0 < 8 - far < 8
    unit = (chain[8] - chain[far]) / torch.linalg.vector_norm(chain[8] - chain[far])

    def place(distance):
        moved = chain.clone()
        moved[8] = chain[far] + distance * unit
        return model.atomic_numbers, moved / 10.0

    jumps_are_bounded(model, place, cell)


def test_molecules_far_apart_add_up(model, positions):
    """One beside itself on a searched list, as six are, on a GPU too; the single one on the static list."""
    single = model(positions)
    for copies in (2, 6):
        offsets = torch.arange(copies, dtype=torch.float64).view(-1, 1, 1) * torch.tensor([3.0, 0.0, 0.0])
        many = (positions.unsqueeze(0) + offsets).reshape(-1, 3)
        assert len(positions) <= model.few_atoms < len(many)
        assert (len(many) > model.all_pairs_limit) == (copies == 6)
        energy, forces = with_atoms(model, model.atomic_numbers.repeat(copies), many)
        assert_same(model, (energy / copies, forces[:9]), single)
        assert_same(model, (energy / copies, forces[-9:]), single)


# ---- corners ----


@pytest.mark.parametrize("number", [1, 6, 8])
def test_an_isolated_atom(model, number):
    """Finite, the same everywhere, and at rest where forces come from an energy."""
    where = torch.zeros(1, 3, dtype=torch.float64)
    energy, forces = with_atoms(model, [number], where)
    assert np.isfinite(float(energy))
    assert torch.isfinite(forces).all()
    for other in (with_atoms(model, [number], where + 0.7), with_atoms(model, [number], where, HUGE_CELL)):
        assert float(other[0]) == pytest.approx(float(energy), rel=1e-12)
        assert torch.equal(other[1], forces)
    if not model.network.direct or model.network.rotation:
        assert float(forces.abs().max()) == 0.0


def test_an_atom_and_its_own_images(model):
    """One atom in a cell smaller than the cutoff; what its images pull on one side they pull on the other."""
    cell = 0.3 * torch.eye(3, dtype=torch.float64)
    energy, forces = with_atoms(model, [8], torch.full((1, 3), 0.4, dtype=torch.float64), cell)
    alone = with_atoms(model, [8], torch.zeros(1, 3, dtype=torch.float64))
    assert np.isfinite(float(energy))
    assert torch.isfinite(forces).all()
    if not model.network.direct:
        assert float(energy) != float(alone[0])
        assert float(forces.abs().max()) < 1e-9


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("cell", [None, CELL], ids=["open", "periodic"])
def test_two_atoms_at_a_tenth_of_an_angstrom(model, positions, cell, dtype):
    """A collapsed structure gives numbers, never a silent NaN."""
    squeezed = positions.clone()
    squeezed[8] = squeezed[2] + torch.tensor([0.0, 0.006, 0.008], dtype=torch.float64)
    try:
        energy, forces = model.to(dtype)(squeezed, cell)
    finally:
        model.double()
    assert np.isfinite(float(energy))
    assert torch.isfinite(forces).all()


@pytest.mark.parametrize("lost", [np.nan, np.inf], ids=str)
@pytest.mark.parametrize("copies", [1, 6], ids=["static list", "searched list"])
@pytest.mark.parametrize("cell", [None, CELL], ids=["open", "periodic"])
def test_an_atom_that_is_nowhere_does_not_vanish(model, positions, cell, copies, lost):
    """It has no pair within the cutoff, and what is left of the molecule would look sound."""
    many = torch.cat([positions + 0.02 * k for k in range(copies)])
    many[5, 1] = lost
    energy, forces = with_atoms(model, model.atomic_numbers.repeat(copies), many, cell)
    assert np.isnan(float(energy))
    assert torch.isnan(forces).all()


@pytest.mark.parametrize("cell", [None, CELL], ids=["open", "periodic"])
@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_float32_against_float64(name, positions, cell):
    model = exported(name)
    wanted = model(positions, cell)
    single = model.float()
    size = float(wanted[1].abs().max())
    found = single(positions, cell)
    assert found[0].dtype == torch.float64
    assert float((found[1] - wanted[1]).abs().max()) < FLOAT32_TOLERANCE * size
    assert float((found[1] - wanted[1]).abs().max()) > 0.0
    scale = max(abs(interaction(model, wanted[0])), 9 * 2.5)
    assert abs(float(found[0] - wanted[0])) < FLOAT32_TOLERANCE * scale


@pytest.mark.parametrize("periodic", [False, True], ids=["open", "periodic"])
@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_a_batch_equals_its_frames(name, periodic):
    """Block-diagonal graphs: no frame sees another."""
    field = fresh_models.force_field(name, fresh_models.TINY.get(name, {}))
    fresh_models.awaken(field.network)
    field.double().eval()
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
