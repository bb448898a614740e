"""Which reference potentials there are."""

import difflib
import importlib
from typing import Any, Protocol

from openmm_mlbench.errors import PotentialError

# id: module.  The module's ``make(id)`` gives the potential; it imports what it needs by itself.
REFERENCE_POTENTIALS = {
    "spcfw": "openmm_mlbench.reference_potentials.water",
    "spcfw-mdsim": "openmm_mlbench.reference_potentials.water",
    "amber03-obc": "openmm_mlbench.reference_potentials.alanine_dipeptide",
    "amber03-tip3p": "openmm_mlbench.reference_potentials.alanine_dipeptide",
    "lips-fm": "openmm_mlbench.reference_potentials.lips",
    "sgdml-aspirin": "openmm_mlbench.reference_potentials.sgdml",
    "sgdml-ethanol": "openmm_mlbench.reference_potentials.sgdml",
    "sgdml-naphthalene": "openmm_mlbench.reference_potentials.sgdml",
    "sgdml-salicylic-acid": "openmm_mlbench.reference_potentials.sgdml",
}


class ReferencePotential(Protocol):
    """What every reference potential offers; it can be pickled.

    Attributes:
        id: its name on the command line.
        system: folder in systems/ that it is made for.
        dataset: name of the data set that it made; None where there is none.
        summary: one line for lists.
        level_of_theory: as the data set states it.
        source: where the parameters come from.
        description: plain JSON for run records.
    """

    id: str
    system: str
    dataset: str | None
    summary: str
    level_of_theory: str
    source: str

    @property
    def description(self) -> dict[str, Any]:
        """For run records: keys ``model``, ``archive_sha256`` (None), ``dataset`` and ``card`` (None)."""

    def create_system(self, topology: Any, *, constraints: Any = None) -> Any:
        """An OpenMM System for this OpenMM Topology.

        Raises:
            PotentialError: the topology or the constraints do not fit.
        """


def is_reference_potential(name: str) -> bool:
    """Whether a reference potential has this name."""
    return name in REFERENCE_POTENTIALS


def find_reference_potential(name: str) -> ReferencePotential:
    """The reference potential of this name.

    Raises:
        PotentialError: there is none; near misses are named.
    """
    if name not in REFERENCE_POTENTIALS:
        near = difflib.get_close_matches(name, REFERENCE_POTENTIALS, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise PotentialError(
            f"reference potential {name!r} is not known; {hint}there are {', '.join(REFERENCE_POTENTIALS)}"
        )
    found: ReferencePotential = importlib.import_module(REFERENCE_POTENTIALS[name]).make(name)
    return found
