"""User ids in the file of user vectors have the type that they have in the log."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from conftest import World, run_spec, soak_except, timestamps
from helpers.user_vectors import compute_user_vectors, matrix, run, vectors_only_spec

pytestmark = pytest.mark.usefixtures("engine")


def integers(kind: pa.DataType, start: int = 0) -> Callable[[Sequence[int]], pa.Array]:
    return lambda nums: pa.array([start + n for n in nums], kind)


def strings(kind: pa.DataType) -> Callable[[Sequence[int]], pa.Array]:
    return lambda nums: pa.array([f"user-{n:03d} é" for n in nums], kind)


def binary(kind: pa.DataType) -> Callable[[Sequence[int]], pa.Array]:
    return lambda nums: pa.array([uuid.UUID(int=n * 2**100 + n).bytes for n in nums], kind)


def uuids(nums: Sequence[int]) -> pa.Array:
    return pa.ExtensionArray.from_storage(pa.uuid(), binary(pa.binary(16))(nums))


def dictionary(plain: Callable[[Sequence[int]], pa.Array]) -> Callable[[Sequence[int]], pa.Array]:
    """Return a dictionary encoding with unsorted and unused entries."""
    return lambda nums: pa.DictionaryArray.from_arrays(
        pa.array([99 - n for n in nums], pa.int8()), plain(range(99, -1, -1))
    )


IDS: dict[str, Callable[[Sequence[int]], pa.Array]] = {
    "int8": integers(pa.int8(), -12),
    "int32": integers(pa.int32()),
    "uint16": integers(pa.uint16()),
    "uint64": integers(pa.uint64()),
    "above_2_63": integers(pa.uint64(), 2**64 - 100),
    "across_2_63": integers(pa.uint64(), 2**63 - 15),
    "string": strings(pa.string()),
    "large_string": strings(pa.large_string()),
    "string_view": strings(pa.string_view()),
    "binary": binary(pa.binary()),
    "large_binary": binary(pa.large_binary()),
    "binary_view": binary(pa.binary_view()),
    "fixed_16": binary(pa.binary(16)),
    "uuid": uuids,
    "dictionary_string": dictionary(strings(pa.string())),
    "dictionary_int": dictionary(integers(pa.int16())),
    "dictionary_uint64": dictionary(integers(pa.uint64(), 2**64 - 100)),
    "dictionary_binary": dictionary(binary(pa.binary(16))),
}
OFTEN = {"across_2_63", "string", "uuid"}


def with_users(world: World, column: pa.Array, name: str = "interactions") -> None:
    world.write(name, world.table(name).set_column(0, "user_id", column))


@pytest.mark.parametrize("kind", soak_except(OFTEN, IDS))
def test_ids_keep_the_type_of_the_log(world: World, kind: str) -> None:
    plain = compute_user_vectors(world)
    nums = world.table("interactions")["user_id"].to_pylist()
    column = IDS[kind](nums)
    with_users(world, column)
    stored = world.table("interactions").schema.field("user_id").type
    users = compute_user_vectors(world)
    assert users.schema.field("user_id").type == (stored.value_type if pa.types.is_dictionary(stored) else stored)
    as_made = IDS[kind](range(30))
    assert users["user_id"].to_pylist() == as_made.to_pylist()  # all these types sort as the nums do
    assert matrix(users).tolist() == matrix(plain).tolist()


@pytest.mark.parametrize(
    "kind", ["int32", "above_2_63", "string", "large_string", "dictionary_string", "binary", "fixed_16"]
)
def test_ids_join_with_the_log(world: World, kind: str) -> None:
    with_users(world, IDS[kind](world.table("interactions")["user_id"].to_pylist()))
    compute_user_vectors(world)
    log, users = (pl.read_parquet(world.folder / f"{name}.parquet") for name in ("interactions", "users"))
    assert len(log.with_columns(pl.col("user_id").cast(users["user_id"].dtype)).join(users, on="user_id")) == 600
    if kind != "dictionary_string":
        assert len(log.join(users, on="user_id")) == 600


@pytest.mark.parametrize(
    ("kinds", "stored"),
    [
        (("int32", "int32"), pa.int32()),
        (("int32", "uint64"), pa.int64()),
        (("uint64", "above_2_63"), pa.uint64()),
        (("int32", "above_2_63"), pa.uint64()),
        (("string", "large_string"), pa.large_string()),
        (("dictionary_string", "string"), pa.large_string()),
        (("binary", "fixed_16"), pa.large_binary()),
    ],
)
@pytest.mark.few(3)
def test_ids_of_files_of_two_types(world: World, kinds: tuple[str, str], stored: pa.DataType) -> None:
    plain = compute_user_vectors(world)
    table = world.table("interactions")
    nums = np.array(table["user_id"].to_pylist())
    for n, kind in enumerate(kinds):
        chosen = np.flatnonzero(nums % 2 == n)
        part = table.take(chosen)
        world.write(f"log/{n}", part.set_column(0, "user_id", IDS[kind](nums[chosen].tolist())))
    run(_of_log(world))
    users = world.table("users")
    assert users.schema.field("user_id").type == stored
    assert sorted(map(str, users["user_id"].to_pylist())) == sorted(
        str(v) for n, kind in enumerate(kinds) for v in IDS[kind](range(n, 30, 2)).to_pylist()
    )
    assert sorted(matrix(users).tolist()) == sorted(matrix(plain).tolist())


def _of_log(world: World) -> Path:
    spec = vectors_only_spec(world)
    spec.write_text(spec.read_text().replace("interactions.parquet", "log"))
    return spec


def test_negative_ids_beside_some_above_2_63(world: World) -> None:
    """No Arrow integer type holds both, but each file has its own type."""
    world.write("log/0", {"user_id": pa.array([-1, 5]), "item_id": [1, 2], "timestamp": timestamps([1, 2])})
    far = pa.array([2**64 - 1], pa.uint64())
    world.write("log/1", {"user_id": far, "item_id": [3], "timestamp": timestamps([3])})
    run(_of_log(world))
    assert [int(user) for user in world.table("users")["user_id"].to_pylist()] == [-1, 5, 2**64 - 1]


def test_candidates_of_a_wider_type_do_not_change_that_of_the_log(world: World) -> None:
    """The log has negative ids. The candidates have unsigned ids that do not fit into the type of the log."""
    nums = world.table("interactions")["user_id"].to_pylist()
    with_users(world, pa.array([n - 10 for n in nums], pa.int32()))
    with_users(
        world,
        pa.array([2**64 - 1 - n for n in world.table("candidates")["user_id"].to_pylist()], pa.uint64()),
        "candidates",
    )
    run_spec(world.spec('[require]\nallow_empty = true\n[[dual]]\nuser_vectors = "users.parquet"\n'))
    users = world.table("users")
    assert users.schema.field("user_id").type == pa.int32()
    assert users["user_id"].to_pylist() == list(range(-10, 20))


def test_a_log_without_any_user(world: World) -> None:
    """The user column has nulls only, and the null type."""
    with_users(world, pa.nulls(600))
    assert compute_user_vectors(world, top="require.allow_empty = true\n").num_rows == 0
