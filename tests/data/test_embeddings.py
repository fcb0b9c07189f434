"""Vectors of every type, and the options of an embedding table."""

from __future__ import annotations

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from conftest import World, run_spec, soak, vectors
from polars.testing import assert_frame_equal

GROUP = '[[aggregate]]\nhalf_lives = ["7d", "none"]\npercentiles = [50]\nthresholds = [0.2]\n'


def run(world: World, text: str = "") -> pl.DataFrame:
    """Run a spec and return only the features."""
    return run_spec(world.spec(text + GROUP)).select(pl.selectors.contains("__"))


def same(features: pl.DataFrame, expected: pl.DataFrame) -> None:
    assert expected["text__all__vector_count"].max() > 5  # the features are not all null
    assert_frame_equal(features, expected, check_exact=True)


def rows_of(world: World) -> np.ndarray:
    return np.array(world.table("text")["embedding"].to_pylist())


def write_text(world: World, rows: np.ndarray, items: np.ndarray | None = None) -> None:
    """Write the table in its reference form: float32 in fixed-size lists."""
    world.write("text", {"item_id": np.arange(len(rows)) if items is None else items, "embedding": vectors(rows)})


def replace_vectors(world: World, column: pa.Array) -> None:
    world.write("text", {"item_id": np.arange(len(column)), "embedding": column}, row_group_size=10)


@pytest.mark.parametrize("dtype", ["float16", soak("float32"), "float64", "int8"])
@pytest.mark.parametrize("kind", ["fixed", "list", soak("large")])
@pytest.mark.few(3)
def test_vectors_of_any_list_of_any_number(world: World, kind: str, dtype: str) -> None:
    # Scaled so that int8 values are not all zero. The reference has the same numbers as float32.
    rounded = (rows_of(world).astype(np.float64) * 40.1).astype(dtype)
    write_text(world, rounded)
    expected = run(world)
    replace_vectors(world, vectors(rounded, kind, dtype))
    same(run(world), expected)


VECTORS = {
    "fixed": pa.list_(pa.float32(), 8),
    "list": pa.list_(pa.float64()),
    "large": pa.large_list(pa.float32()),
}  # fmt: skip


@pytest.mark.parametrize("kind", VECTORS)
def test_a_null_vector_counts_as_no_vector(world: World, kind: str) -> None:
    rows = rows_of(world)
    is_null = np.isin(np.arange(35), [0, 3, 4, 21, 34])
    write_text(world, rows[~is_null], np.flatnonzero(~is_null))
    expected = run(world)
    values = [None if none else row.tolist() for row, none in zip(rows, is_null, strict=True)]
    replace_vectors(world, pa.array(values, VECTORS[kind]))
    same(run(world), expected)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf"), None, 0.0], ids=str)
@pytest.mark.parametrize("kind", VECTORS)
@pytest.mark.parametrize("center", [soak(False, id="plain"), pytest.param(True, id="center")])
@pytest.mark.few(5)
def test_bad_vectors_can_count_as_missing(world: World, kind: str, bad: float | None, center: bool) -> None:
    table = f'[embeddings.text]\npath = "text.parquet"\ncenter = {str(center).lower()}\n'
    rows = rows_of(world)
    is_bad = np.isin(np.arange(35), [0, 7, 34])
    write_text(world, rows[~is_bad], np.flatnonzero(~is_bad))
    expected = run(world, table)
    values: list[list[float | None]] = rows.tolist()
    for item in np.flatnonzero(is_bad):
        values[item] = [bad] * 8 if bad == 0 else [*values[item][:5], bad, *values[item][6:]]
    replace_vectors(world, pa.array(values, VECTORS[kind]))
    same(run(world, f'{table}bad_vectors = "missing"\n'), expected)


@pytest.mark.parametrize("files", [1, 2])
@pytest.mark.parametrize("center", [False, True], ids=["plain", "center"])
def test_the_last_of_duplicate_items_counts(world: World, files: int, center: bool) -> None:
    table = f'[embeddings.text]\npath = "text*.parquet"\ncenter = {str(center).lower()}\n'
    expected = run(world, table)
    items = np.concatenate([np.arange(20), np.arange(10), np.arange(35)])
    rows = np.concatenate([rows_of(world)[::-1][:30] * 3, rows_of(world)])
    if files == 1:
        write_text(world, rows, items)
    else:
        write_text(world, rows[:30], items[:30])
        world.write("text2", {"item_id": items[30:], "embedding": vectors(rows[30:], "list")})
    same(run(world, f'{table}duplicates = "last"\n'), expected)


def test_centring_subtracts_the_mean_of_the_whole_table(world: World) -> None:
    """Items without events count in the mean; items without a vector do not."""
    rows = np.concatenate([rows_of(world), np.full((30, 8), 2.0), np.full((1, 8), -1.0)])
    centred = rows - rows.mean(axis=0)
    write_text(world, centred[:35])
    expected = run(world)
    values = pa.array([*rows.tolist(), None], VECTORS["fixed"])
    world.write("text", {"item_id": [*range(35), *range(100, 131), 999], "embedding": values})
    features = run(world, '[embeddings.text]\npath = "text.parquet"\ncenter = true\n')
    assert_frame_equal(features, expected, abs_tol=2e-6, rel_tol=0)
    assert not features.equals(run(world))


@pytest.mark.parametrize("center", [False, True], ids=["plain", "center"])
def test_cosines_do_not_depend_on_normalize(world: World, center: bool) -> None:
    write_text(world, rows_of(world) * np.arange(1, 36)[:, None])
    table = f'[embeddings.text]\npath = "text.parquet"\ncenter = {str(center).lower()}\n'
    same(run(world, f"{table}normalize = false\n"), run(world, f"{table}normalize = true\n"))


def test_files_of_one_table_may_differ_in_their_vector_type(world: World) -> None:
    expected = run(world)
    rows = rows_of(world)
    for number, (kind, dtype) in enumerate([("fixed", "float32"), ("list", "float64"), ("large", "float32")]):
        part = slice(number * 12, number * 12 + 12)
        world.write(f"text/{number}", {"item_id": np.arange(35)[part], "embedding": vectors(rows[part], kind, dtype)})
    same(run(world, '[embeddings.text]\npath = "text"\n'), expected)


def test_vectors_may_be_a_tensor_extension(world: World) -> None:
    expected = run(world)
    storage = world.table("text")["embedding"].combine_chunks()
    tensors = pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.float32(), [8]), storage)
    replace_vectors(world, tensors)
    same(run(world), expected)
