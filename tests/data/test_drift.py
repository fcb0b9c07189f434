"""Files of one input that differ: in columns nobody reads, in types, in zones; and values that are names of folders."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import World, run_spec, soak
from data.test_paths import spec
from helpers.refusals import DATA, USAGE, refused

pytestmark = pytest.mark.usefixtures("engine")

FEATURES = ["all__count", "text__all__cos_mean__hl7d"]


def features(world: World, **paths: str) -> pl.DataFrame:
    return run_spec(spec(world, **paths)).select(FEATURES)


def halves(world: World, name: str) -> tuple[pa.Table, pa.Table]:
    table = world.table(name)
    return table.slice(0, table.num_rows // 2), table.slice(table.num_rows // 2)


def test_a_column_that_nobody_reads_may_have_two_types(world: World) -> None:
    expected = features(world)
    one, other = halves(world, "interactions")
    world.write("parts/a", one.append_column("session", pa.array(np.arange(len(one)))))
    world.write("parts/b", other.append_column("session", pa.array(["x"] * len(other))))
    assert features(world, interactions="parts").equals(expected, null_equal=True)


def test_a_candidate_column_of_two_types_is_refused_with_both_files(world: World) -> None:
    one, other = halves(world, "candidates")
    world.write("parts/a", one.append_column("session", pa.array(np.arange(len(one)))))
    world.write("parts/b", other.append_column("session", pa.array(["x"] * len(other))))
    parts = ("candidates: column `session` is int64 in ", "parts/a.parquet and string in ", "parts/b.parquet")
    refused(world, spec(world, candidates="parts"), DATA, *parts)


@pytest.mark.parametrize("name", ["interactions", "candidates", "text"])
def test_a_part_without_rows_may_have_any_types(world: World, name: str) -> None:
    expected = features(world)
    table = world.table(name)
    world.write("parts/a", {column: pa.array([], pa.float64()) for column in table.column_names[:-1]})
    world.write("parts/b", table)
    world.write("parts/c", {"other": pa.array([], pa.string())})
    assert features(world, **{name: "parts"}).equals(expected, null_equal=True)


@pytest.mark.parametrize("name", ["interactions", "candidates"])
@pytest.mark.parametrize("other", [pa.timestamp("us"), pa.timestamp("ms", "UTC"), pa.timestamp("us", "Europe/Berlin")])
@pytest.mark.few(3)
def test_a_naive_and_a_zoned_part(world: World, name: str, other: pa.DataType) -> None:
    expected = features(world)
    for path, half, kind in zip("ab", halves(world, name), (other, pa.timestamp("us", "UTC")), strict=True):
        place = half.column_names.index("timestamp")
        world.write(f"parts/{path}", half.set_column(place, "timestamp", half["timestamp"].cast(kind)))
    output = run_spec(spec(world, **{name: "parts"}))
    assert output.select(FEATURES).equals(expected, null_equal=True)
    if name == "candidates":
        assert (
            output["timestamp"].cast(pl.Int64).to_list() == world.table(name)["timestamp"].cast(pa.int64()).to_pylist()
        )


def test_a_column_that_one_part_lacks_is_named_with_the_part(world: World) -> None:
    one, other = halves(world, "interactions")
    world.write("parts/a", one.drop_columns(["rating"]))
    world.write("parts/b", other)
    group = '[histories.liked]\nwhere = "rating >= 4"\n'
    path = spec(world, group, interactions="parts")
    refused(world, path, DATA, "parts/a.parquet: no column `rating`, which histories.liked.where = 'rating >= 4' reads")
    path = spec(world, '[histories.liked]\nwhere = "ratng >= 4"\n', interactions="parts")
    refused(world, path, USAGE, "`ratng`", "did you mean `rating`?")
    world.write("parts/a", one.drop_columns(["item_id"]))
    refused(world, spec(world, interactions="parts"), DATA, "parts/a.parquet: no column `item_id`")


# --- values that are names of folders -----------------------------------------------------------------


def in_folders(world: World, name: str, column: str, texts: dict[Any, str]) -> pa.Table:
    """Write the rows of a table to folders by the values of a column; return them in the order of the files."""
    table = world.table(name)
    rows = []
    for value, text in sorted(texts.items(), key=lambda pair: pair[1]):
        chosen = table.filter(pa.compute.equal(table[column], value))
        world.write(f"{name}.d/{column}={text}/0", chosen.drop_columns([column]))
        rows.append(chosen)
    return pa.concat_tables(rows)


def test_a_value_passes_through_as_it_is_written(world: World) -> None:
    months = {0: "01", 1: "12"}
    rows = in_folders(world, "candidates", "label", months)
    output = run_spec(spec(world, candidates="candidates.d"))
    assert output["label"].to_list() == [months[label] for label in rows["label"].to_pylist()]
    typed = run_spec(spec(world, '[columns.types]\nlabel = "integer"\n', candidates="candidates.d"))
    assert typed["label"].to_list() == [int(months[label]) for label in rows["label"].to_pylist()]
    assert output.drop("label").equals(typed.drop("label"), null_equal=True)


def test_integers_stay_integers_unless_the_spec_says_text(world: World) -> None:
    rows = in_folders(world, "candidates", "label", {0: "2023", 1: "2024"})
    output = run_spec(spec(world, candidates="candidates.d"))
    assert output["label"].dtype == pl.Int64
    assert set(output["label"]) == {2023, 2024}
    typed = run_spec(spec(world, '[columns.types]\nlabel = "text"\n', candidates="candidates.d"))
    assert typed["label"].dtype == pl.String
    assert len(rows) == len(typed)


@pytest.mark.parametrize("width", [soak(1), 3])
@pytest.mark.parametrize("other", ["integer", "text"])
def test_ids_have_the_type_of_the_other_inputs(world: World, width: int, other: str) -> None:
    expected = features(world)
    in_folders(world, "interactions", "user_id", {user: f"{user:0{width}d}" for user in range(30)})
    if other == "text":
        users = [f"{user:0{width}d}" for user in world.table("candidates")["user_id"].to_pylist()]
        table = world.table("candidates")
        world.write("candidates", table.set_column(0, "user_id", pa.array(users)))
    assert features(world, interactions="interactions.d").equals(expected, null_equal=True)


def test_values_that_are_no_integers_are_refused_as_such(world: World) -> None:
    in_folders(world, "candidates", "label", {0: "a", 1: "b"})
    path = spec(world, '[columns.types]\nlabel = "integer"\n', candidates="candidates.d")
    refused(world, path, USAGE, "columns.types.label: `integer`, but some folders have other values (a, b)")


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("user_id", "columns.types.user_id: is stored in the files, which have its type"),
        ("lable", "columns.types.lable: no input has folders of this name; did you mean `label`?"),
    ],
)
def test_types_of_what_is_no_name_of_folders_are_refused(world: World, name: str, part: str) -> None:
    in_folders(world, "candidates", "label", {0: "1", 1: "2"})
    path = spec(world, f'[columns.types]\nlabel = "text"\n{name} = "text"\n', candidates="candidates.d")
    refused(world, path, USAGE, part)


def test_null_and_encoded_values(world: World) -> None:
    texts = {0: "__HIVE_DEFAULT_PARTITION__", 1: "a%2Fb%20c"}
    rows = in_folders(world, "candidates", "label", texts)
    output = run_spec(spec(world, candidates="candidates.d"))
    expected = [{0: None, 1: "a/b c"}[label] for label in rows["label"].to_pylist()]
    assert output["label"].to_list() == expected
    assert pq.read_schema(world.folder / "out.parquet").field("label").type == pa.string()
