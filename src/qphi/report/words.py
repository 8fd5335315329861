"""What the figures mean, in plain words, and every reason to doubt them."""

from __future__ import annotations

import math
from typing import Any

__all__ = ["MINUS", "cautions", "duration", "explanation", "figure", "number", "summary"]

NATS_PER_BIT = math.log(2)
MINUS = "\N{MINUS SIGN}"


def number(value: float | int, decimals: int = 2) -> str:
    """A number for people: a true minus sign, thousands separated."""
    return f"{value:,.{decimals}f}".replace("-", MINUS) if math.isfinite(value) else "not finite"


def figure(value: float | int, standard_error: float | int) -> str:
    """A value and its standard error, both with two digits of the error.

    >>> figure(3.14159, 0.0123), figure(1234.5, 67.8)
    ('3.142 ± 0.012', '1,234 ± 68')
    """
    known = math.isfinite(standard_error) and standard_error > 0
    if not known:
        return number(value)
    decimals = min(max(1 - math.floor(math.log10(standard_error)), 0), 4)
    return f"{number(value, decimals)} ± {number(standard_error, decimals)}"


def duration(seconds: float | int) -> str:
    """
    >>> duration(7.31), duration(200), duration(8000)
    ('7.3 s', '3 min 20 s', '2 h 13 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def cautions(vae: Any, evaluation: Any | None) -> list[str]:
    """Everything a reader has to know before believing a figure; empty when all is well."""
    found = []
    if not vae.status_.succeeded:
        found.append(
            "The fit did not converge. The figures and pictures are those of the best model so far; more "
            "training may change them."
        )
    if vae.beta != 1:
        found.append(
            f"beta = {vae.beta:g}: this objective is not a bound on log p(x). The model was trained to "
            f"maximise log likelihood {MINUS} {vae.beta:g} KL. The key figures give the plain ELBO, with the "
            "KL counted once."
        )
    if evaluation is not None and evaluation.active_units == 0:
        found.append(
            "No latent unit is active: the encoder tells the decoder nothing about a datum (posterior "
            "collapse), and every sample is drawn from one and the same distribution. A smaller beta, a "
            "larger model or more data may help; or the data hold no structure that this likelihood can see."
        )
    return found


def summary(vae: Any, evaluation: Any | None, fair: bool, rows: int | None) -> list[tuple[str, str, str]]:
    """The key figures as (name, value, unit or remark), the most important first.

    `fair` says that the evaluation is that of held-out data. If it is not, or there is none, the held-out
    ELBO that training itself saw comes first.
    """
    facts = []
    if not fair and (kept := _kept(vae, "held_out_elbo_per_datum")) is not None:
        facts.append(("Held-out ELBO", number(kept), "nats per datum, when the model kept was checked"))
    if evaluation is not None:
        facts += _evaluated(evaluation, fair, vae.n_features_in_)
    facts.append(("Training time", duration(vae.seconds_), _checks(vae)))
    if rows is not None:
        shape = " × ".join(str(length) for length in vae.shape_)
        facts.append(("Data", f"{rows:,}", f"{'images' if vae.image_ else 'vectors'} of {shape}"))
    return facts


def _evaluated(e: Any, fair: bool, dimensions: int) -> list[tuple[str, str, str]]:
    which = f"{e.n:,} held-out data" if fair else f"{e.n:,} data that may have been trained on"
    facts = [
        ("Held-out ELBO" if fair else "ELBO", _figure(e.elbo), f"nats per datum, {which}"),
        ("Log likelihood part", _figure(e.log_likelihood), "nats of the datum, its code given"),
        ("KL part", _figure(e.kl), f"nats of code, or {number(e.kl.value / NATS_PER_BIT, 1)} bits"),
        ("log p(x)", _figure(e.log_evidence), f"nats, importance weighted, {e.particles:,} draws"),
    ]
    if e.bits_per_dimension is not None:
        facts.append(("Bits per dimension", number(e.bits_per_dimension, 3), f"over {dimensions:,} dimensions"))
    facts.append(("Reconstruction error", f"{e.reconstruction_error:.4g}", "root mean square"))
    if e.unreliable > 0:
        facts.append(("Unreliable log p(x)", f"{e.unreliable:.1%}", "of the data: their Pareto k is too high"))
    return [*facts, ("Active units", f"{e.active_units} of {e.latent_dim}", "latent units in use")]


def explanation(vae: Any, evaluation: Any | None) -> str:
    """The figures in one paragraph, for someone who meets them for the first time."""
    if evaluation is None:
        return "Without data there is nothing to judge the model on: only what it knows by itself is shown."
    e = evaluation
    gap = e.log_evidence.value - e.elbo.value
    words = [
        "The ELBO is a lower bound on log p(x), the log probability (of measured values: the log density) "
        "that the model gives to a datum. Higher is better; only models of the same data, in the same units, "
        "compare.",
        "It is the log likelihood, how well a datum is described once its code is known, less the KL, what "
        "it costs to say the code.",
    ]
    if math.isfinite(gap) and gap > 0:
        words.append(
            f"The importance-weighted estimate of log p(x) is {number(gap)} nats higher: about so much, or "
            "more, is lost because the encoder's Gaussians are not the true posteriors."
        )
    words.append("A latent unit is active when its mean moves with the datum; the others are not in use.")
    return " ".join(words)


def _kept(vae: Any, name: str) -> float | int | None:
    """A column of the history at the check whose model was kept."""
    epochs, values = vae.history_.get("epoch") or [], vae.history_.get(name) or []
    kept = getattr(vae, "best_epoch_", None)
    if kept is not None and values:
        return values[min(range(len(values)), key=lambda index: abs(epochs[index] - kept))]
    return max((value for value in values if value is not None and math.isfinite(value)), default=None)


def _checks(vae: Any) -> str:
    epochs, steps = vae.history_.get("epoch") or [], vae.history_.get("step") or []
    return f"{epochs[-1]:.4g} epochs, {int(steps[-1]):,} steps" if epochs and steps else ""


def _figure(found: Any) -> str:
    return figure(found.value, found.standard_error)
