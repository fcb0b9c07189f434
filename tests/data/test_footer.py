"""The output has all columns for each program that reads it, whichever program has written the candidates."""

from __future__ import annotations

import json
import shutil
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import World, extembed

FEATURES = ["all__count", "text__all__cos_mean__hl30d"]
SPARK = "org.apache.spark.sql.parquet.row.metadata"


def as_spark(world: World) -> None:
    """With the key that Spark writes: it reads the columns in it and no others."""
    table = world.table("candidates")
    types = {"user_id": "long", "item_id": "long", "timestamp": "timestamp", "label": "long"}
    fields = [{"name": n, "type": types[n], "nullable": True, "metadata": {}} for n in table.column_names]
    about = json.dumps({"type": "struct", "fields": fields})
    world.write("candidates", table.replace_schema_metadata({SPARK: about, "org.apache.spark.version": "4.1.0"}))


def as_pandas(world: World) -> None:
    """With ids in the index, and numbers as names of further columns."""
    frame = world.table("candidates").to_pandas()
    frame[[0, 1]] = np.arange(600).reshape(300, 2)
    frame.columns = frame.columns.astype(str)
    frame.set_index("user_id").to_parquet(world.folder / "candidates.parquet")


def as_pandas_with_numbers_as_names(world: World) -> None:
    """The names of all columns are said to be integers, as pandas does for a table without names."""
    table = world.table("candidates")
    frame = pd.DataFrame(table.to_pandas().to_numpy(dtype=object)).infer_objects()
    renamed = pa.Table.from_pandas(frame, preserve_index=False)
    about = json.loads((renamed.schema.metadata or {})[b"pandas"])
    for column, name in zip(about["columns"], table.column_names, strict=True):
        column["name"] = column["field_name"] = name
    world.write("candidates", table.replace_schema_metadata({"pandas": json.dumps(about)}))


def as_polars(world: World) -> None:
    pl.read_parquet(world.folder / "candidates.parquet").write_parquet(world.folder / "candidates.parquet")


def as_duckdb(world: World) -> None:
    path = world.folder / "candidates.parquet"
    shutil.copy(path, world.folder / "copied.parquet")
    duckdb.sql(f"COPY (FROM '{world.folder / 'copied.parquet'}') TO '{path}' (FORMAT parquet)")


WRITERS = [as_spark, as_pandas, as_pandas_with_numbers_as_names, as_polars, as_duckdb]


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
@pytest.mark.parametrize("output", ["out.parquet", "out"])
@pytest.mark.few(5)
def test_every_reader_sees_all_columns(world: World, write: Any, output: str) -> None:
    expected = world.run().select(FEATURES)
    write(world)
    names = pq.read_schema(world.folder / "candidates.parquet").names
    path = world.folder / output
    if output == "out":
        (world.folder / "out.parquet").unlink()
    extembed("run", world.spec(), "-o", path).ok()
    files = [path] if path.is_file() else sorted(path.glob("part-*.parquet"))
    frame = pd.read_parquet(path if path.is_file() else files)
    assert {*names, *FEATURES} <= {*frame.reset_index().columns}
    assert len(frame) == len(expected)
    for each in FEATURES:
        np.testing.assert_array_equal(frame[each].to_numpy(float), expected[each].to_numpy().astype(float))
    by_duckdb = duckdb.sql(f"FROM read_parquet({[str(file) for file in files]})").pl()
    assert by_duckdb.select(FEATURES).equals(expected, null_equal=True)
    assert pl.read_parquet(files).select(FEATURES).equals(expected, null_equal=True)
    metadata = pq.read_schema(files[0]).metadata
    if SPARK.encode() in metadata:
        listed = [field["name"] for field in json.loads(metadata[SPARK.encode()])["fields"]]
        assert listed == pq.read_schema(files[0]).names
    assert (write is as_spark) == (SPARK.encode() in metadata)


def test_a_key_that_fits_no_more_is_left_out(world: World) -> None:
    as_spark(world)
    table = world.table("candidates")
    world.write("candidates", table.append_column("more", pa.array(np.arange(300))))
    world.run()
    assert SPARK.encode() not in pq.read_schema(world.folder / "out.parquet").metadata


def test_other_keys_are_kept(world: World) -> None:
    table = world.table("candidates")
    world.write("candidates", table.replace_schema_metadata({"team": "search", "pandas": "not json", SPARK: "[]"}))
    world.run()
    metadata = pq.read_schema(world.folder / "out.parquet").metadata
    assert metadata[b"team"] == b"search"
    assert b"pandas" not in metadata
    assert SPARK.encode() not in metadata


@pytest.mark.parametrize("key", [b"extembed", b"pandas", b"org.apache.spark.sql.parquet.row.metadata"])
def test_a_key_that_is_nested_too_deeply_is_left_out(world: World, key: bytes) -> None:
    for name in ("candidates", "interactions"):
        table = world.table(name).replace_schema_metadata({key: b"[" * 100_000})
        pq.write_table(table, world.folder / f"{name}.parquet")
    world.run()
    assert (pq.read_schema(world.folder / "out.parquet").metadata or {}).get(key) != b"[" * 100_000
