"""`openmm-mlbench measure`: numbers into JSON, figures, one line for each kind of bad input."""

import json
import struct

import mdtraj
import numpy as np
import pytest

from openmm_mlbench.cli import main

N_FRAMES, N_MOLECULES, BOX = 60, 20, 1.2


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A gas of bent molecules that diffuses, in every format, wrapped atom by atom."""
    folder = tmp_path_factory.mktemp("measure")
    rng = np.random.default_rng(0)
    topology = mdtraj.Topology()
    chain = topology.add_chain()
    for _ in range(N_MOLECULES):
        residue = topology.add_residue("HOH", chain)
        oxygen, *hydrogens = (
            topology.add_atom(name, mdtraj.element.Element.getBySymbol(name[0]), residue)
            for name in ("O", "H1", "H2")
        )
        for hydrogen in hydrogens:
            topology.add_bond(oxygen, hydrogen)
    water = np.array([[0, 0, 0], [0.1, 0, 0], [-0.03, 0.095, 0]])
    centres = np.cumsum(
        rng.normal(scale=0.02, size=(N_FRAMES, N_MOLECULES, 1, 3)), axis=0
    ) + BOX * rng.random((N_MOLECULES, 1, 3))
    positions = ((centres + water).reshape(N_FRAMES, -1, 3) % BOX).astype(np.float32)
    trajectory = mdtraj.Trajectory(
        positions,
        topology,
        time=0.1 * np.arange(N_FRAMES),
        unitcell_lengths=np.full((N_FRAMES, 3), BOX),
        unitcell_angles=np.full((N_FRAMES, 3), 90.0),
    )
    trajectory[0].save_pdb(folder / "top.pdb")
    for ending in ("dcd", "xtc", "nc"):
        trajectory.save(str(folder / f"run.{ending}"))
    naked = mdtraj.Trajectory(positions, topology)
    naked.save_dcd(folder / "no-cell.dcd")
    broken = trajectory[:]
    broken.xyz[30] = np.nan
    broken.save_dcd(folder / "nan.dcd")
    trajectory[0].save_dcd(folder / "one.dcd")
    trajectory.atom_slice(np.arange(6)).save_dcd(folder / "other-atoms.dcd")
    whole = (folder / "run.dcd").read_bytes()
    (folder / "cut.dcd").write_bytes(whole[:-100])
    (folder / "text.dcd").write_text("hello\n")
    (folder / "empty.dcd").write_bytes(b"")
    for ending in ("nc", "xtc"):
        (folder / f"cut.{ending}").write_bytes((folder / f"run.{ending}").read_bytes()[:-300])
    # A header that tells 0.5 fs and a frame every 100 steps.
    head = bytearray(whole)
    struct.pack_into("<iii", head, 8, N_FRAMES, 100, 100)
    struct.pack_into("<f", head, 8 + 9 * 4, 0.0005 / 0.04888821)
    (folder / "header.dcd").write_bytes(bytes(head))
    return folder


def measure(files, what, *arguments, trajectory="run.dcd", interval="0.1ps"):
    options = ["--topology", str(files / "top.pdb"), "--trajectory", str(files / trajectory)]
    options += [] if interval is None else ["--frame-interval", interval]
    with pytest.raises(SystemExit) as stop:
        main(["measure", what, *options, *map(str, arguments)])
    return stop.value.code


def content(path):
    def refuse(text):
        raise AssertionError(text)

    return json.loads(path.read_text(), parse_constant=refuse)


def by_name(record):
    return {result["name"]: result for result in record["results"]}


def test_rdf_with_a_trajectory_and_then_its_json_as_reference(files, tmp_path):
    first, second, figure = (tmp_path / name for name in ("a.json", "b.json", "a.png"))
    pairs = ("--pairs", "O-O,O-H", "--bins", "60", "--start", "2ps")
    assert (
        measure(files, "rdf", *pairs, "--reference", files / "run.xtc", "--json", first, "--plot", figure)
        == 0
    )
    record = content(first)
    assert set(record) == {"observable", "mode", "definition", "inputs", "results", "curves"}
    assert record["inputs"]["n_frames"] == [40]
    results = by_name(record)
    # XTC keeps 0.01 A.
    assert results["rdf_mae_O-O"]["value"] < results["rdf_mae_O-O"]["floor"]
    assert results["coordination_O-H"]["status"] == "ok"
    assert len(record["curves"]["O-O"]["y"]) == 60
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert measure(files, "rdf", *pairs, "--reference", first, "--json", second, trajectory="run.nc") == 0
    result = by_name(content(second))["rdf_mae_O-O"]
    assert result["value"] == pytest.approx(0, abs=0.05)
    assert result["floor"] > 0
    assert result["stderr"] is not None


def test_replicas_give_a_standard_error_over_replicas(files, tmp_path):
    out = tmp_path / "a.json"
    again = ("--trajectory", files / "run.xtc")
    assert (
        measure(files, "rdf", *again, "--pairs", "O-O", "--reference", files / "run.dcd", "--json", out) == 0
    )
    assert by_name(content(out))["rdf_mae_O-O"]["n_replicas"] == 2


def test_bonds_are_left_out(files, tmp_path):
    out = tmp_path / "a.json"
    inside = ("--pairs", "O-H", "--cutoff", "1.2", "--json", out)
    assert measure(files, "rdf", *inside) == 0
    kept = by_name(content(out))["coordination_O-H"]["value"]
    assert measure(files, "rdf", *inside, "--no-intramolecular") == 0
    assert kept - by_name(content(out))["coordination_O-H"]["value"] == pytest.approx(2)
    assert by_name(content(out))["rdf_mae_O-H"]["status"] == "no_reference"


def test_selections_in_mdtrajs_language(files, tmp_path):
    out = tmp_path / "a.json"
    assert (
        measure(
            files, "rdf", "--select", "element O", "--select2", "name H1", "--r-max", "0.9nm", "--json", out
        )
        == 0
    )
    assert content(out)["inputs"]["r_max_A"] == 9


def test_distances(files, tmp_path):
    out = tmp_path / "a.json"
    assert (
        measure(files, "distances", "--select", "resid 0", "--reference", files / "run.nc", "--json", out)
        == 0
    )
    assert by_name(content(out))["h_r_mae"]["value"] == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize("trajectory", ["run.dcd", "run.xtc", "run.nc"])
def test_diffusivity(files, tmp_path, trajectory):
    out, figure = tmp_path / "a.json", tmp_path / "a.png"
    options = ("--select", "element O", "--lag", "0.5ps", "--json", out, "--plot", figure)
    assert measure(files, "diffusivity", *options, trajectory=trajectory) == 0
    result = by_name(content(out))["diffusivity"]
    assert result["unit"] == "1e-9 m2/s"
    # sigma^2 = 2 D dt.
    assert result["value"] == pytest.approx(0.02**2 / 0.2 * 1e3, rel=0.2)
    assert figure.stat().st_size > 1000


def test_a_run_too_short_for_its_lag_says_so(files, tmp_path):
    out = tmp_path / "a.json"
    for mode in ("paper", "mdsim"):
        assert measure(files, "diffusivity", "--lag", "100ps", "--mode", mode, "--json", out) == 0
        result = by_name(content(out))["diffusivity"]
        assert result["status"] == "too_short"
        assert result["value"] is None
        assert "too short for a lag of 100 ps" in result["note"]


@pytest.mark.parametrize(
    ("what", "arguments", "trajectory", "interval", "wanted"),
    [
        ("rdf", ["--pairs", "O-O"], "run.dcd", None, "no frame interval"),
        ("rdf", ["--pairs", "O-O"], "run.dcd", "0.1", "wanted a number with its unit"),
        ("rdf", ["--pairs", "O-O"], "run.dcd", "-1ps", "above zero"),
        ("rdf", ["--pairs", "O-O"], "header.dcd", "0.1ps", "0.05 ps apart by the file"),
        ("rdf", ["--pairs", "O-O"], "run.xtc", "0.2ps", "0.1 ps apart by the file"),
        ("rdf", ["--pairs", "O-O"], "cut.dcd", "0.1ps", "header says 60 frames, the file holds 59"),
        ("rdf", ["--pairs", "O-O"], "other-atoms.dcd", "0.1ps", "6 atoms, but"),
        ("rdf", ["--pairs", "O-O"], "no-cell.dcd", "0.1ps", "have no cell"),
        ("rdf", ["--pairs", "O-O"], "nan.dcd", "0.1ps", "3 ps holds NaN"),
        ("rdf", ["--pairs", "O-O"], "missing.dcd", "0.1ps", "no such file"),
        ("rdf", ["--pairs", "O-N"], "run.dcd", "0.1ps", "no atoms of element 'N'"),
        ("rdf", ["--pairs", "O-O", "--r-max", "1000"], "run.dcd", "0.1ps", "times the height of the cell"),
        ("rdf", ["--pairs", "O-O", "--mode", "both"], "run.dcd", "0.1ps", "mode 'both' is not known"),
        ("rdf", ["--pairs", "O-O", "--start", "9ps"], "run.dcd", "0.1ps", "no frame from 9 ps on"),
        ("rdf", [], "run.dcd", "0.1ps", "has several elements"),
        ("distances", [], "nan.dcd", "0.1ps", "holds NaN"),
        ("distances", ["--select", "element Xx ("], "run.dcd", "0.1ps", "not in mdtraj's language"),
        ("distances", ["--select", "element N"], "run.dcd", "0.1ps", "names no atom"),
        ("diffusivity", ["--lag", "1ps", "--fit", "1ps:2ps"], "run.dcd", "0.1ps", "give one of"),
        ("diffusivity", [], "nan.dcd", "0.1ps", "3 ps holds NaN"),
        ("rdf", ["--pairs", "O-O"], "run.dcd", "0ps", "above zero"),
        ("rdf", ["--pairs", "O-O"], "run.dcd", "soon", "wanted a number with its unit"),
        ("rdf", ["--pairs", "O-O", "--bins", "0"], "run.dcd", "0.1ps", "0 bins up to 6 A"),
        ("rdf", ["--pairs", "O-O", "--bins", "-5"], "run.dcd", "0.1ps", "-5 bins up to 6 A"),
        ("rdf", ["--pairs", "O-O", "--bins", "100000000"], "run.dcd", "0.1ps", "wanted 1 to 20000"),
        ("rdf", ["--pairs", "O-O", "--r-max", "0"], "run.dcd", "0.1ps", "500 bins up to 0 A"),
        ("rdf", ["--pairs", "O-O", "--r-max", "-3nm"], "run.dcd", "0.1ps", "up to a distance above zero"),
        ("rdf", ["--pairs", "O-O", "--plot", "a.txt"], "run.dcd", "0.1ps", "use .png, .pdf or .svg"),
        ("rdf", ["--pairs", "O-O", "--json", "."], "run.dcd", "0.1ps", "is a folder"),
        (
            "rdf",
            ["--pairs", "O-O", "--reference", "nothing"],
            "run.dcd",
            "0.1ps",
            "neither a file nor a data set",
        ),
        ("rdf", ["--pairs", "O-O", "--reference", "ethanol"], "run.dcd", "0.1ps", "ships no rdf reference"),
        ("distances", ["--bins", "0"], "run.dcd", "0.1ps", "0 bins up to 10 A"),
        ("distances", ["--bins", "-1"], "run.dcd", "0.1ps", "-1 bins up to 10 A"),
        ("distances", ["--select", "index 0"], "run.dcd", "0.1ps", "1 atom selected"),
        ("distances", ["--reference", "ethanol"], "run.dcd", "0.1ps", "36 pairs of atoms in a frame"),
        ("diffusivity", ["--select", "element"], "run.dcd", "0.1ps", "element wants a value"),
        ("diffusivity", ["--select", "index 0 and name"], "run.dcd", "0.1ps", "name wants a value"),
        ("diffusivity", ["--select", ""], "run.dcd", "0.1ps", "not in mdtraj's language"),
        ("diffusivity", ["--select", "index 0"], "run.dcd", "0.1ps", "one tracked atom"),
        ("diffusivity", ["--lag", "-1ps"], "run.dcd", "0.1ps", "lag -1 ps; wanted a time above zero"),
        ("diffusivity", ["--lag", "0ps"], "run.dcd", "0.1ps", "lag 0 ps; wanted a time above zero"),
        ("diffusivity", ["--fit", "2ps"], "run.dcd", "0.1ps", "wanted two times"),
        ("diffusivity", ["--viscosity", "0"], "run.dcd", "0.1ps", "wanted both above zero"),
        (
            "diffusivity",
            ["--mode", "mdsim", "--lag", "1ps", "--stride", "0ps"],
            "run.dcd",
            "0.1ps",
            "stride 0 ps",
        ),
        (
            "stability",
            ["--pairs", "O-O", "--window", "0ps", "--reference", "run.xtc"],
            "run.dcd",
            "0.1ps",
            "window 0 ps",
        ),
        (
            "stability",
            ["--pairs", "O-O", "--window", "90ps", "--reference", "run.xtc"],
            "run.dcd",
            "0.1ps",
            "a window of 90 ps wants",
        ),
        ("stability", ["--reference", "ethanol"], "run.dcd", "0.1ps", "36 pairs of atoms in a frame"),
        ("bonds", ["--bins", "0"], "run.dcd", "0.1ps", "0 bins up to 3.0 A"),
        ("bonds", ["--select", "index 0"], "run.dcd", "0.1ps", "no bond within the 1 selected atoms"),
        ("bonds", [], "nan.dcd", "0.1ps", "3 ps holds NaN"),
        ("angles", ["--bins", "0"], "run.dcd", "0.1ps", "0 bins"),
        ("angles", ["--select", "index 0 1"], "run.dcd", "0.1ps", "no atom has two bonds"),
        ("dihedrals", [], "run.dcd", "0.1ps", "no bond that turns"),
        ("dihedrals", ["--dihedral", "0,1,2"], "run.dcd", "0.1ps", "wanted four 0-based atom indices"),
        ("dihedrals", ["--dihedral", "0,1,2,600"], "run.dcd", "0.1ps", "indices below 60"),
        (
            "dihedrals",
            ["--dihedral", "0,1,2,3", "--basins", "a=1"],
            "run.dcd",
            "0.1ps",
            "wanted a name and two angles",
        ),
        ("dihedrals", ["--basins", "a=1:2"], "run.dcd", "0.1ps", "of dihedrals that are given"),
        ("rdf", ["--pairs", "O-O"], "text.dcd", "0.1ps", "not a DCD file"),
        ("rdf", ["--pairs", "O-O"], "empty.dcd", "0.1ps", "not a DCD file"),
        ("rdf", ["--pairs", "O-O"], "cut.nc", "0.1ps", "truncated"),
        ("rdf", ["--pairs", "O-O"], "cut.xtc", "0.1ps", "truncated within its last frame"),
        ("rdf", ["--pairs", "O-O", "--reference", "other-atoms.dcd"], "run.dcd", "0.1ps", "6 atoms, but"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(files, capsys, what, arguments, trajectory, interval, wanted):
    there = {"run.xtc", "other-atoms.dcd"}
    given = [files / word if word in there else word for word in arguments]
    assert measure(files, what, *given, trajectory=trajectory, interval=interval) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    assert wanted in line


def test_reference_on_another_grid(files, tmp_path, capsys):
    out = tmp_path / "a.json"
    assert measure(files, "rdf", "--pairs", "O-O", "--bins", "50", "--json", out) == 0
    assert measure(files, "rdf", "--pairs", "O-O", "--bins", "60", "--reference", out) == 2
    assert "the reference has 50 bins" in capsys.readouterr().err


def test_reference_that_was_measured_otherwise(files, tmp_path, capsys):
    out = tmp_path / "a.json"
    assert measure(files, "rdf", "--pairs", "O-H", "--json", out) == 0
    for arguments, wanted in (
        (("rdf", "--pairs", "O-H", "--no-intramolecular"), "has intramolecular True"),
        (("rdf", "--pairs", "O-H", "--mode", "mdsim"), "is of mode paper"),
        (("rdf", "--pairs", "O-O"), "has no curve O-O"),
        (("distances",), "holds 'rdf'"),
        (("bonds",), "holds 'rdf'"),
    ):
        assert measure(files, *arguments, "--reference", out) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert wanted in line
    # The same function of r, named the other way round.
    assert measure(files, "rdf", "--pairs", "H-O", "--reference", out, "--json", tmp_path / "b.json") == 0
    assert by_name(content(tmp_path / "b.json"))["rdf_mae_H-O"]["value"] == pytest.approx(0, abs=1e-9)
    assert measure(files, "diffusivity", "--select", "element O", "--lag", "1ps", "--json", out) == 0
    assert measure(files, "diffusivity", "--select", "element H", "--lag", "1ps", "--reference", out) == 2
    assert "tracks O, the measurement H" in capsys.readouterr().err
    assert measure(files, "bonds", "--json", out) == 0
    assert measure(files, "bonds", "--bins", "100", "--reference", out) == 2
    assert "O-H has n_bins 300, the measurement 100" in capsys.readouterr().err


def test_bonds_and_angles_of_water(files, tmp_path):
    out, figure = tmp_path / "a.json", tmp_path / "a.png"
    given = ("--reference", files / "run.xtc", "--json", out, "--plot", figure)
    assert measure(files, "bonds", *given) == 0
    record, results = content(out), by_name(content(out))
    assert results["bond_mean_O-H"]["value"] == pytest.approx((1 + np.hypot(0.3, 0.95)) / 2, abs=1e-3)
    assert results["bond_mae_O-H"]["unit"] == "1"
    assert record["inputs"]["n_coordinates"] == {"O-H": 40}
    assert measure(files, "bonds", "--reference", out, "--json", tmp_path / "b.json") == 0
    again = by_name(content(tmp_path / "b.json"))
    assert again["bond_mae_O-H"]["value"] == pytest.approx(0, abs=1e-9)
    assert again["bond_mean_error_O-H"]["value"] == pytest.approx(0, abs=1e-9)
    assert measure(files, "angles", *given) == 0
    angle = by_name(content(out))["angle_mean_H-O-H"]
    assert angle["value"] == pytest.approx(90 + np.degrees(np.arctan2(0.03, 0.095)), abs=0.01)
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_basins_of_given_dihedrals(files, tmp_path):
    """A dihedral over two molecules, for want of one inside: its basins as given, its shares sum to 1."""
    out = tmp_path / "a.json"
    basins = ("--dihedral", "here=1,0,3,4", "--basins", "one=0:180,other=180:360")
    assert measure(files, "dihedrals", *basins, "--json", out, "--plot", tmp_path / "a.png") == 0
    results = by_name(content(out))
    assert results["basin_here_one"]["value"] + results["basin_here_other"]["value"] == pytest.approx(1)
    assert results["dihedral_mae_here"]["status"] == "no_reference"
    again = tmp_path / "b.json"
    assert measure(files, "dihedrals", *basins, "--reference", out, "--json", again) == 0
    assert by_name(content(again))["basin_mae_here"]["value"] == 0
    backbone = ("--phi", "1,0,3,4", "--psi", "0,3,4,5")
    assert measure(files, "dihedrals", *backbone, "--json", out) == 0
    states = [r["value"] for name, r in by_name(content(out)).items() if name.startswith("basin_phi-psi")]
    assert sum(states) == pytest.approx(1)


def test_one_frame(files, tmp_path, capsys):
    out = tmp_path / "a.json"
    for observable in ("diffusivity", "stability", "distances", "rdf", "bonds", "angles"):
        assert measure(files, observable, "--json", out, trajectory="one.dcd") == 2
        assert "one.dcd: one frame; " in capsys.readouterr().err
        assert measure(files, observable, "--start", "0.1ps", "--stop", "0.1ps", "--json", out) == 2
    assert not out.exists()
    assert measure(files, "diffusivity", "--start", "0.5ps", "--stop", "0.2ps") == 2
    assert "no frame from 0.5 ps on and up to 0.2 ps" in capsys.readouterr().err
    assert measure(files, "diffusivity", "--lag", "0.01ps") == 2
    assert "lag 0.01 ps; frames are" in capsys.readouterr().err
