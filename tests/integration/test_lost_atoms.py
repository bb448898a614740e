"""An atom at NaN is never lost in silence, whatever form of a shipped model runs and whoever exported it."""

import numpy as np
import pytest
import torch

from openmm_mlbench.export.archive import list_archives
from openmm_mlbench.potential import Potential

BOX_NM = torch.tensor([[1.3, 0.0, 0.0], [0.2, 1.3, 0.0], [-0.1, 0.3, 1.3]], dtype=torch.float64)


@pytest.mark.parametrize("name", [name for name in list_archives() if name.startswith("ethanol")])
def test_nan_in_gives_nan_out(name):
    potential = Potential.load(name)
    numbers = potential.card.example_atomic_numbers
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.arange(3)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)[: len(numbers)]
    positions = torch.tensor(0.15 * grid + rng.normal(scale=0.01, size=(len(numbers), 3)))
    positions[4, 1] = float("nan")
    for module, arguments in (
        (potential.module(numbers), (positions,)),
        (potential.module(numbers, periodic=True), (positions, BOX_NM)),
    ):
        energy, forces = module(*arguments)
        assert torch.isnan(energy)
        assert torch.isnan(forces).all()
