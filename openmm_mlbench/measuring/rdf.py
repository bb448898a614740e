"""Radial distribution functions of trajectories."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from openmm_mlbench.errors import MetricError
from openmm_mlbench.measuring.floor_tables import floor_lengths, floors_record, make_floors
from openmm_mlbench.measuring.measurement import (
    NO_REFERENCE,
    BinnedReference,
    Measured,
    Source,
    blocks_of_segments,
    check_bins,
    curve,
    every_nth,
    frames_to_skip,
    mae_result,
    mean_of_segments,
    references_from_json,
)
from openmm_mlbench.metrics.aggregate import Estimate, result_over_replicas
from openmm_mlbench.metrics.floors import (
    score_with_jackknife,
)
from openmm_mlbench.metrics.rdf import (
    DEFINITION,
    RDF,
    AtomPairs,
    RDFAccumulator,
    check_mode,
    plot_rdf,
    rdf_mae,
)
from openmm_mlbench.results import Curve, Measurement, Result
from openmm_mlbench.trajectory_stream import TrajectoryFile

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# What counts as a peak of an RDF: this high above the valleys beside it, after a mean over this width.
_PROMINENCE, _SMOOTHING_A = 0.2, 0.15


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
            return rdf_mae(mean_of_segments(a), mean_of_segments(b), edges)

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
            per_frame_sums(rdf), lambda sums: rdf_mae(mean_of_segments(sums), expected, edges), rdf.n_frames
        )
        for rdf in rdfs
    ]
    lengths = [rdf.length_ps for rdf in rdfs]
    floor = reference.floor(float(np.mean(lengths)), round(n_frames / len(rdfs)))
    return [mae_result(name, "A", estimates, floor, n_frames), coordination]


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
    curves |= {
        f"{label} block {k}": curve(r, g, "A", "1") for k, g in enumerate(blocks_of_segments(segments), 1)
    }
    return curves
