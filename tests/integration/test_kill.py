"""kill -9 at any moment, in any ensemble: what a resumed run leaves is byte for byte what an unbroken one leaves.

On the Reference platform, one thread, timing columns aside.  The binary checkpoints are
compared too: they hold the random streams and the thermostat's chains.
"""

import dataclasses
import functools
import json

import harmonic_ethanol as ethanol
import killing
import numpy as np
import openmm
import periodic_argon as argon
import pytest

from openmm_mlbench.errors import SimulationError
from openmm_mlbench.protocol import load_protocol
from openmm_mlbench.simulation.outputs import HEADER_BYTES
from openmm_mlbench.simulation.runner import run_protocol

FRAME_BYTES = 3 * (4 * 9 + 8)


class RigidEthanol(ethanol.HarmonicEthanol):
    """Ethanol with the lengths of its bonds to hydrogen held."""

    def create_system(self, topology, constraints=None):
        system = super().create_system(topology, constraints)
        for (i, j), length in zip(ethanol.BONDS.tolist(), ethanol.EQUILIBRIUM, strict=True):
            if ethanol.ATOMIC_NUMBERS[j] == 1:
                system.addConstraint(i, j, 0.1 * length)
        return system


def _verlet(step_ps):
    return openmm.XmlSerializer.serialize(openmm.VerletIntegrator(step_ps))


def _two_fs(name):
    protocol = load_protocol(name)
    integrator = protocol.make_integrator()
    integrator.setStepSize(0.002)
    return dataclasses.replace(
        protocol,
        timestep_fs=2.0,
        constraints="h-bonds",
        integrator_xml=openmm.XmlSerializer.serialize(integrator),
    )


def nve(folder):
    protocol = load_protocol("ethanol")
    return (
        dataclasses.replace(protocol, ensemble="NVE", integrator_xml=_verlet(0.0005)),
        ethanol.HarmonicEthanol(),
        ethanol.frames(),
    )


def nose_hoover(folder):
    return load_protocol("ethanol"), ethanol.HarmonicEthanol(), ethanol.frames()


def langevin(folder):
    return load_protocol("ethanol-langevin"), ethanol.HarmonicEthanol(), ethanol.frames()


def rigid_nose_hoover(folder):
    return _two_fs("ethanol"), RigidEthanol(), ethanol.frames()


def rigid_langevin(folder):
    return _two_fs("ethanol-langevin"), RigidEthanol(), ethanol.frames()


def triclinic_nose_hoover(folder):
    frames = argon.frames(argon.TRICLINIC @ argon.rotation().T)
    argon.write_pdb(folder / "argon.pdb", frames)
    return argon.protocol(folder / "argon.pdb", "ethanol"), argon.Argon(), frames


def npt(folder):
    frames = argon.frames()
    argon.write_pdb(folder / "argon.pdb", frames)
    protocol = argon.protocol(
        folder / "argon.pdb", ensemble="NPT", pressure_bar=100.0, barostat_interval_steps=7
    )
    return protocol, argon.Argon(), frames


ENSEMBLES = (nve, nose_hoover, langevin)
OTHERS = (rigid_nose_hoover, rigid_langevin, triclinic_nose_hoover, npt)
BY_NAME = pytest.mark.parametrize("ensemble", ENSEMBLES + OTHERS, ids=lambda ensemble: ensemble.__name__)


def begin(ensemble, folder, *, checkpoint_ps=0.5, **options):
    """A function that runs, or goes on with, the run in a folder."""
    protocol, provider, frames = ensemble(folder)
    protocol = dataclasses.replace(protocol, checkpoint_interval_ps=checkpoint_ps)
    options = {"start_frames": frames, "replicas": 1, "platform": "Reference"} | options
    return functools.partial(run_protocol, protocol, provider, **options)


def kill_and_compare(ensemble, tmp_path, n_kills, length_ps):
    run = begin(ensemble, tmp_path, length_ps=length_ps)
    run(tmp_path / "whole")
    total = killing.bytes_written(tmp_path / "whole")
    generator = np.random.default_rng()
    moments = np.sort(generator.uniform(0.05, 0.95, n_kills)) * total
    for out in killing.attempts(tmp_path):
        codes = []
        for moment in moments:

            def due(out=out, moment=moment):
                return killing.bytes_written(out) >= moment

            codes.append(killing.in_child(lambda out=out: run(out, resume=True), kill_when=due))
        if -9 in codes:
            break
    statuses = run(out, resume=True)
    assert [status.state for status in statuses] == ["finished"]
    assert {status.resume for status in statuses} <= {"none", "exact"}
    killing.assert_same_run(out, tmp_path / "whole")
    return codes


@BY_NAME
def test_killed_at_two_random_moments(ensemble, tmp_path):
    codes = kill_and_compare(ensemble, tmp_path, 2, 3.0)
    assert -9 in codes, f"exit codes {codes}: never killed"


@pytest.mark.slow
@BY_NAME
def test_killed_at_ten_random_moments(ensemble, tmp_path):
    codes = kill_and_compare(ensemble, tmp_path, 10, 12.0)
    assert codes.count(-9) >= 5, codes


def _operations(tmp_path, chosen, again=()):
    """Kill a short run just before each of the chosen file operations, its resumption before others, and compare."""
    run = begin(langevin, tmp_path, checkpoint_ps=0.1, length_ps=0.3)
    run(tmp_path / "whole")
    n_killed = 0
    for number in chosen:
        out = tmp_path / f"run-{number}"
        out.mkdir()
        if not killing.killed_at_operation(lambda out=out: run(out, resume=True), out, number):
            break
        n_killed += 1
        for other in again:
            killing.killed_at_operation(lambda out=out: run(out, resume=True), out, other)
        statuses = run(out, resume=True)
        assert [status.state for status in statuses] == ["finished"], number
        killing.assert_same_run(out, tmp_path / "whole")
    return n_killed


def test_killed_between_two_file_operations(tmp_path):
    """Some of the moments between opening, renaming and removing files, checkpoints half written among them."""
    generator = np.random.default_rng()
    chosen = np.unique(generator.integers(8, 90, 6)).tolist()
    again = generator.integers(0, 50, 2).tolist()
    print("operations", chosen, "then", again)
    assert _operations(tmp_path, chosen, again) >= 3


@pytest.mark.slow
def test_resuming_killed_between_any_two_file_operations(tmp_path):
    """Of a run with two checkpoints and frames after them: cutting back may be cut short as well."""
    for other in range(60):
        (tmp_path / str(other)).mkdir()
        assert _operations(tmp_path / str(other), [100], [other]) == 1


@pytest.mark.slow
def test_killed_between_any_two_file_operations(tmp_path):
    """All of them, from the first file of a run to its last."""
    assert 80 < _operations(tmp_path, range(1000)) < 1000


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_killed_while_a_frame_is_half_written(share, tmp_path):
    """The file ends in the middle of a frame, with more frames than the checkpoint knows."""
    run = begin(langevin, tmp_path, checkpoint_ps=5.0, length_ps=12.5)
    run(tmp_path / "whole")
    n_bytes = HEADER_BYTES + 230 * FRAME_BYTES + int(share * FRAME_BYTES)
    assert n_bytes > (tmp_path / "whole" / "replica-0" / "log.csv").stat().st_size
    out = tmp_path / "run"
    assert killing.killed_at_size(lambda: run(out), n_bytes)
    assert (out / "replica-0" / "trajectory.dcd").stat().st_size == n_bytes
    checkpoints = json.loads((out / "replica-0" / "checkpoint.json").read_text())["checkpoints"]
    assert [item["offsets"]["n_frames"] for item in checkpoints] == [200, 100]
    assert run(out, resume=True)[0].resume == "exact"
    killing.assert_same_run(out, tmp_path / "whole")


@pytest.mark.parametrize("damage", ["cut", "flipped", "removed"])
def test_a_damaged_newest_checkpoint(damage, tmp_path):
    """The one before serves."""
    run = begin(nose_hoover, tmp_path, length_ps=2.0)
    run(tmp_path / "whole")
    begin(nose_hoover, tmp_path, length_ps=1.5)(tmp_path / "run")
    newest = max((tmp_path / "run" / "replica-0").glob("checkpoint-*.chk"))
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    {
        "cut": lambda: newest.write_bytes(newest.read_bytes()[:100]),
        "flipped": lambda: newest.write_bytes(content),
        "removed": newest.unlink,
    }[damage]()
    assert run(tmp_path / "run", resume=True)[0].resume == "exact"
    killing.assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_two_processes_on_one_folder(tmp_path):
    """The second is refused while the first lives, and not after it was killed."""
    run = begin(langevin, tmp_path, length_ps=1000.0)
    out = tmp_path / "run"
    refusals = []

    def second():
        if killing.bytes_written(out) < 500:
            return False
        with pytest.raises(SimulationError, match="another process is writing there") as caught:
            run(out, resume=True)
        refusals.append(str(caught.value))
        return True

    assert killing.in_child(lambda: run(out), kill_when=second) == -9
    assert len(refusals) == 1
    assert "\n" not in refusals[0]
    short = begin(langevin, tmp_path, length_ps=3.0)
    assert short(out, resume=True)[0].state in ("finished", "interrupted")


def test_an_interrupted_npt_run_is_exact_too(tmp_path):
    """The barostat starts anew at checkpoints: an interruption must not add one."""
    run = begin(npt, tmp_path, length_ps=2.0)
    run(tmp_path / "whole")
    # Its end is between two checkpoints, and a longer length goes on from the one before.
    begin(npt, tmp_path, length_ps=1.3)(tmp_path / "run")
    assert run(tmp_path / "run", resume=True)[0].resume == "exact"
    killing.assert_same_run(tmp_path / "run", tmp_path / "whole")
    log = ethanol.read_log(tmp_path / "run" / "replica-0")
    assert len(np.unique(log["volume_A3"])) > 20
