"""The aggregate posterior q(z) = mean_i q(z|x_i): how much the codes say, and whether they fill the prior."""

from __future__ import annotations

import math

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float

from qphi.autoencoders.model import LatentVariableModel
from qphi.families import DiagonalGaussian, StandardNormal

__all__ = ["mixture_log_prob", "prior_mismatch", "shared_code"]

ROWS = 1000  # components and draws at most: their pairs are held at once
DRAWS = 4  # of each row, for marginals


def shared_code(
    model: LatentVariableModel, xs: np.ndarray, mean: ArrayLike, scale: ArrayLike, kl: float
) -> dict[str, float | None]:
    """I_q(x; z), KL(q(z) || p(z)) and its part in moments and marginals, nats; None for q that are no Gaussians.

    mean_i KL(q(z|x_i) || p) = I_q(x; z) + KL(q(z) || p(z)) (Hoffman & Johnson 2016). I is E log q(z|x) - log q(z) with
    q(z) the mixture over at most 1,000 of these rows, so never above log n; near it, it only says that no two rows
    share a code, and the KL is too large by as much as I is too small.
    """
    if not isinstance(eqx.filter_eval_shape(model.posterior, jnp.asarray(xs[:1])).family, DiagonalGaussian):
        return {"mutual_information": None, "aggregate_kl": None, "prior_mismatch": None}
    rows = np.linspace(0, len(xs) - 1, min(len(xs), ROWS)).round().astype(int)
    m, s = np.asarray(mean, np.float64)[rows], np.asarray(scale, np.float64)[rows]
    noise = np.random.default_rng(0).normal(size=m.shape)
    own = -0.5 * np.sum(noise**2 + math.log(2 * math.pi), axis=1) - np.log(s).sum(axis=1)
    information = float(np.mean(own - mixture_log_prob(m + s * noise, m, s)))
    mismatch = prior_mismatch(m, s) if isinstance(model.prior, StandardNormal) else None
    return {"mutual_information": information, "aggregate_kl": kl - information, "prior_mismatch": mismatch}


def mixture_log_prob(
    z: Float[np.ndarray, "draws dim"], mean: Float[np.ndarray, "rows dim"], scale: Float[np.ndarray, "rows dim"]
) -> Float[np.ndarray, " draws"]:
    """log of the equal mixture of N(mean_i, diag scale_i^2) at each z."""
    weight = 1 / scale**2
    # sum_d (z - m)^2 / s^2 as matrix products: all pairs without an array of (draws, rows, dim)
    squares = z**2 @ weight.T - 2 * z @ (mean * weight).T + np.sum(mean**2 * weight, axis=1)
    log_p = -0.5 * (squares + z.shape[1] * math.log(2 * math.pi)) - np.log(scale).sum(axis=1)
    top = log_p.max(axis=1, keepdims=True)
    return top[:, 0] + np.log(np.mean(np.exp(log_p - top), axis=1))


def prior_mismatch(mean: Float[np.ndarray, "rows dim"], scale: Float[np.ndarray, "rows dim"]) -> float:
    """KL(N(m, C) || N(0, I)) for mean and covariance of q(z), plus each unit's KL(q(z_j) || N(m_j, C_jj)), nats.

    What of KL(q(z) || N(0, I)) can be told from few rows: it sees means, scales, correlations and the shape of every
    marginal, not the shape of the whole.
    """
    centre = mean.mean(axis=0)
    covariance = np.cov(mean.T, bias=True).reshape(mean.shape[1], -1) + np.diag(np.mean(scale**2, axis=0))
    _, log_det = np.linalg.slogdet(covariance)
    moments = 0.5 * (np.trace(covariance) + centre @ centre - len(centre) - log_det)
    noise = np.random.default_rng(1).normal(size=(DRAWS, *mean.shape))
    marginals = 0.0
    for j in range(mean.shape[1]):
        m, s, sd = mean[:, j : j + 1], scale[:, j : j + 1], math.sqrt(covariance[j, j])
        z = (m + s * noise[:, :, j : j + 1]).reshape(-1, 1)
        normal = -0.5 * ((z[:, 0] - centre[j]) / sd) ** 2 - 0.5 * math.log(2 * math.pi) - math.log(sd)
        marginals += max(float(np.mean(mixture_log_prob(z, m, s) - normal)), 0.0)
    return float(moments) + marginals
