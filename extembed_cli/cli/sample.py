"""`extembed sample`: a data set and a spec to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from extembed_cli.cli import console


def sample(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to write; must not hold other files.")],
    seed: Annotated[int, typer.Option(help="Another seed makes another world.")] = 0,
) -> None:
    """Write a small synthetic data set with a planted taste, and a spec that runs on it.

    Example:  extembed sample try && extembed run try/spec.toml
    """
    from extembed_cli.jobs.sample import write_sample

    write_sample(folder, seed)
    console.say(f"{folder}: written. Next: extembed run {folder / 'spec.toml'}")
