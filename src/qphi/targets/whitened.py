"""A target in the coordinates of a Gaussian that is near it."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from qphi.targets.base import AbstractTarget

__all__ = ["Whitened"]


class Whitened(AbstractTarget):
    """The target over u, z = mean + C u: log p(u) = log p(z) + log |det C|, C lower triangular.

    Near N(mean, C C') it is near N(0, I), so that one step size suits every coordinate of every model. Evidence, ELBO
    and named values are the target's own.
    """

    target: AbstractTarget
    mean: Float[Array, " dim"]
    tril: Float[Array, "dim dim"]
    dim: int = eqx.field(static=True)

    def __init__(self, target: AbstractTarget, mean: Float[Array, " dim"], tril: Float[Array, "dim dim"]):
        self.target, self.mean, self.tril, self.dim = target, mean, tril, target.dim

    def log_density(self, z: Float[Array, " dim"]) -> Float[Array, ""]:
        return self.target.log_density(self._out(z)) + jnp.sum(jnp.log(jnp.abs(jnp.diagonal(self.tril))))

    def constrain(self, z: Float[Array, " dim"]) -> dict[str, Array]:
        return self.target.constrain(self._out(z))

    def start(self, key: PRNGKeyArray) -> Float[Array, " dim"]:
        return jnp.zeros(self.dim)

    def _out(self, u: Float[Array, " dim"]) -> Float[Array, " dim"]:
        return self.mean + jnp.tril(self.tril) @ u
