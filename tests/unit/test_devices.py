"""Where torch evaluates a model, apart from a TorchForce: the GPU where there is one, unless a processor was chosen."""

import types

import pytest
import torch
from openmm import app

from openmm_mlbench import workflow
from openmm_mlbench.assets import asset_path
from openmm_mlbench.errors import PotentialError
from openmm_mlbench.potential import Potential
from openmm_mlbench.simulation.batch import _Batch
from openmm_mlbench.simulation.seeds import integrator_seed


@pytest.fixture
def gpu(monkeypatch):
    """A GPU that is said to be there."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


def topology():
    return app.PDBFile(str(asset_path("systems", "ethanol", "topology.pdb"))).topology


def test_devices_by_name():
    potential = Potential.load("ethanol-gfn2/schnet")
    assert potential.device == potential.on("cpu").device == "cpu"
    with pytest.raises(PotentialError, match=r"device 'cuda' is not here; use one of auto, cpu"):
        Potential.load("ethanol-gfn2/schnet", device="cuda")
    with pytest.raises(PotentialError, match=r"device 'gpu' is not here"):
        potential.on("gpu")


def test_with_a_gpu_it_is_taken_unless_a_processor_is_asked_for(gpu):
    potential = Potential.load("ethanol-gfn2/schnet", "pythonforce")
    assert potential.device == "cuda"
    on_cpu = potential.on("cpu")
    assert (on_cpu.device, on_cpu.driver, on_cpu.id) == ("cpu", "pythonforce", potential.id)
    copies = Potential.load("ethanol-gfn2/schnet").on("cpu").create_copies(topology(), 2)
    energies, _ = copies.evaluate(torch.rand(2, 9, 3, dtype=torch.float64).numpy(), None)
    assert energies.shape == (2,)


def test_a_platform_of_processors_keeps_the_second_driver_there(gpu, tmp_path, monkeypatch):
    from openmm_mlbench.protocol import load_protocol

    seen = []

    def run_protocol(_, potential, *args, **options):
        seen.append(potential.device)
        return []

    monkeypatch.setattr(workflow, "run_protocol", run_protocol)
    protocol = load_protocol("ethanol")
    for platform in ("Reference", "CPU", "auto", "CUDA"):
        potential = Potential.load("ethanol-gfn2/schnet", "pythonforce")
        workflow.simulate(protocol, potential, tmp_path, platform=platform)
    assert seen == ["cpu", "cpu", "cuda", "cuda"]


def test_the_noise_of_a_batch_is_the_same_after_its_first_replica_has_ended():
    tasks = [types.SimpleNamespace(seed=7, replica=replica) for replica in range(3)]
    batch = object.__new__(_Batch)
    batch.tasks, batch.first, batch.step = tasks, tasks[2], 400
    assert batch._seed() == integrator_seed(7, 0, 400)
