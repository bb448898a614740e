"""The bias on its grid, and HILLS and COLVAR files in PLUMED's format.

Hills have PLUMED's stretched kernel, which reaches zero at its cutoff:

    k(x) = (exp(-x) - exp(-6.25)) / (1 - exp(-6.25)),   x = sum_i (s_i - c_i)^2 / (2 sigma_i^2) < 6.25

HILLS of a well-tempered run store height x g / (g - 1), so that the sum of the file is -F.
What is added to the grid is what the file says, digit for digit: a grid built again from the
file, in its order, is the same in every bit.
"""

import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from openmm_mlbench.errors import SimulationError
from openmm_mlbench.metadynamics import Metadynamics

HILLS = "HILLS"
COLVAR = "COLVAR"
_CUTOFF = 6.25
_AT_CUTOFF = math.exp(-_CUTOFF)


class BiasGrid:
    """V on a periodic grid with points at -pi + 2 pi k / n.

    Args:
        description: of the variables and the bias factor.
    """

    def __init__(self, description: Metadynamics) -> None:
        self.bias_factor = description.bias_factor
        self.points = [
            -np.pi + 2 * np.pi * np.arange(variable.grid_bins, dtype=np.float64) / variable.grid_bins
            for variable in description.variables
        ]
        self.clear()

    def clear(self) -> None:
        """Remove all hills."""
        self.values: NDArray[np.float64] = np.zeros([len(points) for points in self.points])
        self.n_hills = 0

    def add(self, row: Sequence[float]) -> None:
        """Add one hill.

        Args:
            row: of a HILLS file: time, centres, sigmas, stored height, bias factor.
        """
        n = len(self.points)
        centres, sigmas, stored = row[1 : n + 1], row[n + 1 : 2 * n + 1], row[2 * n + 1]
        height = stored * ((self.bias_factor - 1) / self.bias_factor)
        near, halves = [], []
        for points, centre, sigma in zip(self.points, centres, sigmas, strict=True):
            d = points - centre
            d -= 2 * np.pi * np.rint(d / (2 * np.pi))
            half = d**2 / (2 * sigma**2)
            inside = np.flatnonzero(half < _CUTOFF)
            near.append(inside)
            halves.append(half[inside])
        exponent = halves[0] if n == 1 else halves[0][:, None] + halves[1][None, :]
        kernel = (np.exp(-exponent) - _AT_CUTOFF) / (1 - _AT_CUTOFF)
        self.values[np.ix_(*near)] += height * np.where(exponent < _CUTOFF, kernel, 0.0)
        self.n_hills += 1

    def table(self) -> NDArray[np.float64]:
        """For OpenMM's tabulated functions: both ends of each axis, the first axis runs fastest."""
        closed = np.pad(self.values, [(0, 1)] * self.values.ndim, mode="wrap")
        return closed.ravel(order="F")


def hills_header(description: Metadynamics) -> str:
    """First lines of a HILLS file."""
    names = description.names
    fields = ["time", *names, *(f"sigma_{name}" for name in names), "height", "biasf"]
    lines = [
        f"#! FIELDS {' '.join(fields)}",
        "#! SET multivariate false",
        "#! SET kerneltype stretched-gaussian",
    ]
    return "\n".join([*lines, *_domains(description)]) + "\n"


def colvar_header(description: Metadynamics) -> str:
    """First lines of a COLVAR file."""
    fields = f"#! FIELDS time {' '.join(description.names)} metad.bias"
    return "\n".join([fields, *_domains(description)]) + "\n"


def hill_line(description: Metadynamics, time_ps: float, centres: Sequence[float], bias_kJ_mol: float) -> str:
    """The line of a new hill at these angles, where the bias is so high already.

    height(t) = height exp(-V / (k_B T (g - 1)))        (Barducci, Bussi, Parrinello 2008, eq. 2)
    """
    from openmm_mlbench.units import BOLTZMANN_KJMOL_K

    g = description.bias_factor
    kT = BOLTZMANN_KJMOL_K * description.temperature_K
    height = description.height_kJ_mol * math.exp(-bias_kJ_mol / (kT * (g - 1)))
    sigmas = [variable.sigma_rad for variable in description.variables]
    numbers = [time_ps, *centres, *sigmas, height * (g / (g - 1)), g]
    return "".join(f" {number:23.16g}" for number in numbers) + "\n"


def colvar_line(time_ps: float, angles: Sequence[float], bias_kJ_mol: float) -> str:
    """A line of a COLVAR file."""
    return "".join(f" {number:.9f}" for number in (time_ps, *angles, bias_kJ_mol)) + "\n"


def parse_hill(line: str, description: Metadynamics, path: Path) -> list[float]:
    """The numbers of one line of a HILLS file.

    Raises:
        SimulationError: it is damaged, or of other variables.
    """
    try:
        row = [float(word) for word in line.split()]
    except ValueError:
        row = []
    if len(row) != 2 * len(description.variables) + 3 or not all(map(math.isfinite, row)):
        raise SimulationError(
            f"{path}: {line.strip()[:60]!r} is no hill on {' and '.join(description.names)}; "
            "put the file back, or start again with --overwrite"
        )
    return row


class HillsReader:
    """Reads a growing HILLS file, complete lines only.

    Args:
        path: the file; it may not exist yet.
        description: of the metadynamics.
    """

    def __init__(self, path: Path, description: Metadynamics) -> None:
        self.path = path
        self.description = description
        self.offset = 0

    def shrank(self) -> bool:
        """Whether the file was cut back below what was read."""
        return self._size() < self.offset

    def new_hills(self) -> list[list[float]]:
        """The rows that were added since the last call."""
        if self._size() <= self.offset:
            return []
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        self.offset += len(whole)
        lines = (line for line in whole.decode().splitlines() if line.strip() and not line.startswith("#"))
        return [parse_hill(line, self.description, self.path) for line in lines]

    def _size(self) -> int:
        try:
            return os.stat(self.path).st_size
        except FileNotFoundError:
            return 0


def cut_back(folder: Path, sizes: dict[str, int]) -> None:
    """Cut HILLS and COLVAR back to the lengths that a checkpoint remembers.

    Raises:
        SimulationError: a file is missing or shorter.
    """
    for name in (HILLS, COLVAR):
        path = folder / name
        found = path.stat().st_size if path.is_file() else 0
        wanted = sizes.get(name, 0)
        if found < wanted:
            raise SimulationError(
                f"{path}: {found} bytes, but the checkpoint was taken at {wanted}; the file was changed since: "
                "put it back, or start again with --overwrite"
            )
        if path.is_file():
            os.truncate(path, wanted)


def durable_sizes(folder: Path) -> dict[str, int]:
    """Lengths of HILLS and COLVAR in bytes, once they are on the disk."""
    sizes = {}
    for name in (HILLS, COLVAR):
        if (folder / name).is_file():
            with open(folder / name, "rb") as file:
                os.fsync(file.fileno())
                sizes[name] = os.fstat(file.fileno()).st_size
    return sizes


def _domains(description: Metadynamics) -> list[str]:
    return [
        line for name in description.names for line in (f"#! SET min_{name} -pi", f"#! SET max_{name} pi")
    ]
