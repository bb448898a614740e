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

    Where the reference has no chunks of that length, the nearest ones are compared and their distance
    scaled.  Of two parts of lengths a and b it is all noise, which falls like sqrt(1/a + 1/b) beyond the
    memory of the system: so where the reference is too short.  Where its segments are too long, it goes
    on as it falls from one segment to four.

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
    found = _chunk_scores(segments, parts, per_chunk, distance)
    if not found:
        return None
    value, chunk_ps = float(np.mean(found)), per_chunk * segment_ps
    note = f"mean over {len(found)} chunks of {chunk_ps:.3g} ps of the reference, each against the rest"
    if 0.8 * chunk_ps <= length_ps <= 1.25 * chunk_ps:
        return Floor(value=value, length_ps=chunk_ps, note=note)
    if length_ps > chunk_ps:
        of_run, of_chunk = 1 / length_ps + 1 / reference_ps, 1 / chunk_ps + 1 / (reference_ps - chunk_ps)
        value *= float(np.sqrt(of_run / of_chunk))
        how = "by the root of lengths: it is too short for longer ones"
    else:
        power = _power_of_length(segments, parts, per_chunk, distance, value)
        of_run, of_chunk = (1 / part_ps + 1 / (reference_ps - part_ps) for part_ps in (length_ps, chunk_ps))
        value *= float((of_run / of_chunk) ** power)
        how = f"by the power -{power:.2g} of length, as longer ones show: it has no shorter ones"
    return Floor(value=value, length_ps=length_ps, note=f"{note}, scaled to {length_ps:.4g} ps {how}")


def _chunk_scores(
    segments: Sums, parts: Sums, per_chunk: int, distance: Callable[[Sums, Sums], float]
) -> list[float]:
    """Distance of each chunk that has frames from all the rest."""
    total = segments.sum(axis=0)
    starts = range(0, len(segments) - per_chunk + 1, per_chunk)
    chunks = [(parts[start : start + per_chunk].sum(axis=0), start) for start in starts]
    return [
        distance(chunk, total - segments[start : start + per_chunk].sum(axis=0))
        for chunk, start in chunks
        if chunk.any()
    ]


def _power_of_length(
    segments: Sums, parts: Sums, per_chunk: int, distance: Callable[[Sums, Sums], float], value: float
) -> float:
    """How a floor falls with length at the short end: 1/2 where frames are independent, less within their memory."""
    longer = 4 * per_chunk
    if 2 * longer > len(segments) or not value > 0:
        return 0.5
    later = float(np.mean(_chunk_scores(segments, parts, longer, distance)))
    if not later > 0:
        return 0.5
    n = len(segments)
    short, long = (1 / part + 1 / (n - part) for part in (per_chunk, longer))
    return float(np.clip(np.log(value / later) / np.log(short / long), 0.0, 0.5))


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
    # Rounding alone.
    if stderr <= 1e-12 * abs(value):
        return Estimate(value=value, stderr=None, n=n, note="all blocks are alike: no standard error")
    return Estimate(value=value, stderr=stderr, n=n)
