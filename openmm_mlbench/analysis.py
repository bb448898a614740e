"""From a run folder to its metrics.json: reads files, simulates nothing.

Scoring again never needs the network: energies and forces of test frames come
from a function that the caller gives, or else from the model's card.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmm_mlbench import __version__
from openmm_mlbench.data.frames import Frames
from openmm_mlbench.errors import DataError, MetricError
from openmm_mlbench.files import write_json
from openmm_mlbench.measuring.collapse_frames import collapse_frames
from openmm_mlbench.measuring.run_free_energy import OBSERVABLES as FREE_ENERGIES
from openmm_mlbench.measuring.run_free_energy import measure_run_free_energy
from openmm_mlbench.measuring.run_geometry import measure_run_geometry
from openmm_mlbench.measuring.run_measurements import (
    measure_run_diffusivity,
    measure_run_drift,
    measure_run_rdf,
    rdf_criterion_of,
    run_fluctuation,
)
from openmm_mlbench.metrics.aggregate import Estimate, jackknife_stderr, join_notes, result_over_replicas
from openmm_mlbench.metrics.collapse import read_collapse
from openmm_mlbench.metrics.distances import density_from_counts, h_r_counts, h_r_mae
from openmm_mlbench.metrics.force_errors import (
    compute_force_mae,
    cosine_result,
    energy_results,
    force_results,
    parity_curve,
)
from openmm_mlbench.metrics.speed import context_speeds, speed_results
from openmm_mlbench.metrics.stability import stability_results
from openmm_mlbench.metrics.temperature import temperature_result
from openmm_mlbench.references import Reference, load_canonical_reference, load_reference
from openmm_mlbench.results import METRICS_FORMAT, METRICS_VERSION, Curve, Measurement, Result
from openmm_mlbench.run_folder import RdfCriterion, Replica, Run, read_replicas, read_run

METRICS_FILE = "metrics.json"
MAX_POINTS = 1000
# Blocks of the jackknife that gives a single replica its standard error of the h(r) MAE.
N_BLOCKS = 10
TEMPERATURES = {"temperature": "temperature_K", "T_rot": "T_rot_K", "T_vib": "T_vib_K"}

# What condensed systems are measured by, where the protocol asks for it.
CONDENSED = {"rdf": measure_run_rdf, "diffusivity": measure_run_diffusivity}
MODES_OF = {"paper": ("paper",), "mdsim": ("mdsim",), "both": ("paper", "mdsim")}

# Energies (n_frames,), eV, or None, and forces (n_frames, n_atoms, 3), eV/A, of given frames.
Predictor = Callable[[Frames], tuple[NDArray[np.float64] | None, NDArray[np.float64]]]
PerReplica = Sequence[Estimate | None]


def analyze(
    run_folder: str | os.PathLike[str],
    reference: Reference | None = None,
    predictor: Predictor | None = None,
    test_frames: Frames | None = None,
    mode: str = "paper",
) -> dict[str, Any]:
    """Measure one run and write its metrics.json; a run may be measured again at any time.

    Args:
        run_folder: folder of a simulation, finished or not.
        reference: of the data set the model was trained on; the shipped one where None.
        predictor: energies (n_frames,), eV, or None, and forces (n_frames, n_atoms, 3), eV/A, of the model on
            given frames.
        test_frames: labelled frames of the model's data set that it was not trained on.
        mode: ``paper``, ``mdsim`` or ``both``: what depends on it is measured once for each.

    Returns:
        The content of metrics.json.

    Raises:
        MetricError: not a run folder, an unknown mode, or reference or test frames of another data set.
        TrajectoryError: a trajectory or log is damaged.
    """
    if mode not in MODES_OF:
        raise MetricError(f"mode {mode!r}; wanted {', '.join(MODES_OF)}")
    run = read_run(run_folder)
    reference = _reference_of(run, reference)
    measurements = [_measure_forces(run, predictor, test_frames)]
    per_replica: dict[str, PerReplica] = {}
    replicas: list[Replica] = []
    first: list[Replica] = []
    for one in MODES_OF[mode]:
        criterion = rdf_criterion_of(run, one)
        # Bonds are judged alike in both modes.
        replicas = replicas if first and criterion is None else read_replicas(run, reference, criterion)
        of_mode, estimates = _measure_in_mode(run, replicas, reference, criterion, one, repeated=bool(first))
        measurements += of_mode
        # What stands beside each replica is of the first mode.
        per_replica = estimates | per_replica
        first = first or replicas
    measurements += measure_run_geometry(run, first)
    if "drift" in run.observables:
        measurements.append(measure_run_drift(run, first))
    temperature, temperature_replicas = _measure_temperature(run, first)
    per_replica |= temperature_replicas
    measurements += [temperature, _measure_speed(run, first)]
    metrics = {
        "format": METRICS_FORMAT,
        "format_version": METRICS_VERSION,
        "made_by": f"openmm-mlbench {__version__}",
        "modes": list(MODES_OF[mode]),
        "run": _summarize(run, first, reference, per_replica),
        "measurements": [measurement.as_json() for measurement in measurements],
    }
    write_json(Path(run_folder) / METRICS_FILE, metrics)
    return metrics


def _measure_in_mode(
    run: Run,
    replicas: list[Replica],
    reference: Reference | None,
    criterion: RdfCriterion | None,
    mode: str,
    *,
    repeated: bool,
) -> tuple[list[Measurement], dict[str, PerReplica]]:
    """What the two modes may see differently; stability by bonds, which they do not, only once."""
    measurements: list[Measurement] = []
    per_replica: dict[str, PerReplica] = {}
    if run.criterion == "rdf" or not repeated:
        measurements.append(_measure_stability(run, replicas, reference, criterion, mode))
    if "h_r" in run.observables:
        h_r, per_replica["h_r_mae"] = _measure_h_r(run, replicas, reference, mode)
        measurements.append(h_r)
    measurements += [
        measure(run, replicas, mode) for name, measure in CONDENSED.items() if name in run.observables
    ]
    if set(FREE_ENERGIES) & set(run.observables):
        measurements.append(measure_run_free_energy(run, replicas, mode))
    return measurements, per_replica


def _reference_of(run: Run, given: Reference | None) -> Reference | None:
    """The reference to compare with: only ever that of the model's own data set."""
    dataset = run.dataset
    if given is None and run.own_structure:
        # These atoms need not be those of the data set.
        return None
    if given is None:
        try:
            return load_reference(dataset)
        except DataError:
            # Somebody's own data set: measured without a reference, which each result says.
            return None
    if given.dataset != dataset:
        raise MetricError(
            f"the reference is of {given.dataset}, but the model was trained on {dataset}; "
            "compare a model with the reference of its own data only"
        )
    return given


def _measure_forces(run: Run, predictor: Predictor | None, frames: Frames | None) -> Measurement:
    definition = (
        "Mean absolute error of the force components on test frames, over frames, atoms and x, y, z; the root of the mean "
        "square of the same; the mean cosine between predicted and true force of an atom; mean absolute error of the "
        "energy, and per atom after the mean error is taken out; standard errors over frames."
    )
    curves: dict[str, Curve] = {}
    inputs: dict[str, Any] = {"dataset": run.dataset}
    if predictor is None or frames is None:
        results = _forces_from_card(run)
        inputs["from"] = "card"
    else:
        if frames.name != run.dataset:
            raise MetricError(
                f"the test frames are of {frames.name}, but the model was trained on {run.dataset}; "
                "give frames with the labels it was trained on"
            )
        if frames.forces is None:
            raise MetricError(f"{frames.name}: the test frames have no forces; give labelled frames")
        energies, forces = predictor(frames)
        results = force_results(compute_force_mae(forces, frames.forces, frames.atomic_numbers))
        results.append(cosine_result(forces, frames.forces))
        results += energy_results(energies, frames.energies, frames.n_atoms)
        curves["force parity"] = parity_curve(frames.forces, forces, "eV/A")
        if energies is not None and frames.energies is not None:
            centre = frames.energies.mean()
            curves["energy parity"] = parity_curve(frames.energies - centre, energies - centre, "eV")
        inputs |= {"from": "test frames", "sha256": frames.content_hash()}
    if run.own_structure:
        # Else a reader takes them for errors on the structure that was simulated.
        foreign = f"of frames of {run.dataset}, not of the structure that was simulated"
        results = [replace(result, note=join_notes(foreign, result.note)) for result in results]
    return Measurement(
        observable="force_mae",
        mode="standard",
        definition=definition,
        inputs=inputs,
        results=results,
        curves=curves,
    )


def _forces_from_card(run: Run) -> list[Result]:
    errors = run.card.get("errors") or {}
    value = errors.get("force_mae_meV_A")
    if value is None:
        note = join_notes(
            f"labelled test frames of {run.dataset} are not at hand",
            "the model's card has no force MAE" if run.card else "",
        )
        return [Result(name="force_mae", status="no_reference", unit="meV/A", note=note)]
    note = f"from the model's card: the test frames of {run.dataset} are not at hand"
    found = [("force_mae", "meV/A", float(value), errors.get("force_mae_stderr_meV_A"))]
    if "energy_mae_meV" in errors:
        found.append(("energy_mae", "meV", float(errors["energy_mae_meV"]), None))
    results = [
        Result(
            name=name,
            status="ok",
            unit=unit,
            value=number,
            stderr=stderr,
            n_frames=errors.get("n_test"),
            note=note,
        )
        for name, unit, number, stderr in found
    ]
    if run.card.get("predicts_energy") is False:
        note = "the model gives no energies"
        results.append(Result(name="energy_mae", status="unsupported", unit="meV", note=note))
    return results


def _measure_speed(run: Run, replicas: list[Replica]) -> Measurement:
    batches = [replica.status.get("batch") for replica in replicas]
    return Measurement(
        observable="steps_per_second",
        mode="standard",
        definition=(
            "Integration steps per second of wall time in the simulation itself, start-up left out, of all replicas together where "
            "they shared a Context; the same as simulated ns per day and as seconds for a million atoms times steps."
        ),
        results=speed_results(
            context_speeds([replica.status.get("steps_per_second") for replica in replicas], batches),
            float(run.record["protocol"]["timestep_fs"]),
            run.topology.n_atoms,
            run.platform,
            max((len(batch) for batch in batches if batch), default=1),
        ),
    )


def _measure_stability(
    run: Run,
    replicas: list[Replica],
    reference: Reference | None,
    criterion: RdfCriterion | None,
    mode: str,
) -> Measurement:
    watched = [replica for replica in replicas if replica.survival.broke or replica.trajectory.n_frames]
    judged = [replica for replica in watched if replica.survival.broke or _is_judged(replica)]
    if watched and not judged:
        note = f"no replica is as long as one window of {run.window_ps:g} ps"
        results = [
            Result(name="stability", status="too_short", unit="ps", n_replicas=len(watched), note=note)
        ]
    elif watched:
        results = stability_results([replica.survival for replica in watched], run.length_ps)
    else:
        note = join_notes("no replica wrote a frame", *(replica.status["message"] for replica in replicas))
        results = [Result(name="stability", status="failed", unit="ps", n_replicas=0, note=note)]
    watched_rdfs = any(replica.windows is not None for replica in replicas)
    curves = {
        f"replica {replica.index}": _decimated(
            replica.trajectory.times_ps, replica.deviation_A, "A", "largest"
        )
        for replica in replicas
        if replica.trajectory.n_frames and (run.criterion == "bonds" or watched_rdfs)
    }
    return Measurement(
        observable="stability",
        # Only RDFs are normed in two ways.
        mode=mode if run.criterion == "rdf" else "standard",
        definition=(
            f"{_stability_definition(run, reference, criterion)}; over replicas the Kaplan-Meier mean "
            "restricted to the length of the run."
        ),
        inputs={"criterion": run.criterion, "threshold_A": run.threshold_A, "length_ps": run.length_ps},
        results=results,
        curves=curves,
    )


def _is_judged(replica: Replica) -> bool:
    """Whether anything was compared: RDFs want a whole window."""
    return replica.windows is None or len(replica.windows.times_ps) > 0


def _stability_definition(run: Run, reference: Reference | None, criterion: RdfCriterion | None) -> str:
    if run.criterion == "bonds":
        bonds = "the reference" if reference is not None else "the start frames (there is no reference)"
        return (
            f"Time of the first frame in which a bond is more than {run.threshold_A:g} A off its mean length in "
            f"{bonds} (paper, eq. 9)"
        )
    if criterion is not None:
        return (
            f"Start of the first window of {run.window_ps:g} ps in which the integral of |RDF - reference| exceeds "
            f"{run.threshold_A:g} A for {_pairs_text(run.stability_pairs)} (paper, eq. 8)"
        )
    missing = f" (no RDF of {run.dataset} to compare with)" if run.criterion == "rdf" else ""
    return f"Time until the simulation itself was stopped by its monitor{missing}"


def _pairs_text(pairs: Sequence[str]) -> str:
    return "all atoms alike" if list(pairs) == ["all"] else f"any of {', '.join(pairs)}"


def _measure_h_r(
    run: Run, replicas: list[Replica], reference: Reference | None, mode: str
) -> tuple[Measurement, PerReplica]:
    norm = {"paper": "over all pairs (paper, eq. 1)", "mdsim": "within the bins (the paper's code)"}
    definition = (
        "Area between the distributions of all interatomic distances of the stable part and of the reference, each "
        f"of unit area {norm[mode]}, 500 bins up to 10 A: 0 when equal, 2 when disjoint."
    )
    if reference is None:
        note = f"there is no reference for {run.dataset}"
        if run.own_structure:
            note = f"a structure of one's own is not compared with the reference of {run.dataset}"
        results = [Result(name="h_r_mae", status="no_reference", unit="1", note=note)]
        measurement = Measurement(observable="h_r_mae", mode=mode, definition=definition, results=results)
        return measurement, [None] * len(replicas)
    result, estimates, densities = _compare_h_r("h_r_mae", run, replicas, reference, mode)
    results = [result]
    curves = _h_r_curves(reference, densities)
    inputs = {"reference": reference.dataset, "n_bins": len(reference.density), "blocks": N_BLOCKS}
    canonical = load_canonical_reference(run.dataset)
    if canonical is not None and canonical.temperature_K == run.record["protocol"]["temperature_K"]:
        results.append(_compare_h_r("h_r_mae_canonical", run, replicas, canonical, mode)[0])
        curves["canonical reference"] = _curve(*canonical.h_r, "A", "1/A")
        inputs["canonical_reference"] = canonical.dataset
        definition += (
            f" h_r_mae_canonical: the same against {canonical.dataset}, {canonical.level_of_theory}, in a true "
            f"{canonical.temperature_K:g} K ensemble."
        )
    measurement = Measurement(
        observable="h_r_mae",
        mode=mode,
        definition=definition,
        inputs=inputs,
        results=results,
        curves=curves,
    )
    return measurement, estimates


def _compare_h_r(
    name: str, run: Run, replicas: list[Replica], reference: Reference, mode: str
) -> tuple[Result, PerReplica, dict[str, NDArray[np.float64]]]:
    """The result against one reference, the estimate of each replica and h(r) of those with a stable part."""
    estimates: list[Estimate | None] = [None] * len(replicas)
    densities = {}
    floors = []
    for i, replica in enumerate(replicas):
        n_frames = replica.survival.n_stable_frames
        if n_frames:
            estimates[i], density = _h_r_of_replica(replica.stable_positions_A, reference, mode)
            densities[f"replica {replica.index}"] = density
            floors.append(reference.noise_floor(n_frames * run.frame_interval_ps, n_frames))
    known = [floor for floor in floors if floor is not None]
    result = result_over_replicas(
        name,
        "1",
        estimates,
        floor=float(np.mean([floor.value for floor in known])) if known else None,
        n_frames=sum(replica.survival.n_stable_frames for replica in replicas),
        missing_status="unstable",
        note=join_notes(
            *(f"floor: {floor.note}" for floor in known[:1]),
            "" if known or not densities else "too short for a noise floor",
            reference.note,
        ),
    )
    return result, estimates, densities


def _h_r_of_replica(
    positions_A: NDArray[np.float64], reference: Reference, mode: str
) -> tuple[Estimate, NDArray[np.float64]]:
    """MAE of h(r) with its block-jackknife standard error, and h(r) itself."""
    n_pairs = positions_A.shape[1] * (positions_A.shape[1] - 1) // 2
    width, bins = reference.bin_width, (reference.blocks.shape[1], reference.r_min_A, reference.r_max_A)
    blocks = np.array_split(positions_A, min(N_BLOCKS, len(positions_A)))
    counts = np.array([h_r_counts(block, *bins) for block in blocks])
    frames = np.array([len(block) for block in blocks])

    def density(some_counts: NDArray[np.int64], n_frames: int) -> NDArray[np.float64]:
        found = density_from_counts(some_counts, width)
        # Distances beyond the last bin, which broken molecules have, are part of the whole area in mode paper.
        return found if mode == "mdsim" else found * (some_counts.sum() / (n_frames * n_pairs))

    expected = density(reference.blocks.sum(axis=0), reference.n_frames)

    def mae(some_counts: NDArray[np.int64], n_frames: int) -> float:
        return h_r_mae(density(some_counts, n_frames), expected, width)

    total, n_frames = counts.sum(axis=0), int(frames.sum())
    stderr = None
    if len(blocks) == N_BLOCKS:
        stderr = jackknife_stderr(
            [mae(total - block, n_frames - n) for block, n in zip(counts, frames.tolist(), strict=True)]
        )
    estimate = Estimate(value=mae(total, n_frames), stderr=stderr, n=len(positions_A))
    return estimate, density(total, n_frames)


def _h_r_curves(reference: Reference, densities: dict[str, NDArray[np.float64]]) -> dict[str, Curve]:
    r_A, expected = reference.h_r
    curves = {"reference": expected}
    if densities:
        mean = np.mean(list(densities.values()), axis=0)
        curves |= {"mean": mean, "difference": mean - expected, **densities}
    return {name: _curve(r_A, y, "A", "1/A") for name, y in curves.items()}


def _measure_temperature(run: Run, replicas: list[Replica]) -> tuple[Measurement, dict[str, PerReplica]]:
    results: list[Result] = []
    per_replica: dict[str, PerReplica] = {}
    for name, column in TEMPERATURES.items():
        series = [replica.stable_log(column)[1] for replica in replicas]
        if name != "temperature" and not any(map(len, series)) and results[0].value is not None:
            # A periodic cell has temperatures, but no rotation of its own.
            per_replica[name] = [None] * len(replicas)
            continue
        result, per_replica[name] = temperature_result(name, series)
        results.append(result)
    results.append(run_fluctuation(run, replicas))
    curves = {}
    for replica in replicas:
        times, values = replica.stable_log("temperature_K")
        if len(values):
            since_start = np.cumsum(values) / np.arange(1, len(values) + 1)
            curves[f"replica {replica.index}"] = _decimated(times, values, "K", "mean")
            curves[f"mean replica {replica.index}"] = _decimated(times, since_start, "K", "last")
    measurement = Measurement(
        observable="temperature",
        mode="standard",
        definition=(
            "Kinetic temperature over the 3N - 3 degrees of freedom of a system whose centre of mass rests (less one "
            "for each constraint), and of a molecule's rotation and vibration; mean over the stable part."
        ),
        results=results,
        curves=curves,
    )
    return measurement, per_replica


def _decimated(times_ps: NDArray[np.float64], values: NDArray[np.float64], unit: str, keep: str) -> Curve:
    """At most 1,000 points against time: of each interval the largest, the mean or the last value."""
    if len(values) > MAX_POINTS:
        starts = np.linspace(0, len(values), MAX_POINTS, endpoint=False).astype(np.int64)
        sizes = np.diff(np.append(starts, len(values)))
        if keep == "largest":
            values = np.maximum.reduceat(values, starts)
            times_ps = times_ps[starts]
        elif keep == "mean":
            values = np.add.reduceat(values, starts) / sizes
            times_ps = np.add.reduceat(times_ps, starts) / sizes
        else:
            last = starts + sizes - 1
            times_ps, values = times_ps[last], values[last]
    return _curve(times_ps, values, "ps", unit)


def _curve(x: NDArray[np.float64], y: NDArray[np.float64], x_unit: str, y_unit: str) -> Curve:
    """Six digits are enough to draw, and keep the file small."""

    def rounded(values: NDArray[np.float64]) -> list[float]:
        return [float(f"{value:.6g}") for value in values]

    return Curve(x=rounded(x), y=rounded(y), x_unit=x_unit, y_unit=y_unit)


def _summarize(
    run: Run, replicas: list[Replica], reference: Reference | None, per_replica: dict[str, PerReplica]
) -> dict[str, Any]:
    """What a reader of the numbers has to know of the run; run.json stands in ``provenance``."""
    record, protocol = run.record, run.record["protocol"]
    trained_on = run.card.get("trained_on") or {}
    members = [
        {
            "index": replica.index,
            "time_ps": replica.status["time_ps"],
            "stable_ps": replica.survival.time_ps,
            "broke": replica.survival.broke,
            "state": replica.status["state"],
            "reason": replica.status["message"],
            "resume": replica.status.get("resume"),
            "steps_per_second": replica.status.get("steps_per_second"),
            "collapse": _collapse(run, run.folder / f"replica-{replica.index}"),
            **{name: _value(estimates[i]) for name, estimates in per_replica.items()},
        }
        for i, replica in enumerate(replicas)
    ]
    return {
        "folder": str(run.folder),
        "model": run.model,
        "architecture": run.card.get("model"),
        "dataset": run.dataset,
        "level_of_theory": trained_on.get("level_of_theory"),
        "n_train": trained_on.get("n_train"),
        "system": protocol.get("system"),
        "protocol": run.protocol,
        "temperature_K": protocol.get("temperature_K"),
        "timestep_fs": protocol.get("timestep_fs"),
        "length_ps": run.length_ps,
        "full_length_ps": protocol.get("length_ps"),
        "n_replicas": run.n_replicas,
        "threshold_A": run.threshold_A,
        "criterion": run.criterion,
        "ensemble": protocol.get("ensemble"),
        "platform": run.platform,
        "seed": record.get("seed"),
        "frames_from": (record.get("start_frames") or {}).get("dataset"),
        "replicas": members,
        "reference": None if reference is None else {"source": reference.source, "method": reference.method},
        "provenance": record,
    }


def _collapse(run: Run, folder: Path) -> dict[str, Any] | None:
    """The forces and structures around a collapse, to draw; what a damaged dossier says is not worth an analysis."""
    try:
        collapse = read_collapse(folder)
    except MetricError:
        return None
    if collapse is None:
        return None
    structures = collapse_frames(
        folder,
        run.topology,
        frame_interval_ps=run.frame_interval_ps,
        timestep_fs=float(run.record["protocol"]["timestep_fs"]),
    )
    return collapse.as_json() | {"structures": structures}


def _value(estimate: Estimate | None) -> float | None:
    return None if estimate is None else estimate.value
