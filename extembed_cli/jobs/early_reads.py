"""The reads of the whole log that come before the passes, for derived tables and for surveys: plans and folders."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from extembed_cli.data.inputs.inputs import Opened
from extembed_cli.data.shards.scratch import check_own, make_folder, scratch_folder
from extembed_cli.jobs.layout import Layout, layout_of
from extembed_cli.jobs.options import RunOptions
from extembed_cli.spec.model import Spec
from extembed_cli.system.memory import give_back

Read = Literal["derive", "survey"]
_LARGEST_PART = 4  # arrays above this part of the memory (a quarter) are in files


class ReadPlan(NamedTuple):
    """How the log is read."""

    opened: Opened
    layout: Layout
    bytes_in_memory: int
    """Of the arrays that are made from it"""


def plan_read(
    opened: Opened, options: RunOptions, purpose: str, arrays: int, others: int, *, earlier: int = 0
) -> ReadPlan:
    """Return the plan of a read that makes arrays of so many bytes, which may be in files, and others; or raise.

    `earlier` are the bytes that an earlier read has left in memory.
    """
    in_files = options.memory is not None and arrays > options.memory // _LARGEST_PART
    kept = others + (0 if in_files else arrays)
    layout = options.layout or layout_of(
        opened.spec,
        opened.complete(),
        options.workers,
        options.memory,
        cached=options.cache is not None,
        other_needs={purpose: kept, **({"earlier reads": earlier} if earlier else {})},
    )
    return ReadPlan(opened, replace(layout, mapped=layout.mapped or in_files), kept)


@contextmanager
def folder_of(read: Read, spec: Spec, options: RunOptions, layout: Layout) -> Iterator[Path | None]:
    """Yield a new folder for a read, which is removed at its end; None where all is in memory.

    Unnamed files in it outlive it. A killed run leaves the folder, and the next one does this read again.
    """
    folder = _folder(read, spec, options) if layout.on_disk else None
    if folder is None:
        yield None
        return
    check_own(folder, "--scratch")
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
