"""What a file is that is not Parquet, by its first bytes, and how to convert it."""

from __future__ import annotations

from pathlib import Path

from extembed_cli.json_files import parsed

_HEAD = 4096
_CONVERTED_BY = {
    "CSV": "read_csv",
    "TSV": "read_csv",
    "JSON": "read_json",
    "JSON lines": "read_ndjson",
    "Arrow IPC (Feather)": "read_ipc",
    "an Arrow IPC stream": "read_ipc_stream",
    "Avro": "read_avro",
}
_MAGIC: dict[bytes, str] = {
    b"\x93NUMPY": "a NumPy array",
    b"PK\x03\x04": "a zip archive (or .npz, .xlsx)",
    b"\x1f\x8b": "compressed by gzip",
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
    **{
        bytes([0x80, protocol]): "a Python pickle, which may run any program when it is loaded"
        for protocol in range(2, 6)
    },
}
_VECTOR_FILES = {"a NumPy array", "a zip archive (or .npz, .xlsx)"}


def not_parquet(path: Path) -> str | None:
    """Return what a file is and how to convert it; None if it begins as Parquet does, or as nothing known."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return None
    if not head:
        return "is empty"
    magic = (kind for magic, kind in _MAGIC.items() if head.startswith(magic))
    kind = next(magic, None) or ("TOML, perhaps a spec" if path.suffix == ".toml" else _text_kind(head))
    if head.startswith(b"PAR1") or kind is None:
        return None
    return f"is {kind}, not Parquet{_hint(kind, path)}"


def _text_kind(head: bytes) -> str | None:
    """Return the kind of a text file by its first lines."""
    try:
        text = head.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:  # not a character that the end of the head has cut
            return None
        text = head[: error.start].decode("utf-8-sig")
    lines = text.splitlines() or [""]
    begin = text.lstrip().lower()
    if any(ord(character) < 32 and character not in "\t\r\n" for character in text):
        return None
    if begin.startswith(("<!doctype", "<html", "<?xml")):
        return "an HTML or XML page, perhaps the error message of a server"
    if begin.startswith(("{", "[")):
        return "JSON lines" if _is_json(lines[0]) and len(lines) > 1 else "JSON"
    if "\t" in lines[0]:
        return "TSV"
    return "CSV" if "," in lines[0] or ";" in lines[0] else "text"


def _is_json(line: str) -> bool:
    try:
        return bool(parsed(line))
    except ValueError:
        return False


def _hint(kind: str, path: Path) -> str:
    """Return the line that converts a file, after a colon."""
    parquet = f"{path.with_suffix('')}.parquet"
    if kind in _VECTOR_FILES:
        return f": `extembed import {path} -o {parquet}` makes a table of its vectors"
    if kind not in _CONVERTED_BY:
        return ""
    separator = ", separator='\\t'" if kind == "TSV" else ""
    read = f"pl.{_CONVERTED_BY[kind]}({str(path)!r}{separator})"
    return f': python -c "import polars as pl; {read}.write_parquet({parquet!r})"'
