"""`kill -9` at named places and at random times leaves the old or the new output, and the next run cleans up."""

from __future__ import annotations

import os
import random
import shutil
import threading
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
    MANIFEST,
    NEW,
    OLD,
    Fault,
    arguments,
    assert_tidy,
    build,
    drive,
    place,
    run_clean,
    state,
    undisturbed,
)

from extembed_cli.data.files import commit
from extembed_cli.data.shards.scratch import scratch_folder

# The state on disk depends only on the place of the kill. The rename of a file, or the exchange of folders, commits.
WRITER = "pyarrow.parquet:ParquetWriter"
FILE_OLD = [Fault("pathlib:Path.replace")]
FILE_OLD_SOAK = [
    Fault(f"{WRITER}.write_batch", "after", 2),
    Fault("filelock:FileLock.acquire", "after"),
    Fault("extembed_cli.jobs.local_passes:load"),
    Fault("extembed_cli.jobs.local_passes:load", "after"),
    Fault("extembed_cli.jobs.local_passes:prepare", "after"),
    Fault("extembed_cli.engines.base:compute_shard"),
    Fault("extembed_cli.jobs.local_passes:_compute", "after"),
    Fault("extembed_cli.jobs.local_passes:write_features"),
    Fault(f"{WRITER}.close"),
    Fault(f"{WRITER}.close", "after"),
    Fault("extembed_cli.jobs.local_passes:write_features", "after"),
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
EXCHANGE = "extembed_cli.data.files.commit:exchange"
DIRECTORY_OLD = [Fault(EXCHANGE)]
DIRECTORY_OLD_SOAK = [
    Fault("pathlib:Path.rename", "after", 1),  # a part got its name
    Fault("filelock:FileLock.acquire", "after"),
    Fault("extembed_cli.jobs.local_passes:load", "after"),
    Fault("extembed_cli.engines.base:compute_shard"),
    Fault("extembed_cli.jobs.local_passes:_compute", "after"),
    Fault(f"{WRITER}.write_batch", "after"),
    Fault(f"{WRITER}.close", "before", 2),
    Fault("extembed_cli.data.outputs.feature_file:write_json"),
    Fault("extembed_cli.data.outputs.feature_file:write_json", "after"),
    Fault("extembed_cli.jobs.local_passes:write_features", "after"),
    Fault("pathlib:Path.write_text", "after", 2),
    Fault("os:fsync", "before", 2),
    Fault("os:fsync", "after", 4),
    Fault("shutil:copymode", "after"),
]
DIRECTORY_NEW = [
    Fault(EXCHANGE, "after"),
]
DIRECTORY_NEW_SOAK = [
    Fault("pathlib:Path.replace"),  # the report
    Fault("pathlib:Path.replace", "after"),
    Fault("extembed_cli.data.files.commit:_remove"),  # the old directory
    Fault("extembed_cli.data.files.commit:_remove", "after"),
    Fault("filelock:FileLock.release"),
]
FIRST_FILE = [
    Fault(f"{WRITER}.write_batch", "after", 2),
]
FIRST_FILE_SOAK = [
    Fault("pathlib:Path.replace"),
]
FIRST_DIRECTORY = [
    Fault("pathlib:Path.rename", "before", 4),
]
FIRST_DIRECTORY_SOAK = [
    Fault(f"{WRITER}.write_batch", "after"),
    Fault("extembed_cli.data.outputs.feature_file:write_json", "after"),
    Fault("pathlib:Path.rename", "after", 1),
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


@pytest.mark.soak
@places(FILE_NEW, FILE_NEW_SOAK)
def test_a_file_is_the_new_one_from_the_rename_on(base: Base, tmp_path: Path, fault: Fault) -> None:
    world = copy(base, tmp_path, FILE)
    kill(world, FILE, fault)
    assert state(world.folder / FILE) == base.new[FILE]
    assert_next_run_succeeds(world, FILE, base.new[FILE])


@places(DIRECTORY_OLD, DIRECTORY_OLD_SOAK)
def test_a_directory_is_the_old_one_until_the_exchange(base: Base, tmp_path: Path, fault: Fault) -> None:
    world = copy(base, tmp_path, DIRECTORY)
    kill(world, DIRECTORY, fault)
    assert state(world.folder / DIRECTORY) == base.old[DIRECTORY]
    assert {path.name for path in (world.folder / DIRECTORY).iterdir()} == set(base.old[DIRECTORY])
    assert_next_run_succeeds(world, DIRECTORY, base.new[DIRECTORY])


@places(DIRECTORY_NEW, DIRECTORY_NEW_SOAK)
def test_a_directory_is_the_new_one_from_the_exchange_on(base: Base, tmp_path: Path, fault: Fault) -> None:
    world = copy(base, tmp_path, DIRECTORY)
    kill(world, DIRECTORY, fault)
    assert state(world.folder / DIRECTORY) == base.new[DIRECTORY]
    assert {path.name for path in (world.folder / DIRECTORY).iterdir()} == set(base.new[DIRECTORY])
    assert_next_run_succeeds(world, DIRECTORY, base.new[DIRECTORY])


@pytest.mark.soak
@places(FIRST_FILE, FIRST_FILE_SOAK)
def test_a_first_file_is_there_whole_or_not_at_all(base: Base, tmp_path: Path, fault: Fault) -> None:
    world = copy(base, tmp_path, FILE, with_old=False)
    kill(world, FILE, fault)
    assert not (world.folder / FILE).exists()
    assert_next_run_succeeds(world, FILE, base.new[FILE])


@pytest.mark.soak
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
    for fault in (Fault(f"{WRITER}.close"), DIRECTORY_OLD[0], DIRECTORY_NEW[0]):
        kill(world, DIRECTORY, fault)
    assert_next_run_succeeds(world, DIRECTORY, base.new[DIRECTORY])


def test_a_reader_by_name_never_sees_old_and_new_parts_together(base: Base, tmp_path: Path) -> None:
    world = copy(base, tmp_path, DIRECTORY)
    seen, done = [], threading.Event()

    def read() -> None:
        while not done.is_set():
            names = sorted(path.name for path in (world.folder / DIRECTORY).glob("part-*.parquet"))
            seen.append(names)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(6):
        undisturbed(*arguments(world, DIRECTORY, (NEW, OLD)[number % 2])).ok()
    done.set()
    reader.join()
    whole = [sorted(name for name in files[DIRECTORY] if name != MANIFEST) for files in (base.old, base.new)]
    assert len(seen) > 100
    # A reader that opened the old directory just before the exchange may see its files go: fewer of them, never others.
    assert all(any(set(names) <= set(parts) for parts in whole) for names in seen), {str(names) for names in seen}


def test_without_an_exchange_the_old_directory_is_set_aside(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = copy(base, tmp_path, DIRECTORY)
    monkeypatch.setattr(commit, "exchange", lambda one, other: False)
    assert_next_run_succeeds(world, DIRECTORY, base.new[DIRECTORY])
    # As after a kill between the two renames.
    (world.folder / DIRECTORY).rename(world.folder / "out" / ".features.old")
    undisturbed(*arguments(world, DIRECTORY), "--require", "non_null=1").failed(1, "require.non_null")
    assert state(world.folder / DIRECTORY) == base.new[DIRECTORY]
    assert_tidy(world.folder / DIRECTORY)


def test_what_others_put_into_a_directory_stays_there(base: Base, tmp_path: Path) -> None:
    world = copy(base, tmp_path, DIRECTORY)
    folder = world.folder / DIRECTORY
    (folder / "notes" / "deep").mkdir(parents=True)
    (folder / "notes" / "deep" / "why.txt").write_text("kept")
    (folder / "README").symlink_to("notes/deep/why.txt")
    assert run_clean(world, DIRECTORY, NEW) == base.new[DIRECTORY]
    assert (folder / "notes" / "deep" / "why.txt").read_text() == "kept"
    assert (folder / "README").readlink() == Path("notes/deep/why.txt")


@pytest.mark.parametrize("kind", [FILE, DIRECTORY])
@pytest.mark.parametrize("dangling", [False, True])
def test_a_link_stays_and_its_target_is_replaced(base: Base, tmp_path: Path, kind: str, dangling: bool) -> None:
    world = copy(base, tmp_path, kind)
    (world.folder / "real").mkdir()
    target = world.folder / "real" / f"today{Path(kind).suffix}"
    if dangling:
        (shutil.rmtree if kind == DIRECTORY else Path.unlink)(world.folder / kind)
    else:
        (world.folder / kind).rename(target)
    (world.folder / kind).symlink_to(target)
    undisturbed(*arguments(world, kind)).ok()
    assert (world.folder / kind).readlink() == target
    files = state(target)
    assert files is not None
    assert list(files.values()) == list(base.new[kind].values())
    assert {path.name for path in (world.folder / "real").iterdir()} == {target.name}
    name = Path(kind).name
    assert {path.name for path in (world.folder / "out").iterdir()} == {name, f"{name}.run.json"}


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_outputs_have_the_mode_of_the_umask(base: Base, tmp_path: Path, mask: int) -> None:
    world = copy(base, tmp_path, FILE, with_old=False)
    before = os.umask(mask)
    try:
        for kind in (FILE, DIRECTORY):
            undisturbed(*arguments(world, kind)).ok()
    finally:
        os.umask(before)
    paths = [world.folder / FILE, world.folder / f"{FILE}.run.json", *(world.folder / DIRECTORY).iterdir()]
    assert {path.stat().st_mode & 0o777 for path in paths} == {0o666 & ~mask}
    assert (world.folder / DIRECTORY).stat().st_mode & 0o777 == 0o777 & ~mask


def test_links_in_the_place_of_a_runs_own_files_are_not_followed(base: Base, tmp_path: Path) -> None:
    world = copy(base, tmp_path, FILE)
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    (tmp_path / "folder").mkdir()
    scratch = scratch_folder(world.folder / "out", world.folder / FILE)
    for link, to in ((world.folder / "out" / ".features.parquet.lock", victim), (scratch, tmp_path / "folder")):
        link.symlink_to(to)
        undisturbed(*arguments(world, FILE), shards=2).failed(2, str(link))
        link.unlink()
        assert victim.read_text() == "untouched"
        assert not list((tmp_path / "folder").iterdir())
        assert state(world.folder / FILE) == base.old[FILE]


def timed(world: World, kind: str, rows: int) -> tuple[dict[str, bytes], float]:
    """Run in a process of its own. Return its output files and its seconds."""
    began = time.monotonic()
    with drive(*arguments(world, kind), rows=rows) as run:
        run.end().ok()
    seconds = time.monotonic() - began
    output = state(world.folder / kind)
    assert output is not None
    return output, seconds


@pytest.mark.soak
@pytest.mark.parametrize(("kind", "kills"), [(FILE, 8), (DIRECTORY, 8)])
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
