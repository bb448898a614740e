"""Liquid argon in a triclinic box, small enough to simulate in tests: structure, force provider, protocol."""

import functools

import numpy as np
import openmm
import openmm.app

from openmm_mlbench.protocol import load_protocol

N_ATOMS = 64
SIGMA_NM, EPSILON_KJ_MOL = 0.34, 0.996
# Reduced form; half the smallest height is above the cutoff.
BOX_NM = np.array([[1.5, 0, 0], [0.2, 1.48, 0], [-0.3, 0.25, 1.46]])
CUTOFF_NM = 0.70

PROTOCOL = """<Protocol name="argon">
  <Structure system="argon" file="argon.pdb"/>
  <Ensemble type="{ensemble}" temperature_K="120" constraints="none"/>
  <Run timestep_fs="4" length_ps="4" replicas="2" frame_interval_fs="40" checkpoint_interval_ps="1" seed="0"/>
  <Demo length_ps="2" replicas="1"/>
  <Toy length_ps="1" replicas="1"/>
  <Initial positions="structure" velocities="maxwell-boltzmann"/>
  <Stability criterion="rdf" threshold_A="1.0" window_ps="0.8" pairs="Ar-Ar"/>
  <Observables>
    <Observable name="stability"/>
    <Observable name="rdf"/>
    <Observable name="diffusivity" atoms="element Ar" lag_ps="1"/>
    <Observable name="drift"/>
    <Observable name="temperature"/>
  </Observables>
  {integrator}
</Protocol>
"""
INTEGRATORS = {
    "NVT": '<Integrator constraintTolerance="1e-05" friction="2" integrationForceGroups="-1" randomSeed="0" '
    'stepSize=".004" temperature="120" type="LangevinMiddleIntegrator" version="1"/>',
    "NVE": '<Integrator constraintTolerance="1e-05" integrationForceGroups="-1" stepSize=".004" '
    'type="VerletIntegrator" version="1"/>',
}


@functools.cache
def positions_nm():
    """(64, 3): a lattice, molten."""
    grid = np.stack(np.meshgrid(*[np.arange(4)] * 3, indexing="ij"), axis=-1).reshape(-1, 3) / 4
    integrator = openmm.LangevinMiddleIntegrator(120, 2, 0.004)
    integrator.setRandomNumberSeed(1)
    reference = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(Argon().create_system(topology()), integrator, reference)
    context.setPositions(grid @ BOX_NM)
    context.setVelocitiesToTemperature(300, 1)
    integrator.step(750)
    positions = context.getState(positions=True).getPositions(asNumpy=True)
    return positions.value_in_unit(openmm.unit.nanometer)


def topology():
    """64 atoms in their box."""
    atoms = openmm.app.Topology()
    chain = atoms.addChain()
    for _ in range(N_ATOMS):
        atoms.addAtom("Ar", openmm.app.element.argon, atoms.addResidue("AR", chain))
    atoms.setPeriodicBoxVectors([openmm.Vec3(*row) for row in BOX_NM] * openmm.unit.nanometer)
    return atoms


def write_protocol(folder, ensemble="NVT"):
    """argon.pdb and the protocol beside it, read back."""
    with open(folder / "argon.pdb", "w") as file:
        openmm.app.PDBFile.writeFile(topology(), positions_nm() * openmm.unit.nanometer, file)
    path = folder / f"argon-{ensemble}.xml"
    path.write_text(PROTOCOL.format(ensemble=ensemble, integrator=INTEGRATORS[ensemble]))
    return load_protocol(path)


class Argon:
    """A force provider: Lennard-Jones; another sigma is another liquid."""

    def __init__(self, sigma_nm=SIGMA_NM, dataset="argon"):
        self.sigma_nm = sigma_nm
        self.description = {"model": "argon", "dataset": dataset, "archive_sha256": None, "card": {}}

    def create_system(self, topology, constraints=None):
        system = openmm.System()
        system.setDefaultPeriodicBoxVectors(*topology.getPeriodicBoxVectors())
        force = openmm.NonbondedForce()
        force.setNonbondedMethod(openmm.NonbondedForce.CutoffPeriodic)
        force.setCutoffDistance(CUTOFF_NM)
        for atom in topology.atoms():
            system.addParticle(atom.element.mass)
            force.addParticle(0.0, self.sigma_nm, EPSILON_KJ_MOL)
        system.addForce(force)
        return system
