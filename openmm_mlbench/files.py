"""Writing without loss: a temporary name beside the target, fsync, rename."""

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from openmm_mlbench.errors import MLBenchError

# In folders that one process at a time may write to.
LOCK = ".lock"


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path in the target's folder; rename it on success.

    A reader sees either the old file or the complete new one.  On any
    exception (a full disk among them) the temporary file is removed and the
    old file stays as it was.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(
        dir=target.parent, prefix=f".{target.name}.", suffix=".tmp" + target.suffix
    )
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        # mkstemp makes files private; a result is as readable as any other new file.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, target)
        fsync_folder(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def fsync_folder(folder: str | os.PathLike[str]) -> None:
    """Make a rename in this folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write JSON atomically; NaN and Infinity are refused (use null and a status)."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read JSON; a damaged file gives one line that names it."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise MLBenchError(f"{path}: not valid JSON ({error}); restore or regenerate it") from error


def finite_or_none(value: float | None) -> float | None:
    """A JSON number, or None for NaN and Infinity."""
    if value is None or not math.isfinite(value):
        return None
    return float(value)


def sha256_file(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file as a hexadecimal string."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def locked(folder: Path, error_class: type[MLBenchError], wait_s: float = 0.0) -> Iterator[None]:
    """Keep other writers out of a folder for as long as this process lives.

    Args:
        folder: to write in.
        error_class: what is raised.
        wait_s: how long to wait for another process.

    Raises:
        MLBenchError: of the given class; another process writes there.
    """
    lock = FileLock(folder / LOCK, timeout=wait_s)
    try:
        lock.acquire()
    except Timeout as error:
        raise error_class(
            f"{folder}: another process is writing there; wait for it or choose another folder"
        ) from error
    except OSError as error:
        raise error_class(f"{folder}: cannot be written ({error.strerror}); choose another folder") from error
    try:
        yield
    finally:
        lock.release()
