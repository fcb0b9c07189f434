"""`[[counters]]`: counters alone, in a spec without embeddings too, against DuckDB."""

from __future__ import annotations

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from conftest import World, extembed, run_spec
from helpers.refusals import DATA, USAGE, refused

pytestmark = pytest.mark.usefixtures("engine")

COUNTERS = """
[histories.liked]
where = "rating >= 4"
[[counters]]
histories = ["all", "liked"]
half_lives = ["7d", "none"]
target = "rating"
"""
QUERY = """
with pairs as (
    select c.row, e.rating, epoch_us(c.timestamp) - epoch_us(e.timestamp) as age, e.rating >= 4 as liked
    from (select *, row_number() over () as row from candidates) c
    left join interactions e on e.user_id = c.user_id and e.timestamp < c.timestamp
)
select row, count(rating) as n, count(rating) filter (liked) as liked, min(age) / 1e6 as age,
    sum(rating * pow(2, -age / 6048e8)) / sum(pow(2, -age / 6048e8)) as decayed,
    avg(rating) filter (liked) as plain_liked
from pairs group by row order by row
"""


def without_embeddings(world: World, groups: str) -> World:
    inputs = 'interactions = "interactions.parquet"\ncandidates = "candidates.parquet"\noutput = "out.parquet"\n'
    (world.folder / "spec.toml").write_text(inputs + groups)
    return world


def test_counters_need_no_embeddings(world: World) -> None:
    without_embeddings(world, COUNTERS)
    extembed("check", world.folder / "spec.toml").ok()
    output = run_spec(world.folder / "spec.toml")
    interactions, candidates = world.table("interactions"), world.table("candidates")  # noqa: F841  for the query
    expected = duckdb.sql(QUERY).pl()
    assert output["all__count"].to_list() == expected["n"].to_list()
    assert output["liked__count"].to_list() == expected["liked"].to_list()
    for name, reference in {
        "all__age_last_s": "age",
        "all__target_mean__hl7d": "decayed",
        "liked__target_mean": "plain_liked",
    }.items():
        np.testing.assert_allclose(output[name].to_numpy(), expected[reference].to_numpy(), rtol=1e-6)
    assert [name for name in output.columns if "__" in name][:4] == [
        "all__count", "all__age_last_s", "all__decayed_count__hl7d", "all__target_mean__hl7d",
    ]  # fmt: skip


def test_counters_of_both_kinds_of_groups_are_written_once(world: World) -> None:
    output = run_spec(world.spec(COUNTERS + '[[aggregate]]\nhistories = ["all"]\nhalf_lives = ["7d"]\n'))
    assert len(output.columns) == len(set(output.columns))
    assert "text__all__cos_mean__hl7d" in output.columns


def test_a_name_goes_before_the_statistic(world: World) -> None:
    group = '[[counters]]\nname = "res"\ntarget = "rating"\nresidual = "item"\nhalf_lives = ["none"]\n'
    output = run_spec(without_embeddings(world, group).folder / "spec.toml")
    assert {"all__res_count", "all__res_target_mean"} <= set(output.columns)


@pytest.mark.parametrize(
    ("group", "parts"),
    [
        ("[[aggregate]]\n", ("`embeddings` is missing: [[aggregate]] needs an embedding table",)),
        ('[[counters]]\nresidual = "item"\n', ("counters.0.residual: needs a `target`",)),
        ("[[counters]]\nprior_events = 3.0\n", ('counters.0.prior_events: is of a residual; set residual = "item"',)),
        ('[[counters]]\ntarget = "ratin"\n', ("counters.0.target", "no column `ratin`")),
        ('[[counters]]\ntarget = "sum(rating)"\n', ("counters.0.target",)),
        ('[[counters]]\nembeddings = ["text"]\n', ("`counters.0.embeddings` is not a known key",)),
    ],
)
def test_groups_that_cannot_be_computed_are_refused(world: World, group: str, parts: tuple[str, ...]) -> None:
    refused(without_embeddings(world, group), world.folder / "spec.toml", USAGE, *parts)


def test_a_target_of_text_is_refused_with_a_hint(world: World) -> None:
    table = world.table("interactions")
    world.write("interactions", table.append_column("event", pa.array(["like", "dislike"] * (len(table) // 2))))
    without_embeddings(world, '[[counters]]\ntarget = "event"\n')
    refused(world, world.folder / "spec.toml", DATA, "counters.0.target = 'event'", "it is text", "CASE WHEN")
