"""The output, all or nothing: a lock, a temporary name, fsync, read back, rename. A killed run leaves the old one."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from extembed_cli.errors import LockedError, SpecError


@contextmanager
def locked(output: Path, wait: float) -> Iterator[None]:
    """Hold the output against other runs; leftovers of runs that were killed are removed.

    The lock file is unlinked while held: filelock sees that by the link count, and those who wait try again.
    """
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SpecError(f"{output}: the folder cannot be made: {error.strerror}") from None
    if not os.access(output.parent, os.W_OK):
        raise SpecError(f"{output}: no permission to write in this folder")
    lock = FileLock(output.with_name(f".{output.name}.lock"))
    try:
        lock.acquire(timeout=wait)
    except Timeout:
        raise LockedError(
            f"{output}: another run is writing it. Wait for that run, or let this one wait with --wait SECONDS"
        ) from None
    try:
        for leftover in output.parent.glob(f".{glob_escape(output.name)}.*.tmp"):
            with suppress(OSError):
                leftover.unlink()
        yield
    finally:
        with suppress(OSError):
            Path(lock.lock_file).unlink()
        lock.release()


def glob_escape(name: str) -> str:
    """A file name as a pattern that matches only itself."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


@contextmanager
def temporary(target: Path) -> Iterator[Path]:
    """A temporary name beside the target; whatever stands there when the block fails is removed."""
    path = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        yield path
    finally:
        with suppress(OSError):
            path.unlink()


def commit(written: Path, target: Path) -> None:
    """Make a written file the target: its bytes reach the disk before its name does."""
    with written.open("rb") as file:
        os.fsync(file.fileno())
    written.replace(target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_json(target: Path, data: dict[str, Any]) -> None:
    """Write a JSON file, all or nothing."""
    with temporary(target) as path:
        path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        commit(path, target)


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
