"""Runs that start from a structure instead of test frames."""

import dataclasses

import harmonic_ethanol as ethanol
import numpy as np
import openmm
import periodic_argon as argon
import pytest
from openmm import app

from openmm_mlbench.errors import SimulationError
from openmm_mlbench.protocol import load_protocol
from openmm_mlbench.simulation.run_folder import read_run
from openmm_mlbench.simulation.runner import run_protocol
from openmm_mlbench.simulation.starts import choose_starts, structure_frames
from openmm_mlbench.topology import read_topology
from openmm_mlbench.trajectory import read_dcd


def write_models(path, n_models, box_nm=None):
    """Ethanol, each model shifted by 1 A along x against the one before."""
    topology = ethanol.topology()
    topology.setPeriodicBoxVectors(box_nm)
    with open(path, "w") as file:
        app.PDBFile.writeHeader(topology, file)
        for model in range(n_models):
            app.PDBFile.writeModel(topology, ethanol.POSITIONS + np.array([model, 0, 0]), file, model + 1)
        app.PDBFile.writeFooter(topology, file)


@pytest.fixture
def protocol(tmp_path):
    ethanol.write_pdb(tmp_path / "mine.pdb")
    return dataclasses.replace(
        load_protocol("ethanol"),
        initial_positions="structure",
        structure="mine.pdb",
        path=tmp_path / "mine.xml",
    )


def test_the_structure_itself(protocol):
    frames = structure_frames(protocol)
    assert (frames.name, frames.n_frames, frames.cells) == ("mine.pdb", 1, None)
    assert frames.atomic_numbers.tolist() == ethanol.ATOMIC_NUMBERS.tolist()
    np.testing.assert_allclose(frames.positions[0], ethanol.POSITIONS, atol=1e-9)


def test_every_model_with_its_cell(protocol, tmp_path):
    write_models(tmp_path / "starts.pdb", 3, 2.5 * np.eye(3))
    frames = structure_frames(dataclasses.replace(protocol, initial_file="starts.pdb"))
    assert frames.n_frames == 3
    np.testing.assert_allclose(frames.positions[2] - frames.positions[0], [[2, 0, 0]] * 9, atol=1e-9)
    np.testing.assert_allclose(frames.cells, 3 * [25 * np.eye(3)])


def test_six_minima_of_alanine_dipeptide():
    frames = structure_frames(load_protocol("alanine-dipeptide"))
    assert (frames.n_frames, frames.n_atoms) == (6, 22)


def test_replicas_take_the_models_in_turn(protocol, tmp_path):
    write_models(tmp_path / "starts.pdb", 2)
    protocol = dataclasses.replace(protocol, initial_file="starts.pdb")
    frames = structure_frames(protocol)
    assert choose_starts(protocol, frames, 5).tolist() == [0, 1, 0, 1, 0]
    run_protocol(
        protocol, ethanol.HarmonicEthanol(), tmp_path / "run", start_frames=frames, replicas=3, length_ps=0.05
    )
    record = read_run(tmp_path / "run")
    assert record["start_places"] == [0, 1, 0]
    assert record["start_frames"]["dataset"] == "starts.pdb"
    ends = [(tmp_path / "run" / f"replica-{i}" / "trajectory.dcd").read_bytes() for i in (0, 2)]
    assert ends[0] != ends[1]


def test_test_frames_are_drawn_without_replacement():
    protocol, frames = load_protocol("ethanol"), ethanol.frames()
    places = choose_starts(protocol, frames, frames.n_frames)
    assert sorted(places) == list(range(frames.n_frames))
    with pytest.raises(SimulationError, match="ask for fewer replicas"):
        choose_starts(protocol, frames, frames.n_frames + 1)


@pytest.mark.parametrize("content", [None, "", "ATOM      1  X1  UNK A   1       0.000   0.000   0.000\n"])
def test_files_that_are_no_structure(protocol, tmp_path, content):
    path = tmp_path / "starts.pdb"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SimulationError, match=r"starts.pdb: (not a readable PDB|has no atoms|.*element)"):
        structure_frames(dataclasses.replace(protocol, initial_file="starts.pdb"))


def test_start_positions_of_another_molecule(protocol, tmp_path):
    openmm_water = app.Topology()
    residue = openmm_water.addResidue("HOH", openmm_water.addChain())
    for name, symbol in (("O", "O"), ("H1", "H"), ("H2", "H")):
        openmm_water.addAtom(name, app.Element.getBySymbol(symbol), residue)
    with open(tmp_path / "starts.pdb", "w") as file:
        app.PDBFile.writeFile(openmm_water, [openmm.Vec3(i, 0, 0) for i in range(3)], file)
    protocol = dataclasses.replace(protocol, initial_file="starts.pdb")
    with pytest.raises(SimulationError, match="in the same atom order"):
        run_protocol(
            protocol,
            ethanol.HarmonicEthanol(),
            tmp_path / "run",
            start_frames=structure_frames(protocol),
        )


def test_start_frames_bring_their_own_cells(tmp_path):
    """Each replica has the volume of its frame, not that of the structure file."""
    frames = argon.frames(argon.TRICLINIC @ argon.rotation(2).T)
    argon.write_pdb(tmp_path / "argon.pdb", frames)
    scale = np.linspace(1.0, 1.05, frames.n_frames)[:, None, None]
    frames = dataclasses.replace(frames, cells=frames.cells * scale, positions=frames.positions * scale)
    protocol = argon.protocol(tmp_path / "argon.pdb")
    run_protocol(protocol, argon.Argon(), tmp_path / "run", start_frames=frames, replicas=3, length_ps=0.1)
    for replica, place in enumerate(read_run(tmp_path / "run")["start_places"]):
        volume = np.linalg.det(frames.cells[place])
        log = ethanol.read_log(tmp_path / "run" / f"replica-{replica}")
        assert log["volume_A3"] == pytest.approx(volume)
        topology = read_topology(tmp_path / "run" / "topology.pdb")
        trajectory = read_dcd(tmp_path / "run" / f"replica-{replica}" / "trajectory.dcd", topology, 0.05)
        assert 1000 * np.linalg.det(trajectory.box_vectors_nm) == pytest.approx(volume)


def test_frames_with_cells_want_a_periodic_system(tmp_path):
    frames = dataclasses.replace(ethanol.frames(), cells=np.repeat(20 * np.eye(3)[None], 20, axis=0))
    with pytest.raises(SimulationError, match=r"has cells, but the System of .* is not periodic"):
        run_protocol(
            load_protocol("ethanol"), ethanol.HarmonicEthanol(), tmp_path / "run", start_frames=frames
        )


def test_other_atoms_are_named_in_a_line_however_many_there_are(tmp_path):
    frames = argon.frames(4 * argon.ORTHORHOMBIC, per_side=10)
    argon.write_pdb(tmp_path / "argon.pdb", frames)
    protocol = argon.protocol(tmp_path / "argon.pdb")
    other = dataclasses.replace(frames, atomic_numbers=np.where(np.arange(1000) == 700, 36, 18))
    with pytest.raises(
        SimulationError, match="atom 700 has atomic number 18, in argon it has 36; use"
    ) as caught:
        run_protocol(protocol, argon.Argon(), tmp_path / "run", start_frames=other)
    assert len(str(caught.value)) < 300
    with pytest.raises(SimulationError, match=r"1000 atoms \(Ar1000\) but argon has 27 \(Ar27\); use frames"):
        run_protocol(protocol, argon.Argon(), tmp_path / "run", start_frames=argon.frames())
