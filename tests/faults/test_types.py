"""No type of a column ends with a bug: every Arrow type in every role is read, or refused by the name of the column."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from conftest import World, extembed, soak, timestamps, vectors
from helpers.arrow_types import ALL, column

DAY = 86_400_000_000
START = 1_700_000_000_000_000
EXPECTED = {0, 1, 2, 3}
"""Exit codes that data may lead to"""
UNREADABLE = 3
ODD = (
    *(pa.uint64(), pa.float16(), pa.bool_(), pa.decimal256(76, 74), pa.timestamp("s", "+05:30"), pa.duration("ns")),
    *(pa.dictionary(pa.int32(), pa.float64()), pa.list_(pa.int64()), pa.list_view(pa.float32()), pa.time64("ns")),
    *(pa.map_(pa.string(), pa.int64()), pa.struct([pa.field("a", pa.int64())]), pa.uuid(), pa.binary_view(), pa.null()),
)
"""Types of the normal run: those that most libraries know least"""

SPEC = """interactions = "interactions.parquet"
candidates = "candidates.parquet"
output = "out.parquet"
embeddings.text.path = "text.parquet"
user_embeddings.taste.path = "taste.parquet"
"""
GROUP = """
[[aggregate]]
target = "rating"
residual = "item"
"""
GROUPS = f"""{GROUP}
[[aggregate]]
name = "audience"
side = "item"
[[dual]]
unobserved_weight = 0.1
[[dual]]
name = "logistic"
loss = "logistic"
target = "rating - 3"
[[dual]]
name = "everybody"
side = "all"
[[direct]]
"""
USERS = ("interactions.user_id", "candidates.user_id", "taste.user_id")
ITEMS = ("interactions.item_id", "candidates.item_id", "text.item_id")
TIMES = ("interactions.timestamp", "candidates.timestamp")


class Role(NamedTuple):
    """Columns that get a type (`table.column`), and what the spec says about them (as `--set` takes it)."""

    columns: tuple[str, ...]
    settings: tuple[str, ...] = ()


ROLES = {
    "users": Role(USERS),
    "items": Role(ITEMS),
    "times": Role(TIMES),
    "times in us": Role(TIMES, ('time_unit="us"',)),
    "times in a format": Role(TIMES, ('time_format="%Y-%m-%d"',)),
    "weight": Role(("interactions.mark",), ('weight="mark"',)),
    "where": Role(("interactions.mark",), ('histories.marked.where="mark"',)),
    "where equal": Role(("interactions.mark",), ('histories.marked.where="mark = 1"',)),
    "where not null": Role(("interactions.mark",), ('histories.marked.where="mark IS NOT NULL"',)),
    "target": Role(("interactions.mark",), ('counters.0.target="mark"', 'counters.0.name="of_mark"')),
    "residual": Role(("interactions.mark",), ('aggregate.0.target="mark"',)),
    "unused": Role(("interactions.mark",)),
    "passing": Role(("candidates.mark",)),
    "within": Role(("candidates.mark",), ('within.by="mark"', 'within.columns=["all__count"]')),
    "vectors": Role(("text.embedding",)),
    "vectors of bytes": Role(("text.embedding",), ('embeddings.text.bytes_of="float16"',)),
    "vectors of users": Role(("taste.embedding",)),
    "since": Role(("taste.mark",), ('user_embeddings.taste.columns.time="mark"',)),
    **{place: Role((place,)) for place in (*USERS, *ITEMS, *TIMES)},
}
VALUES = ("plain", "with nulls", "all null", "no rows")


def tables() -> dict[str, dict[str, pa.Array]]:
    """Return small inputs: 5 users, 6 items, 24 events, 12 candidates."""
    rng = np.random.default_rng(3)

    def log(rows: int) -> dict[str, pa.Array]:
        return {
            "user_id": pa.array(rng.integers(1, 6, rows)),
            "item_id": pa.array(rng.integers(1, 7, rows)),
            "timestamp": timestamps(START + rng.integers(0, 50, rows) * DAY),
        }

    return {
        "interactions": {**log(24), "rating": pa.array(rng.integers(1, 6, 24))},
        "candidates": log(12),
        "text": {"item_id": pa.array(range(1, 7)), "embedding": vectors(rng.standard_normal((6, 4)))},
        "taste": {"user_id": pa.array(range(1, 6)), "embedding": vectors(rng.standard_normal((5, 4)))},
    }


def numbers(table: dict[str, pa.Array], name: str, values: str) -> list[int | None]:
    """Return the numbers that a column of a type stands for: those of ids, else 1, 2, ..."""
    rows = len(next(iter(table.values())))
    whole = table[name].to_pylist() if name.endswith("_id") else list(range(1, rows + 1))
    if values == "all null":
        return [None] * rows
    return [None if values == "with nulls" and row % 3 == 1 else each for row, each in enumerate(whole)]


def problem(world: World, kind: pa.DataType, role: str, values: str) -> str | None:
    """Run a world in which the columns of a role have a type; return what is wrong with how it ended, if anything."""
    inputs = tables()
    for place in ROLES[role].columns:
        table, name = place.split(".")
        inputs[table][name] = column(kind, numbers(inputs[table], name, values))
    for name, table in inputs.items():
        written = pa.table(table)
        cleared = values == "no rows" and any(place.startswith(f"{name}.") for place in ROLES[role].columns)
        world.write(name, written.slice(0, 0) if cleared else written)
    settings = [part for setting in ROLES[role].settings for part in ("--set", setting)]
    done = extembed("run", world.folder / "spec.toml", "--allow-empty", "--workers", "1", *settings)
    table, name = ROLES[role].columns[-1].split(".")
    # A file that pyarrow itself cannot read has no column to name; in one without rows another column may lack values.
    named = (
        done.code == 0
        or f"`{name}`" in done.err
        or f"'{name}" in done.err
        or done.code == UNREADABLE
        or values == "no rows"
    )
    if done.code not in EXPECTED or "Traceback" in done.err or not named:
        return f"{kind}: exit {done.code}: {done.err.strip()[:300]}"
    return None


OFTEN = ("users",)


@pytest.mark.parametrize(
    ("role", "values", "kinds"),
    [
        *((role, "plain", ODD) for role in OFTEN),
        *(soak(role, "with nulls", ALL) for role in ROLES),
        *(soak(role, "plain", ODD) for role in ROLES if role not in OFTEN),
        *(soak(role, values, ODD) for role in ROLES for values in VALUES if values not in ("plain", "with nulls")),
    ],
)
def test_every_type_is_read_or_refused_by_name(
    world: World, role: str, values: str, kinds: tuple[pa.DataType, ...]
) -> None:
    (world.folder / "spec.toml").write_text(SPEC + (GROUPS if kinds is ALL and values == "plain" else GROUP))
    problems = [each for kind in kinds if (each := problem(world, kind, role, values)) is not None]
    assert not problems, f"{len(problems)} of {len(kinds)}:\n" + "\n".join(problems)
