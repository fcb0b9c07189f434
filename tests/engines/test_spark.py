"""The engine on Spark: the bytes of a local run, whatever dies on the way, and errors as they are locally.

The features themselves are tested by the tests that use `engine`, which run on Spark with the bodies of a local run.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ROOT, World, extembed, extembed_process, small_world, soak, timestamps, vectors
from helpers.engines import EVERY_KEY_OF_A_FIT, LOCAL_CLUSTER, need_spark, on_spark, spark_session

from extembed_cli import feature_columns
from extembed_cli.data.inputs import unit_vectors
from extembed_cli.data.outputs import feature_file
from extembed_cli.engines.spark import reading
from extembed_cli.errors import ExtembedError
from extembed_cli.features import prepare
from extembed_cli.jobs import spark_vectors
from extembed_cli.jobs.options import RunOptions
from extembed_cli.jobs.run import run_job
from extembed_cli.jobs.sample import write_sample
from extembed_cli.jobs.spark_passes import SparkOptions, run_on_spark
from extembed_cli.spec.loading import load_spec
from extembed_cli.system.progress import Watch

EVERYTHING = f"""
weight = "rating"
[histories.liked]
where = "rating >= 4"
[embeddings.text]
path = "text.parquet"
center = true
[user_embeddings.taste]
from = {{ history = "liked", embedding = "text" }}
[user_embeddings.profile]
path = "profile.parquet"
[[counters]]
side = "item"
[[aggregate]]
half_lives = ["7d", "none"]
thresholds = [0.3]
target = "rating"
residual = "item+user"
[[aggregate]]
side = "item"
[[direct]]
user_embeddings = ["profile"]
{EVERY_KEY_OF_A_FIT}[[dual]]
side = "all"
target = "rating - 3"
[within]
by = "request"
columns = ["*cos_mean*"]
"""
BOTH = """
[embeddings.text]
path = "text.parquet"
center = true
[[aggregate]]
half_lives = ["7d", "none"]
[[dual]]
unobserved_weight = 0.1
user_vectors = "users.parquet"
"""


def written(folder: Path) -> dict[str, bytes]:
    """Return the content of a file or of all files of a directory."""
    paths = sorted(folder.iterdir()) if folder.is_dir() else [folder]
    return {path.name: path.read_bytes() for path in paths}


def run(world: World, output: str, text: str = EVERYTHING, **spark: Any) -> dict[str, Any]:
    """Run a spec, on Spark if options for it are given; return the run report."""
    spec = load_spec(world.spec(text), [], str(world.folder / output))
    if not spark:
        return run_job(spec, RunOptions(workers=1), Watch())
    shown: list[str] = []
    report = run_job(spec, RunOptions(workers=1), Watch(detail=shown.append), on_spark(**spark))
    assert any(re.fullmatch(r"compute \d+/\d+ tasks", text) for text in shown), shown
    return report


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Provides a world with several files and row groups, requests and vectors of users, and its local output."""
    need_spark()
    world = small_world(tmp_path_factory.mktemp("everything"))
    rng = np.random.default_rng(5)
    candidates = world.table("candidates")
    hours = pa.array(candidates["timestamp"].cast(pa.int64()).to_numpy() // 3_600_000_000)
    world.write("candidates", candidates.append_column("request", hours), row_group_size=70)
    log = world.table("interactions")
    (world.folder / "interactions.parquet").unlink()
    for number in range(3):
        world.write(f"interactions.parquet/{number}", log.slice(200 * number, 200), row_group_size=64)
    world.write("profile", {"user_id": np.arange(25), "embedding": vectors(rng.standard_normal((25, 8)))})
    for name, text in (("both", BOTH), ("everything", EVERYTHING)):
        run(world, name, text)
        shutil.move(world.folder / "users.parquet", world.folder / f"users_{name}.parquet")
    return world


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut the inputs, the tables and the output into small pieces, so that there are several of each."""
    monkeypatch.setattr(reading, "SPLIT_ROWS", 100)


def same_as_local(world: World, output: str, name: str = "everything") -> None:
    assert written(world.folder / output) == written(world.folder / name)
    vectors = world.folder / f"users_{name}.parquet"
    assert (world.folder / "users.parquet").read_bytes() == vectors.read_bytes()


JOINED = {"buckets": 3, "ship_bytes": 1}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("both", {"buckets": 2}),
        soak("both", JOINED),
        soak("everything", {"buckets": 5}),
        soak("everything", JOINED),
    ],
)
def test_spark_writes_the_bytes_of_a_local_run(
    everything: World, small_pieces: None, name: str, options: dict[str, Any]
) -> None:
    report = run(everything, "on_spark", {"both": BOTH, "everything": EVERYTHING}[name], **options)
    same_as_local(everything, "on_spark", name)
    local = json.loads((everything.folder / f"{name}.run.json").read_text())
    assert (report["engine"], report["shards"]) == ("spark", options["buckets"])
    assert report["tasks"] > options["buckets"]
    for key in ("inputs", "cosines", "dual", "candidates_in_own_history", "output_sha256", "digests", "rows_out"):
        assert report[key] == local[key], key
    extembed("verify", everything.folder / "on_spark").ok()


def test_a_bad_file_is_told_as_locally(world: World) -> None:
    """The message names the file, the row in it and all problems; it comes from a task, and is no Java trace."""
    need_spark()
    log = world.table("interactions").set_column(3, "rating", pa.array(np.where(np.arange(600) == 450, np.nan, 4.0)))
    (world.folder / "interactions.parquet").unlink()
    for number in range(2):
        world.write(f"interactions.parquet/{number}", log.slice(300 * number, 300), row_group_size=100)
    world.write("text", {"item_id": [1, 1], "embedding": vectors(np.ones((2, 3)))})
    spec = load_spec(world.spec('weight = "rating"\n'))
    messages = []
    for start in ({}, {"start": on_spark()}):
        with pytest.raises(ExtembedError) as caught:
            run_job(spec, RunOptions(workers=1), Watch(), **start)
        messages.append((type(caught.value), str(caught.value)))
    assert messages[0] == messages[1]
    assert "row 150: nan" in messages[0][1]
    assert "share an item id" in messages[0][1]
    assert not (world.folder / "out.parquet").exists()


@pytest.mark.soak
@pytest.mark.parametrize("options", [{"buckets": 3}, JOINED])
def test_many_parts_of_the_output_and_pieces_of_tables(
    everything: World, small_pieces: None, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    """Sizes travel with the tasks. Requests are in several parts, and tables have sums of several pieces."""
    for module, name, rows in (
        (feature_file, "PART_ROWS", 70),
        (feature_file, "ROW_GROUP", 70),
        (unit_vectors, "SUMMED_ROWS", 10),
        (prepare, "SUMMED_ROWS", 10),
        (spark_vectors, "SUMMED_ROWS", 10),
    ):
        monkeypatch.setattr(module, name, rows)
    run(everything, "local_parts")
    users = (everything.folder / "users.parquet").read_bytes()
    run(everything, "parts", **options)
    assert len(written(everything.folder / "parts")) == 1 + 5
    for path in (everything.folder / "parts").glob("part-*"):
        local = next((everything.folder / "local_parts").glob(f"{path.name[:10]}*"))
        assert pq.read_table(path).equals(pq.read_table(local))
    assert (everything.folder / "users.parquet").read_bytes() == users


@pytest.mark.soak
def test_a_problem_of_an_early_stage_reaches_the_end(everything: World) -> None:
    """What `[within]` groups by is first read when the features are there."""
    candidates = pq.read_table(everything.folder / "candidates.parquet")
    flags = pa.array(np.arange(len(candidates)) % 2 == 0)
    everything.write("flagged", candidates.set_column(candidates.column_names.index("request"), "request", flags))
    text = EVERYTHING.replace("[histories", 'candidates = "flagged.parquet"\n[histories', 1)
    spec = everything.spec(f'interactions = "interactions.parquet"\n{text}')
    messages = []
    for options in ({}, {"start": on_spark()}):
        with pytest.raises(ExtembedError) as caught:
            run_job(load_spec(spec, [], str(everything.folder / "none")), RunOptions(workers=1), Watch(), **options)
        messages.append(str(caught.value))
    assert "column `request` is bool; ids must be" in messages[0]
    assert messages[0] == messages[1]
    assert not (everything.folder / "none").exists()


@pytest.mark.soak
@pytest.mark.parametrize("ship_bytes", [2**30, 1], ids=["shipped", "joined"])
def test_the_sample_has_the_same_bytes(tmp_path: Path, ship_bytes: int) -> None:
    write_sample(tmp_path)
    for output, options in (("local", {}), ("spark", {"start": on_spark(ship_bytes=ship_bytes, buckets=4)})):
        run_job(
            load_spec(tmp_path / "spec.toml", [], str(tmp_path / output)), RunOptions(workers=1), Watch(), **options
        )
    assert written(tmp_path / "local") == written(tmp_path / "spark")


# --- what dies ---------------------------------------------------------------------------------------


def processes(word: str) -> list[int]:
    """Return the processes below this one whose command line has a word."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if word in (entry / "cmdline").read_bytes().decode(errors="replace") and _is_ours(int(entry.name)):
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def _is_ours(process: int) -> bool:
    while process > 1:
        if process == os.getpid():
            return True
        process = int((Path("/proc") / str(process) / "stat").read_text().rpartition(")")[2].split()[1])
    return False


KILLED = {"a worker": "pyspark.daemon", "an executor": "CoarseGrainedExecutorBackend"}


def kill_at(moments: list[float], rng: random.Random, killed: list[str]) -> None:
    """Kill a process of Spark at each moment, in seconds from now."""
    began = time.monotonic()
    for moment in moments:
        time.sleep(max(0.0, began + moment - time.monotonic()))
        what = rng.choice(list(KILLED))
        victims = processes(KILLED[what])
        if victims:
            killed.append(what)
            os.kill(rng.choice(victims), signal.SIGKILL)


@pytest.mark.soak
def test_killed_workers_and_executors_change_no_byte(everything: World, small_pieces: None) -> None:
    """Twenty times, at random moments of ten runs."""
    rng = random.Random(11)
    began = time.monotonic()
    run(everything, "warm", buckets=6)
    seconds = time.monotonic() - began
    killed: list[str] = []
    for number in range(10):
        moments = sorted(rng.uniform(0, 0.8 * seconds) for _ in range(2))
        thread = threading.Thread(target=kill_at, args=(moments, rng, killed))
        thread.start()
        run(everything, f"killed{number}", buckets=6)
        thread.join()
        same_as_local(everything, f"killed{number}")
    assert len(killed) >= 15, killed
    assert set(killed) == set(KILLED)


# --- sizes -------------------------------------------------------------------------------------------


@pytest.mark.soak
def test_one_user_with_a_million_events_and_a_bucket_of_ten_times_the_rows(tmp_path: Path) -> None:
    rng, events = np.random.default_rng(3), 1_100_000
    world = World(tmp_path)
    users = np.where(np.arange(events) < 1_000_000, 7, rng.integers(0, 300, events))
    start = 1_700_000_000_000_000
    times = timestamps(start + rng.integers(0, 10**13, events))
    world.write("interactions", {"user_id": users, "item_id": rng.integers(0, 2000, events), "timestamp": times})
    rows = 2_000
    world.write(
        "candidates",
        {
            "user_id": rng.integers(0, 300, rows),
            "item_id": rng.integers(0, 2000, rows),
            "timestamp": timestamps(start + rng.integers(0, 10**13, rows)),
        },
    )
    world.write("text", {"item_id": np.arange(2000), "embedding": vectors(rng.standard_normal((2000, 32)))})
    text = '[histories.recent]\nmax_events = 200\n[[aggregate]]\n[[dual]]\nhistories = ["recent"]\n'
    run(world, "local", text)
    run(world, "spark", text, buckets=8)
    assert written(tmp_path / "spark") == written(tmp_path / "local")


# --- processes of their own --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    need_spark()
    return {"SPARK_WORKER_DIR": str(tmp_path_factory.mktemp("workers")), "PYSPARK_PYTHON": sys.executable}


@pytest.mark.soak
def test_the_command_is_quiet_in_cron_and_exits_as_locally(
    everything: World, environment: dict[str, str], tmp_path: Path
) -> None:
    spec, output = everything.spec(EVERYTHING), everything.folder / "command"
    arguments = ["--engine", "spark", "--master", LOCAL_CLUSTER, "--conf", "spark.ui.enabled=false", "--buckets", "3"]
    ran = extembed_process("run", spec, "-o", output, *arguments, "-q", env=environment).ok()
    assert (ran.out, ran.err) == ("", "")
    same_as_local(everything, "command")
    before = written(output)
    text = everything.folder / "text.parquet"
    whole, table = text.read_bytes(), pq.read_table(text)
    try:
        pq.write_table(pa.concat_tables([table, table]), text)
        local = extembed("run", spec, "-o", output)
        spark = extembed_process("run", spec, "-o", output, *arguments, env=environment)
    finally:
        text.write_bytes(whole)
    assert (spark.code, spark.err) == (local.code, local.err) and local.code == 1
    assert written(output) == before


@pytest.mark.soak
def test_spark_submit_and_a_session_that_is_there(everything: World, environment: dict[str, str]) -> None:
    import subprocess

    import pyspark

    spec, output = everything.spec(EVERYTHING), everything.folder / "submitted"
    submit = Path(pyspark.__file__).parent / "bin" / "spark-submit"
    program = ROOT / "extembed_cli" / "__main__.py"
    command = [submit, "--master", LOCAL_CLUSTER, "--conf", "spark.ui.enabled=false", program]
    done = subprocess.run(
        [*map(str, command), "run", str(spec), "-o", str(output), "--engine", "spark", "-q"],
        env={**os.environ, **environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    same_as_local(everything, "submitted")


@pytest.mark.soak
def test_tables_of_spark_are_inputs(everything: World) -> None:
    session, folder = spark_session(), everything.folder
    session.read.parquet(str(folder / "interactions.parquet")).createOrReplaceTempView("log")
    names = f"""
interactions = "spark:log"
candidates = ["spark:parquet.`{folder}/candidates.parquet`"]
output = "tables"
[embeddings.text]
path = "spark:parquet.`{folder}/text.parquet`"
center = true
"""
    spec = load_spec(
        everything.spec(names + BOTH.replace('[embeddings.text]\npath = "text.parquet"\ncenter = true', ""))
    )
    report = run_on_spark(spec, RunOptions(workers=1), Watch(), SparkOptions())
    assert report["input_paths"]["interactions"] == "spark:log"
    extembed("verify", folder / "tables").ok()
    one, other = (pq.read_table(sorted((folder / name).glob("*.parquet"))) for name in ("tables", "both"))
    features = [column.name for column in feature_columns(folder / "tables")]
    assert len(features) > 5 and one.select(features).equals(other.select(features))
    extembed("run", everything.folder / "spec.toml").failed(2, "spark:log: is a table of Spark", "--engine spark")
    with pytest.raises(ExtembedError, match="spark:nothing: Spark cannot read this table"):
        spec = load_spec(everything.spec(names.replace("spark:log", "spark:nothing") + "[[aggregate]]"))
        run_on_spark(spec, RunOptions(workers=1), Watch(), SparkOptions())


@pytest.mark.soak
def test_flags_that_do_not_fit(everything: World) -> None:
    spec = everything.spec(EVERYTHING)
    for flags, message in {
        ("--engine", "sprak"): "did you mean `spark`",
        ("--master", "yarn"): "is for --engine spark",
        ("--engine", "spark", "--conf", "memory=4g"): "write KEY=VALUE",
        ("--engine", "spark", "--ship", "much"): "not a size",
        ("--engine", "spark", "--dry-run"): "plans a local run",
    }.items():
        extembed("run", spec, *flags).failed(2, message)
