"""Passes in this process: the log is split into shards of owners, in memory or in scratch files if it does not fit."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
from threadpoolctl import threadpool_info

import extembed_cli
from extembed_cli.data.files.commit import Staged
from extembed_cli.data.inputs.inputs import Inputs, Opened, Sharded
from extembed_cli.data.inputs.vector_cache import VectorCache
from extembed_cli.data.outputs.feature_file import FeatureTable, write_features
from extembed_cli.data.outputs.shard_results import FeaturePart
from extembed_cli.data.shards.scratch import FINISHED, Scratch, scratch, scratch_folder
from extembed_cli.engines.base import Engine, Job, Results, ShardInput
from extembed_cli.engines.local import LocalEngine
from extembed_cli.features.prepare import Shared, Sources, prepare
from extembed_cli.features.registry import output_columns, techniques_of
from extembed_cli.histories.csr import Shard
from extembed_cli.jobs.derivation import derive, plan_derivation
from extembed_cli.jobs.early_reads import folders_of_all
from extembed_cli.jobs.layout import Layout, check_longest, layout_of
from extembed_cli.jobs.options import RunOptions
from extembed_cli.jobs.passes import Computed, PassResults, RunInputs
from extembed_cli.jobs.reading import SECONDS_PER_ROW, digesting, load, with_problems_of
from extembed_cli.jobs.requirements import check_inputs
from extembed_cli.jobs.survey import plan_survey, survey
from extembed_cli.jobs.warnings import result_warnings
from extembed_cli.jobs.within import within_part
from extembed_cli.spec.model import MAX_PASSES, Spec
from extembed_cli.system.memory import give_back
from extembed_cli.system.progress import Watch
from extembed_cli.system.threads import Mapping

_SECONDS_PER_WRITTEN_ROW = 0.3e-6  # for a progress bar of even speed

StartEngine = Callable[[Mapping, Scratch | None], Engine]
"""Gets a `map` over threads, and the folder for finished shards where there are several"""


class Place(NamedTuple):
    """Where a pass is computed."""

    layout: Layout
    scratch: Scratch | None
    """None = in memory"""


@dataclass(frozen=True)
class LocalResults(PassResults):
    """The results of a pass, its features in memory or in files of its scratch folder."""

    loaded: Sharded
    place: Place

    @property
    def bytes_in_memory(self) -> int:
        """Bytes of the features that are not in files."""
        if self.place.layout.shards > 1:
            return 0
        return sum(values.nbytes for part in self.results.features for values in part.columns.values())


@contextmanager
def local_passes(run: RunInputs, start_engine: StartEngine = LocalEngine) -> Iterator[LocalPasses]:
    """Yield the passes of a job in this process, with scratch folders until its end."""
    with ExitStack() as stack:
        yield LocalPasses(run, start_engine, stack)


class LocalPasses:
    """The passes of a job in this process, one after another."""

    def __init__(self, run: RunInputs, start_engine: StartEngine, stack: ExitStack) -> None:
        self.run, self.start_engine, self.stack = run, start_engine, stack
        watch = run.watch
        written = (run.inputs.candidates.rows if run.inputs.candidates else 0) * _SECONDS_PER_WRITTEN_ROW
        watch.total(sum(_seconds(each.spec, each.complete()) for each in run.passes) + written)
        self.results: list[LocalResults] = []
        self.features: list[list[FeaturePart]] = []

    def digests(self) -> Future[dict[str, Any]]:
        """Begin to compute the digests of all inputs, and return where they will be."""
        self.digesting = self.stack.enter_context(digesting(self.run.inputs, self.run.known_digests))
        return self.digesting

    def compute(self) -> Computed:
        """Compute all passes, and the columns within a request."""
        run, options, watch = self.run, self.run.options, self.run.watch
        self._check_memory()
        derived = derive(run.opened, options, run.mapped, watch)
        surveyed = survey(run.opened, options, run.mapped, watch)
        kept_before = surveyed.bytes_in_memory + sum(table.bytes_in_memory for table in derived.values())

        def next_pass(number: int) -> None:
            of_pass, cache = run.passes[number], run.caches[number]
            earlier = kept_before + sum(each.bytes_in_memory for each in self.results)
            layout = layout_of_pass(of_pass, options, cache, earlier)
            kept = self.stack.enter_context(_scratch(run, of_pass.spec, number, layout, self.digesting))
            place = Place(Layout(**kept.layout) if kept else layout, kept)
            engine = self.start_engine(run.mapped, kept if place.layout.shards > 1 else None)
            sources = Sources(cache, derived, surveyed.by_technique)
            self.results.append(run_pass(of_pass, place, sources, run.mapped, engine, options, watch))

        for number in range(len(run.passes)):
            with with_problems_of(run.passes[number + 1 :], watch):
                next_pass(number)
        _remove_scratch(run.spec, options, len(run.passes))
        self.features = [each.results.features for each in self.results] + self._within()
        return Computed([*self.results], surveyed.tally)

    def known(self, columns: Sequence[str]) -> dict[str, int]:
        """Return the number of candidates for which each of some columns has a value."""
        counts: Counter[str] = Counter()
        for part in (part for parts in self.features for part in parts):
            counts.update(part.known(columns))
        return dict(counts)

    def write(self, stage: Staged, output: Path, table: FeatureTable) -> str:
        """Stage the features of all passes; return the SHA-256 of the output."""
        moved = self.run.watch.moved
        return write_features(
            stage, output, table, self.features, lambda rows: moved(rows, rows * _SECONDS_PER_WRITTEN_ROW)
        )

    def report(self) -> dict[str, Any]:
        """Return the engine's part of the run report."""
        return {
            "engine": "local",
            "workers": self.run.options.workers,
            "shards": max(each.place.layout.shards for each in self.results),
            "resumed_shards": sum(each.results.resumed for each in self.results),
            "cached_embeddings": list(dict.fromkeys(name for cache in self.run.caches if cache for name in cache.hits)),
        }

    def _check_memory(self) -> None:
        """Raise before any work if the memory is too short for a pass, or for a read before the passes."""
        for each, cache in zip(self.run.passes, self.run.caches, strict=True):
            layout_of_pass(each, self.run.options, cache)
        plan_derivation(self.run.opened, self.run.options)
        plan_survey(self.run.opened, self.run.options)

    def _within(self) -> list[list[FeaturePart]]:
        """Return the columns within a request, if the spec has any."""
        spec, candidates = self.run.spec, self.run.inputs.candidates
        if spec.within is None or candidates is None:
            return []
        with self.run.watch.timing("within") as cost:
            files = next((each.place.scratch.folder for each in self.results if each.place.scratch), None)
            features = [each.results.features for each in self.results]
            within = within_part(spec, output_columns(spec), candidates, features, self.run.mapped, files)
            cost.add(rows=candidates.rows)
        return [] if within is None else [[within]]


def layout_of_pass(opened: Opened, options: RunOptions, cache: VectorCache | None, earlier: int = 0) -> Layout:
    """Return the layout of a pass; `earlier` are the bytes that are taken already."""
    needs = {"what was computed before this pass": earlier} if earlier else None
    spec, inputs, workers = opened.spec, opened.complete(), options.workers
    if options.layout is not None:
        return options.layout
    return layout_of(spec, inputs, workers, options.memory, cached=cache is not None, other_needs=needs)


def run_pass(
    opened: Opened,
    place: Place,
    sources: Sources,
    mapped: Mapping,
    engine: Engine,
    options: RunOptions,
    watch: Watch,
) -> LocalResults:
    """Read the inputs by owner, and compute all shards."""
    spec, inputs, layout, kept = opened.spec, opened.complete(), place.layout, place.scratch
    loaded = load(opened, watch, layout, kept, sources.cache)
    check_longest(spec, loaded, options.workers, options.memory)
    folder = kept.folder / "shared" if kept and layout.mapped else None

    def prepared() -> Shared:
        if kept:  # memory is short: a stage rarely needs what the one before has kept
            give_back()
        shared = prepare(spec, inputs.embeddings, loaded.ids, loaded.vocabulary, mapped, folder, sources)
        if kept:
            give_back()
        return shared

    job, results = _compute(spec, loaded, layout.shards, prepared, engine, watch)
    return LocalResults(loaded, job, results, place)


def _seconds_per_candidate(spec: Spec, inputs: Inputs) -> float:
    """Return about the seconds of computing one candidate, for the progress bar."""
    candidates = inputs.candidates.rows if inputs.candidates else 0
    events = inputs.interactions.rows / max(1, candidates)
    return sum(technique.seconds_per_candidate(spec, events) for technique in techniques_of(spec))


def _seconds(spec: Spec, inputs: Inputs) -> float:
    """Return about the seconds of a pass."""
    candidates = inputs.candidates.rows if inputs.candidates else 0
    read = (inputs.interactions.rows + candidates) * SECONDS_PER_ROW
    return read + candidates * _seconds_per_candidate(spec, inputs)


def _compute(
    spec: Spec,
    loaded: Sharded,
    shards: int,
    prepared: Callable[[], Shared],
    engine: Engine,
    watch: Watch,
) -> tuple[Job, Results]:
    """Return the job, whose state all shards share, and the results of all shards."""
    tables, seconds_per_candidate = loaded.inputs.embeddings.values(), _seconds_per_candidate(spec, loaded.inputs)
    watch.expect(0)
    with ThreadPoolExecutor(1) as background:
        # A single shard is encoded while the vectors are read.
        only = background.submit(_timed, partial(loaded.shard, spec, 0)) if shards == 1 else None
        with watch.timing("vectors") as cost:
            shared = prepared()
            cost.add(rows=sum(table.rows for table in tables), bytes=sum(table.bytes for table in tables))

    def encoded(index: int) -> Shard:
        with watch.timing("encode") as cost:
            shard, seconds = _timed(partial(loaded.shard, spec, index)) if only is None else only.result()
            cost.add(0 if only is None else seconds, rows=len(shard.history.partners) + len(shard.candidates.partners))
        if only is not None:  # warn before the computation, which takes long
            check_inputs(spec, loaded, shared.coverage(spec, shard), watch)
        return shard

    candidates = loaded.candidates.rows - loaded.candidates.null_user_or_time
    watch.expect(candidates)
    with watch.timing("compute") as cost:
        cost.add(rows=candidates)
        inputs = (ShardInput(partial(loaded.tables, spec, i), partial(encoded, i)) for i in range(shards))
        job = Job(spec, shared, loaded.vectors_as_of)
        results = Results.of(engine.run(job, inputs, lambda rows: watch.moved(rows, rows * seconds_per_candidate)))
    if only is None:
        check_inputs(spec, loaded, results.coverage, watch)
    watch.warn_of(result_warnings(job, results))
    return job, results


def _timed(encode: Callable[[], Shard]) -> tuple[Shard, float]:
    began = time.perf_counter()
    return encode(), time.perf_counter() - began


@contextmanager
def _scratch(
    run: RunInputs, spec: Spec, number: int, layout: Layout, digests: Future[dict[str, Any]]
) -> Iterator[Scratch | None]:
    """Yield the scratch folder of a pass if it needs one; it may hold finished shards of a killed run of the job."""
    output, options, watch = Path(spec.outputs[0]), run.options, run.watch

    def job() -> dict[str, Any]:
        files = [group.owner_vectors is not None for group in spec.groups.values()]
        return {
            "another spec": [spec.meaning(), files],
            "other inputs": {**digests.result(), **run.models},
            "another version": _versions(spec),
        }

    def fits(old: dict[str, Any]) -> bool:
        return bool(old["shards"] >= layout.shards and old["mapped"] >= layout.mapped)

    with scratch(
        _scratch_folder(output, options, number),
        job,
        asdict(layout),
        needed=layout.on_disk,
        fits=None if options.fresh else fits,
        note=lambda message: watch.note(f"{output}: {message}"),
    ) as opened_scratch:
        finished = len(list(opened_scratch.folder.glob(FINISHED))) if opened_scratch else 0
        if opened_scratch and finished:
            shards = opened_scratch.layout["shards"]
            watch.note(f"{output}: resuming a killed run; {finished:,} of {shards:,} shards are done")
        yield opened_scratch


def _remove_scratch(spec: Spec, options: RunOptions, passes: int) -> None:
    """Remove the folders of a killed run of another spec, which had more passes, or that was reading for them."""
    later = (_scratch_folder(Path(spec.outputs[0]), options, number) for number in range(passes, MAX_PASSES))
    for folder in [*later, *folders_of_all(spec, options)]:
        shutil.rmtree(folder, ignore_errors=True)


def _scratch_folder(output: Path, options: RunOptions, number: int) -> Path:
    return scratch_folder(options.scratch or output.parent, output, number)


def _versions(spec: Spec) -> dict[str, str]:
    """Return the versions of all libraries that may change a bit of the result or the hash of a user."""
    blas = [str(library.get("architecture")) for library in threadpool_info()]
    versions = {module.__name__: module.__version__ for module in (extembed_cli, np, pl, pa)}
    for technique in techniques_of(spec):
        versions |= technique.versions()
    return {**versions, "blas": ", ".join(blas)}
