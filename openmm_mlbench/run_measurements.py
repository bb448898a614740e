"""RDF, diffusivity and energy drift of a run: its stable frames, against the reference of its data set."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from openmm_mlbench.errors import DataError, MetricError
from openmm_mlbench.log_measurements import measure_drift, read_any_log
from openmm_mlbench.measurements import (
    DiffusivityOptions,
    Source,
    measure_diffusivity,
    measure_rdf,
    read_measurement,
    references_from_json,
)
from openmm_mlbench.metrics.aggregate import Estimate, join_notes, result_over_replicas
from openmm_mlbench.metrics.rdf_stability import RDFWindows
from openmm_mlbench.references import reference_file
from openmm_mlbench.results import Curve, Measurement, Result
from openmm_mlbench.run_folder import RdfCriterion, Replica, Run
from openmm_mlbench.selections import MeasuredTopology, load_topology
from openmm_mlbench.trajectory_stream import open_trajectory

if TYPE_CHECKING:
    from openmm_mlbench.protocol import Protocol

# Of the paper's code, where no reference says otherwise.
RDF_R_MAX_A, RDF_N_BINS = 6.0, 500
TRAJECTORY_FILE = "trajectory.dcd"


def reference_of(run: Run, observable: str) -> Path | None:
    """The measurement that a run's data set is compared with, or None."""
    # A structure of somebody's own is the same substance only where its protocol compares RDFs.
    if run.own_structure and run.criterion != "rdf":
        return None
    try:
        return reference_file(run.dataset, observable)
    except DataError:
        # Somebody's own data set.
        return None


def rdf_criterion_of(run: Run) -> RdfCriterion | None:
    """The RDF criterion of a run, or None where it has another, or no reference."""
    path = reference_of(run, "rdf") if run.criterion == "rdf" else None
    if path is None:
        return None
    r_max_A, n_bins = _rdf_grid(path)
    pairs = load_topology(run.folder / "topology.pdb").pairs(",".join(run.stability_pairs))
    edges = np.linspace(0.0, r_max_A, n_bins + 1)
    expected = [known.values for known in references_from_json(path, pairs, edges, "paper")]
    return RdfCriterion(
        pairs=tuple(pairs), expected=tuple(expected), r_max_A=r_max_A, window_ps=run.window_ps
    )


def rdf_windows_of(protocol: "Protocol", dataset: str) -> RDFWindows | None:
    """What watches the RDFs of a protocol while it runs, or None where it has another criterion, or no reference.

    Args:
        protocol: with its stability criterion, threshold, window and pairs.
        dataset: whose reference it is compared with.

    Raises:
        MetricError: the reference does not fit the protocol's structure.
    """
    if protocol.stability_criterion != "rdf":
        return None
    try:
        path = reference_file(dataset, "rdf")
    except DataError:
        return None
    if path is None:
        return None
    r_max_A, n_bins = _rdf_grid(path)
    pairs = load_topology(protocol.structure_path).pairs(",".join(protocol.stability_pairs))
    edges = np.linspace(0.0, r_max_A, n_bins + 1)
    return RDFWindows(
        pairs=tuple(pairs),
        references=tuple(known.values for known in references_from_json(path, pairs, edges, "paper")),
        r_max_A=r_max_A,
        threshold_A=protocol.stability_threshold_A,
        frames_per_window=round(protocol.stability_window_ps / protocol.frame_interval_ps),
        source=path.name,
    )


def measure_run_rdf(run: Run, replicas: Sequence[Replica]) -> Measurement:
    """RDFs of the protocol's pairs over the stable frames of all replicas."""
    path = reference_of(run, "rdf")
    names = [f"rdf_mae_{pair}" for pair in run.rdf_pairs]
    source = _stable_source(run, replicas, 1)
    if source is None:
        return _nothing("rdf", names, "A", _why_nothing(replicas))
    if not source.files[0].has_cell:
        return _nothing("rdf", names, "A", "an RDF wants a periodic cell", status="unsupported")
    r_max_A, n_bins = (RDF_R_MAX_A, RDF_N_BINS) if path is None else _rdf_grid(path)
    pairs = source.topology.pairs(",".join(run.rdf_pairs))
    measured = measure_rdf(source, pairs, r_max_A=r_max_A, n_bins=n_bins, mode="paper", reference=path)
    return measured.measurement


def measure_run_diffusivity(run: Run, replicas: Sequence[Replica]) -> Measurement:
    """Diffusivity of the protocol's atoms at the protocol's lag; replicas too short for it say so."""
    unit = "1e-9 m2/s"
    source = _stable_source(run, replicas, 2)
    if source is None:
        return _nothing("diffusivity", ["diffusivity"], unit, _why_nothing(replicas))
    atoms = source.topology.select(run.diffusivity_atoms or "all")
    options = DiffusivityOptions(lag_ps=run.diffusivity_lag_ps)
    return measure_diffusivity(source, atoms, options, reference_of(run, "diffusivity")).measurement


def measure_run_drift(run: Run, replicas: Sequence[Replica]) -> Measurement:
    """Drift of the total energy of each replica's stable part, kJ/mol/ps/atom, over replicas."""
    estimates: list[Estimate | None] = []
    notes: list[str] = []
    curves: dict[str, Curve] = {}
    definition, n_frames = "", 0
    for replica in replicas:
        times_ps = replica.stable_log("temperature_K")[0]
        if not len(times_ps):
            estimates.append(None)
            continue
        log = read_any_log(run.folder / f"replica-{replica.index}" / "log.csv", stop_ps=float(times_ps[-1]))
        measurement = measure_drift(log, run.topology.n_atoms).measurement
        definition = measurement.definition
        found = measurement.results[0]
        n_frames += found.n_frames or 0
        notes += [found.note] if found.value is None else []
        estimates.append(
            None
            if found.value is None
            else Estimate(value=found.value, stderr=found.stderr, n=found.n_frames or 0)
        )
        if "energy" in measurement.curves:
            curves[f"replica {replica.index}"] = measurement.curves["energy"]
    result = result_over_replicas(
        "drift",
        "kJ/mol/ps/atom",
        estimates,
        n_frames=n_frames,
        missing_status="too_short",
        note=join_notes(*notes),
    )
    return Measurement(
        observable="drift", mode="standard", definition=definition, results=[result], curves=curves
    )


def _rdf_grid(path: Path) -> tuple[float, int]:
    inputs = read_measurement(path, "rdf", "paper")["inputs"]
    try:
        return float(inputs["r_max_A"]), int(inputs["n_bins"])
    except (KeyError, TypeError, ValueError) as error:
        raise MetricError(f"{path}: does not say its r_max_A and n_bins; write it again") from error


def _stable_source(run: Run, replicas: Sequence[Replica], least: int) -> Source | None:
    """The stable frames of the replicas that have at least so many; None where none has."""
    topology: MeasuredTopology = load_topology(run.folder / "topology.pdb")
    used = [replica for replica in replicas if replica.survival.n_stable_frames >= least]
    if not used:
        return None
    files = [
        open_trajectory(
            run.folder / f"replica-{replica.index}" / TRAJECTORY_FILE,
            topology.atomic_numbers,
            run.frame_interval_ps,
            topology_path=run.folder / "topology.pdb",
        )
        for replica in used
    ]
    return Source(
        topology=topology, files=files, n_kept=[replica.survival.n_stable_frames for replica in used]
    )


def _why_nothing(replicas: Sequence[Replica]) -> str:
    return join_notes("no replica has stable frames", *(replica.status["message"] for replica in replicas))


def _nothing(
    observable: str, names: Sequence[str], unit: str, note: str, status: str = "unstable"
) -> Measurement:
    results = [Result(name=name, status=status, unit=unit, note=note) for name in names]
    return Measurement(
        observable=observable, mode="paper", definition=f"Not measured: {note}.", results=results
    )
