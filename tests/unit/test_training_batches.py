"""Batches whose pairs are searched once are those of a search at every step."""

import dataclasses

import fresh_models
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from openmm_mlbench.data.datasets import load_dataset
from openmm_mlbench.data.frames import Frames
from openmm_mlbench.models.force_field import Batcher
from openmm_mlbench.training import batches as module
from openmm_mlbench.training.batches import FrameBatches, LabelledTensors, turned


def sorted_pairs(batch):
    """Pairs and vectors in an order that does not depend on how they were found."""
    rows = torch.cat([batch.pair_index.T.double(), batch.pair_vectors.double()], dim=1)
    return rows[np.lexsort(rows.round(decimals=3).numpy().T[::-1])]


def many_atoms(n_frames=4):
    """Frames without a cell and with more atoms than have a list of all pairs."""
    generator = np.random.default_rng(0)
    positions = 12.0 * generator.random((n_frames, 60, 3))
    return Frames(
        name="gas",
        atomic_numbers=np.ones(60, dtype=np.int64),
        positions=positions,
        energies=np.zeros(n_frames),
        forces=generator.normal(size=(n_frames, 60, 3)),
        cells=None,
        frame_indices=np.arange(n_frames),
        interval_fs=None,
        constraints="none",
        level_of_theory="none",
        source="none",
    )


def water(n_frames=4):
    return load_dataset("water-1k").select(np.arange(n_frames))


@pytest.fixture(params=["box", "many atoms", "molecule"])
def frames(request):
    if request.param == "molecule":
        return fresh_models.ethanol()[0].select(np.arange(4))
    return water() if request.param == "box" else many_atoms()


def made(frames, **options):
    force_field = fresh_models.force_field("schnet", fresh_models.TINY["schnet"], frames=frames)
    data = LabelledTensors.from_frames(frames, 0.0, torch.device("cpu"), torch.float32)
    return FrameBatches(force_field, data, **options), Batcher(force_field), data


@pytest.mark.parametrize("memory_bytes", [0, 2**30])
def test_the_same_pairs_as_a_search(frames, memory_bytes):
    batches, search, data = made(frames, memory_bytes=memory_bytes)
    for places in (torch.tensor([2, 0, 3]), torch.tensor([0, 1])):
        wanted = search(data.positions[places], None if data.cells is None else data.cells[places])
        for _ in range(2):  # found, then remembered
            found = batches(places)
            torch.testing.assert_close(sorted_pairs(found), sorted_pairs(wanted), rtol=1e-6, atol=2e-6)
            one, other = (batches.force_field(batch) for batch in (found, wanted))
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-4)


def test_turned_frames_are_those_of_turned_positions(frames):
    batches, search, data = made(frames)
    places = torch.tensor([1, 3])
    rotations = torch.as_tensor(Rotation.random(2, random_state=1).as_matrix()).float()
    found = batches(places, rotations)
    cells = None if data.cells is None else turned(data.cells[places], rotations)
    wanted = search(turned(data.positions[places], rotations), cells)
    # Rounding can put a pair at the cutoff on either side of it; the network does not see the difference.
    energies, forces = batches.force_field(found)
    torch.testing.assert_close(energies, batches.force_field(wanted)[0], rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(forces, batches.force_field(wanted)[1], rtol=1e-3, atol=1e-4)
    still = batches.force_field(batches(places))[1]
    torch.testing.assert_close(forces, turned(still, rotations), rtol=1e-3, atol=1e-4)


def test_memory_is_bounded_and_frames_are_searched_once(monkeypatch):
    frames = water()
    searches = []
    original = module.periodic_pairs
    monkeypatch.setattr(module, "periodic_pairs", lambda *given: searches.append(1) or original(*given))
    batches, _, _ = made(frames)
    for _ in range(3):
        batches(torch.arange(4))
    assert (len(searches), batches.n_kept) == (4, 4)
    size = batches.kept_bytes
    assert size == pytest.approx(4 * 20 * batches(torch.tensor([0])).pair_index.size(1), rel=0.05)
    searches.clear()
    batches, _, _ = made(frames, memory_bytes=int(0.6 * size))
    for _ in range(3):
        batches(torch.arange(4))
    assert batches.n_kept == 2
    assert batches.kept_bytes <= 0.6 * size
    assert len(searches) == 4 + 2 + 2


def test_frames_without_forces_are_refused():
    frames = dataclasses.replace(water(2), forces=None)
    with pytest.raises(module.TrainingError, match="has no forces"):
        LabelledTensors.from_frames(frames, 0.0, torch.device("cpu"), torch.float32)
