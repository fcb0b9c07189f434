"""`[within]`: features relative to the other candidates of their request."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import World, run_spec
from helpers.drawn import same_bytes
from helpers.refusals import DATA, USAGE, refused

from extembed_cli.jobs.layout import Layout
from extembed_cli.jobs.options import RunOptions
from extembed_cli.jobs.run import run_job
from extembed_cli.kernels.requests import within_requests
from extembed_cli.spec.loading import load_spec
from extembed_cli.system.progress import Watch

pytestmark = pytest.mark.usefixtures("engine")

SPEC = """
[within]
by = "request"
columns = ["text__all__cos_m*", "all__count", "text__all__dual_score"]
[[aggregate]]
half_lives = ["7d"]
[[dual]]
"""
COLUMNS = [
    "text__all__cos_min",
    "text__all__cos_max",
    "text__all__cos_mean__hl7d",
    "all__count",
    "text__all__dual_score",
]


@pytest.fixture
def requests(world: World) -> World:
    """Provides candidates of requests of several users, some alone, some without a request or a user."""
    candidates = world.table("candidates")
    rng = np.random.default_rng(4)
    request = [None if rng.random() < 0.1 else f"r{n}" for n in rng.integers(0, 40, len(candidates))]
    users = [None if n % 17 == 0 else int(u) for n, u in enumerate(candidates["user_id"].to_pylist())]
    candidates = candidates.append_column("request", pa.array(request))
    candidates = candidates.set_column(0, "user_id", pa.array(users, pa.int64()))
    moments = pl.Series(candidates["timestamp"]).to_frame("time").with_columns(request=pl.Series(request))
    first = pl.when(pl.col("request").is_null()).then("time").otherwise(pl.col("time").max().over("request"))
    shared = moments.select(time=first)["time"].to_arrow().cast(candidates["timestamp"].type)
    world.write("candidates", candidates.set_column(2, "timestamp", shared))
    return world


def expected(output: pl.DataFrame, name: str) -> pl.DataFrame:
    """Return the three columns by polars, in float64."""
    known = pl.col(name).is_not_null() & pl.col("request").is_not_null()
    value = pl.when(known).then(pl.col(name).cast(pl.Float64))
    away = value - value.median().over("request")
    spread = value.std(ddof=0).over("request")
    varies = value.min().over("request") < value.max().over("request")
    return output.select(
        value.rank("average", descending=True).over("request").alias(f"{name}__within_rank"),
        away.alias(f"{name}__within_difference"),
        pl.when(varies).then(away / spread).alias(f"{name}__within_ratio"),
    )


def test_values_are_those_of_polars(requests: World) -> None:
    output = run_spec(requests.spec(SPEC))
    assert [name for name in output.columns if "within" in name] == [
        f"{name}__within_{kind}"
        for name in ("all__count", *COLUMNS[:3], COLUMNS[4])
        for kind in ("rank", "difference", "ratio")
    ]
    for name in COLUMNS:
        reference = expected(output, name)
        for column in reference.columns:
            assert output[column].dtype == pl.Float32
            assert (output[column].is_null() == reference[column].is_null()).all(), column
            np.testing.assert_allclose(output[column].to_numpy(), reference[column].to_numpy(), atol=2e-5)
        assert output[reference.columns[0]].null_count() > 30
        assert (output[reference.columns[1]].drop_nulls() == 0).any()


def test_layouts_and_order_change_no_byte(requests: World) -> None:
    spec = load_spec(requests.spec(SPEC))
    one = run_spec(requests.folder / "spec.toml")
    for layout in (Layout(shards=5), Layout(shards=3, mapped=True)):
        run_job(spec, RunOptions(workers=2, layout=layout), Watch())
        same_bytes(one, requests.output())
    table = requests.table("candidates").append_column("row", pa.array(np.arange(300)))
    requests.write("candidates", table.take(np.random.default_rng(0).permutation(300)))
    same_bytes(one, run_spec(requests.folder / "spec.toml").sort("row").drop("row"))


def test_columns_belong_to_the_step_of_their_column(requests: World) -> None:
    run_spec(requests.spec(SPEC))
    about = json.loads((pq.read_schema(requests.folder / "out.parquet").metadata or {})[b"extembed"])
    steps = {column["name"]: column["technique"] for column in about["columns"]}
    assert steps["all__count__within_rank"] == "counters"
    assert steps["text__all__cos_min__within_ratio"] == "aggregate"
    assert steps["text__all__dual_score__within_difference"] == "dual"
    assert about["spec"]["within"] == {"by": "request", "columns": ["text__all__cos_m*", "all__count", COLUMNS[4]]}


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ('by = "requst"\ncolumns = ["*"]', ("within.by", "no column `requst`", "did you mean `request`?")),
        ('by = "request"\ncolumns = ["text__al__*"]', ("within.columns.0: `text__al__*` matches no feature",)),
        ('by = "request"\ncolumns = []', ("`within.columns` needs at least one entry",)),
        ('columns = ["*"]', ("`within.by` is missing",)),
        ('by = "request"\ncolumn = ["*"]', ("within.column", "did you mean `columns`?")),
    ],
)
def test_requests_and_patterns_that_do_not_exist_are_refused(
    requests: World, text: str, parts: tuple[str, ...]
) -> None:
    refused(requests, requests.spec(f"[within]\n{text}\n[[aggregate]]\n"), USAGE, *parts)


def test_a_column_that_mixes_moments_is_refused(requests: World) -> None:
    spec = requests.spec('[within]\nby = "user_id"\ncolumns = ["*"]\n[[aggregate]]\n')
    refused(requests, spec, DATA, "within.by: ", "of different as-of times", "Name the column of a request")
    spec.write_text('as_of = "2024-02-01"\n' + spec.read_text())
    run_spec(spec)


def test_no_candidates_have_no_requests(requests: World) -> None:
    requests.write("candidates", requests.table("candidates").slice(0, 0))
    assert len(run_spec(requests.spec(SPEC))) == 0


def test_ties_zeros_and_nulls() -> None:
    values = np.array([0.0, -0.0, 2.0, np.nan, 5.0, 7.0, 7.0, 1.0], np.float32)
    requests = np.array([1, 1, 1, 1, 2, 3, 3, 0])
    rank, difference, ratio = within_requests(values, requests)
    np.testing.assert_array_equal(rank, [2.5, 2.5, 1, np.nan, 1, 1.5, 1.5, np.nan])
    np.testing.assert_array_equal(difference, [0, 0, 2, np.nan, 0, 0, 0, np.nan])
    np.testing.assert_allclose(ratio, [0, 0, 2 / np.std([0, 0, 2]), *[np.nan] * 5])
