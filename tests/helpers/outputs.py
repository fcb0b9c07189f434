"""Runs in any layout, and the comparison of their bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from conftest import soak

from extembed_cli.jobs.layout import Layout
from extembed_cli.jobs.options import RunOptions
from extembed_cli.jobs.run import run_job
from extembed_cli.spec.loading import load_spec
from extembed_cli.system.progress import Watch
from helpers.engines import SPARK, on_spark

LAYOUTS = [soak(Layout(shards=3, rows=50)), soak(Layout(mapped=True)), Layout(shards=2, mapped=True), soak(SPARK)]
Ran = tuple[dict[str, bytes], dict[str, Any]]


def ran(spec_path: Path, workers: int, cut: Layout | str) -> Ran:
    """Run a spec in a layout, or on Spark. Return the bytes of all outputs, and the counts of the run report."""
    spec = load_spec(spec_path)
    if isinstance(cut, Layout):
        report = run_job(spec, RunOptions(workers=workers, layout=cut), Watch())
        assert report["shards"] == cut.shards or report["engine"] == SPARK
    else:
        report = run_job(spec, RunOptions(workers=workers), Watch(), on_spark(buckets=3))
    done = {name: report[name] for name in ("cosines", "dual", "candidates_in_own_history", "inputs", "user_vectors")}
    assert not list(spec_path.parent.glob(".extembed-*")), "scratch is left behind"
    return {path: Path(path).read_bytes() for path in spec.outputs}, done


def same(one: Ran, other: Ran) -> None:
    for path, data in one[0].items():
        assert data == other[0][path], path
    assert one[1] == other[1], [(k, one[1][k], other[1][k]) for k in one[1] if one[1][k] != other[1][k]]
