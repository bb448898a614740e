"""DeepPot-SE against loops over atoms, written from the paper's equations."""

import numpy as np
import pytest
import torch
from naive import neighbours_of

from openmm_mlbench.models.cutoffs import quintic_switch
from openmm_mlbench.models.neighbours import all_pairs, forces_from_pairs, open_pairs, periodic_pairs
from openmm_mlbench.models.registry import build_network, count_parameters

SPECIES = [1, 6, 8]
# Equal and double widths, so that both skip connections are walked, and the time step of the first.
SMALL = {
    "embedding": (5, 5, 10),
    "axis": 4,
    "fitting": (12, 12, 24),
    "cutoff_start": 1.0,
    "cutoff": 4.0,
    "selection": (6, 7, 8),
}
NUMBERS = [6, 8, 1, 1, 6]


def network(hyperparameters=SMALL, seed=0):
    torch.manual_seed(seed)
    net = build_network("deeppot-se", hyperparameters, SPECIES).double()
    net.scale_radial[:] = torch.tensor([0.11, 0.13, 0.17])
    net.scale_angular[:] = torch.tensor([0.19, 0.23, 0.29])
    return net


def positions(n_atoms=5, seed=0, size=3.5):
    return np.random.default_rng(seed).uniform(0, size, (n_atoms, 3))


def switched_inverse(r, start, cutoff):
    """s(r) = w / r with the switch of DeePMD-kit."""
    u = (r - start) / (cutoff - start)
    if u < 0:
        return 1 / r
    return (u**3 * (-6 * u**2 + 15 * u - 10) + 1) / r if u < 1 else 0.0


def naive_energies(net, numbers, neighbours):
    """Energy of each atom; ``neighbours[i]`` lists (j, vector)."""
    weights = {name: value.detach().numpy() for name, value in net.state_dict().items()}
    kinds = [SPECIES.index(number) for number in numbers]

    def apply(which, number, x, with_timestep):
        for layer in range(len(getattr(net, which))):
            w, b = (weights[f"{which}.{layer}.{name}"][number] for name in ("weight", "bias"))
            y = x @ w + b[0]
            if which == "fitting" and layer == len(net.fitting) - 1:
                return y[0]
            y = np.tanh(y)
            if len(y) in {len(x), 2 * len(x)}:
                y = y * weights[f"{which}.{layer}.scale"][number, 0] if with_timestep else y
                y = y + np.concatenate([x, x])[: len(y)]
            x = y
        return x

    energies = []
    for i, around in enumerate(neighbours):
        rows, embedded = np.zeros((len(around), 4)), np.zeros((len(around), net.embedding[-1].bias.shape[2]))
        for row, (j, vector) in enumerate(around):
            r = np.linalg.norm(vector)
            s = switched_inverse(r, net.cutoff_start, net.cutoff)
            rows[row, 0] = s / weights["scale_radial"][kinds[i]]
            rows[row, 1:] = s * vector / r / weights["scale_angular"][kinds[i]]
            pair = kinds[i] * len(SPECIES) + kinds[j]
            embedded[row] = apply("embedding", pair, rows[row, :1], with_timestep=False)
        left = embedded.T @ rows / net.n_neighbours
        descriptor = left @ left[: net.axis].T
        energies.append(apply("fitting", kinds[i], descriptor.ravel(), with_timestep=True))
    return np.array(energies)


def test_size_is_the_papers():
    net = build_network("deeppot-se", {}, SPECIES)
    assert count_parameters(net) == 1_037_763
    assert count_parameters(net) == pytest.approx(1.04e6, rel=0.1)


@pytest.mark.parametrize("hyperparameters", [SMALL, {}], ids=["small", "paper"])
def test_energies_equal_the_loops(hyperparameters):
    net = network(hyperparameters)
    where = positions()
    index, vectors = open_pairs(torch.as_tensor(where), net.cutoff)
    energies = net(torch.tensor(NUMBERS), vectors, index).detach().numpy()
    wanted = naive_energies(net, NUMBERS, neighbours_of(where, net.cutoff))
    np.testing.assert_allclose(energies, wanted, rtol=1e-10, atol=1e-10)
    assert np.ptp(energies) > 0.01


@pytest.mark.parametrize(
    "numbers",
    [[1, 1], [8], [6, 6, 6], [8, 1], [1, 8, 8, 1], [6, 8, 1, 1, 6]],
    ids=lambda numbers: "-".join(map(str, numbers)),
)
def test_grouping_with_species_and_pairs_that_are_missing(numbers):
    """No atom of a kind, one of it, no neighbours: empty groups add nothing."""
    net = network()
    where = positions(len(numbers), seed=3, size=2.0)
    index, vectors = open_pairs(torch.as_tensor(where), net.cutoff)
    vectors.requires_grad_()
    energies = net(torch.tensor(numbers), vectors, index)
    wanted = naive_energies(net, numbers, neighbours_of(where, net.cutoff))
    np.testing.assert_allclose(energies.detach(), wanted, rtol=1e-10, atol=1e-10)
    (gradient,) = torch.autograd.grad(energies.sum(), vectors)
    assert torch.isfinite(gradient).all()


def test_energies_equal_the_loops_in_a_small_triclinic_cell():
    """Atoms are neighbours of their own images here."""
    net = network()
    cell = np.array([[3.8, 0.0, 0.0], [1.5, 3.5, 0.0], [-0.5, 1.0, 4.0]])
    where = positions() + 7.0
    index, vectors = periodic_pairs(torch.as_tensor(where), torch.as_tensor(cell), net.cutoff)
    energies = net(torch.tensor(NUMBERS), vectors, index).detach().numpy()
    wanted = naive_energies(net, NUMBERS, neighbours_of(where, net.cutoff, cell))
    np.testing.assert_allclose(energies, wanted, rtol=1e-10, atol=1e-10)


def test_an_atom_far_from_all_others_is_finite():
    net = network()
    where = torch.as_tensor(np.vstack([positions(4), [50.0, 0.0, 0.0]]))
    index, vectors = open_pairs(where, net.cutoff)
    energies = net(torch.tensor(NUMBERS), vectors, index)
    alone = net(torch.tensor([6]), torch.zeros(0, 3).double(), torch.zeros(2, 0, dtype=torch.long))
    assert float((energies[4] - alone[0]).detach().abs()) < 1e-13


def test_quintic_switch_values_and_derivatives():
    r = torch.tensor([0.5, 1.0, 3.5, 6.0, 8.0], dtype=torch.float64, requires_grad=True)
    value = quintic_switch(r, 1.0, 6.0)
    np.testing.assert_allclose(value.detach(), [1.0, 1.0, 0.5, 0.0, 0.0], atol=1e-15)
    (slope,) = torch.autograd.grad(value.sum(), r, create_graph=True)
    # w'(u = 1/2) = -30 u^2 (1 - u)^2 = -30 / 16, over a width of 5.
    np.testing.assert_allclose(slope.detach(), [0.0, 0.0, -30 / 80, 0.0, 0.0], atol=1e-15)
    (curvature,) = torch.autograd.grad(slope.sum(), r)
    np.testing.assert_allclose(curvature, np.zeros(5), atol=1e-14)


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
    """Close to it the energy goes with the cube of the depth, the force with its square."""
    net = network()
    outside, no_force = energy_and_force_near_the_cutoff(net, 1e-3)
    assert no_force.abs().max() == 0.0
    energies, forces = zip(
        *(energy_and_force_near_the_cutoff(net, -depth) for depth in (0.01, 0.02)), strict=True
    )
    small, large = (energy - outside for energy in energies)
    assert small != 0.0
    assert abs(small) < 1e-5
    assert large / small == pytest.approx(8.0, rel=0.05)
    assert float(forces[1][0] / forces[0][0]) == pytest.approx(4.0, rel=0.05)


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


def test_statistics_against_loops():
    """Standard deviations over all places of a neighbourhood, empty ones being zero."""
    net = network()
    numbers = [6, 8, 1, 1, 6] * 3
    where = [positions(seed=seed) for seed in range(3)]
    lists = [open_pairs(torch.as_tensor(frame), net.cutoff) for frame in where]
    index = torch.cat([pairs + 5 * k for k, (pairs, _) in enumerate(lists)], dim=1)
    net.fit_statistics(torch.tensor(numbers), torch.cat([vectors for _, vectors in lists]), index)
    radial, angular = ([[] for _ in SPECIES] for _ in range(2))
    for frame in where:
        for i, around in enumerate(neighbours_of(frame, net.cutoff)):
            kind = SPECIES.index(numbers[i])
            s = [switched_inverse(np.linalg.norm(vector), 1.0, 4.0) for _, vector in around]
            empty = 6 + 7 + 8 - len(s)
            radial[kind] += s + [0.0] * empty
            for value, (_, vector) in zip(s, around, strict=True):
                angular[kind] += list(value * vector / np.linalg.norm(vector))
            angular[kind] += [0.0] * (3 * empty)
    np.testing.assert_allclose(net.scale_radial, [np.std(values) for values in radial], rtol=1e-6)
    # The mean of a direction is zero by symmetry, and taken as zero.
    wanted = [np.sqrt(np.mean(np.square(values))) for values in angular]
    np.testing.assert_allclose(net.scale_angular, wanted, rtol=1e-6)
