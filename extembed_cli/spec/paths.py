"""Paths as people write them: `~`, `${VAR}` and `file://` stand for something else; URLs name objects of stores."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote

from extembed_cli.errors import SpecError

SPARK_TABLE = "spark:"
"""Begins the name of a table of Spark, such as `spark:db.table`"""
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_SECRET = re.compile(r"(?P<before>^[A-Za-z0-9+]+://)[^/]*:[^/]*@|(?<=.)\?(?=[\w.-]+=).*$")
"""What can be a secret in a URL: `key:password@`, `?signature=...`"""


def expanded(text: str, folder: Path = Path()) -> str:
    """Return a path with `~`, `~user`, `${VAR}` and `file://` resolved.

    A path that exists in the folder as it is written wins over what it may stand for. Raises if a path is empty, which
    would be the folder itself, if a variable is not set, or if a URL has credentials in it: reports and messages would
    show them.
    """
    if not text:
        raise SpecError("a path is empty; name a file or a folder (is a variable of the shell not set?)")
    if "\0" in text:
        raise SpecError(f"{text!r}: a path cannot have a NUL character; remove it")
    if "://" not in text and (folder / text).exists():
        return text

    def value(match: re.Match[str]) -> str:
        if not os.environ.get(match[1]):
            raise SpecError(f"{text}: the environment variable `{match[1]}` is not set, or empty")
        return os.environ[match[1]]

    path = _VARIABLE.sub(value, text)
    if path.startswith(SPARK_TABLE):
        return path
    if path.startswith("file:/"):
        host, _, rest = path.removeprefix("file:").removeprefix("//").partition("/")
        if host not in {"", "localhost"}:
            raise SpecError(f"{text}: `{host}` is another machine; write file:///path")
        return unquote(f"/{rest}")
    if "://" in path and _SECRET.search(path):
        shown = _SECRET.sub(lambda match: f"{match['before'] or ''}...", path)
        raise SpecError(
            f"{shown}: has credentials or options in the URL; set them in the environment, such as AWS_ACCESS_KEY_ID "
            "and AWS_ENDPOINT_URL"
        )
    try:
        return str(Path(path).expanduser()) if path.startswith("~") else path
    except RuntimeError:
        raise SpecError(f"{text}: no home folder of that user is known") from None
