"""Periodic Lennard-Jones atoms in a cell of any shape: an analytic force provider for the tests."""

import dataclasses

import numpy as np
import openmm
from openmm import app, unit

from openmm_mlbench.data.frames import Frames
from openmm_mlbench.protocol import load_protocol

# A and degrees of the lattice; sides of 3 atoms.
ORTHORHOMBIC = np.diag([12.0, 12.3, 12.6])
TRICLINIC = np.array([[12.0, 0.0, 0.0], [-3.0, 11.6, 0.0], [-2.3, -3.0, 11.6]])
SIGMA_NM, EPSILON = 0.34, 0.996


def rotation(seed=0):
    """A rotation matrix (3, 3)."""
    matrix, upper = np.linalg.qr(np.random.default_rng(seed).standard_normal((3, 3)))
    matrix *= np.sign(np.diag(upper))
    return matrix * np.sign(np.linalg.det(matrix))


def frames(cell=ORTHORHOMBIC, n_frames=6, per_side=3, seed=0):
    """Atoms on a lattice with 0.1 A of noise, in the given cell, which need not be in OpenMM's form."""
    grid = np.stack(np.meshgrid(*[np.arange(per_side)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    noise = 0.1 * np.random.default_rng(seed).standard_normal((n_frames, len(grid), 3))
    return Frames(
        name="argon",
        atomic_numbers=np.full(len(grid), 18),
        positions=(grid / per_side) @ cell + noise,
        energies=None,
        forces=None,
        cells=np.repeat(cell[None], n_frames, axis=0),
        frame_indices=np.arange(n_frames),
        interval_fs=None,
        constraints="none",
        level_of_theory="Lennard-Jones",
        source="tests/periodic_argon.py",
    )


def write_pdb(path, start):
    """The structure of the frames as a PDB file with its cell."""
    from openmm_mlbench.cells import reduce_cell

    topology = app.Topology()
    chain = topology.addChain()
    for _ in range(start.n_atoms):
        topology.addAtom("AR", app.Element.getByAtomicNumber(18), topology.addResidue("AR", chain))
    box, positions = reduce_cell(start.cells[0], start.positions[0])
    topology.setPeriodicBoxVectors(0.1 * box * unit.nanometer)
    with open(path, "w") as file:
        app.PDBFile.writeFile(topology, 0.1 * positions * unit.nanometer, file)


def protocol(path, name="ethanol-langevin", **changes):
    """An ethanol protocol's integrator for argon at 120 K."""
    like = load_protocol(name)
    integrator = like.make_integrator()
    if hasattr(integrator, "setTemperature"):
        integrator.setTemperature(120.0)
    changes = {
        "structure": str(path),
        "stability_criterion": "none",
        "temperature_K": 120.0,
        "integrator_xml": openmm.XmlSerializer.serialize(integrator),
    } | changes
    return dataclasses.replace(like, **changes)


class Argon:
    """A force provider: Lennard-Jones with a cutoff at 0.55 nm, smoothly switched off."""

    def __init__(self, card=None, epsilon=EPSILON):
        self.description = {"model": "argon", "dataset": "argon", "archive_sha256": None, "card": card or {}}
        self.epsilon = epsilon

    def create_system(self, topology, constraints=None):
        system = openmm.System()
        system.setDefaultPeriodicBoxVectors(*topology.getPeriodicBoxVectors())
        force = openmm.NonbondedForce()
        force.setNonbondedMethod(openmm.NonbondedForce.CutoffPeriodic)
        force.setUseDispersionCorrection(False)
        force.setCutoffDistance(0.55)
        force.setUseSwitchingFunction(True)
        force.setSwitchingDistance(0.45)
        for _ in topology.atoms():
            system.addParticle(39.95)
            force.addParticle(0.0, SIGMA_NM, self.epsilon)
        system.addForce(force)
        return system
