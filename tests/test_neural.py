"""`extembed neural train` and `[[neural]]` from outside: what is learned from, what is scored, and what is refused."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
import torch
from conftest import EXTEMBED, Ran, extembed
from evaluation_world import TABLES, make_features
from torch import nn
from torch.nn import functional

from extembed_cli.features.prepare import prepare
from extembed_cli.histories.csr import Candidates, History
from extembed_cli.jobs.layout import Layout
from extembed_cli.jobs.options import RunOptions
from extembed_cli.jobs.reading import load, open_all
from extembed_cli.jobs.run import run_job
from extembed_cli.jobs.train import train_job
from extembed_cli.neural.config import Architecture, Layers, TrainingSettings
from extembed_cli.neural.events import examples
from extembed_cli.neural.items import adapted_items, item_block
from extembed_cli.neural.model import Model, Rows
from extembed_cli.spec.loading import build_spec, load_spec
from extembed_cli.system.progress import Watch

GROUP = '[[neural]]\nmodel = "model"\n'
QUICK = ("--epochs", "2", "--max-events", "20", "--dim", "8", "--device", "cpu", "--workers", "1", "-q")


def write_spec(folder: Path, *more: str) -> Path:
    path = folder / "spec.toml"
    path.write_text(TABLES + "\n".join(more))
    return path


def train(folder: Path, *args: str, model: str = "model") -> Ran:
    return extembed(
        "neural", "train", folder / "spec.toml", "--label", "label", "--model", folder / model, *QUICK, *args
    )


def weights(folder: Path, model: str = "model") -> bytes:
    return (folder / model / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Inputs whose vectors matter, and a model trained on the first 45 % of the candidates' time, scored."""
    folder = tmp_path_factory.mktemp("neural")
    make_features(folder, seed=1, signal=3.0, users=200, each=60)
    for made in folder.glob("features*"):
        made.unlink()
    write_spec(folder, "[[aggregate]]\npercentiles = [50]\n" + GROUP)
    train(folder, "--until", until(folder), "--epochs", "12", "--lr", "0.01", "--dim", "16").ok()
    extembed("run", folder / "spec.toml", "-q").ok()
    return folder


def until(folder: Path) -> str:
    moment = pl.read_parquet(folder / "candidates.parquet")["timestamp"].quantile(0.45, "nearest")
    return moment.isoformat()


@pytest.fixture
def copy(world: Path, tmp_path: Path) -> Path:
    """A folder of its own with the inputs and the model."""
    for name in ("interactions.parquet", "candidates.parquet", "text.parquet", "spec.toml"):
        shutil.copy(world / name, tmp_path)
    shutil.copytree(world / "model", tmp_path / "model")
    return tmp_path


def scored(folder: Path, *args: str) -> pl.DataFrame:
    extembed("run", folder / "spec.toml", "-q", *args).ok()
    return pl.read_parquet(folder / "features.parquet")


# --- what comes out ----------------------------------------------------------------------------------


def test_the_folder_has_what_a_model_is(world: Path) -> None:
    assert {path.name for path in (world / "model").iterdir()} == {
        "config.json", "metrics.json", "model.safetensors", "training.html",
    }  # fmt: skip
    config = json.loads((world / "model" / "config.json").read_text())
    times = pl.read_parquet(world / "candidates.parquet")["timestamp"]
    newest = times.filter(times < pl.Series([until(world)]).str.to_datetime()[0]).max()
    assert config["trained_until"] == newest.isoformat() + "+00:00"
    assert list(config["histories"]) == ["liked", "disliked"]
    assert config["tables"]["text"]["dim"] == 16
    rows = config["rows"]
    assert sum(rows.values()) == len(times)
    assert rows["from --until on"] == (times >= pl.Series([until(world)]).str.to_datetime()[0]).sum()
    metrics = json.loads((world / "model" / "metrics.json").read_text())
    assert 0 < len(metrics["epochs"]) <= 12
    assert metrics["valid_auc"] == max(epoch["valid_auc"] for epoch in metrics["epochs"])
    page = (world / "model" / "training.html").read_text()
    assert page.count("<svg") == 2
    assert "<script" not in page


def test_the_score_stands_beside_the_other_features(world: Path) -> None:
    found = pl.read_parquet(world / "features.parquet")
    assert found.columns[-1] == "neural_score"
    assert found["neural_score"].dtype == pl.Float32
    about = json.loads(pq.read_schema(world / "features.parquet").metadata[b"extembed"])
    column = about["columns"][-1]
    assert column["technique"] == "neural"
    assert column["trained_until"] == json.loads((world / "model" / "config.json").read_text())["trained_until"]
    assert str(world) not in json.dumps(about)
    assert "models" in about["inputs"]
    report = json.loads((world / "features.parquet.run.json").read_text())
    assert report["seconds_by_technique"]["neural"] > 0
    assert any("not newer than what a neural model was trained on" in message for message in report["warnings"])
    later = found.filter(pl.col("timestamp") >= pl.lit(until(world)).str.to_datetime())
    known = later.filter(pl.col("neural_score").is_not_null())
    ranks = known["neural_score"].rank()
    positive = known["label"] == 1
    n = positive.sum()
    assert (ranks.filter(positive).sum() - n * (n + 1) / 2) / (n * (len(known) - n)) > 0.58


def test_rows_without_events_or_item_have_no_score(copy: Path) -> None:
    rows = pl.read_parquet(copy / "candidates.parquet")
    with_null = rows.with_columns(item_id=pl.when(pl.int_range(pl.len()) % 7 == 0).then(None).otherwise("item_id"))
    with_null.write_parquet(copy / "candidates.parquet")
    found = scored(copy)
    seen = (found["liked__count"] + found["disliked__count"]) > 0
    assert (found["neural_score"].is_not_null() == (seen & found["item_id"].is_not_null())).all()


def test_evaluate_leaves_out_what_the_model_has_seen(world: Path, tmp_path: Path) -> None:
    done = extembed(
        "evaluate", world / "features.parquet", "--label", "label", "--baseline", "popularity", "--seeds", "1",
        "--resamples", "100", "-o", tmp_path / "report", "--json",
    ).ok()  # fmt: skip
    report = done.json
    assert [rung["step"] for rung in report["ladder"]] == ["baseline", "counters", "aggregate", "neural"]
    rows = pl.read_parquet(world / "features.parquet")
    moment = json.loads((world / "model" / "config.json").read_text())["trained_until"]
    seen = (
        rows["timestamp"] <= pl.Series([moment]).str.to_datetime(time_zone="UTC").dt.replace_time_zone(None)[0]
    ).sum()
    assert report["data"]["left_out"]["that the neural model may have been trained on"] == seen
    assert report["ladder"][-1]["seconds"] > 0


# --- the same bytes ----------------------------------------------------------------------------------


def test_scores_are_the_same_on_any_workers_and_memory(world: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone.parquet"
    extembed("run", world / "spec.toml", "-q", "--workers", "1", "-o", alone).ok()
    cut = load_spec(world / "spec.toml", output=str(tmp_path / "cut.parquet"))
    report = run_job(cut, RunOptions(workers=3, layout=Layout(shards=5, mapped=True)), Watch())
    assert report["shards"] == 5
    assert alone.read_bytes() == (tmp_path / "cut.parquet").read_bytes() == (world / "features.parquet").read_bytes()


@pytest.mark.parametrize("encoder", ["mean", "gru", "attention", "transformer"])
def test_one_seed_makes_one_model_on_any_workers(copy: Path, encoder: str) -> None:
    train(copy, "--encoder", encoder, model="first").ok()
    train(copy, "--encoder", encoder, "--workers", "3", model="second").ok()
    train(copy, "--encoder", encoder, "--seed", "1", "--epochs", "1", model="third").ok()
    assert weights(copy, "first") == weights(copy, "second") != weights(copy, "third")


def test_shards_make_the_same_model(copy: Path) -> None:
    """Batches are drawn from all candidates, whichever shard they are in."""
    spec, settings = load_spec(copy / "spec.toml"), TrainingSettings(label="label", epochs=1, max_events=20)
    for name, cut in {"whole": Layout(), "cut": Layout(shards=5, mapped=True)}.items():
        how = RunOptions(workers=1, layout=cut)
        train_job(spec, settings, Layers(dim=8, id_embedding=True), str(copy / name), how, False, Watch())
    assert weights(copy, "whole") == weights(copy, "cut")


@pytest.mark.parametrize("encoder", ["mean", "gru", "transformer"])
def test_every_encoder_trains_and_scores(copy: Path, encoder: str) -> None:
    train(copy, "--encoder", encoder, "--id-embedding", "--whiten", "--epochs", "1").ok()
    assert scored(copy)["neural_score"].is_finite().sum() > 10_000


def test_requests_can_be_ranked_against_each_other(copy: Path) -> None:
    report = train(copy, "--loss", "softmax", "--group", "request", "--json").ok().json
    assert 0.5 < report["valid_auc"] <= 1


# --- a training that is stopped ----------------------------------------------------------------------


def test_a_stopped_training_goes_on_to_the_same_weights(copy: Path) -> None:
    arguments = ("--epochs", "4", "--batch-size", "16")
    train(copy, *arguments, model="unbroken").ok()
    command = [
        *EXTEMBED, "neural", "train", str(copy / "spec.toml"), "--label", "label", "--model", str(copy / "broken"),
        *QUICK[:-1], *arguments,
    ]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        for line in running.stderr:
            if line.startswith("epoch 1"):
                time.sleep(0.05)
                running.send_signal(signal.SIGINT)
                break
        told = running.stderr.read()
    assert running.returncode == 130, told
    assert "--resume goes on from here" in told
    left = {path.name for path in (copy / "broken").iterdir()}
    assert left == {"checkpoint.safetensors"}
    train(copy, *arguments, "--resume", "--lr", "0.01", model="broken").failed(2, "lr 0.001 then, 0.01 now")
    damaged = bytearray((copy / "broken" / "checkpoint.safetensors").read_bytes())
    (copy / "torn").mkdir()
    damaged[-100] ^= 1
    (copy / "torn" / "checkpoint.safetensors").write_bytes(damaged)
    train(copy, *arguments, "--resume", model="torn").failed(3, "it was changed since it was written")
    whole = (copy / "broken" / "checkpoint.safetensors").read_bytes()
    assert whole.count(b'\\"best\\": ') == 1
    (copy / "torn" / "checkpoint.safetensors").write_bytes(whole.replace(b'\\"best\\": 0', b'\\"best\\": 1'))
    train(copy, *arguments, "--resume", model="torn").failed(3, "it was changed since it was written")
    train(copy, *arguments, "--resume", "--workers", "2", model="broken").ok()
    assert weights(copy, "broken") == weights(copy, "unbroken")
    assert "checkpoint.safetensors" not in {path.name for path in (copy / "broken").iterdir()}


def test_what_is_finished_is_not_trained_again(copy: Path) -> None:
    again = train(copy, "--resume", "--until", until(copy), "--epochs", "12", "--lr", "0.01", "--dim", "16", "--json")
    before = json.loads((copy / "model" / "metrics.json").read_text())
    assert again.ok().json["weights_sha256"] == before["weights_sha256"]
    assert again.json["seconds"] == before["seconds"]
    train(copy, "--resume", "--until", until(copy), "--epochs", "12", "--lr", "0.02", "--dim", "16").failed(
        2, "is finished, of another training (lr 0.01 then, 0.02 now)"
    )
    more = train(copy, "--resume", "--until", until(copy), "--epochs", "1", "--lr", "0.01", "--dim", "16", "--json")
    assert len(more.ok().json["epochs"]) == 1


def test_a_damaged_checkpoint_is_told(copy: Path) -> None:
    (copy / "new").mkdir()
    (copy / "new" / "checkpoint.safetensors").write_bytes(b"torn")
    train(copy, "--resume", model="new").failed(3, "checkpoint.safetensors: cannot be gone on with", "without --resume")


# --- point in time -----------------------------------------------------------------------------------


def test_the_future_changes_no_byte(copy: Path) -> None:
    """Other items and other likes at or after the as-of times, down to the very microsecond, leave scores alone."""
    before = scored(copy)
    log = pl.read_parquet(copy / "interactions.parquet")
    middle = log["timestamp"].sort()[len(log) // 2]
    future = pl.col("timestamp") >= middle
    log.with_columns(
        item_id=pl.when(future).then((pl.col("item_id") * 7 + 3) % 600).otherwise("item_id"),
        liked=pl.when(future).then(~pl.col("liked")).otherwise("liked"),
    ).write_parquet(copy / "interactions.parquet")
    after = scored(copy)
    past = before["timestamp"] <= middle
    assert before.filter(past)["neural_score"].equals(after.filter(past)["neural_score"], null_equal=True)
    assert not before.filter(~past)["neural_score"].equals(after.filter(~past)["neural_score"], null_equal=True)


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
        seen = examples(spec, ["a", "b", "c"], most, history, candidates)
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


def test_what_comes_after_the_training_end_is_not_learned_from(copy: Path) -> None:
    train(copy, "--until", until(copy), model="first").ok()
    rows = pl.read_parquet(copy / "candidates.parquet")
    late = pl.col("timestamp") >= pl.lit(until(copy)).str.to_datetime()
    rows.with_columns(label=pl.when(late).then(1 - pl.col("label")).otherwise("label").cast(pl.Int8)).write_parquet(
        copy / "candidates.parquet"
    )
    train(copy, "--until", until(copy), model="second").ok()
    assert weights(copy, "first") == weights(copy, "second")


def test_a_spec_to_learn_from_needs_no_group(copy: Path) -> None:
    write_spec(copy)
    train(copy, "--epochs", "1", model="new").ok()
    extembed("run", copy / "spec.toml").failed(2, "nothing to compute")


def test_a_table_that_grew_is_the_same(copy: Path) -> None:
    table = pl.read_parquet(copy / "text.parquet")
    more = table.with_columns(item_id=pl.col("item_id") + 10_000, embedding=table["embedding"].shuffle(seed=1))
    pl.concat([more, table]).write_parquet(copy / "text.parquet")
    extembed("run", copy / "spec.toml", "-q").ok()


def test_the_mean_of_unchanged_vectors_is_that_of_the_first_technique(copy: Path) -> None:
    """With an adapter that changes nothing, beside the columns that `run` writes."""
    write_spec(copy, '[[aggregate]]\nhalf_lives = ["7d"]\n')
    table = scored(copy)
    spec = load_spec(copy / "spec.toml")
    loaded = load(open_all(spec, Watch()), Watch(), Layout())
    shared = prepare(spec, loaded.inputs.embeddings, loaded.ids, loaded.vocabulary, map, None)
    model = Model(Architecture(encoder="mean", widths=(16,), histories=2, dim=16, half_lives=1))
    model.adapter.norm = nn.Identity()
    model.adapter.linear.weight.data, model.adapter.linear.bias.data = torch.eye(16), torch.zeros(16)
    model.encoder.log2_half_life.data.fill_(np.log2(7 * 86_400))
    buckets = np.zeros(len(loaded.vocabulary.ids) + 1, np.int64)
    adapted = adapted_items(
        model, lambda nums: item_block([(shared.embeddings["text"], True)], buckets, nums), len(buckets)
    )
    shard = loaded.shard(spec, 0)
    seen = examples(spec, ["liked", "disliked"], 1000, shard.history, shard.candidates)
    rows = Rows.of(seen.padded(np.arange(len(seen.rows)), int(seen.lengths.max())))
    with torch.inference_mode():
        means, total = model.encoder.means(adapted[rows.events], rows)
        cosines = functional.cosine_similarity(means[:, :, 0], adapted[rows.candidates][:, None], dim=2)
        cosines = torch.where(total[:, :, 0] > 0, cosines, torch.nan).numpy()
    for place, name in enumerate(("liked", "disliked")):
        expected = table[f"text__{name}__cos_to_mean__hl7d"].to_numpy()[seen.rows]
        np.testing.assert_allclose(cosines[:, place], expected, atol=1e-5)
        assert np.isfinite(expected).sum() > 10_000


def test_a_leak_in_the_inputs_is_told(copy: Path) -> None:
    loud = ("neural", "train", copy / "spec.toml", "--label", "label", *QUICK[:-1], "--epochs", "1", "--model")
    rows = pl.read_parquet(copy / "candidates.parquet")
    rows.with_columns(pl.col("timestamp") + pl.duration(seconds=1)).write_parquet(copy / "candidates.parquet")
    told = extembed(*loud, copy / "first").ok().err
    assert "12,000 of 12,000 candidates stand in their own visible history" in told
    assert "no candidate is newer than those that are learned from" in told
    log = pl.read_parquet(copy / "interactions.parquet")
    log.with_columns(pl.col("timestamp").cast(pl.Date)).write_parquet(copy / "interactions.parquet")
    assert "has dates without a time of day" in extembed(*loud, copy / "second", "--until", until(copy)).ok().err


# --- vectors -----------------------------------------------------------------------------------------


def test_a_user_times_an_item_is_the_score(copy: Path) -> None:
    train(copy, "--encoder", "gru", "--epochs", "1").ok()
    write_spec(copy, GROUP, 'user_vectors = "users.parquet"\nitem_vectors = "items.parquet"\n')
    newest = pl.read_parquet(copy / "interactions.parquet")["timestamp"].max()
    rows = pl.read_parquet(copy / "candidates.parquet").with_columns(
        timestamp=pl.lit(newest).cast(pl.Datetime("us")) + pl.duration(microseconds=1)
    )
    rows.write_parquet(copy / "candidates.parquet")
    found = scored(copy)
    users, items = pl.read_parquet(copy / "users.parquet"), pl.read_parquet(copy / "items.parquet")
    assert len(items) == 600
    joined = found.join(users, on="user_id", how="left", maintain_order="left").join(
        items, on="item_id", how="left", suffix="_item", maintain_order="left"
    )
    product = (joined["embedding"].to_numpy() * joined["embedding_item"].to_numpy()).sum(1) + joined["bias"].to_numpy()
    np.testing.assert_allclose(product, joined["neural_score"].to_numpy(), rtol=1e-5, atol=1e-6)


def test_training_can_write_the_vectors_itself(copy: Path) -> None:
    train(copy, "--encoder", "mean", "--epochs", "1", "--user-vectors", str(copy / "users.parquet")).ok()
    assert pl.read_parquet(copy / "users.parquet").columns == ["user_id", "embedding", "bias"]
    train(copy, "--user-vectors", str(copy / "users.parquet")).failed(2, "reads the candidate")
    write_spec(copy, GROUP, 'user_vectors = "users2.parquet"\n')
    shutil.rmtree(copy / "model")
    train(copy, "--epochs", "1").ok()
    extembed("run", copy / "spec.toml", "-q").failed(2, "reads the candidate", "--encoder mean, gru")


# --- what is refused ---------------------------------------------------------------------------------


def alter(name: str, change: Callable[[dict[str, object]], None]) -> Callable[[Path], None]:
    def altered(folder: Path) -> None:
        path = folder / "model" / name
        data = json.loads(path.read_text())
        change(data)
        path.write_text(json.dumps(data))

    return altered


def flip(folder: Path) -> None:
    path = folder / "model" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


def encoded_anew(folder: Path) -> None:
    table = pl.read_parquet(folder / "text.parquet")
    vectors = np.random.default_rng(7).standard_normal((len(table), 16)).astype(np.float32)
    table.with_columns(pl.Series("embedding", vectors)).write_parquet(folder / "text.parquet")


def shuffled(folder: Path) -> None:
    table = pl.read_parquet(folder / "text.parquet")
    table.with_columns(pl.col("embedding").shuffle(seed=3)).write_parquet(folder / "text.parquet")


def shorter(folder: Path) -> None:
    table = pl.read_parquet(folder / "text.parquet")
    vectors = pl.Series("embedding", table["embedding"].to_numpy()[:, :8])
    table.with_columns(vectors).write_parquet(folder / "text.parquet")


def spec_with(old: str, new: str) -> Callable[[Path], None]:
    def changed(folder: Path) -> None:
        path = folder / "spec.toml"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return changed


REFUSED: dict[str, tuple[Callable[[Path], None], int, tuple[str, ...]]] = {
    "no folder": (lambda f: shutil.rmtree(f / "model"), 3, ("no trained model", "neural train")),
    "config that was edited": (
        alter("config.json", lambda c: c.update(trained_until="1970-01-01T00:00:00+00:00")),
        3,
        ("config.json: was changed",),
    ),
    "config that is none": (
        lambda f: (f / "model" / "config.json").write_text("{}") and None,
        3,
        ("config.json: cannot be read",),
    ),
    "a flipped bit": (flip, 3, ("model.safetensors: is not the file",)),
    "no weights": (
        lambda f: (f / "model" / "model.safetensors").unlink(),
        3,
        ("model.safetensors: is not the file", "is missing"),
    ),
    "other length of vectors": (shorter, 2, ("vectors of length 16 in `text`, which has 8",)),
    "other vectors": (encoded_anew, 2, ("`text` has other vectors than the model was trained on",)),
    "shuffled vectors": (shuffled, 2, ("`text` has other vectors than the model was trained on",)),
    "other table": (spec_with("[embeddings.text]", "[embeddings.words]"), 2, ("`text`, which the spec does not have",)),
    "other history": (spec_with('where = "liked"', 'where = "liked OR TRUE"'), 2, ("histories.liked =",)),
    "no such history": (spec_with("[histories.disliked]", "[histories.hated]"), 2, ("the history `disliked`",)),
    "other lag": (spec_with("candidates =", 'lag = "1d"\ncandidates ='), 2, ("lag = 0s, not 1d",)),
    "centred": (spec_with('path = "text.parquet"', 'path = "text.parquet"\ncenter = true'), 2, ("center = false",)),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_model_that_does_not_fit_is_told(copy: Path, case: str) -> None:
    change, code, told = REFUSED[case]
    change(copy)
    extembed("run", copy / "spec.toml", "-q").failed(code, *told)
    assert not (copy / "features.parquet").exists()


@pytest.mark.parametrize(
    ("args", "code", "told"),
    [
        (("--encoder", "lstm"), 2, "'lstm' is not one of"),
        (("--loss", "hinge"), 2, "'hinge' is not one of"),
        (("--dim", "6"), 2, "multiple of 4"),
        (("--loss", "softmax"), 2, "--loss softmax: needs --group"),
        (("--until", "soon"), 2, "--until"),
        (("--until", "1960-01-01"), 1, "12,000 from --until on"),
        (("--encoder", "mean", "--user-vectors", "/dev/null/users.parquet"), 2, "the folder cannot be made"),
        (("--group", "requst"), 2, "did you mean `request`?"),
        (("--lr", "0"), 2, "--lr"),
        (("--seed", "9" * 20), 2, "--seed"),
        (("--encoder", "gru", "--user-vectors", "users.csv"), 2, "end in .parquet"),
        (("--device", "warp"), 2, "--device warp"),
        (("--set", 'as_of="2030-01-01"'), 2, "as_of"),
        (("--memory", "390MiB"), 5, "--memory"),
        (("--memory", "600MiB", "--dim", "4096"), 5, "64 candidates with 20 events"),
        (("--encoder", "attention", "--no-candidate"), 2, "--no-candidate: attention"),
        (("--device", "meta"), 2, "trained on cpu or cuda"),
    ],
)
def test_what_cannot_be_trained_is_told(copy: Path, args: tuple[str, ...], code: int, told: str) -> None:
    train(copy, *args, model="new").failed(code, told)
    assert not (copy / "new").exists()


def test_labels_are_checked(copy: Path) -> None:
    arguments = ("neural", "train", copy / "spec.toml", "--model", copy / "new", *QUICK)
    extembed(*arguments, "--label", "labl").failed(2, "did you mean `label`?", "--label")
    extembed(*arguments, "--label", "popularity").failed(1, "0 or 1")


def test_a_folder_with_other_things_is_not_written_to(copy: Path) -> None:
    (copy / "new").mkdir()
    (copy / "new" / "model.py").touch()
    train(copy, model="new").failed(2, "holds something else (model.py)")


def test_a_model_of_another_library_is_not_written_over(copy: Path) -> None:
    (copy / "other").mkdir()
    (copy / "other" / "config.json").write_text('{"architectures": ["BertModel"]}')
    (copy / "other" / "model.safetensors").write_bytes(b"theirs")
    train(copy, model="other").failed(2, "holds something else (config.json")
    (copy / "other" / "config.json").unlink()
    train(copy, model="other").failed(2, "holds something else (model.safetensors)")
    assert weights(copy, "other") == b"theirs"


def test_a_spec_of_vectors_alone_is_checked_too(copy: Path) -> None:
    train(copy, "--encoder", "mean", "--epochs", "1").ok()
    text = TABLES.replace('candidates = "candidates.parquet"', "").replace('output = "features.parquet"', "")
    (copy / "spec.toml").write_text(text + GROUP + 'user_vectors = "users.parquet"\n')
    extembed("check", copy / "spec.toml").ok()
    planned = extembed("run", copy / "spec.toml", "--dry-run", "--json").ok().json
    assert planned["user_vectors"] == [str(copy / "users.parquet")]
    (copy / "spec.toml").write_text(
        text.replace("embeddings.text", "embeddings.words") + GROUP + 'user_vectors = "u.parquet"'
    )
    extembed("check", copy / "spec.toml").failed(2, "`text`, which the spec does not have")


def test_the_extra_is_named_where_it_is_missing(copy: Path) -> None:
    hide = "import sys; sys.modules['torch'] = None; from extembed_cli.__main__ import main; main()"

    def without_torch(*args: str | Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", hide, *map(str, args)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

    for args in (
        ("run", copy / "spec.toml"),
        ("neural", "train", copy / "spec.toml", "--label", "label", "--model", copy / "new"),
    ):
        done = without_torch(*args)
        assert done.returncode == 2
        assert done.stderr == "extembed: error: neural models need torch: pip install 'extembed[neural]'\n"
    assert without_torch("columns", copy / "spec.toml").returncode == 0
    write_spec(copy, "[[aggregate]]\n")
    assert without_torch("run", copy / "spec.toml", "-q").returncode == 0
