"""Likelihoods of real numbers: Gaussians of one, many or decoded scales, and Student's t."""

from __future__ import annotations

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float, PRNGKeyArray

from qphi.autoencoders.likelihoods.base import AbstractLikelihood, soft_clip, split_outputs

__all__ = ["Gaussian", "GaussianWithScale", "StudentT", "implied_kl_weight"]

MIN_LOG_SCALE = -6.0  # Rybkin, Daniilidis & Levine (2021): the soft floor of the sigma-VAE's log sigma
MAX_LOG_SCALE = 8.0  # of scales that a decoder gives: keeps an early step from overflowing exp


class Gaussian(AbstractLikelihood):
    """x ~ N(outputs, scale^2), the scale learned unless it is given: one for all elements, or with the `shape` of x one
    for each.

    With a fixed scale s the negative ELBO is |x - outputs|^2 / (2 s^2) + KL + constant: the textbook VAE loss
    |x - xhat|^2 + KL is s^2 = 1/2 exactly, and squared error + beta KL is s^2 = beta/2. A hand-set scale *is* a beta
    (`implied_kl_weight`); hence learned by default: theta's maximum likelihood scale balances the two terms by itself
    (sigma-VAE, Rybkin et al. 2021, arXiv 2006.13202). The log scale is softly kept above -6 (in the units of the
    data the model sees), because the density of data on a plane is unbounded.

    The learned log scale is `rate * raw` and the optimiser moves `raw`: under Adam, whose steps have one size, the
    scale then settles within hundreds of steps instead of thousands.
    """

    raw_log_scale: Float[Array, "*shape"]
    learned: bool = eqx.field(static=True)
    rate: float = eqx.field(static=True)

    def __init__(
        self,
        scale: float | None = None,
        *,
        start: float | Float[Array, ""] = 1.0,
        rate: float = 10.0,
        shape: tuple[int, ...] = (),
    ):
        if scale is not None and not (math.isfinite(scale) and scale > 0):
            raise ValueError(f"A Gaussian's scale must be positive and finite, got {scale}.")
        self.learned = scale is None
        self.rate = rate
        self.raw_log_scale = jnp.full(shape, jnp.log(jnp.asarray(start if scale is None else scale, float)) / rate)

    @property
    def name(self) -> str:
        return "gaussian-per-feature" if self.raw_log_scale.ndim else "gaussian"

    @property
    def scale(self) -> Float[Array, "*shape"]:
        """The observation noise's standard deviation."""
        log_scale = self.rate * self.raw_log_scale
        return jnp.exp(self._soft(log_scale) if self.learned else jax.lax.stop_gradient(log_scale))

    def times(self, factor: float) -> Gaussian:
        """The same with its learned scale multiplied by `factor`, down to the floor at most."""
        over = jnp.log(self.scale) + math.log(factor) - MIN_LOG_SCALE  # how far above the floor
        raw = MIN_LOG_SCALE + jnp.log(jnp.expm1(jnp.maximum(over, 1e-3)))  # the inverse of `_soft`
        return eqx.tree_at(lambda each: each.raw_log_scale, self, raw / self.rate)

    def _soft(self, log_scale: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
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


class GaussianWithScale(AbstractLikelihood):
    """x ~ N(mean, scale^2) where the decoder gives both: two outputs for each element, the mean and the log scale.

    The log scale is softly kept within -6..8. Noise may then follow z; with few data it also learns to be sure of what
    it has seen, so held-out figures decide.
    """

    @property
    def name(self) -> str:
        return "gaussian-output-scale"

    @property
    def per_element(self) -> int:
        return 2

    def _law(self, outputs: Array) -> dist.Normal:
        both = split_outputs(outputs, 2)
        return dist.Normal(both[..., 0], jnp.exp(soft_clip(both[..., 1], MIN_LOG_SCALE, MAX_LOG_SCALE)))

    def log_prob(self, outputs: Array, x: Array) -> Float[Array, ""]:
        return jnp.sum(self._law(outputs).log_prob(x))

    def mean(self, outputs: Array) -> Array:
        return split_outputs(outputs, 2)[..., 0]

    def sample(self, key: PRNGKeyArray, outputs: Array) -> Array:
        return self._law(outputs).sample(key)


class StudentT(AbstractLikelihood):
    """x = outputs + scale t, t of Student's distribution: a Gaussian that forgives outliers.

    log p = log Gamma((n+1)/2) - log Gamma(n/2) - log(n pi)/2 - log scale - (n+1)/2 log(1 + ((x - outputs)/scale)^2 / n)
    with one learned scale and one learned n, the degrees of freedom, softly kept within 1.5 and 100 (a mean exists
    above 1; at 100 it is a Gaussian to all purposes). `shape`, `start` and `rate` as in `Gaussian`.
    """

    raw_log_scale: Float[Array, "*shape"]
    raw_log_df: Float[Array, ""]
    rate: float = eqx.field(static=True)

    def __init__(self, *, start: float | Float[Array, ""] = 1.0, rate: float = 10.0, shape: tuple[int, ...] = ()):
        self.rate = rate
        self.raw_log_scale = jnp.full(shape, jnp.log(jnp.asarray(start, float)) / rate)
        self.raw_log_df = jnp.asarray(math.log(10.0) / rate)

    @property
    def name(self) -> str:
        return "student-t"

    @property
    def scale(self) -> Float[Array, "*shape"]:
        """The scale, a little smaller than the standard deviation, which is infinite below two degrees of freedom."""
        return jnp.exp(soft_clip(self.rate * self.raw_log_scale, MIN_LOG_SCALE, MAX_LOG_SCALE))

    @property
    def df(self) -> Float[Array, ""]:
        """Degrees of freedom."""
        return jnp.exp(soft_clip(self.rate * self.raw_log_df, math.log(1.5), math.log(100.0)))

    def times(self, factor: float) -> StudentT:
        """The same with its learned scale multiplied by `factor`, but for the soft floor."""
        return eqx.tree_at(lambda each: each.raw_log_scale, self, self.raw_log_scale + math.log(factor) / self.rate)

    def log_prob(self, outputs: Array, x: Array) -> Float[Array, ""]:
        return jnp.sum(dist.StudentT(self.df, outputs, self.scale).log_prob(x))

    def mean(self, outputs: Array) -> Array:
        return outputs

    def sample(self, key: PRNGKeyArray, outputs: Array) -> Array:
        return dist.StudentT(self.df, outputs, self.scale).sample(key)
