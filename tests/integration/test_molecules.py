"""The four molecules of MD17, from data to report: `--data` wherever a data set is named, and references from runs."""

import json

import numpy as np
import pytest
from harmonic_ethanol import BONDS, EQUILIBRIUM, HarmonicEthanol, frames
from test_cli import fail, run, succeed

from openmm_mlbench import workflow
from openmm_mlbench.data.datasets import data_folder, dataset_path, load_dataset
from openmm_mlbench.errors import MetricError
from openmm_mlbench.measuring.run_reference import reference_from_run
from openmm_mlbench.protocol import load_protocol
from openmm_mlbench.reference_potentials import find_reference_potential
from openmm_mlbench.references import Reference, load_canonical_reference, load_reference
from openmm_mlbench.report.page import build_report
from openmm_mlbench.simulation.runner import run_protocol
from openmm_mlbench.topology import read_topology
from openmm_mlbench.trajectory import read_dcd

MOLECULES = ("aspirin", "ethanol", "naphthalene", "salicylic-acid")
# Force MAE of the kernel models, meV/A.
KERNEL_FORCE_MAE = {"aspirin": 30, "ethanol": 14, "naphthalene": 5, "salicylic-acid": 12.5}


def elsewhere(molecule, tmp_path, monkeypatch):
    """The real file, where only --data finds it."""
    if not dataset_path(molecule).is_file():
        pytest.skip(f"real MD17 data of {molecule} are not at hand (set MLBENCH_DATA)")
    path = tmp_path / "given.npz"
    path.symlink_to(dataset_path(molecule).resolve())
    monkeypatch.setenv("MLBENCH_DATA", str(tmp_path / "nowhere"))
    monkeypatch.setenv("MLBENCH_CACHE", str(tmp_path / "no-cache"))
    return path


@pytest.mark.parametrize("molecule", MOLECULES)
def test_data_option_where_data_are_looked_at(molecule, tmp_path, monkeypatch, capsys):
    path = elsewhere(molecule, tmp_path, monkeypatch)
    assert "--data" in fail(capsys, "data", "inspect", molecule)
    seen = {}
    for name, level in ((molecule, "PBE+vdW-TS"), (f"{molecule}-rmd17", "PBE/def2-SVP")):
        assert level in succeed(capsys, "data", "inspect", name, "--data", path)
        out = tmp_path / f"{name}.npz"
        succeed(capsys, "data", "convert", name, out, "--data", path)
        seen[name] = load_dataset(out)
    original, revised = seen.values()
    assert original.n_frames > 8000
    np.testing.assert_array_equal(original.positions, revised.positions)
    assert np.abs(original.forces - revised.forces).mean() > 0.05
    other = MOLECULES[MOLECULES.index(molecule) - 1]
    assert f"are not those of {other}" in fail(capsys, "data", "inspect", other, "--data", path)


@pytest.mark.parametrize("molecule", MOLECULES)
def test_data_option_from_training_to_numbers(molecule, tmp_path, monkeypatch, capsys):
    path = elsewhere(molecule, tmp_path, monkeypatch)
    given = ("--data", path)
    assert "--data" in fail(capsys, "train", "schnet", molecule, "-o", tmp_path / "training")
    few = (
        "--train-frames",
        8,
        "--validation-frames",
        2,
        "--test-frames",
        5,
        "--epochs",
        1,
        "--batch-size",
        4,
    )
    succeed(capsys, "train", "schnet", molecule, "-o", tmp_path / "training", *given, *few, "--device", "cpu")
    archive = tmp_path / "schnet.pt"
    assert "meV/A" in succeed(capsys, "export", tmp_path / "training" / "best.pt", "-o", archive, *given)
    if molecule != "salicylic-acid":
        return
    # Once is enough for what does not depend on the molecule.
    assert "FAILED" not in succeed(capsys, "check", archive)
    folder = tmp_path / "run"
    options = ("--model", archive, "--replicas", 1, "--length", 0.1, *given)
    succeed(capsys, "simulate", molecule, *options, "-o", folder)
    assert json.loads((folder / "run.json").read_text())["start_frames"]["dataset"] == molecule
    assert "force_mae " in succeed(capsys, "analyze", folder, *given)
    assert "run.py" in succeed(
        capsys, "export-openmm", molecule, "--model", archive, *given, "-o", tmp_path / "script"
    )


@pytest.mark.parametrize("molecule", MOLECULES)
def test_kernel_model_from_simulation_to_report(molecule, tmp_path):
    potential = find_reference_potential(f"sgdml-{molecule}")
    if not (potential.file.is_file() and dataset_path(molecule).is_file()):
        pytest.skip(f"kernel model and MD17 data of {molecule} are not at hand (set MLBENCH_DATA)")
    protocol = load_protocol(molecule)
    folder = tmp_path / "run"
    (status,) = workflow.simulate(
        protocol, potential, folder, replicas=1, length_ps=protocol.toy_length_ps, platform="Reference"
    )
    assert (status.state, status.time_ps) == ("finished", protocol.toy_length_ps)
    metrics = workflow.measure(folder)
    results = {r["name"]: r for measurement in metrics["measurements"] for r in measurement["results"]}
    assert results["force_mae"]["value"] == pytest.approx(KERNEL_FORCE_MAE[molecule], rel=0.1)
    assert results["stability"]["status"] == "censored"
    assert 0 < results["h_r_mae"]["value"] < 0.7
    assert "the vibrations of these frames are at" in results["h_r_mae"]["note"]
    assert ("h_r_mae_canonical" in results) == (load_canonical_reference(molecule) is not None)
    page = build_report([folder], tmp_path / "report.html").read_text(encoding="utf-8")
    assert f"sgdml-{molecule}" in page


def test_kernel_model_without_its_file(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MLBENCH_DATA", str(tmp_path))
    code, _, err = run(capsys, "simulate", "ethanol", "--model", "sgdml-ethanol", "-o", tmp_path / "run")
    # Where the run would have started from is said first.
    line = err.splitlines()[-1]
    assert code == 2
    assert "needs the kernel file" in line
    assert not (tmp_path / "run").exists()
    assert data_folder() == tmp_path


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    run_protocol(
        load_protocol("ethanol-langevin"),
        HarmonicEthanol(),
        folder,
        start_frames=frames(),
        replicas=2,
        length_ps=3.2,
        reference_bonds=BONDS,
        equilibrium_A=EQUILIBRIUM,
    )
    return folder


def test_a_run_as_reference(finished, tmp_path, capsys):
    out = tmp_path / "toy.json"
    text = succeed(capsys, "data", "reference", finished, "--name", "toy", "--skip", 0.5, "-o", out)
    assert "80 frames, 8 bonds, 4 ps" in text
    reference = Reference.load(out)
    # 2.7 ps of each replica are left: two whole blocks.
    assert (len(reference.blocks), reference.block_ps, reference.n_frames) == (4, 1.0, 80)
    assert (reference.dataset, reference.temperature_K) == ("toy", 500.0)
    assert reference.bonds.tolist() == BONDS.tolist()
    np.testing.assert_allclose(reference.bond_lengths_A, EQUILIBRIUM, atol=0.05)
    assert "2 x 3.2 ps of dynamics (0.5 fs, 500 K), the first 0.5 ps left out" in reference.method
    assert "simulate ethanol-langevin --model" in reference.method
    assert reference.noise_floor(1.0).value > 0


def test_what_cannot_be_a_reference(finished, tmp_path):
    with pytest.raises(MetricError, match=r"less than 2 ps are left after 2 ps of equilibration"):
        reference_from_run(finished, dataset="toy", skip_ps=2.0)
    with pytest.raises(MetricError, match=r"holds no run\.json"):
        reference_from_run(tmp_path, dataset="toy")
    status = finished / "replica-1" / "status.json"
    before = status.read_text()
    try:
        status.write_text(json.dumps(json.loads(before) | {"state": "interrupted"}))
        with pytest.raises(MetricError, match="1 of 2 replicas have finished"):
            reference_from_run(finished, dataset="toy")
    finally:
        status.write_text(before)


def test_measured_against_the_reference_of_a_data_set(finished, capsys):
    """The same number as in the analysis of a run: here of another potential, so far off."""
    asked = (
        "measure", "distances", "--trajectory", finished / "replica-0" / "trajectory.dcd",
        "--topology", finished / "topology.pdb", "--frame-interval", "50fs", "--reference",
    )  # fmt: skip
    positions = read_dcd(
        finished / "replica-0" / "trajectory.dcd", read_topology(finished / "topology.pdb"), 0.05
    )
    for name, reference in (
        ("ethanol-gfn2", load_reference("ethanol-gfn2")),
        ("ethanol-rmd17", load_reference("ethanol")),
        ("ethanol-sgdml", load_canonical_reference("ethanol")),
    ):
        row = succeed(capsys, *asked, name).splitlines()[-1].split()
        assert row[:2] == ["h_r_mae", "ok"]
        assert float(row[2]) == pytest.approx(reference.h_r_mae(positions.positions_A), rel=1e-3)
    assert "ships no h_r reference; give a file" in fail(capsys, *asked, "water-1k")
