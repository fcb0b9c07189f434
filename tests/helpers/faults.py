"""Runs that are killed, held or watched at a named place, and the state of an output on disk."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from conftest import Ran, World, extembed, timestamps, vectors

from extembed_cli.data.outputs import feature_file
from extembed_cli.jobs import local_passes
from extembed_cli.jobs.layout import Layout
from extembed_cli.jobs.options import RunOptions
from extembed_cli.jobs.run import run_job
from extembed_cli.spec.loading import load_spec
from extembed_cli.system.progress import Watch

MANIFEST = "_extembed_manifest.json"
ROWS = 100  # per part and per row group, so that 300 candidates give three of each
OLD, NEW = "7d", "30d"  # half-lives of the existing output and of the output of the run under test
FILE, DIRECTORY = "out/features.parquet", "out/features"
DAY = 86_400_000_000
START = 1_700_000_000_000_000
MINIMAL = {"interactions": "i", "candidates": "c", "embeddings": {"text": {"path": "t"}}, "aggregate": [{}]}

# The program with a hook at one function, so that a fault is always at the same place.
DRIVER = """
import functools, importlib, json, os, pathlib, resource, signal, sys, time

plan = json.loads(sys.argv.pop(1))
calls = {}


def act(what):
    if what["do"] == "note":
        with open(what["path"], "a") as log:
            log.write(what["text"] + "\\n")
    else:
        os.write(1, b"reached\\n")
    if what["do"] == "hold":
        while not os.path.exists(what["path"]):
            time.sleep(0.01)
    elif what["do"] == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    elif what["do"] != "note":
        os.kill(os.getpid(), getattr(signal, what["do"]))
        time.sleep(0.2)  # another thread may take the signal a moment later


def place(text):
    module, _, names = text.partition(":")
    target = importlib.import_module(module)
    *owners, name = names.split(".")
    for owner in owners:
        target = getattr(target, owner)
    return target, name


def hook(what):
    owner, name = place(what["at"])
    inner = getattr(owner, name)

    @functools.wraps(inner)
    def outer(*args, **kwargs):
        calls[what["key"]] = calls.get(what["key"], 0) + 1
        here = what["call"] in (0, calls[what["key"]])
        if here and what["when"] == "before":
            act(what)
        result = inner(*args, **kwargs)
        if here and what["when"] == "after":
            act(what)
        return result

    setattr(owner, name, outer)


from extembed_cli.__main__ import main
from extembed_cli.data.outputs import feature_file
from extembed_cli.jobs import local_passes
from extembed_cli.jobs.layout import Layout

if plan["shards"]:
    local_passes.layout_of = lambda *args, **named: Layout(shards=plan["shards"], rows=200, mapped=True)
feature_file.PART_ROWS = feature_file.ROW_GROUP = plan["rows"] or feature_file.PART_ROWS
for number, what in enumerate(plan["faults"]):
    hook(dict(what, key=number))
main()
"""


@dataclass(frozen=True)
class Fault:
    """An action at a call of a function. `do` is the name of a signal, `hold` (wait until `path` exists), `note`
    (append `text` to `path`) or `limit` (no file may grow any more)."""

    at: str
    when: str = "before"
    call: int = 1
    """Counted from 1; 0 = every call."""
    do: str = "SIGKILL"
    path: str = ""
    text: str = ""


def place(fault: Fault) -> str:
    """Return the test id of a fault."""
    return f"{fault.when}-{fault.at.partition(':')[2]}-{fault.call}"


class Run:
    """A run in a process of its own that a test can watch and signal. Leaving the context kills it."""

    def __init__(self, command: list[str], **options: Any) -> None:
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, **options
        )

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def reached(self) -> Run:
        """Wait until the run reaches a fault."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line == "reached\n", f"the place was not reached: {line}{self.end()}"
        return self

    def stage(self, name: str) -> Run:
        """Wait until a run with `-v` is in a stage."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if line == f"{name} ...\n":
                return self
        raise AssertionError(f"there was no stage {name}")

    def signal(self, number: int) -> Run:
        self.process.send_signal(number)
        return self

    def end(self, seconds: float = 60) -> Ran:
        out, err = self.process.communicate(timeout=seconds)
        return Ran(self.process.returncode, out, err)


def drive(*args: str | Path, faults: tuple[Fault, ...] = (), rows: int = ROWS, shards: int = 0, **options: Any) -> Run:
    """Start the program with faults; with `shards`, in that many shards as if the job did not fit into memory."""
    plan = json.dumps({"faults": [asdict(fault) for fault in faults], "rows": rows, "shards": shards})
    return Run([sys.executable, "-c", DRIVER, plan, *map(str, args)], **options)


@functools.cache
def versions_of_a_process() -> dict[str, str]:
    """Return the library versions of a run in its own process. A test process may load more, and would not resume."""
    code = f"""
import json
from extembed_cli.jobs.local_passes import _versions
from extembed_cli.spec.loading import build_spec
print(json.dumps(_versions(build_spec({MINIMAL!r}, "spec"))))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    versions: dict[str, str] = json.loads(done.stdout)
    return versions


def undisturbed(*args: str | Path, rows: int = ROWS, shards: int = 0) -> Ran:
    """Run the program as `drive` does without faults, but in this process, which is faster."""
    layout = Layout(shards=shards, rows=200, mapped=True)
    with pytest.MonkeyPatch.context() as patch:
        if shards:
            patch.setattr(local_passes, "layout_of", lambda *args, **named: layout)
        patch.setattr(local_passes, "_versions", lambda spec: versions_of_a_process())
        patch.setattr(feature_file, "PART_ROWS", rows)
        patch.setattr(feature_file, "ROW_GROUP", rows)
        return extembed(*args)


def start(*args: str | Path, env: Mapping[str, str] | None = None, **options: Any) -> Run:
    """Start the program without faults."""
    command = [sys.executable, "-m", "extembed_cli", *map(str, args)]
    return Run(command, env={**os.environ, **(env or {})}, **options)


def arguments(world: World, output: str | Path, half_life: str = NEW) -> list[str]:
    """Return the arguments of a run over a world into `output`."""
    return [
        "run",
        str(world.folder / "spec.toml"),
        "-o",
        str(world.folder / output),
        "--set",
        f'aggregate.0.half_lives=["{half_life}"]',
    ]


def run_clean(world: World, output: str | Path, half_life: str = NEW, rows: int = ROWS) -> dict[str, bytes]:
    """Run without faults and return the files of the output."""
    undisturbed(*arguments(world, output, half_life), rows=rows).ok()
    output_files = state(world.folder / output)
    assert output_files is not None
    return output_files


def earlier_output(world: World, output: str | Path, half_life: str = OLD) -> dict[str, bytes]:
    """Write the output of an earlier run, with parts of the default size, and return its files."""
    spec = load_spec(
        world.folder / "spec.toml", [f'aggregate.0.half_lives=["{half_life}"]'], str(world.folder / output)
    )
    run_job(spec, RunOptions(workers=1), Watch())
    output_files = state(world.folder / output)
    assert output_files is not None
    return output_files


def state(output: Path) -> dict[str, bytes] | None:
    """Check and return the files of an output that a reader would read; None if there is no output yet."""
    if output.suffix == ".parquet":
        if not output.exists():
            return None
        return {output.name: _whole(output).read_bytes()}
    if not (output / MANIFEST).exists():
        return None
    manifest = json.loads((output / MANIFEST).read_text())
    files = {MANIFEST: (output / MANIFEST).read_bytes()}
    for part in manifest["parts"]:
        path = _whole(output / part["file"])
        files[path.name] = path.read_bytes()
        assert hashlib.sha256(files[path.name]).hexdigest() == part["sha256"]
        assert pq.read_metadata(path).num_rows == part["rows"]
    assert sum(part["rows"] for part in manifest["parts"]) == manifest["rows"]
    return files


def _whole(path: Path) -> Path:
    """Check the checksum of every page, and return the file."""
    pq.read_table(path, page_checksum_verification=True)
    return path


def frame(output: Path) -> pl.DataFrame:
    """Read an output; of a directory only the parts in its manifest."""
    if output.suffix == ".parquet":
        return pl.read_parquet(output)
    parts = json.loads((output / MANIFEST).read_text())["parts"]
    return pl.concat(pl.read_parquet(output / part["file"]) for part in parts)


def assert_tidy(output: Path, *others: str) -> None:
    """Check that the folder has the output, its report and nothing else: no temporary, lock or unlisted file."""
    assert {path.name for path in output.parent.iterdir()} == {output.name, f"{output.name}.run.json", *others}
    files = state(output)
    assert files is not None
    report = json.loads(output.with_name(f"{output.name}.run.json").read_text())
    assert report["output_sha256"] == hashlib.sha256(files[MANIFEST if output.is_dir() else output.name]).hexdigest()
    if output.is_dir():
        assert {path.name for path in output.iterdir()} == set(files)


def assert_untouched(output: Path, before: dict[str, bytes]) -> None:
    """Check that the output has the same bytes as before, and that no other file was left."""
    assert state(output) == before
    assert_tidy(output)


def build(folder: Path, rows: int = 300, events: int = 600, dim: int = 8) -> World:
    """Write a world of a given size. Some items have no vector, and some pairs repeat."""
    world = World(folder)
    rng = np.random.default_rng(11)
    users, items, span = max(30, events // 60), max(40, events // 30), 200 * DAY
    world.write(
        "interactions",
        {
            "user_id": rng.integers(0, users, events),
            "item_id": rng.integers(0, items, events),
            "timestamp": timestamps(START + rng.integers(0, span, events)),
            "rating": rng.integers(1, 6, events),
        },
    )
    world.write(
        "candidates",
        {
            "user_id": rng.integers(0, users, rows),
            "item_id": rng.integers(0, items, rows),
            "timestamp": timestamps(START + rng.integers(0, span, rows)),
        },
    )
    world.write("text", {"item_id": np.arange(5, items), "embedding": vectors(rng.standard_normal((items - 5, dim)))})
    world.spec()
    return world


def eventually(condition: Any, seconds: float = 20) -> None:
    """Wait until `condition()` holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


KILLED = -signal.SIGKILL
