"""What a file is that is not Parquet, by its first bytes, and how to convert it."""

from __future__ import annotations

import json
import re
import shlex
import zlib
from contextlib import suppress
from pathlib import Path, PurePosixPath

from extembed_cli.data.stores.filesystems import is_url
from extembed_cli.json_files import parsed

_HEAD = 4096
_GZIP = "compressed by gzip"
_GZIP_BITS = 31  # of zlib: a window of any size, with the header of gzip
_UTF_16 = "text in UTF-16"
_BY_POLARS = "import polars as pl; pl.{}.write_parquet({{target}})"
_PROGRAMS = {
    "JSON": _BY_POLARS.format("read_json({source})"),
    "JSON lines": _BY_POLARS.format("read_ndjson({source})"),
    "Arrow IPC (Feather)": _BY_POLARS.format("read_ipc({source})"),
    "an Arrow IPC stream": _BY_POLARS.format("read_ipc_stream({source})"),
    "Avro": _BY_POLARS.format("read_avro({source})"),
    "ORC": "import pyarrow as pa, pyarrow.orc, pyarrow.parquet; "
    "pa.parquet.write_table(pa.orc.read_table({source}), {target})",
}
"""The program that converts a file, by its kind"""
_MAGIC: dict[bytes, str] = {
    b"\x93NUMPY": "a NumPy array",
    b"PK\x03\x04": "a zip archive (or .npz, .xlsx)",
    b"\x1f\x8b": _GZIP,
    b"\x28\xb5\x2f\xfd": "compressed by zstd",
    b"BZh": "compressed by bzip2",
    b"\xfd7zXZ": "compressed by xz",
    b"ARROW1": "Arrow IPC (Feather)",
    b"FEA1": "Feather of version 1",
    b"\xff\xff\xff\xff": "an Arrow IPC stream",
    b"Obj\x01": "Avro",
    b"ORC": "ORC",
    b"SQLite format 3\x00": "an SQLite database",
    b"\x89HDF": "HDF5",
    b"version https://git-lfs": "a pointer of Git LFS: the file itself was not fetched (git lfs pull)",
    b"\xff\xfe": _UTF_16,
    b"\xfe\xff": _UTF_16,
}
_PICKLE = re.compile(rb"\x80[\x02-\x05]|(\([dl]|c[\w.]+\n\w+\n)p0\n|([\]}]|c[\w.]+\n\w+\n)q\x00")
"""How pickles begin: of the protocols from 2 on, of 0 and of 1"""
_VECTOR_FILES = {"a NumPy array", "a zip archive (or .npz, .xlsx)"}


def not_parquet(path: Path, name: str) -> str | None:
    """Return what a file is and how to convert it; None if it begins as Parquet does, or as nothing known.

    `name` is what messages call it: its path, or the URL that it is a copy of.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return None
    if not head:
        return "is empty"
    kind = _kind(head, path)
    if kind is None:
        return None
    return f"is {kind}, not Parquet{_hint(kind, head, name)}"


def _kind(head: bytes, path: Path) -> str | None:
    if head.startswith(b"PAR1"):
        return None
    if _PICKLE.match(head):
        return "a Python pickle, which may run any program when it is loaded"
    magic = next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), None)
    return magic or ("TOML, perhaps a spec" if path.suffix == ".toml" else _text_kind(_text(head)))


def _text(head: bytes) -> str:
    """Return the text of the first bytes of a file; one with a NUL character if they are no UTF-8."""
    try:
        return head.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        cut = error.start >= len(head) - 4  # a character at the end of the head
        return head[: error.start].decode("utf-8-sig") if cut else "\0"


def _text_kind(text: str) -> str | None:
    """Return the kind of a text file by its first lines; None if it has control characters."""
    lines = text.splitlines() or [""]
    begin = text.lstrip().lower()
    if any(ord(character) < 32 and character not in "\t\r\n" for character in text):
        return None
    if begin.startswith(("<!doctype", "<html", "<?xml")):
        return "an HTML or XML page, perhaps the error message of a server"
    if begin.startswith(("{", "[")):
        return "JSON lines" if _is_json(lines[0]) and len(lines) > 1 else "JSON"
    separator = _separator(lines[0])
    return "text" if separator is None else "TSV" if separator == "\t" else "CSV"


def _is_json(line: str) -> bool:
    try:
        return bool(parsed(line))
    except ValueError:
        return False


def _separator(line: str) -> str | None:
    """Return what separates the columns of a table in text."""
    separator = "\t" if "\t" in line else max(",;", key=line.count)
    return separator if separator in line else None


def _hint(kind: str, head: bytes, name: str) -> str:
    """Return the line that converts a file, which a shell runs as it is, with what comes before it."""
    is_remote = is_url(name)
    source = Path(PurePosixPath(name).name if is_remote else name)
    target = _converted(source)
    if kind in _VECTOR_FILES:
        return f": `extembed import {shlex.quote(name)} -o {shlex.quote(str(target))}` makes a table of its vectors"
    program = _program(kind, head)
    if program is None:
        return ""
    # Names in double quotes, so that the single quotes of the shell stay whole.
    names = {
        "source": json.dumps(str(source), ensure_ascii=False),
        "target": json.dumps(str(target), ensure_ascii=False),
    }
    line = f"python -c {shlex.quote(program.format(**names))}"
    return f". Download it and run there: {line}" if is_remote else f": {line}"


def _program(kind: str, head: bytes) -> str | None:
    """Return the program that converts a file; None where there is none."""
    options = ""
    if kind == _GZIP:
        with suppress(zlib.error):
            head = zlib.decompressobj(_GZIP_BITS).decompress(head, _HEAD)
    if kind == _UTF_16:
        text, options = head.decode("utf-16", errors="ignore"), ', encoding="utf-16"'
    elif kind in {_GZIP, "CSV", "TSV"}:
        text = _text(head)
    else:
        return _PROGRAMS.get(kind)
    if _text_kind(text) not in {"CSV", "TSV"}:
        return None
    separator = _separator(text.splitlines()[0])
    options += "" if separator == "," else f", separator={json.dumps(separator)}"
    return _BY_POLARS.format(f"read_csv({{source}}{options})")


def _converted(source: Path) -> Path:
    """Return a name for the converted file that is not taken."""
    base = source.with_suffix("") if source.suffix == ".gz" else source
    target = base.with_suffix(".parquet")
    return target if not target.exists() and target != source else base.with_suffix(".converted.parquet")
