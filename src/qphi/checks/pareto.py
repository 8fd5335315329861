"""Pareto-smoothed importance sampling: how heavy the tail of importance weights is, and a tamer version of it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from jaxtyping import Float

__all__ = ["khat_threshold", "smooth_log_weights", "tail_shape", "tail_shape_of_largest", "tail_size"]

_PRIOR_DRAWS, _PRIOR_SHAPE = 10, 0.5  # a weak prior that steadies k on short tails (Vehtari et al. 2024, appendix G)
_FEWEST = 5  # tail draws; with fewer nothing is said


def tail_size(draws: int) -> int:
    """How many of the largest weights count as the tail: min(S / 5, 3 sqrt(S)) (Vehtari et al. 2024)."""
    return math.ceil(min(draws / 5, 3 * math.sqrt(draws)))


def khat_threshold(draws: int) -> float:
    """Above this k the weighted mean of `draws` draws is not to be relied on: min(1 - 1 / log10 S, 0.7)."""
    return min(1 - 1 / math.log10(draws), 0.7)


def smooth_log_weights(log_w: Float[np.ndarray, " draws"]) -> tuple[Float[np.ndarray, " draws"], float]:
    """Pareto-smoothed log weights, and k, the shape of their tail.

    The largest weights are replaced by the expected order statistics of a generalised Pareto distribution fitted to
    them, and none exceeds the largest raw one. k < 0.5: the weights have a variance; k < 0.7: weighted means can be
    relied on; k >= 1: they have no mean. -inf (density zero) is allowed, NaN and +inf give k = inf unchanged. Source:
    Vehtari, Simpson, Gelman, Yao & Gabry (JMLR 2024, arXiv 1507.02646).
    """
    log_w = np.asarray(log_w, np.float64)
    if np.isnan(log_w).any() or np.isposinf(log_w).any():
        return log_w, math.inf
    count = tail_size(log_w.size)
    top = log_w.max(initial=-np.inf)
    order = np.argsort(log_w, kind="stable")
    tail, cutoff = order[-count:], log_w[order[-count - 1]] if log_w.size > count else -np.inf
    if count < _FEWEST or not np.isfinite(top) or not np.isfinite(cutoff):
        return log_w, math.inf if not np.isfinite(top) or not np.isfinite(cutoff) else 0.0
    excess = np.exp(log_w[tail] - top) - math.exp(cutoff - top)
    if excess[-1] <= 1e-12:  # constant: no tail to speak of
        return log_w, -math.inf
    shape, scale = map(float, _fit_pareto(np.maximum(excess, 1e-300)))
    probabilities = (np.arange(count) + 0.5) / count
    with np.errstate(over="ignore"):  # an infinite quantile is cut at the largest weight
        quantiles = math.exp(cutoff - top) + _pareto_quantiles(probabilities, shape, scale)
    smoothed = log_w.copy()
    smoothed[tail] = np.minimum(np.log(quantiles), 0.0) + top
    return smoothed, shape


def tail_shape(ratios: Float[np.ndarray, "draws *columns"]) -> Float[np.ndarray, "*columns"]:
    """k of the upper tail of each column of non-negative numbers, such as |h(z)| w(z): whether their mean exists.

    inf for a column with NaN or infinite entries, -inf for one without any spread.
    """
    flat = np.asarray(ratios, np.float64).reshape(len(ratios), -1)
    count = tail_size(len(flat))
    shapes = np.full(flat.shape[1], -math.inf)
    finite = np.isfinite(flat).all(axis=0)
    shapes[~finite] = math.inf
    top = np.sort(np.partition(flat, -count - 1, axis=0)[-count - 1 :], axis=0)
    with np.errstate(invalid="ignore"):
        spread = finite & (top[-1] > top[0] * (1 + 1e-12)) & (top[-1] > 0)
    top = top[:, spread]
    if top.size:
        shapes[spread], _ = _fit_pareto(np.maximum((top[1:] - top[0]) / top[-1], 1e-300))
    return shapes.reshape(np.shape(ratios)[1:])


def tail_shape_of_largest(log_w: Float[np.ndarray, "columns largest"], draws: int) -> Float[np.ndarray, " columns"]:
    """k of each row of `draws` log weights of which only the largest were kept, in descending order.

    NaN where the tail has fewer than five draws; inf for NaN or infinite weights, -inf for a tail that spreads by less
    than a thousandth: single precision gives no better, and no mean depends on it.
    """
    count = min(tail_size(draws), log_w.shape[1] - 1)
    log_w = np.asarray(log_w[:, : count + 1], np.float64)
    if count < _FEWEST:
        return np.full(len(log_w), math.nan)
    ratios = np.exp(log_w - log_w[:, :1])
    shapes = np.where(np.isfinite(log_w).all(axis=1), -math.inf, math.inf)
    spread = np.isfinite(log_w).all(axis=1) & (ratios[:, 0] - ratios[:, -1] > 1e-3)
    if spread.any():
        excess = ratios[spread, :-1] - ratios[spread, -1:]
        shapes[spread], _ = _fit_pareto(np.maximum(excess.T, 1e-300))
    return shapes


def _fit_pareto(excess: Float[np.ndarray, "tail *columns"]) -> tuple[Any, Any]:
    """Shape and scale of a generalised Pareto distribution, by the empirical Bayes estimate of Zhang & Stephens (2009).

    A number each, or one for each column. theta = shape / scale on a grid weighted by its profile likelihood; then the
    shape is shrunk towards 1/2.
    """
    x = np.sort(excess, axis=0)
    n = len(x)
    points = 30 + int(math.sqrt(n))
    quarter = x[int(n / 4 + 0.5) - 1]
    grid = 1 - np.sqrt(points / (np.arange(1, points + 1) - 0.5))
    theta = np.array([step / (3 * quarter) + 1 / x[-1] for step in grid])
    shapes = np.array([np.mean(np.log1p(-row * x), axis=0) for row in theta])
    profile = n * (np.log(-theta / shapes) - shapes - 1)
    weights = np.exp(profile - profile.max(axis=0))
    weights /= weights.sum(axis=0)
    estimate = np.sum(theta * weights, axis=0)
    shape = np.mean(np.log1p(-estimate * x), axis=0)
    scale = -shape / estimate
    return (n * shape + _PRIOR_DRAWS * _PRIOR_SHAPE) / (n + _PRIOR_DRAWS), scale


def _pareto_quantiles(p: Float[np.ndarray, " n"], shape: float, scale: float) -> Float[np.ndarray, " n"]:
    if abs(shape) < 1e-12:
        return -scale * np.log1p(-p)
    return scale * np.expm1(-shape * np.log1p(-p)) / shape
