"""What a perfect model would score: a reference against itself, and errors of scores by leaving out blocks.

Statistics are kept in segments of consecutive frames, as sums that may be added; whatever is
worked out of such sums can be worked out of any part of a trajectory.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from openmm_mlbench.metrics.aggregate import Estimate, jackknife_stderr

# Enough to cut a reference at the length of most runs, few enough to stay small.
MAX_SEGMENTS = 400
# Blocks of the jackknife that gives one trajectory its standard error.
N_BLOCKS = 10

Sums = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Floor:
    """What a perfect model would score at this length, and how that was worked out."""

    value: float
    length_ps: float
    note: str


def segment_of_frames(n_frames: int, max_segments: int = MAX_SEGMENTS) -> NDArray[np.int64]:
    """(n_frames,) number of the segment each frame belongs to; all but a few hold equally many."""
    n_segments = min(n_frames, max_segments)
    return np.arange(n_frames, dtype=np.int64) * n_segments // max(n_frames, 1)


def noise_floor(
    segments: Sums, length_ps: float, reference_ps: float, distance: Callable[[Sums, Sums], float]
) -> Floor | None:
    """Mean over chunks of the run's length of the reference of distance(chunk, all the rest).

    Where no chunk leaves at least as much for the rest, the two halves are compared.

    Args:
        segments: (n_segments, ...), sums that add up, in order of time.
        length_ps: length of the run that is judged, ps.
        reference_ps: length of the reference, ps.
        distance: the metric, of the sums of one part and of another.

    Returns:
        The floor, or None where the reference has one segment only.
    """
    n_segments = len(segments)
    segment_ps = reference_ps / max(n_segments, 1)
    per_chunk = max(1, round(length_ps / segment_ps)) if segment_ps > 0 else 1
    if n_segments < 2:
        return None
    if 2 * per_chunk > n_segments:
        half = n_segments // 2
        length = half * segment_ps
        note = f"first against second half of the reference, {length:.3g} ps each"
        if per_chunk > half:
            note += f": it is too short for chunks of {length_ps:.3g} ps"
        value = distance(segments[:half].sum(axis=0), segments[half:].sum(axis=0))
        return Floor(value=value, length_ps=length, note=note)
    total = segments.sum(axis=0)
    chunks = [
        segments[start : start + per_chunk].sum(axis=0)
        for start in range(0, n_segments - per_chunk + 1, per_chunk)
    ]
    value = float(np.mean([distance(chunk, total - chunk) for chunk in chunks]))
    length = per_chunk * segment_ps
    note = f"mean over {len(chunks)} chunks of {length:.3g} ps of the reference, each against the rest"
    if length > 1.5 * length_ps:
        note += f": it has no shorter ones, and {length_ps:.3g} ps of it would score more"
    return Floor(value=value, length_ps=length, note=note)


def score_with_jackknife(segments: Sums, score: Callable[[Sums], float], n: int) -> Estimate:
    """A score of all frames, with a standard error from leaving out one of ten blocks at a time.

    Valid where blocks are longer than the memory of the system.

    Args:
        segments: (n_segments, ...), sums that add up, in order of time.
        score: of the sums of some part.
        n: frames behind them.
    """
    total = segments.sum(axis=0)
    value = score(total)
    if len(segments) < N_BLOCKS:
        return Estimate(
            value=value, stderr=None, n=n, note=f"fewer than {N_BLOCKS} frames: no standard error"
        )
    blocks = [block.sum(axis=0) for block in np.array_split(segments, N_BLOCKS)]
    stderr = jackknife_stderr([score(total - block) for block in blocks])
    if stderr == 0:
        return Estimate(value=value, stderr=None, n=n, note="all blocks are alike: no standard error")
    return Estimate(value=value, stderr=stderr, n=n)
