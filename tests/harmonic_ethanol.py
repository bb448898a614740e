"""Ethanol with harmonic bonds and angles and cosine torsions: an analytic force provider for the tests.

The force constants have the size of a general organic force field, so the
O-H stretch near 3600 per cm is as stiff for a 0.5 fs step as the real one.
"""

import copy
import itertools
from collections import defaultdict

import numpy as np
import openmm
from openmm import app

from openmm_mlbench.data.frames import Frames
from openmm_mlbench.forces.copies import Copies

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


class CopiedEthanol(HarmonicEthanol):
    """Ethanol of which several replicas can share a Context; one of them may be another provider's.

    Args:
        odd: by the number of a copy, the provider that makes its System.
    """

    def __init__(self, odd=None):
        super().__init__()
        self.odd = odd or {}

    def create_copies(self, topology, n_copies, n_groups=1):
        singles = [
            self.odd.get(number, super(CopiedEthanol, self)).create_system(topology)
            for number in range(n_copies)
        ]
        system = openmm.System()
        for number, one in enumerate(singles):
            for atom in range(9):
                system.addParticle(one.getParticleMass(atom))
            for force in one.getForces():
                if not isinstance(force, openmm.CMMotionRemover):
                    system.addForce(_moved(force, 9 * number))
        platform = openmm.Platform.getPlatformByName("Reference")
        contexts = [openmm.Context(one, openmm.VerletIntegrator(0.001), platform) for one in singles]

        def evaluate(positions_nm, box_nm):
            energies, forces = [], []
            for context, own in zip(contexts, positions_nm, strict=True):
                context.setPositions(own)
                state = context.getState(energy=True, forces=True)
                energies.append(state.getPotentialEnergy()._value)
                forces.append(state.getForces(asNumpy=True)._value)
            return np.array(energies), np.array(forces)

        return Copies(system=system, n_copies=n_copies, evaluate=evaluate, n_groups=n_groups)


def _moved(force, first):
    """A bonded force with its terms on atoms further on."""
    result = copy.deepcopy(force)
    kinds = {
        openmm.HarmonicBondForce: ("Bond", 2),
        openmm.HarmonicAngleForce: ("Angle", 3),
        openmm.PeriodicTorsionForce: ("Torsion", 4),
        openmm.CustomBondForce: ("Bond", 2),
    }
    term, n = kinds[type(force)]
    for index in range(getattr(force, f"getNum{term}s")()):
        parameters = getattr(force, f"get{term}Parameters")(index)
        atoms = [atom + first for atom in parameters[:n]]
        getattr(result, f"set{term}Parameters")(index, *atoms, *parameters[n:])
    return result


class BreakingEthanol(HarmonicEthanol):
    """The bond C2-H8 has a well of 8 kJ/mol: at 500 K it opens within a few hundred femtoseconds."""

    def __init__(self):
        super().__init__("breaking-ethanol")

    def create_system(self, topology, constraints=None):
        system = super().create_system(topology, constraints)
        bonds, angles, *_ = system.getForces()
        bonds.setBondParameters(6, 1, 7, 0.109, 0.0)
        for index in range(angles.getNumAngles()):
            *atoms, angle, _ = angles.getAngleParameters(index)
            if 7 in atoms:
                angles.setAngleParameters(index, *atoms, angle, 0.0)
        morse = openmm.CustomBondForce("8*(1 - exp(-60*(r - 0.109)))^2")
        morse.addBond(1, 7)
        system.addForce(morse)
        return system


class UndefinedEthanol(HarmonicEthanol):
    """The energy does not exist where the O-H bond is longer than 0.106 nm."""

    def __init__(self):
        super().__init__("undefined-ethanol")

    def create_system(self, topology, constraints=None):
        system = super().create_system(topology, constraints)
        force = openmm.CustomBondForce("sqrt(0.106 - r)")
        force.addBond(2, 8)
        system.addForce(force)
        return system


class RaisingEthanol(HarmonicEthanol):
    """The force raises an error of its own after so many calls of a replica."""

    def __init__(self, n_calls):
        super().__init__("raising-ethanol")
        self.n_calls = n_calls

    def create_system(self, topology, constraints=None):
        system = super().create_system(topology, constraints)
        calls = itertools.count()

        def compute(state):
            if next(calls) == self.n_calls:
                raise RuntimeError("the model has had enough")
            return 0.0, np.zeros((9, 3))

        system.addForce(openmm.PythonForce(compute))
        return system


def frames(n_frames=20, seed=0):
    """Start frames: the equilibrium positions with 0.02 A of noise."""
    noise = 0.02 * np.random.default_rng(seed).standard_normal((n_frames, 9, 3))
    return Frames(
        name="harmonic",
        atomic_numbers=ATOMIC_NUMBERS,
        positions=POSITIONS + noise,
        energies=None,
        forces=None,
        cells=None,
        frame_indices=7 * np.arange(n_frames),
        interval_fs=None,
        constraints="none",
        level_of_theory="harmonic",
        source="tests/harmonic_ethanol.py",
    )


def read_log(folder):
    """Columns of a log.csv as arrays."""
    return np.genfromtxt(folder / "log.csv", delimiter=",", names=True)


def log_without_timing(folder):
    """Lines of a log.csv without the last column, the only one that a clock decides."""
    return [line.rsplit(",", 1)[0] for line in (folder / "log.csv").read_text().splitlines()]
