"""The options of running a job."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from extembed_cli.jobs.layout import Layout
from extembed_cli.system.resources import Resources


@dataclass(frozen=True)
class RunOptions(Resources):
    """How to run a job. No option changes what is computed."""

    layout: Layout | None = None
    """None = chosen by the memory"""
    scratch: Path | None = None
    """Folder for data that does not fit into memory; None = the folder of the output"""
    cache: Path | None = None
    """Folder that keeps embedding tables as matrices for later runs"""
    fresh: bool = False
    """Start over instead of resuming a killed run"""
