"""Metadynamics as a protocol describes it: one description for every backend.

Well-tempered metadynamics on dihedral angles (Barducci, Bussi, Parrinello, Phys. Rev. Lett. 100,
020603, 2008).  Every ``pace_steps`` a Gaussian hill is added to the bias V(s) at the present angles:

    height(t) = height exp[-V(s(t), t) / (k_B (bias_factor - 1) temperature)]
"""

import math
import re
from dataclasses import dataclass

from openmm_mlbench.errors import ProtocolError

MAX_VARIABLES = 2
# PLUMED takes these as labels and columns.
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_RESERVED = ("time", "height", "biasf", "metad")


@dataclass(frozen=True, kw_only=True)
class BiasVariable:
    """A dihedral angle that is biased.

    Args:
        name: label and column in PLUMED's files.
        atoms: four 0-based atom indices, IUPAC sign convention.
        sigma_rad: width of a hill.
        grid_bins: bins of the bias grid around the circle.

    Raises:
        ProtocolError: one of these makes no sense.
    """

    name: str
    atoms: tuple[int, int, int, int]
    sigma_rad: float
    grid_bins: int

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or self.name in _RESERVED or self.name.startswith("sigma_"):
            raise ProtocolError(
                f"metadynamics variable {self.name!r}; wanted letters, digits and _, as in phi, "
                f"other than {', '.join(_RESERVED)}"
            )
        atoms = tuple(int(atom) for atom in self.atoms)
        if len(atoms) != 4 or len(set(atoms)) != 4 or min(atoms) < 0:
            raise ProtocolError(
                f"metadynamics variable {self.name} on atoms {' '.join(map(str, self.atoms))}; "
                "wanted four different 0-based indices"
            )
        object.__setattr__(self, "atoms", atoms)
        if not (math.isfinite(self.sigma_rad) and 0 < self.sigma_rad < math.pi):
            raise ProtocolError(
                f"sigma_rad of {self.name} is {self.sigma_rad:g}; wanted more than 0 and less than pi"
            )
        if self.grid_bins < 2 or 2 * math.pi / self.grid_bins > self.sigma_rad:
            raise ProtocolError(
                f"grid_bins of {self.name} is {self.grid_bins}: coarser than sigma_rad = {self.sigma_rad:g}; "
                f"use at least {math.ceil(2 * math.pi / self.sigma_rad)}, better {math.ceil(4 * math.pi / self.sigma_rad)}"
            )


@dataclass(frozen=True, kw_only=True)
class Metadynamics:
    """Well-tempered metadynamics on one or two dihedral angles.

    Args:
        height_kJ_mol: of the first hill.
        pace_steps: integration steps between hills.
        bias_factor: (T + delta T) / T, above 1.
        temperature_K: T of the physical system.
        variables: what is biased.

    Raises:
        ProtocolError: one of these makes no sense.
    """

    height_kJ_mol: float
    pace_steps: int
    bias_factor: float
    temperature_K: float
    variables: tuple[BiasVariable, ...]

    def __post_init__(self) -> None:
        for name, lowest in (("height_kJ_mol", 0.0), ("bias_factor", 1.0), ("temperature_K", 0.0)):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > lowest):
                raise ProtocolError(f"{name} of metadynamics is {value:g}; it must be above {lowest:g}")
        if self.pace_steps < 1:
            raise ProtocolError(f"pace_steps of metadynamics is {self.pace_steps}; at least 1 is needed")
        object.__setattr__(self, "variables", tuple(self.variables))
        names = [variable.name for variable in self.variables]
        if not 1 <= len(names) <= MAX_VARIABLES or len(set(names)) < len(names):
            raise ProtocolError(
                f"metadynamics on {' '.join(names) or 'no variable'}; wanted 1 to {MAX_VARIABLES} variables of different names"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the variables."""
        return tuple(variable.name for variable in self.variables)
