"""Read the inputs of a job and split them into shards of users."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import polars as pl

from extembed_cli.data.columns.vector_columns import VectorColumns
from extembed_cli.data.inputs.coverage import Coverage, HasVector
from extembed_cli.data.inputs.inputs import Inputs, Opened, Sharded, open_inputs, read_inputs
from extembed_cli.data.inputs.vector_cache import VectorCache
from extembed_cli.data.outputs.feature_file import check_names, check_not_an_input, check_target
from extembed_cli.data.shards.partition import Partition
from extembed_cli.data.shards.scratch import Scratch
from extembed_cli.errors import DataError, ExtembedError, InputError, Problems
from extembed_cli.features.prepare import matrices_of
from extembed_cli.features.registry import output_columns, techniques_of
from extembed_cli.histories.csr import Shard
from extembed_cli.jobs.layout import Layout
from extembed_cli.jobs.options import RunOptions
from extembed_cli.jobs.requirements import check_patterns
from extembed_cli.jobs.within import check_requests
from extembed_cli.spec.model import Spec
from extembed_cli.system.progress import Watch

SECONDS_PER_ROW = 0.3e-6  # for a progress bar of even speed
_SAMPLE_ROWS = 2**22  # rows that a dry run computes with


def open_all(spec: Spec, watch: Watch) -> Opened:
    """Open all inputs and check everything that needs no reading."""
    with watch.timing("check"):
        opened = open_inputs(spec)
        for path in spec.outputs:
            with opened.problems.collect():
                check_target(path)
            with opened.problems.collect():
                check_not_an_input(path, opened.tables)
        features: list[str] = []
        with opened.problems.collect():
            features += [column.name for column in output_columns(spec)]
            if spec.groups:  # a training has none
                check_patterns(spec, features)
        if opened.candidates is not None:
            with opened.problems.collect():
                check_names(opened.candidates, features)
            with opened.problems.collect():
                check_requests(spec, opened.candidates)
        if not opened.problems.errors:
            _check_dims(opened)
    watch.warn_of(_unused(spec))
    return opened


def _unused(spec: Spec) -> Iterator[str]:
    """Yield warnings about tables that no group reads."""
    used = {matrix.table for technique in techniques_of(spec) for matrix in technique.matrices(spec)}
    used |= {spec.derived(name).embedding for name in spec.derivations()}
    for name in spec.tables if spec.groups else ():
        if name not in used:
            yield f"{spec.table_label(name)}: no group uses this table"


def _check_dims(opened: Opened) -> None:
    try:
        dims = dims_of(opened)
    except ExtembedError:  # vectors that cannot be read are reported with all other problems of reading
        return
    for technique in techniques_of(opened.spec):
        with opened.problems.collect():
            technique.check_dims(opened.spec, dims)


def dims_of(opened: Opened) -> dict[str, int]:
    """Return the lengths of the vectors by table, by the first one of each."""
    spec = opened.spec
    dims = {name: VectorColumns.of(spec, name, table).dim for name, table in opened.embeddings.items()}
    return {**dims, **{name: dims[spec.derived(name).embedding] for name in spec.derivations()}}


def cache_of(opened: Opened, options: RunOptions, centers: dict[str, list[bool]] | None = None) -> VectorCache | None:
    """Return the tables of a pass in the cache folder of a run, if it has one.

    centers  by table whether its vectors are centred, for each kind of them; as the techniques read them unless given
    """
    if options.cache is None:
        return None
    spec, inputs = opened.spec, opened.complete()
    if centers is None:
        centers = {name: [matrix.center for matrix in matrices] for name, matrices in matrices_of(spec).items()}
    tables = {name: table for name, table in inputs.embeddings.items() if spec.time_column(name) is None}
    return VectorCache(options.cache, spec, tables, centers)


def load(
    opened: Opened,
    watch: Watch,
    layout: Layout,
    scratch: Scratch | None = None,
    cache: VectorCache | None = None,
    *,
    vectors: bool = False,
) -> Sharded:
    """Read ids, times and expressions of all inputs; raise all problems together, with those of `opened`.

    Shards of users are stored in the scratch folder; without one, only the first shard is kept. With `vectors`, the
    vectors are read even if another input has problems, so that their problems are raised too.
    """
    spec, kept = opened.spec, scratch if layout.shards > 1 else None
    folder = kept.folder if kept else None
    partition = Partition(
        layout.shards, folder, watch, side=spec.side, all_owners=spec.needs_all_owners, most=layout.most
    )
    watch.expect(sum(table.rows for table in opened.logs))
    with watch.timing("read") as cost:
        loaded = read_inputs(
            opened,
            partition,
            layout.rows,
            scratch=kept,
            cache=cache,
            vectors=vectors,
            progress=lambda rows: watch.moved(rows, rows * SECONDS_PER_ROW),
        )
        rows = loaded.events.rows + loaded.candidates.rows
        cost.add(rows=rows, bytes=sum(table.bytes for table in opened.logs))
    return loaded


@contextmanager
def with_problems_of(others: Sequence[Opened], watch: Watch) -> Iterator[None]:
    """Raise a problem with the inputs of a pass together with those of other passes, which are read for it."""
    try:
        yield
    except (DataError, InputError) as error:
        problems = Problems([error])
        for each in others:
            with suppress(ExtembedError):  # it is among the problems then
                load(replace(each, problems=problems), watch, sample_layout(each), vectors=True)
        problems.raise_any()


def sample_layout(opened: Opened) -> Layout:
    """Return a layout whose first shard is a small sample of the users; a small job has one shard."""
    return Layout(shards=1 + sum(table.rows for table in opened.logs) // _SAMPLE_ROWS)


def first_shard(
    spec: Spec, loaded: Sharded, coverage_of: Callable[[Spec, Shard], Coverage] | None = None
) -> tuple[Shard, Coverage]:
    """Return the first shard, which may be a sample, and the coverage of all shards estimated from it.

    Without a function for the coverage of a shard, whoever has a row in a table counts as having a vector.
    """
    shard, coverage = loaded.shard(spec, 0), Coverage()
    if coverage_of is None:
        partners = {name: _with_row(loaded, name, loaded.vocabulary.ids) for name in loaded.ids if name in spec.tables}
        owners = {name: _with_row(loaded, name, shard.owners) for name in loaded.ids if name in spec.owner_tables}
        of_shard = Coverage.of(spec, shard, partners, owners)
    else:
        of_shard = coverage_of(spec, shard)
    coverage.add(of_shard, times=loaded.partition.shards)
    return shard, coverage


def _with_row(loaded: Sharded, table: str, ids: pl.Series) -> HasVector:
    """Return whether the table has a row for each num of some ids, at whatever time."""
    known = loaded.rows_of(table, ids)
    return lambda nums, times: known[nums]


@contextmanager
def digesting(inputs: Inputs, known: dict[str, Any]) -> Iterator[Future[dict[str, Any]]]:
    """Yield the digests of all inputs, computed in the background until the job ends.

    `known` are digests of embedding tables that need no computation.
    """
    stop = threading.Event()
    with ThreadPoolExecutor(1, "digest") as background:
        try:
            yield background.submit(inputs.digests, stop, known)
        finally:
            stop.set()
