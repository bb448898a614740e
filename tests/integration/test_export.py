"""An exported model is the same function everywhere, and keeps what its card promises."""

import dataclasses
import itertools

import fresh_models
import numpy as np
import openmm
import pytest
import torch
from openmm import unit
from torch import Tensor

from openmm_mlbench import units
from openmm_mlbench.errors import ModelError
from openmm_mlbench.export import ahead_of_time
from openmm_mlbench.export.archive import find_archive, list_archives
from openmm_mlbench.export.card import Claims
from openmm_mlbench.export.check import check_archive
from openmm_mlbench.export.exported_model import ExportedModel
from openmm_mlbench.forces.drivers import make_force
from openmm_mlbench.forces.platforms import prepare_platforms
from openmm_mlbench.models.force_field import Batcher
from openmm_mlbench.models.network import Network
from openmm_mlbench.models.registry import ARCHITECTURES
from openmm_mlbench.potential import Potential
from openmm_mlbench.workflow import archive_structure

prepare_platforms()

# Relative, by dtype of the network: sums over some hundred terms in another order.
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-10}
BOX = torch.tensor([[0.66, 0.0, 0.0], [0.21, 0.61, 0.0], [-0.17, 0.2, 0.6]], dtype=torch.float64)
PLATFORMS = ("Reference", "CPU")


@pytest.fixture(scope="module", params=sorted(ARCHITECTURES))
def archive(request, tmp_path_factory):
    """Fresh weights, with every kind of layer."""
    path = tmp_path_factory.mktemp("archive") / f"{request.param}.pt"
    return find_archive(fresh_models.write_archive(path, request.param))


@pytest.fixture(scope="module")
def modules(archive):
    """Its forms, made once; the last is traced with another configuration than it is asked about."""
    eager = archive.load_eager()
    positions = torch.as_tensor(fresh_models.ethanol_positions_nm())
    return {
        "eager": eager,
        "scripted": torch.jit.script(eager),
        "reloaded": archive.load_script(),
        "ahead of time": ahead_of_time.specialise(eager, positions + 0.1),
    }


@pytest.fixture
def positions():
    return torch.as_tensor(fresh_models.ethanol_positions_nm())


@pytest.fixture
def numbers():
    return fresh_models.ethanol()[0].atomic_numbers


def in_openmm(module, positions, *, platform="Reference", driver="auto", box=None):
    """Energy and forces of a module as a Context returns them."""
    system = openmm.System()
    for _ in range(len(positions)):
        system.addParticle(1.0)
    if box is not None:
        system.setDefaultPeriodicBoxVectors(*box.numpy())
    system.addForce(make_force(module, periodic=box is not None, driver=driver))
    context = openmm.Context(
        system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName(platform)
    )
    context.setPositions(positions.numpy())
    state = context.getState(energy=True, forces=True)
    forces = state.getForces(asNumpy=True).value_in_unit(unit.kilojoules_per_mole / unit.nanometer)
    return state.getPotentialEnergy().value_in_unit(unit.kilojoules_per_mole), np.array(forces)


def assert_same(model, found, wanted, tolerance=TOLERANCE[torch.float32]):
    reference = float(model.reference[model.atomic_numbers].sum()) * model.kjmol_per_ev
    energy, forces = (value.detach().double().numpy() for value in wanted)
    size = np.abs(forces).max()
    assert size > 1.0
    assert float(found[0]) == pytest.approx(float(energy), abs=tolerance * max(1.0, abs(energy - reference)))
    np.testing.assert_allclose(np.asarray(found[1]), forces, atol=tolerance * size)


@pytest.mark.parametrize("box", [None, BOX], ids=["open", "periodic"])
def test_eager_scripted_and_in_openmm(modules, positions, box):
    eager = modules["eager"]
    arguments = (positions,) if box is None else (positions, box)
    wanted = eager(*arguments)
    for name in ("scripted", "reloaded"):
        energy, forces = modules[name](*arguments)
        assert_same(eager, (energy.detach(), forces.detach()), wanted)
    for platform, driver in itertools.product(PLATFORMS, ("torchforce", "pythonforce")):
        found = in_openmm(modules["reloaded"], positions, platform=platform, driver=driver, box=box)
        assert_same(eager, found, wanted)


def test_ahead_of_time_in_openmm(modules, positions):
    eager, module = modules["eager"], modules["ahead of time"]
    wanted = eager(positions)
    energy, forces = module(positions)
    assert_same(eager, (energy, forces), wanted)
    for platform, driver in itertools.product(PLATFORMS, ("torchforce", "pythonforce")):
        assert_same(eager, in_openmm(module, positions, platform=platform, driver=driver), wanted)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_the_size_of_the_paper(tmp_path, positions, name):
    archive = find_archive(fresh_models.write_archive(tmp_path / f"{name}.pt", name, hyperparameters={}))
    eager = archive.load_eager()
    wanted = eager(positions)
    for module in (archive.load_script(), ahead_of_time.specialise(eager, positions + 0.1)):
        assert_same(eager, in_openmm(module, positions), wanted)


def test_ahead_of_time_knows_the_cutoff(archive, positions, numbers):
    """A molecule pulled apart beyond the cutoff: the static list of all pairs adds nothing."""
    eager = archive.load_eager().double()
    module = ahead_of_time.specialise(eager, positions)
    apart = positions + torch.as_tensor([[0.0, 0.0, 0.9 * (number == 8)] for number in numbers])
    wanted = eager(apart, 20.0 * torch.eye(3, dtype=torch.float64))
    assert_same(eager, module(apart), wanted, TOLERANCE[torch.float64])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_and_layout_of_the_forces(modules, positions, dtype):
    """Traps 1 and 2 of TorchForce: memory that is not contiguous, or of another dtype, is read as it lies."""
    eager = modules["eager"]
    wanted = eager(positions)
    # OpenMM's Reference kernel hands over positions that require a gradient.
    where = positions.to(dtype).requires_grad_()
    for name, module in modules.items():
        energy, forces = module(where)
        assert energy.dtype == torch.float64, name
        assert energy.shape == (), name
        assert forces.dtype == dtype, name
        assert forces.is_contiguous(), name
        assert not forces.requires_grad, name
        assert_same(eager, (energy, forces), wanted, 1e-4 if dtype == torch.float32 else 2e-5)


def test_a_subset_of_the_atoms(archive, positions, numbers):
    """Chosen atoms feel the model, in their order; all others feel nothing."""
    atoms = [7, 2, 0, 4]
    potential = Potential(archive)
    eager = archive.load_eager()
    eager.atomic_numbers = torch.as_tensor(numbers[atoms])
    energy, forces = eager(positions[atoms])
    for evaluation in ("ahead-of-time", "autograd"):
        module = potential.module(numbers[atoms].tolist(), atoms=atoms, evaluation=evaluation)
        found = module(positions)
        assert_same(eager, (found[0], found[1][atoms]), (energy, forces))
        others = np.setdiff1d(np.arange(9), atoms)
        assert float(found[1][others].abs().max()) == 0.0
        assert found[1].is_contiguous()


# ---- the traps, with the cure taken away ----


def test_a_frozen_ahead_of_time_module_is_the_model(modules, positions):
    """TorchForce freezes its module."""
    model, module = modules["eager"], modules["ahead of time"]
    assert "aten::addmm(" not in str(module.core.graph)
    assert_same(model, torch.jit.freeze(module.eval())(positions), model(positions))


def test_freezing_needs_the_decomposed_addmm(tmp_path, positions, monkeypatch):
    """With a traced addmm freezing fails."""
    model = find_archive(fresh_models.write_archive(tmp_path / "schnet.pt")).load_eager()
    monkeypatch.setattr(ahead_of_time, "_DECOMPOSITIONS", {})
    untreated = ahead_of_time.specialise(model, positions)
    assert "aten::addmm" in str(untreated.core.graph)
    with pytest.raises(RuntimeError, match=r"must match the size|is invalid for input of size"):
        torch.jit.freeze(untreated.eval())(positions)


class TransposedForces(torch.nn.Module):
    """Right forces, stored by columns; energy as it should be."""

    def __init__(self, model: torch.nn.Module, cure: bool) -> None:
        super().__init__()
        self.model = model
        self.cure = cure

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        energy, forces = self.model(positions)
        forces = forces.t().contiguous().t()
        return energy, forces.contiguous() if self.cure else forces


def test_forces_that_are_not_contiguous_are_read_wrongly(archive, positions):
    """The trap itself: should this fail one day, OpenMM has mended it."""
    eager = archive.load_eager()
    wanted = eager(positions)
    for cure in (True, False):
        module = torch.jit.script(TransposedForces(archive.load_script(), cure))
        energy, forces = in_openmm(module, positions)
        if cure:
            assert_same(eager, (energy, forces), wanted)
        else:
            assert np.abs(forces - wanted[1].detach().numpy()).max() > 1.0


def strided_forces(pair_gradient: Tensor, pair_index: Tensor, n_atoms: int) -> Tensor:
    forces = torch.zeros(n_atoms, 3, dtype=pair_gradient.dtype, device=pair_gradient.device)
    forces = forces.index_add(0, pair_index[0], pair_gradient).index_add(0, pair_index[1], -pair_gradient)
    return forces.t().contiguous().t()


def test_the_exported_module_cures_any_layout(positions, monkeypatch):
    """Whatever layout the sums come out in, Context and module agree."""
    monkeypatch.setattr("openmm_mlbench.export.exported_model.forces_from_pairs", strided_forces)
    monkeypatch.setitem(ARCHITECTURES, "pairs", Pairs)
    model = ExportedModel(fresh_models.force_field("pairs")).eval()
    vectors = positions[1:] - positions[:1]
    index = torch.stack([torch.zeros(8, dtype=torch.long), torch.arange(1, 9)])
    plain = model.evaluate(vectors, index, model.network.topology(model.atomic_numbers, index))[1]
    assert not plain.is_contiguous()
    for module in (torch.jit.script(model), ahead_of_time.specialise(model, positions)):
        energy, forces = module(positions)
        assert forces.is_contiguous()
        assert_same(model, in_openmm(module, positions), (energy, forces))


# ---- the check ----


class Pairs(Network):
    """A sum over pairs; its children break one promise each."""

    def __init__(self) -> None:
        super().__init__()
        self.cutoff = 5.0
        self.weight = torch.nn.Parameter(torch.tensor(0.3))

    def topology(self, atomic_numbers: Tensor, pair_index: Tensor) -> list[Tensor]:
        return [atomic_numbers, pair_index[0], pair_index[1]]

    def sums(self, values: Tensor, topology: list[Tensor]) -> Tensor:
        result = torch.zeros(topology[0].size(0), dtype=values.dtype, device=values.device)
        return result.index_add(0, topology[1], values).index_add(0, topology[2], values)

    def smooth(self, pair_vectors: Tensor) -> Tensor:
        r = torch.linalg.vector_norm(pair_vectors, dim=1) / self.cutoff
        return self.weight * (1.0 - r).clamp(0.0, 1.0).pow(3)

    def atomic_energies(self, pair_vectors: Tensor, topology: list[Tensor]) -> Tensor:
        return self.sums(self.smooth(pair_vectors), topology)


class Detached(Pairs):
    """Its forces are no gradient: a factor of the energy is held constant."""

    def atomic_energies(self, pair_vectors: Tensor, topology: list[Tensor]) -> Tensor:
        values = self.smooth(pair_vectors)
        return self.sums(values * values.detach(), topology)


class Curl(Pairs):
    """Central forces that are no gradient; see ``curled_forces``."""


def curled_forces(pair_gradient: Tensor, pair_index: Tensor, n_atoms: int) -> Tensor:
    gradient = pair_gradient * torch.linalg.vector_norm(pair_gradient, dim=1, keepdim=True)
    forces = torch.zeros(n_atoms, 3, dtype=gradient.dtype, device=gradient.device)
    return forces.index_add(0, pair_index[0], gradient).index_add(0, pair_index[1], -gradient)


class Lopsided(Pairs):
    """One direction of space is special, both ways alike."""

    def atomic_energies(self, pair_vectors: Tensor, topology: list[Tensor]) -> Tensor:
        return self.sums(self.smooth(pair_vectors) * pair_vectors[:, 0].square(), topology)


class Chiral(Pairs):
    """Triple products of the three pairs (0, 1), (0, 2), (0, 3): a screw sense."""

    def atomic_energies(self, pair_vectors: Tensor, topology: list[Tensor]) -> Tensor:
        values = self.smooth(pair_vectors).unsqueeze(1)
        shape = torch.zeros(topology[0].size(0), 3, dtype=values.dtype, device=values.device)
        moments: list[Tensor] = []
        for power in (1.0, 2.0, 3.0):
            directed = pair_vectors * values.pow(power)
            moments.append(shape.index_add(0, topology[1], directed).index_add(0, topology[2], -directed))
        product = torch.linalg.cross(moments[0], moments[1])
        return (product * moments[2]).sum(1) * 100.0 + self.sums(values[:, 0], topology)


class Numbered(Pairs):
    """The first atom of a list weighs more."""

    def atomic_energies(self, pair_vectors: Tensor, topology: list[Tensor]) -> Tensor:
        energies = self.sums(self.smooth(pair_vectors), topology)
        return energies * torch.arange(1, energies.size(0) + 1).to(energies)


class Pushed(Pairs):
    """Its forces get a constant added; see ``pushed_forces``."""


def pushed_forces(pair_gradient: Tensor, pair_index: Tensor, n_atoms: int) -> Tensor:
    forces = torch.zeros(n_atoms, 3, dtype=pair_gradient.dtype, device=pair_gradient.device)
    forces = forces.index_add(0, pair_index[0], pair_gradient).index_add(0, pair_index[1], -pair_gradient)
    return forces + 0.01


class Direct(Pairs):
    """Forces of its own that obey nothing but the order of atoms."""

    direct = True
    rotation = False
    parity = False

    def energies_and_forces(self, pair_vectors: Tensor, topology: list[Tensor]) -> tuple[Tensor, Tensor]:
        values = self.smooth(pair_vectors)
        forces = torch.stack(
            [self.sums(values, topology), self.sums(values * pair_vectors[:, 0].square(), topology)]
        )
        return self.sums(values, topology), torch.stack([forces[0], forces[0] * forces[1], forces[1]], dim=1)


PROMISES = {
    "conservative": "forces against finite differences (conservative)",
    "rotation": "rotation",
    "parity": "inversion (parity)",
    "zero_net_force": "net force",
}


def failed(rows):
    return {row.name for row in rows if not row.passed}


def check(tmp_path, network, claims, monkeypatch, numbers, positions):
    monkeypatch.setitem(ARCHITECTURES, "toy", network)
    path = fresh_models.write_archive(tmp_path / "toy.pt", "toy", claims=claims)
    return check_archive(find_archive(path), numbers, positions.numpy())


def test_the_check_passes_on_good_models(archive, numbers, positions):
    told = []
    rows = check_archive(archive, numbers, positions.numpy(), on_row=told.append)
    assert failed(rows) == set()
    assert told == rows
    # Measured, not assumed: rounding must leave its trace in these.
    measured = {row.name: row.measured for row in rows}
    for name in (
        "permutation of atoms",
        "float32 positions",
        "float32 against float64",
        "forces against finite differences (conservative)",
        "rotation",
        "net force",
    ):
        assert measured[name] > 0, name
    claims = archive.card.claims
    unclaimed = {row for promise, row in PROMISES.items() if not getattr(claims, promise)}
    assert {row.name for row in rows if row.tolerance is None} == unclaimed
    assert all(measured[name] > 1e-3 for name in unclaimed)


def test_a_plain_pair_sum_passes(tmp_path, monkeypatch, numbers, positions):
    rows = check(tmp_path, Pairs, fresh_models.EVERYTHING, monkeypatch, numbers, positions)
    assert failed(rows) == set()


@pytest.mark.parametrize(
    ("network", "broken"),
    [
        (Curl, {"conservative"}),
        (Lopsided, {"rotation"}),
        (Chiral, {"parity"}),
        (Pushed, {"conservative", "rotation", "parity", "zero_net_force"}),
    ],
)
def test_claims_that_do_not_hold_fail_the_check(tmp_path, monkeypatch, numbers, positions, network, broken):
    direct = {Curl: curled_forces, Pushed: pushed_forces}
    if network in direct:
        monkeypatch.setattr("openmm_mlbench.export.exported_model.forces_from_pairs", direct[network])
    rows = check(tmp_path, network, fresh_models.EVERYTHING, monkeypatch, numbers, positions)
    assert failed(rows) == {PROMISES[claim] for claim in broken}
    # The honest card of the same model: measured and shown all the same.
    honest = dataclasses.replace(fresh_models.EVERYTHING, **dict.fromkeys(broken, False))
    rows = check(tmp_path, network, honest, monkeypatch, numbers, positions)
    assert failed(rows) == set()
    for claim in broken:
        (row,) = (row for row in rows if row.name == PROMISES[claim])
        assert row.tolerance is None
        assert row.measured > 1e-3


def test_a_detached_factor_fails_the_check(tmp_path, monkeypatch, numbers, positions):
    """TorchForce's freezing drops ``detach``: such a network is another one in OpenMM, and the check says so."""
    nothing = Claims(conservative=False, rotation=False, parity=False, zero_net_force=False)
    rows = check(tmp_path, Detached, nothing, monkeypatch, numbers, positions)
    assert failed(rows) == {"in OpenMM against eager"}


@pytest.mark.parametrize("remove_mean_force", [False, True])
def test_direct_forces_come_through(tmp_path, monkeypatch, numbers, positions, remove_mean_force):
    """Scripted, ahead of time, in OpenMM and batched: the network's own forces, with or without their mean."""
    monkeypatch.setitem(ARCHITECTURES, "toy", Direct)
    path = fresh_models.write_archive(tmp_path / "toy.pt", "toy", remove_mean_force=remove_mean_force)
    archive = find_archive(path)
    rows = check_archive(archive, numbers, positions.numpy())
    assert failed(rows) == set()
    measured = {row.name: row.measured for row in rows}
    assert measured["forces against finite differences (conservative)"] > 0.1
    assert (measured["net force"] > 0.1) is not remove_mean_force
    field = archive.load_force_field()
    batch = Batcher(field)(torch.stack([positions * 10.0] * 2).float(), None)
    energies, forces = field(batch)
    energy, expected = archive.load_eager()(positions)
    np.testing.assert_allclose(forces[1] * units.KJMOL_NM_PER_EV_ANGSTROM, expected, rtol=1e-4, atol=1e-3)
    total = (energies[1].double() + field.reference_energy()) * units.KJMOL_PER_EV
    assert float(total) == pytest.approx(float(energy), rel=1e-6)
    (trained,) = torch.autograd.grad(field(batch, training=True)[1].square().sum(), [field.network.weight])
    assert float(trained.abs()) > 0


def test_permutation_is_no_matter_of_claims(tmp_path, monkeypatch, numbers, positions):
    nothing = Claims(conservative=False, rotation=False, parity=False, zero_net_force=False)
    rows = check(tmp_path, Numbered, nothing, monkeypatch, numbers, positions)
    assert failed(rows) == {"permutation of atoms"}


class Undefined(Pairs):
    """Not a number."""

    def atomic_energies(self, pair_vectors: Tensor, topology: list[Tensor]) -> Tensor:
        return self.sums(self.smooth(pair_vectors).sub(10.0).sqrt(), topology)


def test_nan_passes_nothing(tmp_path, monkeypatch, numbers, positions):
    rows = check(tmp_path, Undefined, fresh_models.EVERYTHING, monkeypatch, numbers, positions)
    assert failed(rows) == {row.name for row in rows}


def test_an_archive_that_differs_from_its_card_fails(tmp_path, monkeypatch, numbers, positions):
    """The code in the archive is another than that of the network it names."""
    monkeypatch.setitem(ARCHITECTURES, "toy", Chiral)
    path = fresh_models.write_archive(tmp_path / "toy.pt", "toy")
    monkeypatch.setitem(ARCHITECTURES, "toy", Pairs)
    rows = check_archive(find_archive(path), numbers, positions.numpy())
    assert failed(rows) == {"archive against eager", "in OpenMM against eager"}


def test_the_check_wants_known_elements(archive, positions):
    with pytest.raises(ModelError, match=r"does not know the atomic numbers \[7\]"):
        check_archive(archive, np.array([7] * 9), positions.numpy())


@pytest.mark.parametrize(
    "name",
    [
        # The check of a large network takes a quarter of a minute, that of 192 atoms up to one.
        pytest.param(
            name,
            marks=pytest.mark.slow
            if find_archive(name).path.stat().st_size > 5_000_000 or name.startswith("water")
            else (),
        )
        for name in list_archives()
    ],
)
def test_shipped_models_keep_their_promises(name):
    """On the system that each was trained for."""
    archive = find_archive(name)
    assert failed(check_archive(archive, *archive_structure(archive))) == set()
    assert archive.card.errors["force_mae_meV_A"] > 0
