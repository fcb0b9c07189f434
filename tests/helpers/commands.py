"""Command lines that several tests use, and helpers to read their output."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

INPUTS = ("-i", "interactions.parquet", "-c", "candidates.parquet", "-e", "text=text.parquet")


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def only_json(text: str) -> Any:
    """Return the JSON document of a text. `json.loads` refuses a text with anything else."""
    assert text.startswith("{")
    return json.loads(text)


SPEC_OF_A_RUN = """
lag = "1h"
weight = "rating / 2.0"
[embeddings.text]
path = "text.parquet"
center = true
[histories.liked]
where = "rating >= 4"
window = "40d"
max_events = 12
[histories.disliked]
where = "rating <= 2"
window = "40d"
max_events = 12
[[aggregate]]
half_lives = ["7d", "none"]
percentiles = [5, 90]
thresholds = [0.3, -0.2]
"""
