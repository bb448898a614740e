"""Constant pressure: OpenMM's Monte Carlo barostat, for forces that have an energy.

A trial move scales the cell and the centres of all molecules and is accepted by the change
of the potential energy.  Models that predict forces directly have no energy that belongs to
these forces, so the moves would sample no ensemble.

OpenMM's checkpoints do not hold the barostat's own state (steps since the last move, size of
a move), so a Context is made anew at every checkpoint: an uninterrupted and a resumed run
then go on from the same state.
"""

from typing import Any

from openmm_mlbench.errors import SimulationError
from openmm_mlbench.protocol import Protocol

MOLECULES = "molecules of the barostat"


def add_barostat(system: Any, protocol: Protocol, topology: Any, description: dict[str, Any]) -> None:
    """Add the protocol's barostat to a System.

    A learned force tells OpenMM nothing of molecules, and moves that stretch every bond are
    hardly ever accepted.  Bonds of the topology without stiffness make the molecules known.

    Args:
        system: of the simulation.
        protocol: with pressure and interval.
        topology: OpenMM topology with its bonds.
        description: of the model, see ``ForceProvider``.

    Raises:
        SimulationError: forces without energy, or no periodic cell.
    """
    import openmm

    claims = (description.get("card") or {}).get("claims") or {}
    if claims.get("conservative") is False:
        raise SimulationError(
            f"{description.get('model')} predicts forces directly, and no energy that a barostat could judge its moves "
            f"by; protocol {protocol.name} is NPT: use NVT, or a conservative model"
        )
    if not system.usesPeriodicBoundaryConditions():
        raise SimulationError(
            f"protocol {protocol.name} is NPT, but {protocol.structure_path} has no periodic cell; "
            "give the PDB file a CRYST1 record, or use NVT"
        )
    bonds = openmm.HarmonicBondForce()
    bonds.setName(MOLECULES)
    for bond in topology.bonds():
        bonds.addBond(bond[0].index, bond[1].index, 0.1, 0.0)
    if bonds.getNumBonds():
        system.addForce(bonds)
    system.addForce(
        openmm.MonteCarloBarostat(
            protocol.pressure_bar, protocol.temperature_K, protocol.barostat_interval_steps
        )
    )


def seed_barostat(system: Any, seed: int) -> bool:
    """Seed the barostat of a System, if it has one; whether it has."""
    import openmm

    barostats = [force for force in system.getForces() if isinstance(force, openmm.MonteCarloBarostat)]
    for barostat in barostats:
        barostat.setRandomNumberSeed(seed)
    return bool(barostats)
