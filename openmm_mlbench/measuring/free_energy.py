"""Free energies from PLUMED's files or trajectories, as measurements."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from openmm_mlbench.dihedrals import compute_dihedrals
from openmm_mlbench.errors import MetricError, MLBenchError
from openmm_mlbench.files import read_json
from openmm_mlbench.measuring.measurement import Measured, Source, curve
from openmm_mlbench.metrics.aggregate import (
    Estimate,
    jackknife_stderr,
    join_notes,
    result_over_replicas,
)
from openmm_mlbench.metrics.dihedrals import basin_fractions
from openmm_mlbench.metrics.floors import (
    N_BLOCKS,
    Floor,
    noise_floor,
    score_with_jackknife,
    segment_of_frames,
)
from openmm_mlbench.metrics.free_energy import (
    DEFINITION,
    MDSIM_TWO_PI,
    UNVISITED,
    FreeEnergySurface,
    Hills,
    angle_histogram,
    filled,
    frame_weights,
    free_energy,
    grid_points,
    hills_of,
    mean_surface,
    plot_profile,
    profile_mae,
    read_plumed,
    surface_from_hills,
    surface_mae,
    surface_of,
    thermal_energy,
)
from openmm_mlbench.metrics.hills_error import HillsBlocks, hills_blocks
from openmm_mlbench.metrics.rdf import check_mode
from openmm_mlbench.results import Curve, Map, Measurement, Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Of a metadynamics run, while its bias still grows fast.
SKIPPED_SHARE = 0.1
UNIT = "kJ/mol rad"


@dataclass(frozen=True, kw_only=True)
class SampledSurface:
    """A surface with the sums behind it, where it comes from frames.

    Args:
        surface: F.
        segments: (n_segments, n_bins, n_bins) weights; None where it comes from hills or a file.
        n_frames: frames or hills behind it; None where unknown.
        length_ps: of the trajectory; None where it comes from hills or a file.
        note: how it was made.
        runs: of a mean over independent runs, each of them.
        blocks: of a surface of hills, what its standard errors come from; a reason where there are none.
    """

    surface: FreeEnergySurface
    segments: NDArray[np.float64] | None = None
    n_frames: int | None = None
    length_ps: float | None = None
    note: str = ""
    runs: tuple[FreeEnergySurface, ...] = ()
    blocks: HillsBlocks | str = ""

    def profile_stderr(self, axis: int, kT: float) -> NDArray[np.float64] | None:
        """Standard error of each point of a profile (n_bins,) of mean 0, kJ/mol; None where it cannot be known."""
        if isinstance(self.blocks, HillsBlocks):
            return self.blocks.profile_stderr(axis)
        if self.segments is None or len(self.segments) < N_BLOCKS:
            return None
        blocks = [part.sum(axis=0) for part in np.array_split(self.segments, N_BLOCKS)]
        profiles = np.stack(
            [filled(free_energy((self.segments.sum(axis=0) - b).sum(axis=1 - axis), kT)) for b in blocks]
        )
        profiles -= profiles.mean(axis=1, keepdims=True)
        spread = ((profiles - profiles.mean(axis=0)) ** 2).sum(axis=0)
        return np.asarray(np.sqrt((N_BLOCKS - 1) / N_BLOCKS * spread))


def from_frames(
    angles_rad: NDArray[np.float64],
    weights: NDArray[np.float64] | None,
    *,
    n_bins: int,
    kT: float,
    names: tuple[str, str],
    source: str,
    length_ps: float | None,
    note: str = "",
) -> SampledSurface:
    """Histogram of frames in segments of consecutive ones, and its free energy."""
    owners = segment_of_frames(len(angles_rad), 20 * N_BLOCKS)
    segments = np.stack(
        [
            angle_histogram(
                angles_rad[owners == s], None if weights is None else weights[owners == s], n_bins
            )
            for s in range(int(owners[-1]) + 1)
        ]
    )
    surface = FreeEnergySurface(F=free_energy(segments.sum(axis=0), kT), names=names, source=source)
    return SampledSurface(
        surface=surface, segments=segments, n_frames=len(angles_rad), length_ps=length_ps, note=note
    )


def surface_from_trajectory(
    source: Source, quads: Sequence[Sequence[int]], *, n_bins: int, kT: float
) -> tuple[list[SampledSurface], list[NDArray[np.float64]]]:
    """Surfaces of unbiased replicas, and their angles (n_frames, 2)."""
    atoms, inverse = np.unique(np.asarray(quads, dtype=np.int64), return_inverse=True)
    if atoms.min() < 0 or atoms.max() >= source.topology.n_atoms:
        raise MetricError(
            f"dihedral atoms {atoms.tolist()}; wanted 0-based indices below {source.topology.n_atoms}"
        )
    surfaces: list[SampledSurface] = []
    series: list[NDArray[np.float64]] = []
    for file in source.files:
        parts = [
            compute_dihedrals(chunk.positions_nm, inverse.reshape(-1, 4), chunk.box_vectors_nm)
            for chunk in source.chunks(file, atoms)
        ]
        angles = np.concatenate(parts)
        series.append(angles)
        surfaces.append(
            from_frames(
                angles,
                None,
                n_bins=n_bins,
                kT=kT,
                names=("phi", "psi"),
                source=str(file.path),
                length_ps=source.length_ps(file),
                note="unbiased trajectory",
            )
        )
    return surfaces, series


def surface_of_hills(hills: Hills, *, n_bins: int, kT: float) -> SampledSurface:
    """Minus the sum of the hills of one run, with what its standard errors come from."""
    return SampledSurface(
        surface=surface_from_hills(hills, n_bins),
        n_frames=len(hills.heights),
        note="minus the sum of the hills",
        blocks=hills_blocks(hills, kT, n_bins),
    )


def surface_from_plumed(
    path: Path,
    *,
    n_bins: int,
    kT: float,
    start_ps: float | None = None,
    stop_ps: float | None = None,
    hills: Path | None = None,
) -> SampledSurface:
    """A surface from a HILLS file, a COLVAR file (with the HILLS of the same run if at hand) or a fes.dat.

    Args:
        path: the file.
        n_bins: grid points along each angle.
        kT: kJ/mol.
        start_ps: leave out rows of a COLVAR before this time; the first tenth where None.
        stop_ps: leave out later rows.
        hills: HILLS of the run that wrote the COLVAR.

    Raises:
        MetricError: not such a file, no row is left, or times for what has none.
    """
    table = read_plumed(path)
    if hills is not None and table.kind != "colvar":
        raise MetricError(f"{path}: columns {', '.join(table.fields)}; wanted the COLVAR file of a run")
    if start_ps and table.kind != "colvar":
        raise MetricError(f"{path}: a start at {start_ps:g} ps is for a COLVAR; leave --start out")
    if stop_ps is not None and table.kind == "surface":
        raise MetricError(f"{path}: a surface has no times; leave --stop out")
    if table.kind == "surface":
        return SampledSurface(surface=surface_of(table), note="surface as given")
    if table.kind == "hills":
        return surface_of_hills(_hills_until(hills_of(table), stop_ps), n_bins=n_bins, kT=kT)
    of_run = None if hills is None else hills_of(read_plumed(hills))
    names = of_run.names if of_run is not None else (table.fields[1], table.fields[2])
    weights, how = frame_weights(table, kT, of_run)
    times = table["time"]
    last = times[-1] if stop_ps is None else min(stop_ps, times[-1])
    first = start_ps if start_ps is not None else times[0] + SKIPPED_SHARE * (last - times[0])
    used = (times >= first - 1e-9) & (times <= last + 1e-9)
    if not used.any():
        raise MetricError(
            f"{path}: no row from {first:g} to {last:g} ps; it goes from {times[0]:g} to {times[-1]:g} ps"
        )
    return from_frames(
        np.stack([table[name] for name in names], axis=1)[used],
        weights[used],
        n_bins=n_bins,
        kT=kT,
        names=(names[0], names[1]),
        source=str(path),
        length_ps=None,
        note=f"{how}, from {first:g} ps on",
    )


def _hills_until(hills: Hills, stop_ps: float | None) -> Hills:
    if stop_ps is None:
        return hills
    n = int(np.count_nonzero(hills.times_ps <= stop_ps + 1e-9))
    if not n:
        raise MetricError(
            f"{hills.source}: no hill up to {stop_ps:g} ps; the first is at {hills.times_ps[0]:g} ps"
        )
    return replace(
        hills,
        times_ps=hills.times_ps[:n],
        centres=hills.centres[:n],
        sigmas=hills.sigmas[:n],
        heights=hills.heights[:n],
    )


def surfaces_as_json(surfaces: Sequence[SampledSurface]) -> list[dict[str, Any]]:
    """For the JSON of a measurement, which can then be a reference; null where never visited."""
    return [
        {
            "names": list(one.surface.names),
            "n_frames": one.n_frames,
            "F_kJ_mol": [
                [round(float(F), 4) if np.isfinite(F) else None for F in row]
                for row in one.surface.F - one.surface.F.min()
            ],
        }
        for one in surfaces
    ]


def run_of(path: Path) -> dict[str, Any] | None:
    """What run.json says of the run that left a HILLS or COLVAR file; None for other files."""
    try:
        record = read_json(path.resolve().parent.parent / "run.json")
        kept = {key: record[key] for key in ("dataset", "length_ps", "replicas", "seed", "metadynamics")}
        platform, versions = record["platform"]["name"], record["versions"]
        model, protocol = record["model"]["model"], record["protocol"]
        commit = record["git_commit"]
    except (OSError, MLBenchError, KeyError, TypeError):
        return None
    command = (
        f"openmm-mlbench simulate {protocol['name']} --model {model} --replicas {kept['replicas']} "
        f"--length {kept['length_ps']:g} --seed {kept['seed']}"
    )
    return {
        "command": command,
        "model": model,
        "protocol": {"name": protocol["name"], "sha256": protocol["sha256"]},
        **kept,
        "platform": platform,
        "versions": versions,
        "git_commit": commit,
    }


def surface_from_json(path: Path, kT: float) -> SampledSurface:
    """The mean over the runs of an earlier measurement.

    Args:
        path: JSON that ``measure free-energy`` wrote.
        kT: kJ/mol.

    Raises:
        MetricError: it is another file, or damaged.
    """
    try:
        record = read_json(path)
    except OSError as error:
        raise MetricError(f"{path}: cannot be read ({error.strerror}); give an existing file") from error
    except MLBenchError as error:
        raise MetricError(str(error)) from error
    if not isinstance(record, dict) or record.get("observable") != "free_energy":
        raise MetricError(
            f"{path}: is no measurement of a free energy; give the JSON of `measure free-energy`"
        )
    try:
        runs = tuple(
            FreeEnergySurface(
                F=np.array(
                    [[np.inf if F is None else F for F in row] for row in item["F_kJ_mol"]], dtype=float
                ),
                names=(str(item["names"][0]), str(item["names"][1])),
                source=f"{path.name} run {i}",
            )
            for i, item in enumerate(record["surfaces"])
        )
        frames = [item["n_frames"] for item in record["surfaces"]]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise MetricError(
            f"{path}: not the JSON of `measure free-energy` ({error!r}); write it again with --json"
        ) from error
    if not runs:
        raise MetricError(f"{path}: holds no surface; write it again with --json")
    return SampledSurface(
        surface=mean_surface(runs, kT, path.name),
        n_frames=sum(frames) if all(isinstance(n, int) for n in frames) else None,
        note=f"mean of {len(runs)} runs" if len(runs) > 1 else "one run",
        runs=runs if len(runs) > 1 else (),
    )


def measure_free_energy(
    surfaces: Sequence[SampledSurface],
    *,
    kT: float,
    mode: str,
    inputs: dict[str, Any],
    reference: SampledSurface | None = None,
    angles: Sequence[NDArray[np.float64]] = (),
) -> Measured:
    """Profiles along both angles, and their MAE against a reference.

    Args:
        surfaces: one for each replica.
        kT: kJ/mol.
        mode: ``paper`` or ``mdsim``.
        inputs: for the JSON.
        reference: to compare with.
        angles: of unbiased replicas, for the share of time in each basin.
    """
    check_mode(mode)
    n_bins = surfaces[0].surface.n_bins
    if reference is not None and reference.surface.n_bins != n_bins:
        raise MetricError(
            f"{reference.surface.source}: the reference has {reference.surface.n_bins} bins, the measurement {n_bins}; "
            "use the same --bins"
        )
    results: list[Result] = []
    curves: dict[str, Curve] = {}
    for axis, name in enumerate(("phi", "psi")):
        results += _mae_results(surfaces, axis, name, kT=kT, mode=mode, reference=reference)
        profiles = [one.surface.profile(axis, kT) for one in surfaces]
        for i, profile in enumerate(profiles):
            label = f"F_{name}" if len(profiles) == 1 else f"F_{name} replica {i}"
            curves[label] = curve(grid_points(n_bins), profile, "rad", "kJ/mol")
            stderr = surfaces[i].profile_stderr(axis, kT)
            if stderr is not None:
                curves[f"stderr of {label}"] = curve(grid_points(n_bins), stderr, "rad", "kJ/mol")
        if reference is not None:
            curves[f"reference F_{name}"] = curve(
                grid_points(n_bins), reference.surface.profile(axis, kT), "rad", "kJ/mol"
            )
    maps = {"mean": _map(mean_surface([one.surface for one in surfaces], kT, "mean"))}
    if reference is not None:
        maps["reference"] = _map(reference.surface)
    results.append(_surface_result(surfaces, reference, kT))
    results += _between_runs(surfaces, kT=kT, mode=mode)
    if len(angles) == 1:
        for axis, name in enumerate(("phi", "psi")):
            results += basin_fractions(name, angles[0][:, axis])
    measurement = Measurement(
        observable="free_energy",
        mode=mode,
        definition=f"{DEFINITION[mode]} {UNVISITED[0].upper()}{UNVISITED[1:]}.",
        inputs=inputs
        | {
            "kT_kJ_mol": kT,
            "n_bins": n_bins,
            "from": [one.surface.source for one in surfaces],
            "method": surfaces[0].note,
            "reference": None if reference is None else reference.surface.source,
        },
        results=results,
        curves=curves,
        maps=maps,
    )

    def draw(ax: "Axes") -> None:
        for axis in (0, 1):
            colour = f"C{axis}"
            for i, one in enumerate(surfaces):
                label = ("phi", "psi")[axis] if i == 0 else None
                stderr = one.profile_stderr(axis, kT)
                plot_profile(one.surface, kT, axis, ax, stderr, color=colour, label=label)
            if reference is not None:
                plot_profile(reference.surface, kT, axis, ax, color=colour, ls="--", lw=1)
        ax.set(xlabel="angle / rad", title="" if reference is None else "dashed: reference")
        ax.legend()

    return Measured(measurement=measurement, draw=draw, more={"surfaces": surfaces_as_json(surfaces)})


def _map(surface: FreeEnergySurface) -> Map:
    """F over both angles, its minimum at 0; unvisited bins stay without a number."""
    points = [round(float(angle), 4) for angle in grid_points(surface.n_bins)]
    F = surface.F - surface.F.min()
    return Map(
        x=points,
        y=points,
        z=[[round(float(value), 2) for value in row] for row in F],
        x_unit="rad",
        y_unit="rad",
        z_unit="kJ/mol",
    )


def _mae_results(
    surfaces: Sequence[SampledSurface],
    axis: int,
    name: str,
    *,
    kT: float,
    mode: str,
    reference: SampledSurface | None,
) -> list[Result]:
    known = [one.n_frames for one in surfaces if one.n_frames is not None]
    n_frames = sum(known) if known else None
    results = []
    for align, ending in (("minimum", ""), ("mean", "_mean_aligned")):
        label = f"F_{name}_mae{ending}"
        if reference is None:
            note = "no reference was given: --reference"
            results.append(Result(name=label, status="no_reference", unit=UNIT, n_frames=n_frames, note=note))
            continue
        expected = reference.surface.profile(axis, kT)
        estimates = [_estimate(one, axis, expected, kT=kT, mode=mode, align=align) for one in surfaces]
        floor = _floor(reference, surfaces, axis, kT=kT, mode=mode, align=align)
        unvisited = sum(int(np.isinf(one.surface.profile(axis, kT)).sum()) for one in surfaces)
        notes = join_notes(
            f"{align}-aligned",
            f"{unvisited} bins never visited" if unvisited else "",
            f"floor: {floor.note}" if floor is not None else "no floor: the reference is one surface",
        )
        results.append(
            result_over_replicas(
                label,
                UNIT,
                estimates,
                floor=None if floor is None else floor.value,
                n_frames=n_frames,
                note=notes,
            )
        )
    return results


def _surface_result(
    surfaces: Sequence[SampledSurface], reference: SampledSurface | None, kT: float
) -> Result:
    if reference is None:
        note = "no reference was given: --reference"
        return Result(name="F_phi_psi_mae", status="no_reference", unit="kJ/mol", note=note)
    expected = reference.surface

    def score(F: NDArray[np.float64]) -> float:
        return surface_mae(FreeEnergySurface(F=F, source=expected.source), expected)

    estimates = [_score_surface(one, score, lambda sums: free_energy(sums, kT)) for one in surfaces]
    floor = [surface_mae(a, b) for a, b in combinations(reference.runs, 2)]
    note = join_notes(
        "mean over the bins where the reference is below 25 kJ/mol, mean-aligned",
        "" if floor else "no floor: the reference is one surface",
    )
    return result_over_replicas(
        "F_phi_psi_mae", "kJ/mol", estimates, floor=float(np.mean(floor)) if floor else None, note=note
    )


def _score_surface(
    one: SampledSurface,
    score: Callable[[NDArray[np.float64]], float],
    surface_of_sums: Callable[[NDArray[np.float64]], NDArray[np.float64]],
) -> Estimate:
    """A number that is worked out of F (n_bins, n_bins), with its standard error."""
    if one.segments is not None:
        return score_with_jackknife(
            one.segments, lambda sums: score(surface_of_sums(sums)), one.n_frames or 0
        )
    value = score(one.surface.F)
    if isinstance(one.blocks, HillsBlocks):
        note = "standard error: blocks of the hills' reweighted centres, and the bias late in the run"
        return Estimate(value=value, stderr=one.blocks.stderr(score), n=one.n_frames or 1, note=note)
    why = one.blocks or "no standard error: a surface as given"
    return Estimate(value=value, stderr=None, n=one.n_frames or 1, note=why)


def _between_runs(surfaces: Sequence[SampledSurface], *, kT: float, mode: str) -> list[Result]:
    """How far independent runs of the same are apart."""
    if len(surfaces) < 2:
        return []
    pairs = list(combinations(range(len(surfaces)), 2))
    results = []
    for axis, name in enumerate(("phi", "psi")):
        for align, ending in (("minimum", ""), ("mean", "_mean_aligned")):
            distances = [
                profile_mae(
                    surfaces[a].surface.profile(axis, kT),
                    surfaces[b].surface.profile(axis, kT),
                    mode=mode,
                    align=align,
                )
                for a, b in pairs
            ]
            results.append(_pair_result(f"F_{name}_mae{ending}_between_runs", UNIT, pairs, distances))
    distances = [surface_mae(surfaces[a].surface, surfaces[b].surface) for a, b in pairs]
    return [*results, _pair_result("F_phi_psi_mae_between_runs", "kJ/mol", pairs, distances)]


def _pair_result(name: str, unit: str, pairs: list[tuple[int, int]], distances: list[float]) -> Result:
    """Mean over pairs, with a jackknife over runs, for each run is in several pairs."""
    note, stderr = "between two runs: one distance has no standard error", None
    n_runs = max(b for _, b in pairs) + 1
    if n_runs > 2:
        note = f"mean over {len(distances)} pairs of runs, standard error by leaving out runs"
        without = [
            float(np.mean([d for pair, d in zip(pairs, distances, strict=True) if run not in pair]))
            for run in range(n_runs)
        ]
        stderr = jackknife_stderr(without)
    return Result(
        name=name, status="ok", unit=unit, value=float(np.mean(distances)), stderr=stderr, note=note
    )


def _estimate(
    one: SampledSurface, axis: int, expected: NDArray[np.float64], *, kT: float, mode: str, align: str
) -> Estimate:
    def score(F: NDArray[np.float64]) -> float:
        profile = FreeEnergySurface(F=F, source=one.surface.source).profile(axis, kT)
        return profile_mae(profile, expected, mode=mode, align=align)

    return _score_surface(one, score, lambda sums: free_energy(sums, kT))


def _floor(
    reference: SampledSurface,
    surfaces: Sequence[SampledSurface],
    axis: int,
    *,
    kT: float,
    mode: str,
    align: str,
) -> Floor | None:
    if reference.runs:
        profiles = [run.profile(axis, kT) for run in reference.runs]
        apart = [profile_mae(a, b, mode=mode, align=align) for a, b in combinations(profiles, 2)]
        # Hills do not say how long a run was; the note says what the floor is.
        return Floor(
            value=float(np.mean(apart)),
            length_ps=np.nan,
            note="between the runs of the reference, at their own length",
        )
    if isinstance(reference.blocks, HillsBlocks):
        return _floor_of_hills(reference, surfaces, axis, mode=mode, align=align)
    lengths = [one.length_ps for one in surfaces if one.length_ps is not None]
    if reference.segments is None or reference.length_ps is None or not lengths:
        return None

    def distance(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
        one, other = (free_energy(sums.sum(axis=1 - axis), kT) for sums in (a, b))
        return profile_mae(one, other, mode=mode, align=align)

    return noise_floor(reference.segments, float(np.mean(lengths)), reference.length_ps, distance)


def _floor_of_hills(
    reference: SampledSurface, surfaces: Sequence[SampledSurface], axis: int, *, mode: str, align: str
) -> Floor | None:
    """What a run as long as these would score against one run of hills, by that run's own standard errors."""
    assert isinstance(reference.blocks, HillsBlocks)
    counts = [one.n_frames for one in surfaces if one.n_frames]
    if not counts or not reference.n_frames:
        return None
    variance = reference.blocks.profile_stderr(axis, align) ** 2
    of_both = np.sqrt(variance * (1 + reference.n_frames / float(np.mean(counts))))
    # < |x| > of a normal distribution, over the circle.
    value = float(np.mean(of_both) * np.sqrt(2 / np.pi)) * (MDSIM_TWO_PI if mode == "mdsim" else 2 * np.pi)
    return Floor(value=value, length_ps=np.nan, note="by the standard errors of the reference's own profile")


def kT_of(temperature_K: float, mode: str) -> float:  # noqa: N802 - kT is the symbol
    """Thermal energy, kJ/mol, after a check of the mode."""
    check_mode(mode)
    return thermal_energy(temperature_K, mode)
