"""A model of data with rigid bonds to hydrogen, from training to a simulation with the same constraints."""

import dataclasses

import fresh_models
import numpy as np
import pytest
from openmm import app, unit

from openmm_mlbench.data.datasets import load_dataset
from openmm_mlbench.data.splits import make_split
from openmm_mlbench.errors import PotentialError, TrajectoryError
from openmm_mlbench.openmm_export import export_openmm
from openmm_mlbench.potential import Potential
from openmm_mlbench.protocol import load_protocol
from openmm_mlbench.reference_potentials import find_reference_potential
from openmm_mlbench.simulation.runner import run_protocol
from openmm_mlbench.simulation.starts import structure_frames
from openmm_mlbench.topology import read_topology
from openmm_mlbench.training.config import Recipe
from openmm_mlbench.training.trainer import Trainer
from openmm_mlbench.trajectory import read_dcd
from openmm_mlbench.workflow import export_checkpoint

PROTOCOL = load_protocol("alanine-dipeptide", variant="unbiased")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("training")
    frames = load_dataset("alanine-dipeptide-obc")
    recipe = Recipe(model="schnet", hyperparameters=fresh_models.TINY["schnet"], batch_size=8, max_epochs=1)
    Trainer(recipe, frames, make_split(frames, 64, 8, 8, seed=0), folder / "run").run()
    export_checkpoint(folder / "run" / "best.pt", folder / "model.pt")
    return Potential.load(folder / "model.pt")


def constraints_of(system):
    found = [system.getConstraintParameters(index) for index in range(system.getNumConstraints())]
    return {(i, j): length.value_in_unit(unit.angstrom) for i, j, length in found}


def test_the_lengths_are_those_of_the_force_field(model):
    topology = app.PDBFile(str(PROTOCOL.structure_path)).topology
    system = model.create_system(topology, constraints=app.HBonds)
    made_with = find_reference_potential("amber03-obc").create_system(topology, constraints=app.HBonds)
    wanted = {tuple(sorted(pair)): length for pair, length in constraints_of(made_with).items()}
    found = constraints_of(system)
    assert len(found) == 12
    assert found == {pair: pytest.approx(length, abs=1e-4) for pair, length in wanted.items()}


def test_a_run_keeps_the_bonds_rigid(model, tmp_path):
    frames = structure_frames(PROTOCOL)
    (status,) = run_protocol(
        PROTOCOL, model, tmp_path / "run", start_frames=frames, replicas=1, length_ps=1.0
    )
    # Fresh weights may well collapse; what counts is the frame that was written.
    assert status.n_frames >= 1
    topology = read_topology(tmp_path / "run" / "topology.pdb")
    positions = read_dcd(tmp_path / "run" / "replica-0" / "trajectory.dcd", topology, 1.0).positions_A
    for i, j, length in model.card.trained_on.constraint_bonds:
        bond = np.linalg.norm(positions[:, int(i)] - positions[:, int(j)], axis=-1)
        np.testing.assert_allclose(bond, length, rtol=2e-4)


def test_flexible_protocols_are_refused_before_anything_is_written(model, tmp_path):
    flexible = load_protocol("alanine-dipeptide", variant="flexible")
    with pytest.raises(PotentialError, match="nothing holds these bonds but constraints"):
        run_protocol(flexible, model, tmp_path / "run", start_frames=structure_frames(flexible))
    assert not (tmp_path / "run").exists()


def test_the_plain_script_has_the_constraints(model, tmp_path):
    from openmm import XmlSerializer

    start_nm = structure_frames(PROTOCOL).positions[0] / 10
    export_openmm(PROTOCOL, model, start_nm, tmp_path / "plain", length_ps=1.0)
    system = XmlSerializer.deserialize((tmp_path / "plain" / "system.xml").read_text())
    assert len(constraints_of(system)) == 12
    state = XmlSerializer.deserialize((tmp_path / "plain" / "state.xml").read_text())
    positions = state.getPositions(asNumpy=True).value_in_unit(unit.angstrom)
    velocities = state.getVelocities(asNumpy=True).value_in_unit(unit.angstrom / unit.picosecond)
    for (i, j), length in constraints_of(system).items():
        bond = positions[i] - positions[j]
        assert np.linalg.norm(bond) == pytest.approx(length, rel=2e-5)
        # No velocity along a rigid bond.
        assert abs(bond @ (velocities[i] - velocities[j])) < 1e-3


def test_free_hydrogens_that_call_themselves_rigid_are_not_trained_on(tmp_path):
    wrong = dataclasses.replace(fresh_models.ethanol()[0], constraints="h-bonds")
    recipe = Recipe(model="schnet", hyperparameters=fresh_models.TINY["schnet"], batch_size=8, max_epochs=1)
    with pytest.raises(TrajectoryError, match="varies by"):
        Trainer(recipe, wrong, make_split(wrong, 16, 8, 8, seed=0), tmp_path / "run")
