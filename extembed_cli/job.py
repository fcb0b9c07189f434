"""One run of a spec from inputs to output: the one function that the commands call."""

from __future__ import annotations

import resource
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

import extembed_cli
from extembed_cli.data.batches import FEWEST_CANDIDATES, TILE_COSINES, TILE_FLOATS, tiles
from extembed_cli.data.commit import locked, staged, writing
from extembed_cli.data.embeddings import first_dim, load_matrix
from extembed_cli.data.histories import encode
from extembed_cli.data.inputs import Loaded, mismatches, open_inputs, read_keys
from extembed_cli.data.inputs import report as input_report
from extembed_cli.data.output import candidate_rows, check_names, check_not_an_input, check_target, write_features
from extembed_cli.engines import local
from extembed_cli.errors import Problems, ResourceError, SpecError
from extembed_cli.features.columns import Column
from extembed_cli.features.shard import output_columns, prepare
from extembed_cli.features.visibility import visible
from extembed_cli.spec import ALL, Spec

# For the plan only: what was measured on 2 cores, see docs/decisions/.
_SECONDS_PER_COSINE = 35e-9
_SECONDS_PER_ROW = 1.5e-6
_BYTES_PER_EVENT = 120
_BYTES_PER_CANDIDATE = 100
_BYTES_PER_COSINE = 60
_BYTES_FOR_LIBRARIES = 230 * 2**20


@dataclass(frozen=True)
class RunOptions:
    """How to run: none of it changes what is computed."""

    workers: int
    memory: int | None = None
    """Refuse a job that needs more bytes than this; None = do not check."""
    wait: float = 0.0
    """Seconds to wait for another run that holds the output."""


@dataclass
class Watch:
    """Who wants to hear of the run: stages, rows done, warnings. By default nobody."""

    stage: Callable[[str], None] = lambda name: None
    total: Callable[[int], None] = lambda rows: None
    rows: Callable[[int], None] = lambda rows: None
    warn: Callable[[str], None] = lambda message: None
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    warnings: list[str] = field(default_factory=list)

    @contextmanager
    def timing(self, name: str) -> Iterator[None]:
        """Time a stage and announce it."""
        self.stage(name)
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - began

    def warning(self, message: str) -> None:
        """Pass a warning on and keep it for the report."""
        self.warnings.append(message)
        self.warn(message)


def load(spec: Spec, watch: Watch, vectors: bool = False) -> Loaded:
    """Read ids, times and expressions of all inputs, and encode them; everything found to be wrong is told at once.

    With `vectors`, what is wrong with them is told too when something else is: a check wants all of it.
    """
    problems = Problems()
    with watch.timing("check"):
        if spec.output is not None:
            with problems.collect():
                check_target(spec.output)
        opened = open_inputs(spec, problems)
        tables = [table for table in (opened.interactions, opened.candidates, *opened.embeddings.values()) if table]
        if spec.output is not None:
            with problems.collect():
                check_not_an_input(Path(spec.output), tables)
        if opened.candidates is not None:
            with problems.collect():
                check_names(opened.candidates, [column.name for column in output_columns(spec)])
    with watch.timing("read"):
        found = read_keys(spec, opened, problems)
    if problems.errors and vectors:
        for name, ids in found.ids.items():
            with problems.collect():
                load_matrix(spec, name, opened.embeddings[name], ids, ids.ids.drop_nulls().unique())
    problems.raise_any()
    with watch.timing("encode"):
        assert found.interactions is not None
        assert found.candidates is not None
        encoded = encode(found.interactions, found.candidates)
        loaded = Loaded(opened.complete(spec), found.interactions, found.candidates, found.ids, *encoded)
    for message in mismatches(spec, loaded):
        watch.warning(message)
    return loaded


def plan_job(spec: Spec, options: RunOptions, watch: Watch) -> dict[str, Any]:
    """What a run would read, make and need, without reading a vector or writing anything."""
    loaded = load(spec, watch)
    seen = visible(spec, ALL, loaded.history, loaded.asked)
    cut = tiles(loaded.asked.indptr, seen.start, seen.end, loaded.history.indptr[1:])
    cosines = int((cut.C * cut.H).sum()) * len(spec.embeddings)
    columns = output_columns(spec)
    rows = len(loaded.candidates) + loaded.interactions.rows
    return {
        "inputs": input_report(loaded),
        "output": spec.output,
        "columns": [column.name for column in columns],
        "rows_out": len(loaded.candidates),
        "shards": len(local.shards(loaded.history, loaded.asked, local.SHARD_ROWS)),
        "workers": options.workers,
        "cosines": cosines,
        "estimated_memory_bytes": memory_needed(spec, loaded, columns, options.workers),
        "estimated_seconds": round(1 + rows * _SECONDS_PER_ROW + cosines * _SECONDS_PER_COSINE / options.workers, 1),
        "warnings": watch.warnings,
    }


def memory_needed(spec: Spec, loaded: Loaded, columns: list[Column], workers: int) -> int:
    """Bytes that a run is estimated to need at its peak."""
    dims, matrices = [1], 0
    for name, ids in loaded.ids.items():
        dims.append(first_dim(loaded.inputs.embeddings[name], spec.embedding_column(name, "embedding")))
        # A centred table is kept whole: its mean is over all rows, in order of ids.
        kept = len(ids.ids) if spec.embeddings[name].center else min(len(ids.ids), len(loaded.vocabulary))
        matrices += 4 * dims[-1] * kept
    longest = int(np.diff(loaded.history.indptr).max(initial=0))
    tile = max(TILE_COSINES, FEWEST_CANDIDATES * longest) * _BYTES_PER_COSINE
    vectors = 2 * 4 * max(TILE_FLOATS, longest * max(dims))
    return int(
        _BYTES_FOR_LIBRARIES
        + loaded.interactions.rows * _BYTES_PER_EVENT
        + len(loaded.candidates) * (_BYTES_PER_CANDIDATE + 8 * len(columns))
        + matrices
        + workers * (tile + vectors)
    )


def check_job(spec: Spec, watch: Watch) -> dict[str, Any]:
    """Read everything, write nothing; raises with all problems found, else tells what there is."""
    loaded = load(spec, watch, vectors=True)
    with watch.timing("vectors"):
        shared = prepare(spec, loaded.inputs.embeddings, loaded.ids, loaded.vocabulary)
    with watch.timing("columns"):
        for _ in candidate_rows(loaded.inputs.candidates):
            pass  # the other columns are only read when the output is written: a torn page would show there
    return {
        "inputs": input_report(loaded, shared.embeddings),
        "columns": len(shared.columns),
        "warnings": watch.warnings,
    }


def run_job(spec: Spec, options: RunOptions, watch: Watch) -> dict[str, Any]:
    """Compute the features of all candidates and commit the output; returns the run report."""
    if spec.output is None:
        raise SpecError("no output: set `output` in the spec, or give -o OUT")
    output = Path(spec.output)
    began, started = time.perf_counter(), datetime.now(UTC)
    with (
        locked(output, options.wait),
        staged() as stage,
        ThreadPoolExecutor(1, "digest") as background,
        _set_at_end() as stop,
    ):
        loaded = load(spec, watch)
        digests = background.submit(loaded.inputs.digests, stop)
        columns = output_columns(spec)
        _check_memory(memory_needed(spec, loaded, columns, options.workers), options.memory)
        with watch.timing("vectors"):
            shared = prepare(spec, loaded.inputs.embeddings, loaded.ids, loaded.vocabulary)
        with watch.timing("compute"):
            watch.total(len(loaded.asked.rows))
            features = local.compute(
                spec,
                shared,
                loaded.history,
                loaded.asked,
                rows=len(loaded.candidates),
                workers=options.workers,
                progress=watch.rows,
            )
        asked = len(loaded.asked.rows)
        if features.in_own_history > asked / 2:
            watch.warning(
                f"{features.in_own_history:,} of {asked:,} candidates stand in their own visible history: the log "
                "repeats items, or times are wrong (time_unit?) and the features see what they should predict"
            )
        with watch.timing("write"), writing(output):
            metadata = {
                "version": extembed_cli.__version__,
                "spec": spec.meaning(),
                "inputs": digests.result(),
                "columns": [
                    {"name": c.name, "technique": c.technique, "dtype": c.dtype, "meaning": c.meaning} for c in columns
                ],
            }
            digest = write_features(stage, output, loaded.inputs.candidates, features.columns, features.known, metadata)
            loaded.inputs.check_unchanged()
        report = {
            "version": extembed_cli.__version__,
            "started": started.isoformat(timespec="seconds"),
            "output": str(output),
            "output_sha256": digest,
            "rows_in": len(loaded.candidates),
            "rows_out": len(loaded.candidates),
            "columns": len(columns),
            "column_names": [c.name for c in columns],
            "inputs": input_report(loaded, shared.embeddings),
            "digests": metadata["inputs"],
            "spec": metadata["spec"],
            "candidates_in_own_history": features.in_own_history,
            "cosines": features.done.cosines * len(spec.embeddings),
            "seconds": round(time.perf_counter() - began, 3),
            "seconds_by_stage": {name: round(s, 3) for name, s in watch.seconds.items()},
            "seconds_by_technique": {name: round(s / options.workers, 3) for name, s in features.done.seconds.items()},
            "workers": options.workers,
            "peak_memory_bytes": _peak_memory(),
            "warnings": watch.warnings,
        }
        with writing(output):
            stage.json(output.with_name(output.name + ".run.json"), report)
            stage.commit()
    return report


def _check_memory(needed: int, allowed: int | None) -> None:
    if allowed is not None and needed > allowed:
        raise ResourceError(
            f"the job needs about {needed / 2**20:,.0f} MiB and may use {allowed / 2**20:,.0f} MiB. "
            "Raise --memory, lower --workers, or split the candidates"
        )


@contextmanager
def _set_at_end() -> Iterator[threading.Event]:
    """An event that is set when the block ends, however it ends."""
    event = threading.Event()
    try:
        yield event
    finally:
        event.set()


def _peak_memory() -> int:
    """Bytes this process had resident at most. The kernel's figure: `getrusage` starts with that of the parent."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
