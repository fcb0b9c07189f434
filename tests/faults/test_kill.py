"""`kill -9` at named places and at random times leaves the old or the new output, and the next run cleans up."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import World, soak
from helpers.faults import (
    DIRECTORY,
    FILE,
    KILLED,
    NEW,
    OLD,
    Fault,
    arguments,
    assert_tidy,
    build,
    drive,
    frame,
    place,
    run_clean,
    start,
    state,
)

# The state on disk depends only on the place of the kill. The rename of the file, or of the manifest, commits.
WRITER = "pyarrow.parquet:ParquetWriter"
FILE_OLD = [
    Fault(f"{WRITER}.write_batch", "after", 2),
    Fault("pathlib:Path.replace"),
]
FILE_OLD_SOAK = [
    Fault("filelock:FileLock.acquire", "after"),
    Fault("extembed_cli.jobs.run:load"),
    Fault("extembed_cli.jobs.run:load", "after"),
    Fault("extembed_cli.jobs.run:prepare", "after"),
    Fault("extembed_cli.engines.base:compute_shard"),
    Fault("extembed_cli.jobs.run:_compute", "after"),
    Fault("extembed_cli.jobs.outputs:write_features"),
    Fault(f"{WRITER}.close"),
    Fault(f"{WRITER}.close", "after"),
    Fault("extembed_cli.jobs.outputs:write_features", "after"),
    Fault("pathlib:Path.write_text"),
    Fault("pathlib:Path.write_text", "after"),
    Fault("os:fsync"),
    Fault("os:fsync", "after", 2),
]
FILE_NEW = [
    Fault("pathlib:Path.replace", "after"),
]
FILE_NEW_SOAK = [
    Fault("os:fsync", "before", 3),  # the fsync of the folder
    Fault("os:fsync", "after", 3),
    Fault("pathlib:Path.replace", "after", 2),
    Fault("filelock:FileLock.release"),
]
DIRECTORY_OLD = [
    Fault("pathlib:Path.replace", "after", 1),
    Fault("pathlib:Path.replace", "before", 4),
]
DIRECTORY_OLD_SOAK = [
    Fault("filelock:FileLock.acquire", "after"),
    Fault("extembed_cli.jobs.run:load", "after"),
    Fault("extembed_cli.engines.base:compute_shard"),
    Fault("extembed_cli.jobs.run:_compute", "after"),
    Fault(f"{WRITER}.write_batch", "after"),
    Fault(f"{WRITER}.close", "before", 2),
    Fault("extembed_cli.jobs.outputs:write_features", "after"),
    Fault("pathlib:Path.write_text", "after"),
    Fault("pathlib:Path.write_text", "after", 2),
    Fault("os:fsync", "before", 2),
    Fault("os:fsync", "after", 4),
    Fault("pathlib:Path.replace"),
    Fault("pathlib:Path.replace", "after", 2),
]
DIRECTORY_NEW = [
    Fault("pathlib:Path.replace", "after", 4),
]
DIRECTORY_NEW_SOAK = [
    Fault("pathlib:Path.unlink"),  # the first old part is removed
    Fault("pathlib:Path.unlink", "after", 2),
    Fault("pathlib:Path.replace", "after", 5),
    Fault("os:fsync", "before", 9),
    Fault("filelock:FileLock.release"),
]
FIRST_FILE = [
    Fault(f"{WRITER}.write_batch", "after", 2),
]
FIRST_FILE_SOAK = [
    Fault("pathlib:Path.replace"),
]
FIRST_DIRECTORY = [
    Fault("pathlib:Path.replace", "before", 4),
]
FIRST_DIRECTORY_SOAK = [
    Fault(f"{WRITER}.write_batch", "after"),
    Fault("pathlib:Path.write_text", "after"),
    Fault("pathlib:Path.replace", "after", 1),
]


def places(faults: Sequence[Fault], more: Sequence[Fault]) -> pytest.MarkDecorator:
    """Parametrize a test over faults; `make soak` runs it at more places."""
    cases = [pytest.param(fault, id=place(fault)) for fault in faults]
    return pytest.mark.parametrize("fault", [*cases, *(soak(fault, id=place(fault)) for fault in more)])


class Base(NamedTuple):
    """A world with an old output of each kind, and the new outputs of clean runs elsewhere."""

    folder: Path
    old: dict[str, dict[str, bytes]]
    new: dict[str, dict[str, bytes]]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    """Provides a world with old outputs, and the new outputs to compare with."""
    folder = tmp_path_factory.mktemp("base")
    clean = build(tmp_path_factory.mktemp("clean"))
    world = build(folder)
    old = {kind: run_clean(world, kind, OLD) for kind in (FILE, DIRECTORY)}
    new = {kind: run_clean(clean, kind, NEW) for kind in (FILE, DIRECTORY)}
    assert all(old[kind] != new[kind] for kind in old)
    assert len(new[DIRECTORY]) == 4  # the manifest and three parts
    return Base(folder, old, new)


def copy(base: Base, folder: Path, kind: str, with_old: bool = True) -> World:
    """Copy the base with its old output of one kind, or without an old output."""
    world = World(folder / "world")
    shutil.copytree(base.folder, world.folder, ignore=shutil.ignore_patterns("out"))
    (world.folder / "out").mkdir()
    if with_old:
        name = Path(kind).name
        if kind == DIRECTORY:
            shutil.copytree(base.folder / kind, world.folder / kind)
        else:
            shutil.copy(base.folder / kind, world.folder / kind)
        shutil.copy(base.folder / "out" / f"{name}.run.json", world.folder / "out")
    return world


def kill(world: World, kind: str, fault: Fault) -> None:
    with drive(*arguments(world, kind), faults=(fault,)) as run:
        assert run.reached().end().code == KILLED


def assert_next_run_succeeds(world: World, kind: str, new: dict[str, bytes]) -> None:
    """Check that the next run needs no cleanup and leaves the same files as a clean run."""
    assert run_clean(world, kind, NEW) == new
    assert_tidy(world.folder / kind)


@places(FILE_OLD, FILE_OLD_SOAK)
def test_a_file_is_the_old_one_until_the_rename(base: Base, tmp_path: Path, fault: Fault) -> None:
    world = copy(base, tmp_path, FILE)
    kill(world, FILE, fault)
    assert state(world.folder / FILE) == base.old[FILE]
    assert_next_run_succeeds(world, FILE, base.new[FILE])


@places(FILE_NEW, FILE_NEW_SOAK)
def test_a_file_is_the_new_one_from_the_rename_on(base: Base, tmp_path: Path, fault: Fault) -> None:
    world = copy(base, tmp_path, FILE)
    kill(world, FILE, fault)
    assert state(world.folder / FILE) == base.new[FILE]
    assert_next_run_succeeds(world, FILE, base.new[FILE])


@places(DIRECTORY_OLD, DIRECTORY_OLD_SOAK)
def test_a_directory_is_the_old_one_until_its_manifest(base: Base, tmp_path: Path, fault: Fault) -> None:
    world = copy(base, tmp_path, DIRECTORY)
    kill(world, DIRECTORY, fault)
    assert state(world.folder / DIRECTORY) == base.old[DIRECTORY]
    assert_next_run_succeeds(world, DIRECTORY, base.new[DIRECTORY])


@places(DIRECTORY_NEW, DIRECTORY_NEW_SOAK)
def test_a_directory_is_the_new_one_from_its_manifest_on(base: Base, tmp_path: Path, fault: Fault) -> None:
    world = copy(base, tmp_path, DIRECTORY)
    kill(world, DIRECTORY, fault)
    assert state(world.folder / DIRECTORY) == base.new[DIRECTORY]
    assert_next_run_succeeds(world, DIRECTORY, base.new[DIRECTORY])


@places(FIRST_FILE, FIRST_FILE_SOAK)
def test_a_first_file_is_there_whole_or_not_at_all(base: Base, tmp_path: Path, fault: Fault) -> None:
    world = copy(base, tmp_path, FILE, with_old=False)
    kill(world, FILE, fault)
    assert not (world.folder / FILE).exists()
    assert_next_run_succeeds(world, FILE, base.new[FILE])


@places(FIRST_DIRECTORY, FIRST_DIRECTORY_SOAK)
def test_a_first_directory_without_a_manifest_does_not_stop_the_next_run(
    base: Base, tmp_path: Path, fault: Fault
) -> None:
    world = copy(base, tmp_path, DIRECTORY, with_old=False)
    kill(world, DIRECTORY, fault)
    assert state(world.folder / DIRECTORY) is None
    assert_next_run_succeeds(world, DIRECTORY, base.new[DIRECTORY])


@pytest.mark.soak
def test_a_run_after_several_kills_succeeds(base: Base, tmp_path: Path) -> None:
    world = copy(base, tmp_path, DIRECTORY)
    for fault in (Fault(f"{WRITER}.close"), Fault("pathlib:Path.replace", "after", 2), DIRECTORY_NEW[0]):
        kill(world, DIRECTORY, fault)
    assert_next_run_succeeds(world, DIRECTORY, base.new[DIRECTORY])


def test_the_directory_of_a_killed_run_can_be_an_input(base: Base, tmp_path: Path) -> None:
    """It has new and old parts. A run that reads it takes the parts in the manifest."""
    world = copy(base, tmp_path, DIRECTORY)
    kill(world, DIRECTORY, Fault("pathlib:Path.replace", "before", 4))
    assert len(list((world.folder / DIRECTORY).glob("part-*.parquet"))) == 6
    spec = world.folder / "next.toml"
    spec.write_text(
        f'interactions = "interactions.parquet"\ncandidates = "{DIRECTORY}"\n[embeddings.text]\npath = "text.parquet"\n'
        '[[aggregate]]\nname = "next"\n'
    )
    with start("run", spec, "-o", world.folder / "next.parquet") as run:
        run.end().ok()
    assert frame(world.folder / "next.parquet").height == 300


def timed(world: World, kind: str, rows: int) -> tuple[dict[str, bytes], float]:
    """Run in a process of its own. Return its output files and its seconds."""
    began = time.monotonic()
    with drive(*arguments(world, kind), rows=rows) as run:
        run.end().ok()
    seconds = time.monotonic() - began
    output = state(world.folder / kind)
    assert output is not None
    return output, seconds


@pytest.mark.parametrize(("kind", "kills"), [(FILE, 2), soak(FILE, 8), soak(DIRECTORY, 8)])
def test_a_kill_at_a_random_time_leaves_the_old_or_the_new_output(tmp_path: Path, kind: str, kills: int) -> None:
    """The times of the kills are uniform over the duration of a run."""
    world = build(tmp_path / "world", 6_000, 6_000, 32)
    rows = 2**11
    old = run_clean(world, kind, OLD, rows=rows)
    shutil.copytree(world.folder / "out", tmp_path / "kept")
    new, seconds = timed(world, kind, rows)
    draw = random.Random(5)
    for _ in range(kills):
        shutil.rmtree(world.folder / "out")
        shutil.copytree(tmp_path / "kept", world.folder / "out")
        with drive(*arguments(world, kind), rows=rows) as run:
            time.sleep(draw.uniform(0, seconds))
            run.process.kill()
            run.process.wait()
        assert state(world.folder / kind) in (old, new)
    assert run_clean(world, kind, NEW, rows=rows) == new
    assert_tidy(world.folder / kind)


@pytest.mark.soak
@pytest.mark.parametrize("kind", [FILE, DIRECTORY])
def test_a_hundred_kills_in_a_row_leave_the_old_or_the_new_output(tmp_path: Path, kind: str) -> None:
    """Each run starts from the files that the last kill left."""
    world = build(tmp_path / "world", 20_000, 20_000, 16)
    rows = 2**12
    expected = [run_clean(world, kind, OLD, rows=rows), run_clean(world, kind, NEW, rows=rows)]
    _, seconds = timed(world, kind, rows)
    draw = random.Random(6)
    for number in range(100):
        with drive(*arguments(world, kind, (OLD, NEW)[number % 2]), rows=rows) as run:
            time.sleep(draw.uniform(seconds / 3, seconds))
            run.process.kill()
            run.process.wait()
        assert state(world.folder / kind) in expected
    assert run_clean(world, kind, NEW, rows=rows) == expected[1]
    assert_tidy(world.folder / kind)
