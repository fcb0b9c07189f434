"""`[[neural]]` in a run: the scores, their invariance, and the vectors of users and items."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
import torch
from conftest import extembed
from helpers.drawn import same_bytes
from helpers.explained import explained, same_as_run
from helpers.neural import GROUP, scored, train, until, write_spec
from torch import nn
from torch.nn import functional

from extembed_cli.engines.base import Job
from extembed_cli.features.prepare import Shared, prepare
from extembed_cli.jobs.layout import Layout
from extembed_cli.jobs.one_candidate import Given
from extembed_cli.jobs.options import RunOptions
from extembed_cli.jobs.reading import load, open_all
from extembed_cli.jobs.run import run_job
from extembed_cli.neural.config import Architecture
from extembed_cli.neural.events import Reading, build_examples
from extembed_cli.neural.items import adapted_items, item_block
from extembed_cli.neural.model import ExampleBatch, Model
from extembed_cli.spec.loading import load_spec
from extembed_cli.system.progress import Watch

pytestmark = pytest.mark.usefixtures("engine")


def test_the_score_stands_beside_the_other_features(trained: Path) -> None:
    output = pl.read_parquet(trained / "features.parquet")
    assert output.columns[-1] == "neural_score"
    assert output["neural_score"].dtype == pl.Float32
    about = json.loads(pq.read_schema(trained / "features.parquet").metadata[b"extembed"])
    column = about["columns"][-1]
    assert column["technique"] == "neural"
    assert (
        column["trained_until"]
        == json.loads((trained / "model" / "config.json").read_text())["folds"][0]["trained_until"]
    )
    assert str(trained) not in json.dumps(about)
    assert "models" in about["inputs"]
    report = json.loads((trained / "features.parquet.run.json").read_text())
    assert report["seconds_by_technique"]["neural"] > 0
    assert any("not newer than what a neural model was trained on" in message for message in report["warnings"])
    later = output.filter(pl.col("timestamp") >= pl.lit(until(trained)).str.to_datetime())
    known = later.filter(pl.col("neural_score").is_not_null())
    ranks = known["neural_score"].rank()
    positive = known["label"] == 1
    n = positive.sum()
    assert (ranks.filter(positive).sum() - n * (n + 1) / 2) / (n * (len(known) - n)) > 0.58


def test_a_model_is_an_input_to_verify(trained_copy: Path) -> None:
    scored(trained_copy)
    output = trained_copy / "features.parquet"
    assert extembed("verify", output, "--json").ok().json["inputs"]["models neural_score"] == "unchanged"
    extembed("columns", output, "--names", "--technique", "neural").ok()
    shutil.rmtree(trained_copy / "model")
    assert "model: has no trained model" in extembed("verify", output).ok().err
    extembed("verify", output, "--inputs", "error").failed(1, "model: has no trained model")


def test_rows_without_events_or_item_have_no_score(trained_copy: Path) -> None:
    rows = pl.read_parquet(trained_copy / "candidates.parquet")
    with_null = rows.with_columns(item_id=pl.when(pl.int_range(pl.len()) % 7 == 0).then(None).otherwise("item_id"))
    with_null.write_parquet(trained_copy / "candidates.parquet")
    output = scored(trained_copy)
    seen = (output["liked__count"] + output["disliked__count"]) > 0
    assert (output["neural_score"].is_not_null() == (seen & output["item_id"].is_not_null())).all()


def test_evaluate_leaves_out_rows_that_the_model_has_seen(trained: Path, tmp_path: Path) -> None:
    done = extembed(
        "evaluate", trained / "features.parquet", "--label", "label", "--baseline", "popularity", "--seeds", "1",
        "--resamples", "100", "-o", tmp_path / "report", "--json",
    ).ok()  # fmt: skip
    report = done.json
    assert [rung["step"] for rung in report["ladder"]] == ["baseline", "counters", "aggregate", "neural"]
    rows = pl.read_parquet(trained / "features.parquet")
    moment = json.loads((trained / "model" / "config.json").read_text())["folds"][0]["trained_until"]
    seen = (
        rows["timestamp"] <= pl.Series([moment]).str.to_datetime(time_zone="UTC").dt.replace_time_zone(None)[0]
    ).sum()
    assert report["data"]["left_out"]["that a model may have been trained on"] == seen
    assert report["ladder"][-1]["seconds"] > 0


@pytest.mark.soak
def test_other_columns_and_scores_do_not_depend_on_each_other(trained_copy: Path) -> None:
    """The files of vectors bring all users and all items into the job."""
    train(trained_copy, "--encoder", "mean", "--epochs", "1").ok()
    others = "[[aggregate]]\npercentiles = [50]\n[[dual]]\nunobserved_weight = 0.1\n"
    vectors = GROUP + 'user_vectors = "users.parquet"\nitem_vectors = "items.parquet"\n'
    outputs = {}
    for name, groups in {"both": others + vectors, "others": others, "scores": GROUP}.items():
        write_spec(trained_copy, groups)
        extembed("run", trained_copy / "spec.toml", "-q", "-o", trained_copy / f"{name}.parquet").ok()
        outputs[name] = pl.read_parquet(trained_copy / f"{name}.parquet")
    score = outputs["both"]["neural_score"]
    same_bytes(outputs["both"].drop("neural_score"), outputs["others"])
    assert score.to_numpy().tobytes() == outputs["scores"]["neural_score"].to_numpy().tobytes()


@pytest.mark.soak
@pytest.mark.local
def test_scores_are_the_same_on_any_workers_and_memory(trained: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone.parquet"
    extembed("run", trained / "spec.toml", "-q", "--workers", "1", "-o", alone).ok()
    cut = load_spec(trained / "spec.toml", output=str(tmp_path / "cut.parquet"))
    report = run_job(cut, RunOptions(workers=3, layout=Layout(shards=5, mapped=True)), Watch())
    assert report["shards"] == 5
    assert alone.read_bytes() == (tmp_path / "cut.parquet").read_bytes() == (trained / "features.parquet").read_bytes()


def test_later_events_change_no_byte(trained_copy: Path) -> None:
    """Other items and likes at or after the as-of time, even at the same microsecond, do not change a score."""
    before = scored(trained_copy)
    log = pl.read_parquet(trained_copy / "interactions.parquet")
    middle = log["timestamp"].sort()[len(log) // 2]
    future = pl.col("timestamp") >= middle
    log.with_columns(
        item_id=pl.when(future).then((pl.col("item_id") * 7 + 3) % 600).otherwise("item_id"),
        liked=pl.when(future).then(~pl.col("liked")).otherwise("liked"),
    ).write_parquet(trained_copy / "interactions.parquet")
    after = scored(trained_copy)
    past = before["timestamp"] <= middle
    assert before.filter(past)["neural_score"].equals(after.filter(past)["neural_score"], null_equal=True)
    assert not before.filter(~past)["neural_score"].equals(after.filter(~past)["neural_score"], null_equal=True)


def test_a_table_that_grew_is_accepted(trained_copy: Path) -> None:
    table = pl.read_parquet(trained_copy / "text.parquet")
    more = table.with_columns(item_id=pl.col("item_id") + 10_000, embedding=table["embedding"].shuffle(seed=1))
    pl.concat([more, table]).write_parquet(trained_copy / "text.parquet")
    extembed("run", trained_copy / "spec.toml", "-q").ok()


def test_the_mean_of_unadapted_vectors_gives_cos_to_mean(trained_copy: Path) -> None:
    """With an adapter that changes nothing, it is compared with the column that `run` writes."""
    write_spec(trained_copy, '[[aggregate]]\nhalf_lives = ["7d"]\n')
    table = scored(trained_copy)
    spec = load_spec(trained_copy / "spec.toml")
    loaded = load(open_all(spec, Watch()), Watch(), Layout())
    shared = prepare(spec, loaded.inputs.embeddings, loaded.ids, loaded.vocabulary, map, None)
    model = Model(Architecture(encoder="mean", widths=(16,), histories=2, dim=16, half_lives=1))
    model.adapter.norm = nn.Identity()
    model.adapter.linear.weight.data, model.adapter.linear.bias.data = torch.eye(16), torch.zeros(16)
    model.encoder.log2_half_life.data.fill_(np.log2(7 * 86_400))
    buckets = np.zeros(len(loaded.vocabulary.ids) + 1, np.int64)
    adapted = adapted_items(
        model, lambda nums: item_block([(shared.by_table["text"], True)], buckets, nums), len(buckets)
    )
    shard = loaded.shard(spec, 0)
    seen = build_examples(spec, Reading(["liked", "disliked"], 1000), shard.history, shard.candidates)
    rows = ExampleBatch.of(seen.padded(np.arange(len(seen.rows)), int(seen.lengths.max())))
    with torch.inference_mode():
        means, total = model.encoder.means(adapted[rows.events], rows)
        cosines = functional.cosine_similarity(means[:, :, 0], adapted[rows.candidates][:, None], dim=2)
        cosines = torch.where(total[:, :, 0] > 0, cosines, torch.nan).numpy()
    for place, name in enumerate(("liked", "disliked")):
        expected = table[f"text__{name}__cos_to_mean__hl7d"].to_numpy()[seen.rows]
        np.testing.assert_allclose(cosines[:, place], expected, atol=1e-5)
        assert np.isfinite(expected).sum() > 4_000


def test_user_vector_times_item_vector_is_the_score(trained_copy: Path) -> None:
    train(trained_copy, "--encoder", "gru", "--epochs", "1").ok()
    write_spec(trained_copy, GROUP, 'user_vectors = "users.parquet"\nitem_vectors = "items.parquet"\n')
    newest = pl.read_parquet(trained_copy / "interactions.parquet")["timestamp"].max()
    rows = pl.read_parquet(trained_copy / "candidates.parquet").with_columns(
        timestamp=pl.lit(newest).cast(pl.Datetime("us")) + pl.duration(microseconds=1)
    )
    rows.write_parquet(trained_copy / "candidates.parquet")
    output = scored(trained_copy)
    users, items = pl.read_parquet(trained_copy / "users.parquet"), pl.read_parquet(trained_copy / "items.parquet")
    assert len(items) == 600
    joined = output.join(users, on="user_id", how="left", maintain_order="left").join(
        items, on="item_id", how="left", suffix="_item", maintain_order="left"
    )
    product = (joined["embedding"].to_numpy() * joined["embedding_item"].to_numpy()).sum(1) + joined["bias"].to_numpy()
    np.testing.assert_allclose(product, joined["neural_score"].to_numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.soak
def test_training_can_write_the_vectors_itself(trained_copy: Path) -> None:
    train(
        trained_copy, "--encoder", "mean", "--epochs", "1", "--user-vectors", str(trained_copy / "users.parquet")
    ).ok()
    assert pl.read_parquet(trained_copy / "users.parquet").columns == ["user_id", "embedding", "bias"]
    reads = ("--encoder", "attention", "--epochs", "1")
    train(trained_copy, *reads, "--user-vectors", str(trained_copy / "users.parquet")).failed(2, "reads the candidate")
    write_spec(trained_copy, GROUP, 'user_vectors = "users2.parquet"\n')
    shutil.rmtree(trained_copy / "model")
    train(trained_copy, *reads).ok()
    extembed("run", trained_copy / "spec.toml", "-q").failed(2, "reads the candidate", "--encoder mean, gru")


def test_a_saved_state_needs_no_model_folder(trained_copy: Path, tmp_path: Path) -> None:
    spec = load_spec(trained_copy / "spec.toml")
    loaded = load(open_all(spec, Watch()), Watch(), Layout())
    shared = prepare(spec, loaded.inputs.embeddings, loaded.ids, loaded.vocabulary)
    shared.save(tmp_path / "shared")
    shutil.rmtree(trained_copy / "model")
    opened = Shared.open(spec, shared.columns, tmp_path / "shared")
    assert opened.columns == shared.columns
    here, there = (Job(spec, each, 0).compute(loaded.shard(spec, 0)).features.columns for each in (shared, opened))
    assert here["neural_score"].tobytes() == there["neural_score"].tobytes()


def test_item_vectors_alone_need_no_events(trained_copy: Path) -> None:
    done = train(trained_copy, "--encoder", "mean", "--epochs", "1", "--item-vectors", str(trained_copy / "iv.parquet"))
    assert "interaction" not in done.ok().err
    items = pl.read_parquet(trained_copy / "iv.parquet")
    assert len(items) == len(pl.read_parquet(trained_copy / "text.parquet"))
    write_spec(trained_copy, GROUP + 'item_vectors = "iv.parquet"\n')
    assert "item vectors  " in extembed("run", trained_copy / "spec.toml", "--dry-run").ok().out


def test_explain_says_which_model_read_what(trained_copy: Path) -> None:
    """The scores are those of the run to the byte, also where several models score different times."""
    rows = pl.read_parquet(trained_copy / "candidates.parquet").with_row_index("row")
    newest = int(rows["row"][rows["timestamp"].arg_max()])
    nulls = pl.when(pl.col("row") == newest - 1).then(None).otherwise("item_id")
    rows.with_columns(item_id=nulls).drop("row").write_parquet(trained_copy / "candidates.parquet")
    single = explained(trained_copy / "spec.toml", newest, "neural_score")
    same_as_run(single, scored(trained_copy), newest)
    [column] = single.columns
    assert column.how is not None and "model, trained until 1970-02" in column.how
    assert f"which reads the newest {column.numbers['events']:.0f} event" in column.how
    assert [single.histories[place].history for place in column.histories] == ["liked", "disliked"]
    no_item = explained(trained_copy / "spec.toml", newest - 1, "neural_score").columns[0]
    assert (no_item.value, no_item.how) == (None, "the item is null")

    train(trained_copy, "--folds", "2", "--epochs", "1", "--encoder", "mean", model="folds").ok()
    write_spec(trained_copy, '[[neural]]\nmodel = "folds"\n')
    output, oldest = scored(trained_copy), int(rows["row"][rows["timestamp"].arg_min()])
    for row in (newest, oldest):
        same_as_run(explained(trained_copy / "spec.toml", row), output, row)
    last = explained(trained_copy / "spec.toml", newest).columns[0].how or ""
    assert "the logit of model 2 of 2 in " in last
    user, item = rows["user_id"][newest], rows["item_id"][newest]
    between = json.loads((trained_copy / "folds" / "config.json").read_text())["folds"][0]["trained_until"]
    early = explained(trained_copy / "spec.toml", Given(str(user), str(item), between), "neural_score").columns[0]
    assert early.value is None
    assert early.how is not None and early.how.startswith(("no model of ", "no event of "))
