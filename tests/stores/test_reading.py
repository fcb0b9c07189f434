"""Inputs in an object store give the bytes of local inputs; what cannot be read is told with its key, exit 3."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from conftest import World, extembed, extembed_process, soak
from helpers.stores import CuttingProxy, Endpoint

from extembed_cli.data.files.parquet import open_table

TABLES = ("interactions", "candidates", "text")
SPEC = """interactions = "{interactions}"
candidates = "{candidates}"
output = "out.parquet"

[embeddings.text]
path = "{text}"
"""


def spec_of(world: World, **urls: str) -> Path:
    """Write a spec whose tables are local unless a URL is given."""
    return world.spec(SPEC.format(**{name: urls.get(name, f"{name}.parquet") for name in TABLES}))


def halves(world: World, s3: Endpoint, place: str) -> None:
    """Write the candidates in two objects below a prefix."""
    table = world.table("candidates")
    for name, rows in {"part-0.parquet": table.slice(0, 150), "part-1.parquet": table.slice(150)}.items():
        s3.put(f"{place}/{name}", world.write(f"halves/{name.removesuffix('.parquet')}", rows))


def test_same_bytes_as_local(world: World, s3: Endpoint) -> None:
    extembed("run", spec_of(world)).ok()
    local, report = (
        (world.folder / "out.parquet").read_bytes(),
        json.loads((world.folder / "out.parquet.run.json").read_text()),
    )
    urls = {name: s3.put(f"same/{name}.parquet", world.folder / f"{name}.parquet") for name in TABLES}
    extembed("run", spec_of(world, **urls)).ok()
    assert (world.folder / "out.parquet").read_bytes() == local
    again = json.loads((world.folder / "out.parquet.run.json").read_text())
    assert again["digests"] == report["digests"]
    assert "secret-of-the-test" not in json.dumps(again)


@pytest.mark.parametrize("form", ["", "/", "/*.parquet", soak("/part-[01].*"), soak("/**"), soak("*/part-?.parquet")])
def test_prefixes_and_globs(world: World, s3: Endpoint, form: str) -> None:
    halves(world, s3, "forms")
    for leftover in ("_SUCCESS", "_temporary/0/x.parquet", ".part-0.parquet.crc"):
        s3.put(f"forms/{leftover}", b"")
    extembed("run", spec_of(world)).ok()
    local = world.output()
    extembed("run", spec_of(world, candidates=f"s3://bucket/forms{form}")).ok()
    assert world.output().equals(local)


def test_manifest_and_partitions(world: World, s3: Endpoint) -> None:
    """The parts are those that the manifest lists; folders of a prefix are partitions."""
    halves(world, s3, "listed")
    s3.put("listed/_extembed_manifest.json", b'{"parts": [{"file": "part-1.parquet", "rows": 150, "sha256": ""}]}')
    extembed("run", spec_of(world, candidates="s3://bucket/listed")).ok()
    assert world.output().height == 150
    halves(world, s3, "hive/month=01")
    extembed("run", spec_of(world, candidates="s3://bucket/hive")).ok()
    assert world.output()["month"].unique().to_list() == ["01"]
    extembed("run", spec_of(world, candidates="s3://bucket/hive/month=*/*.parquet")).ok()
    assert world.output()["month"].unique().to_list() == ["01"]


def test_other_commands(world: World, s3: Endpoint) -> None:
    text = s3.put("others/text.parquet", world.folder / "text.parquet")
    extembed("check", spec_of(world, text=text)).ok()
    extembed("run", spec_of(world, text=text), "--dry-run").ok()
    extembed("run", spec_of(world, text=text), "--cache", world.folder / "cache").ok()
    extembed("run", spec_of(world, text=text), "--cache", world.folder / "cache").ok()
    assert len(list((world.folder / "cache").glob("*.json"))) == 1


@pytest.mark.parametrize(
    ("url", "code", "message"),
    [
        ("s3://bucket/none.parquet", 3, "s3://bucket/none.parquet: no such object"),
        ("s3://no-bucket/x.parquet", 3, "s3://no-bucket/x.parquet: there is no bucket `no-bucket`"),
        ("s3://bucket/none*.parquet", 3, "the pattern matches no object"),
        (
            "s3://bucket/not-parquet",
            3,
            "s3://bucket/not-parquet: is CSV, not Parquet. Download it and run there: "
            """python -c 'import polars as pl; pl.read_csv("not-parquet").write_parquet("not-parquet.parquet")'""",
        ),
        ("s3://bucket/v.npy", 3, "`extembed import s3://bucket/v.npy -o v.parquet` makes a table"),
        ("s3://bucket/torn.parquet", 3, "s3://bucket/torn.parquet: cannot be read as Parquet"),
        ("s3://bucket/lake", 3, "s3://bucket/lake: is a table of Delta Lake, which is read from local folders only"),
        ("s3://", 2, "names no bucket"),
        ("s3://key:hunter2@bucket/x.parquet", 2, "s3://...bucket/x.parquet: has credentials or options in the URL"),
        ("s3://bucket/x.parquet?X-Amz-Signature=hunter2", 2, "s3://bucket/x.parquet...: has credentials"),
        ("hf://datasets/someone/something/x.parquet", 2, "pip install huggingface_hub"),
        ("gopher://x/y", 2, "gopher://x/y: `gopher://` cannot be opened (Protocol not known: gopher)\n"),
        ("s3a://bucket/x.parquet", 2, "s3a://bucket/x.parquet: s3a:// and s3n:// are Hadoop's names; write s3://"),
        ("S3://bucket/x.parquet", 2, "S3://bucket/x.parquet: write s3://"),
        ("HTTPS://host/x.parquet", 2, "files of web servers are not read; download it"),
        ("http://host/x.parquet", 2, "http://host/x.parquet: files of web servers are not read; download it"),
        ("S3://key:hunter2@bucket/x.parquet", 2, "S3://...bucket/x.parquet: has credentials or options in the URL"),
        ("az://container/x.parquet", 2, "set AZURE_STORAGE_ACCOUNT"),
    ],
)
@pytest.mark.few(8)
def test_what_cannot_be_read(world: World, s3: Endpoint, url: str, code: int, message: str) -> None:
    s3.put("v.npy", b"\x93NUMPY")
    s3.put("not-parquet", b"user_id,item_id\n1,2\n")
    s3.put("torn.parquet", (world.folder / "text.parquet").read_bytes()[:500])
    s3.put("lake/_delta_log/0.json", b"{}")
    s3.put("lake/part.parquet", b"")
    ran = extembed("run", spec_of(world, text=url)).failed(code, message)
    assert "hunter2" not in ran.err


@pytest.mark.soak
def test_no_server(world: World, s3: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    extembed("run", spec_of(world, text="s3://bucket/x.parquet")).failed(
        3, "s3://bucket/x.parquet: the store cannot be reached", "Run again"
    )


def test_a_cut_connection(world: World, s3: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection ends in the middle of the object, at every attempt."""
    url = s3.put("cut/interactions.parquet", world.folder / "interactions.parquet")
    proxy = CuttingProxy(s3.port, 4000)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
    extembed("run", spec_of(world, interactions=url)).failed(3, f"{url}: ", "cut")
    assert proxy.cuts
    assert not (world.folder / "out.parquet").exists()
    proxy.close()


def test_no_credentials(world: World, s3: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """S3 answers 403, both without credentials and with those that lack a permission."""
    server = HTTPServer(("127.0.0.1", 0), Forbidding)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    spec = spec_of(world, text="s3://bucket/x.parquet")
    extembed("run", spec).failed(3, "s3://bucket/x.parquet: access denied with the credentials that were found")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    extembed("run", spec).failed(
        3, "s3://bucket/x.parquet: access denied, and no credentials were found: set AWS_ACCESS_KEY_ID"
    )
    server.shutdown()
    server.server_close()


class Forbidding(BaseHTTPRequestHandler):
    """Answers as S3 does to a request that is not allowed."""

    def do_HEAD(self) -> None:
        self.send_response(403)
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        self.wfile.write(b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>")

    def log_message(self, *_: object) -> None:
        pass


def test_features_of_an_evaluation(world: World, s3: Endpoint) -> None:
    """The other command with an input reads it too, and says what it lacks."""
    url = s3.put("evaluated/out.parquet", world.write("plain", {"a": [1.0]}))
    extembed("evaluate", url, "--label", "label", "-o", world.folder / "report").failed(3, f"{url}: has no readable")
    extembed("evaluate", url, "--label", "label", "-o", "s3://bucket/report").failed(2, "this can only be a local path")


def test_a_file_of_vectors_is_imported(tmp_path: Path, s3: Endpoint) -> None:
    np.save(tmp_path / "v.npy", np.arange(1.0, 9).reshape(4, 2))
    (tmp_path / "ids.txt").write_text("a\nb\nc\nd\n")
    vectors, ids = (s3.put(f"import/{name}", tmp_path / name) for name in ("v.npy", "ids.txt"))
    for output, source, of in (("local", "v.npy", "ids.txt"), ("remote", vectors, ids)):
        extembed("import", source, "--ids", of, "-o", f"{output}.parquet", cwd=tmp_path).ok()
    assert (tmp_path / "remote.parquet").read_bytes() == (tmp_path / "local.parquet").read_bytes()
    torn = s3.put("import/torn.npy", (tmp_path / "v.npy").read_bytes()[:-4])
    extembed("import", torn, "--ids", "rows", "-o", "out.parquet", cwd=tmp_path).failed(3, torn)
    assert not (tmp_path / "out.parquet").exists()


@pytest.mark.soak
def test_what_others_put_into_the_temporary_folder(world: World, s3: Endpoint, tmp_path: Path) -> None:
    """Only folders of copies that a killed run has left are removed, and no pipe makes a run wait."""
    shared, elsewhere = tmp_path / "shared", tmp_path / "elsewhere"
    for name in (
        "extembed-objects-notes",
        "extembed-objects-abcdefgh",
        "extembed-objects-dead1234",
        "extembed-objects-",
    ):
        (shared / name).mkdir(parents=True)
        (shared / name / "keep").touch()
    os.mkfifo(shared / "extembed-objects-x")
    os.mkfifo(shared / "extembed-objects-aaaaaaaa")
    os.mkfifo(shared / "extembed-objects-abcdefgh" / "lock")
    (shared / "extembed-objects-dead1234" / "lock").touch()
    elsewhere.mkdir()
    (elsewhere / "lock").touch()
    (shared / "extembed-objects-bbbbbbbb").symlink_to(elsewhere)
    url = s3.put("shared/text.parquet", world.folder / "text.parquet")
    env = {**s3.env, "TMPDIR": str(shared)}
    extembed_process("run", spec_of(world, text=url), env=env).ok()
    left = {path.name.removeprefix("extembed-objects-") for path in shared.iterdir()}
    assert left == {"notes", "abcdefgh", "", "x", "aaaaaaaa", "bbbbbbbb"}
    assert (elsewhere / "lock").exists()


def test_a_machine_without_the_copy_reads_the_object(world: World, s3: Endpoint) -> None:
    url = s3.put("far/candidates.parquet", world.folder / "candidates.parquet")
    [part] = open_table("candidates", url).parts
    far = replace(part, path=Path("/nowhere/candidates.parquet"))
    assert pa.Table.from_batches(far.batches()).equals(pa.Table.from_batches(part.batches()))
    assert far.group_rows() == part.group_rows()
