"""A multivariate Student-t: a full-rank Gaussian with heavier tails."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax.scipy.special import gammaln
from jaxtyping import Array, Float, PRNGKeyArray

from qphi.families.base import AbstractFamily

__all__ = ["StudentT"]


class StudentT(AbstractFamily):
    """t_df(mean, C C'), C lower triangular, df = exp(log_df): z = mean + C eps / sqrt(g / df), g ~ chi-squared(df).

    The gamma draw carries its derivative with respect to df (implicit reparameterisation: Figurnov, Mohamed & Mnih
    2018). The covariance is C C' df / (df - 2) where df > 2, and does not exist otherwise.
    """

    mean: Float[Array, " dim"]
    tril: Float[Array, "dim dim"]
    log_df: Float[Array, ""]

    @property
    def dim(self) -> int:
        return self.mean.shape[-1]

    @property
    def df(self) -> Float[Array, ""]:
        """Degrees of freedom."""
        return jnp.exp(self.log_df)

    def sample(self, key: PRNGKeyArray) -> Float[Array, " dim"]:
        normal, gamma = jax.random.split(key)
        eps = jax.random.normal(normal, (self.dim,)).astype(self.mean.dtype)
        half = 0.5 * self.df
        # g / df = gamma(df / 2) / (df / 2); its logarithm does not underflow for small df
        log_ratio = jax.random.loggamma(gamma, half) - jnp.log(half)
        return self.mean + jnp.tril(self.tril) @ eps * jnp.exp(-0.5 * log_ratio)

    def log_prob(self, z: Float[Array, " dim"]) -> Float[Array, ""]:
        eps = jax.scipy.linalg.solve_triangular(jnp.tril(self.tril), z - self.mean, lower=True)
        df, dim = self.df, self.dim
        constant = gammaln(0.5 * (df + dim)) - gammaln(0.5 * df) - 0.5 * dim * (self.log_df + math.log(math.pi))
        log_det = jnp.sum(jnp.log(jnp.abs(jnp.diagonal(self.tril))))
        return constant - log_det - 0.5 * (df + dim) * jnp.log1p(jnp.sum(eps**2) / df)
