"""The engine on Spark: the bytes of a local run, whatever dies on the way, and errors as they are locally.

The features themselves are tested by the tests that use `engine`, which run on Spark with the bodies of a local run.
"""

from __future__ import annotations

import errno
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import EXTEMBED, ROOT, World, extembed, extembed_process, small_world, soak, timestamps, vectors
from helpers.engines import EVERY_KEY_OF_A_FIT, LOCAL_CLUSTER, need_spark, on_spark, spark_session

from extembed_cli import feature_columns
from extembed_cli.data.files.parquet import open_table
from extembed_cli.data.inputs import unit_vectors
from extembed_cli.data.outputs import feature_file
from extembed_cli.data.outputs.feature_file import FeatureTable
from extembed_cli.data.outputs.shard_results import FeaturePart
from extembed_cli.engines.spark import reading
from extembed_cli.engines.spark.cluster import Cluster
from extembed_cli.engines.spark.computing import FEATURES, packets_of_features
from extembed_cli.engines.spark.failures import as_ours
from extembed_cli.engines.spark.packets import frames_in, table_of
from extembed_cli.engines.spark.residuals import windows_of
from extembed_cli.engines.spark.writing import rows_of_part
from extembed_cli.errors import ExtembedError, ResourceError
from extembed_cli.features import prepare
from extembed_cli.jobs import spark_logs, spark_vectors
from extembed_cli.jobs.options import RunOptions
from extembed_cli.jobs.run import run_job
from extembed_cli.jobs.sample import write_sample
from extembed_cli.jobs.spark_passes import SparkOptions, run_on_spark
from extembed_cli.spec.loading import load_spec
from extembed_cli.system.progress import Watch
from extembed_cli.system.signals import STOPPED

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
LOGS = 'interactions = "interactions.parquet"\ncandidates = "candidates.parquet"\n'
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
    world.write("text", world.table("text"), row_group_size=10)
    world.write("profile", {"user_id": np.arange(25), "embedding": vectors(rng.standard_normal((25, 8)))})
    for name, text in (("both", BOTH), ("everything", EVERYTHING)):
        run(world, name, text)
        shutil.move(world.folder / "users.parquet", world.folder / f"users_{name}.parquet")
    return world


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read the logs and the tables in small pieces, and compute residuals in short windows."""
    monkeypatch.setattr(reading, "SPLIT_ROWS", 150)
    monkeypatch.setattr(spark_logs, "WINDOW_ROWS", 100)


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
def test_all_problems_of_joined_tables_are_told_as_locally(world: World) -> None:
    """Of a table with an unusable vector, and one with a vector that is the mean of the table."""
    need_spark()
    world.write("one", {"item_id": [1, 2, 3], "embedding": vectors(np.array([[1.0, 2], [1, np.nan], [0, 1]]))})
    world.write("two", {"item_id": [1, 2, 3], "embedding": vectors(np.array([[0.0, 1], [0, 2], [0, 3]]))})
    tables = "".join(f'[embeddings.{name}]\npath = "{name}.parquet"\n' for name in ("two", "one"))
    tables = tables.replace('two.parquet"\n', 'two.parquet"\ncenter = true\n')
    spec = load_spec(world.spec(f'{LOGS}output = "none"\n{tables}[[aggregate]]\n'))
    messages = []
    for options in ({}, {"start": on_spark(**JOINED)}):
        with pytest.raises(ExtembedError) as caught:
            run_job(spec, RunOptions(workers=1), Watch(), **options)
        messages.append(str(caught.value))
    assert "equal to the mean" in messages[0] and "not finite" in messages[0]
    assert messages[0] == messages[1]


@pytest.mark.soak
def test_columns_of_vectors_are_those_of_all_files(world: World) -> None:
    """A pattern names the columns that all files of a table have, though a task reads one file."""
    need_spark()
    values = np.random.default_rng(2).standard_normal((35, 4))
    table = pa.table({"item_id": np.arange(35), **{f"d{number}": values[:, number] for number in range(4)}})
    (world.folder / "text.parquet").unlink()
    world.write("text.parquet/0", table.slice(0, 20), row_group_size=7)
    world.write("text.parquet/1", table.slice(20).append_column("days", pa.array(np.arange(15.0))), row_group_size=7)
    text = '[embeddings.text]\npath = "text.parquet"\ncolumns.embedding = "d*"\n[[aggregate]]\n'
    run(world, "local", text)
    run(world, "joined", text, **JOINED)
    assert written(world.folder / "joined") == written(world.folder / "local")


@pytest.mark.soak
def test_no_user_has_a_vector(world: World) -> None:
    """The file of user vectors is empty, with the users' own type."""
    need_spark()
    log = world.table("interactions")
    users = pa.array([int(user).to_bytes(16) for user in log["user_id"].to_numpy()], pa.binary(16))
    world.write("interactions", log.set_column(log.column_names.index("user_id"), "user_id", users))
    world.write("text", {"item_id": [1000, 1001], "embedding": vectors(np.eye(2))})
    text = 'interactions = "interactions.parquet"\n[embeddings.text]\npath = "text.parquet"\n[[dual]]\n'
    spec = world.spec(f'{text}user_vectors = "users.parquet"\n[require]\nallow_empty = true\n')
    files = []
    for options in ({}, {"start": on_spark()}):
        run_job(load_spec(spec), RunOptions(workers=1), Watch(), **options)
        files.append((world.folder / "users.parquet").read_bytes())
    assert pq.read_schema(world.folder / "users.parquet").field("user_id").type == pa.binary(16)
    assert files[0] == files[1]


def test_a_part_of_many_row_groups_has_the_features_of_all_buckets(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows of a bucket are all over the part, and those of two buckets come together in any order."""
    monkeypatch.setattr(feature_file, "ROW_GROUP", 30)
    candidates = open_table("candidates", str(world.folder / "candidates.parquet"))
    table = FeatureTable.of(candidates, {"feature": "Float32"}, {"columns": []})
    numbers = np.arange(300)
    packets = [
        packet
        for bucket in (2, 0)  # the rows of a third bucket have no value
        for rows in [numbers[numbers % 3 == bucket]]
        for packet in packets_of_features(FeaturePart(rows, {"feature": rows.astype(np.float32)}), 1000)
    ]
    batches = list(rows_of_part(table, 0, frames_in(table_of(packets), FEATURES)))
    assert len(batches) == 10
    written = pa.Table.from_batches(batches)["feature"].to_pylist()
    assert written == [None if number % 3 == 1 else number for number in range(300)]


def test_windows_of_residuals_have_about_as_many_events_each() -> None:
    """Old events in small numbers, such as one with a time of 1970, do not make a window of all the others."""
    day = 86_400_000_000
    per_day = [(np.array([0, 20_000, 20_001]), np.array([1, 60, 60])), (np.array([20_001, 20_002]), np.array([50, 30]))]
    starts = windows_of(0, per_day, 100)
    assert starts == [0, 20_002]
    assert windows_of(day // 2, per_day, 100) == [0, 20_002]  # days begin at the time of the first event
    assert windows_of(0, per_day, 10) == [0, 20_001, 20_002]


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
def environment() -> dict[str, str]:
    need_spark()
    return {"PYSPARK_PYTHON": sys.executable}


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
def test_a_cluster_without_executors_is_told_and_a_signal_ends_the_wait(
    everything: World, environment: dict[str, str]
) -> None:
    spec, output = everything.spec(EVERYTHING), everything.folder / "never"
    arguments = ["--engine", "spark", "--master", "local-cluster[0,1,1024]", "--conf", "spark.ui.enabled=false"]
    process = subprocess.Popen(
        [*EXTEMBED, "run", str(spec), "-o", str(output), *arguments, "-q"],
        env={**os.environ, **environment},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert "Spark has granted no executor yet" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, f"{STOPPED}\n")
    assert not output.exists()


@pytest.mark.parametrize(
    ("text", "cure"),
    [
        ("Lost task 3.3 in stage 2.0 (executor 1): java.lang.OutOfMemoryError: Java heap space", "executor.memory"),
        ("ExecutorLostFailure (executor 2 exited): exit code 137", "executor.memoryOverhead"),
        ("An error occurred while calling o7.toArrow.\n: java.lang.OutOfMemoryError: heap", "spark.driver.memory"),
        ("Lost task 0.0: java.io.IOException: No space left on device", "spark.local.dir"),
        ("[Errno 111] Connection refused", "driver's Java process has ended"),
    ],
)
def test_an_error_of_spark_says_what_to_set(text: str, cure: str) -> None:
    ours = as_ours(RuntimeError(text))
    assert isinstance(ours, ResourceError) and cure in str(ours)


def test_a_full_disk_of_the_driver_stays_one() -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    assert as_ours(full) is full


@pytest.mark.soak
@pytest.mark.parametrize(
    ("master", "reason"),
    [("local[x]", "Could not parse Master URL: 'local[x]'"), ("yarn", "HADOOP_CONF_DIR or YARN_CONF_DIR must be set")],
)
def test_spark_says_why_it_does_not_start(everything: World, master: str, reason: str) -> None:
    ran = extembed_process("run", everything.spec(BOTH), "--engine", "spark", "--master", master)
    assert ran.code == 2 and "Spark does not start: " in ran.err and reason in ran.err
    assert len(ran.err.splitlines()) == 1


@pytest.mark.soak
def test_the_program_of_the_docs_leaves_the_session(everything: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """In another thread, where no session is active."""
    session = spark_session()
    everything.spec(LOGS + BOTH.replace("[emb", 'output = "program"\n[emb', 1))
    monkeypatch.chdir(everything.folder)
    (program,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/how-to/spark.md").read_text(), re.DOTALL)
    with ThreadPoolExecutor(1) as thread:
        thread.submit(exec, program, {}).result()
    same_as_local(everything, "program", "both")
    assert session.range(3).count() == 3


@pytest.mark.soak
def test_spark_submit_and_a_session_that_is_there(everything: World, environment: dict[str, str]) -> None:
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
def test_tables_of_spark_are_inputs(everything: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    monkeypatch.chdir(tmp_path)
    report = run_on_spark(spec, RunOptions(workers=1, scratch=Path("scratch")), Watch(), SparkOptions())
    assert report["input_paths"]["interactions"] == "spark:log"
    verified = extembed("verify", folder / "tables").ok()
    assert "0 of 3 unchanged, 3 tables of Spark not compared" in verified.out
    one, other = (pq.read_table(sorted((folder / name).glob("*.parquet"))) for name in ("tables", "both"))
    features = [column.name for column in feature_columns(folder / "tables")]
    assert len(features) > 5 and one.select(features).equals(other.select(features))
    extembed("run", everything.folder / "spec.toml").failed(2, "spark:log: is a table of Spark", "--engine spark")
    with pytest.raises(ExtembedError, match="spark:nothing: Spark cannot read this table"):
        spec = load_spec(everything.spec(names.replace("spark:log", "spark:nothing") + "[[aggregate]]"))
        run_on_spark(spec, RunOptions(workers=1), Watch(), SparkOptions())


@pytest.mark.soak
def test_a_table_of_spark_whose_files_are_on_another_machine(
    everything: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Cluster.write

    def write_elsewhere(cluster: Cluster, name: str, table: Any, folder: str) -> int:
        rows = write(cluster, name, table, folder)
        next(Path(folder).glob("*.parquet")).unlink()  # as if another machine had written it to a disk of its own
        return rows

    monkeypatch.setattr(Cluster, "write", write_elsewhere)
    path = f"spark:parquet.`{everything.folder}/interactions.parquet`"
    logs = f'interactions = "{path}"\ncandidates = "candidates.parquet"\noutput = "none"\n'
    spec = load_spec(everything.spec(f'{logs}[embeddings.text]\npath = "text.parquet"\n[[aggregate]]\n'))
    with pytest.raises(
        ResourceError, match=r"Spark has written 600 rows .* Name a folder that all machines share by --s"
    ):
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
