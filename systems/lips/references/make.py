"""Makes the reference observables of LiPS: python make.py lips [--data lips.npz], or python make.py lips-fm.

`lips`: RDFs and lithium diffusivity of the real frames.  `lips-fm`: those of the shipped frames of
the classical potential.  Written beside this file, as `openmm-mlbench measure` defines them.
"""

import argparse
import itertools
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from openmm_mlbench.cells import nearest_images, reduce_cell
from openmm_mlbench.data.datasets import load_dataset
from openmm_mlbench.data.frames import Frames
from openmm_mlbench.files import write_text
from openmm_mlbench.measuring.diffusivity import DiffusivityOptions, measure_diffusivity
from openmm_mlbench.measuring.measurement import Source, curve
from openmm_mlbench.measuring.rdf import measure_rdf
from openmm_mlbench.measuring.run_reference import rdf_floor_tables
from openmm_mlbench.metrics.diffusivity import D_PER_NM2_PS, DEFINITION, unwrap
from openmm_mlbench.metrics.rdf import AtomPairs
from openmm_mlbench.results import Measurement, Result
from openmm_mlbench.selections import load_topology
from openmm_mlbench.trajectory_stream import open_trajectory
from openmm_mlbench.units import ANGSTROM_PER_NM, NM_PER_ANGSTROM, PS_PER_FS

HERE = Path(__file__).resolve().parent
TOPOLOGY = HERE.parent / "topology.pdb"
ELEMENT_PAIRS = "Li-Li,Li-P,Li-S,P-P,P-S,S-S"
LITHIUM = 3
# The lag of the paper's code, and how far from it a pair of frames may be.
LAG_PS, TOLERANCE_PS = 35.05, 0.05
# As the paper's code does; with the first 5 ps the value at its lag is 8 % lower.
SKIP_PS = 5.0
# Slopes: from where lithium has left its cage to where the trajectory still has five windows.
FIT_PS = (2.0, 10.0)
N_WINDOWS = 5
STRIDE_PS = 0.05
# Of the tables of noise floors.  Frames are 46 fs apart on average; protocols keep one every 12.5 fs.
PIECE_PS, STRIDES = 0.46, (1, 2, 5)
FM_PIECE_PS = 0.5
# Of the dynamics behind each data set: of the real frames no more is known than that they are of 520 K.
REAL_DYNAMICS = {"ensemble": "NVT", "temperature_K": 520.0}
FM_DYNAMICS = REAL_DYNAMICS | {"thermostat": "Langevin 1/ps"}
DIGITS = 5


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", choices=("lips", "lips-fm"))
    parser.add_argument("--data", type=Path, default=None, help="file of the data set")
    given = parser.parse_args()
    frames = load_dataset(given.dataset, path=given.data)
    if given.dataset == "lips":
        of_frames(frames)
    else:
        of_generated(frames)


# --- The real frames: in order, but at unequal distances --------------------------------------------


def of_frames(frames: Frames) -> None:
    """RDFs and diffusivity of the data set ``lips``."""
    order = np.argsort(frames.frame_indices)
    frames = frames.select(order)
    assert frames.interval_fs is not None
    times_ps = frames.frame_indices * frames.interval_fs * PS_PER_FS
    interval_ps = round(float(np.diff(times_ps).mean()), 6)
    made_by = {"script": "make.py lips", "source": frames.source}
    for mode, ending in (("paper", ""), ("mdsim", "-mdsim")):
        with tempfile.TemporaryDirectory() as folder:
            source = source_of_frames(frames, Path(folder) / "frames.dcd", interval_ps)
            rdf = measure_rdf(source, pairs_of(source), r_max_A=6.0, n_bins=500, mode=mode)
            record = rdf.measurement.as_json()
            record["inputs"]["noise_floors"] = floors_of(source, mode, PIECE_PS, STRIDES)
        record["inputs"]["frame_interval_ps"] = f"unequal, {interval_ps:g} on average"
        save(f"lips-rdf{ending}", record, made_by)
        later = np.flatnonzero(times_ps >= SKIP_PS)
        measured = diffusivity_of_frames(frames.select(later), times_ps[later], mode)
        record = measured.as_json()
        record["inputs"]["dynamics"] = REAL_DYNAMICS
        save(f"lips-diffusivity{ending}", record, made_by)
        result = measured.results[0]
        print(mode, result.value, result.stderr, result.note)


def source_of_frames(frames: Frames, path: Path, interval_ps: float) -> Source:
    """The frames as a trajectory in OpenMM's form of the cell."""
    from openmm import app, unit

    assert frames.cells is not None
    pdb = app.PDBFile(str(TOPOLOGY))
    with path.open("wb") as file:
        dcd = app.DCDFile(file, pdb.topology, interval_ps * unit.picosecond)
        for cell, positions in zip(frames.cells, frames.positions, strict=True):
            box, turned = reduce_cell(cell, positions)
            dcd.writeModel(
                turned * NM_PER_ANGSTROM * unit.nanometer,
                periodicBoxVectors=box * NM_PER_ANGSTROM * unit.nanometer,
            )
    topology = load_topology(TOPOLOGY)
    file = open_trajectory(path, topology.atomic_numbers, interval_ps, topology_path=TOPOLOGY)
    return Source(topology=topology, files=[file])


def pairs_of(source: Source) -> list[AtomPairs]:
    """All atoms as one species, as in the paper, and each pair of elements."""
    return source.topology.pairs("all") + source.topology.pairs(ELEMENT_PAIRS)


def floors_of(source: Source, mode: str, piece_ps: float, strides: Sequence[int]) -> dict[str, object]:
    """Noise floors of g(r), A, at many lengths and times between frames."""
    return rdf_floor_tables(
        source, pairs_of(source), r_max_A=6.0, n_bins=500, mode=mode, piece_ps=piece_ps, strides=strides
    )


def lithium_paths(frames: Frames) -> tuple[np.ndarray, float]:
    """Unwrapped lithium (n_frames, n_li, 3), nm, its mean subtracted, and the longest step between frames, nm."""
    assert frames.cells is not None
    lithium = frames.positions[:, frames.atomic_numbers == LITHIUM] * NM_PER_ANGSTROM
    boxes = frames.cells * NM_PER_ANGSTROM
    paths = unwrap(lithium, boxes)
    steps = nearest_images(np.diff(lithium, axis=0), boxes[1:])
    longest = float(np.linalg.norm(steps, axis=2).max())
    return paths - paths.mean(axis=1, keepdims=True), longest


def squared_displacements(
    paths_nm: np.ndarray, times_ps: np.ndarray, lag_ps: float, tolerance_ps: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of all pairs of frames about a lag apart: starts, ps, lags, ps, and squared displacements (n_pairs, n_atoms), nm^2."""
    first = np.searchsorted(times_ps, times_ps + lag_ps - tolerance_ps)
    last = np.searchsorted(times_ps, times_ps + lag_ps + tolerance_ps, side="right")
    i = np.repeat(np.arange(len(times_ps)), last - first)
    j = np.concatenate([np.arange(a, b) for a, b in zip(first, last, strict=True)]).astype(np.int64)
    return times_ps[i], times_ps[j] - times_ps[i], ((paths_nm[j] - paths_nm[i]) ** 2).sum(axis=2)


def slope_of(paths_nm: np.ndarray, times_ps: np.ndarray, lags_ps: Sequence[float]) -> float:
    """D, 1e-9 m2/s, of a straight line through the MSD at these lags."""
    points = []
    for lag in lags_ps:
        _, found, squares = squared_displacements(paths_nm, times_ps, lag, TOLERANCE_PS)
        points.append((found.mean(), squares.mean()))
    x, y = np.array(points).T
    return float(np.polyfit(x, y, 1)[0]) * D_PER_NM2_PS / 6


def diffusivity_of_frames(frames: Frames, times_ps: np.ndarray, mode: str) -> Measurement:
    """Lithium diffusivity from pairs of frames at the paper's lag, with the slope beside it."""
    paths, longest = lithium_paths(frames)
    starts, lags, squares = squared_displacements(paths, times_ps, LAG_PS, TOLERANCE_PS)
    each = squares / (6 * lags[:, None]) * D_PER_NM2_PS
    # Divided by one less than the number of origins, as the paper's code does.
    value = float(each.mean()) * (len(starts) / (len(starts) - 1) if mode == "mdsim" else 1.0)
    over_atoms = float(each.mean(axis=0).std(ddof=1) / np.sqrt(each.shape[1]))
    fit = np.linspace(*FIT_PS, 17)
    edges = np.linspace(times_ps[0], times_ps[-1], N_WINDOWS + 1)
    windows = [
        slope_of(paths[inside], times_ps[inside], fit[fit < 0.8 * (edges[1] - edges[0])])
        for inside in ((times_ps >= a) & (times_ps <= b) for a, b in itertools.pairwise(edges))
    ]
    slope = slope_of(paths, times_ps, fit)
    slope_error = float(np.std(windows, ddof=1) / np.sqrt(N_WINDOWS))
    grid = np.arange(0.25, 0.9 * (times_ps[-1] - times_ps[0]), 0.25)
    msd = [squared_displacements(paths, times_ps, lag, TOLERANCE_PS)[2].mean() for lag in grid]
    unit = "1e-9 m2/s"
    method = (
        f"MSD(t) / (6 t) of {len(starts)} pairs of frames {LAG_PS:g} +- {TOLERANCE_PS:g} ps apart, each with its own t, mean "
        f"of the lithium subtracted; frames unwrapped one after the other (longest step {longest * ANGSTROM_PER_NM:.2f} A, "
        "5.59 A would be too long)"
    )
    return Measurement(
        observable="diffusivity",
        mode=mode,
        definition=DEFINITION[mode],
        inputs={
            "n_tracked": int((frames.atomic_numbers == LITHIUM).sum()),
            "remove_drift": True,
            "unwrap": True,
            "lag_ps": LAG_PS,
            "window_ps": [LAG_PS, LAG_PS],
            "n_frames": [len(times_ps)],
            "start_ps": SKIP_PS,
            "length_ps": float(times_ps[-1] - times_ps[0]),
        },
        results=[
            Result(
                name="diffusivity",
                status="ok",
                unit=unit,
                value=value,
                stderr=over_atoms,
                n_frames=len(times_ps),
                n_replicas=1,
                note=f"{method}; one trajectory has 1.3 such lags, so the error is that over 27 atoms, as if each moved alone",
            ),
            Result(
                name="diffusivity_slope",
                status="ok",
                unit=unit,
                value=slope,
                stderr=slope_error,
                n_frames=len(times_ps),
                n_replicas=1,
                note=f"slope of the MSD from {FIT_PS[0]:g} to {FIT_PS[1]:g} ps; error: spread of {N_WINDOWS} windows of "
                f"{edges[1] - edges[0]:.3g} ps, lags up to 80 % of these",
            ),
        ],
        curves={"MSD": curve(grid, 100 * np.array(msd), "ps", "A^2")},
    )


# --- The frames of the classical potential: at equal distances --------------------------------------


def of_generated(frames: Frames) -> None:
    """RDFs and diffusivity of the data set ``lips-fm``: all of its frames, in order."""
    assert frames.interval_fs is not None
    interval_ps = frames.interval_fs * PS_PER_FS
    made_by = {
        "script": "make.py lips-fm",
        "commands": ["openmm-mlbench data generate lips"],
        "source": frames.source,
    }
    with tempfile.TemporaryDirectory() as folder:
        source = source_of_frames(frames, Path(folder) / "frames.dcd", interval_ps)
        for mode, ending in (("paper", ""), ("mdsim", "-mdsim")):
            rdf = measure_rdf(source, pairs_of(source), r_max_A=6.0, n_bins=500, mode=mode)
            record = rdf.measurement.as_json()
            record["inputs"]["noise_floors"] = floors_of(source, mode, FM_PIECE_PS, (1,))
            save(f"lips-fm-rdf{ending}", record, made_by)
            options = DiffusivityOptions(mode=mode, lag_ps=LAG_PS, stride_ps=STRIDE_PS)
            lithium = source.topology.select("element Li")
            measured = measure_diffusivity(source, lithium, options).measurement
            record = measured.as_json()
            record["inputs"]["dynamics"] = FM_DYNAMICS
            save(f"lips-fm-diffusivity{ending}", record, made_by)
            print(mode, measured.results[0].value, measured.results[0].stderr, measured.results[0].note)


def save(name: str, record: dict, made_by: dict) -> None:
    """One file with few digits and without line breaks: it is read by programs."""
    # Floors are in their table, and blocks would be most of the file.
    record["curves"] = {label: line for label, line in record["curves"].items() if "block" not in label}
    for line in record["curves"].values():
        for axis in "xy":
            line[axis] = [float(f"{value:.{DIGITS}g}") for value in line[axis]]
    record["inputs"] = {
        key: value for key, value in record["inputs"].items() if key not in {"topology", "trajectories"}
    } | {"made_by": made_by}
    path = HERE / f"{name}.json"
    write_text(path, json.dumps(record, allow_nan=False, separators=(",", ":")) + "\n")
    print(path, file=sys.stderr)


if __name__ == "__main__":
    main()
