"""Labelled frames on the training device, and batches of them whose pairs are searched once."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from openmm_mlbench.data.frames import Frames
from openmm_mlbench.errors import TrainingError
from openmm_mlbench.models.force_field import Batcher, ForceField, PairBatch
from openmm_mlbench.models.neighbours import open_pairs, periodic_pairs

# Of the memory of a training device that pair lists may take.
CACHE_BYTES = 2 * 1024**3


@dataclass(frozen=True, kw_only=True)
class LabelledTensors:
    """Frames as tensors on the training device; energies are relative to the reference.

    Args:
        positions: (n_frames, n_atoms, 3), A.
        cells: (n_frames, 3, 3), A, or None.
        energies: (n_frames,), eV, or None.
        forces: (n_frames, n_atoms, 3), eV/A.
    """

    positions: Tensor
    cells: Tensor | None
    energies: Tensor | None
    forces: Tensor

    @classmethod
    def from_frames(
        cls, frames: Frames, reference_energy: float, device: torch.device, dtype: torch.dtype
    ) -> "LabelledTensors":
        """Copy frames to the device; energies lose their reference in float64 first."""
        if frames.forces is None:
            raise TrainingError(f"{frames.name} has no forces; training needs them")

        def tensor(array: Any) -> Tensor:
            return torch.as_tensor(array, device=device).to(dtype)

        return cls(
            positions=tensor(frames.positions),
            cells=None if frames.cells is None else tensor(frames.cells),
            energies=None if frames.energies is None else tensor(frames.energies - reference_energy),
            forces=tensor(frames.forces),
        )


class FrameBatches:
    """Batches of the frames of one data set by their places.

    Frames do not move while a network is trained, so each frame's pairs are searched when it
    is first seen and kept on the device, as many frames as the memory allows; later ones are
    searched each time.  Frames that are turned keep their pairs, and the vectors turn with them.

    Args:
        force_field: whose cutoff and atoms are used.
        data: the frames.
        memory_bytes: for the lists that are kept.
    """

    def __init__(
        self, force_field: ForceField, data: LabelledTensors, memory_bytes: int = CACHE_BYTES
    ) -> None:
        self.force_field = force_field
        self.data = data
        self.memory_bytes = memory_bytes
        self.kept_bytes = 0
        self._lists: dict[int, tuple[Tensor, Tensor]] = {}
        # Small molecules have one list for all frames: that of all pairs.
        batcher = Batcher(force_field)
        self._all_pairs = batcher if batcher.takes_all_pairs(data.positions, data.cells) else None

    @property
    def n_kept(self) -> int:
        """Number of frames whose pairs are kept."""
        return len(self._lists)

    def __call__(self, places: Tensor, rotations: Tensor | None = None) -> PairBatch:
        """A batch of the frames at these places (n,), turned by rotations (n, 3, 3) if there are any."""
        if self._all_pairs is not None:
            positions = self.data.positions[places]
            return self._all_pairs(turned(positions, rotations), None)
        lists = [self._list(place) for place in places.tolist()]
        counts = [pair_vectors.size(0) for _, pair_vectors in lists]
        frame = torch.repeat_interleave(
            torch.arange(len(lists), device=self.data.positions.device),
            torch.tensor(counts, device=self.data.positions.device),
            output_size=sum(counts),
        )
        n_atoms = self.data.positions.size(1)
        index = torch.cat([pair_index for pair_index, _ in lists], dim=1).long() + n_atoms * frame
        vectors = torch.cat([pair_vectors for _, pair_vectors in lists])
        if rotations is not None:
            vectors = (rotations[frame] @ vectors.unsqueeze(2)).squeeze(2)
        numbers = self.force_field.atomic_numbers.repeat(len(lists))
        return PairBatch(vectors, index, self.force_field.network.topology(numbers, index))

    def _list(self, place: int) -> tuple[Tensor, Tensor]:
        """Pair indices (2, n_pairs), int32, and vectors (n_pairs, 3), A, of one frame."""
        if place in self._lists:
            return self._lists[place]
        positions, cutoff = self.data.positions[place], self.force_field.network.cutoff
        index, vectors = (
            open_pairs(positions, cutoff)
            if self.data.cells is None
            else periodic_pairs(positions, self.data.cells[place], cutoff)
        )
        found = (index.int(), vectors)
        size = sum(tensor.numel() * tensor.element_size() for tensor in found)
        if self.kept_bytes + size <= self.memory_bytes:
            self._lists[place] = found
            self.kept_bytes += size
        return found


def turned(vectors: Tensor, rotations: Tensor | None) -> Tensor:
    """Vectors (n_frames, n, 3) of each frame turned by its matrix of (n_frames, 3, 3)."""
    return vectors if rotations is None else vectors @ rotations.transpose(1, 2)
