"""Whether the data of a run is what its features need: checked before anything is committed.

Inputs that do not match at all give valid features that are worthless, all of them null or 0. They are refused unless
`allow_empty` is set, like everything that falls short of `[require]`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase

from extembed_cli.data.columns.ids import examples
from extembed_cli.data.columns.times import has_dates, has_numbers
from extembed_cli.data.inputs.coverage import Coverage
from extembed_cli.data.inputs.inputs import Loaded
from extembed_cli.errors import DataError, Problems, SpecError, counted, did_you_mean, listing
from extembed_cli.features.registry import output_columns
from extembed_cli.spec.durations import DAY_US, YEAR_US, duration_us, time_text
from extembed_cli.spec.model import Spec
from extembed_cli.system.progress import Watch

_FAR_YEARS = 20
_NEARLY_ALL = 0.99


def check_inputs(spec: Spec, loaded: Loaded, coverage: Coverage, watch: Watch, *, sampled: bool = False) -> None:
    """Warn of doubtful inputs of a pass; raise what they fall short of, all together.

    Counts from a sample of the owners decide nothing: then all of it is a warning.
    """
    empty, short = list(_empty(spec, loaded, coverage)), list(_short(spec, loaded, coverage))
    if sampled or spec.require.allow_empty:
        watch.warn_of(empty)
        empty = []
    if sampled:
        watch.warn_of(short)
    else:
        problems = Problems()
        problems.errors += [DataError(f"{message} (--allow-empty accepts it)") for message in empty]
        problems.errors += map(DataError, short)
        problems.raise_any()
    watch.warn_of(_doubts(spec, loaded))


def check_patterns(spec: Spec, features: Sequence[str]) -> None:
    """Raise if a requirement is about features that the spec does not have: it would hold whatever the data is."""
    patterns = spec.require.non_null if isinstance(spec.require.non_null, dict) else {}
    problems = Problems()
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in features):
            hint = did_you_mean(pattern, features)
            problems.errors.append(SpecError(f"require.non_null: `{pattern}` matches no feature{hint}"))
    problems.raise_any()


def required_features(spec: Spec) -> list[str]:
    """Return the features that may not be null for all candidates."""
    return [column.name for column in output_columns(spec) if spec.require.non_null_of(column.name)]


def check_features(spec: Spec, rows: int, known: Mapping[str, int]) -> None:
    """Raise if a feature is null for more of the candidates than the spec allows.

    known  the number of candidates for which each required feature has a value
    """
    problems = Problems()
    for name, count in known.items() if rows else ():
        least = spec.require.non_null_of(name)
        if count < least * rows:
            share = f"{count / rows:.2%} of the candidates, less than {least:.2%}"
            problems.errors.append(DataError(f"require.non_null: `{name}` has a value for {share}"))
    problems.raise_any()


def _doubts(spec: Spec, loaded: Loaded) -> Iterator[str]:
    """Yield warnings about an output without rows, and about times that may not be what they seem."""
    if loaded.inputs.candidates is not None and not loaded.candidates.rows:
        yield "candidates: no rows, so the output has none"
    times = spec.column("interactions", "time")
    events = loaded.events
    days = has_dates(loaded.inputs.interactions, times) or 0 < events.usable == events.at_midnight
    if days and duration_us(spec.lag) < DAY_US:
        yield (
            f"interactions: column `{times}` has dates without a time of day: a candidate at 09:00 would see that "
            'day\'s evening. Set lag = "1d" (--lag 1d)'
        )
    newest = events.newest
    if newest is not None and 0 <= newest < YEAR_US and has_numbers(loaded.inputs.interactions, times):
        yield "all interactions are in 1970, so candidates would see their future. Is time_unit right?"


def _empty(spec: Spec, loaded: Loaded, coverage: Coverage) -> Iterator[str]:
    """Yield what does not match at all."""
    if loaded.inputs.candidates is None:
        if not spec.needs_all_owners:  # nothing but item vectors, for which no event is read
            return
    elif not loaded.candidates.rows:
        return
    elif loaded.candidates.null_user_or_time == loaded.candidates.rows:
        yield f"candidates: all {counted(loaded.candidates.rows, 'row')} have a null user or a null time"
        return
    if not loaded.events.usable:
        dropped = listing((f"{count:,} dropped: {reason}" for reason, count in loaded.events.dropped.items()), 9)
        yield f"no interaction can be used{dropped and f' ({dropped})'}: every history is empty"
        return
    if loaded.inputs.candidates is not None and not coverage.owners_met:
        owner = spec.side.owner
        yield (
            f"no {owner} of the candidates has an interaction: every history is empty. Are the {owner} ids the same? "
            f"Candidates have {loaded.candidates.examples[owner]}, interactions {loaded.events.examples[owner]}"
        )
        return
    apart = list(_apart(spec, loaded))
    yield from apart
    yield from _empty_histories(spec, coverage, seen=loaded.inputs.candidates is not None and not apart)
    for target, key in spec.targets.items():
        if not coverage.expressions.get(target.column, 0):
            what = "" if target.residual is None else "as a residual "
            yield f"{key} = {target.text!r}: {what}null for every interaction, so its columns are null"
    for name, ids in loaded.ids.items():
        share, whose = coverage.of_table(name), "item" if name in spec.embeddings else "user"
        if 0 not in share.values():
            continue
        kind = "interactions" if share["events"] == 0 else "candidates"
        rows = loaded.events if kind == "interactions" else loaded.candidates
        yield (
            f"{spec.table_label(name)}: no {whose} of the {kind} has a vector. Are the {whose} ids the same? "
            f"The {kind} have {rows.examples[whose]}, the table {examples(ids.ids)}"
        )


def _empty_histories(spec: Spec, coverage: Coverage, *, seen: bool) -> Iterator[str]:
    """Yield histories without an event or, where they are `seen` by candidates, without one that any of them sees."""
    members = coverage.members(spec)
    for name, count in members.items():
        if not count:
            where = spec.history(name).where
            yield f"histories.{name}: no interaction matches where = {where!r}: it is always empty"
    for name, count in coverage.candidates_seeing.items():
        if seen and not count and members.get(name) != 0:
            yield (
                f"histories.{name}: no candidate sees an event of it: it is always empty. Are its window, the lag and "
                "the times right?"
            )


def _apart(spec: Spec, loaded: Loaded) -> Iterator[str]:
    """Yield that candidates and interactions do not meet in time."""
    events, first, last = loaded.events, loaded.candidates.oldest, loaded.candidates.newest
    if first is None or last is None or events.oldest is None or events.newest is None:
        return
    far = _FAR_YEARS * YEAR_US
    before = sum(count for year, count in events.years.items() if (int(year) + 1) * YEAR_US <= first - far)
    after = sum(count for year, count in events.years.items() if int(year) * YEAR_US >= last + far)
    if max(before, after) >= _NEARLY_ALL * events.usable:
        yield (
            f"interactions and candidates lie more than {_FAR_YEARS} years apart: interactions from "
            f"{time_text(events.oldest)} to {time_text(events.newest)}, candidates from {time_text(first)} to "
            f"{time_text(last)}. Is time_unit right for both? columns.interactions.time_unit and "
            "columns.candidates.time_unit are units of their own"
        )
    elif last - duration_us(spec.lag) <= events.oldest:
        right = f"Are {'as_of' if spec.as_of else 'the times'} and lag right?"
        newest = time_text(last) if spec.lag == "0s" else f"{time_text(last)} less the lag of {spec.lag}"
        yield (
            "all candidates are before the first interaction, so every history is empty: the last is at "
            f"{newest}, the first interaction at {time_text(events.oldest)}. {right}"
        )


def _short(spec: Spec, loaded: Loaded, coverage: Coverage) -> Iterator[str]:
    """Yield where inputs fall short of what the spec requires; no rows are less than any share of them."""
    if loaded.inputs.candidates is not None and not loaded.candidates.rows:
        for key in spec.require.least_shares:
            yield f"require.{key}: the candidates have no rows"
        return
    least = spec.require.users_met
    if least is not None and spec.side.owner == "user" and coverage.owners_met < least * coverage.owners:
        met = coverage.owners_met / coverage.owners
        yield f"require.users_met: {met:.2%} of the candidates' users have an interaction, less than {least:.2%}"
    for name in loaded.ids:
        least = spec.require.coverage_of(name)
        for rows, share in coverage.of_table(name).items():
            if share is not None and share < least:
                yield (
                    f"require.coverage: {share:.2%} of the {rows} have a vector in {spec.table_label(name)}, less than "
                    f"{least:.2%}"
                )
