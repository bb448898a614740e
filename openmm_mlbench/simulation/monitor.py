"""Watching a running simulation: when to stop it, and what to write down then."""

import csv
import math
from collections import deque
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmm_mlbench.files import atomic_path, finite_or_none, write_json
from openmm_mlbench.topology import bond_lengths
from openmm_mlbench.units import ANGSTROM_PER_NM

NOT_FINITE = "not-finite"
BOND = "bond-deviation"
ENERGY = "energy"
TEMPERATURE = "temperature"
SPEED = "speed"


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
        speed_nm_ps: largest mean speed of an atom between two frames.
        frames_before: frames before the offence that the dossier keeps.
        frames_after: the run goes on for so many frames after a bond gave way,
            which confirms the finding and shows what came of it.
    """

    bond_deviation_A: float = 0.5
    energy_kJ_mol_per_atom: float = 1000.0
    temperature_ratio: float = 20.0
    speed_nm_ps: float = 100.0
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
    """

    reason: str
    message: str
    step: int
    time_ps: float
    bond: dict[str, Any] | None = None


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
    ) -> None:
        self.thresholds = thresholds
        self.bonds = np.asarray(bonds, dtype=np.int64).reshape(-1, 2)
        self.equilibrium_A = np.asarray(equilibrium_A, dtype=np.float64)
        self.atom_names = atom_names
        self.temperature_K = temperature_K
        self.frame_interval_ps = frame_interval_ps
        self.start_energy_kJ_mol = start_energy_kJ_mol
        self.recent: deque[FrameRecord] = deque(maxlen=thresholds.frames_before + thresholds.frames_after + 1)
        self.recent.extend(FrameRecord(**row) for row in recent or [])
        self.offence: Stop | None = None
        self.frames_beyond = 0
        self._frames_since = 0
        self._previous_nm = positions_nm

    def bond_deviations_A(self, positions_nm: NDArray[np.float64]) -> NDArray[np.float64]:  # noqa: N802 - A is the unit
        """(n_bonds,), | |x_i - x_j| - b_ij |        (paper, eq. 9)."""
        return np.abs(bond_lengths(positions_nm * ANGSTROM_PER_NM, self.bonds) - self.equilibrium_A)

    def check(self, record: FrameRecord, positions_nm: NDArray[np.float64]) -> Stop | None:
        """Take note of a frame; a Stop when the simulation has to end here."""
        self.recent.append(record)
        collapse = self._collapse(record, positions_nm)
        self._previous_nm = positions_nm
        if collapse is not None:
            # A bond that gave way before is where the trouble began.
            self.offence = self.offence or collapse
            return self.offence
        beyond = record.max_bond_deviation_A > self.thresholds.bond_deviation_A
        self.frames_beyond += beyond
        if self.offence is None:
            self.offence = self._broken_bond(record, positions_nm) if beyond else None
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

    def _collapse(self, record: FrameRecord, positions_nm: NDArray[np.float64]) -> Stop | None:
        """Collapse by anything but a bond: such a frame ends the run at once."""
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
        jump_nm = np.linalg.norm(positions_nm - self._previous_nm, axis=1)
        atom = int(jump_nm.argmax())
        if jump_nm[atom] > limits.speed_nm_ps * self.frame_interval_ps:
            return stop(
                SPEED,
                f"atom {atom} ({self.atom_names[atom]}) moved {jump_nm[atom]:.4g} nm between two frames; "
                f"limit {limits.speed_nm_ps * self.frame_interval_ps:g} nm",
            )
        return None

    def _broken_bond(self, record: FrameRecord, positions_nm: NDArray[np.float64]) -> Stop:
        worst = int(self.bond_deviations_A(positions_nm).argmax())
        i, j = (int(atom) for atom in self.bonds[worst])
        length_A = float(bond_lengths(positions_nm * ANGSTROM_PER_NM, self.bonds)[worst])
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


def write_dossier(folder: Path, stop: Stop, monitor: Monitor, trajectory: bytes) -> None:
    """Write what is known of a collapse: dossier.json, frames.csv, frames.dcd.

    Args:
        folder: the dossier's folder.
        stop: why the run ended.
        monitor: its recent frames.
        trajectory: DCD file with the frames around the offence.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / "frames.dcd") as temporary:
        temporary.write_bytes(trajectory)
    columns = [item.name for item in fields(FrameRecord)]
    with atomic_path(folder / "frames.csv") as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(monitor.rows())
    forces = [finite_or_none(record.max_force_kJ_mol_nm) for record in monitor.recent]
    write_json(
        folder / "dossier.json",
        {
            **asdict(stop),
            "frames_beyond_threshold": monitor.frames_beyond,
            "max_force_kJ_mol_nm": forces,
            "steps": [record.step for record in monitor.recent],
            "thresholds": asdict(monitor.thresholds),
        },
    )
