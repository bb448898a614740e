"""Readers and writers of labelled frames: npz, MD17 and rMD17 npz, extxyz, HDF5.

Files come from strangers: nothing here unpickles, follows links out of a file,
or allocates what a header merely claims.  Units are stated by the file, known
from its kind, or given by the caller; they are never guessed.
"""

import json
import math
import os
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from openmm_mlbench.data.file_units import OWN_UNITS, Units, check_plausible
from openmm_mlbench.data.frames import Frames
from openmm_mlbench.data.mdsim import read_mdsim
from openmm_mlbench.data.npz import FREE_BYTES, MAX_ARRAY_BYTES, MAX_EXPANSION, NpzFile, existing_file, reason
from openmm_mlbench.errors import DataError
from openmm_mlbench.files import atomic_path

LABEL_SETS = {
    "md17": ("PBE+vdW-TS", "MD17: Chmiela et al., Sci. Adv. 3, e1603015 (2017)"),
    "rmd17": (
        "PBE/def2-SVP",
        "revised MD17: Christensen and von Lilienfeld, Mach. Learn.: Sci. Technol. 1, 045018 (2020), CC0",
    ),
}
MD17_INTERVAL_FS = 0.5


MD17_UNITS = Units(length="A", energy="kcal/mol")
_ARRAYS = ("atomic_numbers", "positions", "energies", "forces", "cells", "frame_indices")
_SHORT_KEYS = ("z", "R", "E", "F", "cell", "frame", "dt_fs")


# --- npz --------------------------------------------------------------------------


def write_npz(
    frames: Frames,
    path: str | os.PathLike[str],
    *,
    single: bool = False,
    compressed: bool = False,
    provenance: str | None = None,
) -> None:
    """Write frames as npz; the same frames give the same bytes.

    Keys: ``atomic_numbers``, ``positions`` (A), ``energies`` (eV), ``forces`` (eV/A),
    ``cells`` (A), ``frame_indices``; ``meta``, a JSON string with name, units, interval_fs,
    constraints, level_of_theory and source; ``provenance``, how the data were made.  Absent
    labels have no key.

    Args:
        frames: what to write.
        path: target, replaced at once when everything is written.
        single: positions and forces as float32; energies stay float64.
        compressed: with bzip2, which pays where numbers were rounded.
        provenance: any text, kept as it is.
    """
    arrays: dict[str, Any] = {
        key: getattr(frames, key) for key in _ARRAYS if getattr(frames, key) is not None
    }
    if single:
        arrays |= {key: arrays[key].astype(np.float32) for key in ("positions", "forces") if key in arrays}
    arrays["meta"] = np.array(json.dumps(_meta(frames), sort_keys=True))
    if provenance is not None:
        arrays["provenance"] = np.array(provenance)
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        if compressed:
            _save_bzip2(file, arrays)
        else:
            np.savez(file, **arrays)


def _save_bzip2(file: IO[bytes], arrays: dict[str, Any]) -> None:
    """An npz like any other, a quarter smaller than deflate makes rounded coordinates."""
    with zipfile.ZipFile(file, "w", compression=zipfile.ZIP_BZIP2) as archive:
        for key, array in arrays.items():
            with archive.open(f"{key}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)


def _meta(frames: Frames) -> dict[str, Any]:
    return {
        "name": frames.name,
        "units": {"length": "A", "energy": "eV", "force": "eV/A"},
        "interval_fs": frames.interval_fs,
        "constraints": frames.constraints,
        "level_of_theory": frames.level_of_theory,
        "source": frames.source,
    }


def read_npz(
    path: str | os.PathLike[str],
    *,
    name: str | None = None,
    units: Units | None = None,
    check: bool = True,
    **description: Any,
) -> Frames:
    """Read a plain npz: as ``write_npz`` makes it, or any with the same arrays.

    The short keys z, R, E, F, cell, frame stand for atomic_numbers, positions, energies, forces,
    cells (one for all frames, or one each) and frame_indices; dt_fs for the interval.

    Args:
        path: the file.
        name: name of the data set; the file's own, or its stem, unless given.
        units: units of a file that does not state them; must agree with one that does.
        check: compare forces and distances with what the units make plausible.
        description: interval_fs, constraints, level_of_theory, source where the file is silent.

    Raises:
        DataError: the file is damaged, its units are unknown or implausible, or shapes do not fit.
    """
    archive = NpzFile(path)
    meta = _read_meta(archive)
    stated = _stated_units(archive, meta)
    if stated is None and units is None:
        raise DataError(
            f"{archive.path}: states no units; say what they are, for example length A and energy kcal/mol"
        )
    _refuse_disagreement(archive.path, stated, units)

    def find(*keys: str) -> NDArray[Any] | None:
        return next((archive.numbers(key) for key in keys if key in archive), None)

    numbers, positions = find("atomic_numbers", "z"), find("positions", "R")
    if numbers is None or positions is None:
        raise DataError(
            f"{archive.path}: holds {', '.join(archive.keys) or 'nothing'}; wanted at least atomic_numbers (or z) "
            "and positions (or R)"
        )
    return _build(
        path=archive.path,
        name=name or str(meta.get("name", archive.path.stem)),
        numbers=numbers,
        positions=positions,
        energies=find("energies", "E"),
        forces=find("forces", "F"),
        cells=_cell_each(find("cells", "cell"), len(positions) if positions.ndim else 0),
        indices=find("frame_indices", "frame"),
        units=stated or units or OWN_UNITS,
        check=check,
        **_describe(
            _interval(archive) | {key: meta[key] for key in _DESCRIPTION if key in meta} | description
        ),
    )


def _cell_each(cells: NDArray[Any] | None, n_frames: int) -> NDArray[Any] | None:
    """One cell for all frames stands for the same cell in each."""
    if cells is None or cells.shape != (3, 3):
        return cells
    return np.broadcast_to(cells, (n_frames, 3, 3))


def _interval(archive: NpzFile) -> dict[str, Any]:
    if "dt_fs" not in archive:
        return {}
    value = archive.numbers("dt_fs")
    if value.size != 1:
        raise DataError(f"{archive.path}: dt_fs has shape {value.shape}; wanted one number")
    return {"interval_fs": float(value.reshape(-1)[0])}


def read_provenance(path: str | os.PathLike[str]) -> dict[str, Any]:
    """How the data in an npz were made, or an empty dict when the file does not say."""
    archive = NpzFile(path)
    if "provenance" not in archive:
        return {}
    return _json_object(archive.path, "provenance", archive.text("provenance"))


_DESCRIPTION: dict[str, Any] = {
    "interval_fs": None,
    "constraints": "none",
    "level_of_theory": "unknown",
    "source": "unknown",
}


def _describe(given: dict[str, Any]) -> dict[str, Any]:
    unknown = sorted(set(given) - set(_DESCRIPTION))
    if unknown:
        raise TypeError(f"unknown description {', '.join(unknown)}; known are {', '.join(_DESCRIPTION)}")
    return _DESCRIPTION | given


def _json_object(path: Path, key: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise DataError(f"{path}: {key} is no valid JSON ({error}); write the file again") from error
    if not isinstance(value, dict):
        raise DataError(f"{path}: {key} is a {type(value).__name__}; wanted a JSON object")
    return value


def _read_meta(archive: NpzFile) -> dict[str, Any]:
    if "meta" not in archive:
        return {}
    meta = _json_object(archive.path, "meta", archive.text("meta"))
    # A damaged name must not pass for an absent array.
    unknown = sorted(set(meta) - {"name", "units", *_DESCRIPTION})
    unknown += sorted(set(archive.keys) - {"meta", "provenance", *_ARRAYS, *_SHORT_KEYS})
    _refuse_unknown(archive.path, unknown)
    return meta


def _refuse_unknown(path: Path, unknown: list[str]) -> None:
    if unknown:
        names = ", ".join(map(repr, unknown))
        raise DataError(f"{path}: holds unknown {names}; it is damaged, or was written by a newer version")


def _stated_units(archive: NpzFile, meta: dict[str, Any]) -> Units | None:
    try:
        if "units" in meta:
            return Units(**meta["units"])
        # The keys of sGDML data files.
        if "r_unit" in archive and "e_unit" in archive:
            return Units(length=archive.text("r_unit"), energy=archive.text("e_unit"))
    except TypeError as error:
        raise DataError(f"{archive.path}: units are not length, energy and force ({error})") from error
    except DataError as error:
        raise DataError(f"{archive.path}: {error}") from error
    return None


def _refuse_disagreement(path: Path, stated: Units | None, given: Units | None) -> None:
    if stated is None or given is None:
        return
    for kind in ("length", "energy", "force"):
        in_file, wanted = getattr(stated, f"{kind}_factor"), getattr(given, f"{kind}_factor")
        if not math.isclose(in_file, wanted, rel_tol=1e-9):
            raise DataError(
                f"{path}: states {kind} unit {getattr(stated, kind) or 'energy/length'}, but "
                f"{getattr(given, kind) or 'energy/length'} was given; leave the unit away or correct it"
            )


def read_md17_npz(
    path: str | os.PathLike[str], labels: str, *, name: str | None = None, check: bool = True
) -> Frames:
    """Read an MD17 or rMD17 file in kcal/mol and A.

    Three layouts are known: MD17 (z, R, E, F), rMD17 (nuclear_charges, coords, energies,
    forces, old_indices), and both together (z, R, E, F revised; E_md17, F_md17 original).

    Args:
        path: the file.
        labels: ``md17`` (original, PBE+vdW-TS) or ``rmd17`` (revised, PBE/def2-SVP).
        name: name of the data set; the file's stem unless given.
        check: compare forces and distances with what the units make plausible.

    Raises:
        DataError: unknown label set, labels not in the file, a damaged file, or other units.
    """
    if labels not in LABEL_SETS:
        raise DataError(f"label set {labels!r} is not known; use one of {', '.join(LABEL_SETS)}")
    archive = NpzFile(path)
    keys = _md17_keys(archive, labels)
    _refuse_disagreement(archive.path, _stated_units(archive, {}), MD17_UNITS)
    level_of_theory, source = LABEL_SETS[labels]
    return _build(
        path=archive.path,
        name=name or archive.path.stem,
        numbers=archive.numbers(keys[0]),
        positions=archive.numbers(keys[1]),
        energies=archive.numbers(keys[2]),
        forces=archive.numbers(keys[3]),
        cells=None,
        indices=archive.numbers("old_indices") if "old_indices" in archive else None,
        units=MD17_UNITS,
        check=check,
        interval_fs=MD17_INTERVAL_FS,
        constraints="none",
        level_of_theory=level_of_theory,
        source=source,
    )


def _md17_keys(archive: NpzFile, labels: str) -> tuple[str, str, str, str]:
    """Keys of species, positions, energies and forces of one label set."""
    layouts: dict[str, tuple[str, str, str, str]]
    if "E_md17" in archive:
        layouts = {"md17": ("z", "R", "E_md17", "F_md17"), "rmd17": ("z", "R", "E", "F")}
    elif "nuclear_charges" in archive:
        layouts = {"rmd17": ("nuclear_charges", "coords", "energies", "forces")}
    elif {"z", "R", "E", "F"} <= set(archive.keys):
        # Only the revised set numbers its frames by their place in the original one.
        layouts = {"rmd17" if "old_indices" in archive else "md17": ("z", "R", "E", "F")}
    else:
        raise DataError(
            f"{archive.path}: holds {', '.join(archive.keys) or 'nothing'}; neither MD17 (z, R, E, F) nor rMD17 "
            "(nuclear_charges, coords, energies, forces)"
        )
    if labels not in layouts:
        raise DataError(
            f"{archive.path}: has no {labels} labels, only {', '.join(layouts)}; choose these or another file"
        )
    return layouts[labels]


# --- extxyz -------------------------------------------------------------------------------------


def read_extxyz(
    path: str | os.PathLike[str], *, name: str | None = None, check: bool = True, **description: Any
) -> Frames:
    """Read an extended XYZ file through ase, whose units are A and eV.

    Args:
        path: the file.
        name: name of the data set; the file's stem unless given.
        check: compare forces and distances with what the units make plausible.
        description: interval_fs, constraints, level_of_theory, source.

    Raises:
        DataError: the file is damaged, or frames differ in atoms, labels or periodicity.
    """
    import ase.io

    found = existing_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            images = list(ase.io.iread(str(found), index=":", format="extxyz"))
    except Exception as error:  # ase raises what its parser happens to meet
        raise DataError(f"{found}: truncated or no extended XYZ ({reason(error)}); write it again") from error
    if not images:
        raise DataError(f"{found}: holds no frames; wanted extended XYZ")
    numbers = images[0].numbers
    for index, image in enumerate(images):
        if not np.array_equal(image.numbers, numbers):
            raise DataError(f"{found}: frame {index} has other atoms than frame 0; one file holds one system")
    return _build(
        path=found,
        name=name or found.stem,
        numbers=numbers,
        positions=np.array([image.positions for image in images]),
        energies=_extxyz_labels(found, images, "energy"),
        forces=_extxyz_labels(found, images, "forces"),
        cells=_extxyz_cells(found, images),
        indices=None,
        units=OWN_UNITS,
        check=check,
        **_describe(description),
    )


def _extxyz_labels(path: Path, images: list[Any], key: str) -> NDArray[Any] | None:
    values = [None if image.calc is None else image.calc.results.get(key) for image in images]
    missing = [index for index, value in enumerate(values) if value is None]
    if len(missing) == len(values):
        return None
    if missing:
        raise DataError(f"{path}: frame {missing[0]} has no {key}, others have; label every frame or none")
    return np.array(values, dtype=np.float64)


def _extxyz_cells(path: Path, images: list[Any]) -> NDArray[Any] | None:
    periodic = {bool(flag) for image in images for flag in image.pbc}
    if len(periodic) != 1:
        raise DataError(f"{path}: periodic in part; wanted all three directions in every frame, or none")
    return np.array([np.asarray(image.cell) for image in images]) if periodic.pop() else None


# --- HDF5 ---------------------------------------------------------------------------------------

_HDF5_UNITS = {"positions": "A", "energies": "eV", "forces": "eV/A", "cells": "A"}


def write_hdf5(frames: Frames, path: str | os.PathLike[str]) -> None:
    """Write frames as chunked HDF5: the arrays of ``write_npz``, each with an attribute ``unit``."""
    import h5py

    # Through memory: on a full disk HDF5 cannot close its file, and crashes.
    with h5py.File("memory", "w", driver="core", backing_store=False) as file:
        for key, value in _meta(frames).items():
            if key != "units" and value is not None:
                file.attrs[key] = value
        for key in _ARRAYS:
            array = getattr(frames, key)
            if array is None:
                continue
            per_frame = key != "atomic_numbers"
            chunks = (min(256, len(array)), *array.shape[1:]) if per_frame else array.shape
            # HDF5 keeps no checksum of its own.
            dataset = file.create_dataset(key, data=array, chunks=chunks, fletcher32=True)
            if key in _HDF5_UNITS:
                dataset.attrs["unit"] = _HDF5_UNITS[key]
        file.flush()
        image = file.id.get_file_image()
    with atomic_path(path) as temporary:
        temporary.write_bytes(image)


def read_hdf5(path: str | os.PathLike[str], *, name: str | None = None, check: bool = True) -> Frames:
    """Read HDF5 with the layout of ``write_hdf5``.

    Args:
        path: the file.
        name: name of the data set; the file's own unless given.
        check: compare forces and distances with what the units make plausible.

    Raises:
        DataError: the file is damaged, states no units, or its arrays lie outside it.
    """
    import h5py

    found = existing_file(path)
    try:
        with h5py.File(found, "r") as file:
            unknown = sorted((set(file) - set(_ARRAYS)) | (set(file.attrs) - {"name", *_DESCRIPTION}))
            _refuse_unknown(found, unknown)
            arrays = {key: _hdf5_array(found, file, key) for key in _ARRAYS}
            attributes = {
                key: _plain(file.attrs[key]) for key in ("name", *_DESCRIPTION) if key in file.attrs
            }
            units = {key: file[key].attrs.get("unit") for key in _HDF5_UNITS if arrays[key] is not None}
    except DataError:
        raise
    except (OSError, KeyError, RuntimeError, ValueError, TypeError) as error:
        raise DataError(
            f"{found}: truncated or no HDF5 file ({reason(error)}); copy or download it again"
        ) from error
    numbers, positions = arrays["atomic_numbers"], arrays["positions"]
    if numbers is None or positions is None:
        raise DataError(f"{found}: no atomic_numbers or no positions; wanted the layout of `data convert`")
    for key, unit in units.items():
        if unit != _HDF5_UNITS[key]:
            raise DataError(f"{found}: {key} state unit {unit!r}; wanted {_HDF5_UNITS[key]!r}, convert them")
    return _build(
        path=found,
        name=name or str(attributes.pop("name", found.stem)),
        numbers=numbers,
        positions=positions,
        energies=arrays["energies"],
        forces=arrays["forces"],
        cells=arrays["cells"],
        indices=arrays["frame_indices"],
        units=OWN_UNITS,
        check=check,
        **_describe({key: value for key, value in attributes.items() if key != "name"}),
    )


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _hdf5_array(path: Path, file: Any, key: str) -> NDArray[Any] | None:
    import h5py

    link = file.get(key, getlink=True)
    if link is None:
        return None
    if not isinstance(link, h5py.HardLink):
        raise DataError(
            f"{path}: {key} is a {type(link).__name__}, which may lead out of the file; store the array itself"
        )
    dataset = file[key]
    if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind not in "iuf":
        raise DataError(f"{path}: {key} is no array of real numbers")
    if dataset.external or dataset.is_virtual:
        raise DataError(f"{path}: {key} keeps its data in other files; store the array itself")
    if dataset.nbytes > min(MAX_EXPANSION * dataset.id.get_storage_size() + FREE_BYTES, MAX_ARRAY_BYTES):
        raise DataError(
            f"{path}: {key} claims shape {dataset.shape} but stores {dataset.id.get_storage_size()} bytes; "
            "this is no honest data file, and it was not read"
        )
    array: NDArray[Any] = dataset[()]
    return array


# --- common -------------------------------------------------------------------------------------


def _build(
    *,
    path: Path,
    name: str,
    numbers: NDArray[Any],
    positions: NDArray[Any],
    energies: NDArray[Any] | None,
    forces: NDArray[Any] | None,
    cells: NDArray[Any] | None,
    indices: NDArray[Any] | None,
    units: Units,
    check: bool,
    interval_fs: float | None,
    constraints: str,
    level_of_theory: str,
    source: str,
) -> Frames:
    """Convert to A and eV, check shapes, values and plausibility."""

    def scaled(array: NDArray[Any] | None, factor: float) -> NDArray[np.float64] | None:
        return None if array is None else np.asarray(array, dtype=np.float64) * factor

    if numbers.ndim == 2 and len(numbers) and (numbers == numbers[0]).all():
        numbers = numbers[0]
    if numbers.ndim != 1 or (numbers != np.floor(numbers)).any():
        raise DataError(
            f"{path}: atomic numbers have shape {numbers.shape}; wanted one whole number per atom"
        )
    if positions.ndim != 3:
        raise DataError(f"{path}: positions have shape {positions.shape}; wanted (n_frames, n_atoms, 3)")
    if energies is not None and energies.ndim == 2 and energies.shape[1] == 1:
        energies = energies[:, 0]  # official MD17 files have (n_frames, 1)
    if interval_fs is not None and not (isinstance(interval_fs, int | float) and 0 < interval_fs < math.inf):
        raise DataError(f"{path}: interval_fs is {interval_fs!r}; wanted a positive number")
    for text in (name, constraints, level_of_theory, source):
        if not isinstance(text, str):
            raise DataError(f"{path}: description holds {text!r}; wanted text")
    if indices is None:
        indices = np.arange(len(positions))
    elif indices.dtype.kind not in "iu":
        raise DataError(f"{path}: frame indices have type {indices.dtype}; wanted whole numbers")
    if (
        cells is not None
        and cells.shape == (len(positions), 3, 3)
        and np.isfinite(cells).all()
        and (np.abs(np.linalg.det(cells)) < 1e-6).any()
    ):
        raise DataError(f"{path}: a cell has no volume; give three independent lattice vectors, or no cells")
    try:
        frames = Frames(
            name=name,
            atomic_numbers=numbers.astype(np.int64),
            positions=np.asarray(positions, dtype=np.float64) * units.length_factor,
            energies=scaled(energies, units.energy_factor),
            forces=scaled(forces, units.force_factor),
            cells=scaled(cells, units.length_factor),
            frame_indices=indices.astype(np.int64),
            interval_fs=interval_fs,
            constraints=constraints,
            level_of_theory=level_of_theory,
            source=source,
        )
        if check:
            check_plausible(frames)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    return frames


def read_any(
    path: str | os.PathLike[str],
    labels: str | None = None,
    *,
    name: str | None = None,
    units: Units | None = None,
    check: bool = True,
    **description: Any,
) -> Frames:
    """Read a data file of any known kind, chosen by its ending and its contents.

    Args:
        path: .npz, .extxyz, .xyz, .h5, .hdf5, or a .npy file of MDsim.
        labels: label set of an MD17 or rMD17 file.
        name: name of the data set.
        units: units of a plain npz that does not state them.
        check: compare forces and distances with what the units make plausible.
        description: interval_fs, constraints, level_of_theory, source where the file is silent.

    Raises:
        DataError: the kind is not known, or the reader of that kind refuses the file.
    """
    found = existing_file(path)
    suffix = found.suffix.lower()
    readers: dict[str, Callable[..., Frames]] = {
        ".npz": read_npz, ".extxyz": read_extxyz, ".xyz": read_extxyz, ".h5": read_hdf5, ".hdf5": read_hdf5,
        ".npy": read_mdsim,
    }  # fmt: skip
    if suffix not in readers:
        raise DataError(f"{found}: ending {suffix!r} is not known; use one of {', '.join(readers)}")
    if labels is not None:
        if suffix != ".npz":
            raise DataError(f"{found}: label sets exist in MD17 npz files only; leave labels {labels!r} away")
        return read_md17_npz(found, labels, name=name, check=check)
    if suffix == ".npz":
        keys = set(NpzFile(found).keys)
        of_md17 = {"E_md17", "nuclear_charges"} & keys or ({"z", "R"} <= keys and "cell" not in keys)
        if units is None and "meta" not in keys and of_md17:
            raise DataError(
                f"{found}: an MD17 or rMD17 file; say which labels, one of {', '.join(LABEL_SETS)} (--labels)"
            )
        return read_npz(found, name=name, units=units, check=check, **description)
    if units is not None:
        raise DataError(f"{found}: units of {suffix} files are fixed; leave them away")
    return readers[suffix](found, name=name, check=check, **description)
