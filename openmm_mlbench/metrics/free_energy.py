"""Free energy along two dihedral angles: from hills, from a biased or an unbiased trajectory, and its error.

What it says: how often a molecule is in which conformation.  When it misleads: a barrier
that was never crossed leaves the depth of basins against one another to chance, and bins
that were never visited have no value at all.

Grid points lie at -pi + 2 pi k / n, as PLUMED's periodic grids have them; a histogram
counts an angle for the nearest point.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from openmm_mlbench.errors import MetricError
from openmm_mlbench.files import write_text
from openmm_mlbench.units import BOLTZMANN_KJMOL_K

if TYPE_CHECKING:
    from matplotlib.axes import Axes

N_BINS = 60
# What the paper's code takes for k_B T at 300 K, kJ/mol, and for 2 pi.
MDSIM_KT = 2.49
MDSIM_TWO_PI = 6.28
# PLUMED cuts its Gaussians where (s - s0)^2 / (2 sigma^2) reaches this.
_CUTOFF = 6.25

DEFINITION = {
    "paper": (
        "F = -k_B T ln p (paper, eq. 5), p summed over the other angle, each profile shifted to minimum 0; MAE: "
        "integral of |F - F_ref| over -pi to pi (eqs. 6, 7)."
    ),
    "mdsim": (
        "As the paper's code: k_B T = 2.49 kJ/mol, exp(-F / k_B T) summed over the other angle, each profile "
        "shifted to minimum 0, mean of |F - F_ref| times 6.28."
    ),
}
UNVISITED = (
    "a bin that was never visited takes the highest free energy seen in its own profile, a lower bound"
)


def thermal_energy(temperature_K: float, mode: str = "paper") -> float:
    """Thermal energy k_B T in kJ/mol; the paper's code always has 2.49.

    Raises:
        MetricError: the temperature is not positive.
    """
    if not (np.isfinite(temperature_K) and temperature_K > 0):
        raise MetricError(f"temperature {temperature_K} K; wanted a number above zero")
    return MDSIM_KT if mode == "mdsim" else BOLTZMANN_KJMOL_K * temperature_K


def grid_points(n_bins: int) -> NDArray[np.float64]:
    """(n_bins,), rad, from -pi."""
    return -np.pi + 2 * np.pi * np.arange(n_bins, dtype=np.float64) / n_bins


@dataclass(frozen=True, kw_only=True)
class FreeEnergySurface:
    """F on a periodic grid of two angles.

    Args:
        F: (n_bins, n_bins), kJ/mol, first index along the first angle; Infinity where never visited.
        names: of the angles.
        source: where it comes from.
    """

    F: NDArray[np.float64]
    names: tuple[str, str] = ("phi", "psi")
    source: str = ""

    def __post_init__(self) -> None:
        if self.F.ndim != 2 or self.F.shape[0] != self.F.shape[1] or self.F.shape[0] < 2:
            raise MetricError(
                f"{self.source}: a surface of {self.F.shape} bins; wanted as many along both angles"
            )
        if np.isnan(self.F).any() or not np.isfinite(self.F).any():
            raise MetricError(f"{self.source}: the surface holds NaN or no finite value")

    @property
    def n_bins(self) -> int:
        """Grid points along each angle."""
        return len(self.F)

    def profile(self, axis: int, kT: float) -> NDArray[np.float64]:
        """F along one angle (n_bins,), minimum 0, kJ/mol; Infinity where never visited.

        F(phi) = -kT ln sum_psi exp(-F(phi, psi) / kT)        (paper, eq. 5)

        Args:
            axis: 0: the first angle, 1: the second.
            kT: kJ/mol.
        """
        lowest = self.F[np.isfinite(self.F)].min()
        p = np.exp(-(self.F - lowest) / kT).sum(axis=1 - axis)
        return free_energy(p, kT)


def free_energy(p: NDArray[np.float64], kT: float) -> NDArray[np.float64]:
    """F = -kT ln p with minimum 0; Infinity where p is 0.

    Raises:
        MetricError: p is zero everywhere, negative or not finite.
    """
    if not np.isfinite(p).all() or (p < 0).any() or not (p > 0).any():
        raise MetricError("no frame has a weight; a free energy wants visited bins")
    with np.errstate(divide="ignore"):
        return -kT * np.log(p / p.max())


# --- From angles ---------------------------------------------------------------------------------


def angle_histogram(
    angles_rad: NDArray[np.float64], weights: NDArray[np.float64] | None = None, n_bins: int = N_BINS
) -> NDArray[np.float64]:
    """Weight of the frames nearest to each grid point (n_bins, n_bins).

    Args:
        angles_rad: (n_frames, 2).
        weights: (n_frames,); 1 each where None.
        n_bins: along each angle.

    Raises:
        MetricError: NaN, or no bins.
    """
    if n_bins < 2:
        raise MetricError(f"{n_bins} bins; wanted two or more")
    if not np.isfinite(angles_rad).all():
        frame = int(np.flatnonzero(~np.isfinite(angles_rad).all(axis=1))[0])
        raise MetricError(f"the angles of frame {frame} are NaN or Infinity; measure the part before it")
    index = np.floor((angles_rad + np.pi) / (2 * np.pi / n_bins) + 0.5).astype(np.int64) % n_bins
    flat = np.bincount(index[:, 0] * n_bins + index[:, 1], weights=weights, minlength=n_bins**2)
    return flat.reshape(n_bins, n_bins).astype(np.float64)


def surface_from_angles(
    angles_rad: NDArray[np.float64],
    kT: float,
    *,
    weights: NDArray[np.float64] | None = None,
    n_bins: int = N_BINS,
    names: tuple[str, str] = ("phi", "psi"),
    source: str = "",
) -> FreeEnergySurface:
    """F(phi, psi) = -kT ln p(phi, psi) of the frames of a trajectory        (paper, eq. 5).

    Args:
        angles_rad: (n_frames, 2).
        kT: kJ/mol.
        weights: (n_frames,) of a biased trajectory.
        n_bins: along each angle.
        names: of the angles.
        source: for messages.
    """
    return FreeEnergySurface(
        F=free_energy(angle_histogram(angles_rad, weights, n_bins), kT), names=names, source=source
    )


# --- PLUMED's files ------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class PlumedTable:
    """A file of PLUMED: HILLS, COLVAR or fes.dat.

    Args:
        path: the file.
        fields: names of the columns.
        rows: (n_rows, n_fields).
        settings: what its ``#! SET`` lines say, the last of each.
    """

    path: Path
    fields: tuple[str, ...]
    rows: NDArray[np.float64]
    settings: dict[str, str]

    def __getitem__(self, name: str) -> NDArray[np.float64]:
        """A column.

        Raises:
            MetricError: there is none of this name.
        """
        if name not in self.fields:
            raise MetricError(f"{self.path}: no column {name}; it has {', '.join(self.fields)}")
        return self.rows[:, self.fields.index(name)]

    @property
    def kind(self) -> str:
        """``hills``, ``surface`` or ``colvar``."""
        if "height" in self.fields:
            return "hills"
        return "surface" if any(field.endswith("free") for field in self.fields) else "colvar"


def read_plumed(path: str | os.PathLike[str]) -> PlumedTable:
    """Read a table that PLUMED wrote; a last line that was cut off is left out, as after a kill.

    Raises:
        MetricError: the file is missing, is none of PLUMED's, or a line is damaged.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise MetricError(f"{path}: cannot be read ({error}); give a file that PLUMED wrote") from error
    fields: tuple[str, ...] = ()
    settings: dict[str, str] = {}
    rows: list[list[float]] = []
    lines = text.splitlines()
    for number, line in enumerate(lines, 1):
        words = line.split()
        if words[:2] == ["#!", "FIELDS"]:
            if fields and fields != tuple(words[2:]):
                raise MetricError(f"{path} line {number}: other columns than before; give one run's file")
            fields = tuple(words[2:])
        elif words[:2] == ["#!", "SET"] and len(words) >= 4:
            settings[words[2]] = words[3]
        elif words and not words[0].startswith("#"):
            values = _numbers(words)
            cut_off = number == len(lines) and not text.endswith("\n")
            if values is not None and len(values) == len(fields) and not cut_off:
                rows.append(values)
            elif not fields:
                break
            elif not cut_off:
                raise MetricError(f"{path} line {number}: not {len(fields)} numbers; the file is damaged")
    if not fields:
        raise MetricError(f"{path}: no line '#! FIELDS'; give a HILLS, COLVAR or fes.dat file of PLUMED")
    if not rows:
        raise MetricError(f"{path}: holds no rows; wanted at least one")
    return PlumedTable(path=path, fields=fields, rows=np.array(rows, dtype=np.float64), settings=settings)


def _numbers(words: list[str]) -> list[float] | None:
    try:
        return [float(word) for word in words]
    except ValueError:
        return None


def read_fes(path: str | os.PathLike[str]) -> FreeEnergySurface:
    """Read a two-dimensional fes.dat on a periodic grid over the whole circle; kJ/mol, the first angle runs fastest.

    Raises:
        MetricError: it is no such grid.
    """
    return surface_of(read_plumed(path))


def surface_of(table: PlumedTable) -> FreeEnergySurface:
    """The surface in a fes.dat that was read."""
    free = next((field for field in table.fields if field.endswith("free")), None)
    if free is None or table.fields.index(free) != 2:
        raise MetricError(
            f"{table.path}: columns {', '.join(table.fields)}; wanted two angles and their free energy"
        )
    names = table.fields[:2]
    n_bins = round(len(table.rows) ** 0.5)
    points = grid_points(n_bins)
    first, second, F = table.rows[:, 0], table.rows[:, 1], table.rows[:, 2]
    expected = (np.tile(points, n_bins), np.repeat(points, n_bins))
    if (
        len(table.rows) != n_bins**2
        or n_bins < 2
        or not (np.allclose(first, expected[0], atol=1e-6) and np.allclose(second, expected[1], atol=1e-6))
    ):
        raise MetricError(
            f"{table.path}: {len(table.rows)} points that are no square periodic grid from -pi, {names[0]} fastest; "
            "write it with sum_hills --min -pi,-pi --max pi,pi --bin 60,60"
        )
    return FreeEnergySurface(
        F=F.reshape(n_bins, n_bins).T, names=(names[0], names[1]), source=str(table.path)
    )


def write_fes(path: str | os.PathLike[str], surface: FreeEnergySurface) -> None:
    """Write a fes.dat as PLUMED's sum_hills has it, without derivatives; ``inf`` where never visited."""
    first, second = surface.names
    lines = [f"#! FIELDS {first} {second} file.free"]
    for name in surface.names:
        lines += [
            f"#! SET min_{name} -pi",
            f"#! SET max_{name} pi",
            f"#! SET nbins_{name}  {surface.n_bins}",
            f"#! SET periodic_{name} true",
        ]
    points = grid_points(surface.n_bins)
    for j, psi in enumerate(points):
        lines += [f"{phi:15.9f} {psi:15.9f} {surface.F[i, j]:15.9f}" for i, phi in enumerate(points)]
        lines.append("")
    write_text(path, "\n".join(lines) + "\n")


# --- Metadynamics --------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Hills:
    """Gaussians that a metadynamics run left behind.

    Args:
        times_ps: (n_hills,).
        centres: (n_hills, 2), rad.
        sigmas: (n_hills, 2), rad.
        heights: (n_hills,), kJ/mol, as the file has them: a well-tempered run's are scaled by g / (g - 1).
        bias_factor: g; 1 for plain metadynamics.
        stretched: PLUMED's kernel that goes to zero at its cutoff.
        names: of the angles.
        source: the file.
    """

    times_ps: NDArray[np.float64]
    centres: NDArray[np.float64]
    sigmas: NDArray[np.float64]
    heights: NDArray[np.float64]
    bias_factor: float
    stretched: bool
    names: tuple[str, str]
    source: str

    def kernel(self, hill: int, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """One hill of height 1 on the grid (n_bins, n_bins)."""
        halves = []
        for axis in (0, 1):
            d = points - self.centres[hill, axis]
            d -= 2 * np.pi * np.rint(d / (2 * np.pi))
            halves.append(d**2 / (2 * self.sigmas[hill, axis] ** 2))
        exponent = halves[0][:, None] + halves[1][None, :]
        values = np.exp(-exponent)
        if self.stretched:
            at_cutoff = np.exp(-_CUTOFF)
            values = (values - at_cutoff) / (1 - at_cutoff)
        return np.where(exponent < _CUTOFF, values, 0.0)


def read_hills(path: str | os.PathLike[str]) -> Hills:
    """Read a HILLS file of two angles.

    Raises:
        MetricError: it is damaged, of another number of variables, or of multivariate hills.
    """
    return hills_of(read_plumed(path))


def hills_of(table: PlumedTable) -> Hills:
    """The hills in a HILLS file that was read."""
    if table.kind != "hills" or len(table.fields) < 7 or table.fields[0] != "time":
        raise MetricError(
            f"{table.path}: columns {', '.join(table.fields)}; wanted the HILLS file of two angles: "
            "time phi psi sigma_phi sigma_psi height biasf"
        )
    names = table.fields[1:3]
    if f"sigma_{names[0]}" not in table.fields or f"sigma_{names[1]}" not in table.fields:
        raise MetricError(
            f"{table.path}: hills of other than two angles, or multivariate ones, are not summed here"
        )
    kernel = table.settings.get("kerneltype", "gaussian")
    if kernel not in ("gaussian", "stretched-gaussian"):
        raise MetricError(f"{table.path}: kernel {kernel!r}; wanted gaussian or stretched-gaussian")
    bias_factors = np.unique(table["biasf"]) if "biasf" in table.fields else np.array([1.0])
    if len(bias_factors) > 1:
        raise MetricError(f"{table.path}: bias factors {bias_factors.tolist()}; give one run's hills")
    sigmas = np.stack([table[f"sigma_{name}"] for name in names], axis=1)
    if not (np.isfinite(table.rows).all() and (sigmas > 0).all()):
        raise MetricError(f"{table.path}: a hill is not finite or has no width; the file is damaged")
    return Hills(
        times_ps=table["time"],
        centres=np.stack([table[name] for name in names], axis=1),
        sigmas=sigmas,
        heights=table["height"],
        bias_factor=float(bias_factors[0]),
        stretched=kernel == "stretched-gaussian",
        names=(names[0], names[1]),
        source=str(table.path),
    )


def surface_from_hills(
    hills: Hills, n_bins: int = N_BINS, until_ps: float | None = None
) -> FreeEnergySurface:
    """F = -sum of the hills, as sum_hills computes it; minimum 0.

    Heights in the file of a well-tempered run are scaled already, so their sum is -F.

    Args:
        hills: of one run.
        n_bins: along each angle.
        until_ps: leave out later hills.

    Raises:
        MetricError: no hill is left.
    """
    used = np.flatnonzero(hills.times_ps <= (np.inf if until_ps is None else until_ps))
    if not len(used) or n_bins < 2:
        raise MetricError(
            f"{hills.source}: {len(used)} hills up to {until_ps} ps on {n_bins} bins; wanted some of both"
        )
    points = grid_points(n_bins)
    total = np.zeros((n_bins, n_bins))
    for hill in used.tolist():
        total += hills.heights[hill] * hills.kernel(hill, points)
    return FreeEnergySurface(F=total.max() - total, names=hills.names, source=hills.source)


def bias_offsets(hills: Hills, kT: float, n_bins: int = N_BINS) -> NDArray[np.float64]:
    """c(t) after each hill (n_hills + 1,), kJ/mol: what the bias does on average by then.

    c = kT ln [ int exp(g / (g - 1) V / kT) ds / int exp(V / ((g - 1) kT)) ds ]

    Source: Tiwary and Parrinello, J. Phys. Chem. B 119, 736 (2015).
    """
    points = grid_points(n_bins)
    g = hills.bias_factor
    tempered = g > 1
    to_bias = (g - 1) / g if tempered else 1.0
    deposited = np.zeros((n_bins, n_bins))
    offsets = np.zeros(len(hills.heights) + 1)
    for hill, height in enumerate(hills.heights):
        # The sum of the file's hills is V g / (g - 1).
        deposited += height * hills.kernel(hill, points)
        above = log_mean_exp(deposited / kT)
        below = log_mean_exp(deposited * to_bias / ((g - 1) * kT)) if tempered else 0.0
        offsets[hill + 1] = kT * (above - below)
    return offsets


def log_mean_exp(values: NDArray[np.float64]) -> float:
    """Ln < exp(values) >, safe for large ones."""
    highest = float(values.max())
    return highest + float(np.log(np.mean(np.exp(values - highest))))


def frame_weights(
    colvar: PlumedTable, kT: float, hills: Hills | None = None
) -> tuple[NDArray[np.float64], str]:
    """Weight of each row of a COLVAR file, exp[(V - c(t)) / kT], and how it was found.

    Args:
        colvar: with a column ``*.rbias`` (V - c), or ``*.bias`` (V).
        kT: kJ/mol.
        hills: of the same run, for c(t) where the file has V alone.

    Raises:
        MetricError: there is no column of a bias, or it is not finite.
    """
    shifted = [field for field in colvar.fields if field.endswith(".rbias")]
    plain = [field for field in colvar.fields if field.endswith(".bias")]
    if shifted:
        exponent, how = (
            np.sum([colvar[field] for field in shifted], axis=0),
            f"weights exp({' + '.join(shifted)} / kT)",
        )
    elif plain and hills is not None:
        before = np.searchsorted(hills.times_ps, colvar["time"], side="left")
        exponent = np.sum([colvar[field] for field in plain], axis=0) - bias_offsets(hills, kT)[before]
        how = f"weights exp(({' + '.join(plain)} - c(t)) / kT), c(t) from the hills"
    elif plain:
        exponent = np.sum([colvar[field] for field in plain], axis=0)
        how = f"weights exp({' + '.join(plain)} / kT): right for a bias that no longer changes"
    else:
        raise MetricError(
            f"{colvar.path}: no column *.bias or *.rbias; print metad.bias or metad.rbias, or measure the trajectory as unbiased"
        )
    if not np.isfinite(exponent).all():
        raise MetricError(
            f"{colvar.path}: the bias is NaN or Infinity in row {int(np.flatnonzero(~np.isfinite(exponent))[0])}"
        )
    return np.exp((exponent - exponent.max()) / kT), how


# --- Comparing -----------------------------------------------------------------------------------


def filled(profile: NDArray[np.float64]) -> NDArray[np.float64]:
    """Unvisited bins at the highest value that was seen."""
    seen = np.isfinite(profile)
    return np.where(seen, profile, profile[seen].max())


def profile_mae(
    profile: NDArray[np.float64],
    reference: NDArray[np.float64],
    *,
    mode: str = "paper",
    align: str = "minimum",
) -> float:
    """Integral of |F - F_ref| over the circle, kJ/mol rad        (paper, eqs. 6 and 7).

    On a periodic grid rectangles and trapezoids give the same sum.  Unvisited bins take the
    highest value that was seen in their own profile.

    Args:
        profile: (n_bins,), kJ/mol.
        reference: (n_bins,), kJ/mol.
        mode: ``mdsim`` takes 6.28 for 2 pi.
        align: ``minimum``: each has its minimum at 0; ``mean``: their mean difference is 0.

    Raises:
        MetricError: the grids differ, or the alignment is unknown.
    """
    if profile.shape != reference.shape or profile.ndim != 1:
        raise MetricError(
            f"the profile has {profile.size} points, its reference {reference.size}; use one grid"
        )
    if align not in ("minimum", "mean"):
        raise MetricError(f"alignment {align!r}; wanted minimum or mean")
    one, other = filled(profile), filled(reference)
    difference = one - other - (np.mean(one - other) if align == "mean" else one.min() - other.min())
    circle = MDSIM_TWO_PI if mode == "mdsim" else 2 * np.pi
    return float(np.mean(np.abs(difference)) * circle)


def surface_mae(surface: FreeEnergySurface, reference: FreeEnergySurface, below: float = 25.0) -> float:
    """Mean of |F - F_ref| over the bins that matter, kJ/mol: where the reference is low.

    Both are shifted to the same mean there; an unvisited bin takes the highest value that was
    seen.  It says little where the reference itself was hardly sampled.

    Args:
        surface: to judge.
        reference: on the same grid.
        below: bins up to so far above the reference's minimum count, kJ/mol.

    Raises:
        MetricError: the grids differ.
    """
    if surface.F.shape != reference.F.shape:
        raise MetricError(
            f"the surface has {surface.n_bins} bins, its reference {reference.n_bins}; use one grid"
        )
    low = reference.F - reference.F.min() <= below
    difference = filled(surface.F)[low] - reference.F[low]
    return float(np.mean(np.abs(difference - difference.mean())))


def mean_surface(surfaces: Sequence[FreeEnergySurface], kT: float, source: str) -> FreeEnergySurface:
    """F of the mean of the probabilities of independent runs.

    Args:
        surfaces: on one grid.
        kT: kJ/mol.
        source: for messages.
    """
    if len({surface.F.shape for surface in surfaces}) != 1:
        raise MetricError(f"{source}: surfaces on different grids; use one")
    p = [np.exp(-(surface.F - surface.F.min()) / kT) for surface in surfaces]
    mean = np.mean([one / one.sum() for one in p], axis=0)
    return FreeEnergySurface(F=free_energy(mean, kT), names=surfaces[0].names, source=source)


def plot_profile(
    surface: FreeEnergySurface,
    kT: float,
    axis: int = 0,
    ax: "Axes | None" = None,
    stderr: NDArray[np.float64] | None = None,
    **line: Any,
) -> "Axes":
    """F along one angle, with a band of one standard error (n_bins,), kJ/mol, where there is one."""
    if ax is None:
        from matplotlib.figure import Figure

        ax = Figure(figsize=(5, 3.5), layout="constrained").subplots()
    points, F = grid_points(surface.n_bins), surface.profile(axis, kT)
    (drawn,) = ax.plot(points, F, **line)
    if stderr is not None:
        seen = np.isfinite(F)
        low, high = (F - stderr)[seen], (F + stderr)[seen]
        ax.fill_between(points[seen], low, high, color=drawn.get_color(), alpha=0.25, lw=0)
    ax.set(xlabel=f"{surface.names[axis]} / rad", ylabel="F / (kJ/mol)")
    return ax


def plot_surface(surface: FreeEnergySurface, ax: "Axes | None" = None) -> "Axes":
    """F over both angles, white where never visited."""
    if ax is None:
        from matplotlib.figure import Figure

        ax = Figure(figsize=(5, 4), layout="constrained").subplots()
    F = np.ma.masked_invalid(surface.F - surface.F.min()).T
    # Each pixel around its grid point, the first at -pi.
    low, high = -np.pi - np.pi / surface.n_bins, np.pi - np.pi / surface.n_bins
    image = ax.imshow(F, origin="lower", extent=(low, high, low, high), cmap="viridis")
    ax.set(xlabel=f"{surface.names[0]} / rad", ylabel=f"{surface.names[1]} / rad")
    ax.figure.colorbar(image, ax=ax, label="F / (kJ/mol)")
    return ax
