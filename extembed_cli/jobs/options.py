"""How to run a job."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from extembed_cli.jobs.layout import Layout


@dataclass(frozen=True)
class RunOptions:
    """None of it changes what is computed."""

    workers: int
    memory: int | None = None
    """Bytes to keep to; None = as if everything fitted"""
    wait: float = 0.0
    """Seconds to wait for another run that holds the output"""
    layout: Layout | None = None
    """How the job is cut; None = as its memory asks for"""
    scratch: Path | None = None
    """Folder for what does not fit in memory; None = that of the output"""
    cache: Path | None = None
    """Folder in which embedding tables are kept as matrices for the next run"""
    fresh: bool = False
    """Start over, whatever a killed run has finished"""
