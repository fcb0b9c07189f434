"""A small synthetic data set with planted tastes, so that the features carry a signal.

Items belong to topics. `text` vectors encode the topic, with noise and a large common direction, like those of text
models; `image` vectors encode a style that matters less, and one item in twenty has none. Users like some topics and
dislike others, and change their taste once, so that recent events say more. `profile` vectors of users are in the space
of the texts: a survey of both tastes, with noise. Some topics please everybody more than others, and some items are
better than their topic: what an event says beyond its item's quality is the taste. One item in four appears late, when
nobody has seen it yet. A request shows a user ten items, and the user may click, like or dislike an item a few seconds
later.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from extembed_cli.arrays import Doubles, Ints, Values
from extembed_cli.data.files.commit import staged
from extembed_cli.errors import SpecError

USERS, ITEMS, TOPICS, STYLES = 240, 2000, 16, 6
REQUESTS, REQUEST_ITEMS = 22, 10  # mean number of requests of a user, items in a request
START_US, DAYS = 1_767_225_600_000_000, 120  # from 2026-01-01 UTC
CANDIDATES_FROM = 0.55  # share of the time after which requests are candidates
DAY_US = 86_400_000_000
LATE = 0.25  # share of the items that appear between these shares of the time
LATE_FROM, LATE_TO = 0.4, 0.95
TABLES = ("interactions", "candidates", "item_text", "item_image", "user_profile")

SPEC = """\
# Features for the requests in candidates.parquet. Try:
#   extembed check spec.toml
#   extembed run spec.toml --dry-run
#   extembed run spec.toml

interactions = "interactions.parquet"
candidates   = "candidates.parquet"
output       = "features.parquet"

[embeddings.text]
path   = "item_text.parquet"
center = true

[embeddings.image]
path = "item_image.parquet"

[user_embeddings.profile]
path = "user_profile.parquet"

[histories.liked]
where = "event = 'like'"

[histories.disliked]
where = "event = 'dislike'"

[histories.clicked]
where      = "event = 'click'"
max_events = 200

# Similarity to what the user liked, disliked and clicked.
[[aggregate]]
half_lives  = ["7d", "60d"]
percentiles = [10, 50, 90]
thresholds  = [0.3]

# What the user said of similar items, beyond what others said of them.
[[aggregate]]
name        = "res"
histories   = ["all"]
half_lives  = ["7d", "60d"]
percentiles = []
target      = "CASE WHEN event = 'like' THEN 1.0 WHEN event = 'click' THEN 0.5 ELSE -1.0 END"
residual    = "item"

# How many have seen the item, and what they said.
[[counters]]
side       = "item"
own        = true
histories  = ["all"]
half_lives = ["7d", "60d"]
target     = "CASE WHEN event = 'like' THEN 1.0 WHEN event = 'click' THEN 0.5 ELSE -1.0 END"

# Did people like this user like the item?
[[aggregate]]
side        = "item"
histories   = ["liked", "disliked"]
half_lives  = ["60d"]
percentiles = []

# The profiles are in the space of the texts.
[[direct]]
embeddings = ["text"]

# A linear model per user; it needs no centred vectors.
[[dual]]
embeddings = ["text"]
center     = false
histories  = ["all"]
half_life  = "60d"
target     = "CASE WHEN event = 'like' THEN 1.0 WHEN event = 'click' THEN 0.5 ELSE -1.0 END"
residual   = "item"

# One model of all users, for items that hardly anybody has seen.
[[dual]]
side       = "all"
embeddings = ["text"]
histories  = ["all"]
half_life  = "60d"
bias       = true
target     = "CASE WHEN event = 'like' THEN 1.0 WHEN event = 'click' THEN 0.5 ELSE -1.0 END"
"""


def write_sample(folder: Path, seed: int = 0) -> None:
    """Write the tables and `spec.toml` into a folder without other files."""
    names = {*(f"{name}.parquet" for name in TABLES), "spec.toml"}
    if folder.exists() and (not folder.is_dir() or any(path.name not in names for path in folder.iterdir())):
        raise SpecError(f"{folder}: has other files; name a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    with staged() as stage:
        for name, table in make_world(seed).items():
            pq.write_table(table, stage.temporary(folder / f"{name}.parquet"), compression="zstd")
        stage.temporary(folder / "spec.toml").write_text(SPEC, encoding="utf-8")
        stage.commit()


def make_world(seed: int = 0) -> dict[str, pa.Table]:
    """Return the tables by file name; the same seed gives the same tables."""
    rng = np.random.default_rng(seed)
    topic = rng.integers(0, TOPICS, ITEMS)
    style = rng.integers(0, STYLES, ITEMS)
    popularity = rng.gamma(2.0, 0.5, ITEMS) + 0.05
    quality = rng.normal(0, 0.6, TOPICS)[topic] + rng.normal(0, 0.7, ITEMS)
    requests = _requests(rng)
    user, shown_at = requests["user"], requests["time"]

    chance = popularity / popularity.sum()
    item = rng.choice(ITEMS, size=(len(user), REQUEST_ITEMS), p=chance)
    user, shown_at = user[:, None], shown_at[:, None]
    late = rng.random(ITEMS) < LATE
    appears = START_US + np.where(late, rng.uniform(LATE_FROM, LATE_TO, ITEMS), 0) * DAYS * DAY_US
    too_early = appears[item] > shown_at
    item[too_early] = rng.choice(ITEMS, too_early.sum(), p=np.where(late, 0, chance) / chance[~late].sum())
    tastes = rng.choice([-2.0, 0.0, 1.8], size=(2, USERS + 1, TOPICS), p=[0.25, 0.45, 0.3])
    affinity = _affinity(rng, tastes, user, topic[item], style[item], shown_at)
    noise = rng.logistic(size=item.shape)
    liking = affinity + quality[item] + 0.7 * np.log(popularity[item]) + noise
    event = np.select([liking > 2.2, liking > 0.9, liking < -2.6], ["like", "click", "dislike"], "")
    reacted_at = shown_at + rng.integers(2, 90, item.shape) * 1_000_000

    names = np.array([f"item-{n:04d}" for n in range(ITEMS)])
    users = np.broadcast_to(user, item.shape)
    reacted = event != ""
    interactions = pa.table(
        {
            "user_id": users[reacted].astype(np.int32),
            "item_id": names[item[reacted]],
            "timestamp": _times(reacted_at[reacted]),
            "event": pa.array(event[reacted]).dictionary_encode(),
        }
    ).sort_by([("timestamp", "ascending"), ("user_id", "ascending"), ("item_id", "ascending")])

    ranked = shown_at[:, 0] >= START_US + CANDIDATES_FROM * DAYS * DAY_US
    count = int(ranked.sum())
    candidates = pa.table(
        {
            "request_id": np.repeat(np.arange(count, dtype=np.int32), REQUEST_ITEMS),
            "user_id": users[ranked].ravel().astype(np.int32),
            "item_id": names[item[ranked].ravel()],
            "timestamp": _times(np.repeat(shown_at[ranked, 0], REQUEST_ITEMS)),
            "popularity": popularity[item[ranked].ravel()].astype(np.float32).round(2),
            "label": np.isin(event[ranked], ["like", "click"]).ravel().astype(np.int8),
        }
    )
    pictured = np.flatnonzero(rng.random(ITEMS) > 0.05)
    topics, styles = rng.standard_normal((TOPICS, 32)), rng.standard_normal((STYLES, 16))
    texts = _noisy(rng, topics[topic]) + 1.2 * rng.standard_normal(32)
    profiles = _noisy(rng, tastes.mean(axis=0)[1:] @ topics / np.sqrt(TOPICS))
    return {
        "interactions": interactions,
        "candidates": candidates,
        "item_text": _table("item_id", names, texts),
        "item_image": _table("item_id", names[pictured], _noisy(rng, styles[style])[pictured]),
        "user_profile": _table("user_id", np.arange(1, USERS + 1, dtype=np.int32), profiles),
    }


def _requests(rng: np.random.Generator) -> dict[str, Ints]:
    """Return user and time of all requests, ordered by time; users have very different numbers of requests."""
    requests = np.maximum(1, rng.gamma(1.5, REQUESTS / 1.5, USERS)).astype(np.int64)
    user = np.repeat(np.arange(1, USERS + 1), requests)
    seconds = rng.integers(0, DAYS * 86_400, len(user))
    order = np.lexsort((user, seconds))
    return {"user": user[order], "time": START_US + seconds[order] * 1_000_000}


def _affinity(
    rng: np.random.Generator,
    tastes: Doubles,
    user: Ints,
    topic: Ints,
    style: Ints,
    time: Ints,
) -> Doubles:
    """Return how much users like items at a time: by a taste for styles and one for topics, which changes once."""
    styles = rng.choice([-0.6, 0.6], size=(USERS + 1, STYLES))
    change = START_US + rng.integers(20 * DAY_US, 100 * DAY_US, USERS + 1)
    era = (time >= change[user]).astype(np.int64)
    affinity: Doubles = tastes[era, user, topic] + styles[user, style]
    return affinity


def _noisy(rng: np.random.Generator, vectors: Doubles) -> Doubles:
    return vectors + 0.8 * rng.standard_normal(vectors.shape)


def _table(key: str, ids: Values, vectors: Doubles) -> pa.Table:
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.astype(np.float16).ravel()), vectors.shape[1])
    return pa.table({key: ids, "embedding": column})


def _times(micros: Ints) -> pa.Array:
    return pa.array(micros, pa.timestamp("us", "UTC"))
