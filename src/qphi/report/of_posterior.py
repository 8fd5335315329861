"""The page of a posterior: verdict first, then the table, then the pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from markupsafe import Markup

from qphi.files import atomic_write
from qphi.posterior import Posterior
from qphi.posterior.plots import MOST_MARGINALS, MOST_PAIRED, marginal_figure, pair_figure
from qphi.report.gallery import Picture, picture
from qphi.report.page import render, versions

__all__ = ["write_posterior_report"]

_TONES = {"trusted": "good", "corrected": "good", "unreliable": "fair", "failed": "bad"}
_SHOWN_ROWS = 200
_MEANINGS = {
    "trusted": "Every check of the fit was passed.",
    "corrected": "The Gaussian fit alone was not good enough; the draws were corrected, and passed their checks.",
    "unreliable": "Do not report the sds and intervals below: they are shown for diagnosis.",
    "failed": "There is no answer.",
}


def write_posterior_report(folder: Path, posterior: Posterior, name: str) -> Path:
    """Write `report.html` of a posterior with a pool into `folder` and return its path."""
    verdict = posterior.verdict
    reasons = "; ".join(verdict.reasons)
    page = render(
        name=name,
        verdict=f"{verdict.trust}: {reasons}." if reasons else f"{verdict.trust}.",
        advice=verdict.advice or _MEANINGS[verdict.trust],
        tone=_TONES[verdict.trust],
        cautions=_doubts(posterior),
        facts=_facts(posterior),
        explanation="ELBO = E_q[log p(x, z) - log q(z)] <= log p(x), for the whole data set. The log evidence is "
        "estimated with importance weights; its distance from the ELBO is KL(q || p).",
        table=Markup(posterior.summary(allow_unreliable=True).html(limit=_SHOWN_ROWS)),
        pictures=_pictures(posterior),
        settings=_settings(posterior),
        code=f"import jax, qphi\nposterior = qphi.load({folder.resolve().name!r})  # the folder this page lies in\n"
        "draws = posterior.sample(jax.random.key(0), 4000)  # also: mean, sd, quantiles, verdict, to_arviz",
        versions=versions(),
    )
    path = folder / "report.html"
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def _doubts(posterior: Posterior) -> list[str]:
    lines = []
    for what, ok in (("mean", posterior.verdict.mean_ok), ("sd", posterior.verdict.sd_ok)):
        names = [name for name, good in ok.items() if not np.all(good)]
        if names:
            lines.append(
                f"The {what} of {', '.join(names)} is not to be believed: its tail is too heavy, or too noisy."
            )
    return lines


def _facts(posterior: Posterior) -> list[tuple[str, str, str]]:
    weights, numbers = posterior.weights, posterior.verdict.numbers
    seconds = f"{posterior.seconds:.3g}"
    evaluations = sum(posterior.evaluations.values())
    return [
        ("ELBO", f"{weights.elbo:.2f}", f"± {weights.elbo_standard_error:.2g} nats"),
        ("log evidence", f"{weights.log_evidence:.2f}", f"± {weights.log_evidence_standard_error:.2g} nats"),
        ("KL(q || p)", f"{numbers.get('kl', np.nan):.3g}", "nats, before any correction"),
        ("Pareto k", f"{numbers.get('khat', np.nan):.2f}", "of the defensive weights; below 0.7 is usable"),
        ("draws from", posterior.made_by, f"{len(posterior.pool.z) if posterior.pool else 0:,} of them"),
        ("time", f"{seconds} s", f"{evaluations:,} evaluations of log p"),
    ]


def _pictures(posterior: Posterior) -> list[Picture]:
    if posterior.pool is None:
        return []
    shown = [
        picture(
            "Marginals",
            marginal_figure(posterior.pool, posterior.verdict),
            f"The first {MOST_MARGINALS} components at most. Those whose mean or sd is not to be believed are drawn in "
            "vermilion, with a question mark.",
        )
    ]
    pairs = pair_figure(posterior.pool, posterior.verdict)
    if pairs is not None:
        shown.append(picture("Pairs", pairs, f"The first {MOST_PAIRED} components at most, against each other."))
    return shown


def _settings(posterior: Posterior) -> list[tuple[str, str]]:
    stages = ", ".join(f"{name} {seconds:.2f}" for name, seconds in posterior.stages.items())
    counts = ", ".join(f"{count:,} {name}" for name, count in posterior.evaluations.items())
    numbers = ", ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in posterior.verdict.numbers.items())
    return [
        ("unconstrained coordinates", f"{posterior.target.dim}"),
        ("family", type(posterior.q).__name__),
        ("seconds", stages),
        ("evaluations", counts),
        ("measured", numbers),
    ]
