"""Folders of the reads of the whole log that come before the passes: derived tables, and surveys."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, get_args

from extembed_cli.data.scratch import make_folder, scratch_folder
from extembed_cli.jobs.layout import Layout
from extembed_cli.jobs.options import RunOptions
from extembed_cli.spec.model import Spec
from extembed_cli.system.memory import give_back

Read = Literal["derive", "survey"]
LARGEST_PART = 4  # arrays above this part of the memory (a quarter) are in files


@contextmanager
def folder_of(read: Read, spec: Spec, options: RunOptions, layout: Layout) -> Iterator[Path | None]:
    """Yield a new folder for a read, which is removed at its end; None where all is in memory.

    Unnamed files in it outlive it. A killed run leaves the folder, and the next one does this read again.
    """
    folder = _folder(read, spec, options) if layout.on_disk else None
    if folder is None:
        yield None
        return
    shutil.rmtree(folder, ignore_errors=True)
    make_folder(folder, "data that does not fit into memory", "--scratch")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        give_back()  # memory is short, and the passes need little of what was read


def folders_of_all(spec: Spec, options: RunOptions) -> list[Path]:
    """Return the folders of all reads of a job."""
    return [_folder(read, spec, options) for read in get_args(Read)]


def _folder(read: Read, spec: Spec, options: RunOptions) -> Path:
    output = Path(spec.outputs[0])
    folder = scratch_folder(options.scratch or output.parent, output)
    return folder.with_name(f"{folder.name}-{read}")
