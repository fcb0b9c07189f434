"""The plan of a dry run: what a run would read, compute and need."""

from __future__ import annotations

from typing import Any, NamedTuple

from extembed_cli.data.inputs.coverage import Coverage
from extembed_cli.data.inputs.inputs import Sharded
from extembed_cli.features.registry import output_columns, techniques_of
from extembed_cli.features.technique.protocol import Estimate, ShardWork
from extembed_cli.histories.csr import Shard, every_owner
from extembed_cli.histories.visibility import visible_end
from extembed_cli.jobs.derivation import plan_derivation
from extembed_cli.jobs.early_reads import ReadPlan
from extembed_cli.jobs.layout import Layout, layout_of, memory_needed
from extembed_cli.jobs.options import RunOptions
from extembed_cli.jobs.reading import dims_of, first_shard, load, open_all, sample_layout
from extembed_cli.jobs.report import inputs_report
from extembed_cli.jobs.requirements import check_inputs
from extembed_cli.jobs.survey import plan_survey
from extembed_cli.jobs.within import read_requests
from extembed_cli.spec.groups import Group
from extembed_cli.spec.model import Spec
from extembed_cli.system.progress import Watch

# Measured on 2 cores, see docs/decisions/.
_SECONDS_PER_ROW = 1e-6
_SECONDS_PER_READ_ROW = 3e-6
_SECONDS_PER_SHARD = 0.2


class _PassPlan(NamedTuple):
    spec: Spec
    loaded: Sharded
    coverage: Coverage
    layout: Layout
    estimates: list[Estimate]


def plan_job(spec: Spec, options: RunOptions, watch: Watch) -> dict[str, Any]:
    """Return the plan of a run, without reading a vector or writing anything."""
    opened, passes = open_all(spec, watch), []
    for each in map(opened.of_pass, spec.passes()):
        loaded = load(each, watch, sample_layout(opened))
        layout = layout_of(each.spec, loaded.inputs, options.workers, options.memory)
        with watch.timing("encode"):
            shard, coverage = first_shard(each.spec, loaded)
        check_inputs(each.spec, loaded, coverage, watch, sampled=loaded.partition.shards > 1)
        estimates = _estimates(each.spec, dims_of(opened), loaded, shard)
        passes.append(_PassPlan(each.spec, loaded, coverage, layout, estimates))
    if loaded.inputs.candidates is not None:
        read_requests(spec, loaded.inputs.candidates)
    reads = [plan for plan in (plan_derivation(opened, options), plan_survey(opened, options)) if plan is not None]
    return {**_plan(spec, passes, reads, options.workers), "warnings": watch.warnings}


def _written(spec: Spec) -> dict[str, list[str]]:
    """Return the files of vectors that groups write, by the key that names them."""
    keys = dict.fromkeys(key for kind in Group.known.values() for key in kind.written_keys)
    return {key: [path for g in spec.groups.values() if (path := g.written().get(key))] for key in keys}


def _plan(spec: Spec, passes: list[_PassPlan], reads: list[ReadPlan], workers: int) -> dict[str, Any]:
    """Return the plan, extrapolated from one shard of the loaded inputs of each pass, with the reads before them."""
    counts: dict[str, int] = {}
    seconds, loaded = 1.0, passes[0].loaded
    for each in passes:
        shards = each.loaded.partition.shards
        for name, count in (item for estimate in each.estimates for item in estimate.counts.items()):
            counts[name] = counts.get(name, 0) + shards * count
        seconds += (each.loaded.candidates.rows + each.loaded.events.rows) * _SECONDS_PER_ROW
        seconds += shards * sum(estimate.seconds for estimate in each.estimates) / workers
        seconds += (each.layout.shards - 1) * _SECONDS_PER_SHARD
    seconds += len(reads) * (loaded.candidates.rows + loaded.events.rows) * _SECONDS_PER_READ_ROW
    kept = sum(read.bytes_in_memory for read in reads)
    jobs = [(each.spec, each.loaded.inputs, each.layout) for each in passes]
    jobs += [(read.opened.spec, read.opened.complete(), read.layout) for read in reads]
    return {
        "inputs": inputs_report([(each.spec, each.loaded, each.coverage, None) for each in passes]),
        "output": spec.output,
        **_written(spec),
        "columns": [column.name for column in output_columns(spec)],
        "rows_out": loaded.candidates.rows,
        "shards": max(each.layout.shards for each in passes),
        "workers": workers,
        "counts": counts,
        "estimated_memory_bytes": kept + max(memory_needed(*job, workers) for job in jobs),
        "estimated_seconds": round(seconds, 1),
    }


def _estimates(spec: Spec, dims: dict[str, int], loaded: Sharded, shard: Shard) -> list[Estimate]:
    """Return the estimated cost of a shard for each technique."""
    history, candidates = shard.history, shard.candidates
    users = every_owner(history, loaded.vectors_as_of)
    work = ShardWork(spec, {}, history, candidates, users, visible_end(spec, history, candidates))
    return [technique.estimate(spec, work, dims) for technique in techniques_of(spec)]
