"""Readers: known numbers, round trips, and files from people who mean harm or lost half of it."""

import json
import os
import zipfile
from pathlib import Path

import ase
import ase.io
import h5py
import numpy as np
import pytest

from openmm_mlbench.data.datasets import data_folder
from openmm_mlbench.data.file_units import OWN_UNITS, Units, check_plausible, nearest_distances
from openmm_mlbench.data.frames import Frames
from openmm_mlbench.data.readers import (
    read_any,
    read_extxyz,
    read_hdf5,
    read_md17_npz,
    read_npz,
    read_provenance,
    write_hdf5,
    write_npz,
)
from openmm_mlbench.errors import DataError, MLBenchError

EV_PER_KCALMOL = 0.0433641042  # 4184 J / (N_A e), worked out apart from units.py
KCAL = Units(length="A", energy="kcal/mol")


def water_frames(n_frames=4, cells=False):
    rng = np.random.default_rng(7)
    shape = np.array([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]])
    return Frames(
        name="toy",
        atomic_numbers=np.array([8, 1, 1]),
        positions=shape + rng.normal(0, 0.02, (n_frames, 3, 3)),
        energies=rng.normal(-100, 1, n_frames),
        forces=rng.normal(0, 1, (n_frames, 3, 3)),
        cells=np.tile(np.diag([9.0, 9.5, 10.0]), (n_frames, 1, 1)) if cells else None,
        frame_indices=np.arange(n_frames) * 3,
        interval_fs=0.5,
        constraints="none",
        level_of_theory="toy",
        source="a test",
    )


def same(one, other, rtol=0.0):
    for key in ("atomic_numbers", "positions", "energies", "forces", "cells"):
        a, b = getattr(one, key), getattr(other, key)
        assert (a is None) == (b is None), key
        if a is not None:
            np.testing.assert_allclose(a, b, rtol=rtol, atol=0, err_msg=key)


def md17_arrays(layout):
    frames = water_frames()
    E, F = frames.energies / EV_PER_KCALMOL, frames.forces / EV_PER_KCALMOL
    old = np.array([3, 10, 11, 40])
    return {
        "md17": {"z": frames.atomic_numbers, "R": frames.positions, "E": E[:, None], "F": F},
        "rmd17": {
            "nuclear_charges": frames.atomic_numbers, "coords": frames.positions, "energies": E, "forces": F,
            "old_indices": old,
        },
        "both": {
            "z": frames.atomic_numbers, "R": frames.positions, "E": E, "F": F, "E_md17": E + 1, "F_md17": F * 2,
            "old_indices": old,
        },
    }[layout]  # fmt: skip


def save(path, arrays):
    np.savez(path, **arrays)
    return path


# --- MD17 ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layout", "labels", "shift", "scale"),
    [
        ("md17", "md17", 0, 1),
        ("rmd17", "rmd17", 0, 1),
        ("both", "rmd17", 0, 1),
        ("both", "md17", EV_PER_KCALMOL, 2),
    ],
)
def test_md17_layouts_and_label_sets(tmp_path, layout, labels, shift, scale):
    frames = read_md17_npz(save(tmp_path / "toy.npz", md17_arrays(layout)), labels)
    expected = water_frames()
    np.testing.assert_allclose(frames.energies, expected.energies + shift, rtol=1e-8)
    np.testing.assert_allclose(frames.forces, expected.forces * scale, rtol=1e-8)
    np.testing.assert_array_equal(frames.positions, expected.positions)
    assert frames.level_of_theory == {"md17": "PBE+vdW-TS", "rmd17": "PBE/def2-SVP"}[labels]
    assert frames.frame_indices.tolist() == ([0, 1, 2, 3] if layout == "md17" else [3, 10, 11, 40])
    assert frames.interval_fs == 0.5
    assert frames.name == "toy"


@pytest.mark.parametrize(
    ("layout", "labels", "message"),
    [
        ("both", "dft", r"label set 'dft' is not known; use one of md17, rmd17"),
        ("md17", "rmd17", "has no rmd17 labels, only md17"),
        ("rmd17", "md17", "has no md17 labels, only rmd17"),
    ],
)
def test_md17_wrong_labels(tmp_path, layout, labels, message):
    with pytest.raises(DataError, match=message):
        read_md17_npz(save(tmp_path / "toy.npz", md17_arrays(layout)), labels)


def test_md17_file_that_states_other_units(tmp_path):
    arrays = md17_arrays("md17") | {"r_unit": np.array("Ang"), "e_unit": np.array("eV")}
    with pytest.raises(DataError, match="states energy unit eV"):
        read_md17_npz(save(tmp_path / "a.npz", arrays), "md17")
    arrays["e_unit"] = np.array("kcal/mol")
    read_md17_npz(save(tmp_path / "b.npz", arrays), "md17")


def test_md17_neither_layout(tmp_path):
    with pytest.raises(DataError, match="holds a; neither MD17"):
        read_md17_npz(save(tmp_path / "toy.npz", {"a": np.zeros(3)}), "md17")


@pytest.fixture(scope="module")
def real():
    folder = data_folder()
    if not (folder / "rmd17" / "ethanol.npz").is_file():
        pytest.skip(f"real MD17 data are not in {folder} (set MLBENCH_DATA)")
    return folder


def test_real_energies_are_integrals_of_real_forces(real):
    """Trapezoidal work between frames 0.5 fs apart equals the energy difference: units fit."""
    frames = read_md17_npz(real / "md17_ethanol_consecutive.npz", "md17")
    steps = np.diff(frames.positions, axis=0)
    work = -(0.5 * (frames.forces[1:] + frames.forces[:-1]) * steps).sum(axis=(1, 2))
    change = np.diff(frames.energies)
    assert change.std() > 0.01
    # The trapezoid is off by 2 % of a step's change; a wrong unit would be off by factors.
    assert (work - change).std() < 0.03 * change.std()
    assert np.polyfit(change, work, 1)[0] == pytest.approx(1.0, abs=0.01)


def test_real_label_sets_are_told_apart(real):
    """The original labels of the rMD17 file are those of MD17's own frames; the revised ones are not."""
    consecutive = read_md17_npz(real / "md17_ethanol_consecutive.npz", "md17")
    sets = {labels: read_md17_npz(real / "rmd17" / "ethanol.npz", labels) for labels in ("md17", "rmd17")}
    early = sets["md17"].frame_indices < consecutive.n_frames
    places = sets["md17"].frame_indices[early]
    assert len(places) > 10
    np.testing.assert_allclose(sets["md17"].positions[early], consecutive.positions[places], atol=1e-5)
    np.testing.assert_allclose(sets["md17"].energies[early], consecutive.energies[places], atol=1e-5)
    np.testing.assert_allclose(sets["md17"].forces[early], consecutive.forces[places], atol=1e-4)
    apart = np.abs(sets["rmd17"].forces - sets["md17"].forces).mean() / EV_PER_KCALMOL
    assert 2.0 < apart < 5.0


def test_real_file_read_without_labels_is_refused(real):
    with pytest.raises(DataError, match="say which labels, one of md17, rmd17"):
        read_any(real / "rmd17" / "ethanol.npz")


# --- round trips --------------------------------------------------------------------------------


@pytest.mark.parametrize("cells", [False, True])
@pytest.mark.parametrize(("write", "ending"), [(write_npz, ".npz"), (write_hdf5, ".h5")])
def test_round_trip(tmp_path, write, ending, cells):
    frames = water_frames(cells=cells)
    write(frames, tmp_path / f"x{ending}")
    back = read_any(tmp_path / f"x{ending}")
    same(frames, back)
    assert back.content_hash() == frames.content_hash()
    for key in ("name", "interval_fs", "constraints", "level_of_theory", "source"):
        assert getattr(back, key) == getattr(frames, key)
    np.testing.assert_array_equal(back.frame_indices, frames.frame_indices)


def test_npz_is_the_same_to_the_byte(tmp_path):
    for name in ("a.npz", "b.npz"):
        write_npz(water_frames(), tmp_path / name, provenance='{"seed": 0}')
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert read_provenance(tmp_path / "a.npz") == {"seed": 0}
    write_npz(water_frames(), tmp_path / "c.npz")
    assert read_provenance(tmp_path / "c.npz") == {}


def test_npz_in_single_precision(tmp_path):
    frames = water_frames()
    write_npz(frames, tmp_path / "x.npz", single=True)
    back = read_npz(tmp_path / "x.npz")
    np.testing.assert_array_equal(back.positions, frames.positions.astype(np.float32))
    np.testing.assert_array_equal(back.energies, frames.energies)


@pytest.mark.parametrize("write", [write_npz, write_hdf5])
def test_failed_write_leaves_the_old_file(tmp_path, write, monkeypatch):
    write(water_frames(), tmp_path / "x")
    before = (tmp_path / "x").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write(water_frames(2), tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == before
    assert os.listdir(tmp_path) == ["x"]


def test_frames_without_labels(tmp_path):
    frames = water_frames()
    bare = Frames(**(vars(frames) | {"energies": None, "forces": None, "interval_fs": None}))
    for write, name in ((write_npz, "x.npz"), (write_hdf5, "x.h5")):
        write(bare, tmp_path / name)
        back = read_any(tmp_path / name)
        assert back.energies is None
        assert back.forces is None
        assert back.interval_fs is None


# --- plain npz ----------------------------------------------------------------------------------


def plain(frames, factor=1.0, length=1.0):
    return {
        "z": frames.atomic_numbers,
        "R": frames.positions / length,
        "E": frames.energies / factor,
        "F": frames.forces / factor * length,
    }


def test_plain_npz_needs_units(tmp_path):
    path = save(tmp_path / "x.npz", plain(water_frames(), EV_PER_KCALMOL))
    with pytest.raises(DataError, match="states no units"):
        read_npz(path)
    same(read_npz(path, units=KCAL), water_frames(), rtol=1e-8)
    described = read_npz(path, units=KCAL, interval_fs=2.0, level_of_theory="MP2", name="mine")
    assert (described.interval_fs, described.level_of_theory, described.name) == (2.0, "MP2", "mine")


def test_bohr_and_hartree(tmp_path):
    path = save(tmp_path / "x.npz", plain(water_frames(), 27.211386245988, 0.529177210903))
    same(read_npz(path, units=Units(length="bohr", energy="hartree")), water_frames(), rtol=1e-9)


def test_forces_in_a_unit_of_their_own(tmp_path):
    arrays = plain(water_frames(), 27.211386245988) | {
        "F": water_frames().forces / (27.211386245988 / 0.529177210903)
    }
    units = Units(length="A", energy="hartree", force="hartree/bohr")
    same(read_npz(save(tmp_path / "x.npz", arrays), units=units), water_frames(), rtol=1e-9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"length": "furlong", "energy": "eV"}, "length unit 'furlong' is not known; use one of A, nm, bohr"),
        ({"length": "A", "energy": "kcal"}, "energy unit 'kcal' is not known"),
        ({"length": "A", "energy": "eV", "force": "eV"}, "wanted energy/length"),
        ({"length": "A", "energy": "", "force": "eV/A"}, "energy unit '' is not known"),
    ],
)
def test_unknown_units(arguments, message):
    with pytest.raises(DataError, match=message):
        Units(**arguments)


@pytest.mark.parametrize(
    ("units", "message"),
    [
        (Units(length="A", energy="eV"), "median force is .* it looks like kcal/mol/A"),
        (Units(length="nm", energy="kcal/mol"), "nearest-neighbour distance is .* A, outside 0.5-5"),
        (Units(length="bohr", energy="kcal/mol"), "outside 0.5-5"),
    ],
)
def test_wrong_units_are_noticed(tmp_path, units, message):
    frames = water_frames(20)
    frames = Frames(**(vars(frames) | {"forces": frames.forces * 1.2}))
    path = save(tmp_path / "x.npz", plain(frames, EV_PER_KCALMOL))
    if units.length == "bohr":  # 0.96 bohr is 0.51 A, just plausible: the force tells
        assert np.median(nearest_distances(read_npz(path, units=units, check=False))) == pytest.approx(
            0.51, abs=0.02
        )
        return
    with pytest.raises(DataError, match=message):
        read_npz(path, units=units)
    read_npz(path, units=units, check=False)


@pytest.mark.parametrize(("length", "looks"), [(0.1, "nm"), (0.529177, "bohr")])
def test_positions_in_another_unit_than_stated(tmp_path, length, looks):
    path = save(tmp_path / "x.npz", plain(water_frames(), length=length if looks == "nm" else 1.0))
    arrays = dict(np.load(path))
    if looks == "nm":
        arrays["R"] = water_frames().positions * 0.1
    else:
        arrays["R"] = water_frames().positions / length
    with pytest.raises(DataError, match=f"looks like .*{looks}"):
        read_npz(save(path, arrays), units=Units(length="A", energy="eV"))


def test_units_in_file_and_given_must_agree(tmp_path):
    write_npz(water_frames(), tmp_path / "x.npz")
    with pytest.raises(DataError, match="states energy unit eV, but kcal/mol was given"):
        read_npz(tmp_path / "x.npz", units=KCAL)


def test_nearest_distances_against_ase():
    frames = water_frames(3, cells=True)
    # Shift through the boundary, so that neighbours are images.
    frames = Frames(**(vars(frames) | {"positions": frames.positions + np.array([8.8, 9.3, 0.0])}))
    found = nearest_distances(frames)
    for index in range(3):
        atoms = ase.Atoms("OHH", frames.positions[index], cell=frames.cells[index], pbc=True)
        distances = atoms.get_all_distances(mic=True) + np.eye(3) * 99
        np.testing.assert_allclose(found[index], distances.min(axis=1), atol=1e-9)


def test_absurd_positions_are_refused():
    frames = water_frames()
    positions = frames.positions.copy()
    positions[1, 2, 0] = 1e200
    with pytest.raises(DataError, match=r"positions reach 1e\+200 A"):
        check_plausible(Frames(**(vars(frames) | {"positions": positions})))


def test_zero_forces_and_single_atoms_are_no_wrong_unit():
    frames = water_frames()
    check_plausible(Frames(**(vars(frames) | {"forces": np.zeros_like(frames.forces)})))
    check_plausible(
        Frames(**(vars(frames) | {
            "atomic_numbers": np.array([18]), "positions": frames.positions[:, :1], "forces": frames.forces[:, :1]
        }))
    )  # fmt: skip


def test_bad_shapes_and_values(tmp_path):
    good = plain(water_frames())
    units = Units(length="A", energy="eV")
    nan = good["F"].copy()
    nan[2, 1, 0] = np.nan
    bad = {
        "NaN or Infinity in 1 frames, first in frame 2": {"F": nan},
        "forces have shape": {"F": good["F"][:, :2]},
        "energies have shape": {"E": good["E"][:2]},
        r"positions have shape \(3, 3\)": {"R": good["R"][0]},
        "atomic numbers must lie in 1-118": {"z": np.array([8, 1, 0])},
        "wanted one whole number per atom": {"z": np.array([8.5, 1, 1])},
        "has type <U1; wanted real numbers": {"z": np.array(["O", "H", "H"])},
        "has type complex128": {"E": good["E"].astype(complex)},
        "frame indices have type float64": {"frame_indices": np.arange(4.0)},
        "no volume": {"cells": np.zeros((4, 3, 3))},
    }
    for message, change in bad.items():
        with pytest.raises(DataError, match=message) as caught:
            read_npz(save(tmp_path / "x.npz", good | change), units=units)
        assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="wanted at least atomic_numbers"):
        read_npz(save(tmp_path / "x.npz", {"R": good["R"]}), units=units)


def test_atomic_numbers_per_frame(tmp_path):
    good = plain(water_frames())
    units = Units(length="A", energy="eV")
    repeated = read_npz(save(tmp_path / "x.npz", good | {"z": np.tile(good["z"], (4, 1))}), units=units)
    assert repeated.atomic_numbers.tolist() == [8, 1, 1]
    mixed = np.tile(good["z"], (4, 1))
    mixed[1] = [1, 1, 8]
    with pytest.raises(DataError, match=r"shape \(4, 3\)"):
        read_npz(save(tmp_path / "x.npz", good | {"z": mixed}), units=units)


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ("[1]", "meta is a list; wanted a JSON object"),
        ("{", "meta is no valid JSON"),
        ('{"units": {"length": "A"}}', "units are not length, energy and force"),
        ('{"units": {"length": "A", "energy": "parsec"}}', "energy unit 'parsec'"),
        ('{"shiny": 1, "units": {"length": "A", "energy": "eV"}}', "unknown 'shiny'"),
        ('{"interval_fs": "x", "units": {"length": "A", "energy": "eV"}}', "interval_fs is 'x'"),
        ('{"units": "eV"}', "units are not length, energy and force"),
    ],
)
def test_bad_meta(tmp_path, meta, message):
    with pytest.raises(DataError, match=message):
        read_npz(save(tmp_path / "x.npz", plain(water_frames()) | {"meta": np.array(meta)}))


def test_read_any_says_what_it_wants(tmp_path):
    (tmp_path / "x.csv").write_text("1")
    for path, message in {
        tmp_path / "absent.npz": "no such file",
        tmp_path: "is a folder",
        tmp_path / "x.csv": "ending '.csv' is not known",
    }.items():
        with pytest.raises(DataError, match=message):
            read_any(path)
    write_hdf5(water_frames(), tmp_path / "x.h5")
    with pytest.raises(DataError, match="label sets exist in MD17 npz files only"):
        read_any(tmp_path / "x.h5", "md17")
    with pytest.raises(DataError, match=r"units of \.h5 files are fixed"):
        read_any(tmp_path / "x.h5", units=KCAL)


# --- hostile and damaged npz --------------------------------------------------------------------


@pytest.mark.parametrize("write", [write_npz, write_hdf5])
def test_truncated_files(tmp_path, write):
    whole = tmp_path / ("whole.npz" if write is write_npz else "whole.h5")
    write(water_frames(), whole)
    content = whole.read_bytes()
    cut = tmp_path / f"cut{whole.suffix}"
    for length in (0, 1, 3, 4, 30, 100, len(content) // 2, len(content) - 200, len(content) - 1):
        cut.write_bytes(content[:length])
        with pytest.raises(DataError, match="cut") as caught:
            read_any(cut)
        assert "\n" not in str(caught.value)


def outcome(path):
    try:
        return read_any(path)
    except MLBenchError as error:
        return str(error)


@pytest.mark.parametrize("write", [write_npz, write_hdf5])
def test_flipped_bytes_are_noticed_or_harmless(tmp_path, write):
    frames = water_frames(40)
    whole = tmp_path / ("whole.npz" if write is write_npz else "whole.h5")
    write(frames, whole)
    content = whole.read_bytes()
    rng = np.random.default_rng(3)
    path = tmp_path / f"flip{whole.suffix}"
    refused = 0
    for place in rng.integers(0, len(content), 200):
        damaged = bytearray(content)
        damaged[place] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        found = outcome(path)
        if isinstance(found, str):
            refused += 1
            assert "\n" not in found
        else:
            same(found, frames)
    assert refused > 50


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_pickles_are_refused_unrun(tmp_path):
    mark = tmp_path / "mark"
    path = save(tmp_path / "x.npz", {"z": np.array([Payload(mark)], dtype=object), "R": np.zeros((1, 1, 3))})
    with pytest.raises(DataError, match="'z' is pickled"):
        read_npz(path, units=KCAL)
    assert not mark.exists()
    np.save(tmp_path / "x.npy", {"R": 1}, allow_pickle=True)
    (tmp_path / "x.npy").rename(tmp_path / "y.npz")
    with pytest.raises(DataError, match="no npz archive"):
        read_npz(tmp_path / "y.npz", units=KCAL)


def npy(header, body=b"", version=(1, 0)):
    text = header.encode("latin1") + b"\n"
    size = len(text).to_bytes(2 if version[0] == 1 else 4, "little")
    return b"\x93NUMPY" + bytes(version) + size + text + body


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npy("{'descr': '<f8', 'fortran_order': False, 'shape': (100000000000, 9, 3), }"), "claims 21600000000000 bytes"),
        (npy("{'descr': '<f8', 'fortran_order': False, 'shape': (-1, 9, 3), }"), "claims"),
        (npy("{'descr': '|S0', 'fortran_order': False, 'shape': (1000000000000,), }"), "has type"),
        (npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1, 1, 3), }", b"\0" * 16), "claims 24 bytes"),
        (npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1, 1, 3), }", b"\0" * 32), "claims 24 bytes"),
        (npy("__import__('os').abort()"), "damaged"),
        (npy("{'descr': '<f8', 'fortran_order': False, 'shape': " + "(" * 5000), "damaged"),
        (npy("{'descr': '<f8', " + " " * 60000), "damaged"),
        (npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1, 1, 3), }", b"\0" * 24, (3, 0)), "npy version 3"),
        (b"", "damaged"),
        (b"\x93NUMPY", "damaged"),
    ],
)  # fmt: skip
def test_forged_headers(tmp_path, content, message):
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("R.npy", content)
        archive.writestr(
            "z.npy", npy("{'descr': '<i8', 'fortran_order': False, 'shape': (1,), }", b"\1" + b"\0" * 7)
        )
    with pytest.raises(DataError, match=message) as caught:
        read_npz(path, units=KCAL)
    assert "\n" not in str(caught.value)


def test_zip_bomb_is_not_expanded(tmp_path):
    path = tmp_path / "x.npz"
    shape = (400_000, 9, 3)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("R.npy", "w") as member:
        member.write(npy(f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}"))
        member.write(b"\0" * (8 * 400_000 * 27))
    assert path.stat().st_size < 1_000_000
    with pytest.raises(DataError, match="no honest data file"):
        read_npz(path, units=KCAL)


def test_encrypted_and_unknown_compression(tmp_path):
    path = tmp_path / "x.npz"
    save(path, plain(water_frames()))
    content = bytearray(path.read_bytes())
    for offset, value in ((8, 1), (10, 99)):  # flag bits; compression method, in the central directory
        damaged = bytearray(content)
        place = 0
        while (place := damaged.find(b"PK\x01\x02", place)) >= 0:
            damaged[place + offset] = value
            place += 4
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"x\.npz"):
            read_npz(path, units=Units(length="A", energy="eV"))


# --- HDF5 ---------------------------------------------------------------------------------------


def hdf5(tmp_path, change):
    write_hdf5(water_frames(), tmp_path / "x.h5")
    write_hdf5(water_frames(), tmp_path / "other.h5")
    with h5py.File(tmp_path / "x.h5", "r+") as file:
        change(file)
    return tmp_path / "x.h5"


def replace_positions(**arguments):
    def change(file):
        del file["positions"]
        file.create_dataset("positions", **arguments).attrs["unit"] = "A"

    return change


def link_positions(link):
    def change(file):
        del file["positions"]
        file["positions"] = link

    return change


def virtual_positions(file):
    del file["positions"]
    layout = h5py.VirtualLayout(shape=(4, 3, 3), dtype="f8")
    layout[:] = h5py.VirtualSource("other.h5", "positions", shape=(4, 3, 3))
    file.create_virtual_dataset("positions", layout)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (link_positions(h5py.ExternalLink("other.h5", "/positions")), "ExternalLink, which may lead out"),
        (link_positions(h5py.SoftLink("/forces")), "SoftLink, which may lead out"),
        (virtual_positions, "keeps its data in other files"),
        (
            replace_positions(shape=(4, 3, 3), dtype="f8", external=[("/etc/passwd", 0, 288)]),
            "keeps its data in other files",
        ),
        (replace_positions(shape=(10**9, 3, 3), dtype="f8", chunks=(1024, 3, 3)), "but stores 0 bytes"),
        (replace_positions(data=[b"abc"]), "no array of real numbers"),
        (lambda file: file["forces"].attrs.__setitem__("unit", "kcal/mol/A"), "forces state unit 'kcal/mol/A'; wanted 'eV/A'"),
        (lambda file: file["forces"].attrs.__delitem__("unit"), "forces state unit None"),
        (lambda file: file.__delitem__("positions"), "no positions"),
        (lambda file: file.attrs.__setitem__("constraints", "some"), "constraints 'some'"),
        (lambda file: file.attrs.__setitem__("constraints", [1, 2]), "wanted text"),
        (lambda file: file.attrs.__setitem__("interval_fs", [1, 2]), "wanted a positive number"),
        (lambda file: file.move("energies", "energiet"), "unknown 'energiet'"),
        (lambda file: (file.__delitem__("forces"), file.create_group("forces")), "no array of real numbers"),
    ],
)  # fmt: skip
def test_hostile_hdf5(tmp_path, change, message):
    with pytest.raises(DataError, match=message) as caught:
        read_hdf5(hdf5(tmp_path, change))
    assert "\n" not in str(caught.value)


# --- extxyz -------------------------------------------------------------------------------------


def images(frames, cells=False):
    from ase.calculators.singlepoint import SinglePointCalculator

    for index in range(frames.n_frames):
        atoms = ase.Atoms(frames.atomic_numbers, frames.positions[index])
        if cells:
            atoms.set_cell(frames.cells[index])
            atoms.pbc = True
        atoms.calc = SinglePointCalculator(atoms, energy=frames.energies[index], forces=frames.forces[index])
        yield atoms


def periodic_arrays():
    """A plain npz with the short keys, as LiPS and DFT water come."""
    frames = water_frames(cells=True)
    return {
        "z": frames.atomic_numbers.astype(np.uint8),
        "R": frames.positions.astype(np.float32),
        "E": frames.energies,
        "F": frames.forces.astype(np.float32),
        "cell": frames.cells[0],
        "frame": np.array([3, 5, 8, 9], dtype=np.int32),
        "dt_fs": np.array(2.0),
    }


def test_short_keys_of_periodic_data(tmp_path):
    arrays = periodic_arrays()
    frames = read_npz(save(tmp_path / "x.npz", arrays), units=OWN_UNITS)
    assert frames.frame_indices.tolist() == [3, 5, 8, 9]
    assert frames.interval_fs == 2.0
    np.testing.assert_array_equal(frames.cells, np.broadcast_to(arrays["cell"], (4, 3, 3)))
    each = arrays | {"cell": np.repeat(arrays["cell"][None], 4, axis=0)}
    again = read_npz(save(tmp_path / "y.npz", each), units=OWN_UNITS)
    assert again.content_hash() == frames.content_hash()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cell": np.ones((2, 3))}, r"cells have shape \(2, 3\)"),
        ({"cell": np.ones(3)}, r"cells have shape \(3,\)"),
        ({"cell": np.ones((5, 3, 3))}, "cells have shape"),
        ({"cell": np.ones((3, 3))}, "has no volume"),
        ({"cell": np.full((3, 3), np.nan)}, "NaN|no volume"),
        ({"cell": np.array("x")}, "wanted real numbers"),
        ({"frame": np.arange(3)}, "frame_indices have shape"),
        ({"frame": np.arange(4.0)}, "frame indices have type"),
        ({"dt_fs": np.array([1.0, 2.0])}, "wanted one number"),
        ({"dt_fs": np.array(-1.0)}, "wanted a positive number"),
        ({"dt_fs": np.array(np.nan)}, "wanted a positive number"),
        ({"R": np.array(3.0)}, "positions have shape"),
        ({"R": np.zeros((0, 3, 3))}, "positions have shape"),
        ({"z": np.array(8)}, "wanted one whole number per atom"),
    ],
)
def test_bad_periodic_data(tmp_path, change, message):
    path = save(tmp_path / "x.npz", periodic_arrays() | change)
    with pytest.raises(DataError, match=message) as caught:
        read_npz(path, units=OWN_UNITS)
    assert "\n" not in str(caught.value)


def test_periodic_data_by_path_say_that_units_are_missing(tmp_path):
    with pytest.raises(DataError, match="states no units"):
        read_any(save(tmp_path / "x.npz", periodic_arrays()))


@pytest.mark.parametrize("cells", [False, True])
def test_extxyz(tmp_path, cells):
    frames = water_frames(cells=cells)
    ase.io.write(tmp_path / "x.extxyz", list(images(frames, cells)))
    back = read_any(tmp_path / "x.extxyz", interval_fs=0.5)
    for key in ("positions", "energies", "forces"):
        np.testing.assert_allclose(getattr(back, key), getattr(frames, key), atol=2e-8)
    assert (back.cells is not None) == cells
    assert back.interval_fs == 0.5


def test_bad_extxyz(tmp_path):
    good = list(images(water_frames()))
    path = tmp_path / "x.xyz"

    def refuse(message, content=None):
        if content is not None:
            ase.io.write(path, content, format="extxyz")
        with pytest.raises(DataError, match=message) as caught:
            read_extxyz(path)
        assert "\n" not in str(caught.value)

    other = good[1].copy()
    other.numbers = [1, 1, 8]
    refuse("frame 1 has other atoms", [good[0], other])
    refuse("frame 1 has no energy", [good[0], good[2].copy()])
    cell = good[1].copy()
    cell.set_cell([9, 9, 9])
    cell.pbc = (True, True, False)
    refuse("periodic in part", [cell])
    ase.io.write(path, good, format="extxyz")
    path.write_text(path.read_text()[:-80])
    refuse("truncated or no extended XYZ")
    path.write_text("")
    refuse("x.xyz")
    path.write_bytes(b"\x00\xff" * 50)
    refuse("x.xyz")


def test_unknown_description_is_a_programming_error(tmp_path):
    write_npz(water_frames(), tmp_path / "x.npz")
    with pytest.raises(TypeError, match="unknown description temperature"):
        read_npz(tmp_path / "x.npz", temperature=1)


def test_meta_is_documented(tmp_path):
    write_npz(water_frames(), tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz", allow_pickle=False) as archive:
        meta = json.loads(str(archive["meta"]))
        assert set(archive.files) == {
            "atomic_numbers",
            "positions",
            "energies",
            "forces",
            "frame_indices",
            "meta",
        }
    assert meta["units"] == {"length": "A", "energy": "eV", "force": "eV/A"}
