"""The main job in a few calls: model, protocol, simulation, numbers, page."""

import difflib
import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from openmm_mlbench import __version__
from openmm_mlbench.analysis import analyze
from openmm_mlbench.assets import asset_path
from openmm_mlbench.data.datasets import (
    default_split,
    find_dataset,
    list_datasets,
    load_dataset,
    system_of,
)
from openmm_mlbench.data.frames import Frames
from openmm_mlbench.data.splits import Split, make_split
from openmm_mlbench.errors import DataError, ModelError, PotentialError, SimulationError
from openmm_mlbench.export.adapters.foreign import Stated
from openmm_mlbench.export.archive import Archive, find_archive, rewrite_card, save_archive
from openmm_mlbench.export.card import Card, Claims, TrainedOn
from openmm_mlbench.export.importing import UNKNOWN, Imported, import_model, predict_frames, stated_data
from openmm_mlbench.forces.drivers import choose_driver
from openmm_mlbench.measuring.run_measurements import rdf_windows_of
from openmm_mlbench.models.registry import count_parameters
from openmm_mlbench.potential import Potential
from openmm_mlbench.protocol import Protocol
from openmm_mlbench.reference_potentials import (
    REFERENCE_POTENTIALS,
    ReferencePotential,
    find_reference_potential,
    is_reference_potential,
)
from openmm_mlbench.reference_potentials.evaluation import evaluate_frames
from openmm_mlbench.references import load_reference
from openmm_mlbench.report.page import build_report
from openmm_mlbench.run_folder import Run, read_run
from openmm_mlbench.simulation.platforms import PROCESSOR_PLATFORMS
from openmm_mlbench.simulation.progress import ProgressDisplay
from openmm_mlbench.simulation.run_folder import ReplicaStatus
from openmm_mlbench.simulation.runner import run_protocol
from openmm_mlbench.simulation.starts import structure_frames
from openmm_mlbench.topology import read_structure
from openmm_mlbench.training.config import Recipe
from openmm_mlbench.training.log import write_log
from openmm_mlbench.training.trainer import force_field_from_checkpoint, load_checkpoint, predict
from openmm_mlbench.units import NM_PER_ANGSTROM

# Energies (n_frames,), eV, or None, and forces (n_frames, n_atoms, 3), eV/A, of frames.
Predictor = Callable[[Frames], tuple[np.ndarray | None, np.ndarray]]
DEMO_MODELS = ("ethanol-gfn2/schnet", "ethanol-gfn2/deeppot-se")
DEMO_PROTOCOL = "ethanol"


@dataclass(frozen=True, kw_only=True)
class ModelData:
    """Frames that belong to a model.

    Args:
        frames: test frames, or start frames where the model's own data are not at hand.
        own: whether they are the test frames of the data that the model was trained on.
        note: one line for the user, empty if nothing is unusual.
    """

    frames: Frames
    own: bool
    note: str


def data_of(card: Card, data: str | Path | None = None) -> ModelData:
    """The test frames of a model's data set, or shipped frames of the same system to start from.

    Args:
        card: of the model.
        data: file of the data set, instead of where it is looked for.

    Raises:
        DataError: ``data`` was given and does not fit.
    """
    name = card.trained_on.dataset
    if not _is_named(name):
        if data is None:
            raise DataError(
                f"the model was trained on {name!r}, which is no data set of this package; give its file with --data"
            )
        frames = load_dataset(str(data))
        if card.origin is not None:
            note = f"starting from frames of {frames.name}: the model was imported, its own test frames are unknown"
            return ModelData(frames=frames, own=frames.name == name, note=note)
    else:
        try:
            frames = load_dataset(name, path=data)
        except DataError as error:
            if data is not None:
                raise
            beside = _shipped_beside(name)
            if beside is None:
                raise
            shipped = load_dataset(beside)
            test = shipped.select(default_split(shipped.name, shipped).test)
            note = f"starting from {shipped.name} frames, because {error}"
            return ModelData(frames=test, own=False, note=note)
    if card.origin is not None:
        # Its user says that it was made for the potential of these labels.
        test = frames.select(default_split(name, frames).test)
        note = f"starting from the test frames of {name}; an imported model may have been trained on some of them"
        return ModelData(frames=test, own=True, note=note)
    try:
        split = split_of(card, frames)
    except DataError as error:
        if data is not None:
            raise
        # A data set can be at hand in another size than the model was trained on.
        test = frames.select(default_split(name, frames).test)
        return ModelData(
            frames=test, own=False, note=f"starting from other frames of {name}, because {error}"
        )
    if len(split.test) == 0:
        note = f"starting from validation frames: the split of {name} left none to test"
        return ModelData(frames=frames.select(split.validation), own=False, note=note)
    return ModelData(frames=frames.select(split.test), own=True, note="")


def _shipped_beside(name: str) -> str | None:
    """A shipped data set of the same system, with the same bonds held rigid, or None."""
    wanted = find_dataset(name)
    for entry in list_datasets():
        if (entry.system, entry.constraints) == (wanted.system, wanted.constraints) and entry.shipped:
            return entry.name
    return None


def _is_named(name: str) -> bool:
    try:
        system_of(name)
    except DataError:
        return False
    return True


def split_of(card: Card, frames: Frames) -> Split:
    """The split that the card's model was trained with.

    Raises:
        DataError: these are not the frames that it was trained on.
    """
    trained = card.trained_on
    if (
        trained.dataset_hash is None
        or trained.split_hash is None
        or trained.split_seed is None
        or trained.n_train is None
        or trained.n_validation is None
    ):
        raise DataError(
            f"{frames.name}: the model was imported, and nobody knows which frames it was trained on"
        )
    found = frames.content_hash()
    if found != trained.dataset_hash:
        raise DataError(
            f"{frames.name}: these are not the frames that the model was trained on (hash {found[:12]}, its card says "
            f"{trained.dataset_hash[:12]}); give the same file with --data"
        )
    left = frames.n_frames - trained.n_train - trained.n_validation
    usual = find_dataset(trained.dataset).split[2] if _is_named(trained.dataset) else left
    for n_test in (card.training.get("n_test"), usual, left):
        if n_test is not None and 0 <= n_test <= left:
            split = make_split(frames, trained.n_train, trained.n_validation, n_test, trained.split_seed)
            if split.hash == trained.split_hash:
                return split
    raise DataError(
        f"the split of {trained.dataset} cannot be made again; its card says {trained.split_hash[:12]}"
    )


def export_checkpoint(
    checkpoint: str | Path,
    out: str | Path,
    *,
    data: str | Path | None = None,
    command: str = "",
    remove_mean_force: bool = False,
) -> Card:
    """Turn a training checkpoint into an archive with its card, and its log beside it; returns the card.

    Args:
        checkpoint: ``best.pt`` of a training folder.
        out: the ``.pt`` archive to write.
        data: file of the data set, for the errors of the test frames.
        command: what trained it, for the card.
        remove_mean_force: the exported model subtracts the mean force, which only the forces of
            a direct network need.

    Raises:
        TrainingError: the checkpoint is damaged.
        ModelError: remove_mean_force for a network whose forces sum to zero anyway.
        DataError: the data are not those that it was trained on.
    """
    record = load_checkpoint(checkpoint)
    recipe = Recipe.from_dict(json.loads(record["recipe"]))
    provenance = json.loads(record["provenance"])
    force_field = force_field_from_checkpoint(record)
    network = force_field.network
    if remove_mean_force and not network.direct:
        raise ModelError(
            f"{recipe.model} derives its forces from the energy, so they sum to zero; leave out --remove-mean-force"
        )
    force_field.remove_mean_force = remove_mean_force
    trained_on = TrainedOn(
        **{key: provenance[key] for key in TrainedOn.__dataclass_fields__ if key in provenance}
    )
    card = Card(
        model=recipe.model,
        hyperparameters=recipe.hyperparameters,
        n_parameters=count_parameters(network),
        species=sorted(set(provenance["atomic_numbers"])),
        example_atomic_numbers=provenance["atomic_numbers"],
        cutoff_A=network.cutoff,
        dtype="float32",
        periodic=provenance["periodic"],
        claims=Claims(
            conservative=not network.direct,
            rotation=network.rotation,
            parity=network.parity,
            zero_net_force=remove_mean_force or not network.direct,
        ),
        remove_mean_force=remove_mean_force,
        predicts_energy=force_field.predicts_energy,
        trained_on=trained_on,
        training={
            "recipe": recipe.as_dict(),
            "epochs": record["epoch"],
            "minutes": round(record["seconds"] / 60, 1),
            "machine": provenance.get("machine", ""),
            "command": command or provenance.get("command", ""),
            "n_test": provenance.get("n_test"),
        },
        versions={"openmm-mlbench": __version__, "torch": str(torch.__version__)},
        licence=f"MIT for the weights; trained on: {trained_on.source}",
    )
    if data is not None or _is_named(trained_on.dataset):
        test = data_of(card, data)
        if test.own:
            card = _with_errors(card, lambda frames: predict(force_field, frames), test.frames)
    save_archive(force_field, card, out)
    write_log(checkpoint, out)
    return card


def _with_errors(card: Card, predictor: Predictor, frames: Frames) -> Card:
    energies, forces = predictor(frames)
    assert frames.forces is not None
    per_frame = 1000 * np.abs(forces - frames.forces).mean(axis=(1, 2))
    errors = {
        "n_test": frames.n_frames,
        "force_mae_meV_A": float(per_frame.mean()),
    }
    if frames.n_frames > 1:
        errors["force_mae_stderr_meV_A"] = float(per_frame.std(ddof=1) / np.sqrt(frames.n_frames))
    if frames.energies is not None and energies is not None:
        errors["energy_mae_meV"] = float(1000 * np.abs(energies - frames.energies).mean())
    return replace(card, errors=errors)


def import_file(
    file: str | Path,
    kind: str,
    out: str | Path,
    *,
    stated: Stated,
    trusted: bool = False,
    dataset: str | None = None,
    level_of_theory: str | None = None,
    source: str | None = None,
    licence: str | None = None,
    structure: str | Path | None = None,
    data: str | Path | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> Imported:
    """Turn a model of another package into an archive; arguments as of ``import_model``.

    Args:
        file: of the other package.
        kind: ``nequip``, ``mace``, ``deepmd``, ``schnetpack`` or ``torchscript``.
        out: the ``.pt`` archive to write.
        stated: what the file does not say.
        trusted: the user's consent to open a pickle.
        dataset: whose labels the model reproduces, if it is one of this package's or a file's.
        level_of_theory: of the labels.
        source: of the data.
        licence: of the weights.
        structure: PDB of an ordinary structure to try it on; that of the data set's system if not given.
        data: file of the data set, for the errors of its test frames.
        note: told what a user should know.

    Raises:
        ModelError: the file cannot be read or does not run.
        DataError: the data do not fit.
    """
    tried = None
    if structure is not None:
        topology, positions_A = read_structure(structure)
        tried = (topology.atomic_numbers, positions_A)
    elif dataset is not None and _is_named(dataset):
        topology, positions_A = read_structure(asset_path("systems", system_of(dataset), "topology.pdb"))
        tried = (topology.atomic_numbers, positions_A)
    named = dataset is not None and _is_named(dataset)
    labels = _labels_of(dataset, data) if dataset is not None else None
    trained_on = stated_data(
        dataset or UNKNOWN,
        level_of_theory or (UNKNOWN if labels is None else labels.level_of_theory),
        source or (UNKNOWN if labels is None else labels.source),
    )
    imported = import_model(
        file,
        kind,
        out,
        stated=stated,
        trusted=trusted,
        trained_on=trained_on,
        licence=licence or UNKNOWN,
        structure=tried,
        note=note,
    )
    if not named and data is None:
        return imported
    try:
        test = data_of(imported.card, data)
    except DataError as error:
        if data is not None:
            raise
        note(f"force errors were not measured: {error}")
        return imported
    if not test.own:
        return imported
    archive = find_archive(out)
    card = _with_errors(imported.card, predictor_of(archive), test.frames)
    rewrite_card(archive, card)
    return replace(imported, card=card)


def _labels_of(dataset: str, data: str | Path | None) -> Frames | None:
    """Frames with the labels that a user names, where they are at hand."""
    try:
        return load_dataset(dataset, path=data) if _is_named(dataset) else load_dataset(str(data or dataset))
    except DataError:
        if data is not None:
            raise
        return None


def find_model(id_or_path: str | Path, driver: str = "auto") -> Potential | ReferencePotential:
    """A learned model by id or path, or the classical or kernel potential behind a data set by id.

    Args:
        id_or_path: of the model.
        driver: of a learned model's forces.

    Raises:
        ModelError: missing or damaged.
        PotentialError: a driver that does not work here, or one for a potential that has no network.
    """
    choose_driver(driver)
    if is_reference_potential(str(id_or_path)):
        if driver != "auto":
            raise PotentialError(
                f"{id_or_path} has no network, so there is nothing that driver {driver!r} could run; leave it out"
            )
        return find_reference_potential(str(id_or_path))
    try:
        return Potential.load(id_or_path, driver)
    except ModelError as error:
        near = difflib.get_close_matches(str(id_or_path), REFERENCE_POTENTIALS, n=1)
        if not near:
            raise
        raise ModelError(f"{error}; or did you mean the reference potential {near[0]}?") from error


def start_of(
    protocol: Protocol,
    model: Potential | ReferencePotential,
    data: str | Path | None = None,
    n_replicas: int | None = None,
) -> ModelData:
    """The frames that a run begins from: models of a structure file, or test frames of the model's data.

    A reference potential or an imported model whose data are not at hand begins from the system's structure.

    Args:
        protocol: says which of the two.
        model: whose data.
        data: file of its data set, instead of where it is looked for.
        n_replicas: how many starts are wanted; the protocol's number if None.

    Raises:
        DataError: ``data`` was given and does not fit.
        SimulationError: the structure is missing or unreadable.
    """
    if protocol.initial_positions == "structure":
        return ModelData(frames=structure_frames(protocol), own=False, note="")
    try:
        if isinstance(model, Potential):
            return data_of(model.card, data)
        frames = load_dataset(model.dataset or model.id, path=data)
        return ModelData(frames=frames.select(default_split(frames.name, frames).test), own=True, note="")
    except DataError as error:
        if data is not None or (isinstance(model, Potential) and model.card.origin is None):
            raise
        frames = structure_frames(replace(protocol, initial_positions="structure", initial_file=None))
        note = f"every replica starts from {frames.name} with momenta of its own, because {error}"
        alike = frames.select(np.zeros(max(protocol.replicas, n_replicas or 1), dtype=np.int64))
        return ModelData(frames=alike, own=False, note=note)


def _dataset_of(model: Potential | ReferencePotential) -> str:
    return model.card.trained_on.dataset if isinstance(model, Potential) else model.dataset or model.id


def simulate(
    protocol: Protocol,
    potential: Potential | ReferencePotential,
    out: str | Path,
    *,
    data: str | Path | None = None,
    note: Callable[[str], None] | None = None,
    display: AbstractContextManager[Any] | None = None,
    **options: Any,
) -> list[ReplicaStatus]:
    """Run a protocol with a model, or with the potential that made its data.

    Args:
        protocol: what to run.
        potential: of :func:`find_model`.
        out: run folder.
        data: file of the model's data set, whose test frames are the starts.
        note: is told what is unusual, in one line; nobody is if None.
        display: progress display; a bar on the terminal by default.
        options: of :func:`openmm_mlbench.simulation.runner.run_protocol`.

    Raises:
        SimulationError: the model belongs to another of the package's systems.
    """
    if isinstance(potential, Potential) and options.get("platform") in PROCESSOR_PLATFORMS:
        # Also on a machine with a GPU.
        potential = potential.on("cpu")
    trained = _dataset_of(potential)
    same = _is_same_system(protocol, potential)
    start = start_of(protocol, potential, data, options.get("replicas"))
    if start.note and note is not None:
        note(start.note)
    reference = load_reference(trained) if same and _is_named(trained) else None
    window = rdf_windows_of(protocol, trained)
    if protocol.stability_criterion == "rdf" and window is None and note is not None:
        note(f"no RDF of {trained} to compare with: a collapse that only RDFs show will not end this run")
    with display or ProgressDisplay(potential.id) as progress:
        return run_protocol(
            protocol,
            potential,
            out,
            start_frames=start.frames,
            progress=progress,
            note=note,
            reference_bonds=None if reference is None else reference.bonds,
            equilibrium_A=None if reference is None else reference.bond_lengths_A,
            **{"window": window, **options},
        )


def _is_same_system(protocol: Protocol, model: Potential | ReferencePotential) -> bool:
    """Whether a protocol simulates the atoms of the model's data set, in their order.

    Raises:
        SimulationError: it simulates another of the package's systems.
    """
    # A structure of somebody's own may hold other molecules, or these in another order.
    if protocol.structure is not None:
        return False
    trained = _dataset_of(model)
    if not isinstance(model, Potential):
        system, what = model.system, "is a potential of"
    elif _is_named(trained):
        system, what = system_of(trained), "was trained on data of"
    else:
        return True
    if system != protocol.system:
        raise SimulationError(
            f"{model.id} {what} {system}, protocol {protocol.name} simulates {protocol.system}; "
            "choose a pair of the same system"
        )
    return True


def measure(run: str | Path, *, data: str | Path | None = None, mode: str = "paper") -> dict[str, Any]:
    """Analyze a run folder; force errors are measured where the model and its test frames are at hand.

    Args:
        run: folder of a simulation.
        data: file of the model's data set.
        mode: of :func:`openmm_mlbench.analysis.analyze`.
    """
    settings = read_run(run)
    if is_reference_potential(settings.model):
        return _measure_reference(settings, data, mode)
    try:
        archive = _simulated_archive(settings)
        test = data_of(archive.card, data)
    except (ModelError, DataError):
        if data is not None:
            raise
        # Analysis then shows the errors of the card.
        return analyze(run, mode=mode)
    if not test.own:
        return analyze(run, mode=mode)
    return analyze(run, mode=mode, predictor=predictor_of(archive), test_frames=test.frames)


def predictor_of(archive: Archive) -> Predictor:
    """What an archive says of frames."""
    if archive.card.origin is not None:
        module = archive.load_script().eval()
        return lambda frames: predict_frames(module, frames)
    force_field = archive.load_force_field()
    return lambda frames: predict(force_field, frames)


def _measure_reference(run: Run, data: str | Path | None, mode: str) -> dict[str, Any]:
    """Analyze a run of a reference potential; its forces are compared with the labels of its data set."""
    from openmm.app import HBonds, PDBFile

    potential = find_reference_potential(run.model)
    constraints = {"none": None, "h-bonds": HBonds}[run.record["protocol"].get("constraints", "none")]
    topology = PDBFile(str(run.folder / "topology.pdb")).topology
    try:
        # A kernel file may be another one by now.
        if json.loads(json.dumps(potential.description)) != run.record["model"]:
            return analyze(run.folder, mode=mode)
        frames = load_dataset(potential.dataset or potential.id, path=data)
        test = frames.select(default_split(frames.name, frames).test)
        if test.constraints != run.record["protocol"].get("constraints", "none"):
            return analyze(run.folder, mode=mode)
        labels = evaluate_frames(potential, topology, test.positions, test.cells, constraints=constraints)
    except (DataError, PotentialError):
        if data is not None:
            raise
        return analyze(run.folder, mode=mode)
    return analyze(run.folder, mode=mode, predictor=lambda _: labels, test_frames=test)


def _simulated_archive(run: Run) -> Archive:
    # A campaign names its models relative to its folder of results, which is above the run.
    above = (folder / run.model for folder in run.folder.resolve().parents)
    archive = find_archive(next((path for path in above if path.is_file()), run.model))
    simulated = run.record["model"].get("archive_sha256")
    if archive.sha256 != simulated:
        raise ModelError(
            f"{archive.path} has hash {archive.sha256[:12]}, {run.folder} was simulated with {str(simulated)[:12]}; "
            "put that file back, or simulate again"
        )
    return archive


def demo(out: str | Path, *, jobs: int, note: Callable[[str], None]) -> Path:
    """The main job on the embedded default; returns the path of the report."""
    from openmm_mlbench.protocol import load_protocol

    protocol = load_protocol(DEMO_PROTOCOL)
    folder = Path(out)
    runs = []
    started = time.monotonic()
    for model in DEMO_MODELS:
        run = folder / model.replace("/", "-")
        simulate(
            protocol,
            Potential.load(model),
            run,
            replicas=protocol.demo_replicas,
            length_ps=protocol.demo_length_ps,
            jobs=jobs,
            resume=run.exists(),
            note=note,
        )
        measure(run)
        runs.append(run)
    report = build_report(runs, folder / "report.html")
    note(
        f"{len(runs)} models x {protocol.demo_replicas} x {protocol.demo_length_ps:g} ps in {time.monotonic() - started:.0f} s"
    )
    return report


def archive_structure(archive: Archive) -> tuple[np.ndarray, np.ndarray]:
    """Atomic numbers (n_atoms,) and positions (n_atoms, 3) nm of the system that a model was trained on.

    Raises:
        ModelError: the model's data set is not one of ours.
    """
    name, origin = archive.card.trained_on.dataset, archive.card.origin
    if not _is_named(name):
        if origin is not None:
            tried = origin.tried_on
            return np.array(tried["atomic_numbers"]), np.array(tried["positions_A"]) * NM_PER_ANGSTROM
        raise ModelError(
            f"{archive.id} was trained on {name!r}, which has no structure here; give one with --structure FILE.pdb"
        )
    topology, positions_A = read_structure(asset_path("systems", system_of(name), "topology.pdb"))
    return topology.atomic_numbers, positions_A * NM_PER_ANGSTROM
