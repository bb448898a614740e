"""Archives from strangers: nothing is written outside the folder, and nothing but plain files."""

import bz2
import gzip
import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path, PurePosixPath
from typing import IO, Any, NoReturn

from openmm_mlbench.data.npz import reason
from openmm_mlbench.errors import DataError

_CHUNK = 1 << 20
_MAX_MEMBERS = 100_000
# By what a file begins with: its name may be that of a part.
_COMPRESSIONS: dict[bytes, Any] = {b"BZh": bz2.open, b"\x1f\x8b": gzip.open, b"\xfd7zXZ": lzma.open}


def unpack(
    archive: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    members: tuple[str, ...] = (),
    max_bytes: int,
) -> tuple[Path, ...]:
    """Unpack a tar (plain, bz2, gz, xz) or zip archive into a new folder.

    The whole archive is looked at before the call returns: one bad member and it is refused, also
    where that member was not asked for.  What was written by then stays in ``folder`` for the
    caller to remove.

    Args:
        archive: the file.
        folder: a new, empty folder.
        members: names that are wanted; all files if empty.
        max_bytes: most that the whole archive may unpack to.

    Returns:
        The files written.

    Raises:
        DataError: a member is a link or device, leaves the folder or comes twice; the archive is
            damaged, too large, or lacks a wanted member.
    """
    path, target = Path(archive), Path(folder)
    target.mkdir(parents=True)
    walk = _zip_members if zipfile.is_zipfile(path) else _tar_members
    written: dict[str, Path] = {}
    seen: set[str] = set()
    total = 0
    try:
        for count, (name, size, is_folder, content) in enumerate(walk(path, max_bytes)):
            clean = _safe_name(path, name)
            total += size
            # Names that differ in case are one file on some disks.
            if clean.casefold() in seen and not is_folder:
                _refuse(path, name, "comes twice")
            if total > max_bytes or count >= _MAX_MEMBERS:
                _too_large(path, max_bytes)
            seen.add(clean.casefold())
            if not is_folder and (not members or clean in members):
                written[clean] = _write(path, target, clean, size, content)
    except DataError:
        raise
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError, ValueError) as error:
        raise DataError(f"{path}: truncated or no archive ({reason(error)}); download it again") from error
    except (OSError, RuntimeError, NotImplementedError) as error:
        # bz2 and gzip report damage as OSError without a number; encrypted zips as RuntimeError.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise DataError(f"{path}: damaged, or packed in an unknown way ({reason(error)})") from error
    missing = [name for name in members if name not in written]
    if missing:
        raise DataError(f"{path}: holds no {missing[0]}; this is another archive than expected")
    return tuple(written.values())


def _refuse(path: Path, name: str, why: str) -> NoReturn:
    raise DataError(
        f"{path}: member {name[:100]!r} {why}; this is no honest data archive, and it was not used"
    )


def _too_large(path: Path, max_bytes: int) -> NoReturn:
    raise DataError(
        f"{path}: unpacks to more than {max_bytes:,} bytes; this is no honest data archive, and it was not used"
    )


def _safe_name(path: Path, name: str) -> str:
    """The name as a relative path with forward slashes."""
    parts = PurePosixPath(name).parts
    if not name or name.startswith("/") or ".." in parts or "\\" in name or not name.isprintable():
        _refuse(path, name, "would leave the folder")
    if ":" in parts[0] if parts else True:
        _refuse(path, name, "would leave the folder")
    return "/".join(parts)


def _write(path: Path, target: Path, name: str, size: int, content: IO[bytes]) -> Path:
    place = target.joinpath(*name.split("/"))
    # The folder is new and holds no links; O_EXCL makes sure of the last part of the path.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(place, flags, 0o644)
    except (FileExistsError, NotADirectoryError):
        _refuse(path, name, "comes twice")
    with open(descriptor, "wb") as file:
        left = size
        while left and (chunk := content.read(min(_CHUNK, left))):
            file.write(chunk)
            left -= len(chunk)
        if left or content.read(1):
            raise DataError(
                f"{path}: member {name[:100]!r} has not the {size:,} bytes that it claims; download it again"
            )
        file.flush()
        os.fsync(file.fileno())
    return place


class _Limited:
    """A stream that ends in an error after so many bytes: headers can be bombs too."""

    def __init__(self, path: Path, stream: Any, limit: int) -> None:
        self.path, self.stream, self.left, self.limit = path, stream, limit, limit

    def read(self, size: int = -1) -> bytes:
        data: bytes = self.stream.read(min(size, _CHUNK) if size > 0 else _CHUNK)
        self.left -= len(data)
        if self.left < 0:
            _too_large(self.path, self.limit)
        return data


def _tar_members(path: Path, max_bytes: int) -> Iterator[tuple[str, int, bool, Any]]:
    with open(path, "rb") as file:
        begin = file.read(8)
    opener = next((opener for magic, opener in _COMPRESSIONS.items() if begin.startswith(magic)), open)
    with closing(opener(path, "rb")) as stream:
        # Room for the headers and padding of each member.
        limited = _Limited(path, stream, max_bytes + 16 * _CHUNK)
        with tarfile.open(fileobj=limited, mode="r|") as archive:  # type: ignore[call-overload]
            for member in archive:
                if not (member.isreg() or member.isdir()):
                    _refuse(path, member.name, "is a link or device")
                if member.issparse():
                    _refuse(path, member.name, "is sparse")
                yield member.name, member.size, member.isdir(), archive.extractfile(member)
        # Checksums of the compression stand behind the end of the archive.
        while limited.read():
            pass


def _zip_members(path: Path, max_bytes: int) -> Iterator[tuple[str, int, bool, Any]]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in {0, stat.S_IFREG, stat.S_IFDIR}:
                _refuse(path, info.filename, "is a link or device")
            if info.file_size > max_bytes:
                _too_large(path, max_bytes)
            with archive.open(info) as content:
                yield info.orig_filename, info.file_size, info.is_dir(), content
