"""Watching a running simulation: when it has collapsed."""

import math
from collections import deque
from dataclasses import asdict, dataclass
from typing import Any
from typing import Protocol as Interface

import numpy as np
from numpy.typing import NDArray

from openmm_mlbench.cells import nearest_images
from openmm_mlbench.units import ANGSTROM_PER_NM

NOT_FINITE = "not-finite"
BOND = "bond-deviation"
RDF = "rdf"
ENERGY = "energy"
TEMPERATURE = "temperature"
DISPLACEMENT = "displacement"


class WindowCriterion(Interface):
    """Judges windows of frames, as RDFs need them; crosses into worker processes.

    ``description`` is plain JSON and goes into run.json.
    """

    description: dict[str, Any]
    threshold_A: float
    frames_per_window: int

    def deviations_A(  # noqa: N802 - A is the unit
        self, positions_nm: NDArray[np.float64], box_vectors_nm: NDArray[np.float64]
    ) -> dict[str, float]:
        """By the label of a pair of species, for positions (n_frames, n_atoms, 3) and boxes (n_frames, 3, 3)."""


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """Where a simulation counts as collapsed.

    The bond criterion is the paper's (eq. 9) and the protocol's; the others
    are far outside anything physical and catch what shows up before, or
    instead of, a NaN (fixed-point forces on GPUs turn a NaN into garbage).

    Args:
        bond_deviation_A: largest deviation of a bond from its equilibrium length.
        energy_kJ_mol_per_atom: largest change of the potential energy since the start.
        temperature_ratio: largest kinetic temperature, in units of the protocol's.
        speed_nm_ps: largest mean speed of an atom between two frames, where displacement_A is None.
        displacement_A: largest move of an atom between two frames (beyond what a change of the cell made of it).
        frames_before: frames before the offence that the dossier keeps.
        frames_after: the run goes on for so many frames after a bond gave way,
            which confirms the finding and shows what came of it.
    """

    bond_deviation_A: float = 0.5
    energy_kJ_mol_per_atom: float = 1000.0
    temperature_ratio: float = 20.0
    speed_nm_ps: float = 100.0
    displacement_A: float | None = None
    frames_before: int = 20
    frames_after: int = 5


@dataclass(frozen=True, kw_only=True)
class FrameRecord:
    """What is known of one frame; energies in kJ/mol, force in kJ/mol/nm."""

    step: int
    time_ps: float
    potential_energy_kJ_mol: float
    kinetic_energy_kJ_mol: float
    temperature_K: float
    T_rot_K: float | None
    T_vib_K: float | None
    max_bond_deviation_A: float
    max_force_kJ_mol_nm: float
    volume_A3: float | None = None

    @property
    def total_energy_kJ_mol(self) -> float:  # noqa: N802 - J is the unit's
        """Potential plus kinetic energy."""
        return self.potential_energy_kJ_mol + self.kinetic_energy_kJ_mol


@dataclass(frozen=True, kw_only=True)
class Stop:
    """Why and where a simulation counts as collapsed.

    Args:
        reason: code, one of this module's constants.
        message: one line for people.
        step: integration step of the offending frame (frames are as fine as it gets).
        time_ps: its time.
        bond: atoms, names, length and equilibrium length of the first offending bond, or None.
        pair: label and deviation (A) of the worst RDF of the first offending window, or None.
    """

    reason: str
    message: str
    step: int
    time_ps: float
    bond: dict[str, Any] | None = None
    pair: dict[str, Any] | None = None


class Monitor:
    """Judges every frame of one replica.

    Args:
        thresholds: where collapse begins.
        bonds: (n_bonds, 2).
        equilibrium_A: (n_bonds,), A.
        atom_names: of all atoms.
        temperature_K: the protocol's.
        frame_interval_ps: time between frames.
        start_energy_kJ_mol: potential energy of the start frame.
        positions_nm: (n_atoms, 3), where the simulation starts or goes on.
        recent: frames before that point, when it goes on.
        box_nm: (3, 3), rows are box vectors where it starts, or None.
        window: judges windows of frames.
        held: frames of a window that is not whole yet, when it goes on: positions (n_atoms, 3) and boxes (3, 3), nm.
    """

    def __init__(
        self,
        *,
        thresholds: Thresholds,
        bonds: NDArray[np.int64],
        equilibrium_A: NDArray[np.float64],
        atom_names: tuple[str, ...],
        temperature_K: float,
        frame_interval_ps: float,
        start_energy_kJ_mol: float,
        positions_nm: NDArray[np.float64],
        recent: list[dict[str, Any]] | None = None,
        box_nm: NDArray[np.float64] | None = None,
        window: WindowCriterion | None = None,
        held: list[tuple[NDArray[np.float64], NDArray[np.float64]]] | None = None,
    ) -> None:
        self.thresholds = thresholds
        self.bonds = np.asarray(bonds, dtype=np.int64).reshape(-1, 2)
        self.equilibrium_A = np.asarray(equilibrium_A, dtype=np.float64)
        self.atom_names = atom_names
        self.temperature_K = temperature_K
        self.frame_interval_ps = frame_interval_ps
        self.start_energy_kJ_mol = start_energy_kJ_mol
        kept = max(thresholds.frames_before, window.frames_per_window if window else 0)
        self.recent: deque[FrameRecord] = deque(maxlen=kept + thresholds.frames_after + 1)
        self.recent.extend(FrameRecord(**row) for row in recent or [])
        self.offence: Stop | None = None
        self.frames_beyond = 0
        self._frames_since = 0
        self.window = window
        self._held = list(held or [])
        self.previous_nm, self.previous_box_nm = positions_nm, box_nm

    def bond_deviations_A(  # noqa: N802 - A is the unit
        self, positions_nm: NDArray[np.float64], box_nm: NDArray[np.float64] | None = None
    ) -> NDArray[np.float64]:
        """(n_bonds,), | |x_i - x_j| - b_ij |        (paper, eq. 9), nearest images in a periodic cell."""
        return np.abs(self._bond_lengths_A(positions_nm, box_nm) - self.equilibrium_A)

    def _bond_lengths_A(  # noqa: N802 - A is the unit
        self, positions_nm: NDArray[np.float64], box_nm: NDArray[np.float64] | None
    ) -> NDArray[np.float64]:
        vectors = positions_nm[self.bonds[:, 1]] - positions_nm[self.bonds[:, 0]]
        return ANGSTROM_PER_NM * np.linalg.norm(_nearest(vectors, box_nm), axis=1)

    def check(
        self,
        record: FrameRecord,
        positions_nm: NDArray[np.float64],
        box_nm: NDArray[np.float64] | None = None,
    ) -> Stop | None:
        """Take note of a frame; a Stop when the simulation has to end here."""
        self.recent.append(record)
        collapse = self.collapse(record, positions_nm, box_nm) or self._strange_window(
            record, positions_nm, box_nm
        )
        self.previous_nm, self.previous_box_nm = positions_nm, box_nm
        if collapse is not None:
            # A bond that gave way before is where the trouble began.
            self.offence = self.offence or collapse
            return self.offence
        broken = self.broken_bond(record, positions_nm, box_nm)
        self.frames_beyond += broken is not None
        if self.offence is None:
            self.offence = broken
            return self.offence if self.thresholds.frames_after == 0 else None
        self._frames_since += 1
        return self.offence if self._frames_since >= self.thresholds.frames_after else None

    def exploded(self, step: int, time_ps: float, message: str) -> Stop:
        """The Stop for a step that the engine itself refused because of a NaN."""
        self.offence = self.offence or Stop(reason=NOT_FINITE, message=message, step=step, time_ps=time_ps)
        return self.offence

    def rows(self) -> list[dict[str, Any]]:
        """The recent frames as plain dicts, to be kept in a checkpoint."""
        return [asdict(record) for record in self.recent]

    def collapse(
        self,
        record: FrameRecord,
        positions_nm: NDArray[np.float64],
        box_nm: NDArray[np.float64] | None = None,
    ) -> Stop | None:
        """Collapse that one frame shows, by anything but a bond: it ends the run at once."""
        limits = self.thresholds

        def stop(reason: str, message: str) -> Stop:
            return Stop(reason=reason, message=message, step=record.step, time_ps=record.time_ps)

        numbers = (record.potential_energy_kJ_mol, record.kinetic_energy_kJ_mol, record.max_force_kJ_mol_nm)
        if not (np.isfinite(positions_nm).all() and all(math.isfinite(number) for number in numbers)):
            return stop(NOT_FINITE, "positions, energy or forces are NaN or infinite")
        change = abs(record.potential_energy_kJ_mol - self.start_energy_kJ_mol) / len(positions_nm)
        if change > limits.energy_kJ_mol_per_atom:
            return stop(
                ENERGY,
                f"potential energy changed by {change:.4g} kJ/mol per atom since the start; "
                f"limit {limits.energy_kJ_mol_per_atom:g}",
            )
        if record.temperature_K > limits.temperature_ratio * self.temperature_K:
            return stop(
                TEMPERATURE,
                f"kinetic temperature {record.temperature_K:.4g} K; "
                f"limit {limits.temperature_ratio * self.temperature_K:g} K",
            )
        moved_A = ANGSTROM_PER_NM * np.linalg.norm(positions_nm - self._previous_in(box_nm), axis=1)
        atom = int(moved_A.argmax())
        if moved_A[atom] > self.displacement_limit_A:
            return stop(
                DISPLACEMENT,
                f"atom {atom} ({self.atom_names[atom]}) moved {moved_A[atom]:.4g} A between two frames; "
                f"limit {self.displacement_limit_A:g} A",
            )
        return None

    @property
    def displacement_limit_A(self) -> float:  # noqa: N802 - A is the unit
        """The furthest that an atom may move between two frames, A."""
        if self.thresholds.displacement_A is not None:
            return self.thresholds.displacement_A
        return self.thresholds.speed_nm_ps * self.frame_interval_ps * ANGSTROM_PER_NM

    def _previous_in(self, box_nm: NDArray[np.float64] | None) -> NDArray[np.float64]:
        """Positions of the frame before, scaled with the cell: unwrapped atoms far out move with a barostat."""
        before = self.previous_box_nm
        if box_nm is None or before is None or np.array_equal(box_nm, before):
            return self.previous_nm
        return self.previous_nm @ np.linalg.solve(before, box_nm)

    def _strange_window(
        self, record: FrameRecord, positions_nm: NDArray[np.float64], box_nm: NDArray[np.float64] | None
    ) -> Stop | None:
        """Take a frame into the window, and judge the window when it is whole        (paper, eq. 8)."""
        window = self.window
        if window is None or box_nm is None:
            return None
        # As the trajectory keeps them, so that a window that was interrupted is judged alike.
        self._held.append((as_stored(positions_nm), box_nm))
        if len(self._held) < window.frames_per_window:
            return None
        held, self._held = self._held, []
        deviations = window.deviations_A(
            np.stack([frame for frame, _ in held]), np.stack([box for _, box in held])
        )
        label, worst = max(deviations.items(), key=lambda item: item[1])
        # Not a number has deviated too.
        if worst <= window.threshold_A:
            return None
        steps = record.step - self.recent[-2].step if len(self.recent) > 1 else record.step
        before = window.frames_per_window - 1
        return Stop(
            reason=RDF,
            message=f"RDF of {label} over the window of {window.frames_per_window} frames that ends at "
            f"{record.time_ps:g} ps is {worst:.3g} A off the reference; limit {window.threshold_A:g} A",
            step=record.step - before * steps,
            time_ps=round(record.time_ps - before * self.frame_interval_ps, 9),
            pair={"label": label, "deviation_A": float(worst), "window_frames": window.frames_per_window},
        )

    def broken_bond(
        self,
        record: FrameRecord,
        positions_nm: NDArray[np.float64],
        box_nm: NDArray[np.float64] | None = None,
    ) -> Stop | None:
        """The Stop for the worst bond of a frame, if one is beyond its limit."""
        lengths = self._bond_lengths_A(positions_nm, box_nm)
        deviations = np.abs(lengths - self.equilibrium_A)
        if not (deviations > self.thresholds.bond_deviation_A).any():
            return None
        worst = int(deviations.argmax())
        i, j = (int(atom) for atom in self.bonds[worst])
        length_A = float(lengths[worst])
        names = [self.atom_names[i], self.atom_names[j]]
        return Stop(
            reason=BOND,
            message=f"bond {names[0]}-{names[1]} (atoms {i}, {j}) is {length_A:.3f} A long, "
            f"{self.equilibrium_A[worst]:.3f} A in the reference; limit of the deviation "
            f"{self.thresholds.bond_deviation_A:g} A",
            step=record.step,
            time_ps=record.time_ps,
            bond={
                "atoms": [i, j],
                "names": names,
                "length_A": length_A,
                "equilibrium_A": float(self.equilibrium_A[worst]),
            },
        )


def as_stored(positions_nm: NDArray[np.float64]) -> NDArray[np.float64]:
    """Positions as a DCD file gives them back: A in single precision."""
    return (ANGSTROM_PER_NM * positions_nm).astype(np.float32).astype(np.float64) / ANGSTROM_PER_NM


def _nearest(vectors: NDArray[np.float64], box_nm: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """The shortest image of each vector (n, 3) in a periodic cell; as they are without one."""
    if box_nm is None or not len(vectors) or not np.isfinite(vectors).all():
        return vectors
    return nearest_images(vectors[None], box_nm[None])[0]
