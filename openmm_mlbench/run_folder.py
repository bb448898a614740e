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
from openmm_mlbench.metrics.rdf import AtomPairs
from openmm_mlbench.metrics.rdf_stability import WindowDeviations, window_deviations
from openmm_mlbench.metrics.stability import Survival, survival
from openmm_mlbench.references import Reference
from openmm_mlbench.topology import Topology, max_bond_deviation, read_topology
from openmm_mlbench.trajectory import Trajectory, read_dcd
from openmm_mlbench.units import PS_PER_FS

RUN_FILE = "run.json"
STATUS_FILE = "status.json"
# Of runs whose record does not say.
MOLECULE_OBSERVABLES = ("force_mae", "stability", "h_r", "temperature", "steps_per_second")
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
    system: str = ""
    observables: tuple[str, ...] = MOLECULE_OBSERVABLES
    criterion: str = "bonds"
    window_ps: float = 1.0
    stability_pairs: tuple[str, ...] = ()
    rdf_pairs: tuple[str, ...] = ("all",)
    diffusivity_atoms: str | None = None
    diffusivity_lag_ps: float | None = None
    diffusivity_start_ps: float | None = None
    diffusivity_stride_ps: float | None = None
    diffusivity_min_stable_ps: float | None = None
    metadynamics: dict[str, Any] | None = None

    @property
    def own_structure(self) -> bool:
        """Whether a structure of somebody's own was simulated instead of a system of the package."""
        return self.record["protocol"].get("structure") is not None

    @property
    def card(self) -> dict[str, Any]:
        """The model's card, empty where the model has none."""
        return dict(self.record["model"].get("card") or {})


@dataclass(frozen=True, kw_only=True)
class RdfCriterion:
    """Windows of RDFs against the reference (paper, eq. 8).

    Args:
        pairs: groups of atoms; the worst counts.
        expected: for each pair g(r) (n_bins,) of the reference.
        r_max_A: upper edge of its last bin, A.
        window_ps: length of a window.
        mode: whose RDFs, ``paper`` or ``mdsim``.
    """

    pairs: tuple[AtomPairs, ...]
    expected: tuple[NDArray[np.float64], ...]
    r_max_A: float
    window_ps: float
    mode: str = "paper"

    def deviations(self, trajectory: Trajectory) -> WindowDeviations:
        """Of each window of a trajectory; none where it is shorter than one."""
        if trajectory.n_frames < max(1, round(self.window_ps / trajectory.frame_interval_ps)):
            none = {pair.label: np.empty(0) for pair in self.pairs}
            return WindowDeviations(
                times_ps=np.empty(0), deviations_A=none, end_ps=0.0, n_frames=trajectory.n_frames
            )
        return window_deviations(
            [trajectory],
            self.pairs,
            self.expected,
            r_max_A=self.r_max_A,
            mode=self.mode,
            window_ps=self.window_ps,
        )


@dataclass(frozen=True, kw_only=True)
class Replica:
    """What one replica left behind, and how long it was stable.

    ``deviation_A`` is, for each frame, the largest of its bonds or that of the RDFs of its
    window; ``windows`` are these RDF deviations where the protocol watches RDFs.
    """

    index: int
    status: dict[str, Any]
    log: dict[str, NDArray[np.float64]]
    trajectory: Trajectory
    deviation_A: NDArray[np.float64]
    survival: Survival
    windows: WindowDeviations | None = None

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
        raise MetricError(
            f"{path}: holds no {RUN_FILE}; give a folder that `openmm-mlbench simulate` wrote, or `measure` the files of other programs"
        )
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
            threshold_A=float(
                record["protocol"].get("stability_threshold_A") or record["thresholds"]["bond_deviation_A"]
            ),
            topology=topology,
            **_observed(record["protocol"]),
        )
    except MLBenchError as error:
        raise MetricError(str(error)) from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise MetricError(f"{path / RUN_FILE}: not of a run ({error!r}); simulate again") from error


def _observed(protocol: dict[str, Any]) -> dict[str, Any]:
    """What is measured and how; runs of older versions are of molecules and say less."""
    bias = protocol.get("metadynamics")
    times = {
        key: protocol.get(key)
        for key in (
            "diffusivity_lag_ps",
            "diffusivity_start_ps",
            "diffusivity_stride_ps",
            "diffusivity_min_stable_ps",
        )
    }
    return {
        "system": str(protocol.get("system") or ""),
        "observables": tuple(str(name) for name in protocol.get("observables") or MOLECULE_OBSERVABLES),
        "criterion": str(protocol.get("stability_criterion") or "bonds"),
        "window_ps": float(protocol.get("stability_window_ps") or 1.0),
        "stability_pairs": tuple(str(pair) for pair in protocol.get("stability_pairs") or ()),
        "rdf_pairs": tuple(str(pair) for pair in protocol.get("rdf_pairs") or ("all",)),
        "diffusivity_atoms": protocol.get("diffusivity_atoms"),
        **{key: None if value is None else float(value) for key, value in times.items()},
        "metadynamics": None if bias is None else dict(bias),
    }


def read_replicas(
    run: Run, reference: Reference | None, rdf_criterion: "RdfCriterion | None" = None
) -> list[Replica]:
    """Every replica that has begun, in order of its number.

    Args:
        run: from ``read_run``.
        reference: gives bonds and their lengths; without one the deviations in the log are taken.
        rdf_criterion: judges by RDFs instead of bonds.

    Raises:
        MetricError: none has begun.
        TrajectoryError: a trajectory or log is damaged.
    """
    folders = {i: run.folder / f"replica-{i}" for i in range(run.n_replicas)}
    replicas = [
        _read_replica(run, i, path, reference, rdf_criterion)
        for i, path in folders.items()
        if _has_begun(path)
    ]
    if not replicas:
        raise MetricError(f"{run.folder}: no replica has begun; finish the run with --resume")
    return replicas


def _has_begun(folder: Path) -> bool:
    return (folder / STATUS_FILE).is_file()


def _read_replica(
    run: Run, index: int, folder: Path, reference: Reference | None, rdf_criterion: "RdfCriterion | None"
) -> Replica:
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
    windows = None
    if run.criterion != "bonds":
        deviation = np.zeros(trajectory.n_frames)
        if rdf_criterion is not None:
            windows = rdf_criterion.deviations(trajectory)
            deviation = windows.per_frame(trajectory.n_frames)
    elif reference is not None:
        deviation = max_bond_deviation(trajectory.positions_A, reference.bonds, reference.bond_lengths_A)
    else:
        n_both = min(trajectory.n_frames, len(log["time_ps"]))
        trajectory = replace(trajectory, positions_nm=trajectory.positions_nm[:n_both])
        deviation = log["max_bond_deviation_A"][:n_both]
    unstable = status["state"] == "unstable"
    found = survival(
        deviation,
        trajectory.times_ps,
        np.inf if run.criterion == "none" else run.threshold_A,
        end_ps=float(trajectory.times_ps[-1]) if trajectory.n_frames else 0.0,
        stopped_at_ps=float(status["stable_ps"] or 0.0) if unstable else None,
    )
    return Replica(
        index=index,
        status=status,
        log=log,
        trajectory=trajectory,
        deviation_A=deviation,
        windows=windows,
        survival=found,
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
