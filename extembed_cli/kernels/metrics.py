"""Ranking metrics. The AUC takes weights of users, so that a bootstrap over users only changes the weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from extembed_cli.arrays import Bools, Doubles, Floats, Ints

_CLIP = 1e-15


class RankedScores:
    """Scores sorted once, for AUCs under many sets of weights.

    scores (n); labels (n) of 0 and 1; users (n), the number of each row's user, whose weight counts.
    """

    def __init__(self, scores: Floats, labels: Bools, users: Ints) -> None:
        order = np.argsort(scores, kind="stable")
        self.users = users[order]
        self.labels = labels[order].astype(np.float64)
        ordered = scores[order]
        self.ends = np.append(np.flatnonzero(ordered[1:] != ordered[:-1]), len(ordered) - 1)
        """Where each run of equal scores ends."""

    def auc(self, weights: Doubles) -> float:
        """Return the chance that a positive scores above a negative; ties count half. NaN where a class has no weight.

            AUC = Σ_+ w (W_-(below) + ½ W_-(equal)) / (W_+ W_-)

        weights (U) of users. Equal to scikit-learn's `roc_auc_score(sample_weight=weights[users])`.
        """
        w = weights[self.users]
        positive = w * self.labels
        negatives = np.cumsum(w - positive)
        if len(self.ends) == len(w):  # no ties: a row has one label
            below = positive @ negatives
            total = positive.sum() * negatives[-1]
        else:
            positives = np.cumsum(positive)[self.ends]
            negatives = negatives[self.ends]
            middle = negatives - np.diff(negatives, prepend=0) / 2
            below = np.diff(positives, prepend=0) @ middle
            total = positives[-1] * negatives[-1]
        return float(below / total) if total > 0 else float("nan")


def auc(scores: Floats, labels: Bools) -> float:
    """Return the AUC of scores (n) for labels (n); NaN where one class is missing."""
    return RankedScores(scores, labels, np.zeros(len(scores), np.int64)).auc(np.ones(1))


def log_losses(chances: Floats, labels: Bools) -> Doubles:
    """Return the log loss −ln(chance of the label): (n), (n) -> (n). The mean is scikit-learn's `log_loss`."""
    chances = np.clip(chances.astype(np.float64), _CLIP, 1 - _CLIP)
    return -np.where(labels, np.log(chances), np.log1p(-chances))


@dataclass(frozen=True)
class Groups:
    """Rows by group, such as a request: rows (n) in order of groups, those of group g at [start[g], start[g + 1])."""

    rows: Ints
    start: Ints

    @classmethod
    def of(cls, keys: Ints) -> Groups:
        """Return the groups, given the group of each row."""
        rows = np.argsort(keys, kind="stable")
        change = np.flatnonzero(np.diff(keys[rows])) + 1
        return cls(rows, np.concatenate([[0], change, [len(rows)]]))

    @property
    def sizes(self) -> Ints:
        return np.diff(self.start)

    @property
    def owner(self) -> Ints:
        """(n) the group of each of `rows`."""
        return np.repeat(np.arange(len(self.start) - 1), self.sizes)

    def ranked(self, scores: Floats) -> tuple[Ints, Ints, Ints]:
        """Return rows by group and falling score, the rank of each from 0, and the number of its tie (equal scores)."""
        values, owner = scores[self.rows], self.owner
        order = np.lexsort((-values, owner))
        ordered = values[order]
        changes = (ordered[1:] != ordered[:-1]) | (owner[1:] != owner[:-1])
        return self.rows[order], np.arange(len(order)) - self.start[:-1][owner], np.cumsum(np.append(False, changes))


def group_aucs(scores: Floats, labels: Bools, groups: Groups) -> Doubles:
    """Return the AUC inside each group; NaN where all labels are equal: (n), (n) -> (G).

    GAUC is the mean over groups, weighted by their rows as Alibaba's DIN does (arXiv:1706.06978, §6.3).
    """
    rows, ranks, tie = groups.ranked(scores)
    owner, positive = groups.owner, labels[rows]
    mean_rank = (np.bincount(tie, ranks) / np.bincount(tie))[tie]
    G = len(groups.start) - 1
    n = groups.sizes.astype(np.float64)
    plus = np.bincount(owner, positive, G)
    from_below = np.bincount(owner, (n[owner] - mean_rank) * positive, G)
    pairs = plus * (n - plus)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(pairs > 0, (from_below - plus * (plus + 1) / 2) / pairs, np.nan)


def ndcgs(scores: Doubles, gains: Doubles, groups: Groups, most: int = 10) -> Doubles:
    """Return the nDCG of the first `most` of each group; NaN where no row has a gain: (n), (n) -> (G).

        DCG = Σ_{rank < most} gain / log2(rank + 2),  nDCG = DCG / DCG of the best order

    Rows of equal scores share their gains, so that the order of the file does not matter, as in scikit-learn's
    `ndcg_score`. Gains are used as they are; for graded labels 2^label − 1 is usual (Burges et al. 2005).
    """
    G = len(groups.start) - 1
    discount = 1 / np.log2(np.arange(2, most + 2))

    def dcg(by: Doubles) -> Doubles:
        rows, ranks, tie = groups.ranked(by)
        shared = (np.bincount(tie, gains[rows]) / np.bincount(tie))[tie]
        first = ranks < most
        return np.bincount(groups.owner[first], shared[first] * discount[ranks[first]], G).astype(np.float64)

    best = dcg(gains)
    with np.errstate(invalid="ignore"):
        return np.where(best > 0, dcg(scores) / best, np.nan)


def reciprocal_ranks(scores: Floats, relevant: Bools, groups: Groups) -> Doubles:
    """Return 1 / rank (from 1) of the first relevant row of each group; NaN where there is none: (n), (n) -> (G).

    If this row ties with others, the result is the mean over all their orders: the first of r relevant among m equal
    rows is the j-th with probability r/(m−j+1) · Π_{i<j} (m−r−i+1)/(m−i+1).
    """
    rows, ranks, tie = groups.ranked(scores)
    out = np.full(len(groups.start) - 1, np.nan)
    hits = np.flatnonzero(relevant[rows])[::-1]  # reversed: the first of a group is written last
    first = np.full(len(out), -1)
    first[groups.owner[hits]] = hits
    known = np.flatnonzero(first >= 0)
    if not len(known):
        return out
    begin = np.append(0, np.flatnonzero(np.diff(tie)) + 1)
    first_tie = tie[first[known]]
    m = np.bincount(tie)[first_tie].astype(np.float64)
    r = np.bincount(tie, relevant[rows])[first_tie]
    above = ranks[begin[first_tie]]
    mean, left = np.zeros(len(known)), np.ones(len(known))
    for j in range(1, int((m - r).max()) + 2):
        hit = left * np.minimum(1.0, r / np.maximum(m - j + 1, 1))
        mean += hit / (above + j)
        left = left - hit
    out[known] = mean
    return out
