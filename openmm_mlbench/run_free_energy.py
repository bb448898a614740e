"""Free energies of a run with metadynamics, from the hills of its stable part."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from openmm_mlbench.errors import MetricError
from openmm_mlbench.free_energy_measurement import (
    SampledSurface,
    kT_of,
    measure_free_energy,
    surface_from_json,
)
from openmm_mlbench.metrics.free_energy import N_BINS, Hills, read_hills, surface_from_hills
from openmm_mlbench.results import Measurement, Result
from openmm_mlbench.run_folder import Replica, Run
from openmm_mlbench.run_measurements import reference_of

OBSERVABLES = ("F_phi", "F_psi", "F_phi_psi")
_UNITS = {"F_phi_mae": "kJ/mol rad", "F_psi_mae": "kJ/mol rad", "F_phi_psi_mae": "kJ/mol"}


def measure_run_free_energy(run: Run, replicas: Sequence[Replica]) -> Measurement:
    """F along both biased angles against the reference of the run's data set.

    Each replica gives a surface of its own; walkers that share hills give one together.
    """
    if run.metadynamics is None or len(run.metadynamics["variables"]) != 2:
        return _nothing("unsupported", "the run has no metadynamics on two angles")
    found = [hills for hills in (_stable_hills(run, replica) for replica in replicas) if hills is not None]
    if not found:
        return _nothing("unstable", "no replica left a hill in its stable part")
    if (run.record.get("metadynamics") or {}).get("walkers") == "shared":
        found = [_together(found)]
    temperature_K = float(run.record["protocol"]["temperature_K"])
    kT = kT_of(temperature_K, "paper")
    surfaces = [
        SampledSurface(
            surface=surface_from_hills(hills, N_BINS),
            n_frames=len(hills.heights),
            note="minus the sum of the hills",
        )
        for hills in found
    ]
    path = reference_of(run, "free-energy")
    reference = None if path is None else surface_from_json(path, kT)
    inputs = {"temperature_K": temperature_K}
    return measure_free_energy(surfaces, kT=kT, mode="paper", inputs=inputs, reference=reference).measurement


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


def _nothing(status: str, note: str) -> Measurement:
    results = [Result(name=name, status=status, unit=unit, note=note) for name, unit in _UNITS.items()]
    return Measurement(
        observable="free_energy", mode="paper", definition=f"Not measured: {note}.", results=results
    )
