"""Energy drift and temperature, from the log of a simulation."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from openmm_mlbench.errors import MetricError
from openmm_mlbench.measuring.measurement import Measured, curve
from openmm_mlbench.metrics.canonical import canonical_sd, temperature_fluctuation
from openmm_mlbench.metrics.drift import MIN_SAMPLES, compute_drift, plot_drift
from openmm_mlbench.metrics.temperature import plot_temperature, temperature_result
from openmm_mlbench.results import Curve, Measurement, Result
from openmm_mlbench.units import BOLTZMANN_KJMOL_K

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Our columns, and those of OpenMM's StateDataReporter.
COLUMNS = {
    "time": ("time_ps", "Time (ps)"),
    "total": ("total_energy_kJ_mol", "Total Energy (kJ/mole)"),
    "potential": ("potential_energy_kJ_mol", "Potential Energy (kJ/mole)"),
    "kinetic": ("kinetic_energy_kJ_mol", "Kinetic Energy (kJ/mole)"),
    "temperature": ("temperature_K", "Temperature (K)"),
    "T_rot": ("T_rot_K",),
    "T_vib": ("T_vib_K",),
}


@dataclass(frozen=True, kw_only=True)
class Log:
    """Columns of a log by their meaning; energies kJ/mol, times ps, temperatures K. An empty field is NaN."""

    path: Path
    columns: dict[str, NDArray[np.float64]]

    def __getitem__(self, name: str) -> NDArray[np.float64]:
        """A column.

        Raises:
            MetricError: the log does not have it.
        """
        if name not in self.columns:
            wanted = " or ".join(repr(title) for title in COLUMNS[name])
            raise MetricError(f"{self.path}: no column {wanted}; write it into the log of the simulation")
        return self.columns[name]


def read_any_log(
    path: Path, *, frame_interval_ps: float | None = None, start_ps: float = 0.0, stop_ps: float | None = None
) -> Log:
    """A log.csv of ours or of OpenMM's StateDataReporter; a last line that was cut off is left out.

    Args:
        path: comma-separated, with a line of titles.
        frame_interval_ps: between rows, for a log without times.
        start_ps: leave out earlier rows.
        stop_ps: leave out later rows.

    Raises:
        MetricError: the file is missing or damaged, or nothing is left of it.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise MetricError(f"{path}: cannot be read ({error}); give the log of a simulation") from error
    lines = text.splitlines() if text.endswith("\n") else text.splitlines()[:-1]
    rows = list(csv.reader(line.removeprefix("#") for line in lines if line.strip()))
    titles = rows[0] if rows else []
    table = _numbers(path, titles, rows[1:])
    columns = {
        name: table[:, titles.index(title)]
        for name, known in COLUMNS.items()
        for title in known
        if title in titles
    }
    if "total" not in columns and {"potential", "kinetic"} <= set(columns):
        columns["total"] = columns["potential"] + columns["kinetic"]
    if "time" not in columns and frame_interval_ps is not None:
        columns["time"] = frame_interval_ps * np.arange(len(table), dtype=np.float64)
    if "time" not in columns:
        raise MetricError(
            f"{path}: no column of times in ps; give the time between rows: --frame-interval 0.1ps"
        )
    used = columns["time"] >= start_ps - 1e-9
    if stop_ps is not None:
        used &= columns["time"] <= stop_ps + 1e-9
    if not used.any():
        raise MetricError(f"{path}: no row from {start_ps:g} ps on; it has {len(table)}")
    return Log(path=path, columns={name: values[used] for name, values in columns.items()})


def _numbers(path: Path, titles: list[str], rows: list[list[str]]) -> NDArray[np.float64]:
    ragged = next((i for i, row in enumerate(rows) if len(row) != len(titles)), None)
    if ragged is not None:
        raise MetricError(f"{path}: row {ragged + 1} has {len(rows[ragged])} fields for {len(titles)} titles")
    try:
        table = np.array([[_number(cell) for cell in row] for row in rows], dtype=np.float64)
    except ValueError as error:
        raise MetricError(
            f"{path}: a row holds what is no number ({error}); give the log of a simulation"
        ) from error
    return table.reshape(len(rows), len(titles))


def _number(cell: str) -> float:
    # StateDataReporter's progress and remaining time are no numbers and not asked for.
    stripped = cell.strip().removesuffix("%")
    return float("nan") if not stripped or stripped == "--" or ":" in stripped else float(stripped)


def measure_drift(log: Log, n_atoms: int) -> Measured:
    """Drift of the total energy per atom and ps, apart from its oscillation."""
    E, t = log["total"], log["time"]
    unit = "kJ/mol/ps/atom"
    inputs: dict[str, Any] = {"log": str(log.path), "n_atoms": n_atoms, "n_rows": len(E)}
    finite = bool(np.isfinite(E).all())
    curves: dict[str, Curve] = {}
    found = None
    if not finite or len(E) < MIN_SAMPLES:
        status = "too_short" if finite else "unstable"
        note = (
            f"{len(E)} rows; a drift wants {MIN_SAMPLES} or more"
            if finite
            else f"the energy is NaN or Infinity from {t[int(np.flatnonzero(~np.isfinite(E))[0])]:g} ps on: --stop before it"
        )
        results = [Result(name="drift", status=status, unit=unit, n_frames=len(E), note=note)]
    else:
        found = compute_drift(t, E, n_atoms)
        results = [
            Result(
                name="drift",
                status="ok",
                unit=unit,
                value=found.slope,
                stderr=found.stderr,
                n_frames=len(E),
                note=f"over {t[-1] - t[0]:g} ps",
            ),
            Result(
                name="oscillation",
                status="ok",
                unit="kJ/mol/atom",
                value=found.oscillation,
                stderr=found.oscillation_stderr,
                n_frames=len(E),
                note="standard deviation around the line",
            ),
        ]
        curves = {
            "energy": curve(t, found.energy, "ps", "kJ/mol/atom"),
            "line": curve(t, found.line, "ps", "kJ/mol/atom"),
        }
    measurement = Measurement(
        observable="drift",
        mode="standard",
        definition=(
            "Slope of a straight line through the total energy per atom, with weights that vanish at both ends, so "
            "that the oscillation of the time step does not tilt it; the oscillation is what is left."
        ),
        inputs=inputs,
        results=results,
        curves=curves,
    )

    def draw(ax: "Axes") -> None:
        if found is not None:
            plot_drift(found, ax)

    return Measured(measurement=measurement, draw=draw)


def degrees_of_freedom(log: Log, n_atoms: int | None, given: int | None) -> tuple[int, str]:
    """Degrees of freedom behind the log's temperature, and where the number comes from.

    Raises:
        MetricError: nothing tells.
    """
    if given is not None:
        if given < 1:
            raise MetricError(f"{given} degrees of freedom; wanted one or more")
        return given, "as given"
    if {"kinetic", "temperature"} <= set(log.columns):
        kinetic, temperature = log["kinetic"], log["temperature"]
        useful = np.isfinite(kinetic) & np.isfinite(temperature) & (temperature > 0)
        if useful.any():
            ratio = np.median(kinetic[useful] / temperature[useful])
            return max(
                1, round(float(2 * ratio / BOLTZMANN_KJMOL_K))
            ), "from kinetic energy and temperature in the log"
    if n_atoms is not None and n_atoms > 1:
        return 3 * n_atoms - 3, "3 N - 3: no constraints, centre of mass at rest"
    raise MetricError(f"{log.path}: nothing tells the degrees of freedom; give --dof or --topology")


def measure_temperature(log: Log, n_atoms: int | None, n_dof: int | None) -> Measured:
    """Mean temperature, its fluctuation against the canonical one, T_rot and T_vib where the log has them."""
    series = log["temperature"]
    dof, origin = degrees_of_freedom(log, n_atoms, n_dof)
    note = f"{dof} degrees of freedom, {origin}"
    results: list[Result] = []
    if len(series) < 2 or not np.isfinite(series).all():
        status = "too_short" if np.isfinite(series).all() else "unstable"
        why = (
            "fewer than two rows"
            if status == "too_short"
            else "the temperature is NaN or Infinity: --stop before it"
        )
        results.append(Result(name="temperature", status=status, unit="K", n_frames=len(series), note=why))
    else:
        found = temperature_fluctuation(series, dof)
        rows = len(series)
        results += [
            Result(
                name="temperature",
                status="ok",
                unit="K",
                value=found.mean.value,
                stderr=found.mean.stderr,
                n_frames=rows,
                note=note,
            ),
            Result(
                name="temperature_sd",
                status="ok",
                unit="K",
                value=found.sd,
                stderr=None if found.ratio.stderr is None else found.ratio.stderr * found.canonical_sd,
                n_frames=rows,
                note=f"canonical: {found.canonical_sd:.5g} K",
            ),
            Result(
                name="temperature_fluctuation",
                status="ok",
                unit="1",
                value=found.ratio.value,
                stderr=found.ratio.stderr,
                n_frames=rows,
                note="standard deviation over the canonical one, sqrt(2 / dof) T",
            ),
        ]
        for name in ("T_rot", "T_vib"):
            values = log.columns.get(name, np.empty(0))
            values = values[np.isfinite(values)]
            if len(values):
                results.append(temperature_result(name, [values])[0])
    measurement = Measurement(
        observable="temperature",
        mode="standard",
        definition="Kinetic temperature 2 K / (n_dof k_B): mean over time, and its standard deviation against sqrt(2 / n_dof) T.",
        inputs={"log": str(log.path), "n_dof": dof, "n_dof_from": origin, "n_rows": len(series)},
        results=results,
        curves={"temperature": curve(log["time"], series, "ps", "K")},
    )

    def draw(ax: "Axes") -> None:
        finite = series[np.isfinite(series)]
        expected = canonical_sd(float(finite.mean()), dof) if len(finite) else None
        plot_temperature(log["time"], series, ax, expected)

    return Measured(measurement=measurement, draw=draw)
