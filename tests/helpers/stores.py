"""A real S3 endpoint on loopback (moto's server in a process of its own), and a proxy that cuts connections."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pyarrow import fs

BUCKET = "bucket"


@dataclass
class Endpoint:
    """A server, and the environment of a run that uses it."""

    port: int
    env: dict[str, str] = field(default_factory=dict)

    @property
    def fs(self) -> fs.S3FileSystem:
        return fs.S3FileSystem(
            access_key="key",
            secret_key="secret",
            region="us-east-1",
            scheme="http",
            endpoint_override=f"127.0.0.1:{self.port}",
            allow_bucket_creation=True,
        )

    def put(self, key: str, source: Path | bytes) -> str:
        """Write an object; return its URL."""
        with self.fs.open_output_stream(f"{BUCKET}/{key}") as stream:
            stream.write(source if isinstance(source, bytes) else source.read_bytes())
        return f"s3://{BUCKET}/{key}"

    def get(self, key: str) -> bytes:
        with self.fs.open_input_stream(f"{BUCKET}/{key}") as stream:
            return bytes(stream.read())

    def keys(self, prefix: str) -> list[str]:
        """Return the names of all objects below a prefix."""
        infos = self.fs.get_file_info(fs.FileSelector(f"{BUCKET}/{prefix}", recursive=True, allow_not_found=True))
        return sorted(i.path.removeprefix(f"{BUCKET}/{prefix}/") for i in infos if i.type == fs.FileType.File)


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving() -> Iterator[Endpoint]:
    """Run an S3 server with one bucket."""
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        endpoint = Endpoint(port, environment(port))
        for _ in range(600):
            with closing(socket.socket()) as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        endpoint.fs.create_dir(BUCKET)
        yield endpoint
    finally:
        server.kill()
        server.wait()


def environment(port: int) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret-of-the-test",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }


@pytest.fixture(scope="session")
def endpoint() -> Iterator[Endpoint]:
    with serving() as served:
        yield served


@pytest.fixture
def s3(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Endpoint:
    """Provides the endpoint, in the environment of this process."""
    for name, value in endpoint.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HOME", str(tmp_path))
    return endpoint


class CuttingProxy:
    """A proxy before a server that cuts every connection after so many bytes of answers, or of requests.

    With `hold` it keeps the connection open and passes no more bytes.
    """

    def __init__(self, port: int, most: int, *, of_requests: bool = False, hold: bool = False) -> None:
        self.to, self.hold = port, hold
        self.most = (most, None) if of_requests else (None, most)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self.listener.getsockname()[1])
        self.cuts = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self.to))
            threading.Thread(target=self._copy, args=(client, server, self.most[0]), daemon=True).start()
            threading.Thread(target=self._copy, args=(server, client, self.most[1]), daemon=True).start()

    def _copy(self, source: socket.socket, target: socket.socket, most: int | None) -> None:
        passed = 0
        try:
            while data := source.recv(65_536):
                passed += len(data)
                if most is not None and passed > most:
                    self.cuts += 1
                    if self.hold:
                        continue
                    break
                target.sendall(data)
        except OSError:
            pass
        for each in (source, target):
            with closing(each), suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.listener.close()
