"""Annealed importance sampling of log p(x), for data whose importance weights cannot be relied on."""

from __future__ import annotations

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from qphi.autoencoders.blocks import in_blocks
from qphi.autoencoders.model import LatentVariableModel
from qphi.errors import InputError

__all__ = ["annealed_log_evidence", "check_annealable"]

CHAINS, TEMPERATURES, LEAPS = 8, 200, 5
SLOW_ENDS = 4.0  # Wu et al. (2017): temperatures follow a sigmoid from -4 to 4, slow where a narrow end gives way
ACCEPTED = 0.65  # Neal (2011): the acceptance rate that leapfrog steps should have


def annealed_log_evidence(
    model: LatentVariableModel, xs: np.ndarray, *, temperatures: int = TEMPERATURES, seed: int = 0
) -> Float[np.ndarray, " data"]:
    """log p(x) of each row, nats in the model's units: a lower bound in expectation, tight with slow annealing.

    From z ~ q(z|x) along q^(1-b) p(x, z)^b, b = 0..1, with Hamiltonian moves at every b; the weight of a chain is
    prod_t [p(x, z_t) / q(z_t|x)]^(b_(t+1) - b_t), and 8 chains are averaged. Step sizes follow the acceptance rate.
    Sources: Neal (2001); Wu et al. (2017), arXiv 1611.04273. Raises InputError for discrete latents.
    """
    check_annealable(model, xs)
    key = jax.random.key(seed, impl="threefry2x32")

    def block(block: np.ndarray) -> Array:
        return _anneal(model, jnp.asarray(block), key, temperatures)

    return np.asarray(in_blocks(block, xs, CHAINS * math.prod(xs.shape[1:])), np.float64)


def check_annealable(model: LatentVariableModel, xs: np.ndarray) -> None:
    """Raises InputError for discrete latents."""
    if eqx.filter_eval_shape(model.posterior, jnp.asarray(xs[:1])).support_size is not None:
        raise InputError("annealing moves z along gradients; discrete latents have none. Use annealed=False.")


@eqx.filter_jit
def _anneal(
    model: LatentVariableModel, xs: Float[Array, "data ..."], key: PRNGKeyArray, temperatures: int
) -> Float[Array, " data"]:
    q, p = model.posterior(xs), model.settled().observe(xs)
    start_key, move_key = jax.random.split(key)
    z = q.sample_many(start_key, CHAINS)
    spread = jnp.std(q.sample_many(start_key, 64), axis=0)  # of each coordinate: steps are in these units

    def ratio(z: Array) -> Array:
        return p.log_density_many(z) - q.log_prob_many(z)

    def path(z: Array, b: Array) -> Array:
        return q.log_prob_many(z) + b * ratio(z)

    def slope(z: Array, b: Array) -> Array:
        return jax.grad(lambda z: jnp.sum(path(z, b)))(z) * spread

    def move(carry, numbered):
        z, log_w, step = carry
        index, before, b = numbered
        log_w = log_w + (b - before) * ratio(z)
        noise_key, accept_key = jax.random.split(jax.random.fold_in(move_key, index))
        momentum = jax.random.normal(noise_key, z.shape, z.dtype)
        half = step[:, None] / 2

        def leap(_, state):
            place, speed = state
            speed = speed + half * slope(place, b)
            place = place + step[:, None] * spread * speed
            return place, speed + half * slope(place, b)

        place, speed = jax.lax.fori_loop(0, LEAPS, leap, (z, momentum))
        gain = path(place, b) - path(z, b) + 0.5 * jnp.sum(momentum**2 - speed**2, axis=-1)
        accept = jnp.log(jax.random.uniform(accept_key, gain.shape, gain.dtype)) < gain  # never where it is NaN
        rate = jnp.mean(jnp.where(jnp.isnan(gain), 0.0, jnp.minimum(1.0, jnp.exp(jnp.minimum(gain, 0.0)))), axis=0)
        step = jnp.clip(step * jnp.exp(0.2 * (rate - ACCEPTED)), 1e-4, 100.0)
        return (jnp.where(accept[..., None], place, z), log_w, step), None

    s = jax.nn.sigmoid(jnp.linspace(-SLOW_ENDS, SLOW_ENDS, temperatures + 1))
    b = (s - s[0]) / (s[-1] - s[0])
    start = (z, jnp.zeros(z.shape[:2]), jnp.full(xs.shape[0], 0.2))
    (_, log_w, _), _ = jax.lax.scan(move, start, (jnp.arange(temperatures), b[:-1], b[1:]))
    return jax.nn.logsumexp(log_w, axis=0) - math.log(CHAINS)
