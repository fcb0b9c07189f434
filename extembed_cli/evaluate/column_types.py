"""The column types that a ranker can learn from: numbers, booleans and text."""

from __future__ import annotations

import pyarrow as pa
from pyarrow import types

from extembed_cli.data.columns.ids import id_kind
from extembed_cli.data.columns.labels import is_number


def is_learnable(column_type: pa.DataType) -> bool:
    """Whether a ranker can learn from a column of this type."""
    return is_number(column_type) or is_text(column_type)


def is_text(column_type: pa.DataType) -> bool:
    """Whether the type is text, also in a dictionary. A ranker takes the values of text as categories."""
    return id_kind(column_type) == "text"


def fits_float32(column_type: pa.DataType) -> bool:
    """Whether float32 holds all values of the type exactly."""
    t = column_type
    small = types.is_boolean(t) or types.is_null(t) or types.is_float16(t) or types.is_float32(t)
    return bool(small or (types.is_integer(t) and t.bit_width <= 16))
