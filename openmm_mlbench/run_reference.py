"""A run as the reference of others: bonds and h(r) of a potential that is the truth for a data set."""

import os

import numpy as np

from openmm_mlbench.errors import MetricError
from openmm_mlbench.references import Reference, build_reference
from openmm_mlbench.run_folder import Run, read_replicas, read_run

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
