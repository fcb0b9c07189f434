"""What all tasks share: our errors travel to the driver as packets, so that a task with bad data is not tried again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator

import numpy as np
import polars as pl
import pyarrow as pa
from threadpoolctl import threadpool_limits

from extembed_cli import errors
from extembed_cli.arrays import Ints
from extembed_cli.data.columns.ids import hashes
from extembed_cli.engines.spark.packets import Packet, batches_of, packet_of_value, packets_in, table_of
from extembed_cli.errors import DISK_FULL, ExtembedError, ResourceError

PROBLEM = "problem"


def caught(key: int, packets: Iterable[Packet]) -> Iterator[Packet]:
    """Yield packets, and where an error of ours comes instead, a packet with the error."""
    with threadpool_limits(1, "blas"):  # the bits of a product depend on the number of threads
        try:
            yield from packets
        except ExtembedError as error:
            yield _problem(key, error)
        except MemoryError:
            message = (
                "a Spark task has no memory left. Give executors more (spark.executor.memoryOverhead), or --buckets"
            )
            yield _problem(key, ResourceError(message))
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise
            yield _problem(key, ResourceError(f"a disk of a Spark executor is full: {error}"))


def raise_problems(packets: Iterable[Packet]) -> None:
    """Raise the errors in packets, all together."""
    problems = errors.Problems()
    for packet in packets:
        if packet.kind == PROBLEM:
            problems.errors.append(getattr(errors, packet.value["type"])(*packet.value["args"]))
    problems.raise_any()


def buckets_of(ids: pl.Series, buckets: int) -> Ints:
    """Return the bucket of each id: a hash that is the same for equal ids of any type."""
    return (hashes(ids) % np.uint64(buckets)).astype(np.int64)


def _problem(key: int, error: ExtembedError) -> Packet:
    return packet_of_value(key, PROBLEM, {"type": type(error).__name__, "args": [*map(str, error.args)]})


class Grouped(ABC):
    """A task for each group of packets, given to `applyInArrow`, or for two groups of one key. Subclass it."""

    @abstractmethod
    def packets(self, key: int, *groups: pa.Table) -> Iterator[Packet]:
        """Yield the packets of one group."""

    def __call__(self, key: tuple[pa.Scalar, ...], *groups: pa.Table) -> pa.Table:
        problems = [packet for group in groups for packet in packets_in(group, PROBLEM)]
        if problems:  # of an earlier stage: they go on to the driver, and what they leave out is not computed
            return table_of(problems)
        number = key[0].as_py()
        return table_of(caught(number, self.packets(number, *groups)))


class Numbered(ABC):
    """A task for each number of a range, given to `mapInArrow`. Subclass it."""

    @abstractmethod
    def packets(self, number: int) -> Iterator[Packet]:
        """Yield the packets of one number."""

    def __call__(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for number in batch.column(0).to_pylist():
                yield from batches_of(caught(number, self.packets(number)))
