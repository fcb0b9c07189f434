"""Names of columns folded into patterns, for a person to read."""

from __future__ import annotations

import os
from collections.abc import Iterable

Pattern = tuple[tuple[str, ...], ...]
"""The alternatives of each part of a name; its parts are between double underscores"""


def patterns(names: Iterable[str]) -> list[str]:
    """Return patterns such as `text__{liked,disliked}__cos_p{10,90}__hl7d` that stand for exactly these names.

    Names that differ in one part are folded, the last part first, and so are patterns that differ in one part.
    """
    folded: list[Pattern] = [tuple((part,) for part in name.split("__")) for name in names]
    for place in reversed(range(max(map(len, folded), default=0))):
        folded = _fold(folded, place)
    return ["__".join(map(_alternatives, pattern)) for pattern in folded]


def _fold(folded: list[Pattern], place: int) -> list[Pattern]:
    """Fold the patterns that differ in the part at a place alone; each stands where its first one stood."""
    alike: dict[Pattern, list[str]] = {}
    for pattern in folded:
        if place < len(pattern):
            alike.setdefault((*pattern[:place], (), *pattern[place + 1 :]), []).extend(pattern[place])
        else:
            alike[pattern] = []
    return [tuple(part or tuple(parts) for part in blank) for blank, parts in alike.items()]


def _alternatives(parts: tuple[str, ...]) -> str:
    """Return `cos_p{10,90}` for `cos_p10` and `cos_p90`: what they begin with, cut at an underscore or a number."""
    if len(parts) == 1:
        return parts[0]
    begin = os.path.commonprefix(parts).rstrip("0123456789")  # noqa: RUF071  characters are meant
    if not all(part[len(begin) :][:1].isdigit() for part in parts):
        begin = begin[: begin.rfind("_") + 1]
    return f"{begin}{{{','.join(part[len(begin) :] for part in parts)}}}"
