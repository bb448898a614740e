"""Bonds, angles and dihedrals of a run against the frames of its data set; free energies of runs that are too short."""

import dataclasses
import json

import harmonic_ethanol as ethanol
import numpy as np
import pytest

from openmm_mlbench.analysis import analyze
from openmm_mlbench.data.datasets import load_dataset
from openmm_mlbench.measuring import run_geometry
from openmm_mlbench.protocol import load_protocol
from openmm_mlbench.reference_potentials import find_reference_potential
from openmm_mlbench.report.page import build_report
from openmm_mlbench.report.table import results_of
from openmm_mlbench.simulation.runner import run_protocol
from openmm_mlbench.simulation.starts import structure_frames

DATASET = "ethanol-gfn2"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("geometry") / "run"
    provider = ethanol.HarmonicEthanol()
    provider.description = {"model": "toy", "dataset": DATASET, "archive_sha256": None, "card": None}
    run_protocol(
        load_protocol("ethanol"),
        provider,
        folder,
        start_frames=ethanol.frames(),
        replicas=2,
        length_ps=2.0,
        reference_bonds=ethanol.BONDS,
        equilibrium_A=ethanol.EQUILIBRIUM,
    )
    return folder


def positions_of(run, replica):
    from mdtraj.formats import DCDTrajectoryFile

    with DCDTrajectoryFile(str(run / f"replica-{replica}" / "trajectory.dcd")) as file:
        return file.read()[0].astype(np.float64)


def test_mean_lengths_are_those_of_a_plain_reading(run):
    results = results_of(analyze(run))
    # Atom order: C, C, O, then hydrogen; O-H is the bond of atoms 2 and 8.
    lengths = [
        np.linalg.norm(frames[:, 8] - frames[:, 2], axis=1).mean()
        for frames in (positions_of(run, 0), positions_of(run, 1))
    ]
    found = results["bond_mean_O-H"]
    assert found["value"] == pytest.approx(np.mean(lengths), abs=1e-5)
    frames = load_dataset(DATASET).positions
    expected = np.linalg.norm(frames[:, 8] - frames[:, 2], axis=1).mean()
    error = results["bond_mean_error_O-H"]
    assert error["value"] == pytest.approx(np.mean(np.abs(np.array(lengths) - expected)), abs=1e-5)
    for name in ("bond_mae_O-H", "angle_mae_C-C-O", "dihedral_mae_C-C-O-H", "basin_mae_C-C-O-H"):
        assert results[name]["status"] == "ok"
        assert results[name]["floor"] > 0
        assert "against 1500 frames of ethanol-gfn2, 0.2 ps apart" in results[name]["note"]
        assert "floor: parts of 40 frames of the reference" in results[name]["note"]
    shares = [value["value"] for name, value in results.items() if name.startswith("basin_C-C-O-H_")]
    assert sum(shares) == pytest.approx(1.0)


def test_no_path_of_this_machine_is_written(run):
    text = json.dumps(analyze(run, mode="both")["measurements"])
    assert str(run) not in text
    assert "/tmp" not in text
    assert json.dumps(analyze(run, mode="both")["measurements"]) == text


def test_the_report_has_a_table_of_its_own(run, tmp_path):
    analyze(run)
    text = build_report([run], tmp_path / "report.html").read_text()
    for expected in (
        "Bonds, angles, dihedrals",
        "ethanol-gfn2: bond lengths",
        "basin_C-C-O-H_trans",
    ):
        assert expected in text


def test_without_frames_at_hand_there_is_no_reference(run, monkeypatch):
    monkeypatch.setattr(run_geometry, "_find_frames", lambda dataset: None)
    results = results_of(analyze(run))
    assert (results["bond_mae_O-H"]["status"], results["bond_mae_O-H"]["value"]) == ("no_reference", None)
    assert results["bond_mae_O-H"]["note"] == "frames of ethanol-gfn2 are not at hand"
    assert results["bond_mean_O-H"]["status"] == "ok"


def test_denser_frames_are_thinned_to_those_of_the_run(run, monkeypatch):
    frames = load_dataset(DATASET)
    dense = dataclasses.replace(frames, frame_indices=np.arange(frames.n_frames), interval_fs=10.0)
    monkeypatch.setattr(run_geometry, "_find_frames", lambda dataset: dense)
    note = results_of(analyze(run))["bond_mae_O-H"]["note"]
    assert "against 300 frames of ethanol-gfn2, 0.01 ps apart, one of 5" in note


@pytest.fixture(scope="module")
def biased(tmp_path_factory):
    """Metadynamics of 30 ps with the potential that is the reference."""
    protocol = load_protocol("alanine-dipeptide")
    protocol = dataclasses.replace(protocol, observables=(*protocol.observables, "dihedrals"))
    folder = tmp_path_factory.mktemp("biased") / "run"
    run_protocol(
        protocol,
        find_reference_potential("amber03-obc"),
        folder,
        start_frames=structure_frames(protocol),
        replicas=2,
        length_ps=30.0,
        metadynamics="native",
    )
    return folder


def test_valleys_that_are_not_filled_are_no_free_energy(biased):
    metrics = analyze(biased, mode="both")
    for mode in ("paper", "mdsim"):
        results = results_of(metrics, mode)
        for name in ("F_phi_mae", "F_psi_mae", "F_phi_psi_mae"):
            assert (results[name]["status"], results[name]["value"]) == ("too_short", None)
            assert "of the first one's height, above 30% the valleys are not filled" in results[name]["note"]
        curves = next(m["curves"] for m in metrics["measurements"] if m["observable"] == "free_energy")
        assert {"F_phi replica 0", "F_phi replica 1", "reference F_phi"} <= set(curves)
    dihedrals = results_of(metrics)["dihedral_mae"]
    assert (dihedrals["status"], dihedrals["value"]) == ("unsupported", None)


def test_filled_valleys_have_the_floor_of_their_length(biased, monkeypatch):
    from openmm_mlbench.measuring import run_free_energy

    monkeypatch.setattr(run_free_energy, "MAX_SHARE_OF_HEIGHT", 2.0)
    result = results_of(analyze(biased))["F_phi_mae"]
    assert result["status"] == "ok"
    # Of the table's shortest length, 500 ps; at 10 ns it would be 2.0.
    assert result["floor"] == pytest.approx(16.2, abs=0.1)
    assert "floor: one run of the reference, cut at 500 ps, against the others" in result["note"]
    assert result["note"].count("floor:") == 1
