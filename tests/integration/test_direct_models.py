"""A direct network from training to a Context: forces of its own, and no energy where it has learned none."""

import dataclasses

import fresh_models
import numpy as np
import openmm
import pytest
import torch
from openmm import app, unit

from openmm_mlbench.data.splits import make_split
from openmm_mlbench.errors import ModelError
from openmm_mlbench.export.archive import find_archive, read_card
from openmm_mlbench.export.check import check_archive
from openmm_mlbench.forces.platforms import prepare_platforms
from openmm_mlbench.metrics.force_errors import energy_results
from openmm_mlbench.potential import Potential
from openmm_mlbench.training.recipe_files import recipe_for
from openmm_mlbench.training.trainer import Trainer, force_field_from_checkpoint, load_checkpoint, predict
from openmm_mlbench.workflow import export_checkpoint

prepare_platforms()


def train(folder, **overrides):
    frames = dataclasses.replace(fresh_models.ethanol()[0].select(np.arange(24)), name="few")
    recipe = recipe_for("forcenet").with_overrides(
        hyperparameters=fresh_models.TINY["forcenet"], max_epochs=2, batch_size=4, **overrides
    )
    trainer = Trainer(recipe, frames, make_split(frames, 16, 4, 4, seed=0), folder)
    return trainer.run(), frames


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return train(tmp_path_factory.mktemp("training"))


def exported(checkpoint, path, **options):
    export_checkpoint(checkpoint[0], path, **options)
    return find_archive(path)


@pytest.fixture
def positions():
    return torch.as_tensor(fresh_models.ethanol_positions_nm())


def test_forces_alone_leave_no_energy(checkpoint, tmp_path, positions):
    """Exactly 0 instead of an untrained output, everywhere; the card says so."""
    archive = exported(checkpoint, tmp_path / "model.pt")
    assert archive.card.predicts_energy is False
    assert archive.card.claims.conservative is False
    for module in (
        archive.load_eager(),
        archive.load_script(),
        Potential(archive).module([6, 6, 8, *[1] * 6]),
    ):
        energy, forces = module(positions)
        assert float(energy) == 0.0
        assert float(forces.abs().max()) > 1.0
    frames = checkpoint[1]
    energies, forces = predict(force_field_from_checkpoint(load_checkpoint(checkpoint[0])), frames)
    assert energies is None
    results = energy_results(energies, frames.energies, 9)
    assert {result.status for result in results} == {"unsupported"}
    again = predict(archive.load_force_field(), frames)
    assert again[0] is None
    np.testing.assert_allclose(again[1], forces, atol=1e-5)


def test_energies_are_learned_where_they_weigh(tmp_path, positions):
    found = train(tmp_path / "training", energy_weight=(0.05, 0.05))
    archive = exported(found, tmp_path / "model.pt")
    assert archive.card.predicts_energy is True
    frames = found[1]
    total = float(archive.load_eager()(positions)[0]) / 96.48533212
    # Near the reference energy, -310 eV: two epochs teach little more.
    assert abs(total - frames.energies.mean()) < 30.0
    assert predict(archive.load_force_field(), frames)[0] is not None


def test_the_weights_of_the_energy_stay_as_they_are(tmp_path):
    """Nothing pulls at an output that nobody asks for."""
    frames = dataclasses.replace(fresh_models.ethanol()[0].select(np.arange(12)), name="few")
    recipe = recipe_for("forcenet").with_overrides(
        hyperparameters=fresh_models.TINY["forcenet"], max_epochs=1
    )
    trainer = Trainer(recipe, frames, make_split(frames, 8, 2, 2, seed=0), tmp_path)
    before = trainer.force_field.network.energy.weight.detach().clone()
    kept = trainer.force_field.network.decoder_2.weight.detach().clone()
    trainer.run()
    assert torch.equal(trainer.force_field.network.energy.weight, before)
    assert not torch.equal(trainer.force_field.network.decoder_2.weight, kept)


def test_the_mean_force_in_a_context(checkpoint, tmp_path, positions):
    """With the option the centre of mass stays, without it wanders off."""
    topology = app.Topology()
    residue = topology.addResidue("ETH", topology.addChain())
    for number in checkpoint[1].atomic_numbers:
        topology.addAtom("X", app.Element.getByAtomicNumber(int(number)), residue)
    pull = {}
    for removed in (False, True):
        archive = exported(checkpoint, tmp_path / f"{removed}.pt", remove_mean_force=removed)
        assert read_card(archive.path).claims.zero_net_force is removed
        system = Potential(archive).create_system(topology, removeCMMotion=False)
        context = openmm.Context(
            system, openmm.VerletIntegrator(0.0005), openmm.Platform.getPlatformByName("Reference")
        )
        context.setPositions(positions.numpy())
        forces = context.getState(forces=True).getForces(asNumpy=True)
        forces = forces.value_in_unit(unit.kilojoules_per_mole / unit.nanometer)
        pull[removed] = np.abs(forces.sum(0)).max() / np.abs(forces).max()
        rows = {
            row.name: row for row in check_archive(archive, checkpoint[1].atomic_numbers, positions.numpy())
        }
        assert all(row.passed for row in rows.values())
        # Measured and shown, and promised by nobody.
        for name in ("rotation", "inversion (parity)", "forces against finite differences (conservative)"):
            assert rows[name].tolerance is None
            assert rows[name].measured > 1e-3
        assert (rows["net force"].tolerance is not None) is removed
    assert pull[False] > 1e-2
    assert pull[True] < 1e-5


def test_a_conservative_model_has_no_mean_force_to_remove(tmp_path):
    frames = fresh_models.ethanol()[0].select(np.arange(12))
    recipe = recipe_for("schnet").with_overrides(hyperparameters=fresh_models.TINY["schnet"], max_epochs=1)
    best = Trainer(recipe, frames, make_split(frames, 8, 2, 2, seed=0), tmp_path).run()
    with pytest.raises(ModelError, match="so they sum to zero"):
        export_checkpoint(best, tmp_path / "model.pt", remove_mean_force=True)
