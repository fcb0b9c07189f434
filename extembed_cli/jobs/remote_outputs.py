"""Outputs in S3: a run writes and locks local files that stand in for the objects, and uploads them when it is done."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast

from extembed_cli.data.files.parquet import Table
from extembed_cli.data.outputs.feature_file import check_not_an_input
from extembed_cli.data.outputs.uploads import check_bucket, upload
from extembed_cli.data.shards.scratch import check_own
from extembed_cli.data.stores.filesystems import is_url
from extembed_cli.errors import naming, renamed
from extembed_cli.json_files import with_texts
from extembed_cli.spec.groups import Group
from extembed_cli.spec.model import Spec

T = TypeVar("T")


@dataclass(frozen=True)
class Uploads:
    """The objects that a run writes: URLs by the local paths that stand in for them."""

    urls: dict[str, str]
    inputs: Mapping[str, str]
    """What inputs are called, by paths that stand for them"""

    @property
    def names(self) -> dict[str, str]:
        """What to call local paths that stand for something else."""
        return {**self.inputs, **self.urls}

    def check_not_inputs(self, tables: Iterable[Table]) -> None:
        """Raise if an object is an input."""
        tables = list(tables)
        for url in self.urls.values():
            check_not_an_input(url, tables)

    def named(self, value: T) -> T:
        """Return a report, or a text, with URLs and other names in place of the paths that stand for them."""
        return cast("T", with_texts(value, lambda text: renamed(text, self.names)))

    def put(self, report_path: Callable[[Path], Path]) -> None:
        """Upload all outputs, and after each its run report if it has one."""
        for path, url in self.urls.items():
            upload(Path(path), url)
        for path, url in self.urls.items():
            report = report_path(Path(path))
            if report.exists():
                upload(report, f"{url}.run.json")

    @contextmanager
    def removed(self) -> Iterator[None]:
        """Remove the local files at the end, while they are still locked."""
        try:
            yield
        finally:
            for path in map(Path, self.urls):
                for each in (path, path.with_name(f"{path.name}.run.json")):
                    if each.is_dir():
                        shutil.rmtree(each, ignore_errors=True)
                    else:
                        each.unlink(missing_ok=True)


@contextmanager
def written_locally(spec: Spec, inputs: Mapping[str, str]) -> Iterator[tuple[Spec, Uploads]]:
    """Yield a spec with local outputs, and the objects that they stand for; messages name the objects.

    A local path is told by the URL alone, so that two runs of a machine exclude each other, and a run finds what a
    killed one has left.
    """
    urls = {url: _stand_in(url) for url in spec.outputs if is_url(url)}
    uploads = Uploads({path: url for url, path in urls.items()}, inputs)
    for url in urls:
        check_bucket(url)
    groups = {
        technique: tuple(
            group.model_copy(update={key: urls.get(path, path) for key, path in group.written().items()})
            for group in getattr(spec, technique)
        )
        for technique in Group.known
    }
    output = None if spec.output is None else urls.get(spec.output, spec.output)
    with naming(uploads.names):
        yield (spec.model_copy(update={**groups, "output": output}) if urls else spec), uploads


def _stand_in(url: str) -> str:
    """Return the local path for a URL, in a folder of this user that nobody else can write to."""
    folder = Path(tempfile.gettempdir()) / f"extembed-uploads-{os.getuid()}"
    check_own(folder, "TMPDIR")
    folder.mkdir(mode=0o700, exist_ok=True)
    return str(folder / f"{hashlib.sha256(url.encode()).hexdigest()[:12]}-{url.rstrip('/').rpartition('/')[2]}")
