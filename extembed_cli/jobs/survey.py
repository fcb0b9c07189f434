"""Survey the events of all items, for the techniques that have to learn from them before any shard is computed."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from extembed_cli.data.columns.ids import same_type
from extembed_cli.data.columns.times import time_range
from extembed_cli.data.columns.vocabulary import Vocabulary
from extembed_cli.data.inputs.inputs import Opened
from extembed_cli.data.outputs.shard_results import Tally
from extembed_cli.data.shards.scratch import Scratch
from extembed_cli.errors import Problems
from extembed_cli.features.prepare import load_tables
from extembed_cli.features.registry import techniques_of
from extembed_cli.features.technique.protocol import Prepared, Rows
from extembed_cli.jobs.derivation import plan_derivation
from extembed_cli.jobs.early_reads import ReadPlan, folder_of, plan_read
from extembed_cli.jobs.options import RunOptions
from extembed_cli.jobs.reading import cache_of, dims_of, load
from extembed_cli.spec.durations import duration_us, time_us
from extembed_cli.system.progress import Watch
from extembed_cli.system.threads import Mapping


class SurveyResults(NamedTuple):
    """What the techniques have learnt, by their keys, and the counts of it."""

    by_technique: dict[str, Any]
    tally: Tally
    bytes_in_memory: int = 0


def survey(opened: Opened, options: RunOptions, mapped: Mapping, watch: Watch) -> SurveyResults:
    """Return what the techniques of a spec learn from the events of all items, from one read of the log."""
    plan = plan_survey(opened, options)
    if plan is None:
        return SurveyResults({}, Tally())
    of_pass, layout, _ = plan
    spec = of_pass.spec
    with folder_of("survey", opened.spec, options, layout) as folder, watch.timing("survey"):
        cache = cache_of(of_pass, options)
        loaded = load(of_pass, watch, layout, None if folder is None else Scratch(folder, asdict(layout)), cache)
        ids = pl.concat(same_type(*(loaded.ids[name].ids.drop_nulls() for name in spec.tables))).unique().sort()
        vocabulary = Vocabulary(ids, np.arange(len(ids), dtype=np.int32))
        files = folder if layout.mapped else None
        prepared, problems = Prepared({}, {}, {}, vocabulary, mapped, files), Problems()
        load_tables(spec, loaded.inputs.embeddings, loaded.ids, prepared, problems, cache)
        if problems.errors:  # raised by the pass of users with those of all tables: it reads these too
            return SurveyResults({}, Tally())
        rows = loaded.events.usable, loaded.candidates.rows
        surveys = {t.group.technique: each for t in techniques_of(spec) if (each := t.survey(spec, prepared, *rows))}
        for index in range(loaded.partition.shards):
            shard = loaded.shard(spec, index)
            for of_technique in surveys.values():
                of_technique.add(shard)
        results, tally = {technique: each.result(mapped) for technique, each in surveys.items()}, Tally()
    for learnt in results.values():
        tally.add(learnt.tally)
    in_memory = sum(learnt.bytes_in_memory for learnt in results.values())
    return SurveyResults({technique: learnt.result for technique, learnt in results.items()}, tally, in_memory)


def plan_survey(opened: Opened, options: RunOptions) -> ReadPlan | None:
    """Return how the log is read for surveys; None if no group has to learn from all items."""
    spec = opened.spec.survey()
    if spec is None:
        return None
    of_pass = opened.of_pass(spec)
    rows, dims = _rows(of_pass), dims_of(of_pass)
    costs = [technique.memory_of_survey(spec, rows, dims) for technique in techniques_of(spec)]
    state, batches = sum(each.state for each in costs), options.workers * sum(each.batch for each in costs)
    derivation = plan_derivation(opened, options)
    earlier = 0 if derivation is None else derivation.bytes_in_memory
    return plan_read(of_pass, options, "sums over all users", state, batches, earlier=earlier)


def _rows(opened: Opened) -> Rows:
    """Return the rows of the log, with the time that they span by the footers of its files."""
    spec, inputs = opened.spec, opened.complete()
    of_events = time_range(inputs.interactions, spec.times("interactions"))
    if inputs.candidates is None:
        candidates, of_candidates = 0, of_events
    else:
        candidates = inputs.candidates.rows
        if spec.as_of is not None:
            of_candidates = (time_us(spec.as_of),) * 2
        else:
            of_candidates = time_range(inputs.candidates, spec.times("candidates"))
    span = None
    if of_events is not None and of_candidates is not None:
        times = (*of_events, *of_candidates)
        span = max(times) - min(times) + duration_us(spec.lag)
    return Rows(inputs.interactions.rows, candidates, span)
