"""Outputs in S3: the bytes of local ones, replaced in one step; a failed or killed run leaves the old object."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from conftest import EXTEMBED, World, extembed, extembed_process, soak
from helpers.engines import need_spark
from helpers.stores import CuttingProxy, Endpoint

from extembed_cli.data.outputs.uploads import remove_unlisted

DUAL = '[[dual]]\nuser_vectors = "s3://bucket/users.parquet"\n'


def written(world: World, name: str = "out.parquet") -> tuple[bytes, dict[str, object]]:
    return (world.folder / name).read_bytes(), json.loads((world.folder / f"{name}.run.json").read_text())


def leftovers() -> list[Path]:
    return list((Path(tempfile.gettempdir()) / f"extembed-uploads-{os.getuid()}").glob("*"))


def test_a_file_and_its_report(world: World, s3: Endpoint) -> None:
    extembed("run", world.spec()).ok()
    local, report = written(world)
    ran = extembed("run", world.spec(), "-o", "s3://bucket/written/out.parquet").ok()
    assert s3.get("written/out.parquet") == local
    remote = json.loads(s3.get("written/out.parquet.run.json"))
    assert remote["output"] == "s3://bucket/written/out.parquet"
    assert {k: remote[k] for k in ("digests", "output_sha256", "spec")} == {
        k: report[k] for k in ("digests", "output_sha256", "spec")
    }
    assert "s3://bucket/written/out.parquet: 300 rows" in ran.err
    assert not leftovers()


@pytest.mark.parametrize("output", ["slash/out.parquet", "slash/directory"])
def test_a_slash_at_the_end_changes_nothing(world: World, s3: Endpoint, output: str) -> None:
    extembed("run", world.spec(), "-o", f"s3://bucket/{output}").ok()
    names = s3.keys("slash")
    ran = extembed("run", world.spec(), "-o", f"s3://bucket/{output}//", "--json").ok()
    assert ran.json["output"] == f"s3://bucket/{output}"
    assert s3.keys("slash") == names


def test_a_directory_replaces_its_parts(world: World, s3: Endpoint) -> None:
    extembed("run", world.spec(), "-o", "s3://bucket/directory").ok()
    first = s3.keys("directory")
    s3.put("directory/notes.txt", b"of somebody")
    world.write("candidates", world.table("candidates").slice(0, 100))
    extembed("run", world.spec(), "-o", "s3://bucket/directory").ok()
    second = s3.keys("directory")
    assert len(first) == 2 and len(second) == 3 and "notes.txt" in second
    assert len({*first, *second}) == 4  # the part has another name, and the old one is gone
    world.spec('candidates = "s3://bucket/directory"\n', "again.toml")
    listed = json.loads(s3.get("directory/_extembed_manifest.json"))
    assert [part["file"] for part in listed["parts"]] == [name for name in second if name.startswith("part-")]


def test_each_problem_has_a_line(world: World, s3: Endpoint) -> None:
    for name in ("interactions", "text"):
        (world.folder / f"{name}.parquet").unlink()
    refused = extembed("run", world.spec(), "-o", "s3://bucket/none.parquet").failed(3)
    lines = refused.err.splitlines()
    assert len([line for line in lines if line.endswith("no such file or directory")]) == 2, refused.err
    assert "none.parquet" not in s3.keys("")


def test_vectors(world: World, s3: Endpoint) -> None:
    extembed("run", world.spec(DUAL.replace("s3://bucket/users", "users"))).ok()
    local = (world.folder / "users.parquet").read_bytes()
    ran = extembed("run", world.spec(DUAL), "--json").ok()
    assert s3.get("users.parquet") == local
    assert ran.json["user_vectors"][0]["path"] == "s3://bucket/users.parquet"


@pytest.mark.parametrize(
    ("output", "code", "message"),
    [
        ("s3://no-bucket/out.parquet", 2, "s3://no-bucket/out.parquet: there is no bucket `no-bucket`"),
        ("gs://bucket/out.parquet", 2, "gs://bucket/out.parquet: outputs can be local or s3://"),
        ("s3://bucket/out.csv", 2, "only Parquet is written"),
        ("s3://bucket", 2, "names no object"),
        ("s3://bucket/foreign", 2, "s3://bucket/foreign: this directory holds something else"),
        ("s3://key:hunter2@bucket/out.parquet", 2, "has credentials or options in the URL"),
        ("s3://bucket/input.parquet", 2, "s3://bucket/input.parquet: the output would overwrite an input"),
    ],
)
def test_what_cannot_be_written(world: World, s3: Endpoint, output: str, code: int, message: str) -> None:
    s3.put("foreign/x.bin", b"x")
    s3.put("input.parquet", world.folder / "text.parquet")
    spec = world.spec('[embeddings.text]\npath = "s3://bucket/input.parquet"\n')
    ran = extembed("run", spec, "-o", output).failed(code, message)
    assert "hunter2" not in ran.err
    assert not leftovers()


@pytest.mark.soak
def test_a_connection_that_is_cut(world: World, s3: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """The upload fails, exit 5; the old object stays."""
    s3.put("kept.parquet", b"old")
    proxy = CuttingProxy(s3.port, 20_000, of_requests=True)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
    extembed("run", world.spec(), "-o", "s3://bucket/kept.parquet").failed(5, "s3://bucket/kept.parquet: ", "cut")
    assert proxy.cuts and s3.get("kept.parquet") == b"old"
    assert not leftovers()
    proxy.close()


@pytest.mark.parametrize("most", [20_000, soak(1_000), soak(5_000)])
def test_killed_while_uploading(world: World, s3: Endpoint, most: int) -> None:
    """SIGKILL in the middle of the upload leaves the old object, and the next run writes the new one."""
    s3.put("killed.parquet", b"old")
    proxy = CuttingProxy(s3.port, most, of_requests=True, hold=True)
    env = {**os.environ, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{proxy.port}"}
    command = [*EXTEMBED, "run", str(world.spec()), "-o", "s3://bucket/killed.parquet"]
    run = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(600):
        if proxy.cuts:
            break
        time.sleep(0.05)
    assert proxy.cuts and run.poll() is None
    extembed("run", world.spec(), "-o", "s3://bucket/killed.parquet").failed(
        4, "s3://bucket/killed.parquet: another run"
    )
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert s3.get("killed.parquet") == b"old"
    extembed("run", world.spec(), "-o", "s3://bucket/killed.parquet").ok()
    assert len(s3.get("killed.parquet")) > 3
    assert not leftovers()
    proxy.close()


@pytest.mark.parametrize("kind", ["file", "pipe", "link", "dangling link"])
def test_something_else_in_the_place_of_the_folder_of_outputs(
    world: World, s3: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    place = shared / f"extembed-uploads-{os.getuid()}"
    if kind == "file":
        place.touch()
    elif kind == "pipe":
        os.mkfifo(place)
    else:
        place.symlink_to(tmp_path if kind == "link" else tmp_path / "nothing")
    monkeypatch.setattr(tempfile, "tempdir", str(shared))
    done = extembed("run", world.spec(), "-o", "s3://bucket/never.parquet")
    done.failed(2, f"{place}: is a link, a file, or a folder of another user", "with TMPDIR")
    assert not (tmp_path / "nothing").exists()


def test_parts_of_a_failed_run_are_removed(world: World, s3: Endpoint) -> None:
    """Tasks of Spark put parts before the job is known to be good."""
    extembed("run", world.spec(), "-o", "s3://bucket/failed").ok()
    before = s3.keys("failed")
    s3.put("failed/part-00000-0123456789ab.parquet", b"of a task")
    remove_unlisted("s3://bucket/failed")
    assert s3.keys("failed") == before
    s3.put("first/part-00000-0123456789ab.parquet", b"of a task")
    s3.put("first/notes.txt", b"of somebody")
    remove_unlisted("s3://bucket/first")
    assert s3.keys("first") == ["notes.txt"]


@pytest.mark.soak
def test_spark_reads_and_writes_objects(world: World, s3: Endpoint) -> None:
    need_spark()
    names = ("interactions", "candidates", "text")
    urls = {name: s3.put(f"spark/{name}.parquet", world.folder / f"{name}.parquet") for name in names}
    text = "".join(f'{name} = "{urls[name]}"\n' for name in names[:2])
    spec = world.spec(f'{text}[embeddings.text]\npath = "{urls["text"]}"\n[[aggregate]]\n')
    extembed("run", spec, "-o", world.folder / "local").ok()
    for _ in range(2):
        on_spark = ("--engine", "spark", "--master", "local[2,4]", "--conf", "spark.ui.enabled=false")
        extembed_process("run", spec, "-o", "s3://bucket/on_spark", *on_spark, "-q", env=s3.env).ok()
        parts = {path.name: path.read_bytes() for path in (world.folder / "local").iterdir()}
        assert {key: s3.get(f"on_spark/{key}") for key in s3.keys("on_spark")} == parts
        world.write("candidates", world.table("candidates").slice(0, 100))
        s3.put("spark/candidates.parquet", world.folder / "candidates.parquet")
        extembed("run", spec, "-o", world.folder / "local").ok()
    assert s3.get("on_spark.run.json")
    assert not leftovers()
