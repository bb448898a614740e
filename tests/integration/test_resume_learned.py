"""Resuming under a TorchScript force: its first calls differ from later ones, so both histories warm up.

A small SchNet with random weights is added to the analytic molecule, which keeps it together.
"""

import dataclasses
import os
import subprocess
import sys
import time

import fresh_models
import harmonic_ethanol as ethanol
import killing
import numpy as np
import pytest
from openmm import app

from openmm_mlbench.potential import Potential
from openmm_mlbench.protocol import load_protocol
from openmm_mlbench.simulation.runner import run_protocol


class MixedEthanol(ethanol.HarmonicEthanol):
    """The analytic molecule and a learned force; crosses into worker processes with its Potential."""

    def __init__(self, path, evaluation):
        super().__init__("mixed-ethanol")
        self.potential = Potential.load(path)
        self.evaluation = evaluation

    def create_system(self, topology, constraints=None):
        system = super().create_system(topology, constraints)
        self.potential.add_to(system, topology, evaluation=self.evaluation)
        return system


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return fresh_models.write_archive(tmp_path_factory.mktemp("archive") / "schnet.pt")


def run(out, archive, evaluation="auto", **options):
    provider = MixedEthanol(archive, evaluation)
    return run_protocol(
        load_protocol("ethanol"), provider, out, start_frames=ethanol.frames(), replicas=2, **options
    )


def assert_same(out, other):
    for replica in range(2):
        folder, whole = (path / f"replica-{replica}" for path in (out, other))
        assert (folder / "trajectory.dcd").read_bytes() == (whole / "trajectory.dcd").read_bytes()
        assert ethanol.log_without_timing(folder) == ethanol.log_without_timing(whole)


@pytest.mark.parametrize("evaluation", ["autograd", "ahead-of-time"])
def test_stopped_and_resumed_is_never_stopped(evaluation, archive, tmp_path):
    run(tmp_path / "whole", archive, evaluation, length_ps=0.3)
    run(tmp_path / "run", archive, evaluation, length_ps=0.15)
    statuses = run(tmp_path / "run", archive, evaluation, length_ps=0.3, resume=True)
    assert [(status.state, status.resume) for status in statuses] == [("finished", "exact")] * 2
    assert_same(tmp_path / "run", tmp_path / "whole")


def test_processes_make_no_difference(archive, tmp_path):
    run(tmp_path / "here", archive, length_ps=0.1)
    run(tmp_path / "there", archive, length_ps=0.1, jobs=2)
    assert_same(tmp_path / "there", tmp_path / "here")


def test_constant_pressure_stopped_and_resumed(archive, tmp_path):
    """The Context is made anew at checkpoints, and with it the network and its first calls."""
    topology = ethanol.topology()
    topology.setPeriodicBoxVectors(2.2 * np.eye(3))
    with open(tmp_path / "box.pdb", "w") as file:
        app.PDBFile.writeFile(topology, ethanol.POSITIONS, file)
    protocol = dataclasses.replace(
        load_protocol("ethanol-langevin"),
        ensemble="NPT",
        pressure_bar=1.0,
        barostat_interval_steps=7,
        checkpoint_interval_ps=0.1,
        structure=str(tmp_path / "box.pdb"),
    )
    provider = MixedEthanol(archive, "autograd")
    start = {"start_frames": ethanol.frames(), "replicas": 1, "platform": "Reference"}
    run_protocol(protocol, provider, tmp_path / "whole", length_ps=0.3, **start)
    run_protocol(protocol, provider, tmp_path / "run", length_ps=0.15, **start)
    status = run_protocol(protocol, provider, tmp_path / "run", length_ps=0.3, resume=True, **start)[0]
    assert (status.state, status.resume) == ("finished", "exact")
    killing.assert_same_run(tmp_path / "run", tmp_path / "whole")
    assert len(np.unique(ethanol.read_log(tmp_path / "run" / "replica-0")["volume_A3"])) > 3


SCRIPT = """
import sys
from openmm_mlbench.potential import Potential
from openmm_mlbench.protocol import load_protocol
from openmm_mlbench.workflow import simulate

protocol, out = sys.argv[1:]
simulate(load_protocol(protocol), Potential.load("ethanol-gfn2/schnet"), out, platform="Reference", resume=True)
"""


def test_the_shipped_model_killed_at_a_random_moment(tmp_path):
    """A TorchForce in fresh interpreters: the traced network and its first calls must not show."""
    protocol = dataclasses.replace(
        load_protocol("ethanol"), length_ps=0.6, checkpoint_interval_ps=0.1, replicas=1
    )
    protocol.write(tmp_path / "protocol.xml")
    (tmp_path / "script.py").write_text(SCRIPT)
    moment = 200 + int.from_bytes(os.urandom(2), "big") % 900

    def begin(out):
        command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "protocol.xml"), str(out)]
        return subprocess.Popen(command)

    with begin(tmp_path / "whole") as whole:
        for out in killing.attempts(tmp_path):
            with begin(out) as process:
                while process.poll() is None and killing.bytes_written(out) < moment:
                    time.sleep(0.001)
                process.kill()
            if process.returncode == -9:
                break
        assert process.returncode == -9, f"killed after {moment} bytes: not in time"
        with begin(out) as resumed:
            pass
        assert resumed.returncode == 0
    assert whole.returncode == 0
    killing.assert_same_run(out, tmp_path / "whole")
