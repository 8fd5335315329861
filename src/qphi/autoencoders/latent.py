"""What one does with a trained latent space: encode, decode, sample, interpolate."""

from __future__ import annotations

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from qphi.autoencoders.evaluation import in_blocks, moments
from qphi.autoencoders.model import LatentVariableModel

__all__ = ["decode_means", "interpolate_between", "posterior_moments", "sample_data"]


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
    z = jax.vmap(model.prior.sample)(split[:, 0])
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
