"""A Gaussian that is diagonal but for a few directions, wider or narrower: linear in the dimension."""

from __future__ import annotations

import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from qphi.families.base import AbstractTransport

__all__ = ["SpikedGaussian"]

_LOG_2PI = math.log(2 * math.pi)


class SpikedGaussian(AbstractTransport):
    """z = mean + D (I + V diag(excess) V') eps, D = diag(exp(log_scale)), V of shape (dim, rank).

    With orthonormal columns of V, the standard deviations in units of the scales are 1 + excess along them and 1
    elsewhere. Unlike `LowRankGaussian` it can be narrower than its scales along a direction (excess < 0), and it is a
    map of as many numbers as z has. d (rank + 2) numbers; a density costs O(d rank^2), by Woodbury's identity. Wrong
    when more than `rank` directions are correlated. What `qphi.fit` finds above 1,000 dimensions. Source: the spiked
    covariance model of Johnstone (2001).
    """

    mean: Float[Array, " dim"]
    log_scale: Float[Array, " dim"]
    directions: Float[Array, "dim rank"]
    excess: Float[Array, " rank"]

    @property
    def dim(self) -> int:
        return self.mean.shape[-1]

    @property
    def scale(self) -> Float[Array, " dim"]:
        """Marginal standard deviations, the root of the diagonal of C C'."""
        v, w = self.directions, self.excess
        # (I + V W V')^2 = I + V (2 W + W V'V W) V'
        return jnp.exp(self.log_scale) * jnp.sqrt(
            1 + jnp.einsum("ij,jk,ik->i", v, 2 * jnp.diag(w) + (w[:, None] * (v.T @ v)) * w, v)
        )

    def transport(self, eps: Float[Array, " dim"]) -> Float[Array, " dim"]:
        eps = eps.astype(self.mean.dtype)
        return self.mean + jnp.exp(self.log_scale) * (eps + self.directions @ (self.excess * (self.directions.T @ eps)))

    def log_prob(self, z: Float[Array, " dim"]) -> Float[Array, ""]:
        u = (z - self.mean) * jnp.exp(-self.log_scale)
        # (I + V W V')^-1 = I - V W (I + V'V W)^-1 V'
        along = jnp.linalg.solve(self._core(), self.directions.T @ u)
        eps = u - self.directions @ (self.excess * along)
        return -0.5 * jnp.sum(eps**2) - self._log_det() - 0.5 * self.dim * _LOG_2PI

    @property
    def has_entropy(self) -> bool:
        return True

    def entropy(self) -> Float[Array, ""]:
        return self._log_det() + 0.5 * self.dim * (1 + _LOG_2PI)

    def _core(self) -> Float[Array, "rank rank"]:
        """I + V'V W."""
        return jnp.eye(self.excess.size, dtype=self.mean.dtype) + (self.directions.T @ self.directions) * self.excess

    def _log_det(self) -> Float[Array, ""]:
        return jnp.sum(self.log_scale) + jnp.linalg.slogdet(self._core())[1]
