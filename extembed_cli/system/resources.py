"""What a command may use of the machine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Resources:
    """Threads, memory and patience."""

    workers: int
    memory: int | None = None
    """Bytes to keep to; None = as if everything fitted"""
    wait: float = 0.0
    """Seconds to wait for another run that holds the output"""
