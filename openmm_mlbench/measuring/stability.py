"""Stability of trajectories, whoever made them: bonds (paper, eq. 9) or RDF windows (eq. 8)."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from openmm_mlbench.cells import nearest_images
from openmm_mlbench.errors import MetricError
from openmm_mlbench.measuring.distances import check_molecule
from openmm_mlbench.measuring.measurement import (
    Draw,
    Measured,
    Source,
    all_finite,
    check_bins,
    curve,
    references_from_json,
)
from openmm_mlbench.measuring.rdf import count_rdfs
from openmm_mlbench.metrics.rdf import AtomPairs, check_mode
from openmm_mlbench.metrics.rdf_stability import window_deviations
from openmm_mlbench.metrics.stability import (
    Survival,
    first_broken_frame,
    plot_stability,
    stability_results,
)
from openmm_mlbench.references import Reference
from openmm_mlbench.results import Curve, Measurement, Result
from openmm_mlbench.trajectory import Trajectory
from openmm_mlbench.trajectory_stream import TrajectoryFile
from openmm_mlbench.units import ANGSTROM_PER_NM

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BOND_THRESHOLD_A = 0.5
# Points of a curve in the JSON; beyond, of each interval the largest value.
_MAX_POINTS = 100_000


def _bond_lengths_A(chunk: Trajectory, bonds: NDArray[np.int64]) -> NDArray[np.float64]:  # noqa: N802 - A is the unit
    vectors = chunk.positions_nm[:, bonds[:, 1]] - chunk.positions_nm[:, bonds[:, 0]]
    if chunk.box_vectors_nm is not None:
        vectors = nearest_images(vectors, chunk.box_vectors_nm)
    return np.linalg.norm(vectors, axis=-1) * ANGSTROM_PER_NM


def _bonds_and_lengths(
    source: Source, reference: "Source | Path | None"
) -> tuple[NDArray[np.int64], NDArray[np.float64], str]:
    """Bonds, their equilibrium lengths in A, and where both come from."""
    if isinstance(reference, Path):
        known = Reference.load(reference)
        check_molecule(reference, known, source.topology.n_atoms)
        return known.bonds, known.bond_lengths_A, f"bonds and mean lengths of {reference}"
    first = source.files[0].read(0, 1)
    if not np.isfinite(first.positions_nm).all():
        raise MetricError(f"{source.files[0].path}: the first frame holds NaN; bonds are found in it")
    box = None if first.box_vectors_nm is None else first.box_vectors_nm[0]
    bonds = source.topology.bonds_by_distance(first.positions_nm[0], box)
    if not len(bonds):
        raise MetricError(f"{source.files[0].path}: no bonds in the first frame; watch RDFs instead: --pairs")
    if reference is None:
        return (
            bonds,
            _bond_lengths_A(first, bonds)[0],
            "bonds and lengths of the first frame: there is no reference",
        )
    total, n = np.zeros(len(bonds)), 0
    for chunk in all_finite(reference.chunks(reference.files[0])):
        total += _bond_lengths_A(chunk, bonds).sum(axis=0)
        n += chunk.n_frames
    return bonds, total / n, f"bonds of the first frame, mean lengths of {reference.files[0].path}"


def measure_bond_stability(
    source: Source,
    *,
    threshold_A: float = BOND_THRESHOLD_A,
    reference: "Source | Path | None" = None,
    mode: str = "paper",
) -> Measured:
    """Time of the first frame in which a bond is too long or too short, over replicas.

    Args:
        source: trajectories.
        threshold_A: 0.5 A in the paper.
        reference: a trajectory for the mean lengths, or the JSON of a data set's reference.
        mode: ``paper`` or ``mdsim``, which agree here; for the record.
    """
    check_mode(mode)
    bonds, equilibrium, origin = _bonds_and_lengths(source, reference)
    survivals: list[Survival] = []
    curves: dict[str, Curve] = {}
    for i, file in enumerate(source.files):
        deviation = np.empty(source.n_frames(file))
        at = 0
        for chunk in source.chunks(file):
            off = np.abs(_bond_lengths_A(chunk, bonds) - equilibrium).max(axis=1)
            deviation[at : at + len(off)] = off
            at += len(off)
        first_ps = _first_ps(source, file)
        broken = first_broken_frame(deviation, threshold_A)
        last = len(deviation) - 1 if broken is None else broken
        survivals.append(
            Survival(
                time_ps=first_ps + last * file.frame_interval_ps,
                broke=broken is not None,
                n_stable_frames=len(deviation) if broken is None else broken,
            )
        )
        name = "max bond deviation" + (f" replica {i}" if len(source.files) > 1 else "")
        curves[name] = _decimated(first_ps, file.frame_interval_ps, deviation)
    measurement = Measurement(
        observable="stability",
        mode=mode,
        definition=(
            f"Time of the first frame in which a bond is more than {threshold_A:g} A off its equilibrium length "
            "(paper, eq. 9); over replicas the Kaplan-Meier mean restricted to the length of the run."
        ),
        inputs=source.inputs()
        | {
            "criterion": "bonds",
            "threshold_A": threshold_A,
            "bonds": bonds.tolist(),
            "equilibrium_A": equilibrium.tolist(),
            "reference": origin,
        },
        results=_results(survivals, source),
        curves=curves,
    )
    return Measured(measurement=measurement, draw=_draw(curves, threshold_A, "largest bond deviation / A"))


def measure_rdf_stability(
    source: Source,
    pairs: Sequence[AtomPairs],
    *,
    r_max_A: float,
    n_bins: int,
    mode: str,
    threshold_A: float,
    window_ps: float,
    reference: "Source | Path | None",
) -> Measured:
    """Time of the first window whose RDFs are too far from the reference, over replicas.

    Args:
        source: trajectories with cells.
        pairs: groups of atoms; the worst counts.
        r_max_A: upper edge of the last bin, A.
        n_bins: number of bins.
        mode: ``paper`` or ``mdsim``.
        threshold_A: 3 A for water, 1 A for LiPS in the paper.
        window_ps: 1 ps in the paper.
        reference: a trajectory, or the JSON of ``measure rdf``.
    """
    check_mode(mode)
    check_bins(n_bins, r_max_A)
    if not window_ps > 0:
        raise MetricError(f"window {window_ps:g} ps; wanted a time above zero, like 1ps")
    edges = np.linspace(0.0, r_max_A, n_bins + 1)
    survivals: list[Survival] = []
    curves: dict[str, Curve] = {}
    if reference is None:
        note = "RDF windows want a reference: --reference"
        results = [Result(name="stability", status="no_reference", unit="ps", note=note)]
    else:
        if isinstance(reference, Path):
            expected = [known.values for known in references_from_json(reference, pairs, edges, mode)]
        else:
            counted = count_rdfs(
                reference, reference.files[0], pairs, r_max_A=r_max_A, n_bins=n_bins, mode=mode
            )
            expected = [rdf.g_r for rdf in counted]
        for i, file in enumerate(source.files):
            found = window_deviations(
                source.chunks(file), pairs, expected, r_max_A=r_max_A, mode=mode, window_ps=window_ps
            )
            survivals.append(found.survival(threshold_A))
            ending = f" replica {i}" if len(source.files) > 1 else ""
            curves |= {
                f"RDF deviation {label}{ending}": _decimated(
                    float(found.times_ps[0]), file.frame_interval_ps, values
                )
                for label, values in found.deviations_A.items()
            }
        results = _results(survivals, source)
    measurement = Measurement(
        observable="stability",
        mode=mode,
        definition=(
            f"Start of the first window of {window_ps:g} ps in which the integral of |RDF - reference| exceeds "
            f"{threshold_A:g} A for any pair (paper, eq. 8); over replicas the Kaplan-Meier mean."
        ),
        inputs=source.inputs()
        | {
            "criterion": "rdf",
            "threshold_A": threshold_A,
            "window_ps": window_ps,
            "pairs": [pair.label for pair in pairs],
            "r_max_A": r_max_A,
            "n_bins": n_bins,
        },
        results=results,
        curves=curves,
    )
    return Measured(measurement=measurement, draw=_draw(curves, threshold_A, "RDF deviation / A"))


def _results(survivals: Sequence[Survival], source: Source) -> list[Result]:
    n_frames = [source.n_frames(file) for file in source.files]
    if max(n_frames) < 2 and not any(one.broke for one in survivals):
        note = "one frame lasts for no time; give a trajectory"
        return [Result(name="stability", status="too_short", unit="ps", n_frames=sum(n_frames), note=note)]
    return stability_results(survivals, _horizon(source))


def _first_ps(source: Source, file: TrajectoryFile) -> float:
    return file.first_frame_ps + file.frame_interval_ps * source.frames(file)[0]


def _horizon(source: Source) -> float:
    return max(
        _first_ps(source, file) + (source.n_frames(file) - 1) * file.frame_interval_ps
        for file in source.files
    )


def _decimated(first_ps: float, interval_ps: float, values: NDArray[np.float64]) -> Curve:
    starts = np.arange(min(len(values), _MAX_POINTS)) * len(values) // min(len(values), _MAX_POINTS)
    largest = np.maximum.reduceat(values, starts) if len(values) > _MAX_POINTS else values
    return curve(first_ps + interval_ps * starts.astype(np.float64), largest, "ps", "A")


def _draw(curves: dict[str, Curve], threshold_A: float, label: str) -> Draw:
    def draw(ax: "Axes") -> None:
        lines = list(curves.values())
        if lines and all(line.x == lines[0].x for line in lines):
            deviations = {
                name: np.array([np.inf if y is None else y for y in line.y]) for name, line in curves.items()
            }
            plot_stability(np.array(lines[0].x), deviations, threshold_A, ax, label)
            return
        # Replicas of several lengths.
        for name, line in curves.items():
            ax.plot(line.x, line.y, lw=0.8, label=name)
        ax.axhline(threshold_A, color="k", ls="--", lw=1, label="threshold")
        ax.set(xlabel="t / ps", ylabel=label)
        ax.legend()

    return draw
