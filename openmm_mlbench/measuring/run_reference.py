"""A run as the reference of others: bonds and h(r) of a potential that is the truth for a data set."""

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmm_mlbench.errors import MetricError
from openmm_mlbench.measuring.floor_tables import floor_lengths, floors_record, make_floors
from openmm_mlbench.measuring.measurement import Source
from openmm_mlbench.measuring.rdf import per_frame_sums
from openmm_mlbench.metrics.rdf import AtomPairs, RDFAccumulator, rdf_mae
from openmm_mlbench.references import Reference, build_reference
from openmm_mlbench.run_folder import Run, read_replicas, read_run
from openmm_mlbench.trajectory import Trajectory

_BLOCK_PS = 1.0


def reference_from_run(folder: str | os.PathLike[str], *, dataset: str, skip_ps: float = 5.0) -> Reference:
    """The reference that a finished run of one molecule gives; blocks of 1 ps.

    Args:
        folder: of a run in which the molecule stayed whole.
        dataset: name of the reference.
        skip_ps: left out at the start of each replica: equilibration.

    Raises:
        MetricError: not a run, not finished, in a cell, or too short.
        TrajectoryError: a trajectory or log is damaged.
    """
    run = read_run(folder)
    replicas = read_replicas(run, None)
    waiting = [replica.index for replica in replicas if replica.status["state"] != "finished"]
    if waiting or len(replicas) < run.n_replicas:
        raise MetricError(
            f"{folder}: {len(replicas) - len(waiting)} of {run.n_replicas} replicas have finished; "
            "a reference is made of a whole run, go on with --resume"
        )
    if replicas[0].trajectory.box_vectors_nm is not None:
        raise MetricError(
            f"{folder}: is of a system in a cell, h(r) of all pairs is of one molecule; use `measure rdf` for its reference"
        )
    per_block = round(_BLOCK_PS / run.frame_interval_ps)
    skip = round(skip_ps / run.frame_interval_ps)
    kept = [replica.trajectory.positions_A[skip:] for replica in replicas]
    if per_block < 1 or min(len(frames) for frames in kept) < 2 * per_block:
        raise MetricError(
            f"{folder}: less than {2 * _BLOCK_PS:g} ps are left after {skip_ps:g} ps of equilibration, or frames are "
            f"more than {_BLOCK_PS:g} ps apart; simulate longer"
        )
    # Whole blocks of each replica, so that no block spans two.
    frames = np.concatenate([frames[: len(frames) // per_block * per_block] for frames in kept])
    return build_reference(
        frames,
        run.topology.atomic_numbers,
        dataset=dataset,
        level_of_theory=str(run.record["model"].get("level_of_theory", "unknown")),
        temperature_K=float(run.record["protocol"]["temperature_K"]),
        source=f"made by openmm-mlbench with {run.record['model'].get('source', run.model)}",
        method=_method(run, skip_ps),
        frame_interval_ps=run.frame_interval_ps,
        frames_per_block=per_block,
    )


def rdf_floor_tables(
    source: Source,
    pairs: Sequence[AtomPairs],
    *,
    r_max_A: float,
    n_bins: int,
    mode: str,
    piece_ps: float,
    strides: Sequence[int] = (1,),
) -> dict[str, Any]:
    """Noise floors of the RDFs of one trajectory on a grid of lengths and times between frames.

    Args:
        source: one trajectory, of equilibrium only.
        pairs: groups of atoms.
        r_max_A: upper edge of the last bin.
        n_bins: number of bins.
        mode: ``paper`` or ``mdsim``.
        piece_ps: the shortest length; longer ones are whole numbers of it.
        strides: every so many frames, rising from 1.

    Returns:
        ``noise_floors`` of the inputs of a measurement.
    """
    (file,) = source.files
    start, stop = source.frames(file)
    per_piece = max(1, round(piece_ps / file.frame_interval_ps))
    sums: dict[int, list[list[NDArray[np.float64]]]] = {stride: [] for stride in strides}
    for first in range(start, stop - per_piece + 1, per_piece):
        chunk = file.read(first, first + per_piece)
        for stride in strides:
            some = _every(chunk, stride)
            counting = RDFAccumulator(pairs, some.n_frames, r_max_A=r_max_A, n_bins=n_bins, mode=mode)
            counting.add(some)
            sums[stride].append([per_frame_sums(rdf).sum(axis=0) for rdf in counting.results()])
    length_ps = per_piece * file.frame_interval_ps
    lengths = floor_lengths(length_ps, len(sums[strides[0]]))
    edges = np.linspace(0.0, r_max_A, n_bins + 1)

    def distance(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
        return rdf_mae(a[:-1] / a[-1], b[:-1] / b[-1], edges)

    intervals = [stride * file.frame_interval_ps for stride in strides]
    values = {}
    for p, pair in enumerate(pairs):
        pieces = {
            interval: np.stack([piece[p] for piece in sums[stride]])
            for interval, stride in zip(intervals, strides, strict=True)
        }
        values[pair.label] = make_floors(pieces, length_ps, lengths, distance)
    return floors_record(lengths, intervals, values)


def _every(chunk: Trajectory, stride: int) -> Trajectory:
    boxes = chunk.box_vectors_nm
    return replace(
        chunk,
        positions_nm=chunk.positions_nm[::stride],
        box_vectors_nm=None if boxes is None else boxes[::stride],
        frame_interval_ps=stride * chunk.frame_interval_ps,
    )


def _method(run: Run, skip_ps: float) -> str:
    protocol = run.record["protocol"]
    command = (
        f"openmm-mlbench simulate {run.protocol} --model {run.model} --replicas {run.n_replicas} "
        f"--length {run.length_ps:g} --seed {run.record['seed']}"
    )
    return (
        f"{run.n_replicas} x {run.length_ps:g} ps of dynamics ({protocol['timestep_fs']:g} fs, "
        f"{protocol['temperature_K']:g} K), the first {skip_ps:g} ps left out, a frame every "
        f"{protocol['frame_interval_fs']:g} fs: {command}"
    )
