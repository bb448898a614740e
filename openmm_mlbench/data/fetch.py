"""Official data files: downloaded, checked, unpacked and kept in a cache.

A cache folder holds one folder per official file: the file (or what was unpacked of it), and
``fetched.json`` with its origin, size and checksums.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from openmm_mlbench.data.datasets import CACHE_VARIABLE, cache_folder, dataset_path, list_datasets
from openmm_mlbench.data.download import Download, Patience, check_address, read_small
from openmm_mlbench.data.npz import reason
from openmm_mlbench.data.unpack import unpack
from openmm_mlbench.errors import DataError
from openmm_mlbench.files import fsync_folder, read_json, sha256_file, write_json

_LOG = logging.getLogger(__name__)

MIRROR_VARIABLE = "MLBENCH_MIRROR"
RECORD = "fetched.json"
_MAX_RECORD_BYTES = 4 << 20
# What a file of each kind begins with: a web page must not pass for data.
_BEGINNINGS = {".npz": b"PK", ".npy": b"\x93NUMPY", ".bz2": b"BZh", ".zip": b"PK"}


@dataclass(frozen=True, kw_only=True)
class OfficialFile:
    """A file as its authors publish it.

    Args:
        name: for ``data fetch``; also its folder in the cache.
        filename: of the download.
        urls: where it is, tried in order.
        origin: who made it, with a DOI where there is one.
        licence: as far as it is stated.
        size: bytes, or None where it is not known beforehand.
        checksum: ``md5:...`` or ``sha256:...`` as published, or None.
        record_url: a Zenodo record that tells size and checksum, or None.
        members: of an archive: what is unpacked; empty for a file that is kept as it is.
        unpacked_bytes: of an archive: most that it may unpack to.
    """

    name: str
    filename: str
    urls: tuple[str, ...]
    origin: str
    licence: str
    size: int | None = None
    checksum: str | None = None
    record_url: str | None = None
    members: tuple[str, ...] = ()
    unpacked_bytes: int = 0

    @property
    def files(self) -> tuple[str, ...]:
        """What lies in its folder afterwards."""
        return self.members or (self.filename,)


def _md17(system: str, stem: str) -> OfficialFile:
    filename = f"md17_{stem}.npz"
    path = f"www.quantum-machine.org/gdml/data/npz/{filename}"
    return OfficialFile(
        name=f"md17-{system}",
        filename=filename,
        urls=(f"https://{path}", f"http://{path}"),
        origin="Chmiela et al., Sci. Adv. 3, e1603015 (2017), doi 10.1126/sciadv.1603015",
        licence="not stated; cite the paper",
    )


def _mdsim(name: str, filename: str) -> OfficialFile:
    return OfficialFile(
        name=name,
        filename=filename,
        urls=(f"https://zenodo.org/record/7196767/files/{filename}?download=1",),
        origin="Fu et al., Forces are not Enough, TMLR 2023, Zenodo 7196767",
        licence="see the Zenodo record",
        record_url="https://zenodo.org/api/records/7196767",
    )


OFFICIAL = (
    OfficialFile(
        name="rmd17",
        filename="rmd17.tar.bz2",
        urls=(
            "https://figshare.com/ndownloader/files/23950376",
            "https://archive.materialscloud.org/records/pfffs-fff86/files/rmd17.tar.bz2?download=1",
        ),
        origin="Christensen and von Lilienfeld, Mach. Learn.: Sci. Technol. 1, 045018 (2020), doi 10.6084/m9.figshare.12672038",
        licence="CC0",
        size=1_066_301_513,
        checksum="md5:cb1a927628d96f2e966025da4fb63d18",
        members=tuple(
            f"rmd17/npz_data/rmd17_{stem}.npz" for stem in ("aspirin", "ethanol", "naphthalene", "salicylic")
        ),
        unpacked_bytes=4_000_000_000,
    ),
    _md17("aspirin", "aspirin"),
    _md17("ethanol", "ethanol"),
    _md17("naphthalene", "naphthalene"),
    _md17("salicylic-acid", "salicylic"),
    _mdsim("mdsim-water", "water.npy"),
    _mdsim("mdsim-alanine-dipeptide", "alanine_dipeptide.npy"),
    OfficialFile(
        name="lips",
        filename="lips.xyz",
        urls=("https://archive.materialscloud.org/record/file?filename=lips.xyz&record_id=1302",),
        origin="Batzner et al., Nat. Commun. 13, 2453 (2022), doi 10.24435/materialscloud:s0-5n",
        licence="CC-BY-4.0",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """What came of a download.

    Args:
        folder: in the cache.
        files: what can be read there.
        fresh: whether anything was downloaded.
        notes: lines for the user: where a checksum comes from, what was odd.
    """

    folder: Path
    files: tuple[Path, ...]
    fresh: bool
    notes: tuple[str, ...]


def find_official(name: str) -> OfficialFile:
    """The official file of this name, or the one behind a data set of this name.

    Raises:
        DataError: there is none.
    """
    by_name = {file.name: file for file in OFFICIAL}
    entry = next((entry for entry in list_datasets() if entry.name == name), None)
    if entry is not None and entry.fetched_from is not None:
        return by_name[entry.fetched_from]
    if name in by_name:
        return by_name[name]
    if entry is not None:
        what = "ships with the package" if entry.shipped else "is not published as one file"
        raise DataError(f"data set {name} {what}, there is nothing to fetch; see `openmm-mlbench data fetch`")
    raise DataError(
        f"{name!r} cannot be fetched; there are {', '.join(by_name)}, or the name of a data set made of one of them"
    )


def fed_datasets(official: OfficialFile) -> tuple[str, ...]:
    """Names of the data sets that are read from an official file."""
    return tuple(entry.name for entry in list_datasets() if entry.fetched_from == official.name)


def how_to_read(official: OfficialFile, fetched: Fetched, root: Path | None) -> tuple[str, ...]:
    """Lines that say which data sets read a fetched file, and which read another one first."""
    lines = []
    for name in fed_datasets(official):
        path = dataset_path(name).resolve()
        if path in {file.resolve() for file in fetched.files}:
            lines.append(f"{name} is read from it")
        elif root is not None:
            lines.append(f"{name} is read from it with --data, or where {CACHE_VARIABLE} is {root}")
        else:
            lines.append(f"{name} is still read from {path}; give the new file with --data to read that one")
    return tuple(lines)


def state_in_cache(official: OfficialFile, root: Path | None = None) -> str:
    """``here``, ``part`` or ``no``."""
    folder = (root or cache_folder()) / official.name
    if all((folder / file).is_file() for file in official.files):
        return "here"
    return "part" if _part(folder, official).is_file() else "no"


def fetch(
    official: OfficialFile,
    root: str | os.PathLike[str] | None = None,
    *,
    force: bool = False,
    mirror: str | None = None,
    patience: Patience = Patience(),  # noqa: B008  frozen
    note: Callable[[str], None] | None = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> Fetched:
    """Download an official file into the cache, or check the one that is there.

    A checksum that is published must be met.  Where there is none, the first one seen is kept in
    ``fetched.json``, and a file that differs from it later is refused.

    Args:
        official: what.
        root: cache folder; the usual one unless given.
        force: download again though it is there.
        mirror: address of a folder that holds ``<name>/<filename>`` instead of the official
            addresses; $MLBENCH_MIRROR unless given.
        patience: with slow and broken connections.
        note: is told what is going on, in lines.
        progress: is told how many bytes are there, and of how many.

    Raises:
        DataError: no address delivers the file, or what arrives is not it.
    """
    job = _Job(
        official=official,
        folder=Path(root or cache_folder()) / official.name,
        mirror=mirror or os.environ.get(MIRROR_VARIABLE) or None,
        patience=patience,
        say=note or _LOG.info,
        progress=progress or (lambda *_: None),
    )
    try:
        with _locked(job):
            return job.run(force=force)
    except OSError as error:
        raise DataError(
            f"{job.folder}: cannot be written ({error.strerror or error}); what arrived is kept: make room, or choose "
            "another folder with --to, and run it again"
        ) from error


def _locked(job: "_Job") -> Any:
    """One process at a time in a folder; the second waits and then finds the file."""
    job.folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(job.folder / ".lock")
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        job.say(f"another process is fetching {job.official.name}; waiting for it")
        return lock.acquire()


@dataclass(frozen=True, kw_only=True)
class _Job:
    """One official file and its folder, locked."""

    official: OfficialFile
    folder: Path
    mirror: str | None
    patience: Patience
    say: Callable[[str], None]
    progress: Callable[[int, int | None], None]

    @property
    def record_path(self) -> Path:
        return self.folder / RECORD

    def run(self, *, force: bool) -> Fetched:
        record = self.record()
        if state_in_cache(self.official, self.folder.parent) == "here" and not force:
            return self.keep(record)
        size, checksum = self.published()
        addresses = self.addresses()
        for url in addresses:
            download = Download(
                url=url,
                part=_part(self.folder, self.official),
                size=size,
                checked=checksum is not None,
                patience=self.patience,
                say=self.say,
                progress=self.progress,
            )
            try:
                download.run()
                sums = self.compare(download, checksum, record)
            except DataError as error:
                if url == addresses[-1]:
                    raise
                self.say(f"{error}; trying the next address")
                continue
            return self.put_in_place(download, sums, checksum)
        raise DataError(f"{self.official.name}: has no address; give one with --mirror")

    def record(self) -> dict[str, Any]:
        """What is known of a file fetched before, or nothing."""
        if not self.record_path.is_file():
            return {}
        record = read_json(self.record_path)
        if (
            not isinstance(record, dict)
            or not isinstance(record.get("files"), dict)
            or "sha256" not in record
        ):
            raise DataError(f"{self.record_path}: is damaged; delete it, and the next fetch writes it again")
        return record

    def addresses(self) -> tuple[str, ...]:
        """Where the file may be."""
        if self.mirror is None:
            return self.official.urls
        check_address(self.mirror)
        return (f"{self.mirror.rstrip('/')}/{self.official.name}/{self.official.filename}",)

    def published(self) -> tuple[int | None, str | None]:
        """Size and checksum as far as they can be known beforehand."""
        official = self.official
        if official.record_url is None or self.mirror is not None:
            return official.size, official.checksum
        try:
            text = read_small(official.record_url, timeout_s=self.patience.stall_s, limit=_MAX_RECORD_BYTES)
            files = {file["key"]: file for file in json.loads(text)["files"]}
            size, checksum = int(files[official.filename]["size"]), str(files[official.filename]["checksum"])
        except (DataError, ValueError, KeyError, TypeError) as error:
            self.say(
                f"{official.record_url}: tells no size and checksum ({reason(error)[:100]}); going on without"
            )
            return official.size, official.checksum
        return size, checksum

    def compare(self, download: Download, checksum: str | None, record: dict[str, Any]) -> dict[str, Any]:
        """Size and checksums of what arrived.

        Raises:
            DataError: it is not what was published or, where nothing was, not what was seen first.
        """
        part = download.part
        beginning = _BEGINNINGS.get(Path(self.official.filename).suffix.lower(), b"")
        with open(part, "rb") as file:
            begins = file.read(len(beginning)) == beginning
        if not begins or part.stat().st_size == 0:
            download.forget()
            raise DataError(
                f"{download.url}: what arrived is no {Path(self.official.filename).suffix} file; it was thrown away"
            )
        sums = {
            "url": download.url,
            "size": part.stat().st_size,
            "sha256": sha256_file(part),
            "md5": _md5(part),
        }
        if checksum is not None:
            kind, _, value = checksum.partition(":")
            if kind not in {"md5", "sha256"}:
                raise DataError(f"checksum {checksum[:80]!r} is of no known kind; wanted md5 or sha256")
            if sums[kind] != value.lower():
                download.forget()
                raise DataError(
                    f"{download.url}: {kind} is {sums[kind]}, published is {value}; the file was damaged on its way or "
                    "replaced, and was thrown away: run it again"
                )
        elif record.get("sha256") not in {None, sums["sha256"]}:
            download.forget()
            raise DataError(
                f"{download.url}: sha256 is {sums['sha256']}, on {record.get('fetched')} it was {record['sha256']}; the "
                f"new file was thrown away; if it is the right one, delete {self.record_path} and fetch again"
            )
        return sums

    def put_in_place(self, download: Download, sums: dict[str, Any], checksum: str | None) -> Fetched:
        official = self.official
        if official.members:
            self.say(f"unpacking {len(official.members)} files of {official.filename}")
            scratch = self.folder / ".unpacking"
            shutil.rmtree(scratch, ignore_errors=True)
            try:
                unpack(download.part, scratch, members=official.members, max_bytes=official.unpacked_bytes)
                for name in official.members:
                    self.move(scratch / name, name)
            except DataError:
                # A second attempt with the same archive would end here again.
                download.forget()
                raise
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
        else:
            self.move(download.part, official.filename)
        source = "published" if checksum is not None else "first seen"
        self.write_record({**sums, "checksum_source": source, "published": checksum, "files": self.sums()})
        download.forget()
        return self.result(fresh=True, notes=self.remarks(source, sums["sha256"]))

    def sums(self) -> dict[str, dict[str, Any]]:
        """Size and checksum of every file in the folder."""
        paths = {name: self.folder / name for name in self.official.files}
        return {
            name: {"size": path.stat().st_size, "sha256": sha256_file(path)} for name, path in paths.items()
        }

    def move(self, source: Path, name: str) -> None:
        target = self.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(source, target)
        fsync_folder(target.parent)

    def keep(self, record: dict[str, Any]) -> Fetched:
        """Check what is there; adopt what was put there by hand."""
        official = self.official
        sums = self.sums()
        for name, known in record.get("files", {}).items():
            if name in sums and sums[name] != known:
                raise DataError(
                    f"{self.folder / name}: differs from what was fetched on {record.get('fetched')} (sha256 "
                    f"{sums[name]['sha256'][:12]}); fetch it again with --force"
                )
        if record:
            return self.result(fresh=False, notes=())
        whole: dict[str, Any] = {"size": None, "sha256": None, "md5": None}
        if not official.members:
            path = self.folder / official.filename
            whole = {**sums[official.filename], "md5": _md5(path)}
            kind, _, value = (official.checksum or "").partition(":")
            if value and whole[kind] != value:
                raise DataError(
                    f"{path}: {kind} is {whole[kind]}, published is {value}; fetch it again with --force"
                )
        values = {"url": None, **whole, "checksum_source": "first seen", "published": None, "files": sums}
        self.write_record(values)
        note = f"{self.folder}: was not fetched by this command; its checksum is kept from now on"
        return self.result(fresh=False, notes=(note,))

    def write_record(self, values: dict[str, Any]) -> None:
        official = self.official
        now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
        write_json(
            self.record_path,
            {
                "name": official.name,
                "fetched": now,
                "origin": official.origin,
                "licence": official.licence,
                **values,
            },
        )

    def remarks(self, source: str, sha256: str) -> tuple[str, ...]:
        if source == "published":
            return ()
        line = (
            f"no checksum of {self.official.filename} is published; sha256 {sha256} was seen first now and is kept in "
            f"{self.record_path}: a later download that differs is refused"
        )
        return (line,)

    def result(self, *, fresh: bool, notes: tuple[str, ...]) -> Fetched:
        files = tuple(self.folder / name for name in self.official.files)
        return Fetched(folder=self.folder, files=files, fresh=fresh, notes=notes)


def _part(folder: Path, official: OfficialFile) -> Path:
    return folder / f".{official.filename}.part"


def _md5(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
