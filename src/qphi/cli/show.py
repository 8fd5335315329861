"""What a fitted model makes and how good it is: `qphi sample`, `reconstruct`, `evaluate`, `report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from qphi.cli.console import error_console, examples, help_text, say
from qphi.cli.grid import write_images
from qphi.cli.run_folder import DataArgument, RunArgument, open_run, output_path
from qphi.cli.summary import evaluation_json, print_evaluation
from qphi.cli.tables import evaluate_table, is_table_run, reconstruct_rows, report_table, sample_table
from qphi.errors import InputError

__all__ = ["evaluate", "reconstruct", "register", "report", "sample"]

OUT = typer.Option("-o", "--out", metavar="PATH", help="Where to write.", show_default="in the run folder")
MOST_COLUMNS = 16
SHOWN = 16  # rows that are reconstructed unless told


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command(
        help=help_text(sample),
        epilog=examples(
            ("qphi sample qphi-runs/digits -n 64", "samples.png and samples.npy in the run folder"),
            ("qphi sample qphi-runs/digits -n 1000 --seed 1 -o more.npy", "others, elsewhere"),
            ("qphi sample qphi-runs/people -n 10000 --given sex=female -o women.csv", "rows of a table"),
            ("qphi sample qphi-runs/people -n 10000 --balanced income -o even.parquet", "each level equally often"),
        ),
    )(sample)
    app.command(
        help=help_text(reconstruct),
        epilog=examples(
            ("qphi reconstruct qphi-runs/digits digits -n 16", "16 rows and what the model makes of them"),
            ("qphi reconstruct qphi-runs/people people.csv -o again.csv", "every row of a table"),
        ),
    )(reconstruct)
    app.command(
        help=help_text(evaluate),
        epilog=examples(
            ("qphi evaluate qphi-runs/mnist mnist-test --rows 1000", "1,000 rows spread over the test set"),
            ("qphi evaluate qphi-runs/digits digits --json", "for programs"),
            (
                "qphi evaluate qphi-runs/people people.csv --fresh new.csv --target income",
                "a table: how good its synthetic rows are",
            ),
        ),
    )(evaluate)
    app.command(help=help_text(report), epilog=examples(("qphi report qphi-runs/digits", "makes report.html again")))(
        report
    )


def sample(
    run: RunArgument,
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="How many.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same samples.")] = 0,
    out: Annotated[Path | None, OUT] = None,
    given: Annotated[
        list[str] | None,
        typer.Option(
            "--given",
            metavar="COLUMN=VALUE",
            help="Tables: only rows with this cell; can be repeated.",
            show_default=False,
        ),
    ] = None,
    balanced: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Tables: every level of this column equally often.", show_default=False),
    ] = None,
) -> None:
    """Draw new data from the model: an array, and a picture if the data are images; of a table, a file of rows."""
    if is_table_run(run):
        return sample_table(run, count, seed, out, given, balanced)
    if given or balanced:
        flag = "--given" if given else "--balanced"
        raise InputError(f"{flag} is for tables, and {run} holds a model of images or vectors. Leave it out.")
    path = output_path(out, run / "samples.png", (".png", ".npy"))
    vae = open_run(run)
    with error_console().status("sampling ..."):
        rows = np.asarray(vae.sample(count, random_state=seed))
    write_images(vae, rows, path)


def reconstruct(
    run: RunArgument,
    data: DataArgument,
    count: Annotated[
        int | None,
        typer.Option(
            "-n", "--count", min=1, help="How many rows, from the first on.", show_default="16; a table's all"
        ),
    ] = None,
    nearest: Annotated[
        bool, typer.Option("--nearest", help="Decode the code that comes nearest to the row, not the posterior mean.")
    ] = False,
    out: Annotated[Path | None, OUT] = None,
) -> None:
    """Encode rows and decode them again. The picture has each row of data above its reconstructions."""
    if is_table_run(run):
        if nearest:
            raise InputError("--nearest is for images and vectors, not for rows of tables. Leave it out.")
        return reconstruct_rows(run, Path(data), count, out)
    path = output_path(out, run / "reconstructions.png", (".png", ".npy"))
    from qphi.data import load

    rows = load(data).x[: count or SHOWN]
    vae = open_run(run)
    again = np.asarray(vae.reconstruct(rows, nearest=nearest))
    columns = min(len(rows), MOST_COLUMNS)
    shown = _pairs(rows, again, columns, blank=vae.levels_[1]) if vae.levels_ else None
    write_images(vae, again, path, columns=columns, shown=shown)


def _pairs(rows: np.ndarray, again: np.ndarray, columns: int, blank: float) -> np.ndarray:
    """Lines of data and of reconstructions in turn, the last two filled up with blank images."""
    lines = []
    for part in (rows, again):
        missing = np.full((-len(part) % columns, *part.shape[1:]), blank)
        lines.append(np.concatenate([part.astype(float), missing]).reshape(-1, columns, *part.shape[1:]))
    return np.stack(lines, axis=1).reshape(-1, *rows.shape[1:])


def evaluate(
    run: RunArgument,
    data: DataArgument,
    particles: Annotated[
        int | None, typer.Option(min=1, help="Importance weights per row for log p(x).", show_default="500")
    ] = None,
    rows: Annotated[
        int | None, typer.Option(min=1, help="Only so many rows, evenly spread.", show_default="all")
    ] = None,
    annealed: Annotated[
        bool, typer.Option("--annealed", help="Anneal where importance weights cannot be relied on: slow.")
    ] = False,
    gaps: Annotated[
        bool, typer.Option("--gaps", help="Also what the encoder and its family lose, and the rate-distortion curve.")
    ] = False,
    quality: Annotated[
        bool, typer.Option("--quality", help="Also precision, recall and Frechet distance of samples.")
    ] = False,
    fresh: Annotated[
        Path | None,
        typer.Option(metavar="TABLE", help="Tables: real rows that the fit has not seen.", show_default=False),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Tables: learn this column from synthetic rows.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Judge the model on DATA: ELBO, its parts and log p(x) in nats per datum, with standard errors.

    The ELBO is a lower bound of log p(x); the importance-weighted estimate is a tighter one. Judge on data
    that the fit has not seen. Two calls give the same figures to the bit.

    Of a table, DATA are the rows of the fit, and what is judged are synthetic rows: whether they are like the
    data, whether one can learn from them, and whether they give rows away.
    """
    for_images = {"--particles": particles, "--rows": rows, "--annealed": annealed, "--gaps": gaps}
    if is_table_run(run):
        refused = [flag for flag, value in (for_images | {"--quality": quality}).items() if value]
        if refused:
            raise InputError(
                f"{refused[0]} is for images and vectors, and {run} holds a model of a table. Leave it out."
            )
        return evaluate_table(run, Path(data), fresh, target, as_json)
    if fresh or target:
        flag = "--fresh" if fresh else "--target"
        raise InputError(f"{flag} is for tables, and {run} holds a model of images or vectors. Leave it out.")
    from qphi.data import load

    particles = 500 if particles is None else particles
    x = load(data).x
    if rows is not None and rows < len(x):
        x = x[np.linspace(0, len(x) - 1, rows).round().astype(int)]
    vae = open_run(run)
    with error_console().status(f"evaluating {len(x)} rows with {particles} particles each ..."):
        evaluation = vae.evaluate(x, particles=particles, annealed=annealed)
        more = {"gaps": vae.gaps(x), "rate_distortion": vae.rate_distortion(x)} if gaps else {}
        more |= {"sample_quality": vae.sample_quality(x)} if quality else {}
    if as_json:
        say(evaluation_json(evaluation, data, more))
    else:
        print_evaluation(evaluation, data, more)


def report(run: RunArgument) -> None:
    """Make report.html again, from the model and the data it was fitted to."""
    if is_table_run(run):
        return say(f"report in {report_table(run)}")
    vae = open_run(run)
    from qphi.report import write_report

    with error_console().status("drawing ..."):
        path = write_report(run, vae)
    say(f"report in {path}")
