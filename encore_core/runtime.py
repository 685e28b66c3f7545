"""Settings of the process that must be made before torch is loaded.

Importing this module makes them, which `encore_core` does first.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable

# Threads that wait for each other by spinning starve any other process on the same cores: a matrix product of 1 ms was
# seen to take 15 ms beside one busy process, and 2 ms with waits that sleep. Waking a thread takes longer than many a
# step between two products, though, so it spins for some ten microseconds before it sleeps (GNU's OpenMP; others only
# know the first setting).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

# Without a fixed workspace cuBLAS may sum in another order each time, but a resumed run must end like one that was
# never interrupted.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

# The loader's progress bars would disturb ours.
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MOST_KEPT = 2**31 - 1


def keep_freed_memory(limit_bytes: int = 32 << 20) -> bool:
    """Let the C allocator reuse large blocks instead of handing each back to the system (glibc only).

    Every step of the target optimisation frees and allocates the same activations. Mapping them again costs page
    faults, which take longer than the arithmetic on a busy machine.

    Args:
        limit_bytes: blocks up to this size are reused; glibc accepts at most 32 MiB.

    Returns:
        whether the C library accepted the settings.
    """
    mallopt = _of_c_library("mallopt")
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, limit_bytes)) and bool(mallopt(_M_TRIM_THRESHOLD, _MOST_KEPT))


def return_freed_memory() -> bool:
    """Return to the system the memory that the C allocator keeps for reuse (glibc only).

    This memory grows with the longest group of texts so far, with holes between blocks of other sizes, and with the
    number of threads, each of which has its own arena. An idle process does not need it. Allocating it again costs one
    page fault per 4 KiB.

    Returns:
        whether the C library gave any back.
    """
    trim = _of_c_library("malloc_trim")
    return trim is not None and bool(trim(0))


def _of_c_library(name: str) -> Callable[..., int] | None:
    """A function of the C library, or None if it has none of this name."""
    try:
        return getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):  # Windows does not accept None as a library
        return None


keep_freed_memory()
