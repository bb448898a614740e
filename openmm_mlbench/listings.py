"""What there is: the tables of ``openmm-mlbench systems``, ``models`` and ``protocols``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from openmm_mlbench.assets import asset_path
from openmm_mlbench.data.datasets import DatasetEntry, dataset_path, list_datasets
from openmm_mlbench.references import load_canonical_reference, load_reference, reference_file

if TYPE_CHECKING:
    from openmm_mlbench.export.archive import Archive
    from openmm_mlbench.protocol import Protocol

SYSTEM_COLUMNS = [
    "system", "atoms", "data set", "train / validation / test", "where", "references", "what", "origin"
]  # fmt: skip
PROTOCOL_COLUMNS = [
    "protocol", "system", "ensemble", "T / K", "thermostat / ps-1", "constraints", "time step / fs",
    "runs / ps", "steps", "frames / ps", "stability", "variants",
]  # fmt: skip
ARCHITECTURE_COLUMNS = [
    "architecture", "parameters (ethanol)", "forces", "symmetry", "cutoff / A", "shipped for", "published by"
]  # fmt: skip
MODEL_COLUMNS = [
    "model", "architecture", "parameters", "forces", "symmetry", "cutoff / A", "training frames",
    "force MAE / meV/A",
]  # fmt: skip
VARIANT_COLUMNS = ["variant", "ensemble", "thermostat / ps-1", "time step / fs", "what"]
# Observable of a reference file and its name in the table.
_REFERENCES = {"rdf": "RDF", "diffusivity": "D", "free-energy": "F"}
_BYTES = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))


def system_rows() -> list[list[str]]:
    """One row per data set, ordered by system."""
    return [_system_row(entry) for entry in sorted(list_datasets(), key=lambda entry: entry.system)]


def _system_row(entry: DatasetEntry) -> list[str]:
    splits = " or ".join(" / ".join(map(str, split)) for split in entry.splits)
    return [
        entry.system,
        f"{len(entry.atomic_numbers)}",
        entry.name,
        splits,
        _where(entry),
        ", ".join(_references(entry.name)) or "-",
        entry.summary,
        _origin(entry),
    ]


def _where(entry: DatasetEntry) -> str:
    """Whether the data are at hand, how large they are, or how they come here."""
    path = dataset_path(entry.name)
    if path.is_file():
        return f"{'ships' if entry.shipped else 'at hand'}, {_size(path.stat().st_size)}"
    if entry.fetched_from:
        return f"data fetch {entry.name}"
    return "data generate" if entry.shipped else "--data FILE"


def _size(n_bytes: int) -> str:
    unit, factor = next(((u, f) for u, f in _BYTES if n_bytes >= f), _BYTES[-1])
    return f"{n_bytes / factor:.1f} {unit}"


def _references(dataset: str) -> list[str]:
    """Observables of which the package has a reference for this data set."""
    found = ["h(r)"] if load_reference(dataset) is not None else []
    if load_canonical_reference(dataset) is not None:
        found.append("h(r) at 500 K")
    return found + [name for kind, name in _REFERENCES.items() if reference_file(dataset, kind) is not None]


def _origin(entry: DatasetEntry) -> str:
    if entry.source != "unknown":
        return entry.source
    if entry.fetched_from is None:
        return "made here" if entry.shipped else "unknown"
    from openmm_mlbench.data.fetch import find_official

    official = find_official(entry.name)
    return f"{official.origin}; {official.licence}"


def _symmetry(*, rotation: bool, parity: bool) -> str:
    return ", ".join(name for name, holds in (("rotation", rotation), ("parity", parity)) if holds) or "none"


def _forces(*, conservative: bool) -> str:
    return "conservative" if conservative else "direct"


def architecture_rows() -> list[list[str]]:
    """One row per architecture, at the paper's size for ethanol, and the data sets that it ships weights for."""
    from openmm_mlbench.export.archive import find_archive, list_archives
    from openmm_mlbench.models.registry import ARCHITECTURES, build_network, count_parameters

    shipped = [(name.split("/")[0], find_archive(name).card.model) for name in list_archives()]
    rows = []
    for name, architecture in ARCHITECTURES.items():
        network = build_network(name, {}, [1, 6, 8])
        rows.append(
            [
                name,
                f"{count_parameters(network):,}",
                _forces(conservative=not architecture.direct),
                _symmetry(rotation=architecture.rotation, parity=architecture.parity),
                f"{network.cutoff:g}",
                ", ".join(dataset for dataset, model in shipped if model == name) or "-",
                architecture.publication,
            ]
        )
    return rows


def model_rows() -> list[list[str]]:
    """One row per shipped model."""
    from openmm_mlbench.export.archive import find_archive, list_archives

    return [_model_row(find_archive(name)) for name in list_archives()]


def _model_row(archive: Archive) -> list[str]:
    card = archive.card
    error = card.errors.get("force_mae_meV_A")
    return [
        archive.id,
        card.model,
        f"{card.n_parameters:,}",
        _forces(conservative=card.claims.conservative),
        _symmetry(rotation=card.claims.rotation, parity=card.claims.parity),
        f"{card.cutoff_A:g}",
        str(card.trained_on.n_train),
        "-" if error is None else f"{error:.1f}",
    ]


def protocol_rows() -> list[list[str]]:
    """One row per protocol of the package."""
    from openmm_mlbench.protocol import list_protocols, load_protocol, protocol_variants

    return [_protocol_row(load_protocol(name), protocol_variants(name)) for name in list_protocols()]


def variant_rows(name_or_path: str, only: str | None = None) -> list[list[str]]:
    """One row per variant of a protocol, the protocol itself first; just one if it is named."""
    from openmm_mlbench.protocol import find_protocol, load_protocol, protocol_variants

    path, named = find_protocol(name_or_path)
    one = named or only
    rows = []
    for variant in (None, *protocol_variants(path)) if one is None else (one,):
        p = load_protocol(path, variant)
        rows.append([variant or "-", p.ensemble, _thermostat(p), f"{p.timestep_fs:g}", p.description])
    return rows


def _protocol_row(p: Protocol, variants: tuple[str, ...]) -> list[str]:
    at_hand = asset_path("systems", p.system, "topology.pdb").is_file()
    return [
        p.name,
        p.system if at_hand else f"{p.system} (no structure)",
        p.ensemble + (" + metadynamics" if p.metadynamics else ""),
        f"{p.temperature_K:g}",
        _thermostat(p),
        p.constraints,
        f"{p.timestep_fs:g}",
        f"{p.replicas} x {p.length_ps:g}",
        f"{p.n_steps():,}",
        f"{p.frame_interval_ps:g}",
        p.stability_criterion
        + ("" if p.stability_criterion == "none" else f" {p.stability_threshold_A:g} A"),
        ", ".join(variants) or "-",
    ]


def _thermostat(p: Protocol) -> str:
    """Kind and rate, 1/ps."""
    import openmm

    integrator = p.make_integrator()
    per_ps = openmm.unit.picosecond**-1
    if isinstance(integrator, openmm.NoseHooverIntegrator):
        return f"Nose-Hoover {integrator.getCollisionFrequency().value_in_unit(per_ps):g}"
    if isinstance(integrator, openmm.LangevinMiddleIntegrator):
        return f"Langevin {integrator.getFriction().value_in_unit(per_ps):g}"
    return "none"
