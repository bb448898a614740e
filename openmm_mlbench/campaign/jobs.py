"""The matrix as jobs: what each one does, what it builds on, and what it is identified by.

data -> train -> export -> check -> simulate -> analyze -> report; a shipped model begins with its check. Replicas are
jobs of their own, unless they share a Context or hills.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from openmm_mlbench import __version__
from openmm_mlbench.campaign.ledger import hash_of
from openmm_mlbench.campaign.plan import Campaign, ModelEntry, Simulating, SystemEntry, Training, merged
from openmm_mlbench.data.datasets import dataset_path, find_dataset, list_datasets
from openmm_mlbench.errors import CampaignError, DataError, MLBenchError
from openmm_mlbench.files import sha256_file
from openmm_mlbench.protocol import Protocol, load_protocol
from openmm_mlbench.reference_potentials import find_reference_potential, is_reference_potential
from openmm_mlbench.results import METRICS_VERSION

KINDS = ("data", "train", "export", "check", "simulate", "analyze", "report")
REPORT = "report"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One entry of the matrix: a row of the table.

    Args:
        model: name of the model.
        system: name of the system.
        seed: of training and simulation, or None.
    """

    model: str
    system: str
    seed: int | None


@dataclass(frozen=True, kw_only=True)
class Job:
    """One job.

    Args:
        key: its name, which is also a path below the ledger.
        kind: what is done, one of ``KINDS``.
        settings: all that decides its result but for what it builds on; plain JSON.
        how: where and how it runs, which decides nothing; plain JSON.
        needs: keys of jobs that must be done.
        follows: keys of jobs that must have ended, one of them at least well.
        gpu: whether it runs on a GPU where there is one.
        work_ps: simulated time that it stands for.
    """

    key: str
    kind: str
    settings: dict[str, Any]
    how: dict[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    follows: tuple[str, ...] = ()
    gpu: bool = False
    work_ps: float = 0.0

    @property
    def before(self) -> tuple[str, ...]:
        """Keys of all jobs that come first."""
        return self.needs + self.follows


def identify(job: Job, digests: Mapping[str, str]) -> str:
    """Hash of all that decides the job's result; ``digests`` are of the jobs before it that are done."""
    return hash_of(
        {
            "kind": job.kind,
            "settings": job.settings,
            "before": digests_before(job, digests),
        }
    )


def digests_before(job: Job, digests: Mapping[str, str]) -> dict[str, str]:
    """Of the jobs whose results it builds on; that a model was checked changes no result."""
    return {key: digests[key] for key in job.before if key in digests and not key.startswith("check/")}


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """All jobs of a campaign.

    Args:
        jobs: by key, each after those that it builds on.
        cells: keys of each cell's jobs, of which several cells may share some.
    """

    jobs: dict[str, Job]
    cells: dict[Cell, tuple[str, ...]]


def make_matrix(campaign: Campaign, *, gpus: bool = False) -> Matrix:
    """The jobs of a campaign.

    Args:
        campaign: of ``read_campaign``.
        gpus: whether simulations run on GPUs, where replicas share a Context if nothing else is said.

    Raises:
        CampaignError: a model, data set, protocol or recipe is not known, two entries share a name, or a model fits
            none of the systems.
    """
    try:
        return _make_matrix(campaign, gpus=gpus)
    except CampaignError:
        raise
    except MLBenchError as error:
        raise CampaignError(f"{campaign.path}: {error}") from error


def _make_matrix(campaign: Campaign, *, gpus: bool) -> Matrix:
    models = _named(campaign, "models", [_model_name(entry) for entry in campaign.models], campaign.models)
    places = [_Place(campaign, entry, gpus=gpus) for entry in campaign.systems]
    systems = _named(campaign, "systems", [place.name for place in places], places)
    jobs: dict[str, Job] = {}
    cells: dict[Cell, tuple[str, ...]] = {}
    for model_name, entry in models.items():
        fitting = 0
        for place in systems.values():
            for seed in campaign.seeds or (None,):
                own = list(_cell_jobs(campaign, model_name, entry, place, seed))
                if own:
                    fitting += 1
                    cells[Cell(model=model_name, system=place.name, seed=seed)] = tuple(
                        job.key for job in own
                    )
                    for job in own:
                        _add(campaign, jobs, job)
        if not fitting:
            raise CampaignError(
                f"{campaign.path}: model {model_name} was made for none of the systems {', '.join(systems)}; add its "
                "own, or leave it out"
            )
    analyses = tuple(key for key, job in jobs.items() if job.kind == "analyze")
    jobs[REPORT] = Job(key=REPORT, kind="report", settings={"version": __version__}, follows=analyses)
    return Matrix(jobs=jobs, cells=cells)


def _add(campaign: Campaign, jobs: dict[str, Job], job: Job) -> None:
    """Cells share jobs, which are then the same in all that decides their result."""
    if jobs.setdefault(job.key, job).settings != job.settings:
        raise CampaignError(
            f"{campaign.path}: two entries lead to different jobs with one name, {job.key}; give one of them a name of "
            "its own (`name:`)"
        )


def _named(campaign: Campaign, what: str, names: list[str], entries: Any) -> dict[str, Any]:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise CampaignError(
            f"{campaign.path}: {what} has {twice} twice; give one of them a name of its own (`name:`)"
        )
    wrong = next((name for name in names if "/" in name or name.startswith(".")), None)
    if wrong is not None:
        raise CampaignError(
            f"{campaign.path}: {what}: name {wrong!r} cannot be part of a path; choose another"
        )
    return dict(zip(names, entries, strict=True))


def _model_name(entry: ModelEntry) -> str:
    if entry.name is not None:
        return entry.name
    model = entry.model.removesuffix(".pt")
    return Path(model).name if entry.model.endswith(".pt") else model.replace("/", "-")


class _Place:
    """A system of the matrix with what is known about it."""

    def __init__(self, campaign: Campaign, entry: SystemEntry, *, gpus: bool) -> None:
        known = next((found for found in list_datasets() if found.name == entry.dataset), None)
        if known is None and entry.protocol is None:
            # Names what is near.
            find_dataset(entry.dataset)
        self.entry = entry
        self.data_name = Path(entry.dataset).stem if known is None else entry.dataset
        self.dataset = entry.dataset if known is not None else _path(campaign, entry.dataset)
        self.system = None if known is None else known.system
        self.data = None if entry.data is None else _path(campaign, entry.data)
        # What test frames are read from, where not by name.
        self.frames = self.data or (self.dataset if known is None else None)
        protocol = entry.protocol or str(self.system)
        if protocol.endswith(".xml"):
            protocol = _path(campaign, protocol)
        self.protocol: Protocol = load_protocol(protocol, entry.variant)
        self.protocol_argument = protocol
        self.variant = entry.variant
        self.train = merged(campaign.train, entry.train)
        self.simulate: Simulating = merged(campaign.simulate, entry.simulate)
        if self.protocol.metadynamics is None:
            # Walkers are of protocols with hills.
            self.independent = True
        else:
            self.independent = self.simulate.walkers == "independent"
        default = self.data_name
        if self.protocol.name != self.system:
            # As ethanol-gfn2-nve; the name of a protocol of one's own stays whole.
            default += f"-{self.protocol.name.removeprefix(f'{self.system}-')}"
        self.name = entry.name or default
        self.length_ps = self.simulate.length_ps or self.protocol.length_ps
        self.replicas = self.simulate.replicas or self.protocol.replicas
        asked = self.simulate.batch_replicas
        sizes = {"off": 1, "auto": self.replicas if gpus and self.simulate.platform != "Reference" else 1}
        self.batch_size = min(self.replicas, sizes.get(asked) or int(asked))
        # Refuses lengths that are no whole number of frames.
        self.protocol.n_steps(self.length_ps)
        self.gpus = gpus
        self._frames_at_hand: dict[str, str] = {}

    @property
    def is_fetched(self) -> bool:
        """Whether its data set is one of the official files."""
        if self.data:
            return False
        try:
            return find_dataset(self.dataset).fetched_from is not None
        except DataError:
            return False

    def frames_at_hand(self, model: Mapping[str, Any]) -> str:
        """What the runs of a finished model may start from and are compared with: the digest of the file, or ``absent``.

        Runs of a model whose data are not at hand start elsewhere, so that they are others once the data are there.
        """
        dataset = self.dataset
        if "reference_potential" in model:
            potential = find_reference_potential(model["reference_potential"])
            dataset = potential.dataset or potential.id
        try:
            file = Path(self.frames) if self.frames else dataset_path(dataset)
        except DataError:
            return "absent"
        if str(file) not in self._frames_at_hand:
            self._frames_at_hand[str(file)] = sha256_file(file) if file.is_file() else "absent"
        return self._frames_at_hand[str(file)]


def _path(campaign: Campaign, text: str) -> str:
    return str((campaign.folder / Path(text).expanduser()).resolve())


def _cell_jobs(
    campaign: Campaign, model_name: str, entry: ModelEntry, place: _Place, seed: int | None
) -> Iterator[Job]:
    """The jobs of one cell in order; none where a finished model was made for another system."""
    source = _source(campaign, entry, place)
    if source is None:
        return
    # In tables and figures; what was trained for one entry alone is another model.
    called = {"model": model_name}
    named = f"{model_name}/seed-{seed or 0}"
    if source:
        model: dict[str, Any] = source
        needs: tuple[str, ...] = ()
        frames: dict[str, str] = {}
        if campaign.fetch and place.is_fetched:
            # What another model of the campaign fetches would come in the middle of the runs.
            data = _data_job(campaign, place, place.data_name)
            yield data
            needs = (data.key,)
        else:
            frames = {"frames": place.frames_at_hand(source)}
        checked = f"{place.data_name}/{model_name}"
    else:
        training = merged(place.train, entry.train)
        # Systems that train alike share what was trained.
        own = place.entry.train or place.data or place.system is None
        where = place.data_name + (f"@{place.name}" if own else "")
        making = list(_training_jobs(campaign, entry, place, training, where, named, seed or 0))
        yield from making
        # Known by the training.
        frames = {}
        model, needs, checked = {}, (making[-1].key,), f"{where}/{named}"
        if own:
            called["model"] += f"@{place.name}"
    if campaign.check and "reference_potential" not in model:
        check = Job(
            key=f"check/{checked}",
            kind="check",
            settings=model | {"version": __version__},
            # Only data sets of the package have a structure that a model's card leads to.
            how={"structure": None if place.system else str(place.protocol.structure_path)},
            needs=needs,
        )
        yield check
        needs = (*needs, check.key)
    name = f"{place.name}/{named}"
    runs = list(_simulation_jobs(campaign, place, model, frames, needs, name, seed, called))
    yield from runs
    yield Job(
        key=f"analyze/{place.name}/{named}",
        kind="analyze",
        settings={"mode": campaign.analyze.mode, "metrics": METRICS_VERSION} | frames,
        how={"data": place.frames},
        follows=tuple(job.key for job in runs),
    )


def _source(campaign: Campaign, entry: ModelEntry, place: _Place) -> dict[str, Any] | None:
    """What a finished model is identified by; empty for one that is to be trained, None where it does not fit."""
    from openmm_mlbench.models.registry import ARCHITECTURES

    if entry.model in ARCHITECTURES and not entry.shipped:
        return {}
    if is_reference_potential(entry.model):
        potential = find_reference_potential(entry.model)
        if potential.system != place.system:
            return None
        return {"reference_potential": entry.model, "description": hash_of(potential.description)}
    from openmm_mlbench.export.archive import find_archive, list_archives

    name = entry.model
    if entry.shipped:
        name = f"{place.dataset}/{entry.model}"
        if name not in list_archives():
            return None
    elif entry.model.endswith(".pt"):
        name = _path(campaign, entry.model)
    archive = find_archive(name)
    if not entry.shipped and archive.card.trained_on.dataset != place.dataset and archive.card.origin is None:
        return None
    return {"archive": name, "archive_sha256": archive.sha256}


def _data_job(campaign: Campaign, place: _Place, where: str) -> Job:
    return Job(
        key=f"data/{where}",
        kind="data",
        settings={"dataset": place.dataset, "data": place.data},
        how={"fetch": campaign.fetch},
    )


def _training_jobs(
    campaign: Campaign, entry: ModelEntry, place: _Place, options: Training, where: str, named: str, seed: int
) -> Iterator[Job]:
    from openmm_mlbench.training.recipe_files import recipe_for
    from openmm_mlbench.training.start import size_in_name

    data = _data_job(campaign, place, where)
    yield data
    recipe_name = options.recipe
    if recipe_name.lower().endswith((".yaml", ".yml", ".json")):
        recipe_name = _path(campaign, recipe_name)
    # As far as it is known here; a worker of the other kind takes the same recipe, so that the result is the same.
    gpu_recipe = options.device.startswith("cuda") or (place.gpus and options.device == "auto")
    recipe = recipe_for(
        entry.model, recipe_name, place.system, options.size or size_in_name(place.dataset), gpu=gpu_recipe
    ).with_overrides(
        max_epochs=options.epochs,
        max_minutes=options.minutes,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        seed=seed,
    )
    frames: dict[str, Any] = {"size": options.size}
    if options.train_frames is not None:
        frames = {
            "train_frames": options.train_frames,
            "validation_frames": options.validation_frames,
            "test_frames": options.test_frames,
        }
    train = Job(
        key=f"train/{where}/{named}",
        kind="train",
        settings={"recipe": recipe.as_dict(), "frames": frames},
        how={
            "gpu_recipe": gpu_recipe,
            "request": {
                "model": entry.model,
                "source": place.dataset,
                "data": place.data,
                "recipe": recipe_name,
                "epochs": options.epochs,
                "minutes": options.minutes,
                "batch_size": options.batch_size,
                "learning_rate": options.learning_rate,
                "seed": seed,
                "device": options.device,
                "threads": options.threads,
                **{key: value for key, value in frames.items() if value is not None},
            },
        },
        needs=(data.key,),
        gpu=_asks_for_gpu(campaign, options.device != "cpu"),
    )
    yield train
    yield Job(
        key=f"export/{where}/{named}",
        kind="export",
        settings={"remove_mean_force": options.remove_mean_force},
        how={"data": place.frames},
        needs=(train.key,),
    )


def _simulation_jobs(
    campaign: Campaign,
    place: _Place,
    model: dict[str, Any],
    frames: dict[str, str],
    needs: tuple[str, ...],
    name: str,
    seed: int | None,
    called: dict[str, str],
) -> Iterator[Job]:
    options = place.simulate
    if place.independent:
        size = place.batch_size
        groups = [range(i, min(i + size, place.replicas)) for i in range(0, place.replicas, size)]
    else:
        groups = [range(place.replicas)]
    chosen = place.protocol
    for group in groups:
        members = list(group)
        label = f"replica-{members[0]}" if len(members) == 1 else f"replicas-{members[0]}-{members[-1]}"
        yield Job(
            key=f"simulate/{name}/{label}",
            kind="simulate",
            settings={
                "model": model,
                "protocol": chosen.sha256,
                "seed": chosen.seed if seed is None else seed,
                "length_ps": place.length_ps,
                "replicas": members,
                "walkers": "independent" if place.independent else f"{place.replicas} shared",
                "metadynamics": None if chosen.metadynamics is None else options.metadynamics,
            }
            | frames,
            how={
                "name": name,
                "campaign": {"campaign": campaign.name, **called, "system": place.name, "seed": seed},
                "protocol": place.protocol_argument,
                "variant": place.variant,
                "data": place.frames,
                "n_replicas": place.replicas,
                "timestep_ps": chosen.timestep_ps,
                "options": {key: value for key, value in asdict(options).items() if key != "given"},
            },
            needs=needs,
            gpu=_asks_for_gpu(campaign, options.platform in ("auto", "CUDA", "OpenCL", "HIP")),
            work_ps=place.length_ps * len(members),
        )


def _asks_for_gpu(campaign: Campaign, useful: bool) -> bool:
    return campaign.gpu == "yes" or (campaign.gpu == "auto" and useful)
