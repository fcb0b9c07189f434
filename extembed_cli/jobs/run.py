"""One run of a spec from inputs to output: the one function that the commands call."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray
from threadpoolctl import threadpool_info

import extembed_cli
from extembed_cli.data.commit import locked, staged, writing
from extembed_cli.data.feature_file import candidate_rows, check_names, check_not_an_input, check_target
from extembed_cli.data.inputs import Inputs, Loaded, Opened, Totals, mismatches, open_inputs, read_keys
from extembed_cli.data.inputs import report as input_report
from extembed_cli.data.partition import Partition
from extembed_cli.data.scratch import FINISHED, Scratch, scratch
from extembed_cli.data.vector_cache import VectorCache
from extembed_cli.engines import local
from extembed_cli.errors import Problems, SpecError
from extembed_cli.features.compute import Shared, output_columns, prepare
from extembed_cli.features.neural import technique as neural
from extembed_cli.histories.csr import Shard
from extembed_cli.jobs.layout import Layout, Work, check_longest, layout, plan, sample, work
from extembed_cli.jobs.outputs import write_outputs
from extembed_cli.jobs.report import computed, doubts
from extembed_cli.spec.model import Spec
from extembed_cli.system.memory import give_back
from extembed_cli.system.progress import Watch
from extembed_cli.system.threads import Mapping


@dataclass(frozen=True)
class RunOptions:
    """How to run: none of it changes what is computed."""

    workers: int
    memory: int | None = None
    """Keep to this many bytes; None = as if all fitted."""
    wait: float = 0.0
    """Seconds to wait for another run that holds the output."""
    cut: Layout | None = None
    """How the job is cut; None = as its memory asks for."""
    scratch: Path | None = None
    """Folder for what does not fit into memory; None = that of the output."""
    cache: Path | None = None
    """Folder in which embedding tables are kept as matrices for the next run."""
    fresh: bool = False
    """Do not go on from what a killed run left."""


def open_all(spec: Spec, watch: Watch, problems: Problems) -> Opened:
    """Open all inputs and check what can be checked before they are read."""
    with watch.timing("check"):
        for path in spec.outputs:
            with problems.collect():
                check_target(path)
        opened = open_inputs(spec, problems)
        tables = [table for table in (opened.interactions, opened.candidates, *opened.embeddings.values()) if table]
        for path in spec.outputs:
            with problems.collect():
                check_not_an_input(Path(path), tables)
        if opened.candidates is not None:
            with problems.collect():
                check_names(opened.candidates, [column.name for column in output_columns(spec)])
    return opened


def load(
    spec: Spec,
    watch: Watch,
    opened: Opened,
    problems: Problems,
    cut: Layout,
    scratch: Scratch | None = None,
    cache: VectorCache | None = None,
    *,
    vectors: bool = False,
) -> Loaded:
    """Read ids, times and expressions of all inputs; everything found to be wrong, before and now, is told at once.

    Shards of users wait in the scratch folder; without one, only the first is kept. With `vectors`, what is wrong with
    them is told too when something else is: a check wants all of it.
    """
    kept = scratch if cut.shards > 1 else None
    partition = Partition(cut.shards, kept.folder if kept else None, watch, all_users=any(spec.user_vectors))
    watch.expect(sum(table.rows for table in (opened.interactions, opened.candidates) if table))
    with watch.timing("read") as cost:
        loaded = read_keys(
            spec,
            opened,
            partition,
            cut.rows,
            problems,
            scratch=kept,
            cache=cache,
            vectors=vectors,
            progress=lambda rows: watch.moved(rows, rows * Work.read),
        )
        problems.raise_any()
        assert loaded is not None
        tables = [table for table in (loaded.inputs.interactions, loaded.inputs.candidates) if table]
        cost.add(rows=loaded.log.rows + loaded.asked.rows, bytes=sum(table.bytes for table in tables))
    return loaded


def plan_job(spec: Spec, options: RunOptions, watch: Watch) -> dict[str, Any]:
    """What a run would read, make and need, without reading a vector or writing anything."""
    problems = Problems()
    opened = open_all(spec, watch, problems)
    loaded = load(spec, watch, opened, problems, sample(opened))
    cut = layout(spec, loaded.inputs, options.workers, options.memory)
    with watch.timing("encode"):
        shard, totals = _first(spec, loaded, {name: loaded.items_in(name) for name in loaded.ids})
    for message in mismatches(spec, loaded, totals):
        watch.warning(message)
    return {**plan(spec, loaded, totals, shard, cut, options.workers), "warnings": watch.warnings}


def check_job(spec: Spec, watch: Watch) -> dict[str, Any]:
    """Read everything, write nothing; raises with all problems found, else tells what there is."""
    problems = Problems()
    opened = open_all(spec, watch, problems)
    loaded = load(spec, watch, opened, problems, sample(opened), vectors=True)
    with watch.timing("vectors"):
        shared = prepare(spec, loaded.inputs.embeddings, loaded.ids, loaded.vocabulary)
    _, totals = _first(spec, loaded, shared.with_vector)
    for message in mismatches(spec, loaded, totals):
        watch.warning(message)
    if loaded.inputs.candidates is not None:
        with watch.timing("columns"):
            for _ in candidate_rows(loaded.inputs.candidates):
                pass  # the other columns are only read when the output is written: a torn page would show there
    return {
        "inputs": input_report(loaded, totals, shared.embeddings),
        "columns": len(shared.columns),
        "warnings": watch.warnings,
    }


def _first(spec: Spec, loaded: Loaded, with_vector: dict[str, NDArray[np.bool_]]) -> tuple[Shard, Totals]:
    """The first shard, and what it says of all: there is one, or it is a sample."""
    shard, totals = loaded.shard(spec, 0), Totals()
    totals.add(Totals.of(shard, with_vector), times=loaded.partition.shards)
    return shard, totals


def run_job(spec: Spec, options: RunOptions, watch: Watch) -> dict[str, Any]:
    """Compute features and user vectors, and commit all files together; returns the run report."""
    if spec.output is None and spec.candidates is not None:
        raise SpecError("no output: set `output` in the spec, or give -o OUT")
    outputs = [Path(path) for path in spec.outputs]
    began, started = time.perf_counter(), datetime.now(UTC)
    with _all_locked(outputs, options.wait), staged() as stage, ExitStack() as stack:
        problems = Problems()
        opened = open_all(spec, watch, problems)
        if problems.errors:  # the rest is looked at too, and then nothing is computed
            load(spec, watch, opened, problems, sample(opened))
        inputs = opened.complete(spec)
        models = neural.digests(spec)
        steps = work(spec, inputs)
        watch.total(steps.total)
        cache = VectorCache(options.cache, spec, inputs.embeddings) if options.cache else None
        digests = stack.enter_context(digesting(inputs, cache.digests if cache else {}, models))
        cut = options.cut or layout(spec, inputs, options.workers, options.memory, cached=cache is not None)
        place = stack.enter_context(_scratch(spec, options, cut, digests, watch))
        cut = Layout(**place.cut) if place else cut
        mapped = stack.enter_context(local.threads(options.workers))
        loaded = load(spec, watch, opened, problems, cut, place, cache)
        check_longest(spec, loaded, options.workers, options.memory)
        shared, made = _compute(spec, watch, loaded, cut, place, cache, mapped, steps)
        watch.expect(loaded.asked.rows)
        with watch.timing("write") as cost:
            report = write_outputs(spec, stage, loaded, shared, made, digests.result(), mapped, steps, watch)
            inputs.check_unchanged()
            neural.check_unchanged(spec, models)
            cost.add(rows=loaded.asked.rows, bytes=sum(path.stat().st_size for path in stage.files))
        report |= {
            "started": started.isoformat(timespec="seconds"),
            "seconds": round(time.perf_counter() - began, 3),
            "workers": options.workers,
            "shards": cut.shards,
            "resumed_shards": made.resumed,
            "cached_embeddings": cache.hits if cache else [],
            **computed(spec, loaded, shared, made, watch.costs, options.workers),
            "warnings": watch.warnings,
        }
        with writing(outputs[0]):
            stage.json(outputs[0].with_name(outputs[0].name + ".run.json"), report)
            stage.commit()
    return report


def _compute(
    spec: Spec,
    watch: Watch,
    loaded: Loaded,
    cut: Layout,
    place: Scratch | None,
    cache: VectorCache | None,
    mapped: Mapping,
    steps: Work,
) -> tuple[Shared, local.Made]:
    """The vectors of the items, and what all shards make of them."""
    tables = loaded.inputs.embeddings
    if place:
        give_back()
    watch.expect(0)

    def only_shard() -> tuple[Shard, float]:
        began = time.perf_counter()
        return loaded.shard(spec, 0), time.perf_counter() - began

    with ThreadPoolExecutor(1) as ahead:
        only = ahead.submit(only_shard) if cut.shards == 1 else None
        with watch.timing("vectors") as cost:
            folder = place.folder if place and cut.mapped else None
            shared = prepare(spec, tables, loaded.ids, loaded.vocabulary, mapped, folder, cache)
            cost.add(rows=sum(t.rows for t in tables.values()), bytes=sum(t.bytes for t in tables.values()))
    if place:
        give_back()

    def encoded(index: int) -> tuple[Shard, Totals]:
        with watch.timing("encode") as cost:
            if only is None:
                shard = loaded.shard(spec, index)
            else:
                shard, seconds = only.result()
                cost.add(seconds)  # beside those of the vectors
            totals = Totals.of(shard, shared.with_vector)
            cost.add(rows=totals.events + totals.candidates)
        if cut.shards == 1:
            _warn(mismatches(spec, loaded, totals), watch)
        return shard, totals

    asked = loaded.asked.rows - loaded.asked.null_user_or_time
    watch.expect(asked)
    with watch.timing("compute") as cost:
        cost.add(rows=asked)
        made = local.compute(
            spec,
            shared,
            cut.shards,
            encoded,
            loaded.vectors_as_of,
            mapped,
            scratch=place if cut.shards > 1 else None,
            progress=lambda rows: watch.moved(rows, rows * steps.compute),
        )
    if cut.shards > 1:
        _warn(mismatches(spec, loaded, made.totals), watch)
    _warn(doubts(loaded, made), watch)
    return shared, made


@contextmanager
def _scratch(
    spec: Spec, options: RunOptions, cut: Layout, digests: Future[dict[str, Any]], watch: Watch
) -> Iterator[Scratch | None]:
    """The job's scratch folder, where it needs one, with what a killed run of the same job left."""
    output = Path(spec.outputs[0])

    def job() -> dict[str, Any]:
        files = [path is not None for path in spec.user_vectors]
        return {
            "another spec": [spec.meaning(), files],
            "other inputs": digests.result(),
            "another version": _versions(spec),
        }

    with scratch(
        options.scratch or output.parent,
        output,
        job,
        asdict(cut),
        needed=cut.on_disk,
        fits=lambda old: old["shards"] >= cut.shards and old["mapped"] >= cut.mapped,
        fresh=options.fresh,
        note=watch.note,
    ) as place:
        finished = len(list(place.folder.glob(FINISHED))) if place else 0
        if place and finished:
            watch.note(f"{output}: going on from {finished:,} of {place.cut['shards']:,} shards of a killed run")
        yield place


def _versions(spec: Spec) -> dict[str, str]:
    """What may change a bit of the result or the hash of a user."""
    blas = [str(library.get("architecture")) for library in threadpool_info()]
    found = {module.__name__: module.__version__ for module in (extembed_cli, np, pl, pa)}
    if spec.neural:
        from importlib.metadata import version  # noqa: PLC0415  slow to import

        found["torch"] = version("torch")
    return {**found, "blas": ", ".join(blas)}


def _warn(messages: Iterable[str], watch: Watch) -> None:
    for message in messages:
        watch.warning(message)


@contextmanager
def _all_locked(outputs: list[Path], wait: float) -> Iterator[None]:
    """Hold all outputs, always in the same order: two runs cannot wait for each other."""
    with ExitStack() as stack:
        for output in sorted(outputs):
            stack.enter_context(locked(output, wait))
        yield


@contextmanager
def digesting(inputs: Inputs, known: dict[str, Any], models: dict[str, Any]) -> Iterator[Future[dict[str, Any]]]:
    """Digests of all inputs and models, computed while the job runs; cut short when it ends, however it ends."""
    stop = threading.Event()
    with ThreadPoolExecutor(1, "digest") as background:
        try:
            yield background.submit(lambda: {**inputs.digests(stop, known), **models})
        finally:
            stop.set()
