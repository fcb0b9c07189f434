"""Damaged Parquet files end a run with a message: never with a traceback, a hang or an abort."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, soak

PATIENCE = 60  # seconds for a case
MOST_MIB = 2048  # of memory, for inputs of a few KiB
EXPECTED = {0, 1, 3}  # a damage may leave a readable file


@pytest.mark.parametrize(("first", "last"), [(0, 15), *(soak(low, low + 250) for low in range(0, 1000, 250))])
def test_damaged_files_end_with_a_message(tmp_path: Path, first: int, last: int) -> None:
    """Cases run in a process of their own, one after another, so that an abort is that of the case it announced."""
    problems, codes = [], Counter[int]()
    while first < last:
        for line in cases(tmp_path, first, last):
            first = line["case"] + 1
            codes[line["code"]] += 1
            if line["code"] not in EXPECTED or "Traceback" in line["error"] or line["peak_mib"] > MOST_MIB:
                problems.append(line)
    assert not problems, "\n".join(map(str, problems))
    assert codes[0] and codes[3], codes


def cases(folder: Path, first: int, last: int) -> list[dict[str, Any]]:
    """Run cases until all are done or the process ends; return how each ended: a signal for an abort or a hang."""
    command = [sys.executable, "-m", "helpers.mutants", str(folder), str(first), str(last)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    ended, running = [], None
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, bufsize=0) as process:
        assert process.stdout is not None
        while select.select([process.stdout], [], [], PATIENCE)[0]:
            text = process.stdout.readline()
            if not text:
                break
            line = json.loads(text)
            running = line["case"]
            if "code" in line:
                ended.append(line)
                running = None
        process.kill()
    if running is not None:
        ended.append({"case": running, "code": process.wait(), "error": "aborted or hung", "peak_mib": 0})
    assert ended, f"nothing ran: {process.returncode}"
    return ended
