"""The `extembed` command and `python -m extembed_cli`; signals are handled before any heavy import."""

from __future__ import annotations

import gc
import io
import sys
from typing import NoReturn

from extembed_cli.system import signals


def main() -> NoReturn:
    """Run the command line."""
    signals.handle()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a locale may not have the characters of ids, paths and formulas
            stream.reconfigure(errors="backslashreplace")
    gc.set_threshold(100_000)  # imports create many objects and no garbage: this saves 5 % of the start
    from extembed_cli.cli.main import main as run  # noqa: PLC0415

    run()


if __name__ == "__main__":
    main()
