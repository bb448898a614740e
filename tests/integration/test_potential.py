"""A learned force in OpenMM, OpenMM-ML and ASE: the same numbers, and clear words where it does not fit."""

import subprocess
import sys

import ase
import fresh_models
import numpy as np
import openmm
import pytest
import torch
from ase.calculators.calculator import PropertyNotImplementedError
from openmm import app, unit
from openmmml import MLPotential
from openmmtools.testsystems import AlanineDipeptideVacuum

from openmm_mlbench.assets import asset_path
from openmm_mlbench.errors import ModelError, PotentialError, SimulationError
from openmm_mlbench.openmm_export import export_openmm
from openmm_mlbench.potential import Potential
from openmm_mlbench.protocol import load_protocol
from openmm_mlbench.units import KJMOL_NM_PER_EV_ANGSTROM, KJMOL_PER_EV

KJMOL = unit.kilojoules_per_mole
# A reduced triclinic box below twice the cutoff of 0.5 nm.
BOX = np.array([[0.9, 0.0, 0.0], [0.2, 0.85, 0.0], [-0.3, 0.3, 0.8]])


@pytest.fixture(scope="module", params=["schnet", "deeppot-se"])
def potential(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("archive") / f"{request.param}.pt"
    return Potential.load(fresh_models.write_archive(path, request.param))


@pytest.fixture(scope="module")
def schnet(tmp_path_factory):
    return Potential.load(fresh_models.write_archive(tmp_path_factory.mktemp("archive") / "schnet.pt"))


@pytest.fixture
def ethanol():
    return app.PDBFile(str(asset_path("systems", "ethanol", "topology.pdb"))).topology


@pytest.fixture
def positions():
    return fresh_models.ethanol_positions_nm()


def evaluate(system, positions, groups=-1, parameters=(), platform="Reference"):
    """Energy, kJ/mol, and forces, kJ/mol/nm."""
    integrator = openmm.VerletIntegrator(0.0005)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName(platform))
    context.setPositions(positions)
    for name, value in parameters:
        context.setParameter(name, value)
    state = context.getState(energy=True, forces=True, groups=groups)
    forces = state.getForces(asNumpy=True).value_in_unit(KJMOL / unit.nanometer)
    return state.getPotentialEnergy().value_in_unit(KJMOL), np.array(forces)


def assert_same(found, wanted):
    assert found[0] == pytest.approx(wanted[0], abs=1e-3)
    np.testing.assert_allclose(found[1], wanted[1], atol=2e-5 * np.abs(wanted[1]).max())


# ---- create_system ----


def test_three_lines(potential, ethanol, positions):
    """The energy in a Context is the archive's own; only forces of the model and a CMMotionRemover are there."""
    system = potential.create_system(ethanol)
    assert [type(force).__name__ for force in system.getForces()] == ["Force", "CMMotionRemover"]
    assert system.getForce(0).getName() == f"openmm-mlbench {potential.id}"
    assert not system.usesPeriodicBoundaryConditions()
    energy, forces = potential.archive.load_eager()(torch.as_tensor(positions))
    for platform in ("Reference", "CPU"):
        assert_same(evaluate(system, positions, platform=platform), (float(energy), forces.detach().numpy()))
    masses = [system.getParticleMass(i).value_in_unit(unit.dalton) for i in range(9)]
    np.testing.assert_allclose(masses, [12.01, 12.01, 16.0] + [1.008] * 6, atol=0.01)


@pytest.mark.parametrize("driver", ["torchforce", "pythonforce"])
@pytest.mark.parametrize("evaluation", ["autograd", "ahead-of-time"])
def test_drivers_and_evaluations_agree(potential, ethanol, positions, driver, evaluation):
    wanted = evaluate(potential.create_system(ethanol), positions)
    system = potential.create_system(ethanol, driver=driver, evaluation=evaluation)
    assert_same(evaluate(system, positions), wanted)


@pytest.mark.parametrize("driver", ["torchforce", "pythonforce"])
def test_a_periodic_box(potential, ethanol, positions, driver):
    ethanol.setPeriodicBoxVectors(BOX * unit.nanometer)
    system = potential.create_system(ethanol, driver=driver)
    assert system.usesPeriodicBoundaryConditions()
    energy, forces = potential.archive.load_eager()(torch.as_tensor(positions), torch.as_tensor(BOX))
    found = evaluate(system, positions)
    assert_same(found, (float(energy), forces.detach().numpy()))
    outside = positions + np.random.default_rng(0).integers(-2, 3, (9, 3)) @ BOX
    assert_same(evaluate(system, outside), found)


def test_a_system_goes_through_xml(potential, ethanol, positions):
    system = potential.create_system(ethanol)
    copy = openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(system))
    assert_same(evaluate(copy, positions), evaluate(system, positions))


def test_energy_is_conserved(schnet, ethanol, positions):
    """50 fs of NVE: what the integrator uses are the gradients of what it reports."""
    system = schnet.create_system(ethanol)
    energies = []
    for step_fs in (0.25, 0.5):
        integrator = openmm.VerletIntegrator(step_fs * unit.femtosecond)
        context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
        context.setPositions(positions)
        context.setVelocitiesToTemperature(300, 1)
        totals = []
        for _ in range(25):
            integrator.step(round(2 / step_fs))
            state = context.getState(energy=True)
            totals.append((state.getPotentialEnergy() + state.getKineticEnergy()).value_in_unit(KJMOL))
        energies.append(np.ptp(totals))
    # Second order: half the step, a quarter of the ripple.
    assert energies[1] < 5.0
    assert energies[0] < 0.45 * energies[1]


def test_options_as_of_a_force_field(schnet, ethanol):
    system = schnet.create_system(ethanol, removeCMMotion=False, hydrogenMass=3.0)
    assert system.getNumForces() == 1
    masses = [system.getParticleMass(i).value_in_unit(unit.dalton) for i in range(9)]
    plain = [atom.element.mass.value_in_unit(unit.dalton) for atom in ethanol.atoms()]
    np.testing.assert_allclose(masses[3:], 3.0)
    assert sum(masses) == pytest.approx(sum(plain))
    # C1 carries two hydrogens, C2 three, the oxygen one.
    moved = np.subtract(plain, masses)[:3] / (3.0 - plain[3])
    np.testing.assert_allclose(moved, [2, 3, 1], atol=1e-9)
    with_unit = schnet.create_system(ethanol, hydrogenMass=3.0 * unit.dalton)
    assert with_unit.getParticleMass(8) == 3.0 * unit.dalton


def without_bonds(topology):
    bare = app.Topology()
    residue = bare.addResidue("EOH", bare.addChain())
    for atom in topology.atoms():
        bare.addAtom(atom.name, atom.element, residue)
    return bare


def topology_of(*symbols):
    result = app.Topology()
    residue = result.addResidue("X", result.addChain())
    for k, symbol in enumerate(symbols):
        element = None if symbol is None else app.Element.getBySymbol(symbol)
        result.addAtom(f"{symbol}{k}", element, residue)
    return result


def test_what_does_not_fit_is_refused(schnet, ethanol):
    boxes = {
        "span no volume": np.diag([1.0, 1.0, 0.0]),
        "are the box vectors in nm": 0.09 * np.eye(3),
        "OpenMM refuses the box": BOX[::-1],
    }
    for message, box in boxes.items():
        boxed = without_bonds(ethanol)
        # Topology itself accepts any three vectors.
        boxed._periodicBoxVectors = box * unit.nanometer
        with pytest.raises(PotentialError, match=message):
            schnet.create_system(boxed)
    for call, message in (
        (lambda: schnet.create_system(topology_of("N", "C", "Cl")), "not trained on N, Cl; it knows H, C, O"),
        (lambda: schnet.create_system(topology_of("C", None)), r"atom 1 \(None1\) has no element"),
        (lambda: schnet.create_system(topology_of()), "has no atoms"),
        (lambda: schnet.create_system(ethanol, constraints=app.HBonds), "trained on flexible hydrogens"),
        (lambda: schnet.create_system(without_bonds(ethanol), hydrogenMass=3), "no bonds to hydrogens"),
        (lambda: schnet.create_system(ethanol, driver="cuda"), "driver 'cuda' is not known"),
        (lambda: schnet.create_system(ethanol, evaluation="fast"), "evaluation 'fast' is not known"),
        (lambda: schnet.add_to(openmm.System(), ethanol), "has 0 particles, the topology 9 atoms"),
    ):
        with pytest.raises(PotentialError, match=message):
            call()


@pytest.fixture
def rigid(tmp_path):
    return Potential.load(fresh_models.write_archive(tmp_path / "rigid.pt", constraints="h-bonds"))


def constraints_of(system):
    found = [system.getConstraintParameters(index) for index in range(system.getNumConstraints())]
    return [[i, j, pytest.approx(length.value_in_unit(unit.angstrom))] for i, j, length in found]


def test_a_model_of_constrained_data_runs_with_the_same_constraints(rigid, ethanol, positions):
    system = rigid.create_system(ethanol, constraints=app.HBonds)
    assert constraints_of(system) == fresh_models.RIGID_BONDS
    integrator = openmm.LangevinMiddleIntegrator(300, 10, 0.001)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(positions)
    context.applyConstraints(1e-6)
    integrator.step(20)
    moved = context.getState(positions=True).getPositions(asNumpy=True).value_in_unit(unit.angstrom)
    for i, j, length in fresh_models.RIGID_BONDS:
        assert np.linalg.norm(moved[i] - moved[j]) == pytest.approx(length, rel=1e-4)


def test_free_hydrogens_are_refused_for_a_model_of_constrained_data(rigid, ethanol):
    for wrong in (None, app.AllBonds):
        with pytest.raises(PotentialError, match="nothing holds these bonds but constraints"):
            rigid.create_system(ethanol, constraints=wrong)
    with pytest.raises(PotentialError, match="the topology has 18 atoms or another order"):
        rigid.create_system(topology_of(*"CCOHHHHHH" * 2), constraints=app.HBonds)
    system = openmm.System()
    for atom in ethanol.atoms():
        system.addParticle(atom.element.mass)
    for i, j, length in fresh_models.RIGID_BONDS[:-1]:
        system.addConstraint(int(i), int(j), length / 10)
    with pytest.raises(
        PotentialError, match=r"1 of them are free in this System \(first: its atoms 2 and 8\)"
    ):
        rigid.add_to(system, ethanol)
    i, j, length = fresh_models.RIGID_BONDS[-1]
    system.addConstraint(j, i, length / 10)
    rigid.add_to(system, ethanol)


def test_openmm_ml_passes_the_constraints_on(rigid, ethanol):
    from openmmml import MLPotential

    potential = MLPotential("openmm-mlbench", model=str(rigid.archive.path))
    system = potential.createSystem(ethanol, constraints=app.HBonds)
    assert constraints_of(system) == fresh_models.RIGID_BONDS
    with pytest.raises(PotentialError, match="use constraints=HBonds"):
        potential.createSystem(ethanol)


@pytest.mark.parametrize("groups", [0, 4])
def test_groups_are_of_copies(schnet, ethanol, groups):
    with pytest.raises(PotentialError, match=f"3 copies in {groups} groups; use 1 to 3 groups"):
        schnet.create_copies(ethanol, 3, groups)


def test_ahead_of_time_wants_a_small_molecule_in_open_space(schnet, ethanol):
    ethanol.setPeriodicBoxVectors(BOX * unit.nanometer)
    with pytest.raises(PotentialError, match=r"2 to 50 atoms without a periodic box, got 9 atoms in a box"):
        schnet.create_system(ethanol, evaluation="ahead-of-time")


def test_single_atoms_and_large_molecules(schnet, positions):
    atom = schnet.create_system(topology_of("O"))
    energy, forces = evaluate(atom, [[0.1, 0.2, 0.3]])
    assert np.isfinite(energy)
    assert np.abs(forces).max() == 0.0
    symbols = ["C", "C", "O"] + ["H"] * 6
    many = schnet.create_system(topology_of(*symbols * 6))
    offsets = 2.0 * np.arange(6)[:, None, None] * np.array([1.0, 0.0, 0.0])
    where = (positions + offsets).reshape(-1, 3)
    single = evaluate(schnet.create_system(topology_of(*symbols)), positions)
    found = evaluate(many, where)
    assert found[0] == pytest.approx(6 * single[0], abs=6e-3)
    np.testing.assert_allclose(found[1][-9:], single[1], atol=2e-5 * np.abs(single[1]).max())


@pytest.mark.parametrize(
    ("positions", "words"),
    [
        ("x", "cannot be read"),
        ([[0.0, 0.0], [0.0]], "cannot be read"),
        ([[0.0, 0.0, 0.0]], r"shape \(1, 3\)"),
    ],
)
def test_positions_that_are_none_give_one_line(potential, ethanol, positions, words):
    ethanol.setPeriodicBoxVectors(BOX * unit.nanometer)
    with pytest.raises(PotentialError, match=words) as caught:
        potential.create_system(ethanol, positions=positions)
    assert "give (n_atoms, 3) = (9, 3)" in str(caught.value)
    assert "\n" not in str(caught.value)


# ---- parts of larger systems ----


@pytest.fixture(scope="module")
def alanine():
    """A classical molecule; its first six atoms, an acetyl group, hold H, C and O only."""
    return AlanineDipeptideVacuum(constraints=None)


ACETYL = [0, 1, 2, 3, 4, 5]


def test_add_to_a_subset_of_atoms(potential, alanine):
    where = alanine.positions.value_in_unit(unit.nanometer)
    before = evaluate(alanine.system, where)
    copy = openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(alanine.system))
    force = potential.add_to(copy, alanine.topology, ACETYL, force_group=7)
    assert force.getForceGroup() == 7
    numbers = [atom.element.atomic_number for atom in alanine.topology.atoms()][:6]
    energy, forces = potential.module(numbers, evaluation="autograd")(torch.as_tensor(where[ACETYL]))
    learned = evaluate(copy, where, groups={7})
    assert_same((learned[0], learned[1][ACETYL]), (float(energy), forces.detach().numpy()))
    assert np.abs(learned[1][6:]).max() == 0.0
    assert evaluate(copy, where)[0] == pytest.approx(before[0] + learned[0], rel=1e-9)


@pytest.mark.parametrize("atoms", [[], [0, 0], [-1], [22], [0, 1, 40]])
def test_places_that_are_not_there(schnet, alanine, atoms):
    with pytest.raises(PotentialError, match="different places in 0-21, at least one"):
        schnet.add_to(alanine.system, alanine.topology, atoms)


def test_elements_outside_the_subset_do_not_matter(schnet, alanine):
    """The peptide holds nitrogen, which the model does not know."""
    with pytest.raises(PotentialError, match="was not trained on N"):
        schnet.create_system(alanine.topology)


# ---- OpenMM-ML ----


def test_openmm_ml_gives_the_same_system(potential, ethanol, positions):
    ml = MLPotential("openmm-mlbench", model=potential.id)
    system = ml.createSystem(ethanol)
    wanted = evaluate(potential.create_system(ethanol), positions)
    assert_same(evaluate(system, positions), wanted)
    other = ml.createSystem(ethanol, removeCMMotion=False, driver="pythonforce", evaluation="autograd")
    assert other.getNumForces() == 1
    assert_same(evaluate(other, positions), wanted)


def test_openmm_ml_mixed_system(potential, alanine):
    ml = MLPotential("openmm-mlbench", model=potential.id)
    system = ml.createMixedSystem(alanine.topology, alanine.system, ACETYL, forceGroup=3)
    where = alanine.positions.value_in_unit(unit.nanometer)
    numbers = [atom.element.atomic_number for atom in alanine.topology.atoms()][:6]
    energy, _ = potential.module(numbers)(torch.as_tensor(where[ACETYL]))
    assert evaluate(system, where, groups={3})[0] == pytest.approx(float(energy), abs=1e-3)
    integrator = openmm.LangevinMiddleIntegrator(300, 1.0, 0.0005)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(where)
    integrator.step(10)
    assert np.isfinite(context.getState(energy=True).getPotentialEnergy()._value)


def test_openmm_ml_interpolates(schnet, alanine):
    """lambda 1 is the mixed system, lambda 0 the classical one."""
    ml = MLPotential("openmm-mlbench", model=schnet.id)
    where = alanine.positions.value_in_unit(unit.nanometer)
    mixed = evaluate(ml.createMixedSystem(alanine.topology, alanine.system, ACETYL), where)
    both = ml.createMixedSystem(alanine.topology, alanine.system, ACETYL, interpolate=True)
    ends = [evaluate(both, where, parameters=[("lambda_interpolate", value)]) for value in (1.0, 0.0)]
    assert ends[0][0] == pytest.approx(mixed[0], abs=1e-3)
    assert ends[1][0] == pytest.approx(evaluate(alanine.system, where)[0], abs=1e-3)


def test_openmm_ml_keywords(schnet, ethanol):
    with pytest.raises(PotentialError, match=r"takes model=.*got no model"):
        MLPotential("openmm-mlbench")
    with pytest.raises(PotentialError, match="got precision"):
        MLPotential("openmm-mlbench", model=schnet.id, precision="single")
    with pytest.raises(ModelError, match="neither a file nor a shipped model"):
        MLPotential("openmm-mlbench", model="ethanol/nothing")
    with pytest.raises(TypeError, match="unexpected keyword argument 'charge'"):
        MLPotential("openmm-mlbench", model=schnet.id).createSystem(ethanol, charge=1)


# ---- ASE ----


@pytest.mark.parametrize("periodic", [False, True], ids=["open", "periodic"])
def test_ase_gives_the_same_numbers(potential, ethanol, positions, periodic):
    atoms = ase.Atoms(fresh_models.ethanol()[0].atomic_numbers, 10 * positions)
    if periodic:
        atoms.set_cell(10 * BOX)
        atoms.pbc = True
        ethanol.setPeriodicBoxVectors(BOX * unit.nanometer)
    atoms.calc = potential.as_ase_calculator()
    energy, forces = evaluate(potential.create_system(ethanol), positions)
    found = atoms.get_potential_energy() * KJMOL_PER_EV, atoms.get_forces() * KJMOL_NM_PER_EV_ANGSTROM
    assert_same(found, (energy, forces))
    # Another configuration, another molecule: the calculator follows.
    atoms.positions[0] += 0.05
    assert abs(atoms.get_potential_energy() * KJMOL_PER_EV - energy) > 0.01
    del atoms[-1]
    assert atoms.get_forces().shape == (8, 3)


def test_ase_refuses_what_does_not_fit(schnet):
    calculator = schnet.as_ase_calculator()
    with pytest.raises(PotentialError, match="not trained on N"):
        ase.Atoms("N2", [[0, 0, 0], [0, 0, 1.1]], calculator=calculator).get_potential_energy()
    flat = ase.Atoms("O", pbc=True, cell=[5, 5, 0], calculator=calculator)
    with pytest.raises(PotentialError, match="span no volume"):
        flat.get_potential_energy()
    slab = ase.Atoms("O", pbc=[True, True, False], cell=[5, 5, 20], calculator=calculator)
    with pytest.raises(PotentialError, match="periodic in all directions or in none"):
        slab.get_potential_energy()
    molecule = ase.Atoms("CO", [[0, 0, 0], [0, 0, 1.1]], calculator=calculator)
    with pytest.raises(PropertyNotImplementedError, match="needs a periodic cell"):
        molecule.get_stress()


def crystal(positions, strain=None):
    """Ethanol in a small triclinic cell, deformed."""
    atoms = ase.Atoms(fresh_models.ethanol()[0].atomic_numbers, 10 * positions, cell=10 * BOX, pbc=True)
    if strain is not None:
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
    return atoms


def energy_in_float64(potential, atoms):
    """eV, by the same weights in float64: differences of energies are exact enough to divide."""
    model = potential.archive.load_eager().double()
    model.atomic_numbers = torch.as_tensor(atoms.numbers)
    energy, _ = model(torch.as_tensor(atoms.positions / 10), torch.as_tensor(atoms.cell.array / 10))
    return energy.item() / KJMOL_PER_EV


def test_ase_forces_and_stresses_are_derivatives(potential, positions):
    atoms = crystal(positions)
    atoms.calc = potential.as_ase_calculator()
    stress, forces = atoms.get_stress(voigt=False), atoms.get_forces()
    step = 1e-4
    for i, j in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)):
        strain = np.zeros((3, 3))
        strain[i, j] += step / 2
        strain[j, i] += step / 2
        ends = [energy_in_float64(potential, crystal(positions, sign * strain)) for sign in (1, -1)]
        slope = (ends[0] - ends[1]) / (2 * step * atoms.get_volume())
        assert stress[i, j] == pytest.approx(slope, abs=1e-4 * np.abs(stress).max())
    for atom, axis in ((0, 0), (2, 1), (8, 2)):
        ends = []
        for sign in (1, -1):
            moved = crystal(positions)
            moved.positions[atom, axis] += sign * step
            ends.append(energy_in_float64(potential, moved))
        slope = (ends[1] - ends[0]) / (2 * step)
        assert forces[atom, axis] == pytest.approx(slope, abs=1e-4 * np.abs(forces).max())
    # A stress is not lost to atoms that lie elsewhere.
    atoms.positions += np.random.default_rng(0).integers(-2, 3, (9, 3)) @ atoms.cell.array
    np.testing.assert_allclose(atoms.get_stress(voigt=False), stress, atol=1e-4 * np.abs(stress).max())


def test_ase_offers_what_a_direct_model_has(tmp_path, positions):
    path = fresh_models.write_archive(tmp_path / "forcenet.pt", "forcenet")
    atoms = crystal(positions)
    atoms.calc = Potential.load(path).as_ase_calculator()
    assert atoms.get_forces().shape == (9, 3)
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_stress()


# ---- plain OpenMM ----


def test_the_exported_folder_runs_in_plain_openmm(schnet, ethanol, positions, tmp_path):
    protocol = load_protocol("ethanol")
    script = export_openmm(protocol, schnet, positions, tmp_path / "out", length_ps=0.05)
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {"run.py", "system.xml", "integrator.xml", "state.xml", "topology.pdb"}
    code = [line for line in script.read_text().splitlines() if line.strip() and line[0] != "#"]
    assert len(code) == 15
    assert "openmm_mlbench" not in script.read_text()
    # Somewhere else, without this package in reach.
    (tmp_path / "elsewhere").mkdir()
    blocked = "import sys; sys.modules['openmm_mlbench'] = None; import runpy; runpy.run_path(sys.argv[1])"
    result = subprocess.run(
        [sys.executable, "-c", blocked, str(script)],
        cwd=tmp_path / "elsewhere", capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    found = float(result.stdout.splitlines()[-1].split()[0])
    log = (tmp_path / "out" / "log.csv").read_text().splitlines()
    assert log[-1].startswith("100,")

    read = {
        name: openmm.XmlSerializer.deserialize((tmp_path / "out" / f"{name}.xml").read_text())
        for name in ("system", "integrator", "state")
    }
    start = read["state"].getPositions(asNumpy=True).value_in_unit(unit.nanometer)
    np.testing.assert_allclose(start, positions, atol=1e-12)
    system = schnet.create_system(ethanol)
    context = openmm.Context(system, read["integrator"], openmm.Platform.getPlatformByName("Reference"))
    context.setState(read["state"])
    read["integrator"].step(100)
    wanted = context.getState(energy=True).getPotentialEnergy().value_in_unit(KJMOL)
    assert found == pytest.approx(wanted, abs=1e-3)


def test_an_export_is_not_overwritten(schnet, positions, tmp_path):
    (tmp_path / "run.py").write_text("print('mine')")
    with pytest.raises(SimulationError, match="exists; give another folder"):
        export_openmm(load_protocol("ethanol"), schnet, positions, tmp_path)
    assert (tmp_path / "run.py").read_text() == "print('mine')"
