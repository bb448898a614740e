"""Ways to get silently wrong numbers out of TorchScript and TorchForce, each with the cure and without.

Layout and dtype of the forces, and addmm in frozen graphs: tests/integration/test_export.py.
"""

import dataclasses
import itertools
import re
from pathlib import Path

import fresh_models
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import openmm_mlbench
from openmm_mlbench.errors import ModelError
from openmm_mlbench.export.archive import find_archive, save_archive
from openmm_mlbench.export.check import check_archive
from openmm_mlbench.export.exported_model import ExportedModel
from openmm_mlbench.models.network import Network
from openmm_mlbench.models.registry import ARCHITECTURES
from openmm_mlbench.training.trainer import LabelledTensors
from openmm_mlbench.units import KJMOL_PER_EV

# Total energy of ethanol in MD17, eV.
OFFSET_EV = -4209.0


@pytest.fixture
def positions():
    return torch.as_tensor(fresh_models.ethanol_positions_nm())


# ---- a second loop over a ModuleList, backwards ----


class ThereAndBack(Network):
    """Layers on each pair's distance, then the same layers in reverse order."""

    def __init__(self) -> None:
        super().__init__()
        self.cutoff = 5.0
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        # The cure: a list of its own.
        self.reverse = nn.ModuleList(reversed(self.layers))

    def topology(self, atomic_numbers: Tensor, pair_index: Tensor) -> list[Tensor]:
        return [atomic_numbers, pair_index[0], pair_index[1]]

    def gather(self, x: Tensor, depth: Tensor, topology: list[Tensor]) -> Tensor:
        energies = x.sum(1) * depth.clamp(min=0.0).square().squeeze(1)
        result = torch.zeros(topology[0].size(0), dtype=x.dtype, device=x.device)
        return result.index_add(0, topology[1], energies)

    def atomic_energies(self, pair_vectors: Tensor, topology: list[Tensor]) -> Tensor:
        depth = 1.0 - torch.linalg.vector_norm(pair_vectors, dim=1, keepdim=True) / self.cutoff
        x = depth.expand(-1, 4)
        for layer in self.layers:
            x = torch.tanh(layer(x))
        for layer in self.reverse:
            x = torch.tanh(layer(x))
        return self.gather(x, depth, topology)


class Miscompiled(ThereAndBack):
    """The trap: TorchScript takes other layers in the second loop."""

    def atomic_energies(self, pair_vectors: Tensor, topology: list[Tensor]) -> Tensor:
        depth = 1.0 - torch.linalg.vector_norm(pair_vectors, dim=1, keepdim=True) / self.cutoff
        x = depth.expand(-1, 4)
        for layer in self.layers:
            x = torch.tanh(layer(x))
        for layer in self.layers[::-1]:
            x = torch.tanh(layer(x))
        return self.gather(x, depth, topology)


@pytest.mark.parametrize("network", [ThereAndBack, Miscompiled])
def test_a_reversed_module_list(tmp_path, monkeypatch, positions, network):
    """The check finds it; should it find nothing one day, torch has mended it."""
    monkeypatch.setitem(ARCHITECTURES, "toy", network)
    archive = find_archive(fresh_models.write_archive(tmp_path / "toy.pt", "toy"))
    rows = check_archive(archive, fresh_models.ethanol()[0].atomic_numbers, positions.numpy())
    failed = {row.name for row in rows if not row.passed}
    assert ("scripted against eager" in failed) is (network is Miscompiled)
    assert ("archive against eager" in failed) is (network is Miscompiled)


def test_no_network_walks_a_module_list_backwards():
    folder = Path(openmm_mlbench.__file__).parent
    for path in itertools.chain(folder.glob("models/*.py"), folder.glob("export/*.py")):
        assert not re.search(r"in .*self\.\w+\[::-1\]", path.read_text(encoding="utf-8")), path.name


# ---- total energies with large offsets ----


def with_offset(offset_ev):
    field = fresh_models.force_field("schnet", fresh_models.TINY["schnet"])
    field.reference = torch.zeros(119, dtype=torch.float64)
    field.reference[8] = offset_ev
    return ExportedModel(field).eval()


def test_large_offsets_are_added_in_float64(positions):
    """The same interaction energy to a millionth of a kJ/mol, with and without -4e5 kJ/mol beside it."""
    others = positions + 0.001 * torch.as_tensor(np.random.default_rng(0).normal(size=(9, 3)))
    plain, shifted = with_offset(0.0), with_offset(OFFSET_EV)
    for module in (shifted, torch.jit.script(shifted)):
        for where in (positions, others, positions.float()):
            wanted = float(plain(where)[0]) + OFFSET_EV * KJMOL_PER_EV
            assert float(module(where)[0]) == pytest.approx(wanted, abs=1e-6)
    # The trap: float32 has no room for both.
    energy = float(plain(positions)[0])
    total = torch.tensor(OFFSET_EV * KJMOL_PER_EV).float() + torch.tensor(energy).float()
    assert abs(float(total) - (energy + OFFSET_EV * KJMOL_PER_EV)) > 1e-3


def test_labels_lose_their_offset_before_they_become_float32():
    frames = fresh_models.ethanol()[0].select(np.arange(20))
    interaction = frames.energies - frames.energies.mean()
    shifted = dataclasses.replace(frames, energies=interaction + OFFSET_EV)
    tensors = LabelledTensors.from_frames(shifted, OFFSET_EV, torch.device("cpu"), torch.float32)
    np.testing.assert_allclose(tensors.energies, interaction, atol=1e-6)
    # The trap: the other way round the labels move by a tenth of a meV and more.
    late = torch.as_tensor(shifted.energies).float() - OFFSET_EV
    assert np.abs(late.numpy() - interaction).max() > 5e-5


# ---- half precision ----


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_rejected(tmp_path, dtype):
    field = fresh_models.force_field("schnet", fresh_models.TINY["schnet"])
    card = fresh_models.card("schnet", field, fresh_models.TINY["schnet"])
    field.network.to(dtype)
    with pytest.raises(ModelError, match="several per cent of the force"):
        save_archive(field, card, tmp_path / "half.pt")
    assert not (tmp_path / "half.pt").exists()
    with pytest.raises(ValueError, match="runs in float32 or float64"):
        dataclasses.replace(card, dtype=str(dtype).removeprefix("torch."))


def test_what_half_precision_costs(positions):
    """The trap: weights of 8 bits change the forces by per cents."""
    field = fresh_models.force_field("schnet", fresh_models.TINY["schnet"])
    wanted = ExportedModel(field).eval()(positions)[1]
    field.network.bfloat16().float()
    found = ExportedModel(field).eval()(positions)[1]
    assert float((found - wanted).abs().max()) > 1e-3 * float(wanted.abs().max())
