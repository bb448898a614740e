"""Run folders: what lies where, who may write, what may be removed.

RUN/run.json        what was simulated, with every hash, version and seed
RUN/protocol.xml    copy of the protocol
RUN/topology.pdb    copy of the structure
RUN/replica-0/      trajectory.dcd, log.csv, status.json, checkpoints, dossier/ after a collapse;
                    HILLS and COLVAR of metadynamics
RUN/walkers/        where walkers share hills through PLUMED
RUN/metrics.json    written by the analysis
"""

import re
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from openmm_mlbench import files
from openmm_mlbench.errors import MLBenchError, SimulationError
from openmm_mlbench.files import LOCK, finite_or_none, read_json, write_json

RUN = "run.json"
STATUS = "status.json"
# Links to the HILLS of all walkers, under the names that PLUMED looks for.
WALKERS = "walkers"
FORMAT = "openmm-mlbench run"
STATES = ("running", "finished", "unstable", "interrupted", "failed")
_RUN_FILES = (RUN, "protocol.xml", "topology.pdb", "metrics.json", "report.html")
_REPLICA_FILES = (
    "trajectory.dcd",
    "log.csv",
    STATUS,
    "checkpoint.json",
    "HILLS",
    "COLVAR",
    "plumed.dat",
    "plumed.log",
    "searched-lists.txt",
)
_DOSSIER_FILES = ("dossier.json", "frames.csv", "frames.dcd", "full-rate.csv", "full-rate.dcd", "error.txt")
_REPLICA_FOLDER = re.compile(r"replica-\d+")
# What a kill leaves of a file that was being written, see files.atomic_path.
_TEMPORARY = re.compile(
    r"\.(checkpoint-\d+\.(chk|xml)|"
    + "|".join(re.escape(name) for name in (*_RUN_FILES, *_REPLICA_FILES, *_DOSSIER_FILES))
    + r")\.[a-z0-9_]{8}\.tmp(\.\w+)?"
)


@dataclass(frozen=True, kw_only=True)
class ReplicaStatus:
    """Where a replica stands; status.json.

    Args:
        replica: its number.
        state: ``running``, ``finished``, ``unstable`` (it collapsed), ``interrupted`` or ``failed``.
        reason: code of a collapse or failure, empty otherwise.
        message: the same for people, one line.
        step: integration steps done.
        time_ps: simulated time.
        length_ps: simulated time wanted.
        stable_ps: time of the first offending frame of a collapse, or None.
        n_frames: frames in trajectory.dcd.
        steps_per_second: mean over the loop, without start and warm-up; None before the first frame.
        resume: ``none``, ``exact`` or ``inexact`` (went on from State XML on another platform or version).
        platform: name and properties of the platform.
        batch: numbers of the replicas that it shared a Context with, itself among them; None: it had its own.
    """

    replica: int
    state: str
    length_ps: float
    reason: str = ""
    message: str = ""
    step: int = 0
    time_ps: float = 0.0
    stable_ps: float | None = None
    n_frames: int = 0
    steps_per_second: float | None = None
    resume: str = "none"
    platform: dict[str, str] | None = None
    batch: list[int] | None = None

    def __post_init__(self) -> None:
        if self.state not in STATES:
            raise SimulationError(f"state {self.state!r} is not one of {', '.join(STATES)}")

    def has_ended(self, n_steps: int) -> bool:
        """A collapse is final; a finished replica is done unless more steps are wanted."""
        return self.state == "unstable" or (self.state == "finished" and self.step >= n_steps)

    def write(self, folder: Path) -> None:
        """Write status.json."""
        record = asdict(self)
        record["steps_per_second"] = finite_or_none(self.steps_per_second)
        write_json(folder / STATUS, record)


def read_status(folder: Path) -> ReplicaStatus | None:
    """The status of a replica, or None before it began.

    Raises:
        SimulationError: status.json is damaged.
    """
    path = folder / STATUS
    if not path.is_file():
        return None
    try:
        return ReplicaStatus(**read_json(path))
    except (MLBenchError, TypeError) as error:
        raise SimulationError(
            f"{path}: not a readable status ({error}); start again with --overwrite"
        ) from error


def replica_folder(out: Path, replica: int) -> Path:
    """The folder of one replica."""
    return out / f"replica-{replica}"


def disk_error(folder: Path, error: OSError, when: str, resume_ps: float = 0.0) -> SimulationError:
    """The one line for a full disk, and for whatever else keeps us from writing."""
    reason = error.strerror or str(error)
    return SimulationError(
        f"{folder}: cannot write {when} ({reason}); free some space and go on from {resume_ps:g} ps with --resume"
    )


def locked(folder: Path, wait_s: float = 0.0) -> AbstractContextManager[None]:
    """Keep other writers out of a folder of a run, as :func:`openmm_mlbench.files.locked` does.

    Raises:
        SimulationError: another process writes there.
    """
    return files.locked(folder, SimulationError, wait_s)


def check_folder(out: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuse a folder that holds something else; nothing is made.

    Raises:
        SimulationError: it holds a run and neither resume nor overwrite was asked for, or holds other things.
    """
    if resume and overwrite:
        raise SimulationError("resume and overwrite exclude each other; choose one")
    if (out / RUN).is_file():
        if not (resume or overwrite):
            raise SimulationError(
                f"{out}: holds a run already; use --resume to go on, --overwrite, or another folder"
            )
        read_run(out)
    elif out.is_dir() and any(
        path.name != LOCK and not _TEMPORARY.fullmatch(path.name) for path in out.iterdir()
    ):
        # Another process of the same run may have begun it between the two questions.
        if not (out / RUN).is_file():
            raise SimulationError(f"{out}: holds files but no {RUN}; choose an empty or new folder")
        check_folder(out, resume=resume, overwrite=overwrite)


def make_folder(out: Path) -> None:
    """Create the run's folder.

    Raises:
        SimulationError: it cannot be made.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SimulationError(f"{out}: cannot be made ({error.strerror}); choose another folder") from error


def read_run(out: Path) -> dict[str, Any]:
    """run.json.

    Raises:
        SimulationError: damaged, or not written by this package.
    """
    try:
        record = read_json(out / RUN)
    except (OSError, MLBenchError) as error:
        raise SimulationError(f"{out}: {RUN} cannot be read ({error}); choose another folder") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise SimulationError(f"{out}: its {RUN} is not of this package; choose another folder")
    return record


def remove_run(out: Path) -> None:
    """Remove the files of a run, and nothing that this package did not write.

    Raises:
        SimulationError: a replica is still running.
    """
    for folder in out.glob("replica-*"):
        if not _REPLICA_FOLDER.fullmatch(folder.name) or folder.is_symlink() or not folder.is_dir():
            continue
        with locked(folder):
            remove_replica(folder)
        (folder / LOCK).unlink(missing_ok=True)
        if not any(folder.iterdir()):
            folder.rmdir()
    _remove_links(out / WALKERS)
    # run.json last, because it is what marks the folder as ours.
    for name in reversed(_RUN_FILES):
        (out / name).unlink(missing_ok=True)


def _remove_links(folder: Path) -> None:
    if folder.is_dir() and not folder.is_symlink():
        for path in folder.glob("HILLS.*"):
            if path.is_symlink():
                path.unlink()
        if not any(folder.iterdir()):
            folder.rmdir()


def remove_replica(folder: Path) -> None:
    """Remove the files of one replica; its lock stays with whoever holds it."""
    for path in [*(folder / name for name in _REPLICA_FILES), *folder.glob("checkpoint-*")]:
        path.unlink(missing_ok=True)
    remove_temporaries(folder)
    remove_dossier(folder)


def remove_temporaries(folder: Path) -> None:
    """Remove what a kill left of files that were being written."""
    if folder.is_dir() and not folder.is_symlink():
        for path in folder.iterdir():
            if _TEMPORARY.fullmatch(path.name):
                path.unlink(missing_ok=True)


def remove_dossier(folder: Path) -> None:
    """Remove what was written about a collapse or failure."""
    dossier = folder / "dossier"
    remove_temporaries(dossier)
    if dossier.is_dir() and not dossier.is_symlink():
        for name in _DOSSIER_FILES:
            (dossier / name).unlink(missing_ok=True)
        if not any(dossier.iterdir()):
            dossier.rmdir()
