"""Metadynamics by PLUMED, through the openmm-plumed plugin.

PLUMED deposits a hill when forces are first computed at a step that is a multiple of the pace,
and none at the first step that it sees.  So a checkpoint is taken half a pace after a frame: at
a multiple of the pace, a hill would be lost or deposited twice after a restart.
"""

import ctypes
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from openmm_mlbench.errors import SimulationError
from openmm_mlbench.files import write_text
from openmm_mlbench.metadynamics import Metadynamics
from openmm_mlbench.protocol import Protocol
from openmm_mlbench.simulation.metadynamics.hills import COLVAR, HILLS, cut_back, durable_sizes
from openmm_mlbench.simulation.run_folder import WALKERS as WALKERS_FOLDER

SCRIPT = "plumed.dat"
LOG = "plumed.log"
# PlumedForce::setLogStream(FILE*) as g++ and clang on Linux spell it.
_SET_LOG_STREAM = "_ZN12PlumedPlugin11PlumedForce12setLogStreamEP8_IO_FILE"


def off_phase(pace_steps: int, steps_per_frame: int) -> int:
    """Steps after a frame that are far from the next multiple of pace or frame interval.

    Raises:
        SimulationError: there are none.
    """
    common = math.gcd(pace_steps, steps_per_frame)
    if common < 2:
        raise SimulationError(
            f"hills every {pace_steps} steps and frames every {steps_per_frame} leave PLUMED no step for a checkpoint; "
            "use a frame interval that divides the pace or is a multiple of it, or --metadynamics native"
        )
    return common // 2


def render_plumed(
    description: Metadynamics,
    steps_per_frame: int,
    *,
    folder: Path | None = None,
    restart: bool = False,
    walkers: tuple[Path, int, int] | None = None,
) -> str:
    """A PLUMED input file.

    Args:
        description: of the metadynamics.
        steps_per_frame: COLVAR has a row for each frame.
        folder: of HILLS and COLVAR; where PLUMED runs if None.
        restart: whether it goes on with these files.
        walkers: their folder, how many, and which one this is.
    """
    variables = description.variables
    names = ",".join(description.names)
    number = {"HILLS": HILLS, "COLVAR": COLVAR}
    if folder is not None:
        number = {key: _path(folder / name) for key, name in number.items()}
    lines = ["RESTART"] if restart else []
    lines.append("UNITS LENGTH=nm ENERGY=kj/mol TIME=ps")
    lines += [
        f"{one.name}: TORSION ATOMS={','.join(str(atom + 1) for atom in one.atoms)}" for one in variables
    ]
    metad = {
        "ARG": names,
        "SIGMA": ",".join(f"{one.sigma_rad:.10g}" for one in variables),
        "HEIGHT": f"{description.height_kJ_mol:.10g}",
        "PACE": str(description.pace_steps),
        "BIASFACTOR": f"{description.bias_factor:.10g}",
        "TEMP": f"{description.temperature_K:.10g}",
        "GRID_MIN": ",".join("-pi" for _ in variables),
        "GRID_MAX": ",".join("pi" for _ in variables),
        "GRID_BIN": ",".join(str(one.grid_bins) for one in variables),
        "FILE": number["HILLS"],
    }
    if walkers is not None:
        where, n_walkers, this = walkers
        metad |= {
            "FILE": HILLS,
            "WALKERS_DIR": _path(where),
            "WALKERS_N": str(n_walkers),
            "WALKERS_ID": str(this),
            "WALKERS_RSTRIDE": str(description.pace_steps),
        }
    lines.append("metad: METAD " + " ".join(f"{key}={value}" for key, value in metad.items()))
    lines.append(f"PRINT ARG={names},metad.bias STRIDE={steps_per_frame} FMT=%.9f FILE={number['COLVAR']}")
    lines.append(f"FLUSH STRIDE={math.gcd(description.pace_steps, steps_per_frame)}")
    return "\n".join(lines) + "\n"


class PlumedBias:
    """The bias of one replica, by PLUMED; see bias.Bias.

    Args:
        description: of the metadynamics.
        protocol: of the run.
        folder: of the replica.
        walkers: folders of all that share hills; this one's alone if none are shared.
        restart: lengths of the files to go on from; None begins new ones.
    """

    def __init__(
        self,
        description: Metadynamics,
        protocol: Protocol,
        folder: Path,
        walkers: list[Path],
        restart: dict[str, int] | None,
    ) -> None:
        self.folder = folder
        self.ahead_steps = off_phase(description.pace_steps, protocol.steps_per_frame)
        self.temperature_K = description.temperature_K
        self.restart = restart is not None
        if restart is not None:
            cut_back(folder, restart)
        shared = _share(folder, walkers) if len(walkers) > 1 else None
        self.script = render_plumed(
            description,
            protocol.steps_per_frame,
            folder=folder.resolve(),
            restart=self.restart,
            walkers=shared,
        )
        relative = render_plumed(
            description,
            protocol.steps_per_frame,
            walkers=None if shared is None else (Path("..") / WALKERS_FOLDER, *shared[1:]),
        )
        write_text(folder / SCRIPT, relative)

    def add_to(self, system: Any) -> None:
        """Add the force to a System that has no Context yet."""
        from openmmplumed import PlumedForce

        force = PlumedForce(self.script)
        force.setTemperature(self.temperature_K)
        force.setRestart(self.restart)
        self.stream = _log_into(force, self.folder / LOG)
        system.addForce(force)

    @contextmanager
    def log(self) -> Iterator[None]:
        """Keep what PLUMED says while it starts; later it only repeats, at every step, that there is no box."""
        if self.stream is None:
            with _output_into(self.folder / LOG):
                yield
            return
        yield
        # PLUMED holds on to the stream, so that it is never closed.
        _libc().freopen(os.fsencode(os.devnull), b"w", self.stream)

    def begin(self, context: Any) -> None:
        """Take up the bias in a Context that stands at start or checkpoint."""
        self.context = context

    def advance(self, step: int, n_steps: int) -> None:  # noqa: ARG002 - PLUMED counts by itself
        """Simulate; PLUMED deposits by itself."""
        self.context.getIntegrator().step(n_steps)

    def end_frame(self, step: int) -> None:
        """Nothing: the forces of the frame have made PLUMED write it."""

    def sync(self) -> dict[str, int]:
        """Make the files durable; their lengths in bytes."""
        return durable_sizes(self.folder)

    def close(self) -> None:
        """Nothing: PLUMED's files are closed with the Context."""


def _path(path: Path) -> str:
    """Braces keep blanks together in PLUMED's input."""
    text = str(path)
    return f"{{{text}}}" if " " in text else text


def _share(folder: Path, walkers: list[Path]) -> tuple[Path, int, int]:
    """Links under which PLUMED finds the HILLS of all walkers."""
    where = folder.resolve().parent / WALKERS_FOLDER
    where.mkdir(exist_ok=True)
    for number, walker in enumerate(walkers):
        link = where / f"{HILLS}.{number}"
        if not link.is_symlink():
            # Another walker may be faster.
            with suppress(FileExistsError):
                link.symlink_to(Path("..") / walker.name / HILLS)
    return where, len(walkers), walkers.index(folder)


def _libc() -> Any:
    libc = ctypes.CDLL(None)
    libc.fopen.restype = libc.freopen.restype = ctypes.c_void_p
    libc.freopen.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p]
    return libc


def _log_into(force: Any, path: Path) -> int | None:
    """Give a PlumedForce a log of its own; None where the plugin has no way to.

    Its C++ class has setLogStream, its Python wrapper has not, and its log is the standard output.
    """
    import openmmplumed

    try:
        plugin = ctypes.CDLL(openmmplumed._openmmplumed.__file__)  # noqa: SLF001 - the library behind it
        set_log_stream = getattr(plugin, _SET_LOG_STREAM)
    except (AttributeError, OSError):
        return None
    stream: int | None = _libc().fopen(os.fsencode(path), b"a")
    if stream is None:
        raise OSError(ctypes.get_errno(), "cannot be opened", str(path))
    set_log_stream.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    set_log_stream.restype = None
    set_log_stream(int(force.this), stream)
    return stream


@contextmanager
def _output_into(path: Path) -> Iterator[None]:
    """Send what C code writes to the standard output into a file."""
    libc = ctypes.CDLL(None)
    sys.stdout.flush()
    libc.fflush(None)
    kept = os.dup(1)
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        os.dup2(file, 1)
        yield
    finally:
        libc.fflush(None)
        os.dup2(kept, 1)
        os.close(kept)
        os.close(file)
