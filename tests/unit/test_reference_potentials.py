"""Classical reference potentials: parameters by hand, gradients, Ewald sums against plain ones, refusals."""

import json
import pickle

import numpy as np
import openmm
import pytest
from openmm import app, unit
from scipy.special import erfc

from openmm_mlbench.assets import asset_path
from openmm_mlbench.errors import PotentialError
from openmm_mlbench.reference_potentials import (
    REFERENCE_POTENTIALS,
    find_reference_potential,
    is_reference_potential,
)

COULOMB_KJ_MOL_A = 1389.3545764438198
CELL_A = 12.44288
CHARGES = np.tile([-0.82, 0.41, 0.41], 64)
CLASSICAL = ("spcfw", "spcfw-mdsim", "amber03-obc", "amber03-tip3p")
# O, H, H of two molecules, A, neither of them at rest.
DIMER_A = np.array(
    [[0, 0, 0], [1.05, 0.02, 0], [-0.33, 0.98, 0.04], [2.9, 0.1, 0.2], [3.3, -0.8, 0.1], [3.25, 0.75, 0.7]]
)


def water_topology(n_molecules, edge_A=None):
    topology = app.Topology()
    chain = topology.addChain()
    for _ in range(n_molecules):
        residue = topology.addResidue("HOH", chain)
        for name in ("O", "H1", "H2"):
            topology.addAtom(name, app.Element.getBySymbol(name[0]), residue)
    if edge_A is not None:
        topology.setPeriodicBoxVectors(np.eye(3) * edge_A * unit.angstrom)
    return topology


def context_of(system):
    return openmm.Context(
        system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
    )


def evaluate(context, positions_A):
    """Energy, kJ/mol, and forces, kJ/mol/A."""
    context.setPositions(positions_A * 0.1)
    state = context.getState(energy=True, forces=True)
    forces = state.getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.angstrom)
    return state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole), forces


def largest_gradient_error(context, positions_A, coordinates, step=1e-4):
    _, forces = evaluate(context, positions_A)
    worst = 0.0
    for atom, axis in coordinates:
        shift = np.zeros_like(positions_A)
        shift[atom, axis] = step
        slope = (evaluate(context, positions_A + shift)[0] - evaluate(context, positions_A - shift)[0]) / (
            2 * step
        )
        worst = max(worst, abs(forces[atom, axis] + slope))
    return worst


def intramolecular(positions_A, stiffness):
    energy = 0.0
    for start in range(0, len(positions_A), 3):
        one, two = positions_A[start + 1] - positions_A[start], positions_A[start + 2] - positions_A[start]
        lengths = np.linalg.norm(one), np.linalg.norm(two)
        angle = np.arccos(one @ two / (lengths[0] * lengths[1]))
        energy += 0.5 * stiffness * 1059.162 * sum((length - 1.012) ** 2 for length in lengths)
        energy += 0.5 * stiffness * 75.90 * (angle - np.radians(113.24)) ** 2
    return energy * 4.184


@pytest.mark.parametrize(("name", "stiffness"), [("spcfw", 1.0), ("spcfw-mdsim", 2.0)])
def test_dimer_by_hand(name, stiffness):
    system = find_reference_potential(name).create_system(water_topology(2))
    energy, _ = evaluate(context_of(system), DIMER_A)
    by_hand = intramolecular(DIMER_A, stiffness)
    for i in range(3):
        for j in range(3, 6):
            distance = np.linalg.norm(DIMER_A[i] - DIMER_A[j])
            by_hand += COULOMB_KJ_MOL_A * CHARGES[i] * CHARGES[j] / distance
    sixth = (3.1655 / np.linalg.norm(DIMER_A[0] - DIMER_A[3])) ** 6
    by_hand += 4 * 0.1553 * 4.184 * (sixth**2 - sixth)
    assert energy == pytest.approx(by_hand, abs=1e-5)


@pytest.fixture(scope="module")
def box():
    """The shipped structure in the exact cell: topology and positions, A."""
    pdb = app.PDBFile(str(asset_path("systems", "water", "topology.pdb")))
    pdb.topology.setPeriodicBoxVectors(np.eye(3) * CELL_A * unit.angstrom)
    return pdb.topology, pdb.getPositions(asNumpy=True).value_in_unit(unit.angstrom)


def naive_forces(positions_A):
    """Forces between molecules, kJ/mol/A: plain Ewald sum, and Lennard-Jones over images to 30 A."""
    alpha, n_max = 0.30, 9
    vectors = positions_A[:, None] - positions_A[None]
    molecule = np.arange(192) // 3
    same = molecule[:, None] == molecule[None]
    products = CHARGES[:, None] * CHARGES[None] * COULOMB_KJ_MOL_A
    forces = np.zeros((192, 3))
    images = np.array(list(np.ndindex(3, 3, 3))) - 1
    for image in images:
        d = vectors + image * CELL_A
        r = np.linalg.norm(d, axis=2)
        with np.errstate(all="ignore"):
            radial = erfc(alpha * r) / r + 2 * alpha / np.sqrt(np.pi) * np.exp(-((alpha * r) ** 2))
            if not image.any():
                # Within a molecule only the part that the reciprocal sum puts there is taken away.
                radial = np.where(same, radial - 1 / r, radial)
            pair = np.nan_to_num(products * radial / r**2, nan=0.0, posinf=0.0, neginf=0.0)
        forces += (pair[:, :, None] * d).sum(axis=1)
    numbers = np.array(list(np.ndindex(2 * n_max + 1, 2 * n_max + 1, 2 * n_max + 1))) - n_max
    numbers = numbers[(numbers**2).sum(axis=1) > 0]
    k = 2 * np.pi / CELL_A * numbers
    k_squared = (k**2).sum(axis=1)
    phases = np.exp(1j * (positions_A @ k.T))
    structure = CHARGES @ phases
    weights = 4 * np.pi / CELL_A**3 * np.exp(-k_squared / (4 * alpha**2)) / k_squared
    forces += COULOMB_KJ_MOL_A * CHARGES[:, None] * ((np.imag(phases * structure.conj()) * weights) @ k)
    oxygens = positions_A[::3]
    for image in np.array(list(np.ndindex(5, 5, 5))) - 2:
        d = oxygens[:, None] - oxygens[None] + image * CELL_A
        r = np.linalg.norm(d, axis=2)
        r[r == 0] = np.inf
        sixth = (3.1655 / r) ** 6
        pair = 24 * 0.1553 * 4.184 * (2 * sixth**2 - sixth) / r**2
        forces[::3] += (np.where(r < 30, pair, 0)[:, :, None] * d).sum(axis=1)
    return forces


def test_cell_against_plain_sums(box):
    """Coulomb and dispersion without cutoff: within 0.2 meV/A (0.02 kJ/mol/A) of sums that use no mesh."""
    topology, positions = box
    system = find_reference_potential("spcfw").create_system(topology)
    for force in system.getForces():
        if not isinstance(force, openmm.NonbondedForce):
            force.setForceGroup(1)
    context = context_of(system)
    context.setPositions(positions * 0.1)
    state = context.getState(forces=True, groups={0})
    forces = state.getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.angstrom)
    difference = forces - naive_forces(positions)
    assert np.sqrt((forces**2).mean()) > 50
    assert np.sqrt((difference**2).mean()) < 0.02
    assert np.abs(difference).max() < 0.1


def test_water_forces_are_minus_the_gradient(box):
    topology, positions = box
    context = context_of(find_reference_potential("spcfw-mdsim").create_system(topology))
    assert largest_gradient_error(context, positions, [(0, 0), (1, 1), (50, 2), (191, 0)]) < 2e-3


def test_doubled_constants_differ_by_the_bonded_energy_once(box):
    topology, positions = box
    energies = [
        evaluate(context_of(find_reference_potential(name).create_system(topology)), positions)[0]
        for name in ("spcfw", "spcfw-mdsim")
    ]
    assert energies[1] - energies[0] == pytest.approx(intramolecular(positions, 1.0), abs=1e-4)


@pytest.fixture(scope="module")
def peptide():
    pdb = app.PDBFile(str(asset_path("systems", "alanine-dipeptide", "topology.pdb")))
    return pdb.topology, pdb.getPositions(asNumpy=True).value_in_unit(unit.angstrom)


def test_constraints_decide_what_is_rigid(peptide):
    topology, _ = peptide
    potential = find_reference_potential("amber03-obc")
    flexible, rigid = (potential.create_system(topology, constraints=c) for c in (None, app.HBonds))
    assert flexible.getNumConstraints() == 0
    hydrogens = {atom.index for atom in topology.atoms() if atom.element.symbol == "H"}
    pairs = [rigid.getConstraintParameters(i) for i in range(rigid.getNumConstraints())]
    assert len(pairs) == len(hydrogens) == 12
    assert all(len({i, j} & hydrogens) == 1 for i, j, _ in pairs)
    for system in (flexible, rigid):
        assert not any(isinstance(force, openmm.CMMotionRemover) for force in system.getForces())


def test_peptide_forces_are_minus_the_gradient(peptide):
    topology, positions = peptide
    context = context_of(find_reference_potential("amber03-obc").create_system(topology))
    moved = positions + np.random.default_rng(0).normal(0, 0.03, positions.shape)
    assert largest_gradient_error(context, moved, np.ndindex(22, 3)) < 1e-2


def test_minima_are_minima():
    """Six different ones; forces vanish up to the three decimals of the file."""
    pdb = app.PDBFile(str(asset_path("systems", "alanine-dipeptide", "minima.pdb")))
    context = context_of(find_reference_potential("amber03-obc").create_system(pdb.topology))
    energies = []
    for model in range(pdb.getNumFrames()):
        positions = pdb.getPositions(asNumpy=True, frame=model).value_in_unit(unit.angstrom)
        energy, _ = evaluate(context, positions)
        openmm.LocalEnergyMinimizer.minimize(context, 0.01)
        state = context.getState(energy=True, positions=True)
        relaxed = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
        assert 0 <= energy - relaxed < 0.1
        after = state.getPositions(asNumpy=True).value_in_unit(unit.angstrom)
        assert np.abs(after - positions).max() < 0.1
        energies.append(energy)
    assert len(energies) == 6
    assert energies == sorted(energies)


def test_registry():
    for name in REFERENCE_POTENTIALS:
        potential = find_reference_potential(name)
        assert potential.id == name
        assert is_reference_potential(name)
        assert potential.summary
        assert potential.level_of_theory
        assert potential.source
    for name in CLASSICAL:
        potential = find_reference_potential(name)
        description = json.loads(json.dumps(potential.description))
        assert description["model"] == name
        assert description["archive_sha256"] is None
        assert description["card"] is None
        assert pickle.loads(pickle.dumps(potential)) == potential
    with pytest.raises(PotentialError, match="'spcwf' is not known; did you mean spcfw"):
        find_reference_potential("spcwf")


def test_refusals(peptide, box):
    topology, _ = peptide
    water = find_reference_potential("spcfw")
    with pytest.raises(PotentialError, match="flexible model, constraints=HBonds was asked for"):
        water.create_system(box[0], constraints=app.HBonds)
    with pytest.raises(PotentialError, match="begins with H C H H C O; wanted water molecules, each O, H, H"):
        water.create_system(topology)
    with pytest.raises(PotentialError, match=r"11\.00 A wide; wanted at least 12 A"):
        water.create_system(water_topology(2, edge_A=11.0))
    with pytest.raises(PotentialError, match="no cell; wanted one with explicit water"):
        find_reference_potential("amber03-tip3p").create_system(topology)
    with pytest.raises(PotentialError, match="a cell; wanted none"):
        find_reference_potential("amber03-obc").create_system(box[0])
    with pytest.raises(PotentialError, match="amber03-obc: No template found"):
        find_reference_potential("amber03-obc").create_system(_naked_carbon())


def _naked_carbon():
    topology = app.Topology()
    residue = topology.addResidue("XXX", topology.addChain())
    topology.addAtom("C", app.element.carbon, residue)
    return topology
