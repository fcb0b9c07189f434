"""The layout of a job: how its users are split into shards to fit the memory, by a table of costs."""

from __future__ import annotations

from dataclasses import dataclass

from extembed_cli.data.columns.ids import id_kind
from extembed_cli.data.columns.vector_columns import VectorColumns
from extembed_cli.data.inputs.inputs import Inputs, Sharded
from extembed_cli.data.outputs.feature_file import ROW_GROUP
from extembed_cli.errors import ResourceError, counted
from extembed_cli.features.prepare import matrices_of
from extembed_cli.features.registry import output_columns, shard_columns, techniques_of
from extembed_cli.jobs.within import BYTES_OF_REQUESTS
from extembed_cli.spec.model import Spec

# Measured on 2 cores, see docs/decisions/.
_BYTES_FOR_LIBRARIES = 120 * 2**20
_BYTES_OF_A_BATCH = 2**24
_LONG_HISTORY = 2**18  # events; a shorter history fits into any batch
_FEW_EVENTS = 2**16  # of a shard, which fit into any memory
_BYTES_PER_EVENT, _BYTES_PER_EXPRESSION = 180, 24
_BYTES_PER_CANDIDATE, _BYTES_PER_FEATURE = 130, 10
_BYTES_PER_TEXT_ID = 50
_BYTES_PER_ID = 60
_BYTES_PER_READ_ROW = 250
_MAX_ROWS_READ, _MIN_ROWS_READ = 2**20, 2**15
_MAX_SHARDS = 1024


@dataclass(frozen=True)
class Layout:
    """How a job fits into its memory. The layout does not change a byte of the result."""

    shards: int = 1
    """Number of shards of users; more than one are kept in files."""
    rows: int = _MAX_ROWS_READ
    """Rows of a log read at a time."""
    mapped: bool = False
    """Whether vectors are in mapped files instead of memory."""
    most: int | None = None
    """Most events that fit into memory at a time; None = any number."""

    @property
    def on_disk(self) -> bool:
        """Whether anything is kept in files."""
        return self.shards > 1 or self.mapped


def layout_of(
    spec: Spec,
    inputs: Inputs,
    workers: int,
    memory: int | None,
    *,
    cached: bool = False,
    other_needs: dict[str, int] | None = None,
) -> Layout:
    """Return the layout with the fewest shards that fits the memory; raise if none fits.

    With a cache the tables are mapped from it and need no memory of their own. `other_needs` are further bytes by
    purpose.
    """
    if memory is None:
        return Layout()
    candidates = inputs.candidates.rows if inputs.candidates else 0
    rows = _row_bytes_of_all(spec, inputs)
    vectors = _matrix_bytes(spec, inputs, cached)
    fixed = fixed_needs(spec, inputs, workers) | (other_needs or {})
    free = memory - sum(fixed.values())
    smallest = -(-rows // _MAX_SHARDS)  # shard
    least = min(_MIN_ROWS_READ, inputs.interactions.rows + candidates) * _BYTES_PER_READ_ROW + smallest
    if free < least:
        purposes = ", ".join(f"{purpose} {size / 2**20:,.0f}" for purpose, size in fixed.items())
        minimum = -(-(memory - free + least) // 2**20)
        raise ResourceError(
            f"the job needs at least {minimum:,} MiB ({purposes}, rows {least / 2**20:,.0f}) "
            f"and may use only {memory / 2**20:,.0f} MiB. Raise --memory{' or lower --workers' if workers > 1 else ''}"
        )
    reading = min(_MAX_ROWS_READ, max(_MIN_ROWS_READ, min(free // 4, free - smallest) // _BYTES_PER_READ_ROW))
    read = min(reading, inputs.interactions.rows + candidates) * _BYTES_PER_READ_ROW
    if rows + vectors + read <= free:
        return Layout(rows=reading)
    mapped = vectors > free // 3 or free - vectors - read < smallest
    room = (free if mapped else free - vectors) - read
    most = max(_FEW_EVENTS, 5 * room // (4 * _event_bytes(spec, inputs)))  # shards are not of equal size
    return Layout(-(-rows // room), reading, mapped, most)


def check_longest(spec: Spec, loaded: Sharded, workers: int, memory: int | None) -> None:
    """Raise if the longest history does not fit into the memory: an owner cannot be split into shards."""
    longest = loaded.partition.longest
    if memory is None or longest <= _LONG_HISTORY:
        return
    fixed = sum(fixed_needs(spec, loaded.inputs, workers).values())
    batch = sum(technique.bytes_of_longest(spec, longest) for technique in techniques_of(spec))
    copies = 1 if spec.side.own else 2  # without the events of a candidate's own user
    need = fixed + copies * longest * _event_bytes(spec, loaded.inputs) + workers * batch
    if need > memory:
        fewer, owner = "lower --workers, " if workers > 1 else "", spec.side.owner
        threads = counted(workers, "worker")
        raise ResourceError(
            f"one {owner} has about {longest:,} interactions, which need {need / 2**20:,.0f} MiB on {threads}, "
            f"but the job may use only {memory / 2**20:,.0f} MiB. Raise --memory, {fewer}"
            f"leave the {owner} out, or set max_events in all histories"
        )


def fixed_needs(spec: Spec, inputs: Inputs, workers: int) -> dict[str, int]:
    """Return the bytes by purpose that a job needs for any number of shards."""
    ids = sum(table.rows for table in inputs.embeddings.values())
    written = min(ROW_GROUP, inputs.candidates.rows) if inputs.candidates and spec.output is not None else 0
    needs = [technique.memory(spec, ids) for technique in techniques_of(spec)]
    models = sum(need.state for need in needs)
    return {
        "libraries": _BYTES_FOR_LIBRARIES + sum(need.libraries for need in needs),
        f"batches of {counted(workers, 'worker')}": workers * (_BYTES_OF_A_BATCH + sum(need.batch for need in needs)),
        "item ids": ids * _BYTES_PER_ID,
        **({"models": models} if models else {}),
        **({"requests": inputs.candidates.rows * BYTES_OF_REQUESTS} if spec.within and inputs.candidates else {}),
        "a row group of the output": written * (_candidate_bytes(inputs) + 12 * len(output_columns(spec.whole))),
    }


def _candidate_bytes(inputs: Inputs) -> int:
    """Return about the bytes of a candidate's own columns: decoded, and once more as a page of the output."""
    return 0 if inputs.candidates is None else 2 * max(part.row_bytes for part in inputs.candidates.parts)


def _text_bytes(spec: Spec, inputs: Inputs) -> int:
    """Return the bytes of an owner's id, if it is not an integer; else 0."""
    column = spec.column("interactions", spec.side.owner)
    kinds = {id_kind(part.schema.field(column).type) for part in inputs.interactions.parts}
    return 0 if kinds == {"integer"} else _BYTES_PER_TEXT_ID


def _event_bytes(spec: Spec, inputs: Inputs) -> int:
    """Return the bytes of an event while its shard is computed."""
    values = {*spec.expressions, *spec.targets}
    return _BYTES_PER_EVENT + _text_bytes(spec, inputs) + _BYTES_PER_EXPRESSION * len(values)


def _row_bytes_of_all(spec: Spec, inputs: Inputs) -> int:
    """Return the bytes of all events and candidates during the computation, with their features."""
    total = inputs.interactions.rows * _event_bytes(spec, inputs)
    if inputs.candidates is not None:
        features = _BYTES_PER_FEATURE * len(shard_columns(spec))
        total += inputs.candidates.rows * (_BYTES_PER_CANDIDATE + _text_bytes(spec, inputs) + features)
    return total


def _matrix_bytes(spec: Spec, inputs: Inputs, cached: bool = False) -> int:
    """Return the largest possible bytes of all vectors: as unit vectors, and in the coordinates of each technique."""
    total = 0
    for name, matrices in matrices_of(spec).items():
        table = inputs.embeddings.get(name)
        if table is None:  # derived, and there already
            continue
        size = 4 * table.rows * VectorColumns.of(spec, name, table).dim
        for matrix in matrices:
            copies = sum(technique.copies(spec, matrix) for technique in techniques_of(spec))
            total += size * (bool(copies) + copies + (not cached or spec.time_column(name) is not None))
    return total


def memory_needed(spec: Spec, inputs: Inputs, layout: Layout, workers: int) -> int:
    """Return the estimated peak memory of a run in bytes."""
    candidates = inputs.candidates.rows if inputs.candidates else 0
    rows = _row_bytes_of_all(spec, inputs)
    fixed = sum(fixed_needs(spec, inputs, workers).values())
    reading = min(layout.rows, inputs.interactions.rows + candidates) * _BYTES_PER_READ_ROW
    return fixed + reading + rows // layout.shards + (0 if layout.mapped else _matrix_bytes(spec, inputs))
