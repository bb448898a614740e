"""Long dynamics in segments: what is shared by everything that generates data.

Each segment is one file, written at once, that holds the frames of the segment and OpenMM's
checkpoint at its end; so a killed run goes on from its last segment and gives the same
numbers as one that never stopped.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from openmm_mlbench.assets import asset_path
from openmm_mlbench.data.npz import NpzFile
from openmm_mlbench.errors import DataError
from openmm_mlbench.files import atomic_path, read_json, write_json
from openmm_mlbench.units import FS_PER_PS

_LOG = logging.getLogger(__name__)

# Labelled frames per segment: at most this many are lost when the run is killed.
FRAMES_PER_SEGMENT = 25
MAX_TIMESTEP_FS = {"none": 1.0, "h-bonds": 2.0}

ReportProgress = Callable[[float, float], None]
Part = dict[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a data set is sampled.

    Args:
        system: name of a folder in systems/.
        n_frames: labelled frames to keep, evenly spaced.
        length_ps: length of the run after equilibration, ps.
        seed: seed of velocities and noise.
        temperature_K: of the bath.
        timestep_fs: time step.
        friction_per_ps: Langevin friction.
        equilibration_ps: time thrown away at the start.
        interval_fs: time between the frames that are kept; every n-th of them is labelled.

    Raises:
        DataError: they do not fit together.
    """

    system: str
    n_frames: int
    length_ps: float
    seed: int
    temperature_K: float
    timestep_fs: float
    friction_per_ps: float
    equilibration_ps: float
    interval_fs: float

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**31 - 1:
            raise DataError(f"seed {self.seed}: use a whole number from 0 to {2**31 - 2}")
        for name in (
            "n_frames",
            "length_ps",
            "temperature_K",
            "timestep_fs",
            "friction_per_ps",
            "interval_fs",
        ):
            if not 0 < getattr(self, name) < float("inf"):
                raise DataError(f"{name} is {getattr(self, name)}; use a positive number")
        limit = MAX_TIMESTEP_FS[self.rigid]
        if self.timestep_fs > limit:
            kind = "unconstrained" if self.rigid == "none" else "constrained"
            raise DataError(f"timestep_fs is {self.timestep_fs}; {kind} hydrogens need at most {limit:g} fs")
        whole(
            self.interval_fs / self.timestep_fs,
            f"{self.n_frames} frames from {self.length_ps:g} ps, one every {self.interval_fs:g} fs: interval_fs is "
            f"not a multiple of timestep_fs, {self.timestep_fs:g}; use another number of frames or another length",
        )
        whole(
            self.equilibration_ps * FS_PER_PS / self.timestep_fs,
            "equilibration_ps is not a multiple of timestep_fs; change one of the two",
        )
        whole(
            self.samples / self.n_frames,
            "length_ps / n_frames is not a multiple of interval_fs; change one of the two",
        )

    @property
    def rigid(self) -> str:
        """What is held rigid: ``none`` or ``h-bonds``."""
        return "none"

    @property
    def steps_per_sample(self) -> int:
        """Steps between frames that are kept."""
        return round(self.interval_fs / self.timestep_fs)

    @property
    def samples(self) -> int:
        """Frames that are kept."""
        return whole(
            self.length_ps * FS_PER_PS / self.interval_fs,
            "length_ps is not a multiple of interval_fs; change one of the two",
        )

    @property
    def samples_per_frame(self) -> int:
        """Every this many samples one is labelled."""
        return round(self.samples / self.n_frames)

    @property
    def frames_per_segment(self) -> int:
        """Labelled frames of a full segment."""
        return FRAMES_PER_SEGMENT

    @property
    def segments(self) -> list[int]:
        """Labelled frames in each segment."""
        full, rest = divmod(self.n_frames, self.frames_per_segment)
        return [self.frames_per_segment] * full + ([rest] if rest else [])


class Dynamics(Protocol):
    """A simulation that stands somewhere and can go on."""

    def equilibrate(self) -> None:
        """From the start structure to equilibrium."""

    def restore(self, checkpoint: bytes) -> None:
        """To the end of an earlier segment."""

    def segment(self, n_frames: int) -> Part:
        """Go on and return the arrays of ``KEYS``."""


def whole(value: float, message: str) -> int:
    """The whole number that a ratio is meant to be.

    Raises:
        DataError: it is none.
    """
    if abs(value - round(value)) > 1e-6 or round(value) < 0:
        raise DataError(message)
    return round(value)


def stream_seeds(seed: int) -> tuple[int, int]:
    """Seeds of the noise and of the velocities; never 0, which means "choose at random" to OpenMM."""
    noise, velocities = np.random.SeedSequence(seed).generate_state(2) % (2**31 - 2) + 1
    return int(noise), int(velocities)


def structure_path(system: str) -> Path:
    """The topology.pdb of a system.

    Raises:
        DataError: there is no such system.
    """
    path = asset_path("systems", system, "topology.pdb")
    if not path.is_file():
        there = ", ".join(sorted(found.parent.name for found in asset_path("systems").glob("*/topology.pdb")))
        raise DataError(f"system {system!r} is not known; there are {there}")
    return path


def work_folder(out: Path, work: Path | None) -> Path:
    """Where segments are kept: beside the data set unless given."""
    return work if work is not None else out.with_name(out.stem + ".work")


def run_segments(
    settings: Sampling,
    make_dynamics: Callable[[], Dynamics],
    folder: Path,
    provenance: dict[str, Any],
    keys: tuple[str, ...],
    progress: ReportProgress | None = None,
) -> list[Part]:
    """All segments of a run, simulated or read back.

    Args:
        settings: how long, and how many frames.
        make_dynamics: called only if something is left to simulate.
        folder: of segments; kept.
        provenance: everything that decides the numbers; must be that of the folder.
        keys: arrays of a segment, ``checkpoint`` apart.
        progress: called with (ps done, ps in all) after every segment.

    Raises:
        DataError: another process works there, the folder belongs to another run, or is damaged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / "lock", timeout=0):
            _prepare(folder, provenance)
            return _simulate(settings, make_dynamics, folder, (*keys, "checkpoint"), progress)
    except Timeout as error:
        raise DataError(
            f"{folder}: another process is generating here; wait for it or give another folder"
        ) from error


def _prepare(work: Path, provenance: dict[str, Any]) -> None:
    """Note the settings in a new work folder, or compare with those of an old one."""
    note = work / "run.json"
    if not note.exists():
        write_json(note, provenance)
        return
    found = read_json(note)
    # An older version noted less, and another version of the package goes on where nothing else has changed.
    compared = (found.keys() & provenance.keys()) - {"openmm-mlbench"}
    differing = sorted(key for key in compared if found[key] != provenance[key])
    if differing:
        key = differing[0]
        raise DataError(
            f"{work}: a run with {key} {found.get(key)!r} was begun here, now {provenance[key]!r} is wanted; "
            "delete the folder or repeat the old command"
        )


def _simulate(
    settings: Sampling,
    make_dynamics: Callable[[], Dynamics],
    folder: Path,
    keys: tuple[str, ...],
    progress: ReportProgress | None,
) -> list[Part]:
    dynamics: Dynamics | None = None
    parts: list[Part] = []
    ready = False  # whether the context stands where the next segment begins
    frames_done = 0
    for index, n_frames in enumerate(settings.segments):
        path = folder / f"segment-{index:04d}.npz"
        if path.exists():
            parts.append(_read_segment(path, keys))
            ready = False
        else:
            dynamics = dynamics or make_dynamics()
            if index == 0:
                dynamics.equilibrate()
            elif not ready:
                dynamics.restore(parts[-1]["checkpoint"].tobytes())
            ready = True
            parts.append(dynamics.segment(n_frames))
            _write_segment(path, parts[-1])
        frames_done += n_frames
        done_ps = frames_done * settings.length_ps / settings.n_frames
        _LOG.info("segment %d: %.4g of %.4g ps", index, done_ps, settings.length_ps)
        if progress is not None:
            progress(done_ps, settings.length_ps)
    return parts


def _read_segment(path: Path, keys: tuple[str, ...]) -> Part:
    try:
        archive = NpzFile(path)
        return {key: archive.array(key) for key in keys}
    except DataError as error:
        raise DataError(f"{path}: damaged; delete it and generate again, which computes it anew") from error


def _write_segment(path: Path, arrays: Part) -> None:
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
