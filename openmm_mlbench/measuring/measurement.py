"""What every measurement of trajectories has in common: its source, its outcome, and references from files."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from openmm_mlbench.errors import MetricError, MLBenchError
from openmm_mlbench.files import read_json
from openmm_mlbench.measuring.floor_tables import FloorTable
from openmm_mlbench.metrics.aggregate import Estimate, result_over_replicas
from openmm_mlbench.metrics.floors import (
    N_BLOCKS,
    Floor,
    noise_floor,
)
from openmm_mlbench.metrics.rdf import (
    AtomPairs,
    rdf_mae,
)
from openmm_mlbench.results import Curve, Measurement, Result
from openmm_mlbench.selections import MeasuredTopology
from openmm_mlbench.trajectory import Trajectory
from openmm_mlbench.trajectory_stream import TrajectoryFile

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Progress = Callable[[Iterable[Trajectory], int, str], Iterable[Trajectory]]
Draw = Callable[["Axes"], object]
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
        return mean_of_segments(self.segments.sum(axis=0))

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
            lambda a, b: rdf_mae(mean_of_segments(a), mean_of_segments(b), self.edges_A),
            self.thinned,
        )
        if found is None or self.thinned is None:
            return found
        interval = f"with a frame every {length_ps / max(n_frames, 1):.3g} ps, as the run"
        return replace(found, note=f"{found.note}, {interval}")


def mean_of_segments(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean curve (n_bins,) of sums (n_bins + 1,) whose last entry is what they are divided by."""
    return sums[:-1] / sums[-1]


def blocks_of_segments(segments: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Mean curves (n_bins,) of consecutive blocks of segments (n_segments, n_bins + 1); none if there are too few."""
    if len(segments) < N_BLOCKS:
        return []
    return [mean_of_segments(block.sum(axis=0)) for block in np.array_split(segments, N_BLOCKS)]


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


def reference_from_json(
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
    return [reference_from_json(path, "rdf", pair.label, edges_A, mode, same) for pair in pairs]


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


def mae_result(
    name: str, unit: str, estimates: Sequence[Estimate], floor: Floor | None, n_frames: int
) -> Result:
    """The MAE of a curve over replicas, with the floor at the same number of frames."""
    note = f"floor: {floor.note}" if floor is not None else "no floor: the reference has no blocks to compare"
    return result_over_replicas(
        name, unit, estimates, floor=None if floor is None else floor.value, n_frames=n_frames, note=note
    )
