"""Which checkpoint a run goes on from when files of them are damaged or missing."""

import hashlib

import pytest

from openmm_mlbench.files import write_json
from openmm_mlbench.simulation.checkpoint import FORMAT_VERSION, INDEX, read_checkpoints
from openmm_mlbench.simulation.metadynamics.walkers import cut_back_walkers
from openmm_mlbench.simulation.run_folder import ReplicaStatus


@pytest.fixture
def folder(tmp_path):
    """Two checkpoints, at steps 20 and 10, newest first."""
    items = []
    for step in (20, 10):
        stem = f"checkpoint-{step:012d}"
        sha256 = {}
        for ending in ("chk", "xml"):
            content = f"{step} {ending}".encode()
            (tmp_path / f"{stem}.{ending}").write_bytes(content)
            sha256[f"{stem}.{ending}"] = hashlib.sha256(content).hexdigest()
        items.append(
            {
                "step": step,
                "time_ps": step / 1000,
                "offsets": {
                    "trajectory_bytes": 0,
                    "log_bytes": 0,
                    "n_frames": step // 10,
                    "bias_bytes": {"HILLS": 5 * step},
                },
                "engine": {},
                "sha256": sha256,
                "resume": "none",
                "timed_steps": step,
                "timed_seconds": 1.0,
            }
        )
    write_json(tmp_path / INDEX, {"format_version": FORMAT_VERSION, "checkpoints": items})
    return tmp_path


def steps(folder):
    return [checkpoint.step for checkpoint in read_checkpoints(folder)]


def test_an_older_whole_one_goes_before_a_newer_one_without_its_binary_file(folder):
    assert steps(folder) == [20, 10]
    (folder / "checkpoint-000000000020.chk").write_bytes(b"damaged")
    assert steps(folder) == [10, 20]
    (folder / "checkpoint-000000000010.chk").unlink()
    assert steps(folder) == [20, 10]


def test_without_the_state_there_is_nothing_to_go_on_from(folder):
    (folder / "checkpoint-000000000020.xml").write_bytes(b"damaged")
    assert steps(folder) == [10]
    (folder / "checkpoint-000000000010.xml").unlink()
    assert steps(folder) == []


@pytest.mark.parametrize(
    ("state", "step", "kept"),
    [("unstable", 24, 120), ("finished", 30, 120), ("finished", 24, 100), ("interrupted", 24, 100)],
)
def test_walkers_that_have_ended_keep_all_their_hills(folder, state, step, kept):
    (folder / "HILLS").write_bytes(b"x" * 120)
    ReplicaStatus(replica=0, state=state, length_ps=0.03, step=step).write(folder)
    cut_back_walkers([folder, folder / "not-begun"], n_steps=30)
    assert (folder / "HILLS").stat().st_size == kept
