"""h(r), the distribution of all distances of a molecule, of trajectories."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from openmm_mlbench.errors import MetricError, MLBenchError
from openmm_mlbench.files import read_json
from openmm_mlbench.measuring.measurement import (
    NO_REFERENCE,
    BinnedReference,
    Measured,
    Source,
    all_finite,
    blocks_of_segments,
    check_bins,
    check_grid,
    curve,
    every_nth,
    frames_to_skip,
    mae_result,
    mean_of_segments,
    reference_from_json,
)
from openmm_mlbench.metrics.distances import N_BINS as H_R_BINS
from openmm_mlbench.metrics.distances import (
    R_MIN_A,
    h_r_counts,
    h_r_mae,
    histogram_bin_centres,
    plot_h_r,
)
from openmm_mlbench.metrics.floors import (
    Floor,
    Segments,
    score_with_jackknife,
)
from openmm_mlbench.metrics.rdf import (
    check_mode,
)
from openmm_mlbench.references import Reference
from openmm_mlbench.results import Measurement, Result
from openmm_mlbench.trajectory_stream import TrajectoryFile
from openmm_mlbench.units import ANGSTROM_PER_NM

if TYPE_CHECKING:
    from matplotlib.axes import Axes


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
    densities = [mean_of_segments(segments.sum(axis=0)) for segments in replicas]
    n_frames = sum(source.n_frames(file) for file in source.files)
    width = float(edges[1] - edges[0])
    if known is None:
        note = NO_REFERENCE
        results = [Result(name="h_r_mae", status="no_reference", unit="1", n_frames=n_frames, note=note)]
    else:
        expected = known.values
        estimates = [
            score_with_jackknife(
                segments, lambda sums: h_r_mae(mean_of_segments(sums), expected, width), source.n_frames(file)
            )
            for segments, file in zip(replicas, source.files, strict=True)
        ]
        results = [
            mae_result(
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
    blocks = blocks_of_segments(np.concatenate(replicas))
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
        return reference_from_json(path, "distances", "h", edges_A, mode, {"n_atoms": n_atoms})
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
