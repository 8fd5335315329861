"""What one does with a trained latent space: encode, decode, sample, interpolate."""

from __future__ import annotations

import math
from typing import cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Key

from qphi.autoencoders.blocks import in_blocks
from qphi.autoencoders.evaluation import moments
from qphi.autoencoders.model import LatentVariableModel

__all__ = [
    "decode_means",
    "geodesic_between",
    "interpolate_between",
    "posterior_moments",
    "sample_data",
    "slerp_between",
]

BENDS, RATE = 300, 0.03  # steps of Adam that bend a geodesic, and their first size


@eqx.filter_jit
def _moments(model: LatentVariableModel, xs: Float[Array, "data ..."]):
    return moments(model.posterior(xs))


@eqx.filter_jit
def _means(model: LatentVariableModel, z: Float[Array, "data dim"], given: Float[Array, "data given"]) -> Array:
    return model.mean(z, given)


@eqx.filter_jit
def _draws(
    model: LatentVariableModel, keys: Key[Array, " data"], given: Float[Array, "data given"], noise: bool
) -> Array:
    split = jax.vmap(jax.random.split)(keys)
    prior = model.prior
    z = jax.vmap(prior.sample)(split[:, 0])
    if not noise:
        return model.mean(z, given)
    return jax.vmap(model.likelihood.sample)(split[:, 1], model.decode(z, given))


def posterior_moments(model: LatentVariableModel, xs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means and standard deviations of q(z|x_i), each (n, latent_dim)."""
    return in_blocks(lambda block: _moments(model, jnp.asarray(block)), xs, math.prod(xs.shape[1:]))


def decode_means(
    model: LatentVariableModel, z: np.ndarray, numbers: int = 1, given: np.ndarray | None = None
) -> np.ndarray:
    """E[x|z] of each row. `numbers`: how many one datum has, which bounds the rows decoded at once.

    `given` (n, covariates and size factor) belongs to conditional models.
    """
    rows = np.concatenate([z, _none(len(z)) if given is None else given], axis=1)

    def block(rows: np.ndarray) -> Array:
        return _means(model, jnp.asarray(rows[:, : z.shape[1]]), jnp.asarray(rows[:, z.shape[1] :]))

    return in_blocks(block, rows, numbers)


def sample_data(
    model: LatentVariableModel, count: int, seed: int, noise: bool, numbers: int = 1, given: np.ndarray | None = None
) -> np.ndarray:
    """`count` draws of x; the i-th is the same whatever `count` is."""
    key = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), 0x5A)  # not a stream that training used
    given = _none(count) if given is None else given

    def block(numbers: np.ndarray) -> Array:
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.asarray(numbers))
        return _draws(model, keys, jnp.asarray(given[numbers]), noise)

    return in_blocks(block, np.arange(count), numbers)


def _none(count: int) -> np.ndarray:
    return np.zeros((count, 0), np.float32)


def interpolate_between(
    a: Float[np.ndarray, " dim"], b: Float[np.ndarray, " dim"], steps: int
) -> Float[np.ndarray, "steps dim"]:
    """Points on the straight line from a to b, ends included."""
    weight = np.linspace(0.0, 1.0, steps, dtype=np.float32)[:, None]
    return (1 - weight) * a + weight * b


def slerp_between(
    a: Float[np.ndarray, " dim"], b: Float[np.ndarray, " dim"], steps: int
) -> Float[np.ndarray, "steps dim"]:
    """Points from a to b whose direction turns evenly and whose length changes evenly, ends included.

    Straight where the directions agree, or are opposite and no way round is the shorter one.
    """
    length = np.linalg.norm(a), np.linalg.norm(b)
    angle = np.arccos(np.clip(a @ b / max(length[0] * length[1], 1e-12), -1, 1))
    if np.sin(angle) < 1e-3:
        return interpolate_between(a, b, steps)
    weight = np.linspace(0.0, 1.0, steps)[:, None]
    turned = (np.sin((1 - weight) * angle) * a / length[0] + np.sin(weight * angle) * b / length[1]) / np.sin(angle)
    points = (((1 - weight) * length[0] + weight * length[1]) * turned).astype(np.float32)
    points[0], points[-1] = a, b
    return points


def geodesic_between(
    model: LatentVariableModel,
    a: Float[np.ndarray, " dim"],
    b: Float[np.ndarray, " dim"],
    steps: int,
    given: Float[np.ndarray, "1 given"],
) -> Float[np.ndarray, "steps dim"]:
    """Points from a to b, ends included, with the least energy sum_i |E[x|z_(i+1)] - E[x|z_i]|^2, in the model's units.

    The straight line bent by 300 steps of Adam; the line itself where bending did not help, so the energy is never
    above the line's. A discrete geodesic of the decoder's mean (Shao et al. 2018, arXiv 1711.08014, eq. 5).
    """
    line = interpolate_between(a, b, steps)
    return np.asarray(_bend(model, jnp.asarray(line), jnp.asarray(np.repeat(given, steps, axis=0))))


@eqx.filter_jit
def _bend(
    model: LatentVariableModel, line: Float[Array, "steps dim"], given: Float[Array, "steps given"]
) -> Float[Array, "steps dim"]:
    def energy(inner: Array) -> Array:
        means = model.mean(jnp.concatenate([line[:1], inner, line[-1:]]), given)
        return jnp.sum(jnp.diff(means, axis=0) ** 2)

    adam = optax.adam(optax.cosine_decay_schedule(RATE, BENDS))

    def step(carry, _):
        inner, state = carry
        move, state = adam.update(jax.grad(energy)(inner), state)
        return (inner + cast(Array, move), state), None

    inner = line[1:-1]
    (bent, _), _ = jax.lax.scan(step, (inner, adam.init(inner)), length=BENDS)
    bent = jnp.where(energy(bent) < energy(inner), bent, inner)
    return jnp.concatenate([line[:1], bent, line[-1:]])
