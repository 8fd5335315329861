"""Encoders: x -> q_phi(z|x)."""

from __future__ import annotations

import abc
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from qphi.autoencoders.likelihoods.base import soft_clip
from qphi.autoencoders.networks import AbstractNetwork, apply_many, linear
from qphi.families import AbstractFamily, Batch, DiagonalGaussian, as_family

__all__ = ["AbstractEncoder", "FunctionEncoder", "GaussianEncoder"]


class AbstractEncoder(eqx.Module):
    """A map from one datum to a distribution over its latent."""

    @abc.abstractmethod
    def __call__(self, x: Array) -> AbstractFamily:
        """q_phi(z|x) for one datum."""

    def given(self, prior: AbstractFamily) -> AbstractEncoder:
        """The encoder with the prior in hand, for posteriors that are built on it."""
        return self

    def batch(self, xs: Array) -> Batch:
        """q_phi(z|x_i) for each datum."""
        return Batch(eqx.filter_vmap(self)(xs))


class FunctionEncoder(AbstractEncoder):
    """Any callable from a datum to a family, or to a NumPyro distribution over one vector."""

    function: Callable

    def __call__(self, x: Array) -> AbstractFamily:
        return as_family(self.function(x))


class GaussianEncoder(AbstractEncoder):
    """The VAE's encoder: features of x, then a mean branch and a scale branch.

    q_phi(z|x) = N(mu(x), diag(sigma(x)^2)), Kingma & Welling (2014), eq. 9. The log scale passes a soft clip to
    (-12, 8): the identity to three digits between -5 and 1, and it keeps an early step from overflowing exp.
    The scale branch starts at zero weights, sigma = 1 (to 3e-4): the prior's own scale.
    """

    features: AbstractNetwork
    mean: eqx.nn.Linear
    log_scale: eqx.nn.Linear

    def __init__(self, features: AbstractNetwork, feature_size: int, latent_dim: int, *, key: PRNGKeyArray):
        self.features = features
        self.mean = linear(feature_size, latent_dim, key=key)
        branch = linear(feature_size, latent_dim, key=key)
        self.log_scale = eqx.tree_at(lambda m: m.weight, branch, jnp.zeros_like(branch.weight))

    def __call__(self, x: Float[Array, "..."]) -> DiagonalGaussian:
        return self._from_features(self.features(x))

    def batch(self, xs: Float[Array, "data ..."]) -> Batch:
        return Batch(jax.vmap(self._from_features)(apply_many(self.features, xs)))

    def _from_features(self, h: Float[Array, " features"]) -> DiagonalGaussian:
        return DiagonalGaussian(self.mean(h), soft_clip(self.log_scale(h), -12.0, 8.0))
