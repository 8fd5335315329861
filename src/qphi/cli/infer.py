"""`qphi infer` and `qphi check`: the posterior of a model in a Python file, and what is wrong with its density."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from qphi.cli.console import error_console, examples, help_text, say
from qphi.cli.duration import parse_seconds
from qphi.cli.model_file import load_data, load_model, matched
from qphi.cli.new_run import check_folder, run_folder
from qphi.cli.run_folder import RUNS
from qphi.cli.setup import prepare
from qphi.verdict import Trust

__all__ = ["check", "infer", "register"]

EXIT_CODES = {Trust.TRUSTED: 0, Trust.CORRECTED: 0, Trust.UNRELIABLE: 4, Trust.FAILED: 3}
NOT_PASSED = 4

ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL.py:NAME", help="A Python file and a NumPyro program in it, a function.", show_default=False
    ),
]
DataOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="The model's arguments by name: a .json object, the columns of a .csv, or an .npz.",
        show_default=False,
    ),
]
Efforts = Literal["quick", "standard", "thorough"]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command(
        help=help_text(infer),
        epilog=examples(
            (
                "qphi infer schools.py:eight_schools --data schools.json",
                "leaves qphi-runs/eight_schools with report.html",
            ),
            ("qphi infer m.py:model --data d.csv --effort thorough -o runs/m", "Markov chains always, and for longer"),
            ("qphi infer m.py:model --data d.json --json", "verdict, table and figures for programs"),
        ),
    )(infer)
    app.command(
        help=help_text(check),
        epilog=examples(("qphi check schools.py:eight_schools --data schools.json", "seconds; nothing is fitted")),
    )(check)


def infer(
    model: ModelArgument,
    data: DataOption = None,
    effort: Annotated[Efforts, typer.Option(help="How much work a correction may be.")] = "standard",
    max_time: Annotated[
        str | None, typer.Option(metavar="TIME", help="At most so long: 90, 90s, 5m, 1h.", show_default=False)
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, metavar="N", help="The same seed gives the same draws.")
    ] = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            metavar="DIR",
            help="The run folder. \\[default: qphi-runs/ and the model's name]",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object instead of the table.")] = False,
) -> int:
    """The posterior of a NumPyro program: fitted, checked, corrected, with a verdict.

    The folder then has posterior.json and posterior.safetensors (draws, q and verdict; qphi.load reads them) and
    report.html.

    Ends with 0 for a trusted or corrected posterior, 4 for an unreliable one, 3 for a failed one, 2 for bad input.
    """
    seconds = None if max_time is None else parse_seconds(max_time)
    name = model.rpartition(":")[2]
    folder = RUNS / (name or "model") if out is None else out
    check_folder(folder, resume=False, resumable=False)
    prepare()
    # what the model prints, as it is read and as it runs, is not part of the object
    aside = contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext()
    with aside:
        program = load_model(model)
    arguments = matched(program, {} if data is None else load_data(data), data)
    import jax

    import qphi
    from qphi.report import write_posterior_report

    with run_folder(folder), aside:
        with error_console().status("inferring: compiling and fitting ..."):
            posterior = qphi.fit(program, key=jax.random.key(seed), effort=effort, max_time=seconds, **arguments)
        posterior.save(folder)
        with error_console().status("drawing the report ..."):
            report = write_posterior_report(folder, posterior, name)
    if as_json:
        say(json.dumps(_summary(posterior)))
    else:
        say(repr(posterior))
        say(f"\n{folder}: posterior.json, posterior.safetensors, {report.name}")
    return EXIT_CODES[posterior.verdict.trust]


def check(model: ModelArgument, data: DataOption = None) -> int:
    """Look for faults of a model's log density without fitting it: values, derivatives, smoothness, propriety.

    Ends with 0 when every check is passed, 4 when one is not, 2 for bad input.
    """
    prepare()
    program = load_model(model)
    arguments = matched(program, {} if data is None else load_data(data), data)
    import jax

    from qphi.checks.preflight import preflight
    from qphi.noise import generator
    from qphi.precision import double
    from qphi.targets import as_target
    from qphi.targets.oracle import Oracle
    from qphi.targets.starts import dispersed_starts

    with error_console().status("compiling ..."), double():
        target = as_target(program, **arguments)
        oracle, key = Oracle(target), jax.random.key(0)
        random = generator(key)
        _, tried = dispersed_starts(oracle, random, 8, key)
        findings = preflight(oracle, tried, random)
        shapes = target.shapes()
    for finding in findings:
        say(str(finding))
    sizes = ", ".join(f"{name} {list(shape)}" if shape else name for name, shape in shapes.items())
    say(f"{target.dim} unconstrained coordinate{'' if target.dim == 1 else 's'}; values: {sizes}")
    return 0 if all(finding.passed for finding in findings) else NOT_PASSED


def _summary(posterior: Any) -> dict[str, Any]:
    verdict = posterior.verdict
    return {
        "verdict": str(verdict.trust),
        "reasons": list(verdict.reasons),
        "advice": verdict.advice,
        "made_by": posterior.made_by,
        "elbo": posterior.elbo,
        "elbo_standard_error": posterior.elbo_standard_error,
        "log_evidence": posterior.log_evidence,
        "log_evidence_standard_error": posterior.log_evidence_standard_error,
        "numbers": dict(verdict.numbers),
        "table": posterior.summary(allow_unreliable=True).rows(),
        "seconds": posterior.seconds,
        "evaluations": dict(posterior.evaluations),
    }
