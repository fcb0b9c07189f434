"""Events and candidates by shards of users: in memory, or in files of a scratch folder if they do not fit.

Items are numbered as they are added. A user's shard is a hash of the id: a log is split batch by batch, and all rows of
a user land in the same shard.
"""

from __future__ import annotations

import resource
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import polars as pl
import pyarrow as pa

from extembed_cli.data import ipc
from extembed_cli.data.ids import hashes, same_type
from extembed_cli.data.vocabulary import Numbering
from extembed_cli.errors import InputError, ResourceError
from extembed_cli.system.progress import Watch

Kind = Literal["candidates", "events"]

# Slots of the filter of users. It keeps some users without candidates (hash collisions); they join nothing later.
_SLOTS = 2**22
_VOCABULARY = "vocabulary.arrow"
_BUCKETS = 2**16  # of users, for counting their events
_OTHER_FILES = 100


class Partition:
    """Frames with a column `user`, split into shards. Candidates are added before the events of their users.

    Events of other users are kept only with `all_users`. Without a folder, only the first shard is kept, in memory: it
    has all users, or a sample of them.
    """

    def __init__(self, shards: int, folder: Path | None, watch: Watch, *, all_users: bool = False) -> None:
        self.shards = shards
        self.folder = folder
        self.watch = watch
        self.all_users = all_users
        self.numbering = Numbering()
        self._frames: dict[Kind, list[pl.DataFrame]] = defaultdict(list)
        self._with_candidates = None if all_users else np.zeros(_SLOTS, np.bool_)
        self._events = np.zeros(_BUCKETS, np.int64)

    @property
    def longest(self) -> int:
        """The most events of one user, or a little more, because users share buckets."""
        return int(self._events.max())

    @contextmanager
    def adding(self, kind: Kind) -> Iterator[Callable[[pl.DataFrame], None]]:
        """Yield a function that adds a frame to the shards of its users."""
        streams = None if self.folder is None else _Streams(self.folder, kind, self.shards)

        def add(frame: pl.DataFrame) -> None:
            with self.watch.timing("shard") as cost:
                cost.add(rows=len(frame))
                put(frame)

        def put(frame: pl.DataFrame) -> None:
            hashed = hashes(frame["user"])
            if self._with_candidates is not None:
                slots = (hashed % _SLOTS).astype(np.int64)
                if kind == "candidates":
                    self._with_candidates[slots] = True
                else:
                    kept = self._with_candidates[slots]
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

    def keep(self) -> dict[str, Any]:
        """Write the vocabulary beside the shards; return what `reopen` needs."""
        assert self.folder is not None
        ipc.write_table(self.folder / _VOCABULARY, ipc.to_arrow(self.numbering.frame))
        return {"bytes": self._sizes(), "longest": self.longest}

    def reopen(self, kept: dict[str, Any]) -> bool:
        """Load the shards and vocabulary that an earlier run kept; return False if a file is missing or torn."""
        assert self.folder is not None
        if self._sizes() != kept["bytes"]:
            return False
        try:
            self.numbering = Numbering(ipc.from_arrow(ipc.map_table(self.folder / _VOCABULARY)))
        except (pa.ArrowException, OSError):
            return False
        self._events[0] = kept["longest"]
        return True

    def _sizes(self) -> dict[str, int]:
        """Return the sizes of all files in bytes, by name."""
        assert self.folder is not None
        paths = [path for kind in get_args(Kind) for path in self.folder.glob(f"{kind}-*.arrow")]
        return {path.name: path.stat().st_size for path in sorted([*paths, *self.folder.glob(_VOCABULARY)])}

    def table(self, kind: Kind, shard: int) -> pa.Table | None:
        """Return the rows of a shard, with users in one type; None if there are no rows."""
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


class _Streams:
    """One uncompressed Arrow IPC stream for each shard of a kind; a new stream where the type of ids changes."""

    def __init__(self, folder: Path, kind: Kind, shards: int) -> None:
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

    def close(self) -> None:
        for shard in list(self.writers):
            self._close(shard)

    def _close(self, shard: int) -> None:
        if shard in self.writers:
            writer, sink = self.writers.pop(shard)
            writer.close()
            self.bytes += sink.tell()
            sink.close()
