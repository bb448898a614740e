"""DimeNet against loops over atoms, edges and triplets, written from the paper's equations."""

import numpy as np
import pytest
import torch
from naive import neighbours_of
from scipy.special import eval_legendre, spherical_jn

from openmm_mlbench.errors import ModelError
from openmm_mlbench.models.neighbours import all_pairs, forces_from_pairs, open_pairs, periodic_pairs
from openmm_mlbench.models.registry import build_network, count_parameters

SMALL = {
    "hidden": 6,
    "blocks": 2,
    "bilinear": 3,
    "spherical": 4,
    "radial": 3,
    "before_skip": 1,
    "after_skip": 2,
    "output_layers": 2,
    "cutoff": 4.0,
}
NUMBERS = [6, 8, 1, 1, 7]
CELL = np.array([[3.4, 0.0, 0.0], [1.2, 3.7, 0.0], [-0.5, 0.9, 4.1]])


def network(seed=0, **changes):
    torch.manual_seed(seed)
    net = build_network("dimenet", {**SMALL, **changes}, [1, 6, 7, 8]).double()
    # Biases start at zero, where no test would see them.
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if "bias" in name:
                parameter.normal_()
    return net


def positions(n_atoms=5, seed=0, size=4.0):
    return np.random.default_rng(seed).uniform(0, size, (n_atoms, 3))


def silu(x):
    return x / (1.0 + np.exp(-x))


def naive_energies(net, numbers, neighbours):
    """Energy of each atom; ``neighbours[i]`` lists (j, vector from i to j)."""
    weights = {name: value.detach().numpy() for name, value in net.state_dict().items()}
    zeros = weights["bessel.zeros"].reshape(net.spherical, net.radial)

    def linear(name, x):
        return weights[f"{name}.weight"] @ x + weights[f"{name}.bias"]

    def residual(name, x):
        return x + silu(linear(f"{name}.dense_2", silu(linear(f"{name}.dense_1", x))))

    def envelope(x):
        p = 6
        u = 1 - (p + 1) * (p + 2) / 2 * x**p + p * (p + 2) * x ** (p + 1) - p * (p + 1) / 2 * x ** (p + 2)
        return u / x

    def radial_basis(vector):
        x = np.linalg.norm(vector) / net.cutoff
        return envelope(x) * np.sin(weights["frequencies"] * x)

    def spherical_basis(vector, angle):
        x = np.linalg.norm(vector) / net.cutoff
        values = np.zeros((net.spherical, net.radial))
        for degree, n in np.ndindex(*values.shape):
            z = zeros[degree, n]
            norm = np.sqrt(2.0) / abs(spherical_jn(degree + 1, z))
            harmonic = np.sqrt((2 * degree + 1) / (4 * np.pi)) * eval_legendre(degree, np.cos(angle))
            values[degree, n] = envelope(x) * norm * spherical_jn(degree, z * x) * harmonic
        return values

    def angle_between(a, b):
        return np.arctan2(np.linalg.norm(np.cross(a, b)), a @ b)

    # A message m_ji stands under (i, place of j among the neighbours of i).
    edges = [(i, place) for i, around in enumerate(neighbours) for place in range(len(around))]
    atoms = [weights["embedding.weight"][number] for number in numbers]
    messages = {}
    for i, place in edges:
        j, vector = neighbours[i][place]
        e = silu(linear("embedding_radial", radial_basis(vector)))
        messages[i, place] = silu(linear("embedding_dense", np.concatenate([atoms[i], atoms[j], e])))

    def output(block, messages):
        energies = []
        for i, around in enumerate(neighbours):
            total = np.zeros(net.hidden)
            for place, (_, vector) in enumerate(around):
                total += (radial_basis(vector) @ weights["radial_weight"][net.blocks + block]) * messages[
                    i, place
                ]
            for layer in range(net.output_layers):
                total = silu(
                    total @ weights["output_weight"][layer, block] + weights["output_bias"][layer, block, 0]
                )
            energies.append(total @ weights["output_last"][block][:, 0])
        return np.array(energies)

    energies = output(0, messages)
    for block in range(net.blocks):
        name = f"interactions.{block}"
        columns = slice(block * net.bilinear, (block + 1) * net.bilinear)
        tensor = weights[f"{name}.bilinear"].reshape(net.bilinear, net.hidden, net.hidden)
        new = {}
        for i, place in edges:
            j, to_j = neighbours[i][place]
            both = silu(linear(f"{name}.dense", messages[i, place]))
            x = both[: net.hidden]
            for source, (k, to_k) in enumerate(neighbours[j]):
                if k == i and np.allclose(to_k, -to_j):
                    continue
                corner = (to_j, to_j + to_k) if net.at_receiver else (-to_j, to_k)
                angle = angle_between(*corner)
                arriving = silu(linear(f"{name}.dense", messages[j, source]))[net.hidden :]
                arriving = arriving * (radial_basis(to_k) @ weights["radial_weight"][block])
                basis = np.einsum(
                    "ln,lnb->b", spherical_basis(to_k, angle), weights["spherical_weight"][..., columns]
                )
                x = x + np.einsum("b,h,bho->o", basis, arriving, tensor)
            for layer in range(len(net.interactions[0].before_skip)):
                x = residual(f"{name}.before_skip.{layer}", x)
            x = silu(linear(f"{name}.dense_skip", x)) + messages[i, place]
            for layer in range(len(net.interactions[0].after_skip)):
                x = residual(f"{name}.after_skip.{layer}", x)
            new[i, place] = x
        messages = new
        energies = energies + output(block + 1, messages)
    return energies


def test_size_is_the_papers():
    net = build_network("dimenet", {}, [1, 6, 8])
    assert count_parameters(net) == 2_100_070
    assert count_parameters(net) == pytest.approx(2.1e6, rel=0.1)


@pytest.mark.parametrize("changes", [{}, {"angle_at": "receiver"}, {"spherical": 2, "before_skip": 2}])
def test_energies_equal_the_loops(changes):
    net = network(**changes)
    where = positions()
    wanted = naive_energies(net, NUMBERS, neighbours_of(where, net.cutoff))
    index, vectors = open_pairs(torch.as_tensor(where), net.cutoff)
    everything = all_pairs(5, torch.device("cpu"))
    assert 0 < index.size(1) < everything.size(1)
    inside = torch.as_tensor(where)
    for pairs, between in ((index, vectors), (everything, inside[everything[1]] - inside[everything[0]])):
        energies = net(torch.tensor(NUMBERS), between, pairs).detach().numpy()
        np.testing.assert_allclose(energies, wanted, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("angle_at", ["sender", "receiver"])
def test_energies_equal_the_loops_in_a_small_triclinic_cell(angle_at):
    net = network(angle_at=angle_at)
    where = positions(3) + 7.0
    neighbours = neighbours_of(where, net.cutoff, CELL)
    # An atom hears of its own images, also round a corner.
    assert any(j == i for i, around in enumerate(neighbours) for j, _ in around)
    index, vectors = periodic_pairs(torch.as_tensor(where), torch.as_tensor(CELL), net.cutoff)
    energies = net(torch.tensor(NUMBERS[:3]), vectors, index).detach().numpy()
    np.testing.assert_allclose(energies, naive_energies(net, NUMBERS[:3], neighbours), rtol=1e-9, atol=1e-9)


def test_forces_are_the_full_gradient():
    """Through the angles too, which the benchmark's program holds constant."""
    net = network()
    where = positions(4)
    index = all_pairs(4, torch.device("cpu"))

    def energy(where):
        return net(torch.tensor(NUMBERS[:4]), where[index[1]] - where[index[0]], index).sum()

    variable = torch.as_tensor(where).requires_grad_()
    (gradient,) = torch.autograd.grad(energy(variable), variable)
    for place in np.ndindex(4, 3):
        step = np.zeros_like(where)
        step[place] = 1e-5
        up, down = (
            naive_energies(net, NUMBERS[:4], neighbours_of(where + s * step, 4.0)).sum() for s in (1, -1)
        )
        assert float(gradient[place]) == pytest.approx((up - down) / 2e-5, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("bend", [0.0, 1e-9])
@pytest.mark.parametrize("angle_at", ["sender", "receiver"])
def test_straight_and_folded_chains_have_finite_forces(angle_at, bend):
    """Angles of 0 and pi, where the arc cosine has no derivative."""
    net = network(angle_at=angle_at)
    where = torch.tensor([[0.0, 0, 0], [1.1, bend, 0], [2.3, 0, 0], [3.4, 0, -bend]], dtype=torch.float64)
    index, vectors = open_pairs(where, net.cutoff)
    vectors.requires_grad_()
    energy = net(torch.tensor([6, 6, 1, 8]), vectors, index).sum()
    (gradient,) = torch.autograd.grad(energy, vectors)
    assert torch.isfinite(gradient).all()
    # By symmetry nothing pushes out of the line.
    assert float(gradient[:, 1:].abs().max()) < 1e-6 * float(gradient.abs().max())


@pytest.mark.parametrize("distance", [0.1, 1.0])
def test_a_pair_alone_has_no_triplets(distance):
    net = network()
    where = np.array([[0.0, 0.0, 0.0], [0.0, distance, 0.0]])
    vectors = torch.tensor([[0.0, distance, 0.0]], dtype=torch.float64, requires_grad=True)
    energies = net(torch.tensor([6, 1]), vectors, torch.tensor([[0], [1]]))
    wanted = naive_energies(net, [6, 1], neighbours_of(where, net.cutoff))
    np.testing.assert_allclose(energies.detach(), wanted, rtol=1e-9)
    (gradient,) = torch.autograd.grad(energies.sum(), vectors)
    assert torch.isfinite(gradient).all()
    assert float(gradient[0, 1]) != 0.0


def test_an_isolated_atom_is_finite():
    net = network()
    none = torch.zeros(0, 3, dtype=torch.float64, requires_grad=True)
    energy = net(torch.tensor([8]), none, torch.zeros(2, 0, dtype=torch.long))
    np.testing.assert_allclose(energy.detach(), naive_energies(net, [8], [[]]), rtol=1e-12)
    (gradient,) = torch.autograd.grad(energy.sum(), none)
    assert gradient.shape == (0, 3)


def energy_and_force_near_the_cutoff(net, offset):
    """A trimer and a fourth atom at cutoff + offset from its first atom, on the far side of the others."""
    where = torch.tensor(
        [[0.0, 0.0, 0.0], [-1.0, 0.2, 0.0], [-0.3, -1.1, 0.4], [net.cutoff + offset, 0.0, 0.0]],
        dtype=torch.float64,
    )
    index = all_pairs(4, where.device)
    vectors = (where[index[1]] - where[index[0]]).requires_grad_()
    energy = net(torch.tensor([6, 8, 1, 1]), vectors, index).sum()
    (gradient,) = torch.autograd.grad(energy, vectors)
    return energy.item(), forces_from_pairs(gradient, index, 4)[3]


def test_an_atom_crosses_the_cutoff_smoothly():
    """Exactly nothing outside; inside the energy goes with the cube of the depth, the force with the square."""
    net = network()
    outside, no_force = energy_and_force_near_the_cutoff(net, 1e-9)
    assert float(no_force.abs().max()) == 0.0
    assert energy_and_force_near_the_cutoff(net, 2.0)[0] == pytest.approx(outside, rel=1e-14)
    # One more power of the depth: the Bessel functions end at zero as well.
    energies, forces = zip(
        *(energy_and_force_near_the_cutoff(net, -depth) for depth in (2e-2, 4e-2)), strict=True
    )
    small, large = (energy - outside for energy in energies)
    assert small != 0.0
    assert large / small == pytest.approx(16.0, rel=0.2)
    assert float(forces[1][0] / forces[0][0]) == pytest.approx(8.0, rel=0.2)


def test_scripted_equals_eager():
    net = network()
    scripted = torch.jit.script(net)
    for size in (4.0, 7.0):
        index, vectors = open_pairs(torch.as_tensor(positions(size=size)), net.cutoff)
        for _ in range(3):
            one, other = (module(torch.tensor(NUMBERS), vectors, index) for module in (net, scripted))
            np.testing.assert_allclose(one.detach(), other.detach(), rtol=1e-13)


def test_an_unknown_angle_is_refused():
    with pytest.raises(ModelError, match="angle_at of dimenet is 'middle'; use one of sender, receiver"):
        build_network("dimenet", {"angle_at": "middle"}, [1])
