"""After a kill, the next run resumes from the finished shards and writes the bytes of a clean run."""

from __future__ import annotations

import json
import random
import resource
import shutil
import time
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import World, soak
from helpers.faults import KILLED, Fault, Run, build, drive, place, undisturbed

SHARDS = 6
SPEC = """
[histories.liked]
where = "rating >= 4"
[[aggregate]]
half_lives = ["7d"]
[[dual]]
histories = ["all"]
unobserved_weight = 0.1
sd = true
user_vectors = "users.parquet"
"""
SAVED = Fault("extembed_cli.data.outputs.shard_results:ShardResult.save", "after", 3)
FILES = ("out.parquet", "users.parquet")


@pytest.fixture
def big(tmp_path: Path) -> World:
    """Provides a world whose job runs in shards."""
    return make_big(tmp_path)


def make_big(folder: Path) -> World:
    """Build a world whose job runs in shards."""
    world = build(folder, rows=900, events=2000)
    world.spec(SPEC)
    return world


def start(world: World, *flags: str, faults: tuple[Fault, ...] = ()) -> Run:
    return drive("run", str(world.folder / "spec.toml"), *flags, faults=faults, shards=SHARDS)


def finish(world: World, *flags: str) -> tuple[str, int]:
    """Run to the end. Return stderr and the number of shards that were resumed."""
    log = undisturbed("run", world.folder / "spec.toml", *flags, shards=SHARDS).ok().err
    assert not list(world.folder.glob(".*")), "something is left behind"
    report = json.loads((world.folder / "out.parquet.run.json").read_text())
    assert report["shards"] == SHARDS
    return log, report["resumed_shards"]


def bytes_of(world: World) -> dict[str, bytes]:
    return {name: (world.folder / name).read_bytes() for name in FILES}


def report_of(world: World) -> dict[str, object]:
    """Return the parts of the run report that do not depend on time."""
    report = json.loads((world.folder / "out.parquet.run.json").read_text())
    return {name: report[name] for name in ("inputs", "cosines", "dual", "candidates_in_own_history", "output_sha256")}


def clean(world: World) -> tuple[dict[str, bytes], dict[str, object]]:
    """Run without faults, return the files and the report, and remove the output again."""
    assert finish(world)[1] == 0
    result = bytes_of(world), report_of(world)
    for path in world.folder.glob("*.run.json"):
        path.unlink()
    for name in FILES:
        (world.folder / name).unlink()
    return result


@pytest.mark.parametrize(
    ("fault", "resumed"),
    [
        soak(Fault("extembed_cli.data.inputs.inputs:read_candidates", "after"), 0),
        soak(Fault("extembed_cli.data.shards.frame_streams:FrameStreams.write", "after", 9), 0),
        soak(Fault("extembed_cli.data.shards.scratch:Scratch.write_json", "before", 2), 0),
        soak(Fault("extembed_cli.data.shards.scratch:Scratch.write_json", "after", 2), 0),
        soak(Fault("extembed_cli.data.outputs.shard_results:FeaturePart.save", "after", 2), 1),
        soak(Fault("extembed_cli.data.outputs.shard_results:ShardResult.save", "before", 3), 2),
        (SAVED, 3),
        soak(Fault("extembed_cli.jobs.local_passes:write_features"), SHARDS),
        soak(Fault("extembed_cli.jobs.outputs:write_vectors", "after"), SHARDS),
        soak(Fault("pathlib:Path.replace", "before", 5 + 3 * SHARDS), SHARDS),
    ],
    ids=lambda case: place(case) if isinstance(case, Fault) else None,
)
def test_a_run_killed_at_a_named_place_is_resumed(big: World, fault: Fault, resumed: int) -> None:
    expected, report = clean(big)
    with start(big, faults=(fault,)) as run:
        assert run.end().code == KILLED
    log, shards = finish(big)
    assert shards == resumed
    assert (f"resuming a killed run; {resumed} of {SHARDS} shards are done" in log) == (resumed > 0)
    assert bytes_of(big) == expected
    assert report_of(big) == report


@pytest.mark.soak
def test_a_run_killed_after_every_shard_is_resumed(big: World) -> None:
    """Each run finishes one more shard."""
    expected, report = clean(big)
    for _ in range(SHARDS):
        with start(big, faults=(Fault("extembed_cli.data.outputs.shard_results:ShardResult.save", "after", 1),)) as run:
            assert run.end().code == KILLED
    assert finish(big)[1] == SHARDS
    assert bytes_of(big) == expected
    assert report_of(big) == report


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(24))
def test_a_run_killed_at_random_moments_is_resumed(big: World, seed: int) -> None:
    """It is killed twice and then runs to the end. A run takes about a second."""
    expected, _ = clean(big)
    rng = random.Random(seed)
    for _ in range(2):
        with start(big) as run:
            time.sleep(rng.uniform(0.3, 1.6))
            run.process.kill()
            run.process.wait()
    finish(big)
    assert bytes_of(big) == expected


class Killed(NamedTuple):
    """A world whose run was killed after three shards, a snapshot to restore it, and the files of a clean run."""

    world: World
    snapshot: Path
    expected: dict[str, bytes]


@pytest.fixture(scope="module")
def killed_once(tmp_path_factory: pytest.TempPathFactory) -> Killed:
    """Provides a killed run. Its folder keeps its path, because leftovers belong to the path of the output."""
    world = make_big(tmp_path_factory.mktemp("killed"))
    expected, _ = clean(world)
    with start(world, faults=(SAVED,)) as run:
        assert run.end().code == KILLED
    assert len(list(world.folder.glob(".extembed-*/shard-*.json"))) == 3
    return Killed(world, shutil.copytree(world.folder, tmp_path_factory.mktemp("snapshot") / "world"), expected)


@pytest.fixture
def killed(killed_once: Killed) -> World:
    """Provides the world as it was when the run was killed."""
    shutil.rmtree(killed_once.world.folder)
    shutil.copytree(killed_once.snapshot, killed_once.world.folder)
    return killed_once.world


@pytest.mark.soak
def test_a_shard_with_torn_files_is_computed_again(killed: World, killed_once: Killed) -> None:
    """After a power failure a file may have its name but no content."""
    for number, name in enumerate(("features-*.arrow", "vectors-*.arrow")):
        path = sorted(killed.folder.glob(f".extembed-*/{name}"))[number]
        path.write_bytes(b"")
    assert finish(killed)[1] == 1
    assert bytes_of(killed) == killed_once.expected


@pytest.mark.soak
@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("events-0001-*.arrow", "cut short"),
        ("vocabulary.arrow", "missing"),
        ("events-0001-*.arrow", "missing"),
        ("candidates-0000-*.arrow", "cut short"),
        ("candidates-0000-*.arrow", "missing"),
        ("vocabulary.arrow", "cut short"),
    ],
)
def test_logs_that_are_torn_are_read_again(killed: World, killed_once: Killed, name: str, how: str) -> None:
    (path,) = killed.folder.glob(f".extembed-*/{name}")
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-8])
    assert finish(killed)[1] == 3
    assert bytes_of(killed) == killed_once.expected


@pytest.mark.soak
def test_a_damaged_log_is_reported_with_its_name(killed: World) -> None:
    for path in killed.folder.glob(".extembed-*/events-*.arrow"):
        path.write_bytes(bytes(path.stat().st_size))
    done = undisturbed("run", killed.folder / "spec.toml", shards=SHARDS)
    done.failed(3, ".extembed-", "events-", "--fresh")


def test_another_spec_starts_over(killed: World) -> None:
    log, shards = finish(killed, "--set", 'aggregate.0.half_lives=["9d"]')
    assert shards == 0
    assert "a killed run cannot be resumed: it had another spec. Starting over" in log


def test_other_inputs_start_over(killed: World) -> None:
    killed.write("candidates", killed.table("candidates").slice(1))
    log, shards = finish(killed)
    assert (shards, "it had other inputs" in log) == (0, True)


def test_rewritten_inputs_with_the_same_content_are_resumed(killed: World) -> None:
    for name in ("interactions", "candidates"):
        path = killed.folder / f"{name}.parquet"
        path.write_bytes(path.read_bytes())
    assert finish(killed)[1] == 3


def test_another_version_starts_over(killed: World) -> None:
    (job,) = killed.folder.glob(".extembed-*/job.json")
    data = json.loads(job.read_text())
    data["job"]["another version"] = "0"
    job.write_text(json.dumps(data))
    log, shards = finish(killed)
    assert (shards, "it had another version" in log) == (0, True)


def test_fresh_starts_over(killed: World) -> None:
    log, shards = finish(killed, "--fresh")
    assert (shards, log.count("resuming"), log.count("cannot be resumed")) == (0, 0, 0)


def test_shards_too_large_for_the_memory_start_over(killed: World) -> None:
    log = undisturbed("run", killed.folder / "spec.toml", shards=SHARDS + 1).ok().err
    assert "its shards are too large for this run's memory" in log
    assert not list(killed.folder.glob(".*"))


def test_smaller_shards_than_needed_are_resumed(killed: World) -> None:
    undisturbed("run", killed.folder / "spec.toml", shards=SHARDS - 2).ok()
    assert json.loads((killed.folder / "out.parquet.run.json").read_text())["resumed_shards"] == 3


def test_a_job_that_now_fits_into_memory_is_still_resumed(killed: World, killed_once: Killed) -> None:
    log = undisturbed("run", killed.folder / "spec.toml").ok().err
    assert f"resuming a killed run; 3 of {SHARDS} shards are done" in log
    assert not list(killed.folder.glob(".*"))
    assert bytes_of(killed) == killed_once.expected


@pytest.mark.soak
def test_a_job_that_now_fits_starts_over_if_no_shard_was_finished(big: World) -> None:
    expected, _ = clean(big)
    with start(big, faults=(Fault("extembed_cli.data.shards.scratch:Scratch.write_json", "after", 2),)) as run:
        assert run.end().code == KILLED
    log = undisturbed("run", big.folder / "spec.toml").ok().err
    assert "it had finished no shard. Starting over" in log
    assert not list(big.folder.glob(".*"))
    assert bytes_of(big) == expected


@pytest.mark.parametrize(("hard", "code"), [(60, 5), soak(1000, 0)])
def test_more_shards_than_open_files_raise_the_soft_limit(big: World, hard: int, code: int) -> None:
    """Beyond the hard limit the run fails with an error."""
    with drive(
        "run", str(big.folder / "spec.toml"), shards=20,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (40, hard)),
    ) as run:  # fmt: skip
        ran = run.end()
    assert ran.code == code, ran.err
    assert not list(big.folder.glob(".*"))
    assert (big.folder / "out.parquet").exists() == (code == 0)
    if code:
        ran.failed(5, "open files", "ulimit -n")
        return
    assert bytes_of(big) == clean(big)[0]


@pytest.mark.parametrize("signal_name", ["SIGINT", soak("SIGTERM")])
def test_a_run_stopped_by_a_signal_leaves_nothing(big: World, signal_name: str) -> None:
    stop = Fault("extembed_cli.data.outputs.shard_results:ShardResult.save", "after", 3, signal_name)
    with start(big, faults=(stop,)) as run:
        assert run.end().code in {130, 143}
    assert not list(big.folder.glob(".*"))
    assert not (big.folder / "out.parquet").exists()
