"""Factor analysis of data with gaps, by expectation maximisation on the host: where a table's model starts."""

from __future__ import annotations

import equinox as eqx
import numpy as np
from jaxtyping import Float

__all__ = ["FactorAnalysis", "factor_analysis"]

LEAST_NOISE = 1e-4  # of a column's variance: columns that others determine have none of their own
MOST_RELEVANCE = 20.0  # prior precision of a factor's weights at most: one may come back
PRIOR_ROWS = 2.0  # rows' worth of belief that a column is half noise


class FactorAnalysis(eqx.Module):
    """x = mean + weight z + noise, z ~ N(0, I), noise ~ N(0, diag(noise)): noise are variances."""

    weight: Float[np.ndarray, "columns dim"]
    mean: Float[np.ndarray, " columns"]
    noise: Float[np.ndarray, " columns"]

    def moments(
        self, x: Float[np.ndarray, "rows columns"]
    ) -> tuple[Float[np.ndarray, "rows dim"], Float[np.ndarray, "rows dim dim"]]:
        """Mean and covariance of z given the cells that are not NaN."""
        seen = ~np.isnan(x)
        return _posterior(self.weight, self.noise, np.where(seen, x - self.mean, 0.0), seen, np.arange(len(x)))

    def fill(self, x: Float[np.ndarray, "rows columns"]) -> Float[np.ndarray, "rows columns"]:
        """x with NaN replaced by E[x_mis | x_obs]: the Gaussian conditional mean."""
        means, _ = self.moments(x)
        return np.where(np.isnan(x), self.mean + means @ self.weight.T, x)


def factor_analysis(
    x: Float[np.ndarray, "rows columns"], dim: int, *, iterations: int = 60, seed: int = 0
) -> FactorAnalysis:
    """Maximum a posteriori factor analysis of standardised columns from their observed cells (not NaN).

    Each factor's weights have a prior precision of their own, the inverse of their mean square (automatic relevance
    determination), at most 20, so that factors that the data do not need stay small. Gaps are handled exactly: every
    row has the posterior of its own observed cells. Sources: Ghahramani & Hinton (1996) for EM; Bishop (1999) for the
    prior.
    """
    rows, columns = x.shape
    seen = ~np.isnan(x)
    zeros = np.where(seen, x, 0.0)
    count = seen.sum(axis=0)
    mean = zeros.sum(axis=0) / np.maximum(count, 1)
    dim = max(1, min(dim, columns - 1, rows - 1)) if columns > 1 else 1
    weight = _principal(np.where(seen, x - mean, 0.0), dim, seed)
    noise = np.full(columns, 0.5)
    patterns, member = np.unique(seen, axis=0, return_inverse=True)  # rows with the same gaps share a covariance
    member = member.ravel()
    order = np.argsort(member, kind="stable")
    starts = np.searchsorted(member[order], np.arange(len(patterns)))
    for _ in range(iterations):
        z, covariance = _posterior(weight, noise, np.where(seen, x - mean, 0.0), patterns, member)
        one = np.concatenate([z, np.ones((rows, 1))], axis=1)
        second = np.stack([part.T @ part for part in np.split(one[order], starts[1:])])
        second[:, :dim, :dim] += np.bincount(member)[:, None, None] * covariance
        gram = (patterns.T.astype(float) @ second.reshape(len(patterns), -1)).reshape(columns, dim + 1, dim + 1)
        right = zeros.T @ one
        relevance = np.append(1 / (np.mean(weight**2, axis=0) + 1 / MOST_RELEVANCE), 1e-6)
        both = np.linalg.solve(gram + noise[:, None, None] * np.diag(relevance), right[..., None])[..., 0]
        weight, mean = both[:, :dim], both[:, dim]
        residual = np.sum(zeros**2, axis=0) - 2 * np.sum(both * right, axis=1)
        residual += np.einsum("ci,cij,cj->c", both, gram, both)
        noise = np.maximum((residual + 0.5 * PRIOR_ROWS) / (count + PRIOR_ROWS), LEAST_NOISE)
    return FactorAnalysis(weight, mean, noise)


def _posterior(weight, noise, centred, patterns, member):
    """Means of z for each row, and covariances for each pattern of seen cells, of which rows are members."""
    dim = weight.shape[1]
    outer = (weight[:, :, None] * weight[:, None, :]).reshape(-1, dim * dim)
    precision = np.eye(dim) + ((patterns / noise) @ outer).reshape(-1, dim, dim)
    covariance = np.linalg.inv(precision)
    return np.einsum("nij,nj->ni", covariance[member], (centred / noise) @ weight), covariance


def _principal(centred, dim, seed):
    _, values, vectors = np.linalg.svd(centred, full_matrices=False)
    weight = np.zeros((centred.shape[1], dim))
    found = min(dim, len(values))
    weight[:, :found] = vectors[:found].T * values[:found] / np.sqrt(len(centred))
    return weight + 0.01 * np.random.default_rng(seed).normal(size=weight.shape)
