"""A stopped training resumes to the same weights, and a finished one is not repeated."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import Ran
from helpers.faults import Fault, drive
from helpers.neural import LEARNED, train, train_command, until, weights


@pytest.mark.soak
def test_a_stopped_training_resumes_to_the_same_weights(trained_copy: Path) -> None:
    arguments = ("--epochs", "3", "--encoder", "mean")
    train(trained_copy, *arguments, model="unbroken").ok()
    # An epoch has 17 steps, so that the signal comes in the second one.
    stop = Fault("extembed_cli.neural.training.trainer:Trainer._step", "after", 25, do="SIGINT")
    command = train_command(trained_copy, *arguments, "-v", model="broken")
    with drive(*(part for part in command if part != "-q"), faults=(stop,)) as run:
        log = run.end().failed(130).err
    assert "--resume continues from here" in log
    left = {path.name for path in (trained_copy / "broken").iterdir()}
    assert left == {"checkpoint.safetensors"}
    train(trained_copy, *arguments, "--resume", "--lr", "0.01", model="broken").failed(2, "lr 0.001 before, 0.01 now")
    damaged = bytearray((trained_copy / "broken" / "checkpoint.safetensors").read_bytes())
    (trained_copy / "torn").mkdir()
    damaged[-100] ^= 1
    (trained_copy / "torn" / "checkpoint.safetensors").write_bytes(damaged)
    train(trained_copy, *arguments, "--resume", model="torn").failed(3, "it was changed after it was written")
    whole = (trained_copy / "broken" / "checkpoint.safetensors").read_bytes()
    assert whole.count(b'\\"best\\": ') == 1
    (trained_copy / "torn" / "checkpoint.safetensors").write_bytes(whole.replace(b'\\"best\\": 0', b'\\"best\\": 1'))
    train(trained_copy, *arguments, "--resume", model="torn").failed(3, "it was changed after it was written")
    train(trained_copy, *arguments, "--resume", "--workers", "2", model="broken").ok()
    assert weights(trained_copy, "broken") == weights(trained_copy, "unbroken")
    assert "checkpoint.safetensors" not in {path.name for path in (trained_copy / "broken").iterdir()}


def test_a_finished_training_is_not_repeated(trained_copy: Path) -> None:
    def resumed(*args: str) -> Ran:
        return train(trained_copy, "--resume", "--until", until(trained_copy), *LEARNED, *args)

    before = json.loads((trained_copy / "model" / "metrics.json").read_text())
    again = resumed("--json").ok().json
    assert again["weights_sha256"] == before["weights_sha256"]
    assert again["seconds"] == before["seconds"]
    resumed("--lr", "0.02").failed(2, "belongs to another training (lr 0.01 before, 0.02 now)")
    assert len(resumed("--epochs", "1", "--json").ok().json["folds"][0]["epochs"]) == 1


def test_a_damaged_checkpoint_is_refused(trained_copy: Path) -> None:
    (trained_copy / "new").mkdir()
    (trained_copy / "new" / "checkpoint.safetensors").write_bytes(b"torn")
    train(trained_copy, "--resume", model="new").failed(
        3, "checkpoint.safetensors: cannot be resumed", "without --resume"
    )
