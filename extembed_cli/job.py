"""One run of a spec from inputs to output: the one function that the commands call."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

import extembed_cli
from extembed_cli.data import keys
from extembed_cli.data.commit import Staged, locked, staged, writing
from extembed_cli.data.embeddings import load_matrix
from extembed_cli.data.histories import encode
from extembed_cli.data.inputs import Loaded, mismatches, open_inputs, read_keys, vectors_as_of
from extembed_cli.data.inputs import report as input_report
from extembed_cli.data.output import (
    candidate_rows,
    check_names,
    check_not_an_input,
    check_target,
    write_features,
    write_user_vectors,
)
from extembed_cli.engines import local
from extembed_cli.errors import Problems, SpecError
from extembed_cli.features.dual import vector_files
from extembed_cli.features.shard import Shared, output_columns, prepare
from extembed_cli.mapping import Mapping
from extembed_cli.plan import check_memory, memory_needed, plan
from extembed_cli.report import computed, doubts
from extembed_cli.spec import Spec

_VECTOR_ROWS = 2048  # of user vectors rotated and written at a time


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
    rows: Callable[[float], None] = lambda rows: None
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
        encoded = encode(found.interactions, found.candidates, all_users=bool(vector_files(spec)))
        moment = vectors_as_of(spec, found.interactions)
        loaded = Loaded(opened.complete(spec), found.interactions, found.candidates, found.ids, encoded, moment)
    for message in mismatches(spec, loaded):
        watch.warning(message)
    return loaded


def plan_job(spec: Spec, options: RunOptions, watch: Watch) -> dict[str, Any]:
    """What a run would read, make and need, without reading a vector or writing anything."""
    loaded = load(spec, watch)
    return {**plan(spec, loaded, options.workers), "warnings": watch.warnings}


def check_job(spec: Spec, watch: Watch) -> dict[str, Any]:
    """Read everything, write nothing; raises with all problems found, else tells what there is."""
    loaded = load(spec, watch, vectors=True)
    with watch.timing("vectors"):
        shared = prepare(spec, loaded.inputs.embeddings, loaded.ids, loaded.encoded.vocabulary)
    if loaded.inputs.candidates is not None:
        with watch.timing("columns"):
            for _ in candidate_rows(loaded.inputs.candidates):
                pass  # the other columns are only read when the output is written: a torn page would show there
    return {
        "inputs": input_report(loaded, shared.embeddings),
        "columns": len(shared.columns),
        "warnings": watch.warnings,
    }


def run_job(spec: Spec, options: RunOptions, watch: Watch) -> dict[str, Any]:
    """Compute features and user vectors, and commit all files together; returns the run report."""
    if spec.output is None and spec.candidates is not None:
        raise SpecError("no output: set `output` in the spec, or give -o OUT")
    outputs = [Path(path) for path in spec.outputs]
    began, started = time.perf_counter(), datetime.now(UTC)
    with (
        _all_locked(outputs, options.wait),
        staged() as stage,
        ThreadPoolExecutor(1, "digest") as background,
        _set_at_end() as stop,
    ):
        loaded = load(spec, watch)
        digests = background.submit(loaded.inputs.digests, stop)
        check_memory(memory_needed(spec, loaded, options.workers), options.memory)
        with local.threads(options.workers) as mapped:
            with watch.timing("vectors"):
                shared = prepare(spec, loaded.inputs.embeddings, loaded.ids, loaded.encoded.vocabulary, mapped)
            with watch.timing("compute"):
                watch.total(len(loaded.asked.rows) if shared.columns else len(loaded.encoded.users))
                features = local.compute(
                    spec,
                    shared,
                    loaded.history,
                    loaded.asked,
                    loaded.vectors_as_of,
                    mapped,
                    rows=len(loaded.candidates),
                    progress=watch.rows,
                )
            for message in doubts(loaded, features):
                watch.warning(message)
            with watch.timing("write"):
                report = _write(spec, stage, loaded, shared, features, digests.result(), mapped)
                loaded.inputs.check_unchanged()
        report |= {
            "started": started.isoformat(timespec="seconds"),
            "seconds": round(time.perf_counter() - began, 3),
            "seconds_by_stage": {name: round(s, 3) for name, s in watch.seconds.items()},
            "workers": options.workers,
            **computed(spec, loaded, shared, features, options.workers),
            "warnings": watch.warnings,
        }
        with writing(outputs[0]):
            stage.json(outputs[0].with_name(outputs[0].name + ".run.json"), report)
            stage.commit()
    return report


@contextmanager
def _all_locked(outputs: list[Path], wait: float) -> Iterator[None]:
    """Hold all outputs, always in the same order: two runs cannot wait for each other."""
    with ExitStack() as stack:
        for output in sorted(outputs):
            stack.enter_context(locked(output, wait))
        yield


def _write(
    spec: Spec,
    stage: Staged,
    loaded: Loaded,
    shared: Shared,
    features: local.Features,
    digests: dict[str, Any],
    mapped: Mapping,
) -> dict[str, Any]:
    """Stage features and user vectors; the part of the report that describes them."""
    about = {"version": extembed_cli.__version__, "spec": spec.meaning(), "inputs": digests}
    columns = [
        {"name": c.name, "technique": c.technique, "dtype": c.dtype, "meaning": c.meaning} for c in shared.columns
    ]
    digest = None
    if loaded.inputs.candidates is not None and spec.output is not None:
        output = Path(spec.output)
        with writing(output):
            digest = write_features(
                stage,
                output,
                loaded.inputs.candidates,
                features.columns,
                features.known,
                {**about, "columns": columns},
            )
    vectors = []
    user_column = spec.column("interactions", "user")
    for path, model in shared.vector_files.items():
        with writing(Path(path)):
            found = features.vectors[path]
            users = loaded.encoded.users.filter(pl.Series(~np.isnan(found[:, 0])))
            found = found[~np.isnan(found[:, 0])]
            written = write_user_vectors(
                stage,
                Path(path),
                keys.as_stored(users, loaded.inputs.interactions, user_column),
                mapped(model.basis.original, _blocks(found)),
                dim=model.dim - model.fit.bias,
                with_bias=model.fit.bias,
                metadata={**about, "as_of_us": loaded.vectors_as_of, "meaning": model.fit.meaning},
            )
            vectors.append({"path": path, "rows": len(users), "sha256": written})
    return {
        "version": about["version"],
        "output": spec.output,
        "output_sha256": digest,
        "rows_in": len(loaded.candidates),
        "rows_out": len(loaded.candidates),
        "columns": len(columns),
        "column_names": [c["name"] for c in columns],
        "user_vectors": vectors,
        "digests": digests,
        "spec": about["spec"],
    }


def _blocks(vectors: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    """Rows in blocks that depend on their number alone, and so do the bits of their rotation."""
    return (vectors[low : low + _VECTOR_ROWS] for low in range(0, len(vectors), _VECTOR_ROWS))


@contextmanager
def _set_at_end() -> Iterator[threading.Event]:
    """An event that is set when the block ends, however it ends."""
    event = threading.Event()
    try:
        yield event
    finally:
        event.set()
