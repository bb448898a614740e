"""What a run does about neighbour lists of fixed length, which a GPU replays without asking the host.

A list that is too short for a configuration gives an infinite energy and forces that are NaN, never a
dropped neighbour.  OpenMM's CUDA platform turns such forces into huge ones, so that a run may also seem to
explode.  So no collapse under fixed lists is believed: the replica goes back to its last checkpoint (or its
start) and goes on with lists that are searched anew at each step.  If it collapses again, that is its result.
"""

from typing import Any

from numpy.typing import NDArray

from openmm_mlbench.forces.drivers import FIXED_LISTS
from openmm_mlbench.protocol import Protocol
from openmm_mlbench.simulation.monitor import Stop

NOTE = "searched-lists.txt"


class CollapseUnderFixedLists(Exception):  # noqa: N818 - a question and not an error
    """A collapse that lists of fixed length may have made; ``stop`` says what was seen."""

    def __init__(self, stop: Stop) -> None:
        super().__init__(stop.message)
        self.stop = stop


def start_of_lists(protocol: Protocol, provider: Any, positions_nm: NDArray[Any]) -> dict[str, Any]:
    """Keywords for a provider that can make lists of fixed length.

    None under a barostat: a list that is too short would forbid volumes that the pressure allows.

    Args:
        protocol: to be run.
        provider: says with ``takes_positions`` whether it can.
        positions_nm: (n_atoms, 3), where the run begins.
    """
    if protocol.ensemble == "NPT" or not getattr(provider, "takes_positions", False):
        return {}
    return {"positions": positions_nm}


def has_fixed_lists(system: Any) -> bool:
    """Whether a force of this System has neighbour lists of fixed length."""
    return any(force.getName().endswith(FIXED_LISTS) for force in system.getForces())


def line_of(replica: str, stop: Stop, from_ps: float) -> str:
    """One line that says that a replica goes on with searched lists.

    Args:
        replica: name of its folder.
        stop: what was seen.
        from_ps: time of the checkpoint.
    """
    return (
        f"{replica}: {stop.message} at {stop.time_ps:g} ps with neighbour lists of fixed length; went on from "
        f"{from_ps:g} ps with searched lists"
    )
