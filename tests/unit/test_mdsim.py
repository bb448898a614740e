"""MDsim's files: read as they are published, without running anything in them."""

import contextlib
import io
import os
import pickle
import pickletools
import struct
import subprocess
import sys

import numpy as np
import pytest
from mdsim_files import BOX_A, alanine_table, npy, water_table

from openmm_mlbench.assets import asset_path
from openmm_mlbench.data.datasets import data_folder, load_dataset
from openmm_mlbench.data.frames import Frames
from openmm_mlbench.data.mdsim import read_mdsim_alanine, read_mdsim_water, whole_water
from openmm_mlbench.data.pickled_npy import read_pickled_dict
from openmm_mlbench.data.readers import read_any
from openmm_mlbench.data.whole import bond_tree, check_bonds, join_molecules, water_order
from openmm_mlbench.errors import DataError
from openmm_mlbench.topology import find_bonds, read_structure
from openmm_mlbench.units import EV_PER_KCALMOL

ARRAYS = {
    "doubles": np.arange(12.0).reshape(3, 4),
    "singles": np.arange(6, dtype=np.float32),
    "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "bytes": np.array([1, 8], dtype=np.uint8),
    "flags": np.array([True, False]),
    "symbols": np.array(["O", "H"]),
    "big endian": np.arange(3, dtype=">f4"),
    "nothing": np.zeros((0, 3)),
    "scalar": np.float64(3.5),
    "count": 4,
    "fraction": 0.25,
    "title": "water",
}


def raw(path, pickled):
    """An .npy file with this pickle."""
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
        file.write(pickled)
    return path


# --- without unpickling ---------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_same_as_unpickled(tmp_path, protocol):
    path = npy(tmp_path / "x.npy", {**ARRAYS, "list": [1, [2]], "none": None}, protocol)
    found = read_pickled_dict(path)
    assert set(found) == set(ARRAYS)
    unpickled = np.load(path, allow_pickle=True).item()
    for key, value in found.items():
        np.testing.assert_array_equal(value, unpickled[key])
        if isinstance(value, np.ndarray):
            # Unpickling turns bytes round to the machine's order.
            assert value.dtype.newbyteorder("=") == unpickled[key].dtype.newbyteorder("=")
        assert not isinstance(value, np.ndarray) or not value.flags.writeable


def test_as_numpy_saves_it(tmp_path):
    np.save(tmp_path / "x.npy", ARRAYS, allow_pickle=True)
    assert set(read_pickled_dict(tmp_path / "x.npy")) == set(ARRAYS)
    np.save(tmp_path / "y.npy", np.array([ARRAYS], dtype=object), allow_pickle=True)
    assert set(read_pickled_dict(tmp_path / "y.npy")) == set(ARRAYS)


def test_shared_arrays(tmp_path):
    array = np.arange(3.0)
    found = read_pickled_dict(npy(tmp_path / "x.npy", {"a": array, "b": array}))
    np.testing.assert_array_equal(found["a"], found["b"])


class Payload:
    """Runs a command when unpickled."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_nothing_is_run(tmp_path, protocol):
    marker = tmp_path / "was-run"
    for value in (
        {"a": Payload(f"touch {marker}")},
        Payload(f"touch {marker}"),
        {"a": [Payload(f"touch {marker}")]},
    ):
        path = npy(tmp_path / "x.npy", value, protocol)
        with pytest.raises(DataError) as caught:
            read_pickled_dict(path)
        assert not marker.exists()
        assert "\n" not in str(caught.value)
        if protocol >= 2:
            assert "posix.system" in str(caught.value) or "os.system" in str(caught.value)
            assert "nothing was run" in str(caught.value)


HOSTILE = {
    "a class": (b"cbuiltins\nobject\n.", "'builtins.object'"),
    "eval": (b"cbuiltins\neval\nX\x01\x00\x00\x001\x85R.", "'builtins.eval'"),
    "getattr by dots": (b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tolist\x93.", r"'numpy.ndarray.tolist'"),
    "numpy's loader": (b"cnumpy\nload\n.", "'numpy.load'"),
    "a very long name": (b"c" + b"m" * 200 + b"\n" + b"n" * 200 + b"\n.", "mmm"),
    "a name with line breaks": (b"\x80\x04\x8c\x03a\nb\x8c\x01c\x93.", r"a\\nb"),
    "a name that is no text": (b"\x80\x04K\x01K\x02\x93.", "1.2"),
    "a persistent id": (b"P1\n.", "instruction b'P'"),
    "an extension": (b"\x82\x01.", "instruction"),
    "a new object": (b"cnumpy\nndarray\n)\x81.", "instruction"),
    "an object call": (b"(cnumpy\nndarray\no.", "instruction b'o'"),
    "an instance": (b"(inumpy\nndarray\n.", "instruction b'i'"),
    "a call of ndarray": (b"cnumpy\nndarray\nK\x01\x85R.", "a call of 'ndarray'"),
    "a call of a number": (b"K\x01)R.", "a call of no name"),
    "an array of another class": (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\ndtype\nK\x00\x85C\x01b\x87R.",
        "a call of 'reconstruct'",
    ),
    "a structured dtype": (b"cnumpy\ndtype\nX\x02\x00\x00\x00V8K\x00K\x01\x87R.", "the dtype 'V8'"),
    "a dtype with code": (b"cnumpy\ndtype\nX\x06\x00\x00\x00f8,f8,\x85R.", "the dtype"),
    "no end": (b"}" + b"0}" * 10, "damaged"),
    "nothing": (b"", "damaged"),
    "an empty stack": (b".", "damaged"),
    "no mark": (b"}u.", "damaged"),
    "a missing memo": (b"h\x07.", "damaged"),
    "a number": (b"K\x01.", "holds no dictionary"),
    "a list": (b"].", "holds no dictionary"),
    "a name without end": (b"cnumpy", "damaged"),
    "items of a number": (b"K\x01(K\x01K\x02u.", "damaged"),
    "an item of a number": (b"K\x01K\x02a.", "damaged"),
    "a list as key": (b"}]K\x01s.", "a list as key"),
    "an unequal number of items": (b"}(K\x01u.", "damaged"),
    "state of a number": (b"K\x01)b.", "damaged"),
    "bytes beyond the file": (b"B\xff\xff\xff\xff.", "bytes claimed"),
    "exabytes": (b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.", "bytes claimed"),
    "a huge memo": (b"}r\xff\xff\xff\xff.", None),
    "an endless program": (b"N0" * 600_000 + b"}.", "more than 1,000,000 pickle instructions"),
    "text that is none": (b"X\x02\x00\x00\x00\xff\xfe.", "damaged"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_pickles(tmp_path, kind):
    pickled, message = HOSTILE[kind]
    path = raw(tmp_path / "x.npy", pickled)
    if message is None:
        assert read_pickled_dict(path) == {}
        return
    with pytest.raises(DataError, match=message) as caught:
        read_pickled_dict(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def array_pickle(shape, dtype, payload, order=False):
    """The pickle of {"a": array} with any claims."""
    buffer = io.BytesIO()

    class Forged(pickle._Pickler):
        def save_array(self, _):
            self.save_reduce(
                np.array(0).__reduce__()[0],
                (np.ndarray, (0,), b"b"),
                (1, shape, np.dtype(dtype), order, payload),
                obj=None,
            )

    Forged.dispatch = {**pickle._Pickler.dispatch, np.ndarray: Forged.save_array}
    Forged(buffer, 4).dump({"a": np.zeros(1)})
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("shape", "dtype", "payload", "message"),
    [
        ((10**12,), "f8", b"x" * 8, "needs 8,000,000,000,000 bytes, 8 are there"),
        ((2**61, 2**61), "f8", b"", "are there"),
        ((-1,), "f8", b"", "shape"),
        ((1,), "f8", b"", "needs 8 bytes, 0 are there"),
        ((True,), "f8", b"x" * 8, "shape"),
        ((1.0,), "f8", b"x" * 8, "shape"),
        ((1,) * 40, "f8", b"x" * 8, "shape"),
        ([1], "f8", b"x" * 8, "shape"),
        ((1,), "f8", "12345678", "an array of objects"),
        ((1,), "O", [1], None),
        ((2,), "O", [1, 2], "an array of objects"),
        ((1,), "O", b"12345678", "an array of objects"),
        ((1,), "c16", b"x" * 16, "the dtype 'c16'"),
        ((1,), "M8[s]", b"x" * 8, "the dtype 'M8'"),
        ((1,), [("x", "f8")], b"x" * 8, "the dtype"),
    ],
)
def test_forged_arrays(tmp_path, shape, dtype, payload, message):
    path = raw(tmp_path / "x.npy", array_pickle(shape, dtype, payload))
    if message is None:
        assert "a" not in read_pickled_dict(path)
        return
    with pytest.raises(DataError, match=message):
        read_pickled_dict(path)


def test_truncated_and_flipped_files_end_in_data_errors(tmp_path):
    whole = npy(tmp_path / "x.npy", ARRAYS).read_bytes()
    path = tmp_path / "y.npy"
    rng = np.random.Generator(np.random.PCG64(0))
    for _ in range(600):
        data = bytearray(whole)
        if rng.random() < 0.3:
            data = data[: rng.integers(len(data))]
        for _ in range(int(rng.integers(1, 4))):
            if data:
                data[rng.integers(len(data))] = rng.integers(256)
        path.write_bytes(data)
        # Any other exception than a DataError fails the test.
        with contextlib.suppress(DataError):
            read_pickled_dict(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"PK\x03\x04", "no npy file"),
        (b"\x93NUMPY\x01\x00", "no npy file"),
        (b"<html>", "no npy"),
    ],
)
def test_no_npy(tmp_path, content, message):
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_pickled_dict(tmp_path / "x.npy")


def test_plain_array_and_missing_file(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros(3))
    with pytest.raises(DataError, match="holds one plain array"):
        read_pickled_dict(tmp_path / "x.npy")
    with pytest.raises(DataError, match="no such file"):
        read_pickled_dict(tmp_path / "y.npy")


def test_only_known_instructions():
    """The table speaks of instructions that exist."""
    from openmm_mlbench.data.pickled_npy import _INSTRUCTIONS

    known = {ord(opcode.code) for opcode in pickletools.opcodes}
    assert set(_INSTRUCTIONS) <= known
    refused = {opcode.name for opcode in pickletools.opcodes if ord(opcode.code) not in _INSTRUCTIONS}
    assert {"INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "PERSID", "BINPERSID", "NEXT_BUFFER"} <= refused


def test_large_file_costs_no_memory(tmp_path):
    """400 MB are mapped, not read: the process stays small."""
    path = tmp_path / "x.npy"
    head = pickle.dumps({"small": np.arange(3.0)}, protocol=4)
    assert head.endswith(b"s.")
    size = 400 * 10**6
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
        file.write(head[:-1])
        file.write(b"\x8c\x05large" + b"\x8e" + struct.pack("<Q", size))
        file.seek(size, os.SEEK_CUR)
        file.write(b"s.")
    code = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_DATA, (300 * 10**6, 300 * 10**6))\n"
        "from openmm_mlbench.data.pickled_npy import read_pickled_dict\n"
        "print(read_pickled_dict(sys.argv[1])['small'])\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False, env=environment
    )
    assert done.stdout.strip() == "[0. 1. 2.]", done.stderr


# --- water ----------------------------------------------------------------------------------------


def test_water(tmp_path):
    table = water_table()
    path = npy(tmp_path / "water.npy", table)
    frames = load_dataset("water-10k", path=path)
    assert (frames.name, frames.n_frames, frames.interval_fs) == ("water-10k", 5, 10.0)
    np.testing.assert_allclose(frames.energies, table["energy"] * EV_PER_KCALMOL)
    np.testing.assert_allclose(frames.forces, table["forces"] * EV_PER_KCALMOL)
    np.testing.assert_array_equal(frames.cells, np.broadcast_to(np.eye(3) * BOX_A, (5, 3, 3)))
    # Oxygens where they were, each hydrogen beside its own.
    np.testing.assert_array_equal(frames.positions[:, ::3], table["wrapped_coords"][:, ::3])
    shift = (frames.positions - table["unwrapped_coords"]) / BOX_A
    np.testing.assert_allclose(shift, np.rint(shift), atol=1e-9)
    bonds = frames.positions[:, 1::3] - frames.positions[:, ::3]
    assert np.linalg.norm(bonds, axis=-1).max() < 1.3
    assert read_any(path).content_hash() == frames.content_hash()


@pytest.mark.parametrize("cells", ["one", "each", "row"])
def test_forms_of_the_same_table(tmp_path, cells):
    table = water_table()
    want = load_dataset("water-10k", path=npy(tmp_path / "a.npy", table)).content_hash()
    lengths = {"one": (3,), "each": (5, 3), "row": (1, 3)}[cells]
    table |= {
        "lengths": np.full(lengths, BOX_A),
        "angles": np.full(lengths, 90.0),
        "energy": table["energy"][:, None],
        "atom_types": np.broadcast_to(table["atom_types"], (5, 192)).astype(float),
    }
    assert load_dataset("water-10k", path=npy(tmp_path / "b.npy", table)).content_hash() == want


@pytest.mark.parametrize("order", ["O first", "shuffled"])
def test_atoms_in_another_order(tmp_path, order):
    table = water_table()
    want = load_dataset("water-10k", path=npy(tmp_path / "a.npy", table))
    if order == "O first":
        places = np.argsort(-table["atom_types"], kind="stable")
    else:
        places = np.random.Generator(np.random.PCG64(3)).permutation(192)
    mixed = table | {
        "wrapped_coords": table["wrapped_coords"][:, places],
        "forces": table["forces"][:, places],
        "atom_types": table["atom_types"][places],
    }
    found = load_dataset("water-10k", path=npy(tmp_path / "b.npy", mixed))
    if order == "O first":
        np.testing.assert_allclose(found.positions, want.positions, atol=1e-12)
        np.testing.assert_array_equal(found.forces, want.forces)
    # In any order: every force still belongs to its own atom.
    for frame in range(found.n_frames):
        mine = {
            tuple(p): tuple(f)
            for p, f in zip(
                np.round(np.mod(want.positions[frame], BOX_A), 6), want.forces[frame], strict=True
            )
        }
        theirs = {
            tuple(p): tuple(f)
            for p, f in zip(
                np.round(np.mod(found.positions[frame], BOX_A), 6), found.forces[frame], strict=True
            )
        }
        assert mine == theirs


def without(table, key):
    return {k: v for k, v in table.items() if k != key}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: without(t, "wrapped_coords"), "wanted 'wrapped_coords' or 'pos'"),
        (lambda t: without(t, "forces"), "wanted 'forces' or 'force'"),
        (lambda t: without(t, "lengths"), "has no lengths"),
        (lambda t: without(t, "atom_types"), "wanted 'atom_types'"),
        (lambda t: t | {"lengths": np.zeros(3)}, "not positive"),
        (lambda t: t | {"lengths": np.zeros(4)}, r"shape \(4,\)"),
        (lambda t: t | {"angles": np.full(3, 60.0)}, "not 90 degrees"),
        (lambda t: t | {"lengths": np.full(3, 30.0)}, "no whole water molecules"),
        (lambda t: t | {"forces": t["forces"][:3]}, "forces have shape"),
        (lambda t: t | {"forces": t["forces"][:, :10]}, r"wanted \(n_frames, 192, 3\)"),
        (lambda t: t | {"energy": t["energy"][:3]}, "energies have shape"),
        (lambda t: t | {"atom_types": np.full(192, 8)}, "64 O|192 O"),
        (lambda t: t | {"atom_types": np.full(192, 0.5)}, "whole number"),
        (lambda t: t | {"atom_types": np.array(["O"] * 192)}, "real numbers"),
        (lambda t: t | {"wrapped_coords": t["wrapped_coords"] * np.nan}, "NaN"),
        (lambda t: t | {"wrapped_coords": t["wrapped_coords"] / 10, "lengths": t["lengths"] / 10}, "median"),
        (lambda t: t | {"forces": t["forces"] * 1e4}, "median force"),
    ],
)
def test_water_that_is_none(tmp_path, change, message):
    path = npy(tmp_path / "x.npy", change(water_table()))
    with pytest.raises(DataError, match=message) as caught:
        read_mdsim_water(path)
    assert str(caught.value).count(str(path)) == 1
    assert "\n" not in str(caught.value)


def test_molecule_that_falls_apart(tmp_path):
    table = water_table()
    table["wrapped_coords"][3, 1] += 3.0
    with pytest.raises(DataError, match=r"atoms 0 and 1 are bonded in frame 0 and .* A apart in frame 3"):
        read_mdsim_water(npy(tmp_path / "x.npy", table))


def test_other_water_is_not_ours(tmp_path):
    table = water_table()
    keep = slice(0, 189)
    table |= {key: table[key][:, keep] for key in ("wrapped_coords", "forces")} | {
        "atom_types": table["atom_types"][keep]
    }
    with pytest.raises(DataError, match=r"189 in all.* are not those of water-10k"):
        load_dataset("water-10k", path=npy(tmp_path / "x.npy", table))


# --- alanine dipeptide ----------------------------------------------------------------------------


def test_alanine_dipeptide(tmp_path):
    table = alanine_table()
    frames = load_dataset("alanine-dipeptide-explicit", path=npy(tmp_path / "x.npy", table))
    assert frames.energies is None
    assert frames.cells is None
    assert (frames.constraints, frames.interval_fs, frames.n_atoms) == ("h-bonds", 2000.0, 22)
    np.testing.assert_allclose(frames.forces, table["force"].astype(float) * EV_PER_KCALMOL)
    assert read_any(tmp_path / "x.npy").content_hash() == frames.content_hash()


@pytest.mark.parametrize("shift", [0.0, 15.0, -2.0, 100.0])
def test_molecule_across_the_boundary(tmp_path, shift):
    whole = alanine_table(shift=shift)
    want = read_mdsim_alanine(npy(tmp_path / "a.npy", without(without(whole, "lengths"), "angles")))
    wrapped = whole | {"pos": np.mod(whole["pos"], 33.0).astype(np.float32)}
    found = read_mdsim_alanine(npy(tmp_path / "b.npy", wrapped))
    relative = [frames.positions - frames.positions[:, :1] for frames in (want, found)]
    np.testing.assert_allclose(*relative, atol=3e-5)


def test_alanine_that_is_none(tmp_path):
    table = alanine_table()
    table["pos"] = table["pos"].copy()
    table["pos"][:, -1] += 8.0
    with pytest.raises(DataError, match="frame 0 holds 2 separate molecules"):
        read_mdsim_alanine(npy(tmp_path / "x.npy", table))
    # The right molecule with two atoms in the other order.
    table = alanine_table()
    places = np.array([1, 0, *range(2, 22)])
    table |= {key: table[key][:, places] for key in ("pos", "force")} | {
        "atomic_number": table["atomic_number"][places]
    }
    path = npy(tmp_path / "y.npy", table)
    with pytest.raises(DataError, match="are not those of alanine-dipeptide-explicit"):
        load_dataset("alanine-dipeptide-explicit", path=path)


# --- whole molecules ------------------------------------------------------------------------------


def test_water_order_by_hand():
    # Two molecules across the boundary of a box of 10 A: hydrogens first, the second molecule's before.
    numbers = np.array([1, 1, 8, 1, 8, 1])
    positions = np.array([[5.0, 5.9, 5], [9.9, 0, 0], [0.8, 0, 0], [5.9, 5, 5], [5.0, 5, 5], [0.8, 0.9, 0]])
    order = water_order(numbers, positions, np.eye(3) * 10)
    assert order.tolist() == [2, 1, 5, 4, 0, 3]
    with pytest.raises(DataError, match="2 O and 3 H of 5 atoms"):
        water_order(numbers[:5], positions[:5], np.eye(3) * 10)
    positions[0] = [1.0, 0, 0.5]
    with pytest.raises(DataError, match="2 of 2 O have not two H"):
        water_order(numbers, positions, np.eye(3) * 10)


def test_joining_and_checking_by_hand():
    positions = np.array([[[9.5, 0, 0], [0.5, 0, 0], [1.5, 9.5, 0]], [[1.0, 0, 0], [2.0, 0, 0], [9.0, 0, 0]]])
    cells = np.broadcast_to(np.eye(3) * 10, (2, 3, 3))
    bonds = np.array([[0, 1], [1, 2]])
    whole = join_molecules(positions, cells, bonds)
    np.testing.assert_allclose(whole[0], [[9.5, 0, 0], [10.5, 0, 0], [11.5, -0.5, 0]])
    check_bonds(whole[:1], bonds, 2.0)
    with pytest.raises(DataError, match=r"atoms 1 and 2 .* 3\.00 A apart in frame 1"):
        check_bonds(whole, bonds, 2.0)
    np.testing.assert_array_equal(
        join_molecules(positions, cells, np.zeros((0, 2), dtype=np.int64)), positions
    )


def test_bond_tree():
    ring = np.array([[0, 1], [1, 2], [2, 3], [0, 3], [4, 5]])
    assert bond_tree(ring, 7).tolist() == [[0, 1], [0, 3], [1, 2], [4, 5]]
    topology, positions = read_structure(asset_path("systems", "aspirin", "topology.pdb"))
    tree = bond_tree(find_bonds(topology.atomic_numbers, positions), topology.n_atoms)
    assert sorted(tree[:, 1].tolist()) == list(range(1, topology.n_atoms))


def test_water_without_cells():
    frames = load_dataset("ethanol-gfn2")
    with pytest.raises(DataError, match="has no cells"):
        whole_water(frames)
    assert isinstance(frames, Frames)


@pytest.mark.skipif(
    not (data_folder() / "water64_dft.npz").is_file(), reason="DFT water is not at hand (set MLBENCH_DATA)"
)
def test_real_dft_water():
    """The file holds 64 O, then 128 H: the same atoms, in the order of topology.pdb."""
    path = data_folder() / "water64_dft.npz"
    frames, raw_file = load_dataset("water-dft"), np.load(path)
    assert frames.atomic_numbers.tolist() == [8, 1, 1] * 64
    assert (frames.n_frames, frames.level_of_theory) == (360, "PBE0-TS")
    np.testing.assert_array_equal(frames.positions[:, ::3], raw_file["R"][:, :64])
    np.testing.assert_array_equal(frames.forces[:, ::3], raw_file["F"][:, :64])
    np.testing.assert_array_equal(
        np.sort(frames.forces.reshape(360, -1), axis=1), np.sort(raw_file["F"].reshape(360, -1), axis=1)
    )
    for hydrogen in (1, 2):
        lengths = np.linalg.norm(frames.positions[:, hydrogen::3] - frames.positions[:, ::3], axis=-1)
        assert lengths.min() > 0.85
        assert lengths.max() < 1.15
        # A stretched bond pulls its hydrogen back: labels and atoms still belong together.
        bond = frames.positions[:, hydrogen::3] - frames.positions[:, ::3]
        pull = (frames.forces[:, hydrogen::3] * bond).sum(axis=-1) / lengths
        assert np.corrcoef(lengths.ravel(), pull.ravel())[0, 1] < -0.9
    assert load_dataset("water-dft", path=path).content_hash() == frames.content_hash()
    with pytest.raises(DataError, match="states no units"):
        read_any(path)
