"""What a run tells while it goes on, and what its stages cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Cost:
    """What a stage took."""

    seconds: float = 0.0
    rows: int = 0
    """Rows that went through it (cosines, fits: what it makes)."""
    bytes: int = 0
    """Bytes read or written."""

    def add(self, seconds: float = 0.0, rows: int = 0, bytes: int = 0) -> None:  # noqa: A002
        """Add to it."""
        self.seconds += seconds
        self.rows += rows
        self.bytes += bytes

    def report(self, workers: int = 1) -> dict[str, Any]:
        """As plain data; the seconds of threads divided among the workers."""
        seconds = self.seconds / workers
        speed = round(self.rows / seconds) if seconds > 0 else None
        return {**asdict(self), "seconds": round(seconds, 3), "rows_per_second": speed}


@dataclass
class Watch:
    """Who wants to hear of the run. By default nobody."""

    stage: Callable[[str], None] = lambda name: None
    """A stage begins."""
    total: Callable[[float], None] = lambda work: None
    """The work of the whole run, in seconds or so."""
    expect: Callable[[int], None] = lambda rows: None
    """The rows of the stages to come."""
    moved: Callable[[float, float], None] = lambda rows, work: None
    """Rows are done, and some of the work."""
    detail: Callable[[str], None] = lambda text: None
    """How the stage goes, in a few words."""
    warn: Callable[[str], None] = lambda message: None
    note: Callable[[str], None] = lambda message: None
    costs: dict[str, Cost] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    _inside: list[str] = field(default_factory=list)
    _since: float = 0.0

    def cost(self, name: str) -> Cost:
        """The cost of a stage so far."""
        return self.costs.setdefault(name, Cost())

    @contextmanager
    def timing(self, name: str) -> Iterator[Cost]:
        """Time a stage and announce it. The time of a stage inside another one is its own alone."""
        self._switch()
        self._inside.append(name)
        self.stage(name)
        try:
            yield self.cost(name)
        finally:
            self._switch()
            self._inside.pop()
            if self._inside:
                self.stage(self._inside[-1])

    def warning(self, message: str) -> None:
        """Pass a warning on and keep it for the report."""
        self.warnings.append(message)
        self.warn(message)

    def warn_of(self, messages: Iterable[str]) -> None:
        """Pass several warnings on."""
        for message in messages:
            self.warning(message)

    def _switch(self) -> None:
        now = time.perf_counter()
        if self._inside:
            self.cost(self._inside[-1]).seconds += now - self._since
        self._since = now
