"""SchNet: continuous-filter convolutions.

Schuett et al., "SchNet: A continuous-filter convolutional neural network for
modeling quantum interactions", NeurIPS 2017, in the form that the benchmark's
paper used (Open Catalyst's: cosine cutoff on the filters, atom-wise output
network of half width, 100 element embeddings).
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from openmm_mlbench.models.cutoffs import cosine_cutoff
from openmm_mlbench.models.neighbours import directed_edges
from openmm_mlbench.models.network import Network


def shifted_softplus(x: Tensor) -> Tensor:
    """ln(e^x / 2 + 1 / 2), the activation of SchNet's section 4.2."""
    return functional.softplus(x) - math.log(2.0)


class SchNet(Network):
    """Energy per atom from distances.

    The filter networks of all interactions depend on the distance only, so they
    are evaluated together, once per unordered pair, as stacked matrices.

    Args:
        hidden: width of atom features.
        filters: width of the filters.
        interactions: number of interaction blocks.
        gaussians: radial basis functions between 0 and the cutoff.
        cutoff: A.
    """

    publication = "Schuett et al., NeurIPS 2017"
    heaviest = 99
    all_pairs_up_to = 28
    compiled_up_to = 15
    centres: Tensor

    def __init__(
        self,
        *,
        hidden: int = 64,
        filters: int = 64,
        interactions: int = 6,
        gaussians: int = 25,
        cutoff: float = 5.0,
    ) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.interactions = interactions
        centres = torch.linspace(0.0, cutoff, gaussians)
        self.register_buffer("centres", centres)
        self.gamma = 0.5 / float(centres[1] - centres[0]) ** 2
        self.embedding = nn.Embedding(100, hidden)
        self.filter_weight_1 = nn.Parameter(torch.empty(interactions, gaussians, filters))
        self.filter_bias_1 = nn.Parameter(torch.zeros(interactions, 1, filters))
        self.filter_weight_2 = nn.Parameter(torch.empty(interactions, filters, filters))
        self.filter_bias_2 = nn.Parameter(torch.zeros(interactions, 1, filters))
        self.atom_in = nn.ModuleList(nn.Linear(hidden, filters, bias=False) for _ in range(interactions))
        self.atom_mid = nn.ModuleList(nn.Linear(filters, hidden) for _ in range(interactions))
        self.atom_out = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(interactions))
        self.output_1 = nn.Linear(hidden, hidden // 2)
        self.output_2 = nn.Linear(hidden // 2, 1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Glorot-uniform weights and zero biases."""
        for weight in (*self.filter_weight_1.data, *self.filter_weight_2.data):
            nn.init.xavier_uniform_(weight)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def topology(self, atomic_numbers: Tensor, pair_index: Tensor) -> list[Tensor]:
        """Index tensors that stay the same while species and pairs do: [species, centre, neighbour]."""
        centre, neighbour = directed_edges(pair_index)
        return [atomic_numbers, centre, neighbour]

    def atomic_energies(self, pair_vectors: Tensor, topology: list[Tensor]) -> Tensor:
        """Energies (n_atoms,) in the network's unit.

        Args:
            pair_vectors: (n_pairs, 3), A; see :mod:`openmm_mlbench.models.neighbours`.
            topology: what :meth:`topology` returned for these pairs.
        """
        species, centre, neighbour = topology[0], topology[1], topology[2]
        distances = torch.linalg.vector_norm(pair_vectors, dim=1)
        # Section 4.1: filters from Gaussians of the distance.
        basis = torch.exp(-self.gamma * (distances.unsqueeze(1) - self.centres).square())
        # One product for all interactions: the gradients of a batched one over an expanded basis are slow.
        n_gaussians, n_filters = self.filter_weight_1.size(1), self.filter_weight_1.size(2)
        side_by_side = self.filter_weight_1.transpose(0, 1).reshape(n_gaussians, -1)
        hidden = (basis @ side_by_side).view(-1, self.interactions, n_filters).transpose(0, 1)
        filters = shifted_softplus(hidden + self.filter_bias_1)
        filters = torch.bmm(filters, self.filter_weight_2) + self.filter_bias_2
        filters = filters * cosine_cutoff(distances, self.cutoff).unsqueeze(1)
        # One tensor per interaction; indexing instead would cost a zero-filled gradient each.
        both_ways = torch.cat([filters, filters], dim=1).unbind(0)
        x = self.embedding(species)
        # TorchScript has no strict zip.
        for k, (atom_in, atom_mid, atom_out) in enumerate(zip(self.atom_in, self.atom_mid, self.atom_out)):  # noqa: B905
            # Eq. 2: continuous-filter convolution, then two atom-wise layers and the residual.
            messages = atom_in(x).index_select(0, neighbour) * both_ways[k]
            gathered = torch.zeros(x.size(0), messages.size(1), dtype=x.dtype, device=x.device).index_add(
                0, centre, messages
            )
            x = x + atom_out(shifted_softplus(atom_mid(gathered)))
        return self.output_2(shifted_softplus(self.output_1(x))).squeeze(1)
