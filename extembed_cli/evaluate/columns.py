"""A feature file by its own metadata: which columns are of which step of the ladder, and what is known of its run."""

from __future__ import annotations

import fnmatch
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from extembed_cli.data.feature_file import METADATA_KEY
from extembed_cli.data.parquet import Table, open_table
from extembed_cli.errors import DataError, InputError, Problems, SpecError, did_you_mean, listing
from extembed_cli.evaluate.kinds import can_learn
from extembed_cli.spec.durations import time_us

BASELINE = "baseline"
COUNTERS = "counters"
NEURAL = "neural"
_COLUMN = {"name", "technique", "meaning"}
TECHNIQUES = (COUNTERS, "aggregate", "dual", NEURAL)
"""Steps of the ladder after the baseline, in order of cost."""


@dataclass(frozen=True)
class Roles:
    """Which columns play which part; None = as the spec that made the file named it."""

    label: str
    time: str | None = None
    user: str | None = None
    group: str | None = None
    baseline: tuple[str, ...] = ()
    """Globs of the ranker's own columns."""
    time_unit: str | None = None
    """What integer times count."""

    def columns(self) -> dict[str, str]:
        """Flag -> column, for the roles that have one."""
        named = {"--label": self.label, "--time": self.time, "--user": self.user, "--group": self.group}
        return {flag: name for flag, name in named.items() if name is not None}


@dataclass(frozen=True)
class FeatureFile:
    """An output of `extembed run`, by its metadata."""

    path: str
    """As it was named."""
    table: Table
    steps: dict[str, list[str]]
    """Step -> its columns, in the order of the ladder; steps without columns are left out."""
    meanings: dict[str, str]
    """Feature -> formula."""
    spec: dict[str, Any]
    run: dict[str, Any] | None
    """The run report that lies beside the file, if it is of this file."""
    trained_until_us: int | None
    """Newest row that a neural model of the file was trained on."""
    roles: Roles
    not_learned: dict[str, str]
    """Column that a baseline glob matches -> its type, from which no ranker learns."""

    @property
    def columns(self) -> list[str]:
        """All columns of the ladder."""
        return [name for names in self.steps.values() for name in names]


def open_features(path: str, roles: Roles) -> FeatureFile:
    """Open a feature file and find its columns; problems name the file and the flag."""
    table = open_table("features", path)
    made = _metadata(path, table)
    if table.rows == 0:
        raise DataError(f"{path}: has no rows")
    named = made["spec"].get("columns", {})
    named = {**named, **named.get("candidates", {})}
    roles = replace(
        roles,
        time=roles.time or named.get("time", "timestamp"),
        user=roles.user or named.get("user", "user_id"),
        time_unit=roles.time_unit or made["spec"].get("time_unit"),
    )
    features = {column["name"]: column for column in made["columns"] if column["name"] in table.names}
    problems = Problems()
    for flag, name in roles.columns().items():
        with problems.collect():
            if name not in table.names:
                raise SpecError(f"{flag} {name}: {path} has no such column{did_you_mean(name, table.names)}")
            if name in features:
                raise SpecError(f"{flag} {name}: is a feature, made by extembed; name a column of your own")
    taken = {*features, *roles.columns().values()}
    own, not_learned = _baseline(roles, table, taken, named.get("item", "item_id"), problems)
    steps = {BASELINE: own}
    for technique in TECHNIQUES:
        steps[technique] = [name for name, column in features.items() if column["technique"] == technique]
    with problems.collect():
        if not any(steps[technique] for technique in TECHNIQUES):
            raise DataError(f"{path}: has no feature columns; add [[aggregate]] or [[dual]] to its spec and run again")
    problems.raise_any()
    trained = [time_us(features[name]["trained_until"]) for name in steps[NEURAL] if "trained_until" in features[name]]
    return FeatureFile(
        path,
        table,
        {step: columns for step, columns in steps.items() if columns},
        {name: column["meaning"] for name, column in features.items()},
        made["spec"],
        _run_report(path, table, made),
        max(trained, default=None),
        roles,
        not_learned,
    )


def _metadata(path: str, table: Table) -> dict[str, Any]:
    stored = (table.schema.metadata or {}).get(METADATA_KEY)
    try:
        made: dict[str, Any] = json.loads(stored or b"")
        if not isinstance(made["spec"], dict) or not all(set(column) >= _COLUMN for column in made["columns"]):
            raise TypeError
    except (ValueError, KeyError, TypeError):
        raise InputError(
            f"{path}: has no readable `extembed` metadata, so its feature columns are not known. Evaluate the file "
            "that `extembed run` wrote; most tools that copy a Parquet file leave its metadata out (join your own "
            "columns to the candidates before the run: they pass through)"
        ) from None
    return made


def _baseline(
    roles: Roles, table: Table, taken: set[str], item: str, problems: Problems
) -> tuple[list[str], dict[str, str]]:
    """The columns that the globs match, but for features, label, user and time; the item's id only by its own name.

    Dates, lists and the like that only a wildcard matches are left out: the second result, with their types.
    """
    free = [name for name in table.names if name not in taken]
    kinds = {name: str(table.schema.field(name).type) for name in free if not can_learn(table.schema.field(name).type)}
    found: dict[str, None] = {}
    for glob in roles.baseline:
        matched = [glob] if glob in free else [name for name in fnmatch.filter(free, glob) if name != item]
        with problems.collect():
            if not matched and fnmatch.filter(sorted(taken), glob):
                raise SpecError(f"--baseline {glob}: matches only label, user, time or features, which are no baseline")
            if not matched:
                raise SpecError(f"--baseline {glob}: matches no column{did_you_mean(glob, free)}")
            if matched and all(name in kinds for name in matched):
                raise DataError(
                    f"--baseline {glob}: is {listing({kinds[name] for name in matched})}; a ranker learns from "
                    "numbers, booleans and text. Cast it before the run"
                )
        found |= dict.fromkeys(matched)
    return [name for name in found if name not in kinds], {name: kinds[name] for name in found if name in kinds}


def _run_report(path: str, table: Table, made: dict[str, Any]) -> dict[str, Any] | None:
    """The report beside the file, where it is of the same run: of the same spec, inputs, columns and rows.

    Parts that a glob names have theirs beside their folder.
    """
    output = Path(path)
    if not output.exists() and len({part.path.parent for part in table.parts}) == 1:
        output = table.parts[0].path.parent
    try:
        text = output.with_name(f"{output.name}.run.json").read_text(encoding="utf-8")
        report: dict[str, Any] = json.loads(text)
        names = report["column_names"]
        last = [column["name"] for column in made["columns"]][-len(names) :]  # those before are of earlier runs
        told = (report["rows_out"], report["spec"], report["digests"], names)
        return report if told == (table.rows, made["spec"], made["inputs"], last) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
