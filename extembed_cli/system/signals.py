"""SIGINT and SIGTERM end a run by `SystemExit`, which tidies up on its way, wherever the program is."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

_NUMBERS = (signal.SIGINT, signal.SIGTERM)
_received: list[int] = []


def handle() -> None:
    """Take the signals."""
    for number in _NUMBERS:
        signal.signal(number, _stop)


def check() -> None:
    """End the program if a signal came before: an extension that runs Python may have swallowed its exception."""
    if _received:
        sys.exit(128 + _received[0])


@contextmanager
def deferred() -> Iterator[list[int]]:
    """Signals that ask to stop wait until the block is done; it may look whether one came."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    # A mask would hold for this thread alone, and Python lets any other one take the signal for it.
    before = {number: signal.signal(number, lambda number, _: caught.append(number)) for number in _NUMBERS}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)
        if caught:
            signal.raise_signal(caught[0])


def _stop(number: int, _frame: FrameType | None) -> NoReturn:
    for each in _NUMBERS:
        signal.signal(each, signal.SIG_IGN)  # the second one must not interrupt the tidying of the first
    _received.append(number)
    sys.unraisablehook = lambda _: None  # a swallowed exception is told with its traceback, and is ours
    sys.stderr.write("stopped; an output is only replaced when the new one is complete\n")
    sys.exit(128 + number)
