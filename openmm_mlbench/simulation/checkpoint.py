"""Checkpoints: what is needed to go on as if nothing had happened.

``checkpoint.json`` is the one thing that is replaced atomically; it names the
two latest checkpoints, each with its own files and their SHA-256:

    checkpoint-STEP.chk   Context.createCheckpoint: exact on the same platform and version
    checkpoint-STEP.xml   State XML, for any other platform; loses Langevin's random stream

A kill at any moment leaves at least one complete checkpoint, if there was one.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from openmm_mlbench.errors import MLBenchError, SimulationError
from openmm_mlbench.files import atomic_path, read_json, write_json
from openmm_mlbench.simulation.outputs import Offsets
from openmm_mlbench.simulation.states import parse as parse_state

INDEX = "checkpoint.json"
FORMAT_VERSION = 1
_KEPT = 2


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """One checkpoint, as checkpoint.json describes it.

    Args:
        step: integration steps done.
        time_ps: simulated time.
        offsets: lengths of the growing files at that time.
        engine: OpenMM's version, the platform and its properties.
        sha256: of each of its files, by name.
        resume: ``none``, ``exact`` or ``inexact``: how the run came this far.
        timed_steps: steps that the speed is averaged over.
        timed_seconds: time they took.
        recent: the monitor's recent frames.
        ahead_steps: how many steps beyond ``step``, that of the last frame, its Context stands.
        scheduled: whether the protocol wants one here; one of an interruption goes when the next is written.
    """

    step: int
    time_ps: float
    offsets: Offsets
    engine: dict[str, str]
    sha256: dict[str, str]
    resume: str
    timed_steps: int
    timed_seconds: float
    recent: list[dict[str, Any]] = field(default_factory=list)
    ahead_steps: int = 0
    scheduled: bool = True

    @property
    def stem(self) -> str:
        """Common part of its file names."""
        return f"checkpoint-{self.step:012d}"


def engine_description(context: Any, properties: dict[str, str]) -> dict[str, str]:
    """What has to be equal for a binary checkpoint to fit."""
    import openmm

    kept = {
        key: value
        for key, value in properties.items()
        if key in {"Precision", "DeterministicForces", "Threads", "Driver"}
    }
    return {"openmm": openmm.version.full_version, "platform": context.getPlatform().getName(), **kept}


def state_xml(context: Any) -> str:
    """Positions, velocities, parameters and the integrator's own state of a Context."""
    import openmm

    state = context.getState(positions=True, velocities=True, parameters=True, integratorParameters=True)
    return openmm.XmlSerializer.serialize(state)


def save_checkpoint(folder: Path, contents: dict[str, bytes], **known: Any) -> Checkpoint:
    """Write a checkpoint; the scheduled one before it is kept, others are removed.

    So a run that was stopped and went on leaves the files of one that was not.

    Args:
        folder: of the replica.
        contents: of ``chk``, the binary checkpoint, and ``xml``, the State.
        known: the fields of Checkpoint, but for ``sha256``.
    """
    checkpoint = Checkpoint(sha256={}, **known)
    for suffix, content in contents.items():
        name = f"{checkpoint.stem}.{suffix}"
        with atomic_path(folder / name) as temporary:
            temporary.write_bytes(content)
        checkpoint.sha256[name] = hashlib.sha256(content).hexdigest()
    earlier = [item for item in read_checkpoints(folder) if item.step < checkpoint.step and item.scheduled]
    kept = [checkpoint, *earlier][:_KEPT]
    _write_index(folder, kept)
    remove_unnamed(folder, kept)
    return checkpoint


def _write_index(folder: Path, kept: list[Checkpoint]) -> None:
    write_json(
        folder / INDEX, {"format_version": FORMAT_VERSION, "checkpoints": [asdict(item) for item in kept]}
    )


def remove_unnamed(folder: Path, checkpoints: list[Checkpoint]) -> None:
    """Remove the files of all but these checkpoints: older ones, and what a kill kept from being named."""
    named = {name for item in checkpoints for name in item.sha256}
    for path in folder.glob("checkpoint-*"):
        if path.name not in named:
            path.unlink(missing_ok=True)


def read_checkpoints(folder: Path) -> list[Checkpoint]:
    """The checkpoints that a run can go on from, newest first: whole ones, then those that have only their State XML.

    Raises:
        SimulationError: checkpoint.json is damaged.
    """
    path = folder / INDEX
    if not path.is_file():
        return []
    try:
        record = read_json(path)
        version = record["format_version"]
        found = [
            Checkpoint(**{**item, "offsets": Offsets(**item["offsets"])}) for item in record["checkpoints"]
        ]
    except (MLBenchError, KeyError, TypeError, ValueError) as error:
        raise SimulationError(
            f"{path}: not a readable checkpoint index ({error}); remove it to start this replica again"
        ) from error
    if version != FORMAT_VERSION:
        raise SimulationError(
            f"{path}: of format version {version}, this package reads {FORMAT_VERSION}; "
            "go on with the package that began it"
        )
    exact = [item for item in found if _are_whole(folder, item, item.sha256)]
    return exact + [
        item for item in found if item not in exact and _are_whole(folder, item, (f"{item.stem}.xml",))
    ]


def load_checkpoint(folder: Path, checkpoint: Checkpoint, context: Any, properties: dict[str, str]) -> str:
    """Put a Context into the state of the checkpoint.

    Returns:
        ``exact``, or ``inexact`` where only the State XML could be used.

    Raises:
        SimulationError: neither file can be loaded.
    """
    import openmm

    content = read_binary(folder, checkpoint, engine_description(context, properties))
    if content is not None:
        try:
            context.loadCheckpoint(content)
        except openmm.OpenMMException:
            # The State below says the same to all but the last bit.
            pass
        else:
            return "exact"
    try:
        context.setState(openmm.XmlSerializer.deserialize(read_state(folder, checkpoint)))
    except (openmm.OpenMMException, ValueError) as error:
        raise SimulationError(
            f"{folder / checkpoint.stem}.xml: does not fit this System ({' '.join(str(error).split())}); "
            "resume with the model and protocol that the run began with"
        ) from error
    return "inexact"


def read_binary(folder: Path, checkpoint: Checkpoint, engine: dict[str, str]) -> bytes | None:
    """The binary checkpoint, where it is whole and was written by an engine of this description."""
    if checkpoint.engine != engine or not _are_whole(folder, checkpoint, (f"{checkpoint.stem}.chk",)):
        return None
    return (folder / f"{checkpoint.stem}.chk").read_bytes()


def read_state(folder: Path, checkpoint: Checkpoint) -> str:
    """The State XML.

    Raises:
        ValueError: it holds something else.
    """
    text = (folder / f"{checkpoint.stem}.xml").read_text(encoding="utf-8")
    parse_state(text)
    return text


def go_back_to(folder: Path, checkpoint: Checkpoint) -> None:
    """Forget the checkpoints after this one: what follows is simulated again."""
    kept = [item for item in read_checkpoints(folder) if item.step <= checkpoint.step]
    _write_index(folder, kept)
    remove_unnamed(folder, kept)


def _are_whole(folder: Path, checkpoint: Checkpoint, names: Iterable[str]) -> bool:
    """OpenMM loads some cut checkpoints without a word, so their hashes are compared."""
    wanted = list(names)
    for name in wanted:
        path = folder / name
        # A name with a folder in it was not written by us.
        if path.parent != folder or not path.is_file():
            return False
        if hashlib.sha256(path.read_bytes()).hexdigest() != checkpoint.sha256.get(name):
            return False
    return bool(wanted)
