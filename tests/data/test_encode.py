"""`encode` sorts events and candidates by owner and time for any values of the keys."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from extembed_cli.data.columns.vocabulary import Vocabulary
from extembed_cli.data.inputs.encode import encode
from extembed_cli.spec.expressions import Expression
from extembed_cli.spec.loading import build_spec

WEIGHT = Expression("weight", "Float64")
INPUTS = {"interactions": "i.parquet", "candidates": "c.parquet", "output": "o.parquet"}
SPEC = build_spec({**INPUTS, "weight": "weight", "counters": [{}]}, "data")


@pytest.mark.parametrize("span", [10, 2**40, 2**62], ids=["ties", "microseconds", "more than a key holds"])
def test_rows_are_sorted_by_owner_time_partner_and_weight(span: int) -> None:
    """Times with a span of 2^62 do not fit with the user into a sort key of 64 bits."""
    rng = np.random.default_rng(5)
    users, n = 300, 4000
    times = rng.integers(0, span, n)
    times[: n // 2] = times[n // 2 :] + rng.integers(0, 3, n // 2)  # equal, or different in the last bits
    events = pl.DataFrame(
        {
            "owner": rng.integers(0, users, n),
            "time": times,
            "partner": rng.integers(0, 5, n),
            WEIGHT.column: rng.random(n),
        }
    )
    candidates = (
        events.select("owner", "time", "partner").with_row_index("row").with_columns(pl.col("row").cast(pl.Int64))
    )
    vocabulary = Vocabulary(pl.Series(np.arange(5)), np.arange(5, dtype=np.int32))
    shard = encode(SPEC, events.to_arrow(), candidates.to_arrow(), vocabulary)
    expected = events.sort("owner", "time", "partner", WEIGHT.column)
    assert shard.history.times.tolist() == expected["time"].to_list()
    assert shard.history.partners.tolist() == expected["partner"].to_list()
    assert shard.history.weights is not None
    assert shard.history.weights.tolist() == expected[WEIGHT.column].to_list()
    rows = candidates.sort("owner", "time", "partner", "row")["row"]
    assert shard.candidates.rows.tolist() == rows.to_list()
