"""Values at the edge of their type end with features or with a message, never with a bug."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from conftest import World, extembed, soak, vectors

EXPECTED = {0, 1, 2, 3}
LEAST, MOST = np.iinfo(np.int64).min, np.iinfo(np.int64).max
LOG = ("interactions", "candidates")
SPEC = """[[aggregate]]
target = "rating"
residual = "item"
[[counters]]
name = "audience"
side = "item"
[[dual]]
unobserved_weight = 0.1
sd = true
"""


def ended(world: World, *settings: str) -> int:
    """Run a world; check that no bug ended it, and return the exit code."""
    path = world.folder / "spec.toml"
    done = extembed("run", path, "--allow-empty", "--workers", "1", *(p for each in settings for p in ("--set", each)))
    assert done.code in EXPECTED, f"exit {done.code}: {done.err}"
    assert "Traceback" not in done.err
    return done.code


def with_values(world: World, tables: tuple[str, ...], name: str, values: Callable[[int], Any]) -> None:
    """Write tables with other values in a column, by row."""
    for table in tables:
        stored = world.table(table)
        column = values(len(stored))
        world.write(table, stored.set_column(stored.column_names.index(name), name, column))


def repeated(*values: Any, kind: pa.DataType | None = None) -> Callable[[int], pa.Array]:
    return lambda rows: pa.array([values[row % len(values)] for row in range(rows)], kind)


ODD_IDS = {
    "nan": repeated(1.0, float("nan"), float("inf"), 2.0),
    "infinite": repeated(float("-inf")),
    "all nan": repeated(float("nan")),
    "extreme": repeated(LEAST, MOST, 0, -1),
    "unsigned": repeated(2**64 - 1, 0, 2**63, kind=pa.uint64()),
    "decimal": repeated(10**75, -(10**75), kind=pa.decimal256(76, 0)),
    "controls": repeated("\x00", "\x1b[2J", "\n", "\r\n", "\u2028", "\u202e", "a\tb"),
    "empty": repeated("", " ", None),
    "long": repeated("x" * 100_000, "y"),
    "emoji": repeated("😀", "e\u0301", "é", "\U0010ffff", "\ufeff"),
    "no UTF-8": lambda rows: pa.array([b"\xff\xfe\xed\xa0\x80"] * rows, pa.binary()).view(pa.string()),
    "no bytes": repeated(b"", b"\x00", b"\xff" * 1000),
}


@pytest.mark.parametrize("role", ["user_id", soak("item_id")])
@pytest.mark.parametrize("name", ODD_IDS)
@pytest.mark.few(5)
def test_odd_ids(world: World, role: str, name: str) -> None:
    world.spec(SPEC)
    with_values(world, LOG, role, ODD_IDS[name])
    if role == "item_id":
        world.write("text", {"item_id": ODD_IDS[name](3), "embedding": vectors(np.eye(3))})
    ended(world, 'embeddings.text.duplicates="last"')


ODD_TIMES = {
    "year 1": (repeated(-62_135_596_800, kind=pa.timestamp("s")), ()),
    "year 9999": (repeated(253_402_300_799, kind=pa.timestamp("s")), ()),
    "both ends": (repeated(-62_135_596_800, 253_402_300_799, kind=pa.timestamp("s")), ()),
    **{f"extremes {unit}": (repeated(LEAST, MOST, 0, kind=pa.timestamp(unit)), ()) for unit in ("ms", "us", "ns")},
    "dates": (repeated(-(2**31), 2**31 - 1, kind=pa.date32()), ()),
    "floats": (repeated(float("nan"), float("inf"), 1e300, -1e300), ('time_unit="s"',)),
    "nan": (repeated(float("nan"), 1.0), ('time_unit="ns"',)),
    "decimals": (repeated(10**70, kind=pa.decimal256(76, 0)), ('time_unit="s"',)),
    "numbers": (repeated(LEAST, MOST), ('time_unit="ns"',)),
    "unsigned": (repeated(2**64 - 1, kind=pa.uint64()), ('time_unit="us"',)),
    "text": (repeated("0000-00-00", "9999-12-31T23:59:59.999999999Z", "", "2026-02-30"), ()),
    "before the year 1": (repeated("0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"), ()),
    "format": (repeated("31/12/9999", "01/01/0001", "x"), ('time_format="%d/%m/%Y"',)),
    "odd format": (repeated("31/12/9999"), ('time_format="%"',)),
}
LONG = ('lag="1000d"', 'as_of_step="52000w"', 'histories.all.window="1000d"', 'dual.0.half_life="1s"')


@pytest.mark.parametrize("tables", [LOG, soak(("interactions",)), soak(("candidates",))], ids="-".join)
@pytest.mark.parametrize("name", ODD_TIMES)
@pytest.mark.few(5)
def test_odd_times(world: World, name: str, tables: tuple[str, ...]) -> None:
    world.spec(SPEC)
    values, settings = ODD_TIMES[name]
    with_values(world, tables, "timestamp", values)
    ended(world, *settings, *LONG)


def lists(*rows: list[float]) -> pa.Array:
    return pa.array(list(rows), pa.list_(pa.float32()))


ODD_VECTORS = {
    "of length 0": lists(*[[]] * 35),
    "of one number": lists(*[[1.0]] * 35),
    "of 20,000 numbers": vectors(np.random.default_rng(0).standard_normal((35, 20_000))),
    "of different lengths": lists(*([1.0] * row for row in range(35))),
    "the largest": lists(*[[3.4e38] * 4] * 35),
    "the smallest": lists(*[[1e-45] * 4] * 35),
    "the largest doubles": pa.array([[1.7e308, -1.7e308]] * 35, pa.list_(pa.float64())),
    "nan": lists(*[[float("nan")] * 4] * 35),
    "nulls inside": pa.array([[None, 1.0]] * 35, pa.list_(pa.float32())),
    "huge JSON": pa.array(["[" + "1," * 10_000 + "1]"] * 35),
    "deep JSON": pa.array(["[" * 2000 + "]" * 2000] * 35),
    "numbers of JSON": pa.array(['[1e999, -1e999, 1, "2", true, null]'] * 35),
}


@pytest.mark.parametrize("bad", ["missing", soak("error")])
@pytest.mark.parametrize("name", ODD_VECTORS)
@pytest.mark.few(5)
def test_odd_vectors(world: World, name: str, bad: str) -> None:
    world.spec(SPEC)
    world.write("text", {"item_id": np.arange(35), "embedding": ODD_VECTORS[name]})
    # A Gramian of 20,000 dimensions would take minutes.
    ended(world, f'embeddings.text.bad_vectors="{bad}"', "dual.0.unobserved_weight=0.0")


@pytest.mark.parametrize("rows", [0, soak(1)])
@pytest.mark.parametrize("tables", [("interactions",), ("candidates",), ("text",), (*LOG, "text")], ids="-".join)
def test_few_rows(world: World, tables: tuple[str, ...], rows: int) -> None:
    world.spec(SPEC)
    for table in tables:
        world.write(table, world.table(table).slice(0, rows))
    ended(world, 'within.by="user_id"', 'within.columns=["all__count"]', 'as_of="2024-01-01"')


NAMES = (
    "",
    " ",
    "a\nb",
    "a\x00b",
    "`",
    '"',
    "'",
    "😀",
    "all__count__x",
    "a.b",
    "__",
    "*",
    "[x]",
    "x" * 10_000,
    "\u202e",
)


@pytest.mark.parametrize("table", LOG)
def test_odd_names_of_columns_that_nobody_reads(world: World, table: str) -> None:
    world.spec(SPEC)
    stored = world.table(table)
    for name in NAMES:
        stored = stored.append_column(name, pa.array(np.arange(len(stored))))
    world.write(table, stored)
    assert ended(world) == 0


@pytest.mark.parametrize("name", ["a\x00b", *(soak(name) for name in NAMES)], ids=ascii)
def test_odd_names_of_columns_that_are_read(world: World, name: str) -> None:
    world.spec(SPEC)
    stored = world.table("interactions")
    world.write("interactions", stored.append_column(name, pa.array(np.arange(len(stored)))))
    ended(world, f"weight={_toml(name)}")
    world.write("interactions", stored.rename_columns([name if c == "user_id" else c for c in stored.column_names]))
    ended(world, f"columns.interactions.user={_toml(name)}")


def _toml(text: str) -> str:
    return '"' + "".join(f"\\U{ord(each):08X}" for each in text) + '"'


@pytest.mark.soak
def test_many_columns(world: World) -> None:
    world.spec(SPEC)
    for table in LOG:
        stored = world.table(table)
        for number in range(2000):
            stored = stored.append_column(f"column {number}", pa.nulls(len(stored), pa.float32()))
        world.write(table, stored)
    assert ended(world) == 0


def test_a_huge_list_passes(world: World) -> None:
    world.spec(SPEC)
    stored = world.table("candidates").slice(0, 3)
    lists_ = pa.array([list(range(500_000)), [], None], pa.list_(pa.int32()))
    world.write("candidates", stored.append_column("seen", lists_))
    assert ended(world) == 0
