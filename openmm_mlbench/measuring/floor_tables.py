"""Noise floors of a stored reference at any length and number of frames, read from a table made with it.

A reference that ships keeps its function of r, not the thousands of pieces of its trajectory that
a floor at any length would need.  Instead it keeps floors on a grid of lengths and of times between
frames; they fall like a power of both, so between the points they are interpolated in logarithms.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmm_mlbench.metrics.floors import Floor

# A length or interval this much beyond the table is said in the note.
_TOLERANCE = 1.2


def plain(number: float) -> str:
    """Three digits or all whole ones, never a power of ten."""
    return f"{number:.0f}" if abs(number) >= 100 else f"{number:.3g}"


@dataclass(frozen=True, kw_only=True)
class FloorTable:
    """Floors of one observable.

    Args:
        lengths_ps: (n_lengths,), rising.
        intervals_ps: (n_intervals,) between frames, rising.
        values: (n_lengths, n_intervals).
    """

    lengths_ps: NDArray[np.float64]
    intervals_ps: NDArray[np.float64]
    values: NDArray[np.float64]

    @classmethod
    def read(cls, record: Any, name: str) -> "FloorTable | None":
        """The table of one observable in the ``noise_floors`` of a measurement; None where it is none or damaged."""
        if not isinstance(record, Mapping) or name not in (record.get("values") or {}):
            return None
        try:
            found = cls(
                lengths_ps=np.asarray(record["lengths_ps"], dtype=np.float64),
                intervals_ps=np.asarray(record["frame_intervals_ps"], dtype=np.float64),
                values=np.asarray(record["values"][name], dtype=np.float64),
            )
        except (KeyError, TypeError, ValueError):
            return None
        fits = found.values.shape == (len(found.lengths_ps), len(found.intervals_ps)) and found.values.size
        return found if fits and bool((found.values > 0).all()) else None

    def floor(self, length_ps: float, n_frames: int) -> Floor | None:
        """What a perfect model's run of this length and number of frames scores; None for no frames."""
        if not (length_ps > 0 and n_frames > 0):
            return None
        interval = length_ps / n_frames
        length = float(np.clip(length_ps, self.lengths_ps[0], self.lengths_ps[-1]))
        spacing = float(np.clip(interval, self.intervals_ps[0], self.intervals_ps[-1]))
        by_length = np.array(
            [
                np.interp(math.log(spacing), np.log(self.intervals_ps), row)
                for row in np.log(np.asarray(self.values))
            ]
        )
        value = math.exp(float(np.interp(math.log(length), np.log(self.lengths_ps), by_length)))
        note = f"the reference against itself, {plain(length)} ps with a frame every {spacing:.3g} ps"
        if length_ps > _TOLERANCE * length:
            note += f": it is too short for parts of {plain(length_ps)} ps"
        elif length > _TOLERANCE * length_ps:
            note += f": {plain(length_ps)} ps of it would score more"
        if spacing > _TOLERANCE * interval:
            note += f"; it has no frames every {interval:.2g} ps, and with them would score less"
        return Floor(value=value, length_ps=length, note=note)


def floor_lengths(piece_ps: float, n_pieces: int) -> list[float]:
    """Lengths of a table: 1, 2, 5, 10, ... pieces, and half of the trajectory."""
    half = n_pieces // 2
    counts = [m * 10**e for e in range(6) for m in (1, 2, 5)]
    return [round(n * piece_ps, 6) for n in [*(n for n in counts if n < 0.8 * half), half] if n >= 1]


def floors_record(
    lengths_ps: Sequence[float], intervals_ps: Sequence[float], values: Mapping[str, list[list[float]]]
) -> dict[str, Any]:
    """A table of several observables as plain JSON, to four digits."""
    return {
        "lengths_ps": [float(f"{length:.6g}") for length in lengths_ps],
        "frame_intervals_ps": [float(f"{interval:.6g}") for interval in intervals_ps],
        "values": {
            name: [[float(f"{value:.4g}") for value in row] for row in table]
            for name, table in values.items()
        },
    }


def make_floors(
    pieces: Mapping[float, NDArray[np.float64]],
    piece_ps: float,
    lengths_ps: Sequence[float],
    distance: Callable[[NDArray[np.float64], NDArray[np.float64]], float],
) -> list[list[float]]:
    """The values of a table: for each length, for each time between frames, the mean over chunks of the reference.

    A chunk with frames at that distance is compared with all frames of the rest.

    Args:
        pieces: time between frames, rising, to sums (n_pieces, ...) over the frames of consecutive pieces of the
            trajectory; the first holds all frames.
        piece_ps: length of a piece.
        lengths_ps: at most half of the trajectory.
        distance: the metric, of the sums of one part and of another.
    """
    every = next(iter(pieces.values()))
    total = every.sum(axis=0)
    table = []
    for length in lengths_ps:
        n = max(1, round(length / piece_ps))
        starts = range(0, len(every) - n + 1, n)
        table.append(
            [
                float(
                    np.mean(
                        [
                            distance(some[a : a + n].sum(axis=0), total - every[a : a + n].sum(axis=0))
                            for a in starts
                        ]
                    )
                )
                for some in pieces.values()
            ]
        )
    return table
