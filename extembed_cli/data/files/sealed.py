"""JSON documents with a checksum of their own keys, so that a later change is found."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from extembed_cli.data.files.commit import json_document
from extembed_cli.errors import DataError
from extembed_cli.json_files import parsed

_CHECKSUM = "checksum"


def sealed(data: dict[str, Any]) -> dict[str, Any]:
    """Return data with a checksum of the other keys."""
    return {**data, _CHECKSUM: _checksum(data)}


def unsealed(data: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """Return what was sealed, and whether the checksum fits; raise KeyError if there is none."""
    rest = {key: value for key, value in data.items() if key != _CHECKSUM}
    return rest, data[_CHECKSUM] == _checksum(rest)


def _checksum(data: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def read_sealed(path: Path) -> dict[str, Any]:
    """Return sealed data from a file that `write_json` wrote; raise if a byte of it is another one."""
    raw = path.read_bytes()
    try:
        data = parsed(raw)
        rest, fits = unsealed(data)
        # The same data can be written in several ways, such as 1E-7 for 1e-7.
        if fits and json_document(data).encode() == raw:
            return rest
    except (ValueError, KeyError, RecursionError):  # what can just be read may be nested too deeply to be written
        pass
    raise DataError(f"{path}: was changed or damaged after it was written, or is of another version. Run again")
