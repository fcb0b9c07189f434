"""Atomic outputs: a lock, temporary names, fsync, rename. A killed run leaves the old output or the new one.

A directory is written beside the old one and takes its place in one step. An output that is a link stays one: the file
that it points to is replaced.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from extembed_cli.errors import DISK_FULL, LockedError, ResourceError, SpecError
from extembed_cli.printable import printable_json
from extembed_cli.system import signals
from extembed_cli.system.exchange import exchange

_NOT_ALLOWED = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextmanager
def locked(output: Path, wait: float) -> Iterator[None]:
    """Lock the output against other runs, and remove the temporary files of killed runs.

    The lock file is unlinked while it is held: filelock notices this by the link count, and waiting runs try again.
    """
    if not output.name:
        raise SpecError(f"{output}: is not a file name; name the output, such as features.parquet")
    output = real(output)
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
    """Files and folders under temporary names beside their targets, all renamed together."""

    def __init__(self) -> None:
        self.files: dict[Path, Path] = {}
        """Temporary path -> target, in the order in which they will be renamed."""
        self.folders: list[Path] = []
        self.obsolete: list[Path] = []
        """Old files under other names that the new files replace; removed after the renames."""

    @property
    def bytes(self) -> int:
        """Bytes of all files, those in folders among them."""
        paths = (each for path in self.files for each in (path.iterdir() if path.is_dir() else [path]))
        return sum(path.stat().st_size for path in paths)

    def temporary(self, target: Path, path: Path | None = None) -> Path:
        """Create an empty file with a temporary name for a target: a new name, or a given one, which readers look for.

        The name cannot be guessed, and a link in its place is not followed.
        """
        target = real(target)
        if path is None:
            path = _hidden(target)
        else:
            path.unlink(missing_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        self.files[path] = target
        return path

    def new_folder(self, target: Path) -> Path:
        """Create a folder with a temporary name that will take the place of a target with all its files."""
        target = real(target)
        path = _hidden(target)
        path.mkdir()
        self.files[path] = target
        return path

    def folder(self, path: Path) -> None:
        """Create a folder for staged files; it is removed if it is still empty at the end."""
        path.mkdir(exist_ok=True)
        self.folders.append(path)

    def json(self, target: Path, data: dict[str, Any]) -> Path:
        """Write JSON under a temporary name."""
        path = self.temporary(target)
        write_json(path, data)
        return path

    def commit(self) -> None:
        """Sync all files to the disk, then rename them all; only a crash can come in between."""
        for path in self.files:
            for each in [*path.iterdir(), path] if path.is_dir() else [path]:
                _fsync(each)
        with signals.deferred():
            for path, target in self.files.items():
                if path.is_dir():
                    _replace_folder(path, target)
                else:
                    path.replace(target)
                _fsync(target.parent)
            for old in self.obsolete:
                with suppress(OSError):
                    old.unlink()


def _hidden(target: Path) -> Path:
    return target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")


def _set_aside(target: Path) -> Path:
    """Return the name of an old folder while the new one is renamed, where both cannot be exchanged in one step."""
    return target.with_name(f".{target.name}.old")


def _replace_folder(path: Path, target: Path) -> None:
    """Give a folder the name of a target; the old folder, if there is one, gets another name."""
    if not target.exists():
        path.rename(target)
        return
    shutil.copymode(target, path)
    if exchange(path, target):
        return
    target.rename(_set_aside(target))
    path.rename(target)
    shutil.rmtree(_set_aside(target), ignore_errors=True)


def real(path: Path) -> Path:
    """Return where a path leads if it is a link, or below one."""
    return Path(os.path.realpath(path))


def replace_bytes(path: Path, data: bytes) -> None:
    """Write a file that gets its name only once it is complete and on the disk."""
    temporary = _hidden(path)
    try:
        with open(temporary, "xb") as file:  # noqa: PTH123  x: never through a link
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Write JSON as people read it."""
    path.write_text(json_document(data), encoding="utf-8")


def json_document(data: dict[str, Any]) -> str:
    """Return the text of a file of JSON."""
    return f"{printable_json(data)}\n"


@contextmanager
def staged() -> Iterator[Staged]:
    """Yield a stage for files that are committed together or not at all.

    At the end what has a temporary name is removed: files that were not committed, and folders that were replaced.
    """
    stage = Staged()
    try:
        yield stage
    finally:
        for path in stage.files:
            _remove(path)
        for folder in stage.folders:
            with suppress(OSError):
                folder.rmdir()


def remove_leftovers(output: Path) -> None:
    """Remove the temporary files of killed runs, and bring back a folder that was set aside; the output is locked."""
    aside = _set_aside(output)
    if aside.is_dir() and not output.exists():
        aside.rename(output)
    elif aside.exists():
        _remove(aside)
    for leftover in matching(output.parent, rf"\.{re.escape(output.name)}(\.run\.json)?\.[0-9a-f]+\.tmp"):
        _remove(leftover)


def _remove(path: Path) -> None:
    """Remove a file, a link or a folder, if it is there and may be removed."""
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


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
