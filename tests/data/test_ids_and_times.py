"""Ids and times of every Parquet type give the same features as the plain types."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import World, extembed, small_world, soak, timestamps
from polars.testing import assert_frame_equal

from extembed_cli.jobs.options import RunOptions
from extembed_cli.jobs.run import run_job
from extembed_cli.spec.loading import load_spec
from extembed_cli.system.progress import Watch

INPUTS = ("interactions", "candidates", "text")
# With `newest` the order of events within one second matters.
GROUPS = """
[histories.liked]
where = "rating >= 4"
[histories.newest]
max_events = 5
[[aggregate]]
histories = ["all", "liked", "newest"]
half_lives = ["7d", "none"]
percentiles = [50]
thresholds = [0.2]
"""
DAY = 86_400_000_000


def run(world: World, text: str = "") -> pl.DataFrame:
    """Run a spec and return only the features: polars cannot read every type that candidates may have."""
    run_job(load_spec(world.spec(text + GROUPS)), RunOptions(workers=2), Watch())
    output = pq.ParquetFile(world.folder / "out.parquet")
    features = pl.from_arrow(output.read([name for name in output.schema_arrow.names if "__" in name]))
    assert isinstance(features, pl.DataFrame)
    return features


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    """Provides the features of the plain types."""
    return run(small_world(tmp_path_factory.mktemp("plain")))


def replace(world: World, name: str, **columns: Any) -> None:
    table = world.table(name)
    for column, values in columns.items():
        table = table.set_column(table.schema.get_field_index(column), column, values)
    world.write(name, table, row_group_size=100)


def same(features: pl.DataFrame, expected: pl.DataFrame) -> None:
    assert expected["text__all__vector_count"].max() > 5  # the features are not all null
    assert_frame_equal(features, expected, check_exact=True)


# --- ids ---------------------------------------------------------------------------------------------


def integers(kind: pa.DataType, start: int = 0) -> Callable[[list[int]], pa.Array]:
    return lambda nums: pa.array([start + n for n in nums], kind)


def strings(kind: pa.DataType) -> Callable[[list[int]], pa.Array]:
    return lambda nums: pa.array([f"item-{n:03d} é" for n in nums], kind)


def binary(kind: pa.DataType) -> Callable[[list[int]], pa.Array]:
    return lambda nums: pa.array([uuid.UUID(int=n * 2**100 + n).bytes for n in nums], kind)


def uuids(nums: list[int]) -> pa.Array:
    return pa.ExtensionArray.from_storage(pa.uuid(), binary(pa.binary(16))(nums))


def dictionary(plain: Callable[[list[int]], pa.Array], index: pa.DataType) -> Callable[[list[int]], pa.Array]:
    """Return a dictionary encoding with unsorted and unused entries."""
    return lambda nums: pa.DictionaryArray.from_arrays(
        pa.array([99 - n for n in nums], index), plain(list(range(99, -1, -1)))
    )


def categorical(nums: list[int]) -> pa.Array:
    return pl.Series([f"item-{n:03d} é" for n in nums], dtype=pl.Categorical).to_arrow()


WIDTHS = (8, 16, 32, 64)
IDS: dict[str, Callable[[list[int]], pa.Array]] = {
    **{f"{sign}{bits}": integers(getattr(pa, f"{sign}{bits}")()) for sign in ("int", "uint") for bits in WIDTHS},
    "negative": integers(pa.int8(), -50),
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
    "dictionary_string": dictionary(strings(pa.string()), pa.int8()),
    "dictionary_large_string": dictionary(strings(pa.large_string()), pa.int32()),
    "dictionary_int": dictionary(integers(pa.int16()), pa.int16()),
    "dictionary_uint64": dictionary(integers(pa.uint64(), 2**64 - 100), pa.int32()),
    "dictionary_binary": dictionary(binary(pa.binary()), pa.int32()),
    "categorical": categorical,
}  # fmt: skip
OFTEN = {"int8", "uint64", "negative", "across_2_63", "string", "binary", "uuid", "dictionary_string", "categorical"}


@pytest.mark.parametrize(
    "kinds",
    [
        *([kind] * 3 if kind in OFTEN else soak([kind] * 3) for kind in IDS),
        ["int8", "int64", "uint16"],
        ["uint64", "int32", "dictionary_int"],
        ["dictionary_int", "uint8", "int64"],
        ["string", "large_string", "dictionary_string"],
        ["categorical", "string", "string_view"],
        ["dictionary_large_string", "dictionary_string", "large_string"],
        ["binary", "uuid", "fixed_16"],
        ["uuid", "binary_view", "dictionary_binary"],
        ["above_2_63", "dictionary_uint64", "above_2_63"],
    ],
    ids="-".join,
)
@pytest.mark.few(7)
def test_ids_of_any_type_match(world: World, kinds: list[str], expected: pl.DataFrame) -> None:
    for name, kind in zip(INPUTS, kinds, strict=True):
        columns = ["item_id"] if name == "text" else ["user_id", "item_id"]
        replace(world, name, **{c: IDS[kind](world.table(name)[c].to_pylist()) for c in columns})
    same(run(world), expected)


def test_large_unsigned_ids_in_one_file_only(world: World) -> None:
    """One file has ids above 2^63; the other ids of it match files with narrower types."""
    text = world.table("text").slice(0, 20)
    world.write("text", text)
    expected = run(world)
    for name in INPUTS[:2]:
        items = world.table(name)["item_id"].to_pylist()
        replace(world, name, item_id=pa.array([n if n < 20 else 2**63 + n for n in items], pa.uint64()))
    replace(world, "text", item_id=text["item_id"].cast(pa.int8()))
    same(run(world), expected)


@pytest.mark.parametrize("name", INPUTS)
def test_files_of_one_input_may_differ_in_their_id_type(world: World, name: str, expected: pl.DataFrame) -> None:
    table = world.table(name)
    table = table.set_column(table.schema.get_field_index("item_id"), "item_id", table["item_id"].cast(pa.int16()))
    world.write(f"{name}-0", table.slice(0, 20))
    wide = IDS["dictionary_int"](table["item_id"].to_pylist())
    world.write(f"{name}-1", table.set_column(table.schema.get_field_index("item_id"), "item_id", wide).slice(20, 5))
    world.write(
        f"{name}-2",
        table.set_column(table.schema.get_field_index("item_id"), "item_id", wide.cast(pa.uint64())).slice(25),
    )
    paths = {n: f"{n}.parquet" for n in INPUTS} | {name: f"{name}-*.parquet"}
    text = f'interactions = "{paths["interactions"]}"\ncandidates = "{paths["candidates"]}"\noutput = "out.parquet"\n'
    same(run(world, f'{text}[embeddings.text]\npath = "{paths["text"]}"\n'), expected)


# --- times -------------------------------------------------------------------------------------------


def micros(world: World, name: str) -> np.ndarray:
    return world.table(name)["timestamp"].cast(pa.int64()).to_numpy()


def whole_days(world: World) -> None:
    """Move all times to midnight."""
    for name in INPUTS[:2]:
        replace(world, name, timestamp=timestamps(micros(world, name) // DAY * DAY))


def counts(micros: np.ndarray, unit: str, kind: pa.DataType) -> pa.Array:
    return timestamps(micros, unit).cast(pa.int64()).cast(kind)


TIMES: dict[str, Callable[[np.ndarray], pa.Array]] = {
    **{unit: lambda m, u=unit: timestamps(m, u) for unit in ("s", "ms", "us", "ns")},
    **{f"{unit}_utc": lambda m, u=unit: timestamps(m, u, "UTC") for unit in ("s", "ms", "us", "ns")},
    "ms_berlin": lambda m: timestamps(m, "ms", "Europe/Berlin"),
    "ns_kolkata": lambda m: timestamps(m, "ns", "Asia/Kolkata"),
    "us_offset": lambda m: timestamps(m, "us", "-03:30"),
    "date32": lambda m: timestamps(m).cast(pa.date32()),
    "date64": lambda m: timestamps(m, "ms").cast(pa.date64()),
}


@pytest.mark.parametrize(
    "kinds",
    [[kind] * 2 for kind in TIMES if "date" not in kind]
    + [["s", "ns_utc"], ["ms_berlin", "us"], ["us_utc", "ns_kolkata"], ["us_offset", "s_utc"]],
    ids="-".join,
)
@pytest.mark.few(6)
def test_times_of_any_unit_and_zone_are_instants(world: World, kinds: list[str], expected: pl.DataFrame) -> None:
    for name, kind in zip(INPUTS, kinds, strict=False):
        replace(world, name, timestamp=TIMES[kind](micros(world, name)))
    same(run(world), expected)


@pytest.mark.parametrize(
    "kinds", [["date32", "date32"], ["date64", "date64"], ["date32", "us"], ["s_utc", "date64"]], ids="-".join
)
def test_dates_are_midnights_utc(world: World, kinds: list[str]) -> None:
    whole_days(world)
    expected = run(world)
    for name, kind in zip(INPUTS, kinds, strict=False):
        replace(world, name, timestamp=TIMES[kind](micros(world, name)))
    same(run(world), expected)


DAYS: dict[str, Callable[[np.ndarray], pa.Array]] = {
    "date32": TIMES["date32"],
    "midnights": TIMES["us"],
    "text": lambda micros: pa.array([str(day) for day in micros.astype("datetime64[us]").astype("datetime64[D]")]),
}


@pytest.mark.parametrize("kind", DAYS)
def test_days_without_a_time_of_day_warn(world: World, kind: str) -> None:
    warning = "column `timestamp` has dates without a time of day"
    assert warning not in extembed("check", world.spec()).ok().err
    whole_days(world)
    replace(world, "interactions", timestamp=DAYS[kind](micros(world, "interactions")))
    assert warning in extembed("check", world.spec()).ok().err
    assert warning not in extembed("check", world.spec('lag = "1d"\n')).ok().err


@pytest.mark.parametrize(
    ("unit", "kind"),
    [
        ("s", pa.int32()),
        ("s", pa.uint32()),
        ("s", pa.int64()),
        ("ms", pa.int64()),
        ("us", pa.uint64()),
        ("ns", pa.int64()),
    ],
    ids=str,
)
@pytest.mark.few(3)
def test_integer_times_count_in_time_unit(world: World, unit: str, kind: pa.DataType, expected: pl.DataFrame) -> None:
    for name in INPUTS[:2]:
        replace(world, name, timestamp=counts(micros(world, name), unit, kind))
    same(run(world, f'time_unit = "{unit}"\n'), expected)


@pytest.mark.parametrize("counted", INPUTS[:2])
def test_integer_times_beside_timestamps_of_another_unit(world: World, counted: str, expected: pl.DataFrame) -> None:
    """`time_unit` is the unit of integers and does not change timestamps."""
    for name in INPUTS[:2]:
        times = micros(world, name)
        replace(world, name, timestamp=counts(times, "s", pa.int64()) if name == counted else timestamps(times, "ns"))
    same(run(world, 'time_unit = "s"\n'), expected)


@pytest.mark.parametrize("kinds", [["s", "ns", "ms"], ["ms_berlin", "us_utc", "ns"]], ids="-".join)
def test_files_of_the_log_may_differ_in_their_time_type(world: World, kinds: list[str], expected: pl.DataFrame) -> None:
    table = world.table("interactions")
    for number, kind in enumerate(kinds):
        replace(world, "interactions", timestamp=TIMES[kind](table["timestamp"].cast(pa.int64()).to_numpy()))
        world.write(f"log/{number}", world.table("interactions").slice(number * 200, 200))
    text = 'interactions = "log"\ncandidates = "candidates.parquet"\noutput = "out.parquet"\n'
    same(run(world, f'{text}[embeddings.text]\npath = "text.parquet"\n'), expected)


def test_files_of_the_candidates_may_differ_in_their_unit(world: World, expected: pl.DataFrame) -> None:
    table = world.table("candidates")
    for number, kind in enumerate(["s", "ns", "us"]):
        replace(world, "candidates", timestamp=TIMES[kind](table["timestamp"].cast(pa.int64()).to_numpy()))
        world.write(f"files/{number}", world.table("candidates").slice(number * 100, 100))
    text = 'interactions = "interactions.parquet"\ncandidates = "files"\noutput = "out.parquet"\n'
    same(run(world, f'{text}[embeddings.text]\npath = "text.parquet"\n'), expected)
    assert world.output()["timestamp"].to_list() == pl.from_arrow(table)["timestamp"].to_list()


@pytest.mark.parametrize("kind", ["date32", "date64"])
def test_dates_in_the_log_warn_without_a_lag(world: World, kind: str) -> None:
    whole_days(world)
    replace(world, "interactions", timestamp=TIMES[kind](micros(world, "interactions")))
    warned = extembed("run", world.spec()).ok()
    assert 'lag = "1d"' in warned.err
    watch = Watch()
    run_job(load_spec(world.spec('lag = "1d"\n')), RunOptions(workers=1), watch)
    assert watch.warnings == []
