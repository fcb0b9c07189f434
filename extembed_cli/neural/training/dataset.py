"""The dataset of a training: the labelled candidates of all shards with their visible events, in the input's order.

Batches are drawn from the candidates of all shards, so that they are the same for any memory limit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from extembed_cli.arrays import Bools, Doubles, Floats, Ints
from extembed_cli.data.columns.labels import NO_TIME
from extembed_cli.data.shards.mapped_arrays import zeros
from extembed_cli.errors import DataError
from extembed_cli.histories.csr import Shard
from extembed_cli.kernels import metrics
from extembed_cli.neural.config import EventValue
from extembed_cli.neural.events import Examples, Reading, build_examples
from extembed_cli.spec.durations import time_text
from extembed_cli.spec.model import ALL, Spec

_STOPPING = "early stopping"
_VALID_FRACTION = 0.15  # of the candidates, the newest, for early stopping
_SORTED_BATCHES = 20  # batches whose candidates are sorted by length together: less padding, still random


@dataclass(frozen=True)
class Labelled:
    """Labels, times and requests of the n rows of the candidates."""

    labels: Doubles
    """NaN = null"""
    times: Ints
    """us, not floored; NO_TIME = null"""
    groups: Ints | None
    """0 = null"""

    def usable(self, until_us: int | None) -> tuple[Bools, dict[str, int]]:
        """Return the rows that can be used (n), and the numbers of the others by reason."""
        left_out = {"without a time": self.times == NO_TIME, "without a label": np.isnan(self.labels)}
        if until_us is not None:
            left_out["from --until on"] = self.times >= until_us
        if self.groups is not None:
            left_out["without a request"] = self.groups == 0
        kept, counts = np.ones(len(self.times), np.bool_), {}
        for reason, rows in left_out.items():
            counts[reason] = int(np.count_nonzero(kept & rows))
            kept &= ~rows
        return kept, {reason: count for reason, count in counts.items() if count}

    def cuts(self, usable: Bools, folds: int) -> list[int | None]:
        """Return the times (us) before which each model is trained; None = no limit.

        They cut the usable rows into `folds` + 1 stretches of equal size; rows of one time stay together.
        """
        if folds == 1:
            return [None]
        times = np.sort(self.times[usable])
        if not len(times):
            raise DataError(f"--folds {folds}: there is no candidate to learn from; is --until right?")
        cuts = [int(times[len(times) * fold // (folds + 1)]) for fold in range(1, folds + 1)]
        if len(set(cuts)) < folds or cuts[0] == times[0]:
            raise DataError(
                f"--folds {folds}: the {len(times):,} candidates have too few different times to be cut into "
                f"{folds + 1} stretches. Give fewer, or --folds 1"
            )
        return list(cuts)

    def largest_group(self, usable: Bools) -> int:
        """Return the number of candidates in the largest request."""
        return 1 if self.groups is None else int(np.bincount(self.groups[usable]).max(initial=0))


@dataclass(frozen=True)
class Dataset:
    """Q candidates for training and for early stopping."""

    examples: Examples
    labels: Floats
    """(Q)"""
    groups: Ints
    """(Q) number of the request; each candidate has its own without requests"""
    train: Ints
    """Indices of the training candidates, in the order of the input."""
    valid: Ints
    """Indices of the early stopping candidates, in the order of the input."""

    def before(self, cut: int | None, times: Ints) -> Dataset:
        """Return the same candidates with a training on those before a time; `times` are those of the input's rows."""
        train, valid = _split(self.examples.rows, times, cut)
        return replace(self, train=train, valid=valid)

    @property
    def used(self) -> dict[str, int]:
        """The number of candidates by use."""
        return {"train": len(self.train), _STOPPING: len(self.valid)}

    def batches(self, seed: int, epoch: int, size: int, *, whole_groups: bool) -> list[Ints]:
        """Return the candidates of each step of an epoch, the same at every call."""
        rng = np.random.default_rng([seed, epoch])
        if whole_groups:
            return self._of_groups(rng, size)
        order = rng.permutation(self.train)
        lengths = self.examples.lengths
        all_batches: list[Ints] = []
        for low in range(0, len(order), size * _SORTED_BATCHES):
            part = order[low : low + size * _SORTED_BATCHES]
            part = part[np.argsort(lengths[part], kind="stable")]
            batches = [part[start : start + size] for start in range(0, len(part), size)]
            all_batches += [batches[i] for i in rng.permutation(len(batches))]
        return all_batches

    def _of_groups(self, rng: np.random.Generator, size: int) -> list[Ints]:
        """Return batches of whole requests in random order, each as many as reach the size."""
        groups = self.groups[self.train]
        order = rng.permutation(int(groups.max()) + 1)[groups]
        return self.split(self.train[np.argsort(order, kind="stable")], size)

    def split(self, rows: Ints, size: int) -> list[Ints]:
        """Return candidates in parts that reach the size, without splitting adjacent candidates of one request."""
        ends = np.append(np.flatnonzero(np.diff(self.groups[rows])) + 1, len(rows))
        cuts = [0]
        for end in ends.tolist():
            if end - cuts[-1] >= size or end == len(rows):
                cuts.append(end)
        return [rows[low:high] for low, high in pairwise(cuts) if high > low]


def histories_of(spec: Spec) -> list[str]:
    """Return the names of the histories that a model reads."""
    return list(spec.histories) or [ALL]


def dataset_bytes(candidates: int, events: int, histories: int, values: int) -> int:
    """Return the bytes of the arrays of a dataset, which can be mapped files."""
    return candidates * (28 + 16 * histories) + events * (12 + 8 * histories + 8 * values)


def build_dataset(
    spec: Spec,
    reading: Reading,
    shards: Iterator[Shard],
    labelled: Labelled,
    usable: Bools,
    events: int,
    folder: Path | None,
) -> tuple[Dataset, dict[str, int]]:
    """Return the dataset of all shards, and the number of usable candidates that are not in it, by reason.

    `events` is the largest possible number of events. With a folder the arrays are mapped files there.
    """
    n, H = int(np.count_nonzero(usable)), len(reading.histories)
    rows, times, lengths = (zeros((n,), np.int64, folder) for _ in range(3))
    items, starts, ends = (
        zeros((n,), np.int32, folder),
        zeros((n, H), np.int64, folder),
        zeros((n, H), np.int64, folder),
    )
    event_items, event_times = zeros((events,), np.int32, folder), zeros((events,), np.int64, folder)
    event_values = zeros((events, len(reading.values)), np.float64, folder) if reading.values else None
    history_events = [zeros((events,), np.int64, folder) for _ in range(H)]
    q, e, counts = 0, 0, [0] * H  # numbers of candidates, of events, and of events of each history so far
    for shard in shards:
        part = build_examples(spec, reading, shard.history, shard.candidates)
        kept = usable[part.rows] & (part.lengths > 0) & (part.items >= 0)
        new_rows, new_events = slice(q, q + int(np.count_nonzero(kept))), slice(e, e + len(part.event_items))
        rows[new_rows], times[new_rows], items[new_rows] = part.rows[kept], part.times[kept], part.items[kept]
        starts[new_rows], ends[new_rows] = part.starts[kept] + counts, part.ends[kept] + counts
        lengths[new_rows] = part.lengths[kept]
        for h, indices in enumerate(part.history_events):
            history_events[h][counts[h] : counts[h] + len(indices)] = indices + e
            counts[h] += len(indices)
        event_items[new_events], event_times[new_events] = part.event_items, part.event_times
        if event_values is not None:
            event_values[new_events] = part.event_values
        q, e = new_rows.stop, new_events.stop
    examples = Examples(
        rows=rows[:q],
        times=times[:q],
        items=items[:q],
        starts=starts[:q],
        ends=ends[:q],
        max_events=reading.max_events,
        lengths=lengths[:q],
        history_events=[indices[:count] for indices, count in zip(history_events, counts, strict=True)],
        event_items=event_items[:e],
        event_times=event_times[:e],
        event_values=None if event_values is None else event_values[:e],
    )
    train, valid = _split(examples.rows, labelled.times, None)
    groups = np.arange(q) if labelled.groups is None else labelled.groups[examples.rows]
    data = Dataset(examples, labelled.labels[examples.rows].astype(np.float32), groups, train, valid)
    return data, {"that see no event or have no item": n - q}


def standardize(examples: Examples, columns: Sequence[str], before_us: int) -> list[EventValue]:
    """Standardize the values in place by mean and deviation of the events before a time; return them for the config."""
    results = []
    for place, column in enumerate(columns):
        assert examples.event_values is not None
        values = examples.event_values[:, place]
        known = np.sort(values[(examples.event_times < before_us) & ~np.isnan(values)])  # in an order of their own
        mean, sd = (known.mean(), known.std()) if len(known) else (0.0, 0.0)
        value = EventValue(column=column, mean=float(mean), sd=float(sd) if sd > 0 else 1.0)
        values[...] = value.of(values)
        results.append(value)
    return results


def _split(rows: Ints, times: Ints, cut: int | None) -> tuple[Ints, Ints]:
    """Return the training and the early stopping candidates before a time, in the order of the input.

    Equal times stay together.
    """
    order = np.argsort(rows, kind="stable")
    if cut is not None:
        order = order[times[rows[order]] < cut]
    if not len(order):
        return order, order
    ordered = times[rows[order]]
    cutoff = np.sort(ordered)[len(order) - max(1, round(_VALID_FRACTION * len(order)))]
    return order[ordered < cutoff], order[ordered >= cutoff]


def check_dataset(data: Dataset, labelled: Labelled, rows: dict[str, int], *, inside_groups: bool) -> None:
    """Raise if a part has no candidates or labels of one class only; `rows` are those left out, by reason."""
    for name, part in {"training": data.train, "early stopping": data.valid}.items():
        labels = data.labels[part]
        if not len(part):
            known = labelled.times[labelled.times != NO_TIME]
            when = (
                f", at times from {time_text(int(known.min()))} to {time_text(int(known.max()))}" if len(known) else ""
            )
            left_out = "; ".join(f"{count:,} {reason}" for reason, count in rows.items())
            raise DataError(
                f"no candidates are left for {name}: there are {len(labelled.times):,}{when}"
                f"{left_out and f' ({left_out})'}. Training needs candidates before --until, at more than one time, "
                "with a label and a visible event. Are the inputs, --label and --until right?"
            )
        if len(np.unique(labels > 0)) < 2:
            value = "above 0" if labels[0] > 0 else "0"
            raise DataError(
                f"all {len(part):,} labels for {name} are {value}, so there is nothing to learn. Is --label right?"
            )
        requests = metrics.Groups.of(data.groups[part])
        if inside_groups and np.isnan(metrics.group_aucs(labels, labels > 0, requests)).all():
            raise DataError(
                f"--group: no request for {name} has labels both 0 and above 0, so there is nothing to rank. Name "
                "the column that the candidates of one request share, or use --loss bce"
            )


def newest_time(data: Dataset, labelled: Labelled) -> int:
    """Return the time of the newest candidate for training or early stopping, us."""
    return int(labelled.times[data.examples.rows[np.append(data.train, data.valid)]].max())
