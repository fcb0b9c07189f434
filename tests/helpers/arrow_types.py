"""Every Arrow type that can be written to Parquet, and columns of any of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import types

_UNITS = ("s", "ms", "us", "ns")
_STRUCT = pa.struct([pa.field("a", pa.int64()), pa.field("b", pa.string())])
_SPARK = pa.struct(
    [
        pa.field("type", pa.int8()),
        pa.field("size", pa.int32()),
        pa.field("indices", pa.list_(pa.int32())),
        pa.field("values", pa.list_(pa.float64())),
    ]
)
_TEXT = (pa.string(), pa.large_string(), pa.string_view())
_BYTES = (pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(16), pa.binary(1))
_NUMBERS = (
    *(pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()),
    *(pa.float16(), pa.float32(), pa.float64(), pa.bool_()),
    *(pa.decimal32(9, 0), pa.decimal32(5, 2), pa.decimal64(18, 0), pa.decimal64(10, 3), pa.decimal128(38, 0)),
    *(pa.decimal128(20, 10), pa.decimal256(76, 0), pa.decimal256(50, 20), pa.decimal256(76, 74)),
)
_MOMENTS = (
    *(pa.date32(), pa.date64(), pa.time32("s"), pa.time32("ms"), pa.time64("us"), pa.time64("ns")),
    *(pa.timestamp(unit) for unit in _UNITS),
    *(pa.timestamp(unit, zone) for unit in _UNITS for zone in ("UTC", "Europe/Berlin", "+05:30")),
    pa.timestamp("us", "Mars/Olympus"),
    *(pa.duration(unit) for unit in _UNITS),
)
_ENCODED = (
    *(pa.dictionary(pa.int32(), kind) for kind in (pa.string(), pa.large_string(), pa.int64(), pa.float64())),
    *(pa.dictionary(pa.int8(), kind) for kind in (pa.bool_(), pa.binary(), pa.timestamp("us"), pa.date32())),
    *(pa.dictionary(pa.int32(), kind) for kind in (pa.decimal128(5, 0), pa.float16(), pa.binary(16))),
)
_ELEMENTS = (pa.int8(), pa.int64(), pa.float16(), pa.float32(), pa.float64(), pa.string(), pa.bool_(), pa.date32())
_LISTS = (
    *(pa.list_(kind) for kind in _ELEMENTS),
    *(pa.list_(kind, 4) for kind in _ELEMENTS),
    *(pa.large_list(kind) for kind in (pa.float32(), pa.string())),
    *(pa.list_view(pa.float32()), pa.list_view(pa.string()), pa.large_list_view(pa.float32())),
    *(pa.list_(pa.list_(pa.float32())), pa.list_(pa.list_(pa.float32(), 2), 4), pa.list_(_STRUCT)),
    *(pa.list_(pa.float32(), 1), pa.list_(pa.float32(), 0), pa.list_(pa.decimal128(5, 2)), pa.list_(pa.null())),
    *(pa.list_(pa.dictionary(pa.int32(), pa.string())), pa.list_(pa.uint64()), pa.list_(pa.timestamp("us"))),
)
_NESTED = (
    _STRUCT,
    _SPARK,
    pa.struct([pa.field("deep", pa.struct([pa.field("er", pa.list_(_STRUCT))]))]),
    pa.map_(pa.string(), pa.int64()),
    pa.map_(pa.int64(), pa.list_(pa.float32())),
)
_EXTENSIONS = (
    *(pa.uuid(), pa.json_(), pa.bool8(), pa.fixed_shape_tensor(pa.float32(), [4])),
    *(pa.fixed_shape_tensor(pa.float32(), [2, 2]), pa.opaque(pa.int64(), "kind", "vendor")),
    *(pa.opaque(pa.string(), "kind", "vendor"), pa.opaque(pa.list_(pa.float32()), "kind", "vendor")),
)
ALL = (*_TEXT, *_BYTES, *_NUMBERS, *_MOMENTS, *_ENCODED, *_LISTS, *_NESTED, *_EXTENSIONS, pa.null())


def column(kind: pa.DataType, numbers: Iterable[int | None]) -> pa.Array:
    """Return a column with a value for each number, equal for equal numbers; None = null."""
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, column(kind.storage_type, numbers))
    if types.is_dictionary(kind):
        return column(kind.value_type, numbers).dictionary_encode().cast(kind)
    return pa.array([None if number is None else _value(kind, number) for number in numbers], kind)


def _value(kind: pa.DataType, number: int) -> Any:  # noqa: PLR0911
    """Return the Python value of a type that stands for a number of 0 to 99."""
    if types.is_null(kind):
        return None
    if types.is_dictionary(kind):
        return _value(kind.value_type, number)
    if types.is_boolean(kind):
        return number % 2 == 1
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return str(number)
    if types.is_fixed_size_binary(kind):
        return bytes([number]) * kind.byte_width
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind):
        return bytes([number])
    if types.is_date64(kind):
        return number * 86_400_000
    if types.is_floating(kind):
        return np.float16(number) if types.is_float16(kind) else float(number)
    if types.is_map(kind):
        return [(_value(kind.key_type, number), _value(kind.item_type, number))]
    if types.is_struct(kind):
        return {field.name: _value(field.type, number) for field in kind}
    if types.is_nested(kind):
        length = kind.list_size if types.is_fixed_size_list(kind) else 4
        return [_value(kind.value_type, (number * 7 + place * 5) % 11 + 1) for place in range(length)]
    if types.is_decimal(kind):
        return number % 10 if kind.scale > kind.precision - 3 else number
    return number
