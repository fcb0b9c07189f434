"""Full disks, folders without write permission, and missing folders."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import World, extembed, soak
from helpers.faults import (
    DIRECTORY,
    FILE,
    NEW,
    Fault,
    arguments,
    assert_tidy,
    assert_untouched,
    build,
    drive,
    earlier_output,
    run_clean,
    undisturbed,
)

from extembed_cli.data.shards.scratch import scratch_folder
from extembed_cli.errors import SpecError
from extembed_cli.jobs.layout import Layout
from extembed_cli.jobs.options import RunOptions
from extembed_cli.jobs.run import run_job
from extembed_cli.spec.loading import load_spec
from extembed_cli.system.progress import Watch


def at_most(size: int) -> Callable[[], None]:
    """Return a function that limits the size of files that a process writes; beyond, a write fails with EFBIG."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.soak
@pytest.mark.parametrize(("kind", "size"), [(FILE, 5_000), (FILE, 0), (DIRECTORY, 0), (DIRECTORY, 5_000)])
def test_a_file_size_limit_leaves_the_old_output(tmp_path: Path, kind: str, size: int) -> None:
    world = build(tmp_path)
    old = earlier_output(world, kind)
    assert max(map(len, old.values())) > 6_000
    with drive(*arguments(world, kind), preexec_fn=at_most(size)) as run:
        run.end().failed(5, "no space left", "old output is untouched")
    assert_untouched(world.folder / kind, old)


@contextmanager
def tmpfs(folder: Path, options: str) -> Iterator[Path]:
    """Mount a small file system at `folder`."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip(f"a tmpfs cannot be mounted: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def pages(output: Path) -> int:
    """Return the size of an output and its report on a tmpfs."""
    files = [output.with_name(f"{output.name}.run.json"), *(output.iterdir() if output.is_dir() else [output])]
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in files)


@pytest.mark.parametrize(("kind", "share"), [soak(FILE, 0.0), soak(FILE, 0.7), (DIRECTORY, 0.7)])
def test_a_full_disk_leaves_the_old_output(tmp_path: Path, kind: str, share: float) -> None:
    """Beside the old output there is space for some parts of the new one, but not for all."""
    world = build(tmp_path / "world")
    earlier_output(world, kind)
    size = pages(world.folder / kind)
    room = int(size * share) // 4096 * 4096
    with tmpfs(tmp_path / "disk", f"size={size + room + 4096}") as disk:
        output = disk / Path(kind).name
        old = earlier_output(world, output)
        (disk / "ballast").write_bytes(b"x" * 4096)
        with drive(*arguments(world, output)) as run:
            run.end().failed(5, "no space left", "old output is untouched")
        (disk / "ballast").unlink()
        assert_untouched(output, old)


@pytest.mark.soak
def test_a_run_after_a_full_disk_needs_no_cleanup(tmp_path: Path) -> None:
    world = build(tmp_path / "world")
    expected = run_clean(world, DIRECTORY, NEW)
    size = pages(world.folder / DIRECTORY)
    with tmpfs(tmp_path / "disk", f"size={2 * size}") as disk:
        (disk / "ballast").write_bytes(b"x" * (size + 2 * 4096))
        with drive(*arguments(world, disk / "features")) as run:
            run.end().failed(5, "no space left")
        assert {path.name for path in disk.iterdir()} == {"ballast"}
        (disk / "ballast").unlink()
        assert run_clean(world, disk / "features") == expected
        assert_tidy(disk / "features")


@pytest.mark.soak
@pytest.mark.parametrize("kind", [FILE, DIRECTORY])
def test_no_space_for_the_report_leaves_the_old_output(tmp_path: Path, kind: str) -> None:
    """An output and its report are committed together or not at all."""
    world = build(tmp_path)
    old = earlier_output(world, kind)
    with drive(
        *arguments(world, kind), faults=(Fault("extembed_cli.jobs.local_passes:write_features", "after", do="limit"),)
    ) as run:
        run.end().failed(5, "no space left", "old output is untouched")
    assert_untouched(world.folder / kind, old)


def test_a_folder_on_a_read_only_disk_is_refused(tmp_path: Path) -> None:
    world = build(tmp_path / "world")
    with tmpfs(tmp_path / "disk", "ro") as disk:
        extembed(*arguments(world, disk / "features.parquet")).failed(2, "features.parquet", "no permission to write")
        extembed(*arguments(world, disk / "new/features.parquet")).failed(2, "features.parquet", "cannot be created")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_write_permission_is_refused(tmp_path: Path) -> None:
    world = build(tmp_path)
    (tmp_path / "closed").mkdir(mode=0o555)
    extembed(*arguments(world, "closed/features.parquet")).failed(2, "closed", "no permission to write")
    extembed(*arguments(world, "closed/new/features.parquet")).failed(2, "closed", "cannot be created")


@pytest.mark.parametrize("output", ["new/deep/features.parquet", "new/deep/features"])
def test_a_missing_folder_is_created(tmp_path: Path, output: str) -> None:
    world = build(tmp_path)
    run_clean(world, output)
    assert_tidy(world.folder / output)


def test_a_folder_whose_name_is_taken_by_a_file_is_refused(tmp_path: Path) -> None:
    world = build(tmp_path)
    (tmp_path / "taken").write_text("mine")
    extembed(*arguments(world, "taken/features.parquet")).failed(2, "taken")
    assert (tmp_path / "taken").read_text() == "mine"


@pytest.mark.parametrize("kind", [FILE, DIRECTORY])
def test_files_of_others_are_never_removed(tmp_path: Path, kind: str) -> None:
    """Other files are beside the output, some of them with names like those of extembed."""
    world: World = build(tmp_path)
    (tmp_path / "out").mkdir()
    names = ["notes.txt", ".hidden", "features.parquet.bak", ".features.backup.tmp", "part-00000.parquet"]
    for name in names:
        (tmp_path / "out" / name).write_text(name)
    run_clean(world, kind)
    assert_tidy(world.folder / kind, *names)


@pytest.mark.soak
@pytest.mark.parametrize("room", [4, 40, 160], ids=lambda kib: f"{kib} KiB")
def test_a_full_scratch_disk_leaves_the_old_output(tmp_path: Path, room: int) -> None:
    """The scratch disk fills up with keys, mapped vectors or features. The disk of the output has space."""
    world = build(tmp_path / "world", rows=900, events=4000, dim=64)
    old = earlier_output(world, FILE)
    with tmpfs(tmp_path / "disk", f"size={room}k") as disk:
        arguments_ = [*arguments(world, FILE), "--scratch", disk]
        with drive(*arguments_, shards=5) as run:
            run.end().failed(5, "no space left", "old output is untouched")
        assert not list(disk.iterdir())
    assert_untouched(world.folder / FILE, old)


@pytest.mark.soak
@pytest.mark.parametrize("size", [1_000, 20_000])
def test_a_file_size_limit_on_scratch_files_leaves_the_old_output(tmp_path: Path, size: int) -> None:
    world = build(tmp_path, rows=900, events=4000, dim=64)
    old = earlier_output(world, FILE)
    with drive(*arguments(world, FILE), shards=3, preexec_fn=at_most(size)) as run:
        run.end().failed(5, "no space left", "old output is untouched")
    assert_untouched(world.folder / FILE, old)


def test_a_scratch_folder_that_cannot_be_created_is_refused(tmp_path: Path) -> None:
    world = build(tmp_path)
    (tmp_path / "file").write_text("")
    done = undisturbed(*arguments(world, FILE), "--scratch", tmp_path / "file" / "below", shards=3)
    done.failed(2, "--scratch", "below")


@pytest.mark.parametrize("suffix", ["", "-survey", "-derive"])
@pytest.mark.parametrize("kind", ["link", "file"])
def test_something_else_in_the_place_of_a_scratch_folder(world: World, suffix: str, kind: str) -> None:
    """Its name can be guessed, so in a folder that others write to it may lead somewhere else."""
    elsewhere, shared = world.folder / "elsewhere", world.folder / "shared"
    elsewhere.mkdir()
    shared.mkdir()
    spec = load_spec(
        world.spec(
            '[user_embeddings.taste]\nfrom = {embedding = "text"}\n[[direct]]\n'
            '[[dual]]\nside = "all"\nunobserved_weight = 0.1\n'
        )
    )
    place = scratch_folder(shared, Path(str(spec.output)))
    place = place.with_name(f"{place.name}{suffix}")
    if kind == "link":
        place.symlink_to(elsewhere)
    else:
        place.write_text("notes")
    options = RunOptions(workers=1, layout=Layout(shards=2, rows=200, mapped=True), scratch=shared)
    with pytest.raises(SpecError, match=f"{place}: is a link, a file, or a folder of another user.*with --scratch"):
        run_job(spec, options, Watch())
    assert not list(elsewhere.iterdir())
    assert place.is_symlink() if kind == "link" else place.read_text() == "notes"
