"""Analysis of periodic runs: RDFs, diffusivity, drift and stability by RDF windows, each as the protocol asks."""

import liquid_argon as argon
import numpy as np
import pytest

from openmm_mlbench import run_measurements
from openmm_mlbench.analysis import analyze
from openmm_mlbench.files import write_json
from openmm_mlbench.measurements import DiffusivityOptions, Source, measure_diffusivity, measure_rdf
from openmm_mlbench.report.page import build_report
from openmm_mlbench.report.table import results_of
from openmm_mlbench.run_folder import read_run
from openmm_mlbench.selections import load_topology
from openmm_mlbench.simulation.runner import run_protocol
from openmm_mlbench.simulation.starts import structure_frames
from openmm_mlbench.trajectory_stream import open_trajectory


def simulate(folder, out, provider=None, ensemble="NVT", **options):
    protocol = argon.write_protocol(folder, ensemble)
    run_protocol(protocol, provider or argon.Argon(), out, start_frames=structure_frames(protocol), **options)
    return out


def source_of(run, start_ps=0.0):
    topology = load_topology(run / "topology.pdb")
    files = [
        open_trajectory(path, topology.atomic_numbers, 0.04)
        for path in sorted(run.glob("replica-*/trajectory.dcd"))
    ]
    return Source(topology=topology, files=files, start_ps=start_ps)


@pytest.fixture(scope="module")
def references(tmp_path_factory):
    """RDF and diffusivity of a run of the right liquid, as ``measure`` writes them."""
    folder = tmp_path_factory.mktemp("reference")
    run = simulate(folder, folder / "run", length_ps=8.0, replicas=1, seed=1)
    source = source_of(run, start_ps=1.0)
    pairs = source.topology.pairs("Ar-Ar")
    rdf = measure_rdf(source, pairs, r_max_A=7.0, n_bins=70, mode="paper").measurement
    write_json(folder / "rdf.json", rdf.as_json())
    options = DiffusivityOptions(lag_ps=1.0)
    atoms = np.arange(argon.N_ATOMS)
    write_json(folder / "diffusivity.json", measure_diffusivity(source, atoms, options).measurement.as_json())
    return folder


@pytest.fixture
def with_references(references, monkeypatch):
    monkeypatch.setattr(
        run_measurements, "reference_of", lambda run, observable: references / f"{observable}.json"
    )


def test_without_references_everything_is_measured_and_says_so(tmp_path):
    run = simulate(tmp_path, tmp_path / "run", length_ps=2.0)
    results = results_of(analyze(run))
    assert results["rdf_mae_Ar-Ar"]["status"] == "no_reference"
    assert results["diffusivity"]["status"] == "ok"
    assert results["diffusivity_mae"]["status"] == "no_reference"
    assert results["stability"]["value"] == pytest.approx(2.0)
    assert "h_r_mae" not in results
    # A cell has a temperature and no rotation of its own.
    assert "temperature" in results
    assert not {"T_rot", "T_vib"} & set(results)
    assert "without breaking" in results["n_finished"]["note"]
    assert read_run(run).rdf_pairs == ("Ar-Ar",)


def test_the_right_liquid_meets_its_references(tmp_path, with_references):
    run = simulate(tmp_path, tmp_path / "run")
    results = results_of(analyze(run))
    rdf = results["rdf_mae_Ar-Ar"]
    assert rdf["value"] < 3 * rdf["floor"]
    assert (results["stability"]["status"], results["n_finished"]["value"]) == ("censored", 2)
    # The same numbers as `measure` gives for these files.
    source = source_of(run)
    by_hand = measure_diffusivity(source, np.arange(argon.N_ATOMS), DiffusivityOptions(lag_ps=1.0))
    assert results["diffusivity"]["value"] == by_hand.measurement.results[0].value
    assert results["diffusivity"]["n_replicas"] == 2
    page = build_report([run], tmp_path / "report.html").read_text()
    for expected in (
        "RDF MAE Ar-Ar",
        "RDF of Ar-Ar",
        "Mean squared displacement",
        "RDFs against time of argon",
    ):
        assert expected in page, expected


def test_another_liquid_is_unstable_by_its_rdf_windows(tmp_path, with_references):
    run = simulate(tmp_path, tmp_path / "run", argon.Argon(sigma_nm=0.28), length_ps=3.2)
    metrics = analyze(run)
    results = results_of(metrics)
    assert results["n_finished"]["value"] == 0
    assert results["stability"]["value"] < 3.0
    assert "integral of |RDF - reference| exceeds 1 A" in metrics["measurements"][1]["definition"]
    first = metrics["run"]["replicas"][0]
    assert first["broke"]
    # The stable part is what comes before the first window beyond the threshold.
    curve = metrics["measurements"][1]["curves"]["replica 0"]
    beyond = np.array(curve["y"]) > 1.0
    assert first["stable_ps"] == pytest.approx(curve["x"][int(beyond.argmax())], abs=1e-6)


def test_energy_drift_of_nve_runs(tmp_path):
    run = simulate(tmp_path, tmp_path / "run", ensemble="NVE")
    metrics = analyze(run)
    drift = results_of(metrics)["drift"]
    assert drift["status"] == "ok"
    assert drift["n_replicas"] == 2
    # kJ/mol/ps/atom, of a potential that is cut off; the thermal energy is 1 kJ/mol.
    assert abs(drift["value"]) < 0.05
    curves = next(m["curves"] for m in metrics["measurements"] if m["observable"] == "drift")
    assert set(curves) == {"replica 0", "replica 1"}


def test_less_than_a_window_is_no_stability(tmp_path, with_references):
    run = simulate(tmp_path, tmp_path / "run", length_ps=0.4, replicas=1)
    stability = results_of(analyze(run))["stability"]
    assert (stability["status"], stability["value"]) == ("too_short", None)
    assert "no replica is as long as one window of 0.8 ps" in stability["note"]
