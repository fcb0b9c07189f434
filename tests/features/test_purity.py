"""The bytes of a column depend only on its definition, not on other columns, groups, histories or tables."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tomli_w
from conftest import World, timestamps, vectors
from hypothesis import HealthCheck, given, settings

from extembed_cli.jobs.options import RunOptions
from extembed_cli.jobs.run import run_job
from extembed_cli.spec.loading import load_spec
from extembed_cli.system.progress import Watch

HOUR, START = 3_600_000_000, 1_700_000_000_000_000
HISTORIES = {
    "liked": {"where": "rating >= 4"},
    "disliked": {"where": "rating <= 2", "max_events": 3},
    "recent": {"window": "40h"},
    "loud": {"where": "volume > 0"},
}
TABLES = {"text": {"center": True}, "image": {}, "raw": {"normalize": False}}


def subset(*values: Any, at_least: int = 1) -> st.SearchStrategy[list[Any]]:
    return st.lists(st.sampled_from(values), min_size=at_least, unique=True)


def with_target(group: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Draw a group without a target, with one, or with a residual of one."""
    target = {"target": st.sampled_from(["rating - 3", "volume", "CASE WHEN volume > 0 THEN rating END"])}
    residual = {"residual": st.sampled_from(["item", "user", "item+user"])}
    how = {"prior_events": st.sampled_from([1.0, 5.0]), "residual_half_life": st.sampled_from(["none", "1d"])}
    more = st.just({}) | st.fixed_dictionaries(target) | st.fixed_dictionaries({**target, **residual}, optional=how)
    return more.map(lambda keys: {**group, **keys})


AGGREGATE = st.fixed_dictionaries(
    {
        "technique": st.just("aggregate"),
        "embeddings": subset(*TABLES),
        "histories": subset("all", *HISTORIES),
        "half_lives": subset("6h", "2d", "none"),
        "percentiles": subset(10, 50, 90, at_least=0),
        "thresholds": subset(0.0, 0.3, 1.0, at_least=0),
        "sd": st.booleans(),
    },
    optional={"center": st.booleans(), "top": subset(1, 2, 5)},
).flatmap(with_target)
COUNTERS = st.fixed_dictionaries(
    {
        "technique": st.just("counters"),
        "histories": subset("all", *HISTORIES),
        "half_lives": subset("6h", "2d", "none"),
    }
).flatmap(with_target)
DUAL = st.fixed_dictionaries(
    {
        "technique": st.just("dual"),
        "embeddings": subset(*TABLES),
        "histories": subset("all", *HISTORIES),
        "target": st.sampled_from(["rating - 3", "volume", "volume * rating"]),
        "half_life": st.sampled_from(["none", "1d"]),
        "loss": st.sampled_from(["squared", "logistic"]),
        "scaling": st.sampled_from([0.0, 1.0]),
        "bias": st.booleans(),
        "sd": st.booleans(),
        "unobserved_weight": st.sampled_from([0.0, 0.1]),
    },
    optional={
        "refit_every": st.sampled_from(["12h", "2d"]),
        "user_vectors": st.just("users.parquet"),
        "residual": st.sampled_from(["item", "user", "item+user"]),
        "center": st.booleans(),
    },
)
OF_ALL_COLUMNS = st.fixed_dictionaries({}, optional={"weight": st.just("weight"), "as_of_step": st.just("6h")})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Provides few users, items and hours, so that events with equal user, item, time and weight differ in values."""
    tables, rng = World(tmp_path_factory.mktemp("purity")), np.random.default_rng(11)
    for name, rows in {"interactions": 500, "candidates": 120}.items():
        tables.write(
            name,
            {
                "user_id": rng.integers(0, 6, rows),
                "item_id": rng.integers(0, 12, rows),
                "timestamp": timestamps(START + rng.integers(0, 80, rows) * HOUR),
                "rating": rng.integers(1, 6, rows),
                "volume": rng.normal(size=rows),
                "weight": rng.integers(1, 3, rows) / 3,
            },
        )
    for name, items in {"text": 12, "image": 9, "raw": 11}.items():
        rows = rng.standard_normal((items, 6)) * rng.uniform(0.5, 2, (items, 1))
        tables.write(name, {"item_id": np.arange(items), "embedding": vectors(rows)})
    tables.write("candidates", tables.table("candidates").drop(["rating", "volume", "weight"]))
    return tables


def bytes_of_columns(
    world: World, groups: list[dict[str, Any]], *, everything: bool, of_all: dict[str, str] | None = None
) -> dict[str, tuple[bytes, ...]]:
    """Return the bytes of each feature of some groups; with `everything` the spec has more tables and histories.

    `of_all` are keys of the spec that all columns depend on.
    """
    tables = TABLES if everything else {name for group in groups for name in group.get("embeddings", ())}
    histories = HISTORIES if everything else {n for g in groups for n in g["histories"]} & set(HISTORIES)
    data: dict[str, Any] = {
        **{name: str(world.folder / f"{name}.parquet") for name in ("interactions", "candidates")},
        **({"weight": "weight"} if of_all is None else of_all),
        "embeddings": {name: {"path": str(world.folder / f"{name}.parquet"), **TABLES[name]} for name in tables},
        "histories": {name: HISTORIES[name] for name in histories},
    }
    with tempfile.TemporaryDirectory() as folder:
        for group in groups:
            named = {key: value for key, value in group.items() if key != "technique"}
            if "user_vectors" in named:
                named |= {key: named[key][:1] for key in ("embeddings", "histories")}
                named["user_vectors"] = str(Path(folder) / f"{named['name']}-users.parquet")
            data.setdefault(group["technique"], []).append(named)
        output, spec = Path(folder) / "out.parquet", Path(folder) / "spec.toml"
        spec.write_text(tomli_w.dumps({**data, "output": str(output)}))
        run_job(load_spec(spec), RunOptions(workers=2), Watch())
        table = pq.read_table(output)
        columns = {name: bytes_of(table[name]) for name in table.column_names if "__" in name}
        for path in Path(folder).glob("*-users.parquet"):
            vectors = pq.read_table(path)
            columns[path.name] = tuple(repr(vectors[name].to_pylist()).encode() for name in vectors.column_names)
    return columns


def bytes_of(column: pa.ChunkedArray) -> tuple[bytes, ...]:
    return tuple(buffer.to_pybytes() for buffer in column.combine_chunks().buffers() if buffer is not None)


@settings(suppress_health_check=list(HealthCheck))
@given(groups=st.lists(AGGREGATE | COUNTERS | DUAL, min_size=1, max_size=4), of_all=OF_ALL_COLUMNS, data=st.data())
def test_other_columns_groups_and_tables_change_no_byte(
    world: World, groups: list[dict[str, Any]], of_all: dict[str, str], data: st.DataObject
) -> None:
    groups = [{**group, "name": f"g{place}"} for place, group in enumerate(groups)]
    whole = bytes_of_columns(world, groups, everything=True, of_all=of_all)
    chosen = dict(data.draw(st.sampled_from(groups)))
    for key, values in chosen.items():
        if isinstance(values, list) and values:
            chosen[key] = [values[0] if "user_vectors" in chosen else data.draw(st.sampled_from(values))]
    if "user_vectors" in chosen and data.draw(st.booleans()):
        del chosen["user_vectors"]
    part = bytes_of_columns(world, [chosen], everything=False, of_all=of_all)
    assert part
    for name, content in part.items():
        assert whole[name] == content, f"{name} differs beside the columns of {groups}"


def test_a_threshold_of_one_moves_no_other_column(world: World) -> None:
    """Candidates in their own history have cosines close to 1, which this threshold computes again in float64."""
    group: dict[str, Any] = {
        "technique": "aggregate",
        "embeddings": ["text"],
        "histories": ["all"],
        "half_lives": ["2d"],
    }
    without = bytes_of_columns(world, [{**group, "thresholds": []}], everything=False)
    with_one = bytes_of_columns(world, [{**group, "thresholds": [1.0]}], everything=False)
    assert set(with_one) - set(without) == {"text__all__cos_share_ge_100__hl2d"}
    assert {name: with_one[name] for name in without} == without


def test_two_targets_that_order_tied_events_differently(world: World) -> None:
    """Each column chooses the newest of tied events by its own target."""
    base = {"technique": "dual", "embeddings": ["text"], "histories": ["liked", "disliked"], "half_life": "1d"}
    texts = {"a": "volume", "b": "-volume", "c": "rating - 3"}
    groups = [{**base, "name": name, "target": text} for name, text in texts.items()]
    together = bytes_of_columns(world, groups, everything=True)
    for group in groups:
        for name, content in bytes_of_columns(world, [group], everything=False).items():
            assert together[name] == content
