"""Whether the temperature of a run fluctuates as the canonical ensemble says.

What it says: a thermostat that holds the mean but quenches fluctuations (velocity
rescaling, Berendsen's) shows here.  When it misleads: the degrees of freedom must be
those of the run; too short a series has too small a variance.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from openmm_mlbench.errors import MetricError
from openmm_mlbench.metrics.aggregate import Estimate, block_estimate, stderr_of_sd


@dataclass(frozen=True, kw_only=True)
class Fluctuation:
    """Temperature of one run, and its spread against the canonical one.

    Args:
        mean: K, with its standard error in time.
        sd: standard deviation over time, K.
        canonical_sd: of the canonical ensemble at this mean, K.
        ratio: sd over canonical_sd, with its standard error.
        n_dof: degrees of freedom.
    """

    mean: Estimate
    sd: float
    canonical_sd: float
    ratio: Estimate
    n_dof: int


def canonical_sd(temperature_K: float, n_dof: int) -> float:
    """Standard deviation of the kinetic temperature: sqrt(2 / n_dof) T, for n_dof degrees of freedom.

    Raises:
        MetricError: no degree of freedom.
    """
    if n_dof < 1:
        raise MetricError(f"{n_dof} degrees of freedom; wanted one or more")
    return float(np.sqrt(2 / n_dof) * temperature_K)


def temperature_fluctuation(series_K: NDArray[np.float64], n_dof: int) -> Fluctuation:
    """Mean and standard deviation of the temperature against sqrt(2 / n_dof) T.

    Args:
        series_K: (n_samples,), K.
        n_dof: degrees of freedom behind each value: 3 N - 3 - constraints where the centre of mass rests.

    Raises:
        MetricError: fewer than two samples, or one that is negative or not finite.
    """
    series = np.asarray(series_K, dtype=np.float64)
    if len(series) < 2 or not np.isfinite(series).all() or (series < 0).any():
        raise MetricError(f"{len(series)} temperatures, all of them finite and positive wanted, two or more")
    mean = block_estimate(series)
    sd = float(np.std(series, ddof=1))
    expected = canonical_sd(mean.value, n_dof)
    sd_stderr = stderr_of_sd(series)
    stderr = None if sd_stderr is None else sd_stderr / expected
    return Fluctuation(
        mean=mean,
        sd=sd,
        canonical_sd=expected,
        ratio=Estimate(value=sd / expected, stderr=stderr, n=len(series)),
        n_dof=n_dof,
    )
