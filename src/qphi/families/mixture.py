"""A mixture of full-rank Gaussians: one component for each mode."""

from __future__ import annotations

import jax
from jaxtyping import Array, Float, PRNGKeyArray

from qphi.families.base import AbstractFamily
from qphi.families.gaussian import FullRankGaussian

__all__ = ["GaussianMixture"]


class GaussianMixture(AbstractFamily):
    """q(z) = sum_c pi_c N(z | mean_c, C_c C_c'), pi = softmax(logits).

    A draw is reparameterised within its component, not in the choice of it: pathwise gradients with respect to
    `logits` are zero, so a stochastic gradient moves components and not their weights.
    """

    logits: Float[Array, " components"]
    means: Float[Array, "components dim"]
    trils: Float[Array, "components dim dim"]

    @property
    def dim(self) -> int:
        return self.means.shape[-1]

    def sample(self, key: PRNGKeyArray) -> Float[Array, " dim"]:
        choose, draw = jax.random.split(key)
        c = jax.random.categorical(choose, self.logits)
        return FullRankGaussian(self.means[c], self.trils[c]).sample(draw)

    def log_prob(self, z: Float[Array, " dim"]) -> Float[Array, ""]:
        each = jax.vmap(lambda mean, tril: FullRankGaussian(mean, tril).log_prob(z))(self.means, self.trils)
        return jax.nn.logsumexp(jax.nn.log_softmax(self.logits) + each)
