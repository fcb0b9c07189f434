"""What an expression over the interactions may be written with: checked before any library parses it.

A parser resolves table functions such as `read_csv` while it parses, so a file would be open before anybody could
refuse it. Here a text is cut into words, numbers, texts and signs, and every word has to be a column, or on a list of
what reads one row. All that SQL dialects read differently (comments, escapes, prefixes of texts) is refused.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import NamedTuple

_TOKEN = re.compile(
    r"""(?P<space>\s+)
      | (?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?![\w.]))
      | (?P<text>'(?:[^'\\]|'')*')
      | (?P<quoted>"(?:[^"\\]|"")+")
      | (?P<word>[^\W\d]\w*)
      | (?P<sign><=>|::|\|\||<>|!=|<=|>=|==|[-+*/%=<>(),&|^~.](?<!--))""",
    re.VERBOSE,
)
_WORDS = frozenset(
    """
    and or not in is null true false between like ilike case when then else end as distinct cast try_cast date time
    timestamp datetime interval extract from for both leading trailing escape
    """.split()
)
_TYPES = frozenset(
    """
    bool boolean tinyint smallint int integer bigint int1 int2 int4 int8 uint1 uint2 uint4 uint8 unsigned float real
    double precision float4 float8 numeric decimal dec varchar char text string date time timestamp datetime
    """.split()
)
FUNCTIONS = frozenset(
    """
    abs ceil ceiling floor exp ln log log2 log10 log1p pow power sqrt cbrt sign mod div round trunc truncate pi
    degrees radians sin cos tan cot sind cosd tand cotd asin acos atan atan2 asind acosd atand atan2d bit_count
    coalesce greatest least if ifnull nullif cast try_cast extract date_part date datetime time timestamp
    strftime strptime length char_length character_length octet_length bit_length lower upper initcap reverse
    left right substr substring replace trim ltrim rtrim starts_with ends_with strpos position concat concat_ws
    regexp_like split_part string_to_array array_contains array_get array_length in
    """.split()
)
"""Functions that read one row; `in` and `cast` are written like them."""
_AGGREGATES = frozenset(
    """
    avg mean sum min max count median stddev stddev_pop stddev_samp stdev var variance var_pop var_samp first last
    quantile quantile_cont quantile_disc corr covar covar_pop covar_samp array_agg string_agg listagg over lag lead
    rank dense_rank row_number ntile percent_rank cume_dist first_value last_value nth_value any_value mode
    """.split()
)
_READING = frozenset(
    """
    select from with table values union intersect except join where group having order limit offset window qualify
    partition lateral unnest exists any all some into
    """.split()
)
"""Words that read something else than the row"""
_BEFORE_TEXT = frozenset(["interval", "date", "time", "timestamp", "datetime"])
"""Words that say what the text after them is"""
_SYNTAX = (_WORDS | _READING) - _BEFORE_TEXT
_PARTS = frozenset(
    """
    year years quarter month months week weeks day days hour hours minute minutes second seconds millisecond
    milliseconds microsecond microseconds nanosecond nanoseconds dow doy isodow isoyear epoch century decade
    millennium
    """.split()
)
"""Parts of a time"""
_CLOCK = frozenset(["now", "today", "current_date", "current_time", "current_timestamp", "localtime", "localtimestamp"])
_MOST = 8000  # words, numbers, texts and signs: far fewer than end the parser's stack
_DEEPEST = 24  # parentheses and CASEs in each other: from 50 on, the parser tries 2^50 ways to read them


class UnknownColumnError(ValueError):
    """An expression has a word that is no column."""


class Token(NamedTuple):
    """A piece of an expression."""

    kind: str
    """`word`, `quoted` (a column), `number`, `text` or `sign`"""
    text: str

    @property
    def lower(self) -> str:
        """The text of a word in lower case; empty for anything else."""
        return self.text.lower() if self.kind == "word" else ""


def checked(text: str, columns: Collection[str]) -> str:
    """Return an expression in a form that is safe to parse: its decimal numbers are floats.

    Raises ValueError with a reason that fits after "is", or UnknownColumnError.
    """
    tokens = list(_tokens(text))
    if len(tokens) > _MOST:
        raise ValueError(f"too long ({len(tokens):,} words and signs, at most {_MOST:,})")
    opened: list[str] = []  # for each CASE and parenthesis around a piece: `case`, or the word before the parenthesis
    for place, token in enumerate(tokens):
        before = tokens[place - 1] if place else Token("sign", "")
        second = tokens[place - 2] if place > 1 else Token("sign", "")
        after = tokens[place + 1] if place + 1 < len(tokens) else Token("sign", "")
        if token.kind in {"word", "quoted"} and after.text == "(":
            _check_call(token, before)
        elif token.kind == "word":
            _check_word(token, before, second, opened, columns)
        if _follows_value(token, before, second, columns):
            raise ValueError(f"written with `{before.text} {token.text}`, without AND or another sign between them")
        if token.text == "(" or (token.lower == "case" and token.text not in columns):
            opened.append(token.lower or before.lower)
            if len(opened) > _DEEPEST:
                raise ValueError(f"too deep (more than {_DEEPEST} parentheses and CASEs in each other)")
        elif opened and (token.text == ")" or (token.lower == "end" and opened[-1] == "case")):
            opened.pop()
    return " ".join(_as_float(token) if token.kind == "number" else token.text for token in tokens)


def _tokens(text: str) -> Iterator[Token]:
    place = 0
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            raise ValueError(f"not an expression at {text[place : place + 10]!r}: write texts in '', columns in \"\"")
        place = match.end()
        assert match.lastgroup is not None
        if match.lastgroup != "space":
            yield Token(match.lastgroup, match[0])


def _check_call(token: Token, before: Token) -> None:
    """Raise if what is written before a parenthesis is not a function that reads one row, or a word such as AND."""
    if token.lower in _TYPES and _after_as(before):
        raise ValueError(f"written with the type {token.text}(...): write it without a length")
    if token.lower in FUNCTIONS or token.lower in _WORDS:
        return
    _refuse_aggregate(token)
    if token.lower in _CLOCK:
        _refuse_clock(token)
    raise ValueError(f"written with {token.text.upper()}(...), which is not a function that reads one row")


def _check_word(token: Token, before: Token, second: Token, opened: list[str], columns: Collection[str]) -> None:
    """Raise if a word without a parenthesis is neither a column nor a word that stands where it may.

    `before` and `second` are the pieces before it, and `opened` has what is around it, the innermost last.
    """
    name, around = token.lower, opened[-1] if opened else ""
    if name == "from" and (around in {"extract", "trim", "substring"} or before.lower == "distinct"):
        return
    if name in _READING:  # as a column too: `"from"` is one, and `from` begins the name of a table
        quoted = f'; the column is "{token.text}"' if token.text in columns else ""
        raise ValueError(f"written with {token.text.upper()}: an expression reads nothing but its own row{quoted}")
    if token.text in columns:
        return
    if name == "as" and around not in {"cast", "try_cast"}:
        raise ValueError("written with AS: an expression needs no name of its own")
    if name in _WORDS or (name in _TYPES and _after_as(before)):
        return
    of_extract, of_interval = before.text == "(" and around == "extract", second.lower == "interval"
    if name in _PARTS and (of_extract or of_interval):  # extract(year from t), interval '1' day
        return
    _refuse_aggregate(token)
    if name in _CLOCK:
        _refuse_clock(token)
    raise UnknownColumnError(token.text)


def _refuse_aggregate(token: Token) -> None:
    if token.lower in _AGGREGATES:
        raise ValueError(
            f"not row-wise ({token.text.upper()}): aggregates and windows would read other rows, the future among them"
        )


def _refuse_clock(token: Token) -> None:
    raise ValueError(f"written with {token.text}, which reads the clock: tomorrow's run would differ")


def _after_as(before: Token) -> bool:
    """Whether a word after this one stands where the type of a cast does."""
    return before.lower in {"as", *_TYPES} or before.text == "::"


def _follows_value(token: Token, before: Token, second: Token, columns: Collection[str]) -> bool:
    """Whether a value is right after another: a parser would take it as a name for the first, and drop it."""
    if not _is_value(token, columns):
        return False
    if token.kind == "text" and before.lower in _BEFORE_TEXT:
        return False
    if token.lower in _PARTS and second.lower == "interval":
        return False
    return _is_value(before, columns) or before.text == ")" or before.lower in {"end", "null", "true", "false"}


def _is_value(token: Token, columns: Collection[str]) -> bool:
    """Whether a piece is a number, a text or a column; a column called `end` may be the end of a CASE."""
    if token.kind == "word":
        return token.text in columns and token.lower not in _SYNTAX
    return token.kind in {"quoted", "number", "text"}


def _as_float(token: Token) -> str:
    """Return a number as a float where it has a point: `1.5` alone would be a decimal with six digits."""
    return f"{token.text}e0" if "." in token.text and "e" not in token.text.lower() else token.text
