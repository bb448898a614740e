"""RDF, diffusivity and energy drift of a run: its stable frames, against the reference of its data set."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from openmm_mlbench.errors import DataError, MetricError
from openmm_mlbench.files import read_json
from openmm_mlbench.measuring.diffusivity import MDSIM_STRIDE_PS, DiffusivityOptions, measure_diffusivity
from openmm_mlbench.measuring.log import degrees_of_freedom, measure_drift, read_any_log
from openmm_mlbench.measuring.measurement import NO_REFERENCE, Source, read_measurement, references_from_json
from openmm_mlbench.measuring.rdf import measure_rdf
from openmm_mlbench.metrics.aggregate import Estimate, join_notes, result_over_replicas
from openmm_mlbench.metrics.canonical import temperature_fluctuation
from openmm_mlbench.metrics.rdf_stability import RDFWindows
from openmm_mlbench.protocol_xml import thermostat_of
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
_DIFFUSIVITIES = ("diffusivity", "diffusivity_mae")
_NOT_OF_A_RUN = {"topology", "trajectories", "noise_floors"}


def reference_of(run: Run, observable: str, mode: str = "paper") -> Path | None:
    """The measurement of the same mode that a run's data set is compared with, or None."""
    # A structure of somebody's own is the same substance only where its protocol compares RDFs.
    if run.own_structure and run.criterion != "rdf":
        return None
    try:
        return reference_file(run.dataset, observable, mode)
    except DataError:
        # Somebody's own data set.
        return None


def rdf_criterion_of(run: Run, mode: str = "paper") -> RdfCriterion | None:
    """The RDF criterion of a run, or None where it has another, or no reference of this mode."""
    path = reference_of(run, "rdf", mode) if run.criterion == "rdf" else None
    if path is None:
        return None
    r_max_A, n_bins = _rdf_grid(path, mode)
    pairs = load_topology(run.folder / "topology.pdb").pairs(",".join(run.stability_pairs))
    edges = np.linspace(0.0, r_max_A, n_bins + 1)
    expected = [known.values for known in references_from_json(path, pairs, edges, mode)]
    return RdfCriterion(
        pairs=tuple(pairs), expected=tuple(expected), r_max_A=r_max_A, window_ps=run.window_ps, mode=mode
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
    r_max_A, n_bins = _rdf_grid(path, "paper")
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


def measure_run_rdf(run: Run, replicas: Sequence[Replica], mode: str) -> Measurement:
    """RDFs of the protocol's pairs over the stable frames of all replicas."""
    path = reference_of(run, "rdf", mode)
    names = [f"rdf_mae_{pair}" for pair in run.rdf_pairs]
    source = stable_source(run, replicas, 1)
    if source is None:
        return _nothing("rdf", names, "A", why_nothing(replicas), mode)
    if not source.files[0].has_cell:
        return _nothing("rdf", names, "A", "an RDF wants a periodic cell", mode, status="unsupported")
    r_max_A, n_bins = (RDF_R_MAX_A, RDF_N_BINS) if path is None else _rdf_grid(path, mode)
    pairs = source.topology.pairs(",".join(run.rdf_pairs))
    measured = measure_rdf(source, pairs, r_max_A=r_max_A, n_bins=n_bins, mode=mode, reference=path)
    return _of_run(measured.measurement, run, path)


def measure_run_diffusivity(run: Run, replicas: Sequence[Replica], mode: str) -> Measurement:
    """Diffusivity of the protocol's atoms at the protocol's lag; replicas too short for it say so.

    Mode ``paper`` counts replicas that were stable for as long as the protocol says (the paper's text); mode ``mdsim``
    takes time origins at the protocol's distance (its program).
    """
    unit = "1e-9 m2/s"
    start_ps = run.diffusivity_start_ps or 0.0
    least_ps = (run.diffusivity_min_stable_ps or 0.0) if mode == "paper" else 0.0
    long_enough = [replica for replica in replicas if replica.survival.time_ps >= least_ps - 1e-6]
    longest = max(replica.survival.time_ps for replica in replicas)
    if not long_enough:
        note = f"stable for {longest:g} ps at most, {least_ps:g} ps are wanted"
        return _nothing("diffusivity", _DIFFUSIVITIES, unit, note, mode, status="too_short")
    source = stable_source(run, long_enough, 2, start_ps)
    if source is None:
        broke = any(replica.survival.broke for replica in replicas)
        status, note = "unstable" if broke else "too_short", why_nothing(replicas)
        if start_ps and longest > 0:
            note = f"stable for {longest:g} ps at most, of which the first {start_ps:g} ps are left out"
        return _nothing("diffusivity", _DIFFUSIVITIES, unit, note, mode, status=status)
    atoms = source.topology.select(run.diffusivity_atoms or "all")
    options = DiffusivityOptions(
        mode=mode, lag_ps=run.diffusivity_lag_ps, stride_ps=run.diffusivity_stride_ps or MDSIM_STRIDE_PS
    )
    path = reference_of(run, "diffusivity", mode)
    measurement = measure_diffusivity(source, atoms, options, path).measurement
    left_out = len(replicas) - len(long_enough)
    short = (
        f"{left_out} of {len(replicas)} replicas were stable for less than {least_ps:g} ps and do not count"
    )
    rule = join_notes(
        f"the first {start_ps:g} ps left out" if start_ps else "",
        short if left_out else "",
        _other_dynamics(run, path),
    )
    measurement = replace(
        measurement,
        results=[replace(one, note=join_notes(one.note, rule)) for one in measurement.results],
        inputs=measurement.inputs
        | {"stride_ps": options.stride_ps if mode == "mdsim" else None, "min_stable_ps": least_ps or None},
    )
    return _of_run(measurement, run, path)


def dynamics_of(run: Run) -> dict[str, str | float]:
    """Ensemble, thermostat and temperature of a run, in words; without a thermostat where the copy of its protocol is lost."""
    protocol = run.record["protocol"]
    known: dict[str, str | float] = {"ensemble": str(protocol.get("ensemble"))}
    if protocol.get("ensemble") != "NVE":
        known |= {"temperature_K": float(protocol["temperature_K"])}
        thermostat = thermostat_of(run.folder / "protocol.xml")
        known |= {} if thermostat is None else {"thermostat": thermostat}
    return known


def _other_dynamics(run: Run, path: Path | None) -> str:
    """What a reader must know where reference and run had other thermostats, which change diffusion."""
    if path is None:
        return ""
    expected, own = read_json(path)["inputs"].get("dynamics"), dynamics_of(run)
    if not isinstance(expected, dict) or all(own.get(key) == value for key, value in expected.items()):
        return ""

    def words(dynamics: dict[str, str | float]) -> str:
        kelvin = dynamics.get("temperature_K")
        at = None if kelvin is None else f"{kelvin:g} K"
        return ", ".join(
            str(word) for word in (dynamics.get("ensemble"), dynamics.get("thermostat"), at) if word
        )

    return f"other dynamics than the reference's: {words(own)} here, {words(expected)} there"


def _of_run(measurement: Measurement, run: Run, path: Path | None) -> Measurement:
    """Without paths of this machine; a missing reference is that of the data set."""
    inputs = {key: value for key, value in measurement.inputs.items() if key not in _NOT_OF_A_RUN}
    inputs["reference"] = None if path is None else path.name
    none = f"there is no reference of {run.dataset} in mode {measurement.mode}"
    results = [
        replace(one, note=one.note.replace(NO_REFERENCE, none)) if one.status == "no_reference" else one
        for one in measurement.results
    ]
    # Blocks are for what is a reference itself.
    curves = {name: line for name, line in measurement.curves.items() if " block " not in name}
    return replace(measurement, inputs=inputs, results=results, curves=curves)


def measure_run_drift(run: Run, replicas: Sequence[Replica]) -> Measurement:
    """Drift of the total energy of each replica's stable part, kJ/mol/ps/atom, over replicas."""
    if run.card.get("predicts_energy") is False:
        note = "the model gives no energies"
        return Measurement(
            observable="drift",
            mode="standard",
            definition="Drift of the total energy, which is not known without the potential energy.",
            results=[Result(name="drift", status="unsupported", unit="kJ/mol/ps/atom", note=note)],
        )
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


def run_fluctuation(run: Run, replicas: Sequence[Replica]) -> Result:
    """Standard deviation of the temperature over the canonical one, over replicas, with the degrees of freedom in its note."""
    name = "temperature_fluctuation"
    if run.record["protocol"].get("ensemble") == "NVE":
        note = "at constant energy the temperature does not fluctuate as in a canonical ensemble"
        return Result(name=name, status="unsupported", unit="1", note=note)
    estimates: list[Estimate | None] = []
    notes: list[str] = []
    n_frames = 0
    for replica in replicas:
        times_ps, series = replica.stable_log("temperature_K")
        if len(series) < 2:
            estimates.append(None)
            continue
        log = read_any_log(run.folder / f"replica-{replica.index}" / "log.csv", stop_ps=float(times_ps[-1]))
        dof, origin = degrees_of_freedom(log, run.topology.n_atoms, None)
        notes.append(f"{dof} degrees of freedom, {origin}")
        estimates.append(temperature_fluctuation(series, dof).ratio)
        n_frames += len(series)
    return result_over_replicas(
        name,
        "1",
        estimates,
        n_frames=n_frames,
        missing_status="too_short",
        note=join_notes("standard deviation over the canonical one, sqrt(2 / dof) T", *notes),
    )


def _rdf_grid(path: Path, mode: str) -> tuple[float, int]:
    inputs = read_measurement(path, "rdf", mode)["inputs"]
    try:
        return float(inputs["r_max_A"]), int(inputs["n_bins"])
    except (KeyError, TypeError, ValueError) as error:
        raise MetricError(f"{path}: does not say its r_max_A and n_bins; write it again") from error


def stable_source(run: Run, replicas: Sequence[Replica], least: int, start_ps: float = 0.0) -> Source | None:
    """The stable frames from a time on of the replicas that have at least so many; None where none has."""
    topology: MeasuredTopology = load_topology(run.folder / "topology.pdb")
    # The first frame is one interval after the start.
    early = max(0, round(start_ps / run.frame_interval_ps) - 1)
    used = [replica for replica in replicas if replica.survival.n_stable_frames - early >= least]
    if not used:
        return None
    files = [
        open_trajectory(
            run.folder / f"replica-{replica.index}" / TRAJECTORY_FILE,
            topology.atomic_numbers,
            run.frame_interval_ps,
            topology_path=run.folder / "topology.pdb",
            allow_partial=replica.status["state"] not in {"finished", "unstable"},
        )
        for replica in used
    ]
    return Source(
        topology=topology,
        files=files,
        start_ps=start_ps,
        n_kept=[replica.survival.n_stable_frames for replica in used],
    )


def why_nothing(replicas: Sequence[Replica]) -> str:
    """Why there is no stable frame."""
    return join_notes("no replica has stable frames", *(replica.status["message"] for replica in replicas))


def _nothing(
    observable: str, names: Sequence[str], unit: str, note: str, mode: str, status: str = "unstable"
) -> Measurement:
    results = [Result(name=name, status=status, unit=unit, note=note) for name in names]
    return Measurement(observable=observable, mode=mode, definition=f"Not measured: {note}.", results=results)
