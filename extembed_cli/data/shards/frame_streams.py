"""Frames by shard in scratch files: one uncompressed Arrow IPC stream for each shard."""

from __future__ import annotations

import resource
from collections import defaultdict
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from extembed_cli.arrays import Ints
from extembed_cli.data.shards import ipc
from extembed_cli.errors import InputError, ResourceError

_OTHER_FILES = 100


def read_frames(folder: Path, kind: str, shard: int) -> list[pl.DataFrame]:
    """Return the frames of one kind and shard, in the order in which they were written."""
    return [_read(path) for path in sorted(folder.glob(f"{kind}-{shard:04d}-*.arrow"))]


def _read(path: Path) -> pl.DataFrame:
    try:
        return ipc.from_arrow(pa.ipc.open_stream(pa.memory_map(str(path))).read_all())
    except pa.ArrowException as error:
        raise InputError(f"{path}: this scratch file is damaged ({error}). Run again with --fresh") from error


def _allow_open_files(number: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < number:
        if hard != resource.RLIM_INFINITY and hard < number:
            raise ResourceError(
                f"the job needs {number:,} open files for its shards, and the system allows {hard:,}. Raise --memory, "
                "or the limit (ulimit -n)"
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (number, hard))


class FrameStreams:
    """One uncompressed Arrow IPC stream for each shard of a kind; a new stream where the type of ids changes."""

    def __init__(self, folder: Path, kind: str, shards: int) -> None:
        self.folder, self.kind = folder, kind
        _allow_open_files(shards + _OTHER_FILES)
        for leftover in folder.glob(f"{kind}-*.arrow"):  # of a run that was killed while it wrote them
            leftover.unlink()
        self.writers: dict[int, tuple[pa.ipc.RecordBatchStreamWriter, pa.OSFile]] = {}
        self.schemas: dict[int, list[pa.Schema]] = defaultdict(list)
        self.bytes = 0

    def write(self, shard: int, frame: pl.DataFrame) -> None:
        table = ipc.to_arrow(frame)
        if not self.schemas[shard] or self.schemas[shard][-1] != table.schema:
            self._close(shard)
            self.schemas[shard].append(table.schema)
            name = f"{self.kind}-{shard:04d}-{len(self.schemas[shard]):04d}.arrow"
            sink = pa.OSFile(str(self.folder / name), "wb")
            self.writers[shard] = (pa.ipc.new_stream(sink, table.schema), sink)
        self.writers[shard][0].write_table(table)

    def write_by(self, shards: Ints, frame: pl.DataFrame) -> None:
        """Write each row to its shard."""
        ordered = frame[np.argsort(shards, kind="stable")]
        counts = np.bincount(shards)
        cuts = np.concatenate([[0], np.cumsum(counts)])
        for index in np.flatnonzero(counts).tolist():
            self.write(index, ordered[cuts[index] : cuts[index + 1]])

    def close(self) -> None:
        for shard in list(self.writers):
            self._close(shard)

    def _close(self, shard: int) -> None:
        if shard in self.writers:
            writer, sink = self.writers.pop(shard)
            writer.close()
            self.bytes += sink.tell()
            sink.close()
