"""Mixtures: of full-rank Gaussians, one component for each mode; of the members of any one family."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from qphi.families.base import AbstractFamily, Batch
from qphi.families.gaussian import DiagonalGaussian, FullRankGaussian

__all__ = ["GaussianMixture", "Mixture"]


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


class Mixture(AbstractFamily):
    """sum_c pi_c q_c(z), pi = softmax(logits), q_c the members of a `Batch`: the aggregate of some data's posteriors,
    or a learned prior of diagonal Gaussians.

    As for `GaussianMixture`, pathwise gradients with respect to `logits` are zero: as a prior, which is only asked for
    its density, it is exact in all of its parameters; as a posterior it moves components, not their weights.
    """

    logits: Float[Array, " components"]
    components: Batch

    @classmethod
    def of_gaussians(cls, dim: int, components: int, *, key: PRNGKeyArray, spread: float = 1.0) -> Mixture:
        """Diagonal Gaussians of scale 1 with equal weights and means drawn from N(0, spread^2 I)."""
        means = spread * jax.random.normal(key, (components, dim))
        make: Callable = jax.vmap(DiagonalGaussian)
        return cls(jnp.zeros(components), Batch(make(means, jnp.zeros_like(means))))

    @property
    def dim(self) -> int:
        return self.components.family.dim

    def sample(self, key: PRNGKeyArray) -> Float[Array, " dim"]:
        choose, draw = jax.random.split(key)
        c = jax.random.categorical(choose, self.logits)
        return self.components.at(c).sample(draw)

    def log_prob(self, z: Float[Array, " dim"]) -> Float[Array, ""]:
        each = self.components.each(lambda member: member.log_prob(z))
        return jax.nn.logsumexp(jax.nn.log_softmax(self.logits) + each)
