"""The force-matched LiPS potential: splines, fit, and the OpenMM System beside naive sums."""

import itertools
import json
import pickle

import numpy as np
import pytest
from openmm import Context, Platform, VerletIntegrator, app, unit

from openmm_mlbench.assets import asset_path
from openmm_mlbench.cells import nearest_images, reduce_cell
from openmm_mlbench.errors import DataError, PotentialError
from openmm_mlbench.reference_potentials import find_reference_potential
from openmm_mlbench.reference_potentials.evaluation import evaluate_frames
from openmm_mlbench.reference_potentials.force_matching import (
    AngleTerm,
    DistancePotential,
    DistanceTerm,
    SplineBasis,
    features_of,
    match_forces,
    split_parameters,
)
from openmm_mlbench.reference_potentials.lips import BRIDGE, CELL_A, CUTOFF_A, LI, Anions, P, S, terms_of

CELL = np.array(CELL_A)
BASIS = SplineBasis(start_A=1.5, stop_A=4.0, n_knots=5, vanishing=False)


@pytest.fixture(scope="module")
def potential():
    return find_reference_potential("lips-fm")


@pytest.fixture(scope="module")
def pdb():
    return app.PDBFile(str(asset_path("systems", "lips", "topology.pdb")))


def positions_of(pdb):
    return np.array(pdb.getPositions(asNumpy=True).value_in_unit(unit.angstrom))


# --- The structure ----------------------------------------------------------------------------


def test_cell_is_openmms_reduced_form_and_that_of_the_structure(pdb):
    box, _ = reduce_cell(CELL, np.zeros((1, 3)))
    assert np.array_equal(box, CELL)
    rounded = np.array(pdb.topology.getPeriodicBoxVectors().value_in_unit(unit.angstrom))
    # Lengths have three decimals in a PDB file, angles two: 1e-4 rad at 12 A.
    assert np.allclose(rounded, CELL, rtol=0, atol=2e-3)


def test_anions_are_four_ps4_and_four_p2s7(potential):
    anions = potential.anions
    assert np.bincount(anions.types).tolist() == [27, 12, 40, 4]
    assert len(anions.bonds) == 48
    assert np.bincount(anions.bonds[:, 0])[27:].tolist() == [4] * 12
    assert anions.angles.shape == (72, 3)
    assert anions.bridges.shape == (4, 3)
    # 48 bonds, six S-S in each of 12 tetrahedra, four P-P.
    assert len(anions.excluded) == 48 + 72 + 4
    paired = set(anions.bridges[:, ::2].ravel().tolist())
    assert len(paired) == 8


def test_anions_refuse_what_is_none():
    numbers = np.array([3, 15, 16])
    with pytest.raises(DataError, match="joins others"):
        Anions.of(numbers, np.array([[0, 2]]))
    with pytest.raises(DataError, match="atom 2 is no Li"):
        Anions.of(np.array([3, 15, 16, 16]), np.array([[1, 3]]))


def test_every_pair_has_one_potential(potential):
    pairs, inside, _ = terms_of(potential.anions)
    bound = [term for term in inside if term.name.startswith(("bond", "S-P", "P-Sb"))]
    counted = np.concatenate([term.pairs for term in pairs + bound])
    assert len(np.unique(np.sort(counted, axis=1), axis=0)) == len(counted) == 83 * 82 // 2


# --- Splines and the fit ----------------------------------------------------------------------


def test_splines_add_up_to_one_and_have_their_derivatives():
    r = np.linspace(1.6, 3.9, 50)
    assert np.allclose(BASIS.values(r).sum(axis=1), 1.0)
    step = 1e-6
    numeric = (BASIS.values(r + step) - BASIS.values(r - step)) / (2 * step)
    assert np.allclose(BASIS.values(r, 1), numeric, atol=1e-7)


def test_vanishing_splines_end_without_force_and_curvature():
    basis = SplineBasis(start_A=1.5, stop_A=4.0, n_knots=5, vanishing=True)
    end = np.array([4.0 - 1e-7])
    for derivative in (0, 1, 2):
        assert np.abs(basis.values(end, derivative)).max() < 1e-5
    assert basis.values(np.array([4.0, 5.0])).max() == 0.0


def test_straight_coefficients_are_not_rough():
    line = np.arange(BASIS.size) * 0.3 - 1
    assert abs(line @ BASIS.roughness() @ line) < 1e-12
    assert line**2 @ BASIS.roughness() @ line**2 > 0.01


def cluster(seed=0):
    """Seven atoms in a small skewed cell, and terms of them."""
    random = np.random.default_rng(seed)
    cell = np.array([[9.0, 0, 0], [-2.0, 8.5, 0], [1.0, -2.0, 9.5]])
    positions = random.uniform(0, 1, (7, 3)) @ cell
    pairs = np.array(list(itertools.combinations(range(7), 2)))
    angles = np.array([[0, 1, 2], [3, 4, 5]])
    return (
        cell,
        positions,
        [DistanceTerm(name="r", basis=BASIS, pairs=pairs), AngleTerm(name="a", triples=angles)],
    )


def naive_energy(terms, parameters, positions, cell):
    def vector(i, j):
        return nearest_images((positions[j] - positions[i])[None, None], cell[None])[0, 0]

    energy = 0.0
    for term, numbers in zip(terms, split_parameters(terms, parameters), strict=True):
        if isinstance(term, DistanceTerm):
            for i, j in term.pairs:
                energy += float(term.basis.values(np.array([np.linalg.norm(vector(i, j))]))[0] @ numbers)
        else:
            for i, j, k in term.triples:
                u, w = vector(j, i), vector(j, k)
                x = u @ w / np.linalg.norm(u) / np.linalg.norm(w) + 1 / 3
                energy += sum(c * x**power for power, c in enumerate(numbers, 1))
    return energy


def test_features_are_minus_the_gradient_of_the_energy():
    cell, positions, terms = cluster()
    # Vanishing splines, so that the energy has no step where an image leaves the range.
    basis = SplineBasis(start_A=1.5, stop_A=4.0, n_knots=5, vanishing=True)
    terms = [DistanceTerm(name="r", basis=basis, pairs=terms[0].pairs), terms[1]]
    positions[[0, 3]] = positions[[1, 4]] + [[1.9, 0.3, 0.1], [0.4, -2.0, 0.6]]
    parameters = np.random.default_rng(1).normal(size=sum(term.size for term in terms))
    forces = (features_of(terms, positions, cell) @ parameters).reshape(-1, 3)
    assert np.abs(forces).max() > 0.1
    assert np.allclose(forces.sum(axis=0), 0, atol=1e-12)
    for atom, axis in itertools.product(range(7), range(3)):
        moved = []
        for step in (1e-5, -1e-5):
            there = positions.copy()
            there[atom, axis] += step
            moved.append(naive_energy(terms, parameters, there, cell))
        assert forces[atom, axis] == pytest.approx(-(moved[0] - moved[1]) / 2e-5, abs=1e-6)


def test_fit_finds_the_parameters_that_made_the_forces():
    basis = SplineBasis(start_A=0.0, stop_A=4.0, n_knots=4, vanishing=True)
    cell, _, terms = cluster()
    terms = [DistanceTerm(name="r", basis=basis, pairs=terms[0].pairs), terms[1]]
    parameters = np.random.default_rng(2).normal(size=sum(term.size for term in terms))
    frames = []
    for seed in range(60):
        positions = cluster(seed)[1]
        frames.append((positions, cell, (features_of(terms, positions, cell) @ parameters).reshape(-1, 3)))
    found = match_forces(terms, frames, smoothness=0.0)
    # The first spline is met at distances near zero only.
    assert np.allclose(found[1:], parameters[1:], atol=1e-3)
    with pytest.raises(DataError, match="no frames"):
        match_forces(terms, [], smoothness=0.0)


def test_beyond_the_known_range_a_parabola_goes_on():
    coefficients = np.random.default_rng(3).normal(size=BASIS.size)
    u = DistancePotential(basis=BASIS, coefficients=coefficients, inner_A=2.0, outer_A=3.5, stiffness=30.0)
    step = 1e-5
    for edge in (2.0, 3.5):
        below, at, above = u(np.array([edge - step, edge, edge + step]))
        assert below == pytest.approx(at, abs=1e-3)
        assert (above - at) == pytest.approx(at - below, abs=1e-8)
    inside = np.linspace(2.0, 3.5, 20)
    assert np.allclose(u(inside), BASIS.values(inside) @ coefficients)
    for edge, outward in ((2.0, -1.0), (3.5, 1.0)):
        far = u(edge + outward * np.array([0.2, 0.4, 0.6]))
        assert np.diff(far, 2)[0] >= 30.0 * 0.2**2 - 1e-9
    with pytest.raises(DataError, match="coefficients"):
        DistancePotential(basis=BASIS, coefficients=coefficients[1:], inner_A=2.0, outer_A=3.5, stiffness=5.0)
    with pytest.raises(DataError, match="edges"):
        DistancePotential(basis=BASIS, coefficients=coefficients, inner_A=1.0, outer_A=3.5, stiffness=5.0)


# --- In OpenMM -----------------------------------------------------------------------------------


def naive_lips_energy(potential, positions):
    pairs, inside, angles = terms_of(potential.anions)
    energy = 0.0
    for term in pairs + inside:
        vectors = nearest_images(
            (positions[term.pairs[:, 1]] - positions[term.pairs[:, 0]])[None], CELL[None]
        )[0]
        distances = np.linalg.norm(vectors, axis=1)
        if term.basis.vanishing:
            distances = distances[distances < CUTOFF_A]
        energy += float(potential.distance_potential(term)(distances).sum())
    for term in angles:
        i, j, k = term.triples.T
        u = nearest_images((positions[i] - positions[j])[None], CELL[None])[0]
        w = nearest_images((positions[k] - positions[j])[None], CELL[None])[0]
        x = (u * w).sum(axis=1) / np.linalg.norm(u, axis=1) / np.linalg.norm(w, axis=1) + 1 / 3
        energy += sum(c * float((x**n).sum()) for n, c in enumerate(potential.record["angles"][term.name], 1))
    return energy


def test_openmm_computes_the_naive_sum_and_its_gradient(potential, pdb):
    positions = positions_of(pdb)
    moved = positions[None].repeat(8, axis=0)
    # A lithium, a phosphorus, a terminal sulphur and a bridge, along x, y, z and x.
    types = potential.anions.types
    atoms = [int(np.flatnonzero(types == kind)[0]) for kind in (LI, P, S, BRIDGE)]
    for n, (atom, axis) in enumerate(zip(atoms, (0, 1, 2, 0), strict=True)):
        moved[2 * n, atom, axis] += 1e-3
        moved[2 * n + 1, atom, axis] -= 1e-3
    frames = np.concatenate([positions[None], moved])
    energies, forces = evaluate_frames(potential, pdb.topology, frames, np.tile(CELL, (9, 1, 1)))
    assert energies == pytest.approx([naive_lips_energy(potential, frame) for frame in frames], abs=1e-4)
    for n, (atom, axis) in enumerate(zip(atoms, (0, 1, 2, 0), strict=True)):
        slope = (energies[1 + 2 * n] - energies[2 + 2 * n]) / 2e-3
        assert forces[0, atom, axis] == pytest.approx(-slope, abs=2e-3)
    assert np.abs(forces[0].sum(axis=0)).max() < 1e-6


def test_whole_cells_change_nothing(potential, pdb):
    positions = positions_of(pdb)
    images = np.random.default_rng(0).integers(-2, 3, (83, 3)) @ CELL
    energies, forces = evaluate_frames(
        potential, pdb.topology, np.stack([positions, positions + images]), np.tile(CELL, (2, 1, 1))
    )
    assert energies[1] == pytest.approx(energies[0], abs=1e-6)
    assert np.allclose(forces[1], forces[0], atol=1e-6)


def test_reference_and_cpu_platform_agree(potential, pdb):
    found = []
    for name in ("Reference", "CPU"):
        properties = {"Threads": "1"} if name == "CPU" else {}
        context = Context(
            potential.create_system(pdb.topology),
            VerletIntegrator(0.001),
            Platform.getPlatformByName(name),
            properties,
        )
        context.setPositions(pdb.getPositions())
        state = context.getState(energy=True, forces=True)
        found.append(state.getForces(asNumpy=True)._value)
    assert np.abs(found[0] - found[1]).max() < 1e-2 * np.abs(found[0]).mean()


def test_potential_describes_itself_and_can_be_pickled(potential):
    description = potential.description
    assert json.loads(json.dumps(description)) == description
    assert description["model"] == "lips-fm"
    assert "CC-BY-4.0" in potential.source
    fit = description["parameters"]["fit"]
    assert (fit["parameters"], fit["train_frames"], fit["test_frames"]) == (192, 900, 127)
    assert 165 < fit["force_mae_meV_A_test"]["all"] < 175
    assert pickle.loads(pickle.dumps(potential)) == potential


def test_other_atoms_cells_and_constraints_are_refused(potential, pdb):
    other = app.PDBFile(str(asset_path("systems", "ethanol", "topology.pdb"))).topology
    with pytest.raises(PotentialError, match="83 atoms"):
        potential.create_system(other)
    with pytest.raises(PotentialError, match="no hydrogens"):
        potential.create_system(pdb.topology, constraints=app.HBonds)
    lone = app.PDBFile(str(asset_path("systems", "lips", "topology.pdb"))).topology
    lone.setPeriodicBoxVectors(None)
    with pytest.raises(PotentialError, match="no cell"):
        potential.create_system(lone)
    lone.setPeriodicBoxVectors(np.eye(3) * 1.05 * unit.nanometer)
    with pytest.raises(PotentialError, match=r"5\.25 A; wanted at least 5\.55 A"):
        potential.create_system(lone)
