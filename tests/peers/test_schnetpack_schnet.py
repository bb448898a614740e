"""SchNet with the weights of schnetpack's."""

import schnetpack
import torch
from comparison import SYSTEMS, compare, shuffle
from peer_results import record_comparison, relative_difference
from schnetpack.atomistic import Atomwise, PairwiseDistances
from schnetpack.nn import CosineCutoff, GaussianRBF, shifted_softplus
from schnetpack.representation import SchNet as Peer

from openmm_mlbench.models.neighbours import directed_edges, open_pairs, periodic_pairs
from openmm_mlbench.models.schnet import SchNet

TOLERANCE = 1e-5


def copy_weights(net, representation, output):
    with torch.no_grad():
        embedding = representation.embedding.weight
        net.embedding.weight[: len(embedding)].copy_(embedding[:100])
        for k, block in enumerate(representation.interactions):
            net.filter_weight_1[k].copy_(block.filter_network[0].weight.T)
            net.filter_bias_1[k, 0].copy_(block.filter_network[0].bias)
            net.filter_weight_2[k].copy_(block.filter_network[1].weight.T)
            net.filter_bias_2[k, 0].copy_(block.filter_network[1].bias)
            net.atom_in[k].weight.copy_(block.in2f.weight)
            net.atom_mid[k].load_state_dict(block.f2out[0].state_dict())
            net.atom_out[k].load_state_dict(block.f2out[1].state_dict())
        net.output_1.load_state_dict(output.outnet[0].state_dict())
        net.output_2.load_state_dict(output.outnet[1].state_dict())
        net.centres.copy_(representation.radial_basis.offsets)
    net.gamma = float(0.5 / representation.radial_basis.widths[0].double() ** 2)


def test_energies_and_forces():
    cutoff = 5.0
    representation = Peer(
        n_atom_basis=64, n_interactions=6, radial_basis=GaussianRBF(25, cutoff), cutoff_fn=CosineCutoff(cutoff), n_filters=64
    )  # fmt: skip
    output = Atomwise(n_in=64, n_hidden=32, n_layers=2, activation=shifted_softplus, output_key="energy")
    for module in (representation, output):
        shuffle(module).double()
    net = SchNet().double()
    copy_weights(net, representation, output)

    def theirs(numbers, positions, cell):
        where = torch.as_tensor(positions)
        if cell is None:
            index, vectors = open_pairs(where, cutoff)
        else:
            index, vectors = periodic_pairs(where, torch.as_tensor(cell), cutoff)
        centre, neighbour = directed_edges(index)
        offsets = torch.cat([vectors, -vectors]) - (where[neighbour] - where[centre])
        moved = where.clone().requires_grad_()
        inputs = {
            schnetpack.properties.Z: torch.as_tensor(numbers),
            schnetpack.properties.R: moved,
            schnetpack.properties.idx_i: centre,
            schnetpack.properties.idx_j: neighbour,
            schnetpack.properties.offsets: offsets,
            schnetpack.properties.idx_m: torch.zeros(len(numbers), dtype=torch.long),
            schnetpack.properties.n_atoms: torch.tensor([len(numbers)]),
        }
        energy = output(representation(PairwiseDistances()(inputs)))["energy"].sum()
        (gradient,) = torch.autograd.grad(energy, moved)
        return energy, -gradient

    energies, forces, wanted_energies, wanted_forces = compare(net, theirs)
    differences = {
        "energy": relative_difference(energies, wanted_energies),
        "forces": relative_difference(forces, wanted_forces),
    }
    record_comparison(
        "schnet-schnetpack",
        ours="schnet",
        theirs="schnetpack.representation.SchNet",
        packages=["schnetpack"],
        kind="weights",
        systems=SYSTEMS,
        tolerance=TOLERANCE,
        note="its output network with shifted softplus",
        **differences,
    )
    assert max(differences.values()) < TOLERANCE
