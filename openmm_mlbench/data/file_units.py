"""Units of data files: conversion to A and eV, and whether the numbers look like it."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from openmm_mlbench.data.frames import Frames
from openmm_mlbench.errors import DataError
from openmm_mlbench.units import (
    ANGSTROM_PER_BOHR,
    ANGSTROM_PER_NM,
    EV_PER_HARTREE,
    EV_PER_KCALMOL,
    EV_PER_KJMOL,
)

LENGTH_UNITS = {"A": 1.0, "nm": ANGSTROM_PER_NM, "bohr": ANGSTROM_PER_BOHR}
ENERGY_UNITS = {"eV": 1.0, "kcal/mol": EV_PER_KCALMOL, "kJ/mol": EV_PER_KJMOL, "hartree": EV_PER_HARTREE}
_SPELLINGS = {"Ang": "A", "Angstrom": "A", "angstrom": "A", "Bohr": "bohr", "Hartree": "hartree", "ev": "eV"}

# Medians outside these ranges mean a wrong unit.  500 K molecules have 1-2 eV/A, the same
# in kcal/mol/A or kJ/mol/A 25-180; a minimized structure 1e-3 and less is no training set.
FORCE_RANGE = (1e-3, 20.0)
DISTANCE_RANGE = (0.5, 5.0)
# Unwrapped atoms of the longest simulations diffuse less than 1e5 A.
MAX_COORDINATE = 1e6
# The longest X-H bond of main-group chemistry is Si-H, 1.48 A; in bohr read as A, O-H is 1.8.
MAX_HYDROGEN_DISTANCE = 1.75


def _factor(table: dict[str, float], unit: str, kind: str) -> float:
    unit = _SPELLINGS.get(unit, unit)
    if unit not in table:
        raise DataError(f"{kind} unit {unit!r} is not known; use one of {', '.join(table)}")
    return table[unit]


@dataclass(frozen=True, kw_only=True)
class Units:
    """Units of a file; forces are in energy per length unless said otherwise.

    Args:
        length: one of A, nm, bohr.
        energy: one of eV, kcal/mol, kJ/mol, hartree.
        force: energy/length, for example ``hartree/bohr``.

    Raises:
        DataError: a unit is not known.
    """

    length: str
    energy: str
    force: str | None = None

    def __post_init__(self) -> None:
        _factor(LENGTH_UNITS, self.length, "length")
        _factor(ENERGY_UNITS, self.energy, "energy")
        _ = self.force_factor

    @property
    def length_factor(self) -> float:
        """Multiply lengths by this to have A."""
        return _factor(LENGTH_UNITS, self.length, "length")

    @property
    def energy_factor(self) -> float:
        """Multiply energies by this to have eV."""
        return _factor(ENERGY_UNITS, self.energy, "energy")

    @property
    def force_factor(self) -> float:
        """Multiply forces by this to have eV/A."""
        if self.force is None:
            return self.energy_factor / self.length_factor
        energy, slash, length = self.force.rpartition("/")
        if not slash:
            raise DataError(f"force unit {self.force!r}; wanted energy/length, for example kcal/mol/A")
        return _factor(ENERGY_UNITS, energy, "energy") / _factor(LENGTH_UNITS, length, "length")


OWN_UNITS = Units(length="A", energy="eV")


def check_plausible(frames: Frames) -> None:
    """Compare distances and forces of a few frames with what A and eV/A make plausible.

    Raises:
        DataError: a median lies outside its range; the message names the unit it looks like.
    """
    farthest = float(np.abs(frames.positions).max())
    if farthest > MAX_COORDINATE:
        raise DataError(
            f"positions reach {farthest:.3g} A, farther than {MAX_COORDINATE:g}; the file is damaged"
        )
    # The search compares all pairs: about a third of a second for 192 atoms and 27 images.
    n_samples = max(1, min(16, 200_000 // frames.n_atoms**2))
    chosen = frames.select(np.unique(np.linspace(0, frames.n_frames - 1, n_samples).astype(np.int64)))
    if chosen.n_atoms > 1:
        nearest = nearest_distances(chosen)
        _refuse_range(
            "nearest-neighbour distance",
            float(np.median(nearest)),
            DISTANCE_RANGE,
            unit="A",
            table=LENGTH_UNITS,
            usual=(0.9, 3.0),
        )
        hydrogens = nearest[:, chosen.atomic_numbers == 1]
        if hydrogens.size:
            limits = (DISTANCE_RANGE[0], MAX_HYDROGEN_DISTANCE)
            _refuse_range(
                "distance of H to its neighbour",
                float(np.median(hydrogens)),
                limits,
                unit="A",
                table=LENGTH_UNITS,
                usual=(0.7, 1.5),
            )
    if chosen.forces is not None:
        typical = float(np.median(np.linalg.norm(chosen.forces, axis=-1)))
        # Forces that are all zero are a toy or a placeholder, not another unit.
        if typical > 0.0:
            table = {unit: factor for unit, factor in ENERGY_UNITS.items() if unit != "hartree"}
            _refuse_range(
                "force", typical, FORCE_RANGE, unit="eV/A", table=table, usual=(0.05, 10.0), suffix="/A"
            )


def _refuse_range(
    what: str,
    median: float,
    limits: tuple[float, float],
    *,
    unit: str,
    table: dict[str, float],
    usual: tuple[float, float],
    suffix: str = "",
) -> None:
    if limits[0] <= median <= limits[1]:
        return
    # What the number would be, had the file been in another unit than stated.
    looks = [other + suffix for other, factor in table.items() if usual[0] <= median * factor <= usual[1]]
    hint = f"it looks like {' or '.join(looks)}; " if looks else ""
    raise DataError(
        f"median {what} is {median:.3g} {unit}, outside {limits[0]:g}-{limits[1]:g}; {hint}state the right unit, or "
        "switch the check off if the data are unusual"
    )


def nearest_distances(frames: Frames) -> NDArray[np.float64]:
    """Distance of every atom to its nearest neighbour, nearest images included.

    Args:
        frames: configurations; 27 images are searched when they are periodic.

    Returns:
        (n_frames, n_atoms), A.
    """
    nearest = np.empty((frames.n_frames, frames.n_atoms))
    grid = np.stack(np.meshgrid(*[[-1.0, 0.0, 1.0]] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    for frame, positions in enumerate(frames.positions):
        shifts = np.zeros((1, 3)) if frames.cells is None else grid @ frames.cells[frame]
        targets = positions
        if frames.cells is not None:
            fractions = positions @ np.linalg.inv(frames.cells[frame])
            targets = (fractions - np.floor(fractions)) @ frames.cells[frame]
        images = (targets[None] + shifts[:, None]).reshape(-1, 3)
        for atom, position in enumerate(targets):
            squared = ((images - position) ** 2).sum(axis=1)
            # The atom itself is the only one at distance zero that is no error: skip one of them.
            nearest[frame, atom] = math.sqrt(np.partition(squared, 1)[1])
    return nearest
