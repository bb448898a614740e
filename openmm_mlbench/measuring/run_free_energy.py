"""Free energies of a run with metadynamics, from the hills of its stable part."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from openmm_mlbench.errors import MetricError
from openmm_mlbench.files import read_json
from openmm_mlbench.measuring.floor_tables import FloorTable, plain
from openmm_mlbench.measuring.free_energy import (
    kT_of,
    measure_free_energy,
    surface_from_json,
    surface_of_hills,
)
from openmm_mlbench.measuring.measurement import NO_REFERENCE
from openmm_mlbench.measuring.run_measurements import reference_of
from openmm_mlbench.metrics.aggregate import join_notes
from openmm_mlbench.metrics.free_energy import N_BINS, Hills, read_hills
from openmm_mlbench.results import Measurement, Result
from openmm_mlbench.run_folder import Replica, Run

OBSERVABLES = ("F_phi", "F_psi", "F_phi_psi")
# At 300 K and bias factor 6, F of alanine dipeptide is off by 15 kJ/mol rad where the share is 0.4, by 8 at 0.25.
MAX_SHARE_OF_HEIGHT = 0.3
_UNITS = {"F_phi_mae": "kJ/mol rad", "F_psi_mae": "kJ/mol rad", "F_phi_psi_mae": "kJ/mol"}


def measure_run_free_energy(run: Run, replicas: Sequence[Replica], mode: str) -> Measurement:
    """F along both biased angles against the reference of the run's data set.

    Each replica gives a surface of its own; walkers that share hills give one together.  A surface whose
    valleys are still being filled is no free energy: such replicas do not count.
    """
    if run.metadynamics is None or len(run.metadynamics["variables"]) != 2:
        return _nothing(mode, "unsupported", "the run has no metadynamics on two angles")
    found = [hills for hills in (_stable_hills(run, replica) for replica in replicas) if hills is not None]
    if not found:
        return _nothing(mode, "unstable", "no replica left a hill in its stable part")
    if (run.record.get("metadynamics") or {}).get("walkers") == "shared":
        found = [_together(found)]
    filled = [hills for hills in found if _share_of_height(hills) <= MAX_SHARE_OF_HEIGHT]
    temperature_K = float(run.record["protocol"]["temperature_K"])
    kT = kT_of(temperature_K, mode)
    surfaces = [surface_of_hills(hills, n_bins=N_BINS, kT=kT) for hills in filled or found]
    # Surfaces have no mode; what is made of them does.
    path = reference_of(run, "free-energy")
    reference = None if path is None else surface_from_json(path, kT)
    lengths = [float(hills.times_ps[-1]) for hills in filled or found]
    inputs = {
        "temperature_K": temperature_K,
        "max_share_of_height": MAX_SHARE_OF_HEIGHT,
        "length_ps": lengths,
    }
    measurement = measure_free_energy(
        surfaces, kT=kT, mode=mode, inputs=inputs, reference=reference
    ).measurement
    measurement = replace(
        measurement, inputs=measurement.inputs | {"reference": None if path is None else path.name}
    )
    if not filled:
        return _unfilled(measurement, found)
    left_out = len(found) - len(filled)
    short = f"{left_out} of {len(found)} replicas are too short and do not count" if left_out else ""
    length_ps = float(np.mean(lengths))
    none = f"there is no reference of {run.dataset}"
    results = [
        _with_floor(
            replace(one, note=join_notes(one.note.replace(NO_REFERENCE, none), short)), path, mode, length_ps
        )
        for one in measurement.results
    ]
    return replace(measurement, results=results)


def _unfilled(measurement: Measurement, found: Sequence[Hills]) -> Measurement:
    """What there is to draw, but no numbers."""
    lowest = min(found, key=_share_of_height)
    note = (
        f"{lowest.times_ps[-1]:g} ps: the last tenth of the hills still has {_share_of_height(lowest):.0%} of the first "
        f"one's height, above {MAX_SHARE_OF_HEIGHT:.0%} the valleys are not filled"
    )
    results = [Result(name=name, status="too_short", unit=unit, note=note) for name, unit in _UNITS.items()]
    return replace(measurement, results=results)


def _share_of_height(hills: Hills) -> float:
    """Mean height of the last tenth of the hills over that of the first one: it falls as a well-tempered bias fills up."""
    last = hills.heights[-max(1, len(hills.heights) // 10) :]
    return float(last.mean() / hills.heights[0])


def _with_floor(result: Result, path: Path | None, mode: str, length_ps: float) -> Result:
    """The floor at the length of the run, where the reference has a table of them."""
    if path is None or result.floor is None or result.value is None:
        return result
    tables = read_json(path)["inputs"].get("noise_floors") or {}
    table = FloorTable.read(tables.get(mode), result.name)
    if table is None:
        return result
    # Hills do not come in frames: the table has one column.
    floor = table.floor(length_ps, max(1, round(length_ps / float(table.intervals_ps[0]))))
    if floor is None:
        return result
    note = f"floor: one run of the reference, cut at {plain(floor.length_ps)} ps, against the others"
    if length_ps > 1.2 * floor.length_ps:
        note += f", which are too short for {plain(length_ps)} ps"
    kept = join_notes(*(part for part in result.note.split("; ") if not part.startswith("floor:")))
    return replace(result, floor=floor.value, note=join_notes(kept, note))


def _stable_hills(run: Run, replica: Replica) -> Hills | None:
    """Hills up to where a replica broke, or None where there is none."""
    try:
        hills = read_hills(run.folder / f"replica-{replica.index}" / "HILLS")
    except MetricError:
        # It ended before its first hill.
        return None
    kept = hills.times_ps < replica.survival.time_ps if replica.survival.broke else hills.times_ps > 0
    if not kept.any():
        return None
    return replace(
        hills,
        times_ps=hills.times_ps[kept],
        centres=hills.centres[kept],
        sigmas=hills.sigmas[kept],
        heights=hills.heights[kept],
        source=f"replica-{replica.index}/HILLS",
    )


def _together(walkers: Sequence[Hills]) -> Hills:
    """The hills of all walkers in the order of their times."""
    order = np.argsort(np.concatenate([one.times_ps for one in walkers]), kind="stable")
    return replace(
        walkers[0],
        times_ps=np.concatenate([one.times_ps for one in walkers])[order],
        centres=np.concatenate([one.centres for one in walkers])[order],
        sigmas=np.concatenate([one.sigmas for one in walkers])[order],
        heights=np.concatenate([one.heights for one in walkers])[order],
        source=" + ".join(one.source for one in walkers),
    )


def _nothing(mode: str, status: str, note: str) -> Measurement:
    results = [Result(name=name, status=status, unit=unit, note=note) for name, unit in _UNITS.items()]
    return Measurement(
        observable="free_energy", mode=mode, definition=f"Not measured: {note}.", results=results
    )
