"""The feature columns of an output, as the metadata in its footer describes them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from extembed_cli.data.files.footer import read_about
from extembed_cli.data.files.parquet import Table, open_table
from extembed_cli.errors import InputError, Problems, SpecError, did_you_mean, listing


@dataclass(frozen=True, kw_only=True)
class FeatureColumn:
    """A feature column of an output."""

    name: str
    dtype: str
    """`UInt32` or `Float32`"""
    technique: str
    """The step of an evaluation's ladder that it belongs to: `counters`, `aggregate`, `dual`, `neural`"""
    meaning: str
    """Its formula"""
    owner: str = "user"
    """Whose history it is of: `user`, `item` or `all`"""
    trained_until: str | None = None
    """Time of the newest row that a model behind it has seen, ISO 8601"""
    out_of_time: bool = False
    """Whether each value is by a model that has seen older rows only"""

    @classmethod
    def of(cls, about: Mapping[str, Any]) -> FeatureColumn:
        """Return the column that an entry of the metadata describes; keys of other versions are left out."""
        known = {field.name: about[field.name] for field in fields(cls) if field.name in about}
        if not all(isinstance(value, str | bool) for value in known.values()):
            raise TypeError(about)
        return cls(**known)


class Described(NamedTuple):
    """What the metadata of an output says."""

    about: dict[str, Any]
    """The version, the spec and the digests of the inputs"""
    columns: list[FeatureColumn]
    """Those that the file has, earlier runs' first"""


def feature_columns(path: str | os.PathLike[str], techniques: Iterable[str] | None = None) -> list[FeatureColumn]:
    """Return the feature columns of an output, all or those of some techniques; see `extembed_cli.feature_columns`."""
    text = os.fspath(path)
    return of_techniques(text, described(text, open_table("features", text)).columns, techniques)


def described(path: str, table: Table) -> Described:
    """Return what the metadata of an open output says; raise if it does not tell the feature columns."""
    about = read_about(table.schema) or {}
    try:
        columns = [FeatureColumn.of(column) for column in about["columns"]]
        if not isinstance(about["spec"], dict):
            raise TypeError
    except (KeyError, TypeError, AttributeError):
        raise InputError(
            f"{path}: has no readable `extembed` metadata, so its feature columns are not known. Name the file that "
            "`extembed run` wrote: most tools lose the metadata when they copy a Parquet file. To add your own "
            "columns, join them to the candidates before the run; they pass through"
        ) from None
    return Described(about, [column for column in columns if column.name in table.names])


def of_techniques(path: str, columns: list[FeatureColumn], techniques: Iterable[str] | None) -> list[FeatureColumn]:
    """Return the columns of some techniques; raise if one has none. None = all."""
    if techniques is None:
        return columns
    wanted = [techniques] if isinstance(techniques, str) else list(techniques)
    known = dict.fromkeys(column.technique for column in columns)
    for technique in wanted:
        if technique not in known:
            raise SpecError(f"{path}: has no columns of `{technique}`; it has {listing(known) or 'no features'}")
    return [column for column in columns if column.technique in wanted]


def check_roles(path: str, table: Table, features: Iterable[str], roles: Mapping[str, str], problems: Problems) -> None:
    """Collect problems with flags that name a column of a file which is no feature, such as `--label`."""
    for flag, name in roles.items():
        with problems.collect():
            if name not in table.names:
                raise SpecError(f"{flag} {name}: {path} has no such column{did_you_mean(name, table.names)}")
            if name in features:
                raise SpecError(f"{flag} {name}: is a feature of extembed; name a column of your own")
