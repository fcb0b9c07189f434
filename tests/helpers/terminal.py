"""Runs on a terminal."""

from __future__ import annotations

import os
import pty
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from conftest import EXTEMBED


def on_a_terminal(*arguments: str | Path, env: Mapping[str, str]) -> tuple[int, str, str]:
    """Return exit code, stdout and stderr of a run whose stderr is a terminal."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*EXTEMBED, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**{k: v for k, v in os.environ.items() if k not in {"NO_COLOR", "FORCE_COLOR"}}, **env},
        text=True,
    ) as run:
        os.close(theirs)
        shown = b""
        with suppress(OSError):  # Linux raises it when the other end is closed
            while chunk := os.read(ours, 65_536):
                shown += chunk
        os.close(ours)
        assert run.stdout is not None
        return run.wait(), run.stdout.read(), shown.decode()
