"""Likelihoods p_theta(x|z): what the decoder's outputs mean."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float, PRNGKeyArray

__all__ = [
    "AbstractLikelihood",
    "Bernoulli",
    "ContinuousBernoulli",
    "FromDistribution",
    "Gaussian",
    "implied_kl_weight",
]

MIN_LOG_SCALE = -6.0  # Rybkin, Daniilidis & Levine (2021): the soft floor of the sigma-VAE's log sigma


class AbstractLikelihood(eqx.Module):
    """log p(x | outputs), summed over everything one datum consists of. `outputs` are the decoder's, unconstrained."""

    @abc.abstractmethod
    def log_prob(self, outputs: Array, x: Array) -> Float[Array, ""]:
        """log p(x | outputs), nats, summed, never averaged, over the elements of x."""

    @abc.abstractmethod
    def mean(self, outputs: Array) -> Array:
        """E[x | outputs]: what a reconstruction shows."""

    @abc.abstractmethod
    def sample(self, key: PRNGKeyArray, outputs: Array) -> Array:
        """One draw of x given the outputs, observation noise included."""


class Gaussian(AbstractLikelihood):
    """x ~ N(outputs, scale^2) with one scale for all elements, learned unless it is given.

    With a fixed scale s the negative ELBO is |x - outputs|^2 / (2 s^2) + KL + constant: the textbook VAE loss
    |x - xhat|^2 + KL is s^2 = 1/2 exactly, and squared error + beta KL is s^2 = beta/2. A hand-set scale *is* a beta
    (`implied_kl_weight`); hence learned by default: theta's maximum likelihood scale balances the two terms by itself
    (sigma-VAE, Rybkin et al. 2021, arXiv 2006.13202). The log scale is softly kept above -6 (in the units of the
    data the model sees), because the density of data on a plane is unbounded.

    The learned log scale is `rate * raw` and the optimiser moves `raw`: under Adam, whose steps have one size, the
    scale then settles within hundreds of steps instead of thousands.
    """

    raw_log_scale: Float[Array, ""]
    learned: bool = eqx.field(static=True)
    rate: float = eqx.field(static=True)

    def __init__(self, scale: float | None = None, *, start: float | Float[Array, ""] = 1.0, rate: float = 10.0):
        if scale is not None and not (math.isfinite(scale) and scale > 0):
            raise ValueError(f"A Gaussian's scale must be positive and finite, got {scale}.")
        self.learned = scale is None
        self.rate = rate
        self.raw_log_scale = jnp.log(jnp.asarray(start if scale is None else scale, float)) / rate

    @property
    def scale(self) -> Float[Array, ""]:
        """The observation noise's standard deviation."""
        log_scale = self.rate * self.raw_log_scale
        return jnp.exp(self._soft(log_scale) if self.learned else jax.lax.stop_gradient(log_scale))

    def _soft(self, log_scale: Float[Array, ""]) -> Float[Array, ""]:
        return MIN_LOG_SCALE + jax.nn.softplus(log_scale - MIN_LOG_SCALE)

    def log_prob(self, outputs: Array, x: Array) -> Float[Array, ""]:
        return jnp.sum(dist.Normal(outputs, self.scale).log_prob(x))

    def mean(self, outputs: Array) -> Array:
        return outputs

    def sample(self, key: PRNGKeyArray, outputs: Array) -> Array:
        return dist.Normal(outputs, self.scale).sample(key)


def implied_kl_weight(scale: float) -> float:
    """beta such that squared error + beta KL is the negative ELBO of a Gaussian decoder of this scale: 2 scale^2.

    1 at scale^2 = 1/2, the textbook loss. Fixing a decoder's scale is choosing this weight.
    """
    return 2.0 * scale**2


class Bernoulli(AbstractLikelihood):
    """x in {0, 1}, outputs are logits. Not for grey levels: a Bernoulli "likelihood" of 0.4 is not a density."""

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


class FromDistribution(AbstractLikelihood):
    """Any callable from the decoder's outputs to a NumPyro distribution over x, such as `dist.Poisson` of a rate.

    Elements of x are independent given z unless the distribution says otherwise (`to_event`); log densities are summed.
    """

    function: Callable

    def _law(self, outputs: Array) -> dist.Distribution:
        law = self.function(outputs)
        if not isinstance(law, dist.Distribution):
            raise TypeError(
                f"The likelihood returned {type(law).__name__}; it must return a numpyro.distributions.Distribution "
                "over x, or be a qphi likelihood."
            )
        return law

    def log_prob(self, outputs: Array, x: Array) -> Float[Array, ""]:
        return jnp.sum(jnp.asarray(self._law(outputs).log_prob(x)))

    def mean(self, outputs: Array) -> Array:
        return jnp.asarray(self._law(outputs).mean)

    def sample(self, key: PRNGKeyArray, outputs: Array) -> Array:
        return jnp.asarray(self._law(outputs).sample(key))
