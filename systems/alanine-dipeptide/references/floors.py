"""Adds noise floors to the free energies of alanine dipeptide: python floors.py RUN.

RUN is the run behind `alanine-dipeptide-obc-free-energy.json` beside this file.  A floor is what a
right model's run of some length would score: each run, cut there, against the mean of the others.
"""

import dataclasses
import sys
from pathlib import Path

import numpy as np

from openmm_mlbench.files import read_json, write_json
from openmm_mlbench.measuring.floor_tables import floors_record
from openmm_mlbench.measuring.free_energy import kT_of
from openmm_mlbench.metrics.free_energy import (
    N_BINS,
    FreeEnergySurface,
    Hills,
    mean_surface,
    profile_mae,
    read_hills,
    surface_from_hills,
    surface_mae,
)

NAME = "alanine-dipeptide-obc-free-energy.json"
LENGTHS_PS = (500.0, 1000.0, 2000.0, 5000.0, 10000.0)
TEMPERATURE_K = 300.0


def main(run: str) -> None:
    """Write the tables of both modes into the reference."""
    runs = [read_hills(path) for path in sorted(Path(run).glob("replica-*/HILLS"))]
    path = Path(__file__).with_name(NAME)
    record = read_json(path)
    pace_ps = float(np.median(np.diff(runs[0].times_ps)))
    record["inputs"]["noise_floors"] = {
        mode: floors_record(LENGTHS_PS, [pace_ps], table_of(runs, mode)) for mode in ("paper", "mdsim")
    }
    write_json(path, record)


def cut(hills: Hills, length_ps: float) -> FreeEnergySurface:
    """The surface of the hills up to a time."""
    kept = hills.times_ps <= length_ps * (1 + 1e-9)
    fields = ("times_ps", "centres", "sigmas", "heights")
    return surface_from_hills(
        dataclasses.replace(hills, **{name: getattr(hills, name)[kept] for name in fields}), N_BINS
    )


def table_of(runs: list[Hills], mode: str) -> dict[str, list[list[float]]]:
    """Result name -> (n_lengths, 1), the mean over runs."""
    kT = kT_of(TEMPERATURE_K, mode)
    whole = [surface_from_hills(hills, N_BINS) for hills in runs]
    others = [mean_surface([*whole[:i], *whole[i + 1 :]], kT, "the others") for i in range(len(whole))]
    values: dict[str, list[list[float]]] = {}
    for length in LENGTHS_PS:
        pairs = [(cut(hills, length), other) for hills, other in zip(runs, others, strict=True)]
        found = {"F_phi_psi_mae": [surface_mae(one, other) for one, other in pairs]}
        for axis, name in enumerate(("phi", "psi")):
            for align, ending in (("minimum", ""), ("mean", "_mean_aligned")):
                found[f"F_{name}_mae{ending}"] = [
                    profile_mae(one.profile(axis, kT), other.profile(axis, kT), mode=mode, align=align)
                    for one, other in pairs
                ]
        for label, scores in found.items():
            values.setdefault(label, []).append([float(np.mean(scores))])
    return values


if __name__ == "__main__":
    main(sys.argv[1])
