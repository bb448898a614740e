"""Ethanol with harmonic bonds and angles and cosine torsions: an analytic force provider for the tests.

The force constants have the size of a general organic force field, so the
O-H stretch near 3600 per cm is as stiff for a 0.5 fs step as the real one.
"""

import itertools
from collections import defaultdict

import numpy as np
import openmm
from openmm import app

ATOMIC_NUMBERS = np.array([6, 6, 8, 1, 1, 1, 1, 1, 1])
NAMES = ("C1", "C2", "O3", "H4", "H5", "H6", "H7", "H8", "H9")
# A, the first frame of MD17 ethanol rounded to 0.001.
POSITIONS = np.array(
    [
        [-0.043, -0.508, 0.028],
        [-1.327, 0.229, 0.045],
        [1.213, 0.286, -0.073],
        [0.073, -1.283, 0.788],
        [0.102, -1.043, -0.965],
        [-1.727, 0.835, 0.935],
        [-1.228, 0.927, -0.785],
        [-1.957, -0.585, -0.272],
        [1.810, -0.068, 0.595],
    ]
)
BONDS = np.array([[0, 1], [0, 2], [0, 3], [0, 4], [1, 5], [1, 6], [1, 7], [2, 8]])
EQUILIBRIUM = np.array([1.51, 1.43, 1.09, 1.09, 1.09, 1.09, 1.09, 0.96])
# kJ/mol/nm^2 by the pair of elements.
STIFFNESS = {(6, 6): 2.2e5, (6, 8): 2.7e5, (1, 6): 2.8e5, (1, 8): 4.6e5}


def topology():
    """The molecule as an OpenMM topology."""
    result = app.Topology()
    residue = result.addResidue("EOH", result.addChain())
    atoms = [
        result.addAtom(name, app.Element.getByAtomicNumber(int(number)), residue)
        for name, number in zip(NAMES, ATOMIC_NUMBERS, strict=True)
    ]
    for i, j in BONDS:
        result.addBond(atoms[i], atoms[j])
    return result


def write_pdb(path):
    """Write the molecule as a small PDB file."""
    with open(path, "w") as file:
        app.PDBFile.writeFile(topology(), POSITIONS, file)


def _angles():
    neighbours = defaultdict(list)
    for i, j in BONDS.tolist():
        neighbours[i].append(j)
        neighbours[j].append(i)
    return [(a, b, c) for b, around in neighbours.items() for a, c in itertools.combinations(around, 2)]


class HarmonicEthanol:
    """A force provider: bonds, angles, two torsions and the centre-of-mass remover."""

    def __init__(self, model="harmonic-ethanol"):
        self.description = {"model": model, "dataset": "harmonic", "archive_sha256": None, "card": {}}

    def create_system(self, topology, constraints=None):
        system = openmm.System()
        for atom in topology.atoms():
            system.addParticle(atom.element.mass)
        bonds = openmm.HarmonicBondForce()
        for (i, j), length in zip(BONDS.tolist(), EQUILIBRIUM, strict=True):
            pair = tuple(sorted((int(ATOMIC_NUMBERS[i]), int(ATOMIC_NUMBERS[j]))))
            bonds.addBond(i, j, 0.1 * length, STIFFNESS[pair])
        angles = openmm.HarmonicAngleForce()
        for a, b, c in _angles():
            angles.addAngle(a, b, c, 1.911, 400.0)
        torsions = openmm.PeriodicTorsionForce()
        torsions.addTorsion(1, 0, 2, 8, 3, 0.0, 1.5)
        torsions.addTorsion(2, 0, 1, 5, 3, 0.0, 2.0)
        for force in (bonds, angles, torsions, openmm.CMMotionRemover()):
            system.addForce(force)
        return system
