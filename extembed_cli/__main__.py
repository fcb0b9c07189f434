"""The `extembed` command and `python -m extembed_cli`: signals are ours before anything heavy is imported."""

from __future__ import annotations

from typing import NoReturn

from extembed_cli import signals


def main() -> NoReturn:
    """Run the command line."""
    signals.handle()
    from extembed_cli.cli.main import main as run  # noqa: PLC0415

    run()


if __name__ == "__main__":
    main()
