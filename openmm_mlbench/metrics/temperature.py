"""Temperature of a run: over all degrees of freedom, of rotation and of vibration.

An isolated molecule under a deterministic thermostat exchanges energy between
rotation and vibration very slowly, so each replica can have its own T_rot and
T_vib while T over all of them is right; h(r) follows T_vib.  Hence the spread
over replicas stands in every note.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from openmm_mlbench.errors import MetricError
from openmm_mlbench.metrics.aggregate import Estimate, block_estimate, join_notes, result_over_replicas
from openmm_mlbench.results import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def temperature_result(
    name: str, series_K: Sequence[NDArray[np.float64]]
) -> tuple[Result, list[Estimate | None]]:
    """Mean temperature over replicas with the spread between them, and the mean of each replica.

    Args:
        name: ``temperature``, ``T_rot`` or ``T_vib``.
        series_K: for each replica (n_samples,), K, over its stable part; may be empty.

    Raises:
        MetricError: a temperature is negative or not finite.
    """
    estimates: list[Estimate | None] = []
    for replica, series in enumerate(series_K):
        if not np.isfinite(series).all() or (np.asarray(series) < 0).any():
            raise MetricError(
                f"{name} of replica {replica} is negative or not finite in its stable part; see its log"
            )
        estimates.append(block_estimate(series) if len(series) else None)
    values = [estimate.value for estimate in estimates if estimate is not None]
    spread = ""
    if len(values) > 1:
        spread = f"replicas {min(values):.1f} to {max(values):.1f} K, SD {np.std(values, ddof=1):.1f} K"
    n_frames = sum(len(series) for series in series_K)
    result = result_over_replicas(
        name, "K", estimates, n_frames=n_frames, note=join_notes(spread), missing_status="too_short"
    )
    return result, estimates


def plot_temperature(
    times_ps: NDArray[np.float64],
    series_K: NDArray[np.float64],
    ax: "Axes | None" = None,
    canonical_sd_K: float | None = None,
) -> "Axes":
    """Temperature against time with its mean, and a band of the canonical standard deviation around it.

    Args:
        times_ps: (n,).
        series_K: (n,).
        ax: to draw on.
        canonical_sd_K: of the canonical ensemble.
    """
    if ax is None:
        from matplotlib.figure import Figure

        ax = Figure(figsize=(5, 3.5), layout="constrained").subplots()
    ax.plot(times_ps, series_K, lw=0.5, color="0.6")
    finite = series_K[np.isfinite(series_K)]
    if len(finite):
        mean = float(finite.mean())
        ax.axhline(mean, color="C0", label=f"mean {mean:.4g} K")
        if canonical_sd_K is not None:
            label = f"canonical SD {canonical_sd_K:.3g} K, here {np.std(finite):.3g} K"
            ax.axhspan(mean - canonical_sd_K, mean + canonical_sd_K, color="C0", alpha=0.2, label=label)
        ax.legend()
    ax.set(xlabel="t / ps", ylabel="T / K")
    return ax
