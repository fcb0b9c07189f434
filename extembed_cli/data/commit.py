"""Atomic outputs: a lock, temporary names, fsync, rename. A killed run leaves the old output or the new one."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from extembed_cli.errors import DISK_FULL, LockedError, ResourceError, SpecError
from extembed_cli.system import signals

_NOT_ALLOWED = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextmanager
def locked(output: Path, wait: float) -> Iterator[None]:
    """Lock the output against other runs, and remove the temporary files of killed runs.

    The lock file is unlinked while it is held: filelock notices this by the link count, and waiting runs try again.
    """
    if not output.name:
        raise SpecError(f"{output}: is not a file name; name the output, such as features.parquet")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SpecError(f"{output}: its folder cannot be created: {error.strerror}") from None
    _check_can_create_files(output)
    lock = FileLock(output.with_name(f".{output.name}.lock"))
    try:
        lock.acquire(timeout=wait)
    except Timeout:
        raise LockedError(
            f"{output}: another run is writing it. Wait for that run, or let this one wait with --wait SECONDS"
        ) from None
    except OSError as error:
        if error.errno in DISK_FULL:
            raise
        raise SpecError(f"{output}: its lock {lock.lock_file} cannot be created: {error.strerror}") from None
    try:
        remove_leftovers(output)
        yield
    finally:
        with suppress(OSError):
            Path(lock.lock_file).unlink()
        lock.release()


def _check_can_create_files(output: Path) -> None:
    """Raise if no file can be created beside the output, as in /proc: there filelock would wait for ever."""
    try:
        tempfile.TemporaryFile(dir=output.parent).close()
    except OSError as error:
        if error.errno in DISK_FULL:
            raise
        why = "no permission to write" if error.errno in _NOT_ALLOWED else "no file can be created"
        raise SpecError(
            f"{output}: {why} in this folder ({error.strerror}); name another output, or allow it (chmod)"
        ) from None


@contextmanager
def writing(output: Path) -> Iterator[None]:
    """Turn the system's errors into one that names the output; a full disk is reported elsewhere."""
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            raise
        raise ResourceError(f"{output}: cannot be written: {error}. It is only replaced when complete") from error


class Staged:
    """Files under temporary names beside their targets, all renamed together."""

    def __init__(self) -> None:
        self.files: dict[Path, Path] = {}
        """Temporary path -> target, in the order in which they will be renamed."""
        self.folders: list[Path] = []
        self.obsolete: list[Path] = []
        """Old files under other names that the new files replace; removed after the renames."""

    def temporary(self, target: Path, path: Path | None = None) -> Path:
        """Return a temporary path for a target: one of this process, or the given one, which readers look for."""
        path = path or target.with_name(f".{target.name}.{os.getpid()}.tmp")
        self.files[path] = target
        return path

    def folder(self, path: Path) -> None:
        """Create a folder for staged files; it is removed if it is still empty at the end."""
        path.mkdir(exist_ok=True)
        self.folders.append(path)

    def json(self, target: Path, data: dict[str, Any]) -> Path:
        """Write JSON under a temporary name."""
        path = self.temporary(target)
        path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return path

    def commit(self) -> None:
        """Sync all files to the disk, then rename them all; only a crash can come in between."""
        for path in self.files:
            _fsync(path)
        with signals.deferred():
            for path, target in self.files.items():
                path.replace(target)
                _fsync(target.parent)  # a manifest must not reach the disk before the parts that it lists
            for old in self.obsolete:
                with suppress(OSError):
                    old.unlink()


@contextmanager
def staged() -> Iterator[Staged]:
    """Yield a stage for files that are committed together or not at all; uncommitted files are removed."""
    stage = Staged()
    try:
        yield stage
    finally:
        for path in stage.files:
            with suppress(OSError):
                path.unlink()
        for folder in stage.folders:
            with suppress(OSError):
                folder.rmdir()


def remove_leftovers(output: Path) -> None:
    """Remove the temporary files of killed runs; the output must be locked."""
    for leftover in matching(output.parent, rf"\.{re.escape(output.name)}(\.run\.json)?\.\d+\.tmp"):
        with suppress(OSError):
            leftover.unlink()


def matching(folder: Path, pattern: str) -> list[Path]:
    """Return the files of a folder whose whole name matches a regular expression."""
    return [path for path in folder.iterdir() if re.fullmatch(pattern, path.name)]


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
