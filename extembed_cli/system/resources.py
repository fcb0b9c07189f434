"""The resources that a command may use."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Resources:
    """Threads, memory and waiting time."""

    workers: int
    memory: int | None = None
    """Memory limit in bytes; None = no limit"""
    wait: float = 0.0
    """Seconds to wait for another run that holds the output"""
