"""Errors of forces and energies on frames that the model has not seen, in meV/A and meV."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from openmm_mlbench.errors import MetricError
from openmm_mlbench.results import Curve, Result
from openmm_mlbench.units import MEV_PER_EV

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Points of a parity plot: enough to see outliers, few enough for a file.
MAX_PARITY_POINTS = 2000


@dataclass(frozen=True, kw_only=True)
class ForceError:
    """Mean absolute error over force components; ``stderr`` is over frames, None for a single one.

    ``rmse_mev_A`` is the square root of the mean over all components, not a mean of roots.
    """

    mae_mev_A: float
    stderr_mev_A: float | None
    n_frames: int
    n_atoms: int
    rmse_mev_A: float = 0.0
    rmse_stderr_mev_A: float | None = None


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
    return {name: _over_frames(errors[:, atoms], int(atoms.sum())) for name, atoms in groups.items()}


def _over_frames(errors: NDArray[np.float64], n_atoms: int) -> ForceError:
    """From absolute errors (n_frames, n_atoms, 3)."""
    absolute, squared = errors.mean(axis=(1, 2)), (errors**2).mean(axis=(1, 2))
    rmse = float(np.sqrt(squared.mean()))
    squared_stderr = _stderr(squared)
    return ForceError(
        mae_mev_A=float(absolute.mean()),
        stderr_mev_A=_stderr(absolute),
        n_frames=len(absolute),
        n_atoms=n_atoms,
        rmse_mev_A=rmse,
        # Of a root: d sqrt(x) = dx / (2 sqrt(x)).
        rmse_stderr_mev_A=None if squared_stderr is None or not rmse else squared_stderr / (2 * rmse),
    )


def _stderr(per_frame: NDArray[np.float64]) -> float | None:
    n = len(per_frame)
    return float(np.std(per_frame, ddof=1) / np.sqrt(n)) if n > 1 else None


def force_cosine(
    predicted_ev_A: NDArray[np.float64], true_ev_A: NDArray[np.float64]
) -> tuple[float, float | None] | None:
    """Mean cosine between predicted and true force of an atom, and its standard error over frames.

    cos = F_predicted . F_true / (|F_predicted| |F_true|);  an atom without force has none and is left out.

    Args:
        predicted_ev_A: (n_frames, n_atoms, 3).
        true_ev_A: (n_frames, n_atoms, 3).

    Returns:
        None where no atom has a direction.
    """
    lengths = np.linalg.norm(predicted_ev_A, axis=-1) * np.linalg.norm(true_ev_A, axis=-1)
    dots = (np.asarray(predicted_ev_A) * true_ev_A).sum(axis=-1)
    per_frame = [
        float((dot[n > 0] / n[n > 0]).mean()) for dot, n in zip(dots, lengths, strict=True) if (n > 0).any()
    ]
    if not per_frame:
        return None
    values = np.array(per_frame)
    return float(values.mean()), _stderr(values)


def force_results(errors: dict[str, ForceError], note: str = "") -> list[Result]:
    """``force_mae`` and ``force_rmse``, and each of them for each element, ``force_mae_<symbol>``, meV/A."""

    def result(name: str, value: float, stderr: float | None) -> Result:
        n_frames = errors["all"].n_frames
        return Result(
            name=name, status="ok", unit="meV/A", value=value, stderr=stderr, n_frames=n_frames, note=note
        )

    maes = [
        result("force_mae" if name == "all" else f"force_mae_{name}", error.mae_mev_A, error.stderr_mev_A)
        for name, error in errors.items()
    ]
    rmses = [
        result(
            "force_rmse" if name == "all" else f"force_rmse_{name}", error.rmse_mev_A, error.rmse_stderr_mev_A
        )
        for name, error in errors.items()
    ]
    return [*maes, *rmses]


def cosine_result(predicted_ev_A: NDArray[np.float64], true_ev_A: NDArray[np.float64]) -> Result:
    """``force_cosine``: 1 where every force points the right way."""
    found = force_cosine(predicted_ev_A, true_ev_A)
    n_frames = len(true_ev_A)
    if found is None:
        note = "all forces are zero"
        return Result(name="force_cosine", status="unsupported", unit="1", n_frames=n_frames, note=note)
    value, stderr = found
    return Result(name="force_cosine", status="ok", unit="1", value=value, stderr=stderr, n_frames=n_frames)


def energy_results(
    predicted_ev: NDArray[np.float64] | None, true_ev: NDArray[np.float64] | None, n_atoms: int
) -> list[Result]:
    """Errors as predicted and after the mean error is taken out.

    ``energy_mae`` (meV), ``energy_mae_per_atom`` (meV/atom), ``energy_rmse`` (meV), ``energy_rmse_per_atom`` (meV/atom);
    those per atom are without the mean error: a constant shift of all energies changes no force.

    Args:
        predicted_ev: (n_frames,), or None: the model gives no energies.
        true_ev: (n_frames,), or None: the data have none.
        n_atoms: of a frame.

    Raises:
        MetricError: shapes differ, or an energy is not finite.
    """
    names = (
        ("energy_mae", "meV"),
        ("energy_mae_per_atom", "meV/atom"),
        ("energy_rmse", "meV"),
        ("energy_rmse_per_atom", "meV/atom"),
    )
    if predicted_ev is None or true_ev is None:
        note = "the test frames have no energies" if true_ev is None else "the model gives no energies"
        status = "no_reference" if true_ev is None else "unsupported"
        return [Result(name=name, status=status, unit=unit, note=note) for name, unit in names]
    predicted, true = np.asarray(predicted_ev, dtype=np.float64), np.asarray(true_ev, dtype=np.float64)
    if predicted.shape != true.shape or predicted.ndim != 1 or not len(true):
        raise MetricError(
            f"predicted energies {predicted.shape}, true energies {true.shape}; wanted both (n_frames,)"
        )
    if not (np.isfinite(predicted).all() and np.isfinite(true).all()):
        raise MetricError("an energy of the test frames is NaN or Infinity; measure frames that are finite")
    difference = (predicted - true) * MEV_PER_EV
    centred = (difference - difference.mean()) / n_atoms
    taken_out = f"mean error of {difference.mean():.4g} meV taken out"
    found = [
        (float(np.abs(difference).mean()), _stderr(np.abs(difference)), ""),
        (float(np.abs(centred).mean()), _stderr(np.abs(centred)), taken_out),
        (*_rms(difference), ""),
        (*_rms(centred), taken_out),
    ]
    return [
        Result(name=name, status="ok", unit=unit, value=value, stderr=stderr, n_frames=len(true), note=note)
        for (name, unit), (value, stderr, note) in zip(names, found, strict=True)
    ]


def _rms(differences: NDArray[np.float64]) -> tuple[float, float | None]:
    """Root of the mean square over frames, and its standard error, as d sqrt(x) = dx / (2 sqrt(x))."""
    rms, stderr = float(np.sqrt(np.mean(differences**2))), _stderr(differences**2)
    return rms, None if stderr is None or not rms else stderr / (2 * rms)


def parity_curve(true: NDArray[np.float64], predicted: NDArray[np.float64], unit: str) -> Curve:
    """Predicted against true values, evenly thinned to at most 2,000 points."""
    x, y = np.asarray(true, dtype=np.float64).ravel(), np.asarray(predicted, dtype=np.float64).ravel()
    kept = np.unique(np.linspace(0, len(x) - 1, min(len(x), MAX_PARITY_POINTS)).astype(np.int64))

    def rounded(values: NDArray[np.float64]) -> list[float]:
        return [float(f"{value:.8g}") for value in values[kept]]

    return Curve(x=rounded(x), y=rounded(y), x_unit=unit, y_unit=unit)


def plot_parity(result: Curve, ax: "Axes | None" = None, label: str = "") -> "Axes":
    """Predicted against true values, with the line on which they are equal."""
    if ax is None:
        from matplotlib.figure import Figure

        ax = Figure(figsize=(4, 4), layout="constrained").subplots()
    ax.plot(result.x, result.y, ".", ms=2, label=label or None)
    ends = [min(*result.x, *result.y), max(*result.x, *result.y)]
    ax.plot(ends, ends, "k-", lw=0.8)
    ax.set(xlabel=f"true / ({result.x_unit})", ylabel=f"predicted / ({result.y_unit})", aspect="equal")
    if label:
        ax.legend()
    return ax
