"""The same vectors in every form that people have them in give the same features."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from conftest import World, extembed, run_spec, soak
from helpers.refusals import DATA, USAGE, refused

FEATURES = ["text__all__vector_count", "text__all__cos_mean__hl30d"]
NULLS = (3, 20)


def rows_of(world: World) -> list[list[float] | None]:
    """Return the vectors of the world, two of them null."""
    rows: list[list[float] | None] = world.table("text")["embedding"].to_pylist()
    for place in NULLS:
        rows[place] = None
    return rows


def as_text(rows: list[Any]) -> dict[str, pa.Array]:
    return {"embedding": pa.array([None if row is None else json.dumps(row) for row in rows])}


def as_encoded_text(rows: list[Any]) -> dict[str, pa.Array]:
    return {"embedding": as_text(rows)["embedding"].dictionary_encode()}


def as_bytes(rows: list[Any], kind: str = "float32") -> dict[str, pa.Array]:
    return {"embedding": pa.array([None if row is None else np.asarray(row, kind).tobytes() for row in rows])}


def as_fixed_bytes(rows: list[Any]) -> dict[str, pa.Array]:
    return {"embedding": as_bytes(rows)["embedding"].cast(pa.binary(32))}


def as_doubles(rows: list[Any]) -> dict[str, pa.Array]:
    return as_bytes(rows, "float64")


def as_dimensions(rows: list[Any]) -> dict[str, pa.Array]:
    """Columns in no order: d10 comes after d2."""
    columns = {f"d{i + 3}": pa.array([None if row is None else row[i] for row in rows]) for i in range(8)}
    return {"day": pa.array(["x"] * len(rows)), **dict(sorted(columns.items()))}


SPARK = pa.struct(
    {"type": pa.int8(), "size": pa.int32(), "indices": pa.list_(pa.int32()), "values": pa.list_(pa.float64())}
)


def as_spark(rows: list[Any]) -> dict[str, pa.Array]:
    """Some dense, some sparse, with zeros left out."""
    out: list[Any] = []
    for place, row in enumerate(rows):
        if row is None:
            out.append(None)
        elif place % 3:
            out.append({"type": 1, "size": None, "indices": None, "values": row})
        else:
            out.append({"type": 0, "size": 8, "indices": list(range(8)), "values": row})
    return {"embedding": pa.array(out, SPARK)}


def as_lists(rows: list[Any]) -> dict[str, pa.Array]:
    return {"embedding": pa.array(rows, pa.large_list(pa.float32()))}


FORMS: list[tuple[Callable[[list[Any]], dict[str, pa.Array]], str]] = [
    (as_lists, ""),
    (as_text, ""),
    (as_encoded_text, ""),
    (as_bytes, 'bytes_of = "float32"\n'),
    (as_fixed_bytes, 'bytes_of = "float32"\n'),
    (as_doubles, 'bytes_of = "float64"\n'),
    (as_dimensions, 'columns.embedding = "d[0-9]*"\n'),
    (as_spark, ""),
]


def table(keys: str) -> str:
    return f'[embeddings.text]\npath = "text.parquet"\n{keys}'


@pytest.mark.parametrize(("form", "keys"), FORMS, ids=lambda case: getattr(case, "__name__", ""))
@pytest.mark.parametrize("extra", ["", soak("center = true\n"), soak("normalize = false\n")])
@pytest.mark.few(3)
def test_every_form_gives_the_same_features(world: World, form: Any, keys: str, extra: str) -> None:
    rows = rows_of(world)
    ids = pa.array(np.arange(35))
    world.write("text", {"item_id": ids, **as_lists(rows)})
    groups = "[[aggregate]]\n[[dual]]\nunobserved_weight = 0.1\n"
    expected = run_spec(world.spec(f"{table(extra)}{groups}"))
    world.write("text", {"item_id": ids, **form(rows)}, row_group_size=11)
    path = world.spec(f"{table(keys + extra)}{groups}")
    assert run_spec(path).equals(expected, null_equal=True)
    assert "35 rows of 8 dimensions" in extembed("check", path).ok().out
    plan = extembed("run", path, "--dry-run", "--json").ok().json
    assert plan["estimated_memory_bytes"] > 0
    for _ in range(2):
        extembed("run", path, "--cache", world.folder / "cache").ok()
        assert world.output().equals(expected, null_equal=True)


def test_zeros_of_a_sparse_vector(world: World) -> None:
    rows = np.zeros((35, 8))
    rows[np.arange(35), np.arange(35) % 8] = 2.0
    rows[np.arange(35), (np.arange(35) * 3 + 1) % 8] = -1.0
    world.write("text", {"item_id": np.arange(35), "embedding": pa.array(rows.tolist())})
    expected = run_spec(world.spec()).select(FEATURES)
    sparse = [{"type": 0, "size": 8, "indices": np.flatnonzero(r).tolist(), "values": r[r != 0].tolist()} for r in rows]
    world.write("text", {"item_id": np.arange(35), "embedding": pa.array(sparse, SPARK)})
    assert run_spec(world.spec()).select(FEATURES).equals(expected, null_equal=True)


def test_natural_order_of_dimensions(world: World) -> None:
    """As text, d10 would come before d2, and the vectors would have another first dimension."""
    rows = rows_of(world)
    world.write("text", {"item_id": np.arange(35), **as_dimensions(rows)})
    vectors_of = (
        f'{table("columns.embedding = " + chr(34) + "d[0-9]*" + chr(34))}\n[[dual]]\nuser_vectors = "u.parquet"\n'
    )
    run_spec(world.spec(vectors_of))
    wide = world.table("u")
    world.write("text", {"item_id": np.arange(35), **as_lists(rows)})
    run_spec(world.spec('[[dual]]\nuser_vectors = "u.parquet"\n'))
    assert wide.equals(world.table("u"))


def test_names_with_more_digits_than_python_converts(world: World) -> None:
    expected = run_spec(world.spec())
    values = np.array(world.table("text")["embedding"].to_pylist(), np.float32)
    columns = {f"d{'0' * (place == 1)}{place}{'0' * 5000 * (place > 3)}": values[:, place] for place in range(8)}
    world.write("text", {"item_id": np.arange(35), **dict(reversed(columns.items()))})
    assert run_spec(world.spec(table('columns.embedding = "d*"\n'))).equals(expected, null_equal=True)


def spark(**fields: Any) -> pa.Array:
    good = {"type": 0, "size": 8, "indices": [0], "values": [1.0]}
    return pa.array([good] * 34 + [{**good, **fields}], SPARK)


WRONG = [
    (
        pa.array(["[1, 2]"] * 34 + ["1 2"]),
        "",
        DATA,
        ("text.parquet: column `embedding`: row 34 of the table is no list of numbers, such as", "('1 2')"),
    ),
    (pa.array(['["a"]'] * 35), "", DATA, ("row 0 of the table is no list of numbers",)),
    (pa.array(["[1, 2"] * 35), "", DATA, ("row 0 of the table is no list of numbers",)),
    (pa.array(["[1, NaN]"] * 33 + [None, "[1, x]"]), "", DATA, ("row 34 of the table is no list", "('[1, x]')")),
    (pa.array(["[1, 2]"] * 34 + ["[true, 2]"]), "", DATA, ("row 34 of the table is no list", "('[true, 2]')")),
    (pa.array(["[1, 2]"] * 34 + ["[[1], 2]"]), "", DATA, ("row 34 of the table is no list", "('[[1], 2]')")),
    (pa.array(["[1, 2]"] * 34 + ["[" * 100_000]), "", DATA, ("row 34 of the table is no list", "('[[[[")),
    (pa.array(["[1, 2]"] * 34 + ["[1]"]), "", DATA, ("vectors of different lengths: 2 before, 1 in row 34",)),
    (pa.array([b"1234"] * 35), "", DATA, ("column `embedding` is binary; say what its bytes are", "bytes_of")),
    (pa.array([b"12345"] * 35), 'bytes_of = "float32"\n', DATA, ("5 bytes are no whole number of float32s",)),
    (pa.array([b"1234"] * 35), 'bytes_of = "int4"\n', USAGE, ("embeddings.text.bytes_of",)),
    (pa.array(np.arange(35)), "", DATA, ("column `embedding` is int64; vectors must be lists", 'embedding = "d*"')),
    (pa.array([True] * 35), "", DATA, ("column `embedding` is bool; vectors must be lists",)),
    (spark(indices=[8]), "", DATA, ("a sparse vector has indices that do not fit its size",)),
    (spark(indices=[-1]), "", DATA, ("a sparse vector has indices that do not fit its size",)),
    (spark(indices=[]), "", DATA, ("a sparse vector has indices that do not fit its size",)),
    (spark(indices=None), "", DATA, ("a sparse vector has indices that do not fit its size",)),
    (spark(size=2**31 - 1), "", DATA, ("a sparse vector has an impossible size",)),
    (spark(size=-4), "", DATA, ("a sparse vector has an impossible size",)),
    (spark(size=9), "", DATA, ("vectors of different lengths: 8 before, 9 in row 34",)),
]


@pytest.mark.parametrize(("column", "keys", "code", "parts"), WRONG)
def test_what_is_no_vector_is_refused(
    world: World, column: pa.Array, keys: str, code: int, parts: tuple[str, ...]
) -> None:
    world.write("text", {"item_id": np.arange(35), "embedding": column})
    refused(world, world.spec(f"{table(keys)}[[aggregate]]\n"), code, *parts)


def test_a_pattern_that_matches_nothing_or_text_is_refused(world: World) -> None:
    world.write("text", {"item_id": np.arange(35), "d1": np.ones(35), "d2": ["x"] * 35})
    spec = world.spec(table('columns.embedding = "v*"\n') + "[[aggregate]]\n")
    refused(
        world, spec, DATA, "embeddings text: no column matches the pattern", "set embeddings.text.columns.embedding"
    )
    spec = world.spec(table('columns.embedding = "d*"\n') + "[[aggregate]]\n")
    refused(world, spec, DATA, "text.parquet: column `d2` is string; a dimension of vectors must be a number")


def test_one_missing_dimension_is_a_bad_vector(world: World) -> None:
    columns = as_dimensions(rows_of(world))
    columns["d5"] = pa.array([None if place == 7 else 1.0 for place in range(35)])
    world.write("text", {"item_id": np.arange(35), **columns})
    keys = 'columns.embedding = "d[0-9]*"\n'
    refused(
        world, world.spec(f"{table(keys)}[[aggregate]]\n"), DATA, "vectors are zero or not finite", "item_id 3, 7, 20"
    )
    run_spec(world.spec(f'{table(keys)}bad_vectors = "missing"\n[[aggregate]]\n'))


@pytest.mark.parametrize("bad", ["NaN", "Infinity", "-Infinity", "1e400", "1" + "0" * 5000, "null"])
@pytest.mark.few(2)
def test_numbers_that_are_not_finite_in_text_are_a_bad_vector(world: World, bad: str) -> None:
    texts = as_text(rows_of(world))["embedding"].to_pylist()
    texts[7] = f"[{', '.join([bad] * 8)}]"
    world.write("text", {"item_id": np.arange(35), "embedding": pa.array(texts)})
    refused(
        world, world.spec(f"{table('')}[[aggregate]]\n"), DATA, "1 of 35 vectors are zero or not finite (item_id 7)"
    )
    features = run_spec(world.spec(f'{table("")}bad_vectors = "missing"\n[[aggregate]]\n'))
    texts[7] = None
    world.write("text", {"item_id": np.arange(35), "embedding": pa.array(texts)})
    assert run_spec(world.spec(f"{table('')}[[aggregate]]\n")).equals(features, null_equal=True)


def test_polars_arrays_and_struct_free_lists_are_read(world: World) -> None:
    expected = run_spec(world.spec()).select(FEATURES)
    frame = pl.from_arrow(world.table("text"))
    assert isinstance(frame, pl.DataFrame)
    frame.write_parquet(world.folder / "text.parquet")
    assert run_spec(world.spec()).select(FEATURES).equals(expected, null_equal=True)
