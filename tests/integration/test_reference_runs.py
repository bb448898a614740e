"""The potential behind a data set, run by the same command as a model."""

import json

import numpy as np
import pytest

from openmm_mlbench import workflow
from openmm_mlbench.analysis import analyze
from openmm_mlbench.cli import main
from openmm_mlbench.data.datasets import default_split, load_dataset
from openmm_mlbench.errors import SimulationError
from openmm_mlbench.protocol import load_protocol
from openmm_mlbench.topology import read_topology
from openmm_mlbench.trajectory import read_dcd


def test_water(tmp_path, capsys):
    """Starts are test frames in their exact cell; the run is analyzed like any other."""
    run = tmp_path / "run"
    with pytest.raises(SystemExit) as stop:
        main(
            [
                *("simulate", "water", "--model", "spcfw-mdsim", "--replicas", "1", "--length", "0.2"),
                *("--platform", "Reference", "-o", str(run)),
            ]
        )
    assert stop.value.code in (0, None)
    record = json.loads((run / "run.json").read_text())
    assert record["model"]["model"] == "spcfw-mdsim"
    assert record["model"]["archive_sha256"] is None
    assert record["model"]["parameters"]["OH_constant_kcal_mol_A2"] == pytest.approx(2118.324)
    assert record["start_frames"]["dataset"] == record["dataset"] == "water-1k"
    frames = load_dataset("water-1k")
    test = frames.frame_indices[default_split("water-1k", frames).test]
    assert set(record["start_frame_indices"]) <= set(test.tolist())
    trajectory = read_dcd(run / "replica-0" / "trajectory.dcd", read_topology(run / "topology.pdb"), 0.1)
    np.testing.assert_allclose(trajectory.box_vectors_nm[-1], np.eye(3) * 1.244288, atol=1e-6)
    metrics = analyze(run)
    names = {result["name"]: result for m in metrics["measurements"] for result in m["results"]}
    assert names["force_mae"]["status"] == "no_reference"
    assert 100 < names["temperature"]["value"] < 500
    # The reference of a data set goes by its name.
    command = [
        *("measure", "rdf", "--topology", str(run / "topology.pdb"), "--frame-interval", "0.1ps"),
        *("--trajectory", str(run / "replica-0" / "trajectory.dcd"), "--pairs", "O-O"),
    ]
    with pytest.raises(SystemExit) as stop:
        main([*command, "--reference", "water-1k", "--json", str(tmp_path / "rdf.json")])
    assert stop.value.code in (0, None)
    found = json.loads((tmp_path / "rdf.json").read_text())
    assert found["inputs"]["reference"].endswith("water-1k-rdf.json")
    assert found["results"][0]["status"] == "ok"
    for name, words in (
        ("water-2k", "neither a file nor a data set"),
        ("water-dft", "ships no rdf reference"),
    ):
        with pytest.raises(SystemExit) as stop:
            main([*command, "--reference", name])
        assert stop.value.code == 2
        assert words in capsys.readouterr().err


def test_peptide_starts_from_its_minima(tmp_path):
    statuses = workflow.simulate(
        load_protocol("alanine-dipeptide"),
        workflow.find_model("amber03-obc"),
        tmp_path / "run",
        replicas=2,
        length_ps=2.0,
        platform="Reference",
    )
    assert [status.state for status in statuses] == ["finished", "finished"]
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["start_frame_indices"] == [0, 1]


def test_other_systems_are_refused(tmp_path):
    with pytest.raises(
        SimulationError,
        match="amber03-obc is a potential of alanine-dipeptide, protocol water simulates water",
    ):
        workflow.simulate(load_protocol("water"), workflow.find_model("amber03-obc"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_without_its_data_a_potential_starts_from_the_structure(tmp_path, monkeypatch):
    from openmm_mlbench.data import datasets

    monkeypatch.setattr(datasets, "file_path", lambda file: tmp_path / "none")
    start = workflow.start_of(load_protocol("water"), workflow.find_model("spcfw"))
    assert not start.own
    assert start.frames.n_frames == 5
    np.testing.assert_array_equal(start.frames.positions[0], start.frames.positions[4])
    assert "every replica starts from topology.pdb" in start.note
