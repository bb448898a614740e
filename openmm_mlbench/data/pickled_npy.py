"""Arrays inside a pickled .npy file, found without unpickling it.

Unpickling runs what the file asks for.  Here a small interpreter walks over the pickle's
instructions and understands only how NumPy writes arrays, dtypes and scalars, and plain
containers; it calls nothing that the file names.  Every payload must lie in the file and have
the size that shape and dtype say, and is not copied: arrays are read-only views of the
memory-mapped file, so a file of gigabytes costs memory only where it is touched.

The instruction set is that of Python's ``pickletools``; how arrays are pickled is
``ndarray.__reduce__`` and ``dtype.__reduce__`` of NumPy.
"""

import math
import mmap
import os
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from openmm_mlbench.data.npz import existing_file, reason
from openmm_mlbench.errors import DataError

# A dictionary of arrays takes a few hundred.
MAX_INSTRUCTIONS = 1_000_000
MAX_DIMENSIONS = 32
_DTYPE = re.compile(r"[<>|=]?(?:f[248]|[iu][1248]|b1|[SU]\d{1,4}|O8?)")

# What a file may name, and what is understood by it; nothing of it is called.
_KNOWN = {
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
    ("_codecs", "encode"): "encode",
    ("collections", "OrderedDict"): "dict",
    ("builtins", "bytes"): "bytes",
    ("__builtin__", "bytes"): "bytes",
    **{
        (f"numpy.{core}.{module}", name): kind
        for core in ("core", "_core")
        for module, name, kind in (
            ("multiarray", "_reconstruct", "reconstruct"),
            ("multiarray", "scalar", "scalar"),
            ("numeric", "_frombuffer", "frombuffer"),
        )
    },
}


@dataclass(frozen=True)
class _Named:
    """What the file named, by its meaning."""

    kind: str


class _Mark:
    """Start of a tuple or of the items of a container."""


@dataclass
class _DType:
    """A dtype under construction: the byte order comes after the kind."""

    dtype: np.dtype[Any]


@dataclass
class _Array:
    """An array under construction; a list of objects instead where its dtype is object."""

    array: NDArray[Any] | None = None
    objects: list[Any] | None = None


def read_pickled_dict(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The dictionary of arrays in an .npy file, as ``numpy.save`` writes a dict.

    Args:
        path: the file.

    Returns:
        Its entries that are arrays (read-only views of the mapped file), numbers or text, by key.

    Raises:
        DataError: the file is damaged, holds no dictionary, or names anything but arrays and
            plain containers; nothing of it was run then.
    """
    found = existing_file(path)
    if found.stat().st_size == 0:
        raise DataError(f"{found}: is empty; download it again")
    with open(found, "rb") as file:
        start = _skip_header(found, file)
        # Kept open by the arrays that view it.
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    value = _Interpreter(found, memoryview(mapped), start).run()
    if isinstance(value, _Array) and value.objects is not None and len(value.objects) == 1:
        value = value.objects[0]
    if not isinstance(value, dict):
        raise DataError(f"{found}: holds no dictionary of arrays; wanted a data file of MDsim")
    return {key: item for key, item in ((k, _plain(v)) for k, v in value.items()) if item is not None}


def _plain(value: Any) -> Any:
    if isinstance(value, _Array):
        return value.array
    return value if isinstance(value, str | int | float | np.generic) else None


def _skip_header(path: Path, file: Any) -> int:
    """Position behind the header of an .npy file that holds objects."""
    try:
        major, _ = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
        _, _, dtype = read(file)
    except Exception as error:  # damaged headers end in tokenizer and syntax errors of many kinds
        raise DataError(
            f"{path}: truncated or no npy file ({reason(error)}); copy or download it again"
        ) from error
    if not dtype.hasobject:
        raise DataError(f"{path}: holds one plain array; wanted the dictionary of arrays of MDsim's files")
    return int(file.tell())


class _Interpreter:
    """One walk over the instructions of a pickle.

    Args:
        path: for messages.
        buffer: the whole file.
        position: where the pickle begins.
    """

    def __init__(self, path: Path, buffer: memoryview, position: int) -> None:
        self.path, self.buffer, self.position = path, buffer, position
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        """The object that the pickle describes.

        Raises:
            DataError: it is damaged, or holds something else than arrays and plain containers.
        """
        try:
            for _ in range(MAX_INSTRUCTIONS):
                code = self.take(1)[0]
                if code == ord("."):
                    return self.stack.pop()
                instruction = _INSTRUCTIONS.get(code)
                if instruction is None:
                    self.refuse(f"instruction {bytes([code])!r}")
                instruction(self)
        except DataError:
            raise
        except (IndexError, KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            self.damaged(reason(error))
        raise DataError(
            f"{self.path}: takes more than {MAX_INSTRUCTIONS:,} pickle instructions; this is no dictionary of arrays"
        )

    def damaged(self, why: str) -> NoReturn:
        raise DataError(
            f"{self.path}: the pickle inside is damaged at byte {self.position} ({why}); download it again"
        )

    def refuse(self, what: str) -> NoReturn:
        raise DataError(
            f"{self.path}: wants {what[:120]}, which is neither array, number, text nor plain container; reading it "
            "could run code, and nothing was run"
        )

    # --- reading --------------------------------------------------------------------------------

    def take(self, size: int) -> memoryview:
        end = self.position + size
        if size < 0 or end > len(self.buffer):
            self.damaged(f"{size:,} bytes claimed, {len(self.buffer) - self.position:,} follow")
        part = self.buffer[self.position : end]
        self.position = end
        return part

    def number(self, layout: str) -> int:
        return int(struct.unpack(layout, self.take(struct.calcsize(layout)))[0])

    def counted(self, layout: str) -> memoryview:
        return self.take(self.number(layout))

    def line(self) -> str:
        text = bytes(self.buffer[self.position : self.position + 256])
        length = text.find(b"\n")
        if length < 0:
            self.damaged("a name without end")
        self.take(length + 1)
        return str(text[:length], "utf-8")

    def text(self, layout: str) -> str:
        return str(self.counted(layout), "utf-8", "surrogatepass")

    def marked(self) -> list[Any]:
        """Everything above the last mark, which goes too."""
        place = len(self.stack) - 1
        while not isinstance(self.stack[place], _Mark):
            place -= 1
            if place < 0:
                self.damaged("no mark")
        items = self.stack[place + 1 :]
        del self.stack[place:]
        return items

    # --- containers -----------------------------------------------------------------------------

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            self.damaged("items of no dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            name = str(bytes(key), "utf-8") if isinstance(key, memoryview) else key
            if not isinstance(name, str):
                self.refuse(f"a {type(key).__name__} as key")
            target[name] = value

    def extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list):
            self.damaged("items of no list")
        target.extend(items)

    def last(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            self.damaged("too few values")
        items = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return items

    # --- arrays ---------------------------------------------------------------------------------

    def name(self, module: Any, name: Any) -> None:
        if (module, name) not in _KNOWN:
            self.refuse(repr(f"{module}.{name}"))
        self.stack.append(_Named(_KNOWN[module, name]))

    def reduce(self) -> None:
        """The call of a named function, which is understood instead of done."""
        function, arguments = self.last(2)
        if not isinstance(function, _Named) or not isinstance(arguments, tuple):
            self.damaged("a call of no name")
        first = arguments[0] if arguments else None
        match function.kind, len(arguments):
            case "reconstruct", 3 if first == _Named("ndarray"):
                self.stack.append(_Array())
            case "dtype", 1 | 2 | 3:
                self.stack.append(_DType(self.dtype(first)))
            case "scalar", 2 if isinstance(first, _DType):
                self.stack.append(self.view(first.dtype, (), arguments[1])[()])
            case "frombuffer", 4 if isinstance(arguments[1], _DType):
                payload, dtype, shape, order = arguments
                self.stack.append(_Array(self.view(dtype.dtype, shape, payload, order)))
            case "encode", 2 if isinstance(first, str):
                # Protocol 2 keeps bytes as text.
                self.stack.append(memoryview(first.encode("latin-1")))
            case "bytes", 0:
                self.stack.append(memoryview(b""))
            case "dict", 0:
                self.stack.append({})
            case _:
                self.refuse(f"a call of {function.kind!r} that NumPy does not write")

    def build(self) -> None:
        """The state of an array or dtype."""
        target, state = self.last(2)
        if not isinstance(state, tuple):
            self.damaged("no state")
        if isinstance(target, _DType):
            if any(part is not None for part in state[2:5]):
                self.refuse("a structured dtype")
            order = state[1]
            if order not in {"<", ">", "|", "=", b"<", b">", b"|", b"="}:
                self.damaged(f"byte order {order!r:.20}")
            target.dtype = target.dtype.newbyteorder("<" if order in {"|", "="} else order)
        elif isinstance(target, _Array):
            _, shape, dtype, fortran, payload = state
            if not isinstance(dtype, _DType):
                self.damaged("no dtype")
            if dtype.dtype.hasobject:
                if not isinstance(payload, list) or shape not in {(), (1,)}:
                    self.refuse("an array of objects")
                target.objects = payload
            else:
                target.array = self.view(dtype.dtype, shape, payload, "F" if fortran else "C")
        else:
            self.damaged("state of nothing")
        self.stack.append(target)

    def dtype(self, spec: Any) -> np.dtype[Any]:
        text = str(bytes(spec), "ascii") if isinstance(spec, memoryview) else spec
        if not isinstance(text, str) or not _DTYPE.fullmatch(text):
            self.refuse(f"the dtype {text!r}")
        return np.dtype(text)

    def view(self, dtype: np.dtype[Any], shape: Any, payload: Any, order: Any = "C") -> NDArray[Any]:
        """An array over a payload, whose size must fit."""
        if dtype.hasobject or not isinstance(payload, memoryview):
            self.refuse("an array of objects")
        if (
            not isinstance(shape, tuple)
            or len(shape) > MAX_DIMENSIONS
            or not all(type(n) is int and 0 <= n < 2**62 for n in shape)
            or order not in {"C", "F"}
        ):
            self.damaged(f"shape {shape!r:.60}")
        wanted = math.prod(shape) * dtype.itemsize
        if wanted != len(payload):
            self.damaged(f"shape {shape} of {dtype} needs {wanted:,} bytes, {len(payload):,} are there")
        return np.frombuffer(payload, dtype=dtype).reshape(shape, order=order)


def _push(value: Callable[[_Interpreter], Any]) -> Callable[[_Interpreter], None]:
    return lambda pickle: pickle.stack.append(value(pickle))


def _tuple(count: int) -> Callable[[_Interpreter], None]:
    return lambda pickle: pickle.stack.append(tuple(pickle.last(count)))


def _put(layout: str) -> Callable[[_Interpreter], None]:
    def put(pickle: _Interpreter) -> None:
        pickle.memo[pickle.number(layout)] = pickle.stack[-1]

    return put


def _memoize(pickle: _Interpreter) -> None:
    pickle.memo[len(pickle.memo)] = pickle.stack[-1]


def _global(pickle: _Interpreter) -> None:
    pickle.name(pickle.line(), pickle.line())


def _skip(size: int) -> Callable[[_Interpreter], None]:
    def skip(pickle: _Interpreter) -> None:
        pickle.take(size)

    return skip


# One entry per instruction that honest files use (pickletools.opcodes names them); the others are refused.
_INSTRUCTIONS: dict[int, Callable[[_Interpreter], None]] = {
    ord(code): action
    for code, action in {
        "\x80": _skip(1),  # PROTO
        "\x95": _skip(8),  # FRAME
        "(": _push(lambda _: _Mark()),
        "0": lambda p: p.last(1) and None,  # POP
        "N": _push(lambda _: None),
        "\x88": _push(lambda _: True),
        "\x89": _push(lambda _: False),
        "K": _push(lambda p: p.number("<B")),
        "M": _push(lambda p: p.number("<H")),
        "J": _push(lambda p: p.number("<i")),
        "\x8a": _push(lambda p: int.from_bytes(p.counted("<B"), "little", signed=True)),  # LONG1
        "G": _push(lambda p: struct.unpack(">d", p.take(8))[0]),
        "\x8c": _push(lambda p: p.text("<B")),
        "X": _push(lambda p: p.text("<I")),
        "\x8d": _push(lambda p: p.text("<Q")),
        "C": _push(lambda p: p.counted("<B")),
        "B": _push(lambda p: p.counted("<I")),
        "\x8e": _push(lambda p: p.counted("<Q")),
        "\x96": _push(lambda p: p.counted("<Q")),  # BYTEARRAY8
        "U": _push(lambda p: p.counted("<B")),  # strings of Python 2
        "T": _push(lambda p: p.counted("<I")),
        "}": _push(lambda _: {}),
        "]": _push(lambda _: []),
        ")": _push(lambda _: ()),
        "t": _push(lambda p: tuple(p.marked())),
        "\x85": _tuple(1),
        "\x86": _tuple(2),
        "\x87": _tuple(3),
        "s": lambda p: p.set_items(p.last(2)),
        "u": lambda p: p.set_items(p.marked()),
        "a": lambda p: p.extend(p.last(1)),
        "e": lambda p: p.extend(p.marked()),
        "q": _put("<B"),
        "r": _put("<I"),
        "\x94": _memoize,
        "h": _push(lambda p: p.memo[p.number("<B")]),
        "j": _push(lambda p: p.memo[p.number("<I")]),
        "c": _global,
        "\x93": lambda p: p.name(*p.last(2)),  # STACK_GLOBAL
        "R": lambda p: p.reduce(),
        "b": lambda p: p.build(),
    }.items()
}
