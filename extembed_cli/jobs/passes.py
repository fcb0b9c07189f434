"""The passes of a job, as an engine runs them: what goes in, and what comes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from extembed_cli.data.files.commit import Staged
from extembed_cli.data.inputs.inputs import Inputs, Loaded, Opened
from extembed_cli.data.inputs.vector_cache import VectorCache
from extembed_cli.data.outputs.feature_file import FeatureTable
from extembed_cli.data.outputs.shard_results import Tally
from extembed_cli.engines.base import Job, Results
from extembed_cli.jobs.options import RunOptions
from extembed_cli.spec.model import Spec
from extembed_cli.system import threads
from extembed_cli.system.progress import Watch


@dataclass(frozen=True)
class PassResults:
    """The results of the histories of one side, users' or items'."""

    loaded: Loaded
    job: Job
    results: Results


@dataclass(frozen=True)
class RunInputs:
    """What the passes of a job are computed from."""

    opened: Opened
    passes: list[Opened]
    """The inputs of each pass"""
    caches: list[VectorCache | None]
    """The tables of each pass in the cache folder, if there is one"""
    models: dict[str, Any]
    """Digests of trained models and frozen sums"""
    urls: Mapping[str, str]
    """Of the outputs in stores, by the local paths that stand in for them"""
    options: RunOptions
    mapped: threads.Mapping
    watch: Watch

    @property
    def spec(self) -> Spec:
        return self.opened.spec

    @property
    def inputs(self) -> Inputs:
        return self.opened.complete()

    @property
    def known_digests(self) -> dict[str, Any]:
        """Digests of embedding tables that the cache has, so that they need no computation."""
        return {name: digest for cache in self.caches if cache for name, digest in cache.digests.items()}


@dataclass
class Computed:
    """What is known once all passes are computed, besides the features."""

    passes: list[PassResults] = field(default_factory=list)
    surveyed: Tally = field(default_factory=Tally)
    """Counts of what techniques have learnt from all items"""


class Passes(Protocol):
    """The passes of one job where an engine runs them; the features stay there until they are written."""

    def digests(self) -> Future[dict[str, Any]]:
        """Begin to compute the digests of all inputs, and return where they will be."""

    def compute(self) -> Computed:
        """Compute all passes, and the columns within a request."""

    def known(self, columns: Sequence[str]) -> dict[str, int]:
        """Return the number of candidates for which each of some columns has a value, where an engine has counted."""

    def write(self, stage: Staged, output: Path, table: FeatureTable) -> str:
        """Stage the features of all passes; return the SHA-256 of the output."""

    def report(self) -> dict[str, Any]:
        """Return the engine's part of the run report."""


class StartPasses(Protocol):
    """Starts the engine of a job."""

    def __call__(self, run: RunInputs, /) -> AbstractContextManager[Passes]: ...
