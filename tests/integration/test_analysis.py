"""From run folders, simulated with an analytic potential, to metrics.json."""

import csv
import json
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from harmonic_ethanol import ATOMIC_NUMBERS, BONDS, EQUILIBRIUM, POSITIONS, HarmonicEthanol, topology

from openmm_mlbench.analysis import METRICS_FILE, analyze
from openmm_mlbench.data.frames import Frames
from openmm_mlbench.errors import MetricError, TrajectoryError
from openmm_mlbench.metrics.distances import compute_h_r, h_r_mae
from openmm_mlbench.protocol import load_protocol
from openmm_mlbench.references import load_reference
from openmm_mlbench.run_folder import read_log
from openmm_mlbench.simulation.runner import run_protocol

DATASET = "ethanol-gfn2"
LENGTH_PS, N_FRAMES = 1.0, 20
CARD = {
    "model": "schnet",
    "trained_on": {"dataset": DATASET, "n_train": 1000, "level_of_theory": "GFN2-xTB"},
    "errors": {"n_test": 450, "force_mae_meV_A": 33.2, "force_mae_stderr_meV_A": 0.4},
}


def make_frames(n_frames=20):
    rng = np.random.default_rng(0)
    return Frames(
        name=DATASET,
        atomic_numbers=ATOMIC_NUMBERS,
        positions=POSITIONS + 0.02 * rng.normal(size=(n_frames, 9, 3)),
        energies=np.linspace(-1.0, 1.0, n_frames),
        forces=rng.normal(size=(n_frames, 9, 3)),
        cells=None,
        frame_indices=np.arange(n_frames),
        interval_fs=None,
        constraints="none",
        level_of_theory="GFN2-xTB",
        source="a test",
    )


@pytest.fixture(scope="module")
def reference():
    """The real one, with the bond lengths of the analytic potential."""
    return replace(load_reference(DATASET), bond_lengths_A=EQUILIBRIUM)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("simulated") / "run"
    provider = HarmonicEthanol()
    provider.description = {"model": "toy/schnet", "dataset": DATASET, "archive_sha256": None, "card": CARD}
    run_protocol(
        load_protocol("ethanol"),
        provider,
        folder,
        start_frames=make_frames(),
        replicas=2,
        length_ps=LENGTH_PS,
        reference_bonds=BONDS,
        equilibrium_A=EQUILIBRIUM,
    )
    return folder


@pytest.fixture
def run(simulated, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(simulated, tmp_path / "run")


def results_of(metrics):
    return {result["name"]: result for m in metrics["measurements"] for result in m["results"]}


def curves_of(metrics, observable):
    return next(m["curves"] for m in metrics["measurements"] if m["observable"] == observable)


def read_positions(replica_folder):
    from mdtraj.formats import DCDTrajectoryFile

    with DCDTrajectoryFile(str(replica_folder / "trajectory.dcd")) as file:
        return file.read()[0].astype(np.float64)


def write_positions(replica_folder, positions_A):
    from openmm import app, unit

    with open(replica_folder / "trajectory.dcd", "wb") as file:
        dcd = app.DCDFile(file, topology(), 0.0005 * unit.picosecond, firstStep=100, interval=100)
        for frame in positions_A:
            dcd.writeModel(frame * unit.angstrom)


def change_status(replica_folder, **changes):
    path = replica_folder / "status.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def break_replica(replica_folder, frame):
    """Stretch the O-H bond by 0.8 A from this frame on, as the simulation would have noticed."""
    positions_A = read_positions(replica_folder)
    bond = positions_A[frame:, 8] - positions_A[frame:, 2]
    positions_A[frame:, 8] += 0.8 * bond / np.linalg.norm(bond, axis=-1, keepdims=True)
    write_positions(replica_folder, positions_A)
    time_ps = 0.05 * (frame + 1)
    change_status(
        replica_folder,
        state="unstable",
        reason="bond-deviation",
        message="bond O3-H9 broke",
        stable_ps=time_ps,
    )
    return positions_A


def test_everything_is_measured_and_written(run, reference):
    metrics = analyze(run, reference)
    assert json.loads((run / METRICS_FILE).read_text()) == metrics
    results = {
        name: result
        for name, result in results_of(metrics).items()
        if not name.startswith(("bond_", "angle_", "dihedral_", "basin_"))
    }
    assert set(results) == {
        "force_mae", "stability", "n_finished", "h_r_mae", "temperature", "T_rot", "T_vib", "steps_per_second",
        "ns_per_day", "s_per_million_atom_steps", "temperature_fluctuation",
    }  # fmt: skip
    assert (results["stability"]["status"], results["stability"]["value"]) == ("censored", LENGTH_PS)
    assert results["n_finished"]["value"] == 2
    for name in ("h_r_mae", "temperature", "T_rot", "T_vib", "steps_per_second"):
        assert results[name]["status"] == "ok"
        assert results[name]["stderr"] > 0
        assert results[name]["n_replicas"] == 2
    assert results["h_r_mae"]["floor"] == pytest.approx(reference.noise_floor(LENGTH_PS).value)
    assert metrics["run"]["architecture"] == "schnet"
    assert metrics["run"]["provenance"] == json.loads((run / "run.json").read_text())


def test_numbers_against_a_plain_reading_of_the_files(run, reference):
    metrics = analyze(run, reference)
    results, members = results_of(metrics), metrics["run"]["replicas"]
    density = reference.density
    for i, member in enumerate(members):
        positions_A = read_positions(run / f"replica-{i}")
        assert len(positions_A) == N_FRAMES
        r, own = compute_h_r(positions_A)
        assert member["h_r_mae"] == pytest.approx(h_r_mae(own, density, r[1] - r[0]), rel=1e-6)
        with open(run / f"replica-{i}" / "log.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        for name, column in (("temperature", "temperature_K"), ("T_rot", "T_rot_K"), ("T_vib", "T_vib_K")):
            assert member[name] == pytest.approx(np.mean([float(row[column]) for row in rows]))
        # The deviation that the simulation logged in double precision is that of the DCD file.
        curve = curves_of(metrics, "stability")[f"replica {i}"]
        np.testing.assert_allclose(
            curve["y"], [float(row["max_bond_deviation_A"]) for row in rows], atol=1e-5
        )
        np.testing.assert_allclose(curve["x"], [float(row["time_ps"]) for row in rows], atol=1e-9)
        assert (member["time_ps"], member["stable_ps"]) == (LENGTH_PS, pytest.approx(LENGTH_PS))
    for name in ("h_r_mae", "temperature", "T_rot", "T_vib"):
        values = [member[name] for member in members]
        assert results[name]["value"] == pytest.approx(np.mean(values))
        assert results[name]["stderr"] == pytest.approx(np.std(values, ddof=1) / np.sqrt(2))


def test_fluctuation_of_the_temperature_is_over_the_canonical_one(run, reference):
    result = results_of(analyze(run, reference))["temperature_fluctuation"]
    ratios = []
    for i in range(2):
        T = read_log(run / f"replica-{i}" / "log.csv")["temperature_K"]
        ratios.append(np.std(T, ddof=1) / (np.sqrt(2 / 24) * T.mean()))
    assert result["value"] == pytest.approx(np.mean(ratios))
    # 9 atoms whose centre of mass rests.
    assert "24 degrees of freedom, from kinetic energy and temperature in the log" in result["note"]


def test_curves_have_units_and_the_difference_is_one(run, reference):
    curves = curves_of(analyze(run, reference), "h_r_mae")
    assert set(curves) == {"reference", "mean", "difference", "replica 0", "replica 1"}
    assert {(c["x_unit"], c["y_unit"]) for c in curves.values()} == {("A", "1/A")}
    mean = (np.array(curves["replica 0"]["y"]) + curves["replica 1"]["y"]) / 2
    np.testing.assert_allclose(curves["mean"]["y"], mean, atol=1e-4)
    np.testing.assert_allclose(curves["difference"]["y"], mean - curves["reference"]["y"], atol=1e-4)


def test_broken_replica_counts_up_to_its_break(run, reference):
    positions_A = break_replica(run / "replica-1", frame=8)
    metrics = analyze(run, reference)
    results, broken = results_of(metrics), metrics["run"]["replicas"][1]
    assert (broken["broke"], broken["state"], broken["reason"]) == (True, "unstable", "bond O3-H9 broke")
    assert broken["stable_ps"] == pytest.approx(0.45)
    # S is 1 up to 0.45 ps and 1/2 after it.
    assert results["stability"]["status"] == "unstable"
    assert results["stability"]["value"] == pytest.approx(0.45 + 0.55 / 2)
    assert results["stability"]["stderr"] == pytest.approx(0.55 / 2)
    assert results["n_finished"]["value"] == 1
    r, own = compute_h_r(positions_A[:8])
    assert broken["h_r_mae"] == pytest.approx(h_r_mae(own, reference.density, r[1] - r[0]), rel=1e-6)
    log = read_log(run / "replica-1" / "log.csv")
    assert broken["temperature"] == pytest.approx(log["temperature_K"][:8].mean())
    deviation = curves_of(metrics, "stability")["replica 1"]["y"]
    assert max(deviation[:8]) < 0.5 < min(deviation[8:])


def test_a_break_that_the_simulation_did_not_see_is_found(run, reference):
    break_replica(run / "replica-1", frame=8)
    change_status(run / "replica-1", state="finished", reason="", message="", stable_ps=None)
    assert analyze(run, reference)["run"]["replicas"][1]["stable_ps"] == pytest.approx(0.45)


def test_replicas_that_blew_up_at_once_have_no_averages(run, reference):
    for i in range(2):
        write_positions(run / f"replica-{i}", np.empty((0, 9, 3)))
        log = (run / f"replica-{i}" / "log.csv").read_text().splitlines()
        (run / f"replica-{i}" / "log.csv").write_text(log[0] + "\n")
        change_status(
            run / f"replica-{i}",
            state="unstable",
            reason="not-finite",
            message="NaN",
            stable_ps=0.02,
            time_ps=0.0,
        )
    metrics = analyze(run, reference)
    results = results_of(metrics)
    assert (results["stability"]["status"], results["stability"]["value"]) == (
        "unstable",
        pytest.approx(0.02),
    )
    assert results["h_r_mae"]["status"] == "unstable"
    for name in ("h_r_mae", "temperature", "T_rot", "T_vib"):
        assert results[name]["value"] is None
        assert results[name]["stderr"] is None
        assert results[name]["note"]


def test_replicas_that_failed_without_a_frame(run, reference):
    for i in range(2):
        (run / f"replica-{i}" / "trajectory.dcd").unlink()
        (run / f"replica-{i}" / "log.csv").unlink()
        change_status(
            run / f"replica-{i}", state="failed", reason="error", message="out of memory", time_ps=0.0
        )
    result = results_of(analyze(run, reference))["stability"]
    assert (result["status"], result["value"]) == ("failed", None)
    assert "out of memory" in result["note"]


def test_an_interrupted_run_is_measured_as_far_as_it_came(run, reference):
    trajectory = run / "replica-1" / "trajectory.dcd"
    frame_bytes = 3 * (8 + 4 * 9)
    trajectory.write_bytes(trajectory.read_bytes()[: -5 * frame_bytes - 10])
    log = run / "replica-1" / "log.csv"
    log.write_text(log.read_text()[:-5])
    change_status(run / "replica-1", state="running", time_ps=0.7)
    metrics = analyze(run, reference)
    assert metrics["run"]["replicas"][1]["stable_ps"] == pytest.approx(0.7)
    assert results_of(metrics)["n_finished"]["value"] == 1
    assert "1 of them interrupted before 1 ps" in results_of(metrics)["stability"]["note"]


def test_a_cut_trajectory_of_a_finished_replica_is_an_error(run, reference):
    trajectory = run / "replica-1" / "trajectory.dcd"
    trajectory.write_bytes(trajectory.read_bytes()[:-10])
    with pytest.raises(TrajectoryError, match=r"header says 20 frames, the file holds 19"):
        analyze(run, reference)
    assert not (run / METRICS_FILE).exists()


def test_one_replica_has_its_own_standard_errors(run, reference):
    shutil.rmtree(run / "replica-1")
    results = results_of(analyze(run, reference))
    assert results["h_r_mae"]["stderr"] > 0
    assert "one replica: standard error within it" in results["h_r_mae"]["note"]
    assert results["steps_per_second"]["stderr"] is None


def test_forces_from_the_card_say_so(run, reference):
    result = results_of(analyze(run, reference))["force_mae"]
    assert (result["value"], result["stderr"], result["n_frames"]) == (33.2, 0.4, 450)
    assert "from the model's card" in result["note"]


@pytest.mark.parametrize("predicts_energy", [True, False])
def test_a_model_without_energies_has_no_error_and_no_drift_of_them(run, reference, predicts_energy):
    record = json.loads((run / "run.json").read_text())
    record["model"]["card"] |= {"predicts_energy": predicts_energy}
    record["model"]["card"]["errors"] |= {"energy_mae_meV": 7.0} if predicts_energy else {}
    record["protocol"]["observables"] = ["force_mae", "stability", "h_r", "drift"]
    (run / "run.json").write_text(json.dumps(record))
    results = results_of(analyze(run, reference=reference))
    assert results["force_mae"]["status"] == "ok"
    for name in ("energy_mae", "drift"):
        assert (results[name]["status"] == "unsupported") is not predicts_energy
        assert (results[name]["value"] is None) is not predicts_energy
        assert ("gives no energies" in results[name]["note"]) is not predicts_energy


def test_forces_on_test_frames(run, reference):
    frames = make_frames(7)
    metrics = analyze(
        run,
        reference,
        predictor=lambda given: (given.energies + 0.3, given.forces + 0.004),
        test_frames=frames,
    )
    results = results_of(metrics)
    assert results["force_mae"]["value"] == pytest.approx(4.0)
    assert results["force_mae"]["n_frames"] == 7
    assert {"force_mae_H", "force_mae_C", "force_mae_O"} <= set(results)
    assert results["force_rmse"]["value"] == pytest.approx(4.0)
    assert results["energy_mae"]["value"] == pytest.approx(300.0)
    assert results["energy_mae_per_atom"]["value"] == pytest.approx(0.0, abs=1e-9)
    assert set(metrics["measurements"][0]["curves"]) == {"force parity", "energy parity"}
    assert metrics["measurements"][0]["inputs"]["sha256"] == frames.content_hash()


def test_no_forces_at_all(run, reference):
    record = json.loads((run / "run.json").read_text())
    record["model"]["card"] = {}
    (run / "run.json").write_text(json.dumps(record))
    result = results_of(analyze(run, reference))["force_mae"]
    assert (result["status"], result["value"]) == ("no_reference", None)


def test_only_the_own_data_set_is_compared_with(run, reference):
    with pytest.raises(
        MetricError, match="the reference is of ethanol, but the model was trained on ethanol-gfn2"
    ):
        analyze(run, replace(reference, dataset="ethanol"))
    with pytest.raises(MetricError, match="the test frames are of ethanol, but"):
        analyze(run, reference, lambda frames: (None, frames.forces), replace(make_frames(), name="ethanol"))
    with pytest.raises(MetricError, match="have no forces"):
        analyze(run, reference, lambda frames: (None, frames.forces), replace(make_frames(), forces=None))


def test_the_shipped_reference_is_the_default(run):
    metrics = analyze(run)
    assert metrics["run"]["reference"]["source"] == load_reference(DATASET).source


def test_without_a_reference_the_log_tells_stability(run):
    record = json.loads((run / "run.json").read_text())
    record["dataset"] = "somebody's own"
    (run / "run.json").write_text(json.dumps(record))
    metrics = analyze(run)
    results = results_of(metrics)
    assert (results["h_r_mae"]["status"], results["h_r_mae"]["value"]) == ("no_reference", None)
    assert results["stability"]["status"] == "censored"
    assert metrics["run"]["reference"] is None


def test_scoring_needs_neither_torch_nor_openmm(run):
    code = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name.partition('.')[0] in ('torch', 'openmm', 'openmmtorch'):\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "from openmm_mlbench.analysis import analyze\n"
        "from openmm_mlbench.report import build_report\n"
        f"analyze({str(run)!r}); build_report([{str(run)!r}], {str(run / 'report.html')!r})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert (run / "report.html").is_file()


def test_folders_that_are_no_runs(run, tmp_path):
    with pytest.raises(MetricError, match=r"holds no run\.json"):
        analyze(tmp_path)
    (run / "run.json").write_text('{"dataset": "x", "model": []}')
    with pytest.raises(MetricError, match=r"run\.json: not of a run"):
        analyze(run)
    (run / "run.json").write_text("{")
    with pytest.raises(MetricError, match="not valid JSON"):
        analyze(run)


def test_a_run_that_has_not_begun(run, reference):
    for i in range(2):
        shutil.rmtree(run / f"replica-{i}")
    with pytest.raises(MetricError, match="no replica has begun"):
        analyze(run, reference)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("step,time_ps\n1,2\n", "lacks the columns temperature_K"),
        ("", "lacks the columns time_ps"),
        (
            "time_ps,temperature_K,T_rot_K,T_vib_K,max_bond_deviation_A\n1,2,3,4,5\n1,2,x,4,5\n",
            "a line is damaged",
        ),
        ("time_ps,temperature_K,T_rot_K,T_vib_K,max_bond_deviation_A\n1,2,3,4,5\n1,2\n", "a line is damaged"),
    ],
)
def test_damaged_logs(tmp_path, content, message):
    (tmp_path / "log.csv").write_text(content)
    with pytest.raises(TrajectoryError, match=message):
        read_log(tmp_path / "log.csv")
    with pytest.raises(TrajectoryError, match="cannot be read"):
        read_log(tmp_path / "none.csv")


def test_a_log_that_was_cut_by_a_kill_loses_its_last_line(tmp_path):
    (tmp_path / "log.csv").write_text(
        "time_ps,temperature_K,T_rot_K,T_vib_K,max_bond_deviation_A\n1,2,,4,5\n2,2,3,4"
    )
    log = read_log(tmp_path / "log.csv")
    assert log["time_ps"].tolist() == [1.0]
    assert np.isnan(log["T_rot_K"]).all()
