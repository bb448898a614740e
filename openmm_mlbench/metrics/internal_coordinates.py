"""Bond lengths, bond angles and dihedral angles: how they are distributed, and the share of time in each basin.

What they say: bond lengths and angles show stiffness and temperature of vibrations, without
velocities; dihedrals show conformers.  When they mislead: constrained bonds have no width;
atoms of one element differ in their surroundings and are averaged here; a basin that was
entered a few times only has a larger error than its number tells.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from openmm_mlbench.cells import nearest_images
from openmm_mlbench.dihedrals import compute_dihedrals
from openmm_mlbench.errors import MetricError
from openmm_mlbench.metrics.floors import Segments
from openmm_mlbench.trajectory import Trajectory
from openmm_mlbench.units import ANGSTROM_PER_NM

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BOND_R_MAX_A, BOND_BINS = 3.0, 300
ANGLE_BINS = 180
DIHEDRAL_BINS = 72

# What a group's number of atoms makes of it.
_KIND = {2: "bond", 3: "angle", 4: "dihedral"}
_UNIT = {2: "A", 3: "deg", 4: "deg"}

# Thirds of the circle around the minima of a threefold barrier (IUPAC: gauche, trans), and halves
# around those of a twofold one (cis, trans); degrees in [0, 360).
THREEFOLD = {"gauche+": (0.0, 120.0), "trans": (120.0, 240.0), "gauche-": (240.0, 360.0)}
TWOFOLD = {"cis": (270.0, 90.0), "trans": (90.0, 270.0)}
# The whole map of phi and psi, degrees, as Beauchamp, Pande and Das (Biophys. J. 106, 1381, 2014) cut it
# after Jha et al. (Biochemistry 44, 9691, 2005).
BACKBONE_SOURCE = (
    "alpha: phi < 0, -100 < psi < 50; PPII: -100 < phi < 0, other psi; beta: phi < -100, other psi; alpha_L: phi > 0 "
    "(Beauchamp et al., Biophys. J. 106, 1381, 2014, after Jha et al., Biochemistry 44, 9691, 2005)"
)
BACKBONE = ("beta", "PPII", "alpha", "alpha_L")


@dataclass(frozen=True, kw_only=True)
class CoordinateGroup:
    """Internal coordinates that are looked at together: all C-H bonds, one dihedral.

    Args:
        label: how results call them.
        atoms: (n, 2) bonds, (n, 3) angles with the middle atom second, or (n, 4) dihedrals.

    Raises:
        MetricError: there is none, or the shape is another.
    """

    label: str
    atoms: NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.atoms.ndim != 2 or self.atoms.shape[1] not in _KIND or not len(self.atoms):
            raise MetricError(
                f"{self.label}: atoms of shape {self.atoms.shape}; wanted (n, 2), (n, 3) or (n, 4), n above zero"
            )

    @property
    def unit(self) -> str:
        """``A`` for bonds, ``deg`` for angles."""
        return _UNIT[self.atoms.shape[1]]


def coordinate_values(
    positions_nm: NDArray[np.float64],
    atoms: NDArray[np.int64],
    box_vectors_nm: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Bond lengths in A, angles (0 to 180) or dihedrals (-180 to 180, IUPAC's sign) in degrees.

    Args:
        positions_nm: (n_frames, n_atoms, 3), nm.
        atoms: (n, 2), (n, 3) or (n, 4) indices.
        box_vectors_nm: (n_frames, 3, 3), nm; bonds are then taken to the nearest image.

    Returns:
        (n_frames, n).
    """
    if atoms.shape[1] == 4:
        return np.degrees(compute_dihedrals(positions_nm, atoms, box_vectors_nm))

    def bond(first: int, last: int) -> NDArray[np.float64]:
        vectors = positions_nm[:, atoms[:, last]] - positions_nm[:, atoms[:, first]]
        return vectors if box_vectors_nm is None else nearest_images(vectors, box_vectors_nm)

    if atoms.shape[1] == 2:
        return np.linalg.norm(bond(0, 1), axis=-1) * ANGSTROM_PER_NM
    one, other = bond(1, 0), bond(1, 2)
    sine = np.linalg.norm(np.cross(one, other), axis=-1)
    return np.degrees(np.arctan2(sine, (one * other).sum(axis=-1)))


def bond_edges_A(r_max_A: float = BOND_R_MAX_A, n_bins: int = BOND_BINS) -> NDArray[np.float64]:  # noqa: N802 - A is the unit
    """(n_bins + 1,), A: a quarter of a bin off round numbers, where rigid bonds lie and would fall to either side."""
    if not (n_bins >= 1 and np.isfinite(r_max_A) and r_max_A > 0):
        raise MetricError(f"{n_bins} bins up to {r_max_A} A; wanted 1 or more, up to a length above zero")
    return np.linspace(0.0, r_max_A, n_bins + 1) + 0.25 * r_max_A / n_bins


def angle_edges(n_bins: int = ANGLE_BINS, *, dihedral: bool = False) -> NDArray[np.float64]:
    """(n_bins + 1,), degrees: 0 to 180, or -180 to 180 for dihedrals."""
    if n_bins < 1:
        raise MetricError(f"{n_bins} bins; wanted 1 or more")
    return np.linspace(-180.0 if dihedral else 0.0, 180.0, n_bins + 1)


# --- Distributions -------------------------------------------------------------------------------
# Sums of a segment: counts in each bin, outside of all bins, number of values, sum, sum of squares.


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """How the coordinates of one group are distributed, with sums per segment of the trajectory.

    Args:
        label: of the group.
        unit: ``A`` or ``deg``.
        edges: (n_bins + 1,).
        segments: (n_segments, n_bins + 4).
        n_coordinates: coordinates in the group.
        length_ps: length of the trajectory, ps.
    """

    label: str
    unit: str
    edges: NDArray[np.float64]
    segments: NDArray[np.float64]
    n_coordinates: int
    length_ps: float

    @property
    def centres(self) -> NDArray[np.float64]:
        """Middles of the bins (n_bins,)."""
        return (self.edges[1:] + self.edges[:-1]) / 2

    @property
    def sums(self) -> NDArray[np.float64]:
        """(n_bins + 4,), of all segments."""
        return np.asarray(self.segments.sum(axis=0))

    @property
    def density(self) -> NDArray[np.float64]:
        """(n_bins,), one over the unit; area 1 where no value lies outside of the bins."""
        return density_of(self.sums, self.edges)

    @property
    def mean(self) -> float:
        """Of all values, also those outside of the bins; says nothing of dihedrals, which are periodic."""
        return mean_of(self.sums)

    @property
    def sd(self) -> float:
        """Standard deviation of all values around their common mean."""
        return sd_of(self.sums)

    @property
    def n_frames(self) -> int:
        """Frames behind it."""
        return round(float(self.sums[-3]) / self.n_coordinates)


def density_of(sums: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n_bins,) of the sums of some segments."""
    return np.asarray(sums[:-4] / (sums[-3] * np.diff(edges)))


def mean_of(sums: NDArray[np.float64]) -> float:
    """Mean of the values of some segments."""
    return float(sums[-2] / sums[-3])


def sd_of(sums: NDArray[np.float64]) -> float:
    """Standard deviation of the values of some segments; rigid bonds have one of rounding only."""
    return float(np.sqrt(max(sums[-1] / sums[-3] - (sums[-2] / sums[-3]) ** 2, 0.0)))


def distribution_mae(sums: NDArray[np.float64], reference_sums: NDArray[np.float64]) -> float:
    """Area between two distributions: 0 when equal, 2 when they share no bin.

    MAE = sum_k |p_k - p_ref,k| over the shares of the values in each bin, what lies outside being one bin more.

    Args:
        sums: (n_bins + 4,), of some segments.
        reference_sums: (n_bins + 4,), on the same bins.

    Raises:
        MetricError: the bins differ in number.
    """
    if sums.shape != reference_sums.shape:
        raise MetricError(
            f"a distribution of {len(sums) - 4} bins, its reference of {len(reference_sums) - 4}; use the same bins"
        )
    return float(np.abs(sums[:-3] / sums[-3] - reference_sums[:-3] / reference_sums[-3]).sum())


class DistributionAccumulator:
    """Histograms of internal coordinates chunk by chunk, so that a trajectory need not fit into memory.

    Args:
        groups: of one kind.
        n_frames: of the whole trajectory.
        edges: (n_bins + 1,), equally spaced, A or degrees.
        nth: every nth frame only will be added.

    Raises:
        MetricError: no groups, no frames.
    """

    def __init__(
        self,
        groups: Sequence[CoordinateGroup],
        n_frames: int,
        edges: NDArray[np.float64],
        nth: int = 1,
    ) -> None:
        if not groups or n_frames < 1:
            raise MetricError(f"{len(groups)} kinds of coordinates, {n_frames} frames; wanted one or more")
        self.groups = list(groups)
        self.edges = np.asarray(edges, dtype=np.float64)
        self._segments = Segments(n_frames, nth)
        self._sums = np.zeros((len(groups), self._segments.n_segments, len(edges) + 3))
        self._length_ps = 0.0

    def add(self, chunk: Trajectory) -> list[NDArray[np.float64]]:
        """Count the next frames; returns the values (n_frames, n) of each group.

        Raises:
            MetricError: NaN, an atom that the trajectory does not have, more frames than announced.
        """
        finite = np.isfinite(chunk.positions_nm).all(axis=(1, 2))
        if not finite.all():
            at = chunk.times_ps[int(np.flatnonzero(~finite)[0])]
            raise MetricError(
                f"{chunk.source}: the frame at {at:g} ps holds NaN or Infinity; measure the part before it, --stop"
            )
        segment = self._segments.of_next(chunk.n_frames)
        found = []
        for g, group in enumerate(self.groups):
            if group.atoms.min() < 0 or group.atoms.max() >= chunk.n_atoms:
                raise MetricError(
                    f"{group.label} has atom {group.atoms.max()}; wanted 0 to {chunk.n_atoms - 1}"
                )
            values = coordinate_values(chunk.positions_nm, group.atoms, chunk.box_vectors_nm)
            for s in np.unique(segment):
                self._sums[g, s] += self._sums_of(values[segment == s])
            found.append(values)
        self._length_ps += chunk.n_frames * chunk.frame_interval_ps
        return found

    def _sums_of(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        flat = values.ravel()
        counts = np.histogram(flat, bins=self.edges)[0]
        tail = [len(flat) - counts.sum(), len(flat), flat.sum(), (flat**2).sum()]
        return np.concatenate([counts, tail]).astype(np.float64)

    def results(self) -> list[Distribution]:
        """One distribution for each group, of the frames seen."""
        if not self._segments.done:
            raise MetricError("no frames; a distribution wants at least one")
        return [
            Distribution(
                label=group.label,
                unit=group.unit,
                edges=self.edges,
                segments=self._sums[g, : self._segments.n_used],
                n_coordinates=len(group.atoms),
                length_ps=self._length_ps,
            )
            for g, group in enumerate(self.groups)
        ]


def compute_distributions(
    trajectory: Trajectory | Iterable[Trajectory],
    groups: Sequence[CoordinateGroup],
    edges: NDArray[np.float64] | None = None,
) -> list[Distribution]:
    """Distributions of bond lengths, angles or dihedrals of a trajectory or of its chunks.

    Args:
        trajectory: wrapped or not, with box vectors where it is periodic.
        groups: all bonds, all angles or all dihedrals.
        edges: (n_bins + 1,) of the bins, A or degrees; those of the kind where None.

    Raises:
        MetricError: NaN, no groups, groups of several kinds.
    """
    kinds = {group.atoms.shape[1] for group in groups}
    if len(kinds) != 1:
        raise MetricError(f"{len(kinds)} kinds of coordinates; give bonds, angles or dihedrals")
    if edges is None:
        n = kinds.pop()
        edges = (
            bond_edges_A()
            if n == 2
            else angle_edges(DIHEDRAL_BINS if n == 4 else ANGLE_BINS, dihedral=n == 4)
        )
    chunks = [trajectory] if isinstance(trajectory, Trajectory) else list(trajectory)
    counting = DistributionAccumulator(groups, sum(chunk.n_frames for chunk in chunks), edges)
    for chunk in chunks:
        counting.add(chunk)
    return counting.results()


# --- Basins --------------------------------------------------------------------------------------


def basin_of(degrees: NDArray[np.float64], basins: dict[str, tuple[float, float]]) -> NDArray[np.int64]:
    """Number of the basin that each angle lies in, in the order of ``basins``; -1 where in none.

    Args:
        degrees: any shape, any multiple of the circle.
        basins: name -> lower and upper edge in [0, 360]; the lower above the upper goes through 0.
    """
    angle = np.asarray(degrees) % 360.0
    number = np.full(angle.shape, -1, dtype=np.int64)
    for k, (low, high) in enumerate(basins.values()):
        inside = (angle >= low) & (angle < high) if low < high else (angle >= low) | (angle < high)
        number[inside] = k
    return number


def backbone_basin_of(
    phi_degrees: NDArray[np.float64], psi_degrees: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Number of the state of a peptide's backbone, in the order of ``BACKBONE``; every point is in one.

    Args:
        phi_degrees: any shape, -180 to 180.
        psi_degrees: the same shape.

    Source: Beauchamp, Pande and Das, Biophys. J. 106, 1381 (2014), after Jha et al., Biochemistry 44, 9691 (2005).
    """
    phi, psi = np.asarray(phi_degrees), np.asarray(psi_degrees)
    helical = (psi > -100.0) & (psi < 50.0)
    extended = np.where(phi > -100.0, BACKBONE.index("PPII"), BACKBONE.index("beta"))
    left = np.where(helical, BACKBONE.index("alpha"), extended)
    return np.where(phi > 0.0, BACKBONE.index("alpha_L"), left).astype(np.int64)


# --- Drawing -------------------------------------------------------------------------------------


def plot_distributions(
    results: Sequence[Distribution], ax: "Axes | None" = None, references: Sequence[Distribution] = ()
) -> "Axes":
    """Densities, one colour for each group; references dashed in the same colours."""
    if ax is None:
        from matplotlib.figure import Figure

        ax = Figure(figsize=(5, 3.5), layout="constrained").subplots()
    known = {reference.label: reference for reference in references}
    filled = np.zeros(len(results[0].centres), dtype=bool)
    for k, result in enumerate(results):
        colour = f"C{k % 10}"
        (line,) = ax.plot(result.centres, result.density, color=colour, label=result.label)
        line.set_linestyle("-" if k < 10 else "-.")
        filled |= result.density > 0
        if result.label in known:
            ax.plot(result.centres, known[result.label].density, color=colour, ls="--", lw=1)
            filled |= known[result.label].density > 0
    # Most of the range of bonds and angles is empty.
    inside = np.flatnonzero(filled)
    if len(inside):
        margin = 0.02 * (results[0].edges[-1] - results[0].edges[0])
        ax.set_xlim(
            results[0].edges[inside[0]] - margin, results[0].edges[min(inside[-1] + 1, len(filled))] + margin
        )
    unit = results[0].unit
    quantity = "bond length / A" if unit == "A" else "angle / degrees"
    ax.set(xlabel=quantity, ylabel=f"density / (1/{'A' if unit == 'A' else 'degree'})", ylim=(0, None))
    if references:
        ax.plot([], [], "k--", lw=1, label="reference")
    ax.legend(fontsize="small", ncols=1 + (len(results) > 8))
    return ax


def plot_basins(
    fractions: dict[str, float],
    ax: "Axes | None" = None,
    *,
    stderrs: dict[str, float | None] | None = None,
    references: dict[str, float] | None = None,
) -> "Axes":
    """Share of time in each basin as bars with standard errors, the reference as short lines.

    Args:
        fractions: label of the basin -> share of time.
        ax: to draw on.
        stderrs: for each basin, None where not known.
        references: for each basin that has one.
    """
    if ax is None:
        from matplotlib.figure import Figure

        ax = Figure(figsize=(5, 3.5), layout="constrained").subplots()
    names = list(fractions)
    errors = [(stderrs or {}).get(name) for name in names]
    at = np.arange(len(names), dtype=np.float64)
    ax.bar(at, [fractions[name] for name in names], width=0.6, alpha=0.7)
    known = [k for k, error in enumerate(errors) if error is not None]
    if known:
        spread = [error for error in errors if error is not None]
        ax.errorbar(
            at[known], [fractions[names[k]] for k in known], yerr=spread, fmt="none", ecolor="k", capsize=3
        )
    for k, name in enumerate(names):
        if references and name in references:
            label = "reference" if not ax.get_legend_handles_labels()[1] else None
            ax.plot([at[k] - 0.35, at[k] + 0.35], [references[name]] * 2, "k--", lw=1.5, label=label)
    ax.set_xticks(
        at,
        names,
        rotation=30 if len(names) > 4 else 0,
        ha="right" if len(names) > 4 else "center",
        fontsize="small",
    )
    ax.set(ylabel="share of time", ylim=(0, 1.05))
    if references:
        ax.legend(fontsize="small")
    return ax
