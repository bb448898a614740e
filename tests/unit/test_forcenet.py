"""ForceNet against loops over atoms, written from the paper's equations."""

import numpy as np
import pytest
import torch
from naive import neighbours_of
from scipy.special import sph_harm_y

from openmm_mlbench.errors import ModelError
from openmm_mlbench.models.cutoffs import quarter_cosine
from openmm_mlbench.models.elements import PROPERTIES, RADII_A
from openmm_mlbench.models.forcenet import ForceNet, spherical_harmonics
from openmm_mlbench.models.neighbours import all_pairs, open_pairs, periodic_pairs
from openmm_mlbench.models.registry import build_network, count_parameters

SMALL = {"hidden": 10, "decoder": 7, "interactions": 3, "degrees": 3, "frequencies": 8, "cutoff": 4.0}
SPECIES = [1, 6, 7, 8]
NUMBERS = [6, 8, 1, 1, 7]
CELL = np.array([[4.2, 0.0, 0.0], [1.5, 3.9, 0.0], [-0.5, 1.0, 4.4]])


def network(hyperparameters=SMALL, seed=0):
    """Fresh weights with biases and batch statistics that are not trivial."""
    torch.manual_seed(seed)
    torch.set_default_dtype(torch.float64)
    try:
        net = build_network("forcenet", hyperparameters, SPECIES).eval()
    finally:
        torch.set_default_dtype(torch.float32)
    with torch.no_grad():
        for name, values in (*net.named_parameters(), *net.named_buffers()):
            if name.endswith(("bias", "running_mean")) or "norm.weight" in name:
                values.add_(0.3 * torch.randn_like(values))
            elif name.endswith("running_var"):
                values.copy_(torch.rand_like(values) + 0.5)
    return net


def positions(n_atoms=5, seed=0, size=4.0):
    return np.random.default_rng(seed).uniform(0, size, (n_atoms, 3))


def swish(x):
    return x / (1.0 + np.exp(-x))


def harmonics(unit, degrees):
    """In the order of the paper's program, from SciPy's functions of angles."""
    theta, phi = np.arccos(unit[2]), np.arctan2(unit[1], unit[0])
    axial = [sph_harm_y(degree, 0, theta, phi).real for degree in range(degrees)]
    others = [
        sph_harm_y(degree, order, theta, phi) for degree in range(degrees) for order in range(1, degree + 1)
    ]
    return np.array(axial + [value.real for value in others] + [value.imag for value in others])


def naive(net, numbers, neighbours):
    """Energies and forces of each atom; ``neighbours[i]`` lists (j, vector from i to j)."""
    weights = {name: value.detach().numpy() for name, value in net.state_dict().items()}
    n_frequencies = net.frequencies

    def linear(name, x):
        return weights[f"{name}.weight"] @ x + weights[f"{name}.bias"]

    def normalised(name, x):
        y = linear(f"{name}.linear", x)
        mean, variance = weights[f"{name}.norm.running_mean"], weights[f"{name}.norm.running_var"]
        scale, shift = weights[f"{name}.norm.weight"], weights[f"{name}.norm.bias"]
        return (y - mean) / np.sqrt(variance + 1e-5) * scale + shift

    def sines(values):
        return np.array([np.sin(1.1**k * value) for k in range(n_frequencies) for value in values])

    table = np.array(list(PROPERTIES.values()))
    low, high = table.min(0), table.max(0)

    def edge(i, j, vector):
        r = np.linalg.norm(vector)
        r_i, r_j = RADII_A[numbers[i]], RADII_A[numbers[j]]
        gaps = [max(gap / net.cutoff, 1e-3) for gap in (r, r - r_j, r - r_i, r - r_i - r_j)]
        radial = linear("radial", sines(gaps))
        return np.array([y * value for y in harmonics(vector / r, net.degrees) for value in radial])

    x = [linear("embedding", sines((np.array(PROPERTIES[z]) - low) / (high - low))) for z in numbers]
    for layer in range(len(net.interactions)):
        name = f"interactions.{layer}"
        new = []
        for i, around in enumerate(neighbours):
            message = weights[f"{name}.self_weight"][0] * linear(f"{name}.value", x[i])
            for j, vector in around:
                features = linear(f"{name}.edge_in", edge(i, j, vector))
                filters = linear(f"{name}.edge_1", np.concatenate([features, x[j], x[i]]))
                filters = linear(f"{name}.edge_3", swish(linear(f"{name}.edge_2", swish(filters))))
                weight = np.cos(0.5 * np.pi * np.linalg.norm(vector) / net.cutoff)
                message = message + linear(f"{name}.value", x[j]) * filters * weight
            new.append(x[i] + linear(f"{name}.node_2", swish(normalised(f"{name}.node_1", message))))
        x = new
    x = [swish(linear("output", h)) for h in x]
    forces = np.array([linear("decoder_2", swish(normalised("decoder_1", h))) for h in x])
    return np.array([linear("energy", h)[0] for h in x]), forces


def outputs(net, numbers, index, vectors):
    results = net.energies_and_forces(vectors, net.topology(torch.tensor(numbers), index))
    return [value.detach().numpy() for value in results]


def test_size_is_the_papers():
    """Table 2 on ethanol; the 0.06 % are constants that the paper's program counts as parameters."""
    assert count_parameters(build_network("forcenet", {}, [1, 6, 8])) == 11_363_624
    assert pytest.approx(11.37e6, rel=1e-3) == 11_363_624


@pytest.mark.parametrize("degrees", [1, 2, 3, 6])
def test_spherical_harmonics_are_those_of_scipy(degrees):
    units = np.random.default_rng(0).normal(size=(20, 3))
    units = np.concatenate([units, np.eye(3), -np.eye(3)])
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    wanted = [harmonics(unit, degrees) for unit in units]
    found = spherical_harmonics(torch.as_tensor(units), degrees)
    assert found.shape == (26, degrees**2)
    np.testing.assert_allclose(found, wanted, atol=1e-13)


@pytest.mark.parametrize("degrees", [1, 3, 4])
@pytest.mark.parametrize("cell", [None, CELL], ids=["open", "periodic"])
def test_energies_and_forces_equal_the_loops(cell, degrees):
    """Each atom's own edges: also both directions, whose features are made together."""
    net = network(SMALL | {"degrees": degrees})
    where = positions() + 7.0
    tensor = torch.as_tensor(where)
    if cell is None:
        index, vectors = open_pairs(tensor, net.cutoff)
    else:
        index, vectors = periodic_pairs(tensor, torch.as_tensor(cell), net.cutoff)
    energies, forces = outputs(net, NUMBERS, index, vectors)
    wanted = naive(net, NUMBERS, neighbours_of(where, net.cutoff, cell))
    np.testing.assert_allclose(energies, wanted[0], rtol=1e-10, atol=1e-11)
    np.testing.assert_allclose(forces, wanted[1], rtol=1e-10, atol=1e-11)


def test_the_papers_size_equals_the_loops():
    net = network({"hidden": 512, "interactions": 2})
    where = positions(3, size=2.0)
    index, vectors = open_pairs(torch.as_tensor(where), net.cutoff)
    energies, forces = outputs(net, NUMBERS[:3], index, vectors)
    wanted = naive(net, NUMBERS[:3], neighbours_of(where, net.cutoff))
    size = np.abs(wanted[1]).max()
    np.testing.assert_allclose(forces / size, wanted[1] / size, atol=1e-10)
    np.testing.assert_allclose(energies, wanted[0], rtol=1e-10)


def test_pairs_beyond_the_cutoff_change_nothing():
    """What allows the static list of all pairs."""
    net = network()
    where = torch.as_tensor(positions(size=5.0))
    index, vectors = open_pairs(where, net.cutoff)
    everything = all_pairs(5, where.device)
    assert 0 < index.size(1) < everything.size(1)
    one = outputs(net, NUMBERS, index, vectors)
    other = outputs(net, NUMBERS, everything, where[everything[1]] - where[everything[0]])
    np.testing.assert_allclose(one[1], other[1], rtol=1e-12, atol=1e-13)


def test_weight_of_an_edge():
    r = torch.tensor([0.0, 2.0, 4.0, 6.0, 7.0, 23.9], dtype=torch.float64)
    np.testing.assert_allclose(quarter_cosine(r, 6.0), [1.0, np.sqrt(0.75), 0.5, 0.0, 0.0, 0.0], atol=1e-15)


def test_batch_normalisation_trains_and_folds():
    """In training the statistics are the batch's, afterwards the running ones inside one linear layer."""
    torch.manual_seed(0)
    layer = ForceNet(species=[1], hidden=6, decoder=6, interactions=1).double().decoder_1
    x = torch.randn(40, 6, dtype=torch.float64) * 3 + 1
    trained = layer.train()(x)
    np.testing.assert_allclose(trained.mean(0).detach(), 0.0, atol=1e-12)
    for _ in range(200):
        layer(x)
    folded = layer.eval()(x)
    plain = layer.norm(layer.linear(x))
    np.testing.assert_allclose(folded.detach(), plain.detach(), atol=1e-12)
    # Running variances are unbiased, the batch's own are not.
    np.testing.assert_allclose(folded.detach(), trained.detach() * np.sqrt(39 / 40), atol=1e-3)


def test_properties_by_hand():
    """Carbon: group 14, period 2, 4 valence electrons; the table covers H to I but for krypton."""
    carbon = PROPERTIES[6]
    assert carbon[:2] == (14.0, 2.0)
    assert carbon[4] == 4.0
    assert carbon[7] == 2.0
    assert RADII_A[6] == 0.7
    assert sorted(PROPERTIES) == [z for z in range(1, 54) if z != 36]


def test_elements_without_properties_are_refused():
    with pytest.raises(ModelError, match=r"\[36\].*H to I"):
        build_network("forcenet", {}, [1, 36])


def test_an_atom_without_neighbours():
    net = network()
    none = torch.zeros(0, 3, dtype=torch.float64)
    energies, forces = outputs(net, [8], torch.zeros(2, 0, dtype=torch.long), none)
    wanted = naive(net, [8], [[]])
    np.testing.assert_allclose(energies, wanted[0], rtol=1e-10)
    np.testing.assert_allclose(forces, wanted[1], rtol=1e-10)
