"""`where`, `weight` and `target`: a column's name, or a row-wise polars SQL expression.

The words of an expression are checked before polars parses it (`spec/sql.py`): its parser opens the files of table
functions. It is row-wise if all parts of polars' serialised form are on a list of operations that read one row only:
anything else (an aggregate, a window, a function that polars adds later) would make a feature depend on rows
that its user must not see, or on how the users are split into shards.
"""

from __future__ import annotations

import json
from typing import Any

import polars as pl

from extembed_cli.errors import SpecError, did_you_mean, first_line, listing
from extembed_cli.spec.sql import UnknownColumnError, checked

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
    "Abs", "Atan2", "Ceil", "Clip", "Coalesce", "Exp", "FillNull", "Floor", "Log", "Log1p", "MaxHorizontal",
    "MinHorizontal", "Negate", "Round", "Sign", "Truncate", "Bitwise.CountOnes", "Bitwise.CountZeros",
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
        raise SpecError(f"{key} = {text!r}: does not fit the columns: {first_line(error)}{hint}") from None
    if dtype == pl.Boolean() and actual not in {pl.Boolean(), pl.Null()}:
        such = f"`{text} = 1`" if actual.is_integer() else f"`{text} > 0`" if actual.is_numeric() else "`x = 'a'`"
        raise SpecError(f"{key} = {text!r}: is {actual}, and neither true nor false; write a condition, such as {such}")
    if not (actual.is_numeric() or actual in {pl.Boolean(), pl.String(), pl.Null()}):
        raise SpecError(f"{key} = {text!r}: is {actual} and cannot become {dtype}; compare it with something")
    return expression.cast(dtype)


def columns_of(text: str, key: str, names: list[str]) -> list[str]:
    """Return the columns that an expression reads, after checking that they exist."""
    if "\0" in text:  # polars panics on such a name
        raise SpecError(
            f"{key} = {text!r}: cannot have a NUL character; rename the column in the program that writes it"
        )
    return [text] if text in names else _roots(_sql(text, key, names), text, key, names)


def _sql(text: str, key: str, names: list[str]) -> pl.Expr:
    try:
        return pl.sql_expr(checked(text, names))
    except UnknownColumnError as unknown:
        raise _no_column(str(unknown), text, key, names) from None
    except UnicodeEncodeError:
        raise SpecError(f"{key} = {text!r}: is not valid UTF-8") from None
    except ValueError as error:
        raise SpecError(
            f"{key} = {text!r}: is {error}. Compute such a column before the run, as of each event, and name it here"
        ) from None
    except pl.exceptions.PolarsError as error:
        raise SpecError(
            f"{key} = {text!r}: neither a column nor a row-wise SQL expression: {first_line(error)}"
        ) from None


def _roots(expression: pl.Expr, text: str, key: str, names: list[str]) -> list[str]:
    roots = list(dict.fromkeys(expression.meta.root_names()))
    for name in roots:
        if name not in names:
            raise _no_column(name, text, key, names)
    return roots


def _no_column(name: str, text: str, key: str, names: list[str]) -> SpecError:
    hint = f"; text is in single quotes: '{name}'" if f'"{name}"' in text else did_you_mean(name, names)
    return SpecError(f"{key} = {text!r}: the interactions have no column `{name}`{hint}")


def _parse(text: str, key: str, schema: dict[str, pl.DataType]) -> pl.Expr:
    expression = _sql(text, key, list(schema))
    _roots(expression, text, key, list(schema))
    try:
        refused = sorted(_not_row_wise(json.loads(expression.meta.serialize(format="json"))))
    except RecursionError:
        raise SpecError(
            f"{key} = {text[:60] + ' ...'!r}: is too deep to be checked. Write `x IN (1, 2, ...)` for a chain of ORs, "
            "or compute the column before the run"
        ) from None
    if refused:
        raise SpecError(
            f"{key} = {text!r}: not row-wise ({listing(refused)}): aggregates and windows would read other rows, "
            "including the future. Compute such a column before the run, as of each event, and name it here"
        )
    return expression


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
