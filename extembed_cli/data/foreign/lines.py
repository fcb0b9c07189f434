"""Text files by lines, of a bounded length."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from extembed_cli.data.foreign.source import Bytes

LONGEST_LINE = 2**23
_CHUNK = 2**23
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def lines(file: Bytes) -> Iterator[list[bytes]]:
    """Yield the lines of a file that are not blank, without their ends, some megabytes at a time."""
    rest, number = b"", 0
    while chunk := file.read(_CHUNK):
        if not number and not rest:
            chunk = chunk.removeprefix(_BYTE_ORDER_MARK)
        *whole, rest = (rest + chunk).split(b"\n")
        number += len(whole)
        if len(rest) > LONGEST_LINE:
            raise ValueError(f"line {number + 1:,} has more than {LONGEST_LINE:,} bytes")
        yield [line for line in whole if line.strip()]
    if rest.strip():
        yield [rest]


def first_line(file: Bytes) -> bytes:
    """Return the first line of a file that was just opened, without its end."""
    line = file.readline(LONGEST_LINE + 1)
    if len(line) > LONGEST_LINE:
        raise ValueError(f"line 1 has more than {LONGEST_LINE:,} bytes")
    return line.removeprefix(_BYTE_ORDER_MARK).rstrip(b"\r\n")


def as_text(values: list[bytes]) -> pa.Array:
    """Return bytes as text; raise if some are not UTF-8."""
    try:
        return pa.array(values, pa.string())
    except pa.ArrowInvalid:
        for value in values:
            try:
                value.decode()
            except UnicodeDecodeError as error:
                where = value[max(0, error.start - 20) : error.end + 20]
                raise ValueError(f"it has bytes that are not UTF-8 text: {where!r}") from None
        raise
