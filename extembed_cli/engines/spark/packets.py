"""Packets: our frames as rows of a Spark table. Spark looks at the key alone, so all types stay those of a local run.

A packet holds at most a few MiB, so that no batch between Spark and Python is large, whatever the size of a group.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import chain, groupby
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa

from extembed_cli.arrays import Ints
from extembed_cli.data.shards import ipc

SCHEMA = "key long, kind string, data binary"
IN_A_BATCH = 16  # packets that Spark hands to Python, and Python to Spark, at a time

_FIELDS = pa.schema([("key", pa.int64()), ("kind", pa.string()), ("data", pa.binary())])
_ROWS, _BYTES = 65_536, 4 * 2**20  # of a packet at most


class Packet(NamedTuple):
    """A piece of data for a group of a later stage."""

    key: int
    """Of the group"""
    kind: str
    data: bytes | pa.Buffer

    @property
    def frame(self) -> pl.DataFrame:
        """The frame in it."""
        return ipc.from_arrow(pa.ipc.open_stream(self.data).read_all())

    @property
    def value(self) -> Any:
        """The plain value in it."""
        return json.loads(bytes(self.data))


def packets_of(key: int, kind: str, frame: pl.DataFrame) -> Iterator[Packet]:
    """Yield a frame in packets; none if it has no rows."""
    yield from packets_by(np.full(len(frame), key), kind, frame)


def packets_by(keys: Ints, kind: str, frame: pl.DataFrame) -> Iterator[Packet]:
    """Yield the rows of a frame in packets of those of each key; none if it has no rows."""
    if frame.is_empty():
        return
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    (batch,) = ipc.to_arrow(frame[order]).combine_chunks().to_batches()
    starts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1])).tolist()
    for start, end in zip(starts, [*starts[1:], len(keys)], strict=True):
        most = max(1, min(_ROWS, _BYTES * (end - start) // max(1, batch[start:end].nbytes)))
        for low in range(start, end, most):
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, batch.schema) as writer:
                writer.write_batch(batch[low : min(low + most, end)])
            yield Packet(int(keys[low]), kind, sink.getvalue())


def packet_of_value(key: int, kind: str, value: Any) -> Packet:
    """Return plain data in a packet."""
    return Packet(key, kind, json.dumps(value).encode())


def batches_of(packets: Iterable[Packet]) -> Iterator[pa.RecordBatch]:
    """Yield packets as Spark takes them from Python."""
    waiting: list[Packet] = []
    for packet in packets:
        waiting.append(packet)
        if len(waiting) == IN_A_BATCH:
            yield _batch(waiting)
            waiting = []
    if waiting:
        yield _batch(waiting)


def table_of(packets: Iterable[Packet]) -> pa.Table:
    """Return packets as a table."""
    return pa.Table.from_batches(list(batches_of(packets)), _FIELDS)


def packets_in(table: pa.Table | pa.RecordBatch, *kinds: str) -> Iterator[Packet]:
    """Yield the packets of some kinds (all, if none is given) in a table from Spark; their data is not copied."""
    for batch in [table] if isinstance(table, pa.RecordBatch) else table.to_batches():
        of_batch = zip(batch.column(0).to_pylist(), batch.column(1).to_pylist(), batch.column(2), strict=True)
        for key, kind, data in of_batch:
            if not kinds or kind in kinds:
                yield Packet(key, kind, data.as_buffer())


def frames_in(table: pa.Table, kind: str) -> list[pl.DataFrame]:
    """Return the rows of one kind in a table from Spark, a frame for each run of packets with the same types."""
    readers = (pa.ipc.open_stream(packet.data) for packet in packets_in(table, kind))
    return [
        ipc.from_arrow(pa.Table.from_batches(chain.from_iterable(of_schema), schema))
        for schema, of_schema in groupby(readers, key=attrgetter("schema"))
    ]


def _batch(packets: list[Packet]) -> pa.RecordBatch:
    keys, kinds = [packet.key for packet in packets], [packet.kind for packet in packets]
    return pa.record_batch([keys, kinds, [bytes(packet.data) for packet in packets]], schema=_FIELDS)
