"""Protocols for structures of one's own: what carries over, what is replaced, what is refused."""

import dataclasses

import numpy as np
import openmm
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from openmm import app

from openmm_mlbench.assets import asset_path
from openmm_mlbench.errors import ProtocolError
from openmm_mlbench.protocol import load_protocol
from openmm_mlbench.protocol_template import new_protocol

SYSTEMS = asset_path("systems")


def write_pdb(path, atoms, models=1):
    """An ASE structure as a PDB file with elements, its cell as CRYST1 where it has one."""
    topology = app.Topology()
    residue = topology.addResidue("MOL", topology.addChain())
    for i, symbol in enumerate(atoms.get_chemical_symbols()):
        topology.addAtom(f"{symbol}{i}", app.Element.getBySymbol(symbol), residue)
    if atoms.pbc.all():
        # Into OpenMM's frame: the first vector along x, the second in the xy plane.
        lengths, angles = atoms.cell.lengths() / 10, np.radians(atoms.cell.angles())
        box = app.internal.unitcell.computePeriodicBoxVectors(*lengths, *angles)
        topology.setPeriodicBoxVectors(box)
    with open(path, "w") as file:
        app.PDBFile.writeHeader(topology, file)
        for model in range(models):
            positions = atoms.get_positions() + 0.01 * model
            app.PDBFile.writeModel(topology, positions, file, model + 1 if models > 1 else None)
        app.PDBFile.writeFooter(topology, file)
    return path


def without_layout(protocol):
    return dataclasses.replace(
        protocol,
        name="x",
        system="x",
        description="",
        structure=None,
        initial_positions="test-frames",
        path=None,
    )


def test_a_molecule_after_ethanol(tmp_path):
    made = new_protocol(write_pdb(tmp_path / "methanol.pdb", molecule("CH3OH")), tmp_path / "mine.xml")
    p = made.protocol
    assert (p.name, p.system, p.structure) == ("methanol", "methanol", "methanol.pdb")
    assert (p.initial_positions, p.initial_file, p.stability_criterion) == ("structure", None, "bonds")
    # All else is ethanol's.
    assert without_layout(p) == without_layout(load_protocol("ethanol"))
    assert load_protocol(tmp_path / "mine.xml") == p
    assert p.structure_path == p.initial_path == tmp_path / "methanol.pdb"


def test_the_file_says_what_was_decided(tmp_path):
    made = new_protocol(write_pdb(tmp_path / "m.pdb", molecule("CH3OH")), tmp_path / "mine.xml")
    text = (tmp_path / "mine.xml").read_text()
    assert all(note in text for note in made.notes)
    assert "6 atoms, H4 C1 O1, no cell; 1 start structure" in text
    assert "those 5 of the first structure" in text


def test_what_is_given_replaces_what_is_followed(tmp_path):
    p = new_protocol(
        write_pdb(tmp_path / "m.pdb", molecule("CH3OH"), models=3),
        tmp_path / "sub" / "mine.xml",
        like="ethanol",
        variant="gentle",
        name="hot-methanol",
        temperature_K=700.0,
        timestep_fs=0.25,
        length_ps=2.0,
        replicas=3,
    ).protocol
    assert (p.name, p.temperature_K, p.timestep_fs, p.length_ps, p.replicas) == (
        "hot-methanol",
        700,
        0.25,
        2,
        3,
    )
    assert (p.demo_length_ps, p.toy_length_ps) == (2.0, 0.5)
    integrator = p.make_integrator()
    assert integrator.getTemperature()._value == 700.0
    assert integrator.getStepSize()._value == pytest.approx(0.00025)
    assert integrator.getCollisionFrequency()._value == 10.0
    assert p.structure == "../m.pdb"


def test_following_a_file_of_ones_own(tmp_path):
    first = new_protocol(
        write_pdb(tmp_path / "m.pdb", molecule("CH3OH")), tmp_path / "a.xml", temperature_K=400.0
    )
    second = new_protocol(
        write_pdb(tmp_path / "n.pdb", molecule("CH4")), tmp_path / "b.xml", like=str(tmp_path / "a.xml")
    )
    assert second.protocol.temperature_K == first.protocol.temperature_K == 400.0


def test_molecules_in_a_cell_are_watched_by_their_bonds(tmp_path):
    made = new_protocol(SYSTEMS / "water" / "topology.pdb", tmp_path / "w.xml", like="water", name="box")
    p = made.protocol
    assert (p.stability_criterion, p.stability_pairs, p.stability_threshold_A) == ("bonds", (), 0.5)
    assert "128 of the first structure" in (tmp_path / "w.xml").read_text()
    assert 'criterion="rdf"' in (tmp_path / "w.xml").read_text()
    assert p.rdf_pairs == ("O-O", "H-H", "H-O")
    assert (p.diffusivity_atoms, p.diffusivity_lag_ps) == ("element O", 100.0)
    assert (p.diffusivity_stride_ps, p.diffusivity_min_stable_ps) == (1.0, 100.0)
    assert p.observables == load_protocol("water").observables


def test_a_metal_in_a_cell_has_no_criterion(tmp_path):
    copper = bulk("Cu", "fcc", a=3.6, cubic=True) * (2, 2, 2)
    p = new_protocol(write_pdb(tmp_path / "cu.pdb", copper), tmp_path / "cu.xml", like="water").protocol
    assert p.stability_criterion == "none"
    assert p.rdf_pairs == ("all",)
    assert "diffusivity" not in p.observables
    assert "bonds to metals come and go" in (tmp_path / "cu.xml").read_text()


def test_a_molecule_after_water_and_a_cell_after_ethanol(tmp_path):
    isolated = new_protocol(
        write_pdb(tmp_path / "m.pdb", molecule("CH3OH")), tmp_path / "m.xml", like="water"
    )
    assert "h_r" in isolated.protocol.observables
    assert not {"rdf", "diffusivity"} & set(isolated.protocol.observables)
    box = new_protocol(SYSTEMS / "water" / "topology.pdb", tmp_path / "w.xml", like="ethanol", name="box")
    assert "rdf" in box.protocol.observables
    assert "h_r" not in box.protocol.observables


def test_metadynamics_stays_with_its_atoms(tmp_path):
    same = new_protocol(
        SYSTEMS / "alanine-dipeptide" / "minima.pdb", tmp_path / "a.xml", like="alanine-dipeptide", name="ala"
    ).protocol
    base = load_protocol("alanine-dipeptide")
    assert (same.metadynamics, same.observables) == (base.metadynamics, base.observables)
    assert same.constraints == "h-bonds"
    other = new_protocol(
        write_pdb(tmp_path / "m.pdb", molecule("CH3OH")), tmp_path / "m.xml", like="alanine-dipeptide"
    )
    assert other.protocol.metadynamics is None
    assert not [name for name in other.protocol.observables if name.startswith("F_")]
    text = (tmp_path / "m.xml").read_text()
    assert "metadynamics of alanine-dipeptide is left out" in text
    assert "rigid bonds to hydrogen suit models" in text


def test_oblique_cells_come_in_reduced_form(tmp_path):
    # 60 degrees: OpenMM wants the reduced basis of the same lattice.
    argon = Atoms("Ar2", [[0, 0, 0], [3, 3, 3]], cell=[10, 10, 10, 50, 60, 55], pbc=True)
    p = new_protocol(write_pdb(tmp_path / "ar.pdb", argon), tmp_path / "ar.xml", like="lips").protocol
    box = app.PDBFile(str(p.structure_path)).topology.getPeriodicBoxVectors()
    system = openmm.System()
    system.setDefaultPeriodicBoxVectors(*box)
    volume = abs(np.linalg.det(np.array(box.value_in_unit(openmm.unit.angstrom))))
    assert volume == pytest.approx(argon.get_volume(), rel=1e-3)
    assert "there are no bonds" in (tmp_path / "ar.xml").read_text()


def test_two_molecules_on_top_of_each_other_across_the_border(tmp_path):
    argon = Atoms("Ar2", [[0.1, 5, 5], [9.9, 5, 5]], cell=[10, 10, 10], pbc=True)
    with pytest.raises(ProtocolError, match=r"atoms 1 and 2 of model 1 are 0\.200 A apart"):
        new_protocol(write_pdb(tmp_path / "ar.pdb", argon), tmp_path / "ar.xml", like="lips")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"length_ps": 0.07}, "length_ps = 0.07 ps is not a whole number of frames"),
        ({"timestep_fs": 2.0}, "2 fs with unconstrained hydrogens"),
        ({"temperature_K": -3.0}, "temperature"),
        ({"replicas": 0}, "at least one"),
        ({"name": "my molecule"}, "wanted letters"),
        ({"name": "ethanol-gentle"}, "is the name of a protocol of the package"),
        ({"like": "water", "variant": "npt"}, "has no cell"),
        ({"like": "etanol"}, "did you mean ethanol"),
    ],
)
def test_arguments_that_do_not_fit(arguments, message, tmp_path):
    structure = write_pdb(tmp_path / "m.pdb", molecule("CH3OH"))
    with pytest.raises(ProtocolError, match=message):
        new_protocol(structure, tmp_path / "mine.xml", **arguments)
    assert not (tmp_path / "mine.xml").exists()


CRYST = "CRYST1{:9.3f}{:9.3f}{:9.3f}  90.00  90.00  90.00 P 1           1\n"
ATOM = "HETATM{:5d}  {:<3} MOL A   1    {:8.3f}{:8.3f}{:8.3f}  1.00  0.00          {:>2}\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "not a readable PDB file"),
        ("", "holds no atoms|not a readable"),
        (ATOM.format(1, "Q", 0, 0, 0, ""), r"no element for atoms 1 \(Q\); fill in columns 77-78"),
        (ATOM.format(1, "O", 0, 0, 0, "O") + ATOM.format(2, "H", 0.1, 0, 0, "H"), "0.100 A apart"),
        (CRYST.format(1.5, 20, 20) + ATOM.format(1, "O", 0, 0, 0, "O"), "cell of 1.5 x 20 x 20 A"),
        # What programs write that have no cell.
        (
            CRYST.format(1, 1, 1) + ATOM.format(1, "O", 0, 0, 0, "O"),
            "remove the record for an isolated molecule",
        ),
        ("REMARK no atoms at all\nEND\n", "holds no atoms|not a readable"),
    ],
)
def test_structures_that_cannot_be_simulated(content, message, tmp_path):
    if content is not None:
        (tmp_path / "m.pdb").write_text(content)
    with pytest.raises(ProtocolError, match=message) as caught:
        new_protocol(tmp_path / "m.pdb", tmp_path / "mine.xml")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "mine.xml").exists()


def test_nothing_is_overwritten(tmp_path):
    structure = write_pdb(tmp_path / "m.pdb", molecule("CH3OH"))
    new_protocol(structure, tmp_path / "mine.xml")
    with pytest.raises(ProtocolError, match="exists; give another name"):
        new_protocol(structure, tmp_path / "mine.xml")
    with pytest.raises(ProtocolError, match=r"end in \.xml"):
        new_protocol(structure, tmp_path / "mine.txt")
