"""Memory that is free but still ours: what was used at the peak, and giving it back."""

from __future__ import annotations

import ctypes
import resource
import sys
from contextlib import suppress
from pathlib import Path

import pyarrow as pa


def give_back() -> None:
    """Return what allocators keep for later to the system; what a stage needed is rarely what the next one does."""
    pa.default_memory_pool().release_unused()
    with suppress(OSError, AttributeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)


def peak() -> int:
    """Bytes this process had resident at most. The kernel's figure: `getrusage` starts with that of the parent."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024
