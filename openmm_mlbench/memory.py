"""What the C library does with freed memory."""

import ctypes
import sys


def keep_memory() -> bool:
    """Have this process keep memory that it frees, for the next step; whether the C library can.

    By default glibc gives large blocks back at once, and the system hands out zeroed pages anew at each step: of a
    simulation with a NequIP on 5,184 atoms a third of the time, and a share that grows with the atoms; of a training on
    192 atoms a twentieth.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    # M_TRIM_THRESHOLD: never; M_MMAP_MAX: no block by itself.
    return mallopt is not None and bool(mallopt(-1, -1)) and bool(mallopt(-4, 0))
