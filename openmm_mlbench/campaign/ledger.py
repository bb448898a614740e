"""The ledger: what was done, with the hashes that say so, and what failed and why.

``RESULTS/ledger/JOB/IDENTITY.json``, one file for each job and each way to do it, so that nothing that was finished is
forgotten when a campaign changes and changes back. The identity of a job is the hash of all that decides its result: its
settings and the digests of what it builds on. Where it runs is not part of it: platform, threads, workers, batches.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from openmm_mlbench.errors import CampaignError, MLBenchError
from openmm_mlbench.files import read_json, sha256_file, write_json

FOLDER = "ledger"
FORMAT = "openmm-mlbench job"
FORMAT_VERSION = 1
DONE, FAILED, STOPPED = "done", "failed", "stopped"


def hash_of(value: Any) -> str:
    """SHA-256 of plain values, the same for equal ones."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Output:
    """One file that a job left.

    Args:
        sha256: of its content.
        size: bytes.
        mtime_ns: a file of this size and time is not hashed again.
    """

    sha256: str
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> "Output":
        """Of a file that is there."""
        stat = path.stat()
        return cls(sha256=sha256_file(path), size=stat.st_size, mtime_ns=stat.st_mtime_ns)

    def is_at(self, path: Path) -> bool:
        """Whether the file is there and holds what it held."""
        try:
            stat = path.stat()
        except OSError:
            return False
        if stat.st_size != self.size:
            return False
        return stat.st_mtime_ns == self.mtime_ns or sha256_file(path) == self.sha256


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One try.

    Args:
        where: host, process, and worker or GPU.
        began: UTC.
        seconds: that it took.
        outcome: ``done``, ``failed``, ``stopped`` or ``died``.
        reason: one line, empty where all went well.
    """

    where: str
    began: str
    seconds: float
    outcome: str
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Record:
    """What is known of one job.

    Args:
        key: of the job.
        identity: hash of all that decides its result.
        settings: what was hashed, for readers.
        state: ``done``, ``failed`` or ``stopped``.
        reason: of a failure, one line.
        digest: hash of its outputs, which jobs that build on it are identified by.
        outputs: by path relative to the results, or absolute for files from elsewhere.
        facts: numbers for the table, plain JSON.
        attempts: in order.
    """

    key: str
    identity: str
    settings: dict[str, Any]
    state: str
    reason: str = ""
    digest: str = ""
    outputs: dict[str, Output] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    attempts: tuple[Attempt, ...] = ()

    def with_attempt(self, attempt: Attempt) -> "Record":
        """The same with one more try."""
        return replace(self, attempts=(*self.attempts, attempt))

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Record":
        """Inverse of :meth:`as_json`."""
        known = {key: value for key, value in values.items() if key in cls.__dataclass_fields__}
        known["outputs"] = {path: Output(**item) for path, item in known["outputs"].items()}
        known["attempts"] = tuple(Attempt(**item) for item in known["attempts"])
        return cls(**known)


class Ledger:
    """The records below a folder of results.

    Args:
        root: folder of results.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, key: str) -> Path:
        """Where the records of a job lie."""
        return self.root / FOLDER / key

    def path(self, key: str, identity: str) -> Path:
        """The record of a job done in one way."""
        return self.folder(key) / f"{identity[:16]}.json"

    def read(self, key: str, identity: str) -> Record | None:
        """A record, or None where there is none."""
        path = self.path(key, identity)
        record = self._read(path) if path.is_file() else None
        return record if record is not None and record.identity == identity else None

    def read_all(self, key: str) -> list[Record]:
        """Every way in which a job was done, in no order."""
        return [self._read(path) for path in sorted(self.folder(key).glob("*.json"))]

    def _read(self, path: Path) -> Record:
        try:
            values = read_json(path)
            if values.get("format") != FORMAT or values.get("format_version") != FORMAT_VERSION:
                raise CampaignError(f"{path}: not a record of this version; use another folder of results")
            return Record.from_json(values)
        except (MLBenchError, OSError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, CampaignError):
                raise
            raise CampaignError(
                f"{path}: not a readable record ({error}); remove it to have this job looked at again"
            ) from error

    def write(self, record: Record) -> None:
        """Write a record; only whoever holds the lease of the job may."""
        write_json(self.path(record.key, record.identity), record.as_json())

    def add_attempt(self, key: str, identity: str, settings: dict[str, Any], attempt: Attempt) -> Record:
        """Note a try that could not write for itself, because its process died."""
        record = self.read(key, identity) or Record(
            key=key, identity=identity, settings=settings, state=attempt.outcome
        )
        if record.state != DONE:
            record = replace(record, state=FAILED, reason=attempt.reason)
        record = record.with_attempt(attempt)
        self.write(record)
        return record

    def is_valid(self, record: Record | None) -> bool:
        """Whether a job is done and all that it left is still what it was."""
        return (
            record is not None
            and record.state == DONE
            and all(output.is_at(self.root / path) for path, output in record.outputs.items())
        )

    def outputs_of(self, paths: Iterable[str | os.PathLike[str]]) -> dict[str, Output]:
        """Hashes of files, by path relative to the results where they lie below."""
        return {str(path): Output.of(self.root / path) for path in sorted(map(str, paths))}


def digest_of(outputs: dict[str, Output]) -> str:
    """One hash for all outputs."""
    return hash_of({path: output.sha256 for path, output in outputs.items()})
