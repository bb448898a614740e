"""Models with fresh seeded weights: the tests need no training and no shipped archive."""

import functools

import numpy as np
import torch

from openmm_mlbench.data.datasets import default_split, load_dataset
from openmm_mlbench.export.archive import save_archive
from openmm_mlbench.export.card import Card, Claims, TrainedOn
from openmm_mlbench.models.registry import count_parameters
from openmm_mlbench.training.config import Recipe
from openmm_mlbench.training.trainer import new_force_field

_GEMNET = {
    "atom": 24,
    "edge": 32,
    "triplet": 12,
    "radial_width": 6,
    "circular_width": 5,
    "bilinear": 10,
    "blocks": 2,
    "spherical": 4,
    "radial": 4,
}
# Small enough for milliseconds, with every kind of layer.
TINY = {
    "schnet": {"hidden": 16, "filters": 16, "interactions": 2, "gaussians": 10},
    "deeppot-se": {"embedding": (8, 16), "axis": 4, "fitting": (24, 24, 12)},
    "dimenet": {"hidden": 32, "blocks": 2, "bilinear": 4, "spherical": 4, "radial": 4},
    "gemnet-t": _GEMNET,
    "gemnet-dt": _GEMNET,
    "nequip": {
        "l_max": 2,
        "features": 4,
        "layers": 4,
        "radial_width": 8,
        "bessels": 5,
        "rescale_species": True,
    },
    "forcenet": {"hidden": 16, "decoder": 12, "interactions": 2, "frequencies": 10},
}
# X-H bonds of ethanol, A.
RIGID_BONDS = [[0, 3, 1.1], [0, 4, 1.1], [1, 5, 1.09], [1, 6, 1.09], [1, 7, 1.09], [2, 8, 0.97]]
EVERYTHING = Claims(conservative=True, rotation=True, parity=True, zero_net_force=True)


def claims_of(field):
    """What the architecture promises by construction."""
    network = field.network
    return Claims(
        conservative=not network.direct,
        rotation=network.rotation,
        parity=network.parity,
        zero_net_force=field.remove_mean_force or not network.direct,
    )


@functools.cache
def ethanol():
    """The shipped frames and their default split."""
    frames = load_dataset("ethanol-gfn2")
    return frames, default_split("ethanol-gfn2", frames)


def force_field(model, hyperparameters=None, seed=0, frames=None):
    """Fresh weights with the energy zero, scale and statistics of some frames, else of the shipped ethanol's."""
    if frames is None:
        everything, split = ethanol()
        frames = everything.select(split.train[:50])
    torch.manual_seed(seed)
    recipe = Recipe(model=model, hyperparameters=hyperparameters or {}, seed=seed)
    return new_force_field(recipe, frames)


def awaken(network, seed=0):
    """Random values where weights start at zero: output layers that do would make every comparison trivial."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network


def card(model, field, hyperparameters=None, claims=None, dataset="ethanol-gfn2", constraints="none"):
    """A card for it, as export writes one."""
    frames, split = ethanol()
    numbers = field.atomic_numbers.tolist()
    return Card(
        model=model,
        hyperparameters=hyperparameters or {},
        n_parameters=count_parameters(field.network),
        species=sorted(set(numbers)),
        example_atomic_numbers=numbers,
        cutoff_A=field.network.cutoff,
        dtype="float32",
        periodic=False,
        claims=claims_of(field) if claims is None else claims,
        remove_mean_force=field.remove_mean_force,
        trained_on=TrainedOn(
            dataset=dataset,
            dataset_hash=split.dataset_hash,
            split_hash=split.hash,
            split_seed=split.seed,
            n_train=len(split.train),
            n_validation=len(split.validation),
            level_of_theory=frames.level_of_theory,
            source=frames.source,
            constraints=constraints,
            constraint_bonds=RIGID_BONDS if constraints == "h-bonds" else [],
        ),
    )


def write_archive(
    path, model="schnet", *, hyperparameters=None, seed=0, remove_mean_force=False, **card_options
):
    """An archive of fresh weights; tiny unless hyperparameters are given."""
    hyperparameters = TINY.get(model, {}) if hyperparameters is None else hyperparameters
    field = force_field(model, hyperparameters, seed)
    field.remove_mean_force = remove_mean_force
    save_archive(field, card(model, field, hyperparameters, **card_options), path)
    return path


def ethanol_positions_nm(frame=0):
    """(9, 3), nm, of a test frame."""
    frames, split = ethanol()
    return np.array(frames.positions[split.test[frame]]) / 10.0
