"""A structure and a model of one's own, from `protocols new` to a report, through the command line."""

import json

import fresh_models
import harmonic_ethanol as ethanol
import numpy as np
import pytest
from openmm import app, unit

from openmm_mlbench import cli
from openmm_mlbench.assets import asset_path
from openmm_mlbench.protocol import load_protocol


def run(*arguments):
    try:
        cli.main([str(argument) for argument in arguments])
    except SystemExit as stop:
        return stop.code or 0
    return 0


@pytest.fixture
def methanol(tmp_path):
    """A molecule that no data set of the package holds."""
    from ase.build import molecule

    atoms = molecule("CH3OH")
    topology = app.Topology()
    residue = topology.addResidue("MOH", topology.addChain())
    for i, symbol in enumerate(atoms.get_chemical_symbols()):
        topology.addAtom(f"{symbol}{i}", app.Element.getBySymbol(symbol), residue)
    with open(tmp_path / "methanol.pdb", "w") as file:
        app.PDBFile.writeFile(topology, atoms.get_positions(), file)
    return tmp_path / "methanol.pdb"


@pytest.mark.parametrize("model", ["my.pt", "ethanol-gfn2/schnet"])
def test_from_structure_to_report(methanol, tmp_path, capsys, model):
    """With a model of somebody's own data, and with one of the package's that knows these elements."""
    if model == "my.pt":
        model = fresh_models.write_archive(tmp_path / "my.pt", dataset="mine")
    assert run("protocols", "new", "--structure", methanol, "--length", "0.1", "-o", tmp_path / "my.xml") == 0
    out = tmp_path / "run"
    code = run(
        "simulate",
        tmp_path / "my.xml",
        "--model",
        model,
        "--replicas",
        "2",
        "--platform",
        "Reference",
        "-o",
        out,
    )
    assert code == 0, capsys.readouterr().err
    record = json.loads((out / "run.json").read_text())
    assert record["protocol"]["structure"] == "methanol.pdb"
    assert record["start_frames"]["dataset"] == "methanol.pdb"
    assert record["atomic_numbers"] == [6, 8, 1, 1, 1, 1]
    assert len(record["bonds"]) == 5
    assert run("analyze", out) == 0
    results = {
        result["name"]: result["status"]
        for measurement in json.loads((out / "metrics.json").read_text())["measurements"]
        for result in measurement["results"]
    }
    # Nothing of another molecule is taken for a reference.
    assert results["h_r_mae"] == "no_reference"
    assert "temperature" in results
    assert run("report", out, "-o", tmp_path / "report.html") == 0
    assert "methanol" in (tmp_path / "report.html").read_text()


def test_elements_that_the_model_does_not_know(tmp_path, capsys):
    model = fresh_models.write_archive(tmp_path / "my.pt")
    (tmp_path / "hcl.pdb").write_text(
        "HETATM    1  H   HCL A   1       0.000   0.000   0.000  1.00  0.00           H\n"
        "HETATM    2  CL  HCL A   1       1.270   0.000   0.000  1.00  0.00          Cl\n"
    )
    assert run("protocols", "new", "--structure", tmp_path / "hcl.pdb", "-o", tmp_path / "hcl.xml") == 0
    assert run("simulate", tmp_path / "hcl.xml", "--model", model, "-o", tmp_path / "run") == 2
    assert "was not trained on Cl" in capsys.readouterr().err


def test_a_protocol_of_another_system_is_still_refused(tmp_path, capsys):
    model = fresh_models.write_archive(tmp_path / "my.pt", dataset="ethanol-gfn2")
    assert run("simulate", "aspirin", "--model", model, "-o", tmp_path / "run") == 2
    assert "choose a pair of the same system" in capsys.readouterr().err


def test_variants_on_the_command_line(tmp_path, capsys):
    model = fresh_models.write_archive(tmp_path / "my.pt", dataset="ethanol-gfn2")
    arguments = ("--model", model, "--replicas", "1", "--length", "0.05", "--platform", "Reference")
    for words, name in ((("ethanol", "--variant", "nve"), "a"), (("ethanol-nve",), "b")):
        assert run("simulate", *words, *arguments, "-o", tmp_path / name) == 0
    first, second = (load_protocol(tmp_path / name / "protocol.xml") for name in "ab")
    assert first == second == load_protocol("ethanol-nve")
    assert run("simulate", "ethanol", "--variant", "nev", *arguments, "-o", tmp_path / "c") == 2
    assert "did you mean nve?" in capsys.readouterr().err


def test_a_larger_box_with_a_classical_potential(tmp_path):
    """The same water twice along x: structure, cell and starts are the user's, the potential is the package's."""
    pdb = app.PDBFile(str(asset_path("systems", "water", "topology.pdb")))
    modeller = app.Modeller(pdb.topology, pdb.positions)
    edge_nm = pdb.topology.getUnitCellDimensions()[0].value_in_unit(unit.nanometer)
    modeller.add(pdb.topology, pdb.getPositions(asNumpy=True) + [edge_nm, 0, 0] * unit.nanometer)
    modeller.topology.setUnitCellDimensions([2 * edge_nm, edge_nm, edge_nm] * unit.nanometer)
    with open(tmp_path / "box.pdb", "w") as file:
        app.PDBFile.writeFile(modeller.topology, modeller.positions, file)
    assert (
        run(
            "protocols",
            "new",
            "--structure",
            tmp_path / "box.pdb",
            "--like",
            "water",
            "-o",
            tmp_path / "b.xml",
        )
        == 0
    )
    code = run(
        "simulate",
        tmp_path / "b.xml",
        "--model",
        "spcfw",
        "--replicas",
        "1",
        "--length",
        "0.1",
        "--platform",
        "CPU",
        "-o",
        tmp_path / "run",
    )
    assert code == 0
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert len(record["atomic_numbers"]) == 384
    log = np.genfromtxt(tmp_path / "run" / "replica-0" / "log.csv", delimiter=",", names=True)
    assert np.isfinite(log["temperature_K"]).all()


def test_plain_openmm_starts_from_the_structure_too(tmp_path):
    model = fresh_models.write_archive(tmp_path / "my.pt", dataset="mine")
    ethanol.write_pdb(tmp_path / "mine.pdb")
    assert run("protocols", "new", "--structure", tmp_path / "mine.pdb", "-o", tmp_path / "my.xml") == 0
    assert (
        run(
            "export-openmm",
            tmp_path / "my.xml",
            "--model",
            model,
            "--length",
            "0.05",
            "-o",
            tmp_path / "plain",
        )
        == 0
    )
    assert (tmp_path / "plain" / "run.py").is_file()
