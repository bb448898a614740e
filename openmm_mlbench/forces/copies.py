"""What several replicas in one Context are made of."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Positions (copies, n_atoms, 3) nm and box (3, 3) nm or None to energies (copies,) kJ/mol and forces
# (copies, n_atoms, 3) kJ/mol/nm.
Evaluate = Callable[
    [NDArray[np.float64], NDArray[np.float64] | None], tuple[NDArray[np.float64], NDArray[np.float64]]
]


@dataclass(frozen=True, kw_only=True)
class Copies:
    """Several copies of one System that do not feel each other.

    Args:
        system: particles of the first copy, then of the second ...; no CMMotionRemover, which would mix their momenta.
        n_copies: how many.
        evaluate: energy and forces of each copy; OpenMM itself knows their sum only.
        n_groups: of copies that are evaluated at the same time, each by a thread of its own.
    """

    system: Any
    n_copies: int
    evaluate: Evaluate
    n_groups: int = 1

    @property
    def n_atoms(self) -> int:
        """Of one copy."""
        return int(self.system.getNumParticles()) // self.n_copies
