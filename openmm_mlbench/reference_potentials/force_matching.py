"""Force matching: spline potentials of pairs, bonds and angles, linear in their parameters.

    F_i = sum_k c_k (- d b_k / d r_i)

is linear in the coefficients c_k of the basis functions b_k, so least squares on the forces of
labelled frames gives them at once (Ercolessi and Adams, Europhys. Lett. 26, 583 (1994)).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from openmm_mlbench.cells import nearest_images
from openmm_mlbench.errors import DataError

_DEGREE = 3
# Powers of cos(theta) - cos(theta_0) in an angle term.
ANGLE_POWERS = 4
TETRAHEDRAL_COSINE = -1.0 / 3.0


@dataclass(frozen=True, kw_only=True)
class SplineBasis:
    """Cubic B-splines of a distance on equal knots.

    Args:
        start_A: first knot, A.
        stop_A: last knot, A.
        n_knots: number of intervals between them.
        vanishing: leave out the splines that do not vanish, with slope and curvature, at the last knot.
    """

    start_A: float
    stop_A: float
    n_knots: int
    vanishing: bool

    @property
    def size(self) -> int:
        """Number of basis functions."""
        return self.n_knots if self.vanishing else self.n_knots + _DEGREE

    def values(self, r_A: NDArray[np.float64], derivative: int = 0) -> NDArray[np.float64]:
        """(n, size): the functions, or their derivatives, at distances within the knots; 0 beyond the last."""
        from scipy.interpolate import BSpline

        width = (self.stop_A - self.start_A) / self.n_knots
        knots = self.start_A + width * np.arange(-_DEGREE, self.n_knots + _DEGREE + 1)
        inside = np.clip(r_A, self.start_A, self.stop_A - 1e-9)
        found = BSpline(knots, np.eye(self.n_knots + _DEGREE), _DEGREE)(inside, nu=derivative)
        found[r_A >= self.stop_A] = 0.0
        return np.ascontiguousarray(found[:, : self.size])

    def roughness(self) -> NDArray[np.float64]:
        """(size, size): c @ roughness @ c is the sum of squared second differences of the coefficients."""
        differences = np.diff(np.eye(self.n_knots + _DEGREE), 2, axis=0)[:, : self.size]
        return differences.T @ differences


@dataclass(frozen=True, kw_only=True)
class DistanceTerm:
    """A potential of the distances of some pairs of atoms.

    Args:
        name: how results call it.
        basis: its splines.
        pairs: (n_pairs, 2) indices; the nearest image counts.
    """

    name: str
    basis: SplineBasis
    pairs: NDArray[np.int64]

    @property
    def size(self) -> int:
        """Number of parameters."""
        return self.basis.size

    def features(self, positions_A: NDArray[np.float64], cell_A: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n_atoms, 3, size): the forces of each basis function, 1/A."""
        vectors, distances = separations(positions_A, cell_A, self.pairs)
        near = distances < self.basis.stop_A
        slopes = self.basis.values(distances[near], 1)
        forces = (vectors[near] / distances[near, None])[:, :, None] * slopes[:, None, :]
        found = np.zeros((*positions_A.shape, self.size))
        np.add.at(found, self.pairs[near, 0], forces)
        np.add.at(found, self.pairs[near, 1], -forces)
        return found


@dataclass(frozen=True, kw_only=True)
class AngleTerm:
    """A polynomial in cos(theta) + 1/3 of some angles, without a constant.

    Args:
        name: how results call it.
        triples: (n_angles, 3) indices, the vertex in the middle.
    """

    name: str
    triples: NDArray[np.int64]

    @property
    def size(self) -> int:
        """Number of parameters."""
        return ANGLE_POWERS

    def features(self, positions_A: NDArray[np.float64], cell_A: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n_atoms, 3, size): the forces of each power, 1/A."""
        first, vertex, last = self.triples.T
        u, u_length = separations(positions_A, cell_A, np.stack([vertex, first], axis=1))
        w, w_length = separations(positions_A, cell_A, np.stack([vertex, last], axis=1))
        u, w = u / u_length[:, None], w / w_length[:, None]
        cosine = (u * w).sum(axis=1)[:, None]
        of_first = (w - cosine * u) / u_length[:, None]
        of_last = (u - cosine * w) / w_length[:, None]
        found = np.zeros((*positions_A.shape, self.size))
        for power in range(1, self.size + 1):
            slope = power * (cosine - TETRAHEDRAL_COSINE) ** (power - 1)
            np.add.at(found[:, :, power - 1], first, -slope * of_first)
            np.add.at(found[:, :, power - 1], last, -slope * of_last)
            np.add.at(found[:, :, power - 1], vertex, slope * (of_first + of_last))
        return found


Term = DistanceTerm | AngleTerm


def separations(
    positions_A: NDArray[np.float64], cell_A: NDArray[np.float64], pairs: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Vectors (n_pairs, 3) from the first atom to the nearest image of the second, and their lengths, A."""
    vectors = nearest_images((positions_A[pairs[:, 1]] - positions_A[pairs[:, 0]])[None], cell_A[None])[0]
    return vectors, np.linalg.norm(vectors, axis=1)


def features_of(
    terms: Sequence[Term], positions_A: NDArray[np.float64], cell_A: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(3 n_atoms, n_parameters): forces are features @ parameters."""
    blocks = [term.features(positions_A, cell_A) for term in terms]
    return np.concatenate(blocks, axis=2).reshape(positions_A.size, -1)


def match_forces(
    terms: Sequence[Term],
    frames: Iterable[tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]],
    smoothness: float,
) -> NDArray[np.float64]:
    """Least-squares parameters, eV, with rough splines penalised.

    Args:
        terms: of the potential.
        frames: positions (n_atoms, 3), A, cell (3, 3), A, and forces (n_atoms, 3), eV/A, of each.
        smoothness: weight of the penalty, in units of the mean diagonal of the normal matrix.

    Raises:
        DataError: no frames.
    """
    size = sum(term.size for term in terms)
    normal: NDArray[np.floating] = np.zeros((size, size))
    right: NDArray[np.floating] = np.zeros(size)
    n_frames = 0
    for positions, cell, forces in frames:
        features = features_of(terms, positions, cell)
        normal = normal + features.T @ features
        right = right + features.T @ forces.ravel()
        n_frames += 1
    if not n_frames:
        raise DataError("no frames to match forces of; give at least one")
    scale = np.trace(normal) / size
    at = 0
    for term in terms:
        inside = slice(at, at + term.size)
        if isinstance(term, DistanceTerm):
            normal[inside, inside] += smoothness * scale * term.basis.roughness()
        at += term.size
    # What no frame has seen and no neighbour holds is zero.
    normal += 1e-9 * scale * np.eye(size)
    parameters: NDArray[np.float64] = np.linalg.solve(normal, right)
    return parameters


def split_parameters(terms: Sequence[Term], parameters: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """The parameters of each term."""
    return np.split(parameters, np.cumsum([term.size for term in terms])[:-1])


@dataclass(frozen=True, kw_only=True)
class DistancePotential:
    """A spline potential that goes on as a parabola where frames have never been.

        u(r) = u(e) + u'(e) (r - e) + max(u''(e), k) / 2 (r - e)^2        beyond an edge e

    Args:
        basis: its splines.
        coefficients: (size,), eV.
        inner_A: closest distance that the fit knows.
        outer_A: largest distance that the fit knows; None where the potential vanishes at its last knot.
        stiffness: k, the least curvature beyond an edge, eV/A^2.
    """

    basis: SplineBasis
    coefficients: NDArray[np.float64]
    inner_A: float
    outer_A: float | None
    stiffness: float

    def __post_init__(self) -> None:
        outer = self.basis.stop_A if self.outer_A is None else self.outer_A
        if len(self.coefficients) != self.basis.size or not np.isfinite(self.coefficients).all():
            raise DataError(f"{len(self.coefficients)} coefficients; wanted {self.basis.size} finite numbers")
        if not self.basis.start_A <= self.inner_A < outer <= self.basis.stop_A:
            raise DataError(f"edges {self.inner_A} and {outer} A; wanted both within the knots")

    def __call__(self, r_A: NDArray[np.float64]) -> NDArray[np.float64]:
        """Energies, eV, at these distances."""
        r = np.asarray(r_A, dtype=np.float64)
        outer = np.inf if self.outer_A is None else self.outer_A
        energies: NDArray[np.float64] = self.basis.values(np.clip(r, self.inner_A, outer)) @ self.coefficients
        for edge, beyond in ((self.inner_A, r < self.inner_A), (outer, r > outer)):
            if beyond.any():
                at = np.array([min(edge, self.basis.stop_A - 1e-9)])
                slope = float((self.basis.values(at, 1) @ self.coefficients)[0])
                curvature = max(float((self.basis.values(at, 2) @ self.coefficients)[0]), self.stiffness)
                step = r[beyond] - edge
                energies[beyond] += slope * step + curvature / 2 * step**2
        return energies
