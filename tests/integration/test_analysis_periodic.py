"""Analysis of periodic runs: RDFs, diffusivity, drift and stability by RDF windows, each as the protocol asks."""

import liquid_argon as argon
import numpy as np
import pytest

from openmm_mlbench.analysis import analyze
from openmm_mlbench.errors import MetricError
from openmm_mlbench.files import read_json, write_json
from openmm_mlbench.measuring import run_measurements
from openmm_mlbench.measuring.diffusivity import DiffusivityOptions, measure_diffusivity
from openmm_mlbench.measuring.measurement import Source
from openmm_mlbench.measuring.rdf import measure_rdf
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
    atoms = np.arange(argon.N_ATOMS)
    for mode, ending in (("paper", ""), ("mdsim", "-mdsim")):
        rdf = measure_rdf(source, pairs, r_max_A=7.0, n_bins=70, mode=mode).measurement
        write_json(folder / f"rdf{ending}.json", rdf.as_json())
        options = DiffusivityOptions(mode=mode, lag_ps=1.0, stride_ps=0.2)
        record = measure_diffusivity(source, atoms, options).measurement.as_json()
        record["inputs"]["dynamics"] = {
            "ensemble": "NVT",
            "thermostat": "Langevin 5/ps",
            "temperature_K": 120.0,
        }
        write_json(folder / f"diffusivity{ending}.json", record)
    return folder


@pytest.fixture
def with_references(references, monkeypatch):
    monkeypatch.setattr(
        run_measurements,
        "reference_of",
        lambda run, observable, mode="paper": (
            references / f"{observable}{'' if mode == 'paper' else '-mdsim'}.json"
        ),
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
        "RDF MAE Ar\N{NON-BREAKING HYPHEN}Ar",
        "RDF of Ar-Ar",
        "mean squared displacement",
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
    fluctuation = results_of(metrics)["temperature_fluctuation"]
    assert (fluctuation["status"], fluctuation["value"]) == ("unsupported", None)
    # kJ/mol/ps/atom, of a potential that is cut off; the thermal energy is 1 kJ/mol.
    assert abs(drift["value"]) < 0.05
    curves = next(m["curves"] for m in metrics["measurements"] if m["observable"] == "drift")
    assert set(curves) == {"replica 0", "replica 1"}


def test_less_than_a_window_is_no_stability(tmp_path, with_references):
    run = simulate(tmp_path, tmp_path / "run", length_ps=0.4, replicas=1)
    stability = results_of(analyze(run))["stability"]
    assert (stability["status"], stability["value"]) == ("too_short", None)
    assert "no replica is as long as one window of 0.8 ps" in stability["note"]


def results_in(metrics, mode):
    return {r["name"]: r for m in metrics["measurements"] if m["mode"] == mode for r in m["results"]}


def test_both_modes_stand_side_by_side_and_are_never_mixed(tmp_path, with_references):
    run = simulate(tmp_path, tmp_path / "run")
    metrics = analyze(run, mode="both")
    assert metrics["modes"] == ["paper", "mdsim"]
    modes = [(m["observable"], m["mode"]) for m in metrics["measurements"]]
    for observable in ("stability", "rdf", "diffusivity"):
        assert [mode for name, mode in modes if name == observable] == ["paper", "mdsim"]
    assert [mode for name, mode in modes if name in ("temperature", "drift")] == ["standard"] * 2
    paper, mdsim = results_in(metrics, "paper"), results_in(metrics, "mdsim")
    # 64 atoms of one kind: the self pairs in the norm scale both RDFs, and so their difference, by 63/64.
    name = "rdf_mae_Ar-Ar"
    assert mdsim[name]["value"] == pytest.approx(63 / 64 * paper[name]["value"], rel=1e-3)
    assert mdsim[name]["floor"] == pytest.approx(63 / 64 * paper[name]["floor"], rel=1e-3)
    used = {m["mode"]: m["inputs"]["reference"] for m in metrics["measurements"] if m["observable"] == "rdf"}
    assert used == {"paper": "rdf.json", "mdsim": "rdf-mdsim.json"}
    # Each mode alone gives what it gives beside the other.
    for mode, alone in (("paper", paper), ("mdsim", mdsim)):
        again = analyze(run, mode=mode)
        assert again["modes"] == [mode]
        assert results_in(again, mode) == alone
    with pytest.raises(MetricError, match="wanted paper, mdsim, both"):
        analyze(run, mode="code")


def test_analyzing_twice_writes_the_same_bytes_and_nothing_else(tmp_path, with_references):
    run = simulate(tmp_path, tmp_path / "run", length_ps=2.0)

    def files():
        return {path: path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}

    before = files()
    analyze(run, mode="both")
    first = files()
    assert {path.name for path in set(first) - set(before)} == {"metrics.json"}
    assert all(first[path] == content for path, content in before.items())
    # What an older version left is replaced.
    (run / "metrics.json").write_text('{"run": {}, "measurements": [{"mode": "old"}]}')
    analyze(run, mode="both")
    assert files() == first


def with_rules(run, **rules):
    path = run / "run.json"
    record = read_json(path)
    record["protocol"] |= {f"diffusivity_{key}": value for key, value in rules.items()}
    write_json(path, record)


def test_the_rules_of_a_protocol_for_its_diffusivity(tmp_path, with_references):
    run = simulate(tmp_path, tmp_path / "run")
    with_rules(run, start_ps=2.0, stride_ps=0.4, min_stable_ps=3.0)
    metrics = analyze(run, mode="both")
    for mode, options in (
        ("paper", DiffusivityOptions(lag_ps=1.0)),
        ("mdsim", DiffusivityOptions(mode="mdsim", lag_ps=1.0, stride_ps=0.4)),
    ):
        by_hand = measure_diffusivity(source_of(run, start_ps=2.0), np.arange(argon.N_ATOMS), options)
        found = results_in(metrics, mode)["diffusivity"]
        assert found["value"] == by_hand.measurement.results[0].value
        assert "the first 2 ps left out" in found["note"]
    # A run that was not stable for long enough does not count by the paper's text; its program does not ask.
    with_rules(run, start_ps=2.0, stride_ps=0.4, min_stable_ps=5.0)
    metrics = analyze(run, mode="both")
    for name in ("diffusivity", "diffusivity_mae"):
        result = results_in(metrics, "paper")[name]
        assert (result["status"], result["value"]) == ("too_short", None)
        assert result["note"] == "stable for 4 ps at most, 5 ps are wanted"
        assert results_in(metrics, "mdsim")[name]["status"] == "ok"


def test_nothing_after_the_start_is_too_short(tmp_path):
    run = simulate(tmp_path, tmp_path / "run", length_ps=2.0)
    with_rules(run, start_ps=3.0)
    result = results_of(analyze(run))["diffusivity"]
    assert (result["status"], result["value"]) == ("too_short", None)
    assert result["note"] == "stable for 2 ps at most, of which the first 3 ps are left out"


def test_other_dynamics_than_the_references_are_said(tmp_path, with_references):
    run = simulate(tmp_path, tmp_path / "run", length_ps=3.2)
    note = (
        "other dynamics than the reference's: NVT, Langevin 2/ps, 120 K here, NVT, Langevin 5/ps, 120 K there"
    )
    for name in ("diffusivity", "diffusivity_mae"):
        assert note in results_of(analyze(run))[name]["note"]
    path = run / "protocol.xml"
    path.write_text(path.read_text().replace('friction="2"', 'friction="5"'))
    assert "other dynamics" not in results_of(analyze(run))["diffusivity"]["note"]


def test_floors_are_of_the_length_of_the_run(tmp_path, with_references):
    floors = {}
    for length_ps in (0.8, 3.2):
        run = simulate(tmp_path, tmp_path / f"run-{length_ps}", length_ps=length_ps, replicas=1)
        result = results_of(analyze(run))["rdf_mae_Ar-Ar"]
        floors[length_ps] = result["floor"]
        assert f"{length_ps:g} ps with a frame every 0.04 ps" in result["note"]
    # Of 7 ps: the root of (1/0.8 + 1/6.2) / (1/3.2 + 1/3.8) is 1.57 for independent frames, and these are none.
    assert 1.2 < floors[0.8] / floors[3.2] < 1.8
