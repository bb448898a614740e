"""Networks as one writes them down first: directed edges, one small network after the other, forces by autograd.

With the weights of the fast ones they give the same numbers, and say how much these gain.
"""

import torch
from torch import Tensor
from torch.nn import functional

from openmm_mlbench.models.cutoffs import cosine_cutoff
from openmm_mlbench.models.deeppot_se import DeepPotSE
from openmm_mlbench.models.neighbours import directed_edges, group_by_label
from openmm_mlbench.models.schnet import SchNet, shifted_softplus


class PlainSchNet(SchNet):
    """Filters of every directed edge in every interaction."""

    def atomic_energies(self, pair_vectors: Tensor, topology: list[Tensor]) -> Tensor:
        species, centre, neighbour = topology[0], topology[1], topology[2]
        distances = torch.linalg.vector_norm(torch.cat([pair_vectors, -pair_vectors]), dim=1)
        basis = torch.exp(-self.gamma * (distances.unsqueeze(1) - self.centres).square())
        cut = cosine_cutoff(distances, self.cutoff).unsqueeze(1)
        x = self.embedding(species)
        for k, (atom_in, atom_mid, atom_out) in enumerate(zip(self.atom_in, self.atom_mid, self.atom_out)):  # noqa: B905
            filters = shifted_softplus(basis @ self.filter_weight_1[k] + self.filter_bias_1[k])
            filters = (filters @ self.filter_weight_2[k] + self.filter_bias_2[k]) * cut
            messages = atom_in(x)[neighbour] * filters
            gathered = torch.zeros_like(x).index_add(0, centre, messages)
            x = x + atom_out(shifted_softplus(atom_mid(gathered)))
        return self.output_2(shifted_softplus(self.output_1(x))).squeeze(1)


class PlainDeepPotSE(DeepPotSE):
    """Rows of the environment matrix of every directed edge; one ordered pair of species after the other."""

    def topology(self, atomic_numbers: Tensor, pair_index: Tensor) -> list[Tensor]:
        return [self.lookup[atomic_numbers], pair_index]

    def atomic_energies(self, pair_vectors: Tensor, topology: list[Tensor]) -> Tensor:
        kinds = topology[0]
        centre, neighbour = directed_edges(topology[1])
        n_atoms = kinds.size(0)
        rows = self.environment(torch.cat([pair_vectors, -pair_vectors]))
        scales = torch.stack([self.scale_radial] + [self.scale_angular] * 3, dim=1)
        rows = rows / scales[kinds[centre]]
        places, slots = group_by_label(centre, n_atoms)
        width = self.embedding[-1].weight.size(2)
        embedded = torch.zeros(n_atoms * places.size(1), width, dtype=rows.dtype)
        for kind in range(self.n_species * self.n_species):
            edges = torch.nonzero(kinds[centre] * self.n_species + kinds[neighbour] == kind).squeeze(1)
            x = rows[edges, :1]
            for layer in self.embedding:
                y = torch.tanh(functional.linear(x, layer.weight[kind].t(), layer.bias[kind].squeeze(0)))
                if layer.skip == 1:
                    y = y + x
                elif layer.skip == 2:
                    y = y + torch.cat([x, x], dim=1)
                x = y
            embedded = embedded.index_put([slots[edges]], x)
        placed = torch.zeros(n_atoms * places.size(1), 4, dtype=rows.dtype).index_put([slots], rows)
        product = torch.bmm(placed.view(n_atoms, -1, 4).transpose(1, 2), embedded.view(n_atoms, -1, width))
        product = product / self.n_neighbours
        descriptor = torch.bmm(product.transpose(1, 2), product[:, :, : self.axis]).reshape(n_atoms, -1)
        energies = torch.zeros(n_atoms, dtype=rows.dtype)
        for kind in range(self.n_species):
            atoms = torch.nonzero(kinds == kind).squeeze(1)
            x = descriptor[atoms]
            for layer in self.fitting:
                y = functional.linear(x, layer.weight[kind].t(), layer.bias[kind].squeeze(0))
                if not layer.linear:
                    y = torch.tanh(y)
                if layer.has_scale:
                    y = y * layer.scale[kind].squeeze(0)
                if layer.skip == 1:
                    y = y + x
                elif layer.skip == 2:
                    y = y + torch.cat([x, x], dim=1)
                x = y
            energies = energies.index_put([atoms], x.squeeze(1))
        return energies


PLAIN = {"schnet": PlainSchNet, "deeppot-se": PlainDeepPotSE}
