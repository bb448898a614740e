"""The share of time that a dihedral angle spends in each of its basins."""

import numpy as np
from numpy.typing import NDArray

from openmm_mlbench.metrics.aggregate import block_estimate
from openmm_mlbench.results import Result

# Thirds of the circle around the minima of a threefold barrier, degrees.
BASINS = {"gauche+": (0.0, 120.0), "trans": (120.0, 240.0), "gauche-": (240.0, 360.0)}


def basin_fractions(name: str, angles_rad: NDArray[np.float64]) -> list[Result]:
    """Share of time in the basins around +60, 180 and -60 degrees, with standard errors in time.

    A basin that was entered a few times only has a larger error than the number tells.

    Args:
        name: of the angle.
        angles_rad: (n_frames,).
    """
    degrees = np.degrees(angles_rad) % 360.0
    results = []
    for basin, (low, high) in BASINS.items():
        inside = ((degrees >= low) & (degrees < high)).astype(np.float64)
        estimate = block_estimate(inside)
        results.append(
            Result(
                name=f"{name}_{basin}",
                status="ok",
                unit="1",
                value=estimate.value,
                stderr=estimate.stderr,
                n_frames=estimate.n,
                note=estimate.note,
            )
        )
    return results
