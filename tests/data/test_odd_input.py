"""Inputs with problems that no schema shows, and inputs that change during a run."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import World, extembed, run_spec, timestamps, vectors

from extembed_cli.errors import DataError
from extembed_cli.jobs.options import RunOptions
from extembed_cli.jobs.run import run_job
from extembed_cli.spec.loading import load_spec
from extembed_cli.system.progress import Watch

YEAR_9999_US = 253_370_764_800_000_000


def test_int96_times_of_the_year_9999_are_in_the_future(world: World) -> None:
    """Spark writes such sentinels. In nanoseconds they would wrap around to 1816."""
    table = pa.table(
        {"user_id": [1, 1], "item_id": [3, 4], "timestamp": timestamps([1_700_000_000_000_000, YEAR_9999_US])}
    )
    world.write("interactions", table, use_deprecated_int96_timestamps=True)
    world.write("candidates", {"user_id": [1], "item_id": [3], "timestamp": timestamps([1_800_000_000_000_000])})
    assert run_spec(world.spec())["all__count"].to_list() == [1]


@pytest.mark.parametrize("other", [1, 4])
def test_lists_and_fixed_lists_of_different_lengths_are_refused(world: World, other: int) -> None:
    rng = np.random.default_rng(0)
    (world.folder / "text.parquet").unlink()
    world.write("text.d/0", {"item_id": [1, 2], "embedding": vectors(rng.standard_normal((2, 3)), "list")})
    world.write("text.d/1", {"item_id": [3, 4], "embedding": vectors(rng.standard_normal((2, other)))})
    spec = world.spec('[embeddings.text]\npath = "text.d"\n')
    extembed("run", spec).failed(1, "1.parquet", "different lengths", f"3 before, {other}")


@pytest.mark.parametrize("name", ["candidates", "interactions", "text"])
def test_an_input_that_is_replaced_during_the_run_is_noticed(world: World, name: str, tmp_path: Path) -> None:
    spec = load_spec(world.spec())
    run_job(spec, RunOptions(workers=1), Watch())
    before = (tmp_path / "out.parquet").read_bytes()
    path = world.folder / f"{name}.parquet"

    def replace(stage: str) -> None:
        if stage == "compute":
            shuffled = pq.read_table(path)
            pq.write_table(shuffled.take(np.random.default_rng(1).permutation(len(shuffled))), tmp_path / "other")
            shutil.move(tmp_path / "other", path)

    with pytest.raises(DataError, match=f"{name}.parquet: changed while the job was reading it"):
        run_job(spec, RunOptions(workers=1), Watch(stage=replace))
    assert (tmp_path / "out.parquet").read_bytes() == before


def test_a_column_that_one_file_lacks_may_be_required_in_the_other(world: World) -> None:
    table = world.table("candidates")
    (world.folder / "candidates.parquet").unlink()
    required = pa.schema([f.with_nullable(False) if f.name == "label" else f for f in table.schema])
    world.write("candidates.d/0", table.cast(required))
    world.write("candidates.d/1", table.drop_columns("label"))
    spec = world.spec()
    spec.write_text(spec.read_text().replace("candidates.parquet", "candidates.d"))
    features = run_spec(spec)
    assert features["label"].null_count() == len(table)


def test_partition_folders_may_begin_with_an_underscore(world: World) -> None:
    table = world.table("interactions")
    (world.folder / "interactions.parquet").unlink()
    world.write("log/_day=1/a", table.slice(0, 300))
    world.write("log/_day=2/a", table.slice(300))
    world.write("log/_temporary/a", table)
    spec = world.spec('[histories.first]\nwhere = "_day = 1"\n[histories.all]\n')
    spec.write_text(spec.read_text().replace("interactions.parquet", "log"))
    features = run_spec(spec)
    assert 0 < features["first__count"].sum() < features["all__count"].sum()


def test_times_with_a_zone_can_be_compared(world: World) -> None:
    table = world.table("interactions")
    zoned = table.column("timestamp").cast(pa.timestamp("us", "UTC"))
    world.write("interactions", table.set_column(2, "timestamp", zoned))
    features = run_spec(
        world.spec("[histories.late]\nwhere = \"timestamp >= timestamp '2023-12-14 22:13:20'\"\n[histories.all]\n")
    )
    assert 0 < features["late__count"].sum() < features["all__count"].sum()


def test_invalid_utf8_is_refused(world: World) -> None:
    table = world.table("interactions")
    broken = pa.array([b"\xff\xfe"] * len(table), pa.binary()).view(pa.string())
    world.write("interactions", table.append_column("kind", broken))
    spec = world.spec("[histories.a]\nwhere = \"kind = 'a'\"\n")
    extembed("run", spec).failed(3, "interactions.parquet", "UTF8")


def test_check_reads_the_columns_that_only_pass_through(world: World) -> None:
    table = world.table("candidates")
    path = world.write("candidates", table.append_column("extra", pa.array([f"text {n}" for n in range(len(table))])),
                       compression="none", use_dictionary=False, write_page_checksum=True)  # fmt: skip
    damaged = path.read_bytes().replace(b"text 77", b"test 77")
    path.write_bytes(damaged)
    extembed("check", world.spec()).failed(3, "candidates.parquet")


@pytest.mark.parametrize("value", ["true", '"50"', "1.5"])
def test_values_of_another_type_are_not_converted(world: World, value: str) -> None:
    extembed("check", world.spec(f"[[aggregate]]\npercentiles = [{value}]\n")).failed(
        2, "percentiles.0: must be a whole number"
    )


def test_unknown_engines_are_refused(world: World) -> None:
    extembed("run", world.spec(), "--engine", "local").ok()
    extembed("run", world.spec(), "--engine", "sprak").failed(2, "--engine sprak", "did you mean `spark`?")
