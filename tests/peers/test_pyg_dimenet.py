"""DimeNet with the weights of PyTorch Geometric's."""

import fresh_models
import numpy as np
import pytest
import torch
import torch_geometric.nn.models.dimenet as peer_module
from peer_results import record_comparison, relative_difference

from openmm_mlbench.models.dimenet import DimeNet
from openmm_mlbench.models.neighbours import all_pairs, open_pairs

TOLERANCE = 1e-5
N_FRAMES = 10


def edges_of(positions, r, **_):
    """What radius_graph returns: senders and receivers."""
    index, _ = open_pairs(positions.detach(), r)
    return torch.cat([index, index.flip(0)], dim=1)


def triplets_of(edge_index, num_nodes):
    """What triplets returns, without the sparse matrices that it needs."""
    sender, receiver = edge_index
    pairs = [
        (into, out)
        for out in range(len(sender))
        for into in range(len(sender))
        if receiver[into] == sender[out] and sender[into] != receiver[out]
    ]
    into, out = torch.tensor(pairs).T
    return receiver, sender, receiver[out], sender[out], sender[into], into, out


def copy_weights(net, peer, signs):
    """Into ours; ``signs`` (n_spherical,) multiplies the weights of each degree."""
    with torch.no_grad():
        net.frequencies.copy_(peer.rbf.freq)
        net.embedding.weight.copy_(peer.emb.emb.weight)
        net.embedding_radial.load_state_dict(peer.emb.lin_rbf.state_dict())
        net.embedding_dense.load_state_dict(peer.emb.lin.state_dict())
        spherical = []
        for k, (ours, theirs) in enumerate(zip(net.interactions, peer.interaction_blocks, strict=True)):
            net.radial_weight[k].copy_(theirs.lin_rbf.weight.T)
            spherical.append(theirs.lin_sbf.weight.view(net.bilinear, net.spherical, net.radial))
            ours.dense.weight.copy_(torch.cat([theirs.lin_ji.weight, theirs.lin_kj.weight]))
            ours.dense.bias.copy_(torch.cat([theirs.lin_ji.bias, theirs.lin_kj.bias]))
            ours.bilinear.copy_(theirs.W.permute(1, 2, 0).reshape(-1, net.hidden))
            ours.dense_skip.load_state_dict(theirs.lin.state_dict())
            for name in ("before_skip", "after_skip"):
                layers = zip(getattr(ours, name), getattr(theirs, f"layers_{name}"), strict=True)
                for layer, other in layers:
                    layer.dense_1.load_state_dict(other.lin1.state_dict())
                    layer.dense_2.load_state_dict(other.lin2.state_dict())
        net.spherical_weight.copy_(torch.cat(spherical).permute(1, 2, 0) * signs.view(-1, 1, 1))
        for k, theirs in enumerate(peer.output_blocks):
            net.radial_weight[net.blocks + k].copy_(theirs.lin_rbf.weight.T)
            for depth, layer in enumerate(theirs.lins):
                net.output_weight[depth, k].copy_(layer.weight.T)
                net.output_bias[depth, k, 0].copy_(layer.bias)
            net.output_last[k].copy_(theirs.lin.weight.T)


def both(angle_at, monkeypatch):
    """Theirs and ours at the paper's size, in float64."""
    torch.manual_seed(0)
    peer = peer_module.DimeNet(128, 1, 6, 8, 7, 6, output_initializer="glorot_orthogonal")
    net = DimeNet(angle_at=angle_at)
    assert sum(p.numel() for p in peer.parameters()) == sum(p.numel() for p in net.parameters())
    monkeypatch.setattr(peer_module, "radius_graph", edges_of)
    monkeypatch.setattr(peer_module, "triplets", triplets_of)
    signs = torch.ones(net.spherical)
    if angle_at == "sender":
        # Their DimeNet++ takes the angle at the sender, as pi minus ours: P_l changes sign where l is odd.
        monkeypatch.setattr(peer_module, "DimeNetPlusPlus", peer_module.DimeNet)
        signs[1::2] = -1.0
    copy_weights(net, peer, signs)
    for module in (peer, net):
        for name, parameter in module.named_parameters():
            if "bias" in name:
                torch.nn.init.constant_(parameter, 0.1)
    return peer.double(), net.double()


def evaluate(energy, positions):
    """Energies and forces of all frames."""
    energies, forces = [], []
    for frame in positions:
        where = torch.as_tensor(frame).requires_grad_()
        value = energy(where)
        energies.append(float(value.detach()))
        forces.append(-torch.autograd.grad(value, where)[0].numpy())
    return np.array(energies), np.array(forces)


@pytest.mark.parametrize("angle_at", ["receiver", "sender"])
def test_dimenet_is_that_of_pytorch_geometric(angle_at, monkeypatch):
    peer, net = both(angle_at, monkeypatch)
    frames, _ = fresh_models.ethanol()
    numbers = torch.as_tensor(frames.atomic_numbers).long()
    index = all_pairs(len(numbers), torch.device("cpu"))
    # Spread, so that some pairs lie beyond the cutoff.
    positions = frames.positions[:N_FRAMES].astype(np.float64) * 1.6

    def ours(where):
        return net(numbers, where[index[1]] - where[index[0]], index).sum()

    energies, forces = evaluate(ours, positions)
    their_energies, their_forces = evaluate(lambda where: peer(numbers, where).sum(), positions)
    distances = np.linalg.norm(positions[:, index[1]] - positions[:, index[0]], axis=-1)
    assert (distances > net.cutoff).any(1).all()
    energy, force = (
        relative_difference(energies, their_energies),
        relative_difference(forces, their_forces),
    )
    assert energy < TOLERANCE
    assert force < TOLERANCE
    note = (
        "angle at the receiver, as theirs (angle_at)"
        if angle_at == "receiver"
        else "angle at the sender, the article's and ours: their code's branch for DimeNet++, odd degrees with the other sign"
    )
    record_comparison(
        f"dimenet-pyg-{angle_at}",
        ours="dimenet",
        theirs="torch_geometric.nn.models.DimeNet",
        packages=["torch_geometric"],
        kind="weights",
        systems=f"ethanol stretched 1.6 times, {N_FRAMES} frames",
        energy=energy,
        forces=force,
        note=f"{note}; their Bessel functions have constants rounded to float32",
    )
