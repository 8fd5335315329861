"""Draws of a fitted q and what a target says of them, in pieces of one size.

Any number of draws runs the same compiled programs, in bounded memory: random bits are slow to compile, so
nothing here depends on how many are asked for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from qphi.families import AbstractFamily
from qphi.noise import systematic
from qphi.targets.base import AbstractTarget

__all__ = ["Pool", "log_weights", "named_draws"]

BLOCK = 1024  # draws of q at a time
PIECE = 64  # of them put through the model at a time: a million data take 256 MB


@dataclasses.dataclass(frozen=True)
class Pool:
    """Weighted draws of a posterior: unconstrained `z`, and the same draws named and constrained in `values`.

    `weights` sum to one. `made_by` says how: "importance weights" or "Markov chains".
    """

    z: Float[np.ndarray, "draws dim"]
    weights: Float[np.ndarray, " draws"]
    values: Mapping[str, np.ndarray]
    made_by: str

    def choose(self, random: np.random.Generator, n: int) -> np.ndarray:
        """Rows for `n` draws of equal weight, in random order."""
        return systematic(random, self.weights, n)

    def quantiles(self, name: str, probabilities: tuple[float, ...]) -> np.ndarray:
        """Weighted quantiles of one value, (size, probabilities): the inverse of the interpolated weighted cdf."""
        flat = np.asarray(self.values[name], np.float64).reshape(len(self.z), -1)
        found = np.empty((flat.shape[1], len(probabilities)))
        for i, column in enumerate(flat.T):
            order = np.argsort(column)
            weights = self.weights[order]
            found[i] = np.interp(probabilities, np.cumsum(weights) - 0.5 * weights, column[order])
        return found


def log_weights(q: AbstractFamily, target: AbstractTarget, key: PRNGKeyArray, n: int) -> np.ndarray:
    """log p(x, z) - log q(z), nats, of `n` draws z of q: shape (n,)."""
    return np.concatenate([np.asarray(_log_weights(q, target, z)) for z in _pieces(q, key, n)])[:n]


def named_draws(q: AbstractFamily, target: AbstractTarget, key: PRNGKeyArray, n: int) -> dict[str, np.ndarray]:
    """`n` draws of every named value, constrained, each (n, *shape). The first are the same whatever `n`."""
    draws: dict[str, np.ndarray] = {}
    for i, z in enumerate(_pieces(q, key, n)):
        for name, piece in _constrain(target, z).items():
            if name not in draws:
                draws[name] = np.empty((n, *piece.shape[1:]), piece.dtype)
            rest = draws[name][i * PIECE : (i + 1) * PIECE]
            rest[...] = np.asarray(piece)[: len(rest)]
    return draws


def _pieces(q: AbstractFamily, key: PRNGKeyArray, n: int) -> Iterator[Float[Array, "piece dim"]]:
    """Rows of z, PIECE at a time, `n` of them or up to PIECE - 1 more."""
    for start in range(0, n, BLOCK):
        block = np.asarray(_draw(q, jax.random.fold_in(key, start // BLOCK)))
        for piece in range(0, min(BLOCK, n - start), PIECE):
            yield jnp.asarray(block[piece : piece + PIECE])


@eqx.filter_jit
def _draw(q: AbstractFamily, key: PRNGKeyArray) -> Float[Array, "block dim"]:
    return q.sample_many(key, BLOCK)


@eqx.filter_jit
def _log_weights(q: AbstractFamily, target: AbstractTarget, z: Float[Array, "piece dim"]) -> Float[Array, " piece"]:
    return target.log_density_many(z) - q.log_prob_many(z)


@eqx.filter_jit
def _constrain(target: AbstractTarget, z: Float[Array, "piece dim"]) -> dict[str, Array]:
    return jax.vmap(target.constrain)(z)
