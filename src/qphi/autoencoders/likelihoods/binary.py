"""Likelihoods of numbers between 0 and 1, and of 0 and 1."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float, PRNGKeyArray

from qphi.autoencoders.likelihoods.base import AbstractLikelihood

__all__ = ["Bernoulli", "ContinuousBernoulli"]


class Bernoulli(AbstractLikelihood):
    """x in {0, 1}, outputs are logits. Not for grey levels: a Bernoulli "likelihood" of 0.4 is not a density."""

    @property
    def name(self) -> str:
        return "bernoulli"

    def log_prob(self, outputs: Array, x: Array) -> Float[Array, ""]:
        # x l - log(1 + e^l)
        return jnp.sum(x * outputs - jax.nn.softplus(outputs))

    def mean(self, outputs: Array) -> Array:
        return jax.nn.sigmoid(outputs)

    def sample(self, key: PRNGKeyArray, outputs: Array) -> Array:
        return dist.Bernoulli(logits=outputs).sample(key).astype(outputs.dtype)


class ContinuousBernoulli(AbstractLikelihood):
    """x in [0, 1] with density C(p) p^x (1-p)^(1-x), p = sigmoid(outputs): grey levels with most mass at the ends.

    In logits l the normaliser is log C = log(l / tanh(l/2)), which is log 2 at l = 0; a series is used near there.
    Source: Loaiza-Ganem & Cunningham (2019), arXiv 1907.06845, eq. 1-4.
    """

    @property
    def name(self) -> str:
        return "continuous-bernoulli"

    def log_prob(self, outputs: Array, x: Array) -> Float[Array, ""]:
        return jnp.sum(x * outputs - jax.nn.softplus(outputs) + _log_normaliser(outputs))

    def mean(self, outputs: Array) -> Array:
        # d/dl of the log normaliser of e^(lx) on [0, 1], log((e^l - 1)/l): 1/(1 - e^-l) - 1/l, the first term
        # written with tanh, whose gradient overflows at neither end
        near, safe = _near_zero(outputs)
        exact = 0.5 + 0.5 / jnp.tanh(safe / 2) - 1 / safe
        return jnp.where(near, 0.5 + outputs / 12, exact)

    def sample(self, key: PRNGKeyArray, outputs: Array) -> Array:
        # F^-1(u) = log(1 + u (e^l - 1)) / l
        u = jax.random.uniform(key, outputs.shape, outputs.dtype)
        near, safe = _near_zero(outputs)
        size = jnp.abs(safe)
        # For l < 0 use the mirror image, so that e^|l| never overflows: 1 + log(u + (1-u) e^-|l|) / |l|
        high = 1 + jnp.log(u + (1 - u) * jnp.exp(-size)) / size
        return jnp.clip(jnp.where(near, u, jnp.where(safe > 0, high, 1 - high)), 0.0, 1.0)


def _near_zero(logits: Array) -> tuple[Array, Array]:
    near = jnp.abs(logits) < 0.1
    return near, jnp.where(near, 1.0, logits)  # the second is safe to divide by, in gradients too


def _log_normaliser(logits: Array) -> Array:
    near, safe = _near_zero(logits)
    half = jnp.abs(safe) / 2
    exact = jnp.log(jnp.abs(safe)) - jnp.log(jnp.tanh(half))
    series = math.log(2.0) + logits**2 / 12 - 7 * logits**4 / 1440
    return jnp.where(near, series, exact)
