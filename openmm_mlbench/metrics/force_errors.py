"""Force errors on frames that the model has not seen, in meV/A."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from openmm_mlbench.errors import MetricError
from openmm_mlbench.results import Result
from openmm_mlbench.units import MEV_PER_EV


@dataclass(frozen=True, kw_only=True)
class ForceError:
    """Mean absolute error over force components; ``stderr`` is over frames, None for a single one."""

    mae_mev_A: float
    stderr_mev_A: float | None
    n_frames: int
    n_atoms: int


def compute_force_mae(
    predicted_ev_A: NDArray[np.float64], true_ev_A: NDArray[np.float64], atomic_numbers: NDArray[np.int64]
) -> dict[str, ForceError]:
    """MAE = < |F_predicted - F_true| > over frames, atoms and the three components, meV/A.

    Atoms of one frame are not independent, so the standard error is that of the
    mean over frames.  Frames drawn at random from one trajectory count as independent.

    Args:
        predicted_ev_A: (n_frames, n_atoms, 3), eV/A.
        true_ev_A: (n_frames, n_atoms, 3), eV/A.
        atomic_numbers: (n_atoms,).

    Returns:
        ``all`` and one entry for each chemical symbol.

    Raises:
        MetricError: shapes differ, there is no frame, or a force is not finite.
    """
    predicted, true = np.asarray(predicted_ev_A, dtype=np.float64), np.asarray(true_ev_A, dtype=np.float64)
    if (
        predicted.shape != true.shape
        or predicted.ndim != 3
        or predicted.shape[1:] != (len(atomic_numbers), 3)
    ):
        raise MetricError(
            f"predicted forces {predicted.shape}, true forces {true.shape}; "
            f"wanted both (n_frames, {len(atomic_numbers)}, 3)"
        )
    if len(true) == 0:
        raise MetricError("no test frame; a force error wants at least one")
    for name, forces in (("predicted", predicted), ("true", true)):
        if not np.isfinite(forces).all():
            n_bad = int((~np.isfinite(forces).reshape(len(forces), -1).all(axis=1)).sum())
            raise MetricError(f"{name} forces hold NaN or Infinity in {n_bad} of {len(forces)} frames")
    from ase.data import chemical_symbols

    errors = np.abs(predicted - true) * MEV_PER_EV
    groups = {"all": np.ones(len(atomic_numbers), dtype=bool)}
    for number in np.unique(atomic_numbers):
        groups[chemical_symbols[int(number)]] = np.asarray(atomic_numbers) == number
    return {
        name: _over_frames(errors[:, atoms].mean(axis=(1, 2)), int(atoms.sum()))
        for name, atoms in groups.items()
    }


def _over_frames(per_frame: NDArray[np.float64], n_atoms: int) -> ForceError:
    n = len(per_frame)
    stderr = float(np.std(per_frame, ddof=1) / np.sqrt(n)) if n > 1 else None
    return ForceError(mae_mev_A=float(per_frame.mean()), stderr_mev_A=stderr, n_frames=n, n_atoms=n_atoms)


def force_results(errors: dict[str, ForceError], note: str = "") -> list[Result]:
    """``force_mae`` and one ``force_mae_<symbol>`` for each element, meV/A."""
    return [
        Result(
            name="force_mae" if name == "all" else f"force_mae_{name}",
            status="ok",
            unit="meV/A",
            value=error.mae_mev_A,
            stderr=error.stderr_mev_A,
            n_frames=error.n_frames,
            note=note,
        )
        for name, error in errors.items()
    ]
