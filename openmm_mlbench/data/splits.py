"""Splits by seed and size, stored by index with a hash."""

import hashlib
import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from openmm_mlbench.data.frames import Frames
from openmm_mlbench.errors import DataError, MLBenchError
from openmm_mlbench.files import read_json, write_json

PARTS = ("train", "validation", "test")


@dataclass(frozen=True, kw_only=True)
class Split:
    """Places (0-based) of training, validation and test frames in one data set.

    Args:
        train: (n_train,).
        validation: (n_validation,).
        test: (n_test,).
        seed: seed of the permutation.
        dataset_hash: ``Frames.content_hash()`` of the data set that the places belong to.

    Raises:
        DataError: places are negative, repeated, or in two parts.
    """

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]
    seed: int
    dataset_hash: str

    def __post_init__(self) -> None:
        for part in PARTS:
            array = getattr(self, part)
            if array.ndim != 1 or array.dtype != np.int64 or (array < 0).any():
                raise DataError(f"split: {part} must be a list of whole numbers, 0 or larger")
        everything = np.concatenate([getattr(self, part) for part in PARTS])
        if len(np.unique(everything)) != len(everything):
            raise DataError("split: a frame stands in it twice; train, validation and test must be disjoint")

    @property
    def hash(self) -> str:
        """SHA-256 over the three index lists, in order."""
        digest = hashlib.sha256()
        for part in PARTS:
            array = getattr(self, part)
            digest.update(f"{part}:{len(array)}:".encode())
            digest.update(array.astype("<i8").tobytes())
        return digest.hexdigest()

    def check(self, frames: Frames) -> None:
        """Raise DataError unless the split was made for these frames."""
        found = frames.content_hash()
        if found != self.dataset_hash:
            raise DataError(
                f"split was made for a data set with hash {self.dataset_hash[:12]}, {frames.name} has "
                f"{found[:12]}; use the data it was made for, or make a new split"
            )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write as JSON."""
        record = {part: getattr(self, part).tolist() for part in PARTS}
        write_json(path, {"seed": self.seed, "dataset_hash": self.dataset_hash, "hash": self.hash, **record})

    @classmethod
    def load(cls, path: str | os.PathLike[str], frames: Frames) -> "Split":
        """Read a split and compare its hashes with its own lists and with the frames.

        Raises:
            DataError: the file is missing, damaged, or belongs to other data.
        """
        try:
            record = read_json(path)
            split = cls(
                **{part: _places(record[part]) for part in PARTS},
                seed=int(record["seed"]),
                dataset_hash=str(record["dataset_hash"]),
            )
            stated = record["hash"]
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror}); give the file of a split") from error
        except MLBenchError as error:
            raise DataError(f"{path}: {error}") from error
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DataError(f"{path}: not a split file ({error!r}); make the split again") from error
        if split.hash != stated:
            raise DataError(f"{path}: its lists do not have the hash stated in it; make the split again")
        split.check(frames)
        return split


def _places(values: list[int]) -> NDArray[np.int64]:
    if not all(type(value) is int for value in values):
        raise TypeError("places must be whole numbers")
    return np.array(values, dtype=np.int64)


def make_split(frames: Frames, n_train: int, n_validation: int, n_test: int, seed: int) -> Split:
    """Random disjoint parts: the first places of one permutation (PCG64), in its order.

    Raises:
        DataError: a size is not sensible, or the data set has too few frames.
    """
    sizes = (n_train, n_validation, n_test)
    if n_train < 1 or min(sizes) < 0:
        raise DataError(
            f"split sizes {'/'.join(map(str, sizes))}: train needs 1 or more, the others 0 or more"
        )
    if seed < 0:
        raise DataError(f"split seed {seed}: use 0 or a larger whole number")
    if sum(sizes) > frames.n_frames:
        raise DataError(
            f"{frames.name}: {frames.n_frames} frames cannot be split into {n_train} train + {n_validation} "
            f"validation + {n_test} test; ask for at most {frames.n_frames} in all"
        )
    order = np.random.Generator(np.random.PCG64(seed)).permutation(frames.n_frames).astype(np.int64)
    ends = np.cumsum(sizes)
    return Split(
        train=order[: ends[0]],
        validation=order[ends[0] : ends[1]],
        test=order[ends[1] : ends[2]],
        seed=seed,
        dataset_hash=frames.content_hash(),
    )
