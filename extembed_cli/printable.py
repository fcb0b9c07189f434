"""Text from data as a terminal, a log and a page may show it: with nothing in it that moves the cursor or the text.

Ids, paths and names of columns may have any characters: line breaks that fake a second message, escape sequences that
colour or erase a terminal, marks that turn the direction of what follows.
"""

from __future__ import annotations

import json
import re
from typing import Any

_BEYOND_JSON = (  # what JSON leaves as it is
    "\x7f-\x9f"  # controls
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # direction of the text
    "\u2028\u2029"  # line breaks
    "\ud800-\udfff"  # half characters, and bytes of a file name that are no UTF-8
)
_UNPRINTABLE, _IN_JSON = re.compile(f"[\x00-\x1f{_BEYOND_JSON}]"), re.compile(f"[{_BEYOND_JSON}]")


def printable(text: str) -> str:
    r"""Return a text as one line in which each unprintable character is written as in Python: `\n`, `\x1b`, `\u202e`.

    A byte of a file name that is no UTF-8 is written as `\xff`. Printable text comes back as it is.
    """
    return _UNPRINTABLE.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    character = match[0]
    if "\udc80" <= character <= "\udcff":  # how Python keeps such a byte
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def printable_json(data: Any) -> str:
    """Return data as people read JSON, with the characters of `printable` as JSON escapes: it parses to the same."""
    text = json.dumps(data, indent=2, ensure_ascii=False)
    return _IN_JSON.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
