"""Protocol files: what ships, round trip, variants, and one clear line for every mistake."""

import dataclasses
import json
import re

import openmm
import openmm.app
import pytest
from lxml import etree

from openmm_mlbench.assets import asset_path
from openmm_mlbench.errors import ProtocolError
from openmm_mlbench.metadynamics import BiasVariable
from openmm_mlbench.protocol import Protocol, list_protocols, load_protocol, protocol_variants

ALL = list_protocols(variants=True)
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


# Table 1 and appendix D of the paper; length, time step, temperature, runs; then thermostat and its rate (1/ps) and
# the time between frames (ps) of the authors' runs, and the threshold of stability (A).
PAPER = {
    "aspirin": (300, 0.5, 500, 5, "NoseHooverIntegrator", 100, 0.05, 0.5),
    "ethanol": (300, 0.5, 500, 5, "NoseHooverIntegrator", 100, 0.05, 0.5),
    "naphthalene": (300, 0.5, 500, 5, "NoseHooverIntegrator", 100, 0.05, 0.5),
    "salicylic-acid": (300, 0.5, 500, 5, "NoseHooverIntegrator", 100, 0.05, 0.5),
    "water": (500, 1, 300, 5, "NoseHooverIntegrator", 50, 0.1, 3.0),
    "alanine-dipeptide": (5000, 2, 300, 6, "LangevinMiddleIntegrator", 49, 1.0, 0.5),
    "lips": (50, 0.25, 520, 5, "NoseHooverIntegrator", 200, 0.0125, 1.0),
}
PAPER_STEPS = {"ethanol": 600_000, "water": 500_000, "alanine-dipeptide": 2_500_000, "lips": 200_000}
PERIODIC = {"water": ("O-O", "H-H", "H-O"), "lips": ("all",)}


def coupling(protocol):
    integrator = protocol.make_integrator()
    rate = "getCollisionFrequency" if protocol.integrator_xml.count("NoseHoover") else "getFriction"
    return type(integrator).__name__, getattr(integrator, rate)()._value


def test_there_is_one_protocol_per_system():
    assert set(list_protocols()) == set(PAPER)


@pytest.mark.parametrize("name", PAPER)
def test_values_are_the_papers(name):
    p = load_protocol(name)
    found = (p.length_ps, p.timestep_fs, p.temperature_K, p.replicas, *coupling(p), p.frame_interval_ps)
    assert (*found, p.stability_threshold_A) == PAPER[name]
    assert p.n_steps() == PAPER_STEPS.get(name, 600_000)
    assert (p.name, p.system, p.ensemble, p.structure) == (name, name, "NVT", None)
    assert p.stability_criterion == ("rdf" if name in PERIODIC else "bonds")
    assert p.stability_pairs == PERIODIC.get(name, ())
    assert p.stability_window_ps == 1.0
    assert p.constraints == ("h-bonds" if name == "alanine-dipeptide" else "none")
    assert p.initial_positions == ("structure" if name == "alanine-dipeptide" else "test-frames")


def test_alanine_dipeptide_is_biased_along_phi_and_psi():
    protocol = load_protocol("alanine-dipeptide")
    bias = protocol.metadynamics
    assert (bias.height_kJ_mol, bias.pace_steps, bias.bias_factor, bias.temperature_K) == (1.2, 500, 6, 300)
    assert bias.variables == (
        BiasVariable(name="phi", atoms=(4, 6, 8, 14), sigma_rad=0.35, grid_bins=120),
        BiasVariable(name="psi", atoms=(6, 8, 14, 16), sigma_rad=0.35, grid_bins=120),
    )
    assert "n_finished" in protocol.observables
    assert protocol.initial_path == asset_path("systems", "alanine-dipeptide", "minima.pdb")


def test_phi_and_psi_are_those_of_the_backbone():
    structure = openmm.app.PDBFile(str(asset_path("systems", "alanine-dipeptide", "topology.pdb")))
    atoms = [(atom.residue.name, atom.name) for atom in structure.topology.atoms()]
    phi, psi = load_protocol("alanine-dipeptide").metadynamics.variables
    assert [atoms[i] for i in phi.atoms] == [("ACE", "C"), ("ALA", "N"), ("ALA", "CA"), ("ALA", "C")]
    assert [atoms[i] for i in psi.atoms] == [("ALA", "N"), ("ALA", "CA"), ("ALA", "C"), ("NME", "N")]


@pytest.mark.parametrize("name", ALL)
def test_what_every_protocol_has(name):
    p = load_protocol(name)
    assert p.name == name
    assert p.description.endswith((".", "?"))
    assert p.n_steps(p.toy_length_ps) <= 2000
    assert p.n_steps(p.demo_length_ps) < p.n_steps()
    assert {"force_mae", "stability", "steps_per_second"} <= set(p.observables)
    if p.ensemble != "NVE":
        # The physical temperature; what degrees of freedom ask for is applied where the System is made.
        assert p.make_integrator().getTemperature()._value == p.temperature_K


@pytest.mark.parametrize("name", PAPER)
def test_variants_of_thermostat_and_ensemble(name):
    base, gentle, nve = (load_protocol(n) for n in (name, f"{name}-gentle", f"{name}-nve"))
    kind, _ = coupling(base)
    assert coupling(gentle) == (kind, 1 if kind.startswith("Langevin") else 10)
    same = {"name": "x", "description": "", "integrator_xml": base.integrator_xml}
    assert dataclasses.replace(gentle, **same) == dataclasses.replace(base, **same)
    assert (nve.ensemble, nve.temperature_K, nve.n_steps()) == ("NVE", base.temperature_K, base.n_steps())
    assert isinstance(nve.make_integrator(), openmm.VerletIntegrator)
    assert nve.metadynamics is None
    assert "drift" in nve.observables


@pytest.mark.parametrize("name", [n for n in ALL if "-dt" in n])
def test_time_step_series(name):
    system, step_fs = name.rsplit("-dt", 1)
    base, other = load_protocol(system), load_protocol(name)
    assert other.timestep_fs == float(step_fs)
    assert other.n_steps() * other.timestep_fs == base.n_steps() * base.timestep_fs
    assert coupling(other) == coupling(base)
    if base.metadynamics is not None:
        assert other.metadynamics.pace_steps * other.timestep_fs == base.metadynamics.pace_steps * 2
    same = {
        "name": "x",
        "description": "",
        "timestep_fs": 0.5,
        "integrator_xml": load_protocol("ethanol").integrator_xml,
        "temperature_K": 500.0,
        "metadynamics": None,
    }
    assert dataclasses.replace(other, **same) == dataclasses.replace(base, **same)


def test_the_flexible_alanine_dipeptide_has_hills_at_the_same_times():
    base, flexible = load_protocol("alanine-dipeptide"), load_protocol("alanine-dipeptide-flexible")
    assert (flexible.constraints, flexible.timestep_fs) == ("none", 1.0)
    assert flexible.metadynamics == dataclasses.replace(base.metadynamics, pace_steps=1000)


def test_ethanol_at_the_temperature_of_its_frames():
    hot = load_protocol("ethanol-643K")
    assert (hot.temperature_K, coupling(hot)) == (643.0, ("NoseHooverIntegrator", 100))


@pytest.mark.parametrize("run", ["ethanol-schnet", "ethanol-schnet-langevin"])
def test_protocols_of_published_runs_have_not_changed(run):
    folder = asset_path("protocols").parent / "benchmarks" / "results" / "runs" / run
    if not folder.is_dir():
        pytest.skip("the published runs are part of a checkout, not of a wheel")
    recorded = json.loads((folder / "run.json").read_text())["protocol"]
    assert load_protocol(recorded["name"]).sha256 == recorded["sha256"]
    assert load_protocol(folder / "protocol.xml").sha256 == recorded["sha256"]


@pytest.mark.parametrize("name", ["lips", "lips-nve", "lips-gentle"])
def test_lips_states_both_rules_of_its_diffusivity(name):
    p = load_protocol(name)
    # Of the authors' program: lag, start and distance of time origins; of the text: 40 ps.
    assert (p.diffusivity_lag_ps, p.diffusivity_start_ps, p.diffusivity_stride_ps) == (35.05, 5.0, 0.05)
    assert p.diffusivity_min_stable_ps == 40.0
    water = load_protocol("water")
    assert (water.diffusivity_lag_ps, water.diffusivity_start_ps) == (100.0, None)
    assert (water.diffusivity_stride_ps, water.diffusivity_min_stable_ps) == (1.0, 100.0)


def test_times_of_a_diffusivity_that_make_no_sense():
    p = load_protocol("lips")
    for change in ({"diffusivity_stride_ps": 0.02}, {"diffusivity_start_ps": -5.0}):
        with pytest.raises(ProtocolError, match=r"is not a whole number of frames of 12\.5 fs"):
            dataclasses.replace(p, **change)
    with pytest.raises(ProtocolError, match="diffusivity_start_ps is given, but diffusivity is not observed"):
        dataclasses.replace(load_protocol("ethanol"), diffusivity_start_ps=5.0)


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"description": "other words"}, True),
        ({"demo_length_ps": 10.0, "demo_replicas": 1}, True),
        ({"toy_length_ps": 1.0}, True),
        ({"observables": ("stability",)}, True),
        ({"length_ps": 200.0}, False),
        ({"replicas": 4}, False),
        ({"temperature_K": 500.5}, False),
        ({"stability_threshold_A": 0.6}, False),
        ({"name": "other"}, False),
    ],
)
def test_the_hash_is_of_what_decides_the_simulation(change, same):
    base = load_protocol("ethanol")
    if "temperature_K" in change:
        change |= {"integrator_xml": base.integrator_xml.replace('temperature="500"', 'temperature="500.5"')}
    assert (dataclasses.replace(base, **change).sha256 == base.sha256) == same


@pytest.mark.parametrize("name", list_protocols())
def test_the_integrator_elements_are_openmms_own(name):
    """Any OpenMM program can read them: attribute for attribute what XmlSerializer writes."""
    elements = list(etree.parse(str(asset_path("protocols", f"{name}.xml"))).iter("Integrator"))
    assert len(elements) >= 3
    for element in elements:
        integrator = openmm.XmlSerializer.deserialize(etree.tostring(element, encoding="unicode"))
        written = etree.fromstring(openmm.XmlSerializer.serialize(integrator).encode())
        assert dict(element.attrib) == dict(written.attrib)


@pytest.mark.parametrize("name", ALL)
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
    "threshold forgotten": (' threshold_A="0.5"', "", 10, "criterion bonds has no threshold_A"),
    "pairs of a bond criterion": (
        'criterion="bonds"',
        'criterion="bonds" pairs="O-O"',
        10,
        "belong to criterion=.rdf., not to bonds",
    ),
    "rdf without pairs": ('criterion="bonds"', 'criterion="rdf"', 10, "pairs.*O-O"),
    "rdf of strange pairs": (
        'criterion="bonds"',
        'criterion="rdf" pairs="oxygen-H"',
        10,
        "'oxygen-H'; wanted elements",
    ),
    "window that is no frames": (
        'criterion="bonds"',
        'criterion="rdf" window_ps="0.07" pairs="all"',
        10,
        "not a whole number of frames",
    ),
    "start file with test frames": (
        '="test-frames"',
        '="test-frames" file="a.pdb"',
        9,
        "use positions=.structure.",
    ),
    "pressure without barostat": (
        'constraints="none"',
        'constraints="none" pressure_bar="1"',
        5,
        "pressure_bar in an NVT",
    ),
    "barostat without pressure": ('type="NVT"', 'type="NPT"', 5, "NPT without a pressure_bar"),
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
    "integrator that is not allowed": ("NoseHooverI", "CustomI", 22, "'NoseHooverIntegrator', 'Langevin"),
    "unknown attribute of the integrator": ("numMTS", "numMTZ", 22, "no attribute 'numMTZ'; OpenMM writes"),
    "missing attribute of the integrator": ('numMTS="3"', "", 22, "OpenMM cannot read .*numMTS"),
    "integrator with text for a number": ('numMTS="3"', 'numMTS="x"', 22, "numMTS='x'"),
    "integrator number that overflows": ('numMTS="3"', 'numMTS="99999999999"', 22, "was read by OpenMM as"),
    "no multiple time steps": ('numMTS="3"', 'numMTS="0"', 22, "at least 1"),
    "forces left out": ('ForceGroups="-1"', 'ForceGroups="2"', 22, "integrationForceGroups"),
    "another temperature": (
        'temperature_K="500"',
        'temperature_K="300"',
        22,
        "500 K but temperature_K is 300",
    ),
    "another time step": ('timestep_fs="0.5"', 'timestep_fs="0.25"', 22, "0.5 fs but timestep_fs is 0.25"),
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
        22,
        "content is not allowed",
    ),
    "not XML": ("</Protocol>", "</Protoco", ETHANOL.count("\n") + 1, "not well-formed"),
    "another root": ("Protocol", "System", 2, "'System'"),
    "subsystem thermostats": (
        'hasSubsystemThermostats="0"',
        'hasSubsystemThermostats="1"',
        22,
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


def ethanol_with(tmp_path, *changes):
    """A file with ethanol's protocol after some replacements."""
    text = ETHANOL
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    path = tmp_path / "mine.xml"
    path.write_text(text)
    return path


METADYNAMICS = """<Metadynamics height_kJ_mol="1.2" pace_steps="500" bias_factor="6" temperature_K="500">
<Variable name="CCOH" atoms="1 0 2 8" sigma_rad="0.35" grid_bins="60"/>
</Metadynamics>
"""


def test_every_new_element_makes_the_round_trip(tmp_path):
    path = ethanol_with(
        tmp_path,
        ('type="NVT"', 'type="NPT" pressure_bar="-2.5" barostat_interval_steps="50"'),
        ('positions="test-frames"', 'positions="structure" file="start.pdb"'),
        (
            'criterion="bonds" threshold_A="0.5"',
            'criterion="rdf" threshold_A="2" window_ps="0.5" pairs="O-H C-C"',
        ),
        (
            "<Observables>",
            f'{METADYNAMICS}<Monitor displacement_A="3" temperature_ratio="4.5"/><Observables>',
        ),
    )
    p = load_protocol(path)
    assert (p.pressure_bar, p.barostat_interval_steps) == (-2.5, 50)
    assert (p.initial_positions, p.initial_file) == ("structure", "start.pdb")
    assert (p.stability_window_ps, p.stability_pairs) == (0.5, ("O-H", "C-C"))
    limits = (p.monitor_energy_kJ_mol_per_atom, p.monitor_temperature_ratio, p.monitor_displacement_A)
    assert limits == (None, 4.5, 3.0)
    assert p.metadynamics.names == ("CCOH",)
    p.write(tmp_path / "copy.xml")
    assert load_protocol(tmp_path / "copy.xml") == p
    plain = load_protocol("ethanol").to_xml()
    assert not any(
        word in plain for word in ("Monitor", "Metadynamics", "pressure", "window", "file=", "Variant")
    )


def test_the_barostat_has_a_usual_interval(tmp_path):
    path = ethanol_with(tmp_path, ('type="NVT"', 'type="NPT" pressure_bar="1"'))
    p = load_protocol(path)
    assert p.barostat_interval_steps == 25
    assert "interval_steps" not in p.to_xml()
    assert dataclasses.replace(p, barostat_interval_steps=26).sha256 != p.sha256


def test_no_criterion_needs_no_threshold(tmp_path):
    p = load_protocol(ethanol_with(tmp_path, ('criterion="bonds" threshold_A="0.5"', 'criterion="none"')))
    assert p.stability_criterion == "none"
    assert '<Stability criterion="none"/>' in p.to_xml()


def test_start_positions_lie_beside_the_protocol_or_beside_the_structure(tmp_path):
    path = ethanol_with(tmp_path, ('positions="test-frames"', 'positions="structure" file="start.pdb"'))
    assert load_protocol(path).initial_path == asset_path("systems", "ethanol", "start.pdb")
    (tmp_path / "start.pdb").touch()
    assert load_protocol(path).initial_path == tmp_path / "start.pdb"
    path = ethanol_with(tmp_path, ('positions="test-frames"', 'positions="structure"'))
    assert load_protocol(path).initial_path == load_protocol(path).structure_path


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ('height_kJ_mol="1.2"', "", 13, "height_kJ_mol.*required"),
        ('bias_factor="6"', 'bias_factor="1"', 13, "bias_factor of metadynamics is 1; it must be above 1"),
        ('atoms="1 0 2 8"', 'atoms="1 0 2"', 14, "wanted four different"),
        ('atoms="1 0 2 8"', 'atoms="1 0 2 -8"', 14, "-8"),
        ('grid_bins="60"', 'grid_bins="6"', 14, "coarser than sigma"),
        ('temperature_K="500">', 'temperature_K="300">', 13, "of the bias is 300, that of the ensemble 500"),
        ("<Variable", '<Walkers n="2"/><Variable', 14, "'Walkers'"),
    ],
)
def test_mistakes_in_metadynamics(old, new, line, message, tmp_path):
    # After the twelfth line, the end of the stability element.
    bias = METADYNAMICS.replace(old, new)
    assert bias != METADYNAMICS
    path = ethanol_with(tmp_path, ("  <Observables>", f"\n\n{bias}  <Observables>"))
    with pytest.raises(ProtocolError, match=message) as caught:
        load_protocol(path)
    assert str(caught.value).startswith(f"{path} line {line}: ")


def test_metadynamics_needs_a_thermostat(tmp_path):
    nve = dataclasses.replace(load_protocol("alanine-dipeptide-nve"))
    with pytest.raises(ProtocolError, match="without a thermostat"):
        dataclasses.replace(nve, metadynamics=load_protocol("alanine-dipeptide").metadynamics)


def test_variants_are_found_by_name_and_in_files():
    assert protocol_variants("ethanol")[:2] == ("langevin", "gentle")
    file = asset_path("protocols", "ethanol.xml")
    assert load_protocol(file, variant="langevin") == load_protocol("ethanol", "langevin")
    assert load_protocol("ethanol", "langevin") == load_protocol("ethanol-langevin")
    assert load_protocol("salicylic-acid-dt0.25").timestep_fs == 0.25
    assert protocol_variants(file) == protocol_variants("ethanol")


def test_a_variant_is_written_flat(tmp_path):
    load_protocol("alanine-dipeptide-flexible").write(tmp_path / "flat.xml")
    assert "Variant" not in (tmp_path / "flat.xml").read_text()
    assert load_protocol(tmp_path / "flat.xml") == load_protocol("alanine-dipeptide-flexible")
    assert protocol_variants(tmp_path / "flat.xml") == ()


@pytest.mark.parametrize(
    ("name", "variant", "message"),
    [
        ("ethanol", "gentel", r"no variant 'gentel'; did you mean gentle\? there are langevin, gentle, "),
        (
            "ethanol-gentel",
            None,
            "no protocol 'ethanol-gentel'; did you mean ethanol-gentle\\? ethanol has the variants langevin, gentle",
        ),
        ("ethanol-gentle", "nve", "is a variant already"),
    ],
)
def test_unknown_variants(name, variant, message):
    with pytest.raises(ProtocolError, match=message):
        load_protocol(name, variant)


FIRST_VARIANT = re.search(r' *<Variant name="langevin">.*?</Variant>\n', ETHANOL, re.DOTALL).group()


@pytest.mark.parametrize(
    ("inside", "message"),
    [
        ('<Run timestep_fs="0.25" length_ps="300" replicas="5" frame_interval_fs="50" checkpoint_interval_ps="5" seed="0"/>',
         r"line 22 \(variant x\): stepSize is 0.5 fs but timestep_fs is 0.25"),
        ('<Toy length_ps="0.07" replicas="1"/>', r"line 24 \(variant x\): toy_length_ps = 0.07 ps"),
        ("<Toys/>", "line 24: .*'Toys'.*Variant takes Description, Structure"),
        ('<Toy length_ps="1" replicas="1" seed="3"/>', "line 24: .*'seed'.*Toy takes length_ps, replicas"),
        ("<Variants/>", "line 24: .*'Variants'"),
    ],
)  # fmt: skip
def test_mistakes_in_variants(inside, message, tmp_path):
    path = ethanol_with(tmp_path, (FIRST_VARIANT, f'<Variant name="x">{inside}</Variant>\n'))
    with pytest.raises(ProtocolError, match=f"^{re.escape(str(path))} {message}"):
        load_protocol(path, "x")


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ('<Variant name="gentle"/>', "line 25: a second variant 'gentle'"),
        ('<Variant name="x" without="Metadynamics">' + METADYNAMICS.replace("\n", "") + "</Variant>",
         "line 24: variant 'x' is without Metadynamics and has one"),
        ('<Variant name="x" without="Run"/>', "line 24: .*'Run'"),
    ],
)  # fmt: skip
def test_variants_that_contradict_themselves(head, message, tmp_path):
    path = ethanol_with(tmp_path, (FIRST_VARIANT, f"{head}\n"))
    with pytest.raises(ProtocolError, match=f"^{re.escape(str(path))} {message}"):
        load_protocol(path)
