"""The events that a model reads: the newest visible ones, against a loop."""

from __future__ import annotations

import numpy as np

from extembed_cli.histories.csr import Candidates, History
from extembed_cli.neural.events import build_examples
from extembed_cli.spec.loading import build_spec


def test_the_newest_visible_events_are_read_whatever_windows_hide() -> None:
    """Against a loop: of the events that any history shows, the newest so many, in order, and where each is shown."""
    rng = np.random.default_rng(0)
    spec = build_spec(
        {
            "interactions": "i", "candidates": "c", "embeddings": {"text": {"path": "t"}}, "lag": "2s",
            "histories": {
                "a": {"where": "a", "window": "30s"}, "b": {"where": "b", "max_events": 3}, "c": {"where": "c"},
            },
            "neural": [{"model": "m"}],
        },
        "spec",
    )  # fmt: skip
    users, second = 12, 1_000_000
    owner = np.sort(rng.integers(0, users, 400))
    times = rng.integers(0, 100, 400) * second
    order = np.lexsort((times, owner))
    times = times[order]
    members = {name: rng.random(400) < share for name, share in {"a": 0.5, "b": 0.4, "c": 0.05}.items()}
    values = {spec.membership(name): flags for name, flags in members.items()}
    indptr = np.searchsorted(owner, np.arange(users + 1))
    history = History(indptr, times, np.arange(400, dtype=np.int32), values)
    asked_of = np.repeat(np.arange(users), 15)
    asked_at = np.sort(rng.integers(0, 110, (users, 15)), axis=1).ravel() * second
    candidates = Candidates(np.arange(users + 1) * 15, np.arange(180), asked_at, np.zeros(180, np.int32))
    for most in (1, 4, 50):
        seen = build_examples(spec, ["a", "b", "c"], most, history, candidates)
        found = seen.padded(np.arange(180), max(1, int(seen.lengths.max())))
        for q, (user, moment) in enumerate(zip(asked_of, asked_at, strict=True)):
            mine = np.flatnonzero((owner == user) & (times < moment - 2 * second))
            shown = {
                "a": mine[members["a"][mine] & (times[mine] >= moment - 30 * second)],
                "b": mine[members["b"][mine]][-3:],
                "c": mine[members["c"][mine]],
            }
            expected = np.unique(np.concatenate(list(shown.values())))[-most:]
            assert seen.lengths[q] == len(expected)
            assert found.events[q, : len(expected)].tolist() == expected.tolist()
            assert not found.members[q, len(expected) :].any()
            for place, name in enumerate(shown):
                assert found.members[q, : len(expected), place].tolist() == np.isin(expected, shown[name]).tolist()
