"""Passes on Spark: the logs are read, shuffled by owner and computed there, and the output is written there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from extembed_cli.data.files.commit import Staged, file_digest
from extembed_cli.data.files.parquet import Table
from extembed_cli.data.inputs.coverage import Coverage
from extembed_cli.data.inputs.embeddings import load_vectors
from extembed_cli.data.inputs.inputs import Loaded, Opened, ids_of_all, read_ids, vectors_as_of
from extembed_cli.data.outputs import feature_file
from extembed_cli.data.outputs.feature_file import FeatureTable, finish_directory
from extembed_cli.data.outputs.shard_results import Tally, VectorPart
from extembed_cli.data.outputs.uploads import remove_unlisted
from extembed_cli.data.shards.frame_streams import FrameStreams, read_frames
from extembed_cli.data.shards.mapped_arrays import ArrayFolder
from extembed_cli.engines.base import Job, Results
from extembed_cli.engines.spark import computing
from extembed_cli.engines.spark.cluster import Cluster, only, temporary_folder
from extembed_cli.engines.spark.computing import ABOUT, FEATURES, VECTORS, BucketState, ComputeBucket, ShippedState
from extembed_cli.engines.spark.packets import Packet
from extembed_cli.engines.spark.reading import CANDIDATES, EVENTS
from extembed_cli.engines.spark.requests import REQUESTS, ByRequest, WithinRequests
from extembed_cli.engines.spark.session import spark_session
from extembed_cli.engines.spark.vectors import JoinedState, JoinedTable
from extembed_cli.engines.spark.writing import WRITTEN, WritePart, not_shared, rows_of_part
from extembed_cli.errors import Problems, ResourceError
from extembed_cli.features.prepare import Shared, Sources, matrices_of, prepare
from extembed_cli.features.registry import output_columns
from extembed_cli.features.within import check_moments, kinds_of
from extembed_cli.jobs.derivation import derive
from extembed_cli.jobs.options import RunOptions
from extembed_cli.jobs.passes import Computed, PassResults, RunInputs
from extembed_cli.jobs.reading import digesting, with_problems_of
from extembed_cli.jobs.requirements import check_inputs, required_features
from extembed_cli.jobs.run import run_job
from extembed_cli.jobs.spark_logs import partners_of, read_logs, with_residuals
from extembed_cli.jobs.spark_tables import has_tables, tables_as_files
from extembed_cli.jobs.spark_vectors import join_table, tables_to_join
from extembed_cli.jobs.survey import survey
from extembed_cli.jobs.warnings import result_warnings
from extembed_cli.spec.model import Spec
from extembed_cli.system.progress import Watch

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_ROWS_OF_A_BUCKET = 2**20
_BUCKETS_OF_A_CORE = 4  # Spark hashes the numbers of buckets, and some fall on one another


@dataclass(frozen=True)
class SparkOptions:
    """How to run on Spark. No option changes what is computed."""

    master: str | None = None
    """None = as Spark's own settings say"""
    conf: Mapping[str, str] = field(default_factory=dict)
    ship_bytes: int = 4 * 2**30
    """Most bytes of vectors that are sent to each executor; more are joined to the rows that need them"""
    buckets: int | None = None
    """Buckets of owners; None = by the rows of the logs"""
    loud: bool = False
    """Whether Spark's own messages are shown"""


def run_on_spark(spec: Spec, options: RunOptions, watch: Watch, spark: SparkOptions) -> dict[str, Any]:
    """Run a job on Spark, in the active session or in a new one; see `run_job`."""
    if not has_tables(spec):  # then Spark starts once the inputs are checked
        return run_job(spec, options, watch, partial(_starting, spark))
    with _started(spark, watch) as session, tables_as_files(spec, session, watch, options.scratch) as (local, names):
        return run_job(local, options, watch, partial(passes_on_spark, session, spark), names)


@contextmanager
def _starting(options: SparkOptions, run: RunInputs) -> Iterator[SparkPasses]:
    """Yield the passes of a job in the active session, or in a new one."""
    with _started(options, run.watch) as session, passes_on_spark(session, options, run) as passes:
        yield passes


@contextmanager
def _started(options: SparkOptions, watch: Watch) -> Iterator[SparkSession]:
    """Yield the active session, or a new one."""
    with ExitStack() as stack:
        with watch.timing("spark"):
            session = stack.enter_context(spark_session(options.master, options.conf, loud=options.loud))
        yield session


@contextmanager
def passes_on_spark(session: SparkSession, options: SparkOptions, run: RunInputs) -> Iterator[SparkPasses]:
    """Yield the passes of a job in a session."""
    with ExitStack() as stack:
        yield SparkPasses(run, options, session, stack)


class SparkPasses:
    """The passes of a job on Spark, whose features stay there until they are written."""

    def __init__(self, run: RunInputs, options: SparkOptions, session: SparkSession, stack: ExitStack) -> None:
        self.run, self.options, self.stack = run, options, stack
        rows = sum(table.rows for table in run.opened.logs)
        self.cluster = Cluster(session, run.watch, options.buckets or 1, run.options.scratch)
        if options.buckets is None:
            cores = self.cluster.context.defaultParallelism
            self.cluster.cut(max(_BUCKETS_OF_A_CORE * cores, -(-rows // _ROWS_OF_A_BUCKET)))
        stack.callback(self.cluster.release)
        self.folder = stack.enter_context(temporary_folder(run.options.scratch))
        self.part_rows = feature_file.PART_ROWS
        self.required = tuple(required_features(run.spec))
        self.features: list[DataFrame] = []
        self.counted: dict[str, int] = {}
        self.cached: list[str] = []

    def digests(self) -> Future[dict[str, Any]]:
        """Begin to compute the digests of all inputs, and return where they will be."""
        return self.stack.enter_context(digesting(self.run.inputs, self.run.known_digests))

    def compute(self) -> Computed:
        """Compute all passes, and the columns within a request."""
        run, results = self.run, []
        derived = derive(run.opened, run.options, run.mapped, run.watch)
        surveyed = survey(run.opened, run.options, run.mapped, run.watch)
        for number, of_pass in enumerate(run.passes):
            with with_problems_of(run.passes[number + 1 :], run.watch):
                sources = Sources(run.caches[number], derived, surveyed.by_technique)
                results.append(self._pass(of_pass, sources))
        if run.spec.within is not None and run.inputs.candidates is not None:
            self._within(run.inputs.candidates)
        return Computed(results, surveyed.tally)

    def known(self, columns: Sequence[str]) -> dict[str, int]:
        """Return the number of candidates for which each of some columns has a value."""
        return {name: self.counted.get(name, 0) for name in columns}

    def write(self, stage: Staged, output: Path, table: FeatureTable) -> str:
        """Stage the features of all passes; return the SHA-256 of the output."""
        features = self._all_features()
        numbers = range(len(table.parts()))
        if output.suffix == ".parquet":
            path = stage.temporary(output)
            table.write(path, (batch for number in numbers for batch in self._rows(features, table, number)))
            return file_digest(path)
        folder = stage.new_folder(output)
        url = self.run.urls.get(str(output))
        if url is not None:
            self.stack.push(partial(_remove_if_failed, url))
        task = WritePart(table, folder, url)
        written = self.cluster.collect(
            "write", self.cluster.grouped(self._all_parts(features, len(numbers)), task), WRITTEN
        )
        parts = [packet.value for packet in sorted(written, key=lambda packet: packet.key)]
        if url is None:
            self._check_parts(folder, parts)
        return finish_directory(output, folder, parts)

    def report(self) -> dict[str, Any]:
        """Return the engine's part of the run report."""
        return {
            "engine": "spark",
            "master": self.cluster.context.master,
            "spark": self.cluster.context.version,
            "workers": self.cluster.context.defaultParallelism,
            "shards": self.cluster.buckets,
            "tasks": self.cluster.tasks,
            "resumed_shards": 0,
            "cached_embeddings": list(dict.fromkeys(self.cached)),
        }

    def _all_features(self) -> DataFrame:
        return _union(self.features)

    def _all_parts(self, features: DataFrame, parts: int) -> DataFrame:
        """Return features with a packet for each part of the output, which may have no feature."""
        nothing = [(number, "part", b"") for number in range(parts)]
        return features.union(self.cluster.session.createDataFrame(nothing, features.schema))

    def _rows(self, features: DataFrame, table: FeatureTable, number: int) -> Iterator[Any]:
        """Return the rows of a part, whose features are collected."""
        packets = self.cluster.collect("write", features.filter(features.key == number), FEATURES)
        return rows_of_part(table, number, (p.frame for p in packets if p.kind == FEATURES))

    def _check_parts(self, folder: Path, parts: Sequence[dict[str, Any]]) -> None:
        """Raise if the driver does not see what tasks have written; remove what failed attempts have left."""
        names = {part["file"] for part in parts}
        here = {path.name for path in folder.iterdir()}
        if names - here:
            raise ResourceError(not_shared(folder.parent))
        for name in here - names:
            (folder / name).unlink(missing_ok=True)

    # --- a pass ---

    def _pass(self, opened: Opened, sources: Sources) -> PassResults:
        """Read, shuffle and compute a pass; its features are left on Spark."""
        spec, cluster, watch = opened.spec, self.cluster, self.run.watch
        with watch.timing("read") as cost:
            logs = read_logs(cluster, opened, watch)
            rows, events, candidates = logs.rows, logs.events, logs.candidates
            cost.add(rows=events.rows + candidates.rows, bytes=sum(table.bytes for table in opened.logs))
            ids = read_ids(opened)
            vocabulary = partners_of(cluster, rows, ids_of_all(spec, ids))
        event_rows = rows
        if any(target.residual is not None for target in spec.targets):
            with watch.timing("residuals"):
                event_rows = with_residuals(cluster, spec, logs)
        loaded = Loaded(opened.complete(), events, candidates, vocabulary, ids, vectors_as_of(spec, events))
        of_events, of_candidates = only(event_rows, EVENTS), only(rows, CANDIDATES)
        state: BucketState
        with watch.timing("vectors") as cost:
            tables = loaded.inputs.embeddings.values()
            to_join = tables_to_join(spec, loaded.inputs, self.options.ship_bytes)
            if to_join:
                of_logs = of_events.union(of_candidates)
                shared, state, vectors = self._joined(loaded, spec, to_join, of_logs, sources)
                of_candidates = of_candidates.union(vectors)
            else:
                shared, state = self._shipped(loaded, spec, sources)
            cost.add(rows=sum(table.rows for table in tables), bytes=sum(table.bytes for table in tables))
        job = Job(spec, shared, loaded.vectors_as_of)
        with watch.timing("compute") as cost:
            task = ComputeBucket(spec, state, loaded.vectors_as_of, self.part_rows, self.required)
            computed = cluster.keep(cluster.cogrouped(of_events, of_candidates, task))
            about = cluster.collect("compute", computed, ABOUT)
            results = _results(packet.value for packet in about)
            results.vectors = self._vectors(job, computed)
            cost.add(rows=candidates.rows)
        self._count(packet.value for packet in about)
        check_inputs(spec, loaded, results.coverage, watch)
        watch.warn_of(result_warnings(job, results))
        self.features.append(only(computed, FEATURES))
        return PassResults(loaded, job, results)

    def _shipped(self, loaded: Loaded, spec: Spec, sources: Sources) -> tuple[Shared, ShippedState]:
        """Prepare the state of all buckets here, and send it to each executor."""
        folder, tables = self.folder / "shared", loaded.inputs.embeddings
        self.cached += sources.cache.hits if sources.cache else []
        shared = prepare(spec, tables, loaded.ids, loaded.vocabulary, self.run.mapped, folder, sources)
        return shared, ShippedState(spec, shared.columns, self.cluster.ship(folder))

    def _joined(
        self, loaded: Loaded, spec: Spec, names: Sequence[str], rows: DataFrame, sources: Sources
    ) -> tuple[Shared, JoinedState, DataFrame]:
        """Join the vectors of some tables to the rows; return the state without them, and their packets by bucket."""
        run, folder, problems = self.run, self.folder / "kept", Problems()
        joined: list[tuple[JoinedTable, DataFrame]] = []
        kept = {matrix: each for matrix, each in sources.vectors.items() if matrix.table in spec.read_tables}
        for name, table in loaded.inputs.embeddings.items():
            with problems.collect():
                if name in names:
                    joined += join_table(self.cluster, spec, name, loaded, rows, self.folder, len(joined))
                else:
                    matrices = matrices_of(spec)[name]
                    kinds = [(matrix.center, None) for matrix in matrices]
                    read = load_vectors(spec, name, table, loaded.ids[name], None, kinds, run.mapped)
                    kept |= dict(zip(matrices, read, strict=True))
        problems.raise_any()
        tables = [table for table, _ in joined]
        folder.mkdir()
        about = tuple((matrix, table.save(ArrayFolder(folder), matrix.name)) for matrix, table in kept.items())
        shipped = self.cluster.ship(folder)
        nothing = {table.matrix: table.of_bucket([]) for table in tables}
        totals = {table.matrix: table.totals for table in tables if table.totals is not None}
        here = Sources(None, {**kept, **nothing}, sources.surveyed, totals)
        shared = prepare(spec, {}, {}, loaded.vocabulary, run.mapped, None, here)
        for each in tables:
            if each.matrix in shared.embeddings:
                matrix = shared.embeddings[each.matrix]
                shared.embeddings[each.matrix] = replace(matrix, report=each.report)
        state = JoinedState(spec, shared.columns, tuple(tables), about, shipped, dict(sources.surveyed))
        return shared, state, _union([vectors for _, vectors in joined])

    def _vectors(self, job: Job, computed: DataFrame) -> list[list[VectorPart]]:
        """Return the vectors of owners by file, collected into files of the driver."""
        results: list[list[VectorPart]] = []
        for number, file in enumerate(job.shared.vector_files.values()):
            of_file = computed.filter(computed.key == number)
            kind = f"vectors-{len(self.features)}-{number}"
            streams = FrameStreams(self.folder, kind, 1)
            self.cluster.stream("vectors", of_file, VECTORS, partial(_write_vectors, streams))
            streams.close()
            empty = VectorPart(pl.Series(dtype=pl.Int64), np.zeros((0, file.dim), np.float32))
            results.append([computing.vector_part(frame) for frame in read_frames(self.folder, kind, 0)] or [empty])
        return results

    def _within(self, candidates: Table) -> None:
        """Add the columns within a request to the features."""
        spec, cluster = self.run.spec, self.cluster
        kinds = kinds_of(output_columns(spec))
        with self.run.watch.timing("within") as cost:
            task = ByRequest(spec, candidates, tuple(kinds), self.part_rows, cluster.buckets)
            parts = -(-candidates.rows // self.part_rows)
            by_request = cluster.grouped(self._all_parts(self._all_features(), parts), task)
            within = WithinRequests(spec, kinds, self.part_rows, self.required)
            results = cluster.keep(cluster.grouped(only(by_request, REQUESTS), within))
            about = [packet.value for packet in cluster.collect("within", results, ABOUT)]
            check_moments(spec, sum(each["mixed"] for each in about), sum(each["requests"] for each in about))
            cost.add(rows=candidates.rows)
        self._count(about)
        self.features.append(only(results, FEATURES))

    def _count(self, abouts: Iterable[dict[str, Any]]) -> None:
        for about in abouts:
            for name, count in about["known"].items():
                self.counted[name] = self.counted.get(name, 0) + count


def _remove_if_failed(url: str, failure: type[BaseException] | None, *_: object) -> None:
    """Remove the parts that tasks have put below a URL, if the run ends with an error before its manifest is put."""
    if failure is not None:
        with suppress(Exception):  # the error that ends the run is told; the next run removes what is left
            remove_unlisted(url)


def _union(tables: Sequence[DataFrame]) -> DataFrame:
    return reduce(lambda one, other: one.union(other), tables)


def _write_vectors(streams: FrameStreams, packet: Packet) -> None:
    streams.write(0, packet.frame)


def _results(abouts: Iterable[dict[str, Any]]) -> Results:
    """Return what the tasks of a pass have counted."""
    results = Results()
    for about in abouts:
        results.repeats += about["repeats"]
        for reason, owners in about["flagged"].items():
            results.flagged.setdefault(reason, []).extend(owners)
        results.tally.add(Tally.from_dict(about["tally"]))
        results.coverage.add(Coverage(**about["coverage"]))
    return results
