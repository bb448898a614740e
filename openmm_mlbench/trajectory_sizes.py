"""Whether XTC and NetCDF files are whole: libraries that read them pass over what is missing without a word."""

import struct
from pathlib import Path

from openmm_mlbench.errors import TrajectoryError

# Bytes of an XTC frame before its coordinates: magic, atoms, step, time, 9 of the cell, atoms again.
_XTC_HEAD = 56
# Then, where there are more than nine atoms: precision, 6 of the extent, one more, and bytes that follow.
_XTC_COMPRESSED_HEAD = 36
_XTC_PLAIN_ATOMS = 9

# Bytes of a number of each NetCDF type.
_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 4, 6: 8, 7: 1, 8: 2, 9: 4, 10: 8, 11: 8}
_HEADER_BYTES = 2**20


def check_xtc_size(path: Path, last_frame_at: int) -> None:
    """Refuse an XTC file that ends within its last frame.

    Args:
        path: the file.
        last_frame_at: byte at which its last frame begins.

    Raises:
        TrajectoryError: it is cut.
    """
    with open(path, "rb") as file:
        file.seek(last_frame_at)
        head = file.read(_XTC_HEAD + _XTC_COMPRESSED_HEAD)
    left = path.stat().st_size - last_frame_at
    n_atoms = struct.unpack_from(">i", head, 4)[0] if len(head) >= 8 else 0
    length = _XTC_HEAD + 12 * n_atoms
    if n_atoms > _XTC_PLAIN_ATOMS and len(head) == _XTC_HEAD + _XTC_COMPRESSED_HEAD:
        (n_bytes,) = struct.unpack_from(">i", head, len(head) - 4)
        length = len(head) + (n_bytes + 3) // 4 * 4
    if left != length or n_atoms < 1:
        raise TrajectoryError(
            f"{path}: truncated within its last frame; copy it again or finish the simulation"
        )


def check_netcdf_size(path: Path) -> None:
    """Refuse a classic NetCDF file that is shorter than its header says; frames that are missing would be zeros.

    Raises:
        TrajectoryError: it is cut, or its header is damaged.
    """
    with open(path, "rb") as file:
        head = file.read(_HEADER_BYTES)
    if head[:3] != b"CDF":
        # HDF5 inside, which knows its size, or no such file, which its reader says.
        return
    try:
        wanted = _netcdf_size(head)
    except (struct.error, KeyError, IndexError, ZeroDivisionError) as error:
        raise TrajectoryError(f"{path}: its NetCDF header is damaged or cut; copy it again") from error
    size = path.stat().st_size
    if size < wanted:
        raise TrajectoryError(
            f"{path}: truncated, {size} of {wanted} bytes; copy it again or finish the simulation"
        )


class _Words:
    """The words of a NetCDF header in order; counts have 8 bytes in version 5, offsets from version 2 on."""

    def __init__(self, head: bytes) -> None:
        self.head, self.at = head, 4
        self.version = head[3]

    def number(self, n_bytes: int) -> int:
        (value,) = struct.unpack_from(">q" if n_bytes == 8 else ">i", self.head, self.at)
        self.at += n_bytes
        return int(value)

    def count(self) -> int:
        return self.number(8 if self.version == 5 else 4)

    def offset(self) -> int:
        return self.number(4 if self.version == 1 else 8)

    def skip(self, n_bytes: int) -> None:
        self.at += (n_bytes + 3) // 4 * 4
        if self.at > len(self.head):
            raise IndexError("header ends")

    def items(self) -> int:
        """Tag and number of the list that follows."""
        self.number(4)
        return self.count()

    def skip_attributes(self) -> None:
        for _ in range(self.items()):
            self.skip(self.count())
            kind = self.number(4)
            self.skip(self.count() * _TYPE_BYTES[kind])


def _netcdf_size(head: bytes) -> int:
    """Bytes that a file with this header has at least."""
    words = _Words(head)
    n_records = words.count()
    dimensions = []
    for _ in range(words.items()):
        words.skip(words.count())
        dimensions.append(words.count())
    words.skip_attributes()
    fixed, records = [0], []
    for _ in range(words.items()):
        words.skip(words.count())
        shape = [dimensions[words.count()] for _ in range(words.count())]
        words.skip_attributes()
        n_bytes = _TYPE_BYTES[words.number(4)]
        words.count()
        begin = words.offset()
        for length in shape[1:] if shape and shape[0] == 0 else shape:
            n_bytes *= length
        if shape and shape[0] == 0:
            records.append((begin, n_bytes))
        else:
            fixed.append(begin + n_bytes)
    end = max(fixed)
    if records and n_records > 0:
        padded = [(n_bytes + 3) // 4 * 4 for _, n_bytes in records]
        record = records[0][1] if len(records) == 1 else sum(padded)
        end = max(end, *(begin + (n_records - 1) * record + n_bytes for begin, n_bytes in records))
    return end
