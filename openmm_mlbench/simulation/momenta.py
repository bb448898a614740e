"""Momenta: how they are drawn, and which temperatures they have.

Symbols: m_i masses, v_i velocities, V velocity of the centre of mass, y_i
positions from the centre of mass, L angular momentum, I inertia tensor, N atoms,
n_c constraints.

    K      = 1/2 sum_i m_i |v_i - V|^2
    K_rot  = 1/2 L . I^-1 L,    L = sum_i m_i y_i x (v_i - V)
    T      = 2 K / ((3N - 3 - n_c) k)
    T_rot  = 2 K_rot / (3 k)
    T_vib  = 2 (K - K_rot) / ((3N - 6 - n_c) k)

The centre of mass is at rest by construction, so its three degrees of freedom
are never counted.  Nose-Hoover keeps the direction of an isolated molecule's
angular momentum: T is right while rotation and vibration share it unevenly,
which is why both are reported.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmm_mlbench.units import BOLTZMANN_KJMOL_K

# Moments of inertia below this share of the largest belong to an axis of a linear molecule.
_LINEAR = 1e-9


@dataclass(frozen=True, kw_only=True)
class Temperatures:
    """Temperatures of one frame, K; None where there is no such degree of freedom."""

    total: float
    rotation: float | None
    vibration: float | None


def draw_velocities(
    masses: NDArray[np.float64], temperature_K: float, generator: np.random.Generator
) -> NDArray[np.float64]:
    """Maxwell-Boltzmann velocities with the centre of mass at rest and thermal rotation.

    Taking the centre-of-mass velocity out is an orthogonal projection in
    mass-weighted coordinates, so what remains is canonical over 3N - 3 degrees
    of freedom as it stands; it is not rescaled.

    Args:
        masses: (n_atoms,), dalton.
        temperature_K: temperature.
        generator: source of randomness.

    Returns:
        (n_atoms, 3), nm/ps.
    """
    width = np.sqrt(BOLTZMANN_KJMOL_K * temperature_K / masses)
    velocities = generator.standard_normal((len(masses), 3)) * width[:, None]
    return velocities - centre_of_mass(velocities, masses)


def centre_of_mass(vectors: NDArray[np.float64], masses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mass-weighted mean (3,) of the vectors (n_atoms, 3)."""
    return masses @ vectors / masses.sum()


class RigidBonds:
    """Takes the part of velocities along rigid bonds away.

    v' = v - M^-1 J^T (J M^-1 J^T)^-1 J v,    a row of J for each constraint: d_ij . (v_i - v_j)

    The stored velocities of a leapfrog-middle integrator have such a part: its noise acts
    after the constraints of a step.  It moves no atom, and would read as heat: 3.8 +- 0.6 K at 300 K
    (alanine dipeptide, 2 fs, friction 49/ps).

    Args:
        system: OpenMM System.
    """

    def __init__(self, system: Any) -> None:
        pairs = [system.getConstraintParameters(k)[:2] for k in range(system.getNumConstraints())]
        self.pairs = np.array(pairs, dtype=np.int64).reshape(-1, 2)

    def project(
        self,
        positions_nm: NDArray[np.float64],
        velocities: NDArray[np.float64],
        masses: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """Velocities (n_atoms, 3) without that part; themselves where nothing is rigid, or after an explosion."""
        if not len(self.pairs) or not np.isfinite(positions_nm).all():
            return velocities
        from scipy.sparse import coo_array, diags_array
        from scipy.sparse.linalg import spsolve

        i, j = self.pairs.T
        n, n_atoms = len(i), len(masses)
        along = positions_nm[i] - positions_nm[j]
        rows = np.repeat(np.arange(n), 3)
        columns = (3 * np.concatenate([i, j])[:, None] + np.arange(3)).ravel()
        values = np.concatenate([along, -along]).ravel()
        jacobian = coo_array(
            (values, (np.concatenate([rows, rows]), columns)), shape=(n, 3 * n_atoms)
        ).tocsr()
        weighted = (jacobian @ diags_array(np.repeat(1 / masses, 3))).tocsr()
        multipliers = spsolve((weighted @ jacobian.T).tocsc(), jacobian @ velocities.ravel())
        return velocities - (weighted.T @ multipliers).reshape(-1, 3)


def compute_temperatures(
    positions_nm: NDArray[np.float64],
    velocities: NDArray[np.float64],
    masses: NDArray[np.float64],
    n_constraints: int = 0,
    *,
    isolated: bool = True,
) -> Temperatures:
    """T over 3N - 3 degrees of freedom, T_rot and T_vib, as in the module's equations.

    Args:
        positions_nm: (n_atoms, 3), nm, whole molecules.
        velocities: (n_atoms, 3), nm/ps.
        masses: (n_atoms,), dalton.
        n_constraints: rigid distances in the system.
        isolated: one molecule in vacuum; a periodic system does not rotate as a whole.
    """
    velocities = velocities - centre_of_mass(velocities, masses)
    kinetic = 0.5 * float(masses @ (velocities**2).sum(axis=1))
    n_internal = 3 * len(masses) - 3 - n_constraints
    total = 2 * kinetic / (max(n_internal, 1) * BOLTZMANN_KJMOL_K)
    if not isolated:
        return Temperatures(total=total, rotation=None, vibration=None)
    kinetic_rotation, n_rotation = rotational_energy(positions_nm, velocities, masses)
    n_vibration = n_internal - n_rotation
    rotation = 2 * kinetic_rotation / (n_rotation * BOLTZMANN_KJMOL_K) if n_rotation else None
    vibration = (
        2 * (kinetic - kinetic_rotation) / (n_vibration * BOLTZMANN_KJMOL_K) if n_vibration > 0 else None
    )
    return Temperatures(total=total, rotation=rotation, vibration=vibration)


def rotational_energy(
    positions_nm: NDArray[np.float64], velocities: NDArray[np.float64], masses: NDArray[np.float64]
) -> tuple[float, int]:
    """Kinetic energy of rigid rotation (kJ/mol) and its degrees of freedom (3; linear 2; an atom 0)."""
    arms = positions_nm - centre_of_mass(positions_nm, masses)
    angular_momentum = (masses[:, None] * np.cross(arms, velocities)).sum(axis=0)
    square = masses @ (arms**2).sum(axis=1)
    inertia = square * np.eye(3) - np.einsum("i,ia,ib->ab", masses, arms, arms)
    if not np.isfinite(inertia).all():
        return float("nan"), 3
    moments, axes = np.linalg.eigh(inertia)
    turning = moments > _LINEAR * max(moments[-1], 1e-300)
    along = axes[:, turning].T @ angular_momentum
    return 0.5 * float((along**2 / moments[turning]).sum()), int(turning.sum())


def velocity_lag_ps(integrator: Any) -> float:
    """Time by which OpenMM's velocities lag behind the positions as far as temperature goes, ps.

    Zero for the leapfrog-middle integrators (Nose-Hoover, Langevin-middle):
    their stored velocities are canonical as they stand.  Measured on harmonic
    ethanol (500 K, 0.5 fs, 9 ns): T_vib 500.6 +- 0.6 K from the stored
    velocities, 496.5 +- 0.6 K after moving them on by half a step.  For Verlet
    it is half a step, the same correction that OpenMM's getKineticEnergy makes.
    """
    import openmm

    if not isinstance(integrator, openmm.VerletIntegrator):
        return 0.0
    return 0.5 * float(integrator.getStepSize().value_in_unit(openmm.unit.picosecond))
