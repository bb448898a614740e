"""Executed operations of a force call: what a call on a small system costs, without a clock."""

import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# The shape of the result depends on values, so the host has to wait for them: no CUDA graph can hold it.
DATA_DEPENDENT = frozenset(
    {
        *("aten.nonzero", "aten.nonzero_numpy", "aten.masked_select", "aten._unique2", "aten.unique_dim"),
        *("aten.unique_consecutive", "aten.bincount", "aten.repeat_interleave", "aten._local_scalar_dense"),
        *("aten.item", "aten.is_nonzero", "aten.equal", "aten.linalg_inv_ex", "aten._linalg_check_errors"),
    }
)
# Another name for the same memory: nothing is computed.
_VIEWS = frozenset(
    {
        *("view", "_unsafe_view", "reshape", "_reshape_alias", "alias", "detach", "expand", "t", "transpose"),
        *("permute", "squeeze", "unsqueeze", "slice", "select", "split", "split_with_sizes", "unbind"),
        *("as_strided", "chunk", "lift_fresh", "diagonal", "unfold"),
    }
)


def _name(function: Any) -> str:
    """``aten.mm`` of ``aten.mm.default``."""
    return ".".join(str(function).split(".")[:2])


class _Recorder(TorchDispatchMode):
    """Hears of every operation of this thread, also of those inside TorchScript and autograd."""

    def __init__(self, *, timed: bool = False) -> None:
        super().__init__()
        self.timed = timed
        self.counts: Counter[str] = Counter()
        self.seconds: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = _name(func)
        if name == "aten.index" and any(
            isinstance(index, torch.Tensor) and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        ):
            name = "aten.index[mask]"
        if name == "aten.repeat_interleave" and (kwargs or {}).get("output_size") is not None:
            name = "aten.repeat_interleave[sized]"
        self.counts[name] += 1
        if not self.timed:
            return func(*args, **(kwargs or {}))
        start = time.perf_counter()
        result = func(*args, **(kwargs or {}))
        self.seconds[name] += time.perf_counter() - start  # type: ignore[assignment]
        return result


# TorchScript optimises in its first calls.
WARM_UP = 3


def count_operators(call: Callable[[], Any], *, warm_up: int = WARM_UP) -> Counter[str]:
    """Operations that one call executes, by name, after a few calls that are not counted.

    Args:
        call: runs the model once, in this thread.
        warm_up: calls before.
    """
    for _ in range(warm_up):
        call()
    with _Recorder() as recorder:
        call()
    return recorder.counts


def is_view(name: str) -> bool:
    """Whether the operation only gives memory another shape."""
    return name.removeprefix("aten.") in _VIEWS


def computing(counts: Counter[str]) -> int:
    """Number of operations that compute or copy something."""
    return sum(n for name, n in counts.items() if not is_view(name))


def data_dependent(names: Iterable[str]) -> list[str]:
    """Those of the operations that ask for values on the host or make shapes of them."""
    return sorted(name for name in set(names) if name in DATA_DEPENDENT or name == "aten.index[mask]")


def profile_operators(
    call: Callable[[], Any], *, calls: int = 10, warm_up: int = WARM_UP
) -> tuple[Counter[str], dict[str, float]]:
    """Executed operations of one call, and the least time in us that all of each name took together.

    The clock costs each operation one or two us; views cost little else.

    Args:
        call: runs the model once, in this thread, on a processor.
        calls: repetitions; of each name the fastest counts.
        warm_up: calls before.
    """
    counts = count_operators(call, warm_up=warm_up)
    best: dict[str, float] = {}
    for _ in range(calls):
        with _Recorder(timed=True) as recorder:
            call()
        for name, seconds in recorder.seconds.items():
            best[name] = min(best.get(name, float("inf")), 1e6 * seconds)
    return counts, best
