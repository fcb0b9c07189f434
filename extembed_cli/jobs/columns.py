"""The feature columns of a spec or of an output, and a description of an output's columns for CatBoost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from extembed_cli.data.files.commit import locked, staged, writing
from extembed_cli.data.files.parquet import open_table
from extembed_cli.data.outputs.feature_columns import (
    FeatureColumn,
    check_roles,
    described,
    feature_columns,
    of_techniques,
)
from extembed_cli.data.outputs.feature_file import check_not_an_input
from extembed_cli.errors import Problems, SpecError
from extembed_cli.features.registry import output_columns
from extembed_cli.jobs.specs import load_spec
from extembed_cli.printable import printable

_SPEC = ".toml"


def list_columns(path: str, overrides: Sequence[str], techniques: Sequence[str] | None) -> list[FeatureColumn]:
    """Return the columns that the run of a spec will write, or those of an output; of all techniques or of some."""
    if Path(path).suffix == _SPEC:
        columns = [FeatureColumn.of(column.about) for column in output_columns(load_spec(Path(path), overrides))]
        return of_techniques(path, columns, techniques)
    if overrides:
        raise SpecError(f"--set {overrides[0]}: changes a spec, and {path} is an output; its columns are written")
    return feature_columns(path, techniques)


def describe_for_catboost(
    path: str, techniques: Sequence[str] | None, label: str | None, group: str | None
) -> list[tuple[str, str, str]]:
    """Return the rows of a CatBoost column description of an output: place, type and name of each column.

    The features, of all techniques or of some, are numbers; what is neither a feature, the label nor the group is not
    learned from. https://catboost.ai/docs/en/concepts/input-data_column-descfile
    """
    if Path(path).suffix == _SPEC:
        raise SpecError(f"--catboost: describes all columns of an output, and {path} is a spec; name a feature file")
    table = open_table("features", path)
    columns = described(path, table).columns
    roles = {flag: name for flag, name in (("--label", label), ("--group", group)) if name is not None}
    problems = Problems()
    check_roles(path, table, [column.name for column in columns], roles, problems)
    problems.raise_any()
    types = {column.name: "Num" for column in of_techniques(path, columns, techniques)}
    types |= {name: kind for name, kind in ((label, "Label"), (group, "GroupId")) if name is not None}
    return [(str(place), types.get(name, "Auxiliary"), name) for place, name in enumerate(table.schema.names)]


def write_rows(path: Path, rows: Sequence[Sequence[str]], source: str) -> None:
    """Write rows of text about a source, with tabs between their cells; the file gets its name once it is complete."""
    check_not_an_input(path, [open_table("features", source)])
    text = "".join("\t".join(map(printable, row)) + "\n" for row in rows)
    with locked(path, 0), staged() as stage, writing(path):
        stage.temporary(path).write_text(text, encoding="utf-8")
        stage.commit()
