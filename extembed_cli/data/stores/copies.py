"""Local copies of objects: each object of a store is read once, whole, and every later read is of the copy.

A run reads its inputs more than once (footers, a digest of all bytes, columns), and all reads have to see the same
content. Copies lie in the temporary folder (`TMPDIR`) until the process ends; those of killed processes are removed by
the next run that copies.
"""

from __future__ import annotations

import atexit
import fcntl
import hashlib
import os
import re
import shutil
import stat
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache, partial
from pathlib import Path

from extembed_cli.data.stores.filesystems import Store, asking
from extembed_cli.errors import InputError, Problems, ResourceError

_PREFIX = "extembed-objects-"
_LOCK = "lock"
"""The file in a folder of copies that is locked as long as its process lives"""
_FILES, _BLOCKS = 8, 8  # read at a time
_BLOCK = 8 * 2**20  # bytes


def copies_of(store: Store, sizes: dict[str, int]) -> dict[str, Path]:
    """Return the local copy of each object, given the sizes in bytes by path; raise the problems of all together."""
    _check_space(store.url(store.path), sum(sizes.values()))
    problems, copies = Problems(), {}
    with ThreadPoolExecutor(_FILES) as files, ThreadPoolExecutor(_BLOCKS) as blocks:
        for path, copy in zip(sizes, files.map(partial(_attempt, store, blocks), sizes), strict=True):
            with problems.collect():
                if isinstance(copy, Exception):
                    raise copy
                copies[path] = copy
    problems.raise_any()
    return copies


def _attempt(store: Store, blocks: ThreadPoolExecutor, path: str) -> Path | Exception:
    """Return the copy of an object, or the error, so that the problems of all objects are raised together."""
    try:
        return _copy(store, path, blocks)
    except Exception as error:
        return error


def _copy(store: Store, path: str, blocks: ThreadPoolExecutor) -> Path:
    url = store.url(path)
    with asking(url):
        state = _state(store, path)
        copy = _folder() / hashlib.sha256(f"{url} {state}".encode()).hexdigest()[:16] / path
        if copy.exists():
            return copy
        copy.parent.mkdir(parents=True, exist_ok=True)
        unfinished = copy.with_name(f"{copy.name}.copying")
        with store.fs.open_input_file(path) as source, unfinished.open("wb") as target:
            size, handle = source.size(), target.fileno()

            def move(start: int) -> None:
                wanted = min(_BLOCK, size - start)
                data = source.read_at(wanted, start)
                if len(data) < wanted:
                    raise OSError(f"the connection was cut after {start + len(data):,} of {size:,} bytes")
                os.pwrite(handle, data, start)

            list(blocks.map(move, range(0, size, _BLOCK)))
        if _state(store, path) != state:
            raise InputError(f"{url}: changed while it was being read. Run again")
        return unfinished.rename(copy)


def _state(store: Store, path: str) -> tuple[object, ...]:
    """Return what changes when an object is replaced: its size, and its ETag or time of change."""
    with store.fs.open_input_file(path) as file:
        about = {str(key).lower(): value for key, value in (file.metadata() or {}).items()}
        tag = next((value for key, value in about.items() if "etag" in key), None)
        if tag is not None:
            return file.size(), tag
    info = store.fs.get_file_info(path)
    return info.size, info.mtime_ns


@cache
def _folder() -> Path:
    """Create the folder of this process, which is locked while the process lives, and remove those of dead ones."""
    parent = Path(tempfile.gettempdir())
    for other in parent.glob(f"{_PREFIX}*"):
        with suppress(OSError):  # locked by a living process, or removed meanwhile
            _remove_if_dead(other)
    made = Path(tempfile.mkdtemp(prefix=".extembed-new-", dir=parent))
    handle = os.open(made / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)  # open, and so locked, as long as this process lives
    fcntl.flock(handle, fcntl.LOCK_EX)
    folder = made.rename(parent / f"{_PREFIX}{made.name.rpartition('-')[2]}")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _remove_if_dead(folder: Path) -> None:
    """Remove a folder that a killed process of this user has left; anybody may put other things beside it."""
    status = folder.lstat()
    named_by_us = re.fullmatch(rf"{_PREFIX}[a-z0-9_]{{8}}", folder.name)
    if not (named_by_us and stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()):
        return
    handle = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)  # a pipe would wait for a reader
    try:
        if stat.S_ISREG(os.fstat(handle).st_mode):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(handle)


def _check_space(url: str, needed: int) -> None:
    folder = _folder()
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ResourceError(
            f"{url}: its copy needs {needed / 2**30:,.1f} GiB in {folder.parent}, which has {free / 2**30:,.1f} GiB. "
            "Name a larger folder by TMPDIR"
        )
