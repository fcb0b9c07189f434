"""The point-in-time join and the statistics without sorting agree with SQL in DuckDB."""

from __future__ import annotations

import duckdb
import numpy as np
import polars as pl
import pytest
from conftest import World, run_spec
from helpers.long_histories import write_lognormal

pytestmark = pytest.mark.usefixtures("engine")

ABSOLUTE = 2e-5  # float32 cosines against float64

QUERY = """
with vectors as (
    select item_id, embedding::double[] as v from '{text}'
),
seen as (
    select c.row, c.timestamp as as_of, e.timestamp as moment,
           list_cosine_similarity(q.v, v.v) as c,
           v.v is not null as has_vector,
           e.rating as y,
           pow(2, -(epoch_us(c.timestamp) - epoch_us(e.timestamp)) / (7 * 86400e6)) as w
    from (select *, row_number() over () - 1 as row from '{candidates}') c
    join '{interactions}' e
      on e.user_id = c.user_id and e.timestamp < c.timestamp - interval 1 hour and {where}
    left join vectors v on v.item_id = e.item_id
    left join vectors q on q.item_id = c.item_id
)
select row,
       count(*) as count,
       sum(w) as decayed_count,
       epoch_us(any_value(as_of)) / 1e6 - epoch_us(max(moment)) / 1e6 as age_last_s,
       count(*) filter (has_vector) as vector_count,
       min(c) as cos_min,
       max(c) as cos_max,
       sum(w * c) / sum(w) filter (has_vector) as cos_mean,
       sum(w) filter (c >= 0.3) / sum(w) filter (has_vector) as cos_share,
       sum(w * y) / sum(w) as target_mean,
       sum(w * y) filter (c >= 0.3) / sum(w) filter (c >= 0.3) as target_share,
       sum(w * exp((c - 1) / 0.1) * y) / sum(w * exp((c - 1) / 0.1)) as target_kernel_mean,
       sum(w * exp((c - 1) / 0.1)) as target_kernel_weight
from seen group by row order by row
"""


@pytest.mark.parametrize("lognormal", [False, True])
def test_joins_counts_and_means_agree_with_sql(world: World, lognormal: bool) -> None:
    if lognormal:
        write_lognormal(world, 60, 50, 600, dim=24, candidates=20)
    output = run_spec(
        world.spec(
            """lag = "1h"
[histories.all]
[histories.liked]
where = "rating >= 4"
[[aggregate]]
half_lives = ["7d"]
thresholds = [0.3]
target = "rating"
temperatures = [0.1]
"""
        )
    ).with_row_index("row")
    files = {name: world.folder / f"{name}.parquet" for name in ("interactions", "candidates", "text")}
    for history, where in (("all", "true"), ("liked", "e.rating >= 4")):
        expected = pl.from_arrow(duckdb.sql(QUERY.format(where=where, **files)).arrow())
        assert isinstance(expected, pl.DataFrame)
        seen = output.filter(pl.col(f"{history}__count") > 0)
        assert seen["row"].to_list() == expected["row"].to_list()
        for column, statistic in {
            f"{history}__count": "count",
            f"{history}__age_last_s": "age_last_s",
            f"{history}__decayed_count__hl7d": "decayed_count",
            f"text__{history}__vector_count": "vector_count",
            f"text__{history}__cos_min": "cos_min",
            f"text__{history}__cos_max": "cos_max",
            f"text__{history}__cos_mean__hl7d": "cos_mean",
            f"{history}__target_mean__hl7d": "target_mean",
            f"text__{history}__target_share_ge_030__hl7d": "target_share",
            f"text__{history}__target_kernel_mean_t010__hl7d": "target_kernel_mean",
            f"text__{history}__target_kernel_weight_t010__hl7d": "target_kernel_weight",
        }.items():
            actual, reference = seen[column].cast(pl.Float64), expected[statistic].cast(pl.Float64)
            assert actual.is_null().to_list() == reference.is_null().to_list(), column
            np.testing.assert_allclose(
                actual.to_numpy(), reference.to_numpy(), rtol=1e-5, atol=ABSOLUTE, err_msg=column
            )
        share = seen[f"text__{history}__cos_share_ge_030__hl7d"]
        reference = expected["cos_share"].fill_null(0).to_numpy()
        mask = share.is_not_null().to_numpy()
        np.testing.assert_allclose(share.drop_nulls().to_numpy(), reference[mask], atol=ABSOLUTE)
