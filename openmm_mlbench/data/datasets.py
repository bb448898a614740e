"""The data sets known by name; each name stands for one potential."""

import difflib
import os
from dataclasses import dataclass, replace
from pathlib import Path

from openmm_mlbench.assets import asset_path, asset_root
from openmm_mlbench.data.frames import Frames
from openmm_mlbench.data.readers import read_any, read_md17_npz, read_npz
from openmm_mlbench.data.splits import Split, make_split
from openmm_mlbench.errors import DataError

DATA_VARIABLE = "MLBENCH_DATA"


@dataclass(frozen=True, kw_only=True)
class DatasetEntry:
    """What is known about a data set before it is read.

    Args:
        name: its name everywhere in this package.
        system: folder in systems/.
        atomic_numbers: species in file order.
        labels: ``md17`` or ``rmd17``, or None for a file that describes itself.
        file: path below $MLBENCH_DATA, or below systems/ when ``shipped``.
        shipped: whether it comes with the package.
        split: train, validation and test frames of the default split.
        summary: one line for lists.
    """

    name: str
    system: str
    atomic_numbers: tuple[int, ...]
    labels: str | None
    file: str
    shipped: bool
    split: tuple[int, int, int]
    summary: str


_ETHANOL = (6, 6, 8, 1, 1, 1, 1, 1, 1)
DATASETS = (
    DatasetEntry(
        name="ethanol",
        system="ethanol",
        atomic_numbers=_ETHANOL,
        labels="md17",
        file="rmd17/ethanol.npz",
        shipped=False,
        split=(950, 50, 1000),
        summary="original MD17 labels, PBE+vdW-TS, 500 K",
    ),
    DatasetEntry(
        name="ethanol-rmd17",
        system="ethanol",
        atomic_numbers=_ETHANOL,
        labels="rmd17",
        file="rmd17/ethanol.npz",
        shipped=False,
        split=(950, 50, 1000),
        summary="revised MD17 labels, PBE/def2-SVP, 500 K",
    ),
    DatasetEntry(
        name="ethanol-gfn2",
        system="ethanol",
        atomic_numbers=_ETHANOL,
        labels=None,
        file="ethanol/ethanol-gfn2.npz",
        shipped=True,
        split=(1000, 50, 450),
        summary="GFN2-xTB dynamics, 500 K, shipped",
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


def dataset_path(name: str) -> Path:
    """Path of the file of a named data set, which need not exist."""
    entry = find_dataset(name)
    return asset_path("systems", *entry.file.split("/")) if entry.shipped else data_folder() / entry.file


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
        path: file to read for a name, instead of the place where it is looked for.

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
    found = Path(path) if path is not None else dataset_path(text)
    if not found.is_file():
        raise DataError(_missing(entry, found))
    frames = read_md17_npz(found, entry.labels, name=text) if entry.labels else read_npz(found)
    if tuple(frames.atomic_numbers.tolist()) != entry.atomic_numbers:
        raise DataError(
            f"{found}: atomic numbers {frames.atomic_numbers.tolist()} are not those of {text}, "
            f"{list(entry.atomic_numbers)}; give the file of {entry.system}"
        )
    return replace(frames, name=text)


def _missing(entry: DatasetEntry, path: Path) -> str:
    if entry.shipped:
        return f"{path}: no such file, though it ships with the package; run `openmm-mlbench data generate {entry.system}`"
    return (
        f"data set {entry.name} is not at {path}; give its file with --data PATH or set {DATA_VARIABLE} to the folder "
        f"that holds {entry.file} (MD17 or rMD17 npz, kcal/mol)"
    )


def default_split(name: str, frames: Frames) -> Split:
    """The split that results in this package refer to, seed 0.

    Raises:
        DataError: the data set is not known by name, or has too few frames.
    """
    return make_split(frames, *find_dataset(name).split, seed=0)
