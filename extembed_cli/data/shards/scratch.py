"""A folder for data that does not fit into memory. It outlives a killed run, and the next run resumes from it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from extembed_cli.data.files.commit import replace_bytes
from extembed_cli.errors import DISK_FULL, SpecError
from extembed_cli.json_files import read_json

_JOB = "job.json"
FINISHED = "shard-*.json"
"""Pattern of the last file of each finished shard."""


@dataclass(frozen=True)
class Scratch:
    """The folder of one job."""

    folder: Path
    layout: dict[str, Any]
    """How the job is split into shards."""

    def write_json(self, name: str, data: dict[str, Any]) -> None:
        """Write a file that gets its name only once it is complete."""
        replace_bytes(self.folder / name, json.dumps(data).encode())

    def read_json(self, name: str) -> dict[str, Any] | None:
        """Return the data that `write_json` wrote, or None."""
        return read_json(self.folder / name)


def scratch_folder(parent: Path, output: Path, number: int = 0) -> Path:
    """Return the folder in `parent` for a pass of the job that writes an output."""
    name = f".extembed-{hashlib.sha256(str(output.absolute()).encode()).hexdigest()[:12]}"
    return parent / (f"{name}-{number}" if number else name)


@contextmanager
def scratch(
    folder: Path,
    job: Callable[[], dict[str, Any]],
    layout: dict[str, Any],
    *,
    needed: bool,
    fits: Callable[[dict[str, Any]], bool] | None,
    note: Callable[[str], None],
) -> Iterator[Scratch | None]:
    """Yield the folder of a job; it is removed at the end, however the job ends.

    `job` returns the parts that identify the job; a part's key names a difference in it ("other inputs"). A killed run
    is resumed if all parts are equal and its layout `fits` (None: never, and without a note); otherwise its files
    are removed, and a note says why. A job that fits into memory (not `needed`) has no folder (None), unless it resumes
    a run with finished shards. No other run uses the folder, because the job has locked its output.
    """
    check_own(folder, "--scratch")
    old = None
    wanted = {aspect: _digest(value) for aspect, value in job().items()} if needed or folder.exists() else {}
    if folder.exists():
        old = read_json(folder / _JOB)
        why = _why_not(old, wanted, fits)
        if why is None and not needed and not any(folder.glob(FINISHED)):
            why = "it had finished no shard"
        if why:
            if fits is not None:
                note(f"a killed run cannot be resumed: {why}. Starting over")
            shutil.rmtree(folder)
            old = None
    if old is None and not needed:
        yield None
        return
    try:
        make_folder(folder, "data that does not fit into memory", "--scratch")
        place = Scratch(folder, layout if old is None else old["layout"])
        if old is None:
            place.write_json(_JOB, {"job": wanted, "layout": layout})
        yield place
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_own(folder: Path, place: str) -> None:
    """Raise if somebody has put something else in the place of a folder of ours, whose name can be guessed.

    `place` is the flag or the variable that names another place.
    """
    with suppress(FileNotFoundError, NotADirectoryError):
        status = folder.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
            raise SpecError(
                f"{folder}: is a link, a file, or a folder of another user, where a run keeps its own data. "
                f"Remove it, or name another place with {place}"
            )


def make_folder(folder: Path, content: str, flag: str) -> None:
    """Create a folder, or raise an error with the flag that names another one."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(0, "no permission to write in it")
    except OSError as error:
        if error.errno in DISK_FULL:
            raise
        raise SpecError(
            f"{folder}: cannot be a folder for {content}: {error.strerror}. Name another place with {flag}"
        ) from None


def _why_not(
    old: dict[str, Any] | None, wanted: dict[str, str], fits: Callable[[dict[str, Any]], bool] | None
) -> str | None:
    """Return why a killed run cannot be resumed; None if it can."""
    if fits is None:
        return "this run starts over"
    if old is None:
        return "it had not begun"
    changes = [aspect for aspect, digest in wanted.items() if old["job"].get(aspect) != digest]
    if changes:
        return f"it had {' and '.join(changes)}"
    return None if fits(old["layout"]) else "its shards are too large for this run's memory"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
