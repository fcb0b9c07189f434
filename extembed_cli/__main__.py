"""The `extembed` command and `python -m extembed_cli`: signals are ours before anything heavy is imported."""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    from extembed_cli.cli.main import main as run  # noqa: PLC0415

    run()


def _stop(number: int, _frame: FrameType | None) -> NoReturn:
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)  # the second one must not interrupt the tidying of the first
    sys.stderr.write("stopped; an output is only replaced when the new one is complete\n")
    sys.exit(128 + number)


if __name__ == "__main__":
    main()
