"""A Gaussian whose covariance is low rank plus diagonal: linear in the dimension."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from qphi.families.base import AbstractFamily

__all__ = ["LowRankGaussian"]

_LOG_2PI = math.log(2 * math.pi)


class LowRankGaussian(AbstractFamily):
    """N(mean, F F' + diag(exp(log_scale))^2) with F of shape (dim, rank): z = mean + F e + exp(log_scale) * eps.

    d (rank + 2) numbers instead of d (d + 3) / 2; a density costs O(d rank^2) by the identities of Woodbury and of the
    matrix determinant. Wrong when more than `rank` directions are correlated. Source: Ong, Nott & Smith (2018).
    """

    mean: Float[Array, " dim"]
    factor: Float[Array, "dim rank"]
    log_scale: Float[Array, " dim"]

    @property
    def dim(self) -> int:
        return self.mean.shape[-1]

    @property
    def covariance(self) -> Float[Array, "dim dim"]:
        """F F' + diag(exp(log_scale))^2."""
        return self.factor @ self.factor.T + jnp.diag(jnp.exp(2 * self.log_scale))

    def sample(self, key: PRNGKeyArray) -> Float[Array, " dim"]:
        rank = self.factor.shape[-1]
        eps = jax.random.normal(key, (rank + self.dim,)).astype(self.mean.dtype)
        return self.mean + self.factor @ eps[:rank] + jnp.exp(self.log_scale) * eps[rank:]

    def log_prob(self, z: Float[Array, " dim"]) -> Float[Array, ""]:
        u = (z - self.mean) * jnp.exp(-self.log_scale)
        scaled, root = self._core()
        inner = jax.scipy.linalg.solve_triangular(root, scaled.T @ u, lower=True)
        # u' (I + G G')^-1 u = |u|^2 - |K^-1/2 G' u|^2, K = I + G' G
        return -0.5 * (jnp.sum(u**2) - jnp.sum(inner**2)) - self._log_det(root) - 0.5 * self.dim * _LOG_2PI

    @property
    def has_entropy(self) -> bool:
        return True

    def entropy(self) -> Float[Array, ""]:
        return self._log_det(self._core()[1]) + 0.5 * self.dim * (1 + _LOG_2PI)

    def _core(self) -> tuple[Float[Array, "dim rank"], Float[Array, "rank rank"]]:
        """G = diag(scale)^-1 F, and the Cholesky factor of I + G' G."""
        scaled = self.factor * jnp.exp(-self.log_scale)[:, None]
        return scaled, jnp.linalg.cholesky(jnp.eye(scaled.shape[-1], dtype=scaled.dtype) + scaled.T @ scaled)

    def _log_det(self, root: Float[Array, "rank rank"]) -> Float[Array, ""]:
        return jnp.sum(self.log_scale) + jnp.sum(jnp.log(jnp.diagonal(root)))
