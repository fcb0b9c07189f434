"""Sealed JSON: any other byte is found, also one that changes no value."""

from __future__ import annotations

from pathlib import Path

import pytest

from extembed_cli.data.files.commit import write_json
from extembed_cli.data.files.sealed import read_sealed, sealed
from extembed_cli.errors import DataError

DATA = {"tiny": 1e-07, "number": 0.30000000000000004, "text": "é\x9b\x1b\udcff", "list": [1, None, True], "z": {"a": 1}}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "sealed.json"
    write_json(path, sealed(DATA))
    return path


def test_sealed_data_comes_back(path: Path) -> None:
    assert read_sealed(path) == DATA
    assert path.read_text().endswith("}\n")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("1e-07", "1E-07"),
        ("0.30000000000000004", "0.30000000000000005"),
        ("u009b", "u009B"),
        ('"number"', '"numbeq"'),
        ("true", "null"),
        ("  ", "\t\t"),
        ("}\n", "}"),
        ('"checksum"', '"checksun"'),
        ("{", "["),
        ("\n", ""),
    ],
)
def test_every_change_is_found(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(DataError, match=r"sealed\.json: was changed or damaged"):
        read_sealed(path)


@pytest.mark.parametrize("content", [b"", b"[]", b"1", b'{"a": 1}', b"\xff\xfe{}", b"[" * 100_000])
def test_what_was_never_sealed_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(DataError, match="was changed or damaged"):
        read_sealed(path)
