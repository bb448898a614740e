"""Standard errors of a free energy from the hills of one metadynamics run.

Two things make it uncertain, and both can be seen within the run.  How often the run was
where: the centre of each hill is a frame of the biased run, which reweighting turns into an
unbiased one, and blocks of these give a jackknife.  And what the bias happens to be at the
end: it still fluctuates by the size of its hills, as its values at earlier times show.

When it misleads: a barrier that the run crossed a few times only; a run whose valleys are
still being filled.  Checked against the spread of independent runs on known surfaces
(tests/physics/test_hills_error.py).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from openmm_mlbench.metrics.aggregate import jackknife_stderr
from openmm_mlbench.metrics.floors import N_BLOCKS
from openmm_mlbench.metrics.free_energy import Hills, angle_histogram, free_energy, grid_points, log_mean_exp

# As for a COLVAR: while the bias still grows fast, weights say little.
SKIPPED_SHARE = 0.1
# The bias at so many times of this last part of the run is compared.
LATE_SHARE, N_LATE = 0.4, 10
# Ten hills for each block.
MIN_HILLS = 112
# Histograms of centres are smoothed by this share of the hills' own width.
_SMOOTHING = 0.5

Score = Callable[[NDArray[np.float64]], float]


@dataclass(frozen=True, kw_only=True)
class HillsBlocks:
    """What the error of a surface of hills is worked out of.

    Args:
        visits: (n_blocks, n_bins, n_bins), reweighted and smoothed histograms of the centres of hills.
        late: (n_late, n_bins, n_bins), F as the sum of the hills gave it at times late in the run, kJ/mol.
        kT: kJ/mol.
    """

    visits: NDArray[np.float64]
    late: NDArray[np.float64]
    kT: float

    def without_each_block(self) -> list[NDArray[np.float64]]:
        """Reweighted surfaces F (n_bins, n_bins) with one block left out at a time."""
        total = self.visits.sum(axis=0)
        return [_surface(total - block, self.kT) for block in self.visits]

    def stderr(self, score: Score) -> float:
        """Standard error of a number that is worked out of a surface F (n_bins, n_bins), kJ/mol.

        s^2 = jackknife over blocks of visits + variance over the late biases
        """
        of_visits = jackknife_stderr([score(F) for F in self.without_each_block()])
        of_bias = float(np.std([score(F) for F in self.late], ddof=1))
        return float(np.hypot(of_visits, of_bias))

    def profile_stderr(self, axis: int, align: str = "mean") -> NDArray[np.float64]:
        """Standard error of each point of the profile along one angle (n_bins,), kJ/mol.

        Args:
            axis: 0 or 1, the angle of the profile.
            align: ``mean``: of profiles of mean 0; ``minimum``: of minimum 0.
        """
        left_out = np.stack([self._profile(F, axis, align) for F in self.without_each_block()])
        late = np.stack([self._profile(F, axis, align) for F in self.late])
        n = len(left_out)
        of_visits = (n - 1) / n * ((left_out - left_out.mean(axis=0)) ** 2).sum(axis=0)
        return np.asarray(np.sqrt(of_visits + late.var(axis=0, ddof=1)))

    def _profile(self, F: NDArray[np.float64], axis: int, align: str) -> NDArray[np.float64]:
        profile = free_energy(np.exp(-(F - F.min()) / self.kT).sum(axis=1 - axis), self.kT)
        return np.asarray(profile - (profile.min() if align == "minimum" else profile.mean()))


def hills_blocks(hills: Hills, kT: float, n_bins: int) -> HillsBlocks | str:
    """Blocks of visits and late biases of one run, or why there are none.

    Args:
        hills: of one run, or of walkers that share them, in order of time.
        kT: kJ/mol.
        n_bins: along each angle.
    """
    n = len(hills.heights)
    if n < MIN_HILLS:
        return f"{n} hills are too few for a standard error, wanted {MIN_HILLS}"
    weights, late = _replay(hills, kT, n_bins)
    used = np.arange(n) >= SKIPPED_SHARE * n
    owners = np.array_split(np.flatnonzero(used), N_BLOCKS)
    wrapped = (hills.centres + np.pi) % (2 * np.pi) - np.pi
    visits = [angle_histogram(wrapped[own], weights[own], n_bins) for own in owners]
    widths = np.median(hills.sigmas, axis=0) * _SMOOTHING
    return HillsBlocks(visits=np.stack([_smoothed(one, widths) for one in visits]), late=late, kT=kT)


def _replay(hills: Hills, kT: float, n_bins: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights exp[(V - c) / kT] of the centres of the hills as each was laid down, and F at late times.

    c is that of Tiwary and Parrinello, J. Phys. Chem. B 119, 736 (2015).
    """
    n, g = len(hills.heights), hills.bias_factor
    to_bias = (g - 1) / g if g > 1 else 1.0
    stops = set(np.linspace((1 - LATE_SHARE) * n, n, N_LATE).round().astype(int).tolist())
    points, deposited = grid_points(n_bins), np.zeros((n_bins, n_bins))
    exponents = np.empty(n)
    late = []
    for hill in range(n):
        V = to_bias * _at(deposited, hills.centres[hill])
        above = log_mean_exp(deposited / kT)
        below = log_mean_exp(deposited * to_bias / ((g - 1) * kT)) if g > 1 else 0.0
        exponents[hill] = V / kT - (above - below)
        deposited += hills.heights[hill] * hills.kernel(hill, points)
        if hill + 1 in stops:
            late.append(deposited.max() - deposited)
    return np.exp(exponents - exponents.max()), np.stack(late)


def _at(grid: NDArray[np.float64], centre: NDArray[np.float64]) -> float:
    """A function on the periodic grid between its points, linearly."""
    n_bins = len(grid)
    at = (centre + np.pi) * n_bins / (2 * np.pi)
    low = np.floor(at).astype(int)
    part = at - low
    (i, j), (k, m) = low % n_bins, (low + 1) % n_bins
    along = (1 - part[0]) * grid[i] + part[0] * grid[k]
    return float((1 - part[1]) * along[j] + part[1] * along[m])


def _smoothed(histogram: NDArray[np.float64], widths: NDArray[np.float64]) -> NDArray[np.float64]:
    """Convolved with a periodic Gaussian of these widths, rad; never below zero."""
    points = grid_points(len(histogram))
    d = points - points[0]
    d -= 2 * np.pi * np.rint(d / (2 * np.pi))
    for axis, width in enumerate(widths):
        kernel = np.exp(-(d**2) / (2 * width**2))
        shape = (-1, 1) if axis == 0 else (1, -1)
        spectrum = np.fft.rfft(kernel / kernel.sum()).reshape(shape)
        histogram = np.fft.irfft(
            np.fft.rfft(histogram, axis=axis) * spectrum, n=histogram.shape[axis], axis=axis
        )
    # The transform leaves rounding where nothing was.
    return np.asarray(np.where(histogram > 1e-12 * histogram.max(), histogram, 0.0))


def _surface(visits: NDArray[np.float64], kT: float) -> NDArray[np.float64]:
    """F of visits; what was never visited takes the highest value seen."""
    F = free_energy(visits, kT)
    seen = np.isfinite(F)
    return np.asarray(np.where(seen, F, F[seen].max()))
