"""The one loop that numpy is too slow for: histograms of distances to all periodic images.

Compiled by numba at its first call; the machine code is kept where numba can write.
"""

import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:
        # Neither the package nor the home folder can be written: compile in each process.
        return numba.njit(nogil=True)(function)


@_compiled
def count_pairs(
    fractional_a: NDArray[np.float64],
    fractional_b: NDArray[np.float64],
    boxes: NDArray[np.float64],
    reach: NDArray[np.float64],
    index_a: NDArray[np.int64],
    index_b: NDArray[np.int64],
    molecule_a: NDArray[np.int64],
    molecule_b: NDArray[np.int64],
    same: bool,
    r_max: float,
    counts: NDArray[np.int64],
) -> None:
    """Add ordered pairs (a, image of b) at a distance below r_max to ``counts`` (n_frames, n_bins).

    Args:
        fractional_a: (n_frames, n_a, 3).
        fractional_b: (n_frames, n_b, 3).
        boxes: (n_frames, 3, 3), rows.
        reach: (n_frames, 3), r_max over the heights of the cell: images further are out of range.
        index_a: (n_a,), an atom is no neighbour of itself in the same cell.
        index_b: (n_b,).
        molecule_a: (n_a,), the nearest image within the same molecule is left out; below 0: none.
        molecule_b: (n_b,).
        same: both groups are one, so each pair is found once and counted twice.
        r_max: upper edge of the last bin, in the unit of the boxes.
        counts: changed in place.
    """
    n_frames, n_bins = counts.shape
    n_a, n_b = fractional_a.shape[1], fractional_b.shape[1]
    per_length = n_bins / r_max
    r2_max = r_max * r_max
    for frame in range(n_frames):
        b00, b01, b02 = boxes[frame, 0, 0], boxes[frame, 0, 1], boxes[frame, 0, 2]
        b10, b11, b12 = boxes[frame, 1, 0], boxes[frame, 1, 1], boxes[frame, 1, 2]
        b20, b21, b22 = boxes[frame, 2, 0], boxes[frame, 2, 1], boxes[frame, 2, 2]
        r0, r1, r2 = reach[frame, 0], reach[frame, 1], reach[frame, 2]
        one_image = r0 <= 0.5 and r1 <= 0.5 and r2 <= 0.5
        for i in range(n_a):
            a0, a1, a2 = fractional_a[frame, i, 0], fractional_a[frame, i, 1], fractional_a[frame, i, 2]
            for j in range(i if same else 0, n_b):
                itself = index_a[i] == index_b[j]
                weight = 2 if same and not itself else 1
                together = molecule_a[i] >= 0 and molecule_a[i] == molecule_b[j]
                if one_image and (itself or together):
                    continue
                d0 = fractional_b[frame, j, 0] - a0
                d1 = fractional_b[frame, j, 1] - a1
                d2 = fractional_b[frame, j, 2] - a2
                d0 -= math.floor(d0 + 0.5)
                d1 -= math.floor(d1 + 0.5)
                d2 -= math.floor(d2 + 0.5)
                if one_image:
                    x = d0 * b00 + d1 * b10 + d2 * b20
                    y = d0 * b01 + d1 * b11 + d2 * b21
                    z = d0 * b02 + d1 * b12 + d2 * b22
                    square = x * x + y * y + z * z
                    if square < r2_max:
                        k = int(math.sqrt(square) * per_length)
                        if k < n_bins:
                            counts[frame, k] += weight
                    continue
                nearest = -1
                nearest_square = math.inf
                for n0 in range(math.ceil(-r0 - d0), math.floor(r0 - d0) + 1):
                    f0 = d0 + n0
                    for n1 in range(math.ceil(-r1 - d1), math.floor(r1 - d1) + 1):
                        f1 = d1 + n1
                        for n2 in range(math.ceil(-r2 - d2), math.floor(r2 - d2) + 1):
                            if itself and n0 == 0 and n1 == 0 and n2 == 0:
                                continue
                            f2 = d2 + n2
                            x = f0 * b00 + f1 * b10 + f2 * b20
                            y = f0 * b01 + f1 * b11 + f2 * b21
                            z = f0 * b02 + f1 * b12 + f2 * b22
                            square = x * x + y * y + z * z
                            if square < r2_max:
                                k = int(math.sqrt(square) * per_length)
                                if k < n_bins:
                                    counts[frame, k] += weight
                                    if square < nearest_square:
                                        nearest, nearest_square = k, square
                if together and not itself and nearest >= 0:
                    # Were the partner itself out of range, so would be all of its images.
                    counts[frame, nearest] -= weight
