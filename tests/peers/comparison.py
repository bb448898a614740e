"""Frames for comparisons, and our energies and forces on them, in float64."""

import fresh_models
import numpy as np
import torch

from openmm_mlbench.models.neighbours import forces_from_pairs, open_pairs, periodic_pairs

# A triclinic cell of 9 atoms below twice every cutoff, A.
CELL = np.array([[7.6, 0.0, 0.0], [2.1, 7.1, 0.0], [-1.7, 2.0, 7.0]])
SYSTEMS = "ethanol, 10 frames in open space and in a triclinic cell of heights 6.8-7.1 A"


def frames():
    """Atomic numbers, and (positions, cell or None) of every frame."""
    data = fresh_models.ethanol()[0]
    positions = data.positions[::100][:10]
    return data.atomic_numbers, [(where, cell) for cell in (None, CELL) for where in positions]


def evaluate(network, numbers, positions, cell):
    """Energies of the atoms and forces of our network."""
    where = torch.as_tensor(positions)
    if cell is None:
        index, vectors = open_pairs(where, network.cutoff)
    else:
        index, vectors = periodic_pairs(where, torch.as_tensor(cell), network.cutoff)
    vectors.requires_grad_()
    energies = network(torch.as_tensor(numbers), vectors, index)
    (gradient,) = torch.autograd.grad(energies.sum(), vectors)
    return energies.detach(), forces_from_pairs(gradient, index, len(numbers))


def compare(network, theirs):
    """Largest relative differences of energies and forces over all frames.

    Args:
        network: ours.
        theirs: function of (atomic_numbers, positions, cell) to (energy, forces).
    """
    numbers, structures = frames()
    energies, forces, wanted_energies, wanted_forces = [], [], [], []
    for positions, cell in structures:
        energy, force = evaluate(network, numbers, positions, cell)
        wanted_energy, wanted_force = theirs(numbers, positions, cell)
        energies.append(float(energy.sum()))
        wanted_energies.append(float(wanted_energy))
        forces.append(force.numpy())
        wanted_forces.append(wanted_force.detach().numpy())
    return np.array(energies), np.array(forces), np.array(wanted_energies), np.array(wanted_forces)


def shuffle(module, seed=0):
    """Weights that are not trivial anywhere, biases included."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "bias" in name or not parameter.any():
                parameter.add_(0.2 * torch.randn_like(parameter))
    return module
