"""The pieces of work of one fit on a shard: which systems are solved together.

Each distinct as-of time of an owner is a system. Where its matrix is that of an earlier one with more events
(`is_additive`), an owner's as-of times share one factor of all prefixes of the history (`kernels/prefixes`). With
decay, the as-of times of a session share it, between which events decay by less than a thousandth, and long histories
are running sums. With logistic loss they share the factor that conditions Newton's steps (`kernels/prefix_form`). All
other systems are solved one by one: in the dual form up to about as many events as there are dimensions, where an
owner's systems share the kernel matrix, and in the primal form beyond that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import pairwise

import numpy as np

from extembed_cli.arrays import Bools, Ints
from extembed_cli.features.dual.shard import DualShard
from extembed_cli.features.dual.solving import (
    solve_group,
    solve_newton_prefixes,
    solve_primal,
    solve_running,
    solve_segments,
    solve_session,
)
from extembed_cli.features.dual.systems import (
    MOST_SYSTEMS,
    Solves,
    Systems,
    alike,
    distinct,
    groups,
    in_pieces,
    sessions,
    whole_blocks,
)
from extembed_cli.kernels.prefixes import MOST_DECAY
from extembed_cli.kernels.ridge import longest_dual
from extembed_cli.kernels.segments import offsets, padded, run_starts

_MOST_CANDIDATES = 512  # that share one factor of all prefixes


def tasks(shard: DualShard) -> Iterator[Callable[[], Solves]]:
    """Yield pieces of work; each computes its part of the scores, deviations and vectors of the shard."""
    systems = distinct(shard.candidates.owners, shard.candidates.times, shard.start, shard.end)
    shard.systems = len(systems.first)
    together: Iterable[Callable[[], Solves]] = ()
    beyond = systems.length > shard.segment
    if shard.prefixes:
        runs = _sessions(shard, systems, np.log2(1 + MOST_DECAY) if shard.additive else 1)
        together = (_prefixes if shard.additive else _newton_prefixes)(shard, systems, runs)
        several = np.repeat(np.diff(runs) > 1, np.diff(runs))
        if shard.additive and shard.half_life_us is None:
            for owner in np.unique(shard.candidates.owners[systems.first[several & beyond]]).tolist():
                yield partial(solve_segments, shard, owner)
            beyond &= ~several
        systems = systems.take(~several | beyond)
    # Systems that share a kernel matrix are solved in the dual form for longer than those that share nothing.
    most = shard.dim if shard.additive else longest_dual(shard.dim)
    long = systems.take(systems.length > most)
    each = run_starts(shard.candidates.owners[long.first]) if shard.additive else np.arange(len(long.first))
    solve = solve_running if shard.additive else solve_primal
    for low, high in pairwise([*each.tolist(), len(long.first)]):  # the longest tasks first
        yield partial(solve, shard, long.take(np.arange(low, high)))
    yield from together
    systems = systems.take(systems.length <= most)
    # Scaling makes the prior, and with it the kernel, depend on the length.
    alone = np.ones(len(systems.first), np.bool_) if shard.prepared.fit.scaling else _alone(shard, systems)
    each_group = groups(systems, shard.candidates.owners[systems.first], shard.dim, alone)
    yield from (partial(solve_group, shard, group) for group in each_group)


def _alone(shard: DualShard, systems: Systems) -> Bools:
    """Whether a system is of an owner with candidates at a single as-of time, whether or not events precede it."""
    owners = shard.candidates.owners
    counts = np.bincount(owners[run_starts(owners, shard.candidates.times)])
    return np.asarray(counts[owners[systems.first]] == 1)


def _sessions(shard: DualShard, systems: Systems, half_lives: float) -> Ints:
    """Return where runs of an owner's systems begin whose as-of times are within so many half-lives, or all begin."""
    span = None if shard.half_life_us is None else int(half_lives * shard.half_life_us)
    return sessions(shard.candidates.owners[systems.first], shard.candidates.times[systems.first], span)


def _prefixes(shard: DualShard, systems: Systems, runs: Ints) -> Iterator[Callable[[], Solves]]:
    """Yield the sessions of several as-of times, up to one segment of events, with some of their candidates each."""
    run = np.flatnonzero(np.diff(runs) > 1)
    begin = systems.first[runs[run]]
    owner, first, last = in_pieces(begin, systems.last[runs[run + 1] - 1], _MOST_CANDIDATES)
    low = shard.first_event[shard.candidates.owners[first]]
    high = np.minimum(shard.end[last - 1], low + shard.segment)
    cut, since = Systems(first, last, low, high), shard.candidates.times[begin[owner]]
    for chosen, shape in alike(padded(last - first), whole_blocks(cut.length), shard.dim):
        yield partial(solve_session, shard, cut.take(chosen), since[chosen], *shape)


def _newton_prefixes(shard: DualShard, systems: Systems, runs: Ints) -> Iterator[Callable[[], Solves]]:
    """Yield the sessions of several as-of times that see at most one segment of events, some systems at a time."""
    run = np.flatnonzero(np.diff(runs) > 1)
    owner, first, last = in_pieces(runs[run], runs[run + 1], MOST_SYSTEMS)
    since = shard.candidates.times[systems.first[runs[run][owner]]]
    beyond = offsets((systems.length > shard.segment).astype(np.int64))
    last = last - (beyond[last] - beyond[first])
    first, last, since = (values[last > first] for values in (first, last, since))
    length = whole_blocks(systems.length[last - 1])
    # A step of conjugate gradients keeps about a dozen arrays of their size.
    for chosen, (_, H) in alike(np.full(len(first), 4 * MOST_SYSTEMS), length, shard.dim):
        parts = [systems.take(np.arange(first[i], last[i])) for i in chosen]
        yield partial(solve_newton_prefixes, shard, parts, since[chosen], H)
