"""The columns of a feature file by step of the ladder, and what the file's metadata says about its run."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from extembed_cli.data.files.parquet import Table, open_table
from extembed_cli.data.outputs.feature_columns import FeatureColumn, check_roles, described
from extembed_cli.data.stores.filesystems import is_url
from extembed_cli.errors import DataError, Problems, SpecError, did_you_mean, listing
from extembed_cli.evaluate.column_types import is_learnable
from extembed_cli.features import registry
from extembed_cli.json_files import parsed
from extembed_cli.spec.durations import time_us
from extembed_cli.spec.groups import Group
from extembed_cli.spec.model import ALL

BASELINE = "baseline"
COUNTERS = "counters"
# The count of a history, and that of a group with a name, which is not a decayed count.
_COUNT, _NAMED = (
    re.compile(r"[^_](?:_?[^_])*__count"),
    re.compile(r"[^_](?:_?[^_])*__(?:_?[^_])+_count(?<!decayed_count)"),
)


@dataclass(frozen=True)
class Roles:
    """The columns that are not features, by their role; None = the name in the spec of the file."""

    label: str
    time: str | None = None
    user: str | None = None
    group: str | None = None
    baseline: tuple[str, ...] = ()
    """Globs of the ranker's own columns."""
    time_unit: str | None = None
    """Unit of times that are numbers."""
    time_format: str | None = None
    """Format of times that are text."""

    def columns(self) -> dict[str, str]:
        """Return the column of each flag that names one."""
        by_flag = {"--label": self.label, "--time": self.time, "--user": self.user, "--group": self.group}
        return {flag: name for flag, name in by_flag.items() if name is not None}


@dataclass(frozen=True)
class FeatureFile:
    """An output of `extembed run` as its metadata describes it."""

    path: str
    """As given on the command line."""
    table: Table
    steps: dict[str, list[str]]
    """Columns of each step of the ladder, in order; without the steps that have no columns or are not chosen."""
    meanings: dict[str, str]
    """Formula of each feature."""
    spec: dict[str, Any]
    run: dict[str, Any] | None
    """The run report beside the file, if it belongs to this file."""
    trained_until: dict[str, int | None]
    """By step with trained columns: time of the newest row that their models were trained on; None = not known. Without
    the columns whose values are all by models that have seen older rows only."""
    roles: Roles
    unusable: dict[str, str]
    """Types of the columns that --baseline matches but a ranker cannot learn from, by column."""
    item: str | None
    """Column of item ids, if the file has it"""
    item_counters: list[str]
    """Counters of the histories of items"""
    left_out: list[str]
    """Steps of the file that are not chosen"""

    @property
    def user_counters(self) -> list[str]:
        """Counters of the histories of users."""
        return [name for name in self.steps.get(COUNTERS, []) if name not in self.item_counters]

    @property
    def seen_column(self) -> str | None:
        """The counter of all events of an item. Without it the rows of the file before a row are counted: a named
        history has some of the events only."""
        total = f"item_{ALL}__count"
        return total if total in self.item_counters else None

    @property
    def columns(self) -> list[str]:
        """Names of all columns of the ladder."""
        return [name for names in self.steps.values() for name in names]

    @property
    def trained_until_us(self) -> int | None:
        """Time of the newest row that any model behind the columns was trained on."""
        return max((until for until in self.trained_until.values() if until is not None), default=None)


def open_features(path: str, roles: Roles, chosen: Sequence[str] | None = None) -> FeatureFile:
    """Open a feature file and assign its columns to steps; raise all problems together.

    The ladder has the chosen steps in their order, by default all.
    """
    table = open_table("features", path)
    metadata, described_columns = described(path, table)
    if table.rows == 0:
        raise DataError(f"{path}: has no rows")
    columns = metadata["spec"].get("columns", {})
    names_of_roles = {**metadata["spec"], **columns, **columns.get("candidates", {})}
    roles = replace(
        roles,
        time=roles.time or names_of_roles.get("time", "timestamp"),
        user=roles.user or names_of_roles.get("user", "user_id"),
        time_unit=roles.time_unit or names_of_roles.get("time_unit"),
        time_format=names_of_roles.get("time_format"),
    )
    features = {column.name: column for column in described_columns}
    problems = Problems()
    check_roles(path, table, features, roles.columns(), problems)
    taken = {*features, *roles.columns().values()}
    baseline, unusable = _baseline(roles, table, taken, names_of_roles.get("item", "item_id"), problems)
    of_file, ladder = _steps_of(features), {}
    with problems.collect():
        ladder = _ladder(path, of_file, chosen)
    problems.raise_any()
    trained_until = {
        step: max((time_us(until) for n in names if (until := features[n].trained_until) is not None), default=None)
        for step, columns in ladder.items()
        if (names := [name for name in columns if not features[name].out_of_time])
        and registry.technique_of_step(step).is_trained
    }
    return FeatureFile(
        path,
        table,
        {BASELINE: baseline, **ladder} if baseline else ladder,
        {name: column.meaning for name, column in features.items()},
        metadata["spec"],
        _run_report(path, table, metadata),
        trained_until,
        roles,
        unusable,
        item if (item := names_of_roles.get("item", "item_id")) in table.names else None,
        [name for name in ladder.get(COUNTERS, []) if features[name].owner == "item"],
        [step for step in of_file if step not in ladder],
    )


def _steps_of(features: dict[str, FeatureColumn]) -> dict[str, list[str]]:
    """Return the features of each step that has any."""
    by_step = {step: [n for n, column in features.items() if column.technique == step] for step in feature_steps()}
    return {step: names for step, names in by_step.items() if names}


def _ladder(path: str, of_file: dict[str, list[str]], chosen: Sequence[str] | None) -> dict[str, list[str]]:
    """Return the features of each step of the ladder: the chosen steps of a file, by default all."""
    if not of_file:
        raise DataError(
            f"{path}: has no feature columns; add a group, such as [[{next(iter(Group.known))}]], to its spec and run "
            "again"
        )
    steps = list(of_file) if chosen is None else chosen
    missing = [step for step in steps if step not in of_file]
    if missing:
        raise SpecError(
            f"--steps {','.join(steps)}: {path} has no columns of {listing(missing)}; it has {listing(of_file)}"
        )
    return {step: of_file[step] for step in steps}


def feature_steps() -> list[str]:
    """Return the steps of the ladder after the baseline, in order of cost."""
    return list(dict.fromkeys(technique.step for technique in registry.TECHNIQUES))


def _baseline(
    roles: Roles, table: Table, taken: set[str], item: str, problems: Problems
) -> tuple[list[str], dict[str, str]]:
    """Return the baseline columns that --baseline matches, and the types of matches that a ranker cannot learn from.

    `taken` are the features and the label, user, time and group columns: no glob matches them. A wildcard does not
    match the item id.
    """
    free = [name for name in table.names if name not in taken]
    types = {name: table.schema.field(name).type for name in free}
    unusable = {name: str(column_type) for name, column_type in types.items() if not is_learnable(column_type)}
    columns: dict[str, None] = {}
    for glob in roles.baseline:
        matched = [glob] if glob in free else [name for name in fnmatch.filter(free, glob) if name != item]
        with problems.collect():
            if not matched and fnmatch.filter(sorted(taken), glob):
                raise SpecError(
                    f"--baseline {glob}: matches only label, user, time, group or features; name other columns"
                )
            if not matched:
                likely = [name for name in free if name != item and name not in unusable]
                raise SpecError(f"--baseline {glob}: matches no column{did_you_mean(glob, likely)}")
            if matched and all(name in unusable for name in matched):
                kinds = listing(dict.fromkeys(unusable[name] for name in matched))
                raise DataError(
                    f"--baseline {glob}: is {kinds}; a ranker learns from numbers, booleans and text. Cast it before "
                    "the run"
                )
        columns |= dict.fromkeys(matched)
    usable = [name for name in columns if name not in unusable]
    return usable, {name: unusable[name] for name in columns if name in unusable}


def _run_report(path: str, table: Table, metadata: dict[str, Any]) -> dict[str, Any] | None:
    """Return the run report beside the file, if it belongs to the same run: same spec, inputs, columns and rows.

    The report of parts that a glob matches is beside their folder. That of an object of a store is not looked for.
    """
    if is_url(path):
        return None
    output = Path(path)
    if not output.exists() and len({part.path.parent for part in table.parts}) == 1:
        output = table.parts[0].path.parent
    try:
        report = parsed(output.with_name(f"{output.name}.run.json").read_bytes())
        names = report["column_names"]
        # The columns of earlier runs come before those of the last run.
        last = [column["name"] for column in metadata["columns"]][-len(names) :]
        reported = (report["rows_out"], report["spec"], report["digests"], names)
        return report if reported == (table.rows, metadata["spec"], metadata["inputs"], last) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def count_columns(names: Sequence[str]) -> list[str]:
    """Return the counters whose sum is the length of a history: that of the history `all`, or else all counts."""
    total = f"{ALL}__count"
    if total in names:
        return [total]
    return [name for name in names if _COUNT.fullmatch(name)] or [name for name in names if _NAMED.fullmatch(name)]
