"""Gaussian families: standard normal, mean field, full rank."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from qphi.families.base import AbstractTransport

__all__ = ["DiagonalGaussian", "FullRankGaussian", "StandardNormal"]

_LOG_2PI = math.log(2 * math.pi)


class StandardNormal(AbstractTransport):
    """N(0, I) over R^size. Nothing in it is learned: the usual prior p(z)."""

    size: int

    @property
    def dim(self) -> int:
        return self.size

    def transport(self, eps: Float[Array, " dim"]) -> Float[Array, " dim"]:
        return eps

    def log_prob(self, z: Float[Array, " dim"]) -> Float[Array, ""]:
        # -1/2 |z|^2 - d/2 log 2 pi
        return -0.5 * jnp.sum(z**2) - 0.5 * self.size * _LOG_2PI

    @property
    def has_entropy(self) -> bool:
        return True

    def entropy(self) -> Float[Array, ""]:
        return jnp.asarray(0.5 * self.size * (1 + _LOG_2PI))


class DiagonalGaussian(AbstractTransport):
    """N(mean, diag(exp(log_scale))^2): the mean-field Gaussian, and the VAE's q_phi(z|x).

    z = g_phi(eps) = mean + exp(log_scale) * eps with eps ~ N(0, I) (Kingma & Welling 2014, section 2.4).
    Wrong when latents are correlated under the posterior: its scales are then too small.
    """

    mean: Float[Array, " dim"]
    log_scale: Float[Array, " dim"]

    @property
    def dim(self) -> int:
        return self.mean.shape[-1]

    @property
    def scale(self) -> Float[Array, " dim"]:
        """Standard deviations."""
        return jnp.exp(self.log_scale)

    def transport(self, eps: Float[Array, " dim"]) -> Float[Array, " dim"]:
        return self.mean + self.scale * eps.astype(self.mean.dtype)

    def log_prob(self, z: Float[Array, " dim"]) -> Float[Array, ""]:
        eps = (z - self.mean) / self.scale
        return jnp.sum(-0.5 * eps**2 - self.log_scale - 0.5 * _LOG_2PI)

    @property
    def has_entropy(self) -> bool:
        return True

    def entropy(self) -> Float[Array, ""]:
        # H = sum_j log sigma_j + d/2 (1 + log 2 pi)
        return jnp.sum(self.log_scale + 0.5 * (1 + _LOG_2PI))


class FullRankGaussian(AbstractTransport):
    """N(mean, C C') with C lower triangular: z = mean + C eps.

    The diagonal of C is kept linear, not exponential, which provably slows stochastic gradients down
    (Domke, Gower & Garrigos 2023, arXiv 2306.03638); its sign does not matter. d (d + 3) / 2 parameters.
    """

    mean: Float[Array, " dim"]
    tril: Float[Array, "dim dim"]

    @property
    def dim(self) -> int:
        return self.mean.shape[-1]

    @property
    def scale_tril(self) -> Float[Array, "dim dim"]:
        """C, with zeros above the diagonal."""
        return jnp.tril(self.tril)

    @property
    def covariance(self) -> Float[Array, "dim dim"]:
        """C C'."""
        return self.scale_tril @ self.scale_tril.T

    def transport(self, eps: Float[Array, " dim"]) -> Float[Array, " dim"]:
        return self.mean + self.scale_tril @ eps.astype(self.mean.dtype)

    def log_prob(self, z: Float[Array, " dim"]) -> Float[Array, ""]:
        eps = jax.scipy.linalg.solve_triangular(self.scale_tril, z - self.mean, lower=True)
        return -0.5 * jnp.sum(eps**2) - self._log_det() - 0.5 * self.dim * _LOG_2PI

    @property
    def has_entropy(self) -> bool:
        return True

    def entropy(self) -> Float[Array, ""]:
        return self._log_det() + 0.5 * self.dim * (1 + _LOG_2PI)

    def _log_det(self) -> Float[Array, ""]:
        return jnp.sum(jnp.log(jnp.abs(jnp.diagonal(self.tril))))
