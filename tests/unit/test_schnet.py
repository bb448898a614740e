"""SchNet against loops over atoms, written from the paper's equations."""

import numpy as np
import pytest
import torch
from naive import neighbours_of

from openmm_mlbench.models.cutoffs import cosine_cutoff
from openmm_mlbench.models.neighbours import all_pairs, forces_from_pairs, open_pairs, periodic_pairs
from openmm_mlbench.models.registry import build_network, count_parameters

SMALL = {"hidden": 10, "filters": 12, "interactions": 3, "gaussians": 7, "cutoff": 4.0}
NUMBERS = [6, 8, 1, 1, 7]


def network(hyperparameters=SMALL, seed=0):
    torch.manual_seed(seed)
    return build_network("schnet", hyperparameters, [1, 6, 7, 8]).double()


def positions(n_atoms=5, seed=0, size=4.0):
    return np.random.default_rng(seed).uniform(0, size, (n_atoms, 3))


def ssp(x):
    return np.log(0.5 * np.exp(x) + 0.5)


def naive_energies(net, numbers, neighbours):
    """Energy of each atom; ``neighbours[i]`` lists (j, vector)."""
    weights = {name: value.detach().numpy() for name, value in net.state_dict().items()}
    centres = weights["centres"]
    gamma = 0.5 / (centres[1] - centres[0]) ** 2

    def linear(name, x):
        return weights[f"{name}.weight"] @ x + weights.get(f"{name}.bias", 0.0)

    def filter_values(layer, r):
        e = np.array([np.exp(-gamma * (r - mu) ** 2) for mu in centres])
        h = ssp(e @ weights["filter_weight_1"][layer] + weights["filter_bias_1"][layer, 0])
        w = h @ weights["filter_weight_2"][layer] + weights["filter_bias_2"][layer, 0]
        return w * 0.5 * (np.cos(np.pi * r / net.cutoff) + 1.0)

    x = [weights["embedding.weight"][number] for number in numbers]
    for layer in range(net.interactions):
        new = []
        for i, around in enumerate(neighbours):
            total = np.zeros(weights["filter_weight_2"].shape[2])
            for j, vector in around:
                total += linear(f"atom_in.{layer}", x[j]) * filter_values(layer, np.linalg.norm(vector))
            new.append(x[i] + linear(f"atom_out.{layer}", ssp(linear(f"atom_mid.{layer}", total))))
        x = new
    return np.array([linear("output_2", ssp(linear("output_1", h)))[0] for h in x])


def test_size_is_the_papers():
    net = build_network("schnet", {}, [1, 6, 8])
    assert count_parameters(net) == 117_953
    assert count_parameters(net) == pytest.approx(0.12e6, rel=0.1)


def test_basis_spans_the_cutoff():
    net = build_network("schnet", {}, [1, 6, 8])
    np.testing.assert_allclose(net.centres.numpy(), np.linspace(0, 5, 25), atol=1e-6)
    assert net.gamma == pytest.approx(0.5 / (5 / 24) ** 2, rel=1e-6)


@pytest.mark.parametrize("hyperparameters", [SMALL, {}], ids=["small", "paper"])
def test_energies_equal_the_loops(hyperparameters):
    net = network(hyperparameters)
    where = positions()
    index, vectors = open_pairs(torch.as_tensor(where), net.cutoff)
    energies = net(torch.tensor(NUMBERS), vectors, index).detach().numpy()
    wanted = naive_energies(net, NUMBERS, neighbours_of(where, net.cutoff))
    np.testing.assert_allclose(energies, wanted, rtol=1e-10, atol=1e-10)


def test_energies_equal_the_loops_in_a_small_triclinic_cell():
    net = network()
    cell = np.array([[4.2, 0.0, 0.0], [1.5, 3.9, 0.0], [-0.5, 1.0, 4.4]])
    where = positions() + 7.0
    index, vectors = periodic_pairs(torch.as_tensor(where), torch.as_tensor(cell), net.cutoff)
    energies = net(torch.tensor(NUMBERS), vectors, index).detach().numpy()
    wanted = naive_energies(net, NUMBERS, neighbours_of(where, net.cutoff, cell))
    np.testing.assert_allclose(energies, wanted, rtol=1e-10, atol=1e-10)


def test_cosine_cutoff_values_and_slope():
    r = torch.tensor([0.0, 2.5, 5.0, 7.0], dtype=torch.float64, requires_grad=True)
    value = cosine_cutoff(r, 5.0)
    np.testing.assert_allclose(value.detach(), [1.0, 0.5, 0.0, 0.0], atol=1e-15)
    (slope,) = torch.autograd.grad(value.sum(), r)
    np.testing.assert_allclose(slope, [0.0, -np.pi / 10, 0.0, 0.0], atol=1e-15)


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
    """Close to it the energy goes with the square of the depth, the force with the depth."""
    net = network()
    outside, no_force = energy_and_force_near_the_cutoff(net, 1e-3)
    assert no_force.abs().max() == 0.0
    energies, forces = zip(
        *(energy_and_force_near_the_cutoff(net, -depth) for depth in (1e-3, 2e-3)), strict=True
    )
    small, large = (energy - outside for energy in energies)
    assert small != 0.0
    assert abs(small) < 1e-5
    assert large / small == pytest.approx(4.0, rel=0.02)
    assert float(forces[1][0] / forces[0][0]) == pytest.approx(2.0, rel=0.02)


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
    np.testing.assert_allclose(one.detach(), other.detach(), rtol=1e-13)


def test_scripted_equals_eager():
    net = network()
    index, vectors = open_pairs(torch.as_tensor(positions()), net.cutoff)
    scripted = torch.jit.script(net)
    for _ in range(3):
        one, other = (module(torch.tensor(NUMBERS), vectors, index) for module in (net, scripted))
        np.testing.assert_allclose(one.detach(), other.detach(), rtol=1e-13)


def test_an_isolated_atom_is_finite():
    net = network()
    none = torch.zeros(0, 3, dtype=torch.float64, requires_grad=True)
    energy = net(torch.tensor([8]), none, torch.zeros(2, 0, dtype=torch.long))
    np.testing.assert_allclose(energy.detach(), naive_energies(net, [8], [[]]), rtol=1e-12)
    (gradient,) = torch.autograd.grad(energy.sum(), none)
    assert gradient.shape == (0, 3)
