"""What one replica is told to do, and the System that it does it with."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from typing import Protocol as Interface

import numpy as np
from numpy.typing import NDArray

from openmm_mlbench.errors import SimulationError
from openmm_mlbench.protocol import Protocol
from openmm_mlbench.simulation.barostat import add_barostat
from openmm_mlbench.simulation.fixed_lists import start_of_lists
from openmm_mlbench.simulation.metadynamics.bias import BiasPlan
from openmm_mlbench.simulation.monitor import Thresholds, WindowCriterion
from openmm_mlbench.simulation.platforms import PlatformChoice


class ForceProvider(Interface):
    """What a simulation asks of a force field.

    ``description`` is plain JSON and names the model: keys ``model``,
    ``archive_sha256``, ``dataset`` and ``card``.  With ``jobs`` above one the
    provider is pickled and made again in each process.  Replicas of one that also has
    ``create_copies(topology, n_copies)``, which returns :class:`openmm_mlbench.forces.copies.Copies`,
    can share a Context.
    """

    @property
    def description(self) -> dict[str, Any]:
        """Of the model, for the run's record."""

    def create_system(self, topology: Any, *, constraints: Any = None) -> Any:
        """An OpenMM System for this OpenMM Topology."""


@dataclass(frozen=True, kw_only=True)
class ReplicaTask:
    """Everything that one replica needs; can be sent to another process.

    Args:
        replica: its number.
        n_replicas: of how many.
        folder: where it writes.
        structure: PDB file of the molecule.
        protocol: how to simulate.
        provider: the forces.
        positions_nm: (n_atoms, 3), nm, the start frame.
        n_steps: where to end.
        seed: of the whole run.
        bonds: (n_bonds, 2), watched by the monitor.
        equilibrium_A: (n_bonds,), their lengths in the reference.
        thresholds: where collapse begins.
        platform: OpenMM platform.
        threads: CPU threads.
        resume: go on from the latest checkpoint.
        box_nm: (3, 3), rows are the box vectors of the start frame, nm, or None: those of the structure, if any.
        window: judges windows of frames, or None.
        bias: how metadynamics is carried out, or None.
        searched_lists: make no neighbour lists of fixed length.
    """

    replica: int
    n_replicas: int
    folder: Path
    structure: Path
    protocol: Protocol
    provider: ForceProvider
    positions_nm: NDArray[np.float64]
    n_steps: int
    seed: int
    bonds: NDArray[np.int64]
    equilibrium_A: NDArray[np.float64]
    thresholds: Thresholds
    platform: PlatformChoice
    threads: int = 1
    resume: bool = False
    box_nm: NDArray[np.float64] | None = None
    window: WindowCriterion | None = None
    bias: BiasPlan | None = None
    searched_lists: bool = False


def asked_constraints(protocol: Protocol) -> Any:
    """The protocol's constraints as OpenMM names them."""
    from openmm import app

    return {"none": None, "h-bonds": app.HBonds}[protocol.constraints]


def create_system(
    provider: ForceProvider,
    protocol: Protocol,
    topology: Any,
    positions_nm: NDArray[np.float64] | None = None,
) -> Any:
    """The provider's System with the protocol's constraints and barostat, its centre of mass kept at rest.

    OpenMM's Nose-Hoover counts 3N - 3 degrees of freedom only where the System
    has a CMMotionRemover; without one the internal temperature would be wrong
    by a factor of up to (3N) / (3N - 3).

    Args:
        provider: the forces.
        protocol: how to simulate.
        topology: OpenMM topology.
        positions_nm: (n_atoms, 3), where it begins; without them neighbour lists are searched at each step.

    Raises:
        SimulationError: a barostat for forces without energy, or without a cell.
    """
    import openmm

    start = {} if positions_nm is None else start_of_lists(protocol, provider, positions_nm)
    system = provider.create_system(topology, constraints=asked_constraints(protocol), **start)
    if not any(isinstance(force, openmm.CMMotionRemover) for force in system.getForces()):
        system.addForce(openmm.CMMotionRemover())
    if protocol.ensemble == "NPT":
        add_barostat(system, protocol, topology, provider.description)
    return system


def read_structure(path: Path) -> Any:
    """The OpenMM topology of a PDB file.

    Raises:
        SimulationError: missing, unreadable, or an atom without element.
    """
    from openmm import app

    try:
        topology = app.PDBFile(str(path)).topology
    except Exception as error:  # the parser raises whatever it meets
        raise SimulationError(
            f"{path}: not a readable PDB file ({error}); give the structure's PDB file"
        ) from error
    if not topology.getNumAtoms() or any(atom.element is None for atom in topology.atoms()):
        raise SimulationError(f"{path}: has no atoms, or atoms without element; fill in columns 77-78")
    return topology


def numbers(quantity: Any) -> Any:
    """The numbers of a quantity in OpenMM's own units (nm, ps, kJ/mol)."""
    import openmm

    return quantity.value_in_unit_system(openmm.unit.md_unit_system)
