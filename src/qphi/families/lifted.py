"""The skew-symmetric lift: a family that is symmetric about a point, skewed towards a target by one more look at it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from qphi.families.base import AbstractFamily, frozen_copy

__all__ = ["SkewLift"]


def _as_tree(function: Any) -> Any:
    """A function without leaves; the methods of modules have theirs."""
    return function if isinstance(function, eqx.Module) else jax.tree_util.Partial(function)


class SkewLift(AbstractFamily):
    """q(z) = 2 s(z) a(z) with a(z) = p(z) / (p(z) + p(2 c - z)) and s symmetric about c, `center`.

    A draw u of s is kept with probability a(u), else reflected to 2 c - u. Of all densities 2 s(z) w(z) with
    w(z) + w(2 c - z) = 1 this is the nearest to p in KL: odd errors of s (skews, shifts within its width) are put
    right, even ones (scale, tails) are not. Where p itself is 2 s(z) w(z), q is p. The weights of importance sampling
    become equal for a point and its reflection, (p(z) + p(2 c - z)) / (2 s(z)).

    For a fit that is finished: which of the two a draw becomes has no derivative, so that no gradient reaches the
    parameters of s or `center` through draws (they are zero). `log_density` needs no normalisation, and costs two
    evaluations a draw. Wrong where `base` is not symmetric about `center`: the density then does not integrate to one.
    Source: Pozza, Durante & Szabo (2026), arXiv 2409.14167.
    """

    base: AbstractFamily
    center: Float[Array, " dim"]
    log_density: Callable[[Float[Array, " dim"]], Float[Array, ""]] = eqx.field(converter=_as_tree)

    @property
    def dim(self) -> int:
        return self.base.dim

    def sample(self, key: PRNGKeyArray) -> Float[Array, " dim"]:
        frozen = frozen_copy(self)
        draw, flip = jax.random.split(key)
        u = frozen.base.sample(draw)
        return jnp.where(jax.random.uniform(flip) < jnp.exp(frozen._log_keep(u)), u, 2 * frozen.center - u)

    def log_prob(self, z: Float[Array, " dim"]) -> Float[Array, ""]:
        return math.log(2) + self.base.log_prob(z) + self._log_keep(z)

    def _log_keep(self, z: Float[Array, " dim"]) -> Float[Array, ""]:
        """log a(z); half where neither has a density."""
        here, there = self.log_density(z), self.log_density(2 * self.center - z)
        known = (here > -jnp.inf) | (there > -jnp.inf)
        return jax.nn.log_sigmoid(jnp.where(known, here - there, 0.0))
