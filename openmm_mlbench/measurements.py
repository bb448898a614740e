"""From files to measurements: each function reads trajectories in chunks and returns numbers, curves and a drawing."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from openmm_mlbench.errors import MetricError, MLBenchError
from openmm_mlbench.files import read_json
from openmm_mlbench.floor_tables import FloorTable, floor_lengths, floors_record, make_floors
from openmm_mlbench.metrics import diffusivity as diffusion
from openmm_mlbench.metrics.aggregate import Estimate, join_notes, result_over_replicas
from openmm_mlbench.metrics.distances import N_BINS as H_R_BINS
from openmm_mlbench.metrics.distances import (
    R_MIN_A,
    h_r_counts,
    h_r_mae,
    histogram_bin_centres,
    plot_h_r,
)
from openmm_mlbench.metrics.floors import (
    N_BLOCKS,
    Floor,
    Segments,
    noise_floor,
    score_with_jackknife,
)
from openmm_mlbench.metrics.paths import Paths
from openmm_mlbench.metrics.rdf import (
    DEFINITION,
    RDF,
    AtomPairs,
    RDFAccumulator,
    check_mode,
    plot_rdf,
    rdf_mae,
)
from openmm_mlbench.references import Reference
from openmm_mlbench.results import Curve, Measurement, Result
from openmm_mlbench.selections import MeasuredTopology
from openmm_mlbench.trajectory import Trajectory
from openmm_mlbench.trajectory_stream import TrajectoryFile
from openmm_mlbench.units import ANGSTROM_PER_NM

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Progress = Callable[[Iterable[Trajectory], int, str], Iterable[Trajectory]]
Draw = Callable[["Axes"], object]
# What counts as a peak of an RDF: this high above the valleys beside it, after a mean over this width.
_PROMINENCE, _SMOOTHING_A = 0.2, 0.15
NO_REFERENCE = "no reference was given: --reference"


def no_progress(chunks: Iterable[Trajectory], n_frames: int, what: str) -> Iterable[Trajectory]:  # noqa: ARG001
    """Chunks as they come."""
    return chunks


@dataclass(frozen=True, kw_only=True)
class Source:
    """What is measured: replicas of one system, from a time on.

    Args:
        topology: of all of them.
        files: one trajectory for each replica.
        start_ps: frames before this time are left out.
        stop_ps: frames after this time are left out; none where None.
        n_kept: frames from the first on that count, for each file; all where None.
        progress: wraps the chunks, for a progress bar.
    """

    topology: MeasuredTopology
    files: Sequence[TrajectoryFile]
    start_ps: float = 0.0
    stop_ps: float | None = None
    n_kept: Sequence[int] | None = None
    progress: Progress = no_progress

    def frames(self, file: TrajectoryFile) -> tuple[int, int]:
        """First frame, and the frame after the last.

        Raises:
            MetricError: nothing is left.
        """
        start = file.frame_at(self.start_ps)
        stop = file.n_frames
        if self.stop_ps is not None:
            stop = min(stop, file.frame_at(self.stop_ps + 1e-3 * file.frame_interval_ps))
        if self.n_kept is not None:
            stop = min(stop, self.n_kept[next(i for i, other in enumerate(self.files) if other is file)])
        if start >= stop:
            last = file.first_frame_ps + (file.n_frames - 1) * file.frame_interval_ps
            wanted = f"from {self.start_ps:g} ps on" + (
                "" if self.stop_ps is None else f" and up to {self.stop_ps:g} ps"
            )
            raise MetricError(
                f"{file.path}: no frame {wanted}; it has {file.n_frames}, the last at {last:g} ps"
            )
        return start, stop

    def chunks(self, file: TrajectoryFile, atoms: NDArray[np.int64] | None = None) -> Iterable[Trajectory]:
        """The frames of one replica."""
        start, stop = self.frames(file)
        return self.progress(file.chunks(start, stop, atoms=atoms), stop - start, file.path.name)

    def n_frames(self, file: TrajectoryFile) -> int:
        """How many frames of one replica are measured."""
        start, stop = self.frames(file)
        return stop - start

    def length_ps(self, file: TrajectoryFile) -> float:
        """Length of what is measured of one replica, ps."""
        return self.n_frames(file) * file.frame_interval_ps

    def inputs(self) -> dict[str, Any]:
        """For the JSON."""
        return {
            "topology": str(self.topology.path),
            "trajectories": [str(file.path) for file in self.files],
            "frame_interval_ps": self.files[0].frame_interval_ps,
            "start_ps": self.start_ps,
            "stop_ps": self.stop_ps,
            "n_frames": [self.n_frames(file) for file in self.files],
        }


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A measurement, how to draw it, and what else goes into its JSON."""

    measurement: Measurement
    draw: Draw = field(repr=False)
    more: dict[str, Any] = field(default_factory=dict)


def curve(
    x: Sequence[float] | NDArray[np.float64],
    y: Sequence[float] | NDArray[np.float64],
    x_unit: str,
    y_unit: str,
) -> Curve:
    """A curve of plain numbers."""
    return Curve(x=[float(v) for v in x], y=[float(v) for v in y], x_unit=x_unit, y_unit=y_unit)


def all_finite(chunks: Iterable[Trajectory]) -> Iterator[Trajectory]:
    """Pass chunks on.

    Raises:
        MetricError: a frame holds NaN or Infinity.
    """
    for chunk in chunks:
        finite = np.isfinite(chunk.positions_nm).all(axis=(1, 2))
        if not finite.all():
            at = chunk.times_ps[int(np.flatnonzero(~finite)[0])]
            raise MetricError(
                f"{chunk.source}: the frame at {at:g} ps holds NaN or Infinity; measure the part before it, --stop"
            )
        yield chunk


# --- Densities over bins, of RDFs and of h(r): sums (n_segments, n_bins + 1), the last column the weight --


@dataclass(frozen=True, kw_only=True)
class BinnedReference:
    """What a binned function of r is compared with.

    Args:
        segments: (n_segments, n_bins + 1): weight times function in each bin, then weight.
        edges_A: (n_bins + 1,).
        length_ps: length of the reference; None where it is not known.
        source: the file.
        thinned: segments of as many frames as the run has in that time, where the reference has more.
        known_floors: floors by length, ps, and number of frames, where the reference knows better than its segments.
    """

    segments: NDArray[np.float64]
    edges_A: NDArray[np.float64]
    length_ps: float | None
    source: str
    thinned: NDArray[np.float64] | None = None
    known_floors: Callable[[float, int], Floor | None] | None = None

    @property
    def values(self) -> NDArray[np.float64]:
        """(n_bins,), over all segments."""
        return _mean_of(self.segments.sum(axis=0))

    def floor(self, length_ps: float, n_frames: int) -> Floor | None:
        """The reference against itself at this length and, where it can tell, this number of frames."""
        if self.known_floors is not None:
            return self.known_floors(length_ps, n_frames)
        if self.length_ps is None:
            return None
        found = noise_floor(
            self.segments,
            length_ps,
            self.length_ps,
            lambda a, b: rdf_mae(_mean_of(a), _mean_of(b), self.edges_A),
            self.thinned,
        )
        if found is None or self.thinned is None:
            return found
        interval = f"with a frame every {length_ps / max(n_frames, 1):.3g} ps, as the run"
        return replace(found, note=f"{found.note}, {interval}")


def _mean_of(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    return sums[:-1] / sums[-1]


def _blocks(segments: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    if len(segments) < N_BLOCKS:
        return []
    return [_mean_of(block.sum(axis=0)) for block in np.array_split(segments, N_BLOCKS)]


def read_measurement(path: Path, observable: str, mode: str) -> dict[str, Any]:
    """The JSON of an earlier measurement of the same observable and mode.

    Raises:
        MetricError: it is another, or damaged.
    """
    try:
        record = read_json(path)
    except MLBenchError as error:
        raise MetricError(str(error)) from error
    if not isinstance(record, dict) or not {"observable", "mode", "inputs", "results", "curves"} <= set(
        record
    ):
        raise MetricError(
            f"{path}: not the JSON of a measurement; give one that `measure {observable}` wrote"
        )
    if record["observable"] != observable:
        raise MetricError(f"{path}: holds {record['observable']!r}; give the JSON of `measure {observable}`")
    if record["mode"] != mode:
        raise MetricError(
            f"{path}: is of mode {record['mode']}, this is of mode {mode}; compare within one mode"
        )
    return record


def axes_of(path: Path, record: dict[str, Any], name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The x and y of a curve of a measurement.

    Raises:
        MetricError: there is no such curve, or it is damaged.
    """
    curves = record["curves"]
    if name not in curves:
        known = ", ".join(other for other in curves if "block" not in other)
        raise MetricError(f"{path}: has no curve {name}; it has {known}")
    try:
        x, y = (np.asarray(curves[name][axis], dtype=np.float64) for axis in "xy")
    except (KeyError, TypeError, ValueError) as error:
        raise MetricError(f"{path}: the curve {name} is damaged ({error!r}); write it again") from error
    if x.shape != y.shape or x.ndim != 1 or not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise MetricError(f"{path}: the curve {name} is damaged; write it again")
    return x, y


def _reference_from_json(
    path: Path,
    observable: str,
    label: str,
    edges_A: NDArray[np.float64],
    mode: str,
    same: Mapping[str, Any] | None = None,
) -> BinnedReference:
    """A reference from the JSON of an earlier measurement, with its blocks where it had enough frames for them.

    ``same`` are inputs that must be equal, where the earlier measurement names them.
    """
    record = read_measurement(path, observable, mode)
    for name, value in (same or {}).items():
        found = record["inputs"].get(name, value)
        if found != value:
            raise MetricError(
                f"{path}: has {name} {found}, the measurement {value}; compare what was measured alike"
            )
    # g(r) of H around O is that of O around H.
    turned = "-".join(reversed(label.split("-")))
    if label not in record["curves"] and turned in record["curves"]:
        label = turned
    centres, values = axes_of(path, record, label)
    check_grid(path, centres, (edges_A[1:] + edges_A[:-1]) / 2)
    names = [f"{label} block {k}" for k in range(1, N_BLOCKS + 1)]
    blocks = [axes_of(path, record, name)[1] for name in names if name in record["curves"]]
    length_ps = record["inputs"].get("length_ps")
    rows = np.stack(blocks) if blocks and len(blocks[0]) == len(values) else values[None]
    table = FloorTable.read(record["inputs"].get("noise_floors"), label)
    return BinnedReference(
        segments=np.hstack([rows, np.ones((len(rows), 1))]),
        edges_A=edges_A,
        length_ps=float(length_ps) if blocks and isinstance(length_ps, int | float) else None,
        source=str(path),
        known_floors=None if table is None else table.floor,
    )


def references_from_json(
    path: Path,
    pairs: Sequence[AtomPairs],
    edges_A: NDArray[np.float64],
    mode: str,
    *,
    intramolecular: bool = True,
) -> list[BinnedReference]:
    """The RDFs of these pairs in the JSON of ``measure rdf``."""
    same = {"intramolecular": intramolecular}
    return [_reference_from_json(path, "rdf", pair.label, edges_A, mode, same) for pair in pairs]


# More bins than any figure shows; beyond, their sums fill the memory.
MAX_BINS = 20_000


def check_bins(n_bins: int, r_max_A: float) -> None:
    """Refuse what makes no bins.

    Raises:
        MetricError: too few or too many, or they end at zero or below.
    """
    if not (1 <= n_bins <= MAX_BINS and math.isfinite(r_max_A) and r_max_A > 0):
        raise MetricError(
            f"{n_bins} bins up to {r_max_A:g} A; wanted 1 to {MAX_BINS}, up to a distance above zero"
        )


def check_grid(path: Path, found: NDArray[np.float64], wanted: NDArray[np.float64]) -> None:
    """Refuse a reference on another grid.

    Raises:
        MetricError: the middles of the bins differ.
    """
    if found.shape != wanted.shape or not np.allclose(found, wanted, rtol=0, atol=1e-6 * abs(wanted[-1])):

        def grid(points: NDArray[np.float64]) -> str:
            width = points[1] - points[0] if len(points) > 1 else 0.0
            return (
                f"{len(points)} bins of {width:.4g} up to {points[-1] + width / 2:.4g}"
                if len(points)
                else "no bins"
            )

        raise MetricError(
            f"{path}: the reference has {grid(found)}, the measurement {grid(wanted)}; use the same --bins and --r-max"
        )


# --- RDF -----------------------------------------------------------------------------------------


def frames_to_skip(source: Source, reference: Source) -> int:
    """Frames of a reference in one interval of the run: 1 where it has no more than the run."""
    ratio = source.files[0].frame_interval_ps / reference.files[0].frame_interval_ps
    return max(1, round(ratio))


def every_nth(chunks: Iterable[Trajectory], n: int) -> Iterator[Trajectory]:
    """One frame of n, from the first on."""
    at = 0
    for chunk in chunks:
        kept = np.arange(at, at + chunk.n_frames) % n == 0
        at += chunk.n_frames
        if kept.any():
            boxes = None if chunk.box_vectors_nm is None else chunk.box_vectors_nm[kept]
            yield replace(chunk, positions_nm=chunk.positions_nm[kept], box_vectors_nm=boxes)


def count_rdfs(
    source: Source, file: TrajectoryFile, pairs: Sequence[AtomPairs], *, nth: int = 1, **options: Any
) -> list[RDF]:
    """The RDFs of one replica, chunk by chunk, of every nth frame; segments are those of all frames."""
    counting = RDFAccumulator(pairs, source.n_frames(file), nth=nth, **options)
    for chunk in every_nth(source.chunks(file), nth):
        counting.add(chunk)
    return counting.results()


def molecules_of(source: Source) -> NDArray[np.int64]:
    """(n_atoms,) number of the molecule of each atom, by the topology or the first frame."""
    start, _ = source.frames(source.files[0])
    first = source.files[0].read(start, start + 1)
    box = None if first.box_vectors_nm is None else first.box_vectors_nm[0]
    return source.topology.molecules(first.positions_nm[0], box)


def per_frame_sums(rdf: RDF) -> NDArray[np.float64]:
    """Sums in which the first columns over the last are g(r)."""
    shells = 4.0 / 3.0 * np.pi * np.diff(rdf.edges_A**3) * rdf.n_pairs
    return np.hstack([rdf.segments[:, :-1] / shells, rdf.segments[:, -1:]])


def measure_rdf(
    source: Source,
    pairs: Sequence[AtomPairs],
    *,
    r_max_A: float,
    n_bins: int,
    mode: str,
    intramolecular: bool = True,
    reference: "Source | Path | None" = None,
    cutoff_A: float | None = None,
) -> Measured:
    """RDFs, coordination numbers, and the MAE against a reference.

    Args:
        source: trajectories with cells.
        pairs: groups of atoms.
        r_max_A: upper edge of the last bin, A.
        n_bins: number of bins.
        mode: ``paper`` or ``mdsim``.
        intramolecular: whether pairs within a molecule count.
        reference: trajectories of the same topology, or the JSON of an earlier measurement.
        cutoff_A: radius of the coordination numbers; where None the first minimum of the reference, else r_max_A.
    """
    check_mode(mode)
    check_bins(n_bins, r_max_A)
    if cutoff_A is not None and not 0 < cutoff_A <= r_max_A:
        raise MetricError(
            f"coordination cutoff {cutoff_A:g} A; wanted above 0 and at most r_max, {r_max_A:g} A"
        )
    molecules = None if intramolecular else molecules_of(source)
    options: dict[str, Any] = {"r_max_A": r_max_A, "n_bins": n_bins, "mode": mode, "molecules": molecules}
    edges = np.linspace(0.0, r_max_A, n_bins + 1)
    # A reference that does not fit should be told before minutes of counting.
    references: list[BinnedReference | None] = [None] * len(pairs)
    if isinstance(reference, Path):
        references = [*references_from_json(reference, pairs, edges, mode, intramolecular=intramolecular)]
    replicas = [count_rdfs(source, file, pairs, **options) for file in source.files]
    if isinstance(reference, Source):
        counted = count_rdfs(reference, reference.files[0], pairs, **options)
        nth = frames_to_skip(source, reference)
        thinned = count_rdfs(reference, reference.files[0], pairs, nth=nth, **options) if nth > 1 else None
        references = [
            BinnedReference(
                segments=per_frame_sums(rdf),
                edges_A=edges,
                length_ps=rdf.length_ps,
                source=str(reference.files[0].path),
                thinned=None if thinned is None else per_frame_sums(thinned[p]),
            )
            for p, rdf in enumerate(counted)
        ]
    results: list[Result] = []
    curves: dict[str, Curve] = {}
    for p, pair in enumerate(pairs):
        rdfs = [replica[p] for replica in replicas]
        results += _rdf_results(rdfs, references[p], cutoff_A)
        curves |= _rdf_curves(rdfs, references[p], pair.label)
    inputs = source.inputs() | {
        "pairs": [pair.label for pair in pairs],
        "n_atoms": {pair.label: [len(pair.a), len(pair.b)] for pair in pairs},
        "r_max_A": r_max_A,
        "n_bins": n_bins,
        "intramolecular": intramolecular,
        "reference": None if references[0] is None else references[0].source,
        "length_ps": sum(rdf.length_ps for rdf in (replica[0] for replica in replicas)),
        "noise_floors": rdf_floors(replicas[0]) if len(replicas) == 1 else None,
    }
    measurement = Measurement(
        observable="rdf",
        mode=mode,
        definition=_rdf_definition(mode),
        inputs=inputs,
        results=results,
        curves=curves,
    )

    def draw(ax: "Axes") -> None:
        for p in range(len(pairs)):
            plot_rdf(replicas[0][p], ax)
            known = references[p]
            if known is not None:
                ax.plot((edges[1:] + edges[:-1]) / 2, known.values, "k--", lw=1)
        ax.set_title(f"reference (dashed): {Path(inputs['reference']).name}" if inputs["reference"] else "")

    return Measured(measurement=measurement, draw=draw)


def rdf_floors(rdfs: Sequence[RDF]) -> dict[str, Any] | None:
    """Floors of the RDFs of one trajectory at the lengths of its parts, for what it is the reference of; None if too short."""
    first = rdfs[0]
    piece_ps = first.length_ps / len(first.segments)
    lengths = floor_lengths(piece_ps, len(first.segments))
    if not lengths:
        return None
    interval = first.length_ps / first.n_frames
    values = {}
    for rdf in rdfs:
        sums = per_frame_sums(rdf)

        def distance(
            a: NDArray[np.float64], b: NDArray[np.float64], edges: NDArray[np.float64] = rdf.edges_A
        ) -> float:
            return rdf_mae(_mean_of(a), _mean_of(b), edges)

        values[rdf.label] = make_floors({interval: sums}, piece_ps, lengths, distance)
    return floors_record(lengths, [interval], values)


def first_minimum(edges_A: NDArray[np.float64], g_r: NDArray[np.float64]) -> float | None:
    """Where the first shell of an RDF ends, A: the deepest point between its first two peaks; None where it has no two.

    Args:
        edges_A: (n_bins + 1,).
        g_r: (n_bins,), smoothed here over 0.15 A.
    """
    from scipy.signal import find_peaks

    width = max(1, round(_SMOOTHING_A / float(edges_A[1] - edges_A[0])))
    smooth = np.convolve(g_r, np.ones(width) / width, mode="same")
    peaks, _ = find_peaks(smooth, prominence=_PROMINENCE)
    if len(peaks) < 2:
        return None
    valley = smooth[peaks[0] : peaks[1]]
    # A gap between shells has many zeros: its middle.
    lowest = np.flatnonzero(valley <= valley.min() + 1e-9)
    deepest = int(peaks[0]) + int(lowest[len(lowest) // 2])
    return float(edges_A[deepest + 1])


def _rdf_definition(mode: str) -> str:
    integral = {
        "paper": "MAE: integral of |g - g_ref| from 0 to r_max (eq. 3).",
        "mdsim": "MAE: mean over bins of |g - g_ref|, times r_max.",
    }
    return f"{DEFINITION[mode]} {integral[mode]}"


def _rdf_results(rdfs: list[RDF], reference: BinnedReference | None, cutoff_A: float | None) -> list[Result]:
    label = rdfs[0].label
    n_frames = sum(rdf.n_frames for rdf in rdfs)
    why = ""
    if cutoff_A is None and reference is not None:
        cutoff_A = first_minimum(reference.edges_A, reference.values)
        why = "" if cutoff_A is None else ", the first minimum of the reference"
    cutoff_A = float(rdfs[0].edges_A[-1]) if cutoff_A is None else cutoff_A
    inside = int(np.searchsorted(rdfs[0].edges_A, cutoff_A * (1 + 1e-9), side="right")) - 2
    upper = rdfs[0].edges_A[inside + 1] if inside >= 0 else 0.0
    coordination = result_over_replicas(
        f"coordination_{label}",
        "1",
        [_coordination(rdf, inside) for rdf in rdfs],
        n_frames=n_frames,
        note=f"atoms within {upper:g} A{why}",
    )
    name = f"rdf_mae_{label}"
    if reference is None:
        note = NO_REFERENCE
        return [
            Result(name=name, status="no_reference", unit="A", n_frames=n_frames, note=note),
            coordination,
        ]
    expected, edges = reference.values, reference.edges_A
    estimates = [
        score_with_jackknife(
            per_frame_sums(rdf), lambda sums: rdf_mae(_mean_of(sums), expected, edges), rdf.n_frames
        )
        for rdf in rdfs
    ]
    lengths = [rdf.length_ps for rdf in rdfs]
    floor = reference.floor(float(np.mean(lengths)), round(n_frames / len(rdfs)))
    return [_mae_result(name, "A", estimates, floor, n_frames), coordination]


def _coordination(rdf: RDF, last_bin: int) -> Estimate:
    """Atoms around one atom up to the end of a bin, with its error over blocks of frames."""
    if last_bin < 0:
        return Estimate(value=0.0, stderr=None, n=rdf.n_frames, note="within less than one bin")
    counted = float(rdf.counts.sum())
    # Segments weigh counts by the volume; its mean turns them back.
    scale = counted / float(rdf.segments[:, :-1].sum()) / rdf.n_a if counted else 0.0
    sums = np.stack([rdf.segments[:, : last_bin + 1].sum(axis=1) * scale, rdf.segments[:, -1]], axis=1)
    spread = score_with_jackknife(sums, lambda total: float(total[0] / total[1]), rdf.n_frames)
    value = float(rdf.coordination[last_bin])
    return Estimate(value=value, stderr=spread.stderr, n=rdf.n_frames, note=spread.note)


def _mae_result(
    name: str, unit: str, estimates: Sequence[Estimate], floor: Floor | None, n_frames: int
) -> Result:
    note = f"floor: {floor.note}" if floor is not None else "no floor: the reference has no blocks to compare"
    return result_over_replicas(
        name, unit, estimates, floor=None if floor is None else floor.value, n_frames=n_frames, note=note
    )


def _rdf_curves(rdfs: list[RDF], reference: BinnedReference | None, label: str) -> dict[str, Curve]:
    r, upper = rdfs[0].r_A, rdfs[0].edges_A[1:]
    curves = {
        label: curve(r, np.mean([rdf.g_r for rdf in rdfs], axis=0), "A", "1"),
        f"coordination {label}": curve(upper, np.mean([rdf.coordination for rdf in rdfs], axis=0), "A", "1"),
    }
    if reference is not None:
        curves[f"reference {label}"] = curve(r, reference.values, "A", "1")
    if len(rdfs) > 1:
        curves |= {f"{label} replica {i}": curve(r, rdf.g_r, "A", "1") for i, rdf in enumerate(rdfs)}
    segments = np.concatenate([per_frame_sums(rdf) for rdf in rdfs])
    curves |= {f"{label} block {k}": curve(r, g, "A", "1") for k, g in enumerate(_blocks(segments), 1)}
    return curves


# --- h(r) ----------------------------------------------------------------------------------------


def _h_r_segments(
    source: Source,
    file: TrajectoryFile,
    atoms: NDArray[np.int64],
    n_bins: int,
    r_max_A: float,
    mode: str,
    nth: int = 1,
) -> NDArray[np.float64]:
    """(n_segments, n_bins + 1): counts over bin width, then the pairs that the norm counts, of every nth frame."""
    segments = Segments(source.n_frames(file), nth)
    width = (r_max_A - R_MIN_A) / n_bins
    n_pairs = len(atoms) * (len(atoms) - 1) / 2
    sums = np.zeros((segments.n_segments, n_bins + 1))
    for chunk in all_finite(every_nth(source.chunks(file, atoms), nth)):
        owners = segments.of_next(chunk.n_frames)
        for s in np.unique(owners):
            frames = chunk.positions_nm[owners == s] * ANGSTROM_PER_NM
            counts = h_r_counts(frames, n_bins, R_MIN_A, r_max_A)
            sums[s, :-1] += counts / width
            sums[s, -1] += counts.sum() if mode == "mdsim" else n_pairs * len(frames)
    if not sums[:, :-1].any():
        raise MetricError(f"{file.path}: no distance below {r_max_A:g} A; give a larger --r-max")
    return sums


def measure_distances(
    source: Source,
    atoms: NDArray[np.int64],
    *,
    r_max_A: float,
    n_bins: int = H_R_BINS,
    mode: str,
    reference: "Source | Path | None" = None,
) -> Measured:
    """Distribution of interatomic distances of a molecule, and its MAE against a reference.

    Args:
        source: trajectories of whole molecules; images are not looked at.
        atoms: indices of the atoms whose distances count.
        r_max_A: upper edge of the last bin, A.
        n_bins: number of bins.
        mode: ``paper``: over all pairs; ``mdsim``: unit area within the bins.
        reference: trajectories, the JSON of an earlier measurement or a reference of a data set.
    """
    check_mode(mode)
    check_bins(n_bins, r_max_A)
    if len(atoms) < 2:
        raise MetricError(f"{len(atoms)} atom selected; a distance wants two")
    edges = np.linspace(R_MIN_A, r_max_A, n_bins + 1)
    centres = histogram_bin_centres(n_bins, R_MIN_A, r_max_A)
    known: BinnedReference | None = None
    if isinstance(reference, Path):
        known = _h_r_reference(reference, edges, mode, len(atoms))
    replicas = [_h_r_segments(source, file, atoms, n_bins, r_max_A, mode) for file in source.files]
    if isinstance(reference, Source):
        file = reference.files[0]
        nth = frames_to_skip(source, reference)
        known = BinnedReference(
            segments=_h_r_segments(reference, file, atoms, n_bins, r_max_A, mode),
            edges_A=edges,
            length_ps=reference.length_ps(file),
            source=str(file.path),
            thinned=_h_r_segments(reference, file, atoms, n_bins, r_max_A, mode, nth) if nth > 1 else None,
        )
    lengths = [source.length_ps(file) for file in source.files]
    densities = [_mean_of(segments.sum(axis=0)) for segments in replicas]
    n_frames = sum(source.n_frames(file) for file in source.files)
    width = float(edges[1] - edges[0])
    if known is None:
        note = NO_REFERENCE
        results = [Result(name="h_r_mae", status="no_reference", unit="1", n_frames=n_frames, note=note)]
    else:
        expected = known.values
        estimates = [
            score_with_jackknife(
                segments, lambda sums: h_r_mae(_mean_of(sums), expected, width), source.n_frames(file)
            )
            for segments, file in zip(replicas, source.files, strict=True)
        ]
        results = [
            _mae_result(
                "h_r_mae",
                "1",
                estimates,
                known.floor(float(np.mean(lengths)), round(n_frames / len(lengths))),
                n_frames,
            )
        ]
    curves = {"h": curve(centres, np.mean(densities, axis=0), "A", "1/A")}
    if known is not None:
        curves["reference h"] = curve(centres, known.values, "A", "1/A")
    blocks = _blocks(np.concatenate(replicas))
    curves |= {f"h block {k}": curve(centres, block, "A", "1/A") for k, block in enumerate(blocks, 1)}
    measurement = Measurement(
        observable="distances",
        mode=mode,
        definition=(
            "Distribution of the distances of all pairs of selected atoms (paper, eq. 1), "
            + ("of unit area over all pairs" if mode == "paper" else "of unit area within the bins")
            + f", {n_bins} bins up to {r_max_A:g} A; MAE: area between it and the reference."
        ),
        inputs=source.inputs()
        | {
            "n_atoms": len(atoms),
            "r_max_A": r_max_A,
            "n_bins": n_bins,
            "length_ps": sum(lengths),
            "reference": None if known is None else known.source,
        },
        results=results,
        curves=curves,
    )

    def draw(ax: "Axes") -> None:
        of_reference = None if known is None else (centres, known.values)
        source_name = "" if known is None else f"reference, {Path(known.source).name}"
        plot_h_r((centres, np.asarray(curves["h"].y)), ax, of_reference, source=source_name)

    return Measured(measurement=measurement, draw=draw)


def check_molecule(path: Path, reference: Reference, n_atoms: int) -> None:
    """Refuse the reference of a molecule of another size.

    Raises:
        MetricError: its frames hold another number of pairs of atoms.
    """
    n_pairs = n_atoms * (n_atoms - 1) // 2
    known = float(reference.blocks.sum()) / reference.n_frames
    # A few pairs of broken frames may lie beyond its last bin.
    if not 0.99 * n_pairs <= known <= 1.01 * n_pairs:
        raise MetricError(
            f"{path}: has {known:.4g} pairs of atoms in a frame, the measurement {n_pairs}; give the reference of this "
            "molecule, or select its atoms"
        )


def _h_r_reference(path: Path, edges_A: NDArray[np.float64], mode: str, n_atoms: int) -> BinnedReference:
    try:
        record = read_json(path)
    except MLBenchError as error:
        raise MetricError(str(error)) from error
    if isinstance(record, dict) and "observable" in record:
        return _reference_from_json(path, "distances", "h", edges_A, mode, {"n_atoms": n_atoms})
    of_data_set = Reference.load(path)
    check_molecule(path, of_data_set, n_atoms)

    def floor(length_ps: float, n_frames: int) -> Floor | None:
        found = of_data_set.noise_floor(length_ps, n_frames)
        return None if found is None else Floor(value=found.value, length_ps=found.length_ps, note=found.note)

    check_grid(path, of_data_set.h_r[0], (edges_A[1:] + edges_A[:-1]) / 2)
    counts = of_data_set.blocks.astype(np.float64)
    segments = np.hstack([counts / of_data_set.bin_width, counts.sum(axis=1, keepdims=True)])
    return BinnedReference(
        segments=segments,
        edges_A=edges_A,
        length_ps=of_data_set.length_ps,
        source=str(path),
        known_floors=floor,
    )


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
