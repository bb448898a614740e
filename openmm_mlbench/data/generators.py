"""Reference data made here: GFN2-xTB molecular dynamics of one molecule.

GFN2-xTB: Bannwarth, Ehlert, Grimme, J. Chem. Theory Comput. 15, 1652 (2019).
"""

import json
import os
import sys
from collections.abc import Callable
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
    FRAMES_PER_SEGMENT,
    Sampling,
    run_segments,
    stream_seeds,
    structure_path,
    work_folder,
)
from openmm_mlbench.errors import DataError, DependencyError
from openmm_mlbench.topology import read_structure
from openmm_mlbench.units import (
    ANGSTROM_PER_BOHR,
    ANGSTROM_PER_NM,
    EV_PER_HARTREE,
    FS_PER_PS,
    KJMOL_NM_PER_EV_ANGSTROM,
    KJMOL_PER_EV,
    NM_PER_ANGSTROM,
)

METHOD = "GFN2-xTB"
# tblite's numerical threshold.  At 0.1 and below forces are within 1.5e-5 eV/A of the limit;
# labels are computed once per kept frame and can afford more.
DYNAMICS_ACCURACY = 0.1
LABEL_ACCURACY = 0.01


@dataclass(frozen=True, kw_only=True)
class GfnSettings(Sampling):
    """Everything that decides the numbers of a GFN2 run.

    Friction 10/ps decorrelates energies within 0.1 ps.  The frames kept every ``interval_fs``
    are those of h(r).
    """

    temperature_K: float = 500.0
    timestep_fs: float = 0.5
    friction_per_ps: float = 10.0
    equilibration_ps: float = 5.0
    interval_fs: float = 50.0

    @property
    def frames_per_segment(self) -> int:
        """Labelled frames of a full segment."""
        return FRAMES_PER_SEGMENT


@dataclass(frozen=True, kw_only=True)
class GfnRun:
    """What a finished GFN2 run gave.

    Args:
        frames: the labelled frames, evenly spaced.
        trajectory_A: (n_samples, n_atoms, 3), A: the frames for h(r).
        interval_ps: time between the frames of ``trajectory_A``, ps.
        provenance: settings and versions.
        path: the npz file that holds ``frames``.
    """

    frames: Frames
    trajectory_A: NDArray[np.float32]
    interval_ps: float
    provenance: dict[str, Any]
    path: Path


def _load_tblite() -> Any:
    """Import tblite with one thread: 9 atoms are slower on two, and sums would not be reproducible."""
    if "tblite.interface" in sys.modules:
        return sys.modules["tblite.interface"]
    # OpenMP reads the variable once, when its library is loaded.
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        import tblite.interface
    except ImportError as error:
        raise DependencyError(
            'GFN2-xTB labels need tblite, which is not installed; run: pip install "openmm-mlbench[xtb]"'
        ) from error
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before
    return tblite.interface


class Gfn2:
    """GFN2-xTB energy and forces of one neutral closed-shell molecule.

    Args:
        atomic_numbers: (n_atoms,).
        positions_A: (n_atoms, 3), any sensible geometry, A.
        accuracy: tblite's threshold; smaller is stricter.
        warm_start: begin each calculation from the last wave function.  Halves the cost; the
            result then depends on the history within ``accuracy``, which ``forget`` cuts.
    """

    def __init__(
        self,
        atomic_numbers: NDArray[np.int64],
        positions_A: NDArray[np.float64],
        accuracy: float = LABEL_ACCURACY,
        warm_start: bool = False,
    ) -> None:
        interface = _load_tblite()
        self._calculator = interface.Calculator(
            METHOD, np.asarray(atomic_numbers), np.asarray(positions_A) / ANGSTROM_PER_BOHR
        )
        self._calculator.set("verbosity", 0)
        self._calculator.set("accuracy", accuracy)
        self._warm_start = warm_start
        self._last: Any = None

    def forget(self) -> None:
        """Begin the next calculation from scratch."""
        self._last = None

    def __call__(self, positions_A: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        """Energy (eV) and forces (n_atoms, 3) (eV/A)."""
        self._calculator.update(positions_A / ANGSTROM_PER_BOHR)
        try:
            result = self._calculator.singlepoint(self._last)
        except RuntimeError as error:
            raise DataError(
                f"GFN2-xTB did not converge ({error}); the geometry is far from a molecule"
            ) from error
        if self._warm_start:
            self._last = result
        gradient = result.get("gradient")
        return float(result.get("energy")) * EV_PER_HARTREE, -gradient * (EV_PER_HARTREE / ANGSTROM_PER_BOHR)


class _Dynamics:
    """Langevin dynamics on the Reference platform, forces from GFN2 through a PythonForce."""

    def __init__(
        self, settings: GfnSettings, atomic_numbers: NDArray[np.int64], start_A: NDArray[np.float64]
    ) -> None:
        import openmm.app
        from openmm import unit

        noise_seed, velocity_seed = stream_seeds(settings.seed)
        self._forces = Gfn2(atomic_numbers, start_A, accuracy=DYNAMICS_ACCURACY, warm_start=True)
        self._labels = Gfn2(atomic_numbers, start_A)
        self._settings = settings
        system = openmm.System()
        for number in atomic_numbers:
            system.addParticle(openmm.app.Element.getByAtomicNumber(int(number)).mass)
        self._masses = np.array(
            [system.getParticleMass(i).value_in_unit(unit.dalton) for i in range(system.getNumParticles())]
        )
        system.addForce(openmm.PythonForce(self._compute))
        self._integrator = openmm.LangevinMiddleIntegrator(
            settings.temperature_K * unit.kelvin,
            settings.friction_per_ps / unit.picosecond,
            settings.timestep_fs * unit.femtosecond,
        )
        self._integrator.setRandomNumberSeed(noise_seed)
        self._context = openmm.Context(
            system, self._integrator, openmm.Platform.getPlatformByName("Reference")
        )
        self._context.setPositions(start_A * NM_PER_ANGSTROM)
        self._context.setVelocitiesToTemperature(settings.temperature_K, velocity_seed)

    def _compute(self, state: Any) -> tuple[float, NDArray[np.float64]]:
        # _value skips unit checks, which cost as much as the rest of the callback.
        positions_nm = state.getPositions(asNumpy=True)._value  # noqa: SLF001
        energy, forces = self._forces(positions_nm * ANGSTROM_PER_NM)
        return energy * KJMOL_PER_EV, forces * KJMOL_NM_PER_EV_ANGSTROM

    def _step(self, n_steps: int) -> None:
        import openmm

        try:
            self._integrator.step(n_steps)
        except openmm.OpenMMException as error:
            raise DataError(
                f"GFN2 dynamics of {self._settings.system} stopped: {reason(error)}; use a shorter time step or another seed"
            ) from error

    def equilibrate(self) -> None:
        self._step(round(self._settings.equilibration_ps * FS_PER_PS / self._settings.timestep_fs))

    def restore(self, checkpoint: bytes) -> None:
        self._context.loadCheckpoint(checkpoint)

    def segment(self, n_frames: int) -> dict[str, NDArray[Any]]:
        """Simulate and label; every segment begins without memory of the last wave function."""
        self._forces.forget()
        trajectory, energies, forces = [], [], []
        for _ in range(n_frames):
            for _ in range(self._settings.samples_per_frame):
                self._step(self._settings.steps_per_sample)
                trajectory.append(self._centred())
            # The label belongs to the rounded positions that are stored, not to the ones before.
            energy, force = self._labels(trajectory[-1].astype(np.float64))
            energies.append(energy)
            forces.append(force.astype(np.float32))
        return {
            "trajectory": np.array(trajectory),
            "energies": np.array(energies),
            "forces": np.array(forces),
            "checkpoint": np.frombuffer(self._context.createCheckpoint(), dtype=np.uint8),
        }

    def _centred(self) -> NDArray[np.float32]:
        """Positions around the centre of mass, which a thermostatted molecule carries away."""
        from openmm import unit

        state = self._context.getState(positions=True)
        positions = state.getPositions(asNumpy=True).value_in_unit(unit.angstrom)
        centre = self._masses @ positions / self._masses.sum()
        return (positions - centre).astype(np.float32)


def _provenance(settings: GfnSettings) -> dict[str, Any]:
    return {
        **asdict(settings),
        "method": METHOD,
        "integrator": "LangevinMiddleIntegrator",
        "platform": "Reference",
        "dynamics_accuracy": DYNAMICS_ACCURACY,
        "label_accuracy": LABEL_ACCURACY,
        # The coefficients of GFN2 are part of tblite.
        "tblite": version("tblite"),
        "openmm": version("openmm"),
        "openmm-mlbench": __version__,
        "generator": "openmm-mlbench data generate",
    }


def generate_gfn2(
    system: str,
    out: str | os.PathLike[str],
    *,
    n_frames: int = 1500,
    length_ps: float = 300.0,
    seed: int = 0,
    work: str | os.PathLike[str] | None = None,
    progress: Callable[[float, float], None] | None = None,
    **settings: float,
) -> GfnRun:
    """Run GFN2-xTB dynamics of a molecule and write labelled frames.

    Langevin-middle dynamics, deterministic by seed on one machine.  When a work folder
    of the same settings is found, the run goes on from its last segment.

    Args:
        system: name of a folder in systems/, whose topology.pdb is the start.
        out: npz file to write (see ``readers.write_npz`` for its keys).
        n_frames: labelled frames.
        length_ps: length after equilibration, ps.
        seed: seed of velocities and noise.
        work: folder for segments; beside ``out`` unless given, and kept.
        progress: called with (ps done, ps in all) after every segment.
        settings: other fields of GfnSettings.

    Returns:
        The frames, the denser trajectory for h(r), and the provenance.

    Raises:
        DataError: settings do not fit together or to the work folder.
        DependencyError: tblite is not installed.
    """
    wanted = GfnSettings(system=system, n_frames=n_frames, length_ps=length_ps, seed=seed, **settings)
    _load_tblite()
    topology, start_A = read_structure(structure_path(system))
    out_path = Path(out)
    provenance = _provenance(wanted)
    parts = run_segments(
        wanted,
        lambda: _Dynamics(wanted, topology.atomic_numbers, start_A),
        work_folder(out_path, Path(work) if work is not None else None),
        provenance,
        ("trajectory", "energies", "forces"),
        progress,
    )
    return _assemble(wanted, topology.atomic_numbers, parts, provenance, out_path)


def _assemble(
    settings: GfnSettings,
    atomic_numbers: NDArray[np.int64],
    parts: list[dict[str, NDArray[Any]]],
    provenance: dict[str, Any],
    out: Path,
) -> GfnRun:
    from openmm_mlbench.data.readers import write_npz

    stride = settings.samples_per_frame
    trajectory = np.concatenate([part["trajectory"] for part in parts])
    frames = Frames(
        name=f"{settings.system}-gfn2",
        atomic_numbers=atomic_numbers,
        positions=trajectory[stride - 1 :: stride].astype(np.float64),
        energies=np.concatenate([part["energies"] for part in parts]),
        forces=np.concatenate([part["forces"] for part in parts]).astype(np.float64),
        cells=None,
        frame_indices=np.arange(stride - 1, len(trajectory), stride, dtype=np.int64),
        interval_fs=settings.interval_fs,
        constraints="none",
        level_of_theory=METHOD,
        source=f"{settings.temperature_K:g} K Langevin dynamics with tblite {provenance['tblite']}, "
        f"seed {settings.seed}, made by openmm-mlbench (CC0)",
    )
    write_npz(frames, out, single=True, provenance=json.dumps(provenance, sort_keys=True))
    return GfnRun(
        frames=frames,
        trajectory_A=trajectory,
        interval_ps=settings.interval_fs / FS_PER_PS,
        provenance=provenance,
        path=out,
    )
