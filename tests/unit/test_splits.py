"""Splits: disjoint, reproducible, tied to their data."""

import json

import numpy as np
import pytest

from openmm_mlbench.data.frames import Frames
from openmm_mlbench.data.splits import Split, make_split
from openmm_mlbench.errors import DataError


def frames_of(n_frames, shift=0.0):
    return Frames(
        name="toy",
        atomic_numbers=np.array([1, 1]),
        positions=np.arange(n_frames * 6.0).reshape(n_frames, 2, 3) + shift,
        energies=None,
        forces=None,
        cells=None,
        frame_indices=np.arange(n_frames),
        interval_fs=None,
        constraints="none",
        level_of_theory="toy",
        source="a test",
    )


def test_parts_are_disjoint_and_of_the_right_size():
    split = make_split(frames_of(100), 60, 15, 20, seed=1)
    assert (len(split.train), len(split.validation), len(split.test)) == (60, 15, 20)
    everything = np.concatenate([split.train, split.validation, split.test])
    assert len(set(everything.tolist())) == 95
    assert set(everything.tolist()) <= set(range(100))


def test_known_permutation():
    """NumPy promises PCG64's stream; a change of the permutation would change every published split."""
    split = make_split(frames_of(10), 4, 2, 4, seed=0)
    order = np.random.Generator(np.random.PCG64(0)).permutation(10)
    assert split.train.tolist() + split.validation.tolist() + split.test.tolist() == order.tolist()
    assert order.tolist() == [4, 6, 2, 7, 3, 5, 9, 0, 8, 1]


def test_seed_decides():
    frames = frames_of(50)
    assert make_split(frames, 20, 5, 10, 3).hash == make_split(frames, 20, 5, 10, 3).hash
    assert make_split(frames, 20, 5, 10, 3).hash != make_split(frames, 20, 5, 10, 4).hash


def test_hash_knows_which_part_a_frame_is_in():
    def split(train, validation):
        return Split(
            train=np.array(train),
            validation=np.array(validation, dtype=np.int64),
            test=np.array([9]),
            seed=0,
            dataset_hash="x",
        ).hash

    assert len({split([1, 2], [3]), split([1], [2, 3]), split([2, 1], [3]), split([1, 2, 3], [])}) == 4


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (
            (60, 30, 11),
            "100 frames cannot be split into 60 train . 30 validation . 11 test; ask for at most 100",
        ),
        ((0, 10, 10), "train needs 1 or more"),
        ((10, -1, 10), "split sizes 10/-1/10"),
    ],
)
def test_impossible_sizes(sizes, message):
    with pytest.raises(DataError, match=message):
        make_split(frames_of(100), *sizes, seed=0)


def test_negative_seed():
    with pytest.raises(DataError, match="seed -1"):
        make_split(frames_of(10), 4, 2, 2, seed=-1)


def test_save_and_load(tmp_path):
    frames = frames_of(30)
    split = make_split(frames, 10, 5, 10, seed=2)
    split.save(tmp_path / "split.json")
    back = Split.load(tmp_path / "split.json", frames)
    assert back.hash == split.hash
    assert back.seed == 2
    np.testing.assert_array_equal(back.train, split.train)


def test_other_data_are_refused(tmp_path):
    make_split(frames_of(30), 10, 5, 10, seed=2).save(tmp_path / "split.json")
    with pytest.raises(DataError, match="use the data it was made for"):
        Split.load(tmp_path / "split.json", frames_of(30, shift=1.0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hash": "0"}, "do not have the hash"),
        ({"train": [0, 0]}, "stands in it twice"),
        ({"train": [-1]}, "whole numbers, 0 or larger"),
        ({"train": [0.5]}, "not a split file"),
        ({"train": [True]}, "not a split file"),
        ({"train": 3}, "not a split file"),
        ({"train": [2**70]}, "not a split file"),
        ({"seed": None}, "not a split file"),
    ],
)
def test_damaged_lists(tmp_path, change, message):
    path = tmp_path / "split.json"
    make_split(frames_of(30), 10, 5, 10, seed=2).save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError, match=message) as caught:
        Split.load(path, frames_of(30))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '"text"'])
def test_no_split_file(tmp_path, content):
    path = tmp_path / "split.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"split\.json"):
        Split.load(path, frames_of(30))
    with pytest.raises(DataError, match="cannot be read"):
        Split.load(tmp_path / "absent.json", frames_of(30))
