"""`extembed import` of damaged and hostile files: a message and exit code 1, 2 or 3, soon and in little memory."""

from __future__ import annotations

import gzip
import io
import random
import re
import resource
import struct
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from conftest import extembed, extembed_process, soak
from helpers.commands import names
from helpers.foreign import VECTORS, WORDS, Writer, csv, lists, npy, npz, raw, real, rows, safetensors, text, word2vec

ROWS = ["--ids", "rows"]
LONG = 2**23 + 1
"""Bytes of a line that is too long"""


@contextmanager
def at_most(more: int) -> Iterator[None]:
    """Limit the memory that this process may take in addition."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def import_soon(source: Path, *flags: str) -> tuple[int, str]:
    """Return exit code and messages of an import that must not take long, take much memory or leave something."""
    others, began = names(source.parent), time.monotonic()
    with at_most(2**31):
        done = extembed("import", source, "-o", source.parent / "out.parquet", *flags)
    assert time.monotonic() - began < 10
    assert done.code in {0, 1, 2, 3}, done.err
    assert "Traceback" not in done.err
    assert names(source.parent) - others <= {"out.parquet"}
    return done.code, done.err


# --- damage at random ------------------------------------------------------------------------------------------------

WIDE = "item_id,d0,d1,d2\n" + rows(",")
WHOLE: dict[str, tuple[Writer, list[str]]] = {
    "npy": (npy(VECTORS), ROWS),
    "npy in Fortran's order": (npy(np.asfortranarray(VECTORS)), ROWS),
    "npz": (npz(v=VECTORS, ids=np.array(WORDS)), []),
    "npz compressed": (npz(np.savez_compressed, v=VECTORS.astype(">f8"), ids=np.arange(4)), []),
    "safetensors": (safetensors(v=("F32", VECTORS), ids=("I64", np.arange(4))), []),
    "faiss": (real("flat_l1.faiss"), ROWS),
    "faiss map": (real("map2.faiss"), []),
    "word2vec binary": (word2vec(b"\n"), []),
    "word2vec text": (text("v.vec", "4 3\n" + rows(" ")), []),
    "GloVe": (text("v.txt", rows(" ")), []),
    "GloVe compressed": (text("v.txt.gz", rows(" ")), []),
    "csv": (csv(WIDE), []),
    "csv with lists": (csv(lists(str)), []),
    "jsonl": (real("pandas.jsonl"), []),
    "ids as text": (text("ids.txt", "\n".join(WORDS)), ["--ids"]),
    "ids as npy": (npy(np.array(WORDS), "ids.npy"), ["--ids"]),
}
WILD = [-1, 0, 1, 2**16, 2**16 + 1, 2**31 - 1, 2**32 - 1, 10**12, 2**63 - 1, 2**63, 2**64 - 1, 10**30]


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Return the bytes of a file with some of them changed, cut or added, mostly near its beginning."""
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        data = data or b"x"
        at = rng.choice([rng.randrange(len(data)), rng.randrange(min(len(data), 200))])
        numbers = list(re.finditer(rb"\d+", data[:400])) or [re.match(b"", data)]
        number = rng.choice(numbers)
        assert number is not None
        wild = rng.choice(WILD)
        data = rng.choice(
            [
                data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :],
                data[:at] + rng.randbytes(1) + data[at + 1 :],
                data[:at],
                data[:at] + data[at + rng.randrange(30) :],
                data[:at] + rng.randbytes(rng.randrange(20)) + data[at:],
                data[:at] + data[: rng.randrange(200)] + data[at:],
                data[:at] + struct.pack("<Q", wild % 2**64) + data[at + 8 :],
                data[:at] + struct.pack("<I", wild % 2**32) + data[at + 4 :],
                data[: number.start()] + str(wild).encode() + data[number.end() :],
            ]
        )
    return data


@pytest.mark.parametrize("number", [10, soak(600)])
@pytest.mark.parametrize("kind", WHOLE)
@pytest.mark.few(8)
def test_a_damaged_file_is_read_or_refused(tmp_path: Path, kind: str, number: int) -> None:
    write, flags = WHOLE[kind]
    path = write(tmp_path)
    whole, rng = path.read_bytes(), random.Random(kind)
    target = tmp_path / path.name
    vectors = npy(VECTORS)(tmp_path)
    arguments = [vectors, *flags, str(target)] if flags == ["--ids"] else [target, *flags]
    codes = []
    for data in [whole, *(damaged(whole, rng) for _ in range(number))]:
        target.write_bytes(data)
        codes.append(import_soon(*arguments)[0])
    assert codes[0] == 0
    assert len(set(codes)) > 1


@pytest.mark.soak
def test_a_process_ends_with_its_exit_code(tmp_path: Path) -> None:
    """A file that a library still holds when Python ends must not abort the process."""
    source = csv("id,a1,a2\nx,1,2\ny,1\n")(tmp_path)
    codes = {extembed_process("import", source, "-o", tmp_path / "out.parquet").code for _ in range(30)}
    assert codes == {3}


# --- sizes that are lies ---------------------------------------------------------------------------------------------


def npy_header(shape: str, kind: str = "<f4") -> bytes:
    """Return an .npy file of 64 bytes whose header says a shape."""
    header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(64)


def zip_that_says(size: int) -> bytes:
    """Return an .npz whose directory says that its array has `size` bytes, as does the header of the array."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("v.npy", npy_header(f"({(size - 128) // 16}, 4)"))
    whole = len(npy_header("(1, 4)"))
    return file.getvalue().replace(struct.pack("<I", whole), struct.pack("<I", size))


def safetensors_header(length: int, header: str) -> bytes:
    return struct.pack("<Q", length) + header.encode() + bytes(64)


def flat_index(rows_: int, dim: int, numbers: int) -> bytes:
    head = struct.pack("<iqqqBi", dim, rows_, 2**20, 2**20, 1, 1)
    return b"IxF2" + head + struct.pack("<Q", numbers % 2**64) + bytes(64)


def tensor(shape: str, begin: int, end: int) -> str:
    return f'{{"v": {{"dtype": "F32", "shape": {shape}, "data_offsets": [{begin}, {end}]}}}}'


def safetensors_saying(shape: str, begin: int, end: int) -> Writer:
    header = tensor(shape, begin, end)
    return raw("v.safetensors", safetensors_header(len(header), header))


LIES: dict[str, tuple[Writer, str]] = {
    "npy of 16 TB": (raw("v.npy", npy_header("(1000000000000, 4)")), "its header says (1000000000000, 4) float32"),
    "npy of 1e30 rows": (raw("v.npy", npy_header(f"({10**30}, 4)")), "64 bytes follow"),
    "npy of a negative length": (raw("v.npy", npy_header("(-4, -4)")), "negative length"),
    "npy of long text": (raw("v.npy", npy_header("(1, 4)", "<U99999999")), "64 bytes follow"),
    "npy with a long header": (raw("v.npy", b"\x93NUMPY\x02\x00" + b"\xff" * 4 + b"{"), "cannot be read as npy"),
    "npy with a nested header": (raw("v.npy", npy_header("(" * 60)), "cannot be read as npy"),
    "npz of 4 GB": (raw("v.npz", zip_that_says(2**32 - 1)), "would be 4,294,967,295 bytes, which 81 cannot be"),
    "npz of 100 kB": (raw("v.npz", zip_that_says(100_000)), "v.npz: cannot be read as npz"),
    "safetensors of 16 TB": (safetensors_saying("[1000000000000, 4]", 0, 16 * 10**12), "in the bytes 0 to 16,000"),
    "safetensors elsewhere": (safetensors_saying("[1, 4]", -16, 0), "in the bytes -16 to 0"),
    "safetensors with a long header": (raw("v.safetensors", safetensors_header(2**40, "{")), "its header would have"),
    "safetensors with a nested header": (
        raw("v.safetensors", safetensors_header(10**5, '{"a":' * 20_000)),
        "cannot be read as safetensors",
    ),
    "faiss of 16 TB": (raw("v.faiss", flat_index(10**12, 4, 4 * 10**12)), "4,000,000,000,000 numbers would begin"),
    "faiss beyond 64 bits": (raw("v.faiss", flat_index(2**62, 4, 2**64)), "numbers would begin"),
    "faiss of negative rows": (raw("v.faiss", flat_index(-1, 4, -4)), "its header says -1 vectors of 4"),
    "word2vec of 1e12 rows": (raw("v.bin", b"999999999999 3\na " + bytes(12)), "999,999,999,999 vectors, and it has 1"),
    "word2vec of long vectors": (raw("v.bin", b"1 999999999999\na " + bytes(12)), "vectors of 999,999,999,999 numbers"),
    "word2vec with a long id": (raw("v.bin", b"1 3\n" + b"a" * 10_000), "an id has more than 4,096 bytes"),
    "a long line": (raw("v.txt", b"a 1 2\n" + b"1" * LONG), "line 2 has more than 8,388,608 bytes"),
    "a long line in a small file": (raw("v.txt.gz", b"a 1 2\n" + b"1" * 2 * LONG), "line 2 has more than"),
    "a long line of JSON": (raw("v.jsonl.gz", b'{"id": 1, "embedding": [' + b"1," * LONG), "line 1 has more than"),
    "nested JSON": (raw("v.jsonl", b'{"id": 1, "embedding": ' + b"[" * 200_000), "cannot be read as jsonl"),
    "a number of many digits": (raw("v.jsonl", b'{"id": 1, "embedding": [' + b"9" * 10_000 + b"]}"), "v.jsonl"),
    "many columns": (
        raw("v.csv", b"id," + b",".join(b"d%d" % place for place in range(100_000)) + b"\n"),
        "has 100,001 columns; tables of at most",
    ),
    "a quote that does not end": (raw("v.csv.gz", b'id,embedding\nx,"' + b"1 " * LONG), "cannot be read as csv"),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_a_size_that_is_a_lie_is_found_before_memory_is_taken(tmp_path: Path, lie: str) -> None:
    write, part = LIES[lie]
    path = write(tmp_path)
    needs_ids = path.suffix in {".npy", ".npz", ".safetensors", ".faiss"}
    code, message = import_soon(path, *(ROWS if needs_ids else []))
    assert code in {1, 3}, message
    assert part in message
    assert len(message) < 600


def test_ids_that_are_a_lie_are_refused(tmp_path: Path) -> None:
    vectors = npy(VECTORS)(tmp_path)
    for name, data in {
        "ids.npy": npy_header("(1000000000000,)", "<i8"),
        "ids.txt.gz": gzip.compress(b"1" * 2 * LONG),
    }.items():
        code, message = import_soon(vectors, "--ids", str(raw(name.removesuffix(".gz"), data)(tmp_path)))
        assert code == 3, message
