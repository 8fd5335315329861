"""A latent-variable model: theta (prior, decoder, likelihood) and phi (encoder) in one tree."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from qphi.autoencoders.encoders import AbstractEncoder, FunctionEncoder
from qphi.autoencoders.likelihoods import AbstractCounts, AbstractLikelihood, FromDistribution
from qphi.autoencoders.networks import apply_many
from qphi.autoencoders.refinement import refine
from qphi.autoencoders.rows import Rows
from qphi.autoencoders.vamp import VampPrior
from qphi.bounds import FactoredDensity
from qphi.families import AbstractFamily, Batch, as_family

__all__ = ["LatentVariableModel", "Observed"]


class LatentVariableModel(eqx.Module):
    """p_theta(x, z) = p(z) p_theta(x|z), with the encoder q_phi(z|x) that is trained beside it.

    prior: a qphi family (trained, if it has parameters), a NumPyro distribution over one vector (then constant), or a
        `VampPrior`, whose components are the encoder's own.
    encoder: a callable from one datum x to q_phi(z|x): a family or a NumPyro distribution over one vector.
    decoder: a callable from one z to the likelihood's parameters, any array.
    likelihood: an `AbstractLikelihood`, or a callable from the decoder's outputs to a NumPyro distribution over x.
    rows: for a conditional model, how data and what is given with them lie in a row. The encoder then gets whole rows,
        the decoder z and the covariates in one vector, and a size factor multiplies the mean of counts.
    refine_steps: gradient steps on each datum's ELBO that its q takes from the encoder's answer; see `refine`.

    Every inexact array in the tree is trained; wrap a constant in `jax.lax.stop_gradient` where it is used.
    """

    given_prior: AbstractFamily | VampPrior
    encoder: AbstractEncoder
    decoder: Callable
    likelihood: AbstractLikelihood
    rows: Rows | None
    refine_steps: int = eqx.field(static=True)

    def __init__(
        self,
        prior,
        encoder: Callable,
        decoder: Callable,
        likelihood: Callable | AbstractLikelihood,
        rows: Rows | None = None,
        *,
        refine_steps: int = 0,
    ):
        for name, part in (("encoder", encoder), ("decoder", decoder)):
            if not callable(part):
                raise TypeError(f"The {name} must be callable, got {type(part).__name__}.")
        self.given_prior = prior if isinstance(prior, VampPrior) else as_family(prior, frozen=True)
        self.encoder = encoder if isinstance(encoder, AbstractEncoder) else FunctionEncoder(encoder)
        self.decoder = decoder
        self.likelihood = likelihood if isinstance(likelihood, AbstractLikelihood) else FromDistribution(likelihood)
        self.rows = rows
        self.refine_steps = refine_steps
        if rows is not None and rows.sized and not isinstance(self.likelihood, AbstractCounts):
            raise TypeError(
                f"Size factors multiply the mean of counts, but the likelihood is a {type(self.likelihood).__name__}. "
                "Use Poisson, NegativeBinomial or ZeroInflatedNegativeBinomial."
            )

    @property
    def prior(self) -> AbstractFamily:
        """p(z). Encodes the pseudo-inputs of a `VampPrior` anew each time: keep it where it is used more than once."""
        given = self.given_prior
        return given.given(self.encoder) if isinstance(given, VampPrior) else given

    @property
    def latent_dim(self) -> int:
        """Length of z."""
        return self.given_prior.dim

    def posterior(self, xs: Float[Array, "data ..."]) -> Batch:
        """q_phi(z|x_i) of each datum, refined where the model says so."""
        given = self.given_prior
        encoder = self.encoder if isinstance(given, VampPrior) else self.encoder.given(given)
        q = encoder.batch(xs)
        return refine(q, self.settled().observe(xs), self.refine_steps) if self.refine_steps else q

    def settled(self) -> LatentVariableModel:
        """The same model with a `VampPrior` as the mixture that it is now, encoded once for all uses."""
        return eqx.tree_at(lambda model: model.given_prior, self, self.prior)

    def observe(self, xs: Float[Array, "data ..."]) -> Observed:
        """p_theta(x_i, z) as a function of z, for each datum: the density that a bound is taken of."""
        return Observed(self, xs)

    def decode(self, z: Float[Array, "data dim"], given: Float[Array, "data given"] | None = None) -> Array:
        """The decoder's outputs (unconstrained) for each z, and what is given with it in a conditional model."""
        if self.rows is None:
            return apply_many(self.decoder, z)
        assert given is not None
        covariates = given[:, : self.rows.covariates]
        outputs = apply_many(self.decoder, jnp.concatenate([z, covariates], axis=1) if covariates.size else z)
        if not self.rows.sized:
            return outputs
        return jax.vmap(cast(AbstractCounts, self.likelihood).resized)(outputs, given[:, -1])

    def mean(self, z: Float[Array, "data dim"], given: Float[Array, "data given"] | None = None) -> Array:
        """E[x|z] for each z."""
        return jax.vmap(self.likelihood.mean)(self.decode(z, given))

    def sample(
        self, key: PRNGKeyArray, count: int, given: Float[Array, "count given"] | None = None
    ) -> tuple[Array, Array]:
        """`count` draws of (z, x) from p_theta(x, z), observation noise included."""
        z_key, x_key = jax.random.split(key)
        z = self.prior.sample_many(z_key, count)
        return z, jax.vmap(self.likelihood.sample)(jax.random.split(x_key, count), self.decode(z, given))


class Observed(FactoredDensity):
    """log p_theta(x_i, z) for a batch of data: a density over z, one for each datum."""

    model: LatentVariableModel
    xs: Float[Array, "data ..."]

    @property
    def prior(self) -> AbstractFamily:
        return self.model.prior

    def log_likelihood_many(self, z: Float[Array, "particles data dim"]) -> Float[Array, "particles data"]:
        particles, data, dim = z.shape
        xs, given = self.xs, None
        if self.model.rows is not None:
            xs, given = jax.vmap(self.model.rows.split)(xs)
            given = jnp.tile(given, (particles, 1))
        outputs = self.model.decode(z.reshape(particles * data, dim), given)  # one large batch: fast matrix products
        outputs = jax.tree.map(lambda a: a.reshape(particles, data, *a.shape[1:]), outputs)
        over_data = jax.vmap(self.model.likelihood.log_prob)
        return jax.vmap(over_data, in_axes=(0, None))(outputs, xs)
