"""Resuming where checkpoint files were removed or damaged: nothing that was computed is thrown away."""

import harmonic_ethanol as ethanol
import pytest

from openmm_mlbench.errors import SimulationError
from openmm_mlbench.protocol import load_protocol
from openmm_mlbench.simulation.runner import run_protocol


def run(out, length_ps, **options):
    protocol = load_protocol("ethanol")
    provider = ethanol.HarmonicEthanol()
    return run_protocol(
        protocol, provider, out, start_frames=ethanol.frames(), replicas=1, length_ps=length_ps, **options
    )[0]


@pytest.fixture
def finished(tmp_path):
    run(tmp_path / "run", 1.0)
    return tmp_path / "run"


def test_without_the_binary_file_a_run_goes_on_from_the_state(finished):
    replica = finished / "replica-0"
    before = (replica / "trajectory.dcd").read_bytes()
    for path in replica.glob("checkpoint-*.chk"):
        path.unlink()
    status = run(finished, 2.0, resume=True)
    assert (status.state, status.resume, status.n_frames) == ("finished", "inexact", 40)
    # The frames of before are still there, after the header.
    assert (replica / "trajectory.dcd").read_bytes()[276 : len(before)] == before[276:]


def test_without_any_whole_checkpoint_nothing_is_removed(finished):
    replica = finished / "replica-0"
    before = (replica / "trajectory.dcd").read_bytes()
    for path in replica.glob("checkpoint-*"):
        path.write_bytes(b"damaged")
    with pytest.raises(SimulationError, match="none of its checkpoints is whole"):
        run(finished, 2.0, resume=True)
    assert (replica / "trajectory.dcd").read_bytes() == before
    assert run(finished, 2.0, overwrite=True).state == "finished"
