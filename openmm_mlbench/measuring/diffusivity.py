"""Diffusivities of trajectories."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from openmm_mlbench.errors import MetricError
from openmm_mlbench.measuring.measurement import (
    NO_REFERENCE,
    Measured,
    Source,
    curve,
    read_measurement,
)
from openmm_mlbench.metrics import diffusivity as diffusion
from openmm_mlbench.metrics.aggregate import Estimate, join_notes, result_over_replicas
from openmm_mlbench.metrics.paths import Paths
from openmm_mlbench.metrics.rdf import (
    check_mode,
)
from openmm_mlbench.results import Measurement, Result
from openmm_mlbench.trajectory import Trajectory
from openmm_mlbench.trajectory_stream import TrajectoryFile

if TYPE_CHECKING:
    from matplotlib.axes import Axes


# --- Diffusivity ---------------------------------------------------------------------------------

# Where neither lag nor window is given: late enough to have left the cage, early enough for many origins.
DEFAULT_FIT = (0.05, 0.20)
MDSIM_LAG_PS, MDSIM_STRIDE_PS = 100.0, 1.0


@dataclass(frozen=True, kw_only=True)
class DiffusivityOptions:
    """How a diffusivity is read off.

    Args:
        mode: ``paper`` or ``mdsim``.
        lag_ps: fixed lag.
        fit_ps: window of the slope; with neither, 5 to 20 % of the length in mode paper.
        remove_drift: subtract the mean displacement of the tracked atoms.
        unwrap: follow atoms through the faces of the cell.
        stride_ps: between time origins in mode mdsim.
        viscosity_mPa_s: for the finite-size correction; None: no correction.
        temperature_K: for the correction.
    """

    mode: str = "paper"
    lag_ps: float | None = None
    fit_ps: tuple[float, float] | None = None
    remove_drift: bool = True
    unwrap: bool = True
    stride_ps: float = MDSIM_STRIDE_PS
    viscosity_mPa_s: float | None = None
    temperature_K: float = 300.0


def measure_diffusivity(
    source: Source,
    atoms: NDArray[np.int64],
    options: DiffusivityOptions,
    reference: "Source | Path | None" = None,
) -> Measured:
    """Diffusivity of the selected atoms, and its distance to a reference.

    Args:
        source: trajectories.
        atoms: the tracked atoms.
        options: how.
        reference: a longer trajectory of the same topology, or the JSON of an earlier measurement.
    """
    check_mode(options.mode)
    if options.lag_ps is not None and options.lag_ps <= 0:
        raise MetricError(f"lag {options.lag_ps:g} ps; wanted a time above zero")
    if options.lag_ps is not None and options.fit_ps is not None:
        raise MetricError("both a lag and a fit window were given; give one of --lag and --fit")
    if options.mode == "mdsim" and (options.fit_ps is not None or not options.remove_drift):
        raise MetricError(
            "mode mdsim knows one fixed lag with drift removed; use mode paper for anything else"
        )
    expected = None if reference is None else _diffusivity_reference(source, reference, atoms, options)
    found = [_diffusivity_of(source, file, atoms, options) for file in source.files]
    good = [one for one in found if isinstance(one, diffusion.Diffusivity)]
    reasons = join_notes(*(one for one in found if isinstance(one, str)))
    corrected = any(one.correction for one in good)
    notes = [
        *(one.method for one in good[:1]),
        reasons,
        "finite-size correction added" if corrected else "no finite-size correction",
        # Of a single replica it stands there already.
        *(one.estimate.note for one in (good[:1] if len(good) > 1 else ())),
    ]
    n_frames = sum(source.n_frames(file) for file in source.files)
    estimates = [one.estimate if isinstance(one, diffusion.Diffusivity) else None for one in found]
    unit = "1e-9 m2/s"
    results = [
        result_over_replicas("diffusivity", unit, estimates, n_frames=n_frames, note=join_notes(*notes))
    ]
    lengths = [
        source.length_ps(file)
        for file, one in zip(source.files, found, strict=True)
        if isinstance(one, diffusion.Diffusivity)
    ]
    results += _against(results[0], expected, unit, sum(lengths))
    if corrected:
        mean = float(np.mean([one.correction for one in good]))
        note = "of Yeh and Hummer, in the diffusivity above; as exact as the viscosity that was given"
        results.append(Result(name="finite_size_correction", status="ok", unit=unit, value=mean, note=note))
    curves = {}
    for i, one in enumerate(good):
        name = "MSD" if len(found) == 1 else f"MSD replica {i}"
        keep = np.unique(np.linspace(0, len(one.msd.lags_ps) - 1, 2000).astype(np.int64))
        curves[name] = curve(one.msd.lags_ps[keep], 100 * one.msd.msd_nm2[keep], "ps", "A^2")
    measurement = Measurement(
        observable="diffusivity",
        mode=options.mode,
        definition=diffusion.DEFINITION[options.mode],
        inputs=source.inputs()
        | {
            "n_tracked": len(atoms),
            "tracked_elements": _elements_of(source, atoms),
            "remove_drift": options.remove_drift,
            "unwrap": options.unwrap,
            "lag_ps": options.lag_ps,
            "window_ps": list(good[0].window_ps) if good else None,
            "viscosity_mPa_s": options.viscosity_mPa_s,
            "reference": None if expected is None else expected.source,
        },
        results=results,
        curves=curves,
    )

    def draw(ax: "Axes") -> None:
        for one in good:
            diffusion.plot_diffusivity(one, ax)
        if not good:
            ax.text(0.5, 0.5, reasons, ha="center", wrap=True)

    return Measured(measurement=measurement, draw=draw)


@dataclass(frozen=True, kw_only=True)
class _KnownDiffusivity:
    """Of a reference: its diffusivity, how long it is (all its runs together), and the file."""

    estimate: Estimate
    length_ps: float | None
    source: str

    def floor(self, length_ps: float) -> float | None:
        """Mean distance of right runs of this total length from the reference, by the reference's own error.

        The error of a diffusivity falls like the root of length; < |x| > of a normal distribution is sqrt(2/pi) s.
        """
        stderr = self.estimate.stderr
        if stderr is None or not self.length_ps or not length_ps > 0:
            return None
        return stderr * math.sqrt((1 + self.length_ps / length_ps) * 2 / math.pi)


def _against(result: Result, known: _KnownDiffusivity | None, unit: str, length_ps: float) -> list[Result]:
    name = "diffusivity_mae"
    if known is None:
        return [Result(name=name, status="no_reference", unit=unit, note=NO_REFERENCE)]
    if result.value is None:
        return [Result(name=name, status=result.status, unit=unit, note=result.note)]
    errors = [error for error in (result.stderr, known.estimate.stderr) if error is not None]
    floor = known.floor(length_ps)
    return [
        Result(
            name=name,
            status="ok",
            unit=unit,
            value=abs(result.value - known.estimate.value),
            stderr=math.hypot(*errors) if errors else None,
            floor=floor,
            n_frames=result.n_frames,
            n_replicas=result.n_replicas,
            note=join_notes(
                f"reference {known.estimate.value:.4g}",
                "no floor: the reference has no standard error"
                if floor is None
                else f"floor: of right runs of {length_ps:.4g} ps, by the standard error of the reference",
                "" if errors else "neither has a standard error",
            ),
        )
    ]


def _elements_of(source: Source, atoms: NDArray[np.int64]) -> list[str]:
    from ase.data import chemical_symbols

    return [chemical_symbols[int(number)] for number in np.unique(source.topology.atomic_numbers[atoms])]


def _diffusivity_reference(
    source: Source, reference: "Source | Path", atoms: NDArray[np.int64], options: DiffusivityOptions
) -> _KnownDiffusivity:
    if isinstance(reference, Source):
        found = _diffusivity_of(reference, reference.files[0], atoms, options)
        if isinstance(found, str):
            raise MetricError(f"{reference.files[0].path}: the reference has no diffusivity: {found}")
        file = reference.files[0]
        return _KnownDiffusivity(
            estimate=found.estimate, length_ps=reference.length_ps(file), source=str(file.path)
        )
    record = read_measurement(reference, "diffusivity", options.mode)
    tracked, elements = record["inputs"].get("tracked_elements"), _elements_of(source, atoms)
    if tracked is not None and tracked != elements:
        raise MetricError(
            f"{reference}: tracks {', '.join(tracked)}, the measurement {', '.join(elements)}; give the same --select"
        )
    values = [result for result in record["results"] if result.get("name") == "diffusivity"]
    if not values or values[0].get("value") is None:
        raise MetricError(f"{reference}: has no diffusivity; measure a longer reference")
    inputs, value = record["inputs"], values[0]
    frames, interval = inputs.get("n_frames"), inputs.get("frame_interval_ps")
    # Frames of several runs, and the time between them in one.
    counted = isinstance(frames, list) and frames and isinstance(interval, int | float)
    length = inputs.get("length_ps", sum(frames) * interval if counted else None)
    return _KnownDiffusivity(
        estimate=Estimate(value=float(value["value"]), stderr=value.get("stderr"), n=0),
        length_ps=float(length) if isinstance(length, int | float) else None,
        source=str(reference),
    )


def _diffusivity_of(
    source: Source, file: TrajectoryFile, atoms: NDArray[np.int64], options: DiffusivityOptions
) -> "diffusion.Diffusivity | str":
    """The diffusivity of one replica, or why there is none."""
    n_frames, interval = source.n_frames(file), file.frame_interval_ps
    length = (n_frames - 1) * interval
    lag = options.lag_ps
    if options.mode == "mdsim" and lag is None:
        lag = MDSIM_LAG_PS
    fit = options.fit_ps
    if lag is None and fit is None:
        fit = tuple(
            max(k, round(share * length / interval)) * interval for k, share in enumerate(DEFAULT_FIT, 1)
        )  # type: ignore[assignment]
    last = lag if lag is not None else fit[1]  # type: ignore[index]
    if last > length * (1 + 1e-9):
        return f"{length:g} ps are too short for a lag of {last:g} ps"
    if n_frames < 4:
        return f"{n_frames} frames are too few"

    def chunks() -> Iterable[Trajectory]:
        for chunk in source.chunks(file, atoms):
            yield chunk if options.unwrap else _without_cell(chunk)

    try:
        with Paths(chunks(), n_frames, remove_drift=options.remove_drift) as paths:
            if options.mode == "mdsim":
                assert lag is not None
                found = paths.mdsim(lag, options.stride_ps)
            elif lag is not None:
                k = round(lag / interval)
                series = None if k < 1 else paths.origin_series(k)
                found = diffusion.diffusivity_at_lag(paths.msd(last), lag, series)
            else:
                assert fit is not None
                lags = np.arange(round(fit[0] / interval), round(fit[1] / interval) + 1)
                slopes = None if len(lags) < 2 else paths.origin_slopes(lags)
                found = diffusion.diffusivity_from_slope(paths.msd(last), *fit, slopes)
    except MetricError as error:
        if options.mode == "mdsim" and "origin(s)" in str(error):
            return str(error)
        raise
    return _with_correction(found, source, file, options)


def _with_correction(
    found: diffusion.Diffusivity, source: Source, file: TrajectoryFile, options: DiffusivityOptions
) -> diffusion.Diffusivity:
    if options.viscosity_mPa_s is None:
        return found
    if not file.has_cell:
        raise MetricError("the finite-size correction wants a cell; leave the viscosity out")
    boxes = [chunk.box_vectors_nm for chunk in source.chunks(file, np.array([0]))]
    known = np.concatenate([box for box in boxes if box is not None])
    correction = diffusion.yeh_hummer_correction(known, options.temperature_K, options.viscosity_mPa_s)
    estimate = replace(found.estimate, value=found.estimate.value + correction)
    return replace(found, estimate=estimate, correction=correction)


def _without_cell(chunk: Trajectory) -> Trajectory:
    return replace(chunk, box_vectors_nm=None)
