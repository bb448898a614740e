"""DeepPot-SE with the weights of DeePMD-kit's se_e2_a."""

import torch
from comparison import SYSTEMS, compare, shuffle
from deepmd.pt.model.model import get_model
from peer_results import record_comparison, relative_difference

from openmm_mlbench.models.deeppot_se import DeepPotSE

TOLERANCE = 1e-5
SPECIES = [1, 6, 8]


def peer_model():
    """At the paper's size, with room for every neighbour."""
    return get_model(
        {
            "type_map": ["H", "C", "O"],
            "descriptor": {
                "type": "se_e2_a",
                "sel": [40, 40, 40],
                "rcut_smth": 1.0,
                "rcut": 6.0,
                "neuron": [25, 50, 100],
                "axis_neuron": 12,
                "resnet_dt": False,
                "type_one_side": False,
                "precision": "float64",
                "seed": 1,
            },
            "fitting_net": {
                "neuron": [240, 120, 60, 30, 10],
                "resnet_dt": True,
                "precision": "float64",
                "seed": 2,
            },
        }
    ).eval()


def copy_layers(stacked, place, layers):
    """One of the stacked networks takes the layers of theirs."""
    for ours, theirs in zip(stacked, layers, strict=True):
        ours.weight[place].copy_(theirs.matrix)
        ours.bias[place, 0].copy_(theirs.bias)
        assert (theirs.idt is not None) == ours.has_scale
        if theirs.idt is not None:
            ours.scale[place, 0].copy_(theirs.idt)


def copy_weights(net, peer):
    n = len(SPECIES)
    with torch.no_grad():
        descriptor = peer.atomic_model.descriptor.sea
        for number, network in enumerate(descriptor.filter_layers.networks):
            neighbour, centre = divmod(number, n)
            copy_layers(net.embedding, centre * n + neighbour, network.layers)
        fitting = peer.atomic_model.fitting_net
        for place, network in enumerate(fitting.filter_layers.networks):
            # A hidden layer of a skip connection without a new width has a scale; others have none.
            copy_layers(net.fitting, place, network.layers)
        # Another deviation for every species; the mean stays zero, as ours has none.
        scales = torch.rand(n, 2, dtype=torch.float64) * 0.2 + 0.1
        net.scale_radial.copy_(scales[:, 0])
        net.scale_angular.copy_(scales[:, 1])
        columns = scales[:, [0, 1, 1, 1]]
        descriptor.stddev.copy_(columns.unsqueeze(1).expand_as(descriptor.stddev))
        assert not descriptor.mean.any()
        assert not fitting.bias_atom_e.any()


def test_energies_and_forces():
    peer = shuffle(peer_model())
    net = DeepPotSE(species=SPECIES).double()
    trained = sum(p.numel() for p in peer.parameters() if p.requires_grad)
    assert trained == sum(p.numel() for p in net.parameters())
    copy_weights(net, peer)
    kinds = {number: place for place, number in enumerate(SPECIES)}

    def theirs(numbers, positions, cell):
        found = peer(
            torch.as_tensor(positions).unsqueeze(0),
            torch.tensor([[kinds[int(number)] for number in numbers]]),
            box=None if cell is None else torch.as_tensor(cell).reshape(1, 9),
        )
        return found["energy"].sum().detach(), found["force"][0]

    energies, forces, wanted_energies, wanted_forces = compare(net, theirs)
    differences = {
        "energy": relative_difference(energies, wanted_energies),
        "forces": relative_difference(forces, wanted_forces),
    }
    record_comparison(
        "deeppot-se-deepmd",
        ours="deeppot-se",
        theirs="deepmd.pt se_e2_a, type_one_side off",
        packages=["deepmd-kit"],
        kind="weights",
        systems=SYSTEMS,
        tolerance=TOLERANCE,
        note="its mean of the environment matrix is zero, as ours has none",
        **differences,
    )
    assert max(differences.values()) < TOLERANCE
