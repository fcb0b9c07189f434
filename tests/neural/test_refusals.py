"""Models that do not fit the inputs, impossible trainings, and folders with other files are refused."""

from __future__ import annotations

import hashlib
import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from conftest import extembed
from helpers.evaluation import TABLES
from helpers.neural import GROUP, QUICK, train, weights, write_spec


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
        alter("config.json", lambda c: c["folds"][0].update(trained_until="1970-01-01T00:00:00+00:00")),
        3,
        ("config.json: was changed",),
    ),
    "config that is none": (
        lambda f: (f / "model" / "config.json").write_text("{}") and None,
        3,
        ("config.json: is not a readable config",),
    ),
    "a flipped bit": (flip, 3, ("model.safetensors: is not the file",)),
    "no weights": (
        lambda f: (f / "model" / "model.safetensors").unlink(),
        3,
        ("model.safetensors: is not the file", "is missing"),
    ),
    "other length of vectors": (shorter, 2, ("vectors of length 16 in `text`, which has length 8",)),
    "other vectors": (encoded_anew, 2, ("`text` has other vectors than the model was trained on",)),
    "shuffled vectors": (shuffled, 2, ("`text` has other vectors than the model was trained on",)),
    "other table": (spec_with("[embeddings.text]", "[embeddings.words]"), 2, ("`text`, which the spec does not have",)),
    "other history": (spec_with('where = "liked"', 'where = "liked OR TRUE"'), 2, ("histories.liked =",)),
    "no such history": (spec_with("[histories.disliked]", "[histories.hated]"), 2, ("the history `disliked`",)),
    "other lag": (spec_with("candidates =", 'lag = "1d"\ncandidates ='), 2, ("lag = 0s, not 1d",)),
    "centred": (spec_with('path = "text.parquet"', 'path = "text.parquet"\ncenter = true'), 2, ("center = false",)),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_model_that_does_not_fit_is_refused(trained_copy: Path, case: str) -> None:
    change, code, parts = REFUSED[case]
    change(trained_copy)
    extembed("run", trained_copy / "spec.toml", "-q").failed(code, *parts)
    assert not (trained_copy / "features.parquet").exists()


@pytest.mark.parametrize(
    ("args", "code", "part"),
    [
        (("--encoder", "lstm"), 2, "'lstm' is not one of"),
        (("--loss", "hinge"), 2, "'hinge' is not one of"),
        (("--dim", "6"), 2, "multiple of 4"),
        (("--loss", "softmax"), 2, "--loss softmax: needs --group"),
        (("--until", "soon"), 2, "--until"),
        (("--until", "1960-01-01"), 1, "5,000 from --until on"),
        (("--encoder", "mean", "--user-vectors", "/dev/null/users.parquet"), 2, "its folder cannot be created"),
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
def test_impossible_trainings_are_refused(trained_copy: Path, args: tuple[str, ...], code: int, part: str) -> None:
    train(trained_copy, *args, model="new").failed(code, part)
    assert not (trained_copy / "new").exists()


def test_labels_are_checked(trained_copy: Path) -> None:
    arguments = ("neural", "train", trained_copy / "spec.toml", "--model", trained_copy / "new", *QUICK)
    extembed(*arguments, "--label", "labl").failed(2, "did you mean `label`?", "--label")
    extembed(*arguments, "--label", "popularity").failed(1, "0 or 1")


def test_a_folder_with_other_things_is_not_written_to(trained_copy: Path) -> None:
    (trained_copy / "new").mkdir()
    (trained_copy / "new" / "model.py").touch()
    train(trained_copy, model="new").failed(2, "has other files (model.py)")


def test_a_model_of_another_library_is_not_written_over(trained_copy: Path) -> None:
    (trained_copy / "other").mkdir()
    (trained_copy / "other" / "config.json").write_text('{"architectures": ["BertModel"]}')
    (trained_copy / "other" / "model.safetensors").write_bytes(b"theirs")
    train(trained_copy, model="other").failed(2, "has other files (config.json")
    (trained_copy / "other" / "config.json").unlink()
    train(trained_copy, model="other").failed(2, "has other files (model.safetensors)")
    assert weights(trained_copy, "other") == b"theirs"


def test_a_spec_of_vectors_alone_is_checked_too(trained_copy: Path) -> None:
    train(trained_copy, "--encoder", "mean", "--epochs", "1").ok()
    text = TABLES.replace('candidates = "candidates.parquet"', "").replace('output = "features.parquet"', "")
    (trained_copy / "spec.toml").write_text(text + GROUP + 'user_vectors = "users.parquet"\n')
    extembed("check", trained_copy / "spec.toml").ok()
    planned = extembed("run", trained_copy / "spec.toml", "--dry-run", "--json").ok().json
    assert planned["user_vectors"] == [str(trained_copy / "users.parquet")]
    (trained_copy / "spec.toml").write_text(
        text.replace("embeddings.text", "embeddings.words") + GROUP + 'user_vectors = "u.parquet"'
    )
    extembed("check", trained_copy / "spec.toml").failed(2, "`text`, which the spec does not have")


def test_the_extra_is_named_where_it_is_missing(trained_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # imports fail as if it were not installed
    needs = "extembed: error: neural models need torch: pip install torch (extra `neural`)\n"
    assert extembed("run", trained_copy / "spec.toml").failed(2).err == needs
    assert train(trained_copy, model="new").failed(2).err == needs


@pytest.mark.soak
def test_the_extra_is_not_needed_where_there_is_no_model_to_run(trained_copy: Path) -> None:
    hide = "import sys; sys.modules['torch'] = None; from extembed_cli.__main__ import main; main()"

    def without_torch(*args: str | Path) -> int:
        command = [sys.executable, "-c", hide, *map(str, args)]
        return subprocess.run(command, capture_output=True, check=False, timeout=120).returncode

    assert without_torch("columns", trained_copy / "spec.toml") == 0
    write_spec(trained_copy, "[[aggregate]]\n")
    assert without_torch("run", trained_copy / "spec.toml", "-q") == 0


@pytest.mark.parametrize("sizes", [{"dim": 40_000}, {"heads": 10**9}, {"layers": 10**9}, {"widths": [10**8]}], ids=str)
def test_a_config_that_lies_about_sizes_takes_no_memory(trained_copy: Path, sizes: dict[str, object]) -> None:
    """A folder from elsewhere: its checksum fits, its weights do not."""
    path = trained_copy / "model" / "config.json"
    config = json.loads(path.read_text())
    config["architecture"].update(sizes)
    del config["checksum"]
    config["checksum"] = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps(config))
    write_spec(trained_copy, GROUP)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    done = extembed("run", trained_copy / "spec.toml")
    assert done.code in {2, 3, 5}, done.err
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400 * 1024
