"""Events and candidates by shards of owners: in memory, or in files of a scratch folder if they do not fit.

Partners are numbered as they are added. An owner's shard is a hash of the id: a log is split batch by batch, and all
rows of an owner land in the same shard.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import polars as pl
import pyarrow as pa

from extembed_cli.data.columns.ids import hashes, rows_together
from extembed_cli.data.columns.vocabulary import Numbering
from extembed_cli.data.shards import ipc
from extembed_cli.data.shards.frame_streams import FrameStreams, read_frames
from extembed_cli.spec.sides import Side
from extembed_cli.system.progress import Watch

Kind = Literal["candidates", "events"]

# Slots of the filter of owners. It keeps some owners without candidates (hash collisions); they join nothing later.
_SLOTS = 2**22
_VOCABULARY = "vocabulary.arrow"
_USERS = Side()
_BUCKETS = 2**16  # of owners, for counting their events


class Partition:
    """Frames of users and items, split into shards of owners. Candidates come before the events of their owners.

    Rows without an owner are left out, and events of owners without candidates unless `all_owners`. Without a folder,
    only the first shard is kept, in memory: it has all owners, or a sample of them. At most `most` events fit into
    memory at a time.
    """

    def __init__(
        self,
        shards: int,
        folder: Path | None,
        watch: Watch,
        *,
        side: Side = _USERS,
        all_owners: bool = False,
        most: int | None = None,
    ) -> None:
        self.shards = shards
        self.folder = folder
        self.watch = watch
        self.side = side
        self.all_owners = all_owners
        self.most = most
        self.numbering = Numbering()
        self._frames: dict[Kind, list[pl.DataFrame]] = defaultdict(list)
        self._with_candidates = None if all_owners else np.zeros(_SLOTS, np.bool_)
        self._events = np.zeros(_BUCKETS, np.int64)

    @property
    def longest(self) -> int:
        """The most events of one owner, or a little more, because owners share buckets."""
        return int(self._events.max())

    @contextmanager
    def adding(self, kind: Kind) -> Iterator[Callable[[pl.DataFrame], None]]:
        """Yield a function that adds a frame to the shards of its owners."""
        streams = None if self.folder is None else FrameStreams(self.folder, kind, self.shards)

        def add(frame: pl.DataFrame) -> None:
            with self.watch.timing("shard") as cost:
                cost.add(rows=len(frame))
                put(frame)

        def put(frame: pl.DataFrame) -> None:
            frame = frame.rename({self.side.owner: "owner", self.side.partner: "partner"})
            if frame["owner"].null_count():
                frame = frame.filter(pl.col("owner").is_not_null())
            hashed = hashes(frame["owner"])
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
            streams.write_by(shard, self._numbered(frame))

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
        """Return the rows of a shard, with owners in one type; None if there are no rows."""
        if self.folder is None:
            frames = self._frames[kind] if shard == 0 else []
        else:
            frames = read_frames(self.folder, kind, shard)
        if not frames:
            return None
        return ipc.to_arrow(rows_together(frames, "owner"))

    def _numbered(self, frame: pl.DataFrame) -> pl.DataFrame:
        return frame.with_columns(self.numbering.numbers(frame["partner"]).alias("partner_number")).drop("partner")
