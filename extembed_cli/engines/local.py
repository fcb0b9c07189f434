"""The engine in this process: shards one after another, the tasks of each on threads with one BLAS thread each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from extembed_cli.data.outputs.shard_results import ShardResult
from extembed_cli.data.shards.scratch import Scratch
from extembed_cli.engines.base import Job, Progress, ShardInput
from extembed_cli.system.memory import give_back
from extembed_cli.system.threads import Mapping


@dataclass(frozen=True)
class LocalEngine:
    """Runs shards in this process."""

    mapped: Mapping
    scratch: Scratch | None = None
    """Folder of finished results, from which a killed run is resumed; None = results are in memory"""

    def run(self, job: Job, shards: Iterable[ShardInput], progress: Progress) -> Iterator[ShardResult]:
        """Yield the results of shards; a shard that a killed run finished is loaded, not computed."""
        for index, shard in enumerate(shards):
            result = None if self.scratch is None else ShardResult.load(self.scratch, index)
            if result is not None:
                progress(float(len(result.features.rows)))
            else:
                result = job.compute(shard.encode(), self.mapped, progress)
                if self.scratch is not None:
                    result = result.save(self.scratch, index)
                    give_back()
            yield result
