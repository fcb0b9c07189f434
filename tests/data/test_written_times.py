"""Times as people have them: ISO 8601 text, text of other formats, floats; each input may write its own."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import World, extembed, run_spec, soak
from helpers.refusals import DATA, USAGE, refused, replace

from extembed_cli.data.columns.times import times_us
from extembed_cli.spec.tables import TimeColumn

FEATURES = ["all__count", "all__age_last_s", "text__all__cos_mean__hl30d"]
DAY = datetime(2024, 2, 29, tzinfo=UTC)
TEXTS = {
    "2024-02-29": DAY,
    "2024-02-29T06:07:08": DAY + timedelta(hours=6, minutes=7, seconds=8),
    "2024-02-29 06:07:08": DAY + timedelta(hours=6, minutes=7, seconds=8),
    "2024-02-29T06:07": DAY + timedelta(hours=6, minutes=7),
    "2024-02-29T06": DAY + timedelta(hours=6),
    "2024-02-29T06:07:08.5": DAY + timedelta(hours=6, minutes=7, seconds=8.5),
    "2024-02-29T06:07:08,123456789": DAY + timedelta(hours=6, minutes=7, seconds=8, microseconds=123456),
    "2024-02-29T06:07:08Z": DAY + timedelta(hours=6, minutes=7, seconds=8),
    "2024-02-29t06:07:08z": DAY + timedelta(hours=6, minutes=7, seconds=8),
    "2024-02-29 06:07:08 UTC": DAY + timedelta(hours=6, minutes=7, seconds=8),
    "2024-02-29T06:07:08+02:00": DAY + timedelta(hours=4, minutes=7, seconds=8),
    "2024-02-29T06:07:08+0530": DAY + timedelta(hours=0, minutes=37, seconds=8),
    "2024-02-29 06:07:08-08": DAY + timedelta(hours=14, minutes=7, seconds=8),
    "  2024-02-29T00:00  ": DAY,
    "1969-12-31T23:59:59.999999": datetime(1970, 1, 1, tzinfo=UTC) - timedelta(microseconds=1),
}
WRONG = [
    "2024-02-30",
    "2023-02-29",
    "29/02/2024",
    "2024-02-29T24:00",
    "2024-02-29T06:60",
    "20240229",
    "",
    "now",
    "1.5e9",
]


def micros(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def test_iso_text_is_read_with_and_without_a_zone() -> None:
    column = pa.chunked_array([pa.array([*TEXTS, None])])
    assert times_us(column, TimeColumn("t"), "x").to_list() == [*map(micros, TEXTS.values()), None]
    encoded = pa.chunked_array([pa.array([*TEXTS]).dictionary_encode()])
    assert times_us(encoded, TimeColumn("t"), "x").to_list() == [*map(micros, TEXTS.values())]


@pytest.mark.parametrize("text", WRONG)
def test_other_text_is_refused_with_examples(world: World, text: str) -> None:
    times = [t.isoformat() for t in world.table("candidates")["timestamp"].to_pylist()]
    replace(world, "candidates", "timestamp", pa.array([*times[:-2], text, text]))
    parts = (
        "candidates.parquet: column `timestamp`: 2 values (",
        repr(text),
        "cannot be read as an ISO 8601 time",
        "Set time_format",
    )
    refused(world, world.spec(), DATA, *parts)


def iso(t: datetime) -> str:
    return t.isoformat()


def with_zone(t: datetime) -> str:
    return (t.replace(tzinfo=UTC)).isoformat()


def german(t: datetime) -> str:
    return t.strftime("%d.%m.%Y %H:%M:%S")


@pytest.mark.parametrize(
    ("write", "top"), [(iso, ""), (with_zone, ""), (german, 'time_format = "%d.%m.%Y %H:%M:%S"\n')]
)
def test_features_are_those_of_timestamps(world: World, write: Callable[[datetime], str], top: str) -> None:
    expected = run_spec(world.spec()).select(FEATURES)
    for name in ("interactions", "candidates"):
        replace(world, name, "timestamp", pa.array([write(t) for t in world.table(name)["timestamp"].to_pylist()]))
    assert run_spec(world.spec(top)).select(FEATURES).equals(expected, null_equal=True)


def test_a_format_without_a_time_of_day(world: World) -> None:
    days = [t.replace(hour=0, minute=0, second=0) for t in world.table("interactions")["timestamp"].to_pylist()]
    replace(world, "interactions", "timestamp", pa.array(days, pa.timestamp("us")))
    expected = run_spec(world.spec()).select(FEATURES)
    replace(world, "interactions", "timestamp", pa.array([t.strftime("%Y/%m/%d") for t in days]))
    spec = world.spec('[columns.interactions]\ntime_format = "%Y/%m/%d"\n')
    assert run_spec(spec).select(FEATURES).equals(expected, null_equal=True)


@pytest.mark.parametrize(("unit", "divisor"), [("s", 1e6), soak("ms", 1e3), soak("us", 1.0), ("ns", 1e-3)])
@pytest.mark.parametrize("kind", ["float64", "decimal"])
def test_numbers_with_a_fraction(world: World, unit: str, divisor: float, kind: str) -> None:
    expected = run_spec(world.spec()).select(FEATURES)
    for name in ("interactions", "candidates"):
        counts = world.table(name)["timestamp"].cast(pa.int64()).to_numpy() / divisor
        column = pa.array(counts)
        replace(world, name, "timestamp", column.cast(pa.decimal128(28, 6)) if kind == "decimal" else column)
    assert run_spec(world.spec(f'time_unit = "{unit}"\n')).select(FEATURES).equals(expected, null_equal=True)


def test_nan_is_null_and_a_unit_is_needed(world: World) -> None:
    counts = world.table("interactions")["timestamp"].cast(pa.int64()).to_numpy() / 1e6
    counts[:7] = np.nan
    replace(world, "interactions", "timestamp", counts)
    refused(world, world.spec(), DATA, "column `timestamp` is double; say what it counts", "--time-unit")
    spec = world.spec('[columns.interactions]\ntime_unit = "s"\n')
    run_spec(spec)
    import json

    report = json.loads((world.folder / "out.parquet.run.json").read_text())
    assert report["inputs"]["interactions"]["dropped"] == {"null time": 7}


@pytest.mark.parametrize("form", ["%Q", "%d.%m", "nothing"])
def test_a_wrong_format_is_refused(world: World, form: str) -> None:
    texts = [t.isoformat() for t in world.table("candidates")["timestamp"].to_pylist()]
    replace(world, "candidates", "timestamp", pa.array(texts))
    path = world.spec(f'time_format = "{form}"\n')
    from extembed_cli.errors import ExtembedError

    with pytest.raises(ExtembedError) as caught:
        run_spec(path)
    assert caught.value.exit_code in {DATA, USAGE}
    assert "time_format" in str(caught.value)


@pytest.mark.parametrize(
    ("form", "texts"),
    [
        ("%Y-%m-%d %H:%M:%S.%f", ["2024-02-29 06:07:08.5", "2024-02-29 06:07:08.500000"]),
        ("%Y-%m-%d %H:%M:%S.%f%z", ["2024-02-29 07:07:08.5+0100"]),
        ("%d.%m.%Y %H:%M:%S,%f", ["29.02.2024 06:07:08,500000"]),
    ],
)
def test_a_fraction_of_a_second(form: str, texts: list[str]) -> None:
    """As in Python; polars would read `%f` as nanoseconds, with a warning."""
    moment = DAY + timedelta(hours=6, minutes=7, seconds=8.5)
    assert times_us(pa.chunked_array([texts]), TimeColumn("t", format=form), "x").to_list() == [micros(moment)] * len(
        texts
    )


@pytest.mark.parametrize("key", ["time_format", "columns.interactions.time_format", "columns.candidates.time_format"])
@pytest.mark.parametrize(
    ("form", "part"),
    [
        ("%Y-%m-%d %H:%M %Z", "has %Z, the name of a zone, which would be ignored; write the offset, and %z for it"),
        ("%H:%M", "has no year"),
        ("%d.%m. %H:%M %%Y", "has no year"),
    ],
)
def test_a_format_that_loses_the_time_is_refused(world: World, key: str, form: str, part: str) -> None:
    done = extembed("run", world.spec(), "--set", f"{key}={form}")
    done.failed(USAGE, f"{key}: {form!r} {part}")


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("0000-01-01", ""),
        ("0001-01-01T00:00:00+14:00", ""),
        ("9999-12-31T23:59:59-14:00", ""),
        ("0000/01/01", "%Y/%m/%d"),
        ("+10000/01/01", "%Y/%m/%d"),
    ],
)
def test_text_outside_the_years_1_to_9999_is_refused(world: World, text: str, form: str) -> None:
    times = [t.strftime(form or "%Y-%m-%dT%H:%M") for t in world.table("candidates")["timestamp"].to_pylist()]
    replace(world, "candidates", "timestamp", pa.array([*times[:-1], text]))
    top = f'[columns.candidates]\ntime_format = "{form}"\n' if form else ""
    refused(world, world.spec(top), DATA, f"1 value ({text!r}) cannot be used: times must be in the years 1 to 9999")


# --- ids -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [pa.float64(), soak(pa.float32()), pa.decimal128(20, 0), soak(pa.decimal256(50, 0))])
@pytest.mark.parametrize("name", ["interactions", "candidates", "text"])
@pytest.mark.few(3)
def test_integers_that_were_written_as_floats_or_decimals(world: World, kind: pa.DataType, name: str) -> None:
    expected = run_spec(world.spec()).select(FEATURES)
    replace(world, name, "item_id", world.table(name)["item_id"].cast(kind))
    extembed("run", world.spec()).ok()
    output = pq.read_table(world.folder / "out.parquet", columns=FEATURES)  # polars has no decimals of 256 bits
    assert output.equals(expected.to_arrow().cast(output.schema))


def test_nan_is_a_missing_id(world: World) -> None:
    ids = world.table("interactions")["item_id"].to_numpy().astype(float)
    ids[:5] = np.nan
    replace(world, "interactions", "item_id", ids)
    run_spec(world.spec())
    replace(world, "interactions", "item_id", pa.array([None if np.isnan(i) else int(i) for i in ids], pa.int64()))
    before = world.output()
    assert run_spec(world.spec()).equals(before, null_equal=True)


@pytest.mark.parametrize("bad", [1.5, 2.0**53 + 2, np.inf, -1e300])
@pytest.mark.parametrize("name", ["interactions", "candidates", "text"])
def test_floats_that_are_no_integers_are_refused_with_the_value(world: World, bad: float, name: str) -> None:
    ids = world.table(name)["item_id"].to_numpy().astype(float)
    ids[3] = bad
    replace(world, name, "item_id", ids)
    parts = (f"{name}.parquet: column `item_id`: 1 id ", str(bad), "astype('Int64')")
    refused(world, world.spec(), DATA, *parts)


def test_user_vectors_of_float_ids_are_integers(world: World) -> None:
    replace(world, "interactions", "user_id", world.table("interactions")["user_id"].cast(pa.float64()))
    run_spec(world.spec('[[dual]]\nuser_vectors = "users.parquet"\n'))
    assert world.table("users").schema.field("user_id").type == pa.int64()
