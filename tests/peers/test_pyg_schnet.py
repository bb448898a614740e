"""SchNet with the weights of PyTorch Geometric's."""

import torch
from comparison import SYSTEMS, compare, shuffle
from peer_results import record_comparison, relative_difference
from torch_geometric.nn.models import SchNet as Peer

from openmm_mlbench.models.neighbours import directed_edges, open_pairs, periodic_pairs
from openmm_mlbench.models.schnet import SchNet

TOLERANCE = 1e-5


def copy_weights(net, peer):
    with torch.no_grad():
        net.embedding.weight.copy_(peer.embedding.weight)
        for k, block in enumerate(peer.interactions):
            net.filter_weight_1[k].copy_(block.mlp[0].weight.T)
            net.filter_bias_1[k, 0].copy_(block.mlp[0].bias)
            net.filter_weight_2[k].copy_(block.mlp[2].weight.T)
            net.filter_bias_2[k, 0].copy_(block.mlp[2].bias)
            net.atom_in[k].load_state_dict(block.conv.lin1.state_dict())
            net.atom_mid[k].load_state_dict(block.conv.lin2.state_dict())
            net.atom_out[k].load_state_dict(block.lin.state_dict())
        net.output_1.load_state_dict(peer.lin1.state_dict())
        net.output_2.load_state_dict(peer.lin2.state_dict())
        # Its Gaussians are made in float32.
        net.centres.copy_(peer.distance_expansion.offset)
    net.gamma = -peer.distance_expansion.coeff


def test_energies_and_forces():
    edges = {}

    def graph(positions, batch):
        """What radius_graph would find, with the images that it does not know."""
        moved = positions[edges["neighbour"]] - positions[edges["centre"]] + edges["shifts"]
        return torch.stack([edges["neighbour"], edges["centre"]]), torch.linalg.vector_norm(moved, dim=1)

    peer = shuffle(Peer(64, 64, 6, 25, 5.0, interaction_graph=graph)).double()
    net = SchNet().double()
    assert sum(p.numel() for p in peer.parameters()) == sum(p.numel() for p in net.parameters())
    copy_weights(net, peer)

    def theirs(numbers, positions, cell):
        where = torch.as_tensor(positions)
        if cell is None:
            index, vectors = open_pairs(where, 5.0)
        else:
            index, vectors = periodic_pairs(where, torch.as_tensor(cell), 5.0)
        centre, neighbour = directed_edges(index)
        both = torch.cat([vectors, -vectors])
        moved = where.clone().requires_grad_()
        # Images stay where they are relative to their atoms.
        shifts = both - (where[neighbour] - where[centre])
        edges.update(centre=centre, neighbour=neighbour, shifts=shifts)
        energy = peer(torch.as_tensor(numbers), moved, torch.zeros(len(numbers), dtype=torch.long)).sum()
        (gradient,) = torch.autograd.grad(energy, moved)
        return energy, -gradient

    energies, forces, wanted_energies, wanted_forces = compare(net, theirs)
    differences = {
        "energy": relative_difference(energies, wanted_energies),
        "forces": relative_difference(forces, wanted_forces),
    }
    record_comparison(
        "schnet-pyg",
        ours="schnet",
        theirs="torch_geometric.nn.models.SchNet",
        packages=["torch_geometric"],
        kind="weights",
        systems=SYSTEMS,
        tolerance=TOLERANCE,
        **differences,
    )
    assert max(differences.values()) < TOLERANCE
