"""Bonds, angles and dihedrals of a run: its stable frames, against the frames of its data set."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from openmm_mlbench.data.datasets import load_dataset
from openmm_mlbench.data.frames import Frames
from openmm_mlbench.errors import DataError, MetricError
from openmm_mlbench.measuring.geometry import (
    dihedrals_of,
    measure_angles,
    measure_bonds,
    measure_dihedrals,
)
from openmm_mlbench.measuring.measurement import NO_REFERENCE, Measured, Source
from openmm_mlbench.measuring.run_measurements import stable_source, why_nothing
from openmm_mlbench.metrics.aggregate import join_notes
from openmm_mlbench.references import SAME_GEOMETRIES, SAME_POTENTIAL, load_reference
from openmm_mlbench.results import Curve, Measurement, Result
from openmm_mlbench.run_folder import Replica, Run
from openmm_mlbench.selections import load_topology
from openmm_mlbench.trajectory_stream import open_trajectory
from openmm_mlbench.units import PS_PER_FS

OBSERVABLES = ("bonds", "angles", "dihedrals")
# Result that says that nothing was measured.
_NAMES = {"bonds": "bond_mae", "angles": "angle_mae", "dihedrals": "dihedral_mae"}
_DIGITS = 6
# Frames of the data set this much denser than the run's are thinned.
_DENSER = 1.5


def measure_run_geometry(run: Run, replicas: Sequence[Replica]) -> list[Measurement]:
    """What the protocol asks for of bonds, angles and dihedrals, each against the frames of the data set at hand."""
    wanted = [name for name in OBSERVABLES if name in run.observables]
    if not wanted:
        return []
    source = stable_source(run, replicas, 1)
    if source is None:
        return [_nothing(name, "unstable", why_nothing(replicas)) for name in wanted]
    with _frames_of(run) as (reference, known):
        return [_measure(name, run, source, reference, known) for name in wanted]


def _measure(name: str, run: Run, source: Source, reference: Source | None, known: str) -> Measurement:
    if name == "dihedrals" and run.metadynamics is not None:
        return _nothing(name, "unsupported", "metadynamics pushes the dihedrals: see the free energies")
    measures: dict[str, Callable[[], Measured]] = {
        "bonds": lambda: measure_bonds(source, reference=reference),
        "angles": lambda: measure_angles(source, reference=reference),
        "dihedrals": lambda: _dihedrals(source, reference),
    }
    try:
        measurement = measures[name]().measurement
    except MetricError as error:
        # A molecule without such coordinates; its other numbers are worth having.
        return _nothing(name, "unsupported", str(error).removeprefix(f"{source.topology.path}: "))
    results = [_told(one, source, reference, known) for one in measurement.results]
    inputs = {
        key: value for key, value in measurement.inputs.items() if key not in {"topology", "trajectories"}
    }
    curves = {label: _short(line) for label, line in measurement.curves.items() if " replica " not in label}
    return replace(
        measurement,
        results=results,
        inputs=inputs | {"reference": None if reference is None else known},
        curves=curves,
    )


def _told(result: Result, source: Source, reference: Source | None, known: str) -> Result:
    """The result with what it was compared with, and how its floor was made."""
    if reference is None:
        return replace(result, note=result.note.replace(NO_REFERENCE, known))
    if "_mae_" not in result.name and "_error_" not in result.name:
        return result
    parts = [part for part in result.note.split("; ") if part and not part.startswith("floor:")]
    if result.floor is not None:
        n = round(sum(source.n_frames(file) for file in source.files) / len(source.files))
        there = reference.n_frames(reference.files[0])
        short = f"halves of the reference, {there // 2} frames each: it has no more"
        whole = f"parts of {n} frames of the reference, each against the rest"
        parts.append(f"floor: {short if 2 * n > there else whole}")
    return replace(result, note=join_notes(*parts, f"against {known}"))


def _dihedrals(source: Source, reference: Source | None) -> Measured:
    dihedrals, origin = dihedrals_of(source)
    return measure_dihedrals(source, dihedrals, origin=origin, reference=reference)


@contextmanager
def _frames_of(run: Run) -> Iterator[tuple[Source | None, str]]:
    """The frames of the data set as a trajectory and how to call them, or None and why there are none."""
    if run.own_structure:
        yield None, f"a structure of one's own is not compared with frames of {run.dataset}"
        return
    frames = _find_frames(run.dataset)
    if frames is None or frames.n_frames < 2:
        yield None, f"frames of {run.dataset} are not at hand"
        return
    if not np.array_equal(frames.atomic_numbers, run.topology.atomic_numbers):
        yield None, f"frames of {run.dataset} are of other atoms"
        return
    frames = frames.select(np.argsort(frames.frame_indices, kind="stable"))
    steps = np.diff(frames.frame_indices)
    interval_ps = float(steps.mean()) * (frames.interval_fs or 1.0) * PS_PER_FS
    every = f", {interval_ps:.3g} ps apart" if frames.interval_fs else ""
    if frames.interval_fs and interval_ps < run.frame_interval_ps / _DENSER:
        stride = round(run.frame_interval_ps / interval_ps)
        frames = frames.select(np.arange(0, frames.n_frames, stride))
        every += f", one of {stride}"
    # Bonds and angles forget within a few frames: floors are of the run's number of frames rather than of its length.
    interval_ps = run.frame_interval_ps
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "frames.nc"
        _write(frames, path, interval_ps)
        topology_path = run.folder / "topology.pdb"
        topology = load_topology(topology_path)
        file = open_trajectory(path, topology.atomic_numbers, interval_ps, topology_path=topology_path)
        remark = _remark(run.dataset)
        yield (
            Source(topology=topology, files=[file]),
            join_notes(f"{frames.n_frames} frames of {frames.name}{every}", remark),
        )


def _find_frames(dataset: str) -> Frames | None:
    """The frames of a data set at hand, or of another with the same geometries or of the same potential."""
    alike = (dataset, SAME_GEOMETRIES.get(dataset), SAME_POTENTIAL.get(dataset))
    for name in dict.fromkeys(name for name in alike if name is not None):
        try:
            return load_dataset(name)
        except DataError:
            continue
    return None


def _remark(dataset: str) -> str:
    """What a reader must know of these frames, such as their temperature."""
    try:
        reference = load_reference(dataset)
    except DataError:
        return ""
    return "" if reference is None else reference.note


def _write(frames: Frames, path: Path, interval_ps: float) -> None:
    from mdtraj.formats import NetCDFTrajectoryFile
    from mdtraj.utils.unitcell import box_vectors_to_lengths_and_angles

    cell = {}
    if frames.cells is not None:
        a, b, c, alpha, beta, gamma = box_vectors_to_lengths_and_angles(
            frames.cells[:, 0], frames.cells[:, 1], frames.cells[:, 2]
        )
        cell = {
            "cell_lengths": np.stack([a, b, c], axis=1),
            "cell_angles": np.stack([alpha, beta, gamma], axis=1),
        }
    with NetCDFTrajectoryFile(str(path), "w") as file:
        file.write(frames.positions, time=interval_ps * np.arange(1, frames.n_frames + 1), **cell)


def _short(line: Curve) -> Curve:
    def rounded(values: Sequence[float]) -> list[float]:
        return [float(f"{value:.{_DIGITS}g}") for value in values]

    return replace(line, x=rounded(line.x), y=rounded(line.y))


def _nothing(observable: str, status: str, note: str) -> Measurement:
    return Measurement(
        observable=observable,
        mode="standard",
        definition=f"Not measured: {note}.",
        results=[Result(name=_NAMES[observable], status=status, unit="1", note=note)],
    )
