"""How to run a job."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from extembed_cli.jobs.layout import Layout
from extembed_cli.system.resources import Resources


@dataclass(frozen=True)
class RunOptions(Resources):
    """None of it changes what is computed."""

    layout: Layout | None = None
    """How the job is cut; None = as its memory asks for"""
    scratch: Path | None = None
    """Folder for what does not fit in memory; None = that of the output"""
    cache: Path | None = None
    """Folder in which embedding tables are kept as matrices for the next run"""
    fresh: bool = False
    """Start over, whatever a killed run has finished"""
