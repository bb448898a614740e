"""Protocol files: what ships, round trip, and one clear line for every mistake."""

import dataclasses

import openmm
import pytest
from lxml import etree

from openmm_mlbench.assets import asset_path
from openmm_mlbench.errors import ProtocolError
from openmm_mlbench.protocol import Protocol, list_protocols, load_protocol

ETHANOL = asset_path("protocols", "ethanol.xml").read_text()


def test_ethanol_is_the_papers_protocol():
    protocol = load_protocol("ethanol")
    assert (protocol.replicas, protocol.length_ps, protocol.temperature_K) == (5, 300.0, 500.0)
    assert (protocol.timestep_fs, protocol.frame_interval_fs, protocol.stability_threshold_A) == (
        0.5,
        50.0,
        0.5,
    )
    assert (protocol.steps_per_frame, protocol.n_steps()) == (100, 600_000)
    integrator = protocol.make_integrator()
    assert isinstance(integrator, openmm.NoseHooverIntegrator)
    assert integrator.getCollisionFrequency()._value == 100.0
    assert protocol.structure_path.name == "topology.pdb"


def test_the_control_differs_only_in_its_integrator():
    protocol, control = load_protocol("ethanol"), load_protocol("ethanol-langevin")
    assert isinstance(control.make_integrator(), openmm.LangevinMiddleIntegrator)
    same = {"name": "x", "description": "", "integrator_xml": protocol.integrator_xml, "path": None}
    assert dataclasses.replace(control, **same) == dataclasses.replace(protocol, **same)


@pytest.mark.parametrize("name", list_protocols())
def test_the_integrator_element_is_openmms_own(name):
    """Any OpenMM program can read it: attribute for attribute what XmlSerializer writes."""
    element = etree.parse(str(asset_path("protocols", f"{name}.xml"))).find("Integrator")
    integrator = openmm.XmlSerializer.deserialize(etree.tostring(element, encoding="unicode"))
    written = etree.fromstring(openmm.XmlSerializer.serialize(integrator).encode())
    assert dict(element.attrib) == dict(written.attrib)


@pytest.mark.parametrize("name", list_protocols())
def test_round_trip(name, tmp_path):
    protocol = load_protocol(name)
    protocol.write(tmp_path / "copy.xml")
    copy = load_protocol(tmp_path / "copy.xml")
    assert copy == protocol
    assert copy.sha256 == protocol.sha256
    assert dataclasses.replace(copy, seed=1).sha256 != protocol.sha256


def test_layout_and_comments_do_not_count(tmp_path):
    (tmp_path / "other.xml").write_text(ETHANOL.replace("<Toy", "<!-- short -->\n\n   <Toy"))
    assert load_protocol(tmp_path / "other.xml").sha256 == load_protocol("ethanol").sha256


def test_the_seed_reaches_the_integrator():
    assert load_protocol("ethanol-langevin").make_integrator(seed=77).getRandomNumberSeed() == 77


def test_structure_beside_the_protocol(tmp_path):
    path = tmp_path / "mine.xml"
    path.write_text(ETHANOL.replace('system="ethanol"', 'system="ethanol" file="mine.pdb"'))
    assert load_protocol(path).structure_path == tmp_path / "mine.pdb"


def test_length_must_be_whole_frames():
    protocol = load_protocol("ethanol")
    assert protocol.n_steps(0.15) == 300
    for wrong in (0.07, 0.0, -1.0, float("nan")):
        with pytest.raises(ProtocolError, match="whole number of frames of 50 fs"):
            protocol.n_steps(wrong)


# What is replaced, by what, the line of the error, and what the message must say.
MISTAKES = {
    "unknown element": ("<Toy ", "<Plumed/><Toy ", 8, "'Plumed'.*Protocol takes .*Stability"),
    "unknown attribute": ('seed="0"', 'seed="0" speed="3"', 6, "'speed'.*Run takes timestep_fs, length_ps"),
    "unknown attribute of a shared type": (
        "<Toy ",
        '<Toy foo="1" ',
        8,
        "'foo'.*Toy takes length_ps, replicas",
    ),
    "missing element": ('<Toy length_ps="0.5" replicas="2"/>', "", 2, "Missing child.*Toy"),
    "unknown observable": ('"h_r"', '"hr"', 14, "'hr'.*'h_r'"),
    "negative count": ('replicas="5"', 'replicas="-5"', 6, "minimum value allowed"),
    "not a number": ('timestep_fs="0.5"', 'timestep_fs="NaN"', 6, "'NaN'"),
    "integrator that is not allowed": ("NoseHooverI", "CustomI", 19, "'NoseHooverIntegrator', 'Langevin"),
    "unknown attribute of the integrator": ("numMTS", "numMTZ", 19, "no attribute 'numMTZ'; OpenMM writes"),
    "missing attribute of the integrator": ('numMTS="3"', "", 19, "OpenMM cannot read .*numMTS"),
    "integrator with text for a number": ('numMTS="3"', 'numMTS="x"', 19, "numMTS='x'"),
    "integrator number that overflows": ('numMTS="3"', 'numMTS="99999999999"', 19, "was read by OpenMM as"),
    "no multiple time steps": ('numMTS="3"', 'numMTS="0"', 19, "at least 1"),
    "forces left out": ('ForceGroups="-1"', 'ForceGroups="2"', 19, "integrationForceGroups"),
    "another temperature": (
        'temperature_K="500"',
        'temperature_K="300"',
        19,
        "500 K but temperature_K is 300",
    ),
    "another time step": ('timestep_fs="0.5"', 'timestep_fs="0.25"', 19, "0.5 fs but timestep_fs is 0.25"),
    "broken frame interval": ('fs="50"', 'fs="50.3"', 6, "50.3 fs is not a multiple of the time step 0.5 fs"),
    "broken length": (
        'length_ps="300"',
        'length_ps="300.01"',
        6,
        "300.01 ps is not a whole number of frames",
    ),
    "broken demo length": ('Demo length_ps="5"', 'Demo length_ps="5.01"', 7, "demo_length_ps = 5.01 ps"),
    "wrong ensemble": (
        'type="NVT"',
        'type="NVE"',
        5,
        "NVE with a NoseHooverIntegrator; use VerletIntegrator",
    ),
    "child of the integrator": (
        'version="1"/>',
        'version="1"><T/></Integrator>',
        19,
        "content is not allowed",
    ),
    "not XML": ("</Protocol>", "</Protoco", 21, "not well-formed"),
    "another root": ("Protocol", "System", 2, "'System'"),
    "subsystem thermostats": (
        'hasSubsystemThermostats="0"',
        'hasSubsystemThermostats="1"',
        19,
        "OpenMM cannot read|not supported",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_give_one_line(mistake, tmp_path):
    old, new, line, message = MISTAKES[mistake]
    assert old in ETHANOL
    path = tmp_path / "wrong.xml"
    path.write_text(ETHANOL.replace(old, new))
    with pytest.raises(ProtocolError, match=message) as caught:
        load_protocol(path)
    assert str(caught.value).startswith(f"{path} line {line}: ")
    assert "\n" not in str(caught.value)


def test_a_long_step_needs_constraints(tmp_path):
    text = ETHANOL.replace('timestep_fs="0.5"', 'timestep_fs="2"').replace('".0005"', '".002"')
    path = tmp_path / "long.xml"
    path.write_text(text)
    with pytest.raises(
        ProtocolError, match=r"line 6: time step 2 fs with unconstrained hydrogens; use at most 1 fs"
    ):
        load_protocol(path)
    path.write_text(text.replace('constraints="none"', 'constraints="h-bonds"'))
    assert load_protocol(path).steps_per_frame == 25


@pytest.mark.parametrize(
    "declaration",
    [
        '<!DOCTYPE Protocol [<!ENTITY x SYSTEM "file:///etc/hostname">]>',
        '<!DOCTYPE Protocol SYSTEM "http://127.0.0.1:1/x.dtd">',
        '<!DOCTYPE Protocol [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>',
    ],
)
def test_document_types_are_refused(declaration, tmp_path):
    path = tmp_path / "evil.xml"
    path.write_text(ETHANOL.replace("<Protocol ", declaration + "<Protocol ", 1))
    with pytest.raises(ProtocolError, match="document type"):
        load_protocol(path)


def test_missing_and_oversized_files(tmp_path):
    with pytest.raises(
        ProtocolError,
        match=r"no protocol 'etanol'; did you mean ethanol\? the package has .*ethanol.* path ending in .xml",
    ):
        load_protocol("etanol")
    with pytest.raises(ProtocolError, match="No such file"):
        load_protocol(tmp_path / "none.xml")
    (tmp_path / "big.xml").write_text(ETHANOL + " " * 1_000_000)
    with pytest.raises(ProtocolError, match="larger than"):
        load_protocol(tmp_path / "big.xml")


def test_a_protocol_made_in_code_is_checked_too():
    with pytest.raises(ProtocolError, match=r"frame interval 0\.7 fs is not a multiple"):
        dataclasses.replace(load_protocol("ethanol"), frame_interval_fs=0.7)
    with pytest.raises(ProtocolError, match="BrownianIntegrator"):
        dataclasses.replace(
            load_protocol("ethanol"),
            integrator_xml=openmm.XmlSerializer.serialize(openmm.BrownianIntegrator(300, 1, 0.001)),
        )


def test_nve_takes_verlet():
    nve = dataclasses.replace(
        load_protocol("ethanol"),
        ensemble="NVE",
        integrator_xml=openmm.XmlSerializer.serialize(openmm.VerletIntegrator(0.0005)),
    )
    assert isinstance(nve, Protocol)
    assert isinstance(nve.make_integrator(), openmm.VerletIntegrator)
