"""Distribution of interatomic distances h(r) of an isolated molecule, and its error.

What it says: whether a model keeps bond lengths, angles and conformers of a molecule
at the right places with the right widths.  When it misleads: all pairs weigh the same,
so a wrong angle between heavy atoms drowns in methyl hydrogens; mirror images and
swapped equal atoms look alike; widths follow the vibrational temperature, which a
Nose-Hoover run of one molecule does not hold.
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from openmm_mlbench.errors import MetricError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# 500 bins on [1e-6, 10] A, as the paper's code has them; the lower edge leaves out an
# atom's distance to itself there, here it is never computed.
N_BINS = 500
R_MIN_A = 1e-6
R_MAX_A = 10.0

# Pairs held in memory at once.
_CHUNK = 2_000_000


def histogram_bin_width(n_bins: int = N_BINS, r_min: float = R_MIN_A, r_max: float = R_MAX_A) -> float:
    """Width of one bin, A."""
    return (r_max - r_min) / n_bins


def histogram_bin_centres(
    n_bins: int = N_BINS, r_min: float = R_MIN_A, r_max: float = R_MAX_A
) -> NDArray[np.float64]:
    """Middles of the bins (n_bins,), A."""
    return r_min + (np.arange(n_bins, dtype=np.float64) + 0.5) * histogram_bin_width(n_bins, r_min, r_max)


def h_r_counts(
    positions_A: NDArray[np.floating],
    n_bins: int = N_BINS,
    r_min: float = R_MIN_A,
    r_max: float = R_MAX_A,
) -> NDArray[np.int64]:
    """How many pairs i < j of all frames fall into each bin.

    No periodic images: for isolated molecules only.

    Args:
        positions_A: (n_frames, n_atoms, 3), A.
        n_bins: number of equal bins.
        r_min: lower edge of the first bin, A.
        r_max: upper edge of the last bin, which belongs to it, A.

    Returns:
        (n_bins,) counts; pairs outside [r_min, r_max] are in none.

    Raises:
        MetricError: positions have another shape or are not finite, or the bins are none.
    """
    positions = np.asarray(positions_A)
    if positions.ndim != 3 or positions.shape[2] != 3 or positions.shape[1] < 2:
        raise MetricError(f"positions have shape {positions.shape}; wanted (n_frames, 2 or more atoms, 3)")
    if not (n_bins > 0 and 0.0 <= r_min < r_max):
        raise MetricError(
            f"{n_bins} bins from {r_min} to {r_max} A; wanted 1 or more with 0 <= r_min < r_max"
        )
    if not np.isfinite(positions).all():
        raise MetricError("positions hold NaN or Infinity; h(r) takes the stable part of a trajectory only")
    first, second = np.triu_indices(positions.shape[1], k=1)
    counts = np.zeros(n_bins, dtype=np.int64)
    step = max(1, _CHUNK // len(first))
    for start in range(0, len(positions), step):
        chunk = positions[start : start + step].astype(np.float64)
        distances = np.linalg.norm(chunk[:, second] - chunk[:, first], axis=-1)
        counts += np.histogram(distances, bins=n_bins, range=(r_min, r_max))[0]
    return counts


def density_from_counts(counts: NDArray[np.int64], bin_width: float) -> NDArray[np.float64]:
    """Counts scaled to unit area, 1/A.

    Raises:
        MetricError: there are no counts.
    """
    total = counts.sum()
    if total <= 0:
        raise MetricError("no pair distance in range; h(r) needs at least one frame")
    return counts.astype(np.float64) / (total * bin_width)


def compute_h_r(
    positions_A: NDArray[np.floating],
    n_bins: int = N_BINS,
    r_min: float = R_MIN_A,
    r_max: float = R_MAX_A,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distribution of all interatomic distances, averaged over frames, with unit area.

    h(r) = 1 / (N (N - 1)) sum_i sum_{j != i} delta(r - |x_i - x_j|)        (paper, eq. 1)

    Each bin holds its share of the pairs found in [r_min, r_max], divided by its width:
    pairs farther apart than r_max, which only broken molecules have, do not count.

    Args:
        positions_A: (n_frames, n_atoms, 3), A, unwrapped; the stable part only.
        n_bins: number of equal bins.
        r_min: lower edge of the first bin, A.
        r_max: upper edge of the last bin, A.

    Returns:
        Middles of the bins (n_bins,), A, and the density (n_bins,), 1/A.

    Raises:
        MetricError: no frames, a wrong shape, or values that are not finite.
    """
    counts = h_r_counts(positions_A, n_bins, r_min, r_max)
    return histogram_bin_centres(n_bins, r_min, r_max), density_from_counts(
        counts, histogram_bin_width(n_bins, r_min, r_max)
    )


def h_r_mae(density: NDArray[np.float64], reference_density: NDArray[np.float64], bin_width: float) -> float:
    """Area between two distributions: 0 when equal, 2 when they share no bin.

    MAE = sum_k |h_k - h_ref,k| * bin_width

    This is the paper's "MAE of h(r)" as its code has it, the mean over bins times the
    range r_max - r_min.  Without unit, for both areas are 1.  It grows with the number of
    bins when frames are few, so compare numbers of equal bins and mind the noise floor.

    Args:
        density: (n_bins,), 1/A.
        reference_density: (n_bins,), 1/A, on the same bins.
        bin_width: A.

    Raises:
        MetricError: the bins differ in number, or the width is not positive.
    """
    if density.shape != reference_density.shape or density.ndim != 1:
        raise MetricError(
            f"h(r) has {density.shape} bins, its reference {reference_density.shape}; compute both on the same bins"
        )
    if not bin_width > 0:
        raise MetricError(f"bin width {bin_width} A; wanted a positive number")
    return float(np.abs(density - reference_density).sum() * bin_width)


def plot_h_r(
    result: tuple[NDArray[np.float64], NDArray[np.float64]],
    ax: "Axes | None" = None,
    reference: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None,
    label: str = "h(r)",
    source: str = "reference",
) -> "Axes":
    """h(r) up to the largest distance there is, the reference dashed.

    Args:
        result: middles of the bins, A, and the density, 1/A, as ``compute_h_r`` gives them.
        ax: to draw on.
        reference: the same of a reference.
        label: of the line.
        source: of the reference.
    """
    if ax is None:
        from matplotlib.figure import Figure

        ax = Figure(figsize=(5, 3.5), layout="constrained").subplots()
    lines = [result] if reference is None else [result, reference]
    ax.plot(*result, label=label)
    if reference is not None:
        ax.plot(*reference, "k--", lw=1, label=source)
    filled = [r[density > 0] for r, density in lines]
    largest = max((float(r[-1]) for r in filled if len(r)), default=float(result[0][-1]))
    ax.set(xlabel="r / A", ylabel="h(r) / (1/A)", xlim=(0, 1.05 * largest), ylim=(0, None))
    ax.legend()
    return ax
