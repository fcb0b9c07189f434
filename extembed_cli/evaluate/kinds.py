"""Types of columns that a ranker learns from: numbers, booleans and text."""

from __future__ import annotations

import pyarrow as pa
from pyarrow import types

from extembed_cli.data.ids import id_kind
from extembed_cli.data.labels import is_number


def can_learn(kind: pa.DataType) -> bool:
    """Whether a ranker learns from a column of this type."""
    return is_number(kind) or is_text(kind)


def is_text(kind: pa.DataType) -> bool:
    """Text of any kind: a ranker takes its values as categories."""
    return id_kind(kind) == "text"


def fits_float32(kind: pa.DataType) -> bool:
    """Whether float32 keeps all values of the type apart."""
    small = types.is_boolean(kind) or types.is_null(kind) or types.is_float16(kind) or types.is_float32(kind)
    return bool(small or (types.is_integer(kind) and kind.bit_width <= 16))
