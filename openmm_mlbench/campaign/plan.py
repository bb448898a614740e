"""Campaign files: YAML into frozen dataclasses; every mistake names file, line and key."""

import dataclasses
import difflib
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from openmm_mlbench.errors import CampaignError

GPU = ("auto", "yes", "no")
MODES = ("paper", "mdsim", "both")


@dataclass(frozen=True, kw_only=True)
class Training:
    """How networks are trained; None leaves a value to the recipe or the data set.

    Args:
        recipe: name, or a file (relative to the campaign's).
        size: label of the numbers of training and validation frames, such as ``1k``.
        train_frames: training frames, instead of ``size``.
        validation_frames: with train_frames.
        test_frames: with train_frames.
        epochs: upper limit.
        minutes: upper limit of computing time.
        batch_size: frames per step.
        learning_rate: at the start.
        remove_mean_force: of direct networks, when they are exported.
        device: ``cpu``, ``cuda`` or ``auto``.
        threads: of torch on processors.
        given: keys that stand in the file.
    """

    recipe: str = "fast"
    size: str | None = None
    train_frames: int | None = None
    validation_frames: int = 50
    test_frames: int = 1000
    epochs: int | None = None
    minutes: float | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    remove_mean_force: bool = False
    device: str = "auto"
    threads: int = 1
    given: tuple[str, ...] = dataclasses.field(default=(), metadata={"key": False})


@dataclass(frozen=True, kw_only=True)
class Simulating:
    """How protocols are run; None leaves a value to the protocol.

    Args:
        length_ps: of each replica.
        replicas: of each model on each system.
        platform: OpenMM platform, or ``auto``.
        precision: of forces on the platform, or ``auto``.
        driver: what brings the network into OpenMM, or ``auto``.
        threads: CPU threads of one job.
        batch_replicas: replicas in one Context, which are one job: a number, ``off``, or ``auto``: on GPUs all of a
            run, if a short timing finds that faster.
        metadynamics: ``native``, ``plumed`` or ``auto``.
        walkers: ``independent``, or ``shared``: the replicas feel each other's hills and are one job.
        given: keys that stand in the file.
    """

    length_ps: float | None = None
    replicas: int | None = None
    platform: str = "auto"
    precision: str = "auto"
    driver: str = "auto"
    threads: int = 1
    batch_replicas: str = "auto"
    metadynamics: str = "auto"
    walkers: str = "independent"
    given: tuple[str, ...] = dataclasses.field(default=(), metadata={"key": False})


@dataclass(frozen=True, kw_only=True)
class Analysing:
    """How runs are measured.

    Args:
        mode: ``paper``, ``mdsim`` or ``both``.
    """

    mode: str = "paper"


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """One model of the matrix.

    Args:
        model: architecture to train; id of a shipped model or reference potential; or an archive, relative to the
            campaign's file.
        name: in folders and tables; the model itself if None.
        shipped: take ``<data set>/<architecture>`` instead of training.
        train: instead of the campaign's.
    """

    model: str
    name: str | None = None
    shipped: bool = False
    train: Training | None = None


@dataclass(frozen=True, kw_only=True)
class SystemEntry:
    """One system of the matrix.

    Args:
        dataset: whose data models are trained on and compared with.
        data: its file, instead of where it is looked for.
        protocol: name or file; that of the data set's system if None.
        variant: of the protocol.
        name: in folders and tables; data set and variant if None.
        train: instead of the campaign's.
        simulate: instead of the campaign's.
    """

    dataset: str
    data: str | None = None
    protocol: str | None = None
    variant: str | None = None
    name: str | None = None
    train: Training | None = None
    simulate: Simulating | None = None


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """What ``--cluster slurm`` asks for; one SLURM job holds one worker.

    Args:
        workers: SLURM jobs.
        cores: of each.
        memory: of each, as ``16 GB``.
        walltime: of each, as ``08:00:00``.
        gpus: of each, 0 or 1; for more ask for more workers.
        partition: of the cluster, or None.
        account: to charge, or None.
        interface: of the network that workers reach the scheduler through, such as ``ib0``.
        setup: shell lines before the worker starts.
        directives: further ``#SBATCH`` lines.
    """

    workers: int = 1
    cores: int = 1
    memory: str = "8 GB"
    walltime: str = "08:00:00"
    gpus: int = 0
    partition: str | None = None
    account: str | None = None
    interface: str | None = None
    setup: tuple[str, ...] = ()
    directives: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Campaign:
    """A campaign.

    Args:
        models: of the matrix.
        systems: of the matrix.
        seeds: of the matrix: of training and of simulation. Empty: one of each, training with 0 and simulation with
            the protocol's own.
        name: for the report and the progress.
        train: how, where an entry does not say otherwise.
        simulate: how, where a system does not say otherwise.
        analyze: how.
        check: prove a model's claims before it is simulated.
        fetch: download missing official data.
        retries: of a job that died or failed in the engine.
        gpu: whether training and simulation ask for a GPU: ``yes``, ``no``, or ``auto``: where there are any.
        cluster: for ``--cluster slurm``.
        path: file it was read from.
    """

    models: tuple[ModelEntry, ...]
    systems: tuple[SystemEntry, ...]
    seeds: tuple[int, ...] = ()
    name: str = "campaign"
    train: Training = dataclasses.field(default_factory=Training)
    simulate: Simulating = dataclasses.field(default_factory=Simulating)
    analyze: Analysing = dataclasses.field(default_factory=Analysing)
    check: bool = True
    fetch: bool = False
    retries: int = 2
    gpu: str = "auto"
    cluster: Cluster = dataclasses.field(default_factory=Cluster)
    path: Path = dataclasses.field(default=Path(), metadata={"key": False})

    @property
    def folder(self) -> Path:
        """What relative paths in it start from."""
        return self.path.resolve().parent


# Entries that may be a plain string: the key it stands for.
_SHORT = {ModelEntry: "model", SystemEntry: "dataset"}
_CHOICES: dict[tuple[type, str], tuple[Any, ...]] = {
    (Campaign, "gpu"): GPU,
    (Analysing, "mode"): MODES,
    (Cluster, "gpus"): (0, 1),
    (Simulating, "walkers"): ("independent", "shared"),
    (Simulating, "metadynamics"): ("auto", "native", "plumed"),
}
_POSITIVE = {
    "length_ps", "replicas", "threads", "epochs", "minutes", "batch_size", "learning_rate",
    "train_frames", "validation_frames", "workers", "cores",
}  # fmt: skip
_AT_LEAST_ZERO = {"retries", "gpus", "test_frames"}


def read_campaign(path: str | Path) -> Campaign:
    """Read and check a campaign.

    Raises:
        CampaignError: missing, not valid YAML, an unknown or repeated key, a value of another kind; file, line and
            key are named.
    """
    import yaml

    file = Path(path)
    try:
        node = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text"
        raise CampaignError(f"{file}: cannot be read ({reason}); give the YAML file of a campaign") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{file} line {mark.line + 1}" if mark is not None else str(file)
        raise CampaignError(
            f"{where}: not valid YAML ({getattr(error, 'problem', error)}); correct it"
        ) from error
    reader = _Reader(file)
    campaign: Campaign = reader.read(Campaign, node, "")
    campaign = dataclasses.replace(campaign, path=file)
    for what in ("models", "systems"):
        if not getattr(campaign, what):
            raise CampaignError(f"{file}: {what} is empty; a campaign needs at least one")
    return campaign


class _Reader:
    """Turns the nodes of one file into dataclasses."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def wrong(self, node: Any, key: str, what: str) -> CampaignError:
        line = node.start_mark.line + 1 if node is not None else 1
        return CampaignError(f"{self.file} line {line}: {key or 'the file'}: {what}")

    def read(self, wanted: Any, node: Any, key: str) -> Any:
        """The value of a node, which must be of the wanted type."""
        import yaml

        if dataclasses.is_dataclass(wanted):
            return self._read_class(wanted, node, key)
        origin, arguments = get_origin(wanted), get_args(wanted)
        if origin in (Union, types.UnionType):
            if node.tag.endswith(":null"):
                return None
            return self.read(next(a for a in arguments if a is not type(None)), node, key)
        if origin is tuple:
            if not isinstance(node, yaml.SequenceNode):
                raise self.wrong(node, key, f"wanted a list, as `{key}: [...]`")
            return tuple(self.read(arguments[0], item, f"{key}[{i}]") for i, item in enumerate(node.value))
        return self._read_plain(wanted, node, key)

    def _read_plain(self, wanted: Any, node: Any, key: str) -> Any:
        import yaml

        words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}[wanted]
        if not isinstance(node, yaml.ScalarNode):
            raise self.wrong(node, key, f"wanted {words}")
        try:
            value = yaml.SafeLoader("").construct_object(node)
        except (ValueError, yaml.YAMLError):
            value = None
        name = key.rpartition(".")[2]
        # YAML 1.1 takes a bare yes or no for a truth value, and 08:00:00 for seconds.
        if wanted is str and value is not None:
            value = node.value
        # And 1e-3, without a point, for a text.
        if wanted is float and (type(value) is int or isinstance(value, str)):
            try:
                value = float(value)
            except ValueError:
                value = None
        if type(value) is not wanted:
            raise self.wrong(node, key, f"{node.value!r} is not {words}")
        if name in _POSITIVE and not 0 < value < float("inf"):
            raise self.wrong(node, key, f"{node.value} must be larger than 0")
        if (
            name == "batch_replicas"
            and value not in ("auto", "off")
            and not (value.isdecimal() and int(value))
        ):
            raise self.wrong(node, key, f"{node.value!r} is not auto, off, or a number of replicas")
        if name in _AT_LEAST_ZERO and value < 0:
            raise self.wrong(node, key, f"{node.value} must be 0 or larger")
        return value

    def _read_class(self, wanted: Any, node: Any, key: str) -> Any:
        import yaml

        short = _SHORT.get(wanted)
        if short is not None and isinstance(node, yaml.ScalarNode):
            return wanted(**{short: self.read(str, node, f"{key}.{short}")})
        if not isinstance(node, yaml.MappingNode):
            known = ", ".join(_keys(wanted))
            raise self.wrong(node, key, f"wanted keys and values; known keys are {known}")
        values: dict[str, Any] = {}
        hints = get_type_hints(wanted)
        for name_node, value_node in node.value:
            name = str(name_node.value)
            full = f"{key}.{name}" if key else name
            if name not in _keys(wanted):
                raise self.wrong(name_node, full, _unknown(name, _keys(wanted)))
            if name in values:
                raise self.wrong(name_node, full, "stands there twice; leave one out")
            values[name] = self.read(hints[name], value_node, full)
            choices = _CHOICES.get((wanted, name))
            if choices is not None and values[name] not in choices:
                raise self.wrong(
                    value_node, full, f"{values[name]!r} is not one of {', '.join(map(str, choices))}"
                )
        lacking = [
            field.name
            for field in dataclasses.fields(wanted)
            if field.default is dataclasses.MISSING
            and field.default_factory is dataclasses.MISSING
            and field.name not in values
        ]
        if lacking:
            raise self.wrong(node, key, f"lacks {', '.join(lacking)}")
        if "given" in wanted.__dataclass_fields__:
            values["given"] = tuple(values)
        return wanted(**values)


def _keys(wanted: Any) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(wanted) if field.metadata.get("key", True))


def _unknown(name: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
    return f"is not known; {hint}"


def merged(base: Any, own: Any | None) -> Any:
    """The campaign's options with those that an entry gives in their place."""
    if own is None:
        return base
    return dataclasses.replace(base, **{name: getattr(own, name) for name in own.given})
