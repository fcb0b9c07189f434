"""Check a spec and its inputs without writing anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from extembed_cli.data.outputs.feature_file import candidate_rows
from extembed_cli.errors import Problems, SpecError
from extembed_cli.features.prepare import Sources, prepare
from extembed_cli.features.registry import output_columns
from extembed_cli.jobs.derivation import derive
from extembed_cli.jobs.options import RunOptions
from extembed_cli.jobs.reading import first_shard, load, open_all, sample_layout, with_problems_of
from extembed_cli.jobs.report import inputs_report
from extembed_cli.jobs.requirements import check_inputs
from extembed_cli.jobs.specs import load_spec, salvage
from extembed_cli.jobs.survey import survey
from extembed_cli.jobs.within import read_requests
from extembed_cli.spec.model import Spec
from extembed_cli.system.progress import Watch


def check_file(path: Path, overrides: Sequence[str], watch: Watch) -> dict[str, Any]:
    """Read a spec and all its inputs and return a report on them; raise the problems of both together.

    If the spec has problems, the inputs are checked as far as the rest of it describes them.
    """
    try:
        spec = load_spec(path, overrides)
    except SpecError as error:
        rest, unknown = salvage(path, overrides)
        problems = Problems([error, *map(SpecError, unknown)])
        watch = replace(watch, warn=lambda message: None)  # of a table, say, that only a wrong group uses
        with problems.collect():
            if rest is not None and rest.groups:
                check_job(rest, watch)
            elif rest is not None:
                open_all(rest, watch).problems.raise_any()
        problems.raise_any()
    return check_job(spec, watch)


def check_job(spec: Spec, watch: Watch) -> dict[str, Any]:
    """Read all inputs of a spec and return a report on them; raise all problems together."""
    opened, checked = open_all(spec, watch), []
    passes, sources = [opened.of_pass(each) for each in spec.passes()], None
    for number, each in enumerate(passes):
        with with_problems_of(passes[number + 1 :], watch):
            loaded = load(each, watch, sample_layout(opened), vectors=True)
            with watch.timing("vectors"):
                if sources is None:
                    options = RunOptions(workers=1)
                    derived = derive(opened, options, map, watch)
                    sources = Sources(vectors=derived, surveyed=survey(opened, options, map, watch).by_technique)
                shared = prepare(each.spec, loaded.inputs.embeddings, loaded.ids, loaded.vocabulary, sources=sources)
            _, coverage = first_shard(each.spec, loaded, shared.coverage)
            check_inputs(each.spec, loaded, coverage, watch, sampled=loaded.partition.shards > 1)
            checked.append((each.spec, loaded, coverage, shared.reports))
    if loaded.inputs.candidates is not None:
        read_requests(spec, loaded.inputs.candidates)
        with watch.timing("columns"):
            for _ in candidate_rows(loaded.inputs.candidates):
                pass  # a run reads the other columns only when it writes the output; a torn page is found here
    return {
        "inputs": inputs_report(checked),
        "columns": len(output_columns(spec)),
        "warnings": watch.warnings,
    }
