"""How a simulation collapsed: the largest force around the first offending step (paper, Figure 6).

What it says: whether the force shoots up within a few steps (a hole in the model's energy
surface) or the structure drifts away under ordinary forces.  When it misleads: the full rate
is a repetition of the run; where that did not come out the same, dossier.json says so.
"""

import csv
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from openmm_mlbench.errors import MetricError, MLBenchError
from openmm_mlbench.files import read_json
from openmm_mlbench.units import KJMOL_NM_PER_EV_ANGSTROM, MEV_PER_EV

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DOSSIER = "dossier.json"


@dataclass(frozen=True, kw_only=True)
class Collapse:
    """The dossier of a replica, as far as it is drawn.

    Args:
        reason: code of the criterion that was violated.
        message: the same for people.
        frame_steps: (n_frames,), the frames around the offence.
        frame_forces_meV_A: (n_frames,), largest force on any atom; NaN where it was not finite.
        steps: (n_steps,), at full rate, or empty.
        forces_meV_A: (n_steps,), likewise.
        first_step: the first offending step as finely as it is known.
        time_per_step_ps: of the simulation.
        reproduced: ``exact``, ``close`` or ``no``; empty without a full rate.
    """

    reason: str
    message: str
    frame_steps: NDArray[np.int64]
    frame_forces_meV_A: NDArray[np.float64]
    steps: NDArray[np.int64]
    forces_meV_A: NDArray[np.float64]
    first_step: int
    time_per_step_ps: float
    reproduced: str

    def as_json(self) -> dict[str, Any]:
        """For metrics.json, with null for what was not finite."""

        def finite(values: NDArray[np.float64]) -> list[float | None]:
            return [float(value) if np.isfinite(value) else None for value in values]

        return {
            "reason": self.reason,
            "message": self.message,
            "frame_steps": self.frame_steps.tolist(),
            "frame_forces_meV_A": finite(self.frame_forces_meV_A),
            "steps": self.steps.tolist(),
            "forces_meV_A": finite(self.forces_meV_A),
            "first_step": self.first_step,
            "time_per_step_ps": self.time_per_step_ps,
            "reproduced": self.reproduced,
        }


def read_collapse(folder: str | os.PathLike[str]) -> Collapse | None:
    """The dossier in a replica's folder (or that folder itself); None where there is none.

    Raises:
        MetricError: a file is damaged.
    """
    path = Path(folder)
    path = path / "dossier" if (path / "dossier").is_dir() else path
    if not (path / DOSSIER).is_file():
        return None
    try:
        record = read_json(path / DOSSIER)
        step, time_ps = int(record["step"]), float(record["time_ps"])
        full_rate = record.get("full_rate") or {}
        rows = _rows(path / "full-rate.csv")
        first = full_rate.get("first_offending_step")
        return Collapse(
            reason=str(record["reason"]),
            message=str(record["message"]),
            frame_steps=np.array(record["steps"], dtype=np.int64),
            frame_forces_meV_A=_forces(record["max_force_kJ_mol_nm"]),
            steps=np.array([int(row["step"]) for row in rows], dtype=np.int64),
            forces_meV_A=_forces([row["max_force_kJ_mol_nm"] or None for row in rows]),
            first_step=step if first is None else int(first),
            time_per_step_ps=time_ps / step if step else 0.0,
            reproduced=str(full_rate.get("reproduced", "")),
        )
    except MLBenchError as error:
        raise MetricError(str(error)) from error
    except (KeyError, TypeError, ValueError) as error:
        raise MetricError(f"{path}: not the dossier of a collapse ({error!r}); simulate again") from error


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _forces(values: list[Any]) -> NDArray[np.float64]:
    forces = np.array([np.nan if value is None else float(value) for value in values], dtype=np.float64)
    return forces * MEV_PER_EV / KJMOL_NM_PER_EV_ANGSTROM


def plot_dossier(folder: str | os.PathLike[str], ax: "Axes | None" = None) -> "Axes":
    """Largest force against step: every frame as a dot, every step around the collapse as a line.

    Raises:
        MetricError: there is no dossier, or it is damaged.
    """
    collapse = read_collapse(folder)
    if collapse is None:
        raise MetricError(f"{folder}: holds no {DOSSIER}; give the folder of a replica that collapsed")
    if ax is None:
        from matplotlib.figure import Figure

        ax = Figure(figsize=(5, 3.5), layout="constrained").subplots()
    ax.plot(collapse.frame_steps, collapse.frame_forces_meV_A, "o", ms=4, color="0.5", label="frames")
    if len(collapse.steps):
        label = "every step" + ("" if collapse.reproduced == "exact" else " (repeated, not exactly)")
        ax.plot(collapse.steps, collapse.forces_meV_A, "-", lw=1.2, label=label)
    label = f"{collapse.reason}, step {collapse.first_step}"
    ax.axvline(collapse.first_step, color="#B00020", ls="--", lw=1, label=label)
    ax.set(xlabel="step", ylabel="largest force / (meV/A)", yscale="log")
    ax.legend()
    return ax
