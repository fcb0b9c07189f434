"""One run of a spec from inputs to output: the one function that the commands call."""

from __future__ import annotations

import resource
import sys
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

import extembed_cli
from extembed_cli.data import keys
from extembed_cli.data.batches import FEWEST_CANDIDATES, TILE_COSINES, TILE_FLOATS, tiles
from extembed_cli.data.commit import Staged, locked, staged, writing
from extembed_cli.data.embeddings import first_dim, load_matrix
from extembed_cli.data.histories import encode, every_user
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
from extembed_cli.errors import Problems, ResourceError, SpecError
from extembed_cli.features.columns import Column
from extembed_cli.features.dual import Solves, all_fits, expected_work, vector_files
from extembed_cli.features.shard import Shared, output_columns, prepare
from extembed_cli.features.visibility import visible
from extembed_cli.spec import ALL, Spec

# For the plan only: what was measured on 2 cores, see docs/decisions/.
_SECONDS_PER_COSINE = 35e-9
_SECONDS_PER_ROW = 1.5e-6
_SECONDS_PER_PRODUCT = 1e-10
_BYTES_PER_EVENT = 120
_BYTES_PER_CANDIDATE = 100
_BYTES_PER_COSINE = 60
_BYTES_FOR_LIBRARIES = 230 * 2**20
_VECTOR_ROWS = 8192  # of user vectors rotated and written at a time
_RESIDUAL = 1e-6  # of a dual fit; above it the run warns


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
    dims = _dims(spec, loaded)
    cosines = 0
    if spec.aggregate:
        seen = visible(spec, ALL, loaded.history, loaded.asked)
        cut = tiles(loaded.asked.indptr, seen.start, seen.end, loaded.history.indptr[1:])
        cosines = int((cut.C * cut.H).sum()) * len(spec.embeddings)
    users = every_user(loaded.history, loaded.vectors_as_of)
    works = [expected_work(spec, f, loaded.history, loaded.asked, dims[f.embedding]) for f in all_fits(spec)]
    works += [expected_work(spec, f, loaded.history, users, dims[f.embedding]) for f in vector_files(spec).values()]
    columns = output_columns(spec)
    rows = len(loaded.candidates) + loaded.interactions.rows
    threaded = cosines * _SECONDS_PER_COSINE + sum(work.products for work in works) * _SECONDS_PER_PRODUCT
    return {
        "inputs": input_report(loaded),
        "output": spec.output,
        "user_vectors": list(vector_files(spec)),
        "columns": [column.name for column in columns],
        "rows_out": len(loaded.candidates),
        "shards": len(local.shards(loaded.history, loaded.asked, local.SHARD_ROWS)),
        "workers": options.workers,
        "cosines": cosines,
        "systems": sum(work.systems for work in works),
        "estimated_memory_bytes": memory_needed(spec, loaded, columns, options.workers),
        "estimated_seconds": round(1 + rows * _SECONDS_PER_ROW + threaded / options.workers, 1),
        "warnings": watch.warnings,
    }


def _dims(spec: Spec, loaded: Loaded) -> dict[str, int]:
    """The length of the vectors of each table."""
    tables = loaded.inputs.embeddings
    return {name: first_dim(table, spec.embedding_column(name, "embedding")) for name, table in tables.items()}


def memory_needed(spec: Spec, loaded: Loaded, columns: list[Column], workers: int) -> int:
    """Bytes that a run is estimated to need at its peak."""
    dims, matrices = _dims(spec, loaded), 0
    fits = all_fits(spec)
    for name, ids in loaded.ids.items():
        used = min(len(ids.ids), len(loaded.encoded.vocabulary))
        mine = [fit for fit in fits if fit.embedding == name]
        # The mean and the Gramian are over all rows of a table, in order of ids, so those tables are kept whole.
        whole = spec.embeddings[name].center or any(fit.unobserved_weight > 0 for fit in mine)
        bases = {(fit.unobserved_weight > 0, fit.bias) for fit in mine}
        matrices += 4 * dims[name] * ((len(ids.ids) if whole else used) + used * len(bases))
    users = len(loaded.encoded.users)
    user_vectors = sum(4 * users * (dims[fit.embedding] + 1) for fit in vector_files(spec).values())
    longest = int(np.diff(loaded.history.indptr).max(initial=0))
    tile = max(TILE_COSINES, FEWEST_CANDIDATES * longest) * _BYTES_PER_COSINE if spec.aggregate else 0
    vectors = 2 * 4 * max(TILE_FLOATS, longest * max(dims.values()))
    return int(
        _BYTES_FOR_LIBRARIES
        + loaded.interactions.rows * _BYTES_PER_EVENT
        + len(loaded.candidates) * (_BYTES_PER_CANDIDATE + 8 * len(columns))
        + matrices
        + user_vectors
        + workers * (tile + vectors)
    )


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
        _check_memory(memory_needed(spec, loaded, output_columns(spec), options.workers), options.memory)
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
        for message in _doubts(loaded, features):
            watch.warning(message)
        with watch.timing("write"):
            report = _write(spec, stage, loaded, shared, features, digests.result())
            loaded.inputs.check_unchanged()
        done = features.done
        report |= {
            "started": started.isoformat(timespec="seconds"),
            "inputs": input_report(loaded, shared.embeddings),
            "candidates_in_own_history": features.in_own_history,
            "cosines": done.cosines * len(spec.embeddings),
            "dual": _solves(loaded, done.solves) if spec.dual else None,
            "seconds": round(time.perf_counter() - began, 3),
            "seconds_by_stage": {name: round(s, 3) for name, s in watch.seconds.items()},
            "seconds_by_technique": {name: round(s / options.workers, 3) for name, s in done.seconds.items()},
            "workers": options.workers,
            "peak_memory_bytes": _peak_memory(),
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


def _doubts(loaded: Loaded, features: local.Features) -> Iterator[str]:
    """Signs in what was computed that it may be worthless."""
    asked, repeats, solves = len(loaded.asked.rows), features.in_own_history, features.done.solves
    if repeats > asked / 2:
        yield (
            f"{repeats:,} of {asked:,} candidates stand in their own visible history: the log "
            "repeats items, or times are wrong (time_unit?) and the features see what they should predict"
        )
    if solves.not_converged:
        users = loaded.encoded.users[sorted(solves.not_converged)[:5]].to_list()
        yield (
            f"{len(solves.not_converged):,} users have a logistic fit with a gradient above 1e-6 (user {users}); "
            "raise `regularization`"
        )
    if solves.residual > _RESIDUAL:
        yield (
            f"a dual fit has a relative residual of {solves.residual:.1e}: its weights are too large for its "
            "regularization; raise `regularization` or lower `weight`"
        )


def _write(
    spec: Spec,
    stage: Staged,
    loaded: Loaded,
    shared: Shared,
    features: local.Features,
    digests: dict[str, Any],
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
                (model.basis.original(found[low : low + _VECTOR_ROWS]) for low in range(0, len(found), _VECTOR_ROWS)),
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


def _solves(loaded: Loaded, solves: Solves) -> dict[str, Any]:
    """The fits in the run report."""
    users = loaded.encoded.users[sorted(solves.not_converged)]
    return {
        "systems": solves.systems,
        "primal_solves": solves.primal,
        "dual_solves": solves.dual,
        "largest_relative_residual": solves.residual,
        "largest_logistic_gradient": solves.gradient,
        "users_not_converged": len(users),
        "examples_not_converged": [str(user) for user in users.head(20)],
    }


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
