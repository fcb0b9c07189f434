"""Computing the features of the owners of a bucket: one call of the function of every engine, from tables to tables."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Protocol

import polars as pl
import pyarrow as pa

from extembed_cli.data.columns.ids import rows_together
from extembed_cli.data.inputs.candidates import no_candidates
from extembed_cli.data.inputs.encode import encode
from extembed_cli.data.inputs.interactions import no_events
from extembed_cli.data.outputs.shard_results import FeaturePart, VectorPart
from extembed_cli.data.shards import ipc
from extembed_cli.engines.base import Job
from extembed_cli.engines.spark.packets import Packet, frames_in, packet_of_value, packets_by, packets_of
from extembed_cli.engines.spark.reading import CANDIDATES, EVENTS
from extembed_cli.engines.spark.shipping import shipped
from extembed_cli.engines.spark.tasks import Grouped
from extembed_cli.features.prepare import Shared
from extembed_cli.features.technique.columns import Column
from extembed_cli.spec.model import Spec

FEATURES, ABOUT, VECTORS = "features", "about", "vectors"


class BucketState(Protocol):
    """Where the state for a bucket comes from."""

    def of_bucket(self, *groups: pa.Table) -> Shared:
        """Return the state, given the packets of the bucket."""


@dataclass(frozen=True)
class ShippedState:
    """The state of all buckets, which was shipped."""

    spec: Spec
    columns: list[Column]
    name: str

    def of_bucket(self, *groups: pa.Table) -> Shared:
        """Return the state, which a worker opens once: the tasks of a pass follow each other."""
        if self.name not in _OPEN:
            _OPEN.clear()
            _OPEN[self.name] = Shared.open(self.spec, self.columns, shipped(self.name))
        return _OPEN[self.name]


_OPEN: dict[str, Shared] = {}
"""The shared state that this worker has opened, by its name"""


@dataclass(frozen=True)
class ComputeBucket(Grouped):
    """Returns the features of a bucket by part of the output, the vectors of its owners, and counts."""

    spec: Spec
    state: BucketState
    vectors_as_of: int
    part_rows: int
    required: tuple[str, ...]
    """Features whose values are counted"""

    def packets(self, key: int, *groups: pa.Table) -> Iterator[Packet]:
        """Yield the results of the events and the candidates of a bucket."""
        shared = self.state.of_bucket(*groups)
        job = Job(self.spec, shared, self.vectors_as_of)
        events, candidates = (
            _rows(self.spec, frames_in(group, kind), empty)
            for group, kind, empty in zip(
                groups, (EVENTS, CANDIDATES), (no_events(self.spec), no_candidates()), strict=True
            )
        )
        result = job.compute(encode(self.spec, events, candidates, shared.vocabulary))
        yield from packets_of_features(result.features, self.part_rows)
        for number, part in enumerate(result.vectors):
            yield from packets_of(number, VECTORS, _frame(part))
        about = {
            "repeats": result.repeats,
            "flagged": result.flagged,
            "tally": asdict(result.tally),
            "coverage": asdict(result.coverage),
            "known": result.features.known(self.required),
        }
        yield packet_of_value(key, ABOUT, about)


def packets_of_features(part: FeaturePart, part_rows: int) -> Iterator[Packet]:
    """Yield features by the part of the output that their rows are in."""
    frame = pl.DataFrame({"row": part.rows, **part.columns})
    yield from packets_by(part.rows // part_rows, FEATURES, frame)


def feature_part(frame: pl.DataFrame) -> FeaturePart:
    """Return the features that packets have, of several buckets and so in any order."""
    columns = {name: frame[name].to_numpy() for name in frame.columns}
    return FeaturePart.of(columns.pop("row"), columns)


def vector_part(frame: pl.DataFrame) -> VectorPart:
    """Return the vectors of owners that a packet has."""
    return VectorPart(frame["owner"], frame["vector"].to_numpy())


def _frame(part: VectorPart) -> pl.DataFrame:
    return pl.DataFrame(
        {"owner": part.owners, "vector": pl.Series(part.vectors, dtype=pl.Array(pl.Float32, part.vectors.shape[1]))}
    )


def _rows(spec: Spec, frames: list[pl.DataFrame], empty: pl.DataFrame) -> pa.Table:
    """Return rows as `encode` takes them."""
    side = spec.side
    if not frames:
        return ipc.to_arrow(empty)
    rows = rows_together(frames, "user", "item")
    return ipc.to_arrow(rows.rename({side.owner: "owner", side.partner: "partner"}))
