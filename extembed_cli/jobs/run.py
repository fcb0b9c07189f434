"""Run a spec from inputs to outputs: the function that the commands call."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from extembed_cli.data.files.commit import Staged, locked, staged, writing
from extembed_cli.data.files.sealed import sealed
from extembed_cli.errors import DataError, SpecError
from extembed_cli.jobs.local_passes import local_passes
from extembed_cli.jobs.options import RunOptions
from extembed_cli.jobs.outputs import write_outputs
from extembed_cli.jobs.passes import RunInputs, StartPasses
from extembed_cli.jobs.reading import cache_of, load, open_all, sample_layout
from extembed_cli.jobs.remote_outputs import Uploads, written_locally
from extembed_cli.jobs.report import closing, computed, report_path
from extembed_cli.jobs.requirements import check_features, required_features
from extembed_cli.jobs.sources import input_paths, other_digests
from extembed_cli.jobs.warnings import grown_tables
from extembed_cli.spec.model import Spec
from extembed_cli.system.progress import Watch
from extembed_cli.system.threads import threads


def run_job(
    spec: Spec,
    options: RunOptions,
    watch: Watch,
    start: StartPasses = local_passes,
    names: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Compute features and vectors, commit all files together, and return the run report.

    start  starts the engine
    names  what inputs are called in messages and in the report, by paths that stand for them
    """
    if spec.output is None and spec.candidates is not None:
        raise SpecError("no output: set `output` in the spec, or give -o OUT")
    with written_locally(spec, names or {}) as (local, uploads):
        return _run_job(local, uploads, options, watch, start)


def _run_job(spec: Spec, uploads: Uploads, options: RunOptions, watch: Watch, start: StartPasses) -> dict[str, Any]:
    """Run a job whose outputs are local, and upload those that stand in for objects."""
    outputs = [Path(path) for path in spec.outputs]
    began, started = time.perf_counter(), datetime.now(UTC)
    with _all_locked(outputs, options.wait), uploads.removed(), staged() as stage, ExitStack() as stack:
        opened = open_all(spec, watch)
        uploads.check_not_inputs(opened.tables)
        of_passes = [opened.of_pass(each) for each in spec.passes()]
        if opened.problems.errors:  # read the other inputs too, to raise all problems together
            load(of_passes[0], watch, sample_layout(opened))
        inputs = opened.complete()
        models = other_digests(input_paths(spec))
        mapped = stack.enter_context(threads(options.workers))
        caches = [cache_of(each, options) for each in of_passes]
        run = RunInputs(opened, of_passes, caches, models, uploads.urls, options, mapped, watch)
        passes = stack.enter_context(start(run))
        digests = passes.digests()
        results = passes.compute()
        candidates = results.passes[0].loaded.candidates.rows
        check_features(spec, candidates, passes.known(required_features(spec)))
        watch.expect(candidates)
        with watch.timing("write") as cost:
            watch.warn_of(grown_tables(spec, outputs[0], digests.result()))
            report = write_outputs(spec, stage, results.passes, passes.write, {**digests.result(), **models}, mapped)
            inputs.check_unchanged()
            if other_digests(input_paths(spec)) != models:
                raise DataError(
                    f"{' and '.join(models)} that the spec names changed during the run. The old output is untouched; "
                    "run again"
                )
            cost.add(rows=candidates, bytes=stage.bytes)
        report |= {
            "input_paths": input_paths(spec),
            "started": started.isoformat(timespec="seconds"),
            "seconds": round(time.perf_counter() - began, 3),
            **(of_engine := passes.report()),
            **computed(spec, results, watch.costs, of_engine["workers"]),
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


@contextmanager
def _all_locked(outputs: list[Path], wait: float) -> Iterator[None]:
    """Lock all outputs, always in the same order, so that two runs cannot wait for each other."""
    with ExitStack() as stack:
        for output in sorted(outputs):
            stack.enter_context(locked(output, wait))
        yield
