"""The files of a finished run: its report, and where its features and vectors are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from extembed_cli.data.files.commit import real
from extembed_cli.data.files.sealed import read_sealed
from extembed_cli.errors import DataError, InputError
from extembed_cli.jobs.report import report_path
from extembed_cli.json_files import parsed

_VECTORS = ("user_vectors", "item_vectors", "all_vectors")
_KEYS = {"version", "spec", "digests", "input_paths", "started", "output", *_VECTORS}


class RunFile(NamedTuple):
    """Features or vectors that a run wrote."""

    path: Path
    rows: int
    sha256: str
    """Of the file, or of the manifest of a directory"""


class RunFiles(NamedTuple):
    """What a run wrote."""

    report_path: Path
    report: dict[str, Any]
    files: list[RunFile]
    """The features first"""
    copied: bool
    """Whether they are not where the run wrote them, and some may have been left there"""


def run_files(output: Path, report: Path | None) -> RunFiles:
    """Return the files of the run that wrote an output; raise if its report is missing or damaged.

    The files are where the run wrote them or, if the output was copied, beside it.
    """
    output = output if output.name not in {"", ".."} else real(output)
    if not output.name:
        raise InputError(f"{output}: is no output of a run")
    found = _given(report) if report is not None else _found(output)
    about = read_sealed(found)
    if not about.keys() >= _KEYS:
        raise DataError(f"{found}: is not a run report of this version. Run again")
    written = list(_written(about))
    in_place = real(output) in [real(file.path) for file in written]
    if in_place:
        placed = [file._replace(path=output) if real(file.path) == real(output) else file for file in written]
    else:
        placed = [file._replace(path=output.with_name(file.path.name)) for file in written]
        if output not in [file.path for file in placed]:  # a copy by another name
            placed[0] = placed[0]._replace(path=output)
    return RunFiles(found, about, placed, not in_place)


def _given(report: Path) -> Path:
    if not report.is_file():
        raise InputError(f"--report {report}: is no file; a run writes OUT.run.json beside its first output")
    return report


def _found(output: Path) -> Path:
    """Return the newest report of a run that wrote the output: beside it, or beside the target of a link."""
    own = [report for report in map(report_path, (output, real(output))) if report.is_file()]
    others = [report for report in real(output).parent.glob("*.run.json") if _lists(report, output)]
    if own or others:
        return max([*own, *others], key=lambda report: report.stat().st_mtime_ns)
    if not output.exists():
        raise InputError(f"{output}: no such file or directory")
    raise DataError(
        f"{output}: has no run report {report_path(output).name} beside it: it was moved, or a run was killed before "
        "it wrote one. Run again, or name it with --report PATH"
    )


def _lists(report: Path, output: Path) -> bool:
    """Whether a run report lists the output."""
    try:
        about = parsed(report.read_bytes())
        return real(output) in [real(file.path) for file in _written(about)]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _written(report: dict[str, Any]) -> Iterator[RunFile]:
    """Yield the files that a run report lists, where the run wrote them."""
    if report["output"] is not None:
        yield RunFile(Path(report["output"]), report["rows_out"], report["output_sha256"])
    for vectors in (each for kind in _VECTORS for each in report[kind]):
        yield RunFile(Path(vectors["path"]), vectors["rows"], vectors["sha256"])
