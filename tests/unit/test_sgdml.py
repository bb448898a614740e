"""sGDML kernel models: what a naive loop gives, the gradient of the energy, and MD17's own labels."""

import pickle

import numpy as np
import pytest

from openmm_mlbench.assets import asset_path
from openmm_mlbench.data.datasets import data_folder, dataset_path, load_dataset
from openmm_mlbench.errors import DataError, PotentialError
from openmm_mlbench.reference_potentials import REFERENCE_POTENTIALS, find_reference_potential
from openmm_mlbench.reference_potentials.sgdml import MOLECULES, KernelModel, SgdmlPotential
from openmm_mlbench.units import EV_PER_KCALMOL, KJMOL_PER_KCALMOL

# Atoms 2, 3, 4 are alike: a molecule such as ammonia.
ATOMIC_NUMBERS = np.array([6, 7, 1, 1, 1])
PERMUTATIONS = [[0, 1, 2, 3, 4], [0, 1, 3, 4, 2], [0, 1, 4, 2, 3]]
POSITIONS = np.array(
    [[0, 0, 0], [1.4, 0, 0], [-0.5, 1, 0], [-0.5, -0.5, 0.9], [-0.5, -0.4, -0.9]], dtype=float
)
N_TRAIN, SIGMA, OFFSET, SCALE = 7, 12, -250.5, 1.7


def arrays(**changes):
    """The arrays of a kernel file, as its authors write them."""
    rng = np.random.default_rng(0)
    geometries = POSITIONS + 0.1 * rng.normal(size=(N_TRAIN, 5, 3))
    first, second = np.tril_indices(5, -1)
    descriptors = 1 / np.linalg.norm(geometries[:, first] - geometries[:, second], axis=-1)
    return {
        "z": ATOMIC_NUMBERS.astype(np.uint8),
        "sig": np.int64(SIGMA),
        "c": np.float64(OFFSET),
        "std": np.float64(SCALE),
        "perms": np.array(PERMUTATIONS, dtype=np.uint8),
        "Rt_desc": np.asfortranarray(descriptors.T),
        "Rt_d_desc_alpha": 100 * rng.normal(size=(N_TRAIN, 10, 1)),
    } | changes


@pytest.fixture
def kernel_file(tmp_path):
    def write(**changes):
        np.savez(tmp_path / "kernel.npz", **arrays(**changes))
        return tmp_path / "kernel.npz"

    return write


def naive_energy(positions, data):
    """Term by term, as the equation stands; kcal/mol."""
    total = 0.0
    for order in PERMUTATIONS:
        moved = positions[order]
        inverse = [1 / np.linalg.norm(moved[i] - moved[j]) for i in range(5) for j in range(i)]
        for i in range(N_TRAIN):
            difference = np.array(inverse) - data["Rt_desc"][:, i]
            d = np.sqrt(5) * np.linalg.norm(difference) / SIGMA
            weight = 5 / (3 * SIGMA**2) * (1 + d) * np.exp(-d)
            total += weight * (difference @ data["Rt_d_desc_alpha"][i, :, 0])
    return OFFSET + SCALE * total


def naive_forces(positions, data, step=1e-4):
    forces = np.zeros_like(positions)
    for index in np.ndindex(*positions.shape):
        values = []
        for sign in (1, -1):
            moved = positions.copy()
            moved[index] += sign * step
            values.append(naive_energy(moved, data))
        forces[index] = -(values[0] - values[1]) / (2 * step)
    return forces


def test_against_a_naive_loop(kernel_file):
    data = arrays()
    evaluate = KernelModel.read(kernel_file()).compile()
    rng = np.random.default_rng(1)
    for _ in range(3):
        positions = POSITIONS + 0.1 * rng.normal(size=(5, 3))
        energy, forces = evaluate(positions)
        assert energy == pytest.approx(naive_energy(positions, data), abs=1e-10)
        expected = naive_forces(positions, data)
        np.testing.assert_allclose(forces, expected, atol=1e-6 * np.abs(expected).max())
        # An isolated molecule: neither net force nor torque.
        assert np.abs(forces.sum(axis=0)).max() < 1e-12
        assert np.abs(np.cross(positions, forces).sum(axis=0)).max() < 1e-12


def test_symmetries(kernel_file):
    evaluate = KernelModel.read(kernel_file()).compile()
    positions = POSITIONS + 0.1 * np.random.default_rng(2).normal(size=(5, 3))
    energy, forces = evaluate(positions)
    rotation = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
    turned_energy, turned_forces = evaluate(positions @ rotation + 7.0)
    assert turned_energy == pytest.approx(energy, abs=1e-10)
    np.testing.assert_allclose(turned_forces, forces @ rotation, atol=1e-10)
    for order in PERMUTATIONS:
        moved_energy, moved_forces = evaluate(positions[order])
        assert moved_energy == pytest.approx(energy, abs=1e-10)
        np.testing.assert_allclose(moved_forces, forces[order], atol=1e-10)
    assert abs(evaluate(positions[[1, 0, 2, 3, 4]])[0] - energy) > 1e-3
    collapsed = positions.copy()
    collapsed[1] = np.nan
    assert np.isnan(evaluate(collapsed)[0])


def test_older_files_count_from_one_and_have_no_scale(kernel_file):
    data = arrays(perms=np.array(PERMUTATIONS, dtype=np.uint8) + 1)
    del data["std"]
    np.savez(kernel_file().with_name("old.npz"), **data)
    old = KernelModel.read(kernel_file().with_name("old.npz"))
    assert old.permutations.tolist() == PERMUTATIONS
    new = KernelModel.read(kernel_file()).compile()
    energy = old.compile()(POSITIONS)[0]
    assert new(POSITIONS)[0] - OFFSET == pytest.approx(SCALE * (energy - OFFSET), abs=1e-10)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"perms": np.array([[0, 1, 1, 3, 4]])}, "permutations are not orders of its 5 atoms"),
        ({"perms": np.array([0, 1, 2, 3, 4])}, "permutations are not orders"),
        (
            {"Rt_desc": np.ones((9, N_TRAIN))},
            r"descriptors \(7, 9\) and coefficients \(7, 10\); wanted \(n_train, 10\)",
        ),
        ({"z": np.array([6, 7, 1])}, r"wanted \(n_train, 3\) twice"),
        ({"sig": np.float64(0)}, "kernel width is not positive"),
        ({"c": np.float64(np.nan)}, "numbers are not finite"),
        ({"sig": np.array([1.0, 2.0])}, "only .* can be converted"),
        ({"c": np.array("x")}, "wanted real numbers"),
    ],
)
def test_damaged_files(kernel_file, changes, message):
    with pytest.raises(DataError, match=message) as caught:
        KernelModel.read(kernel_file(**changes))
    assert "kernel.npz" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_files(tmp_path):
    np.savez(tmp_path / "x.npz", z=ATOMIC_NUMBERS)
    with pytest.raises(DataError, match="no sGDML kernel file, it lacks sig, c, perms"):
        KernelModel.read(tmp_path / "x.npz")


def ethanol_topology():
    from openmm import app

    return app.PDBFile(str(asset_path("systems", "ethanol", "topology.pdb"))).topology


def test_as_a_reference_potential(kernel_file, monkeypatch, tmp_path):
    pytest.importorskip("openmm")
    assert {f"sgdml-{molecule}" for molecule in MOLECULES} <= set(REFERENCE_POTENTIALS)
    potential = find_reference_potential("sgdml-salicylic-acid")
    assert (potential.id, potential.system, potential.dataset) == (
        "sgdml-salicylic-acid", "salicylic-acid", "salicylic-acid",
    )  # fmt: skip
    monkeypatch.setenv("MLBENCH_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(
        DataError, match=r"salicylic_acid\.npz, which does not ship; set MLBENCH_DATA"
    ) as caught:
        potential.create_system(ethanol_topology())
    assert "\n" not in str(caught.value)
    with pytest.raises(PotentialError, match="no sGDML kernel model of 'benzene'"):
        SgdmlPotential(molecule="benzene")
    given = SgdmlPotential(molecule="ethanol", path=kernel_file())
    assert pickle.loads(pickle.dumps(given)) == given
    assert given.description["parameters"]["kernel_file"] == "kernel.npz"
    with pytest.raises(
        PotentialError, match=r"is of atoms \[6, 7, 1, 1, 1\] in this order, the topology has \[6, 6, 8"
    ):
        given.create_system(ethanol_topology())
    with pytest.raises(PotentialError, match="use constraints=None"):
        given.create_system(ethanol_topology(), constraints="h-bonds")


def test_in_openmm(kernel_file):
    openmm = pytest.importorskip("openmm")
    from openmm import app, unit

    topology = app.Topology()
    residue = topology.addResidue("X", topology.addChain())
    for number in ATOMIC_NUMBERS.tolist():
        topology.addAtom("X", app.Element.getByAtomicNumber(number), residue)
    potential = SgdmlPotential(molecule="ethanol", path=kernel_file())
    context = openmm.Context(
        potential.create_system(topology),
        openmm.VerletIntegrator(0.0005),
        openmm.Platform.getPlatformByName("Reference"),
    )
    context.setPositions(POSITIONS * 0.1)
    state = context.getState(energy=True, forces=True)
    energy, forces = potential.load().compile()(POSITIONS)
    found = state.getPotentialEnergy().value_in_unit(unit.kilocalorie_per_mole)
    assert found == pytest.approx(energy, rel=1e-12)
    in_openmm = state.getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.angstrom)
    np.testing.assert_allclose(in_openmm, forces * KJMOL_PER_KCALMOL, rtol=1e-10, atol=1e-10)


# Force MAE on all of MD17, kcal/mol/A, as the models' authors state it.
@pytest.mark.parametrize(
    ("molecule", "force_mae"),
    [("aspirin", 0.70), ("ethanol", 0.33), ("naphthalene", 0.11), ("salicylic-acid", 0.28)],
)
def test_real_models_give_the_labels_of_md17(molecule, force_mae):
    potential = find_reference_potential(f"sgdml-{molecule}")
    for path in (data_folder() / "sgdml" / f"{MOLECULES[molecule]}.npz", dataset_path(molecule)):
        if not path.is_file():
            pytest.skip(f"{path.name} is not at hand (set MLBENCH_DATA)")
    frames = load_dataset(molecule)
    chosen = frames.select(np.linspace(0, frames.n_frames - 1, 200).astype(int))
    evaluate = potential.load().compile()
    energies, forces = zip(*(evaluate(positions) for positions in chosen.positions), strict=True)
    errors = np.abs(np.array(forces) * EV_PER_KCALMOL - chosen.forces)
    assert errors.mean() / EV_PER_KCALMOL == pytest.approx(force_mae, abs=0.035)
    # c is right: energies agree absolutely, to a fraction of kT.
    assert np.abs(np.array(energies) * EV_PER_KCALMOL - chosen.energies).mean() < 0.3 * EV_PER_KCALMOL
    # Terms of a million kcal/mol cancel, so a finite difference needs a large step, and two to be exact.
    positions, force = chosen.positions[7], forces[7]
    direction = np.random.default_rng(0).normal(size=positions.shape)
    direction /= np.linalg.norm(direction)
    slope = {
        step: (evaluate(positions + step * direction)[0] - evaluate(positions - step * direction)[0])
        / (2 * step)
        for step in (0.01, 0.02)
    }
    assert -(4 * slope[0.01] - slope[0.02]) / 3 == pytest.approx((force * direction).sum(), abs=0.02)
