"""Drift of the total energy of an NVE run, apart from the oscillation that any finite time step makes.

What it says: whether forces are the gradient of an energy, and the time step short enough.
When it misleads: a run shorter than its slowest oscillation shows that as drift; a
thermostatted run has no conserved total energy and none of this applies.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from openmm_mlbench.errors import MetricError
from openmm_mlbench.metrics.aggregate import statistical_inefficiency, stderr_of_sd

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MIN_SAMPLES = 10


@dataclass(frozen=True, kw_only=True)
class Drift:
    """A straight line through E(t) per atom, and what is left.

    Args:
        slope: kJ/mol/ps per atom.
        stderr: of the slope.
        oscillation: standard deviation around the line, kJ/mol per atom.
        oscillation_stderr: of it; None where there are too few independent samples.
        times_ps: (n,).
        energy: (n,), kJ/mol per atom, the line's value at the middle subtracted.
        line: (n,), the line itself, kJ/mol per atom.
        n_atoms: atoms.
    """

    slope: float
    stderr: float
    oscillation: float
    oscillation_stderr: float | None
    times_ps: NDArray[np.float64]
    energy: NDArray[np.float64]
    line: NDArray[np.float64]
    n_atoms: int


def compute_drift(times_ps: NDArray[np.float64], total_energy: NDArray[np.float64], n_atoms: int) -> Drift:
    """Slope of the total energy per atom, with the oscillation of the time step separated.

    A line is fitted with weights sin^2(pi (t - t_0) / (t_1 - t_0)): they fall to zero at both
    ends, so that a bounded oscillation, whatever its phase there, tilts the line less by
    1 / (periods)^3 or so; with equal weights an undamped one would show as drift.

    Args:
        times_ps: (n,), ps, increasing.
        total_energy: (n,), kJ/mol, kinetic and potential energy at the same instant.
        n_atoms: atoms of the system.

    Raises:
        MetricError: fewer than ten samples, other lengths, NaN, or times that do not increase.
    """
    t, E = np.asarray(times_ps, dtype=np.float64), np.asarray(total_energy, dtype=np.float64)
    if t.shape != E.shape or t.ndim != 1 or n_atoms < 1:
        raise MetricError(
            f"{t.size} times, {E.size} energies, {n_atoms} atoms; wanted as many of the first two, 1 atom or more"
        )
    if len(t) < MIN_SAMPLES:
        raise MetricError(f"{len(t)} energies; a drift wants {MIN_SAMPLES} or more")
    if not (np.isfinite(t).all() and np.isfinite(E).all()):
        raise MetricError("an energy or a time is NaN or Infinity; measure the part before it")
    if (np.diff(t) <= 0).any():
        raise MetricError(
            f"times do not increase at row {int(np.flatnonzero(np.diff(t) <= 0)[0]) + 1}; give one run's log"
        )
    weights = np.sin(np.pi * (np.arange(len(t)) + 0.5) / len(t)) ** 2
    weights /= weights.sum()
    # Total energies are large and their changes small.
    per_atom = (E - E.mean()) / n_atoms
    middle = float(weights @ t)
    leverage = weights * (t - middle)
    spread = float(leverage @ (t - middle))
    slope = float(leverage @ per_atom) / spread
    line = float(weights @ per_atom) + slope * (t - middle)
    rest = per_atom - line
    g = statistical_inefficiency(rest)
    oscillation = float(np.std(rest, ddof=2))
    stderr = oscillation * float(np.sqrt(g * (leverage**2).sum())) / spread
    centre = float(weights @ per_atom)
    return Drift(
        slope=slope,
        stderr=stderr,
        oscillation=oscillation,
        oscillation_stderr=stderr_of_sd(rest),
        times_ps=t,
        energy=per_atom - centre,
        line=line - centre,
        n_atoms=n_atoms,
    )


def plot_drift(result: Drift, ax: "Axes | None" = None) -> "Axes":
    """Total energy per atom against time, with the line."""
    if ax is None:
        from matplotlib.figure import Figure

        ax = Figure(figsize=(5, 3.5), layout="constrained").subplots()
    ax.plot(result.times_ps, result.energy, lw=0.7, label="total energy")
    ax.plot(result.times_ps, result.line, label=f"{result.slope:.2g} kJ/mol/ps per atom")
    ax.set(xlabel="t / ps", ylabel="E per atom / (kJ/mol)")
    ax.legend()
    return ax
