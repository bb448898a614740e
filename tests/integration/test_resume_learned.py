"""Resuming under a TorchScript force: its first calls differ from later ones, so both histories warm up.

A small SchNet with random weights is added to the analytic molecule, which keeps it together.
"""

import fresh_models
import harmonic_ethanol as ethanol
import pytest

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
