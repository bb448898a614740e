"""Data sets from classical force fields: water, LiPS, and alanine dipeptide in implicit and explicit water.

Langevin-middle dynamics on the CPU or Reference platform with one thread: the seed decides
every number.  Labels are energies and forces of the force field at the positions that are
stored; forces of constraints are no part of them.
"""

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmm_mlbench import __version__
from openmm_mlbench.data.frames import Frames
from openmm_mlbench.data.npz import reason
from openmm_mlbench.data.sampling import (
    Part,
    ReportProgress,
    Sampling,
    run_segments,
    stream_seeds,
    structure_path,
    work_folder,
)
from openmm_mlbench.errors import DataError
from openmm_mlbench.reference_potentials import ReferencePotential, find_reference_potential
from openmm_mlbench.units import (
    ANGSTROM_PER_NM,
    EV_PER_KJMOL,
    FS_PER_PS,
    KJMOL_NM_PER_EV_ANGSTROM,
    NM_PER_ANGSTROM,
)

# CRYST1 has three decimals only: 64 molecules at 0.994 g/cm3.
WATER_CELL_A = 12.44288
N_SOLVENT = 1164
SOLVENT_PRESSURE_BAR = 1.0
BAROSTAT_INTERVAL_STEPS = 25

# Powers of two, so that what is left of a float32 compresses: 1.2e-4 A and 0.06 meV/A.
POSITION_UNIT_A = 2.0**-13
FORCE_UNIT_EV_A = 2.0**-14
_MINIMIZER_STEPS = 500
_ANY_CELL_NM = 3.0


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One data set that a classical force field makes.

    Args:
        dataset: its name.
        system: folder in systems/.
        potential: id of a reference potential.
        constraints: ``none`` or ``h-bonds``.
        solvent: TIP3P molecules around the solute; frames then hold the solute alone.
        platform: OpenMM platform, or ``auto``.
        temperature_K: of the Langevin bath.
        friction_per_ps: of the Langevin bath.
        timestep_fs: time step.
        equilibration_ps: time thrown away.
    """

    dataset: str
    system: str
    potential: str
    constraints: str
    solvent: int
    platform: str
    temperature_K: float
    friction_per_ps: float
    timestep_fs: float
    equilibration_ps: float


RECIPES = {
    recipe.dataset: recipe
    for recipe in (
        Recipe(
            dataset="water-1k",
            system="water",
            potential="spcfw-mdsim",
            constraints="none",
            solvent=0,
            platform="CPU",
            temperature_K=300.0,
            friction_per_ps=1.0,
            timestep_fs=1.0,
            equilibration_ps=20.0,
        ),
        Recipe(
            dataset="water-spcfw-1k",
            system="water",
            potential="spcfw",
            constraints="none",
            solvent=0,
            platform="CPU",
            temperature_K=300.0,
            friction_per_ps=1.0,
            timestep_fs=1.0,
            equilibration_ps=20.0,
        ),
        Recipe(
            dataset="lips-fm",
            system="lips",
            potential="lips-fm",
            constraints="none",
            solvent=0,
            platform="Reference",
            temperature_K=520.0,
            friction_per_ps=1.0,
            timestep_fs=1.0,
            equilibration_ps=10.0,
        ),
        Recipe(
            dataset="alanine-dipeptide-obc",
            system="alanine-dipeptide",
            potential="amber03-obc",
            constraints="h-bonds",
            solvent=0,
            platform="Reference",
            temperature_K=300.0,
            friction_per_ps=1.0,
            timestep_fs=2.0,
            equilibration_ps=100.0,
        ),
        Recipe(
            dataset="alanine-dipeptide-obc-flexible",
            system="alanine-dipeptide",
            potential="amber03-obc",
            constraints="none",
            solvent=0,
            platform="Reference",
            temperature_K=300.0,
            friction_per_ps=1.0,
            timestep_fs=1.0,
            equilibration_ps=100.0,
        ),
        Recipe(
            dataset="alanine-dipeptide-explicit",
            system="alanine-dipeptide",
            potential="amber03-tip3p",
            constraints="h-bonds",
            solvent=N_SOLVENT,
            platform="auto",
            temperature_K=300.0,
            friction_per_ps=1.0,
            timestep_fs=2.0,
            # The solvated box begins at 0.91 g/cm3.
            equilibration_ps=100.0,
        ),
    )
}


@dataclass(frozen=True, kw_only=True)
class ClassicalSettings(Sampling):
    """Everything that decides the numbers of a classical run.

    Args:
        dataset: name of a recipe.
        potential: id of a reference potential.
        constraints: ``none`` or ``h-bonds``.
        solvent: TIP3P molecules around the solute.
        platform: OpenMM platform.
    """

    dataset: str
    potential: str
    constraints: str
    solvent: int
    platform: str

    @property
    def rigid(self) -> str:
        """What is held rigid."""
        return self.constraints

    @property
    def frames_per_segment(self) -> int:
        """At most 100 files, however long the run is."""
        return max(super().frames_per_segment, -(-self.n_frames // 100))


@dataclass(frozen=True, kw_only=True)
class ClassicalRun:
    """What a finished run gave.

    Args:
        frames: the labelled frames, evenly spaced.
        provenance: settings and versions.
        path: the npz file that holds ``frames``.
    """

    frames: Frames
    provenance: dict[str, Any]
    path: Path


def settings_for(
    dataset: str,
    *,
    n_frames: int,
    length_ps: float,
    seed: int = 0,
    platform: str | None = None,
    timestep_fs: float | None = None,
    equilibration_ps: float | None = None,
) -> ClassicalSettings:
    """Settings of a recipe at this length; None stands for the recipe's own.

    Raises:
        DataError: unknown data set, or numbers that do not fit together.
    """
    if dataset not in RECIPES:
        raise DataError(f"no classical force field makes {dataset!r}; there are {', '.join(RECIPES)}")
    recipe = asdict(RECIPES[dataset])
    changed = {"platform": platform, "timestep_fs": timestep_fs, "equilibration_ps": equilibration_ps}
    recipe |= {key: value for key, value in changed.items() if value is not None}
    if recipe["platform"] == "auto":
        recipe["platform"] = fastest_platform()
    if not n_frames > 0:
        raise DataError(f"n_frames is {n_frames}; use a positive number")
    interval_fs = length_ps * FS_PER_PS / n_frames
    return ClassicalSettings(
        n_frames=n_frames, length_ps=length_ps, seed=seed, interval_fs=round(interval_fs, 6), **recipe
    )


def fastest_platform() -> str:
    """The platform that OpenMM calls the fastest of those it has."""
    import openmm

    platforms = [openmm.Platform.getPlatform(i) for i in range(openmm.Platform.getNumPlatforms())]
    fastest: str = max(platforms, key=lambda platform: platform.getSpeed()).getName()
    return fastest


def generate_classical(
    settings: ClassicalSettings,
    out: Path,
    *,
    work: Path | None = None,
    progress: ReportProgress | None = None,
) -> ClassicalRun:
    """Run a classical force field and write labelled frames.

    On the Reference and CPU platforms deterministic by seed on one machine.  When a work
    folder of the same settings is found, the run goes on from its last segment.

    Args:
        settings: of :func:`settings_for`.
        out: npz file to write.
        work: folder for segments; beside ``out`` unless given, and kept.
        progress: called with (ps done, ps in all) after every segment.

    Raises:
        DataError: settings do not fit to the work folder, or the dynamics fails.
    """
    potential = find_reference_potential(settings.potential)
    provenance = _provenance(settings, potential)
    kind: type[_Dynamics] = _SolvatedDynamics if settings.solvent else _Dynamics
    parts = run_segments(
        settings,
        lambda: kind(settings, potential),
        work_folder(out, work),
        provenance,
        ("trajectory", "energies", "forces"),
        progress,
    )
    return _assemble(settings, potential, parts, provenance, out)


def _provenance(settings: ClassicalSettings, potential: ReferencePotential) -> dict[str, Any]:
    provenance = {
        **asdict(settings),
        "integrator": "LangevinMiddleIntegrator",
        "potential_parameters": potential.description["parameters"],
        "coefficients_sha256": coefficients_sha256(potential, solvated=bool(settings.solvent)),
        "openmm": version("openmm"),
        "openmm-mlbench": __version__,
        "generator": "openmm-mlbench data generate",
    }
    if settings.solvent:
        provenance |= {
            "pressure_bar": SOLVENT_PRESSURE_BAR,
            "barostat_interval_steps": BAROSTAT_INTERVAL_STEPS,
        }
    # As it looks when it is read back.
    found: dict[str, Any] = json.loads(json.dumps(provenance))
    return found


def coefficients_sha256(potential: ReferencePotential, *, solvated: bool) -> str:
    """SHA-256 over every number of a potential as OpenMM has them: the System of the structure, without solvent."""
    import openmm
    from openmm import app

    topology = app.PDBFile(str(structure_path(potential.system))).topology
    if solvated:
        # A potential for explicit water wants a cell; any does.
        topology.setPeriodicBoxVectors(np.eye(3) * _ANY_CELL_NM)
    system = openmm.XmlSerializer.serialize(potential.create_system(topology))
    # The version of OpenMM stands apart.
    content = re.sub(r' openmmVersion="[^"]*"', "", system, count=1)
    return hashlib.sha256(content.encode()).hexdigest()


def _assemble(
    settings: ClassicalSettings,
    potential: ReferencePotential,
    parts: list[Part],
    provenance: dict[str, Any],
    out: Path,
) -> ClassicalRun:
    from openmm_mlbench.data.readers import write_npz

    positions = np.concatenate([part["trajectory"] for part in parts]).astype(np.float64)
    energies = np.concatenate([part["energies"] for part in parts])
    cell = exact_cell(settings.system)
    frames = Frames(
        name=settings.dataset,
        atomic_numbers=_atomic_numbers(settings.system),
        positions=positions,
        energies=None if settings.solvent else energies,
        forces=np.concatenate([part["forces"] for part in parts]).astype(np.float64),
        cells=None if cell is None else np.tile(cell, (len(positions), 1, 1)),
        frame_indices=np.arange(len(positions), dtype=np.int64),
        interval_fs=settings.interval_fs,
        constraints=settings.constraints,
        level_of_theory=potential.level_of_theory,
        source=f"{settings.temperature_K:g} K Langevin dynamics with OpenMM {provenance['openmm']}, "
        f"seed {settings.seed}, made by openmm-mlbench ({_licence(potential)})",
    )
    write_npz(frames, out, single=True, compressed=True, provenance=json.dumps(provenance, sort_keys=True))
    return ClassicalRun(frames=frames, provenance=provenance, path=out)


def _licence(potential: ReferencePotential) -> str:
    """CC0, unless the parameters are derived from data that want to be named."""
    return f"potential {potential.source}" if "CC-BY" in potential.source else "CC0"


def exact_cell(system: str) -> NDArray[np.float64] | None:
    """The cell (3, 3), A, of a system's data in full precision, or None: it has none, or it changes."""
    from openmm_mlbench.reference_potentials.lips import CELL_A

    return {"water": np.eye(3) * WATER_CELL_A, "lips": np.array(CELL_A)}.get(system)


def _atomic_numbers(system: str) -> NDArray[np.int64]:
    from openmm_mlbench.topology import read_topology

    return read_topology(structure_path(system)).atomic_numbers


def round_to(values: NDArray[np.float64], step: float) -> NDArray[np.float32]:
    """To the nearest multiple of a power of two, exactly so in single precision."""
    rounded: NDArray[np.float32] = (np.rint(values / step) * step).astype(np.float32)
    return rounded


class _Dynamics:
    """Langevin dynamics of one molecule in open space, of water in its cell, or of a solid."""

    def __init__(self, settings: ClassicalSettings, potential: ReferencePotential) -> None:
        from openmm import app

        self.settings = settings
        self.cell_A = exact_cell(settings.system)
        pdb = app.PDBFile(str(structure_path(settings.system)))
        self.topology = pdb.topology
        self.start_nm = _numbers(pdb.getPositions(asNumpy=True))
        self.masses = np.array([_numbers(atom.element.mass) for atom in self.topology.atoms()])
        self._prepare(potential)
        rigid = app.HBonds if settings.constraints == "h-bonds" else None
        self.system = potential.create_system(self.topology, constraints=rigid)
        if self.cell_A is not None:
            self.system.setDefaultPeriodicBoxVectors(*(self.cell_A * NM_PER_ANGSTROM))
        self._add_forces()
        self.context = self._new_context()
        self._labels: Any = None

    def _prepare(self, potential: ReferencePotential) -> None:
        """Change the topology and start positions before the System is made."""

    def _add_forces(self) -> None:
        """Add to the System what is no part of the potential."""

    def _new_context(self) -> Any:
        import openmm

        noise, _ = stream_seeds(self.settings.seed)
        integrator = openmm.LangevinMiddleIntegrator(
            self.settings.temperature_K,
            self.settings.friction_per_ps,
            self.settings.timestep_fs / FS_PER_PS,
        )
        integrator.setRandomNumberSeed(noise)
        if self.settings.constraints != "none":
            # At the default, 1e-5, lengths of 1 A would scatter as much as everything else stored.
            integrator.setConstraintTolerance(1e-6)
        platform, properties = _platform(self.settings.platform)
        # Thousands of atoms want all cores, at the price of sums whose order is left to chance.
        return openmm.Context(self.system, integrator, platform, {} if self.settings.solvent else properties)

    def equilibrate(self) -> None:
        """From the structure to equilibrium."""
        import openmm

        self.context.setPositions(self.start_nm)
        openmm.LocalEnergyMinimizer.minimize(self.context, maxIterations=_MINIMIZER_STEPS)
        _, velocities = stream_seeds(self.settings.seed)
        self.context.setVelocitiesToTemperature(self.settings.temperature_K, velocities)
        self._step(round(self.settings.equilibration_ps * FS_PER_PS / self.settings.timestep_fs))

    def restore(self, checkpoint: bytes) -> None:
        """To the end of an earlier segment."""
        self.context.loadCheckpoint(checkpoint)

    def segment(self, n_frames: int) -> Part:
        """Simulate and label."""
        trajectory, energies, forces = [], [], []
        for _ in range(n_frames):
            self._step(self.settings.steps_per_sample)
            position, energy, force = self._frame()
            trajectory.append(position)
            energies.append(energy * EV_PER_KJMOL)
            forces.append(round_to(force / KJMOL_NM_PER_EV_ANGSTROM, FORCE_UNIT_EV_A))
        return {
            "trajectory": np.array(trajectory),
            "energies": np.array(energies),
            "forces": np.array(forces),
            "checkpoint": np.frombuffer(self.context.createCheckpoint(), dtype=np.uint8),
        }

    def _step(self, n_steps: int) -> None:
        import openmm

        try:
            self.context.getIntegrator().step(n_steps)
        except openmm.OpenMMException as error:
            raise DataError(
                f"dynamics of {self.settings.dataset} stopped: {reason(error)}; use a shorter time step or another seed"
            ) from error

    def _frame(self) -> tuple[NDArray[np.float32], float, NDArray[np.float64]]:
        """The positions to store, A, and the label of these, kJ/mol and kJ/mol/nm."""
        stored = self._stored(_numbers(self.context.getState(positions=True).getPositions(asNumpy=True)))
        if self._labels is None:
            import openmm

            # In double precision: a label costs less than the steps between two of them.
            self._labels = openmm.Context(
                self.system, openmm.VerletIntegrator(0.001), *_platform("Reference")
            )
        self._labels.setPositions(stored.astype(np.float64) * NM_PER_ANGSTROM)
        state = self._labels.getState(energy=True, forces=True)
        return stored, float(_numbers(state.getPotentialEnergy())), _numbers(state.getForces(asNumpy=True))

    def _stored(self, positions_nm: NDArray[np.float64]) -> NDArray[np.float32]:
        """Atoms or whole molecules in the cell, or one molecule around its centre of mass, A.

        Positions of constrained molecules are not rounded: their bond lengths must be.
        """
        positions_A = positions_nm * ANGSTROM_PER_NM
        if self.settings.system == "lips":
            assert self.cell_A is not None
            fractional = positions_A @ np.linalg.inv(self.cell_A)
            positions_A = positions_A - np.floor(fractional) @ self.cell_A
        elif self.cell_A is not None:
            oxygens = positions_A.reshape(-1, 3, 3)[:, :1]
            positions_A = (
                positions_A.reshape(-1, 3, 3) - WATER_CELL_A * np.floor(oxygens / WATER_CELL_A)
            ).reshape(-1, 3)
        else:
            n_atoms = len(self.masses)
            positions_A = positions_A[:n_atoms]
            positions_A = positions_A - self.masses @ positions_A / self.masses.sum()
        if self.settings.constraints == "none":
            return round_to(positions_A, POSITION_UNIT_A)
        return positions_A.astype(np.float32)


class _SolvatedDynamics(_Dynamics):
    """At constant pressure in explicit water; labels are the forces on the solute's atoms.

    These are the raw forces of the force field, solvent included, without forces of
    constraints: their mean at a fixed solute is the force of the free energy.
    """

    def _prepare(self, potential: ReferencePotential) -> None:  # noqa: ARG002 - same shape as its base
        from openmm import app, unit

        field = app.ForceField("amber03.xml", "tip3p.xml")
        modeller = app.Modeller(self.topology, self.start_nm * unit.nanometer)
        modeller.addSolvent(field, model="tip3p", numAdded=self.settings.solvent)
        self.topology = modeller.topology
        self.start_nm = _numbers(modeller.positions)

    def _add_forces(self) -> None:
        import openmm

        barostat = openmm.MonteCarloBarostat(
            SOLVENT_PRESSURE_BAR, self.settings.temperature_K, BAROSTAT_INTERVAL_STEPS
        )
        barostat.setRandomNumberSeed(stream_seeds(self.settings.seed)[1])
        self.system.addForce(barostat)

    def segment(self, n_frames: int) -> Part:
        """Simulate and label; the barostat begins every segment with its first trial size."""
        if self.context.getStepCount():
            checkpoint = self.context.createCheckpoint()
            self.context = self._new_context()
            self.context.loadCheckpoint(checkpoint)
        return super().segment(n_frames)

    def _frame(self) -> tuple[NDArray[np.float32], float, NDArray[np.float64]]:
        state = self.context.getState(positions=True, forces=True)
        n_atoms = len(self.masses)
        stored = self._stored(_numbers(state.getPositions(asNumpy=True)))
        return stored, 0.0, _numbers(state.getForces(asNumpy=True))[:n_atoms]


def _platform(name: str) -> tuple[Any, dict[str, str]]:
    import openmm

    try:
        platform = openmm.Platform.getPlatformByName(name)
    except openmm.OpenMMException as error:
        there = [openmm.Platform.getPlatform(i).getName() for i in range(openmm.Platform.getNumPlatforms())]
        raise DataError(f"no OpenMM platform {name!r}; there are {', '.join(there)}") from error
    properties = {"CPU": {"Threads": "1", "DeterministicForces": "true"}}
    return platform, properties.get(name, {})


def _numbers(quantity: Any) -> Any:
    """Values in OpenMM's units (nm, ps, kJ/mol, K, Da)."""
    from openmm import unit

    return quantity.value_in_unit_system(unit.md_unit_system)
