"""Writing outputs to S3: each object is put in one step, when it is complete, so a killed run leaves the old one."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa

from extembed_cli.data.paths.directories import MANIFEST, PART, listed
from extembed_cli.data.stores.filesystems import Store, asking, open_store
from extembed_cli.errors import InputError, SpecError
from extembed_cli.system import signals

_SENT = 64 * 2**20  # bytes in memory at a time; S3's parts of them are sent side by side


def check_bucket(url: str) -> None:
    """Raise if a URL is none that outputs can have, or if its bucket cannot be read or is not there."""
    from pyarrow import fs  # noqa: PLC0415  slow to import

    if not url.startswith("s3://"):
        raise SpecError(f"{url}: outputs can be local or s3://; write a local one and copy it")
    if "/" not in url.removeprefix("s3://").strip("/"):
        raise SpecError(f"{url}: names no object in the bucket")
    try:
        with asking(url):
            store = open_store(url)
            bucket = store.path.partition("/")[0]
            kind = store.fs.get_file_info(bucket).type
            names = _names(store) if not url.endswith(".parquet") and kind != fs.FileType.NotFound else []
    except InputError as error:
        raise SpecError(str(error)) from error
    if kind == fs.FileType.NotFound:
        raise SpecError(f"{url}: there is no bucket `{bucket}`")
    if names and MANIFEST not in names and not all(re.fullmatch(PART, name) for name in names):
        raise SpecError(f"{url}: this directory holds something else; name a new one, or end in .parquet for one file")


def upload(path: Path, url: str) -> None:
    """Put a file, or the files of a directory with its manifest last, and remove parts that this does not list."""
    with asking(url, to_write=True), signals.deferred():
        store = open_store(url)
        if not path.is_dir():
            _put(path, store, store.path)
            return
        files = sorted(path.iterdir(), key=lambda file: (file.name == MANIFEST, file.name))
        for file in files:
            _put(file, store, f"{store.path}/{file.name}")
        _remove_unlisted(store, url, (path / MANIFEST).read_bytes())


def remove_unlisted(url: str) -> None:
    """Remove the parts below a URL that its manifest does not list: those of a run that has failed."""
    with asking(url, to_write=True):
        store = open_store(url)
        manifest: bytes | None = None
        if MANIFEST in _names(store):
            with store.fs.open_input_stream(f"{store.path}/{MANIFEST}") as file:
                manifest = file.read()
        _remove_unlisted(store, url, manifest)


def upload_part(path: Path, url: str) -> None:
    """Move a part to its place below a URL, before the manifest that lists it."""
    with asking(url, to_write=True):
        store = open_store(url)
        _put(path, store, f"{store.path}/{path.name}")
    path.unlink()


def _remove_unlisted(store: Store, url: str, manifest: bytes | None) -> None:
    kept = set() if manifest is None else {part.file for part in listed(url, manifest)}
    for name in set(_names(store)) - kept:
        if re.fullmatch(PART, name):
            store.fs.delete_file(f"{store.path}/{name}")


def _put(path: Path, store: Store, key: str) -> None:
    """Write a file to an object, which S3 replaces when the last part has arrived.

    After a failed part, closing fails too and completes nothing: pyarrow remembers the error of a write in the
    background. The file is mapped, so that no error of reading it can come in between.
    """
    with pa.memory_map(str(path)) as file:
        content = file.read_buffer()
        blocks = [content[start : start + _SENT] for start in range(0, content.size, _SENT)]
        stream = store.fs.open_output_stream(key)
        try:
            for block in blocks:
                stream.write(block)
                stream.flush()
        finally:
            stream.close()


def _names(store: Store) -> list[str]:
    """Return the names of the objects directly below a path."""
    from pyarrow import fs  # noqa: PLC0415

    infos = store.fs.get_file_info(fs.FileSelector(store.path, allow_not_found=True))
    return [info.base_name for info in infos if info.type == fs.FileType.File]
