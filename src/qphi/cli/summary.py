"""What a fit and an evaluation say at the end."""

from __future__ import annotations

import json
import math
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from qphi.cli.console import one_line, output_console
from qphi.cli.progress import clock

if TYPE_CHECKING:
    from qphi import VAE
    from qphi.autoencoders import Evaluation

__all__ = ["evaluation_json", "print_evaluation", "print_summary"]

JUDGED, PARTICLES = 1000, 64  # held-out rows and weights: a second or two; `qphi evaluate` takes all


def print_summary(vae: VAE, x: np.ndarray, folder: Path, report: Path | None) -> None:
    """How a fit ended and where its results are."""
    status, console = vae.status_, output_console()
    colour = "green" if status.succeeded else "yellow" if status.resumable else "red"
    console.print(Text(one_line(vae.status_text_), style=f"bold {colour}"))
    if status.advice:
        console.print(Text(f"what to do: {status.advice}", style=colour))
    table = _table()
    for name, figure in _figures_of_fit(vae, x):
        table.add_row(name, escape(figure))
    table.add_row("run folder", escape(str(folder)))
    if report is not None:
        table.add_row("report", escape(str(report)))
    table.add_row("next", escape(f"qphi sample {folder} -n 64"))
    console.print(table)


def _figures_of_fit(vae: VAE, x: np.ndarray) -> list[tuple[str, str]]:
    held_out = vae.held_out_rows(x)
    rows_held_out, rows = held_out is not None, np.arange(len(x)) if held_out is None else held_out
    rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), JUDGED)).round().astype(int)]
    evaluation = vae.evaluate(x[rows], particles=PARTICLES)
    found = [
        (
            "held-out ELBO" if rows_held_out else "ELBO, all data",
            f"{_with_error(evaluation.elbo)} nats per datum",
        ),
        ("its parts", f"log likelihood {evaluation.log_likelihood.value:.2f}, KL {evaluation.kl.value:.2f}"),
    ]
    if evaluation.bits_per_dimension is not None:
        found.append(("bits per dimension", f"{evaluation.bits_per_dimension:.3f}"))
    found.append(("active units", f"{evaluation.active_units} of {evaluation.latent_dim}"))
    return [*found, ("time", f"{clock(vae.seconds_)}, {vae.history_['epoch'][-1]:.0f} epochs")]


def print_evaluation(e: Evaluation, source: str, more: dict[str, Any] | None = None) -> None:
    """The table of `qphi evaluate`; `more` holds gaps, a rate-distortion curve and sample quality, if asked for."""
    console, table = output_console(), _table()
    rows = [
        ("ELBO", _with_error(e.elbo)),
        ("  log likelihood E_q[log p(x|z)]", _with_error(e.log_likelihood)),
        ("  KL(q(z|x) || p(z))", _with_error(e.kl)),
        (f"log p(x), {e.particles} importance weights", _with_error(e.log_evidence)),
        ("  rows whose weights cannot be relied on", _share(e.unreliable)),
        ("reconstruction error", f"{e.reconstruction_error:.4g} root mean square"),
        ("active units", f"{e.active_units} of {e.latent_dim}"),
    ]
    if e.bits_per_dimension is not None:
        rows.insert(5, ("bits per dimension", f"{e.bits_per_dimension:.4f}"))
    if e.mutual_information is not None:
        most = "" if e.mutual_information < 0.9 * math.log(e.n) else f", about the most that {e.n} rows can show"
        rows.append(("mutual information I(x; z)", f"{e.mutual_information:.2f}{most}"))
    if e.prior_mismatch is not None:
        rows.append(("prior mismatch, moments and marginals", f"{e.prior_mismatch:.2f}"))
    for name, text in [*rows, *_more_rows(more or {})]:
        table.add_row(escape(name), escape(text))
    console.print(Text(f"{e.n} rows of {source}; nats per datum ± standard error", style="bold"))
    console.print(table)


def _share(unreliable: float) -> str:
    return f"{unreliable:.1%} (Pareto k)" if math.isfinite(unreliable) else "unknown: fewer than 25 weights"


def _more_rows(more: dict[str, Any]) -> list[tuple[str, str]]:
    rows = []
    if "gaps" in more:
        found = more["gaps"]
        rows += [
            (f"amortisation gap, {found.n} rows", _with_error(found.amortisation)),
            ("approximation gap, at least", _with_error(found.approximation)),
        ]
    if "rate_distortion" in more:
        found = more["rate_distortion"]
        for beta, rate, distortion in zip(found.betas, found.rate, found.distortion, strict=True):
            rows.append((f"rate, distortion at beta {beta:g}", f"{rate:.2f}, {distortion:.2f}"))
    if "sample_quality" in more:
        q = more["sample_quality"]
        rows += [
            ("precision, recall of samples", f"{q.precision:.2f}, {q.recall:.2f}"),
            ("Frechet distance (two halves of the data)", f"{q.frechet:.2f} ({q.frechet_of_data:.2f})"),
        ]
    return rows


def evaluation_json(evaluation: Evaluation, source: str, more: dict[str, Any] | None = None) -> str:
    """The same figures for programs; what is not finite or not defined is null."""
    figures = _plain(evaluation)
    del figures["pareto_k"]  # a number for every row
    figures |= {name: _plain(value) for name, value in (more or {}).items()}
    return json.dumps({"source": source, "unit": "nats per datum", **figures}, indent=2)


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _with_error(figure: Any) -> str:
    return f"{float(figure.value):.2f} ± {float(figure.standard_error):.2f}"


def _table() -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    return table
