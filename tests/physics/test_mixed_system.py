"""A learned ligand in classical water by OpenMM-ML's createMixedSystem: is energy conserved?"""

import io

import numpy as np
import openmm
import pytest
from openmm import app, unit
from openmmml import MLPotential

from openmm_mlbench.assets import asset_path

TIMESTEP_FS = 0.5
LENGTH_PS = 10.0
LIGAND = list(range(9))
# Ethanol with the shape of Amber's general force field, torsions left out; neutral.
ETHANOL = """<ForceField>
 <AtomTypes>
  <Type name="ca" class="ct" element="C" mass="12.011"/><Type name="cb" class="ct" element="C" mass="12.011"/>
  <Type name="oh" class="oh" element="O" mass="15.999"/><Type name="ho" class="ho" element="H" mass="1.008"/>
  <Type name="h1" class="hc" element="H" mass="1.008"/><Type name="h2" class="hc" element="H" mass="1.008"/>
 </AtomTypes>
 <Residues><Residue name="EOH">
  <Atom name="C1" type="ca"/><Atom name="C2" type="cb"/><Atom name="O" type="oh"/><Atom name="H11" type="h1"/>
  <Atom name="H12" type="h1"/><Atom name="H21" type="h2"/><Atom name="H22" type="h2"/><Atom name="H23" type="h2"/>
  <Atom name="HO" type="ho"/>
  <Bond from="0" to="1"/><Bond from="0" to="2"/><Bond from="0" to="3"/><Bond from="0" to="4"/><Bond from="1" to="5"/>
  <Bond from="1" to="6"/><Bond from="1" to="7"/><Bond from="2" to="8"/>
 </Residue></Residues>
 <HarmonicBondForce>
  <Bond class1="ct" class2="ct" length="0.1526" k="259408"/><Bond class1="ct" class2="oh" length="0.141" k="267776"/>
  <Bond class1="ct" class2="hc" length="0.109" k="284512"/><Bond class1="oh" class2="ho" length="0.096" k="462750"/>
 </HarmonicBondForce>
 <HarmonicAngleForce>
  <Angle class1="hc" class2="ct" class3="hc" angle="1.911" k="292.9"/>
  <Angle class1="hc" class2="ct" class3="ct" angle="1.911" k="418.4"/>
  <Angle class1="hc" class2="ct" class3="oh" angle="1.911" k="418.4"/>
  <Angle class1="ct" class2="ct" class3="oh" angle="1.911" k="418.4"/>
  <Angle class1="ct" class2="oh" class3="ho" angle="1.894" k="460.2"/>
 </HarmonicAngleForce>
 <NonbondedForce coulomb14scale="0.833333" lj14scale="0.5">
  <Atom type="ca" charge="0.118" sigma="0.34" epsilon="0.4577"/><Atom type="cb" charge="-0.099" sigma="0.34" epsilon="0.4577"/>
  <Atom type="oh" charge="-0.60" sigma="0.3066" epsilon="0.8803"/><Atom type="ho" charge="0.40" sigma="0.11" epsilon="0.02"/>
  <Atom type="h1" charge="0.038" sigma="0.247" epsilon="0.0657"/><Atom type="h2" charge="0.035" sigma="0.265" epsilon="0.0657"/>
 </NonbondedForce>
</ForceField>"""


def solvated():
    """Ethanol among rigid TIP3P water, and its classical System."""
    force_field = app.ForceField("tip3p.xml", io.StringIO(ETHANOL))
    pdb = app.PDBFile(str(asset_path("systems", "ethanol", "topology.pdb")))
    modeller = app.Modeller(pdb.topology, pdb.positions)
    modeller.addSolvent(force_field, boxSize=openmm.Vec3(1.5, 1.5, 1.5) * unit.nanometer)
    system = force_field.createSystem(
        modeller.topology,
        nonbondedMethod=app.PME,
        nonbondedCutoff=0.7 * unit.nanometer,
        # A jump of the energy at the cutoff would drown what is looked for.
        switchDistance=0.6 * unit.nanometer,
        ewaldErrorTolerance=1e-4,
        rigidWater=True,
        constraints=None,
    )
    return modeller, system


def context_of(system, integrator):
    integrator.setConstraintTolerance(1e-8)
    return openmm.Context(system, integrator, openmm.Platform.getPlatformByName("CPU"), {"Threads": "1"})


def total_energies(system, positions):
    """Total energies, kJ/mol, every 20 fs of NVE after 1 ps at 300 K."""
    thermostat = openmm.LangevinMiddleIntegrator(300, 10, TIMESTEP_FS * unit.femtosecond)
    thermostat.setRandomNumberSeed(1)
    warm = context_of(system, thermostat)
    warm.setPositions(positions)
    openmm.LocalEnergyMinimizer.minimize(warm, maxIterations=200)
    warm.setVelocitiesToTemperature(300, 1)
    thermostat.step(round(1000 / TIMESTEP_FS))
    state = warm.getState(positions=True, velocities=True)
    verlet = openmm.VerletIntegrator(TIMESTEP_FS * unit.femtosecond)
    context = context_of(system, verlet)
    context.setState(state)
    totals = []
    for _ in range(round(LENGTH_PS * 50)):
        verlet.step(round(20 / TIMESTEP_FS))
        now = context.getState(energy=True)
        totals.append(
            (now.getPotentialEnergy() + now.getKineticEnergy()).value_in_unit(unit.kilojoules_per_mole)
        )
    return np.array(totals)


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("model", ["ethanol-gfn2/schnet"])
def test_energy_is_conserved_as_in_the_classical_system(model):
    modeller, classical = solvated()
    mixed = MLPotential("openmm-mlbench", model=model).createMixedSystem(modeller.topology, classical, LIGAND)
    spread = {}
    for name, system in (("classical", classical), ("mixed", mixed)):
        totals = total_energies(system, modeller.positions)
        times = np.linspace(0, LENGTH_PS, len(totals))
        drift = np.polyfit(times, totals, 1)[0] * LENGTH_PS
        spread[name] = totals.std()
        print(
            f"{name}: standard deviation {spread[name]:.3f}, drift {drift:.3f} kJ/mol in {LENGTH_PS:g} ps, {system.getNumParticles()} atoms"
        )
        assert spread[name] > 0
    assert spread["mixed"] <= 2 * spread["classical"]
