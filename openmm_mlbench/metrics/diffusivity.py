"""Diffusivity from mean squared displacements, with unwrapping that is right in any cell.

What it says: how fast a species moves on the scale of the lag.  When it misleads: a cage
that no atom leaves within the lag looks like slow diffusion; the centre of mass of a run
that nobody stopped adds ballistic motion (remove it); a small cell slows a liquid down by
k_B T xi / (6 pi eta L).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from openmm_mlbench.cells import cell_volumes, nearest_images
from openmm_mlbench.errors import MetricError
from openmm_mlbench.metrics.aggregate import MIN_INDEPENDENT, Estimate, block_estimate, join_notes
from openmm_mlbench.trajectory import Trajectory
from openmm_mlbench.units import BOLTZMANN

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# nm^2/ps = 1e-6 m^2/s.
D_PER_NM2_PS = 1e3
# Yeh and Hummer, J. Phys. Chem. B 108, 15873 (2004): simple cubic lattice.
XI_CUBIC = 2.837297
# Atoms times lags held by one Fourier transform.
_FFT_SIZE = 4_000_000
# Time origins looked at for the standard error of a slope.
_SLOPE_ORIGINS = 400

DEFINITION = {
    "paper": "D = MSD(t) / (6 t) or the slope of MSD / 6, mean over atoms and all time origins (paper, eq. 4).",
    "mdsim": (
        "MSD(t) / (6 t) at one lag with the mean of the tracked atoms subtracted, time origins at a stride, the sum "
        "divided by one less than their number (the paper's code)."
    ),
}


@dataclass(frozen=True, kw_only=True)
class MSD:
    """Mean squared displacement against lag.

    Args:
        lags_ps: (n_lags,), from 0.
        msd_nm2: (n_lags,).
        origins: (n_lags,) time origins behind each lag.
        per_atom_nm2: (n_atoms, n_lags), mean over origins.
        frame_interval_ps: between frames.
        n_frames: behind it.
        drift_removed: whether the mean displacement of the tracked atoms was subtracted.
    """

    lags_ps: NDArray[np.float64]
    msd_nm2: NDArray[np.float64]
    origins: NDArray[np.int64]
    per_atom_nm2: NDArray[np.float64]
    frame_interval_ps: float
    n_frames: int
    drift_removed: bool


@dataclass(frozen=True, kw_only=True)
class Diffusivity:
    """A diffusivity with how it was read off.

    Args:
        estimate: D in 1e-9 m^2/s with its standard error.
        mode: ``paper`` or ``mdsim``.
        method: in words, with lag or window.
        window_ps: first and last lag that were used.
        msd: behind it.
        correction: finite-size correction in 1e-9 m^2/s, already added; 0 where none was asked for.
    """

    estimate: Estimate
    mode: str
    method: str
    window_ps: tuple[float, float]
    msd: MSD
    correction: float = 0.0


def unwrap(
    positions_nm: NDArray[np.float64],
    box_vectors_nm: NDArray[np.float64],
    previous_nm: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Continuous paths of atoms that were wrapped one by one, in a cell of any shape.

    Each step is taken to be the nearest image of the difference of two frames: right as
    long as no atom moves further than half the smallest height of the cell between frames.
    Unwrapped positions are left as they are where that holds.  In a cell that changes its
    size the differences, not whole cells, are added up.

    Args:
        positions_nm: (n_frames, n_atoms, 3).
        box_vectors_nm: (n_frames, 3, 3).
        previous_nm: (2, n_atoms, 3), the frame before as it was read and as it was unwrapped.

    Returns:
        (n_frames, n_atoms, 3), beginning with the first frame as it was, or going on from ``previous_nm``.
    """
    read = positions_nm if previous_nm is None else np.concatenate([previous_nm[:1], positions_nm])
    boxes = box_vectors_nm[1:] if previous_nm is None else box_vectors_nm
    start = read[0] if previous_nm is None else previous_nm[1]
    steps = nearest_images(np.diff(read, axis=0), boxes) if len(boxes) else np.zeros((0, *start.shape))
    paths = np.concatenate([start[None], steps])
    np.cumsum(paths, axis=0, out=paths)
    return paths if previous_nm is None else paths[1:]


def unwrapped_chunks(chunks: Iterable[Trajectory], *, remove_drift: bool) -> Iterator[NDArray[np.float64]]:
    """Unwrapped positions (n_frames, n_atoms, 3), nm, of the atoms in each chunk, without their mean if wanted.

    Raises:
        MetricError: a frame holds NaN.
    """
    previous = None
    for chunk in chunks:
        finite = np.isfinite(chunk.positions_nm).all(axis=(1, 2))
        if not finite.all():
            at = chunk.times_ps[int(np.flatnonzero(~finite)[0])]
            raise MetricError(
                f"{chunk.source}: the frame at {at:g} ps holds NaN or Infinity; measure the part before it"
            )
        if chunk.box_vectors_nm is None:
            paths = chunk.positions_nm.copy()
        else:
            paths = unwrap(chunk.positions_nm, chunk.box_vectors_nm, previous)
        previous = np.stack([chunk.positions_nm[-1], paths[-1]])
        yield paths - paths.mean(axis=1, keepdims=True) if remove_drift else paths


def msd_of_paths(paths_nm: NDArray[np.float64], max_lag: int | None = None) -> NDArray[np.float64]:
    """Mean squared displacement of each atom over all time origins, by Fourier transform.

    MSD(m) = 1 / (n - m) sum_k |r(k + m) - r(k)|^2

    Args:
        paths_nm: (n_frames, n_atoms, 3), unwrapped.
        max_lag: last lag, in frames; n_frames - 1 where None.

    Returns:
        (n_atoms, max_lag + 1), nm^2.

    Source: the sum is split into squares and an autocorrelation (Calandrini et al., EPJ Web Conf. 2011).
    """
    n_frames = len(paths_nm)
    n_lags = (n_frames - 1 if max_lag is None else min(max_lag, n_frames - 1)) + 1
    msd = np.maximum(_in_parts(paths_nm, n_frames, n_lags), 0.0).T / (n_frames - np.arange(n_lags))
    # Rounding leaves 1e-16 of the squares.
    msd[:, 0] = 0.0
    return msd


def _squared_displacements(r: NDArray[np.float64], n_origins: int, n_lags: int) -> NDArray[np.float64]:
    """(n_lags, n_atoms): sum over origins k < n_origins (with k + m inside) of |r(k + m) - r(k)|^2."""
    from scipy.fft import irfft, next_fast_len, rfft

    n_frames = len(r)
    size = next_fast_len(n_frames + n_lags, real=True)
    all_frames = rfft(r, n=size, axis=0)
    starts = all_frames if n_origins == n_frames else rfft(r[:n_origins], n=size, axis=0)
    cross = irfft((starts.conj() * all_frames).sum(axis=2), n=size, axis=0)[:n_lags]
    squares = np.concatenate([np.zeros((1, r.shape[1])), np.cumsum((r**2).sum(axis=2), axis=0)])
    lags = np.arange(n_lags)
    last_origin = np.minimum(n_origins, n_frames - lags)
    of_ends = squares[last_origin + lags] - squares[lags]
    return squares[last_origin] + of_ends - 2 * cross


def compute_msd(
    trajectory: Trajectory | Iterable[Trajectory],
    n_frames: int | None = None,
    *,
    max_lag_ps: float | None = None,
    remove_drift: bool = True,
) -> MSD:
    """Mean squared displacement over atoms and all time origins.

    MSD(t) = < |r(t0 + t) - r(t0)|^2 >        (paper, eq. 4)

    With a largest lag L, chunks are worked through in windows of 2 L frames, so that memory
    holds those only; the result is the same sum.

    Args:
        trajectory: of the tracked atoms only, wrapped or not, or its chunks in order.
        n_frames: of all chunks; not needed for a trajectory in one piece.
        max_lag_ps: last lag; the whole length where None.
        remove_drift: subtract the mean displacement of the tracked atoms.

    Raises:
        MetricError: fewer than two frames, NaN, or drift removal with one atom.
    """
    chunks: Iterable[Trajectory] = [trajectory] if isinstance(trajectory, Trajectory) else trajectory
    if isinstance(trajectory, Trajectory):
        n_frames = trajectory.n_frames
    if n_frames is None or n_frames < 2:
        raise MetricError(f"{n_frames} frame(s); a displacement wants at least two")
    first, chunks = _peek(chunks)
    if remove_drift and first.n_atoms < 2:
        raise MetricError("one tracked atom moves with its own mean; keep the drift, or track more atoms")
    interval = first.frame_interval_ps
    n_lags = n_frames
    if max_lag_ps is not None:
        n_lags = min(n_frames, round(max_lag_ps / interval) + 1)
    sums = _windowed_sums(unwrapped_chunks(chunks, remove_drift=remove_drift), n_lags)
    origins = n_frames - np.arange(n_lags)
    per_atom = np.maximum(sums, 0.0).T / origins
    per_atom[:, 0] = 0.0
    return MSD(
        lags_ps=np.arange(n_lags, dtype=np.float64) * interval,
        msd_nm2=per_atom.mean(axis=0),
        origins=origins,
        per_atom_nm2=per_atom,
        frame_interval_ps=interval,
        n_frames=n_frames,
        drift_removed=remove_drift,
    )


def _peek(chunks: Iterable[Trajectory]) -> tuple[Trajectory, Iterator[Trajectory]]:
    rest = iter(chunks)
    first = next(rest, None)
    if first is None:
        raise MetricError("no frames; a displacement wants at least two")

    def again() -> Iterator[Trajectory]:
        yield first
        yield from rest

    return first, again()


def _windowed_sums(paths: Iterable[NDArray[np.float64]], n_lags: int) -> NDArray[np.float64]:
    """(n_lags, n_atoms) sums of squared displacements over all origins, holding about 2 n_lags frames."""
    held: list[NDArray[np.float64]] = []
    n_held = 0
    total: NDArray[np.float64] | None = None
    # Short lags in windows not too short, or the transforms are all overhead.
    n_origins = max(n_lags, 1024)
    for chunk in paths:
        held.append(chunk)
        n_held += len(chunk)
        while n_held >= n_origins + n_lags - 1:
            r = np.concatenate(held)
            part = _in_parts(r[: n_origins + n_lags - 1], n_origins, n_lags)
            total = part if total is None else total + part
            held = [r[n_origins:]]
            n_held = len(held[0])
    r = np.concatenate(held)
    part = _in_parts(r, len(r), n_lags)
    return part if total is None else total + part


def lag_sums(paths_nm: NDArray[np.float64], n_lags: int) -> NDArray[np.float64]:
    """(n_lags, n_atoms): squared displacements summed over all time origins, nm^2, by Fourier transform."""
    return _in_parts(paths_nm, len(paths_nm), n_lags)


def _in_parts(r: NDArray[np.float64], n_origins: int, n_lags: int) -> NDArray[np.float64]:
    sums = np.zeros((n_lags, r.shape[1]))
    if not len(r):
        return sums
    reach = min(n_lags, len(r))
    for atoms in np.array_split(np.arange(r.shape[1]), max(1, -(-r.shape[1] * len(r) // _FFT_SIZE))):
        centred = r[:, atoms] - r[:, atoms].mean(axis=0)
        sums[:reach, atoms] = _squared_displacements(centred, n_origins, reach)
    return sums


def naive_msd(paths_nm: NDArray[np.float64], lag: int, stride: int = 1, *, one_less: bool = False) -> float:
    """|r(k + lag) - r(k)|^2 averaged over atoms and origins k = 0, stride, ...; the reference code's norm if ``one_less``.

    Raises:
        MetricError: no origin has that lag, or one_less leaves nothing to divide by.
    """
    starts = np.arange(0, len(paths_nm) - lag, stride)
    n = len(starts) - 1 if one_less else len(starts)
    if n < 1:
        raise MetricError(
            f"{len(starts)} time origin(s) at a lag of {lag} frames in {len(paths_nm)}; run longer, or take a shorter lag"
        )
    total = sum(float(((paths_nm[k + lag] - paths_nm[k]) ** 2).sum(axis=1).mean()) for k in starts)
    return total / n


def diffusivity_at_lag(msd: MSD, lag_ps: float, series_nm2: NDArray[np.float64] | None = None) -> Diffusivity:
    """D = MSD(t) / (6 t) at one lag, over all time origins.

    Args:
        msd: from ``compute_msd``.
        lag_ps: the lag.
        series_nm2: (n_origins,) mean squared displacement of each origin, for the standard error in time.

    Raises:
        MetricError: the trajectory has no such lag.
    """
    k = round(lag_ps / msd.frame_interval_ps)
    if k < 1:
        raise MetricError(
            f"lag {lag_ps:g} ps; frames are {msd.frame_interval_ps:g} ps apart, give at least that"
        )
    if k >= len(msd.lags_ps):
        raise MetricError(
            f"lag {lag_ps:g} ps; wanted {msd.frame_interval_ps:g} to {msd.lags_ps[-1]:g} ps, the length of the trajectory"
        )
    lag = float(msd.lags_ps[k])
    scale = D_PER_NM2_PS / (6 * lag)
    value = float(msd.msd_nm2[k]) * scale
    per_atom = msd.per_atom_nm2[:, k] * scale
    estimate = _with_stderr(value, per_atom, None if series_nm2 is None else series_nm2 * scale, msd.n_frames)
    return Diffusivity(
        estimate=estimate,
        mode="paper",
        method=f"MSD(t) / (6 t) at t = {lag:g} ps",
        window_ps=(lag, lag),
        msd=msd,
    )


def slope_weights(lags_ps: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n_lags,): the least-squares slope of y against the lags is the sum of weight times y."""
    centred = lags_ps - lags_ps.mean()
    return centred / (centred**2).sum()


def diffusivity_from_slope(
    msd: MSD, start_ps: float, stop_ps: float, series_nm2_ps: NDArray[np.float64] | None = None
) -> Diffusivity:
    """D = slope / 6 of the straight line through MSD(t) between two lags, least squares.

    Args:
        msd: from ``compute_msd``.
        start_ps: first lag of the fit.
        stop_ps: last lag of the fit.
        series_nm2_ps: (n_origins,) slope of each origin, for the standard error in time.

    Raises:
        MetricError: the window holds fewer than two lags of the trajectory.
    """
    tolerance = 1e-6 * msd.frame_interval_ps
    inside = (msd.lags_ps >= start_ps - tolerance) & (msd.lags_ps <= stop_ps + tolerance)
    if np.count_nonzero(inside) < 2 or stop_ps > msd.lags_ps[-1] + tolerance:
        raise MetricError(
            f"fit from {start_ps:g} to {stop_ps:g} ps; wanted two or more lags within 0 to {msd.lags_ps[-1]:g} ps, "
            f"which are {msd.frame_interval_ps:g} ps apart"
        )
    first, last = np.flatnonzero(inside)[[0, -1]]
    window = slice(int(first), int(last) + 1)
    weights = slope_weights(msd.lags_ps[window])
    scale = D_PER_NM2_PS / 6
    per_atom = msd.per_atom_nm2[:, window] @ weights * scale
    estimate = _with_stderr(
        float(per_atom.mean()),
        per_atom,
        None if series_nm2_ps is None else series_nm2_ps * scale,
        msd.n_frames,
    )
    ends = (float(msd.lags_ps[first]), float(msd.lags_ps[last]))
    return Diffusivity(
        estimate=estimate,
        mode="paper",
        method=f"slope of MSD / 6, straight line from {ends[0]:g} to {ends[1]:g} ps",
        window_ps=ends,
        msd=msd,
    )


def _with_stderr(
    value: float, per_atom: NDArray[np.float64], series: NDArray[np.float64] | None, n_frames: int
) -> Estimate:
    """Standard error over time where that is long enough, else over atoms as if they moved independently."""
    if series is not None and len(series) > 1:
        in_time = block_estimate(series)
        if in_time.stderr is not None:
            note = "standard error over time origins, with their statistical inefficiency"
            return Estimate(value=value, stderr=in_time.stderr, n=n_frames, note=note)
    if len(per_atom) >= MIN_INDEPENDENT:
        stderr = float(np.std(per_atom, ddof=1) / np.sqrt(len(per_atom)))
        note = "too short for a standard error in time: over atoms, as if each moved on its own"
        return Estimate(value=value, stderr=stderr, n=n_frames, note=note)
    note = "too short and too few atoms for a standard error"
    return Estimate(value=value, stderr=None, n=n_frames, note=note)


def origin_series(paths_nm: NDArray[np.float64], lag: int) -> NDArray[np.float64]:
    """(n_frames - lag,) squared displacement over a lag, mean over atoms, nm^2."""
    return ((paths_nm[lag:] - paths_nm[:-lag]) ** 2).sum(axis=2).mean(axis=1)


def origin_slopes(
    paths_nm: NDArray[np.float64], lags: NDArray[np.int64], interval_ps: float
) -> NDArray[np.float64]:
    """(n_origins,) slope of the squared displacement over the lags, of origins at equal distances, nm^2/ps."""
    n_origins = len(paths_nm) - int(lags[-1])
    stride = max(1, n_origins // _SLOPE_ORIGINS)
    # A few dozen lags give the slope its spread; the slope itself is taken from all.
    some = lags[np.unique(np.linspace(0, len(lags) - 1, min(len(lags), 40)).astype(np.int64))]
    weights = slope_weights(some.astype(np.float64) * interval_ps)
    origins = np.arange(0, n_origins, stride)
    slopes = np.zeros(len(origins))
    for lag, weight in zip(some, weights, strict=True):
        slopes += weight * ((paths_nm[origins + lag] - paths_nm[origins]) ** 2).sum(axis=2).mean(axis=1)
    return slopes


def diffusivity_mdsim(
    paths_nm: NDArray[np.float64], interval_ps: float, lag_ps: float, stride_ps: float
) -> Diffusivity:
    """As the paper's code computes it: one lag, origins at a stride, divided by their number less one.

    With two origins the result is twice too high and with one it does not exist.

    Args:
        paths_nm: (n_frames, n_atoms, 3), unwrapped, the mean of the tracked atoms subtracted.
        interval_ps: between frames.
        lag_ps: 100 ps for water, 35.05 ps for LiPS.
        stride_ps: between time origins; 1 ps for water, 0.05 ps for LiPS.

    Raises:
        MetricError: fewer than two origins.
    """
    lag, stride = mdsim_steps(interval_ps, lag_ps, stride_ps)
    displacements = mdsim_displacements(paths_nm, lag, stride)
    return diffusivity_of_displacements(
        displacements.mean(axis=1), displacements.mean(axis=0), lag, stride, interval_ps, len(paths_nm)
    )


def mdsim_steps(interval_ps: float, lag_ps: float, stride_ps: float) -> tuple[int, int]:
    """Lag and stride in frames.

    Raises:
        MetricError: the lag is shorter than a frame interval, or the stride is none.
    """
    lag = round(lag_ps / interval_ps)
    if lag < 1:
        raise MetricError(
            f"lag {lag_ps:g} ps is shorter than the frame interval {interval_ps:g} ps; give a longer one"
        )
    if not stride_ps > 0:
        raise MetricError(f"stride {stride_ps:g} ps between time origins; wanted a time above zero, like 1ps")
    return lag, max(1, round(stride_ps / interval_ps))


def mdsim_displacements(paths_nm: NDArray[np.float64], lag: int, stride: int) -> NDArray[np.float64]:
    """(n_origins, n_atoms) squared displacements over a lag, nm^2, of origins at a stride."""
    starts = np.arange(0, len(paths_nm) - lag, stride)
    return np.asarray(((paths_nm[starts + lag] - paths_nm[starts]) ** 2).sum(axis=2))


def diffusivity_of_displacements(
    series_nm2: NDArray[np.float64],
    per_atom_nm2: NDArray[np.float64],
    lag: int,
    stride: int,
    interval_ps: float,
    n_frames: int,
) -> Diffusivity:
    """The diffusivity of the paper's code from its squared displacements.

    Args:
        series_nm2: (n_origins,), mean over atoms.
        per_atom_nm2: (n_atoms,), mean over origins.
        lag: in frames.
        stride: between origins, in frames.
        interval_ps: between frames.
        n_frames: of the trajectory.

    Raises:
        MetricError: fewer than two origins.
    """
    n = len(series_nm2)
    if n < 2:
        raise MetricError(
            f"{n} time origin(s) at a lag of {lag} frames in {n_frames}; run longer, or take a shorter lag"
        )
    value = float(series_nm2.sum()) / (n - 1)
    lag_ps = lag * interval_ps
    scale = D_PER_NM2_PS / (6 * lag_ps)
    estimate = _with_stderr(value * scale, per_atom_nm2 * scale, series_nm2 * scale, n_frames)
    note = join_notes(f"divided by {n - 1} for {n} time origins", estimate.note)
    msd = MSD(
        lags_ps=np.array([0.0, lag_ps]),
        msd_nm2=np.array([0.0, value]),
        origins=np.array([n_frames, n]),
        per_atom_nm2=np.stack([np.zeros(len(per_atom_nm2)), per_atom_nm2], axis=1),
        frame_interval_ps=interval_ps,
        n_frames=n_frames,
        drift_removed=True,
    )
    return Diffusivity(
        estimate=Estimate(value=estimate.value, stderr=estimate.stderr, n=estimate.n, note=note),
        mode="mdsim",
        method=f"MSD(t) / (6 t) at t = {lag_ps:g} ps, time origins every {stride * interval_ps:g} ps",
        window_ps=(lag_ps, lag_ps),
        msd=msd,
    )


def yeh_hummer_correction(
    box_vectors_nm: NDArray[np.float64], temperature_K: float, viscosity_mPa_s: float
) -> float:
    """What a cubic cell takes away from the diffusivity of a liquid, 1e-9 m^2/s.

    D_infinite - D = k_B T xi / (6 pi eta L),  xi = 2.837297

    Valid for liquids in cubic cells; the viscosity is that of the model, not of nature.

    Args:
        box_vectors_nm: (n_frames, 3, 3).
        temperature_K: of the run.
        viscosity_mPa_s: shear viscosity, mPa s (water: 0.85 at 300 K).

    Raises:
        MetricError: the cell is not cubic, or a number is not positive.

    Source: Yeh and Hummer, J. Phys. Chem. B 108, 15873 (2004).
    """
    if not (temperature_K > 0 and viscosity_mPa_s > 0):
        raise MetricError(
            f"temperature {temperature_K} K and viscosity {viscosity_mPa_s} mPa s; wanted both above zero"
        )
    mean = box_vectors_nm.mean(axis=0)
    edge = float(cell_volumes(mean[None])[0] ** (1 / 3))
    if not np.allclose(mean @ mean.T, edge**2 * np.eye(3), rtol=0, atol=0.02 * edge**2):
        raise MetricError("the finite-size correction is known for cubic cells only; leave the viscosity out")
    meters = edge * 1e-9
    return BOLTZMANN * temperature_K * XI_CUBIC / (6 * np.pi * viscosity_mPa_s * 1e-3 * meters) * 1e9


def plot_diffusivity(result: Diffusivity, ax: "Axes | None" = None) -> "Axes":
    """MSD against lag in A^2, with the lag or window that D was read off in and the line of that D."""
    if ax is None:
        from matplotlib.figure import Figure

        ax = Figure(figsize=(5, 3.5), layout="constrained").subplots()
    ax.plot(result.msd.lags_ps, 100 * result.msd.msd_nm2, label=f"D = {result.estimate.value:.3g} e-9 m2/s")
    first, last = result.window_ps
    if first == last:
        ax.axvline(first, color="0.5", ls=":", lw=1)
    else:
        ax.axvspan(first, last, alpha=0.2)
    ax.set(xlabel="t / ps", ylabel="MSD / A^2")
    ax.legend()
    return ax
