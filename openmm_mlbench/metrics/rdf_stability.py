"""How long a condensed system stays physical: RDFs of short windows against the reference (paper, eq. 8)."""

import hashlib
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmm_mlbench.errors import MetricError
from openmm_mlbench.metrics.rdf import AtomPairs, compute_rdf, rdf_mae
from openmm_mlbench.metrics.stability import Survival
from openmm_mlbench.trajectory import Trajectory

# Of the paper, A and ps.
WATER_THRESHOLD, LIPS_THRESHOLD = 3.0, 1.0
WINDOW_PS = 1.0


@dataclass(frozen=True, kw_only=True)
class RDFWindows:
    """Judges windows of frames while a simulation runs, one after another.

    :func:`window_deviations`, afterwards, looks at a window from every frame on, so it never finds a later end.

    Args:
        pairs: groups of atoms.
        references: for each pair g(r) (n_bins,).
        r_max_A: upper edge of the last bin, A.
        threshold_A: where a window counts as collapsed.
        frames_per_window: frames in each.
        source: where the references come from, for the record of the run.
        mode: ``paper`` or ``mdsim``, that of the references.

    Raises:
        MetricError: pairs and references do not fit, or a window has no frames.
    """

    pairs: tuple[AtomPairs, ...]
    references: tuple[NDArray[np.float64], ...]
    r_max_A: float
    threshold_A: float
    frames_per_window: int
    source: str = ""
    mode: str = "paper"

    def __post_init__(self) -> None:
        if not self.pairs or len(self.pairs) != len(self.references):
            raise MetricError(
                f"{len(self.pairs)} pairs with {len(self.references)} references; give one reference for each pair"
            )
        if self.frames_per_window < 1:
            raise MetricError(
                f"windows of {self.frames_per_window} frames; a window wants at least one: lengthen it"
            )

    @property
    def description(self) -> dict[str, Any]:
        """What run.json records."""
        digest = hashlib.sha256()
        for pair, reference in zip(self.pairs, self.references, strict=True):
            for array in (pair.a, pair.b, np.asarray(reference, dtype="<f8")):
                digest.update(np.ascontiguousarray(array).tobytes())
        return {
            "pairs": [pair.label for pair in self.pairs],
            "r_max_A": self.r_max_A,
            "n_bins": len(self.references[0]),
            "threshold_A": self.threshold_A,
            "frames_per_window": self.frames_per_window,
            "mode": self.mode,
            "source": self.source,
            "sha256": digest.hexdigest(),
        }

    def deviations_A(  # noqa: N802 - A is the unit
        self, positions_nm: NDArray[np.float64], box_vectors_nm: NDArray[np.float64]
    ) -> dict[str, float]:
        """Deviation of each pair's RDF over these frames from its reference        (paper, eq. 8).

        Args:
            positions_nm: (n_frames, n_atoms, 3).
            box_vectors_nm: (n_frames, 3, 3).
        """
        window = Trajectory(
            positions_nm=positions_nm,
            box_vectors_nm=box_vectors_nm,
            atomic_numbers=np.zeros(positions_nm.shape[1], dtype=np.int64),
            frame_interval_ps=1.0,
        )
        found = _deviations(window, self.pairs, self.references, r_max_A=self.r_max_A, mode=self.mode)
        return {pair.label: value for pair, value in zip(self.pairs, found, strict=True)}


@dataclass(frozen=True, kw_only=True)
class WindowDeviations:
    """Integral of |RDF of a window - reference| for the window that begins at each frame.

    Args:
        times_ps: (n_windows,), the first frame of each window.
        deviations_A: label of the pair -> (n_windows,), A; Infinity where a frame is not finite.
        end_ps: time of the last frame.
        n_frames: of the trajectory.
    """

    times_ps: NDArray[np.float64]
    deviations_A: dict[str, NDArray[np.float64]]
    end_ps: float
    n_frames: int

    @property
    def worst_A(self) -> NDArray[np.float64]:  # noqa: N802 - A is the unit
        """(n_windows,), A: the largest of all pairs."""
        return np.asarray(np.max(np.stack(list(self.deviations_A.values())), axis=0), dtype=np.float64)

    def per_frame(self, n_frames: int) -> NDArray[np.float64]:
        """(n_frames,), A: the worst pair of each frame's window; frames after the last whole window have its value."""
        if not len(self.times_ps):
            return np.zeros(n_frames)
        return self.worst_A[np.minimum(np.arange(n_frames), len(self.times_ps) - 1)]

    def survival(self, threshold_A: float) -> Survival:
        """Stable until the first window in which any pair deviates by more than the threshold."""
        broken = np.flatnonzero(~(self.worst_A <= threshold_A))
        if len(broken):
            first = int(broken[0])
            return Survival(time_ps=float(self.times_ps[first]), broke=True, n_stable_frames=first)
        return Survival(time_ps=self.end_ps, broke=False, n_stable_frames=self.n_frames)


def window_deviations(
    chunks: Iterable[Trajectory],
    pairs: Sequence[AtomPairs],
    references: Sequence[NDArray[np.float64]],
    *,
    r_max_A: float,
    mode: str,
    window_ps: float = WINDOW_PS,
) -> WindowDeviations:
    """Deviation from the reference of the RDFs of the window that begins at each frame.

    int |<RDF> - <RDF_t>_(t = T..T + tau)| dr > threshold        (paper, eq. 8)

    Every frame that a whole window follows is a T, as in the paper's code.

    Args:
        chunks: of a periodic trajectory, in order.
        pairs: groups of atoms.
        references: for each pair g(r) (n_bins,).
        r_max_A: upper edge of the last bin, A.
        mode: ``paper`` or ``mdsim``, that of the references.
        window_ps: tau.

    Raises:
        MetricError: no cell, no window is whole, or the window is shorter than a frame interval.
    """
    times: list[float] = []
    series: dict[str, list[float]] = {pair.label: [] for pair in pairs}
    widths = np.full(len(references[0]), r_max_A / len(references[0]))
    held: deque[NDArray[np.float64]] = deque()
    n_window, n_frames, end_ps = 0, 0, 0.0
    for chunk in chunks:
        if not n_window:
            n_window = round(window_ps / chunk.frame_interval_ps)
            if n_window < 1:
                raise MetricError(
                    f"window {window_ps:g} ps; frames are {chunk.frame_interval_ps:g} ps apart, give a longer one"
                )
            held = deque(maxlen=n_window)
        for frame in range(chunk.n_frames):
            n_frames += 1
            end_ps = chunk.first_frame_ps + frame * chunk.frame_interval_ps
            held.append(_g_of_frame(chunk, frame, pairs, len(widths), r_max_A=r_max_A, mode=mode))
            if len(held) < n_window:
                continue
            times.append(end_ps - (n_window - 1) * chunk.frame_interval_ps)
            mean = np.mean(np.stack(held), axis=0)
            for pair, g_r, expected in zip(pairs, mean, references, strict=True):
                value = float(np.sum(np.abs(g_r - expected) * widths))
                series[pair.label].append(value if np.isfinite(value) else np.inf)
    if not times:
        raise MetricError(f"{n_frames} frames; a window of {window_ps:g} ps wants {n_window}")
    return WindowDeviations(
        times_ps=np.array(times),
        deviations_A={label: np.array(values) for label, values in series.items()},
        end_ps=end_ps,
        n_frames=n_frames,
    )


def _g_of_frame(
    chunk: Trajectory, frame: int, pairs: Sequence[AtomPairs], n_bins: int, *, r_max_A: float, mode: str
) -> NDArray[np.float64]:
    """g(r) of one frame (n_pairs, n_bins), NaN where it is not finite."""
    boxes = chunk.box_vectors_nm
    if not np.isfinite(chunk.positions_nm[frame]).all():
        return np.full((len(pairs), n_bins), np.nan)
    one = Trajectory(
        positions_nm=chunk.positions_nm[frame : frame + 1],
        box_vectors_nm=None if boxes is None else boxes[frame : frame + 1],
        atomic_numbers=chunk.atomic_numbers,
        frame_interval_ps=chunk.frame_interval_ps,
        first_frame_ps=chunk.first_frame_ps + frame * chunk.frame_interval_ps,
        source=chunk.source,
    )
    return np.stack([rdf.g_r for rdf in compute_rdf(one, pairs, r_max_A=r_max_A, n_bins=n_bins, mode=mode)])


def _deviations(
    window: Trajectory,
    pairs: Sequence[AtomPairs],
    references: Sequence[NDArray[np.float64]],
    *,
    r_max_A: float,
    mode: str,
) -> list[float]:
    if not np.isfinite(window.positions_nm).all():
        return [np.inf] * len(pairs)
    found = compute_rdf(window, pairs, r_max_A=r_max_A, n_bins=len(references[0]), mode=mode)
    return [rdf_mae(rdf.g_r, expected, rdf.edges_A) for rdf, expected in zip(found, references, strict=True)]
