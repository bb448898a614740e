"""Noise floors against what independent runs of the same process score, whatever lengths are at hand."""

import numpy as np
import pytest

from openmm_mlbench.metrics.floors import noise_floor, score_with_jackknife

N_BINS = 40


def counts(n_frames, rng, per_frame=20):
    """(n_frames, n_bins + 1): frames of independent values, then 1."""
    p = np.exp(-((np.arange(N_BINS) - 20) ** 2) / 60.0)
    return np.hstack([rng.multinomial(per_frame, p / p.sum(), size=n_frames), np.ones((n_frames, 1))])


def area(a, b):
    return float(np.abs(a[:-1] / a[:-1].sum() - b[:-1] / b[:-1].sum()).sum())


def in_segments(frames, n_segments):
    return np.stack([part.sum(axis=0) for part in np.array_split(frames, n_segments)])


@pytest.mark.parametrize(
    ("n_run", "n_segments", "wanted"),
    [
        (100, 400, "mean over 20 chunks of 100 ps of the reference, each against the rest"),
        # No chunk is that short, or that long.
        (5, 20, "scaled to 5 ps by the power -0."),
        (1000, 400, "mean over 2 chunks of 1e+03 ps"),
        (8000, 400, "scaled to 8000 ps by the root of lengths: it is too short for longer ones"),
    ],
)
def test_floor_is_what_a_run_of_that_length_scores(n_run, n_segments, wanted):
    rng = np.random.default_rng(0)
    floors, scores, notes = [], [], []
    for _ in range(30):
        reference = counts(2000, rng)
        floor = noise_floor(in_segments(reference, n_segments), float(n_run), 2000.0, area)
        floors.append(floor.value)
        notes.append(floor.note)
        scores.append(area(counts(n_run, rng).sum(axis=0), reference.sum(axis=0)))
    assert wanted in notes[0]
    # Chunks are compared with what they leave, runs with all: a little more for halves.
    expected = np.mean(scores) * (np.sqrt(2 / 1.5) if n_run == 1000 else 1.0)
    assert np.mean(floors) == pytest.approx(expected, rel=0.1)


def test_within_the_memory_of_the_frames_a_floor_hardly_rises():
    rng = np.random.default_rng(2)
    # Every value stays for 400 frames: one frame scores as much as ten.
    slow = np.repeat(counts(50, rng), 400, axis=0)
    reference = in_segments(slow, 2000)
    one, ten = (noise_floor(reference, length, 20000.0, area) for length in (1.0, 10.0))
    assert "scaled to 1 ps" in one.note
    assert one.value == pytest.approx(ten.value, rel=0.05)


def test_a_reference_with_more_frames_is_thinned():
    rng = np.random.default_rng(1)
    floors, scores = [], []
    for _ in range(30):
        reference = counts(4000, rng)
        every = in_segments(reference, 400)
        some = np.stack([part[::10].sum(axis=0) for part in np.array_split(reference, 400)])
        floors.append(noise_floor(every, 100.0, 2000.0, area, some).value)
        # 100 ps with a frame every 5 ps.
        scores.append(area(counts(20, rng).sum(axis=0), reference.sum(axis=0)))
    assert np.mean(floors) == pytest.approx(np.mean(scores), rel=0.05)


def test_none_where_there_is_nothing_to_compare():
    frames = counts(10, np.random.default_rng(0))
    assert noise_floor(in_segments(frames, 1), 5.0, 10.0, area) is None
    assert noise_floor(in_segments(frames, 5), 0.0, 10.0, area) is None


def test_blocks_that_are_alike_have_no_standard_error():
    same = np.tile(counts(1, np.random.default_rng(0)), (20, 1))
    estimate = score_with_jackknife(same, lambda sums: area(sums, same[0]), 20)
    assert estimate.value == 0
    assert estimate.stderr is None
    assert "alike" in estimate.note
