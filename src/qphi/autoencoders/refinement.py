"""Semi-amortised inference: each datum's q goes on from the encoder's answer by a few gradient steps of its own."""

from __future__ import annotations

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from qphi.bounds import FactoredDensity
from qphi.bounds.elbo import log_prior_many
from qphi.bounds.factored import kl_to_prior, knows_kl
from qphi.errors import InputError
from qphi.families import Batch
from qphi.families.base import frozen_copy

__all__ = ["refine"]

DRAWS = 8  # fixed, the same for every datum
RATE = 0.05  # of Adam, in units of the family's parameters


def refine(q: Batch, p: FactoredDensity, steps: int) -> Batch:
    """q with each datum's own parameters moved by `steps` Adam steps up its ELBO, on draws that are always the same.

    A datum whose ELBO of those draws did not rise keeps the encoder's answer. Deterministic, and no datum depends on
    its neighbours. What moved is a constant to the gradient: theta sees the refined q, the encoder the gradient of
    the ELBO there (first order; the unrolled steps of Kim et al. 2018, arXiv 1802.02550, are not differentiated).
    Costs `steps` gradients of 8 draws a datum, wherever q is used.

    Raises InputError for a discrete q.
    """
    if q.support_size is not None:
        raise InputError("refine_steps moves q along gradients of its draws; discrete latents have none. Set it to 0.")
    own, rest = q.split()
    fixed_p, fixed_rest = frozen_copy(p), frozen_copy(rest)
    key = jax.random.key(0, impl="threefry2x32")
    prior = fixed_p.prior

    def elbo(own) -> Float[Array, " data"]:
        moved = dataclasses.replace(q, family=eqx.combine(own, fixed_rest))
        z, log_q = moved.each(lambda member: member.sample_and_log_prob_many(key, DRAWS), out_axes=1)
        log_likelihood = jnp.mean(fixed_p.log_likelihood_many(z), axis=0)
        if knows_kl(moved, prior):
            return log_likelihood - kl_to_prior(moved, prior)
        return log_likelihood - jnp.mean(log_q - log_prior_many(fixed_p, z), axis=0)

    adam = optax.adam(RATE)
    start: PyTree = jax.lax.stop_gradient(own)

    def step(_, carry):
        at, state = carry
        slope = jax.grad(lambda at: -jnp.sum(elbo(at)))(at)
        update, state = adam.update(slope, state)
        return optax.apply_updates(at, update), state

    end, _ = jax.lax.fori_loop(0, steps, step, (start, adam.init(start)))
    rose = elbo(end) > elbo(start)

    def choose(own: Array, start: Array, end: Array) -> Array:
        moved = jnp.where(rose.reshape(-1, *[1] * (start.ndim - 1)), end - start, 0.0)
        return own + jax.lax.stop_gradient(moved)

    return dataclasses.replace(q, family=eqx.combine(jax.tree.map(choose, own, start, end), rest))
