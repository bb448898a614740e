"""Radial distribution functions in any periodic cell, over all images, and their error.

What they say: how neighbours of one kind are arranged around another, which scattering
measures too.  When they mislead: an isotropic average hides which neighbour sits where,
angles hardly show, and short runs of small cells are noisy (see the noise floor).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from openmm_mlbench.cells import cell_heights, cell_volumes, inverse_cells
from openmm_mlbench.errors import MetricError
from openmm_mlbench.metrics.floors import Segments
from openmm_mlbench.trajectory import Trajectory
from openmm_mlbench.units import ANGSTROM_PER_NM

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# As the paper's code has them.
N_BINS = 500
R_MAX_A = 6.0
MODES = ("paper", "mdsim")
# Peaks of intramolecular pairs; those of liquids and of most solids are lower.
_HIGHEST_PEAK, _CUT_AT = 10.0, 5.0
# More images than this on each side make a run of minutes out of seconds.
_MAX_REACH = 20.0

DEFINITION = {
    "paper": (
        "g(r) = V / (n_pairs 4 pi r^2 dr) times the ordered pairs (i, j != i) at distance r, counting all periodic "
        "images, averaged over frames (paper, eq. 2); n_pairs is the number of ordered pairs of different atoms that "
        "are counted, so g tends to 1."
    ),
    "mdsim": (
        "As eq. 2 of the paper over all periodic images, but divided by N_a N_b / V: self pairs are in the norm "
        "and not in the count, so g of one kind tends to (N - 1) / N (the paper's code)."
    ),
}


@dataclass(frozen=True, kw_only=True)
class AtomPairs:
    """Two groups of atoms, by index, whose distances are counted.

    Args:
        label: how results call them, "O-H".
        a: (n_a,), the atoms in the middle.
        b: (n_b,), the atoms around them.
    """

    label: str
    a: NDArray[np.int64]
    b: NDArray[np.int64]

    def __post_init__(self) -> None:
        for name, atoms in (("first", self.a), ("second", self.b)):
            if len(atoms) == 0:
                raise MetricError(
                    f"the {name} selection of {self.label} is empty; name atoms that the topology has"
                )
            if len(np.unique(atoms)) != len(atoms):
                raise MetricError(f"the {name} selection of {self.label} names an atom twice; name each once")

    @property
    def same(self) -> bool:
        """Whether both groups are the same atoms."""
        return len(self.a) == len(self.b) and bool(np.array_equal(np.sort(self.a), np.sort(self.b)))


@dataclass(frozen=True, kw_only=True)
class RDF:
    """One g(r), with sums per segment of the trajectory behind it.

    Args:
        label: of the pair.
        mode: ``paper`` or ``mdsim``.
        edges_A: (n_bins + 1,), A.
        segments: (n_segments, n_bins + 1): sums over frames of volume (A^3) times count in each bin,
            then the number of frames.
        counts: (n_bins,), ordered pairs of all frames.
        n_a: atoms in the middle.
        n_pairs: ordered pairs that the norm counts.
        intramolecular: whether pairs within one molecule are counted.
        length_ps: length of the trajectory, ps.
    """

    label: str
    mode: str
    edges_A: NDArray[np.float64]
    segments: NDArray[np.float64]
    counts: NDArray[np.int64]
    n_a: int
    n_pairs: float
    intramolecular: bool
    length_ps: float

    @property
    def n_frames(self) -> int:
        """Number of frames."""
        return int(self.segments[:, -1].sum())

    @property
    def r_A(self) -> NDArray[np.float64]:  # noqa: N802 - A is the unit
        """Middles of the bins (n_bins,), A."""
        return (self.edges_A[1:] + self.edges_A[:-1]) / 2

    @property
    def g_r(self) -> NDArray[np.float64]:
        """(n_bins,), without unit."""
        return self.g_of(self.segments.sum(axis=0))

    @property
    def coordination(self) -> NDArray[np.float64]:
        """(n_bins,): atoms around one atom in the middle, up to the upper edge of each bin."""
        return np.cumsum(self.counts) / (self.n_a * self.n_frames)

    def g_of(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        """g(r) (n_bins,) of the sums of some segments."""
        shells = 4.0 / 3.0 * np.pi * np.diff(self.edges_A**3)
        return sums[:-1] / (sums[-1] * self.n_pairs * shells)


class RDFAccumulator:
    """Counts pairs chunk by chunk, so that a trajectory need not fit into memory.

    Args:
        pairs: groups of atoms.
        n_frames: of the whole trajectory.
        r_max_A: upper edge of the last bin, A; may exceed half the cell.
        n_bins: number of equal bins from 0.
        mode: ``paper`` or ``mdsim``.
        molecules: (n_atoms,) number of each atom's molecule; with it, pairs within a molecule are left out.
        nth: every nth frame only will be added.

    Raises:
        MetricError: bins, mode or groups do not fit.
    """

    def __init__(
        self,
        pairs: Sequence[AtomPairs],
        n_frames: int,
        *,
        r_max_A: float = R_MAX_A,
        n_bins: int = N_BINS,
        mode: str = "paper",
        molecules: NDArray[np.int64] | None = None,
        nth: int = 1,
    ) -> None:
        check_mode(mode)
        if not (n_bins >= 1 and np.isfinite(r_max_A) and r_max_A > 0):
            raise MetricError(
                f"{n_bins} bins up to {r_max_A} A; wanted 1 or more, up to a distance above zero"
            )
        if mode == "mdsim" and molecules is not None:
            raise MetricError("mode mdsim keeps pairs within molecules; use mode paper to leave them out")
        if n_frames < 1:
            raise MetricError("no frames; an RDF wants at least one")
        self.pairs = list(pairs)
        self.mode = mode
        self.molecules = molecules
        self.edges_A = np.linspace(0.0, r_max_A, n_bins + 1)
        self._segments = Segments(n_frames, nth)
        n_segments = self._segments.n_segments
        self._sums = np.zeros((len(self.pairs), n_segments, n_bins + 1))
        self._counts = np.zeros((len(self.pairs), n_bins), dtype=np.int64)
        self._norms = [self._n_pairs(pair) for pair in self.pairs]
        self._length_ps = 0.0

    def _n_pairs(self, pair: AtomPairs) -> float:
        n_all = len(pair.a) * len(pair.b)
        if self.mode == "mdsim":
            return float(n_all)
        left_out = len(np.intersect1d(pair.a, pair.b))
        if self.molecules is not None:
            kinds = int(self.molecules.max()) + 1
            in_a = np.bincount(self.molecules[pair.a], minlength=kinds)
            in_b = np.bincount(self.molecules[pair.b], minlength=kinds)
            left_out = int(in_a @ in_b)
        # A lone atom still has its own images around it.
        return float(n_all - left_out) or float(n_all)

    def add(self, chunk: Trajectory) -> None:
        """Count the next frames.

        Raises:
            MetricError: no cell, NaN, an atom beyond the topology, or more images than are of use.
        """
        from openmm_mlbench.metrics.pair_kernels import count_pairs

        boxes, fractional = _fractional(chunk)
        r_max = float(self.edges_A[-1])
        reach = r_max / cell_heights(boxes)
        if reach.max() > _MAX_REACH:
            raise MetricError(
                f"r_max {r_max:g} A is {reach.max():.0f} times the height of the cell, {r_max / reach.max():.3g} A; "
                f"give at most {_MAX_REACH:g} times"
            )
        volumes = cell_volumes(boxes)
        segment = self._segments.of_next(chunk.n_frames)
        none = np.full(chunk.n_atoms, -1, dtype=np.int64)
        molecules = none if self.molecules is None else self.molecules
        for p, pair in enumerate(self.pairs):
            a = np.sort(pair.a) if pair.same else pair.a
            b = a if pair.same else pair.b
            counts = np.zeros((chunk.n_frames, len(self.edges_A) - 1), dtype=np.int64)
            in_a, in_b = np.ascontiguousarray(fractional[:, a]), np.ascontiguousarray(fractional[:, b])
            count_pairs(in_a, in_b, boxes, reach, a, b, molecules[a], molecules[b], pair.same, r_max, counts)
            self._counts[p] += counts.sum(axis=0)
            np.add.at(self._sums[p, :, :-1], segment, counts * volumes[:, None])
            np.add.at(self._sums[p, :, -1], segment, 1.0)
        self._length_ps += chunk.n_frames * chunk.frame_interval_ps

    def results(self) -> list[RDF]:
        """One RDF for each pair of groups, of the frames seen."""
        if not self._segments.done:
            raise MetricError("no frames; an RDF wants at least one")
        return [
            RDF(
                label=pair.label,
                mode=self.mode,
                edges_A=self.edges_A,
                segments=self._sums[p, : self._segments.n_used],
                counts=self._counts[p],
                n_a=len(pair.a),
                n_pairs=self._norms[p],
                intramolecular=self.molecules is None,
                length_ps=self._length_ps,
            )
            for p, pair in enumerate(self.pairs)
        ]


def _fractional(chunk: Trajectory) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Box vectors, A, and fractional coordinates."""
    if chunk.box_vectors_nm is None:
        raise MetricError(
            f"{chunk.source}: frames have no cell; an RDF wants a periodic trajectory with its box"
        )
    finite = np.isfinite(chunk.positions_nm).all(axis=(1, 2))
    if not finite.all():
        frame = int(np.flatnonzero(~finite)[0])
        raise MetricError(
            f"{chunk.source}: the frame at {chunk.times_ps[frame]:g} ps holds NaN or Infinity; measure the part before it"
        )
    boxes = np.ascontiguousarray(chunk.box_vectors_nm * ANGSTROM_PER_NM)
    return boxes, (chunk.positions_nm * ANGSTROM_PER_NM) @ inverse_cells(boxes)


def check_mode(mode: str) -> None:
    """Refuse what is neither ``paper`` nor ``mdsim``."""
    if mode not in MODES:
        raise MetricError(f"mode {mode!r} is not known; use one of {', '.join(MODES)}")


def compute_rdf(
    trajectory: Trajectory | Iterable[Trajectory],
    pairs: Sequence[AtomPairs],
    *,
    r_max_A: float = R_MAX_A,
    n_bins: int = N_BINS,
    mode: str = "paper",
    molecules: NDArray[np.int64] | None = None,
) -> list[RDF]:
    """Radial distribution functions of a trajectory or of its chunks.

    g(r) = V / (n_pairs 4 pi r^2 dr) < sum_i sum_{j != i} delta(r - r_ij) >        (paper, eq. 2)

    Every periodic image counts, an atom's own images too, so r_max may exceed half the cell.
    Shells are exact, (4/3) pi (r_k+1^3 - r_k^3); where the volume changes, each frame has its own norm.

    Args:
        trajectory: with box vectors, wrapped or not.
        pairs: groups of atoms.
        r_max_A: upper edge of the last bin, A.
        n_bins: number of equal bins from 0.
        mode: ``paper``: the norm is the number of pairs that are counted; ``mdsim``: N_a N_b.
        molecules: (n_atoms,) number of each atom's molecule: leave out pairs within one molecule.

    Raises:
        MetricError: no cell, NaN, an empty group, or bins that are none.
    """
    chunks = [trajectory] if isinstance(trajectory, Trajectory) else list(trajectory)
    n_frames = sum(chunk.n_frames for chunk in chunks)
    counting = RDFAccumulator(pairs, n_frames, r_max_A=r_max_A, n_bins=n_bins, mode=mode, molecules=molecules)
    for chunk in chunks:
        counting.add(chunk)
    return counting.results()


def rdf_mae(
    g_r: NDArray[np.float64], reference_g_r: NDArray[np.float64], edges_A: NDArray[np.float64]
) -> float:
    """Integral of the absolute difference of two RDFs, in A.

    MAE = int_0^r_max |g(r) - g_ref(r)| dr        (paper, eq. 3, up to the last bin)

    g is constant within a bin, so the sum over bins is exact; it equals the reference
    code's mean over bins times r_max.

    Args:
        g_r: (n_bins,).
        reference_g_r: (n_bins,), on the same bins.
        edges_A: (n_bins + 1,), A.

    Raises:
        MetricError: the bins differ.
    """
    if g_r.shape != reference_g_r.shape or len(edges_A) != len(g_r) + 1:
        raise MetricError(
            f"g(r) has {len(g_r)} bins, its reference {len(reference_g_r)}; compute both on the same bins"
        )
    return float(np.sum(np.abs(g_r - reference_g_r) * np.diff(edges_A)))


def plot_rdf(result: RDF, ax: "Axes | None" = None, reference: RDF | None = None) -> "Axes":
    """g(r), the reference dashed; a peak of bonds that would flatten all else is cut, its height in the legend."""
    if ax is None:
        from matplotlib.figure import Figure

        ax = Figure(figsize=(5, 3.5), layout="constrained").subplots()
    peak = float(result.g_r.max())
    label = f"{result.label} (up to {peak:.3g})" if peak > _HIGHEST_PEAK else result.label
    ax.plot(result.r_A, result.g_r, label=label)
    if reference is not None:
        ax.plot(reference.r_A, reference.g_r, "k--", lw=1, label=f"{reference.label}, reference")
    ax.set(xlabel="r / A", ylabel="g(r)")
    if peak > _HIGHEST_PEAK or ax.get_ylim()[1] > _HIGHEST_PEAK:
        ax.set_ylim(0, _CUT_AT)
    ax.legend()
    return ax
