"""Both drivers on a CUDA device: the numbers of the network, captured graphs, compiled code."""

import fresh_models
import numpy as np
import openmm
import pytest
import torch
from openmm import app, unit

from openmm_mlbench.assets import asset_path
from openmm_mlbench.data.datasets import CACHE_VARIABLE
from openmm_mlbench.forces.platforms import prepare_platforms
from openmm_mlbench.potential import Potential
from openmm_mlbench.simulation.platforms import choose_platform, create_context

prepare_platforms()
NAMES = [openmm.Platform.getPlatform(i).getName() for i in range(openmm.Platform.getNumPlatforms())]
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available() or "CUDA" not in NAMES,
        reason="no CUDA device, or OpenMM without its CUDA platform",
    ),
]
KJMOL = unit.kilojoules_per_mole


@pytest.fixture(scope="module", params=["schnet", "deeppot-se"])
def archive(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("archive") / f"{request.param}.pt"
    return fresh_models.write_archive(path, request.param)


@pytest.mark.parametrize("precision", ["single", "mixed", "double"])
@pytest.mark.parametrize("driver", ["torchforce", "pythonforce"])
def test_the_forces_of_the_network(archive, driver, precision, tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    positions = fresh_models.ethanol_positions_nm()
    topology = app.PDBFile(str(asset_path("systems", "ethanol", "topology.pdb"))).topology
    potential = Potential.load(archive, driver)
    energy, forces = potential.archive.load_eager()(torch.as_tensor(positions))
    system = potential.create_system(topology)
    choice = choose_platform("CUDA", system, precision=precision, engine=potential.engine)
    assert (choice.driver, choice.cuda_graphs) == (driver, driver == "torchforce")
    assert choice.properties == {"Precision": precision}
    context = create_context(system, openmm.VerletIntegrator(0.0005), choice)
    # A graph is captured after some calls, and is another path from then on.
    for _ in range(25):
        context.setPositions(positions)
        state = context.getState(energy=True, forces=True)
    found = np.array(state.getForces(asNumpy=True).value_in_unit(KJMOL / unit.nanometer))
    wanted = forces.detach().numpy()
    # Positions in single precision, and fixed-point sums of forces.
    np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(wanted).max())
    interaction = float(potential.archive.load_eager().reference.abs().max())
    assert state.getPotentialEnergy().value_in_unit(KJMOL) == pytest.approx(
        float(energy), abs=1e-2 + 1e-6 * interaction
    )
