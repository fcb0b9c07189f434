"""Files that the driver makes and tasks read: Spark copies them to each executor once, and its workers map them."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

if TYPE_CHECKING:
    from pyspark import SparkContext


def ship(context: SparkContext, folder: Path) -> str:
    """Send a folder to all executors; return the name that `shipped` takes. Removes the folder."""
    name = f"extembed-{uuid4().hex}"
    archive = folder.with_name(f"{name}.tar")
    with tarfile.open(archive, "w") as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, path.name)
    shutil.rmtree(folder)
    context.addArchive(f"{archive}#{name}")
    return name


def shipped(name: str) -> Path:
    """Return the folder on this executor."""
    from pyspark import SparkFiles  # noqa: PLC0415  slow to import

    return Path(SparkFiles.get(name))
