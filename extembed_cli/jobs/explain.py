"""Explain the row of one candidate: its values as a run computes them, and how they come out of the events.

The candidate's owner alone is read and computed, with all of the owner's candidates: the last bits of a product depend
on these. What is computed from the events of all (residuals, the fit of everybody) is computed from them here too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

import numpy as np
import polars as pl

from extembed_cli.arrays import Ints
from extembed_cli.data.columns.ids import same_type
from extembed_cli.data.files.parquet import Table
from extembed_cli.data.inputs.candidates import read_candidates
from extembed_cli.data.inputs.inputs import Opened
from extembed_cli.data.outputs.shard_results import FeaturePart
from extembed_cli.data.shards.scratch import Scratch, make_folder
from extembed_cli.engines.local import LocalEngine
from extembed_cli.errors import DataError, SpecError, did_you_mean
from extembed_cli.features.prepare import Sources
from extembed_cli.features.registry import output_columns, shard_columns
from extembed_cli.features.within import WithinStatistic
from extembed_cli.jobs.derivation import Derived, derive, plan_derivation
from extembed_cli.jobs.explained_row import Row, explained_row
from extembed_cli.jobs.explained_schema import ExplainedRow
from extembed_cli.jobs.layout import Layout
from extembed_cli.jobs.local_passes import LocalResults, Place, layout_of_pass, run_pass
from extembed_cli.jobs.one_candidate import Given, with_candidate
from extembed_cli.jobs.options import RunOptions
from extembed_cli.jobs.reading import cache_of, load, open_all
from extembed_cli.jobs.survey import survey
from extembed_cli.jobs.within import read_requests, within_part
from extembed_cli.spec.model import Spec
from extembed_cli.spec.requirements import Requirements
from extembed_cli.system.progress import Watch
from extembed_cli.system.threads import Mapping, threads

_ROWS = 2**20  # read at a time


@dataclass(frozen=True)
class Question:
    """Which candidate is explained, and which of its columns."""

    candidate: int | Given
    """Its row of the candidates, from 0 on, or one that no file has"""
    columns: Sequence[str] = ()
    """Names or patterns; none = all"""


def explain_job(spec: Spec, question: Question, options: RunOptions, watch: Watch) -> ExplainedRow:
    """Return how the row of a candidate comes out. Nothing is written but a folder of its own, which is removed."""
    candidate, notes = question.candidate, []
    watch = replace(watch, warn=lambda message: None, warnings=[])  # warnings are about all rows
    with _own_folder(options) as folder, threads(options.workers) as mapped:
        within = spec.within
        if isinstance(candidate, Given):
            spec = with_candidate(spec, candidate, folder)
        elif spec.candidates is None:
            raise SpecError("--row: the spec has no `candidates`; give one with --user, --item and --at")
        names = chosen_columns(spec.model_copy(update={"within": within}), question.columns)
        if within != spec.within:
            notes.append("columns within a request need its other candidates; --row explains them, too")
            alone = {column.name for column in output_columns(spec)}
            names = [name for name in names if name in alone]
            if not names:
                raise SpecError("--columns: columns within a request need its other candidates; name one with --row")
        spec = _needed(spec, names).model_copy(update={"output": str(folder / "features.parquet")})
        opened = open_all(spec.with_plain_targets(), watch)
        opened.problems.raise_any()
        row = _row(opened, candidate)
        results, features = _compute(opened, row.rows, replace(options, scratch=None), mapped, watch)
        opened.complete().check_unchanged()
        return explained_row(spec, names, row, results, features, notes)


@contextmanager
def _own_folder(options: RunOptions) -> Iterator[Path]:
    """Yield a new folder for what does not fit into memory; it is removed at the end."""
    if options.scratch is not None:
        make_folder(options.scratch, "data that does not fit into memory", "--scratch")
    with TemporaryDirectory(prefix="extembed-", dir=options.scratch) as name:
        yield Path(name)


# --- what to compute ---------------------------------------------------------------------------------


def chosen_columns(spec: Spec, patterns: Sequence[str]) -> list[str]:
    """Return the names of the columns that match any pattern, all without one; raise where a pattern matches none."""
    names = [column.name for column in output_columns(spec)]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            hint = "; `extembed columns` lists them" if "*" in pattern else did_you_mean(pattern, names)
            raise SpecError(f"--columns {pattern}: matches no column{hint}")
    return [name for name in names if not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)]


def _needed(spec: Spec, names: Sequence[str]) -> Spec:
    """Return a spec with the groups that some columns need, without files of vectors, that requires nothing."""
    statistics = (column.statistic for column in output_columns(spec) if column.name in names)
    within = {each.column for each in statistics if isinstance(each, WithinStatistic)}
    wanted = {*names, *within}
    groups = [group.model_copy(update=dict.fromkeys(group.written_keys)) for group in spec.groups.values()]
    needed = [g for g in groups if not wanted.isdisjoint(c.name for c in shard_columns(spec.with_groups(g)))]
    kept = spec.within.model_copy(update={"columns": tuple(sorted(within))}) if spec.within and within else None
    return spec.with_groups(*needed).model_copy(update={"within": kept, "require": Requirements(allow_empty=True)})


def _row(opened: Opened, candidate: int | Given) -> Row:
    """Return the candidate, with those of its request if columns within a request are explained."""
    spec, candidates = opened.spec, opened.complete().candidates
    row = 0 if isinstance(candidate, Given) else candidate
    assert candidates is not None
    if row >= candidates.rows:
        last = f", numbered from 0 to {candidates.rows - 1:,}" if candidates.rows else ""
        raise SpecError(f"--row {row}: the candidates have {candidates.rows:,} rows{last}")
    requests, wanted = read_requests(spec, candidates), np.array([row])
    in_request = requests is not None and bool(requests[row])
    if requests is not None and in_request:
        wanted = np.flatnonzero(requests == requests[row])
    rows = _read(spec, candidates, wanted)
    if len(rows) != len(wanted):
        raise DataError(f"candidates: {len(wanted) - len(rows):,} rows are gone: did a file change? Run again")
    return Row(rows.sort(pl.col("row") != row, maintain_order=True), in_request, isinstance(candidate, Given))


def _read(spec: Spec, candidates: Table, wanted: Ints) -> pl.DataFrame:
    """Return some rows of the candidates, with times before `as_of_step` floors them."""
    frames = [pl.DataFrame(schema={"user": pl.Null(), "item": pl.Null(), "time": pl.Int64(), "row": pl.Int64()})]
    for frame in read_candidates(spec.model_copy(update={"as_of_step": None}), candidates, _ROWS):
        frames.append(frame.filter(pl.col("row").is_in(wanted)))
        if len(frame) and frame["row"][-1] >= wanted[-1]:
            break
    ids = {role: pl.concat(same_type(*(frame[role] for frame in frames))) for role in ("user", "item")}
    return pl.concat(frame.select("time", "row") for frame in frames).with_columns(**ids)


# --- computing it ------------------------------------------------------------------------------------


def _compute(
    opened: Opened, rows: pl.DataFrame, options: RunOptions, mapped: Mapping, watch: Watch
) -> tuple[list[LocalResults], list[list[FeaturePart]]]:
    """Return the results of each pass for the first row, and the features of all rows, those in the request last."""
    spec, inputs = opened.spec, opened.complete()
    passes = [opened.of_pass(each) for each in spec.passes()]
    derived = _derive(opened, passes, rows, options, mapped, watch)
    surveyed = survey(opened, options, mapped, watch)
    kept = surveyed.bytes_in_memory + sum(table.bytes_in_memory for table in derived.values())

    def results_of(each: Opened, rows: pl.DataFrame) -> LocalResults:
        sources = Sources(cache_of(each, options), derived, surveyed.by_technique)
        layout, scratch = layout_of_pass(each, options, sources.cache, kept), None
        if layout.on_disk:
            scratch = Scratch(Path(mkdtemp(dir=Path(spec.outputs[0]).parent)), asdict(layout))
        engine = LocalEngine(mapped, scratch if layout.shards > 1 else None)
        return run_pass(_of_owners(each, rows), Place(layout, scratch), sources, mapped, engine, options, watch)

    results = [results_of(each, rows[:1]) for each in passes]
    features = [each.results.features for each in results]
    if spec.within is None:
        return results, features
    for number, each in enumerate(passes):
        if rows[each.spec.side.owner].n_unique() > 1:
            features[number] = results_of(each, rows).results.features
    assert inputs.candidates is not None
    within = within_part(spec, output_columns(spec), inputs.candidates, features, mapped, None)
    assert within is not None
    return results, [*features, [within]]


def _derive(
    opened: Opened, passes: Sequence[Opened], rows: pl.DataFrame, options: RunOptions, mapped: Mapping, watch: Watch
) -> Derived:
    """Return the derived tables, with the vectors of those users who are compared with a candidate of the rows."""
    if plan_derivation(opened, options) is None:
        return {}
    audiences = [each for each in passes if each.spec.side.partner == "user"]
    loaded = [load(_of_owners(each, rows), watch, Layout()) for each in audiences]
    users = pl.concat(same_type(rows["user"], *(each.vocabulary.ids for each in loaded)))
    return derive(replace(opened, owners=users.drop_nulls().unique()), options, mapped, watch)


def _of_owners(opened: Opened, rows: pl.DataFrame) -> Opened:
    """Return the inputs of a pass with the owners of some candidates alone."""
    return replace(opened, owners=rows[opened.spec.side.owner].drop_nulls().unique())
