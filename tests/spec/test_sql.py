"""Expressions are checked before a parser sees them: nothing but the row itself is read."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
from conftest import World, extembed, run_spec, soak, soak_except
from helpers.refusals import USAGE, refused

from extembed_cli.spec.sql import UnknownColumnError, checked

COLUMNS = ("rating", "x", "end", "date", "Two words", "select", "from", "day")
TABLE_FUNCTIONS = ("read_csv", "read_parquet", "read_ipc", "read_json", "read_ndjson", "scan_csv", "scan_parquet")
READING = [
    *(f"rating in (select a from {function}('{{path}}'))" for function in TABLE_FUNCTIONS),
    *(f"rating > {function}('{{path}}')" for function in TABLE_FUNCTIONS),
    "exists (select 1 from read_csv('{path}'))",
    "rating = any (select a from read_csv('{path}'))",
    "rating in (from read_csv('{path}'))",
    "rating in (table x)",
    "(with t as (select 1) select * from t) > 1",
    "rating in (values (1))",
    "rating > (SeLeCt max(a) FROM read_csv('{path}'))",
    "rating > 1 union select 1",
    "rating > 1 /* '*/ and x in (select a from read_csv('{path}')) /* ' */",
    "rating > 1 -- '\n and x in (select a from read_csv('{path}'))",
    "x = 'a\\' or x in (select a from read_csv(\"{path}\"))'",
    "x = E'\\'' or rating in (select a from read_csv('{path}'))",
    "rating > 1; select 1",
    "rating > 1 limit 1",
    "`rating` > 1",
    "x = $$ a $$",
    "unnest(x) > 1",
    'rating in (select "select" from "read_csv"(\'{path}\'))',
    "rating > \"read_csv\"('{path}')",
    "extract(year from \"read_csv\"('{path}')) > 1",
]


@pytest.mark.parametrize(
    ("key", "text"),
    [
        *(("histories.liked.where", text) for text in READING),
        *((key, READING[0]) for key in ("weight", "counters.0.target")),
        *(soak(key, text) for key in ("weight", "counters.0.target") for text in READING[1:]),
    ],
)
def test_nothing_but_the_row_is_read(world: World, text: str, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = world.folder / "secret.csv"
    secret.write_text("a\nsecret\n")
    text = text.format(path=secret)
    value = json.dumps(text)
    spec = {
        "histories.liked.where": f"[histories.liked]\nwhere = {value}\n",
        "weight": f"weight = {value}\n",
        "counters.0.target": f"[[counters]]\ntarget = {value}\n",
    }[key]

    def parse(sql: str) -> pl.Expr:
        raise AssertionError(f"polars would parse {sql!r}")

    monkeypatch.setattr(pl, "sql_expr", parse)
    message = refused(world, world.spec(spec), USAGE, f"{key} = ")
    assert "secret\n" not in message


@pytest.mark.parametrize(
    "text",
    [
        "rating / 3.0 >= .5 and not x = 'it''s'",
        "CASE WHEN rating BETWEEN 1 AND 2 THEN 1.5e0 ELSE -1 END",
        "cast(x as double precision) + x::int",
        "\"Two words\" = 'select' or \"date\" > DATE '2024-02-29' + INTERVAL '1' DAY",
        "extract(year from x) > 2020 and x is distinct from 3",
        "coalesce(lower(x), 'a') like 'b%' and x in ('a', 'b')",
        "date > 1 and end > 2",
        '"from" > 1 and "select" = \'a\' and day = 3',
        "date > date '2024-02-29' - interval '3' day",
        "x::int in (1, 2) and (date in (3, 4) or date not in (5)) and x::text in ('a')",
        "(rating + 1) > 2 and case x when 'a' then null else true end and not (x is null)",
        "(" * 20 + "rating" + ")" * 20 + " > 1",
    ],
)
def test_rows_can_be_read_in_many_ways(text: str) -> None:
    assert checked(text, COLUMNS)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("avg(rating) > 2", "not row-wise (AVG)"),
        ("row_number() > 2", "not row-wise (ROW_NUMBER)"),
        ("now() > x", "reads the clock"),
        ('"now"() > x', '"NOW"(...), which is not a function'),
        ("from > 1", 'written with FROM: an expression reads nothing but its own row; the column is "from"'),
        ("cast(x as decimal(50, 3)) > 1", "written with the type decimal(...): write it without a length"),
        ("rating >= 4 x", "written with `4 x`, without AND"),
        ("x = 'a' 'b'", "written with `'a' 'b'`, without AND"),
        ("(rating >= 4) x", "written with `) x`, without AND"),
        ('rating >= 4 "x"', 'written with `4 "x"`, without AND'),
        ("case when x > 1 then 2 end rating", "written with `end rating`, without AND"),
        ("rating >= 4 as x", "written with AS: an expression needs no name"),
        ("cast(" * 50 + "rating" + " as int)" * 50 + " > 1", "too deep (more than 24"),
        ("case when x = 1 then " * 50 + "rating" + " end" * 50, "too deep (more than 24"),
        ("current_date > x", "reads the clock"),
        ("system('rm')", "SYSTEM(...), which is not a function that reads one row"),
        ("1.5.2 > x", "not an expression at '1.5.2"),
        (" or ".join(["rating = 1"] * 4000), "too long"),
    ],
)
def test_anything_else_is_refused_by_name(text: str, part: str) -> None:
    with pytest.raises(ValueError) as caught:
        checked(text, COLUMNS)
    assert part in str(caught.value)


@pytest.mark.parametrize(
    ("text", "word"),
    [("ratin > 2", "ratin"), ("x = N'a'", "N"), ("rating > 4 year", "year"), ("x > interval '1' foo", "foo")],
)
def test_an_unknown_word_is_no_column(text: str, word: str) -> None:
    with pytest.raises(UnknownColumnError, match=word):
        checked(text, COLUMNS)


LONG = {
    "or": (" or ".join(f"rating = {i}" for i in range(150)), " or ".join(f"rating = {i}" for i in range(2000))),
    "when": (
        f"CASE {' '.join(f'WHEN rating = {i} THEN {i}' for i in range(120))} END > 3",
        f"CASE {' '.join(f'WHEN rating = {i} THEN {i}' for i in range(1200))} END > 3",
    ),
    "plus": (" + ".join(["rating"] * 150) + " > 1", " + ".join(["rating"] * 2000) + " > 1"),
}


@pytest.mark.parametrize("kind", soak_except({"when"}, LONG))
def test_long_expressions_work_or_are_refused(world: World, kind: str) -> None:
    long, too_long = LONG[kind]
    output = run_spec(world.spec(f"[histories.long]\nwhere = {json.dumps(long)}\n[[aggregate]]\n"))
    assert output["long__count"].sum() > 0
    spec = world.spec(f"[histories.long]\nwhere = {json.dumps(too_long)}\n[[aggregate]]\n")
    extembed("run", spec).failed(2, "histories.long.where = ", "too")


def test_decimal_numbers_are_floats(world: World) -> None:
    """Polars reads `3.0` as a decimal: a quotient would have six digits."""
    output = run_spec(world.spec('[[counters]]\nhalf_lives = ["none"]\ntarget = "rating / 7.0"\n'))
    expected = run_spec(world.spec('[[counters]]\nhalf_lives = ["none"]\ntarget = "rating"\n'))
    mean = expected["all__target_mean"].to_numpy() / 7
    assert abs(output["all__target_mean"].to_numpy() - mean)[~np.isnan(mean)].max() < 1e-6
