"""One fit on one shard: the events that it uses, and its results."""

from __future__ import annotations

import numpy as np

from extembed_cli.arrays import Bools, Doubles, Ints, Nums
from extembed_cli.features.dual.fits import PreparedFit, is_additive, sees_prefixes
from extembed_cli.features.dual.systems import BATCH_FLOATS, Systems
from extembed_cli.features.technique.protocol import ShardWork
from extembed_cli.histories.visibility import visible
from extembed_cli.kernels.prefixes import segment_length
from extembed_cli.kernels.segments import ragged
from extembed_cli.spec.durations import half_life_us

NOT_CONVERGED = "not_converged"
"""Why owners are flagged whose logistic fit has a gradient above 1e-6"""


class DualShard:
    """One fit for the candidates of a shard, or for its owners: usable events in, scores or vectors out."""

    def __init__(self, work: ShardWork, prepared: PreparedFit, *, sd: bool = False, of_owners: bool = False) -> None:
        spec, fit = work.spec, prepared.fit
        target = fit.target
        used = (target, spec.membership(fit.history))
        history = work.history.in_order_of([expression for expression in used if expression is not None])
        candidates = fit.as_of(work.owners if of_owners else work.candidates)
        end = None if of_owners or fit.refit_every is not None else work.end
        seen = visible(spec, fit.history, history, candidates, end)
        slots = prepared.matrix.slots_of(history.partners, history.times)
        usable = slots != prepared.matrix.missing
        if target is not None:
            usable = usable & ~np.isnan(history.values[target])
        seen = seen.only(usable)
        events = seen.events

        self.prepared, self.candidates = prepared, candidates
        self.dim = prepared.dim
        self.start, self.end = seen.start, seen.end
        """(Q) the usable events that a candidate sees; positions here and below are among usable events"""
        self.events = events
        """(n) the places of the usable events in the history, ties in the order of the target"""
        self.slots = slots[events]
        self.times = history.times[events]
        self.weights = np.ones(len(events)) if history.weights is None else history.weights[events]
        self.targets = np.ones(len(events)) if target is None else history.values[target][events]
        self.candidate_slots = prepared.matrix.slots_of(candidates.partners, candidates.times)
        self.half_life_us = half_life_us(fit.half_life)
        self.first_event = seen.indptr[:-1]
        """(U) the first usable event of each owner"""
        self.segment = segment_length(self.dim)

        rows = len(candidates.rows)
        self.score = np.full(rows, np.nan, np.float32)
        self.sd = np.full(rows if sd else 0, np.nan, np.float32)
        self.of_owners = of_owners
        self.vectors = np.full((rows if of_owners else 0, self.dim), np.nan, np.float32)
        """(U, D) in the coordinates of the basis; NaN without an event to fit"""

        self.prefixes, self.additive = sees_prefixes(spec, fit), is_additive(spec, fit)
        self.systems = 0
        """Distinct pairs of owner and as-of time with an event to fit, known once `tasks` has run"""
        self.not_converged = work.flagged.setdefault(NOT_CONVERGED, set())
        """Owners with a logistic fit whose gradient is above 1e-6"""

    def candidate_rows(self, systems: Systems, scale: Doubles) -> list[Doubles]:
        """Return the whitened vectors of the candidates of each system: (c, d) each."""
        slots = self.candidate_slots
        return [self.rows(slots[a:b], scale) for a, b in zip(systems.first, systems.last, strict=True)]

    def take_vectors(self, systems: Systems, vectors: Doubles, scale: Doubles) -> int:
        """Keep the vectors of systems, or score their candidates; returns the number of vectors or candidates."""
        if self.of_owners:
            self.vectors[systems.first] = vectors * scale
            return len(systems.first)
        counts = systems.last - systems.first
        candidates, owner = ragged(systems.first, counts), np.repeat(np.arange(len(counts)), counts)
        step = max(1, BATCH_FLOATS // self.dim)
        for low in range(0, len(candidates), step):
            at = slice(low, low + step)
            x = self.rows(self.candidate_slots[candidates[at]], scale)
            score = np.vecdot(x, vectors[owner[at]])
            self.take_scores(candidates[at], np.ones(len(score), np.bool_), score, None)
        return len(candidates)

    def take_variances(self, systems: Systems, variances: list[Doubles]) -> None:
        """Keep the standard deviations of the candidates of systems."""
        candidates = ragged(systems.first, systems.last - systems.first)
        known = self.candidate_slots[candidates] != self.prepared.matrix.missing
        variance = np.concatenate(variances)[known]
        self.sd[candidates[known]] = np.sqrt(np.maximum(finite(variance), 0))

    def rows(self, slots: Nums, scale: Doubles) -> Doubles:
        """Return whitened vectors of partners: (...) -> (..., D)."""
        return np.multiply(self.prepared.basis.vectors.take(slots, axis=0), scale, dtype=np.float64)

    def take_scores(self, candidates: Ints, chosen: Bools, score: Doubles, variance: Doubles | None) -> None:
        """Keep the scores, and the standard deviations, of the chosen candidates that have a vector."""
        chosen = chosen & (self.candidate_slots[candidates] != self.prepared.matrix.missing)
        at = candidates[chosen]
        self.score[at] = finite(score[chosen])
        if variance is not None and len(self.sd):
            self.sd[at] = np.sqrt(np.maximum(finite(variance[chosen]), 0))


def finite(values: Doubles) -> Doubles:
    """Return the values; raise LinAlgError where one overflowed: its system is as good as singular."""
    if not np.isfinite(values).all():
        raise np.linalg.LinAlgError
    return values
