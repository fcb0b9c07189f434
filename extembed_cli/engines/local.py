"""Shards one after another in this process, the pieces of each over threads with one BLAS thread apiece."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from extembed_cli.data.scratch import Scratch
from extembed_cli.data.shard_results import ShardResult
from extembed_cli.engines.base import Job, Progress
from extembed_cli.histories.csr import Shard
from extembed_cli.system.memory import give_back
from extembed_cli.system.threads import Mapping


@dataclass
class LocalEngine:
    """An engine in this process."""

    mapped: Mapping
    scratch: Scratch | None = None
    """Where results wait in files; those of a killed run are taken up. None = in memory"""
    resumed: int = 0
    """Shards that an earlier run had finished"""

    def run(self, job: Job, shards: Iterable[Callable[[], Shard]], progress: Progress) -> Iterator[ShardResult]:
        """The results of shards, each encoded when its turn comes."""
        for index, encoded in enumerate(shards):
            result = None if self.scratch is None else ShardResult.load(self.scratch, index)
            if result is not None:
                self.resumed += 1
                progress(float(len(result.features.rows)))
            else:
                result = job.compute(encoded(), self.mapped, progress)
                if self.scratch is not None:
                    result = result.save(self.scratch, index)
                    give_back()
            yield result
