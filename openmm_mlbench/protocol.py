"""Protocols: what is simulated, how, and how long.

A protocol is an XML file in ``protocols/``, validated against
``protocols/protocol.xsd`` and then checked for consistency, before anything
runs.  Its integrator element is OpenMM's own, so any OpenMM program can read
it with ``openmm.XmlSerializer.deserialize``.
"""

import difflib
import math
import os
import re
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from openmm_mlbench.assets import asset_path
from openmm_mlbench.errors import MLBenchError, ProtocolError
from openmm_mlbench.files import write_text
from openmm_mlbench.metadynamics import Metadynamics
from openmm_mlbench.protocol_xml import (
    DEFAULT_BAROSTAT_INTERVAL_STEPS,
    DEFAULT_THRESHOLD_A,
    DEFAULT_WINDOW_PS,
    InconsistentError,
    choose_variant,
    fields,
    parser,
    read_document,
    simulation_sha256,
    to_xml,
    variant_names,
)
from openmm_mlbench.units import FS_PER_PS, PS_PER_FS

# By ensemble.  Only these names reach OpenMM's deserializer, which would build any class it knows.
INTEGRATORS = {
    "NVT": ("NoseHooverIntegrator", "LangevinMiddleIntegrator"),
    "NVE": ("VerletIntegrator",),
    "NPT": ("NoseHooverIntegrator", "LangevinMiddleIntegrator"),
}
# Any numbers do: only the names of the attributes are looked at.
_FRESH_ARGUMENTS = {
    "NoseHooverIntegrator": (300.0, 1.0, 0.001),
    "LangevinMiddleIntegrator": (300.0, 1.0, 0.001),
    "VerletIntegrator": (0.001,),
}
# Above this, a free X-H stretch (period about 9 fs) is integrated too coarsely.
MAX_UNCONSTRAINED_TIMESTEP_FS = 1.0
_PAIR = re.compile(r"[A-Z][a-z]?-[A-Z][a-z]?")
_PAIRS_WANTED = 'wanted elements, as in "O-O H-H H-O", or "all"'


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """One simulation protocol.

    Args:
        name: its name, that of its file.
        description: one sentence.
        system: name of the simulated system, a folder of ``systems/``.
        structure: PDB file relative to the protocol's own file, or None for the system's topology.pdb.
        ensemble: ``NVT``, ``NVE`` or ``NPT``.
        temperature_K: of the thermostat and of the initial momenta.
        constraints: ``none`` or ``h-bonds``.
        pressure_bar: of the Monte Carlo barostat, for NPT.
        barostat_interval_steps: integration steps between its trial moves, for NPT.
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
        initial_positions: ``test-frames``: random frames of the test split; ``structure``: those of a PDB file,
            replica i takes its model i modulo the number of models.
        initial_file: that PDB file, beside the protocol or the structure; the structure itself if None.
        initial_velocities: ``maxwell-boltzmann``: thermal, with the centre of mass at rest.
        stability_criterion: ``bonds`` (paper, eq. 9), ``rdf`` (eq. 8) or ``none``.
        stability_threshold_A: largest bond deviation, or difference of RDFs, of a stable simulation.
        stability_window_ps: over which RDFs are averaged.
        stability_pairs: of the RDFs: ``("O-O", "H-H", "H-O")``, or ``("all",)`` for all atoms as one species.
        monitor_energy_kJ_mol_per_atom: a larger change of the potential energy ends a run; None: the monitor's usual.
        monitor_temperature_ratio: so does a kinetic temperature above so many times temperature_K.
        monitor_displacement_A: so does an atom that moves further between two frames.
        metadynamics: what is biased and how, or None.
        observables: what is measured afterwards.
        rdf_pairs: of the observable rdf, written as stability_pairs; empty: the same as these, or ``all``.
        diffusivity_atoms: whose diffusivity, in mdtraj's selection language.
        diffusivity_lag_ps: fixed lag at which it is read off; None: the slope of the MSD.
        diffusivity_start_ps: earlier frames are left out; None: none are.
        diffusivity_stride_ps: between the time origins of mode ``mdsim``; None: 1 ps.
        diffusivity_min_stable_ps: a run that was stable for less does not count in mode ``paper``; None: any does.
        integrator_xml: what ``openmm.XmlSerializer.serialize`` wrote.
        path: file it was read from, if any.
        variant: name of the variant that was chosen in it, if any.

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
    pressure_bar: float | None = None
    barostat_interval_steps: int | None = None
    initial_positions: str = "test-frames"
    initial_file: str | None = None
    initial_velocities: str = "maxwell-boltzmann"
    stability_criterion: str = "bonds"
    stability_threshold_A: float = DEFAULT_THRESHOLD_A
    stability_window_ps: float = DEFAULT_WINDOW_PS
    stability_pairs: tuple[str, ...] = ()
    monitor_energy_kJ_mol_per_atom: float | None = None
    monitor_temperature_ratio: float | None = None
    monitor_displacement_A: float | None = None
    metadynamics: Metadynamics | None = None
    rdf_pairs: tuple[str, ...] = ()
    diffusivity_atoms: str | None = None
    diffusivity_lag_ps: float | None = None
    diffusivity_start_ps: float | None = None
    diffusivity_stride_ps: float | None = None
    diffusivity_min_stable_ps: float | None = None
    path: Path | None = field(default=None, compare=False)
    variant: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        _check_lengths(self)
        # One spelling, OpenMM's own, so that equal protocols compare and hash as equal.
        object.__setattr__(self, "integrator_xml", _canonical_integrator(self))
        _check_integrator(self)
        _check_ensemble(self)
        _check_start(self)
        _check_stability(self)
        _check_metadynamics(self)
        _check_observables(self)
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
    def own_file(self) -> Path | None:
        """The file it was read from where that is none of the package's."""
        shipped = asset_path("protocols")
        return None if self.path is None or self.path.resolve().parent == shipped.resolve() else self.path

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
    def initial_path(self) -> Path:
        """The PDB file of the start positions, where they are not frames of a data set."""
        if self.initial_file is None:
            return self.structure_path
        beside = (self.path.parent if self.path is not None else Path()) / self.initial_file
        return beside if beside.is_file() else self.structure_path.parent / self.initial_file

    @property
    def sha256(self) -> str:
        """SHA-256 over what decides the simulation.

        Comments and layout of the file, its description, its shorter forms and its list of observables do not count.
        """
        return simulation_sha256(self.to_xml())

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
        return to_xml(self)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write a protocol file; reading it gives an equal Protocol."""
        write_text(path, self.to_xml())


def list_protocols(*, variants: bool = False) -> list[str]:
    """Names of the protocols that ship with the package, each followed by its variants if asked for."""
    names = sorted(path.stem for path in asset_path("protocols").glob("*.xml"))
    if not variants:
        return names
    return [full for name in names for full in (name, *(f"{name}-{v}" for v in protocol_variants(name)))]


def protocol_variants(name_or_path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Names of the variants in a protocol file.

    Raises:
        ProtocolError: no such protocol, or not a valid one.
    """
    return variant_names(read_document(find_protocol(name_or_path)[0]))


def load_protocol(name_or_path: str | os.PathLike[str], variant: str | None = None) -> Protocol:
    """Read and check a protocol: one of the package's by name, or any file.

    Args:
        name_or_path: ``water``, ``water-gentle`` or a path ending in .xml.
        variant: name of a variant in that file.

    Raises:
        ProtocolError: no such protocol or variant, or not a valid one; the message names file and line.
    """
    path, named = find_protocol(name_or_path)
    if named is not None and variant is not None:
        raise ProtocolError(f"{name_or_path} is a variant already; leave {variant!r} out, or name the base")
    root = read_document(path)
    chosen = choose_variant(path, root, named or variant)
    try:
        return Protocol(**fields(path, root), path=path, variant=chosen)
    except InconsistentError as error:
        element = root.find(error.element)
        line = root.sourceline if element is None else element.sourceline
        where = f"{path} line {line}" + (f" (variant {chosen})" if chosen else "")
        raise ProtocolError(f"{where}: {error}") from error


def find_protocol(name_or_path: str | os.PathLike[str]) -> tuple[Path, str | None]:
    """The file of a protocol, and the variant that a name of the package's stands for.

    Raises:
        ProtocolError: the package has no protocol of this name.
    """
    text = os.fspath(name_or_path)
    path = Path(text)
    if text.endswith(".xml") or len(path.parts) > 1:
        return path, None
    names = list_protocols()
    for name in names:
        file = asset_path("protocols", f"{name}.xml")
        if text == name:
            return file, None
        variant = text.removeprefix(f"{name}-")
        if variant != text and variant in protocol_variants(file):
            return file, variant
    base = next((name for name in names if text.startswith(f"{name}-")), None)
    if base is not None:
        near = difflib.get_close_matches(
            text.removeprefix(f"{base}-"), protocol_variants(asset_path("protocols", f"{base}.xml")), n=1
        )
        hint = f"did you mean {base}-{near[0]}? " if near else ""
        raise ProtocolError(
            f"no protocol {text!r}; {hint}{base} has the variants {', '.join(protocol_variants(base)) or 'none'}"
        )
    near = difflib.get_close_matches(text, names, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise ProtocolError(
        f"no protocol {text!r}; {hint}the package has {', '.join(names)}, or give a path ending in .xml"
    )


def _is_multiple(value: float, unit: float) -> bool:
    """Whether value is a whole number (at least 1) of units, as written in decimals."""
    value_decimal, unit_decimal = Decimal(repr(round(value, 9))), Decimal(repr(unit))
    return value_decimal >= unit_decimal and value_decimal % unit_decimal == 0


def _check_lengths(protocol: Protocol) -> None:
    step, frame = protocol.timestep_fs, protocol.frame_interval_fs
    for element, key in (("Run", "timestep_fs"), ("Run", "frame_interval_fs"), ("Ensemble", "temperature_K")):
        value = getattr(protocol, key)
        if not (math.isfinite(value) and value > 0):
            raise InconsistentError(element, f"{key} is {value:g}; it must be above zero")
    if not _is_multiple(frame, step):
        raise InconsistentError(
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
            raise InconsistentError(
                element,
                f"{key} = {value:g} ps is not a whole number of frames of {frame:g} fs; use a multiple",
            )
    for element, key in (("Run", "replicas"), ("Demo", "demo_replicas"), ("Toy", "toy_replicas")):
        if getattr(protocol, key) < 1:
            raise InconsistentError(element, f"{key} is {getattr(protocol, key)}; at least one is needed")
    if not 0 <= protocol.seed < 2**32:
        raise InconsistentError("Run", f"seed {protocol.seed} is outside 0 to 4294967295; choose another")


def _canonical_integrator(protocol: Protocol) -> str:
    """Let OpenMM read the integrator, if it is one of the allowed, and write it again."""
    import openmm
    from lxml import etree

    element = etree.fromstring(protocol.integrator_xml.encode(), parser())
    kind = element.get("type")
    known = [name for names in INTEGRATORS.values() for name in names]
    if element.tag != "Integrator" or kind not in known:
        raise InconsistentError(
            "Integrator",
            f"integrator type {kind!r} in <{element.tag}> is not allowed; use {', '.join(known)}",
        )
    fresh = openmm.XmlSerializer.serialize(getattr(openmm, kind)(*_FRESH_ARGUMENTS[kind]))
    allowed = etree.fromstring(fresh.encode(), parser()).attrib
    for name in element.attrib:
        if name not in allowed:
            raise InconsistentError(
                "Integrator", f"{kind} has no attribute {name!r}; OpenMM writes {', '.join(allowed)}"
            )
    if len(element) or element.get("hasSubsystemThermostats", "0") != "0":
        raise InconsistentError(
            "Integrator",
            f"{kind} with thermostats for parts of the system is not supported; use one thermostat",
        )
    try:
        integrator = openmm.XmlSerializer.deserialize(etree.tostring(element, encoding="unicode"))
    except openmm.OpenMMException as error:
        raise InconsistentError("Integrator", f"OpenMM cannot read this {kind}: {error}") from error
    canonical = openmm.XmlSerializer.serialize(integrator)
    # OpenMM reads "x" as 0 and cuts off large numbers: what it understood must be what was written.
    understood = etree.fromstring(canonical.encode(), parser()).attrib
    for name, text in element.attrib.items():
        if name != "type" and not _same_number(text, understood[name]):
            raise InconsistentError(
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
        raise InconsistentError(
            "Ensemble",
            f"ensemble {protocol.ensemble} with a {kind}; use {' or '.join(allowed) or 'NVT, NVE or NPT'}",
        )
    step_fs = integrator.getStepSize().value_in_unit(openmm.unit.femtosecond)
    if not math.isclose(step_fs, protocol.timestep_fs, rel_tol=1e-9):
        raise InconsistentError(
            "Integrator",
            f"stepSize is {step_fs:g} fs but timestep_fs is {protocol.timestep_fs:g}; make them equal",
        )
    if integrator.getIntegrationForceGroups() not in (-1, 0xFFFFFFFF):
        raise InconsistentError("Integrator", "integrationForceGroups leaves out forces; use -1, all groups")
    if protocol.ensemble == "NVE":
        return
    temperature = integrator.getTemperature().value_in_unit(openmm.unit.kelvin)
    if not math.isclose(temperature, protocol.temperature_K, rel_tol=1e-9):
        raise InconsistentError(
            "Integrator",
            f"temperature is {temperature:g} K but temperature_K is {protocol.temperature_K:g}; make them equal",
        )
    if kind == "NoseHooverIntegrator" and integrator.getThermostat().getNumMultiTimeSteps() < 1:
        raise InconsistentError("Integrator", "numMTS must be at least 1")
    coupling = "collisionFrequency" if kind == "NoseHooverIntegrator" else "friction"
    rate = (
        integrator.getCollisionFrequency() if coupling == "collisionFrequency" else integrator.getFriction()
    )
    rate_per_ps = rate.value_in_unit(openmm.unit.picosecond**-1)
    if not (math.isfinite(rate_per_ps) and rate_per_ps > 0):
        raise InconsistentError("Integrator", f"{coupling} is {rate_per_ps:g}; it must be above zero")


def _check_ensemble(protocol: Protocol) -> None:
    """Pressure belongs to NPT, and only there."""
    pressure, interval = protocol.pressure_bar, protocol.barostat_interval_steps
    if protocol.ensemble != "NPT":
        given = "pressure_bar" if pressure is not None else "barostat_interval_steps"
        if pressure is not None or interval is not None:
            raise InconsistentError(
                "Ensemble", f'{given} in an {protocol.ensemble} ensemble; use type="NPT", or leave it out'
            )
        return
    if pressure is None or not math.isfinite(pressure):
        raise InconsistentError("Ensemble", "ensemble NPT without a pressure_bar; give it, 1 is ordinary")
    if interval is None:
        object.__setattr__(protocol, "barostat_interval_steps", DEFAULT_BAROSTAT_INTERVAL_STEPS)
    elif interval < 1:
        raise InconsistentError("Ensemble", f"barostat_interval_steps is {interval}; at least 1 is needed")


def _check_start(protocol: Protocol) -> None:
    if protocol.initial_positions not in ("test-frames", "structure"):
        raise InconsistentError(
            "Initial", f"positions {protocol.initial_positions!r}; use test-frames or structure"
        )
    if protocol.initial_file is not None and protocol.initial_positions != "structure":
        raise InconsistentError(
            "Initial",
            f'file {protocol.initial_file!r} with positions="test-frames"; use positions="structure"',
        )


def _check_stability(protocol: Protocol) -> None:
    for key in (
        "stability_threshold_A", "stability_window_ps",
        "monitor_energy_kJ_mol_per_atom", "monitor_temperature_ratio", "monitor_displacement_A",
    ):  # fmt: skip
        value = getattr(protocol, key)
        if value is not None and not (math.isfinite(value) and value > 0):
            element, name = key.split("_", 1)
            raise InconsistentError(element.capitalize(), f"{name} is {value:g}; it must be above zero")
    criterion, pairs = protocol.stability_criterion, protocol.stability_pairs
    if criterion != "rdf":
        if criterion not in ("bonds", "none"):
            raise InconsistentError("Stability", f"criterion {criterion!r}; use bonds, rdf or none")
        if pairs or protocol.stability_window_ps != DEFAULT_WINDOW_PS:
            raise InconsistentError(
                "Stability",
                f'window_ps and pairs belong to criterion="rdf", not to {criterion}; leave them out',
            )
        return
    if not pairs:
        raise InconsistentError("Stability", "criterion rdf has no pairs; " + _PAIRS_WANTED)
    _check_pairs("Stability", pairs)
    if not _is_multiple(protocol.stability_window_ps * FS_PER_PS, protocol.frame_interval_fs):
        raise InconsistentError(
            "Stability",
            f"window_ps = {protocol.stability_window_ps:g} ps is not a whole number of frames of "
            f"{protocol.frame_interval_fs:g} fs; use a multiple",
        )


def _check_pairs(element: str, pairs: tuple[str, ...]) -> None:
    if pairs != ("all",) and not all(_PAIR.fullmatch(pair) for pair in pairs):
        raise InconsistentError(element, f"pairs {' '.join(pairs)!r}; {_PAIRS_WANTED}")


def _check_observables(protocol: Protocol) -> None:
    times = ("lag_ps", "start_ps", "stride_ps", "min_stable_ps")
    of_diffusivity = ("diffusivity_atoms", *(f"diffusivity_{name}" for name in times))
    for key, observable in (("rdf_pairs", "rdf"), *((key, "diffusivity") for key in of_diffusivity)):
        if getattr(protocol, key) and observable not in protocol.observables:
            raise InconsistentError(
                "Observables", f"{key} is given, but {observable} is not observed; add it or leave this out"
            )
    _check_pairs("Observables", protocol.rdf_pairs or ("all",))
    for name in times:
        time_ps = getattr(protocol, f"diffusivity_{name}")
        if time_ps is not None and not (
            math.isfinite(time_ps) and _is_multiple(time_ps * FS_PER_PS, protocol.frame_interval_fs)
        ):
            raise InconsistentError(
                "Observables",
                f"{name} = {time_ps:g} ps is not a whole number of frames of {protocol.frame_interval_fs:g} fs; use a multiple",
            )
    if "diffusivity" in protocol.observables and not protocol.diffusivity_atoms:
        raise InconsistentError(
            "Observables", 'diffusivity does not say of which atoms; give atoms="element O", for example'
        )


def _check_metadynamics(protocol: Protocol) -> None:
    bias = protocol.metadynamics
    if bias is None:
        return
    if protocol.ensemble == "NVE":
        raise InconsistentError(
            "Metadynamics", "metadynamics without a thermostat, which would heat up; use an NVT ensemble"
        )
    if not math.isclose(bias.temperature_K, protocol.temperature_K, rel_tol=1e-9):
        raise InconsistentError(
            "Metadynamics",
            f"temperature_K of the bias is {bias.temperature_K:g}, that of the ensemble {protocol.temperature_K:g}; "
            "make them equal",
        )


def _check_structure(protocol: Protocol) -> None:
    """Hydrogens without constraints need a short step; a missing file is the simulation's affair."""
    if protocol.constraints != "none" or protocol.timestep_fs <= MAX_UNCONSTRAINED_TIMESTEP_FS:
        return
    from openmm_mlbench.topology import read_topology

    try:
        hydrogens = (read_topology(protocol.structure_path).atomic_numbers == 1).any()
    except MLBenchError as error:
        raise InconsistentError("Structure", str(error)) from error
    if hydrogens:
        raise InconsistentError(
            "Run",
            f"time step {protocol.timestep_fs:g} fs with unconstrained hydrogens; use at most "
            f'{MAX_UNCONSTRAINED_TIMESTEP_FS:g} fs, or constraints="h-bonds"',
        )
