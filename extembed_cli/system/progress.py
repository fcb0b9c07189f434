"""The progress of a run, its warnings, and the costs of its stages."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Cost:
    """The cost of a stage."""

    seconds: float = 0.0
    rows: int = 0
    """Rows that it read or wrote, or results that it computed (cosines, fits)."""
    bytes: int = 0
    """Bytes read or written."""

    def add(self, seconds: float = 0.0, rows: int = 0, bytes: int = 0) -> None:  # noqa: A002
        """Add to the cost."""
        self.seconds += seconds
        self.rows += rows
        self.bytes += bytes

    def report(self, workers: int = 1) -> dict[str, Any]:
        """Return the cost as plain data; thread seconds are divided by the number of workers."""
        seconds = self.seconds / workers
        speed = round(self.rows / seconds) if seconds > 0 else None
        return {**asdict(self), "seconds": round(seconds, 3), "rows_per_second": speed}


@dataclass
class Watch:
    """Callbacks for the progress of a run, which do nothing by default, and the costs and warnings so far."""

    stage: Callable[[str], None] = lambda name: None
    """Called when a stage begins."""
    total: Callable[[float], None] = lambda work: None
    """Called with the work of the whole run, roughly in seconds."""
    expect: Callable[[int], None] = lambda rows: None
    """Called with the rows of the next stages."""
    moved: Callable[[float, float], None] = lambda rows, work: None
    """Called when rows, and some of the work, are done."""
    detail: Callable[[str], None] = lambda text: None
    """Called with a few words on the state of the stage."""
    warn: Callable[[str], None] = lambda message: None
    note: Callable[[str], None] = lambda message: None
    costs: dict[str, Cost] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    _inside: list[str] = field(default_factory=list)
    _since: float = 0.0

    def cost(self, name: str) -> Cost:
        """Return the cost of a stage so far."""
        return self.costs.setdefault(name, Cost())

    @contextmanager
    def timing(self, name: str) -> Iterator[Cost]:
        """Time a stage and announce it. The time of an inner stage is not counted for the outer one."""
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
        """Report a warning once, and keep it for the run report."""
        if message not in self.warnings:
            self.warnings.append(message)
            self.warn(message)

    def warn_of(self, messages: Iterable[str]) -> None:
        """Report several warnings."""
        for message in messages:
            self.warning(message)

    def _switch(self) -> None:
        now = time.perf_counter()
        if self._inside:
            self.cost(self._inside[-1]).seconds += now - self._since
        self._since = now
