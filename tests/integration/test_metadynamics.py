"""Metadynamics without loss: killed, resumed, extended, and shared among walkers."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time

import harmonic_ethanol as ethanol
import killing
import numpy as np
import pytest

from openmm_mlbench.analysis import analyze
from openmm_mlbench.errors import DependencyError, SimulationError
from openmm_mlbench.measuring import run_free_energy
from openmm_mlbench.measuring.free_energy import surface_from_json
from openmm_mlbench.metadynamics import BiasVariable, Metadynamics
from openmm_mlbench.metrics.free_energy import (
    FreeEnergySurface,
    grid_points,
    profile_mae,
    read_hills,
    read_plumed,
    surface_from_hills,
)
from openmm_mlbench.protocol import load_protocol
from openmm_mlbench.references import reference_file
from openmm_mlbench.simulation.metadynamics.bias import plan_bias, plumed_available
from openmm_mlbench.simulation.metadynamics.plumed import off_phase, render_plumed
from openmm_mlbench.simulation.run_folder import read_status
from openmm_mlbench.simulation.runner import run_protocol
from openmm_mlbench.units import BOLTZMANN_KJMOL_K

needs_plumed = pytest.mark.skipif(
    not plumed_available(), reason="openmmplumed does not import; openmm-plumed comes from conda-forge"
)
BACKENDS = ["native", pytest.param("plumed", marks=needs_plumed)]
FILES = ("trajectory.dcd", "HILLS", "COLVAR")

SCRIPT = """
import sys
import test_metadynamics as shared

if __name__ == "__main__":
    out, backend, variant, pace, length_ps, walkers = sys.argv[1:]
    shared.run(out, backend, variant or None, int(pace), float(length_ps), walkers=walkers, resume=True)
"""


def biased(variant="langevin", pace=100):
    """Ethanol with a bias on both torsions; frames are 100 steps apart."""
    variables = (
        BiasVariable(name="phi", atoms=(1, 0, 2, 8), sigma_rad=0.35, grid_bins=60),
        BiasVariable(name="psi", atoms=(2, 0, 1, 5), sigma_rad=0.35, grid_bins=60),
    )
    bias = Metadynamics(
        height_kJ_mol=1.2, pace_steps=pace, bias_factor=6.0, temperature_K=500.0, variables=variables
    )
    return dataclasses.replace(
        load_protocol("ethanol", variant),
        metadynamics=bias,
        checkpoint_interval_ps=1.0,
        observables=("stability", "F_phi", "F_psi"),
    )


def run(out, backend="native", variant="langevin", pace=100, length_ps=6.0, walkers="independent", **options):
    options = {"replicas": 2, "jobs": 2 if walkers == "shared" else 1} | options
    return run_protocol(
        biased(variant, pace),
        ethanol.HarmonicEthanol(),
        out,
        start_frames=ethanol.frames(),
        length_ps=length_ps,
        platform="Reference",
        metadynamics=backend,
        walkers=walkers,
        **options,
    )


def size(path):
    return path.stat().st_size if path.is_file() else 0


def kill_at_random_moments(folder, n_kills, **options):
    """Start the run again and again and kill it; where it lies."""
    whole = sum(size(folder / "whole" / f"replica-{i}" / "log.csv") for i in range(2))
    options = {
        "backend": "native", "variant": "langevin", "pace": 100, "length_ps": 6.0, "walkers": "independent"
    } | options  # fmt: skip
    script = folder / "script.py"
    script.write_text(SCRIPT)
    paths = [os.path.dirname(ethanol.__file__), os.path.dirname(__file__)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    values = ["" if value is None else str(value) for value in options.values()]
    generator = np.random.default_rng()
    for out in killing.attempts(folder):
        states = []
        command = [sys.executable, str(script), str(out), *values]
        for moment in sorted(generator.uniform(0.02 * whole, 0.95 * whole, n_kills)):
            process = subprocess.Popen(command, env=environment, start_new_session=True)
            while process.poll() is None:
                if killing.bytes_written(out) >= moment:
                    # With its workers, if any.
                    os.killpg(process.pid, signal.SIGKILL)
                    break
                time.sleep(generator.uniform(0, 0.003))
            process.wait(timeout=300)
            found = [read_status(out / f"replica-{i}") for i in range(2)]
            states += [item.state if item else "not begun" for item in found]
        if "running" in states:
            break
    assert "running" in states, "never killed while running"
    return out


def assert_same(out, other, files=FILES):
    for replica in range(2):
        one, two = (path / f"replica-{replica}" for path in (out, other))
        for name in files:
            assert (one / name).read_bytes() == (two / name).read_bytes(), name
        assert ethanol.log_without_timing(one) == ethanol.log_without_timing(two)


def check_killed(tmp_path, n_kills, **options):
    run(tmp_path / "whole", **options)
    out = kill_at_random_moments(tmp_path, n_kills, **options)
    statuses = run(out, resume=True, **options)
    assert [status.state for status in statuses] == ["finished", "finished"]
    assert {status.resume for status in statuses} <= {"none", "exact"}
    assert_same(out, tmp_path / "whole")


def test_killed_at_two_random_moments(tmp_path):
    check_killed(tmp_path, 2)


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "pace"), [("langevin", 100), ("langevin", 70), (None, 100), (None, 250)])
def test_killed_at_ten_random_moments(variant, pace, tmp_path):
    """Both thermostats; hills at frames, between them, and at frames alone."""
    check_killed(tmp_path, 10, variant=variant, pace=pace, length_ps=12.0)


@pytest.mark.parametrize(("variant", "pace"), [("langevin", 70), (None, 100), (None, 250)])
def test_a_longer_length_extends_a_finished_run(variant, pace, tmp_path):
    """The last checkpoint stands where the run ended, between two hills or at one."""
    for length_ps in (0.75, 2.0):
        run(tmp_path / "run", "native", variant, pace, length_ps, resume=length_ps > 1)
    run(tmp_path / "whole", "native", variant, pace, 2.0)
    assert_same(tmp_path / "run", tmp_path / "whole")
    hills = read_plumed(tmp_path / "run" / "replica-0" / "HILLS")
    np.testing.assert_allclose(hills["time"], 0.0005 * pace * np.arange(1, 4000 // pace + 1), atol=1e-12)


@needs_plumed
def test_plumed_goes_on_without_loss(tmp_path):
    """Killed twice: PLUMED's files hold every hill and row once, equal to the last digits that it writes."""
    run(tmp_path / "whole", "plumed")
    out = kill_at_random_moments(tmp_path, 2, backend="plumed")
    statuses = run(out, "plumed", resume=True)
    assert [status.state for status in statuses] == ["finished", "finished"]
    for replica in range(2):
        for name in ("HILLS", "COLVAR"):
            one, two = (read_plumed(path / f"replica-{replica}" / name) for path in (out, tmp_path / "whole"))
            assert one["time"].tolist() == two["time"].tolist()
            same = one["time"] <= 0.5
            np.testing.assert_allclose(one.rows[same], two.rows[same], atol=1e-6)
        log = ethanol.read_log(out / f"replica-{replica}")
        assert log["step"].tolist() == list(range(100, 12001, 100))


@needs_plumed
def test_backends_deposit_alike(tmp_path):
    """As many hills at the same times, the same angles until rounding has grown."""
    tables = {}
    for backend in ("native", "plumed"):
        run(tmp_path / backend, backend, length_ps=1.0, replicas=1)
        folder = tmp_path / backend / "replica-0"
        tables[backend] = read_plumed(folder / "HILLS"), read_plumed(folder / "COLVAR")
    for one, two in zip(*tables.values(), strict=True):
        assert one.fields == two.fields
        assert one.settings == two.settings
        np.testing.assert_allclose(one["time"], two["time"][-len(one.rows) :], atol=1e-9)
        np.testing.assert_allclose(one.rows[:4], two.rows[:4], atol=1e-3)


def test_the_thermostat_chain_feels_new_hills(tmp_path):
    """Nose-Hoover keeps forces between steps: those from before a hill must not be used after it."""
    run(tmp_path / "often", "native", None, 100, 1.0, replicas=1)
    folder = tmp_path / "often" / "replica-0"
    index = json.loads((folder / "checkpoint.json").read_text())
    assert index["checkpoints"][0]["offsets"]["bias_bytes"].keys() == {"HILLS", "COLVAR"}
    # A resumed run computes all forces anew, so equality shows that the other did too.
    run(tmp_path / "resumed", "native", None, 100, 0.5, replicas=1)
    run(tmp_path / "resumed", "native", None, 100, 1.0, replicas=1, resume=True)
    for name in FILES:
        assert (folder / name).read_bytes() == (tmp_path / "resumed" / "replica-0" / name).read_bytes()


def test_a_shortened_hills_file_is_not_silently_repaired(tmp_path):
    run(tmp_path / "run", length_ps=1.0, replicas=1)
    path = tmp_path / "run" / "replica-0" / "HILLS"
    os.truncate(path, size(path) - 10)
    with pytest.raises(SimulationError, match=r"HILLS: \d+ bytes, but the checkpoint was taken at \d+"):
        run(tmp_path / "run", length_ps=2.0, replicas=1, resume=True)


def test_a_damaged_hill_is_named(tmp_path):
    run(tmp_path / "run", length_ps=1.0, replicas=1)
    path = tmp_path / "run" / "replica-0" / "HILLS"
    content = path.read_text()
    path.write_text(content.replace("1.44", "x.44", 1))
    with pytest.raises(SimulationError, match="is no hill on phi and psi; put the file back") as caught:
        run(tmp_path / "run", length_ps=2.0, replicas=1, resume=True)
    assert "\n" not in str(caught.value)


def test_the_run_remembers_its_backend(tmp_path):
    run(tmp_path / "run", length_ps=0.5)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["metadynamics"] == {"backend": "native", "walkers": "independent"}
    assert run(tmp_path / "run", "auto", length_ps=0.6, resume=True)[0].state == "finished"
    with pytest.raises(
        SimulationError, match=r"another metadynamics \(walkers: independent then, shared now"
    ):
        run(tmp_path / "run", length_ps=0.7, walkers="shared", resume=True)
    run(tmp_path / "run", length_ps=0.5, overwrite=True)
    hills = read_plumed(tmp_path / "run" / "replica-0" / "HILLS")
    assert len(hills.rows) == 10


# --- Walkers -------------------------------------------------------------------------------------


def check_walkers(out, length_ps, pace=100):
    """Each file holds its own walker's hills, each once; both walkers feel both."""
    tables = [read_plumed(out / f"replica-{i}" / "HILLS") for i in range(2)]
    n_hills = round(length_ps / (0.0005 * pace))
    for table, other in zip(tables, tables[::-1], strict=True):
        expected = 0.0005 * pace * np.arange(1, n_hills + 1)
        np.testing.assert_allclose(table["time"], expected, atol=1e-9)
        assert not {tuple(row[1:3]) for row in table.rows} & {tuple(row[1:3]) for row in other.rows}
    return tables


def bias_of_others(folder):
    """What a walker's COLVAR has beyond the naive sum of its own earlier hills (n_rows,)."""
    hills, colvar = read_plumed(folder / "HILLS").rows, read_plumed(folder / "COLVAR").rows
    extra = []
    for time_ps, phi, psi, bias in colvar:
        own = hills[hills[:, 0] < time_ps - 1e-6]
        d = own[:, 1:3] - [phi, psi]
        x = ((d - 2 * np.pi * np.rint(d / (2 * np.pi))) ** 2 / (2 * own[:, 3:5] ** 2)).sum(axis=1)
        kernel = (np.exp(-x) - np.exp(-6.25)) / (1 - np.exp(-6.25))
        extra.append(bias - (own[:, 5] * 5 / 6 * kernel)[x < 6.25].sum())
    return np.array(extra)


@pytest.mark.parametrize("backend", BACKENDS)
def test_walkers_share_hills(backend, tmp_path):
    run(tmp_path / "alone", backend, length_ps=2.0)
    run(tmp_path / "run", backend, length_ps=10.0, walkers="shared")
    check_walkers(tmp_path / "run", 10.0)
    alone, shared = (
        [bias_of_others(tmp_path / name / f"replica-{i}") for i in range(2)] for name in ("alone", "run")
    )
    # Sixty bins interpolate to a few hundredths of kJ/mol.
    assert max(np.abs(extra).max() for extra in alone) < 0.05
    # One of them may have been done before the other began.
    assert max(extra.mean() for extra in shared) > 0.2
    assert min(extra.min() for extra in shared) > -0.1


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_walkers_are_killed_and_go_on(backend, tmp_path):
    run(tmp_path / "whole", backend, length_ps=6.0, walkers="shared")
    out = kill_at_random_moments(tmp_path, 2, backend=backend, walkers="shared")
    statuses = run(out, backend, length_ps=6.0, walkers="shared", resume=True)
    assert [status.state for status in statuses] == ["finished", "finished"]
    check_walkers(out, 6.0)


def test_walkers_run_at_the_same_time(tmp_path):
    with pytest.raises(
        SimulationError, match="2 walkers that share hills with jobs = 1; they run at the same"
    ):
        run(tmp_path / "run", walkers="shared", jobs=1)
    assert not (tmp_path / "run").exists()


def test_analysis_sums_the_hills(tmp_path):
    """Each replica's surface, up to where it broke; of walkers that share hills, one surface."""
    run(tmp_path / "run", length_ps=3.0)
    found = {r["name"]: r for r in measured(tmp_path / "run")["results"]}
    assert (found["F_phi_mae"]["status"], found["F_phi_mae"]["unit"]) == ("no_reference", "kJ/mol rad")
    assert "there is no reference of" in found["F_phi_mae"]["note"]
    hills = [read_hills(tmp_path / "run" / f"replica-{i}" / "HILLS") for i in range(2)]
    kT = BOLTZMANN_KJMOL_K * 500.0
    one, two = (surface_from_hills(item).profile(0, kT) for item in hills)
    assert found["F_phi_mae_between_runs"]["value"] == pytest.approx(profile_mae(one, two))
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    record["metadynamics"]["walkers"] = "shared"
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    measurement = measured(tmp_path / "run")
    assert "F_phi_mae_between_runs" not in {r["name"] for r in measurement["results"]}
    surfaces = [surface_from_hills(item).F for item in hills]
    expected = sum(surface - surface.max() for surface in surfaces)
    F = FreeEnergySurface(F=expected)
    np.testing.assert_allclose(measurement["curves"]["F_phi"]["y"], F.profile(0, kT), atol=1e-9)


def measured(folder):
    """The free energies of a run, however short: here sums are tested, not convergence."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_free_energy, "MAX_SHARE_OF_HEIGHT", 2.0)
        metrics = analyze(folder)
    return next(item for item in metrics["measurements"] if item["observable"] == "free_energy")


def test_hills_after_a_collapse_do_not_count(tmp_path):
    run_protocol(
        biased(),
        ethanol.BreakingEthanol(),
        tmp_path / "run",
        start_frames=ethanol.frames(),
        length_ps=20.0,
        replicas=1,
        metadynamics="native",
    )
    status = read_status(tmp_path / "run" / "replica-0")
    assert status.state == "unstable"
    hills = read_hills(tmp_path / "run" / "replica-0" / "HILLS")
    n_before = int((hills.times_ps < status.stable_ps).sum())
    assert 0 < n_before < len(hills.times_ps)
    found = {r["name"]: r for r in measured(tmp_path / "run")["results"]}
    assert found["F_phi_mae"]["n_frames"] == n_before


# --- Choices -------------------------------------------------------------------------------------


def test_choices_are_checked(monkeypatch):
    plain, protocol = load_protocol("ethanol"), biased()
    assert plan_bias(plain) is None
    for options, message in (
        (
            {"backend": "plumbed"},
            "metadynamics 'plumbed' with walkers 'independent'; wanted auto, native or plumed",
        ),
        ({"walkers": "many"}, "walkers 'many'; wanted"),
    ):
        with pytest.raises(SimulationError, match=message):
            plan_bias(protocol, **options)
    with pytest.raises(
        SimulationError, match="protocol ethanol has no metadynamics; leave out --metadynamics"
    ):
        plan_bias(plain, "native")
    monkeypatch.setitem(sys.modules, "openmmplumed", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert plan_bias(protocol).backend == "native"
    with pytest.raises(DependencyError, match="openmmplumed does not import; install openmm-plumed"):
        plan_bias(protocol, "plumed")


def test_plumed_input_is_rendered(tmp_path):
    text = render_plumed(load_protocol("alanine-dipeptide").metadynamics, 500)
    assert text == (
        "UNITS LENGTH=nm ENERGY=kj/mol TIME=ps\n"
        "phi: TORSION ATOMS=5,7,9,15\n"
        "psi: TORSION ATOMS=7,9,15,17\n"
        "metad: METAD ARG=phi,psi SIGMA=0.35,0.35 HEIGHT=1.2 PACE=500 BIASFACTOR=6 TEMP=300 "
        "GRID_MIN=-pi,-pi GRID_MAX=pi,pi GRID_BIN=120,120 FILE=HILLS\n"
        "PRINT ARG=phi,psi,metad.bias STRIDE=500 FMT=%.9f FILE=COLVAR\n"
        "FLUSH STRIDE=500\n"
    )
    text = render_plumed(
        biased(pace=70).metadynamics,
        100,
        folder=tmp_path / "my run",
        restart=True,
        walkers=(tmp_path / "w", 3, 1),
    )
    assert text.startswith("RESTART\n")
    assert re.search(r"FILE=\{[^}]*my run/COLVAR\}", text)
    assert "WALKERS_N=3 WALKERS_ID=1 WALKERS_RSTRIDE=70" in text
    assert "FLUSH STRIDE=10\n" in text
    assert (off_phase(500, 500), off_phase(70, 100), off_phase(1000, 100)) == (250, 5, 50)
    with pytest.raises(SimulationError, match="leave PLUMED no step for a checkpoint"):
        off_phase(3, 100)


def test_the_shipped_reference_is_read():
    """Two runs of 10 ns; the flexible data share it; its two wells in phi are where the minima are."""
    path = reference_file("alanine-dipeptide-obc", "free-energy")
    assert path is not None
    kT = BOLTZMANN_KJMOL_K * 300.0
    reference = surface_from_json(path, kT)
    assert (len(reference.runs), reference.n_frames) == (2, 20000)
    profile = reference.surface.profile(0, kT)
    lowest = grid_points(60)[profile.argmin()]
    assert -2.8 < lowest < -0.9
    right = grid_points(60) > 0
    assert 4.0 < profile[right].min() < 12.0
    one, two = (run.profile(0, kT) for run in reference.runs)
    assert profile_mae(one, two) < 3.0
