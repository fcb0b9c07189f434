"""Measure whole processes: wall and CPU seconds, and peak memory."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

_SLOW = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")  # some machines set them, which slows numpy


class Cost(NamedTuple):
    """The cost of a process."""

    wall: float
    cpu: float
    peak_mib: float
    """Largest resident memory of one process, pages of mapped files included."""
    anonymous_mib: float
    """Largest anonymous memory (`RssAnon`) of the process and its children together, sampled every 5 ms."""

    def __str__(self) -> str:
        return f"{self.wall:.2f} s wall, {self.cpu:.2f} s CPU, {self.anonymous_mib:,.0f} MiB anonymous"


def measure(command: Sequence[str], env: Mapping[str, str] | None = None) -> Cost:
    """Run one process and return its cost."""
    ours = {name: value for name, value in os.environ.items() if name not in _SLOW}
    began = time.perf_counter()
    process = subprocess.Popen(command, env={**ours, **(env or {})})
    anonymous = 0
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        anonymous = max(anonymous, sum(map(_anonymous_kib, _family(process.pid))))
        time.sleep(0.005)
    process.returncode = os.waitstatus_to_exitcode(status)  # os.wait4 has reaped it already
    if status:
        raise SystemExit(f"{command} failed")
    wall = time.perf_counter() - began
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, anonymous / 1024)


def median(costs: Sequence[Cost]) -> Cost:
    """Return the median of each figure."""
    return Cost(*(statistics.median(column) for column in zip(*costs, strict=True)))


def in_turn(commands: Mapping[str, Sequence[str]], runs: int) -> dict[str, list[Cost]]:
    """Measure all commands in turn, so that a slower machine slows all of them; a first round is not counted."""
    for command in commands.values():
        measure(command)
    costs: dict[str, list[Cost]] = {name: [] for name in commands}
    for _ in range(runs):
        for name, command in commands.items():
            costs[name].append(measure(command))
    return costs


def ratio(costs: Sequence[Cost], base: Sequence[Cost]) -> float:
    """Return the median over the rounds of the ratio of wall seconds to those of `base`."""
    return statistics.median(a.wall / b.wall for a, b in zip(costs, base, strict=True))


def _family(pid: int) -> list[int]:
    """Return the process and all its descendants."""
    pids = [pid]
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text(encoding="ascii").split():
                pids += _family(int(child))
    except OSError:  # the process has ended
        pass
    return pids


def _anonymous_kib(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/status").read_text(encoding="ascii").partition("RssAnon:")[2].split()[0])
    except (OSError, IndexError):
        return 0
