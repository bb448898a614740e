"""What is written down about a collapse: the frames around it, and around its first step at full rate.

Frames are as fine as a running simulation looks.  To see the collapse step by step it is
repeated: a ring of in-memory checkpoints of the latest frames leads back to before it, and
from there the same engine goes on one step at a time.  While running this costs one
``createCheckpoint`` per frame.
"""

import csv
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmm_mlbench.cells import nearest_images
from openmm_mlbench.files import atomic_path, finite_or_none, write_json
from openmm_mlbench.simulation.monitor import RDF, FrameRecord, Monitor, Stop
from openmm_mlbench.topology import BOND_SCALE
from openmm_mlbench.units import ANGSTROM_PER_NM

# At full rate: so many steps are written, the first offending one in the middle.
N_STEPS = 50
# What the steps of one repetition may occupy; older ones give way.
_MAX_BYTES = 200_000_000
# A repetition that ends up further away is of another trajectory.
_CLOSE_A = 0.1


@dataclass(frozen=True, kw_only=True)
class Observation:
    """One configuration: what the log says of it, positions (n_atoms, 3), box (3, 3) or None, nm, and forces."""

    record: FrameRecord
    positions_nm: NDArray[np.float64]
    box_nm: NDArray[np.float64] | None
    forces: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """One step at full rate, a row of full-rate.csv.

    Args:
        step: of the simulation.
        time_ps: its time.
        potential_energy_kJ_mol: None where it is not finite.
        kinetic_energy_kJ_mol: likewise.
        temperature_K: likewise.
        max_force_kJ_mol_nm: largest force on any atom.
        max_force_atom: the atom with that force.
        contact_atom: the atom closest to that one relative to their covalent radii, but for those bonded to it.
        contact_A: their distance.
        bond_i: first atom of the bond that deviates most, None without bonds.
        bond_j: second atom.
        bond_deviation_A: by how much.
        offending: reason code where a criterion of the monitor is violated, else empty.
    """

    step: int
    time_ps: float
    potential_energy_kJ_mol: float | None
    kinetic_energy_kJ_mol: float | None
    temperature_K: float | None
    max_force_kJ_mol_nm: float | None
    max_force_atom: int
    contact_atom: int | None
    contact_A: float | None
    bond_i: int | None
    bond_j: int | None
    bond_deviation_A: float | None
    offending: str


@dataclass(frozen=True, kw_only=True)
class FullRate:
    """The steps around the first offending one.

    Args:
        steps: in order, no more than N_STEPS.
        positions_nm: (n_steps, n_atoms, 3).
        boxes_nm: (n_steps, 3, 3) or None.
        first_offending_step: of them, None where the repetition met no offence.
        pair: the atoms, their names and distance that stand for the offence at that step, or None.
        largest_difference_A: between the repetition and the run, at the last frame that both have; None without one.
    """

    steps: tuple[StepRecord, ...]
    positions_nm: NDArray[np.float64]
    boxes_nm: NDArray[np.float64] | None
    first_offending_step: int | None
    pair: dict[str, Any] | None
    largest_difference_A: float | None

    @property
    def reproduced(self) -> str:
        """``exact``, ``close`` (to 0.1 A) or ``no``: whether the repetition is the run itself."""
        if self.largest_difference_A is None or not self.largest_difference_A <= _CLOSE_A:
            return "no"
        return "exact" if self.largest_difference_A == 0.0 else "close"


class Rewind:
    """A ring of checkpoints in memory, from which the latest frames can be repeated.

    Args:
        steps_per_frame: steps between two calls of ``keep``.
    """

    def __init__(self, steps_per_frame: int) -> None:
        self.steps_per_frame = steps_per_frame
        # So many frames back that half of N_STEPS lie before the frame interval of the offence.
        n_frames = 1 + -(-(N_STEPS // 2) // steps_per_frame)
        self._points: deque[tuple[int, bytes]] = deque(maxlen=n_frames)
        self._frames: deque[tuple[int, NDArray[np.float64]]] = deque(maxlen=n_frames + 1)
        self._window: tuple[int, bytes, NDArray[np.float64]] | None = None

    def keep(
        self, step: int, positions_nm: NDArray[np.float64], content: bytes, *, window_begins: bool = False
    ) -> None:
        """Remember a sound frame and the engine's checkpoint there.

        Args:
            step: of the frame.
            positions_nm: (n_atoms, 3).
            content: the engine's checkpoint.
            window_begins: keep it also as the frame before a window of frames.
        """
        self._points.append((step, content))
        if window_begins:
            self._window = (*self._points[-1], positions_nm)
        self.note(step, positions_nm)

    def note(self, step: int, positions_nm: NDArray[np.float64]) -> None:
        """Remember the positions of a frame only, to compare the repetition with."""
        self._frames.append((step, positions_nm))

    def forget(self) -> None:
        """Drop all checkpoints: the engine that they belong to is no more, and its successor cannot load them."""
        self._points.clear()
        self._frames.clear()
        self._window = None

    def repeat(
        self,
        stop: Stop,
        monitor: Monitor,
        atomic_numbers: NDArray[np.int64],
        observe: Callable[[int], Observation],
        step_once: Callable[[], None],
        restore: Callable[[bytes], None],
    ) -> "FullRate":
        """Go back to before the offence and come to it again step by step.

        Args:
            stop: the offence.
            monitor: of the run; judges every step.
            atomic_numbers: (n_atoms,).
            observe: the present configuration, for the number of its step.
            step_once: integrates one step.
            restore: puts the engine into the state of one of its checkpoints.

        Raises:
            LookupError: there is no frame to go back to.
            Exception: whatever the engine raises before the first step is done.
        """
        frames = dict(self._frames)
        if stop.reason == RDF and self._window is not None:
            step, checkpoint, start_nm = self._window
            last = self._frames[-1][0]
        else:
            if not self._points:
                raise LookupError("no frame before it is left: the Context was made anew since")
            step, checkpoint = self._points[0]
            start_nm = frames[step]
            last = max(stop.step, step + 1)
        restore(checkpoint)
        walk = _Walk(self, stop, monitor, atomic_numbers, (step, start_nm), frames)
        while step < last or not walk.is_complete(step, last):
            try:
                step_once()
                step += 1
                walk.take(observe(step))
            except Exception:
                if not walk.rows:
                    raise
                # The engine refuses what comes next, a NaN for example: here it is.
                walk.first = walk.first or walk.rows[-1]
                break
        return walk.result(last)


class _Walk:
    """The steps of one repetition."""

    def __init__(
        self,
        rewind: Rewind,
        stop: Stop,
        monitor: Monitor,
        atomic_numbers: NDArray[np.int64],
        start: tuple[int, NDArray[np.float64]],
        frames: dict[int, NDArray[np.float64]],
    ) -> None:
        from ase.data import covalent_radii

        self.steps_per_frame = rewind.steps_per_frame
        self.by_force = stop.reason == RDF
        self.monitor = monitor
        self.radii = covalent_radii[atomic_numbers]
        self.start, self.start_nm = start
        self.frames = frames
        # Displacements are those since the frame before, as while running.
        monitor.previous_nm = self.start_nm
        kept = max(2 * N_STEPS, _MAX_BYTES // (12 * len(atomic_numbers)))
        self.rows: deque[StepRecord] = deque(maxlen=kept)
        self.positions: deque[NDArray[np.float32]] = deque(maxlen=kept)
        self.boxes: deque[NDArray[np.float64] | None] = deque(maxlen=kept)
        self.first: StepRecord | None = None
        self.pair: dict[str, Any] | None = None
        self.difference_A: float | None = None

    def is_complete(self, step: int, last: int) -> bool:
        """Whether enough steps after the offence were seen."""
        centre = last if self.first is None else self.first.step
        return self.by_force or step >= centre + N_STEPS // 2 - 1

    def take(self, now: Observation) -> None:
        """Judge and keep one step."""
        step = now.record.step
        with np.errstate(all="ignore"):
            found = self.monitor.collapse(
                now.record, now.positions_nm, now.box_nm
            ) or self.monitor.broken_bond(now.record, now.positions_nm, now.box_nm)
            row = self._row(now, found)
        self.rows.append(row)
        self.positions.append(now.positions_nm.astype(np.float32))
        self.boxes.append(now.box_nm)
        # A window has no first step: the largest force stands for it.
        larger = self.by_force and (self.first is None or _force(row) > _force(self.first))
        if larger or (found is not None and self.first is None):
            self.first, self.pair = row, self._pair(row, found)
        if step in self.frames and np.isfinite(self.frames[step]).all():
            self.difference_A = ANGSTROM_PER_NM * float(np.abs(now.positions_nm - self.frames[step]).max())
        if (step - self.start) % self.steps_per_frame == 0:
            self.monitor.previous_nm, self.monitor.previous_box_nm = now.positions_nm, now.box_nm

    def result(self, last: int) -> "FullRate":
        """The steps around the first offending one, or the last ones where there is none."""
        numbers = [row.step for row in self.rows]
        centre = last if self.first is None else self.first.step
        end = min(len(numbers), max(N_STEPS, centre - numbers[0] + N_STEPS // 2))
        chosen = range(max(0, end - N_STEPS), end)
        boxes = [self.boxes[i] for i in chosen]
        return FullRate(
            steps=tuple(self.rows[i] for i in chosen),
            positions_nm=np.stack([self.positions[i] for i in chosen]).astype(np.float64),
            boxes_nm=None if boxes[0] is None else np.array(boxes),
            first_offending_step=None if self.first is None else self.first.step,
            pair=self.pair,
            largest_difference_A=self.difference_A,
        )

    def _row(self, now: Observation, found: Stop | None) -> StepRecord:
        record, bonds = now.record, self.monitor.bonds
        atom = _largest(np.linalg.norm(now.forces, axis=1))
        contact, contact_A = self._contact(now, atom)
        deviations = self.monitor.bond_deviations_A(now.positions_nm, now.box_nm)
        bond = _largest(deviations) if len(deviations) else None
        return StepRecord(
            step=record.step,
            time_ps=record.time_ps,
            potential_energy_kJ_mol=finite_or_none(record.potential_energy_kJ_mol),
            kinetic_energy_kJ_mol=finite_or_none(record.kinetic_energy_kJ_mol),
            temperature_K=finite_or_none(record.temperature_K),
            max_force_kJ_mol_nm=finite_or_none(record.max_force_kJ_mol_nm),
            max_force_atom=atom,
            contact_atom=contact,
            contact_A=contact_A,
            bond_i=None if bond is None else int(bonds[bond, 0]),
            bond_j=None if bond is None else int(bonds[bond, 1]),
            bond_deviation_A=None if bond is None else finite_or_none(float(deviations[bond])),
            offending=found.reason if found is not None else "",
        )

    def _contact(self, now: Observation, atom: int) -> tuple[int | None, float | None]:
        """The atom closest to this one for its size, but for those that it was bonded to at the start, and how far."""
        reach = self.radii + self.radii[atom]
        others = self._distances_A(self.start_nm, now.box_nm, atom) > BOND_SCALE * reach
        distances = self._distances_A(now.positions_nm, now.box_nm, atom)
        others &= np.isfinite(distances)
        if not others.any():
            return None, None
        places = np.flatnonzero(others)
        nearest = int(places[(distances / reach)[places].argmin()])
        return nearest, float(distances[nearest])

    def _distances_A(  # noqa: N802 - A is the unit
        self, positions_nm: NDArray[np.float64], box_nm: NDArray[np.float64] | None, atom: int
    ) -> NDArray[np.float64]:
        vectors = positions_nm - positions_nm[atom]
        if box_nm is not None and np.isfinite(vectors).all():
            vectors = nearest_images(vectors[None], box_nm[None])[0]
        return ANGSTROM_PER_NM * np.linalg.norm(vectors, axis=1)

    def _pair(self, row: StepRecord, found: Stop | None) -> dict[str, Any] | None:
        """The atoms that stand for the offence: the bond, else the largest force and its closest contact."""
        if found is not None and found.bond is not None:
            return found.bond
        if row.contact_atom is None:
            return None
        atoms = [row.max_force_atom, row.contact_atom]
        names = [self.monitor.atom_names[atom] for atom in atoms]
        return {"atoms": atoms, "names": names, "distance_A": row.contact_A}


def _largest(values: NDArray[np.float64]) -> int:
    return int(np.where(np.isfinite(values), values, np.inf).argmax())


def _force(row: StepRecord) -> float:
    return np.inf if row.max_force_kJ_mol_nm is None else row.max_force_kJ_mol_nm


def write_dossier(
    folder: Path,
    stop: Stop,
    monitor: Monitor,
    trajectory: bytes,
    full_rate: FullRate | str = "not asked for",
    full_rate_trajectory: bytes = b"",
) -> None:
    """Write what is known of a collapse: dossier.json, frames.csv, frames.dcd, full-rate.csv, full-rate.dcd.

    Args:
        folder: the dossier's folder.
        stop: why the run ended.
        monitor: its recent frames.
        trajectory: DCD file with the frames around the offence.
        full_rate: the steps around it, or why there are none.
        full_rate_trajectory: DCD file with these.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _write_bytes(folder / "frames.dcd", trajectory)
    _write_rows(folder / "frames.csv", FrameRecord, monitor.rows())
    if isinstance(full_rate, FullRate):
        _write_bytes(folder / "full-rate.dcd", full_rate_trajectory)
        _write_rows(folder / "full-rate.csv", StepRecord, [asdict(row) for row in full_rate.steps])
        steps: dict[str, Any] = {
            "first_step": full_rate.steps[0].step,
            "n_steps": len(full_rate.steps),
            "first_offending_step": full_rate.first_offending_step,
            "pair": full_rate.pair,
            "reproduced": full_rate.reproduced,
            "largest_difference_A": finite_or_none(full_rate.largest_difference_A),
            "missing": "",
        }
    else:
        steps = {"missing": full_rate}
    write_json(
        folder / "dossier.json",
        {
            **asdict(stop),
            "frames_beyond_threshold": monitor.frames_beyond,
            "max_force_kJ_mol_nm": [finite_or_none(record.max_force_kJ_mol_nm) for record in monitor.recent],
            "steps": [record.step for record in monitor.recent],
            "full_rate": steps,
            "thresholds": asdict(monitor.thresholds),
        },
    )


def _write_bytes(path: Path, content: bytes) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def _write_rows(path: Path, kind: Any, rows: list[dict[str, Any]]) -> None:
    with atomic_path(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, [item.name for item in fields(kind)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
