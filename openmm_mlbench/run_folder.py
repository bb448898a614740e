"""What a simulation left in its folder, read back: settings, and every replica's frames and log."""

import csv
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmm_mlbench.errors import MetricError, MLBenchError, TrajectoryError
from openmm_mlbench.files import read_json
from openmm_mlbench.metrics.stability import Survival, survival
from openmm_mlbench.references import Reference
from openmm_mlbench.topology import Topology, max_bond_deviation, read_topology
from openmm_mlbench.trajectory import Trajectory, read_dcd
from openmm_mlbench.units import PS_PER_FS

RUN_FILE = "run.json"
STATUS_FILE = "status.json"
LOG_COLUMNS = ("time_ps", "temperature_K", "T_rot_K", "T_vib_K", "max_bond_deviation_A")


@dataclass(frozen=True, kw_only=True)
class Run:
    """The settings of a run that its analysis needs; ``record`` is all of run.json."""

    folder: Path
    record: dict[str, Any]
    model: str
    protocol: str
    platform: str
    dataset: str
    length_ps: float
    n_replicas: int
    frame_interval_ps: float
    threshold_A: float
    topology: Topology

    @property
    def card(self) -> dict[str, Any]:
        """The model's card, empty where the model has none."""
        return dict(self.record["model"].get("card") or {})


@dataclass(frozen=True, kw_only=True)
class Replica:
    """What one replica left behind, and how long it was stable."""

    index: int
    status: dict[str, Any]
    log: dict[str, NDArray[np.float64]]
    trajectory: Trajectory
    deviation_A: NDArray[np.float64]
    survival: Survival

    @property
    def stable_positions_A(self) -> NDArray[np.float64]:  # noqa: N802 - A is the unit
        """(n_stable_frames, n_atoms, 3), A: everything before the first broken frame."""
        return self.trajectory.positions_A[: self.survival.n_stable_frames]

    def stable_log(self, column: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Times, ps, and a column of the log over the stable part; unknown values are left out."""
        times, values = self.log["time_ps"], self.log[column]
        wanted = np.isfinite(values)
        if self.survival.broke:
            wanted &= times < self.survival.time_ps
        return times[wanted], values[wanted]


def read_run(folder: str | os.PathLike[str]) -> Run:
    """The settings of a run.

    Raises:
        MetricError: not the folder of a run, or its run.json is damaged.
        TrajectoryError: its topology is damaged.
    """
    path = Path(folder)
    if not (path / RUN_FILE).is_file():
        raise MetricError(f"{path}: holds no {RUN_FILE}; give a folder that `openmm-mlbench simulate` wrote")
    topology = read_topology(path / "topology.pdb")
    try:
        record = read_json(path / RUN_FILE)
        return Run(
            folder=path,
            record=record,
            model=str(record["model"]["model"]),
            protocol=str(record["protocol"]["name"]),
            platform=str(record["platform"]["name"]),
            dataset=str(record["dataset"]),
            length_ps=float(record["length_ps"]),
            n_replicas=int(record["replicas"]),
            frame_interval_ps=float(record["protocol"]["frame_interval_fs"]) * PS_PER_FS,
            threshold_A=float(record["thresholds"]["bond_deviation_A"]),
            topology=topology,
        )
    except MLBenchError as error:
        raise MetricError(str(error)) from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise MetricError(f"{path / RUN_FILE}: not of a run ({error!r}); simulate again") from error


def read_replicas(run: Run, reference: Reference | None) -> list[Replica]:
    """Every replica that has begun, in order of its number.

    Args:
        run: from ``read_run``.
        reference: gives bonds and their lengths; without one the deviations in the log are taken.

    Raises:
        MetricError: none has begun.
        TrajectoryError: a trajectory or log is damaged.
    """
    folders = {i: run.folder / f"replica-{i}" for i in range(run.n_replicas)}
    replicas = [_read_replica(run, i, path, reference) for i, path in folders.items() if _has_begun(path)]
    if not replicas:
        raise MetricError(f"{run.folder}: no replica has begun; finish the run with --resume")
    return replicas


def _has_begun(folder: Path) -> bool:
    return (folder / STATUS_FILE).is_file()


def _read_replica(run: Run, index: int, folder: Path, reference: Reference | None) -> Replica:
    status = read_json(folder / STATUS_FILE)
    if not isinstance(status, dict) or not {"state", "time_ps", "message"} <= set(status):
        raise MetricError(f"{folder / STATUS_FILE}: not the status of a replica; run it again")
    ended = status["state"] in {"finished", "unstable"}
    if (folder / "trajectory.dcd").is_file():
        trajectory = read_dcd(
            folder / "trajectory.dcd", run.topology, run.frame_interval_ps, allow_partial=not ended
        )
        log = read_log(folder / "log.csv")
    else:
        # It failed before its first step.
        trajectory = _no_frames(run)
        log = {column: np.empty(0) for column in LOG_COLUMNS}
    if reference is not None:
        deviation = max_bond_deviation(trajectory.positions_A, reference.bonds, reference.bond_lengths_A)
    else:
        n_both = min(trajectory.n_frames, len(log["time_ps"]))
        trajectory = replace(trajectory, positions_nm=trajectory.positions_nm[:n_both])
        deviation = log["max_bond_deviation_A"][:n_both]
    unstable = status["state"] == "unstable"
    return Replica(
        index=index,
        status=status,
        log=log,
        trajectory=trajectory,
        deviation_A=deviation,
        survival=survival(
            deviation,
            trajectory.times_ps,
            run.threshold_A,
            end_ps=float(trajectory.times_ps[-1]) if trajectory.n_frames else 0.0,
            stopped_at_ps=float(status["stable_ps"] or 0.0) if unstable else None,
        ),
    )


def _no_frames(run: Run) -> Trajectory:
    n_atoms = run.topology.n_atoms
    return Trajectory(
        positions_nm=np.empty((0, n_atoms, 3)),
        box_vectors_nm=None,
        atomic_numbers=run.topology.atomic_numbers,
        frame_interval_ps=run.frame_interval_ps,
    )


def read_log(path: str | os.PathLike[str]) -> dict[str, NDArray[np.float64]]:
    """Columns of a log.csv; a last line that was cut off by a kill is left out.

    An empty field is NaN: a temperature of rotation does not exist for every system.

    Raises:
        TrajectoryError: the file is missing, lacks a column or holds what is no number.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TrajectoryError(f"{path}: cannot be read ({error}); finish the run with --resume") from error
    lines = text.splitlines() if text.endswith("\n") else text.splitlines()[:-1]
    rows = list(csv.reader(lines))
    lacking = [column for column in LOG_COLUMNS if not rows or column not in rows[0]]
    if lacking:
        raise TrajectoryError(f"{path}: lacks the columns {', '.join(lacking)}; give the log of a simulation")
    header, body = rows[0], rows[1:]
    try:
        table = np.array([[float(cell or "nan") for cell in row] for row in body], dtype=np.float64)
        table = table.reshape(len(body), len(header))
    except ValueError as error:
        raise TrajectoryError(f"{path}: a line is damaged ({error}); run this replica again") from error
    return {name: table[:, i] for i, name in enumerate(header)}
