"""A protocol for somebody's own molecule or cell, made after one of the package's."""

import dataclasses
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmm_mlbench.errors import MLBenchError, ProtocolError
from openmm_mlbench.files import write_text
from openmm_mlbench.protocol import Protocol, list_protocols, load_protocol
from openmm_mlbench.protocol_xml import DEFAULT_THRESHOLD_A, DEFAULT_WINDOW_PS, parser
from openmm_mlbench.topology import find_bonds
from openmm_mlbench.units import ANGSTROM_PER_NM, PS_PER_FS

# Nothing that is bonded comes this close; doubled atoms and coordinates in nm do.
MIN_DISTANCE_A = 0.6
# Programs write a cell of 1 A where they have none.
MIN_CELL_A = 2.0
# Molecules are made of these, and their bonds last; those of a salt or a metal come and go.
_MOLECULAR = {1, 5, 6, 7, 8, 9, 14, 15, 16, 17, 34, 35, 53}
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9._-]+")
_DIFFUSIVITY_TIMES = (
    "diffusivity_lag_ps",
    "diffusivity_start_ps",
    "diffusivity_stride_ps",
    "diffusivity_min_stable_ps",
)


@dataclass(frozen=True, kw_only=True)
class NewProtocol:
    """A protocol that was written, and one line for each thing that was decided."""

    protocol: Protocol
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Structure:
    """What a PDB file holds: (n_atoms,), (n_models, n_atoms, 3) and (3, 3) or None, A."""

    atomic_numbers: NDArray[np.int64]
    positions_A: NDArray[np.float64]
    cell_A: NDArray[np.float64] | None

    @property
    def symbols(self) -> set[str]:
        from ase.data import chemical_symbols

        return {chemical_symbols[number] for number in set(self.atomic_numbers.tolist())}


def new_protocol(
    structure: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    like: str = "ethanol",
    variant: str | None = None,
    name: str | None = None,
    temperature_K: float | None = None,
    timestep_fs: float | None = None,
    length_ps: float | None = None,
    replicas: int | None = None,
) -> NewProtocol:
    """Write a protocol for a structure of one's own, with what another protocol says of thermostat, lengths and frames.

    Replicas start from the models of the PDB file, in turn.  What needs a reference of
    the same system (stability by RDFs, metadynamics on numbered atoms) is replaced or
    left out, and a comment in the file says so.

    Args:
        structure: PDB file with elements, and with CRYST1 for a periodic cell.
        out: XML file to write; it will name the structure relative to itself.
        like: name or file of the protocol to follow.
        variant: of that protocol.
        name: of the new protocol and system; that of the file if None.
        temperature_K: instead of the followed protocol's, and so on.
        timestep_fs: integration step.
        length_ps: length of one replica.
        replicas: number of runs.

    Raises:
        ProtocolError: the structure cannot be simulated, an argument does not fit, or the file exists.
    """
    path, target = Path(structure), Path(out)
    if target.suffix != ".xml":
        raise ProtocolError(f"{target}: protocols end in .xml; give another name")
    if target.exists():
        raise ProtocolError(f"{target} exists; give another name, or remove it")
    base = load_protocol(like, variant)
    found = _read(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    step_fs = base.timestep_fs if timestep_fs is None else timestep_fs
    kelvin = base.temperature_K if temperature_K is None else temperature_K
    length = base.length_ps if length_ps is None else length_ps
    chosen, comments = _decide(path, found, base)
    protocol = dataclasses.replace(
        base,
        name=_name(name, path),
        description=f"{_formula(found.atomic_numbers)}, {_ensemble_text(base, kelvin)}, after protocol {base.name}.",
        system=_name(name, path),
        structure=os.path.relpath(path.resolve(), target.parent.resolve()),
        path=target,
        temperature_K=kelvin,
        timestep_fs=step_fs,
        length_ps=length,
        demo_length_ps=min(base.demo_length_ps, length),
        toy_length_ps=min(base.toy_length_ps, length),
        replicas=base.replicas if replicas is None else replicas,
        initial_positions="structure",
        initial_file=None,
        integrator_xml=_integrator(base, step_fs, kelvin),
        **chosen,
    )
    write_text(target, _with_comments(protocol.to_xml(), comments))
    return NewProtocol(protocol=load_protocol(target), notes=tuple(comments.values()))


def _read(path: Path) -> _Structure:
    from openmm import app, unit

    try:
        # Opened here: OpenMM leaves a file open that it cannot read.
        with open(path, encoding="utf-8") as file:
            pdb = app.PDBFile(file)
        positions = [pdb.getPositions(asNumpy=True, frame=model) for model in range(pdb.getNumFrames())]
    except Exception as error:  # the parser raises whatever it meets
        raise ProtocolError(
            f"{path}: not a readable PDB file ({error}); give the structure's PDB file"
        ) from error
    atoms = list(pdb.topology.atoms())
    unknown = [f"{atom.index + 1} ({atom.name})" for atom in atoms if atom.element is None]
    if not atoms or unknown:
        what = f"no element for atoms {', '.join(unknown[:5])}" if atoms else "holds no atoms"
        raise ProtocolError(f"{path}: {what}; fill in columns 77-78 of the PDB file")
    # OpenMM has brought the vectors to its reduced form, which is another basis of the same lattice.
    box = pdb.topology.getPeriodicBoxVectors()
    found = _Structure(
        atomic_numbers=np.array([atom.element.atomic_number for atom in atoms], dtype=np.int64),
        positions_A=np.stack([p.value_in_unit(unit.nanometer) for p in positions]) * ANGSTROM_PER_NM,
        cell_A=None if box is None else np.array(box.value_in_unit(unit.nanometer)) * ANGSTROM_PER_NM,
    )
    _check_cell(path, found)
    _check_contacts(path, found)
    return found


def _check_cell(path: Path, found: _Structure) -> None:
    if found.cell_A is None:
        return
    edges = np.linalg.norm(found.cell_A, axis=1)
    volume = abs(np.linalg.det(found.cell_A))
    if not np.isfinite(found.cell_A).all() or edges.min() < MIN_CELL_A or volume < MIN_CELL_A**3:
        raise ProtocolError(
            f"{path}: CRYST1 gives a cell of {' x '.join(f'{edge:g}' for edge in edges)} A, {volume:g} A^3; write the "
            "real cell in A, or remove the record for an isolated molecule"
        )


def _check_contacts(path: Path, found: _Structure) -> None:
    """No two atoms in one place, periodic images included."""
    from ase.neighborlist import primitive_neighbor_list

    cell = np.eye(3) if found.cell_A is None else found.cell_A
    for model, positions in enumerate(found.positions_A, 1):
        if not np.isfinite(positions).all():
            raise ProtocolError(f"{path}: model {model} has coordinates that are no numbers; write it again")
        i, j, distances = primitive_neighbor_list(
            "ijd", [found.cell_A is not None] * 3, cell, positions, MIN_DISTANCE_A
        )
        if len(distances):
            k = int(distances.argmin())
            raise ProtocolError(
                f"{path}: atoms {i[k] + 1} and {j[k] + 1} of model {model} are {distances[k]:.3f} A apart; wanted at "
                f"least {MIN_DISTANCE_A:g} A: are coordinates and cell in A, and atoms there once?"
            )


def _decide(path: Path, found: _Structure, base: Protocol) -> tuple[dict[str, Any], dict[str, str]]:
    """What does not carry over from another system: fields of Protocol, and a comment by element."""
    if base.ensemble == "NPT" and found.cell_A is None:
        raise ProtocolError(f"{path}: has no cell (CRYST1), which {base.name} wants for NPT; follow another")
    chosen, comments = _decide_stability(found)
    metadynamics = base.metadynamics
    if metadynamics is not None and not _same_atoms(found, base):
        metadynamics = None
        comments["Initial"] = (
            f"metadynamics of {base.name} is left out: it numbers atoms of another molecule; add a Metadynamics element "
            "with indices of yours, counted from 0"
        )
    chosen |= {"metadynamics": metadynamics}
    chosen |= _decide_observables(path, found, base, biased=metadynamics is not None)
    if base.constraints == "h-bonds":
        comments["Ensemble"] = (
            "rigid bonds to hydrogen suit models of data with the same constraints only; others run with none and at most 1 fs"
        )
    models = len(found.positions_A)
    comments["Structure"] = (
        f"{len(found.atomic_numbers)} atoms, {_formula(found.atomic_numbers)}, {_cell_text(found.cell_A)}; "
        f"{models} start {'structure' if models == 1 else 'structures, taken in turn'}"
    )
    return chosen, comments


def _decide_stability(found: _Structure) -> tuple[dict[str, Any], dict[str, str]]:
    bonds = find_bonds(found.atomic_numbers, found.positions_A[0], cell_A=found.cell_A)
    fields = {
        "stability_threshold_A": DEFAULT_THRESHOLD_A,
        "stability_window_ps": DEFAULT_WINDOW_PS,
        "stability_pairs": (),
    }
    elsewhere = "the monitor still ends a run whose energy, temperature or positions explode"
    by_rdf = (
        'with a model whose data set has a reference RDF of this very substance, criterion="rdf" '
        'threshold_A="3" pairs="..." compares with that'
    )
    if len(bonds) and set(found.atomic_numbers.tolist()) <= _MOLECULAR:
        text = f"bonds: those {len(bonds)} of the first structure; a bond further from its length there than this ends a run"
        if found.cell_A is not None:
            text += f"; {by_rdf}"
        return fields | {"stability_criterion": "bonds"}, {"Stability": text}
    why = "bonds to metals come and go" if len(bonds) else "there are no bonds"
    text = f"none: {why}; {elsewhere}"
    if found.cell_A is not None:
        text += f"; {by_rdf}"
    return fields | {"stability_criterion": "none"}, {"Stability": text}


def _decide_observables(path: Path, found: _Structure, base: Protocol, *, biased: bool) -> dict[str, Any]:
    periodic = found.cell_A is not None
    atoms = base.diffusivity_atoms if periodic and _selects(path, base.diffusivity_atoms) else None
    unfit = {"h_r"} if periodic else {"rdf", "diffusivity"}
    if atoms is None:
        unfit |= {"diffusivity"}
    if not biased:
        unfit |= {"F_phi", "F_psi", "F_phi_psi"}
    observables = [name for name in base.observables if name not in unfit]
    structural = {"h_r", "rdf"}
    if structural & set(base.observables) and not structural & set(observables):
        observables.append("rdf" if periodic else "h_r")
    pairs = base.rdf_pairs or base.stability_pairs
    known = bool(pairs) and all(set(pair.split("-")) <= found.symbols for pair in pairs)
    return {
        "observables": tuple(observables),
        "rdf_pairs": (pairs if known else ("all",)) if periodic else (),
        "diffusivity_atoms": atoms,
        **{key: getattr(base, key) if atoms else None for key in _DIFFUSIVITY_TIMES},
    }


def _selects(path: Path, selection: str | None) -> bool:
    """Whether a selection finds atoms in the structure."""
    from openmm_mlbench.selections import load_topology

    if selection is None:
        return False
    try:
        load_topology(path).select(selection)
    except MLBenchError:
        return False
    return True


def _same_atoms(found: _Structure, base: Protocol) -> bool:
    from openmm_mlbench.topology import read_topology

    try:
        numbers = read_topology(base.structure_path).atomic_numbers
    except MLBenchError:
        return False
    return np.array_equal(numbers, found.atomic_numbers)


def _integrator(base: Protocol, timestep_fs: float, temperature_K: float) -> str:
    import openmm

    integrator = base.make_integrator()
    integrator.setStepSize(timestep_fs * PS_PER_FS)
    if hasattr(integrator, "setTemperature"):
        integrator.setTemperature(temperature_K)
    return str(openmm.XmlSerializer.serialize(integrator))


def _name(name: str | None, path: Path) -> str:
    chosen = _NOT_IN_A_NAME.sub("-", path.stem).strip("-._") if name is None else name
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", chosen):
        raise ProtocolError(f"name {chosen!r}; wanted letters, digits, . _ and -, give --name")
    if chosen in list_protocols(variants=True):
        raise ProtocolError(f"{chosen} is the name of a protocol of the package; give another with --name")
    return chosen


def _formula(atomic_numbers: NDArray[np.int64]) -> str:
    from ase.data import chemical_symbols

    kinds, counts = np.unique(atomic_numbers, return_counts=True)
    return " ".join(f"{chemical_symbols[kind]}{count}" for kind, count in zip(kinds, counts, strict=True))


def _cell_text(cell_A: NDArray[np.float64] | None) -> str:
    if cell_A is None:
        return "no cell"
    return f"cell {' x '.join(f'{edge:.3f}' for edge in np.linalg.norm(cell_A, axis=1))} A"


def _ensemble_text(base: Protocol, temperature_K: float) -> str:
    return (
        f"{base.ensemble} from momenta of {temperature_K:g} K"
        if base.ensemble == "NVE"
        else (f"{base.ensemble} at {temperature_K:g} K")
    )


def _with_comments(text: str, comments: dict[str, str]) -> str:
    """The document with a comment before each of these elements."""
    from lxml import etree

    root = etree.fromstring(text.encode(), parser())
    for tag, comment in comments.items():
        element = root.find(tag)
        # Two hyphens would end a comment.
        element.addprevious(etree.Comment(f" {comment.replace('--', '- -')}. "))
    written = etree.tostring(root, encoding="UTF-8", xml_declaration=True, pretty_print=True)
    return bytes(written).decode()
