"""SIGINT and SIGTERM end a run by `SystemExit`, so that it cleans up wherever it is."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

_NUMBERS = (signal.SIGINT, signal.SIGTERM)
EXIT_CODES = frozenset(128 + number for number in _NUMBERS)
STOPPED = "stopped; an output is only replaced when the new one is complete"
_received: list[int] = []


def handle() -> None:
    """Install the signal handlers."""
    for number in _NUMBERS:
        signal.signal(number, _stop)


def exit_if_received() -> None:
    """Exit if a signal was received before: an extension that runs Python may have swallowed its exception."""
    if _received:
        sys.exit(128 + _received[0])


@contextmanager
def deferred() -> Iterator[list[int]]:
    """Defer signals until the block is done; yield a list of those received so far."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    # A signal mask holds for one thread alone, and Python lets any other thread receive the signal.
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
        signal.signal(each, signal.SIG_IGN)  # a second signal must not interrupt the cleanup
    _received.append(number)
    sys.unraisablehook = lambda _: None  # Python would print our exception if it is swallowed
    sys.stderr.write(f"{STOPPED}\n")
    sys.exit(128 + number)
