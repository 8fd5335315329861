"""Any reparameterisable NumPyro distribution over a vector, as a family."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray
from numpyro.distributions import Distribution

from qphi.families.base import AbstractFamily

__all__ = ["FromNumPyro", "as_family"]


class FromNumPyro(AbstractFamily):
    """A `numpyro.distributions.Distribution` over a vector, with the pathwise gradients that JAX gives its sampler.

    Location-scale families (Gaussian, Student-t, logistic) are reparameterised explicitly; Gamma, Beta and Dirichlet
    by implicit differentiation of their distribution function, dz/dphi = -(dF/dphi) / q(z) (Figurnov et al. 2018,
    arXiv 1805.08498). z lives on the distribution's own support.

    Raises ValueError for a distribution that is not over one vector, TypeError for one that cannot be
    reparameterised.
    """

    distribution: Distribution
    frozen: bool = eqx.field(static=True)

    def __init__(self, distribution: Distribution, *, frozen: bool = False):
        if len(distribution.event_shape) != 1:
            raise ValueError(
                f"A latent needs a distribution over one vector, got {type(distribution).__name__} with "
                f"batch_shape={distribution.batch_shape} and event_shape={distribution.event_shape}. "
                "Add `.to_event(1)`."
            )
        if not distribution.has_rsample:
            raise TypeError(
                f"{type(distribution).__name__} has no reparameterised sampler, so gradients cannot pass through "
                "its draws. Use a continuous distribution (Normal, StudentT, Logistic, Gamma, Beta, Dirichlet...)."
            )
        self.distribution = distribution
        self.frozen = frozen

    @property
    def _law(self) -> Any:
        # A prior given as a plain NumPyro distribution is a constant; its arrays must not be trained by accident.
        return jax.lax.stop_gradient(self.distribution) if self.frozen else self.distribution

    @property
    def dim(self) -> int:
        return self.distribution.event_shape[0]

    def sample(self, key: PRNGKeyArray) -> Float[Array, " dim"]:
        return self._law.rsample(key)

    def log_prob(self, z: Float[Array, " dim"]) -> Float[Array, ""]:
        return jnp.asarray(self._law.log_prob(z))

    @property
    def has_entropy(self) -> bool:
        # Asked of the class, abstractly: NumPyro says "no entropy" only by raising.
        try:
            jax.eval_shape(lambda d: d.entropy(), self.distribution)
        except NotImplementedError:
            return False
        return True

    def entropy(self) -> Float[Array, ""]:
        if not self.has_entropy:
            return super().entropy()
        return jnp.asarray(self._law.entropy())


def as_family(value: object, *, frozen: bool = False) -> AbstractFamily:
    """`value` itself if it is a family, wrapped if it is a NumPyro distribution; TypeError otherwise."""
    if isinstance(value, AbstractFamily):
        return value
    if isinstance(value, Distribution):
        return FromNumPyro(value, frozen=frozen)
    raise TypeError(
        f"Got {type(value).__name__} where a distribution over z is needed. Give a qphi family (such as "
        "qphi.DiagonalGaussian) or a numpyro.distributions.Distribution over one vector."
    )
