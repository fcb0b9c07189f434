"""`where`, `weight` and `target`: a column's name, or a row-wise polars SQL expression.

An expression is row-wise if all parts of polars' serialised form are on a list of operations that read one row only:
anything else (an aggregate, a window, a function that polars adds later) would make a feature depend on rows
that its user must not see, or on how the users are split into shards.
"""

from __future__ import annotations

import io
import json
import re
from typing import Any

import polars as pl

from extembed_cli.errors import SpecError, did_you_mean, listing

_ROW_WISE_NODES = {"Column", "Literal", "BinaryExpr", "Ternary", "Cast", "Alias", "Function"}
_ROW_WISE_NAMESPACES = {
    "Sql",
    "StringExpr",
    "TemporalExpr",
    "Pow",
    "Trigonometry",
    "ListExpr",
    "ArrayExpr",
    "StructExpr",
}
_ROW_WISE_FUNCTIONS = {
    "Abs", "Ceil", "Coalesce", "Exp", "FillNull", "Floor", "Log", "Log1p", "MaxHorizontal", "MinHorizontal",
    "Negate", "Sign", "Bitwise.CountOnes", "Bitwise.CountZeros",
    "Boolean.AllHorizontal", "Boolean.AnyHorizontal", "Boolean.IsBetween", "Boolean.IsFinite", "Boolean.IsIn",
    "Boolean.IsInfinite", "Boolean.IsNan", "Boolean.IsNotNan", "Boolean.IsNotNull", "Boolean.IsNull", "Boolean.Not",
}  # fmt: skip
_NOT_ROW_WISE = {"StringExpr.ConcatVertical"}


def compile_expression(text: str, key: str, schema: dict[str, pl.DataType], dtype: pl.DataType) -> pl.Expr:
    """Return the expression cast to `dtype`; `schema` has the columns it may use, `key` is its key in the spec."""
    expression = pl.col(text) if text in schema else _parse(text, key, schema)
    try:
        actual = pl.DataFrame(schema=schema).lazy().select(value=expression).collect()["value"].dtype
    except pl.exceptions.PolarsError as error:
        hint = ". Write a time as timestamp '2026-01-31 06:00:00'" if "date/datetime/time" in str(error) else ""
        raise SpecError(f"{key} = {text!r}: does not fit the columns: {_first_line(error)}{hint}") from None
    if not (actual.is_numeric() or actual in {pl.Boolean(), pl.String(), pl.Null()}):
        raise SpecError(f"{key} = {text!r}: is {actual} and cannot become {dtype}; compare it with something")
    return expression.cast(dtype)


def columns_of(text: str, key: str, names: list[str]) -> list[str]:
    """Return the columns that an expression reads, after checking that they exist."""
    return [text] if text in names else _roots(_sql(text, key, names), text, key, names)


def _sql(text: str, key: str, names: list[str]) -> pl.Expr:
    try:
        return pl.sql_expr(text)
    except pl.exceptions.PolarsError as error:
        hint = did_you_mean(text, names) if text.isidentifier() else ""
        raise SpecError(
            f"{key} = {text!r}: neither a column nor a row-wise SQL expression: {_first_line(error)}{hint}"
        ) from None


def _roots(expression: pl.Expr, text: str, key: str, names: list[str]) -> list[str]:
    roots = list(dict.fromkeys(expression.meta.root_names()))
    for name in roots:
        if name not in names:
            raise SpecError(f"{key} = {text!r}: the interactions have no column `{name}`{did_you_mean(name, names)}")
    return roots


_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
_CLOCK = re.compile(r"\b(now|today|(current|local)_?(date|time|timestamp))\b", re.IGNORECASE)


def _parse(text: str, key: str, schema: dict[str, pl.DataType]) -> pl.Expr:
    clock = _CLOCK.search(_QUOTED.sub("", text))
    if clock and clock[0] not in schema:
        raise SpecError(f"{key} = {text!r}: {clock[0]} reads the clock, so tomorrow's run would differ. Write a date")
    expression = _sql(text, key, list(schema))
    _roots(expression, text, key, list(schema))
    tree = json.loads(expression.meta.serialize(format="json"))
    refused = sorted(_not_row_wise(tree))
    if refused:
        raise SpecError(
            f"{key} = {text!r}: not row-wise ({listing(refused)}): aggregates and windows would read other rows, "
            "including the future. Compute such a column before the run, as of each event, and name it here"
        )
    return pl.Expr.deserialize(io.StringIO(json.dumps(_with_float_literals(tree))), format="json")


def _not_row_wise(node: Any) -> set[str]:
    """Return the names of the parts of a serialised expression that may read other rows."""
    if isinstance(node, str):
        return {node}
    kind, body = next(iter(node.items()))
    if kind not in _ROW_WISE_NODES:
        return {kind}
    if kind in {"Column", "Literal"}:
        return set()
    if kind == "Function":
        name = _function_name(body["function"])
        known = name in _ROW_WISE_FUNCTIONS or name.split(".")[0] in _ROW_WISE_NAMESPACES
        names = set() if known and name not in _NOT_ROW_WISE else {name}
        return names.union(*(_not_row_wise(child) for child in body["input"]))
    children = {
        "BinaryExpr": ("left", "right"),
        "Ternary": ("predicate", "truthy", "falsy"),
        "Cast": ("expr",),
    }
    if kind == "Alias":
        return _not_row_wise(body[0])
    return set().union(*(_not_row_wise(body[child]) for child in children[kind]))


def _function_name(function: Any) -> str:
    """Return a name such as `Abs`, `Boolean.IsNull` or `StringExpr.Contains` from polars' nested form."""
    if isinstance(function, str):
        return function
    name, inner = next(iter(function.items()))
    if name in {"Boolean", "Bitwise", *_ROW_WISE_NAMESPACES}:
        return f"{name}.{inner if isinstance(inner, str) else next(iter(inner))}"
    return str(name)


def _with_float_literals(node: Any) -> Any:
    """Replace Decimal literals by Float64: SQL's `1.0` is a Decimal, and dividing by it keeps six digits."""
    if isinstance(node, dict):
        scalar = node.get("Scalar")
        if isinstance(scalar, dict) and isinstance(scalar.get("Decimal"), list):
            unscaled, _, scale = scalar["Decimal"]
            return {"Scalar": {"Float64": unscaled / 10**scale}}
        return {key: _with_float_literals(value) for key, value in node.items()}
    return [_with_float_literals(value) for value in node] if isinstance(node, list) else node


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
