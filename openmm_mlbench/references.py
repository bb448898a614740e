"""Reference observables of a data set: what a model trained on it should reproduce.

A model is only ever compared with the reference of the data it was trained on.
A reference is one JSON file that keeps h(r) as counts per block of the reference
trajectory, so that the noise floor at any length can be worked out later.
"""

import os
from dataclasses import asdict, dataclass, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmm_mlbench.assets import asset_path
from openmm_mlbench.data.datasets import system_of
from openmm_mlbench.data.frames import Frames
from openmm_mlbench.data.generators import GfnRun, generate_gfn2
from openmm_mlbench.errors import MetricError, MLBenchError
from openmm_mlbench.files import read_json, write_json
from openmm_mlbench.metrics.distances import (
    R_MAX_A,
    R_MIN_A,
    density_from_counts,
    h_r_counts,
    h_r_mae,
    histogram_bin_centres,
    histogram_bin_width,
)
from openmm_mlbench.topology import bond_lengths, find_bonds, max_bond_deviation
from openmm_mlbench.units import PS_PER_FS

# Revised MD17 has new labels on the frames of the original trajectory.
SAME_GEOMETRIES = {
    f"{molecule}-rmd17": molecule for molecule in ("aspirin", "ethanol", "naphthalene", "salicylic-acid")
}
# Larger data sets of one potential share its observables; rigid X-H bonds leave F(phi, psi) as it is.
SAME_POTENTIAL = {
    "water-10k": "water-1k",
    "water-90k": "water-1k",
    "alanine-dipeptide-obc-flexible": "alanine-dipeptide-obc",
}
# The vibrations of MD17's frames are hotter than its 500 K (see their note); these references are of a kernel
# model fitted to the same labels, in a true 500 K ensemble.
CANONICAL = {
    molecule: f"{molecule}-sgdml" for molecule in ("aspirin", "ethanol", "naphthalene", "salicylic-acid")
}
_BROKEN_A = 0.5
# Numbers of frames that differ by less than this factor make no difference to a floor that could be seen.
_FRAMES_ALIKE = 1.1


@dataclass(frozen=True, kw_only=True)
class NoiseFloor:
    """MAE of h(r) that a perfect model would score, and how that was worked out."""

    value: float
    length_ps: float
    note: str


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Bonds and h(r) of one data set.

    Args:
        dataset: name of the data set.
        level_of_theory: of its labels and of the dynamics behind its frames.
        temperature_K: of that dynamics.
        source: where the frames come from, and their licence.
        method: how they were sampled and cut into blocks.
        n_frames: frames behind h(r).
        frame_interval_ps: time between frames, ps; the mean where frames are a random subset.
        block_ps: length of a block, ps.
        bonds: (n_bonds, 2), i < j.
        bond_lengths_A: (n_bonds,), mean over frames, A.
        r_min_A: lower edge of the first bin of h(r).
        r_max_A: upper edge of the last bin.
        blocks: (n_blocks, n_bins), counts of pair distances; the last block holds the rest.
        note: what a reader of results must know.

    Raises:
        MetricError: shapes do not fit.
    """

    dataset: str
    level_of_theory: str
    temperature_K: float
    source: str
    method: str
    n_frames: int
    frame_interval_ps: float
    block_ps: float
    bonds: NDArray[np.int64]
    bond_lengths_A: NDArray[np.float64]
    r_min_A: float
    r_max_A: float
    blocks: NDArray[np.int64]
    note: str = ""

    def __post_init__(self) -> None:
        if (
            self.bonds.ndim != 2
            or self.bonds.shape[1] != 2
            or self.bond_lengths_A.shape != (len(self.bonds),)
        ):
            raise MetricError(
                f"reference {self.dataset}: bonds {self.bonds.shape} and lengths {self.bond_lengths_A.shape} do not fit"
            )
        if self.blocks.ndim != 2 or 0 in self.blocks.shape or (self.blocks < 0).any():
            raise MetricError(
                f"reference {self.dataset}: blocks {self.blocks.shape}; wanted counts (n_blocks, n_bins)"
            )
        if not (self.block_ps > 0 and self.frame_interval_ps > 0 and 0 <= self.r_min_A < self.r_max_A):
            raise MetricError(
                f"reference {self.dataset}: block length, frame interval or range of r is not positive"
            )

    @property
    def length_ps(self) -> float:
        """Length of the reference trajectory, ps."""
        return self.n_frames * self.frame_interval_ps

    @property
    def bin_width(self) -> float:
        """Width of the bins of h(r), A."""
        return histogram_bin_width(self.blocks.shape[1], self.r_min_A, self.r_max_A)

    @property
    def density(self) -> NDArray[np.float64]:
        """h(r) of all frames (n_bins,), unit area, 1/A."""
        return density_from_counts(self.blocks.sum(axis=0), self.bin_width)

    @property
    def h_r(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Middles of the bins (n_bins,), A, and the density (n_bins,), 1/A."""
        return histogram_bin_centres(self.blocks.shape[1], self.r_min_A, self.r_max_A), self.density

    def h_r_mae(self, positions_A: NDArray[np.floating]) -> float:
        """Area between h(r) of these frames, on the same bins, and the reference."""
        counts = h_r_counts(positions_A, self.blocks.shape[1], self.r_min_A, self.r_max_A)
        return h_r_mae(density_from_counts(counts, self.bin_width), self.density, self.bin_width)

    def noise_floor(self, length_ps: float, n_frames: int | None = None) -> NoiseFloor | None:
        """MAE of h(r) of the reference against itself at the length of a simulation and its number of frames.

        The mean over contiguous chunks of that length of MAE(chunk, all the rest).  At more
        than half of the reference there is no such chunk: its two halves are compared, which
        shows a floor of half the reference's length.  Where a chunk holds more frames than the
        simulation, as many of its counts are drawn at random as these frames would hold: a
        frame is many pairs in narrow bins, so that pairs scatter as frames do (up to 3 % more,
        for ethanol and aspirin).

        Args:
            length_ps: length of the simulation, ps.
            n_frames: of the simulation; those of the reference in that time where None.

        Returns:
            The floor, or None where the reference has too few blocks to tell.
        """
        n_blocks = len(self.blocks)
        per_chunk = round(length_ps / self.block_ps)
        if n_blocks < 2 or per_chunk < 1:
            return None
        if 2 * per_chunk >= n_blocks:
            half = n_blocks // 2
            chunks = [np.arange(half)]
            length = half * self.block_ps
            note = f"first against second half of the reference, {length:.3g} ps each"
            if per_chunk > half:
                note += f": it is too short for chunks of {length_ps:.5g} ps"
                n_frames = None if n_frames is None else round(n_frames * half / per_chunk)
        else:
            n_chunks = n_blocks // per_chunk
            chunks = [np.arange(k * per_chunk, (k + 1) * per_chunk) for k in range(n_chunks)]
            length = per_chunk * self.block_ps
            note = f"mean over {n_chunks} chunks of {length:.3g} ps of the reference, each against the rest"
        total = self.blocks.sum(axis=0)
        there = length / self.frame_interval_ps
        thinned = n_frames is not None and n_frames < there / _FRAMES_ALIKE
        rng = np.random.default_rng(0)
        values = []
        for chunk in chunks:
            inside = self.blocks[chunk].sum(axis=0)
            some = inside
            if n_frames is not None and thinned:
                wanted = max(1, round(int(inside.sum()) * n_frames / there))
                some = rng.multivariate_hypergeometric(inside, wanted)
            values.append(self._mae(some[None], (total - inside)[None]))
        if thinned:
            note += f", thinned to the {n_frames} frames of the run"
        elif n_frames is not None and n_frames > there * _FRAMES_ALIKE:
            note += f"; it has {there:.0f} frames in that time, with the run's {n_frames} it would score less"
        return NoiseFloor(value=float(np.mean(values)), length_ps=length, note=note)

    def _mae(self, one: NDArray[np.int64], other: NDArray[np.int64]) -> float:
        width = self.bin_width
        return h_r_mae(
            density_from_counts(one.sum(axis=0), width), density_from_counts(other.sum(axis=0), width), width
        )

    def as_json(self) -> dict[str, Any]:
        """A plain dict; a block is one line of counts, which begin at bin ``first_bin``."""
        record = asdict(self)
        filled = np.flatnonzero(self.blocks.sum(axis=0))
        first, last = (int(filled[0]), int(filled[-1]) + 1) if len(filled) else (0, 0)
        record["bonds"] = [" ".join(map(str, bond)) for bond in self.bonds.tolist()]
        record["bond_lengths_A"] = [round(float(length), 6) for length in self.bond_lengths_A]
        record["n_bins"] = self.blocks.shape[1]
        record["first_bin"] = first
        record["blocks"] = [" ".join(map(str, block)) for block in self.blocks[:, first:last].tolist()]
        return record

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write as JSON."""
        write_json(path, self.as_json())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Reference":
        """Read a reference.

        Raises:
            MetricError: the file is missing or damaged.
        """
        try:
            record = read_json(path)
            wanted = {field.name for field in fields(cls)} | {"n_bins", "first_bin"}
            if set(record) != wanted:
                different = ", ".join(sorted(set(record) ^ wanted))
                raise MetricError(f"missing or unknown keys: {different}")
            counts = np.array(
                [[int(number) for number in line.split()] for line in record["blocks"]], dtype=np.int64
            )
            blocks = np.zeros((len(counts), _bins(record.pop("n_bins"))), dtype=np.int64)
            first = int(record.pop("first_bin"))
            blocks[:, first : first + counts.shape[1]] = counts
            bonds = [[int(number) for number in line.split()] for line in record["bonds"]]
            arrays = {
                "blocks": blocks,
                "bonds": np.array(bonds, dtype=np.int64).reshape(-1, 2),
                "bond_lengths_A": np.array(record["bond_lengths_A"], dtype=np.float64),
            }
            return cls(**(record | arrays))
        except OSError as error:
            raise MetricError(
                f"{path}: cannot be read ({error.strerror}); give the file of a reference"
            ) from error
        except MLBenchError as error:
            raise MetricError(f"{path}: not a reference ({error}); write it again") from error
        except (TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
            raise MetricError(f"{path}: not a reference ({error!r}); write it again") from error


def _bins(value: Any) -> int:
    if not isinstance(value, int) or not 0 < value <= 100_000:
        raise ValueError(f"n_bins is {value!r}; wanted 1 to 100000")
    return value


def build_reference(
    positions_A: NDArray[np.floating],
    atomic_numbers: NDArray[np.int64],
    *,
    dataset: str,
    level_of_theory: str,
    temperature_K: float,
    source: str,
    method: str,
    frame_interval_ps: float,
    frames_per_block: int,
    note: str = "",
) -> Reference:
    """Bonds of the first frame, their mean lengths, and h(r) in blocks.

    Args:
        positions_A: (n_frames, n_atoms, 3), A, in order of time.
        atomic_numbers: (n_atoms,).
        dataset: name of the data set.
        level_of_theory: of the dynamics.
        temperature_K: of the dynamics.
        source: where the frames come from, and their licence.
        method: how they were sampled.
        frame_interval_ps: time between frames, or its mean, ps.
        frames_per_block: frames in a block; the last block also holds the rest.
        note: what a reader of results must know.

    Raises:
        MetricError: too few frames, or bonds that the frames themselves break.
    """
    if not 1 <= frames_per_block <= len(positions_A):
        raise MetricError(
            f"{len(positions_A)} frames cannot be cut into blocks of {frames_per_block}; use smaller blocks"
        )
    bonds = find_bonds(atomic_numbers, np.asarray(positions_A[0], dtype=np.float64))
    lengths = bond_lengths(np.asarray(positions_A, dtype=np.float64), bonds).mean(axis=0)
    worst = float(max_bond_deviation(np.asarray(positions_A), bonds, lengths).max())
    if worst > _BROKEN_A:
        raise MetricError(
            f"reference {dataset}: a bond of its own deviates by {worst:.2f} A from its mean, more than {_BROKEN_A} A; "
            "use frames in which the molecule stays whole"
        )
    n_blocks = len(positions_A) // frames_per_block
    starts = [*range(0, n_blocks * frames_per_block, frames_per_block), len(positions_A)]
    blocks = np.array([h_r_counts(positions_A[a:b]) for a, b in pairwise(starts)])
    return Reference(
        dataset=dataset,
        level_of_theory=level_of_theory,
        temperature_K=temperature_K,
        source=source,
        method=method,
        n_frames=len(positions_A),
        frame_interval_ps=frame_interval_ps,
        block_ps=frames_per_block * frame_interval_ps,
        bonds=bonds,
        bond_lengths_A=lengths,
        r_min_A=R_MIN_A,
        r_max_A=R_MAX_A,
        blocks=blocks,
        note=note,
    )


def reference_from_gfn2(run: GfnRun) -> Reference:
    """The reference of a GFN2 data set, from the run that made it; blocks of 1 ps where it has them."""
    settings = run.provenance
    frames_per_block = min(max(1, round(1.0 / run.interval_ps)), len(run.trajectory_A))
    return build_reference(
        run.trajectory_A,
        run.frames.atomic_numbers,
        dataset=run.frames.name,
        level_of_theory=run.frames.level_of_theory,
        temperature_K=settings["temperature_K"],
        source=run.frames.source,
        method=(
            f"{settings['length_ps']:g} ps of Langevin-middle dynamics ({settings['timestep_fs']:g} fs, friction "
            f"{settings['friction_per_ps']:g}/ps, {settings['temperature_K']:g} K) after "
            f"{settings['equilibration_ps']:g} ps of equilibration, a frame every {settings['interval_fs']:g} fs"
        ),
        frame_interval_ps=run.interval_ps,
        frames_per_block=frames_per_block,
    )


def reference_from_md17(frames: Frames, source: str | None = None) -> Reference:
    """The reference of an MD17 data set, from all of its frames.

    Frames are a random subset of the trajectory in order of time, so a block is a number
    of frames, 1 ps on average.

    Args:
        frames: all frames, in order of time.
        source: where the file comes from; the source of the labels unless given.

    Raises:
        MetricError: the frames do not know their time or are not in order.
    """
    steps = np.diff(frames.frame_indices)
    if frames.interval_fs is None or len(steps) == 0 or (steps <= 0).any():
        raise MetricError(f"{frames.name}: frames need an interval and increasing indices; sort them by time")
    spacing_ps = float(steps.mean()) * frames.interval_fs * PS_PER_FS
    return build_reference(
        frames.positions,
        frames.atomic_numbers,
        dataset=frames.name,
        level_of_theory=frames.level_of_theory,
        temperature_K=500.0,
        source=source or frames.source,
        method=(
            f"{frames.n_frames} frames drawn at random from the 500 K ab-initio dynamics of MD17, in order of time, "
            f"{spacing_ps * 1000:.3g} fs apart on average"
        ),
        frame_interval_ps=spacing_ps,
        frames_per_block=min(max(1, round(1.0 / spacing_ps)), frames.n_frames),
        note=_md17_temperature(frames.n_atoms),
    )


def _md17_temperature(n_atoms: int) -> str:
    """Consecutive frames of ethanol show it: kinetic energy of 500 K over 3N, none of it in translation or rotation."""
    vibrations_K = 500.0 * 3 * n_atoms / (3 * n_atoms - 6)
    return (
        f"the vibrations of these frames are at {vibrations_K:.0f} K: the thermostat of MD17 counted 3N degrees of "
        "freedom at 500 K, but the molecule neither moves nor turns"
    )


def generate_reference_data(system: str, folder: str | os.PathLike[str], **options: Any) -> tuple[Path, Path]:
    """Make a GFN2 data set and its reference: ``<system>-gfn2.npz`` and ``references/<system>-gfn2.json``.

    Args:
        system: name of a folder in systems/.
        folder: where to write.
        options: for ``generate_gfn2``.

    Returns:
        Paths of the data set and of the reference.
    """
    target = Path(folder)
    run = generate_gfn2(system, target / f"{system}-gfn2.npz", **options)
    reference = target / "references" / f"{system}-gfn2.json"
    reference_from_gfn2(run).save(reference)
    return run.path, reference


def load_reference(dataset: str) -> Reference | None:
    """The shipped reference of a data set, or None where there is none.

    Raises:
        DataError: the data set is not known by name.
        MetricError: the reference is damaged.
    """
    owner = SAME_GEOMETRIES.get(dataset, dataset)
    reference = _shipped(dataset, owner)
    if reference is None or owner == dataset:
        return reference
    note = (
        f"frames of {owner}, sampled at {reference.level_of_theory}; {dataset} relabels the same geometries"
    )
    return replace(reference, dataset=dataset, note="; ".join(filter(None, (note, reference.note))))


def load_canonical_reference(dataset: str) -> Reference | None:
    """A second reference of a data set whose frames are no canonical ensemble, or None.

    Raises:
        DataError: the data set is not known by name.
        MetricError: the reference is damaged.
    """
    return _shipped(dataset, CANONICAL[dataset]) if dataset in CANONICAL else None


def _shipped(dataset: str, owner: str) -> Reference | None:
    path = asset_path("systems", system_of(dataset), "references", f"{owner}.json")
    if not path.is_file():
        return None
    reference = Reference.load(path)
    if reference.dataset != owner:
        raise MetricError(f"{path}: is the reference of {reference.dataset}, not of {owner}; write it again")
    return reference


def reference_file(dataset: str, observable: str, mode: str = "paper") -> Path | None:
    """The shipped JSON of ``measure OBSERVABLE`` that a data set's models are compared with.

    It lies at ``systems/<system>/references/<dataset>-<observable>.json``, with ``-mdsim``
    before the ending for that mode; h(r) at ``<dataset>.json``, which serves both modes.

    Args:
        dataset: name of a data set; for h(r) also of a canonical reference, ``ethanol-sgdml``.
        observable: ``rdf``, ``diffusivity``, ``free-energy`` or ``h_r``.
        mode: ``paper`` or ``mdsim``.

    Returns:
        The path, or None where there is no such reference.

    Raises:
        DataError: the data set is not known by name.
    """
    if observable == "h_r":
        return _h_r_file(dataset)
    owner = SAME_POTENTIAL.get(dataset, dataset)
    ending = "" if mode == "paper" else f"-{mode}"
    path = asset_path("systems", system_of(dataset), "references", f"{owner}-{observable}{ending}.json")
    return path if path.is_file() else None


def _h_r_file(name: str) -> Path | None:
    canonical = {reference: dataset for dataset, reference in CANONICAL.items()}
    system = system_of(canonical.get(name, name))
    path = asset_path("systems", system, "references", f"{SAME_GEOMETRIES.get(name, name)}.json")
    return path if path.is_file() else None
