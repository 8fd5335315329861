"""Densities that are a likelihood times a prior, log p(x, z) = log p(x|z) + log p(z)."""

from __future__ import annotations

import abc

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from qphi.bounds.base import Variational
from qphi.families import AbstractFamily, Batch, DiagonalGaussian, StandardNormal, has_kl, kl_divergence

__all__ = ["FactoredDensity", "kl_per_unit", "kl_to_prior", "knows_kl"]


class FactoredDensity(eqx.Module):
    """A log joint whose prior is known, so that the ELBO can be split into log likelihood and KL."""

    @property
    @abc.abstractmethod
    def prior(self) -> AbstractFamily:
        """p(z)."""

    @abc.abstractmethod
    def log_likelihood_many(self, z: Float[Array, "particles *data dim"]) -> Float[Array, "particles *data"]:
        """log p(x|z) of each draw, nats, summed over everything one datum consists of."""

    def log_density_many(self, z: Float[Array, "particles *data dim"]) -> Float[Array, "particles *data"]:
        """log p(x|z) + log p(z) of each draw."""
        flat = self.prior.log_prob_many(z.reshape(-1, z.shape[-1]))
        return self.log_likelihood_many(z) + flat.reshape(z.shape[:-1])


def knows_kl(q: Variational, prior: AbstractFamily) -> bool:
    """Whether KL(q || prior) has a closed form."""
    family = q.member if isinstance(q, Batch) else q
    return isinstance(family, AbstractFamily) and has_kl(family, prior)


def kl_to_prior(q: Variational, prior: AbstractFamily) -> Float[Array, "*data"]:
    """KL(q || prior), one value per datum for a `Batch`."""
    if isinstance(q, Batch):
        return q.each(lambda member: kl_divergence(member, prior))
    if not isinstance(q, AbstractFamily):
        raise TypeError(f"KL to the prior needs a family, got {type(q).__name__}.")
    return kl_divergence(q, prior)


def kl_per_unit(q: Variational, prior: AbstractFamily) -> Float[Array, "*data units"] | None:
    """KL(q || prior) of each latent unit, where both are products over units and the KL is known; None elsewhere."""
    family = q.family if isinstance(q, Batch) else q
    if not isinstance(family, DiagonalGaussian) or not isinstance(prior, StandardNormal | DiagonalGaussian):
        return None
    mean, log_scale = family.mean, family.log_scale
    if isinstance(prior, DiagonalGaussian):
        mean, log_scale = (mean - prior.mean) / prior.scale, log_scale - prior.log_scale
    return 0.5 * (mean**2 + jnp.exp(2 * log_scale) - 2 * log_scale - 1)
