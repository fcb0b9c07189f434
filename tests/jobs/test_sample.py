"""The sample: the committed files match the generator, and the features rank by the planted taste."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from conftest import ROOT, run_spec

from extembed_cli.errors import SpecError
from extembed_cli.jobs.sample import make_world, write_sample

COMMITTED = ROOT / "sample_data"


def test_the_committed_files_match_the_generator(tmp_path: Path) -> None:
    write_sample(tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    committed = sorted(p.name for p in COMMITTED.iterdir() if not p.name.startswith("features.parquet"))
    assert names == committed
    assert (tmp_path / "spec.toml").read_text() == (COMMITTED / "spec.toml").read_text()
    for name in names:
        if name.endswith(".parquet"):
            assert pq.read_table(tmp_path / name).equals(pq.read_table(COMMITTED / name)), name


def test_the_committed_files_are_small() -> None:
    inputs = [path for path in COMMITTED.glob("*.parquet") if path.name != "features.parquet"]
    assert sum(path.stat().st_size for path in inputs) < 3_000_000


def test_another_seed_makes_another_world() -> None:
    assert not make_world(1)["interactions"].equals(make_world(0)["interactions"])


def test_other_files_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(SpecError, match="other files"):
        write_sample(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def auc(scores: np.ndarray, labels: np.ndarray) -> float:
    ranks = pl.Series(scores).rank("average").to_numpy()
    positives = labels.sum()
    area = ranks[labels == 1].sum() - positives * (positives + 1) / 2
    return float(area / (positives * (len(labels) - positives)))


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    folder: Path = tmp_path_factory.mktemp("sample")
    write_sample(folder)
    return run_spec(folder / "spec.toml")


@pytest.mark.soak
def test_the_features_rank_by_the_planted_taste(features: pl.DataFrame) -> None:
    labels = features["label"].to_numpy()
    aucs = {
        name: auc(features[name].fill_null(0).to_numpy(), labels)
        for name in (
            "text__liked__cos_share_ge_030__hl7d",
            "text__disliked__cos_share_ge_030__hl7d",
            "liked__count",
            "profile__text__cos",
            "profile__liked__item_cos_mean__hl60d",
            "text__all__all_dual_score",
        )
    }
    assert aucs["text__liked__cos_share_ge_030__hl7d"] > 0.6
    assert aucs["text__disliked__cos_share_ge_030__hl7d"] < 0.42
    assert 0.45 < aucs["liked__count"] < 0.55
    assert aucs["profile__text__cos"] > 0.6
    assert aucs["profile__liked__item_cos_mean__hl60d"] > 0.53
    assert aucs["text__all__all_dual_score"] > 0.55


@pytest.mark.soak
def test_some_items_appear_late(features: pl.DataFrame) -> None:
    unseen = features.filter(pl.col("item_all__count") == 0)
    late = unseen.filter(pl.col("timestamp") > pl.col("timestamp").median())
    assert len(unseen) > 400
    assert len(late) > 100
    # Everybody's model knows what their texts are worth.
    assert auc(unseen["text__all__all_dual_score"].to_numpy(), unseen["label"].to_numpy()) > 0.55
