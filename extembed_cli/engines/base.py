"""The interface between a job and the engines that run its shards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import polars as pl
import pyarrow as pa

from extembed_cli.data.inputs.coverage import Coverage
from extembed_cli.data.outputs.shard_results import FeaturePart, ShardResult, Tally, VectorPart
from extembed_cli.features.compute import compute_shard
from extembed_cli.features.prepare import Shared
from extembed_cli.histories.csr import Shard
from extembed_cli.spec.model import Spec
from extembed_cli.system.threads import Mapping

Progress = Callable[[float], None]
"""Called with the number of candidates done since the last call"""


@dataclass(frozen=True)
class Job:
    """The state that all shards of a job share."""

    spec: Spec
    shared: Shared
    vectors_as_of: int
    """As-of time of the user vectors (us)"""

    def compute(self, shard: Shard, mapped: Mapping = map, progress: Progress = lambda candidates: None) -> ShardResult:
        """Return the result of one shard: the only function that an engine calls. `mapped` runs its tasks."""
        features = compute_shard(self.spec, self.shared, shard, self.vectors_as_of, mapped, progress)
        vectors = []
        for path in self.shared.vector_files:
            rows = features.vectors[path]
            fitted = ~np.isnan(rows[:, 0])
            vectors.append(VectorPart(shard.owners.filter(pl.Series(fitted)), rows[fitted]))
        return ShardResult(
            features=FeaturePart.of(shard.candidates.rows, features.columns, mapped),
            vectors=vectors,
            repeats=features.repeats,
            flagged={
                reason: [str(user) for user in shard.owners.gather(sorted(users))]
                for reason, users in features.flagged.items()
            },
            tally=features.tally,
            coverage=self.shared.coverage(self.spec, shard),
        )


@dataclass(frozen=True)
class ShardInput:
    """The input of one shard, read right before its computation."""

    tables: Callable[[], tuple[pa.Table, pa.Table]]
    """Returns its events and candidates, as `encode` takes them, to be sent elsewhere"""
    encode: Callable[[], Shard]
    """Encodes them here"""


class Engine(Protocol):
    """Runs shards in any order and anywhere, and yields their results in the order of the shards."""

    def run(self, job: Job, shards: Iterable[ShardInput], progress: Progress) -> Iterator[ShardResult]:
        """Yield the results of shards."""


@dataclass
class Results:
    """The results of all shards."""

    features: list[FeaturePart] = field(default_factory=list)
    vectors: list[list[VectorPart]] = field(default_factory=list)
    """By file of user vectors, in the order of the spec"""
    repeats: int = 0
    """Number of candidates whose item is in their user's visible history"""
    flagged: dict[str, list[str]] = field(default_factory=dict)
    """Ids of users with an unreliable result, by reason"""
    tally: Tally = field(default_factory=Tally)
    coverage: Coverage = field(default_factory=Coverage)
    resumed: int = 0
    """Number of shards that a killed run had finished"""

    @classmethod
    def of(cls, shards: Iterable[ShardResult]) -> Results:
        """Collect the results of shards."""
        results = cls()
        for shard in shards:
            results.features.append(shard.features)
            results.vectors = results.vectors or [[] for _ in shard.vectors]
            for parts, part in zip(results.vectors, shard.vectors, strict=True):
                parts.append(part)
            results.repeats += shard.repeats
            for reason, users in shard.flagged.items():
                results.flagged.setdefault(reason, []).extend(users)
            results.tally.add(shard.tally)
            results.coverage.add(shard.coverage)
            results.resumed += shard.resumed
        return results
