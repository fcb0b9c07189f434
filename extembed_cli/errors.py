"""The errors that a user can get. Each says what is wrong, where, and how to fix it."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from extembed_cli.printable import printable

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Error numbers for no space left: of the disk, a quota or a limit."""
NOT_UTF8 = "is not valid UTF-8; rename the file or folder, or set a locale of UTF-8, such as LC_ALL=C.UTF-8"
"""What is wrong with a path that libraries cannot open, and how to fix it."""


class ExtembedError(Exception):
    """Base of all expected errors; `exit_code` is what the command line ends with, `kind` a word for programs.

    Each argument is a problem, and becomes one line of the message, whatever is in the ids, paths and names in it.
    """

    exit_code = 1
    kind = "data"

    def __str__(self) -> str:
        return "\n".join(printable(str(problem)) for problem in self.args)


class SpecError(ExtembedError):
    """The spec or the flags are wrong."""

    exit_code = 2
    kind = "spec"


class DataError(ExtembedError):
    """The data failed a check."""

    exit_code = 1


class InputError(ExtembedError):
    """An input cannot be read: missing, not Parquet, torn."""

    exit_code = 3
    kind = "input"


class LockedError(ExtembedError):
    """Another run holds the output."""

    exit_code = 4
    kind = "locked"


class ResourceError(ExtembedError):
    """Out of memory or disk."""

    exit_code = 5
    kind = "resources"


class NoAnswerError(ExtembedError):
    """An evaluation has no answer, and `--strict` demands one."""

    exit_code = 6
    kind = "no answer"


class InternalError(ExtembedError):
    """A bug in extembed. No data and no spec should lead to it."""

    exit_code = 70  # EX_SOFTWARE
    kind = "bug"


# If problems of several kinds are raised together, the exit code is that of the kind to fix first.
_PRECEDENCE: tuple[type[ExtembedError], ...] = (
    SpecError,
    InputError,
    ResourceError,
    LockedError,
    DataError,
    NoAnswerError,
    InternalError,
)


class Problems:
    """Collects errors, so that all are raised together.

    >>> problems = Problems()
    >>> with problems.collect():
    ...     raise DataError("a.parquet: no column `user_id`")
    >>> problems.raise_any()
    Traceback (most recent call last):
    extembed_cli.errors.DataError: a.parquet: no column `user_id`
    """

    def __init__(self, errors: Iterable[ExtembedError] = ()) -> None:
        self.errors = list(errors)

    @contextmanager
    def collect(self) -> Iterator[None]:
        """Keep an `ExtembedError` of the block instead of letting it propagate."""
        try:
            yield
        except ExtembedError as error:
            self.errors.append(error)

    def raise_any(self) -> None:
        """Raise one error with the messages of all errors, if there are any."""
        if not self.errors:
            return
        kind = next(k for k in _PRECEDENCE if any(isinstance(e, k) for e in self.errors))
        raise kind(*dict.fromkeys(problem for e in self.errors for problem in e.args)) from self.errors[0]


@contextmanager
def naming(names: Mapping[str, str]) -> Iterator[None]:
    """Raise errors with other names in their messages, such as the URL that a local file stands for."""
    try:
        yield
    except ExtembedError as error:
        if not names:
            raise
        raise type(error)(*(renamed(str(problem), names) for problem in error.args)) from error


def renamed(text: str, names: Mapping[str, str]) -> str:
    """Return a text with other names in it."""
    for old, new in names.items():
        text = text.replace(old, new)
    return text


def first_line(error: Exception) -> str:
    """Return the first line of the message of a library's error, without a full stop; its kind if it has no message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean \\`x\\`?` for the nearest known name, else the list of known names, else nothing."""
    known = list(known)
    near = difflib.get_close_matches(name.lower(), [k.lower() for k in known], n=1, cutoff=0.6)
    near = near or [k.lower() for k in known if name and k.lower().startswith(name.lower())]
    if near:
        return f"; did you mean `{next(k for k in known if k.lower() == near[0])}`?"
    return f"; known: {listing(known, 12)}" if known else ""


def listing(values: Iterable[object], most: int = 5) -> str:
    """Return `a, b, c, ...`: the first few values."""
    values = list(values)
    return ", ".join(str(v) for v in values[:most]) + (", ..." if len(values) > most else "")


def to_install(modules: Sequence[str], extra: str) -> str:
    """Return `a and b: pip install a b (extra `x`)`: the libraries by name, as extembed itself is in no registry."""
    names = ["vl-convert-python" if module == "vl_convert" else module for module in modules]
    return f"{' and '.join(names)}: pip install {' '.join(names)} (extra `{extra}`)"


def counted(number: int, noun: str) -> str:
    """Return `1 shard`, `2,000 shards`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
