"""The events that a model reads are the newest visible ones, as in a loop."""

from __future__ import annotations

import numpy as np

from extembed_cli.histories.csr import Candidates, History
from extembed_cli.neural.events import Reading, build_examples
from extembed_cli.spec.loading import build_spec


def test_a_model_reads_the_newest_visible_events() -> None:
    """It reads the newest events of all histories in order, with the histories that each is in, as a loop does."""
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
    user_of = np.repeat(np.arange(users), 15)
    as_of = np.sort(rng.integers(0, 110, (users, 15)), axis=1).ravel() * second
    candidates = Candidates(np.arange(users + 1) * 15, np.arange(180), as_of, np.zeros(180, np.int32))
    for most in (1, 4, 50):
        examples = build_examples(spec, Reading(["a", "b", "c"], most), history, candidates)
        padded = examples.padded(np.arange(180), max(1, int(examples.lengths.max())))
        for q, (user, moment) in enumerate(zip(user_of, as_of, strict=True)):
            mine = np.flatnonzero((owner == user) & (times < moment - 2 * second))
            shown = {
                "a": mine[members["a"][mine] & (times[mine] >= moment - 30 * second)],
                "b": mine[members["b"][mine]][-3:],
                "c": mine[members["c"][mine]],
            }
            expected = np.unique(np.concatenate(list(shown.values())))[-most:]
            assert examples.lengths[q] == len(expected)
            assert padded.events[q, : len(expected)].tolist() == expected.tolist()
            assert not padded.members[q, len(expected) :].any()
            for place, name in enumerate(shown):
                assert padded.members[q, : len(expected), place].tolist() == np.isin(expected, shown[name]).tolist()
