"""The second driver: compiled code through PythonForce; its cache, its fallbacks, and pickles that must not run."""

import json
import os
import pickle
import shutil
import subprocess
import sys

import fresh_models
import numpy as np
import openmm
import pytest
import torch
from openmm import app, unit

from openmm_mlbench.assets import asset_path
from openmm_mlbench.cli import main
from openmm_mlbench.data.datasets import CACHE_VARIABLE
from openmm_mlbench.errors import ModelError
from openmm_mlbench.export import compiled
from openmm_mlbench.export.archive import find_archive
from openmm_mlbench.export.compiled import compile_molecule, compiled_folder, find_compiler
from openmm_mlbench.potential import Potential

KJMOL = unit.kilojoules_per_mole

needs_compiler = pytest.mark.skipif(find_compiler() is None, reason="no C++ compiler on this machine")

MAKE = """
import sys
from openmm import app
from openmm_mlbench import Potential
from openmm_mlbench.assets import asset_path
topology = app.PDBFile(str(asset_path("systems", "ethanol", "topology.pdb"))).topology
potential = Potential.load(sys.argv[1], "pythonforce")
potential.create_system(topology)
print(potential.engine.note)
"""


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return fresh_models.write_archive(tmp_path_factory.mktemp("archive") / "schnet.pt")


@pytest.fixture(scope="module")
def stock(archive, tmp_path_factory):
    """A cache with the archive compiled for ethanol, by two processes that began at the same time; what they said."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE_VARIABLE, str(folder))
        both = [
            subprocess.Popen(
                [sys.executable, "-W", "error", "-c", MAKE, str(archive)],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
            for _ in range(2)
        ]  # fmt: skip
        said = []
        for process in both:
            out, err = process.communicate(timeout=1200)
            assert process.returncode == 0, err
            # The one that compiles says that it begins, the other waits without a word.
            assert err in (f"compiling {archive} for these atoms, once ...\n", "")
            said.append(out.strip())
        yield said


@pytest.fixture
def ethanol():
    return app.PDBFile(str(asset_path("systems", "ethanol", "topology.pdb"))).topology


@pytest.fixture
def positions():
    return fresh_models.ethanol_positions_nm()


def evaluate(system, positions):
    """Energy, kJ/mol, and forces, kJ/mol/nm."""
    integrator = openmm.VerletIntegrator(0.0005)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(positions)
    state = context.getState(energy=True, forces=True)
    forces = state.getForces(asNumpy=True).value_in_unit(KJMOL / unit.nanometer)
    return state.getPotentialEnergy().value_in_unit(KJMOL), np.array(forces)


def assert_same(found, wanted):
    assert found[0] == pytest.approx(wanted[0], abs=1e-3)
    np.testing.assert_allclose(found[1], wanted[1], atol=2e-5 * np.abs(wanted[1]).max())


# ---- compiling, and the cache ----


@needs_compiler
def test_two_processes_compile_once(stock):
    assert sum(line.startswith("compiled in ") for line in stock) == 1, stock
    assert sum(line == "compiled code from the cache" for line in stock) == 1, stock
    assert [path.suffix for path in compiled_folder().iterdir()] == [".pt2"]


@needs_compiler
def test_the_same_forces_as_eager(stock, archive, ethanol, positions):
    potential = Potential.load(archive, "pythonforce")
    system = potential.create_system(ethanol)
    assert potential.engine.note == "compiled code from the cache"
    eager = potential.archive.load_eager()
    for place in (positions, positions + 0.004 * np.random.default_rng(1).normal(size=positions.shape)):
        energy, forces = eager(torch.as_tensor(place))
        assert_same(evaluate(system, place), (float(energy), forces.detach().numpy()))


@needs_compiler
def test_the_first_call_equals_all_later_ones(stock, archive, ethanol, positions):
    """A resumed run begins with a first call."""
    system = Potential.load(archive, "pythonforce").create_system(ethanol)
    context = openmm.Context(
        system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
    )
    calls = []
    for _ in range(4):
        context.setPositions(positions)
        state = context.getState(energy=True, forces=True)
        calls.append(
            (state.getPotentialEnergy()._value, np.array(state.getForces(asNumpy=True)._value).tobytes())
        )
    assert len(set(calls)) == 1


@needs_compiler
def test_some_atoms_of_a_system(stock, archive, ethanol, positions):
    """The code is the same; atoms that it does not act on feel nothing."""
    topology = app.Topology()
    residue = topology.addResidue("X", topology.addChain())
    elements = [atom.element for atom in ethanol.atoms()]
    chosen = [0, *range(2, 10)]
    for element in (elements[0], elements[3], *elements[1:], elements[2]):
        topology.addAtom("X", element, residue)
    places = np.zeros((11, 3))
    places[chosen] = positions
    places[[1, 10]] = [[5.0, 5.0, 5.0], [0.01, 0.0, 0.0]]
    system = openmm.System()
    for _ in range(11):
        system.addParticle(1.0)
    potential = Potential.load(archive, "pythonforce")
    potential.add_to(system, topology, chosen)
    assert potential.engine.note == "compiled code from the cache"
    energy, forces = potential.archive.load_eager()(torch.as_tensor(positions))
    found = evaluate(system, places)
    assert_same((found[0], found[1][chosen]), (float(energy), forces.detach().numpy()))
    assert (found[1][[1, 10]] == 0.0).all()


@needs_compiler
def test_lost_atoms_are_not_a_number(stock, archive, positions):
    potential = Potential.load(archive)
    numbers = torch.tensor(potential.card.example_atomic_numbers)
    nothing = torch.zeros(0, dtype=torch.long)
    code = compile_molecule(potential.archive, numbers, nothing, torch.as_tensor(positions))
    positions[4, 1] = np.nan
    energy, forces = code(torch.as_tensor(positions))
    assert energy.isnan()
    assert forces.isnan().any()


def test_the_key_holds_everything_that_decides_the_code(monkeypatch):
    key = compiled._key("a" * 64, [6, 1], "cpu")
    assert key == compiled._key("a" * 64, [6, 1], "cpu")
    others = {compiled._key("b" * 64, [6, 1], "cpu"), compiled._key("a" * 64, [1, 6], "cpu")}
    monkeypatch.setattr(compiled, "_processor", lambda: "another instruction set")
    others.add(compiled._key("a" * 64, [6, 1], "cpu"))
    monkeypatch.undo()
    monkeypatch.setattr(compiled, "source_digest", lambda: "another version of the graphs")
    others.add(compiled._key("a" * 64, [6, 1], "cpu"))
    monkeypatch.undo()
    monkeypatch.setattr(torch, "__version__", "2.10.0")
    others.add(compiled._key("a" * 64, [6, 1], "cpu"))
    assert len(others) == 5
    assert key not in others


# ---- when it cannot be ----


@pytest.fixture
def empty(monkeypatch, tmp_path):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache" / "compiled"


def falls_back(archive, ethanol, positions):
    """The note of a potential that runs all the same, and right."""
    potential = Potential.load(archive, "pythonforce")
    system = potential.create_system(ethanol)
    wanted = evaluate(potential.create_system(ethanol, evaluation="autograd"), positions)
    note = Potential.load(archive, "pythonforce")
    note.create_force(ethanol)
    assert_same(evaluate(system, positions), wanted)
    return note.engine.note


def test_no_compiler_on_the_machine(archive, ethanol, positions, empty, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert falls_back(archive, ethanol, positions) == (
        "not compiled, and slower: there is no C++ compiler (g++)"
    )
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "there is no C++ compiler (no-such-compiler)" in falls_back(archive, ethanol, positions)
    with pytest.raises(SystemExit):
        main(
            [
                *("simulate", "ethanol", "--model", str(archive), "-o", str(tmp_path / "run")),
                *("--driver", "pythonforce", "--replicas", "1", "--length", "0.1"),
            ]
        )
    assert "driver pythonforce): " in (said := capsys.readouterr().err)
    assert "not compiled, and slower: there is no C++ compiler (no-such-compiler)" in said
    recorded = json.loads((tmp_path / "run" / "run.json").read_text())["platform"]["reason"]
    assert recorded.endswith("not compiled, and slower: there is no C++ compiler (no-such-compiler)")


@needs_compiler
def test_what_is_compiled_needs_no_compiler(stock, archive, ethanol, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    potential = Potential.load(archive, "pythonforce")
    potential.create_system(ethanol)
    assert potential.engine.note == "compiled code from the cache"


def test_a_compiler_that_fails(archive, positions, empty, monkeypatch, tmp_path):
    """Called with the arguments that CXX has; the plain program is what compiles the stock."""
    compiler = tmp_path / "g++"
    compiler.write_text(f'#!/bin/sh\necho "$@" >> "{tmp_path}/calls"\nexit 1\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", f"env '{compiler}' -DOURS")
    found = find_archive(archive)
    numbers = torch.tensor(found.card.example_atomic_numbers)
    with pytest.raises(ModelError, match="Inductor cannot compile it"):
        compile_molecule(found, numbers, torch.zeros(0, dtype=torch.long), torch.as_tensor(positions))
    assert list(empty.glob("*.pt2")) == []
    assert all(line.startswith("-DOURS ") for line in (tmp_path / "calls").read_text().splitlines())


@needs_compiler
def test_a_compiler_with_arguments_is_a_compiler(monkeypatch, tmp_path):
    (plain,) = find_compiler()
    wanted = subprocess.run([plain, "--version"], capture_output=True, check=True).stdout
    monkeypatch.setenv("CXX", f"env -u NOTHING '{plain}'")
    words = find_compiler()
    assert words[1:] == ("-u", "NOTHING", plain)
    script = compiled._one_word(words, tmp_path)
    assert os.path.basename(script) == os.path.basename(plain)
    assert subprocess.run([script, "--version"], capture_output=True, check=True).stdout == wanted
    for nothing in ("no-such-compiler g++", "'g++"):
        monkeypatch.setenv("CXX", nothing)
        assert find_compiler() is None


def test_code_in_a_folder_that_others_can_write_to(archive, ethanol, positions, empty):
    empty.mkdir(parents=True)
    empty.chmod(0o777)
    note = falls_back(archive, ethanol, positions)
    assert note.endswith("belongs to, or can be written by, others; make it private with chmod 700")


def damage(archive, folder):
    """A file that is no code in the place of the archive's."""
    found = find_archive(archive)
    folder.mkdir(parents=True, mode=0o700)
    path = folder / f"{compiled._key(found.sha256, found.card.example_atomic_numbers, 'cpu')}.pt2"
    path.write_bytes(b"PK\x03\x04 cut off")
    return path


@needs_compiler
def test_a_damaged_file_in_the_cache(stock, archive, ethanol, positions, monkeypatch, tmp_path, capsys):
    """It is compiled anew, with one line."""
    (kept,) = compiled_folder().iterdir()
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    path = damage(archive, tmp_path / "compiled")
    # A minute less: what the compiler made of the same archive.
    monkeypatch.setattr(compiled, "_compile", lambda *arguments: shutil.copyfile(kept, arguments[3]))
    potential = Potential.load(archive, "pythonforce")
    system = potential.create_system(ethanol)
    assert potential.engine.note.startswith("compiled in 0 s, kept in ")
    said = capsys.readouterr().err
    assert said.startswith(f"{path} could not be loaded (")
    assert said.endswith(f"); compiling {archive} for these atoms, once ...\n")
    assert said.count("\n") == 1
    wanted = evaluate(potential.create_system(ethanol, evaluation="autograd"), positions)
    assert_same(evaluate(system, positions), wanted)
    assert list((tmp_path / "compiled").iterdir()) == [path]
    assert path.read_bytes() == kept.read_bytes()


def test_a_damaged_file_and_no_compiler(archive, ethanol, positions, empty, monkeypatch):
    path = damage(archive, empty)
    monkeypatch.setenv("CXX", "no-such-compiler")
    note = falls_back(archive, ethanol, positions)
    assert note.startswith(f"not compiled, and slower: {path} could not be loaded (")
    assert note.endswith("); there is no C++ compiler (no-such-compiler)")


def test_a_box_is_not_compiled(archive, ethanol, positions, empty):
    ethanol.setPeriodicBoxVectors(np.diag([0.9, 0.85, 0.8]) * unit.nanometer)
    potential = Potential.load(archive, "pythonforce")
    system = potential.create_system(ethanol)
    assert potential.engine.note == "not compiled: its pair list has no fixed length"
    assert_same(
        evaluate(system, positions),
        evaluate(potential.create_system(ethanol, driver="torchforce"), positions),
    )


@needs_compiler
@pytest.mark.slow
def test_the_same_checks(stock, archive, capsys):
    """`check` through the compiled driver: every gate, and what each was sent through."""
    with pytest.raises(SystemExit) as stop:
        main(["check", str(archive), "--driver", "pythonforce"])
    assert stop.value.code in (0, None)
    said = capsys.readouterr()
    assert "driver pythonforce" in said.err
    rows = [line for line in said.out.splitlines() if line.endswith(("ok", "FAILED"))]
    assert len(rows) == 15
    assert all(row.endswith("ok") for row in rows)
    # Compiled code and the network round differently: it was not eager that passed its own gates.
    in_openmm = next(row for row in rows if row.startswith("in OpenMM"))
    assert float(in_openmm.removeprefix("in OpenMM against eager").split()[0]) > 0.0


# ---- pickles ----


def test_our_pythonforce_is_not_saved(archive, ethanol):
    potential = Potential.load(archive, "pythonforce")
    system = potential.create_system(ethanol, evaluation="autograd")
    with pytest.raises(openmm.OpenMMException, match="could not be pickled"):
        openmm.XmlSerializer.serialize(system)


class Payload:
    """Unpickling it makes a file."""

    def __init__(self, path):
        self.path = path

    def __call__(self, state):
        return 0.0, np.zeros((9, 3))

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_in_a_run_folder_does_not_run(tmp_path, capsys):
    """A checkpoint's XML is replaced by a System with a PythonForce, its hash in the index too."""
    import hashlib

    mark = tmp_path / "it-ran"
    system = openmm.System()
    system.addForce(openmm.PythonForce(Payload(mark)))
    xml = openmm.XmlSerializer.serialize(system)
    # In OpenMM's own hands it does.
    with pytest.raises(openmm.OpenMMException):
        openmm.Context(
            openmm.XmlSerializer.deserialize(xml),
            openmm.VerletIntegrator(0.001),
            openmm.Platform.getPlatformByName("Reference"),
        )
    assert mark.is_dir()
    mark.rmdir()
    run = tmp_path / "run"
    arguments = ["simulate", "ethanol", "--model", "ethanol/schnet", "-o", str(run), "--replicas", "1"]
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--length", "0.1"])
    assert stop.value.code in (0, None)
    index_path = run / "replica-0" / "checkpoint.json"
    index = json.loads(index_path.read_text())
    for item in index["checkpoints"]:
        for name in list(item["sha256"]):
            if name.endswith(".chk"):
                (run / "replica-0" / name).unlink()
            else:
                (run / "replica-0" / name).write_text(xml)
                item["sha256"][name] = hashlib.sha256(xml.encode()).hexdigest()
    index_path.write_text(json.dumps(index))
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--length", "0.2", "--resume"])
    assert stop.value.code == 2
    assert "a System where a State was wanted" in capsys.readouterr().err
    assert not mark.exists()


def test_a_pickle_in_a_protocol_does_not_run(tmp_path, capsys):
    mark = tmp_path / "it-ran"
    system = openmm.System()
    system.addForce(openmm.PythonForce(Payload(mark)))
    xml = openmm.XmlSerializer.serialize(system)
    assert pickle.dumps(Payload(mark))
    force = xml[xml.index("<Force ") : xml.index("</Forces>")]
    text = asset_path("protocols", "ethanol.xml").read_text()
    begin = text.index("<Integrator ")
    end = text.index("/>", begin) + 2 if "</Integrator>" not in text else text.index("</Integrator>") + 13
    bad = tmp_path / "bad.xml"
    bad.write_text(
        text[:begin]
        + force.replace("<Force ", "<Integrator ").replace("</Force>", "</Integrator>")
        + text[end:]
    )
    with pytest.raises(SystemExit) as stop:
        main(["simulate", str(bad), "--model", "ethanol/schnet", "-o", str(tmp_path / "run")])
    assert stop.value.code == 2
    assert "bad.xml" in capsys.readouterr().err
    assert not mark.exists()


def test_a_run_is_exported_with_torchforce_only(archive, tmp_path):
    """The XML of export-openmm holds the network, whatever the driver of the potential is."""
    from openmm_mlbench.openmm_export import export_openmm
    from openmm_mlbench.protocol import load_protocol

    potential = Potential.load(archive, "pythonforce")
    script = export_openmm(
        load_protocol("ethanol"), potential, fresh_models.ethanol_positions_nm(), tmp_path / "plain"
    )
    text = (script.parent / "system.xml").read_text()
    assert 'type="TorchForce"' in text
    assert "PythonForce" not in text
