"""Likelihoods of counts: Poisson, negative binomial, and with extra zeros."""

from __future__ import annotations

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from qphi.autoencoders.likelihoods.base import AbstractLikelihood, soft_clip, split_outputs

__all__ = ["AbstractCounts", "NegativeBinomial", "Poisson", "ZeroInflatedNegativeBinomial"]

LOG_MEAN = (-20.0, 20.0)  # soft limits of a log mean: means from 2e-9 to 5e8, where float32 still counts
LOG_CONCENTRATION = (-7.0, 10.0)
LARGE = 10.0  # concentrations from here up use Stirling's series


class AbstractCounts(AbstractLikelihood):
    """x in 0, 1, 2, ...; a row's size factor multiplies the mean of all its counts."""

    @abc.abstractmethod
    def resized(self, outputs: Array, log_size: Float[Array, ""]) -> Array:
        """Outputs whose mean is e^log_size times that of `outputs`."""


class Poisson(AbstractCounts):
    """x ~ Poisson(e^output): log p = x output - e^output - log x!. Its variance is its mean, which few counts obey."""

    @property
    def name(self) -> str:
        return "poisson"

    def resized(self, outputs: Array, log_size: Float[Array, ""]) -> Array:
        return outputs + log_size

    def log_prob(self, outputs: Array, x: Array) -> Float[Array, ""]:
        log_mean = soft_clip(outputs, *LOG_MEAN)
        return jnp.sum(x * log_mean - jnp.exp(log_mean) - jax.lax.lgamma(x + 1))

    def mean(self, outputs: Array) -> Array:
        return jnp.exp(soft_clip(outputs, *LOG_MEAN))

    def sample(self, key: PRNGKeyArray, outputs: Array) -> Array:
        return _poisson(key, self.mean(outputs))


class NegativeBinomial(AbstractCounts):
    """x ~ NB(mean m = e^output, concentration r): variance m + m^2 / r; Poisson as r grows.

    log p = log Gamma(x + r) - log Gamma(r) - log x! + r log(r / (r + m)) + x log(m / (r + m)).
    r is learned, one for all elements or with the `shape` of x one for each; log r is softly kept within -7..10 and
    moves `rate` times as fast as Adam would move it (see `Gaussian`).
    """

    raw_log_concentration: Float[Array, "*shape"]
    rate: float = eqx.field(static=True)

    def __init__(self, *, start: float = 1.0, rate: float = 10.0, shape: tuple[int, ...] = ()):
        if not 0 < start < float("inf"):
            raise ValueError(f"A negative binomial's concentration must be positive and finite, got start={start}.")
        self.rate = rate
        self.raw_log_concentration = jnp.full(shape, jnp.log(jnp.asarray(start, float)) / rate)

    @property
    def name(self) -> str:
        return "negative-binomial"

    @property
    def concentration(self) -> Float[Array, "*shape"]:
        """r: small for counts that are more spread than Poisson's."""
        return jnp.exp(self._log_concentration())

    def _log_concentration(self) -> Float[Array, "*shape"]:
        return soft_clip(self.rate * self.raw_log_concentration, *LOG_CONCENTRATION)

    def resized(self, outputs: Array, log_size: Float[Array, ""]) -> Array:
        return outputs + log_size

    def log_prob(self, outputs: Array, x: Array) -> Float[Array, ""]:
        return jnp.sum(_negative_binomial(x, soft_clip(outputs, *LOG_MEAN), self._log_concentration()))

    def mean(self, outputs: Array) -> Array:
        return jnp.exp(soft_clip(outputs, *LOG_MEAN))

    def sample(self, key: PRNGKeyArray, outputs: Array) -> Array:
        return _gamma_poisson(key, self.mean(outputs), self.concentration)


class ZeroInflatedNegativeBinomial(AbstractCounts):
    """0 with probability w, otherwise a negative binomial: two outputs an element, log m and logit w.

    E[x] = (1 - w) m. For counts with more zeros than their mean and spread explain (Lopez et al. 2018, scVI, eq. 4); a
    plain negative binomial often has enough of them, and the held-out ELBO tells. Parameters as in `NegativeBinomial`.
    """

    counts: NegativeBinomial

    def __init__(self, *, start: float = 1.0, rate: float = 10.0, shape: tuple[int, ...] = ()):
        self.counts = NegativeBinomial(start=start, rate=rate, shape=shape)

    @property
    def name(self) -> str:
        return "zero-inflated-negative-binomial"

    @property
    def per_element(self) -> int:
        return 2

    @property
    def concentration(self) -> Float[Array, "*shape"]:
        """r of the negative binomial."""
        return self.counts.concentration

    def resized(self, outputs: Array, log_size: Float[Array, ""]) -> Array:
        return (split_outputs(outputs, 2) + jnp.stack([log_size, jnp.zeros_like(log_size)])).reshape(outputs.shape)

    def log_prob(self, outputs: Array, x: Array) -> Float[Array, ""]:
        both = split_outputs(outputs, 2)
        log_p = _negative_binomial(x, soft_clip(both[..., 0], *LOG_MEAN), self.counts._log_concentration())
        log_zero, log_other = -jax.nn.softplus(-both[..., 1]), -jax.nn.softplus(both[..., 1])
        return jnp.sum(jnp.where(x == 0, jnp.logaddexp(log_zero, log_other + log_p), log_other + log_p))

    def mean(self, outputs: Array) -> Array:
        both = split_outputs(outputs, 2)
        return jax.nn.sigmoid(-both[..., 1]) * jnp.exp(soft_clip(both[..., 0], *LOG_MEAN))

    def sample(self, key: PRNGKeyArray, outputs: Array) -> Array:
        zero_key, count_key = jax.random.split(key)
        both = split_outputs(outputs, 2)
        x = self.counts.sample(count_key, both[..., 0])
        return jnp.where(jax.random.bernoulli(zero_key, jax.nn.sigmoid(both[..., 1])), 0.0, x)


def _negative_binomial(x: Array, log_mean: Array, log_r: Array) -> Array:
    r = jnp.broadcast_to(jnp.exp(log_r), jnp.broadcast_shapes(jnp.shape(log_r), x.shape))
    # log Gamma(x + r) - log Gamma(r). For large r the two cancel; Stirling's series cancels on paper:
    # (x + r - 1/2) log(1 + x/r) + x log r - x + 1/(12 (x + r)) - 1/(12 r)
    large = r > LARGE
    big, small = jnp.where(large, r, LARGE), jnp.where(large, 1.0, r)
    series = (x + big - 0.5) * jnp.log1p(x / big) + x * jnp.log(big) - x + (1 / (x + big) - 1 / big) / 12
    series += (1 / big**3 - 1 / (x + big) ** 3) / 360
    rising = jnp.where(large, series, jax.lax.lgamma(x + small) - jax.lax.lgamma(small))
    odds = log_mean - log_r
    return rising - jax.lax.lgamma(x + 1) - r * jax.nn.softplus(odds) - x * jax.nn.softplus(-odds)


def _gamma_poisson(key: PRNGKeyArray, mean: Array, r: Array) -> Array:
    rate_key, count_key = jax.random.split(key)
    r = jnp.broadcast_to(r, mean.shape)
    return _poisson(count_key, jax.random.gamma(rate_key, r, mean.shape, mean.dtype) * mean / r)


def _poisson(key: PRNGKeyArray, mean: Array) -> Array:
    # jax.random.poisson counts in 32-bit integers and gives -1 beyond 2^31: a normal is as good long before
    small = jnp.minimum(mean, 1e6)
    counted = jax.random.poisson(key, small, mean.shape).astype(mean.dtype)
    normal = jnp.round(mean + jnp.sqrt(mean) * jax.random.normal(key, mean.shape, mean.dtype))
    return jnp.where(mean > 1e6, normal, counted)
