"""Files that the driver makes and tasks read: Spark copies them to each executor once, and its workers map them.

An archive cannot be taken back from a Spark application: each executor that starts later fetches it, too. So its file
stays until this process ends, and is empty once the job is done.
"""

from __future__ import annotations

import atexit
import shutil
import tarfile
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

if TYPE_CHECKING:
    from pyspark import SparkContext


_ARCHIVES: dict[str, Path] = {}
"""By the names that `shipped` takes"""


def ship(context: SparkContext, folder: Path, parent: Path | None) -> str:
    """Send a folder to all executors, and remove it here; return the name that `shipped` takes.

    The archive is in `parent`, or the temporary folder.
    """
    name = f"extembed-{uuid4().hex}"
    archive = _ARCHIVES[name] = _folder(parent) / f"{name}.tar"
    with tarfile.open(archive, "w") as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, path.name)
    shutil.rmtree(folder)
    context.addArchive(f"{archive}#{name}")
    return name


def empty(name: str) -> None:
    """Drop the content of what was shipped, which no task needs any more."""
    with tarfile.open(_ARCHIVES[name], "w"):
        pass


def shipped(name: str) -> Path:
    """Return the folder on this executor."""
    from pyspark import SparkFiles

    return Path(SparkFiles.get(name))


@cache
def _folder(parent: Path | None) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="extembed-spark-", dir=parent)).absolute()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
