"""Paths as people write them: `~`, `${VAR}` and `file://` stand for something else; URLs name objects of stores."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote, urlparse

from extembed_cli.errors import SpecError

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_SECRET = re.compile(r"(?P<before>^[A-Za-z0-9+]+://)[^/]*:[^/]*@|(?<=.)\?(?=[\w.-]+=).*$")
"""What can be a secret in a URL: `key:password@`, `?signature=...`"""


def expanded(text: str) -> str:
    """Return a path with `~`, `~user`, `${VAR}` and `file://` resolved.

    Raises if a variable is not set, or if a URL has credentials in it: reports and messages would show them.
    """

    def value(match: re.Match[str]) -> str:
        if match[1] not in os.environ:
            raise SpecError(f"{text}: the environment variable `{match[1]}` is not set")
        return os.environ[match[1]]

    path = _VARIABLE.sub(value, text)
    if path.startswith("file:/"):
        url = urlparse(path)
        if url.netloc not in {"", "localhost"}:
            raise SpecError(f"{text}: `{url.netloc}` is another machine; write file:///path")
        return unquote(url.path)
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
