"""Events and candidates by shards of users: in memory, or, where they do not fit, in files of a scratch folder.

Their items are numbered on the way.

A user's shard is a hash of the id, so a log is cut up batch by batch, and all that belongs to a user comes together.
"""

from __future__ import annotations

import resource
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import polars as pl
import pyarrow as pa

from extembed_cli.data import ipc
from extembed_cli.data.ids import hashes, same_type
from extembed_cli.data.vocabulary import Numbering
from extembed_cli.errors import InputError, ResourceError
from extembed_cli.system.progress import Watch

Kind = Literal["candidates", "events"]

# Of the filter of users. Who is not asked about but shares a slot with somebody who is, is kept, and joins nothing.
_SLOTS = 2**22
_VOCABULARY = "vocabulary.arrow"
_BUCKETS = 2**16  # of users, in which their events are counted
_OTHER_FILES = 100


class Partition:
    """Frames with a column `user`, cut into shards. Candidates come first, then the events of their users alone.

    With `all_users` the events of users without candidates are kept too. Without a folder only the first shard is kept,
    in memory: all there is, or a sample of the users.
    """

    def __init__(self, shards: int, folder: Path | None, watch: Watch, *, all_users: bool = False) -> None:
        self.shards = shards
        self.folder = folder
        self.watch = watch
        self.all_users = all_users
        self.numbering = Numbering()
        self._frames: dict[Kind, list[pl.DataFrame]] = defaultdict(list)
        self._asked = None if all_users else np.zeros(_SLOTS, np.bool_)
        self._events = np.zeros(_BUCKETS, np.int64)

    @property
    def longest(self) -> int:
        """Events of the user with most of them, or a little more: users share buckets. 0 where shards were reopened."""
        return int(self._events.max())

    @contextmanager
    def adding(self, kind: Kind) -> Iterator[Callable[[pl.DataFrame], None]]:
        """A function that puts a frame where its users belong."""
        streams = None if self.folder is None else _Streams(self.folder, kind, self.shards)

        def add(frame: pl.DataFrame) -> None:
            with self.watch.timing("shard") as cost:
                cost.add(rows=len(frame))
                put(frame)

        def put(frame: pl.DataFrame) -> None:
            hashed = hashes(frame["user"])
            if self._asked is not None:
                slots = (hashed % _SLOTS).astype(np.int64)
                if kind == "candidates":
                    self._asked[slots] = True
                else:
                    kept = self._asked[slots]
                    frame, hashed = frame.filter(pl.Series(kept)), hashed[kept]
            if kind == "events":
                self._events += np.bincount((hashed % _BUCKETS).astype(np.int64), minlength=_BUCKETS)
            shard = (hashed // _SLOTS % self.shards).astype(np.min_scalar_type(self.shards))  # sorts fast
            if streams is None:
                frame = frame if self.shards == 1 else frame.filter(pl.Series(shard == 0))
                self._frames[kind].append(self._numbered(frame))
                return
            ordered = self._numbered(frame)[np.argsort(shard, kind="stable")]
            cuts = np.concatenate([[0], np.cumsum(np.bincount(shard, minlength=self.shards))])
            for index in np.flatnonzero(np.diff(cuts)).tolist():
                streams.write(index, ordered[cuts[index] : cuts[index + 1]])

        try:
            yield add
        finally:
            if streams is not None:
                streams.close()
                self.watch.cost("shard").add(bytes=streams.bytes)

    def keep(self) -> dict[str, int]:
        """Write the vocabulary beside the shards; the bytes of all files, by name."""
        assert self.folder is not None
        ipc.write_table(self.folder / _VOCABULARY, ipc.to_arrow(self.numbering.frame))
        return self._sizes()

    def reopen(self, kept: dict[str, int]) -> bool:
        """Take up shards and vocabulary that an earlier run kept; False where a file is missing or torn."""
        assert self.folder is not None
        if self._sizes() != kept:
            return False
        try:
            self.numbering = Numbering(ipc.from_arrow(ipc.map_table(self.folder / _VOCABULARY)))
        except (pa.ArrowException, OSError):
            return False
        return True

    def _sizes(self) -> dict[str, int]:
        assert self.folder is not None
        paths = [path for kind in get_args(Kind) for path in self.folder.glob(f"{kind}-*.arrow")]
        return {path.name: path.stat().st_size for path in sorted([*paths, *self.folder.glob(_VOCABULARY)])}

    def table(self, kind: Kind, shard: int) -> pa.Table | None:
        """The rows of a shard, their users in one type; None where there are none."""
        if self.folder is None:
            frames = self._frames[kind] if shard == 0 else []
        else:
            paths = sorted(self.folder.glob(f"{kind}-{shard:04d}-*.arrow"))
            frames = [_read(path) for path in paths]
        if not frames:
            return None
        users = same_type(*(frame["user"] for frame in frames))
        return ipc.to_arrow(pl.concat([f.with_columns(u.alias("user")) for f, u in zip(frames, users, strict=True)]))

    def _numbered(self, frame: pl.DataFrame) -> pl.DataFrame:
        return frame.with_columns(self.numbering.numbers(frame["item"]).alias("item_number")).drop("item")


def _read(path: Path) -> pl.DataFrame:
    try:
        return ipc.from_arrow(pa.ipc.open_stream(pa.memory_map(str(path))).read_all())
    except pa.ArrowException as error:
        raise InputError(f"{path}: a file of our own is damaged ({error}). Run again with --fresh") from error


def _allow_open_files(number: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < number:
        if hard != resource.RLIM_INFINITY and hard < number:
            raise ResourceError(
                f"the job needs {number:,} open files for its shards, and the system allows {hard:,}. Raise --memory, "
                "or the limit (ulimit -n)"
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (number, hard))


class _Streams:
    """One Arrow IPC stream for each shard of a kind, uncompressed; another one where the type of ids changes."""

    def __init__(self, folder: Path, kind: Kind, shards: int) -> None:
        self.folder, self.kind = folder, kind
        _allow_open_files(shards + _OTHER_FILES)
        for leftover in folder.glob(f"{kind}-*.arrow"):  # of a run that was killed in the middle of this
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

    def close(self) -> None:
        for shard in list(self.writers):
            self._close(shard)

    def _close(self, shard: int) -> None:
        if shard in self.writers:
            writer, sink = self.writers.pop(shard)
            writer.close()
            self.bytes += sink.tell()
            sink.close()
