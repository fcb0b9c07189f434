"""The `extembed` command and `python -m extembed_cli`; signals are handled before any heavy import."""

from __future__ import annotations

import gc
from typing import NoReturn

from extembed_cli.system import signals


def main() -> NoReturn:
    """Run the command line."""
    signals.handle()
    gc.set_threshold(100_000)  # imports create many objects and no garbage: this saves 5 % of the start
    from extembed_cli.cli.main import main as run  # noqa: PLC0415

    run()


if __name__ == "__main__":
    main()
