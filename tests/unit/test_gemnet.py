"""GemNet-T and -dT against loops over atoms, edges and triplets, written from the paper's equations."""

import fresh_models
import numpy as np
import pytest
import torch
from naive import neighbours_of
from scipy.special import eval_legendre

from openmm_mlbench.data.splits import make_split
from openmm_mlbench.export.archive import find_archive
from openmm_mlbench.models.neighbours import all_pairs, open_pairs, periodic_pairs
from openmm_mlbench.models.registry import build_network, count_parameters
from openmm_mlbench.training.recipe_files import recipe_for
from openmm_mlbench.training.trainer import Trainer, force_field_from_checkpoint, load_checkpoint

SMALL = {
    "atom": 5,
    "edge": 7,
    "triplet": 4,
    "radial_width": 3,
    "circular_width": 3,
    "bilinear": 6,
    "blocks": 2,
    "spherical": 4,
    "radial": 3,
    "before_skip": 1,
    "after_skip": 2,
    "concat": 1,
    "atom_layers": 2,
    "cutoff": 4.0,
}
NAMES = ["gemnet-t", "gemnet-dt"]
NUMBERS = [6, 8, 1, 1, 7]
CELL = np.array([[3.4, 0.0, 0.0], [1.2, 3.7, 0.0], [-0.5, 0.9, 4.1]])


def network(name, seed=0, **changes):
    torch.manual_seed(seed)
    net = build_network(name, {**SMALL, **changes}, [1, 6, 7, 8])
    # Scale factors as if fitted, each of its own.
    for buffer_name, buffer in net.named_buffers():
        if buffer_name.startswith("scale"):
            buffer.uniform_(0.5, 3.0)
    return net.double()


def positions(n_atoms=5, seed=0, size=4.0):
    return np.random.default_rng(seed).uniform(0, size, (n_atoms, 3))


def evaluate(net, numbers, pair_vectors, pair_index):
    """Energies (n_atoms,) and forces (n_atoms, 3) or None."""
    topology = net.topology(torch.tensor(numbers), pair_index)
    if net.direct:
        energies, forces = net.energies_and_forces(pair_vectors, topology)
        return energies.detach().numpy(), forces.detach().numpy()
    return net.atomic_energies(pair_vectors, topology).detach().numpy(), None


def sigma(x):
    """The scaled activation of section 6."""
    return x / (1.0 + np.exp(-x)) / 0.6


class Naive:
    """The network in loops; ``neighbours[a]`` lists (c, vector from a to c).

    A message m_ca stands under (a, place of c among the neighbours of a).  ``observed`` keeps,
    for every scale factor, what it multiplies and whose variance that shall have.
    """

    def __init__(self, net, numbers, neighbours):
        self.net = net
        self.w = {name: value.detach().double().numpy() for name, value in net.state_dict().items()}
        self.neighbours = neighbours
        self.edges = [(a, place) for a, around in enumerate(neighbours) for place in range(len(around))]
        self.atoms = [self.w["embedding.weight"][number - 1] for number in numbers]
        self.observed = {}

    def vector(self, edge):
        return self.neighbours[edge[0]][edge[1]][1]

    def opposite(self, edge):
        a = edge[0]
        c, vector = self.neighbours[a][edge[1]]
        for place, (atom, back) in enumerate(self.neighbours[c]):
            if atom == a and np.allclose(back, -vector):
                return c, place
        raise AssertionError("no opposite edge")

    def basis(self, edge):
        """Gaussians at k / (n - 1) of the distance over the cutoff, under the envelope of power 5."""
        n = self.net.radial
        x = np.linalg.norm(self.vector(edge)) / self.net.cutoff
        p = 5
        u = 1 - (p + 1) * (p + 2) / 2 * x**p + p * (p + 2) * x ** (p + 1) - p * (p + 1) / 2 * x ** (p + 2)
        return u * np.array([np.exp(-0.5 * ((x - k / (n - 1)) * (n - 1)) ** 2) for k in range(n)])

    def residual(self, x, first, second):
        return (x + sigma(sigma(x @ first) @ second)) / np.sqrt(2)

    def layer(self, x, name):
        return self.residual(x, self.w[f"{name}.weight_1"], self.w[f"{name}.weight_2"])

    def scaled(self, name, scale, values, references):
        self.observed[name] = (np.array(list(values)), np.array(references))
        return scale

    def head(self, name, block, x):
        """Hidden layers of an output block."""
        x = sigma(x @ self.w[f"{name}.first"][block])
        for k in range(self.net.energy.layers):
            x = self.residual(x, self.w[f"{name}.weight_1"][k, block], self.w[f"{name}.weight_2"][k, block])
        return x

    def sum_over_neighbours(self, messages, filters):
        width = self.w["edge_dense"].shape[1]
        sums = [np.zeros(width) for _ in self.neighbours]
        for edge in self.edges:
            sums[edge[0]] = sums[edge[0]] + messages[edge] * filters(edge)
        return sums

    def outputs(self, block, messages):
        """Energy of each atom and force scalar of each edge."""
        rbf = {edge: self.basis(edge) @ self.w["project_output"] for edge in self.edges}
        sums = self.sum_over_neighbours(messages, lambda edge: rbf[edge] @ self.w["filter_output"][block])
        scale = self.scaled(
            ("output", block), self.w["scale_output"][block].item(), sums, list(messages.values())
        )
        energies = [self.head("energy", block, scale * x) @ self.w["energy.last"][block][:, 0] for x in sums]
        scalars = dict.fromkeys(self.edges, 0.0)
        if self.net.direct:
            hidden = {edge: self.head("force", block, messages[edge]) for edge in self.edges}
            filtered = {e: hidden[e] * (rbf[e] @ self.w["filter_force"][block]) for e in self.edges}
            scale = self.scaled(
                *(("force", block), self.w["scale_force"][block].item()),
                *(filtered.values(), list(hidden.values())),
            )
            scalars = {e: scale * filtered[e] @ self.w["force.last"][block][:, 0] for e in self.edges}
        return np.array(energies), scalars

    def triplets(self, block, messages):
        """What the messages c -> a hear from all b -> a."""
        name = f"interactions.{block}"
        scales = self.w["scales"][block]
        width = self.w["edge_dense"].shape[1]
        dense = {e: sigma(messages[e] @ self.w[f"{name}.dense"][:, width:]) for e in self.edges}
        filtered = {}
        for edge in self.edges:
            rbf = self.basis(edge) @ self.w["project_triplet"] @ self.w["filter_triplet"][block]
            filtered[edge] = dense[edge] * rbf
        scale = self.scaled(("radial", block), scales[0], filtered.values(), list(dense.values()))
        arriving = {e: sigma(scale * filtered[e] @ self.w[f"{name}.down"]) for e in self.edges}
        tensor = self.w[f"{name}.bilinear"].reshape(
            self.net.circular_width, self.w[f"{name}.down"].shape[1], -1
        )
        heard, copies = {}, []
        for target in self.edges:
            total = np.zeros(tensor.shape[2])
            to_c = self.vector(target)
            for source in self.edges:
                if source[0] != target[0] or source == target:
                    continue
                to_b = self.vector(source)
                cosine = np.cos(np.arctan2(np.linalg.norm(np.cross(to_b, to_c)), to_b @ to_c))
                circular = np.zeros(self.net.circular_width)
                for degree in range(self.net.spherical):
                    harmonic = np.sqrt((2 * degree + 1) / (4 * np.pi)) * eval_legendre(degree, cosine)
                    circular += harmonic * (self.basis(target) @ self.w["circular"][degree])
                total += np.einsum("c,t,cto->o", circular, arriving[source], tensor)
                copies.append(arriving[source])
            heard[target] = total
        scale = self.scaled(("circular", block), scales[1], heard.values(), copies)
        up = self.w[f"{name}.up"]
        return {
            edge: (
                sigma(scale * heard[edge] @ up[:, :width])
                + sigma(scale * heard[self.opposite(edge)] @ up[:, width:])
            )
            / np.sqrt(2)
            for edge in self.edges
        }

    def layers(self, block, kind, x):
        for k in range(len(getattr(self.net.interactions[block], kind))):
            x = self.layer(x, f"interactions.{block}.{kind}.{k}")
        return x

    def interact(self, block, messages):
        name = f"interactions.{block}"
        heard = self.triplets(block, messages)
        width = self.w["edge_dense"].shape[1]
        new = {}
        for edge in self.edges:
            x = (sigma(messages[edge] @ self.w[f"{name}.dense"][:, :width]) + heard[edge]) / np.sqrt(2)
            x = (messages[edge] + self.layers(block, "before_skip", x)) / np.sqrt(2)
            new[edge] = self.layers(block, "after_skip", x)
        sums = self.sum_over_neighbours(
            new, lambda edge: self.basis(edge) @ self.w["project_atom"] @ self.w["filter_atom"][block]
        )
        scale = self.scaled(("atom", block), self.w["scales"][block][2], sums, list(new.values()))
        for a, total in enumerate(sums):
            x = self.layers(block, "atom_residual", sigma(scale * total @ self.w[f"{name}.atom_dense"]))
            self.atoms[a] = (self.atoms[a] + x) / np.sqrt(2)
        for edge in self.edges:
            c = self.neighbours[edge[0]][edge[1]][0]
            both = np.concatenate([self.atoms[c], self.atoms[edge[0]], new[edge]])
            x = self.layers(block, "concat_residual", sigma(both @ self.w[f"{name}.concat_dense"]))
            new[edge] = (new[edge] + x) / np.sqrt(2)
        return new

    def run(self):
        """Energies (n_atoms,) and direct forces (n_atoms, 3)."""
        messages = {}
        for edge in self.edges:
            c = self.neighbours[edge[0]][edge[1]][0]
            both = np.concatenate([self.atoms[c], self.atoms[edge[0]], self.basis(edge)])
            messages[edge] = sigma(both @ self.w["edge_dense"])
        energies, scalars = self.outputs(0, messages)
        for block in range(self.net.blocks):
            messages = self.interact(block, messages)
            more, along = self.outputs(block + 1, messages)
            energies = energies + more
            scalars = {edge: scalars[edge] + along[edge] for edge in self.edges}
        forces = np.zeros((len(self.neighbours), 3))
        for edge in self.edges:
            vector = self.vector(edge)
            # F_a = sum_c F_ca x_ca, from c to a.
            forces[edge[0]] -= scalars[edge] * vector / np.linalg.norm(vector)
        return energies, forces


def assert_equal(net, numbers, neighbours, pair_vectors, pair_index):
    energies, forces = evaluate(net, numbers, pair_vectors, pair_index)
    wanted, wanted_forces = Naive(net, numbers, neighbours).run()
    assert np.abs(wanted).max() > 0.01
    np.testing.assert_allclose(energies, wanted, rtol=1e-9, atol=1e-10)
    if net.direct:
        assert np.abs(wanted_forces).max() > 0.01
        np.testing.assert_allclose(forces, wanted_forces, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(("name", "paper"), [("gemnet-t", 1.89e6), ("gemnet-dt", 2.31e6)])
def test_size_is_the_papers(name, paper):
    assert count_parameters(build_network(name, {}, [1, 6, 8])) == pytest.approx(paper, rel=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_energies_and_forces_equal_the_loops(name):
    net = network(name)
    where = positions()
    neighbours = neighbours_of(where, net.cutoff)
    index, vectors = open_pairs(torch.as_tensor(where), net.cutoff)
    everything = all_pairs(5, torch.device("cpu"))
    assert 0 < index.size(1) < everything.size(1)
    assert_equal(net, NUMBERS, neighbours, vectors, index)
    inside = torch.as_tensor(where)
    assert_equal(net, NUMBERS, neighbours, inside[everything[1]] - inside[everything[0]], everything)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_in_a_small_triclinic_cell(name):
    net = network(name, blocks=1)
    where = positions(2) + 7.0
    neighbours = neighbours_of(where, net.cutoff, CELL)
    assert any(j == i for i, around in enumerate(neighbours) for j, _ in around)
    index, vectors = periodic_pairs(torch.as_tensor(where), torch.as_tensor(CELL), net.cutoff)
    assert_equal(net, NUMBERS[:2], neighbours, vectors, index)


@pytest.mark.parametrize("name", NAMES)
def test_pairs_and_lone_atoms(name):
    """No triplets, and no edges; 0.1 A is finite."""
    net = network(name)
    for distance in (0.1, 1.0):
        where = np.array([[0.0, 0.0, 0.0], [0.0, distance, 0.0]])
        vector = torch.tensor([[0.0, distance, 0.0]], dtype=torch.float64)
        assert_equal(net, [6, 1], neighbours_of(where, net.cutoff), vector, torch.tensor([[0], [1]]))
    far = torch.tensor([[0.0, 4.5, 0.0]], dtype=torch.float64)
    for numbers, vectors in ([6, 1], far), ([8], far[:0]):
        index = torch.tensor([[0], [1]])[:, : len(vectors)]
        energies, forces = evaluate(net, numbers, vectors, index)
        np.testing.assert_array_equal(energies, np.zeros(len(numbers)))
        if net.direct:
            np.testing.assert_array_equal(forces, np.zeros((len(numbers), 3)))


@pytest.mark.parametrize("bend", [0.0, 1e-9])
def test_straight_and_folded_chains_have_finite_forces(bend):
    """Angles of 0 and pi, where the arc cosine has no derivative."""
    net = network("gemnet-t")
    where = torch.tensor([[0.0, 0, 0], [1.1, bend, 0], [2.3, 0, 0], [3.4, 0, -bend]], dtype=torch.float64)
    index, vectors = open_pairs(where, net.cutoff)
    vectors.requires_grad_()
    energy = net(torch.tensor([6, 6, 1, 8]), vectors, index).sum()
    (gradient,) = torch.autograd.grad(energy, vectors)
    assert torch.isfinite(gradient).all()
    assert float(gradient[:, 1:].abs().max()) < 1e-6 * float(gradient.abs().max())


@pytest.mark.parametrize("name", NAMES)
def test_an_atom_crosses_the_cutoff_smoothly(name):
    """With the cube of the depth in energies and direct forces, and exactly nothing outside."""
    net = network(name)
    index = all_pairs(4, torch.device("cpu"))

    def at(offset):
        where = torch.tensor(
            [[0.0, 0.0, 0.0], [-1.0, 0.2, 0.0], [-0.3, -1.1, 0.4], [net.cutoff + offset, 0.0, 0.0]],
            dtype=torch.float64,
        )
        energies, forces = evaluate(net, [6, 8, 1, 1], where[index[1]] - where[index[0]], index)
        return np.concatenate([[energies.sum()], [] if forces is None else forces[3]])

    outside = at(1e-9)
    np.testing.assert_allclose(at(2.0), outside, rtol=1e-14, atol=1e-15)
    small, large = (at(-depth) - outside for depth in (1e-2, 2e-2))
    assert small[0] != 0.0
    assert large[0] / small[0] == pytest.approx(8.0, rel=0.1)
    if net.direct:
        np.testing.assert_array_equal(outside[1:], 0.0)
        assert large[1] / small[1] == pytest.approx(8.0, rel=0.1)


@pytest.mark.parametrize("name", NAMES)
def test_scripted_equals_eager(name):
    net = network(name)

    class Both(torch.nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, numbers, vectors, index):
            return self.net.energies_and_forces(vectors, self.net.topology(numbers, index))

    scripted = torch.jit.script(Both(net) if net.direct else net)
    for size in (4.0, 7.0):
        index, vectors = open_pairs(torch.as_tensor(positions(size=size)), net.cutoff)
        wanted = evaluate(net, NUMBERS, vectors, index)
        for _ in range(3):
            found = scripted(torch.tensor(NUMBERS), vectors, index)
            for one, other in zip(found if net.direct else (found,), wanted, strict=False):
                np.testing.assert_allclose(one.detach(), other, rtol=1e-12, atol=1e-13)


# ---- scale factors ----


def frames(n_frames, n_atoms=5, spread=100.0):
    """Positions of frames that do not see each other, and the pairs of each, some beyond the cutoff."""
    where = np.concatenate([positions(n_atoms, seed=k) + spread * k for k in range(n_frames)])
    pairs = all_pairs(n_atoms, torch.device("cpu"))
    index = torch.cat([pairs + k * n_atoms for k in range(n_frames)], dim=1)
    vectors = torch.as_tensor(where)[index[1]] - torch.as_tensor(where)[index[0]]
    return where, index, vectors


@pytest.mark.parametrize("name", NAMES)
def test_scale_factors_keep_the_variance(name):
    """Every one of them, by what the loops see: values times the factor vary as much as their reference."""
    net = network(name, blocks=1)
    where, index, vectors = frames(3)
    net.fit_statistics(torch.tensor(NUMBERS * 3), vectors, index)
    naive = Naive(net, NUMBERS * 3, neighbours_of(where, net.cutoff))
    naive.run()
    wanted = {
        ("radial", 0): net.scales[0, 0],
        ("circular", 0): net.scales[0, 1],
        ("atom", 0): net.scales[0, 2],
    }
    wanted |= {("output", k): net.scale_output[k] for k in range(2)}
    if net.direct:
        wanted |= {("force", k): net.scale_force[k] for k in range(2)}
    assert set(naive.observed) == set(wanted)
    for key, scale in wanted.items():
        values, reference = naive.observed[key]
        ratio = reference.var(0, ddof=1).mean() / values.var(0, ddof=1).mean()
        assert float(scale) == pytest.approx(np.sqrt(ratio), rel=1e-9), key


def test_fitting_again_changes_nothing_and_leaves_no_trace():
    net = network("gemnet-dt")
    _, index, vectors = frames(3)
    numbers = torch.tensor(NUMBERS * 3)
    net.fit_statistics(numbers, vectors, index)
    first = {name: buffer.clone() for name, buffer in net.named_buffers()}
    assert (first["scales"] != 1.0).all()
    net.fit_statistics(numbers, vectors, index)
    for name, buffer in net.named_buffers():
        np.testing.assert_array_equal(buffer, first[name])
    # An ordinary evaluation fits nothing.
    evaluate(net, NUMBERS, vectors[:10] * 1.1, index[:, :10])
    np.testing.assert_array_equal(net.scales, first["scales"])


def test_scale_factors_come_from_whole_frames(monkeypatch):
    """Of a large batch only the first frames count, and none of them in part."""
    monkeypatch.setattr("openmm_mlbench.models.gemnet._FIT_EDGES", 45)
    net = network("gemnet-t")
    _, index, vectors = frames(6)
    numbers = torch.tensor(NUMBERS * 6)
    inside = torch.linalg.vector_norm(vectors, dim=1) < net.cutoff
    per_frame = torch.bincount(index[0][inside] // 5)
    n_frames = int((per_frame.cumsum(0) <= 22).sum())
    assert 0 < n_frames < 6
    net.fit_statistics(numbers, vectors, index)
    fitted = net.scales.clone()
    kept = index[0] < 5 * n_frames
    net.fit_statistics(numbers[: 5 * n_frames], vectors[kept], index[:, kept])
    np.testing.assert_array_equal(net.scales, fitted)


def test_a_frame_without_edges_fits_nothing():
    net = build_network("gemnet-t", SMALL, [1])
    net.fit_statistics(torch.tensor([1]), torch.zeros(0, 3), torch.zeros(2, 0, dtype=torch.long))
    assert (net.scales == 1.0).all()


@pytest.mark.parametrize("name", NAMES)
def test_training_fits_them_and_checkpoint_and_archive_hold_them(tmp_path, name):
    recipe = recipe_for(name).with_overrides(hyperparameters=fresh_models.TINY[name], max_epochs=1)
    data, _ = fresh_models.ethanol()
    trainer = Trainer(recipe, data, make_split(data, 10, 2, 2, 0), tmp_path / "run")
    fitted = {k: v.clone() for k, v in trainer.force_field.network.named_buffers() if k.startswith("scale")}
    assert all((scale != 1.0).all() for scale in fitted.values())
    best = trainer.run()
    archive = find_archive(fresh_models.write_archive(tmp_path / "model.pt", name))
    for network in (force_field_from_checkpoint(load_checkpoint(best)).network, trainer.evaluated.network):
        for key, scale in fitted.items():
            np.testing.assert_array_equal(network.get_buffer(key), scale)
    wanted = fresh_models.force_field(name, fresh_models.TINY[name]).network
    for key in fitted:
        np.testing.assert_array_equal(
            archive.load_force_field().network.get_buffer(key), wanted.get_buffer(key)
        )
