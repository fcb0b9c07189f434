"""Why events of an owner are not visible to a candidate: the counts of `histories/visibility.py` by reason."""

from __future__ import annotations

import numpy as np

from extembed_cli.histories.csr import Shard
from extembed_cli.spec.durations import duration_us
from extembed_cli.spec.model import Spec


def hidden_events(spec: Spec, name: str, shard: Shard, place: int, time: int) -> dict[str, int]:
    """Return the events of a candidate's owner that the candidate does not see of a history, by reason.

    An event counts for the first reason that holds. `time` (us) is the candidate's own, before `as_of_step` floors it.
    """
    history, candidates, rules = shard.history, shard.candidates, spec.history(name)
    owner, as_of = candidates.owners[place], candidates.times[place]
    events = slice(history.indptr[owner], history.indptr[owner + 1])
    times, where = history.times[events], spec.membership(name)
    seen_until = as_of - duration_us(spec.lag)
    reasons = {
        "at or after the candidate's time": times >= time,
        f"at or after the as-of time, which as_of_step = {spec.as_of_step} floors": times >= as_of,
        f"younger than lag = {spec.lag}": times >= seen_until,
    }
    if rules.window is not None:
        reasons[f"older than window = {rules.window}"] = times < as_of - duration_us(rules.window)
    if not spec.side.own:
        own = history.partners[events] == candidates.partners[place]
        reasons[f"of the candidate's own {spec.side.partner}"] = own
    if where is not None:
        reasons[f"where = {rules.where!r} is not true"] = ~history.values[where][events]
    counts, rest = {}, np.ones(len(times), np.bool_)
    for reason, holds in reasons.items():
        counts[reason] = int(np.count_nonzero(rest & holds))
        rest &= ~holds
    if rules.max_events is not None:
        older = max(0, int(np.count_nonzero(rest)) - rules.max_events)
        counts[f"older than the newest max_events = {rules.max_events}"] = older
    return {reason: count for reason, count in counts.items() if count}
