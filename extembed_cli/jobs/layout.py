"""What a job needs: how its users are cut into shards so that it keeps to its memory, and what a dry run tells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from extembed_cli.data.embeddings import first_dim
from extembed_cli.data.feature_file import ROW_GROUP
from extembed_cli.data.ids import id_kind
from extembed_cli.data.inputs import Inputs, Loaded, Opened, Totals
from extembed_cli.data.inputs import report as input_report
from extembed_cli.errors import ResourceError
from extembed_cli.features.aggregate.cosine_statistics import FLOATS, PAIRS
from extembed_cli.features.aggregate.technique import expected_cosines
from extembed_cli.features.compute import output_columns
from extembed_cli.features.dual.technique import all_fits, expected_work, is_additive, vector_files
from extembed_cli.features.neural import technique as neural
from extembed_cli.histories.csr import Shard, every_user
from extembed_cli.spec.model import Spec

# What was measured on 2 cores, see docs/decisions/.
_SECONDS_PER_COSINE, _SECONDS_PER_WEIGHTED_COSINE = 20e-9, 20e-9
_SECONDS_PER_ROW = 1e-6
_SECONDS_PER_PRODUCT = 1.5e-10
_SECONDS_PER_SHARD = 0.2
_BYTES_FOR_LIBRARIES = 120 * 2**20
_BYTES_FOR_TORCH = 130 * 2**20
_SECONDS_PER_SCORE = 30e-6
_BYTES_PER_EVENT, _BYTES_PER_EXPRESSION = 180, 24
_BYTES_PER_CANDIDATE, _BYTES_PER_FEATURE = 130, 10
_BYTES_PER_TEXT_ID = 50
_BYTES_PER_PAIR = 100
_BYTES_PER_ID = 60
_BYTES_PER_READ_ROW = 250
_MOST_ROWS_READ, _FEWEST_ROWS_READ = 2**20, 2**15
_MOST_SHARDS = 1024
# Of technique 1, for each table, history and half-life.
_SECONDS_PER_CANDIDATE, _SECONDS_PER_EVENT = 0.7e-6, 0.6e-6
_SECONDS_PER_FIT = {True: 20e-6, False: 130e-6}  # nested in those of the user's other as-of times, or by itself
_SAMPLE_ROWS = 2**22  # of a dry run


@dataclass(frozen=True)
class Layout:
    """How a job is cut to its memory; none of it changes a byte of the result."""

    shards: int = 1
    """Shards of users; with more than one they wait in files."""
    rows: int = _MOST_ROWS_READ
    """Rows of a log read at a time."""
    mapped: bool = False
    """Vectors are kept in files that are mapped, not in memory."""

    @property
    def on_disk(self) -> bool:
        """Whether anything is kept in files."""
        return self.shards > 1 or self.mapped


@dataclass(frozen=True)
class Work:
    """About how many seconds a row takes in each stage that has a bar."""

    compute: float
    """Of a candidate, or of an event where only user vectors are made."""
    total: float
    """Of the whole run."""
    read: ClassVar[float] = 0.3e-6
    write: ClassVar[float] = 0.3e-6


def work(spec: Spec, inputs: Inputs) -> Work:
    """The work of a run, from the numbers of its rows: for a bar that moves about evenly."""
    asked = inputs.candidates.rows if inputs.candidates else 0
    weighted = sum(len(spec.embeddings_of(g)) * len(spec.histories_of(g)) * len(g.half_lives) for g in spec.aggregate)
    compute = weighted * (_SECONDS_PER_CANDIDATE + _SECONDS_PER_EVENT * inputs.interactions.rows / max(1, asked))
    compute += sum(_SECONDS_PER_FIT[is_additive(spec, fit)] for fit in all_fits(spec))
    compute += len(spec.neural) * _SECONDS_PER_SCORE
    read = (inputs.interactions.rows + asked) * Work.read
    return Work(compute, read + asked * (compute + Work.write))


def layout(
    spec: Spec,
    inputs: Inputs,
    workers: int,
    memory: int | None,
    *,
    cached: bool = False,
    more: dict[str, int] | None = None,
) -> Layout:
    """The fewest shards that keep to the memory; refuses a job that cannot.

    With a cache the tables themselves are mapped from there, and take no memory of their own. `more`: what else is
    needed, bytes by purpose.
    """
    if memory is None:
        return Layout()
    asked = inputs.candidates.rows if inputs.candidates else 0
    rows = _row_bytes_of_all(spec, inputs)
    vectors = _matrix_bytes(spec, inputs, cached)
    fixed = fixed_needs(spec, inputs, workers) | (more or {})
    free = memory - sum(fixed.values())
    smallest = -(-rows // _MOST_SHARDS)  # shard
    least = min(_FEWEST_ROWS_READ, inputs.interactions.rows + asked) * _BYTES_PER_READ_ROW + smallest
    if free < least:
        listed = ", ".join(f"{what} {size / 2**20:,.0f}" for what, size in fixed.items())
        minimum = -(-(memory - free + least) // 2**20)
        raise ResourceError(
            f"the job needs at least {minimum:,} MiB ({listed}, rows {least / 2**20:,.0f}) "
            f"and may use {memory / 2**20:,.0f} MiB. Raise --memory{' or lower --workers' if workers > 1 else ''}"
        )
    reading = min(_MOST_ROWS_READ, max(_FEWEST_ROWS_READ, min(free // 4, free - smallest) // _BYTES_PER_READ_ROW))
    read = min(reading, inputs.interactions.rows + asked) * _BYTES_PER_READ_ROW
    if rows + vectors + read <= free:
        return Layout(rows=reading)
    mapped = vectors > free // 3 or free - vectors - read < smallest
    room = (free if mapped else free - vectors) - read
    return Layout(-(-rows // room), reading, mapped)


def check_longest(spec: Spec, loaded: Loaded, workers: int, memory: int | None) -> None:
    """Refuse a job whose longest history does not fit into the memory: a user cannot be cut into shards."""
    longest = loaded.partition.longest
    if memory is None or longest <= PAIRS:
        return
    fixed = sum(fixed_needs(spec, loaded.inputs, workers).values())
    limits = [spec.history(name).max_events for group in spec.aggregate for name in spec.histories_of(group)]
    batch = min(longest, max((limit or longest for limit in limits), default=0))
    need = fixed + longest * _event_bytes(spec, loaded.inputs) + workers * max(0, batch - PAIRS) * _BYTES_PER_PAIR
    if need > memory:
        fewer = "lower --workers, " if workers > 1 else ""
        raise ResourceError(
            f"one user has about {longest:,} interactions, which need {need / 2**20:,.0f} MiB on {_threads(workers)}, "
            f"and the job may use {memory / 2**20:,.0f} MiB. Raise --memory, {fewer}"
            "leave the user out, or set max_events in all histories"
        )


def fixed_needs(spec: Spec, inputs: Inputs, workers: int) -> dict[str, int]:
    """Bytes by purpose that a job needs however its users are cut."""
    ids = sum(table.rows for table in inputs.embeddings.values())
    written = min(ROW_GROUP, inputs.candidates.rows) if inputs.candidates and spec.output is not None else 0
    models, scored = neural.bytes_needed(spec, ids)
    if spec.aggregate:
        scored += PAIRS * _BYTES_PER_PAIR
    return {
        "libraries": _BYTES_FOR_LIBRARIES + (_BYTES_FOR_TORCH if spec.neural else 0),
        f"batches of {_threads(workers)}": workers * (scored + 32 * FLOATS),
        "item ids": ids * _BYTES_PER_ID + models,
        "a row group of the output": written * (_candidate_bytes(inputs) + 12 * len(output_columns(spec))),
    }


def _threads(workers: int) -> str:
    return f"{workers} worker{'s' if workers > 1 else ''}"


def _candidate_bytes(inputs: Inputs) -> int:
    """Bytes of a candidate's own columns, about: decoded, and once more as a page of the output."""
    return 0 if inputs.candidates is None else 2 * max(part.row_bytes for part in inputs.candidates.parts)


def _text_bytes(spec: Spec, inputs: Inputs) -> int:
    """Bytes of a user id that is no number."""
    users = inputs.interactions.schema.field(spec.column("interactions", "user"))
    return 0 if id_kind(users.type) == "integer" else _BYTES_PER_TEXT_ID


def _event_bytes(spec: Spec, inputs: Inputs) -> int:
    """Bytes of an event while its shard is computed."""
    expressions = (spec.weight is not None) + len(spec.histories) + len({group.target for group in spec.dual})
    return _BYTES_PER_EVENT + _text_bytes(spec, inputs) + _BYTES_PER_EXPRESSION * expressions


def _row_bytes_of_all(spec: Spec, inputs: Inputs) -> int:
    """Bytes of all events and candidates while they are computed, and of their features."""
    total = inputs.interactions.rows * _event_bytes(spec, inputs)
    if inputs.candidates is not None:
        features = _BYTES_PER_FEATURE * len(output_columns(spec))
        total += inputs.candidates.rows * (_BYTES_PER_CANDIDATE + _text_bytes(spec, inputs) + features)
    return total


def _matrix_bytes(spec: Spec, inputs: Inputs, cached: bool = False) -> int:
    """Bytes of all vectors at most: as unit vectors, and of the used ones in the coordinates of each basis."""
    fits, total = all_fits(spec), 0
    for name, table in inputs.embeddings.items():
        bases = {(fit.unobserved_weight > 0, fit.bias) for fit in fits if fit.embedding == name}
        total += (
            4
            * table.rows
            * first_dim(table, spec.embedding_column(name, "embedding"))
            * (bool(bases) + len(bases) + (not cached))
        )
    return total


def sample(opened: Opened) -> Layout:
    """Shards of which the first is a sample of the users that fits anywhere; a small job is one shard."""
    tables = [table for table in (opened.interactions, opened.candidates) if table is not None]
    return Layout(shards=1 + sum(table.rows for table in tables) // _SAMPLE_ROWS)


def plan(spec: Spec, loaded: Loaded, totals: Totals, shard: Shard, cut: Layout, workers: int) -> dict[str, Any]:
    """What a run reads, makes and needs, from one shard of those into which the loaded inputs are cut."""
    dims = {
        name: first_dim(table, spec.embedding_column(name, "embedding"))
        for name, table in loaded.inputs.embeddings.items()
    }
    history, asked = shard.history, shard.asked
    cosines, weighted = expected_cosines(spec, history, asked)
    users = every_user(history, loaded.vectors_as_of)
    works = [expected_work(spec, fit, history, asked, dims[fit.embedding]) for fit in all_fits(spec)]
    works += [expected_work(spec, fit, history, users, dims[fit.embedding]) for fit in vector_files(spec).values()]
    columns, of = output_columns(spec), loaded.partition.shards
    threaded = cosines * _SECONDS_PER_COSINE + weighted * _SECONDS_PER_WEIGHTED_COSINE
    threaded += sum(work.products for work in works) * _SECONDS_PER_PRODUCT
    threaded += len(spec.neural) * len(asked.rows) * _SECONDS_PER_SCORE
    rows = loaded.asked.rows + loaded.log.rows
    return {
        "inputs": input_report(loaded, totals),
        "output": spec.output,
        "user_vectors": [path for path in spec.user_vectors if path is not None],
        "columns": [column.name for column in columns],
        "rows_out": loaded.asked.rows,
        "shards": cut.shards,
        "workers": workers,
        "cosines": of * cosines,
        "systems": of * sum(work.systems for work in works),
        "estimated_memory_bytes": memory_needed(spec, loaded.inputs, cut, workers),
        "estimated_seconds": round(
            1 + rows * _SECONDS_PER_ROW + of * threaded / workers + (cut.shards - 1) * _SECONDS_PER_SHARD, 1
        ),
    }


def memory_needed(spec: Spec, inputs: Inputs, cut: Layout, workers: int) -> int:
    """Bytes that a run is estimated to need at its peak."""
    asked = inputs.candidates.rows if inputs.candidates else 0
    rows = _row_bytes_of_all(spec, inputs)
    fixed = sum(fixed_needs(spec, inputs, workers).values())
    reading = min(cut.rows, inputs.interactions.rows + asked) * _BYTES_PER_READ_ROW
    return fixed + reading + rows // cut.shards + (0 if cut.mapped else _matrix_bytes(spec, inputs))
