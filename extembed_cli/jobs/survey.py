"""Survey the events of all items, for the techniques that have to learn from them before any shard is computed."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from extembed_cli.data.ids import same_type
from extembed_cli.data.inputs import Opened
from extembed_cli.data.scratch import Scratch
from extembed_cli.data.shard_results import Tally
from extembed_cli.data.vocabulary import Vocabulary
from extembed_cli.errors import Problems
from extembed_cli.features.prepare import load_tables
from extembed_cli.features.registry import techniques_of
from extembed_cli.features.technique.protocol import Prepared
from extembed_cli.jobs.early_reads import LARGEST_PART, folder_of
from extembed_cli.jobs.layout import layout_of
from extembed_cli.jobs.options import RunOptions
from extembed_cli.jobs.reading import dims_of, load
from extembed_cli.system.progress import Watch
from extembed_cli.system.threads import Mapping


class SurveyResults(NamedTuple):
    """What the techniques have learnt, by their keys, and the counts of it."""

    by_technique: dict[str, Any]
    tally: Tally
    bytes_in_memory: int = 0


def survey(opened: Opened, options: RunOptions, mapped: Mapping, watch: Watch) -> SurveyResults:
    """Return what the techniques of a spec learn from the events of all items, from one read of the log."""
    spec = opened.spec.survey()
    if spec is None:
        return SurveyResults({}, Tally())
    of_pass, techniques = opened.of_pass(spec), techniques_of(spec)
    inputs, dims = of_pass.complete(), dims_of(of_pass)
    candidates = inputs.candidates.rows if inputs.candidates else 0
    costs = [each.memory_of_survey(spec, inputs.interactions.rows, candidates, dims) for each in techniques]
    sums, matrices = sum(each.state for each in costs), options.workers * sum(each.batch for each in costs)
    in_files = options.memory is not None and sums > options.memory // LARGEST_PART
    needs = {"sums over all users": matrices + (0 if in_files else sums)}
    layout = options.layout or layout_of(spec, inputs, options.workers, options.memory, other_needs=needs)
    layout = replace(layout, mapped=layout.mapped or in_files)
    with folder_of("survey", opened.spec, options, layout) as folder, watch.timing("survey"):
        loaded = load(of_pass, watch, layout, None if folder is None else Scratch(folder, asdict(layout)))
        ids = pl.concat(same_type(*(loaded.ids[name].ids.drop_nulls() for name in spec.tables))).unique().sort()
        vocabulary = Vocabulary(ids, np.arange(len(ids), dtype=np.int32))
        files = folder if layout.mapped else None
        prepared, problems = Prepared({}, {}, {}, vocabulary, mapped, files), Problems()
        load_tables(spec, inputs.embeddings, loaded.ids, prepared, problems)
        problems.raise_any()
        rows = loaded.events.usable, loaded.candidates.rows
        surveys = {t.group.technique: each for t in techniques if (each := t.survey(spec, prepared, *rows))}
        for index in range(loaded.partition.shards):
            shard = loaded.shard(spec, index)
            for of_technique in surveys.values():
                of_technique.add(shard)
        results, tally = {technique: each.result(mapped) for technique, each in surveys.items()}, Tally()
    for learnt in results.values():
        tally.add(learnt.tally)
    in_memory = sum(learnt.bytes_in_memory for learnt in results.values())
    return SurveyResults({technique: learnt.result for technique, learnt in results.items()}, tally, in_memory)
