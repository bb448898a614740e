"""NequIP against loops over atoms and products, and against e3nn's own functions."""

import itertools

import numpy as np
import pytest
import torch
from e3nn import o3
from e3nn.math._normalize_activation import normalize2mom
from naive import neighbours_of
from scipy.spatial.transform import Rotation

from openmm_mlbench.models import nequip
from openmm_mlbench.models.neighbours import all_pairs, forces_from_pairs, open_pairs, periodic_pairs
from openmm_mlbench.models.registry import build_network, count_parameters

SMALL = {"l_max": 2, "features": 3, "layers": 6, "radial_width": 5, "bessels": 4, "neighbours": 2.7}
NUMBERS = [6, 8, 1, 1, 7]
CELL = np.array([[4.2, 0.0, 0.0], [1.5, 3.9, 0.0], [-0.5, 1.0, 4.4]])


def network(hyperparameters=SMALL, seed=0):
    torch.manual_seed(seed)
    net = build_network("nequip", hyperparameters, [1, 6, 7, 8]).double()
    for parameter in (net.species_scale, net.species_shift):
        torch.nn.init.normal_(parameter)
    return net


def positions(n_atoms=5, seed=0, size=4.0):
    return np.random.default_rng(seed).uniform(0, size, (n_atoms, 3))


def silu(x):
    return x / (1.0 + np.exp(-x))


def parity_of(kind):
    """+1 or -1: what inversion does to a feature of this kind."""
    return (-1) ** (kind[0] + kind[1])


def naive_energies(net, hyperparameters, numbers, neighbours):
    """Energy of each atom by loops over neighbours, kinds and degrees, with every feature that there can be.

    ``neighbours[i]`` lists (j, vector).  Parities are tracked as signs; features that the network
    leaves out count as zero, since nothing that the energy depends on is made of them.
    """
    weights = {name: value.detach().numpy() for name, value in net.state_dict().items()}
    l_max, channels = net.l_max, net.features
    kinds = nequip.kinds_of_layers(net.n_layers, l_max, hyperparameters.get("parity", True))
    species = [int(weights["lookup"][number]) for number in numbers]
    n_species = len(weights["embedding"])
    p = net.envelope_power

    def radial_hidden(layer, r):
        x = r / net.cutoff
        envelope = (
            1 - (p + 1) * (p + 2) / 2 * x**p + p * (p + 2) * x ** (p + 1) - p * (p + 1) / 2 * x ** (p + 2)
        ) * (x < 1)
        basis = envelope * 2 / net.cutoff * np.sin(weights["frequencies"] * x) / r
        h = silu(basis / np.sqrt(len(basis)) @ weights["radial_in"][layer])
        for matrix in weights["radial_mid"][:, layer]:
            h = silu(h * np.sqrt(2 / len(h)) @ matrix)
        return h * np.sqrt(2 / len(h))

    features = [{(0, 0): weights["embedding"][kind][None]} for kind in species]
    for layer, (before, after) in enumerate(itertools.pairwise(kinds)):
        linear = dict(zip(before, weights[f"layers.{layer}.linear"], strict=True))
        # The order of the columns of the radial weights, and of the rows of the mixing weights.
        paths = [
            (one, l_2, other)
            for one in before
            for other in after
            for l_2 in range(l_max + 1)
            if abs(one[0] - l_2) <= other[0] <= one[0] + l_2
            and parity_of(one) * (-1) ** l_2 == parity_of(other)
        ]
        new = []
        for i, around in enumerate(neighbours):
            sums = {path: np.zeros((2 * path[2][0] + 1, channels)) for path in paths}
            for j, vector in around:
                hidden = radial_hidden(layer, np.linalg.norm(vector)) @ weights[f"layers.{layer}.radial"]
                for path, weight in zip(paths, hidden.reshape(-1, channels), strict=True):
                    one, l_2, other = path
                    symbols = o3.wigner_3j(one[0], l_2, other[0], dtype=torch.float64).numpy()
                    harmonic = o3.spherical_harmonics(
                        l_2, torch.as_tensor(vector), normalize=True, normalization="component"
                    ).numpy()
                    sent = features[j][one] @ linear[one] / np.sqrt(channels)
                    product = np.einsum("abc,au,b->cu", symbols, sent, harmonic) * np.sqrt(2 * other[0] + 1)
                    sums[path] += weight * product
            mixed = {}
            for k, kind in enumerate(after):
                received = np.concatenate([sums[path] for path in paths if path[2] == kind], axis=1)
                received /= np.sqrt(hyperparameters["neighbours"])
                name = f"layers.{layer}.mixings.{k}"
                mixed[kind] = received @ weights[f"{name}.weight"] / np.sqrt(received.shape[1])
                if kind in before:
                    matrix = weights[f"{name}.own_weight"].reshape(n_species, channels, -1)[species[i]]
                    mixed[kind] = mixed[kind] + features[i][kind] @ matrix / np.sqrt(n_species * channels)
            gates = iter(
                np.split(nequip.SILU_FACTOR * silu(mixed[0, 0]), mixed[0, 0].shape[1] // channels, axis=1)
            )
            result = {(0, 0): next(gates)}
            for kind in after[1:]:
                odd_scalar = kind == (0, 1)
                result[kind] = (
                    nequip.TANH_FACTOR * np.tanh(mixed[kind]) if odd_scalar else mixed[kind] * next(gates)
                )
            new.append(result)
        features = new
    energies = np.array([(f[0, 0] @ weights["readout"]).item() / np.sqrt(channels) for f in features])
    if hyperparameters.get("rescale_species", False):
        energies = energies * weights["species_scale"][species, 0] + weights["species_shift"][species, 0]
    return energies


# ---- size ----


def size_of_the_papers_program(l_max, channels, layers, width, n_species, bessels=8):
    """Parameters of nequip 0.5: five full layers, although only scalars of the last one are used."""
    hidden = [(degree, sign) for degree in range(l_max + 1) for sign in (1, -1)]
    before = [(0, 1)]
    total = n_species * channels + bessels + channels * (channels // 2) + channels // 2
    for _ in range(layers):
        paths = [
            (one, other)
            for one in before
            for l_2 in range(l_max + 1)
            for other in hidden
            if abs(one[0] - l_2) <= other[0] <= one[0] + l_2 and one[1] * (-1) ** l_2 == other[1]
        ]
        after = [kind for kind in hidden if any(path[1] == kind for path in paths)]
        widths = dict.fromkeys(after, channels)
        widths[0, 1] += channels * sum(degree > 0 for degree, _ in after)
        total += bessels * width + width * width + width * channels * len(paths)
        total += len(before) * channels**2
        total += sum(channels * widths[other] for _, other in paths)
        total += n_species * sum(channels * widths[kind] for kind in before if kind in widths)
        before = after
    return total


def test_size():
    """The paper's 1.05M are its program's; two fifths of them have no influence on the energy, and are not here."""
    assert size_of_the_papers_program(3, 32, 5, 64, 3) == pytest.approx(1.05e6, rel=0.005)
    net = build_network("nequip", {}, [1, 6, 8])
    assert count_parameters(net) == 639_624
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_every_parameter_has_influence():
    """What is left out is all there was to leave out."""
    net = network({**SMALL, "layers": 5})
    index, vectors = open_pairs(torch.as_tensor(positions(6, size=3.0)), net.cutoff)
    net(torch.tensor([6, 8, 1, 1, 7, 7]), vectors, index).sum().backward()
    for name, parameter in net.named_parameters():
        if parameter.numel() > 0:
            assert int((parameter.grad == 0).sum()) == 0, name


def test_kinds():
    """Scalars become vectors, vectors pseudovectors; at the end only what can become a scalar again is kept."""
    assert nequip.kinds_of_layers(1, 2, True) == [[(0, 0)], [(0, 0)]]
    natural, axial = [(0, 0), (1, 0)], [(1, 1)]
    assert nequip.kinds_of_layers(4, 1, True) == [[(0, 0)], natural, natural + axial, natural, [(0, 0)]]
    assert nequip.kinds_of_layers(4, 1, False) == [[(0, 0)], natural, natural, natural, [(0, 0)]]
    # An odd scalar is the triple product of three vectors, and is of use two layers before the end.
    assert (0, 1) in nequip.kinds_of_layers(6, 1, True)[3]
    assert (0, 1) not in nequip.kinds_of_layers(5, 1, True)[3]


# ---- function ----


@pytest.mark.parametrize(
    "size",
    [
        {"rescale_species": True},
        {"parity": False, "layers": 2},
        {"l_max": 3, "layers": 2},
        {"l_max": 1},
        {"l_max": 0},
    ],
)
def test_energies_equal_the_loops(size):
    hyperparameters = SMALL | size
    net = network(hyperparameters)
    where = positions()
    index, vectors = open_pairs(torch.as_tensor(where), net.cutoff)
    energies = net(torch.tensor(NUMBERS), vectors, index).detach().numpy()
    wanted = naive_energies(net, hyperparameters, NUMBERS, neighbours_of(where, net.cutoff))
    np.testing.assert_allclose(energies, wanted, rtol=1e-9, atol=1e-9)


def test_energies_equal_the_loops_in_a_small_triclinic_cell():
    hyperparameters = SMALL | {"layers": 3, "l_max": 1}
    net = network(hyperparameters)
    where = positions() + 7.0
    index, vectors = periodic_pairs(torch.as_tensor(where), torch.as_tensor(CELL), net.cutoff)
    energies = net(torch.tensor(NUMBERS), vectors, index).detach().numpy()
    wanted = naive_energies(net, hyperparameters, NUMBERS, neighbours_of(where, net.cutoff, CELL))
    np.testing.assert_allclose(energies, wanted, rtol=1e-9, atol=1e-9)


def test_spherical_harmonics_are_e3nns():
    net = network({"l_max": 4, "features": 2, "layers": 1})
    units = torch.nn.functional.normalize(torch.randn(20, 3, dtype=torch.float64), dim=1)
    wanted = o3.spherical_harmonics([0, 1, 2, 3, 4], units, normalize=True, normalization="component")
    np.testing.assert_allclose(net.spherical_harmonics(units), wanted, atol=1e-13)


def test_factors_are_e3nns():
    assert normalize2mom(torch.nn.functional.silu).cst == pytest.approx(nequip.SILU_FACTOR, rel=1e-12)
    assert normalize2mom(torch.tanh).cst == pytest.approx(nequip.TANH_FACTOR, rel=1e-12)


def wigner_d(degree, matrix):
    """Matrix that turns Y_l as the (3, 3) matrix turns vectors; e3nn's own comes out in single precision."""
    vectors = torch.randn(40, 3, dtype=torch.float64)
    plain, turned = (o3.spherical_harmonics(degree, v, normalize=True) for v in (vectors, vectors @ matrix.T))
    return torch.linalg.lstsq(plain, turned).solution.T


@pytest.mark.parametrize("inverted", [False, True])
def test_features_turn_as_their_kinds_say(inverted):
    """Wigner's D matrices, and a sign under inversion that tells tensors from pseudotensors."""
    net = network()
    matrix = torch.as_tensor(Rotation.random(random_state=1).as_matrix())
    index, vectors = open_pairs(torch.as_tensor(positions()), net.cutoff)
    topology = net.topology(torch.tensor(NUMBERS), index)
    kinds = nequip.kinds_of_layers(net.n_layers, net.l_max, True)
    seen = set()

    def features_after(vectors):
        units = torch.nn.functional.normalize(vectors, dim=1)
        couplings = net.couplings(units.index_select(0, topology[2]) * topology[3], 5)
        radial = net.radial(torch.linalg.vector_norm(vectors, dim=1))
        features = [(topology[0] @ net.embedding).unsqueeze(1)]
        for k, layer in enumerate(net.layers):
            features = layer(features, radial[k], couplings, topology)
            yield kinds[k + 1], features

    turned_vectors = vectors @ matrix.T * (-1 if inverted else 1)
    for (names, plain), (_, turned) in zip(
        features_after(vectors), features_after(turned_vectors), strict=True
    ):
        for kind, one, other in zip(names, plain, turned, strict=True):
            turn = wigner_d(kind[0], matrix) * (parity_of(kind) if inverted else 1)
            size = float(one.detach().abs().max())
            assert size > 1e-9
            np.testing.assert_allclose((turn @ one).detach(), other.detach(), rtol=0, atol=1e-9 * size)
            seen.add(kind)
    assert seen == {(degree, number) for degree in range(3) for number in range(2)}


# ---- reach ----


def energy_and_force_near_the_cutoff(net, offset):
    """A trimer and a fourth atom at cutoff + offset from its first atom, on the far side of the others."""
    where = torch.tensor(
        [[0.0, 0.0, 0.0], [-1.0, 0.2, 0.0], [-0.3, -1.1, 0.4], [net.cutoff + offset, 0.0, 0.0]],
        dtype=torch.float64,
    )
    index, vectors = open_pairs(where, net.cutoff)
    vectors.requires_grad_()
    energy = net(torch.tensor([6, 8, 1, 1]), vectors, index).sum()
    (gradient,) = torch.autograd.grad(energy, vectors)
    return energy.item(), forces_from_pairs(gradient, index, 4)[3]


def test_an_atom_crosses_the_cutoff_smoothly():
    """Close to it the energy goes with the fourth power of the depth: three of the envelope, one of the sines."""
    net = network()
    outside, no_force = energy_and_force_near_the_cutoff(net, 1e-3)
    assert no_force.abs().max() == 0.0
    energies, forces = zip(
        *(energy_and_force_near_the_cutoff(net, -depth) for depth in (1e-2, 2e-2)), strict=True
    )
    small, large = (energy - outside for energy in energies)
    assert small != 0.0
    assert large / small == pytest.approx(16.0, rel=0.05)
    assert float(forces[1][0] / forces[0][0]) == pytest.approx(8.0, rel=0.05)


def test_pairs_beyond_the_cutoff_change_nothing():
    """What allows the static list of all pairs."""
    net = network()
    where = torch.as_tensor(positions(size=5.0))
    index, vectors = open_pairs(where, net.cutoff)
    everything = all_pairs(5, where.device)
    assert 0 < index.size(1) < everything.size(1)
    numbers = torch.tensor(NUMBERS)
    one = net(numbers, vectors, index)
    other = net(numbers, where[everything[1]] - where[everything[0]], everything)
    np.testing.assert_allclose(one.detach(), other.detach(), rtol=1e-12)


def test_an_isolated_atom_is_finite():
    net = network()
    none = torch.zeros(0, 3, dtype=torch.float64, requires_grad=True)
    numbers = torch.tensor([8])
    energy = net(numbers, none, torch.zeros(2, 0, dtype=torch.long))
    np.testing.assert_allclose(energy.detach(), naive_energies(net, SMALL, [8], [[]]), rtol=1e-12)
    (gradient,) = torch.autograd.grad(energy.sum(), none)
    assert gradient.shape == (0, 3)


def test_neighbours_are_counted_within_the_cutoff():
    """A line of four atoms 1.5 A apart: 2, 3, 3, 2 neighbours within 4 A, whatever else the list holds."""
    net = network()
    where = torch.zeros(4, 3, dtype=torch.float64)
    where[:, 0] = 1.5 * torch.arange(4)
    index = all_pairs(4, where.device)
    net.fit_statistics(torch.tensor([6, 6, 6, 6]), where[index[1]] - where[index[0]], index)
    assert float(net.neighbours) == 2.5
    # Atoms without neighbours have none to divide by.
    net.fit_statistics(torch.tensor([6]), torch.zeros(0, 3), torch.zeros(2, 0, dtype=torch.long))
    assert float(net.neighbours) == 2.5


# ---- traps ----


def test_scripted_equals_eager():
    net = network()
    index, vectors = open_pairs(torch.as_tensor(positions()), net.cutoff)
    scripted = torch.jit.script(net)
    for _ in range(3):
        one, other = (module(torch.tensor(NUMBERS), vectors, index) for module in (net, scripted))
        np.testing.assert_allclose(one.detach(), other.detach(), rtol=1e-12)


def test_a_scripted_network_has_the_state_of_its_source():
    """TorchScript keeps buffers that are not persistent: its state would not fit the class."""
    net = network()
    state = torch.jit.script(net).state_dict()
    build_network("nequip", SMALL, [1, 6, 7, 8]).load_state_dict(state)


def broken_rotation(net):
    """Largest relative change of dE / d vectors by a rotation."""
    matrix = torch.as_tensor(Rotation.random(random_state=1).as_matrix())
    index, vectors = open_pairs(torch.as_tensor(positions()), net.cutoff)
    gradients = []
    for turned in (vectors, vectors @ matrix.T):
        turned.requires_grad_()
        gradients += torch.autograd.grad(net(torch.tensor(NUMBERS), turned, index).sum(), turned)
    return float((gradients[0] @ matrix.T - gradients[1]).abs().max() / gradients[1].abs().max())


def test_constants_are_not_rounded():
    """Built in single precision and used in double: constants of single precision break the symmetry."""
    net = network()
    assert broken_rotation(net) < 1e-13
    net.coupling_table = net.coupling_table.float().double()
    net.harmonics = net.harmonics.float().double()
    assert broken_rotation(net) > 1e-10


def test_pairs_are_borrowed_only_by_empty_places():
    """Atoms with fewer neighbours than others have places to spare; what stands there must not count."""
    net = network()
    where = np.array([[0.0, 0.0, 0.0], [1.2, 0.1, 0.0], [-0.3, 1.1, 0.2], [4.8, 0.3, 0.1], [20.0, 0.0, 0.0]])
    index, vectors = open_pairs(torch.as_tensor(where), net.cutoff)
    assert torch.bincount(index.flatten(), minlength=5).tolist() == [2, 3, 2, 1, 0]
    energies = net(torch.tensor(NUMBERS), vectors, index).detach().numpy()
    wanted = naive_energies(net, SMALL, NUMBERS, neighbours_of(where, net.cutoff))
    np.testing.assert_allclose(energies, wanted, rtol=1e-9, atol=1e-9)
