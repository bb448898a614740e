"""`openmm-mlbench measure`: stability, free energies, drift and temperature on the command line."""

import json

import mdtraj
import numpy as np
import pytest

from openmm_mlbench.cli import main

BOX = 1.2


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A butane-like chain whose last bond breaks at frame 70 of 100, in a cell, wrapped atom by atom."""
    folder = tmp_path_factory.mktemp("measure")
    rng = np.random.default_rng(0)
    topology = mdtraj.Topology()
    residue = topology.add_residue("BUT", topology.add_chain())
    for k in range(5):
        topology.add_atom(f"C{k}", mdtraj.element.carbon, residue)
    angles = rng.vonmises(0.8, 1.0, size=(100, 2))
    # Stretched out, so that neighbours in the first frame are bonds.
    angles[0] = 2.5
    positions = np.array([chain(phi, psi) for phi, psi in angles])
    positions[70:, 4] += 0.5 * (positions[70:, 4] - positions[70:, 3])
    positions = (positions + np.array([0.1, 1.15, 0.6])) % BOX
    trajectory = mdtraj.Trajectory(
        positions.astype(np.float32),
        topology,
        unitcell_lengths=np.full((100, 3), BOX),
        unitcell_angles=np.full((100, 3), 90.0),
    )
    trajectory[0].save_pdb(folder / "top.pdb")
    trajectory.save_dcd(folder / "run.dcd")
    trajectory[:60].save_dcd(folder / "whole.dcd")
    hills = "\n".join(f"{t} {a} {b} 0.35 0.35 1.44 6" for t, (a, b) in enumerate(angles, 1))
    (folder / "HILLS").write_text(
        "#! FIELDS time phi psi sigma_phi sigma_psi height biasf\n#! SET kerneltype stretched-gaussian\n"
        + hills
        + "\n"
    )
    rows = "\n".join(f"{0.1 * k:.3f} {a} {b} 0.0" for k, (a, b) in enumerate(angles))
    (folder / "COLVAR").write_text("#! FIELDS time phi psi metad.rbias\n" + rows + "\n")
    log = ['#"Step","Time (ps)","Potential Energy (kJ/mole)","Kinetic Energy (kJ/mole)","Temperature (K)"']
    for k, kinetic in enumerate(rng.chisquare(12, size=200) / 12 * 6 * 0.00831446 * 300):
        log.append(
            f"{k},{0.1 * k},{-kinetic + 0.002 * k + 0.001 * (k % 2)},{kinetic},{kinetic / 6 / 0.00831446}"
        )
    (folder / "log.csv").write_text("\n".join(log) + "\n")
    return folder


def chain(phi, psi):
    """Five atoms with two given dihedrals, bonds of 0.15 nm at angles of 110 degrees, nm."""
    along, across = np.cos(np.radians(70)), np.sin(np.radians(70))
    points = [0.15 * np.array([across, -along, 0]), np.zeros(3), np.array([0, 0.15, 0])]
    for angle in (phi, psi):
        first, middle = points[-2] - points[-3], points[-1] - points[-2]
        middle /= np.linalg.norm(middle)
        back = -(first - (first @ middle) * middle)
        back /= np.linalg.norm(back)
        side = np.cross(middle, back)
        away = np.cos(angle) * back + np.sin(angle) * side
        points.append(points[-1] + 0.15 * (along * middle + across * away))
    return np.array(points)


def measure(what, *arguments):
    with pytest.raises(SystemExit) as stop:
        main(["measure", what, *map(str, arguments)])
    return stop.value.code


def frames(files, name="run.dcd"):
    return ("--topology", files / "top.pdb", "--trajectory", files / name, "--frame-interval", "0.1ps")


def content(path):
    record = json.loads(path.read_text())
    return record, {result["name"]: result for result in record["results"]}


def test_a_bond_that_breaks_at_a_known_frame(files, tmp_path):
    out, figure = tmp_path / "a.json", tmp_path / "a.png"
    arguments = ("--reference", files / "whole.dcd", "--json", out, "--plot", figure)
    assert measure("stability", *frames(files), *arguments) == 0
    record, results = content(out)
    assert results["stability"]["value"] == pytest.approx(7.0)
    assert results["stability"]["status"] == "unstable"
    deviation = record["curves"]["max bond deviation"]["y"]
    assert len(deviation) == 100
    assert max(deviation[:70]) < 0.01
    assert min(deviation[70:]) > 0.5
    assert figure.stat().st_size > 1000
    assert measure("stability", *frames(files, "whole.dcd"), "--json", out) == 0
    _, results = content(out)
    assert results["stability"]["status"] == "censored"


def test_rdf_windows(files, tmp_path):
    out = tmp_path / "a.json"
    pairs = ("--pairs", "C-C", "--bins", "20", "--threshold", "1000", "--json", out)
    assert measure("stability", *frames(files), *pairs, "--reference", files / "whole.dcd") == 0
    record, results = content(out)
    assert results["stability"]["status"] == "censored"
    # A window of ten frames from every frame on.
    assert len(record["curves"]["RDF deviation C-C"]["y"]) == 91
    assert measure("stability", *frames(files), *pairs) == 0
    assert content(out)[1]["stability"]["status"] == "no_reference"


def test_free_energy_three_ways(files, tmp_path):
    out, fes = tmp_path / "a.json", tmp_path / "fes.dat"
    quads = ("--phi", "0,1,2,3", "--psi", "1,2,3,4", "--bins", "12")
    # The last atom has left from frame 70 on.
    assert measure("free-energy", *frames(files, "whole.dcd"), *quads, "--json", out, "--fes", fes) == 0
    record, results = content(out)
    assert results["F_phi_mae"]["status"] == "no_reference"
    assert sum(
        results[f"phi_{basin}"]["value"] for basin in ("gauche+", "trans", "gauche-")
    ) == pytest.approx(1)
    colvar = ("--colvar", files / "COLVAR", "--bins", "12", "--reference", fes, "--json", out)
    # COLVAR holds all 100 frames, less the first tenth.
    assert measure("free-energy", *colvar, "--plot", tmp_path / "a.png") == 0
    record, results = content(out)
    assert results["F_phi_mae"]["value"] < 15
    assert results["F_phi_mae"]["unit"] == "kJ/mol rad"
    assert results["F_phi_mae"]["stderr"] is not None
    assert len(record["curves"]["F_psi"]["y"]) == 12
    hills = ("--hills", files / "HILLS", "--bins", "12", "--json", out)
    assert measure("free-energy", *hills, "--reference", files / "HILLS", "--mode", "mdsim") == 0
    record, results = content(out)
    assert results["F_psi_mae"]["value"] == 0
    assert record["inputs"]["kT_kJ_mol"] == 2.49


def test_start_and_stop_of_plumed_files(files, tmp_path, capsys):
    out = tmp_path / "a.json"

    def used(*options):
        assert measure("free-energy", *options, "--bins", "12", "--json", out) == 0
        return content(out)[0]["surfaces"][0]

    colvar = ("--colvar", files / "COLVAR")
    assert used(*colvar, "--start", "0ps")["n_frames"] == 100
    assert used(*colvar)["n_frames"] == 90
    assert used(*colvar, "--start", "1ps", "--stop", "3ps")["n_frames"] == 21
    hills = ("--hills", files / "HILLS")
    n_hills = used(*hills)["n_frames"]
    assert used(*hills, "--start", "0ps", "--stop", "1000ns")["n_frames"] == n_hills
    assert measure("free-energy", *hills, "--stop", "0ps") == 2
    assert "no hill up to 0 ps" in capsys.readouterr().err
    assert measure("free-energy", *hills, "--start", "5ps") == 2
    assert "leave --start out" in capsys.readouterr().err
    assert measure("free-energy", "--colvar", files / "HILLS", "--hills", files / "COLVAR") == 2
    assert "wanted the COLVAR file of a run" in capsys.readouterr().err


def test_drift_and_temperature_from_a_log(files, tmp_path):
    out = tmp_path / "a.json"
    assert measure("drift", "--log", files / "log.csv", "--topology", files / "top.pdb", "--json", out) == 0
    _, results = content(out)
    assert results["drift"]["value"] == pytest.approx(0.02 / 5, rel=0.01)
    assert results["oscillation"]["value"] == pytest.approx(0.0005 / 5, rel=0.05)
    assert (
        measure("temperature", "--log", files / "log.csv", "--json", out, "--plot", tmp_path / "a.png") == 0
    )
    record, results = content(out)
    assert record["inputs"]["n_dof"] == 12
    assert results["temperature"]["value"] == pytest.approx(300, rel=0.05)
    assert results["temperature_fluctuation"]["value"] == pytest.approx(1, rel=0.2)


@pytest.mark.parametrize(
    ("what", "arguments", "wanted"),
    [
        ("drift", [], "no log"),
        ("drift", ["--log", "log.csv"], "no number of atoms"),
        ("drift", ["--log", "top.pdb", "--atoms", "5"], "top.pdb"),
        ("temperature", ["--log", "missing.csv"], "cannot be read"),
        ("free-energy", ["--hills", "COLVAR", "--reference", "top.pdb"], "top.pdb"),
        ("free-energy", ["--colvar", "COLVAR", "--temperature", "-1"], "wanted a number above zero"),
        (
            "free-energy",
            ["--colvar", "COLVAR", "--bins", "12", "--reference", "HILLS", "--hills", "COLVAR"],
            "wanted the HILLS file",
        ),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(files, capsys, what, arguments, wanted):
    known = {"log.csv", "top.pdb", "COLVAR", "HILLS", "missing.csv"}
    assert measure(what, *(files / word if word in known else word for word in arguments)) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    assert wanted in line


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ([], "no dihedrals"),
        (["--phi", "0,1,2", "--psi", "1,2,3,4"], "wanted four 0-based atom indices"),
        (["--phi", "0,1,2,9", "--psi", "1,2,3,4"], "below 5"),
        (["--phi", "0,1,2,2", "--psi", "1,2,3,4"], "four different indices"),
    ],
)
def test_bad_dihedrals(files, capsys, arguments, wanted):
    assert measure("free-energy", *frames(files), *arguments) == 2
    assert wanted in capsys.readouterr().err
