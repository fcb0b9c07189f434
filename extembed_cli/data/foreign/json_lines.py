"""JSON Lines: one object a line, with an id, and a list of numbers or several keys with one number each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from extembed_cli.data.foreign.batches import Batch, from_batches
from extembed_cli.data.foreign.columns import choose_columns
from extembed_cli.data.foreign.lines import first_line, lines
from extembed_cli.data.foreign.source import Choices, VectorFile, opened, reading


def read_json_lines(path: Path, choices: Choices) -> VectorFile:
    """Return the vectors of a file with a JSON object a line."""
    with reading(path, "jsonl"), opened(path) as file:
        names = list(_object(first_line(file), 1))
    id_key, vector_keys = choose_columns(path, names, choices)
    assert id_key is not None  # --ids is no flag of this format
    return from_batches(path, "jsonl", partial(_batches, path, id_key, vector_keys))


def _batches(path: Path, id_key: str, vector_keys: list[str]) -> Iterator[Batch]:
    row = 0
    with opened(path) as file:
        for some in lines(file):
            ids, vectors = [], []
            for line in some:
                row += 1
                data = _object(line, row)
                ids.append(_id(data, id_key, row))
                values = [_value(data, key, row) for key in vector_keys]
                vectors.append(values if len(vector_keys) > 1 else values[0])
            yield Batch(pa.array(ids, pa.string()), pa.array(vectors, pa.list_(pa.float64())))


def _object(line: bytes, row: int) -> dict[str, Any]:
    try:
        data = json.loads(line)
    except ValueError as error:
        raise ValueError(f"row {row:,} is not JSON: {error}") from None
    if not isinstance(data, dict):
        raise ValueError(f'row {row:,} is not an object in one line, such as {{"id": 1, "embedding": [0.5, 0.1]}}')
    return data


def _value(data: dict[str, Any], key: str, row: int) -> Any:
    if key not in data:
        raise ValueError(f"row {row:,} has no `{key}`")
    return data[key]


def _id(data: dict[str, Any], key: str, row: int) -> str:
    value = _value(data, key, row)
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise ValueError(f"row {row:,} has `{key}` = {json.dumps(value)[:40]}; ids are text or integers")
    return str(value)
