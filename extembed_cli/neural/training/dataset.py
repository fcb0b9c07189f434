"""What a model is trained on: labelled candidates of all shards with the events that each sees, in the input's order.

Batches are drawn from all candidates, whichever shard they came in, so that they are the same for any memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from extembed_cli.arrays import Bools, Doubles, Floats, Ints
from extembed_cli.data.labels import NO_TIME
from extembed_cli.data.mapped_arrays import zeros
from extembed_cli.errors import DataError
from extembed_cli.histories.csr import Shard
from extembed_cli.kernels import metrics
from extembed_cli.neural.events import Examples, examples
from extembed_cli.spec.durations import time_text
from extembed_cli.spec.model import ALL, Spec

_STOPPING = "early stopping"
_VALID = 0.15  # of the candidates, the last by time, for early stopping
_SORTED_BATCHES = 20  # sorted by length together: little padding, and still at random


@dataclass(frozen=True)
class Labelled:
    """The rows of the candidate file: (n) each."""

    labels: Doubles
    """NaN = null"""
    times: Ints
    """us, not floored; NO_TIME = null"""
    groups: Ints | None
    """0 = null"""

    def usable(self, until_us: int | None) -> tuple[Bools, dict[str, int]]:
        """(n) which rows may be learned from, and how many may not, by why."""
        left_out = {"without a time": self.times == NO_TIME, "without a label": np.isnan(self.labels)}
        if until_us is not None:
            left_out["from --until on"] = self.times >= until_us
        if self.groups is not None:
            left_out["without a request"] = self.groups == 0
        kept, counts = np.ones(len(self.times), np.bool_), {}
        for why, rows in left_out.items():
            counts[why] = int(np.count_nonzero(kept & rows))
            kept &= ~rows
        return kept, {why: count for why, count in counts.items() if count}

    def largest_group(self, usable: Bools) -> int:
        """Candidates of the largest request."""
        return 1 if self.groups is None else int(np.bincount(self.groups[usable]).max(initial=0))


@dataclass(frozen=True)
class Dataset:
    """Candidates to learn from, and candidates to stop by."""

    seen: Examples
    labels: Floats
    """(Q)"""
    groups: Ints
    """(Q) those of one number are ranked against each other"""
    train: Ints
    """Which of the candidates, in the order of the input."""
    valid: Ints

    def batches(self, seed: int, epoch: int, size: int, *, whole_groups: bool) -> list[Ints]:
        """The candidates of each step of an epoch, the same at every call."""
        rng = np.random.default_rng([seed, epoch])
        if whole_groups:
            return self._of_groups(rng, size)
        order = rng.permutation(self.train)
        lengths = self.seen.lengths
        found: list[Ints] = []
        for low in range(0, len(order), size * _SORTED_BATCHES):
            part = order[low : low + size * _SORTED_BATCHES]
            part = part[np.argsort(lengths[part], kind="stable")]
            batches = [part[at : at + size] for at in range(0, len(part), size)]
            found += [batches[i] for i in rng.permutation(len(batches))]
        return found

    def _of_groups(self, rng: np.random.Generator, size: int) -> list[Ints]:
        """Whole groups, as many as reach the size."""
        groups = self.groups[self.train]
        order = rng.permutation(int(groups.max()) + 1)[groups]
        return self.parts(self.train[np.argsort(order, kind="stable")], size)

    def parts(self, rows: Ints, size: int) -> list[Ints]:
        """Candidates in pieces that reach the size, those of one group that stand together in one."""
        ends = np.append(np.flatnonzero(np.diff(self.groups[rows])) + 1, len(rows))
        cuts = [0]
        for end in ends.tolist():
            if end - cuts[-1] >= size or end == len(rows):
                cuts.append(end)
        return [rows[low:high] for low, high in pairwise(cuts) if high > low]


def histories_of(spec: Spec) -> list[str]:
    """The histories that a model reads."""
    return list(spec.histories) or [ALL]


def bytes_needed(candidates: int, events: int, histories: int) -> int:
    """Of the arrays that `build` makes, and that can be mapped."""
    return candidates * (28 + 16 * histories) + events * (12 + 8 * histories)


def build(
    spec: Spec,
    max_events: int,
    shards: Iterator[Shard],
    labelled: Labelled,
    usable: Bools,
    events: int,
    folder: Path | None,
) -> tuple[Dataset, dict[str, int]]:
    """The dataset of all shards, and how many candidates are for what.

    `events` is how many there may be at most. With a folder the arrays are mapped files there.
    """
    histories = histories_of(spec)
    n, H = int(np.count_nonzero(usable)), len(histories)
    rows, times, lengths = (zeros((n,), np.int64, folder) for _ in range(3))
    items, starts, ends = (
        zeros((n,), np.int32, folder),
        zeros((n, H), np.int64, folder),
        zeros((n, H), np.int64, folder),
    )
    event_items, event_times = zeros((events,), np.int32, folder), zeros((events,), np.int64, folder)
    of_history = [zeros((events,), np.int64, folder) for _ in range(H)]
    q, e, own = 0, 0, [0] * H
    for shard in shards:
        part = examples(spec, histories, max_events, shard.history, shard.candidates)
        kept = usable[part.rows] & (part.lengths > 0) & (part.items >= 0)
        new, more = slice(q, q + int(np.count_nonzero(kept))), slice(e, e + len(part.event_items))
        rows[new], times[new], items[new] = part.rows[kept], part.times[kept], part.items[kept]
        lengths[new], starts[new], ends[new] = part.lengths[kept], part.starts[kept] + own, part.ends[kept] + own
        for h, mine in enumerate(part.of_history):
            of_history[h][own[h] : own[h] + len(mine)] = mine + e
            own[h] += len(mine)
        event_items[more], event_times[more] = part.event_items, part.event_times
        q, e = new.stop, more.stop
    seen = Examples(
        rows=rows[:q],
        times=times[:q],
        items=items[:q],
        starts=starts[:q],
        ends=ends[:q],
        most=max_events,
        lengths=lengths[:q],
        of_history=[mine[:count] for mine, count in zip(of_history, own, strict=True)],
        event_items=event_items[:e],
        event_times=event_times[:e],
    )
    train, valid = _split(seen.rows, labelled.times)
    groups = np.arange(q) if labelled.groups is None else labelled.groups[seen.rows]
    data = Dataset(seen, labelled.labels[seen.rows].astype(np.float32), groups, train, valid)
    return data, {"train": len(train), _STOPPING: len(valid), "that see no event or have no item": n - q}


def _split(rows: Ints, times: Ints) -> tuple[Ints, Ints]:
    """Candidates in the order of the input: before the last slice by time, and that; equal times together."""
    order = np.argsort(rows, kind="stable")
    if not len(order):
        return order, order
    moments = times[rows[order]]
    cut = np.sort(moments)[len(order) - max(1, round(_VALID * len(order)))]
    return order[moments < cut], order[moments >= cut]


def check(data: Dataset, labelled: Labelled, rows: dict[str, int], *, inside_groups: bool) -> None:
    """Both parts need candidates of both kinds; `rows` tells where all of them went."""
    for name, part in {"training": data.train, "early stopping": data.valid}.items():
        labels = data.labels[part]
        if not len(part):
            known = labelled.times[labelled.times != NO_TIME]
            when = (
                f", at times from {time_text(int(known.min()))} to {time_text(int(known.max()))}" if len(known) else ""
            )
            where = "; ".join(f"{count:,} {what}" for what, count in rows.items() if what not in {"train", _STOPPING})
            raise DataError(
                f"no candidates are left for {name}: there are {len(labelled.times):,}{when}{where and f' ({where})'}; "
                "those that can be learned from have a label and a visible event, and are before --until, at more than "
                "one time. Are the inputs, --label and --until right?"
            )
        if len(np.unique(labels > 0)) < 2:
            what = "above 0" if labels[0] > 0 else "0"
            raise DataError(
                f"no label for {name} is other than {what} ({len(part):,} candidates): nothing can be learned"
            )
        requests = metrics.Groups.of(data.groups[part])
        if inside_groups and np.isnan(metrics.group_aucs(labels, labels > 0, requests)).all():
            raise DataError(
                f"--group: no request for {name} has candidates of both kinds, so there is nothing to rank. Name the "
                "column that the candidates of one request share, or take --loss bce"
            )


def newest(data: Dataset, labelled: Labelled) -> int:
    """Time of the newest candidate of both parts, us."""
    return int(labelled.times[data.seen.rows].max())
