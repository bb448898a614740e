"""What a TorchForce with CUDA graphs gets: one place for its results, whichever call recorded them."""

import logging

import openmm
import pytest
import torch

from openmm_mlbench.forces.drivers import drop_cuda_graphs, make_force, uses_cuda_graphs
from openmm_mlbench.forces.kept_outputs import keep_outputs
from openmm_mlbench.forces.platforms import prepare_platforms

prepare_platforms()


class Springs(torch.nn.Module):
    capturable: torch.jit.Final[bool]

    def __init__(self) -> None:
        super().__init__()
        self.capturable = True

    def forward(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return (positions * positions).sum().to(torch.float64), -2.0 * positions


class SpringsInBox(Springs):
    def forward(self, positions: torch.Tensor, box: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return (positions * positions).sum().to(torch.float64) + box.sum(), -2.0 * positions


@pytest.fixture(params=["open space", "box"])
def springs(request):
    """The frozen module, as the plugin runs it, and what it takes besides positions."""
    periodic = request.param == "box"
    module = keep_outputs(torch.jit.script(SpringsInBox() if periodic else Springs()), periodic=periodic)
    return lambda: torch.jit.freeze(module), (torch.eye(3),) if periodic else ()


def test_off_the_processor_results_stay_in_one_place_of_each_context(springs):
    # Meta stands for a GPU: positions that are not the processor's.
    freeze, more = springs
    module, other = freeze(), freeze()
    arguments = [value.to("meta") for value in more]
    first = module(torch.zeros(4, 3, device="meta"), *arguments)
    second = module(torch.zeros(4, 3, device="meta"), *arguments)
    assert first[0] is second[0]
    assert first[1] is second[1]
    assert (first[0].dtype, first[1].dtype, first[1].shape) == (torch.float64, torch.float32, (4, 3))
    elsewhere = other(torch.zeros(4, 3, device="meta"), *arguments)
    assert elsewhere[1] is not first[1]
    in_double = module(torch.zeros(4, 3, dtype=torch.float64, device="meta"), *arguments)
    assert in_double[1].dtype == torch.float64


def test_on_a_processor_nothing_is_kept(springs):
    freeze, more = springs
    module = freeze()
    positions = torch.tensor([[1.0, 2.0, 3.0]])
    first, second = module(positions, *more), module(2.0 * positions, *more)
    assert first[1].tolist() == [[-2.0, -4.0, -6.0]]
    assert second[1].tolist() == [[-4.0, -8.0, -12.0]]
    assert float(first[0]) == 14.0 + (3.0 if more else 0.0)


def test_every_force_with_graphs_has_it():
    from openmmtorch import TorchForce

    force = make_force(torch.jit.script(Springs()), periodic=False, driver="torchforce")
    assert TorchForce.cast(force).getProperties()["useCUDAGraphs"] == "true"
    assert {name for name, _ in TorchForce.cast(force).getModule().named_buffers()} == {"energy", "forces"}


FAILED = (
    "TorchForce Failed to capture the model into a CUDA graph. Torch reported the following error:\n"
    "Traceback\n  aten::nonzero\nRuntimeError: operation not permitted when stream is capturing\n"
)


def context_of(system):
    platform = openmm.Platform.getPlatformByName("Reference")
    return openmm.Context(system, openmm.VerletIntegrator(0.001), platform)


def test_a_network_that_cannot_be_recorded_runs_without_graphs(caplog):
    system = openmm.System()
    system.addParticle(1.0)
    system.addForce(make_force(torch.jit.script(Springs()), periodic=False, driver="torchforce"))
    context = context_of(system)
    assert not drop_cuda_graphs(context, openmm.OpenMMException("no memory"))
    assert uses_cuda_graphs(system.getForce(0))
    with caplog.at_level(logging.WARNING):
        assert drop_cuda_graphs(context, openmm.OpenMMException(FAILED))
    (record,) = caplog.records
    assert record.getMessage() == (
        "CUDA graphs are off, because the network cannot be recorded: RuntimeError: operation not permitted when "
        "stream is capturing"
    )
    assert not uses_cuda_graphs(context.getSystem().getForce(0))
    context.setPositions([[1.0, 2.0, 3.0]])
    assert context.getState(energy=True).getPotentialEnergy()._value == pytest.approx(14.0)
    assert not drop_cuda_graphs(context, openmm.OpenMMException(FAILED))
