"""`qphi fit`: from data to a run folder."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from qphi.cli.console import error_console, examples, help_text, say_warning
from qphi.cli.duration import parse_seconds
from qphi.cli.new_run import CHECKPOINT, check_folder, new_record, resumed_record, run_folder
from qphi.cli.progress import FitDisplay
from qphi.cli.run_folder import RUNS, RunRecord
from qphi.cli.setup import prepare
from qphi.cli.summary import print_summary
from qphi.cli.tables import KindOption, KindsOption, fit_table, merged_kinds
from qphi.errors import InputError

if TYPE_CHECKING:
    from qphi.data import Dataset

__all__ = ["fit", "register"]

ENDED_NOT_FINITE, INTERRUPTED = 3, 130

Likelihood = Literal[
    "auto",
    "gaussian",
    "gaussian-per-feature",
    "gaussian-output-scale",
    "student-t",
    "bernoulli",
    "continuous-bernoulli",
    "discretised-logistic",
    "discretised-logistic-mixture",
    "categorical",
    "ordinal",
    "poisson",
    "negative-binomial",
    "zero-inflated-negative-binomial",
]
Prior = Literal["normal", "mixture", "vamp", "flow", "categorical", "ladder"]
Posterior = Literal["diagonal", "full-rank", "student-t", "iaf", "coupling", "categorical", "ladder"]
Bound = Literal["elbo", "monte-carlo", "sticking-the-landing", "iwae", "dreg", "leave-one-out"]
Device = Literal["cpu", "gpu", "tpu"]


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(
        help=help_text(fit),
        epilog=examples(
            ("qphi fit digits", "leaves qphi-runs/digits with the model and report.html"),
            ("qphi fit photos/ --latent-dim 32", "a folder of PNG or JPEG pictures of one size"),
            (
                "qphi fit x.npy --max-time 5m --out runs/a",
                "an array (n, h, w[, c]) or (n, d); stop after 5 minutes",
            ),
            ("qphi fit x.npz:images --seed 1", "one array of an archive; another start"),
            ("qphi fit people.csv --kind age=count", "a table: numbers, categories, dates, gaps"),
            ("qphi fit x.npy --out runs/a --resume", "go on where runs/a stopped"),
        ),
    )(fit)


def fit(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="digits, mnist, mnist-test, frey, a folder of pictures, .npy, .npz[:name], an idx file "
            "(*-ubyte, .gz, .xz), or a table (.csv, .tsv, .parquet).",
            show_default=False,
        ),
    ],
    latent_dim: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Size of the latent space z. \\[default: 16]", show_default=False),
    ] = None,
    likelihood: Annotated[
        Likelihood | None,
        typer.Option(
            help="p(x|z). auto looks at the data; gaussian learns its noise scale; bernoulli is for pixels 0 "
            "or 1, continuous-bernoulli for shades between, discretised-logistic-mixture for 8-bit levels, "
            "negative-binomial for counts. \\[default: auto]",
            metavar="NAME",
            show_default=False,
        ),
    ] = None,
    beta: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            metavar="WEIGHT",
            help="Weight of the KL. 1 is the ELBO; with another the objective is no bound of the likelihood. "
            "\\[default: 1]",
            show_default=False,
        ),
    ] = None,
    prior: Annotated[
        Prior | None, typer.Option(help="p(z); all but normal are learned. \\[default: normal]", show_default=False)
    ] = None,
    posterior: Annotated[
        Posterior | None, typer.Option(help="The shape of q(z|x). \\[default: diagonal]", show_default=False)
    ] = None,
    bound: Annotated[
        Bound | None, typer.Option(help="What is maximised. \\[default: elbo]", show_default=False)
    ] = None,
    particles: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Draws of z a datum and step. \\[default: 1; iwae, dreg: 8]", show_default=False
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="At most so many passes over the data, rounded up to a whole check.",
            show_default=False,
        ),
    ] = None,
    max_time: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="At most so long: 90, 90s, 5m, 1h, 1h30m.", show_default=False),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="The same seed gives the same model. \\[default: 0]", show_default=False),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            metavar="DIR",
            help="The run folder. \\[default: qphi-runs/ and the name of the data]",
            show_default=False,
        ),
    ] = None,
    kind: KindOption = None,
    kinds: KindsOption = None,
    not_at_random: Annotated[
        bool, typer.Option("--not-at-random", help="Tables: cells may be missing because of their own value.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the folder.")] = False,
    device: Annotated[
        Device | None, typer.Option(help="Where to compute; otherwise JAX chooses.", show_default=False)
    ] = None,
) -> int:
    """Train a variational autoencoder on SOURCE and leave a run folder.

    Some rows are held out; the fit stops by itself when their ELBO has stopped rising, and keeps the best
    model. The folder then has model.safetensors and model.json, metrics.csv, run.json and report.html.

    Ctrl-C keeps the best model so far; --resume goes on from there as if nothing had happened.
    """
    seconds = None if max_time is None else parse_seconds(max_time)
    given = {"latent_dim": latent_dim, "likelihood": likelihood, "beta": beta, "max_epochs": epochs}
    given |= {"max_time": seconds, "random_state": seed}
    given |= {"prior": prior, "posterior": posterior, "bound": bound, "particles": particles}
    given = {name: value for name, value in given.items() if value is not None}
    if out is not None:
        check_folder(out, resume)  # before reading the data, which may take long
    from qphi.data.table_files import is_table_file

    if is_table_file(source):
        refused = [name for name in ("likelihood", "beta") if name in given]
        refused += [name for name in ("prior", "posterior", "bound") if name in given]
        refused += [] if device is None else ["device"]
        if refused:
            flag = "--" + refused[0]
            raise InputError(f"{flag} has no effect on a table. Leave it out.")
        folder = RUNS / Path(source).name.split(".")[0] if out is None else out
        check_folder(folder, resume)
        given |= {"missing": "not at random"} if not_at_random else {}
        return fit_table(source, folder, given, merged_kinds(kind, kinds), resume=resume)
    if kind or kinds or not_at_random:
        raise InputError(f"--kind, --kinds and --not-at-random are for tables, and {source} is none. Leave them out.")
    from qphi.data import load

    data = load(source)
    folder = RUNS / data.name if out is None else out
    check_folder(folder, resume)
    prepare()
    record = _record(folder, source, data, given, resume)
    return _fit(data, record, folder, resume=resume, device=device)


def _record(folder: Path, source: str, data: Dataset, given: dict[str, Any], resume: bool) -> RunRecord:
    shape, dtype = data.x.shape, str(data.x.dtype)
    if not resume:
        return new_record(source, data.name, shape, dtype, given)
    import qphi

    return resumed_record(folder, source, shape, dtype, given, qphi.VAE)


def _fit(data: Dataset, record: RunRecord, folder: Path, *, resume: bool, device: str | None) -> int:
    from sklearn.exceptions import ConvergenceWarning

    import qphi
    from qphi.report import write_report

    vae = qphi.VAE(**record.arguments, device=device)
    # A run that was killed before its first checkpoint begins again, which comes to the same
    resume = resume and (folder / CHECKPOINT).is_file()
    with run_folder(folder), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the summary says it, with what to do
        record.write(folder)
        with FitDisplay(data.name, vae.max_epochs) as display:
            vae.fit(data.x, run_dir=folder, resume=resume, watch=display)
    try:
        with error_console().status("drawing the report ..."):
            report = write_report(folder, vae, data.x, data.labels)
    except ValueError as error:  # the model is safe: say so instead of failing
        report = None
        say_warning(f"the report could not be written: {error} The model in {folder} is complete.")
    print_summary(vae, data.x, folder, report)
    return {"NOT_FINITE": ENDED_NOT_FINITE, "INTERRUPTED": INTERRUPTED}.get(vae.status_.name, 0)
