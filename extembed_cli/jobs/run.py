"""Run a spec from inputs to outputs: the function that the commands call."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from threadpoolctl import threadpool_info

import extembed_cli
from extembed_cli.data.files.commit import Staged, locked, staged, writing
from extembed_cli.data.files.sealed import sealed
from extembed_cli.data.inputs.inputs import Inputs, Loaded, Opened
from extembed_cli.data.inputs.vector_cache import VectorCache
from extembed_cli.data.outputs.shard_results import FeaturePart
from extembed_cli.data.shards.scratch import FINISHED, Scratch, scratch, scratch_folder
from extembed_cli.engines.base import Engine, Job, Results, ShardInput
from extembed_cli.engines.local import LocalEngine
from extembed_cli.errors import DataError, SpecError
from extembed_cli.features.prepare import Shared, Sources, prepare
from extembed_cli.features.registry import output_columns, techniques_of
from extembed_cli.histories.csr import Shard
from extembed_cli.jobs.derivation import derive, plan_derivation
from extembed_cli.jobs.early_reads import folders_of_all
from extembed_cli.jobs.layout import Layout, check_longest, layout_of
from extembed_cli.jobs.options import RunOptions
from extembed_cli.jobs.outputs import SECONDS_PER_WRITTEN_ROW, write_outputs
from extembed_cli.jobs.passes import PassResults, Place
from extembed_cli.jobs.reading import (
    SECONDS_PER_ROW,
    cache_of,
    digesting,
    load,
    open_all,
    sample_layout,
    with_problems_of,
)
from extembed_cli.jobs.remote_outputs import Uploads, written_locally
from extembed_cli.jobs.report import closing, computed, report_path
from extembed_cli.jobs.requirements import check_features, check_inputs
from extembed_cli.jobs.sources import input_paths, other_digests
from extembed_cli.jobs.survey import plan_survey, survey
from extembed_cli.jobs.warnings import grown_tables, result_warnings
from extembed_cli.jobs.within import within_part
from extembed_cli.spec.model import MAX_PASSES, Spec
from extembed_cli.system.memory import give_back
from extembed_cli.system.progress import Watch
from extembed_cli.system.threads import Mapping, threads


def run_job(
    spec: Spec,
    options: RunOptions,
    watch: Watch,
    start_engine: Callable[[Mapping, Scratch | None], Engine] = LocalEngine,
) -> dict[str, Any]:
    """Compute features and vectors, commit all files together, and return the run report.

    An engine gets a `map` over threads, and the folder for finished shards where there are several.
    """
    if spec.output is None and spec.candidates is not None:
        raise SpecError("no output: set `output` in the spec, or give -o OUT")
    with written_locally(spec) as (local, uploads):
        return _run_job(local, uploads, options, watch, start_engine)


def _run_job(
    spec: Spec,
    uploads: Uploads,
    options: RunOptions,
    watch: Watch,
    start_engine: Callable[[Mapping, Scratch | None], Engine],
) -> dict[str, Any]:
    """Run a job whose outputs are local, and upload those that stand in for objects."""
    outputs = [Path(path) for path in spec.outputs]
    began, started = time.perf_counter(), datetime.now(UTC)
    with _all_locked(outputs, options.wait), uploads.removed(), staged() as stage, ExitStack() as stack:
        opened = open_all(spec, watch)
        uploads.check_not_inputs(opened.tables)
        passes = [opened.of_pass(each) for each in spec.passes()]
        if opened.problems.errors:  # read the other inputs too, to raise all problems together
            load(passes[0], watch, sample_layout(opened))
        inputs = opened.complete()
        models = other_digests(input_paths(spec))
        watch.total(sum(_seconds(each.spec, each.complete()) for each in passes) + _seconds_to_write(inputs))
        caches = [cache_of(each, options) for each in passes]
        known = {name: digest for cache in caches if cache for name, digest in cache.digests.items()}
        digests = stack.enter_context(digesting(inputs, known))
        mapped = stack.enter_context(threads(options.workers))

        _check_memory(opened, passes, caches, options)
        results: list[PassResults] = []
        derived = derive(opened, options, mapped, watch)
        surveyed = survey(opened, options, mapped, watch)
        kept_before = surveyed.bytes_in_memory + sum(table.bytes_in_memory for table in derived.values())

        def next_pass(number: int) -> None:
            of_pass, cache = passes[number], caches[number]
            layout = layout_of_pass(
                of_pass, options, cache, kept_before + sum(each.bytes_in_memory for each in results)
            )
            kept = stack.enter_context(_scratch(of_pass.spec, number, options, layout, digests, models, watch))
            place = Place(Layout(**kept.layout) if kept else layout, kept)
            engine = start_engine(mapped, kept if place.layout.shards > 1 else None)
            sources = Sources(cache, derived, surveyed.by_technique)
            results.append(run_pass(of_pass, place, sources, mapped, engine, options, watch))

        for number in range(len(passes)):
            with with_problems_of(passes[number + 1 :], watch):
                next_pass(number)
        _remove_scratch(spec, options, len(passes))
        features = [each.results.features for each in results] + _within(spec, inputs, results, mapped, watch)
        candidates = results[0].loaded.candidates.rows
        check_features(spec, candidates, features)
        watch.expect(candidates)
        with watch.timing("write") as cost:
            watch.warn_of(grown_tables(spec, outputs[0], digests.result()))
            report = write_outputs(spec, stage, results, features, {**digests.result(), **models}, mapped, watch)
            inputs.check_unchanged()
            if other_digests(input_paths(spec)) != models:
                raise DataError(
                    f"{' and '.join(models)} that the spec names changed during the run. The old output is untouched; "
                    "run again"
                )
            cost.add(rows=candidates, bytes=sum(path.stat().st_size for path in stage.files))
        report |= {
            "input_paths": input_paths(spec),
            "started": started.isoformat(timespec="seconds"),
            "seconds": round(time.perf_counter() - began, 3),
            "workers": options.workers,
            "shards": max(each.place.layout.shards for each in results),
            "resumed_shards": sum(each.results.resumed for each in results),
            "cached_embeddings": list(dict.fromkeys(name for cache in caches if cache for name in cache.hits)),
            **computed(spec, results, surveyed.tally, watch.costs, options.workers),
            "warnings": watch.warnings,
        }
        report = sealed(uploads.named({**report, "summary": closing(spec, report)}))
        _commit(stage, uploads, outputs[0], report)
    return report


def _commit(stage: Staged, uploads: Uploads, output: Path, report: dict[str, Any]) -> None:
    """Give all files their names, the run report beside the first output, and upload those that are to be."""
    with writing(output):
        stage.json(report_path(output), report)
        stage.commit()
    uploads.put(report_path)


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
) -> PassResults:
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

    return PassResults(place, loaded, *_compute(spec, loaded, layout.shards, prepared, engine, watch))


def _check_memory(
    opened: Opened, passes: Sequence[Opened], caches: Sequence[VectorCache | None], options: RunOptions
) -> None:
    """Raise before any work if the memory is too short for a pass, or for a read before the passes."""
    for each, cache in zip(passes, caches, strict=True):
        layout_of_pass(each, options, cache)
    plan_derivation(opened, options)
    plan_survey(opened, options)


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


def _seconds_to_write(inputs: Inputs) -> float:
    return (inputs.candidates.rows if inputs.candidates else 0) * SECONDS_PER_WRITTEN_ROW


def _compute(
    spec: Spec,
    loaded: Loaded,
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
    spec: Spec,
    number: int,
    options: RunOptions,
    layout: Layout,
    digests: Future[dict[str, Any]],
    models: dict[str, Any],
    watch: Watch,
) -> Iterator[Scratch | None]:
    """Yield the scratch folder of a pass if it needs one; it may hold finished shards of a killed run of the job."""
    output = Path(spec.outputs[0])

    def job() -> dict[str, Any]:
        files = [group.owner_vectors is not None for group in spec.groups.values()]
        return {
            "another spec": [spec.meaning(), files],
            "other inputs": {**digests.result(), **models},
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


def _within(
    spec: Spec, inputs: Inputs, results: list[PassResults], mapped: Mapping, watch: Watch
) -> list[list[FeaturePart]]:
    """Return the columns within a request, if the spec has any."""
    if spec.within is None or inputs.candidates is None:
        return []
    with watch.timing("within") as cost:
        files = next((each.place.scratch.folder for each in results if each.place.scratch), None)
        features = [each.results.features for each in results]
        within = within_part(spec, output_columns(spec), inputs.candidates, features, mapped, files)
        cost.add(rows=inputs.candidates.rows)
    return [] if within is None else [[within]]


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


@contextmanager
def _all_locked(outputs: list[Path], wait: float) -> Iterator[None]:
    """Lock all outputs, always in the same order, so that two runs cannot wait for each other."""
    with ExitStack() as stack:
        for output in sorted(outputs):
            stack.enter_context(locked(output, wait))
        yield
