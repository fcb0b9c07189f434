"""The results of a pass: what the histories of one side give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from extembed_cli.data.inputs.inputs import Loaded
from extembed_cli.data.shards.scratch import Scratch
from extembed_cli.engines.base import Job, Results
from extembed_cli.jobs.layout import Layout


class Place(NamedTuple):
    """Where a pass is computed."""

    layout: Layout
    scratch: Scratch | None
    """None = in memory"""


@dataclass(frozen=True)
class PassResults:
    """The results of the histories of one side, users' or items'."""

    place: Place
    loaded: Loaded
    job: Job
    results: Results

    @property
    def bytes_in_memory(self) -> int:
        """Bytes of the features that are not in files."""
        if self.place.layout.shards > 1:
            return 0
        return sum(values.nbytes for part in self.results.features for values in part.columns.values())
