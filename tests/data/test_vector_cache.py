"""`--cache`: the next run on the same tables does not read them, and writes the same bytes."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import EXTEMBED, World, extembed, extembed_process, soak, soak_except, vectors

from extembed_cli.data.inputs import vector_cache as cache_module
from extembed_cli.jobs.options import RunOptions
from extembed_cli.jobs.run import run_job
from extembed_cli.spec.loading import load_spec
from extembed_cli.system.progress import Watch

SPEC = """
[embeddings.text]
path = "text.parquet"
center = true
[embeddings.tags]
path = "tags.parquet"
bad_vectors = "missing"
duplicates = "last"
[[aggregate]]
[[dual]]
embeddings = ["text"]
unobserved_weight = 0.1
bias = true
sd = true
"""


@pytest.fixture
def cached(world: World) -> World:
    """Provides two tables, one of them with bad vectors and repeated ids."""
    rng = np.random.default_rng(1)
    tags = rng.standard_normal((45, 4))
    tags[10] = np.nan
    world.write("tags", {"item_id": np.r_[np.arange(40), 0, 1, 2, 3, 4], "embedding": vectors(tags, "list")})
    world.spec(SPEC)
    return world


def run(world: World, *names: str) -> dict[str, object]:
    """Run with the cache, check that it had exactly the tables `names`, and return the report."""
    spec = load_spec(world.folder / "spec.toml")
    report = run_job(spec, RunOptions(workers=2, cache=world.folder / "cache"), Watch())
    assert sorted(report["cached_embeddings"]) == sorted(names)
    return report


def entries(world: World) -> set[str]:
    return {path.name for path in (world.folder / "cache").iterdir() if path.is_dir()}


def test_a_second_run_reads_no_table(cached: World, monkeypatch: pytest.MonkeyPatch) -> None:
    run_job(load_spec(cached.folder / "spec.toml"), RunOptions(workers=2), Watch())
    expected = (cached.folder / "out.parquet").read_bytes()
    first = run(cached)
    assert (cached.folder / "out.parquet").read_bytes() == expected
    assert len(entries(cached)) == 2
    monkeypatch.setattr(cache_module, "load_vectors", None)
    monkeypatch.setattr("extembed_cli.data.files.parquet.Part.batches", guarded(cached))
    second = run(cached, "text", "tags")
    assert (cached.folder / "out.parquet").read_bytes() == expected
    for name in ("inputs", "digests", "cosines", "dual"):
        assert first[name] == second[name], name


def guarded(world: World) -> object:
    """Return a reader that fails on the embedding tables."""
    from extembed_cli.data.columns.vector_columns import _FIRST_ROWS
    from extembed_cli.data.files.parquet import Part

    read = Part.batches

    def batches(part: Part, *args: object) -> object:
        first = args[1] == _FIRST_ROWS  # for the length of the vectors
        assert part.path.name in {"interactions.parquet", "candidates.parquet"} or first
        return read(part, *args)  # type: ignore[arg-type]

    return batches


def test_new_content_replaces_the_old_entry(cached: World) -> None:
    run(cached)
    before = entries(cached)
    cached.write("text", {"item_id": np.arange(35), "embedding": vectors(np.random.default_rng(2).random((35, 8)))})
    run(cached, "tags")
    output = (cached.folder / "out.parquet").read_bytes()
    assert len(entries(cached)) == len(entries(cached) & before) + 1 == 2
    run_job(load_spec(cached.folder / "spec.toml"), RunOptions(workers=2), Watch())
    assert (cached.folder / "out.parquet").read_bytes() == output


def test_a_rewritten_file_with_the_same_content_hits_the_cache(cached: World) -> None:
    run(cached)
    path = cached.folder / "text.parquet"
    path.write_bytes(path.read_bytes())
    run(cached, "text", "tags")


def test_other_options_make_another_entry(cached: World) -> None:
    run(cached)
    cached.spec(SPEC.replace("center = true", "center = false"))
    run(cached, "tags")
    assert len(entries(cached)) == 3
    cached.spec(SPEC)
    run(cached, "text", "tags")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "about.json is gone": lambda folder: (folder / "about.json").unlink(),
    "about.json is torn": lambda folder: (folder / "about.json").write_text("{"),
    "about.json is another's": lambda folder: (folder / "about.json").write_text("{}"),
    "no vectors": lambda folder: (folder / "vectors.f32").unlink(),
    "short vectors": lambda folder: os.truncate(folder / "vectors.f32", 100),
    "a bit of the vectors": lambda folder: flip(folder / "vectors.f32"),
    "a bit of the ids": lambda folder: flip(folder / "ids.arrow"),
    "empty ids": lambda folder: os.truncate(folder / "ids.arrow", 0),
}
OFTEN = {"about.json is torn", "short vectors", "a bit of the ids"}


@pytest.mark.parametrize("damage", soak_except(OFTEN, DAMAGES))
def test_a_damaged_entry_is_rebuilt(cached: World, damage: str) -> None:
    run(cached)
    output = (cached.folder / "out.parquet").read_bytes()
    for folder in (cached.folder / "cache").iterdir():
        if folder.is_dir():
            DAMAGES[damage](folder)
    run(cached)
    assert (cached.folder / "out.parquet").read_bytes() == output
    run(cached, "text", "tags")
    assert (cached.folder / "out.parquet").read_bytes() == output


def test_a_table_with_errors_is_not_cached(cached: World) -> None:
    flags = ["--cache", cached.folder / "cache", "--set", "embeddings.tags.bad_vectors=error"]
    extembed("run", cached.folder / "spec.toml", *flags).failed(1, "zero or not finite")
    assert len(entries(cached)) == 1


@pytest.mark.soak
def test_runs_at_the_same_time_share_the_cache(cached: World) -> None:
    """Both build the same entries, and each entry is complete."""
    command = [*EXTEMBED, "run", str(cached.folder / "spec.toml"), "-q", "--cache", str(cached.folder / "cache")]
    runs = [subprocess.Popen([*command, "-o", str(cached.folder / f"{n}.parquet")]) for n in range(2)]
    assert [process.wait(60) for process in runs] == [0] * 2
    outputs = {(cached.folder / f"{n}.parquet").read_bytes() for n in range(2)}
    assert len(outputs) == 1
    assert len(entries(cached)) == 2
    run(cached, "text", "tags")
    assert (cached.folder / "out.parquet").read_bytes() in outputs


def test_leftovers_of_a_killed_run_are_removed_after_a_day(cached: World) -> None:
    (cached.folder / "cache").mkdir()
    for name, age in (("old", 2 * 86_400), ("new", 60)):
        folder = cached.folder / "cache" / f".new-{name}"
        folder.mkdir()
        os.utime(folder, (time.time() - age,) * 2)
    run(cached)
    assert {name for name in entries(cached) if name.startswith(".")} == {".new-new"}


def test_a_cache_folder_that_cannot_be_created_is_refused(cached: World) -> None:
    (cached.folder / "file").write_text("")
    done = extembed("run", cached.folder / "spec.toml", "--cache", cached.folder / "file" / "below")
    done.failed(2, "below: cannot be a folder for matrices", "--cache")


@pytest.mark.soak
def test_the_cache_works_with_shards_and_little_memory(cached: World, tmp_path: Path) -> None:
    spec = cached.folder / "spec.toml"
    extembed("run", spec).ok()
    expected = json.loads((cached.folder / "out.parquet.run.json").read_text())["output_sha256"]
    for _ in range(2):
        report = extembed_process("run", spec, "--json", "--cache", tmp_path / "c", "--memory", "250MiB").ok().json
        assert report["output_sha256"] == expected


@pytest.mark.parametrize("lie", ["rows", "dim", soak("text"), soak("nothing")])
def test_an_entry_that_lies_about_its_shape_is_not_used(cached: World, lie: str) -> None:
    """A cache from elsewhere: its checksums fit, its shape does not."""
    run(cached)
    expected = (cached.folder / "out.parquet").read_bytes()
    for about in (cached.folder / "cache").glob("*/about.json"):
        data = json.loads(about.read_text())
        rows, dim = data["shape"]
        data["shape"] = {"rows": [10**12, dim], "dim": [rows, dim + 1], "text": "large", "nothing": None}[lie]
        about.write_text(json.dumps(data))
    run(cached)
    assert (cached.folder / "out.parquet").read_bytes() == expected
    run(cached, "text", "tags")


def test_a_note_removes_nothing_but_entries(cached: World) -> None:
    """A cache from elsewhere: its note lists another folder as an entry of old content."""
    run(cached)
    victim = cached.folder / "victim"
    victim.mkdir()
    for note in (cached.folder / "cache").glob("*.json"):
        data = json.loads(note.read_text())
        note.write_text(
            json.dumps({**data, "states": [], "digest": {**data["digest"], "sha256": ""}, "entries": [str(victim)]})
        )
    run(cached, "text", "tags")
    assert victim.is_dir()


@pytest.mark.parametrize("text", ["[1]", soak('"x"'), soak("7"), "[" * 100_000, soak('{"states": []}'), "\\xff"])
def test_other_json_in_the_cache_is_not_used(cached: World, text: str) -> None:
    run(cached)
    expected = (cached.folder / "out.parquet").read_bytes()
    for path in [*(cached.folder / "cache").glob("*.json"), *(cached.folder / "cache").glob("*/about.json")]:
        path.write_text(text)
    run(cached)
    assert (cached.folder / "out.parquet").read_bytes() == expected
