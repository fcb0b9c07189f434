"""What a run tells about what it computed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from extembed_cli.data.inputs import Loaded
from extembed_cli.data.inputs import report as input_report
from extembed_cli.engines.local import Made
from extembed_cli.errors import listing
from extembed_cli.features.compute import Shared
from extembed_cli.spec.model import Spec, time_text
from extembed_cli.system import memory
from extembed_cli.system.progress import Cost

_INSIDE = ("gather", "cosines", "statistics", "means", "solve", "score")  # stages of `compute`
_RESIDUAL = 1e-6  # of a dual fit; above it the run warns


def computed(
    spec: Spec, loaded: Loaded, shared: Shared, made: Made, costs: dict[str, Cost], workers: int
) -> dict[str, Any]:
    """The part of the run report about inputs and features, and where the time went.

    The stages inside `compute` run on all workers: their seconds are those of one.
    """
    done = made.done
    return {
        "inputs": input_report(loaded, made.totals, shared.embeddings),
        "candidates_in_own_history": made.in_own_history,
        "cosines": done.cosines,
        "dual": _solves(made) if spec.dual else None,
        "stages": {
            **{name: cost.report() for name, cost in costs.items()},
            **{name: done.stages[name].report(workers) for name in _INSIDE if name in done.stages},
        },
        "seconds_by_technique": {name: round(s / workers, 3) for name, s in done.seconds.items()},
        "peak_memory_bytes": memory.peak(),
    }


def own_history(repeats: int, candidates: int) -> Iterator[str]:
    """What it means that so many candidates stand among the events that their user has in view."""
    if repeats > candidates / 2:
        yield (
            f"{repeats:,} of {candidates:,} candidates stand in their own visible history: the log "
            "repeats items, or times are wrong (time_unit?) and the features see what they should predict"
        )


def doubts(loaded: Loaded, made: Made) -> Iterator[str]:
    """Signs in what was computed that it may be worthless."""
    solves = made.done.solves
    yield from own_history(made.in_own_history, made.totals.candidates)
    if made.not_converged:
        yield (
            f"{len(made.not_converged):,} users have a logistic fit with a gradient above 1e-6 "
            f"(user {listing(made.not_converged)}); raise `regularization`"
        )
    if made.done.trained_on:
        yield (
            f"{made.done.trained_on:,} of {made.totals.candidates:,} candidates are not newer than what a neural model "
            "was trained on, which flatters their scores: do not train or test a ranker on them (`evaluate` does not)"
        )
    for path, parts in made.vectors.items():
        if not any(len(part.users) for part in parts):
            moment = time_text(loaded.vectors_as_of)
            yield f"{path}: no user has an event to fit before {moment}, so it is empty. Are as_of and lag right?"
    if solves.residual > _RESIDUAL:
        yield (
            f"a dual fit has a relative residual of {solves.residual:.1e}: its weights are too large for its "
            "regularization; raise `regularization` or lower `weight`"
        )


def _solves(made: Made) -> dict[str, Any]:
    """The fits in the run report."""
    solves = made.done.solves
    return {
        "systems": solves.systems,
        "primal_solves": solves.primal,
        "dual_solves": solves.dual,
        "largest_relative_residual": solves.residual,
        "largest_logistic_gradient": solves.gradient,
        "users_not_converged": len(made.not_converged),
        "examples_not_converged": made.not_converged[:20],
    }
