"""Compare the outputs of a run with what its report says of them, and its inputs with what they were."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from extembed_cli.data.files.commit import file_digest
from extembed_cli.data.files.whole import WholeFile, read_whole
from extembed_cli.data.paths.directories import MANIFEST, listed, parts_among
from extembed_cli.data.paths.resolving import file_state
from extembed_cli.errors import DataError, ExtembedError, InputError, Problems, counted, listing
from extembed_cli.jobs.run_files import RunFile, RunFiles, run_files
from extembed_cli.jobs.sources import NOT_COMPARED, changes
from extembed_cli.system.progress import Watch

_OTHER_BYTES = "has other bytes than its run wrote: it was changed or damaged since. Run again"


def verify_run(
    output: Path, report: Path | None, inputs: Literal["warn", "error", "skip"], watch: Watch
) -> dict[str, Any]:
    """Return a report on all files of the run that wrote an output; raise all problems together. Writes nothing.

    `report` is the run report, beside the output unless given. An input that has changed since the run is a warning, an
    error, or not looked at.
    """
    run = run_files(output, report)
    verification = _Verification(output, run, watch)
    with _undisturbed(output, run), watch.timing("files"):
        rows = sum(file.rows for file in run.files)
        watch.expect(rows)
        watch.total(rows)
        verification.check()
    changed: dict[str, str | None] = {}
    if inputs != "skip":
        with watch.timing("inputs"):
            changed = dict(changes(run.report["input_paths"], run.report["digests"]))
    for change in changed.values():
        if change in (None, NOT_COMPARED):
            continue
        if inputs == "error":
            verification.problems.errors.append(DataError(change))
        else:
            watch.warning(change)
    verification.problems.raise_any()
    return {
        "output": str(output),
        "report": str(run.report_path),
        "started": run.report["started"],
        "files": [{**file._asdict(), "path": str(file.path)} for file in verification.whole],
        "inputs": {label: change or "unchanged" for label, change in changed.items()},
        "warnings": watch.warnings,
    }


@contextmanager
def _undisturbed(output: Path, run: RunFiles) -> Iterator[None]:
    """Raise one error if a run replaces files while they are read, instead of problems with halves of two runs."""

    def states() -> list[Any]:
        return [file_state(path) if path.exists() else None for path in paths]

    paths = [run.report_path, *(file.path / MANIFEST if file.path.is_dir() else file.path for file in run.files)]
    before = states()
    try:
        yield
    except (ExtembedError, OSError):
        if states() == before:
            raise
    if states() != before:
        raise DataError(f"{output}: was replaced while it was read. Verify it again when no run is writing it")


class _Verification:
    """The files of one run that were found whole, and the problems with the others."""

    def __init__(self, output: Path, run: RunFiles, watch: Watch) -> None:
        self.output, self.run, self.watch = output, run, watch
        self.problems = Problems()
        self.whole: list[RunFile] = []
        self.reported = _run_of(run.report, "digests")
        self.others: dict[str, list[Path]] = {}
        """Files of other runs than the report, by run"""

    def check(self) -> None:
        """Read all files of the run."""
        for file in self.run.files:
            if self.run.copied and file.path != self.output and not file.path.exists():
                self.watch.note(f"{file.path}: is not there; the run wrote it, and it was not copied")
                continue
            with self.problems.collect():
                run = self._check_directory(file) if file.path.is_dir() else self._check_file(file)
                if run == self.reported:
                    self.whole.append(file)
                else:
                    self.others.setdefault(run, []).append(file.path)
        if self.others:
            ours = [self.run.report_path, *(file.path for file in self.whole)]
            runs = enumerate([ours, *self.others.values()], 1)
            told = "; ".join(f"({number}) {listing(paths)}" for number, paths in runs)
            hint = "A run was killed between renaming them, or another run wrote some of them. Run again"
            first = self.run.files[0].path
            self.problems.errors.append(DataError(f"{first}: not all files are of one run: {told}. {hint}"))

    def _check_file(self, file: RunFile) -> str:
        """Return the run that wrote a file; raise if it is damaged, or is not as the reported run wrote it."""
        found = self._read(file)
        run = self.reported if found.about is None else _run_of(found.about, "inputs")
        if run == self.reported:
            _compare(found, file)
        return run

    def _check_directory(self, directory: RunFile) -> str:
        """Return the run that wrote a directory; raise if its parts are not as the manifest lists them."""
        manifest, problems, run = directory.path / MANIFEST, Problems(), self.reported
        try:
            parts = listed(str(manifest), manifest.read_bytes())
        except OSError as error:
            raise DataError(f"{manifest}: cannot be read: {error.strerror}") from None
        except InputError as error:
            raise DataError(*error.args) from None
        for part in parts:
            file = RunFile(directory.path / part.file, part.rows, part.sha256)
            with problems.collect():
                found = self._read(file)
                _compare(found, file)
                run = self.reported if found.about is None else _run_of(found.about, "inputs")
        strays = parts_among(path.relative_to(directory.path) for path in directory.path.rglob("*"))
        strays = [path for path in strays if str(path) not in {part.file for part in parts}]
        if strays:
            readers = "readers that go by the folder's name would read them too. Remove them"
            problems.errors.append(DataError(f"{directory.path}: has other parts, {listing(strays)}: {readers}"))
        unlisted = {path.name for path in directory.path.iterdir()} - {part.file for part in parts} - {MANIFEST}
        unlisted -= {path.parts[0] for path in strays}
        if unlisted:
            self.watch.note(f"{directory.path}: other files, which are no parts: {listing(sorted(unlisted))}")
        if run == self.reported and file_digest(manifest) != directory.sha256:
            problems.errors.append(DataError(f"{manifest}: {_OTHER_BYTES}"))
        problems.raise_any()
        return run

    def _read(self, file: RunFile) -> WholeFile:
        if not file.path.exists():
            raise DataError(f"{file.path}: is missing, but its run wrote it. Run again")
        found = read_whole(file.path, lambda rows: self.watch.moved(rows, rows))
        if found.damage is not None:
            raise DataError(found.damage)
        return found


def _compare(found: WholeFile, written: RunFile) -> None:
    """Raise if a file is not as its run wrote it."""
    if found.sha256 != written.sha256:
        raise DataError(f"{written.path}: {_OTHER_BYTES}")
    if found.rows != written.rows:
        rows = counted(found.rows, "row")
        raise DataError(f"{written.path}: has {rows}, but its run wrote {written.rows:,}. Run again")


def _run_of(about: dict[str, Any], inputs: str) -> str:
    """Return what a run computed from what, as a text to compare; `inputs` is the key with their digests."""
    return json.dumps([about.get("version"), about.get("spec"), about.get(inputs)], sort_keys=True)
