"""p(z) of tables where N(0, I) is not enough: a mixture of Gaussians that is evaluated by products alone."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from qphi.families import AbstractFamily

__all__ = ["WhitenedMixture"]

_LOG_2PI = math.log(2 * math.pi)


class WhitenedMixture(AbstractFamily):
    """p(z) = sum_c pi_c N(z | mean_c, C_c C_c'), pi = softmax(logits), with C_c^-1 kept beside C_c.

    `GaussianMixture` solves a triangular system for each component and point; here that is one product with C_c^-1, so
    that a program which weighs many rows has no batched factorisation (see `qphi.systems`). For priors that are
    fitted once and not trained: a step that moves C_c would leave C_c^-1 behind.
    """

    logits: Float[Array, " components"]
    means: Float[Array, "components dim"]
    trils: Float[Array, "components dim dim"]
    inverses: Float[Array, "components dim dim"]

    @staticmethod
    def of(
        weights: Float[np.ndarray, " components"],
        means: Float[np.ndarray, "components dim"],
        covariances: Float[np.ndarray, "components dim dim"],
    ) -> WhitenedMixture:
        """From plain arrays, factorised on the host. Raises numpy.linalg.LinAlgError for an indefinite covariance."""
        trils = np.linalg.cholesky(np.asarray(covariances, np.float64))
        parts = (np.log(weights), means, trils, np.linalg.inv(trils))
        return WhitenedMixture(*(jnp.asarray(part, jnp.float32) for part in parts))

    @property
    def dim(self) -> int:
        return self.means.shape[-1]

    def sample(self, key: PRNGKeyArray) -> Float[Array, " dim"]:
        choose, draw = jax.random.split(key)
        c = jax.random.categorical(choose, self.logits)
        return self.means[c] + self.trils[c] @ jax.random.normal(draw, (self.dim,), self.means.dtype)

    def log_prob(self, z: Float[Array, " dim"]) -> Float[Array, ""]:
        eps = jnp.einsum("cij,cj->ci", self.inverses, z - self.means)
        log_det = jnp.sum(jnp.log(jnp.abs(jnp.diagonal(self.inverses, axis1=1, axis2=2))), axis=1)
        each = log_det - 0.5 * jnp.sum(eps**2, axis=1) - 0.5 * self.dim * _LOG_2PI
        return jax.nn.logsumexp(jax.nn.log_softmax(self.logits) + each)
