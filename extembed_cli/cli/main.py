"""The `extembed` command: registers its subcommands, and turns errors into messages and exit codes."""

from __future__ import annotations

import errno
import re
import sys
from typing import Annotated, NoReturn

import typer

import extembed_cli
from extembed_cli.cli import aggregate, center, check, columns, console, dual, evaluate, explain, neural, run, sample
from extembed_cli.errors import DISK_FULL, ExtembedError
from extembed_cli.system import signals

INTERNAL_ERROR = 70  # EX_SOFTWARE

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
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
    center.center,
    sample.sample,
):
    app.command()(command)
app.add_typer(neural.app, name="neural")


def _version(show: bool) -> None:
    if show:
        console.result(f"extembed {extembed_cli.__version__}")
        raise typer.Exit


@app.callback()
def extembed(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Point-in-time ranker features from external item embeddings: Parquet in, Parquet out.

    Example:  extembed sample try && extembed run try/spec.toml
    """


def main() -> NoReturn:
    """Run the command line and exit: 0 done, 1 data, 2 usage or spec, 3 input, 4 locked, 5 resources, 128 + signal."""
    try:
        app(prog_name="extembed")
    except ExtembedError as error:
        _fail(str(error), error.exit_code, error)
    except MemoryError as error:
        _fail("out of memory; the old output is untouched. Lower --workers, or split the candidates", 5, error)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
    except OSError as error:
        if error.errno in DISK_FULL:
            limit = " (a limit on the size of files: ulimit -f)" if error.errno == errno.EFBIG else ""
            _fail(
                f"no space left to write{limit}: {error}. The old output is untouched; free space on the disks of the "
                "output and of --scratch, and run again",
                5,
                error,
            )
        _fail(f"{error}", 3, error)
    except SystemExit:
        raise
    except BaseException as error:  # polars' panics are BaseException
        _fail(
            f"internal error: {type(error).__name__}: {error}. This is a bug; -v -v shows where", INTERNAL_ERROR, error
        )
    sys.exit(0)


def _fail(message: str, code: int, error: BaseException) -> NoReturn:
    signals.exit_if_received()  # what fails after a signal fails because of it
    short = [arg for arg in sys.argv[1:] if re.fullmatch("-[qv]+", arg)]
    if "".join(short).count("v") + sys.argv.count("--verbose") >= 2:
        import traceback

        traceback.print_exception(error)
    for line in message.splitlines():
        console.say(f"extembed: error: {line}")
    sys.exit(code)
