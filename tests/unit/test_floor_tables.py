"""Noise floors read from a table: interpolation, edges, and the table of white noise."""

import numpy as np
import pytest

from openmm_mlbench.assets import asset_path
from openmm_mlbench.files import read_json
from openmm_mlbench.measuring.floor_tables import FloorTable, floor_lengths, floors_record, make_floors


def power_law(lengths, intervals):
    """Floors of independent frames: the root of their number."""
    values = [[(interval / length) ** 0.5 for interval in intervals] for length in lengths]
    return FloorTable.read(floors_record(lengths, intervals, {"x": values}), "x")


def test_between_the_points_it_follows_the_law():
    table = power_law([1.0, 10.0, 100.0], [0.1, 1.0])
    for length, n_frames in ((1.0, 10), (3.0, 11), (50.0, 70), (100.0, 100)):
        floor = table.floor(length, n_frames)
        assert floor.value == pytest.approx(n_frames**-0.5, rel=2e-3)
        assert floor.length_ps == pytest.approx(length)
        assert "too short" not in floor.note


def test_what_lies_beyond_the_table_is_said():
    table = power_law([1.0, 100.0], [0.1, 1.0])
    long = table.floor(500.0, 5000)
    assert (long.value, long.length_ps) == (pytest.approx(0.1**0.5 / 10, rel=1e-3), 100.0)
    assert "it is too short for parts of 500 ps" in long.note
    assert "0.1 ps of it would score more" in table.floor(0.1, 1).note
    assert "it has no frames every 0.01 ps" in table.floor(10.0, 1000).note
    assert table.floor(0.0, 0) is None


@pytest.mark.parametrize(
    "damaged",
    [
        None,
        {},
        {"values": {"x": [[1.0]]}},
        {"values": {"x": [[1.0, 2.0]]}, "lengths_ps": [1.0], "frame_intervals_ps": [1.0]},
        {"values": {"x": [[0.0]]}, "lengths_ps": [1.0], "frame_intervals_ps": [1.0]},
        {"values": {"x": [["a"]]}, "lengths_ps": [1.0], "frame_intervals_ps": [1.0]},
    ],
)
def test_no_table_is_none(damaged):
    assert FloorTable.read(damaged, "x") is None


def test_lengths_of_a_table():
    assert floor_lengths(0.5, 100) == [0.5, 1.0, 2.5, 5.0, 10.0, 25.0]
    assert floor_lengths(1.0, 2) == [1.0]
    assert floor_lengths(1.0, 1) == []


def test_the_table_of_white_noise():
    """The mean distance of two means of n and m numbers of unit variance is sqrt(2/pi (1/n + 1/m))."""
    rng = np.random.default_rng(0)
    frames = rng.normal(size=(400, 10))

    def sums(every):
        some = frames[:, ::every]
        return np.stack([some.sum(axis=1), np.full(400, some.shape[1])], axis=1).astype(float)

    def distance(a, b):
        return abs(a[0] / a[1] - b[0] / b[1])

    found = make_floors({0.1: sums(1), 0.5: sums(5)}, 1.0, [1.0, 10.0], distance)
    for row, n_pieces in zip(found, (1, 10), strict=True):
        for value, per_piece in zip(row, (10, 2), strict=True):
            expected = np.sqrt(2 / np.pi * (1 / (n_pieces * per_piece) + 1 / (4000 - 10 * n_pieces)))
            # 40 chunks of 10 pieces tell it to a tenth.
            assert value == pytest.approx(expected, rel=0.25)


def test_what_ships_falls_with_length_and_rises_with_the_distance_of_frames():
    for mode in ("", "-mdsim"):
        for system, dataset, label in (("water", "water-1k", "O-O"), ("lips", "lips", "all")):
            path = asset_path("systems", system, "references", f"{dataset}-rdf{mode}.json")
            table = FloorTable.read(read_json(path)["inputs"]["noise_floors"], label)
            assert (np.diff(table.values, axis=0) < 0).all()
            assert (np.diff(table.values, axis=1) > 0).all()
    # The field's own: a window of 1 ps of water against the run scored 0.56 in O-O.
    water = asset_path("systems", "water", "references", "water-1k-rdf.json")
    assert FloorTable.read(read_json(water)["inputs"]["noise_floors"], "O-O").floor(
        1.0, 10
    ).value == pytest.approx(0.58, abs=0.05)
