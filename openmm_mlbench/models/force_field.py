"""A network with its energy zero and scale: energies in eV and forces in eV/A.

E = sum_i (scale * e_i + reference[Z_i]): e_i is what the network returns, the
reference energies stay in float64 so that large total energies lose nothing.
"""

import torch
from torch import Tensor, nn

from openmm_mlbench.models.neighbours import all_pairs, forces_from_pairs, open_pairs, periodic_pairs
from openmm_mlbench.models.network import Network


class ForceField(nn.Module):
    """Energies and forces of batches of frames with the same atoms.

    Args:
        network: an architecture of :mod:`openmm_mlbench.models.registry`.
        atomic_numbers: (n_atoms,) of one frame.

    Attributes:
        remove_mean_force: subtract the mean force of each frame; for direct networks, whose
            forces need not sum to zero.
        predicts_energy: False for a direct network that was trained on forces alone; its energies
            are zero instead of noise.
    """

    atomic_numbers: Tensor
    scale: Tensor
    reference: Tensor

    def __init__(self, network: Network, atomic_numbers: Tensor) -> None:
        super().__init__()
        self.network = network
        self.remove_mean_force = False
        self.predicts_energy = True
        self.register_buffer("atomic_numbers", atomic_numbers.to(torch.long))
        self.register_buffer("scale", torch.ones((), dtype=torch.float64))
        self.register_buffer("reference", torch.zeros(119, dtype=torch.float64))

    def reference_energy(self) -> Tensor:
        """Sum of the reference energies of one frame, eV, float64."""
        return self.reference[self.atomic_numbers].sum()

    def forward(self, batch: "PairBatch", *, training: bool = False) -> tuple[Tensor, Tensor]:
        """Interaction energies without the reference, and forces.

        Args:
            batch: pairs of one or more frames.
            training: keep the graph, for a loss on the forces.

        Returns:
            energies (n_frames,), eV, and forces (n_frames, n_atoms, 3), eV/A.
        """
        scale = self.scale.to(batch.pair_vectors.dtype)
        n_atoms = self.atomic_numbers.size(0)
        if self.network.direct:
            with torch.set_grad_enabled(training):
                per_atom, forces = self.network.energies_and_forces(batch.pair_vectors, batch.topology)
                per_frame = (forces * scale).view(-1, n_atoms, 3)
                if self.remove_mean_force:
                    per_frame = per_frame - per_frame.mean(1, keepdim=True)
                if not self.predicts_energy:
                    per_atom = torch.zeros_like(per_atom)
                return (per_atom * scale).view(-1, n_atoms).sum(1), per_frame
        with torch.enable_grad():
            vectors = batch.pair_vectors.detach().requires_grad_()
            per_atom = self.network.atomic_energies(vectors, batch.topology) * scale
            (gradient,) = torch.autograd.grad(per_atom.sum(), vectors, create_graph=training)
        forces = forces_from_pairs(gradient, batch.pair_index, per_atom.size(0))
        return per_atom.view(-1, n_atoms).sum(1), forces.view(-1, n_atoms, 3)


class PairBatch:
    """Pairs and index tensors of a batch of frames: one block-diagonal graph.

    Args:
        pair_vectors: (n_pairs, 3), A.
        pair_index: (2, n_pairs) into the n_frames * n_atoms atoms of the batch.
        topology: the network's own index tensors for these pairs.
    """

    def __init__(self, pair_vectors: Tensor, pair_index: Tensor, topology: list[Tensor]) -> None:
        self.pair_vectors = pair_vectors
        self.pair_index = pair_index
        self.topology = topology


# Up to this many atoms a GPU takes the static list of all pairs, for which it waits for nobody; a processor
# stops earlier, see Network.all_pairs_up_to.
ALL_PAIRS_LIMIT = 50


class Batcher:
    """Builds batches; the index tensors of small molecules are made once per batch size.

    Args:
        force_field: whose network and atoms are used.
    """

    def __init__(self, force_field: ForceField) -> None:
        self.force_field = force_field
        self._static: dict[int, tuple[Tensor, list[Tensor]]] = {}

    def takes_all_pairs(self, positions: Tensor, cells: Tensor | None) -> bool:
        """Whether all frames (n_frames, n_atoms, 3) have one list, that of all pairs."""
        limit = ALL_PAIRS_LIMIT if positions.is_cuda else self.force_field.network.all_pairs_up_to
        return cells is None and positions.size(1) <= limit

    def __call__(self, positions: Tensor, cells: Tensor | None) -> PairBatch:
        """Pairs of positions (n_frames, n_atoms, 3) A in cells (n_frames, 3, 3) A or open space."""
        n_frames, n_atoms = positions.shape[:2]
        network = self.force_field.network
        if self.takes_all_pairs(positions, cells):
            if n_frames not in self._static:
                pairs = all_pairs(n_atoms, positions.device)
                offsets = n_atoms * torch.arange(n_frames, device=positions.device)
                index = (pairs.unsqueeze(1) + offsets.view(1, -1, 1)).reshape(2, -1)
                topology = network.topology(self.force_field.atomic_numbers.repeat(n_frames), index)
                self._static[n_frames] = (index, topology)
            index, topology = self._static[n_frames]
            flat = positions.reshape(-1, 3)
            return PairBatch(flat[index[1]] - flat[index[0]], index, topology)
        lists = [
            open_pairs(frame, network.cutoff)
            if cells is None
            else periodic_pairs(frame, cells[k], network.cutoff)
            for k, frame in enumerate(positions)
        ]
        index = torch.cat([pair_index + k * n_atoms for k, (pair_index, _) in enumerate(lists)], dim=1)
        vectors = torch.cat([pair_vectors for _, pair_vectors in lists])
        topology = network.topology(self.force_field.atomic_numbers.repeat(n_frames), index)
        return PairBatch(vectors, index, topology)
