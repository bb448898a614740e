"""What a network raises inside a TorchForce is said by OpenMM, and does not end the process."""

import subprocess
import sys

import fresh_models
import pytest

# In an interpreter of its own, which could be lost.  There is no element 200.
SCRIPT = """
import sys
import numpy as np, openmm
from openmm_mlbench import Potential
from openmm_mlbench.forces.drivers import make_force

numbers = [6, 6, 8, 1, 1, 1, 1, 1, 1] * 3
module = Potential.load(sys.argv[1]).module(numbers, evaluation=sys.argv[2])
changed = [value.fill_(200) for name, value in module.named_buffers() if name.endswith("atomic_numbers")]
assert changed
system = openmm.System()
for _ in numbers:
    system.addParticle(1.0)
system.addForce(make_force(module, periodic=False, driver="torchforce"))
platform = openmm.Platform.getPlatformByName("Reference")
context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
context.setPositions(np.random.default_rng(0).uniform(size=(27, 3)))
try:
    context.getState(energy=True)
except openmm.OpenMMException as error:
    print("said:", str(error).strip().splitlines()[-1])
"""


@pytest.mark.parametrize(
    ("name", "evaluation"), [("gemnet-dt", "autograd"), ("gemnet-t", "autograd"), ("dimenet", "auto")]
)
def test_an_error_in_the_network_is_an_exception(name, evaluation, tmp_path):
    path = fresh_models.write_archive(tmp_path / "model.pt", name)
    command = [sys.executable, "-c", SCRIPT, str(path), evaluation]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "said: RuntimeError: index out of range in self"
