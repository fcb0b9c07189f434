"""What was computed, for progress and for the run report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from extembed_cli.features.technique.columns import Technique
from extembed_cli.system.progress import Cost


@dataclass
class Solves:
    """What was solved, for the run report."""

    rows: int = 0
    """Candidates scored, or vectors made."""
    systems: int = 0
    """Distinct pairs of user and as-of time with an event to fit."""
    primal: int = 0
    dual: int = 0
    residual: float = 0.0
    """Largest relative residual of a squared fit."""
    gradient: float = 0.0
    """Largest gradient of a logistic fit."""

    def add(self, other: Solves) -> None:
        """Add what was solved elsewhere."""
        self.rows += other.rows
        self.systems += other.systems
        self.primal += other.primal
        self.dual += other.dual
        self.residual = max(self.residual, other.residual)
        self.gradient = max(self.gradient, other.gradient)


@dataclass
class Done:
    """What was computed: for progress and for the run report."""

    rows: float = 0
    """Candidates (users, where only their vectors are made), divided among the passes over them."""
    cosines: int = 0
    """Of candidates with events that they see."""
    trained_on: int = 0
    """Candidates that are not newer than what a neural model has seen."""
    solves: Solves = field(default_factory=Solves)
    seconds: dict[Technique, float] = field(default_factory=dict)
    """Thread seconds by technique."""
    stages: dict[str, Cost] = field(default_factory=dict)
    """What stages cost, in thread seconds: gather (vectors), cosines, means, statistics, solve, score."""

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Done:
        """From `asdict`."""
        stages = {name: Cost(**cost) for name, cost in data["stages"].items()}
        return cls(**{**data, "solves": Solves(**data["solves"]), "stages": stages})

    def add(self, other: Done) -> None:
        """Add what was done elsewhere."""
        self.rows += other.rows
        self.cosines += other.cosines
        self.trained_on += other.trained_on
        self.solves.add(other.solves)
        for technique, seconds in other.seconds.items():
            self.seconds[technique] = self.seconds.get(technique, 0.0) + seconds
        for name, cost in other.stages.items():
            self.stages.setdefault(name, Cost()).add(cost.seconds, cost.rows, cost.bytes)


Task = Callable[[], Done]
