"""Potentials that made a data set, as force providers of the same runner as the learned models.

A reference observable is then a run like any other: same protocol, thermostat and analysis.
"""

from openmm_mlbench.reference_potentials.registry import (
    REFERENCE_POTENTIALS,
    ReferencePotential,
    find_reference_potential,
    is_reference_potential,
)

__all__ = [
    "REFERENCE_POTENTIALS",
    "ReferencePotential",
    "find_reference_potential",
    "is_reference_potential",
]
