"""What is wrong with a fitted VAE, in words, and what to change."""

from __future__ import annotations

import dataclasses
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray

from qphi.autoencoders.aggregate import prior_mismatch
from qphi.autoencoders.blocks import in_blocks
from qphi.autoencoders.evaluation import ACTIVE, Figure, RowScores, figure_of, score_rows
from qphi.autoencoders.gaps import gaps
from qphi.autoencoders.likelihoods import Gaussian
from qphi.autoencoders.model import LatentVariableModel
from qphi.families import DiagonalGaussian, StandardNormal

__all__ = ["Diagnosis", "Finding", "collapse", "diagnose", "misfit", "mismatch", "outliers", "overfit", "weak_encoder"]

ROWS, REFINED = 256, 32  # rows judged, rows whose q is refined
DRAWS = 19  # of each element: its rank among them is one of 20
PARTICLES = 16
# A fault counts when it costs more than half a nat and this share of the code: smaller ones change no picture.
SHARE, LEAST = 0.1, 0.5


@dataclasses.dataclass(frozen=True)
class Finding:
    """One fault: its name, what was seen, and what to change."""

    name: str  # 'collapse' | 'weak encoder' | 'overfit' | 'likelihood misfit' | 'outliers' | 'prior mismatch'
    seen: str
    change: str

    def __str__(self) -> str:
        return f"{self.name}: {self.seen} {self.change}"


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """All faults found, the most harmful kind first; none is a good sign, not a proof."""

    findings: tuple[Finding, ...]

    def __str__(self) -> str:
        return "\n".join(map(str, self.findings)) or "nothing to complain about"

    def __iter__(self):
        return iter(self.findings)

    def __len__(self) -> int:
        return len(self.findings)


def diagnose(
    model: LatentVariableModel, held_out: np.ndarray, train: np.ndarray | None, likelihood: str, beta: float
) -> Diagnosis:
    """Judge a model on at most 256 rows that it was not trained on and, for overfitting, as many that it was."""
    fresh = score_rows(model, held_out[:ROWS], PARTICLES)
    kl = figure_of(fresh.kl)
    found = [
        _collapse_of(model, held_out[:ROWS], fresh, beta),
        None if train is None else overfit(score_rows(model, train[:ROWS], PARTICLES).elbo, fresh.elbo, kl.value),
        weak_encoder(gaps(model, held_out[:REFINED]).amortisation, kl.value),
        misfit(predictive_ranks(model, held_out[:ROWS]), likelihood),
        outliers(fresh.elbo, likelihood),
    ]
    gaussian = isinstance(eqx.filter_eval_shape(model.posterior, jnp.asarray(held_out[:1])).family, DiagonalGaussian)
    if gaussian and isinstance(model.prior, StandardNormal):
        found.append(
            mismatch(prior_mismatch(*(np.asarray(a, np.float64) for a in (fresh.mean, fresh.scale))), kl.value)
        )
    return Diagnosis(tuple(finding for finding in found if finding is not None))


def _collapse_of(model: LatentVariableModel, rows: np.ndarray, scores: RowScores, beta: float) -> Finding | None:
    active = int(np.sum(np.var(np.asarray(scores.mean), axis=0) > ACTIVE))
    likelihood, variance, spectrum = model.likelihood, None, None
    if isinstance(likelihood, Gaussian):
        variance = float(np.mean(np.asarray(likelihood.scale) ** 2))
        data = rows.reshape(len(rows), -1) if model.rows is None else rows[:, : math.prod(model.rows.shape)]
        spectrum = np.linalg.svd(data - data.mean(axis=0), compute_uv=False) ** 2 / len(data)
    return collapse(active, model.latent_dim, variance, spectrum, beta)


def collapse(
    active: int,
    latent_dim: int,
    variance: float | None = None,
    spectrum: Float[np.ndarray, " values"] | None = None,
    beta: float = 1.0,
) -> Finding | None:
    """Units that say nothing, and why: a Gaussian decoder of this variance can only use directions of the data whose
    eigenvalue exceeds it (Lucas et al. 2019, arXiv 1911.02469, for linear decoders). Fires when no unit is active, or
    fewer than half of those that the spectrum has use for."""
    useful = latent_dim if spectrum is None or variance is None else min(latent_dim, int(np.sum(spectrum > variance)))
    if active and (spectrum is None or active >= useful / 2):
        return None
    seen = f"{latent_dim - active} of {latent_dim} latent units say nothing about the data."
    if spectrum is not None and variance is not None and useful == 0:
        return Finding(
            "collapse",
            f"{seen} The decoder's noise variance {variance:.3g} is above the largest eigenvalue of the data's "
            f"covariance, {spectrum.max():.3g}, so noise explains all there is.",
            "Let the scale be learned, or give a smaller one; if it was learned, the columns are independent and there "
            "is nothing for z to say.",
        )
    if beta > 1:
        return Finding(
            "collapse", f"{seen} beta = {beta:g} makes every nat of code cost as much as {beta:g}.", "Use beta=1."
        )
    reason = "" if spectrum is None else f" {useful} directions of the data stand out of the noise ({variance:.3g})."
    return Finding(
        "collapse", seen + reason, "Train longer, start again with another random_state, or use a smaller decoder."
    )


def overfit(train: ArrayLike, held_out: ArrayLike, kl: float) -> Finding | None:
    """Fires when rows that were trained on have a higher ELBO, by more than 3 standard errors and a quarter of the
    code (at least half a nat)."""
    here, there = figure_of(train), figure_of(held_out)
    gap = here.value - there.value
    noise = math.hypot(here.standard_error, there.standard_error)
    if not gap > max(3 * noise, 0.25 * kl, LEAST):
        return None
    return Finding(
        "overfit",
        f"rows trained on have an ELBO {gap:.1f} nats above held-out ones ({here.value:.1f} against {there.value:.1f} "
        "in the model's units).",
        "Give more data, narrower layers (hidden=), or fewer epochs.",
    )


def weak_encoder(gap: Figure, kl: float) -> Finding | None:
    """Fires when the amortisation gap, less 2 standard errors, exceeds half a nat and a tenth of the code."""
    if not gap.value - 2 * gap.standard_error > max(LEAST, SHARE * kl):
        return None
    return Finding(
        "weak encoder",
        f"the best q of each datum is {gap.value:.1f} nats better than the encoder's answer.",
        "Give the encoder wider layers (hidden=) or an encoder= of its own, train longer, or give more data.",
    )


def mismatch(moments_and_marginals: float, kl: float) -> Finding | None:
    """Fires when what is seen of KL(q(z) || p(z)) exceeds half a nat and a tenth of the code."""
    if not moments_and_marginals > max(LEAST, SHARE * kl):
        return None
    return Finding(
        "prior mismatch",
        f"codes of data do not fill the prior: at least {moments_and_marginals:.1f} nats between them, so samples come "
        "from places that no datum has taught.",
        "Train longer, use fewer latent units or a richer prior, or sample around the codes of data.",
    )


NARROW, HEAVY, PEAKED, UNEVEN = 0.2, 0.14, 0.6, 0.15

_RICHER = {
    "poisson": "Use likelihood='negative-binomial', whose variance is free.",
    "negative-binomial": "Try likelihood='zero-inflated-negative-binomial'.",
    "bernoulli": "The values may depend on each other given z: use a larger decoder or more latent units.",
    "continuous-bernoulli": "For 8-bit levels use likelihood='discretised-logistic-mixture'.",
    "student-t": "Use likelihood='gaussian-output-scale', or transform the columns.",
    "discretised-logistic": "Use likelihood='discretised-logistic-mixture'.",
}


def misfit(ranks: Float[np.ndarray, "rows elements"], likelihood: str) -> Finding | None:
    """Ranks, in 0..1, of each value among draws of x given its own code: uniform under a right likelihood.

    Fires when the outer tenth holds over 20 %, when the middle half holds over 60 % and the outer tenth over 14 %
    (heavy tails), or when the middle half differs between elements by a standard deviation of 0.15 beyond chance.
    """
    outer = (ranks < 0.05) | (ranks > 0.95)
    middle = np.abs(ranks - 0.5) < 0.25
    tails, centre = float(outer.mean()), float(middle.mean())
    by_element = middle.mean(axis=0)
    uneven = math.sqrt(max(float(np.var(by_element)) - centre * (1 - centre) / len(ranks), 0.0))
    if tails > HEAVY and centre > PEAKED:
        seen = f"heavy tails: the outer tenth of predictions holds {tails:.0%} of the values, the middle {centre:.0%}."
        change = "Use likelihood='student-t'."
    elif likelihood in ("gaussian", "student-t") and uneven > UNEVEN:
        seen = "the noise differs between elements: one scale for all is too wide for some and too narrow for others."
        change = "Use likelihood='gaussian-per-feature' or 'gaussian-output-scale'; for bits, a discretised logistic."
    elif tails > NARROW:
        seen = f"{tails:.0%} of the values lie in the outer tenth of their predictions: the noise is too small."
        change = "Let the scale be learned, or use likelihood='gaussian-output-scale'."
    else:
        return None
    if not likelihood.startswith("gaussian"):
        change = _RICHER.get(likelihood, "Use a likelihood with a freer spread.")
    return Finding("likelihood misfit", seen, change)


FEW, APART = 0.02, 10.0


def outliers(elbo: ArrayLike, likelihood: str) -> Finding | None:
    """Fires when at most one row in fifty (or one row) lies below the median by over ten interquartile ranges and they
    pull the mean down by more than half a nat: then the ELBO, and when training ended, says most of these rows."""
    rows = np.asarray(elbo, np.float64)
    low, middle, high = np.quantile(rows, [0.25, 0.5, 0.75])
    far = middle - rows > APART * (high - low)
    pull = float(np.sum(middle - rows[far])) / len(rows)
    if not pull > LEAST or far.sum() > max(FEW * len(rows), 1):
        return None
    tails = "Use likelihood='student-t', or take them out" if likelihood.startswith("gaussian") else "Take them out"
    return Finding(
        "outliers",
        f"{int(far.sum())} of {len(rows)} rows, as improbable as {rows.min():.0f} nats where the middle is "
        f"{middle:.1f}, pull the mean ELBO down by {pull:.1f} nats.",
        f"{tails} if they are errors: score_samples(X) says which they are.",
    )


def predictive_ranks(model: LatentVariableModel, rows: np.ndarray, seed: int = 0) -> Float[np.ndarray, "rows elements"]:
    """Where each value lies among 19 draws from p(x|z), z ~ q(z|x), as a number in 0..1; ties are broken at random."""
    key = jax.random.key(seed, impl="threefry2x32")
    counts = in_blocks(lambda block: _counts(model, jnp.asarray(block), key), rows, DRAWS * math.prod(rows.shape[1:]))
    below, equal = (np.asarray(c, np.float64) for c in counts)
    chance = np.random.default_rng(seed).uniform(size=below.shape)
    return (below + chance * (equal + 1)) / (DRAWS + 1)


@eqx.filter_jit
def _counts(model: LatentVariableModel, xs: Float[Array, "data ..."], key: PRNGKeyArray) -> tuple[Array, Array]:
    data, given = (xs, None) if model.rows is None else jax.vmap(model.rows.split)(xs)
    q = model.posterior(xs)

    def draw(key: PRNGKeyArray) -> Array:
        z_key, x_key = jax.random.split(key)
        outputs = model.decode(q.sample_many(z_key, 1)[0], given)
        drawn = jax.vmap(model.likelihood.sample)(jax.random.split(x_key, len(xs)), outputs)
        return drawn.reshape(len(xs), -1)

    drawn, data = jax.lax.map(draw, jax.random.split(key, DRAWS)), data.reshape(len(xs), -1)
    tolerance = 1e-6 * (1 + jnp.abs(data))  # levels divided by 255 and multiplied again
    equal = jnp.abs(drawn - data) <= tolerance
    return jnp.sum((drawn < data) & ~equal, axis=0), jnp.sum(equal, axis=0)
