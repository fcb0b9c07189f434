"""The `extembed` command: registers its subcommands, and turns errors into messages and exit codes."""

from __future__ import annotations

import errno
import io
import re
import sys
from contextlib import suppress
from typing import Annotated, Any, NoReturn

import typer

import extembed_cli
from extembed_cli.cli import (
    aggregate,
    center,
    check,
    columns,
    console,
    dual,
    evaluate,
    explain,
    import_,
    neural,
    run,
    sample,
    verify,
)
from extembed_cli.errors import (
    DISK_FULL,
    NOT_UTF8,
    ExtembedError,
    InputError,
    InternalError,
    ResourceError,
    SpecError,
)
from extembed_cli.system import signals

_USAGE_ERROR: Any = typer.BadParameter.__mro__[1]  # of click, or of the copy of it in Typer

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    run.run,
    aggregate.aggregate,
    dual.dual,
    evaluate.evaluate,
    check.check,
    columns.columns,
    explain.explain,
    verify.verify,
    center.center,
    import_.import_,
    sample.sample,
):
    app.command(command.__name__.rstrip("_"))(command)
app.add_typer(neural.app, name="neural")


def _version(show: bool) -> None:
    if show:
        console.result(f"extembed {extembed_cli.__version__}")
        raise typer.Exit


@app.callback()
def extembed(
    version: Annotated[
        bool, typer.Option("--version", "-V", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Point-in-time ranker features from external item embeddings: Parquet in, Parquet out.

    Example:  extembed sample try && extembed run try/spec.toml
    """


def main() -> NoReturn:
    """Run the command line and exit: 0 done, 1 data, 2 usage or spec, 3 input, 4 locked, 5 resources, 6 no answer."""
    try:
        _run()
    except SystemExit as end:
        if end.code in signals.EXIT_CODES:
            _json_error("stopped", signals.STOPPED, end.code)
        raise


def _run() -> NoReturn:
    """Run the command line; report an error to the user, with `--json` to programs too, and exit."""
    try:
        code = app(prog_name="extembed", standalone_mode=False)
    except _USAGE_ERROR as error:
        shown = io.StringIO()
        error.show(shown)
        text = _plain(shown.getvalue().rstrip("\n"))
        console.say(*re.sub("^Error:", "extembed: error:", text, flags=re.M).split("\n"))
        _json_error("usage", _plain(error.format_message()), error.exit_code)
        sys.exit(error.exit_code)
    except ExtembedError as error:
        _fail(error, error)
    except UnicodeEncodeError as error:  # most libraries below open a path, and know a name, as UTF-8 alone
        around = error.object[max(0, error.start - 80) : error.end + 80]
        _fail(SpecError(f"{around}: {NOT_UTF8}"), error)
    except MemoryError as error:
        message = "out of memory; the old output is untouched. Lower --workers, or split the candidates"
        _fail(ResourceError(message), error)
    except OSError as error:
        if error.errno in DISK_FULL:
            limit = " (a limit on the size of files: ulimit -f)" if error.errno == errno.EFBIG else ""
            message = (
                f"no space left to write{limit}: {error}. The old output is untouched; free space on the disks of the "
                "output and of --scratch, and run again"
            )
            _fail(ResourceError(message), error)
        if error.errno == errno.ENAMETOOLONG:
            _fail(SpecError(f"{error.filename}: this name is too long for the file system; use a shorter one"), error)
        _fail(InputError(str(error) if error.filename is None else f"{error.filename}: {error.strerror}"), error)
    except SystemExit:
        raise
    except BaseException as error:  # polars' panics are BaseException
        _fail(
            InternalError(f"internal error: {type(error).__name__}: {error}. This is a bug; -v -v shows where"), error
        )
    sys.exit(code or 0)


def _plain(text: str) -> str:
    """Return a message on a flag without the words of the library that parses numbers."""
    return re.sub("Input should be (.*?)(, unable to parse .*)?$", r"must be \1", text, flags=re.M)


def _fail(reported: ExtembedError, error: BaseException) -> NoReturn:
    """Report an error to the user and exit; `error` is what happened, for the traceback of `-v -v`."""
    signals.exit_if_received()  # what fails after a signal fails because of it
    short = [arg for arg in sys.argv[1:] if re.fullmatch("-[qv]+", arg)]
    if "".join(short).count("v") + sys.argv.count("--verbose") >= 2:
        import traceback

        console.say(*"".join(traceback.format_exception(error)).rstrip("\n").split("\n"))
    for line in str(reported).splitlines():
        console.say(f"extembed: error: {line}")
    _json_error(reported.kind, str(reported), reported.exit_code)
    sys.exit(reported.exit_code)


def _json_error(kind: str, message: str, code: int) -> None:
    """Write the error to stdout as the result of a command with `--json`."""
    if "--json" in sys.argv:
        with suppress(OSError):  # the error may be that stdout cannot be written
            console.result_json({"error": {"kind": kind, "message": message}, "exit": code})
