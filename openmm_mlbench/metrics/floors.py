"""What a perfect model would score: a reference against itself, and errors of scores by leaving out blocks.

Statistics are kept in segments of consecutive frames, as sums that may be added; whatever is
worked out of such sums can be worked out of any part of a trajectory.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from openmm_mlbench.errors import MetricError
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


class Segments:
    """Which segment each next frame of a long trajectory belongs to, without an array of all frames.

    Args:
        n_frames: of the trajectory.
        nth: every nth of them is counted.
    """

    def __init__(self, n_frames: int, nth: int = 1) -> None:
        self.n_frames, self.nth = n_frames, nth
        self.n_segments = min(n_frames, MAX_SEGMENTS)
        self.done = 0

    def of_next(self, n: int) -> NDArray[np.int64]:
        """(n,) segments of the next n frames, as ``segment_of_frames`` has them.

        Raises:
            MetricError: there are more frames than announced.
        """
        announced = -(-self.n_frames // self.nth)
        if self.done + n > announced:
            raise MetricError(f"more than the {announced} frames that were announced")
        frames = np.arange(self.done, self.done + n, dtype=np.int64) * self.nth
        self.done += n
        return np.asarray(frames * self.n_segments // self.n_frames)

    @property
    def n_used(self) -> int:
        """Segments that have begun, or all where only some frames are counted."""
        if self.nth > 1:
            return self.n_segments
        return (self.done - 1) * self.n_segments // self.n_frames + 1


def noise_floor(
    segments: Sums,
    length_ps: float,
    reference_ps: float,
    distance: Callable[[Sums, Sums], float],
    thinned: Sums | None = None,
) -> Floor | None:
    """Mean over chunks of the run's length of the reference of distance(chunk, all the rest).

    Where the reference has no chunks of that length, because it is too short or its segments too
    long, the nearest ones are compared and their distance scaled: that of two parts of lengths a
    and b is all noise, which falls like sqrt(1/a + 1/b) beyond the memory of the system.

    Args:
        segments: (n_segments, ...), sums that add up, in order of time.
        length_ps: length of the run that is judged, ps.
        reference_ps: length of the reference, ps.
        distance: the metric, of the sums of one part and of another.
        thinned: (n_segments, ...), sums over as many frames as the run has in that time, where the reference has more.

    Returns:
        The floor, or None where the reference has one segment only.
    """
    n_segments = len(segments)
    if n_segments < 2 or not (length_ps > 0 and reference_ps > 0):
        return None
    segment_ps = reference_ps / n_segments
    parts = segments if thinned is None else thinned
    # As many segments as the run is long, and never more than leave as much for the rest.
    per_chunk = min(max(1, round(length_ps / segment_ps)), n_segments // 2)
    total = segments.sum(axis=0)
    starts = range(0, n_segments - per_chunk + 1, per_chunk)
    chunks = [(parts[start : start + per_chunk].sum(axis=0), start) for start in starts]
    scores = [
        distance(chunk, total - segments[start : start + per_chunk].sum(axis=0))
        for chunk, start in chunks
        if chunk.any()
    ]
    if not scores:
        return None
    value = float(np.mean(scores))
    chunk_ps = per_chunk * segment_ps
    note = f"mean over {len(starts)} chunks of {chunk_ps:.3g} ps of the reference, each against the rest"
    if 0.8 * chunk_ps <= length_ps <= 1.25 * chunk_ps:
        return Floor(value=value, length_ps=chunk_ps, note=note)
    # A run is compared with all of the reference; a short chunk with hardly less.
    wanted = 1 / length_ps + 1 / max(reference_ps - min(length_ps, chunk_ps), chunk_ps)
    if length_ps > chunk_ps:
        wanted = 1 / length_ps + 1 / reference_ps
    value *= float(np.sqrt(wanted / (1 / chunk_ps + 1 / (reference_ps - chunk_ps))))
    why = "it is too short for longer ones" if length_ps > chunk_ps else "it has no shorter ones"
    return Floor(
        value=value,
        length_ps=length_ps,
        note=f"{note}, scaled to {length_ps:.4g} ps by the root of lengths: {why}",
    )


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
