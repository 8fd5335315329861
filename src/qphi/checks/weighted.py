"""Weighted draws: moments of everything that is reported, with their errors and whether these can be believed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import logsumexp, ndtri

from qphi.checks.pareto import smooth_log_weights, tail_shape, tail_size

__all__ = [
    "BLOCK",
    "Moments",
    "WeightCheck",
    "believable",
    "check_weights",
    "constant",
    "flattened",
    "noisy",
    "unflattened",
    "weighted_moments",
]

_MEAN_ERROR, _SD_ERROR = 0.1, 0.1  # Monte Carlo standard errors allowed, in posterior sds
_KHAT, _LIGHT = 0.7, 0.3
BLOCK = 512  # columns at a time


@dataclasses.dataclass(frozen=True)
class WeightCheck:
    """What the weights w = p / r of reflected pairs say about a proposal r, and log q of the Gaussian inside it.

    `elbo` is that of the Gaussian, `kl` = `log_evidence` - `elbo` its distance from the posterior; nats.
    `log_weight_variance` is of log p / q over the Gaussian's own pairs, lifted: twice the KL that lifting leaves, when
    that is small. `khat` and `ess` are of the pairs' weights under the defensive proposal.
    """

    pairs: int
    elbo: float
    elbo_standard_error: float
    log_evidence: float
    log_evidence_standard_error: float
    log_weight_variance: float
    khat: float
    ess: float

    @property
    def kl(self) -> float:
        """KL(q || p) of the Gaussian, nats."""
        return max(self.log_evidence - self.elbo, 0.0)


@dataclasses.dataclass(frozen=True)
class Moments:
    """Of each column: mean and sd with Monte Carlo standard errors, and the tail shape k of what they average.

    Each k is estimated from `tail` numbers. `mean_own`, `sd_own`: that of the values themselves, unweighted
    (`with_own_tails`); None where that was not asked. `far`: distances from the mean of the furthest draws, in falling
    order, with the shares of E|h - mean| and of E(h - mean)^2 that lie at each and beyond. `reach`: a distance that
    five chains or more have been at (`with_reach`). An infinite error: nobody knows (`with_ease`).
    """

    mean: Float[np.ndarray, " columns"]
    sd: Float[np.ndarray, " columns"]
    mean_error: Float[np.ndarray, " columns"]
    sd_error: Float[np.ndarray, " columns"]
    mean_khat: Float[np.ndarray, " columns"]
    sd_khat: Float[np.ndarray, " columns"]
    tail: int
    mean_own: Float[np.ndarray, " columns"] | None = None
    sd_own: Float[np.ndarray, " columns"] | None = None
    far: Float[np.ndarray, "3 furthest columns"] | None = None
    reach: Float[np.ndarray, " columns"] | None = None

    @property
    def highest_khat(self) -> float:
        """The k above which a tail is too heavy: 0.7, or what the largest of as many light tails may seem to have.

        A light tail, k <= 0.3, seems heavier than 0.3 + 1.3 u / tail^(1/2) in one of 100 sets of columns, u being the
        normal quantile of 1 - 0.01 / columns: this matters from some hundred columns on.
        """
        u = -ndtri(0.01 / max(self.mean.size, 1))
        return max(_KHAT, _LIGHT + u * (1 + _LIGHT) / math.sqrt(max(self.tail, 1)))


def check_weights(
    log_p: Float[np.ndarray, " draws"],
    log_r: Float[np.ndarray, " draws"],
    log_q: Float[np.ndarray, " draws"],
    is_gaussian: np.ndarray,
) -> tuple[WeightCheck, Float[np.ndarray, " draws"]]:
    """The check, and normalised, Pareto-smoothed weights of the draws (rows i and n/2 + i are a pair)."""
    log_w = log_p - log_r
    pairs = len(log_w) // 2
    halves = log_w.reshape(2, pairs)
    log_pair = np.asarray(logsumexp(halves, axis=0))
    smoothed, khat = smooth_log_weights(log_pair)
    with np.errstate(invalid="ignore"):
        split = np.where(np.isfinite(log_pair), halves - log_pair, -math.log(2))
    top = smoothed.max()
    weights = np.exp(smoothed - top)
    ess = float(weights.sum() ** 2 / np.sum(weights**2)) if np.isfinite(top) else 0.0
    log_evidence = float(top + math.log(weights.mean() / 2)) if np.isfinite(top) else -math.inf
    own = (log_p - log_q)[is_gaussian].reshape(2, -1)
    lifted = np.asarray(logsumexp(own, axis=0)) - math.log(2)
    paired = own.mean(axis=0)
    finite = bool(np.isfinite(paired).all())
    with np.errstate(over="ignore"):
        spread = float(paired.std(ddof=1)) if finite else math.nan
        variance = float(lifted.var(ddof=1)) if np.isfinite(lifted).all() else math.inf
    check = WeightCheck(
        pairs=pairs,
        elbo=float(paired.mean()),  # -inf or NaN where a draw's is
        elbo_standard_error=spread / math.sqrt(paired.size),
        log_evidence=log_evidence,
        log_evidence_standard_error=math.sqrt(max(1 / ess - 1 / pairs, 0)) if ess else math.inf,
        log_weight_variance=variance,
        khat=khat,
        ess=ess,
    )
    point = (weights / weights.sum()) * np.exp(split)
    return check, point.ravel()


def weighted_moments(
    values: Float[np.ndarray, "draws columns"], weights: Float[np.ndarray, " draws"], independent: int | None = None
) -> Moments:
    """Self-normalised importance sampling estimates; standard errors by the delta method.

    Rows i, i + `independent`, i + 2 `independent`, ... belong together (a pair, or the states of a chain), and only
    their sums are independent: the errors are from the spread of these. The default is pairs, len(values) / 2 of them.
    The tail shapes are of w |h - mean| and of w (h - mean)^2, summed over pairs: above 0.7 the average has no error
    that can be relied on, above 1 it estimates nothing (a mean or variance that does not exist).
    """
    blocks = range(0, max(values.shape[1], 1), BLOCK)  # what is in between is larger than the values
    independent = len(values) // 2 if independent is None else independent
    parts = [_moments(values[:, begin : begin + BLOCK], weights, independent) for begin in blocks]
    return Moments(*map(np.concatenate, zip(*parts, strict=True)), tail=tail_size(len(values) // 2))


def _moments(values: Float[np.ndarray, "draws columns"], weights: Float[np.ndarray, " draws"], independent: int) -> Any:
    """The fields of `Moments`."""
    pairs = len(values) // 2
    with np.errstate(over="ignore", invalid="ignore"):
        mean = weights @ values
        centered = values - mean
        first = weights[:, None] * centered
        second = first * centered
        # of absolute values: where the two of a pair cancel, what is left is rounding, whose tail says nothing
        size = np.abs(first[:pairs]) + np.abs(first[pairs:])
        square = second[:pairs] + second[pairs:]
        variance = second.sum(axis=0)
        sd = np.sqrt(variance)
        excess = second - weights[:, None] * variance
        mean_error, variance_error = (
            np.sqrt(np.sum(terms.reshape(-1, independent, terms.shape[1]).sum(axis=0) ** 2, axis=0))
            for terms in (first, excess)
        )
        sd_error = variance_error / (2 * sd)  # NaN for what is constant
    return mean, sd, mean_error, sd_error, tail_shape(size), tail_shape(square)


def flattened(values: Mapping[str, np.ndarray]) -> Float[np.ndarray, "draws columns"]:
    """Named draws side by side, a column for each component."""
    return np.concatenate([np.asarray(v, np.float64).reshape(len(v), -1) for v in values.values()], axis=1)


def unflattened(columns: np.ndarray, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """One number for each column, named and shaped as the values are."""
    named, begin = {}, 0
    for name, value in values.items():
        size = math.prod(value.shape[1:])
        named[name] = columns[begin : begin + size].reshape(value.shape[1:])
        begin += size
    return named


def constant(m: Moments) -> Bool[np.ndarray, " columns"]:
    """Which columns do not vary, but for rounding."""
    return m.sd <= 1e-12 * (1 + np.abs(m.mean))


def believable(m: Moments) -> tuple[Bool[np.ndarray, " columns"], Bool[np.ndarray, " columns"]]:
    """For each column, whether its mean and its sd have errors that are small and can be relied on."""
    with np.errstate(invalid="ignore"):
        mean_ok = constant(m) | ((m.mean_khat < m.highest_khat) & (m.mean_error < _MEAN_ERROR * m.sd))
        sd_ok = constant(m) | ((m.sd_khat < m.highest_khat) & (m.sd_error < _SD_ERROR * m.sd))
    return mean_ok, sd_ok


def noisy(m: Moments) -> bool:
    """Whether more draws would help: an error is too large, but finite, and not because of a tail."""
    mean_ok, sd_ok = believable(m)
    tame = (m.mean_khat < m.highest_khat, m.sd_khat < m.highest_khat)
    tame = [t & ~np.isposinf(error) for t, error in zip(tame, (m.mean_error, m.sd_error), strict=True)]
    return bool(np.any(~mean_ok & tame[0]) or np.any(~sd_ok & tame[1]))
