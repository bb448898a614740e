"""npz archives from strangers: never unpickled, and checked before memory is allocated."""

import math
import os
import warnings
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from openmm_mlbench.errors import DataError

# Measured coordinates hardly compress; only padding and bombs grow fifty-fold.
MAX_EXPANSION = 50
FREE_BYTES = 1 << 20
MAX_ARRAY_BYTES = 16 << 30


class NpzFile:
    """Arrays of an npz archive, checked before they are allocated.

    Args:
        path: the archive.

    Raises:
        DataError: it is missing, truncated, not an npz, or claims absurd sizes.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = existing_file(path)
        try:
            with zipfile.ZipFile(self.path) as archive:
                members = archive.infolist()
        except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError) as error:
            raise DataError(
                f"{self.path}: truncated or no npz archive ({error}); copy or download it again"
            ) from error
        self._members = {info.filename.removesuffix(".npy"): info for info in members}
        self.keys = tuple(self._members)
        limit = MAX_EXPANSION * self.path.stat().st_size + FREE_BYTES
        expanded = sum(info.file_size for info in members)
        if expanded > min(limit, MAX_ARRAY_BYTES):
            raise DataError(
                f"{self.path}: {self.path.stat().st_size} bytes claim to expand to {expanded}; this is no honest "
                "data file, and it was not read"
            )

    def __contains__(self, key: str) -> bool:
        return key in self._members

    def array(self, key: str) -> NDArray[Any]:
        """One array; pickled objects are refused."""
        if key not in self._members:
            raise DataError(
                f"{self.path}: no array {key!r}; it holds {', '.join(sorted(self.keys)) or 'nothing'}"
            )
        info = self._members[key]
        try:
            with warnings.catch_warnings(), zipfile.ZipFile(self.path) as archive:
                # Headers written by Python 2 are read with a warning.
                warnings.simplefilter("ignore")
                with archive.open(info) as member:
                    self._check_header(key, member, info.file_size)
                with archive.open(info) as member:
                    array: NDArray[Any] = np.lib.format.read_array(member, allow_pickle=False)
                    # The checksum is compared when the end is reached.
                    member.read(1)
        except DataError:
            raise
        except Exception as error:  # damaged headers end in tokenizer and syntax errors of many kinds
            raise DataError(
                f"{self.path}: array {key!r} is damaged ({reason(error)}); copy or download it again"
            ) from error
        return array

    def numbers(self, key: str) -> NDArray[Any]:
        """One array of real numbers."""
        array = self.array(key)
        if array.dtype.kind not in "iuf":
            raise DataError(f"{self.path}: array {key!r} has type {array.dtype}; wanted real numbers")
        return array

    def text(self, key: str) -> str:
        """One string."""
        array = self.array(key)
        if array.dtype.kind not in "US" or array.size != 1:
            raise DataError(f"{self.path}: {key!r} has type {array.dtype}; wanted one string")
        value = array.reshape(-1)[0]
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)

    def _check_header(self, key: str, member: IO[bytes], size: int) -> None:
        major, _ = np.lib.format.read_magic(member)
        if major == 1:
            shape, _, dtype = np.lib.format.read_array_header_1_0(member)
        elif major == 2:
            shape, _, dtype = np.lib.format.read_array_header_2_0(member)
        else:
            raise DataError(
                f"{self.path}: array {key!r} has npy version {major}; save it with version 1 or 2"
            )
        if dtype.hasobject:
            raise DataError(
                f"{self.path}: array {key!r} is pickled, and reading it could run code; save plain arrays instead"
            )
        claimed = math.prod(shape) * dtype.itemsize
        present = size - member.tell()
        if min(shape, default=0) < 0 or claimed != present:
            raise DataError(
                f"{self.path}: header of {key!r} claims {claimed} bytes, shape {shape}, but {present} follow; "
                "the file is damaged or forged, and it was not read"
            )


def existing_file(path: str | os.PathLike[str]) -> Path:
    """The path of a file that is there."""
    found = Path(path)
    if not found.is_file():
        what = "is a folder, not a file" if found.is_dir() else "no such file"
        raise DataError(f"{found}: {what}; give the path of a data file")
    return found


def reason(error: BaseException) -> str:
    """The first line of an error from another package, or its kind when it says nothing."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
