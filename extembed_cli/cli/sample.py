"""`extembed sample`: write a data set and a spec to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from extembed_cli.cli import console
from extembed_cli.cli.expand import expand


@expand
def sample(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write to; it must not have other files.")],
    seed: Annotated[int, typer.Option(help="Random seed of the data set.")] = 0,
) -> None:
    """Write a sample data set and its spec.

    The data set is small and synthetic; its users have planted tastes.

    Example:  extembed sample try && extembed run try/spec.toml
    """
    from extembed_cli.jobs.sample import write_sample

    write_sample(folder, seed)
    console.say(f"{folder}: written. Next: extembed run {folder / 'spec.toml'}")
