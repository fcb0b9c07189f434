"""How an engine runs pieces of work."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

Piece = TypeVar("Piece")
Result = TypeVar("Result")


class Mapping(Protocol):
    """A function over pieces of work, the results in order: threads, or the built-in `map`."""

    def __call__(self, run: Callable[[Piece], Result], pieces: Iterable[Piece], /) -> Iterable[Result]: ...
