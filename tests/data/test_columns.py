"""Renamed key columns, columns that pass through, columns that `where` reads, and null keys."""

from __future__ import annotations

import decimal
import json
import uuid
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import World, extembed, run_spec, small_world, soak_except, timestamps
from polars.testing import assert_frame_equal

from extembed_cli.jobs.options import RunOptions
from extembed_cli.jobs.run import run_job
from extembed_cli.spec.loading import load_spec
from extembed_cli.system.progress import Watch

INPUTS = ("interactions", "candidates", "text")
GROUP = '\n[[aggregate]]\nhalf_lives = ["7d", "none"]\npercentiles = [50]\nthresholds = [0.2]\n'


def run(world: World, text: str = "") -> pl.DataFrame:
    """Run a spec and return only the features: polars cannot read every type that candidates may have."""
    run_job(load_spec(world.spec(text + GROUP)), RunOptions(workers=1), Watch())
    output = pq.ParquetFile(world.folder / "out.parquet")
    features = pl.from_arrow(output.read([name for name in output.schema_arrow.names if "__" in name]))
    assert isinstance(features, pl.DataFrame)
    return features


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    """Provides the features of the plain files."""
    features = run(small_world(tmp_path_factory.mktemp("plain")))
    assert features["text__all__vector_count"].max() > 5
    return features


# --- column names ------------------------------------------------------------------------------------

OWN = {"user_id": "who", "item_id": "what", "timestamp": "when", "embedding": "vec"}
ROLES = {"user": "who", "item": "what", "time": "when", "embedding": "vec"}


def roles(*names: str) -> str:
    return "".join(f'{name} = "{ROLES[name]}"\n' for name in names)


@pytest.mark.parametrize(
    ("renamed", "columns"),
    [
        (INPUTS, "[columns]\n" + roles("user", "item", "time", "embedding")),
        (INPUTS[:1], "[columns.interactions]\n" + roles("user", "item", "time")),
        (INPUTS[1:2], "[columns.candidates]\n" + roles("user", "item", "time")),
        (INPUTS[2:], "[embeddings.text.columns]\n" + roles("item", "embedding")),
        (INPUTS[:2], "[columns]\n" + roles("user", "item", "time") + '[embeddings.text.columns]\nitem = "item_id"\n'),
        (INPUTS[1:], "[columns]\n" + roles("item", "embedding") + '[columns.interactions]\nitem = "item_id"\n'
         + "[columns.candidates]\n" + roles("user", "time")),
    ],
    ids=["all", "interactions", "candidates", "table", "override_in_table", "override_in_interactions"],
)  # fmt: skip
def test_key_columns_can_have_other_names(
    world: World, expected: pl.DataFrame, renamed: tuple[str, ...], columns: str
) -> None:
    for name in renamed:
        own = world.table(name)
        world.write(name, own.rename_columns([OWN.get(column, column) for column in own.column_names]))
    assert_frame_equal(run(world, columns), expected, check_exact=True)
    assert world.output().columns[:4] == world.table("candidates").column_names


def test_one_column_can_have_two_roles(world: World) -> None:
    """Users may also be items, such as people to follow."""
    table = world.table("candidates")
    world.write("candidates", table.set_column(1, "item_id", table["user_id"]))
    plain = run(world)
    world.write("candidates", table.drop_columns(["item_id"]))
    assert_frame_equal(run(world, '[columns.candidates]\nitem = "user_id"\n'), plain, check_exact=True)


@pytest.mark.parametrize("keep", [False, True])
def test_with_as_of_candidates_need_no_time_column(world: World, keep: bool) -> None:
    """If they have one, it passes through unchanged."""
    table = world.table("candidates")
    world.write("candidates", table.set_column(2, "timestamp", timestamps(np.full(300, 1_703_980_800_000_000))))
    plain = run(world)
    world.write("candidates", table if keep else table.drop_columns(["timestamp"]))
    assert_frame_equal(run(world, 'as_of = "2023-12-31"\n'), plain, check_exact=True)
    kept(world.folder / "out.parquet", world.folder / "candidates.parquet")


# --- columns that pass through ---------------------------------------------------------------------------------


def every_type(rows: int) -> dict[str, pa.Array]:
    """Return a column of each type, with nulls."""

    def column(kind: pa.DataType, *values: Any) -> pa.Array:
        return pa.array([values[n % len(values)] for n in range(rows)], kind)

    dictionary = column(pa.string(), "b", None, "a").dictionary_encode()
    ids = column(pa.binary(16), *(uuid.UUID(int=n).bytes for n in range(7)), None)
    return {
        "bool": column(pa.bool_(), True, None, False),
        "int8": column(pa.int8(), -1, None),
        "uint64": column(pa.uint64(), 2**64 - 1, None),
        "half": column(pa.float16(), np.float16(0.5), None),
        "nan": column(pa.float64(), float("nan"), None, -0.0),
        "decimal": column(pa.decimal128(20, 3), decimal.Decimal("1.250"), None),
        "decimal256": column(pa.decimal256(60, 3), decimal.Decimal("-1.250"), None),
        "string": column(pa.string(), "é", None, ""),
        "large_string": column(pa.large_string(), "x", None),
        "string_view": column(pa.string_view(), "longer than twelve bytes", None),
        "binary": column(pa.binary(), b"\xff", None),
        "fixed_binary": column(pa.binary(2), b"ab", None),
        "date": column(pa.date32(), date(2024, 2, 29), None),
        "time": column(pa.time32("ms"), 5, None),
        "duration": column(pa.duration("s"), 5, None),
        "zoned": column(pa.timestamp("ms", "Europe/Berlin"), 1_700_000_000_001, None),
        "offset": column(pa.timestamp("us", "+05:30"), 1_700_000_000_000_001, None),
        "nanos": column(pa.timestamp("ns"), 1_700_000_000_000_000_001, None),
        "list": column(pa.list_(pa.list_(pa.int32())), [[1], None, []], None, []),
        "large_list": column(pa.large_list(pa.string()), ["a", None], None),
        "fixed_list": column(pa.list_(pa.float32(), 2), [1.0, None], None),
        "struct": column(pa.struct({"a": pa.int8(), "b": pa.list_(pa.string())}), {"a": 1, "b": ["x"]}, None),
        "map": column(pa.map_(pa.string(), pa.int32()), [("k", 1)], None),
        "dictionary": dictionary,
        "nothing": pa.nulls(rows),
        "uuid": pa.ExtensionArray.from_storage(pa.uuid(), ids),
        "a  b.c": column(pa.int32(), 1, 2),
    }


def kept(output: Path, candidates: Path, data: bool = True) -> pa.Table:
    """Check that the output has the candidates unchanged and adds float and uint32 columns. Return the output."""
    before, after = pq.read_table(candidates), pq.read_table(output)
    width = before.num_columns
    assert after.schema.names[:width] == before.schema.names
    for old, new in zip(before.schema, after.schema, strict=False):
        assert new.equals(old, check_metadata=True), f"{old} became {new}"
    assert {str(field.type) for field in list(after.schema)[width:]} == {"float", "uint32"}
    for name in before.column_names if data else []:
        # Compared as text, because NaN differs from itself, and as counts, because Python times have no nanoseconds.
        old, new = (t[name].cast(pa.int64()) if name == "nanos" else t[name] for t in (before, after))
        assert repr(new.to_pylist()) == repr(old.to_pylist()), name
    return after


@pytest.mark.parametrize("files", [1, 2])
def test_columns_of_every_type_pass_through(world: World, expected: pl.DataFrame, files: int) -> None:
    table = world.table("candidates")
    for name, values in every_type(300).items():
        table = table.append_column(name, values)
    world.write("candidates", table, row_group_size=70)
    paths = ["candidates.parquet"]
    if files == 2:
        world.write("a", table.slice(0, 110))
        world.write("b", table.slice(110), row_group_size=50)
        paths = ["a.parquet", "b.parquet"]
    top = f'interactions = "interactions.parquet"\ncandidates = {paths}\noutput = "out.parquet"\n'
    features = run(world, top + '[embeddings.text]\npath = "text.parquet"\n')
    kept(world.folder / "out.parquet", world.folder / "candidates.parquet")
    assert_frame_equal(features, expected, check_exact=True)


@pytest.mark.parametrize("output", ["out.parquet", "out"])
def test_metadata_of_the_schema_and_its_fields_is_kept(world: World, output: str) -> None:
    table = world.table("candidates")
    fields = [table.schema.field("user_id").with_nullable(False), *list(table.schema)[1:]]
    fields[3] = fields[3].with_metadata({"comment": "clicked"})
    world.write("candidates", table.cast(pa.schema(fields, {"team": "{}", "owner": "é", "extembed": "an old one"})))
    run_job(load_spec(world.spec(GROUP), output=str(world.folder / output)), RunOptions(workers=1), Watch())
    path = world.folder / output
    path = path if path.is_file() else next(path.glob("*.parquet"))
    after = kept(path, world.folder / "candidates.parquet")
    metadata = after.schema.metadata
    assert (metadata[b"team"], metadata[b"owner"]) == (b"{}", "é".encode())
    assert json.loads(metadata[b"extembed"])["columns"]


def test_many_rows_of_many_row_groups_stay_in_order(world: World) -> None:
    """The file has more rows than a run reads or writes at a time."""
    rows = 150_000
    table = world.table("candidates")
    for name in ("dictionary", "list", "struct", "uuid", "nothing"):
        table = table.append_column(name, every_type(300)[name])
    table = table.take(pa.array(np.arange(rows) % 300))
    views = pa.array(["longer than twelve bytes", None] * (rows // 2), pa.string_view())
    table = table.append_column("string_view", views)
    world.write("candidates", table.append_column("row_id", pa.array(np.arange(rows))), row_group_size=40_000)
    run(world)
    after = kept(world.folder / "out.parquet", world.folder / "candidates.parquet", data=False)
    assert after["row_id"].to_pylist() == list(range(rows))
    for name in ("dictionary", "list", "struct", "uuid"):
        assert after[name].combine_chunks().equals(table[name].combine_chunks()), name
    cosines = after["text__all__cos_mean__hl7d"].to_numpy()
    np.testing.assert_allclose(cosines, cosines[np.arange(rows) % 300], atol=1e-6)


# --- columns that `where` reads ----------------------------------------------------------------------

WHERES = {
    "bool": "x",
    "int8": "x < 0",
    "half": "x > 0.25",
    "decimal": "x >= 1.25",
    "string": "x = 'é'",
    "large_string": "x IN ('x', 'y')",
    "string_view": "x LIKE 'longer%'",
    "date": "x = DATE '2024-02-29'",
    "zoned": "x IS NOT NULL",
    "offset": "x IS NOT NULL",
    "nanos": "x IS NOT NULL",
    "dictionary": "x = 'b'",
    "nothing": "x = 1",
    "uuid": "x IS NOT NULL",
}
OFTEN = {"decimal", "string", "zoned"}


@pytest.mark.parametrize("kind", soak_except(OFTEN, WHERES))
def test_where_reads_columns_of_any_type(world: World, kind: str) -> None:
    values = every_type(600)[kind]
    table = world.table("interactions").append_column("x", values)
    selected = pa.array([False] * 600) if kind == "nothing" else values.is_valid()
    if kind in {"bool", "string", "dictionary"}:  # the other types have one value and null
        selected = pa.array([v == values[0].as_py() for v in values.to_pylist()])
    world.write("interactions", table.append_column("selected", selected))
    accepted = "[require]\nallow_empty = true\n"  # of `nothing`
    plain = run(world, f'{accepted}[histories.some]\nwhere = "selected"\n')
    features = run(world, f'{accepted}[histories.some]\nwhere = "{WHERES[kind]}"\n')
    assert_frame_equal(features, plain, check_exact=True)


# --- null keys ---------------------------------------------------------------------------------------

NULL_TYPES: dict[str, Callable[[Sequence[int | None]], pa.Array]] = {
    "integers": lambda values: pa.array(values, pa.int64()),
    "text": lambda values: pa.array([None if v is None else f"id-{v:03d}" for v in values]),
    "dictionary": lambda values: pa.array([None if v is None else f"id-{v:03d}" for v in values]).dictionary_encode(),
    "uint64": lambda values: pa.array([None if v is None else 2**63 + v for v in values], pa.uint64()),
}


def with_nulls(table: pa.Table, nulls: dict[str, list[int]], kind: str) -> pa.Table:
    for index, name in enumerate(table.column_names):
        is_null = np.isin(np.arange(len(table)), nulls.get(name, []))
        values = [None if none else value for none, value in zip(is_null, table[name].to_pylist(), strict=True)]
        if name in {"user_id", "item_id"}:
            table = table.set_column(index, name, NULL_TYPES[kind](values))
        elif is_null.any():
            table = table.set_column(index, name, pa.array(values, table.schema.field(name).type))
    return table


@pytest.mark.parametrize("kind", NULL_TYPES)
def test_events_without_a_key_are_dropped_and_counted(world: World, kind: str) -> None:
    nulls = {"user_id": [0, 5, 599], "item_id": [7, 8], "timestamp": [1, 2, 3, 300]}
    log = with_nulls(world.table("interactions"), nulls, kind)
    for name in INPUTS[1:]:
        world.write(name, with_nulls(world.table(name), {}, kind))
    without_key = np.isin(np.arange(600), [0, 5, 599, 7, 8, 1, 2, 3, 300])
    world.write("interactions", log.filter(pa.array(~without_key)))
    plain = run(world)
    world.write("interactions", log)
    assert_frame_equal(run(world), plain, check_exact=True)
    report = json.loads((world.folder / "out.parquet.run.json").read_text())["inputs"]["interactions"]
    assert report["rows"] == 600
    assert report["dropped"] == {"null user": 3, "null item": 2, "null time": 4}


def test_an_event_without_any_key_is_counted_once(world: World) -> None:
    nothing = {"user_id": [4], "item_id": [4], "timestamp": [4]}
    world.write("interactions", with_nulls(world.table("interactions"), nothing, "integers"))
    assert run_job(load_spec(world.spec()), RunOptions(workers=1), Watch())["inputs"]["interactions"]["dropped"] == {
        "null user": 1
    }


@pytest.mark.parametrize("kind", NULL_TYPES)
@pytest.mark.parametrize("column", ["user_id", "timestamp"])
@pytest.mark.few(4)
def test_candidates_without_user_or_time_keep_their_row(
    world: World, expected: pl.DataFrame, kind: str, column: str
) -> None:
    for name in INPUTS:
        nulls = {column: [0, 17, 299]} if name == "candidates" else {}
        world.write(name, with_nulls(world.table(name), nulls, kind))
    features = run(world)
    kept(world.folder / "out.parquet", world.folder / "candidates.parquet")
    without_key = pl.Series(np.isin(np.arange(300), [0, 17, 299]))
    assert all(features.filter(without_key).select(pl.all().is_null().all()).row(0))
    # With fewer candidates a user's products can have another shape, and BLAS rounds other shapes differently.
    assert_frame_equal(
        features.filter(~without_key), expected.filter(~without_key), check_exact=False, rel_tol=0, abs_tol=1e-6
    )


@pytest.mark.parametrize("kind", NULL_TYPES)
def test_candidates_without_an_item_have_counters_only(world: World, expected: pl.DataFrame, kind: str) -> None:
    for name in INPUTS:
        nulls = {"item_id": [0, 17, 299]} if name == "candidates" else {}
        world.write(name, with_nulls(world.table(name), nulls, kind))
    features = run(world)
    cosines = [name for name in features.columns if "__cos_" in name]
    assert len(cosines) > 5
    rows = [0, 17, 299]
    assert features[rows].select(cosines).null_count().row(0) == (3,) * len(cosines)
    assert_frame_equal(features.drop(cosines), expected.drop(cosines), check_exact=True)
    others = [n for n in range(300) if n not in rows]
    assert_frame_equal(features[others], expected[others], check_exact=True)


def test_candidates_without_any_key_have_null_features(world: World) -> None:
    everything = {name: list(range(300)) for name in ("user_id", "item_id", "timestamp")}
    world.write("candidates", with_nulls(world.table("candidates"), everything, "integers"))
    extembed("run", world.spec(GROUP)).failed(1, "candidates: all 300 rows have a null user or a null time")
    features = run(world, "require.allow_empty = true\n")
    assert features.null_count().row(0) == (300,) * features.width


def test_constants_are_valid_expressions(world: World) -> None:
    plain = run_spec(world.spec())
    features = run_spec(
        world.spec(
            'weight = "2.0"\n[histories.every]\nwhere = "true"\n[histories.none]\nwhere = "1 = 2"\n'
            "[require]\nallow_empty = true\n"
        )
    )
    assert features["every__count"].to_list() == plain["all__count"].to_list()
    assert features["none__count"].sum() == 0
    assert features["every__decayed_count__hl30d"].to_list() == (2 * plain["all__decayed_count__hl30d"]).to_list()
