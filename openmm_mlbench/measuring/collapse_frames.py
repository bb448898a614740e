"""The structures before, at and after a collapse, cut out of a dossier to be drawn (paper, Figure 6)."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmm_mlbench.cells import nearest_images
from openmm_mlbench.errors import MLBenchError
from openmm_mlbench.files import read_json
from openmm_mlbench.metrics.collapse import DOSSIER
from openmm_mlbench.topology import Topology, find_bonds
from openmm_mlbench.trajectory import Trajectory, read_dcd
from openmm_mlbench.units import ANGSTROM_PER_NM, PS_PER_FS

# Of a larger system only what is so close to the offending atoms.
MAX_ATOMS = 40
_REACH_A = 4.5
# Beyond this an atom has left the picture.
_EDGE_A = 1e3


def collapse_frames(
    folder: Path, topology: Topology, *, frame_interval_ps: float, timestep_fs: float
) -> dict[str, Any] | None:
    """Three frames around a collapse, of the atoms that matter.

    Args:
        folder: of the replica.
        topology: of the run.
        frame_interval_ps: between frames of its trajectory.
        timestep_fs: of its integrator.

    Returns:
        ``elements`` and ``names`` of the atoms drawn, ``pair``: which two of them offended, or None,
        ``bonds``: pairs bonded before, and ``frames``: each with ``label``, ``step`` and ``positions_A``.
        None where the dossier has no usable frames.
    """
    path = folder / "dossier"
    try:
        record = read_json(path / DOSSIER)
        trajectory, steps, first = _frames(path, record, topology, frame_interval_ps, timestep_fs)
        return _cut(trajectory, steps, first, record, topology)
    except (MLBenchError, OSError, KeyError, TypeError, ValueError, IndexError):
        # What a damaged dossier shows is not worth an analysis.
        return None


def _frames(
    path: Path, record: dict[str, Any], topology: Topology, frame_interval_ps: float, timestep_fs: float
) -> tuple[Trajectory, list[int], int]:
    """Frames at full rate where there are any, with their steps and the first offending one."""
    full_rate = record.get("full_rate") or {}
    if (path / "full-rate.dcd").is_file() and full_rate.get("first_offending_step") is not None:
        trajectory = read_dcd(path / "full-rate.dcd", topology, timestep_fs * PS_PER_FS)
        start = int(full_rate["first_step"])
        steps = list(range(start, start + trajectory.n_frames))
        return trajectory, steps, int(full_rate["first_offending_step"])
    trajectory = read_dcd(path / "frames.dcd", topology, frame_interval_ps)
    return trajectory, [int(step) for step in record["steps"]][: trajectory.n_frames], int(record["step"])


def _cut(
    trajectory: Trajectory, steps: list[int], first: int, record: dict[str, Any], topology: Topology
) -> dict[str, Any] | None:
    positions = trajectory.positions_A[: len(steps)]
    usable = np.isfinite(positions).all(axis=(1, 2)) & (np.abs(positions).max(axis=(1, 2)) < _EDGE_A)
    known = np.flatnonzero(usable)
    if not len(known):
        return None
    before = int(known[0])
    at = int(known[np.argmin(np.abs(np.array(steps)[known] - first))])
    after = int(known[-1])
    if at <= before:
        return None
    pair = _pair(record)
    box = None if trajectory.box_vectors_nm is None else ANGSTROM_PER_NM * trajectory.box_vectors_nm[before]
    centre = positions[at][pair[0]] if pair else positions[at].mean(axis=0)
    chosen = _chosen(positions[at], centre, box)
    # The first atom of the pair, or the one nearest to the centre, holds all frames together.
    anchor = pair[0] if pair else int(chosen[0])
    cut = [_around(positions[frame], anchor, box)[chosen] for frame in dict.fromkeys((before, at, after))]
    bonds = find_bonds(topology.atomic_numbers[chosen], cut[0])
    labels = ("before", "first offending step", "after")
    place = {int(atom): i for i, atom in enumerate(chosen)}
    return {
        "elements": topology.atomic_numbers[chosen].tolist(),
        "names": [topology.names[atom] for atom in chosen],
        "pair": [place[atom] for atom in pair] if pair and set(pair) <= set(place) else None,
        "bonds": bonds.tolist(),
        "frames": [
            {"label": label, "step": steps[frame], "positions_A": np.round(frame_positions, 3).tolist()}
            for label, frame, frame_positions in zip(
                labels, dict.fromkeys((before, at, after)), cut, strict=False
            )
        ],
    }


def _pair(record: dict[str, Any]) -> list[int] | None:
    """The two atoms that stand for the offence."""
    for found in ((record.get("full_rate") or {}).get("pair"), record.get("bond"), record.get("pair")):
        if found and len(found.get("atoms") or ()) == 2:
            return [int(atom) for atom in found["atoms"]]
    return None


def _around(positions: NDArray[np.float64], anchor: int, box: NDArray[np.float64] | None) -> NDArray[Any]:
    """Positions (n_atoms, 3) relative to one atom, at their nearest images."""
    relative = positions - positions[anchor]
    return relative if box is None else nearest_images(relative[None], box[None])[0]


def _chosen(
    positions: NDArray[np.float64], centre: NDArray[np.float64], box: NDArray[np.float64] | None
) -> NDArray[np.int64]:
    """All atoms of a small molecule, else those around the offence."""
    if len(positions) <= MAX_ATOMS and box is None:
        return np.arange(len(positions))
    relative = positions - centre
    relative = relative if box is None else nearest_images(relative[None], box[None])[0]
    distances = np.linalg.norm(relative, axis=1)
    nearest = np.argsort(distances)[:MAX_ATOMS]
    return np.sort(nearest[distances[nearest] < _REACH_A])
