"""What a metadynamics backend offers to a replica, and which backend is taken."""

import importlib.util
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from typing import Protocol as Interface

from openmm_mlbench.errors import DependencyError, SimulationError
from openmm_mlbench.metadynamics import Metadynamics
from openmm_mlbench.protocol import Protocol

BACKENDS = ("native", "plumed")
WALKERS = ("independent", "shared")


@dataclass(frozen=True, kw_only=True)
class BiasPlan:
    """How a run's metadynamics is carried out; recorded in run.json.

    Args:
        backend: ``native`` (OpenMM's own forces) or ``plumed`` (openmm-plumed).
        walkers: ``independent`` replicas, or ``shared``: each feels the hills of all.
    """

    backend: str
    walkers: str = "independent"


class Bias(Interface):
    """The bias of one replica while it runs.

    A replica calls ``add_to``, makes its Context within ``log``, calls ``begin`` once the Context is in its
    first state, then ``advance`` to each frame and ``end_frame`` there, and ``sync`` at checkpoints.
    """

    # Steps beyond a frame at which a checkpoint is taken; 0: at the frame.
    ahead_steps: int

    def add_to(self, system: Any) -> None:
        """Add the force to a System that has no Context yet."""

    def log(self) -> AbstractContextManager[None]:
        """A context to make the Context in, which keeps what the backend says."""

    def begin(self, context: Any) -> None:
        """Take up the bias in a Context that stands at start or checkpoint."""

    def advance(self, step: int, n_steps: int) -> None:
        """Simulate from this step on, with the hills that fall due on the way."""

    def end_frame(self, step: int) -> None:
        """Write the frame's row of COLVAR and the hill that is due at it."""

    def sync(self) -> dict[str, int]:
        """Make the files durable; their lengths in bytes."""

    def close(self) -> None:
        """Close the files."""


def plumed_available() -> bool:
    """Whether the openmm-plumed plugin imports."""
    if importlib.util.find_spec("openmmplumed") is None:
        return False
    try:
        import openmmplumed  # noqa: F401
    except ImportError:
        return False
    return True


def plan_bias(
    protocol: Protocol, backend: str = "auto", walkers: str = "independent", former: Any = None
) -> BiasPlan | None:
    """How to carry out a protocol's metadynamics; None where it has none.

    Args:
        protocol: what is simulated.
        backend: ``auto`` (that of the run that is resumed, else plumed where it imports), ``native`` or ``plumed``.
        walkers: ``independent`` or ``shared``.
        former: what run.json of the resumed run says, if any.

    Raises:
        SimulationError: unknown options, or options without metadynamics.
        DependencyError: plumed was asked for and does not import.
    """
    if backend not in ("auto", *BACKENDS) or walkers not in WALKERS:
        raise SimulationError(
            f"metadynamics {backend!r} with walkers {walkers!r}; wanted auto, {' or '.join(BACKENDS)} "
            f"with {' or '.join(WALKERS)} walkers"
        )
    description = protocol.metadynamics
    if description is None:
        if backend != "auto" or walkers != "independent":
            raise SimulationError(
                f"protocol {protocol.name} has no metadynamics; leave out --metadynamics and --walkers"
            )
        return None
    if backend == "auto" and isinstance(former, dict) and former.get("backend") in BACKENDS:
        backend = former["backend"]
    if backend == "auto":
        backend = "plumed" if plumed_available() else "native"
    if backend == "plumed" and protocol.ensemble == "NPT":
        raise SimulationError(
            f"protocol {protocol.name} is NPT, whose checkpoints begin a new Context, and PLUMED would lose its bias there; "
            "use --metadynamics native"
        )
    if backend == "plumed":
        if not plumed_available():
            raise DependencyError(
                "openmmplumed does not import; install openmm-plumed from conda-forge, or use --metadynamics native"
            )
        from openmm_mlbench.simulation.metadynamics.plumed import off_phase

        off_phase(description.pace_steps, protocol.steps_per_frame)
    return BiasPlan(backend=backend, walkers=walkers)


def make_bias(
    plan: BiasPlan,
    protocol: Protocol,
    folder: Path,
    *,
    walkers: list[Path],
    restart: dict[str, int] | None,
) -> Bias:
    """The bias of one replica.

    Args:
        plan: which backend.
        protocol: with metadynamics.
        folder: of the replica.
        walkers: folders of all walkers, this one's among them.
        restart: lengths of the files at the checkpoint to go on from; None begins new ones.

    Raises:
        SimulationError: the files do not fit the checkpoint.
    """
    description = protocol.metadynamics
    if not isinstance(description, Metadynamics):
        raise SimulationError(f"protocol {protocol.name} has no metadynamics")
    shared = walkers if plan.walkers == "shared" else [folder]
    if plan.backend == "plumed":
        from openmm_mlbench.simulation.metadynamics.plumed import PlumedBias

        return PlumedBias(description, protocol, folder, shared, restart)
    from openmm_mlbench.simulation.metadynamics.native import NativeBias

    return NativeBias(description, protocol.timestep_ps, folder, shared, restart)
