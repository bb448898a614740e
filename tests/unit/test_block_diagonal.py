"""Copies in one graph: the forces of separate calls, per-copy energies, and nothing that crosses copies."""

import fresh_models
import numpy as np
import pytest
import torch

from openmm_mlbench.export.block_diagonal import (
    call_copies,
    repeat_pairs,
    script_copies,
    side_by_side,
    trace_copies,
)
from openmm_mlbench.export.exported_model import ExportedModel

N = 4
MASSES = torch.tensor([12.011, 12.011, 15.999] + 6 * [1.008])


def model_of(name, remove_mean_force=False):
    field = fresh_models.force_field(name, fresh_models.TINY[name])
    fresh_models.awaken(field.network)
    field.remove_mean_force = remove_mean_force
    return ExportedModel(field).eval()


def positions():
    return torch.tensor(np.array([fresh_models.ethanol_positions_nm(i) for i in range(N)]))


def copies_of(model, form, box=None):
    if form == "traced":
        return trace_copies(model, positions()[0], N, MASSES)
    return script_copies(model, N, MASSES)


def without_net_force(forces, masses=MASSES):
    return forces - (masses / masses.sum()).view(-1, 1) * forces.sum(0)


def precision(model, energy):
    """A millionth of what the network itself gave, kJ/mol; the energy zero beside it is large and in double precision."""
    zero = model.reference[model.atomic_numbers].sum() * model.kjmol_per_ev
    return 1e-6 * max(abs(float(energy - zero)), 1.0)


@pytest.mark.parametrize("form", ["traced", "searched"])
@pytest.mark.parametrize("name", sorted(fresh_models.TINY))
def test_forces_of_separate_calls(name, form):
    model = model_of(name)
    module, x = copies_of(model, form), positions()
    energies, forces = module.by_copy(x.reshape(-1, 3), None)
    total, same = module(x.reshape(-1, 3))
    assert torch.equal(forces, same)
    assert total == energies.sum()
    assert forces.is_contiguous()
    for k in range(N):
        energy, own = model(x[k])
        if model.direct:
            own = without_net_force(own)
        block = forces.view(N, -1, 3)[k]
        assert (block - own).abs().max() < 1e-6 * own.abs().max()
        assert float(energies[k]) == pytest.approx(float(energy), abs=precision(model, energy))


@pytest.mark.parametrize("name", ["forcenet", "gemnet-dt"])
@pytest.mark.parametrize("remove_mean_force", [True, False])
def test_no_copy_of_a_direct_model_pushes_itself(name, remove_mean_force):
    """The mean force of each copy is removed, not that of all together."""
    module = copies_of(model_of(name, remove_mean_force), "traced")
    _, forces = module.by_copy(positions().reshape(-1, 3), None)
    net = forces.view(N, -1, 3).sum(1)
    assert net.abs().max() < 1e-5 * forces.abs().max()


@pytest.mark.parametrize("form", ["traced", "searched"])
@pytest.mark.parametrize("name", sorted(fresh_models.TINY))
def test_a_copy_at_nan_leaves_the_others(name, form):
    module, x = copies_of(model_of(name), form), positions()
    energies, forces = module.by_copy(x.reshape(-1, 3), None)
    lost = x.clone()
    lost[1, 4] = float("nan")
    found, pushed = module.by_copy(lost.reshape(-1, 3), None)
    others = [0, 2, 3]
    assert torch.equal(found[others], energies[others])
    assert torch.equal(pushed.view(N, -1, 3)[others], forces.view(N, -1, 3)[others])
    assert not torch.isfinite(pushed.view(N, -1, 3)[1]).all()


@pytest.mark.parametrize("name", ["schnet", "deeppot-se", "nequip"])
def test_a_shared_box(name):
    """Each copy with its own images, none with another copy's atoms."""
    model = model_of(name)
    module, x = copies_of(model, "searched"), positions()
    box = torch.diag(torch.tensor([0.7, 0.8, 0.9], dtype=torch.float64))
    energies, forces = module.by_copy(x.reshape(-1, 3), box)
    for k in range(N):
        energy, own = model(x[k], box)
        assert (forces.view(N, -1, 3)[k] - own).abs().max() < 1e-6 * own.abs().max()
        assert float(energies[k]) == pytest.approx(float(energy), abs=precision(model, energy))


@pytest.mark.parametrize("form", ["traced", "searched", "called"])
@pytest.mark.parametrize("groups", [1, 2, 3, 4])
def test_groups_have_the_forces_of_separate_calls(form, groups):
    """Four copies as 4, 2 + 2, 2 + 1 + 1 and one by one: same order, same numbers, and a NaN stays where it is."""
    model = model_of("schnet")
    make = {
        "traced": lambda n: trace_copies(model, positions()[0], n, MASSES),
        "searched": lambda n: script_copies(model, n, MASSES),
        "called": lambda n: call_copies(torch.jit.script(model), n, MASSES, net_force=False),
    }[form]
    module, x = side_by_side(make, N, groups), positions()
    energies, forces = module.by_copy(x.reshape(-1, 3).requires_grad_(), None)
    assert not forces.requires_grad
    total, same = torch.jit.freeze(module.eval())(x.reshape(-1, 3))
    assert torch.equal(forces, same)
    assert total == energies.sum()
    for k in range(N):
        energy, own = model(x[k])
        assert (forces.view(N, -1, 3)[k] - own).abs().max() < 1e-6 * own.abs().max()
        assert float(energies[k]) == pytest.approx(float(energy), abs=precision(model, energy))
    lost = x.clone()
    lost[2, 4] = float("nan")
    found, _ = module.by_copy(lost.reshape(-1, 3), None)
    assert torch.equal(found[[0, 1, 3]], energies[[0, 1, 3]])
    assert not torch.isfinite(found[2])


def test_pairs_stay_within_their_copy():
    index = repeat_pairs(torch.tensor([[0, 0, 1], [1, 2, 2]]), 3, 2)
    assert index.tolist() == [[0, 0, 1, 3, 3, 4], [1, 2, 2, 4, 5, 5]]
