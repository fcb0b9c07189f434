"""Damaged Parquet files of many writers, and a program that runs them one by one: `python -m helpers.mutants`."""

from __future__ import annotations

import functools
import io
import json
import resource
import sys
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from conftest import extembed, timestamps, vectors

TABLES = ("interactions", "candidates", "text", "taste")
SPEC = """interactions = "interactions.parquet"
candidates = "candidates.parquet"
output = "out.parquet"
embeddings.text.path = "text.parquet"
user_embeddings.taste.path = "taste.parquet"
[histories.liked]
where = "rating >= 3 OR kind = 'like'"
[[aggregate]]
target = "rating"
[[dual]]
[[direct]]
"""
ROWS = 300


@functools.cache
def table(name: str) -> pa.Table:
    """Return a table with ids that are text, and with columns that only pass through."""
    rng = np.random.default_rng(5)
    log = {
        "user_id": pa.array([f"user {each}" for each in rng.integers(0, 20, ROWS)]),
        "item_id": pa.array(rng.integers(0, 30, ROWS)),
        "timestamp": timestamps(1_700_000_000_000_000 + np.sort(rng.integers(0, 10**12, ROWS))),
    }
    if name == "interactions":
        kinds = ["like", "buy", None]
        return pa.table({**log, "rating": rng.integers(1, 6, ROWS), "kind": rng.choice(kinds, ROWS).tolist()})
    if name == "candidates":
        lists = [list(range(each)) for each in rng.integers(0, 5, ROWS)]
        return pa.table({**log, "label": rng.random(ROWS), "seen": pa.array(lists, pa.list_(pa.int32()))})
    if name == "text":
        return pa.table({"item_id": np.arange(30), "embedding": vectors(rng.standard_normal((30, 8)), "list")})
    users = [f"user {each}" for each in range(20)]
    return pa.table({"user_id": users, "embedding": vectors(rng.standard_normal((20, 8)), "list")})


def _arrow(name: str, **options: object) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table(name), sink, row_group_size=100, **options)
    return sink.getvalue()


def _polars(name: str) -> bytes:
    sink = io.BytesIO()
    frame = pl.from_arrow(table(name))
    assert isinstance(frame, pl.DataFrame)
    frame.write_parquet(sink)
    return sink.getvalue()


def _duckdb(name: str, folder: Path) -> bytes:
    path = folder / "duckdb.parquet"
    with duckdb.connect() as database:
        database.register("source", table(name))
        database.execute(f"COPY source TO '{path}' (FORMAT parquet)")
    return path.read_bytes()


def _encoded(name: str) -> dict[str, str]:
    kinds = {each.name: each.type for each in table(name).schema}
    encodings = {
        column: "DELTA_BINARY_PACKED"
        if pa.types.is_integer(kind) or pa.types.is_timestamp(kind)
        else "DELTA_BYTE_ARRAY"
        if pa.types.is_string(kind)
        else "BYTE_STREAM_SPLIT"
        for column, kind in kinds.items()
        if not pa.types.is_list(kind)
    }
    inner = {"embedding": "BYTE_STREAM_SPLIT", "seen": "DELTA_BINARY_PACKED"}
    return encodings | {f"{column}.list.element": inner[column] for column in kinds if column in inner}


WRITERS: tuple[Callable[[str, Path], bytes], ...] = (
    *(
        lambda name, folder, codec=codec, checked=checked: _arrow(name, compression=codec, write_page_checksum=checked)
        for codec in ("none", "snappy", "zstd", "gzip", "lz4", "brotli")
        for checked in (False, True)
    ),
    *(
        lambda name, folder, version=version, checked=checked: _arrow(
            name,
            compression="none",
            use_dictionary=False,
            column_encoding=_encoded(name),
            data_page_version=version,
            write_page_checksum=checked,
        )
        for version in ("1.0", "2.0")
        for checked in (False, True)
    ),
    lambda name, folder: _arrow(name, compression="none", data_page_version="2.0", write_page_index=True),
    lambda name, folder: _polars(name),
    _duckdb,
)


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """Return a file with one kind of damage, in its pages or in its footer."""
    data = bytearray(content)
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    low, high = [(4, footer), (footer, len(data) - 8), (0, len(data))][rng.integers(3)]
    places = rng.integers(low, high, rng.integers(1, 5))
    kind = rng.integers(7)
    if kind == 0:
        for place in places:
            data[place] ^= 1 << rng.integers(8)
    elif kind == 1:
        for place in places:
            data[place] = rng.choice([0, 1, 0x7F, 0x80, 0xFF])
    elif kind == 2:
        del data[places[0] :]
    elif kind == 3:
        data[places[0] : places[0]] = rng.bytes(rng.integers(1, 20))
    elif kind == 4:
        del data[places[0] : places[0] + rng.integers(1, 20)]
    elif kind == 5:
        size = int(rng.integers(1, 64))
        one, other = sorted(rng.integers(0, max(1, len(data) - size), 2))
        data[one : one + size], data[other : other + size] = data[other : other + size], data[one : one + size]
    else:
        data[places[0] : places[0] + 32] = rng.bytes(32)
    return bytes(data)


def run_cases(folder: Path, first: int, last: int) -> None:
    """Run cases by number, each with one damaged input; write a line before and after each."""
    (folder / "spec.toml").write_text(SPEC)
    pristine = functools.cache(lambda writer, name: WRITERS[writer](name, folder))
    for number in range(first, last):
        rng = np.random.default_rng(number)
        damaged = TABLES[number % len(TABLES)]
        for name in TABLES:
            content = pristine(int(rng.integers(len(WRITERS))) if name == damaged else 0, name)
            (folder / f"{name}.parquet").write_bytes(mutated(content, rng) if name == damaged else content)
        _tell(case=number)
        done = extembed("run", folder / "spec.toml", "--allow-empty", "--workers", "1")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        _tell(case=number, code=done.code, error=done.err[-1000:], peak_mib=peak)


def _tell(**line: object) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    run_cases(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
