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
    abs ceil ceiling floor exp ln log log2 log10 log1p pow power sqrt cbrt sign mod div pi degrees radians sin cos
    tan cot sind cosd tand cotd asin acos atan atan2 asind acosd atand atan2d bit_count coalesce greatest least if
    ifnull nullif cast try_cast extract date_part date datetime time timestamp strftime strptime length len
    char_length character_length octet_length bit_length lower upper initcap reverse left right substr substring
    replace trim ltrim rtrim starts_with ends_with strpos position concat concat_ws regexp_like split_part
    string_to_array array_contains array_get array_length in
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
    for place, token in enumerate(tokens):
        if token.kind == "word":
            _check_word(tokens, place, columns)
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


def _check_word(tokens: list[Token], place: int, columns: Collection[str]) -> None:
    word, name = tokens[place].text, tokens[place].lower
    following = tokens[place + 1] if place + 1 < len(tokens) else None
    before = tokens[place - 1] if place else None
    is_called = following is not None and following.text == "("
    if is_called:
        if name in FUNCTIONS or name in _WORDS or (name in _TYPES and _after_as(before)):
            return
        if name in _AGGREGATES:
            raise ValueError(
                f"not row-wise ({word.upper()}): aggregates and windows would read other rows, the future among them"
            )
        if name not in _CLOCK:
            raise ValueError(f"written with {word.upper()}(...), which is not a function that reads one row")
    if following is not None and following.kind == "text" and name not in _WORDS:
        raise ValueError(f"written with {word}'...': write texts as '...' alone")
    if word in columns or name in _WORDS - _READING or (name in _TYPES and _after_as(before)):
        return
    if name in _CLOCK:
        raise ValueError(f"written with {word}, which reads the clock: tomorrow's run would differ")
    if name in _AGGREGATES:
        raise ValueError(
            f"not row-wise ({word.upper()}): aggregates and windows would read other rows, the future among them"
        )
    if name in _PARTS and before is not None and before.kind in {"text", "number"}:  # interval '1' day
        return
    if name in _PARTS and place > 1 and tokens[place - 2].lower == "extract":
        return
    if name == "from" and _reads_a_part(tokens[:place]):
        return
    if name in _READING:
        raise ValueError(f"written with {word.upper()}: an expression reads nothing but its own row")
    raise UnknownColumnError(word)


def _after_as(before: Token | None) -> bool:
    """Whether a word stands where the type of a cast does."""
    return before is not None and (before.lower in {"as", *_TYPES} or before.text == "::")


def _reads_a_part(before: list[Token]) -> bool:
    """Whether a `from` after these pieces is that of `extract(year from t)`, `trim(...)` or `is distinct from`."""
    if before and before[-1].lower == "distinct":
        return True
    depth = 0
    for place in range(len(before) - 1, 0, -1):
        depth += (before[place].text == ")") - (before[place].text == "(")
        if depth < 0:
            return before[place - 1].lower in {"extract", "trim", "substring"}
    return False


def _as_float(token: Token) -> str:
    """Return a number as a float where it has a point: `1.5` alone would be a decimal with six digits."""
    return f"{token.text}e0" if "." in token.text and "e" not in token.text.lower() else token.text
