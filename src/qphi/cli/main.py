"""The command `qphi`: its list of commands, and the one place where errors become a line and an exit code."""

from __future__ import annotations

import errno
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from typer.main import get_command

from qphi.cli import fit as _fit
from qphi.cli import infer as _infer
from qphi.cli import latent as _latent
from qphi.cli import show as _show
from qphi.cli import tables as _tables
from qphi.cli import tools as _tools
from qphi.cli.console import examples, say, say_error
from qphi.cli.setup import show_warnings_in_one_line
from qphi.errors import InputError

__all__ = ["app", "main"]

BAD_INPUT, FAILURE, INTERRUPTED = 2, 1, 130  # 130 = 128 + SIGINT, what shells expect after Ctrl-C

HELP = """Variational inference without tuning: a generative model of data (`fit`), the posterior of a model (`infer`).

`qphi fit` leaves a run folder: the model, its metrics and report.html. Most other commands take that folder; \
`infer` and `check` take a NumPyro program.

DATA and SOURCE are a built-in name (digits, mnist, mnist-test, frey), a folder of PNG or JPEG pictures, a \
.npy or .npz file, an idx file, or for `fit` a table (.csv, .tsv, .parquet). Figures are in nats per datum; \
higher is better."""

app = typer.Typer(
    name="qphi",
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=examples(
        (
            "qphi fit digits",
            "train on the digits that come with scikit-learn: under a minute, no flag needed",
        ),
        ("qphi sample qphi-runs/digits -n 64", "new digits from the model"),
        ("qphi evaluate qphi-runs/digits digits", "ELBO and log likelihood in nats per datum"),
        ("qphi infer schools.py:eight_schools --data schools.json", "a posterior, with a verdict"),
    ),
)
_fit.register(app)
_latent.register(app)
_tools.register(app)
_show.register(app)
_tables.register(app)
_infer.register(app)


def _print_version(wanted: bool) -> bool:
    if wanted:
        from qphi import __version__

        say(f"qphi {__version__}")
        raise typer.Exit()
    return wanted


@app.callback(help=HELP)
def qphi(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version and stop.", callback=_print_version, is_eager=True),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the whole traceback of an error; goes with every command.")
    ] = False,
) -> None:
    """Only what comes before the command's name; the commands do the rest."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code.

    0 done; 1 failure (disk full, out of memory...); 2 bad input; 3 the fit failed (values that are not finite);
    4 an unreliable posterior, or a check that was not passed; 130 interrupted. Errors are one line on standard
    error; `--debug` adds the traceback.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    given = [argument for argument in given if argument != "--debug"] or ["--help"]
    with warnings.catch_warnings():
        show_warnings_in_one_line()
        try:
            return _run(given)
        except SystemExit as stop:
            say_error(f"the model ended Python with sys.exit({stop.code!r}). Take that out of the model.")
            return BAD_INPUT
        except (Exception, KeyboardInterrupt) as error:
            if debug:
                traceback.print_exc()
            code, message = explain(error)
            if message:
                say_error(message)
            return code


def _run(given: list[str]) -> int:
    command = get_command(app)
    try:
        with command.make_context("qphi", given) as context:
            code = command.invoke(context)
    except typer.Exit as stop:
        return stop.exit_code
    return code if isinstance(code, int) else 0


def explain(error: BaseException) -> tuple[int, str]:
    """Exit code and message of an error."""
    if isinstance(error, InputError):
        return BAD_INPUT, str(error)
    if isinstance(error, ValueError) and _raised_by_qphi(error):
        return BAD_INPUT, str(error)
    if hasattr(error, "format_message"):  # unknown flags, missing arguments: Typer's own
        return BAD_INPUT, _usage(error)
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return INTERRUPTED, "interrupted"
    if isinstance(error, BrokenPipeError):  # `qphi ... | head`: nobody reads any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILURE, ""
    if isinstance(error, OSError):
        return FAILURE, _system(error)
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        return FAILURE, f"out of memory: {error}. Use fewer rows, smaller images or fewer --particles."
    return (
        FAILURE,
        f"{type(error).__name__}: {error}. This is unexpected: run again with --debug and report it.",
    )


def _usage(error: BaseException) -> str:
    message = str(error.format_message()).strip().replace("Value error, ", "")  # type: ignore[attr-defined]
    context = getattr(error, "ctx", None)
    end = "" if message.endswith((".", "?")) else "."
    return f"{message}{end} See {context.command_path if context is not None else 'qphi'} --help"


def _system(error: OSError) -> str:
    where = f": {error.filename}" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full{where}. Free some space, or write to another disk with --out or -o."
    if isinstance(error, FileNotFoundError):
        return f"no such file or folder{where}."
    if isinstance(error, PermissionError):
        return f"permission denied{where}. Give a file or folder that may be read and written."
    return f"{error.strerror or error}{where}"


def _raised_by_qphi(error: BaseException) -> bool:
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and Path(frames[-1].filename).is_relative_to(Path(__file__).parents[1])


if __name__ == "__main__":
    sys.exit(main())
