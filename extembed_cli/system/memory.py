"""Memory: the free part, the peak of this process, and the return of unused memory to the system."""

from __future__ import annotations

import ctypes
import re
import resource
import sys
from contextlib import suppress
from pathlib import Path

import pyarrow as pa

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?B)?", re.IGNORECASE)


def give_back() -> None:
    """Return memory that the allocators keep to the system; the next stage rarely needs the same memory."""
    pa.default_memory_pool().release_unused()
    with suppress(OSError, AttributeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)


def peak() -> int:
    """Return the peak of this process's resident bytes, from the kernel: `getrusage` starts with the parent's."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024


def size(text: str) -> int | None:
    """Return the bytes of a size such as `4GiB`, `4G` (both in 1024s) or `500MB` (in 1000s), or None."""
    match = _SIZE.fullmatch(text.strip())
    if not match or not (match[2] or match[3]):
        return None
    base = 1000 if match[3] and match[3].lower() == "b" else 1024
    return int(float(match[1]) * base ** " KMGT".index(match[2].upper() or " "))


def free() -> int | None:
    """Return three quarters of the memory that this machine or container has left; None if unknown."""
    left = []
    with suppress(OSError, KeyError, ValueError):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        left.append(int(dict(line.split(":", 1) for line in lines)["MemAvailable"].split()[0]) * 1024)
    with suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        limit, used = ((group / name).read_text(encoding="ascii") for name in ("memory.max", "memory.current"))
        left.append(int(limit) - int(used))
    return min(left) * 3 // 4 if left else None
