"""What a likelihood is, and the one that any NumPyro distribution makes."""

from __future__ import annotations

import abc
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float, PRNGKeyArray

__all__ = ["AbstractLikelihood", "FromDistribution", "soft_clip", "split_outputs"]


class AbstractLikelihood(eqx.Module):
    """log p(x | outputs), summed over everything one datum consists of. `outputs` are the decoder's, unconstrained.

    A likelihood that needs k > 1 outputs for each element of x says so in `per_element` and takes them from the last
    axis: outputs (..., c k) for x (..., c), those of one element next to each other.
    """

    @property
    def name(self) -> str:
        """What `VAE(likelihood=...)` calls it; 'own' for one whose data are taken as they are."""
        return "own"

    @property
    def per_element(self) -> int:
        """Decoder outputs for each element of x."""
        return 1

    @property
    def has_average(self) -> bool:
        """Whether `mean` is an average, which moves with the outputs; codes have none."""
        return True

    @abc.abstractmethod
    def log_prob(self, outputs: Array, x: Array) -> Float[Array, ""]:
        """log p(x | outputs), nats, summed, never averaged, over the elements of x."""

    @abc.abstractmethod
    def mean(self, outputs: Array) -> Array:
        """E[x | outputs]: what a reconstruction shows."""

    @abc.abstractmethod
    def sample(self, key: PRNGKeyArray, outputs: Array) -> Array:
        """One draw of x given the outputs, observation noise included."""


def split_outputs(outputs: Float[Array, "*shape ck"], per_element: int) -> Float[Array, "*shape c k"]:
    """The k outputs of each element on an axis of their own, the last."""
    return outputs.reshape(*outputs.shape[:-1], -1, per_element)


def soft_clip(value: Float[Array, "*shape"], low: float, high: float) -> Float[Array, "*shape"]:
    """low + softplus(v' - low) with v' = high - softplus(high - v): smooth, monotone, the identity in between."""
    upper = high - jax.nn.softplus(high - value)
    return low + jax.nn.softplus(upper - low)


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
