"""The data sets known by name; each name stands for one potential."""

import difflib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from openmm_mlbench.assets import asset_path, asset_root
from openmm_mlbench.data.frames import Frames
from openmm_mlbench.data.mdsim import read_mdsim_alanine, read_mdsim_water, whole_water
from openmm_mlbench.data.npz import NpzFile
from openmm_mlbench.data.readers import OWN_UNITS, read_any, read_extxyz, read_hdf5, read_md17_npz, read_npz
from openmm_mlbench.data.splits import Split, make_split
from openmm_mlbench.errors import DataError

DATA_VARIABLE = "MLBENCH_DATA"
CACHE_VARIABLE = "MLBENCH_CACHE"
PLACES = ("shipped", "data", "fetched")


@dataclass(frozen=True, kw_only=True)
class DataFile:
    """One file that a data set can be read from.

    Args:
        place: ``shipped``: below systems/; ``data``: below $MLBENCH_DATA; ``fetched``: below
            the cache of ``data fetch``, where the first part of the path is the name of the
            official file in ``data.fetch.OFFICIAL``.
        path: below that place, with forward slashes.
        reader: how it is read, a key of ``READERS``.
    """

    place: str
    path: str
    reader: str


@dataclass(frozen=True, kw_only=True)
class DatasetEntry:
    """What is known about a data set before it is read.

    Args:
        name: its name everywhere in this package.
        system: folder in systems/.
        atomic_numbers: species in the order of the frames, which is that of topology.pdb.
        files: where it can come from; the first that is there is read.
        splits: train, validation and test frames, largest first; the default split is the
            first that the frames at hand are enough for.
        summary: one line for lists.
        level_of_theory: for files that do not say.
        source: origin and licence, for files that do not say.
        constraints: ``none`` or ``h-bonds``, for files that do not say.
        periodic: whether every frame has a cell.
        interval_fs: time between frame indices, for files that do not say.
    """

    name: str
    system: str
    atomic_numbers: tuple[int, ...]
    files: tuple[DataFile, ...]
    splits: tuple[tuple[int, int, int], ...]
    summary: str
    level_of_theory: str = "unknown"
    source: str = "unknown"
    constraints: str = "none"
    periodic: bool = False
    interval_fs: float | None = None

    @property
    def shipped(self) -> bool:
        """Whether it comes with the package."""
        return any(file.place == "shipped" for file in self.files)

    @property
    def split(self) -> tuple[int, int, int]:
        """The split of the smallest file that the data set comes in."""
        return self.splits[-1]

    @property
    def labels(self) -> str | None:
        """``md17`` or ``rmd17`` where its files hold one of these label sets, else None."""
        return next((file.reader for file in self.files if file.reader in {"md17", "rmd17"}), None)

    @property
    def fetched_from(self) -> str | None:
        """Name for ``data fetch`` of the official file behind it, or None."""
        return next((file.path.split("/")[0] for file in self.files if file.place == "fetched"), None)


def _described(entry: DatasetEntry, *keys: str) -> dict[str, Any]:
    """What the entry knows of these keys (of all, where none is named) and the file need not say."""
    known = {
        "interval_fs": entry.interval_fs,
        "constraints": entry.constraints,
        "level_of_theory": entry.level_of_theory,
        "source": entry.source,
    }
    return {key: known[key] for key in keys or known if known[key] not in {None, "unknown"}}


def _read_plain(path: Path, entry: DatasetEntry) -> Frames:
    """An npz of z, R, E, F, cell in A and eV."""
    return read_npz(path, name=entry.name, units=OWN_UNITS, **_described(entry))


# How a file of each kind becomes Frames: reader -> (endings, function of path and entry).
READERS: dict[str, tuple[tuple[str, ...], Callable[[Path, DatasetEntry], Frames]]] = {
    # Made by this package: units and description inside.
    "own": ((".npz",), lambda path, _: read_npz(path)),
    "own-hdf5": ((".h5", ".hdf5"), lambda path, _: read_hdf5(path)),
    "md17": ((".npz",), lambda path, entry: read_md17_npz(path, "md17", name=entry.name)),
    "rmd17": ((".npz",), lambda path, entry: read_md17_npz(path, "rmd17", name=entry.name)),
    "plain": ((".npz",), _read_plain),
    "plain-water": ((".npz",), lambda path, entry: whole_water(_read_plain(path, entry), check=False)),
    "mdsim-water": (
        (".npy",),
        lambda path, entry: read_mdsim_water(
            path, name=entry.name, **_described(entry, "level_of_theory", "source")
        ),
    ),
    "mdsim-alanine": (
        (".npy",),
        lambda path, entry: read_mdsim_alanine(
            path, name=entry.name, **_described(entry, "level_of_theory", "source")
        ),
    ),
    "extxyz": (
        (".xyz", ".extxyz"),
        lambda path, entry: read_extxyz(path, name=entry.name, **_described(entry)),
    ),
}


# Elements in MD17's order of atoms, and the stems of the names of files in $MLBENCH_DATA and of official ones.
_MOLECULES = {
    "aspirin": ((6,) * 7 + (8,) * 3 + (6, 6, 8) + (1,) * 8, "aspirin", "aspirin"),
    "ethanol": ((6, 6, 8) + (1,) * 6, "ethanol", "ethanol"),
    "naphthalene": ((6,) * 10 + (1,) * 8, "naphthalene", "naphthalene"),
    "salicylic-acid": ((6, 6, 6, 8, 6, 6, 6, 6, 8, 8) + (1,) * 6, "salicylic_acid", "salicylic"),
}
# The paper's split of MD17, and one for the subsets of about 8,600 frames.
_MD17_SPLITS = ((9500, 500, 10000), (950, 50, 1000))
# The authors of rMD17 advise against training on more than 1,000 of its frames.
_RMD17_SPLITS = ((950, 50, 1000),)
# Shorter runs than ethanol's.
_GFN2_SPLITS: dict[str, tuple[int, int, int]] = {
    "naphthalene": (513, 50, 187),
    "aspirin": (550, 50, 200),
    "salicylic-acid": (700, 50, 250),
}


def _molecule(system: str) -> tuple[DatasetEntry, ...]:
    """MD17, revised MD17 and GFN2 data of one molecule."""
    atomic_numbers, stem, official = _MOLECULES[system]
    return (
        DatasetEntry(
            name=system,
            system=system,
            atomic_numbers=atomic_numbers,
            files=(
                DataFile(place="data", path=f"rmd17/{stem}.npz", reader="md17"),
                DataFile(place="fetched", path=f"md17-{system}/md17_{official}.npz", reader="md17"),
            ),
            splits=_MD17_SPLITS,
            summary="original MD17 labels, PBE+vdW-TS, 500 K",
        ),
        DatasetEntry(
            name=f"{system}-rmd17",
            system=system,
            atomic_numbers=atomic_numbers,
            files=(
                DataFile(place="data", path=f"rmd17/{stem}.npz", reader="rmd17"),
                DataFile(place="fetched", path=f"rmd17/rmd17/npz_data/rmd17_{official}.npz", reader="rmd17"),
            ),
            splits=_RMD17_SPLITS,
            summary="revised MD17 labels, PBE/def2-SVP, 500 K",
        ),
        DatasetEntry(
            name=f"{system}-gfn2",
            system=system,
            atomic_numbers=atomic_numbers,
            files=(DataFile(place="shipped", path=f"{system}/{system}-gfn2.npz", reader="own"),),
            splits=(_GFN2_SPLITS.get(system, (1000, 50, 450)),),
            summary="GFN2-xTB dynamics, 500 K, shipped",
        ),
    )


_WATER = (8, 1, 1) * 64
_LIPS = (3,) * 27 + (15,) * 12 + (16,) * 44
_ALANINE_DIPEPTIDE = (1, 6, 1, 1, 6, 8, 7, 1, 6, 1, 6, 1, 1, 1, 6, 8, 7, 1, 6, 1, 1, 1)
_MDSIM_SOURCE = "Fu et al., Forces are not Enough, TMLR 2023; data: Zenodo 7196767"


def _official_water(name: str, split: tuple[int, int, int]) -> DatasetEntry:
    """The paper's water, with the training set of one of its sizes."""
    return DatasetEntry(
        name=name,
        system="water",
        atomic_numbers=_WATER,
        files=(
            DataFile(place="data", path="mdsim/water.npy", reader="mdsim-water"),
            DataFile(place="fetched", path="mdsim-water/water.npy", reader="mdsim-water"),
        ),
        splits=(split,),
        summary="the paper's data: flexible SPC water, 300 K, 1 ns",
        level_of_theory="SPC/Fw water with both intramolecular force constants doubled",
        source=_MDSIM_SOURCE,
        periodic=True,
        interval_fs=10.0,
    )


def _generated(
    name: str, system: str, summary: str, *, atomic_numbers: tuple[int, ...], **description: Any
) -> DatasetEntry:
    """A shipped data set of a classical force field: its file says how it was made."""
    return DatasetEntry(
        name=name,
        system=system,
        atomic_numbers=atomic_numbers,
        files=(DataFile(place="shipped", path=f"{system}/{name}.npz", reader="own"),),
        splits=((950, 50, 500),),
        summary=summary,
        **description,
    )


DATASETS = (
    *_molecule("aspirin"),
    *_molecule("ethanol"),
    *_molecule("naphthalene"),
    *_molecule("salicylic-acid"),
    _generated(
        "water-1k",
        "water",
        "the paper's potential: flexible SPC with doubled force constants, 300 K, shipped",
        atomic_numbers=_WATER,
        periodic=True,
    ),
    _generated(
        "water-spcfw-1k",
        "water",
        "flexible SPC water as published, 300 K, shipped",
        atomic_numbers=_WATER,
        periodic=True,
    ),
    _official_water("water-10k", (9500, 500, 10000)),
    _official_water("water-90k", (85500, 4500, 10000)),
    DatasetEntry(
        name="water-dft",
        system="water",
        atomic_numbers=_WATER,
        files=(DataFile(place="data", path="water64_dft.npz", reader="plain-water"),),
        splits=((280, 20, 60),),
        summary="360 frames of PBE0-TS water, 64 molecules",
        level_of_theory="PBE0-TS",
        source="github deepmodeling/deepmd-kit, examples/water, LGPL-3.0",
        periodic=True,
    ),
    DatasetEntry(
        name="lips",
        system="lips",
        atomic_numbers=_LIPS,
        files=(
            DataFile(place="data", path="lips.npz", reader="plain"),
            DataFile(place="fetched", path="lips/lips.xyz", reader="extxyz"),
        ),
        splits=((19000, 1000, 5000), (900, 50, 127)),
        summary="real frames of Li6.75P3S11, PBE, 520 K",
        level_of_theory="PBE, VASP",
        source="Batzner et al., Nat. Commun. 13, 2453 (2022), Materials Cloud doi 10.24435/materialscloud:s0-5n, CC-BY-4.0",
        periodic=True,
        interval_fs=2.0,
    ),
    DatasetEntry(
        name="lips-fm",
        system="lips",
        atomic_numbers=_LIPS,
        files=(DataFile(place="shipped", path="lips/lips-fm.npz", reader="own"),),
        splits=((900, 50, 300),),
        summary="classical potential force-matched to the real frames, 520 K, shipped",
        periodic=True,
    ),
    _generated(
        "alanine-dipeptide-obc",
        "alanine-dipeptide",
        "AMBER ff03 in implicit OBC water, rigid bonds to hydrogen, 300 K, shipped",
        atomic_numbers=_ALANINE_DIPEPTIDE,
        constraints="h-bonds",
    ),
    _generated(
        "alanine-dipeptide-obc-flexible",
        "alanine-dipeptide",
        "AMBER ff03 in implicit OBC water, nothing rigid, 300 K, shipped",
        atomic_numbers=_ALANINE_DIPEPTIDE,
    ),
    DatasetEntry(
        name="alanine-dipeptide-explicit",
        system="alanine-dipeptide",
        atomic_numbers=_ALANINE_DIPEPTIDE,
        files=(
            DataFile(place="data", path="mdsim/alanine_dipeptide.npy", reader="mdsim-alanine"),
            DataFile(
                place="fetched", path="mdsim-alanine-dipeptide/alanine_dipeptide.npy", reader="mdsim-alanine"
            ),
        ),
        splits=((38000, 2000, 10000),),
        summary="the paper's data: solute forces in explicit water, no energies, 300 K",
        level_of_theory="AMBER ff03 in TIP3P water, forces on the solute",
        source=_MDSIM_SOURCE,
        constraints="h-bonds",
        interval_fs=2000.0,
    ),
)


def list_datasets() -> tuple[DatasetEntry, ...]:
    """All data sets known by name."""
    return DATASETS


def find_dataset(name: str) -> DatasetEntry:
    """The entry of this name.

    Raises:
        DataError: there is none; near misses are named.
    """
    names = [entry.name for entry in DATASETS]
    if name in names:
        return DATASETS[names.index(name)]
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise DataError(
        f"data set {name!r} is not known; {hint}there are {', '.join(names)}, or give the path of a file"
    )


def system_of(dataset_name: str) -> str:
    """Name of the folder in systems/ that a data set belongs to."""
    return find_dataset(dataset_name).system


def data_folder() -> Path:
    """Where data that do not ship are looked for: $MLBENCH_DATA, or ../shared/data beside a checkout."""
    variable = os.environ.get(DATA_VARIABLE)
    return Path(variable) if variable else asset_root().parent / "shared" / "data"


def cache_folder() -> Path:
    """Where ``data fetch`` keeps files: $MLBENCH_CACHE, or openmm-mlbench in $XDG_CACHE_HOME or ~/.cache."""
    variable = os.environ.get(CACHE_VARIABLE)
    if variable:
        return Path(variable)
    caches = os.environ.get("XDG_CACHE_HOME")
    return (Path(caches) if caches else Path.home() / ".cache") / "openmm-mlbench"


def file_path(file: DataFile) -> Path:
    """Path of a file of a data set, which need not exist."""
    if file.place == "shipped":
        return asset_path("systems", *file.path.split("/"))
    return (data_folder() if file.place == "data" else cache_folder()) / file.path


def dataset_file(name: str) -> DataFile:
    """The file that a named data set is read from: the first that is there, or the first of all."""
    files = find_dataset(name).files
    return next((file for file in files if file_path(file).is_file()), files[0])


def dataset_path(name: str) -> Path:
    """Path of the file of a named data set, which need not exist."""
    return file_path(dataset_file(name))


def load_dataset(
    name_or_path: str | os.PathLike[str],
    labels: str | None = None,
    *,
    path: str | os.PathLike[str] | None = None,
) -> Frames:
    """Load a data set by name, or a file of any kind that ``readers.read_any`` knows.

    Args:
        name_or_path: a name from ``list_datasets``, or a file.
        labels: label set of an MD17 or rMD17 file; a name implies its own.
        path: file to read for a name, instead of the places where it is looked for; any kind
            of file that the data set is published as, or one written by this package.

    Raises:
        DataError: unknown name, missing file, other molecule, or what the reader refuses.
    """
    known = {entry.name for entry in DATASETS}
    text = os.fspath(name_or_path)
    if text not in known:
        if path is not None or not Path(text).exists():
            find_dataset(text)
        return read_any(text, labels)
    entry = find_dataset(text)
    if labels is not None and labels != entry.labels:
        raise DataError(
            f"data set {text} has {entry.labels or 'its own'} labels, {labels!r} was asked for; a name stands for "
            f"one label set, choose another of {', '.join(sorted(known))}"
        )
    if path is None:
        file = dataset_file(text)
        found, reader = file_path(file), file.reader
        if not found.is_file():
            raise DataError(_missing(entry))
    else:
        found = Path(path)
        if not found.is_file():
            raise DataError(f"{found}: no such file; give the file of {text} with --data PATH")
        reader = _reader_for(entry, found)
    frames = READERS[reader][1](found, entry)
    if tuple(frames.atomic_numbers.tolist()) != entry.atomic_numbers:
        raise DataError(
            f"{found}: atomic numbers {_shortened(frames.atomic_numbers.tolist())} are not those of {text}, "
            f"{_shortened(list(entry.atomic_numbers))}; give the file of {entry.system}"
        )
    if (frames.cells is not None) != entry.periodic:
        wanted = (
            "periodic, but its frames have no cells"
            if entry.periodic
            else "not periodic, its frames have cells"
        )
        raise DataError(f"{found}: {text} is {wanted}; give the file of {entry.system}")
    return replace(frames, name=text)


def _shortened(numbers: list[int]) -> str:
    if len(numbers) <= 40:
        return str(numbers)
    return f"[{', '.join(map(str, numbers[:12]))}, ... {len(numbers)} in all]"


def _reader_for(entry: DatasetEntry, path: Path) -> str:
    """How a file given by the user for a name is read: by its ending, and whether this package wrote it."""
    suffix = path.suffix.lower()
    if suffix in READERS["own-hdf5"][0]:
        return "own-hdf5"
    if suffix == ".npz" and "meta" in NpzFile(path):
        return "own"
    readers = list(dict.fromkeys(file.reader for file in entry.files))
    for reader in readers:
        if suffix in READERS[reader][0]:
            return reader
    endings = sorted({ending for reader in [*readers, "own", "own-hdf5"] for ending in READERS[reader][0]})
    raise DataError(
        f"{path}: ending {suffix!r} is no file of {entry.name}; wanted one of {', '.join(endings)}"
    )


def _missing(entry: DatasetEntry) -> str:
    path = file_path(entry.files[0])
    if entry.shipped:
        return f"{path}: no such file, though it ships with the package; run `openmm-mlbench data generate {entry.system}`"
    fetch = f"run `openmm-mlbench data fetch {entry.name}`, " if entry.fetched_from else ""
    ours = [file for file in entry.files if file.place == "data"]
    folder = f" or set {DATA_VARIABLE} to the folder that holds {ours[0].path}" if ours else ""
    return f"data set {entry.name} is not at {path}; {fetch}give its file with --data PATH{folder}"


def default_split(name: str, frames: Frames) -> Split:
    """The split that results in this package refer to, seed 0.

    A data set that exists in several sizes has a split for each: the largest that fits is taken.

    Raises:
        DataError: the data set is not known by name, or has too few frames.
    """
    splits = find_dataset(name).splits
    sizes = next((sizes for sizes in splits if sum(sizes) <= frames.n_frames), splits[-1])
    return make_split(frames, *sizes, seed=0)
