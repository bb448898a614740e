"""Traps that depend on what a process did first, each in a process of its own."""

import subprocess
import sys
import textwrap

import fresh_models
import pytest
import torch

from openmm_mlbench.assets import asset_path
from openmm_mlbench.export.archive import find_archive
from openmm_mlbench.topology import read_structure


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return fresh_models.write_archive(tmp_path_factory.mktemp("archive") / "schnet.pt")


def run(code, *arguments):
    """Run Python code with warnings as errors, as the tests themselves are."""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code), *map(str, arguments)],
        capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    return result


USE = """
import sys
from openmm import app, Context, Platform, VerletIntegrator, XmlSerializer
from openmm_mlbench import Potential
from openmm_mlbench.assets import asset_path
pdb = app.PDBFile(str(asset_path("systems", "ethanol", "topology.pdb")))
system = Potential.load(sys.argv[1]).create_system(pdb.topology)
assert 'type="TorchForce"' in XmlSerializer.serialize(system), "fell back to another driver"
context = Context(system, VerletIntegrator(0.0005), Platform.getPlatformByName("Reference"))
context.setPositions(pdb.positions)
print(context.getState(energy=True).getPotentialEnergy()._value)
"""

ORDERS = {
    "package first": "from openmm_mlbench import Potential\n",
    "openmm, then torch": "import openmm\nimport torch\n",
    "torch, then openmm": "import torch\nimport openmm\n",
    "openmmtorch, which fails, first": """
try:
    import openmmtorch
except ImportError:
    pass
""",
    "openmm used first": """
import openmm
system = openmm.System()
system.addParticle(1.0)
openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
""",
}


@pytest.fixture(scope="module")
def energy(archive):
    """From the module itself, without OpenMM."""
    positions = read_structure(asset_path("systems", "ethanol", "topology.pdb"))[1] / 10.0
    return float(find_archive(archive).load_eager()(torch.as_tensor(positions))[0])


@pytest.mark.parametrize("order", ORDERS)
def test_any_import_order(archive, energy, order):
    assert float(run(ORDERS[order] + USE, archive).stdout) == pytest.approx(energy, abs=1e-2)


def test_the_trap_of_the_import_order_is_still_there():
    """Without the cure a script that imports openmm first has no TorchForce kernel; when this fails, it may go."""
    run("""
    import openmm, torch, openmmtorch, logging
    force = openmmtorch.TorchForce(torch.jit.script(torch.nn.Identity()))
    system = openmm.System()
    system.addParticle(1.0)
    system.addForce(force)
    try:
        openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    except openmm.OpenMMException as error:
        assert "does not support all required kernels" in str(error), error
    else:
        raise AssertionError("the kernels were there")
    """)


def test_preparing_twice_and_its_words():
    run("""
    import logging
    import openmm
    logging.disable(logging.INFO)
    from openmm_mlbench.forces.platforms import prepare_platforms
    first, second = prepare_platforms(), prepare_platforms()
    assert first.available and first == second, (first, second)
    assert "TorchForce libraries loaded" in first.reason, first
    # What the user had switched off stays so, and nothing more.
    assert logging.root.manager.disable == logging.INFO
    """)


CALLS = """
import itertools, sys
import numpy as np
import torch
from openmm import app, Context, Platform, VerletIntegrator
from openmm_mlbench import Potential
from openmm_mlbench.assets import asset_path
if sys.argv[2] == "without":
    torch.jit.set_fusion_strategy = lambda strategy: None
pdb = app.PDBFile(str(asset_path("systems", "ethanol", "topology.pdb")))
for driver, evaluation in itertools.product(("torchforce", "pythonforce"), ("autograd", "ahead-of-time")):
    system = Potential.load(sys.argv[1]).create_system(pdb.topology, driver=driver, evaluation=evaluation)
    context = Context(system, VerletIntegrator(0.0005), Platform.getPlatformByName("Reference"))
    calls = []
    for _ in range(6):
        context.setPositions(pdb.positions)
        state = context.getState(energy=True, forces=True)
        energy, forces = state.getPotentialEnergy()._value, np.array(state.getForces(asNumpy=True)._value)
        calls.append((energy, forces.tobytes()))
    print(driver, evaluation, [call == calls[-1] for call in calls].index(True))
"""


def first_settled_call(archive, how):
    """By driver and evaluation: from which call on energy and forces are the same to the last bit."""
    lines = run(CALLS, archive, how).stdout.splitlines()
    assert len(lines) == 4
    return {tuple(line.split()[:2]): int(line.split()[2]) for line in lines}


def test_the_first_call_equals_all_later_ones(archive):
    """A resumed run starts with a first call where an uninterrupted one had a later one."""
    assert set(first_settled_call(archive, "with").values()) == {0}


def test_the_trap_of_the_first_call_is_still_there(archive):
    """With torch's own fusion strategy the profiling call of a scripted gradient differs."""
    settled = first_settled_call(archive, "without")
    assert settled["torchforce", "autograd"] > 0
    assert settled["torchforce", "ahead-of-time"] == 0
