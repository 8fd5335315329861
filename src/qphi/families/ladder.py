"""Hierarchical latents, drawn from the top down: a learned prior, and the posterior that is built on it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from qphi.errors import InputError
from qphi.families.base import AbstractTransport

__all__ = ["Ladder", "TopDown"]

_LOG_2PI = math.log(2 * math.pi)
_WIDEST = 5.0  # |log scale| of a conditional stays below this


class _Step(eqx.Module):
    """z above -> mean and log scale of the level below: one hidden layer, N(0, I) at the start."""

    weights_in: Float[Array, "width above"]
    bias_in: Float[Array, " width"]
    weights_out: Float[Array, "2 size width"]
    bias_out: Float[Array, "2 size"]

    def __call__(self, above: Float[Array, " above"]) -> tuple[Float[Array, " size"], Float[Array, " size"]]:
        mean, raw = self.weights_out @ jax.nn.silu(self.weights_in @ above + self.bias_in) + self.bias_out
        return mean, _WIDEST * jnp.tanh(raw / _WIDEST)


class TopDown(AbstractTransport):
    """p(z) = N(z_1; 0, I) prod_l N(z_l; m_l, diag s_l^2), (m_l, log s_l) a network of all levels above, z_<l.

    z is the levels end to end, the top first; a decoder sees all of them. N(0, I) at the start. Source: the generative
    half of the ladder VAE, Sonderby et al. (2016), eq. 1-3, with connections that skip levels.
    """

    steps: tuple[_Step, ...]
    sizes: tuple[int, ...] = eqx.field(static=True)  # of each level, the top first

    def __init__(self, sizes: Sequence[int], *, width: int = 128, key: PRNGKeyArray):
        self.sizes = tuple(sizes)
        if len(self.sizes) < 2 or min(self.sizes) < 1 or width < 1:
            raise InputError(
                f"A ladder needs two levels of at least one latent and a hidden unit, got sizes={self.sizes}, "
                f"width={width}. For one level use qphi.StandardNormal."
            )
        above = list(itertools.accumulate(self.sizes))[:-1]
        self.steps = tuple(
            _Step(
                jax.random.normal(k, (width, n)) / math.sqrt(n),
                jnp.zeros(width),
                jnp.zeros((2, size, width)),
                jnp.zeros((2, size)),
            )
            for k, n, size in zip(jax.random.split(key, len(above)), above, self.sizes[1:], strict=True)
        )

    @property
    def dim(self) -> int:
        return sum(self.sizes)

    def levels(self, flat: Float[Array, " dim"]) -> list[Float[Array, " size"]]:
        """The parts of a vector that belong to each level, the top first."""
        return jnp.split(flat, list(itertools.accumulate(self.sizes))[:-1])

    def conditional(self, level: int, above: Float[Array, " above"]) -> tuple[Array, Array]:
        """Mean and log scale of a level given those above it."""
        if level == 0:
            zeros = jnp.zeros(self.sizes[0], above.dtype)
            return zeros, zeros
        return self.steps[level - 1](above)

    def transport(self, eps: Float[Array, " dim"]) -> Float[Array, " dim"]:
        return _walk(self, eps, None)

    def log_prob(self, z: Float[Array, " dim"]) -> Float[Array, ""]:
        return _log_prob(self, z, None)


class Ladder(AbstractTransport):
    """q(z|x) that corrects a top-down prior level by level: q(z_l | z_<l, x) ~ p(z_l | z_<l) N(z_l; mean_l, scale_l^2).

    The product of two Gaussians: precisions add, means are weighted by them. `mean` and `log_scale`, what the encoder
    says from below, have the layout of z; the networks of `prior` are the generative model's own, shared.
    Source: Sonderby et al. (2016), arXiv 1602.02282, eq. 17-19.
    """

    prior: TopDown
    mean: Float[Array, " dim"]
    log_scale: Float[Array, " dim"]

    @property
    def dim(self) -> int:
        return self.mean.shape[-1]

    def transport(self, eps: Float[Array, " dim"]) -> Float[Array, " dim"]:
        return _walk(self.prior, eps.astype(self.mean.dtype), (self.mean, self.log_scale))

    def log_prob(self, z: Float[Array, " dim"]) -> Float[Array, ""]:
        return _log_prob(self.prior, z, (self.mean, self.log_scale))


def _gaussians(prior: TopDown, message: tuple[Array, Array] | None):
    """level, z above -> the mean and log scale that a draw of the level has."""
    parts = None if message is None else [prior.levels(flat) for flat in message]

    def gaussian(level: int, above: Array) -> tuple[Array, Array]:
        mean, log_scale = prior.conditional(level, above)
        if parts is None:
            return mean, log_scale
        told, told_log_scale = parts[0][level], parts[1][level]
        # share of the message in the joint precision, exp(-2 a) / (exp(-2 a) + exp(-2 b))
        share = jax.nn.sigmoid(2 * (log_scale - told_log_scale))
        both = -0.5 * jnp.logaddexp(-2 * log_scale, -2 * told_log_scale)
        return mean + share * (told - mean), both

    return gaussian


def _walk(prior: TopDown, eps: Array, message: tuple[Array, Array] | None) -> Array:
    gaussian, z = _gaussians(prior, message), jnp.zeros(0, eps.dtype)
    for level, noise in enumerate(prior.levels(eps)):
        mean, log_scale = gaussian(level, z)
        z = jnp.concatenate([z, mean + jnp.exp(log_scale) * noise])
    return z


def _log_prob(prior: TopDown, z: Array, message: tuple[Array, Array] | None) -> Array:
    gaussian, above, total = _gaussians(prior, message), jnp.zeros(0, z.dtype), jnp.zeros((), z.dtype)
    for level, here in enumerate(prior.levels(z)):
        mean, log_scale = gaussian(level, above)
        u = (here - mean) * jnp.exp(-log_scale)
        total = total - jnp.sum(0.5 * u**2 + log_scale + 0.5 * _LOG_2PI)
        above = jnp.concatenate([above, here])
    return total
