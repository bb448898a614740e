"""Protocols: what is simulated, how, and how long.

A protocol is an XML file in ``protocols/``, validated against
``protocols/protocol.xsd`` and then checked for consistency, before anything
runs.  Its integrator element is OpenMM's own, so any OpenMM program can read
it with ``openmm.XmlSerializer.deserialize``.
"""

import hashlib
import math
import os
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from openmm_mlbench.assets import asset_path
from openmm_mlbench.errors import MLBenchError, ProtocolError
from openmm_mlbench.files import write_text
from openmm_mlbench.units import FS_PER_PS, PS_PER_FS

# By ensemble.  Only these names reach OpenMM's deserializer, which would build any class it knows.
INTEGRATORS = {
    "NVT": ("NoseHooverIntegrator", "LangevinMiddleIntegrator"),
    "NVE": ("VerletIntegrator",),
}
# Any numbers do: only the names of the attributes are looked at.
_FRESH_ARGUMENTS = {
    "NoseHooverIntegrator": (300.0, 1.0, 0.001),
    "LangevinMiddleIntegrator": (300.0, 1.0, 0.001),
    "VerletIntegrator": (0.001,),
}
# Above this, a free X-H stretch (period about 9 fs) is integrated too coarsely.
MAX_UNCONSTRAINED_TIMESTEP_FS = 1.0
_MAX_FILE_BYTES = 1_000_000


class _InconsistentError(ProtocolError):
    """A ProtocolError that knows which element is to blame."""

    def __init__(self, element: str, message: str) -> None:
        super().__init__(message)
        self.element = element


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """One simulation protocol.

    Args:
        name: its name, that of its file.
        description: one sentence.
        system: name of the simulated system, a folder of ``systems/``.
        structure: PDB file relative to the protocol's own file, or None for the system's topology.pdb.
        ensemble: ``NVT`` or ``NVE``.
        temperature_K: of the thermostat and of the initial momenta.
        constraints: ``none`` or ``h-bonds``.
        timestep_fs: integration step.
        length_ps: length of one replica.
        replicas: number of independent runs.
        demo_length_ps: length of one replica in the short form for a first look.
        demo_replicas: number of runs in the short form.
        toy_length_ps: length of one replica in the tests.
        toy_replicas: number of runs in the tests.
        frame_interval_fs: time between frames of the trajectory and rows of the log.
        checkpoint_interval_ps: time between checkpoints.
        seed: every random stream of the run derives from it.
        initial_positions: ``test-frames``: random frames of the test split.
        initial_velocities: ``maxwell-boltzmann``: thermal, with the centre of mass at rest.
        stability_criterion: ``bonds`` (paper, eq. 9).
        stability_threshold_A: largest bond deviation of a stable simulation.
        observables: what is measured afterwards.
        integrator_xml: what ``openmm.XmlSerializer.serialize`` wrote.
        path: file it was read from, if any.

    Raises:
        ProtocolError: two of these contradict each other.
    """

    name: str
    system: str
    ensemble: str
    temperature_K: float
    timestep_fs: float
    length_ps: float
    replicas: int
    observables: tuple[str, ...]
    integrator_xml: str
    description: str = ""
    structure: str | None = None
    constraints: str = "none"
    demo_length_ps: float = 5.0
    demo_replicas: int = 2
    toy_length_ps: float = 0.5
    toy_replicas: int = 2
    frame_interval_fs: float = 50.0
    checkpoint_interval_ps: float = 5.0
    seed: int = 0
    initial_positions: str = "test-frames"
    initial_velocities: str = "maxwell-boltzmann"
    stability_criterion: str = "bonds"
    stability_threshold_A: float = 0.5
    path: Path | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        _check_lengths(self)
        # One spelling, OpenMM's own, so that equal protocols compare and hash as equal.
        object.__setattr__(self, "integrator_xml", _canonical_integrator(self))
        _check_integrator(self)
        _check_structure(self)

    @property
    def steps_per_frame(self) -> int:
        """Integration steps between frames."""
        return round(self.frame_interval_fs / self.timestep_fs)

    @property
    def frame_interval_ps(self) -> float:
        """Time between frames, ps."""
        return self.frame_interval_fs * PS_PER_FS

    @property
    def timestep_ps(self) -> float:
        """Integration step, ps."""
        return self.timestep_fs * PS_PER_FS

    @property
    def structure_path(self) -> Path:
        """The PDB file of the simulated structure."""
        if self.structure is None:
            return asset_path("systems", self.system, "topology.pdb")
        folder = self.path.parent if self.path is not None else Path()
        return folder / self.structure

    @property
    def sha256(self) -> str:
        """SHA-256 over the content: comments and layout of the file do not count."""
        return hashlib.sha256(self.to_xml().encode()).hexdigest()

    def n_steps(self, length_ps: float | None = None) -> int:
        """Integration steps of a replica of this length (of the protocol's own, if None).

        Raises:
            ProtocolError: the length is not a whole number of frames.
        """
        length = self.length_ps if length_ps is None else length_ps
        if not length > 0 or not _is_multiple(length * FS_PER_PS, self.frame_interval_fs):
            raise ProtocolError(
                f"protocol {self.name}: length {length:g} ps is not a whole number of frames of "
                f"{self.frame_interval_fs:g} fs; use a multiple"
            )
        return round(length * FS_PER_PS / self.frame_interval_fs) * self.steps_per_frame

    def make_integrator(self, seed: int = 0) -> Any:
        """A new OpenMM integrator.

        Args:
            seed: for stochastic integrators; 0 lets OpenMM choose one at random.
        """
        import openmm

        integrator = openmm.XmlSerializer.deserialize(self.integrator_xml)
        if hasattr(integrator, "setRandomNumberSeed"):
            integrator.setRandomNumberSeed(seed)
        return integrator

    def to_xml(self) -> str:
        """The protocol as the text of a protocol file."""
        from lxml import etree

        root = etree.Element("Protocol", name=self.name)
        if self.description:
            etree.SubElement(root, "Description").text = self.description
        for tag, attributes in _attributes(self).items():
            etree.SubElement(
                root, tag, {key: value for key, value in attributes.items() if value is not None}
            )
        observables = etree.SubElement(root, "Observables")
        for name in self.observables:
            etree.SubElement(observables, "Observable", name=name)
        root.append(etree.fromstring(self.integrator_xml.encode(), _parser()))
        text = etree.tostring(root, encoding="UTF-8", xml_declaration=True, pretty_print=True)
        return text.decode()

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write a protocol file; reading it gives an equal Protocol."""
        write_text(path, self.to_xml())


def list_protocols() -> list[str]:
    """Names of the protocols that ship with the package."""
    return sorted(path.stem for path in asset_path("protocols").glob("*.xml"))


def load_protocol(name_or_path: str | os.PathLike[str]) -> Protocol:
    """Read and check a protocol: one of the package's by name, or any file.

    Raises:
        ProtocolError: no such protocol, or not a valid one; the message names file and line.
    """
    text = os.fspath(name_or_path)
    path = Path(text)
    if not (text.endswith(".xml") or len(path.parts) > 1):
        if text not in list_protocols():
            raise ProtocolError(
                f"no protocol {text!r}; the package has {', '.join(list_protocols())}, or give a path ending in .xml"
            )
        path = asset_path("protocols", f"{text}.xml")
    root = _read_xml(path)
    _validate(path, root)
    try:
        return Protocol(**_fields(root), path=path)
    except _InconsistentError as error:
        element = root.find(error.element)
        line = root.sourceline if element is None else element.sourceline
        raise ProtocolError(f"{path} line {line}: {error}") from error


def _parser() -> Any:
    from lxml import etree

    # No entity, external file or network address named in the text is ever followed.
    return etree.XMLParser(
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        remove_blank_text=True,
        remove_comments=True,
        remove_pis=True,
    )


def _read_xml(path: Path) -> Any:
    from lxml import etree

    try:
        with open(path, "rb") as file:
            content = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ProtocolError(f"{path}: cannot be read ({error.strerror}); give a protocol file") from error
    if len(content) > _MAX_FILE_BYTES:
        raise ProtocolError(
            f"{path}: larger than {_MAX_FILE_BYTES} bytes, which no protocol is; give another file"
        )
    try:
        root = etree.fromstring(content, _parser())
    except etree.XMLSyntaxError as error:
        raise ProtocolError(
            f"{path} line {error.lineno or 1}: not well-formed XML ({error.msg}); mend it"
        ) from error
    if root.getroottree().docinfo.doctype:
        raise ProtocolError(f"{path} line 1: a document type (<!DOCTYPE>) is not allowed; remove it")
    return root


def _validate(path: Path, root: Any) -> None:
    """Check against the schema; the first error becomes one line."""
    from lxml import etree

    schema_root = etree.parse(str(asset_path("protocols", "protocol.xsd")), _parser()).getroot()
    schema = etree.XMLSchema(schema_root)
    if schema.validate(root):
        return
    log: Any = schema.error_log
    error = log[0]
    hint = _allowed(schema_root, root, error)
    raise ProtocolError(f"{path} line {error.line}: {error.message.rstrip('.')}{hint}")


def _allowed(schema_root: Any, root: Any, error: Any) -> str:
    """What the schema allows where an unknown attribute or element stands."""
    xs = {"xs": "http://www.w3.org/2001/XMLSchema"}
    if error.type_name == "SCHEMAV_CVC_COMPLEX_TYPE_3_2_1":
        element = root.xpath(error.path)[0]
        declared = schema_root.find(f"xs:element[@name='{element.tag}']", xs)
        holder = declared
        if declared.get("type"):
            holder = schema_root.find(f"xs:complexType[@name='{declared.get('type')}']", xs)
        names = [attribute.get("name") for attribute in holder.iter(f"{{{xs['xs']}}}attribute")]
        return f"; {element.tag} takes {', '.join(names) or 'no attributes'}"
    if error.type_name == "SCHEMAV_ELEMENT_CONTENT" and error.path.count("/") == 2:
        names = [
            item.get("ref")
            for item in schema_root.find("xs:element[@name='Protocol']", xs).iter()
            if item.get("ref")
        ]
        return f"; Protocol takes {', '.join(names)}, each once"
    return "; see protocols/protocol.xsd for what is allowed"


def _fields(root: Any) -> dict[str, Any]:
    """The fields of Protocol from a valid document."""
    from lxml import etree

    structure, ensemble, run = (root.find(tag).attrib for tag in ("Structure", "Ensemble", "Run"))
    return {
        "name": root.get("name"),
        "description": (root.findtext("Description") or "").strip(),
        "system": structure["system"],
        "structure": structure.get("file"),
        "ensemble": ensemble["type"],
        "temperature_K": float(ensemble["temperature_K"]),
        "constraints": ensemble["constraints"],
        "timestep_fs": float(run["timestep_fs"]),
        "length_ps": float(run["length_ps"]),
        "replicas": int(run["replicas"]),
        "frame_interval_fs": float(run["frame_interval_fs"]),
        "checkpoint_interval_ps": float(run["checkpoint_interval_ps"]),
        "seed": int(run["seed"]),
        "demo_length_ps": float(root.find("Demo").get("length_ps")),
        "demo_replicas": int(root.find("Demo").get("replicas")),
        "toy_length_ps": float(root.find("Toy").get("length_ps")),
        "toy_replicas": int(root.find("Toy").get("replicas")),
        "initial_positions": root.find("Initial").get("positions"),
        "initial_velocities": root.find("Initial").get("velocities"),
        "stability_criterion": root.find("Stability").get("criterion"),
        "stability_threshold_A": float(root.find("Stability").get("threshold_A")),
        "observables": tuple(item.get("name") for item in root.find("Observables")),
        "integrator_xml": etree.tostring(root.find("Integrator"), encoding="unicode", with_tail=False),
    }


def _attributes(protocol: Protocol) -> dict[str, dict[str, str | None]]:
    """The elements of a protocol file that hold nothing but attributes."""
    return {
        "Structure": {"system": protocol.system, "file": protocol.structure},
        "Ensemble": {
            "type": protocol.ensemble,
            "temperature_K": _decimal(protocol.temperature_K),
            "constraints": protocol.constraints,
        },
        "Run": {
            "timestep_fs": _decimal(protocol.timestep_fs),
            "length_ps": _decimal(protocol.length_ps),
            "replicas": str(protocol.replicas),
            "frame_interval_fs": _decimal(protocol.frame_interval_fs),
            "checkpoint_interval_ps": _decimal(protocol.checkpoint_interval_ps),
            "seed": str(protocol.seed),
        },
        "Demo": {"length_ps": _decimal(protocol.demo_length_ps), "replicas": str(protocol.demo_replicas)},
        "Toy": {"length_ps": _decimal(protocol.toy_length_ps), "replicas": str(protocol.toy_replicas)},
        "Initial": {"positions": protocol.initial_positions, "velocities": protocol.initial_velocities},
        "Stability": {
            "criterion": protocol.stability_criterion,
            "threshold_A": _decimal(protocol.stability_threshold_A),
        },
    }


def _decimal(value: float) -> str:
    """Shortest plain decimal that reads back as the same number."""
    return np.format_float_positional(value, trim="-")


def _is_multiple(value: float, unit: float) -> bool:
    """Whether value is a whole number (at least 1) of units, as written in decimals."""
    value_decimal, unit_decimal = Decimal(repr(round(value, 9))), Decimal(repr(unit))
    return value_decimal >= unit_decimal and value_decimal % unit_decimal == 0


def _check_lengths(protocol: Protocol) -> None:
    step, frame = protocol.timestep_fs, protocol.frame_interval_fs
    for element, key in (("Run", "timestep_fs"), ("Run", "frame_interval_fs"), ("Ensemble", "temperature_K")):
        value = getattr(protocol, key)
        if not (math.isfinite(value) and value > 0):
            raise _InconsistentError(element, f"{key} is {value:g}; it must be above zero")
    if not _is_multiple(frame, step):
        raise _InconsistentError(
            "Run",
            f"frame interval {frame:g} fs is not a multiple of the time step {step:g} fs; use one that is",
        )
    for element, key in (
        ("Run", "length_ps"),
        ("Run", "checkpoint_interval_ps"),
        ("Demo", "demo_length_ps"),
        ("Toy", "toy_length_ps"),
    ):
        value = getattr(protocol, key)
        if not (math.isfinite(value) and _is_multiple(value * FS_PER_PS, frame)):
            raise _InconsistentError(
                element,
                f"{key} = {value:g} ps is not a whole number of frames of {frame:g} fs; use a multiple",
            )
    for element, key in (("Run", "replicas"), ("Demo", "demo_replicas"), ("Toy", "toy_replicas")):
        if getattr(protocol, key) < 1:
            raise _InconsistentError(element, f"{key} is {getattr(protocol, key)}; at least one is needed")
    if not 0 <= protocol.seed < 2**32:
        raise _InconsistentError("Run", f"seed {protocol.seed} is outside 0 to 4294967295; choose another")


def _canonical_integrator(protocol: Protocol) -> str:
    """Let OpenMM read the integrator, if it is one of the allowed, and write it again."""
    import openmm
    from lxml import etree

    element = etree.fromstring(protocol.integrator_xml.encode(), _parser())
    kind = element.get("type")
    known = [name for names in INTEGRATORS.values() for name in names]
    if element.tag != "Integrator" or kind not in known:
        raise _InconsistentError(
            "Integrator",
            f"integrator type {kind!r} in <{element.tag}> is not allowed; use {', '.join(known)}",
        )
    fresh = openmm.XmlSerializer.serialize(getattr(openmm, kind)(*_FRESH_ARGUMENTS[kind]))
    allowed = etree.fromstring(fresh.encode(), _parser()).attrib
    for name in element.attrib:
        if name not in allowed:
            raise _InconsistentError(
                "Integrator", f"{kind} has no attribute {name!r}; OpenMM writes {', '.join(allowed)}"
            )
    if len(element) or element.get("hasSubsystemThermostats", "0") != "0":
        raise _InconsistentError(
            "Integrator",
            f"{kind} with thermostats for parts of the system is not supported; use one thermostat",
        )
    try:
        integrator = openmm.XmlSerializer.deserialize(etree.tostring(element, encoding="unicode"))
    except openmm.OpenMMException as error:
        raise _InconsistentError("Integrator", f"OpenMM cannot read this {kind}: {error}") from error
    canonical = openmm.XmlSerializer.serialize(integrator)
    # OpenMM reads "x" as 0 and cuts off large numbers: what it understood must be what was written.
    understood = etree.fromstring(canonical.encode(), _parser()).attrib
    for name, text in element.attrib.items():
        if name != "type" and not _same_number(text, understood[name]):
            raise _InconsistentError(
                "Integrator",
                f"{name}={text!r} of {kind} was read by OpenMM as {understood[name]}; write a number",
            )
    return canonical


def _same_number(text: str, other: str) -> bool:
    try:
        return math.isclose(float(text), float(other), rel_tol=1e-9)
    except ValueError:
        return False


def _check_integrator(protocol: Protocol) -> None:
    import openmm

    integrator = protocol.make_integrator()
    kind = type(integrator).__name__
    allowed = INTEGRATORS.get(protocol.ensemble, ())
    if kind not in allowed:
        raise _InconsistentError(
            "Ensemble",
            f"ensemble {protocol.ensemble} with a {kind}; use {' or '.join(allowed) or 'NVT or NVE'}",
        )
    step_fs = integrator.getStepSize().value_in_unit(openmm.unit.femtosecond)
    if not math.isclose(step_fs, protocol.timestep_fs, rel_tol=1e-9):
        raise _InconsistentError(
            "Integrator",
            f"stepSize is {step_fs:g} fs but timestep_fs is {protocol.timestep_fs:g}; make them equal",
        )
    if integrator.getIntegrationForceGroups() not in (-1, 0xFFFFFFFF):
        raise _InconsistentError("Integrator", "integrationForceGroups leaves out forces; use -1, all groups")
    if protocol.ensemble == "NVE":
        return
    temperature = integrator.getTemperature().value_in_unit(openmm.unit.kelvin)
    if not math.isclose(temperature, protocol.temperature_K, rel_tol=1e-9):
        raise _InconsistentError(
            "Integrator",
            f"temperature is {temperature:g} K but temperature_K is {protocol.temperature_K:g}; make them equal",
        )
    if kind == "NoseHooverIntegrator" and integrator.getThermostat().getNumMultiTimeSteps() < 1:
        raise _InconsistentError("Integrator", "numMTS must be at least 1")
    coupling = "collisionFrequency" if kind == "NoseHooverIntegrator" else "friction"
    rate = (
        integrator.getCollisionFrequency() if coupling == "collisionFrequency" else integrator.getFriction()
    )
    rate_per_ps = rate.value_in_unit(openmm.unit.picosecond**-1)
    if not (math.isfinite(rate_per_ps) and rate_per_ps > 0):
        raise _InconsistentError("Integrator", f"{coupling} is {rate_per_ps:g}; it must be above zero")


def _check_structure(protocol: Protocol) -> None:
    """Hydrogens without constraints need a short step; a missing file is the simulation's affair."""
    if protocol.constraints != "none" or protocol.timestep_fs <= MAX_UNCONSTRAINED_TIMESTEP_FS:
        return
    from openmm_mlbench.topology import read_topology

    try:
        hydrogens = (read_topology(protocol.structure_path).atomic_numbers == 1).any()
    except MLBenchError as error:
        raise _InconsistentError("Structure", str(error)) from error
    if hydrogens:
        raise _InconsistentError(
            "Run",
            f"time step {protocol.timestep_fs:g} fs with unconstrained hydrogens; use at most "
            f'{MAX_UNCONSTRAINED_TIMESTEP_FS:g} fs, or constraints="h-bonds"',
        )
