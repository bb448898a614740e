"""Protocol files: reading with schema, variants and line numbers, and writing.

What a document means is checked by :class:`openmm_mlbench.protocol.Protocol`.
"""

from __future__ import annotations

import difflib
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from openmm_mlbench.assets import asset_path
from openmm_mlbench.errors import ProtocolError
from openmm_mlbench.metadynamics import BiasVariable, Metadynamics

if TYPE_CHECKING:
    from openmm_mlbench.protocol import Protocol

# In an NPT ensemble without barostat_interval_steps.
DEFAULT_BAROSTAT_INTERVAL_STEPS = 25
# Of the RDF criterion (paper, eq. 8); the distance is that of the bond criterion (eq. 9).
DEFAULT_WINDOW_PS = 1.0
DEFAULT_THRESHOLD_A = 0.5
_MAX_FILE_BYTES = 1_000_000
_MONITOR = ("energy_kJ_mol_per_atom", "temperature_ratio", "displacement_A")
_DIFFUSIVITY_TIMES = ("lag_ps", "start_ps", "stride_ps", "min_stable_ps")
# Words, shorter forms, and what is measured afterwards: none of these decides what a simulation does.
_BESIDE_THE_SIMULATION = ("Description", "Demo", "Toy", "Observables")


class InconsistentError(ProtocolError):
    """A ProtocolError that knows which element is to blame."""

    def __init__(self, element: str, message: str) -> None:
        super().__init__(message)
        self.element = element


def parser() -> Any:
    """An lxml parser that follows no entity, external file or network address."""
    from lxml import etree

    return etree.XMLParser(
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        remove_blank_text=True,
        remove_comments=True,
        remove_pis=True,
    )


def read_document(path: Path) -> Any:
    """The root element of a protocol file that fits the schema.

    Raises:
        ProtocolError: it cannot be read, is no XML or does not fit; the message names file and line.
    """
    root = _read_xml(path)
    _validate(path, root)
    return root


def variant_names(root: Any) -> tuple[str, ...]:
    """Names of the variants in a valid document, in their order."""
    return tuple(item.get("name") for item in root.iterfind("Variants/Variant"))


def choose_variant(path: Path, root: Any, variant: str | None) -> str | None:
    """Turn a document into the flat one of a variant, or of the base if None.

    Args:
        path: of the file, for messages.
        root: a valid document; it is changed.
        variant: its name.

    Raises:
        ProtocolError: there is no such variant, or two of that name.
    """
    _check_variants(path, root)
    group = root.find("Variants")
    if group is not None:
        root.remove(group)
    if variant is None:
        return None
    names = [] if group is None else [item.get("name") for item in group]
    if variant not in names:
        near = difflib.get_close_matches(variant, names, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ProtocolError(
            f"{path}: protocol {root.get('name')} has no variant {variant!r}; {hint}there are {', '.join(names) or 'none'}"
        )
    chosen = group[names.index(variant)]
    root.set("name", f"{root.get('name')}-{variant}")
    for tag in chosen.get("without", "").split():
        old = root.find(tag)
        if old is not None:
            root.remove(old)
    for new in list(chosen):
        old = root.find(new.tag)
        # Elements keep their line numbers when they move.
        if old is None:
            root.append(new)
        else:
            root.replace(old, new)
    return variant


def fields(path: Path, root: Any) -> dict[str, Any]:
    """The fields of Protocol from a valid document without variants.

    Raises:
        ProtocolError: a description of metadynamics that makes no sense.
    """
    from lxml import etree

    structure, ensemble, run = (root.find(tag).attrib for tag in ("Structure", "Ensemble", "Run"))
    initial, stability = root.find("Initial").attrib, root.find("Stability").attrib
    monitor = root.find("Monitor")
    return {
        "name": root.get("name"),
        "description": (root.findtext("Description") or "").strip(),
        "system": structure["system"],
        "structure": structure.get("file"),
        "ensemble": ensemble["type"],
        "temperature_K": float(ensemble["temperature_K"]),
        "constraints": ensemble["constraints"],
        "pressure_bar": _number(ensemble, "pressure_bar"),
        "barostat_interval_steps": _whole(ensemble, "barostat_interval_steps"),
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
        "initial_positions": initial["positions"],
        "initial_file": initial.get("file"),
        "initial_velocities": initial["velocities"],
        **_stability(stability),
        **{f"monitor_{key}": None if monitor is None else _number(monitor.attrib, key) for key in _MONITOR},
        "metadynamics": _metadynamics(path, root.find("Metadynamics")),
        **_observables(root.find("Observables")),
        "integrator_xml": etree.tostring(root.find("Integrator"), encoding="unicode", with_tail=False),
    }


def to_xml(protocol: Protocol) -> str:
    """A protocol as the text of a protocol file; what is as usual is left out."""
    from lxml import etree

    root = etree.Element("Protocol", name=protocol.name)
    if protocol.description:
        etree.SubElement(root, "Description").text = protocol.description
    for tag, attributes in _attributes(protocol).items():
        etree.SubElement(root, tag, {key: value for key, value in attributes.items() if value is not None})
    if protocol.metadynamics is not None:
        root.append(_metadynamics_element(protocol.metadynamics))
    observables = etree.SubElement(root, "Observables")
    for name in protocol.observables:
        etree.SubElement(observables, "Observable", {"name": name, **_observable_attributes(protocol, name)})
    root.append(etree.fromstring(protocol.integrator_xml.encode(), parser()))
    text = etree.tostring(root, encoding="UTF-8", xml_declaration=True, pretty_print=True)
    return text.decode()


def simulation_sha256(text: str | bytes) -> str:
    """SHA-256 over what decides the simulation in a protocol without variants, whatever its wording and layout.

    Raises:
        ProtocolError: not well-formed XML.
    """
    from lxml import etree

    content = text.encode() if isinstance(text, str) else text
    try:
        root = etree.fromstring(content, parser())
    except etree.XMLSyntaxError as error:
        raise ProtocolError(f"not well-formed XML ({error.msg}); mend it") from error
    for tag in _BESIDE_THE_SIMULATION:
        for element in root.findall(tag):
            root.remove(element)
    canonical = etree.canonicalize(etree.tostring(root, encoding="unicode"), strip_text=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def thermostat_of(path: Path) -> str | None:
    """The thermostat in a protocol file without variants, in words; None where there is none, or no such file."""
    from lxml import etree

    try:
        root = etree.fromstring(path.read_bytes(), parser())
    except (OSError, etree.XMLSyntaxError):
        return None
    element = root.find("Integrator")
    if element is None:
        return None
    kind, per_ps = element.get("type"), element.get("collisionFrequency") or element.get("friction")
    words = {"NoseHooverIntegrator": "Nose-Hoover", "LangevinMiddleIntegrator": "Langevin"}
    return f"{words[kind]} {float(per_ps):g}/ps" if kind in words and per_ps else None


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
        root = etree.fromstring(content, parser())
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

    schema_root = etree.parse(str(asset_path("protocols", "protocol.xsd")), parser()).getroot()
    schema = etree.XMLSchema(schema_root)
    if schema.validate(root):
        return
    log: Any = schema.error_log
    error = log[0]
    hint = _allowed(schema_root, root, error)
    raise ProtocolError(f"{path} line {error.line}: {error.message.rstrip('.')}{hint}")


def _allowed(schema_root: Any, root: Any, error: Any) -> str:
    """What the schema allows where an unknown attribute or element stands."""
    if error.type_name == "SCHEMAV_CVC_COMPLEX_TYPE_3_2_1":
        element = root.xpath(error.path)[0]
        names = _declared(schema_root, element.tag, "attribute", "name")
        return f"; {element.tag} takes {', '.join(names) or 'no attributes'}"
    if error.type_name == "SCHEMAV_ELEMENT_CONTENT":
        parent = root.xpath(error.path)[0].getparent()
        if parent is not None and parent.tag in ("Protocol", "Variant"):
            names = _declared(schema_root, parent.tag, "element", "ref")
            return f"; {parent.tag} takes {', '.join(names)}, each once"
    return "; see protocols/protocol.xsd for what is allowed"


def _declared(schema_root: Any, tag: str, kind: str, key: str) -> list[str]:
    """Names of what the schema declares inside an element."""
    xs = "{http://www.w3.org/2001/XMLSchema}"
    holder = schema_root.find(f"{xs}element[@name='{tag}']")
    if holder.get("type"):
        holder = schema_root.find(f"{xs}complexType[@name='{holder.get('type')}']")
    return [item.get(key) for item in holder.iter(f"{xs}{kind}") if item.get(key)]


def _check_variants(path: Path, root: Any) -> None:
    seen: set[str] = set()
    for item in root.iterfind("Variants/Variant"):
        name = item.get("name")
        if name in seen:
            raise ProtocolError(
                f"{path} line {item.sourceline}: a second variant {name!r}; give it another name"
            )
        seen.add(name)
        both = [tag for tag in item.get("without", "").split() if item.find(tag) is not None]
        if both:
            raise ProtocolError(
                f"{path} line {item.sourceline}: variant {name!r} is without {both[0]} and has one; choose"
            )


def _stability(attributes: Any) -> dict[str, Any]:
    criterion = attributes["criterion"]
    threshold_A = _number(attributes, "threshold_A")
    if threshold_A is None and criterion != "none":
        raise InconsistentError("Stability", f"criterion {criterion} has no threshold_A; give one")
    window_ps = _number(attributes, "window_ps")
    return {
        "stability_criterion": criterion,
        "stability_threshold_A": DEFAULT_THRESHOLD_A if threshold_A is None else threshold_A,
        "stability_window_ps": DEFAULT_WINDOW_PS if window_ps is None else window_ps,
        "stability_pairs": tuple(attributes.get("pairs", "").split()),
    }


def _observables(element: Any) -> dict[str, Any]:
    found = {item.get("name"): item.attrib for item in element}
    for name, own in (("rdf", {"pairs"}), ("diffusivity", {"atoms", *_DIFFUSIVITY_TIMES})):
        for other, attributes in found.items():
            strange = own & set(attributes) if other != name else set()
            if strange:
                raise InconsistentError(
                    "Observables",
                    f"{min(strange)} belongs to observable {name}, not to {other}; leave it out",
                )
    diffusivity = found.get("diffusivity", {})
    return {
        "observables": tuple(found),
        "rdf_pairs": tuple(found.get("rdf", {}).get("pairs", "").split()),
        "diffusivity_atoms": diffusivity.get("atoms"),
        **{f"diffusivity_{key}": _number(diffusivity, key) for key in _DIFFUSIVITY_TIMES},
    }


def _observable_attributes(protocol: Protocol, name: str) -> dict[str, str]:
    if name == "rdf" and protocol.rdf_pairs:
        return {"pairs": " ".join(protocol.rdf_pairs)}
    if name == "diffusivity":
        times = {key: _optional(getattr(protocol, f"diffusivity_{key}")) for key in _DIFFUSIVITY_TIMES}
        known = {"atoms": protocol.diffusivity_atoms, **times}
        return {key: value for key, value in known.items() if value is not None}
    return {}


def _metadynamics(path: Path, element: Any) -> Metadynamics | None:
    if element is None:
        return None
    variables = tuple(_variable(path, child) for child in element)
    try:
        return Metadynamics(
            height_kJ_mol=float(element.get("height_kJ_mol")),
            pace_steps=int(element.get("pace_steps")),
            bias_factor=float(element.get("bias_factor")),
            temperature_K=float(element.get("temperature_K")),
            variables=variables,
        )
    except ProtocolError as error:
        raise ProtocolError(f"{path} line {element.sourceline}: {error}") from error


def _variable(path: Path, element: Any) -> BiasVariable:
    try:
        return BiasVariable(
            name=element.get("name"),
            # Their number is checked there.
            atoms=tuple(int(atom) for atom in element.get("atoms").split()),  # type: ignore[arg-type]
            sigma_rad=float(element.get("sigma_rad")),
            grid_bins=int(element.get("grid_bins")),
        )
    except ProtocolError as error:
        raise ProtocolError(f"{path} line {element.sourceline}: {error}") from error


def _metadynamics_element(metadynamics: Metadynamics) -> Any:
    from lxml import etree

    element = etree.Element(
        "Metadynamics",
        height_kJ_mol=decimal(metadynamics.height_kJ_mol),
        pace_steps=str(metadynamics.pace_steps),
        bias_factor=decimal(metadynamics.bias_factor),
        temperature_K=decimal(metadynamics.temperature_K),
    )
    for variable in metadynamics.variables:
        etree.SubElement(
            element,
            "Variable",
            name=variable.name,
            atoms=" ".join(map(str, variable.atoms)),
            sigma_rad=decimal(variable.sigma_rad),
            grid_bins=str(variable.grid_bins),
        )
    return element


def _attributes(protocol: Protocol) -> dict[str, dict[str, str | None]]:
    """The elements of a protocol file that hold nothing but attributes."""
    usual_interval = protocol.barostat_interval_steps in (None, DEFAULT_BAROSTAT_INTERVAL_STEPS)
    rdf = protocol.stability_criterion == "rdf"
    elements: dict[str, dict[str, str | None]] = {
        "Structure": {"system": protocol.system, "file": protocol.structure},
        "Ensemble": {
            "type": protocol.ensemble,
            "temperature_K": decimal(protocol.temperature_K),
            "constraints": protocol.constraints,
            "pressure_bar": _optional(protocol.pressure_bar),
            "barostat_interval_steps": None if usual_interval else str(protocol.barostat_interval_steps),
        },
        "Run": {
            "timestep_fs": decimal(protocol.timestep_fs),
            "length_ps": decimal(protocol.length_ps),
            "replicas": str(protocol.replicas),
            "frame_interval_fs": decimal(protocol.frame_interval_fs),
            "checkpoint_interval_ps": decimal(protocol.checkpoint_interval_ps),
            "seed": str(protocol.seed),
        },
        "Demo": {"length_ps": decimal(protocol.demo_length_ps), "replicas": str(protocol.demo_replicas)},
        "Toy": {"length_ps": decimal(protocol.toy_length_ps), "replicas": str(protocol.toy_replicas)},
        "Initial": {
            "positions": protocol.initial_positions,
            "file": protocol.initial_file,
            "velocities": protocol.initial_velocities,
        },
        "Stability": {
            "criterion": protocol.stability_criterion,
            "threshold_A": None
            if protocol.stability_criterion == "none"
            else decimal(protocol.stability_threshold_A),
            "window_ps": decimal(protocol.stability_window_ps) if rdf else None,
            "pairs": " ".join(protocol.stability_pairs) if rdf else None,
        },
    }
    monitor = {key: _optional(getattr(protocol, f"monitor_{key}")) for key in _MONITOR}
    if any(monitor.values()):
        elements["Monitor"] = monitor
    return elements


def decimal(value: float) -> str:
    """Shortest plain decimal that reads back as the same number."""
    return np.format_float_positional(value, trim="-")


def _optional(value: float | None) -> str | None:
    return None if value is None else decimal(value)


def _number(attributes: Any, key: str) -> float | None:
    return float(attributes[key]) if key in attributes else None


def _whole(attributes: Any, key: str) -> int | None:
    return int(attributes[key]) if key in attributes else None
