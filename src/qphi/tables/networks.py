"""Encoder and decoder of tables: a factor analysis, exact for every pattern of gaps, and networks that bend it."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from qphi.autoencoders.encoders import AbstractEncoder
from qphi.autoencoders.networks import MLP, AbstractNetwork
from qphi.families import Batch
from qphi.systems import triangular_factors
from qphi.tables.posterior import FactorGaussian
from qphi.tables.rows import Shape, pseudo_numbers

__all__ = ["SkipDecoder", "TableEncoder"]


class SkipDecoder(AbstractNetwork):
    """z -> linear(z) + network(z), the network's last layer zero at the start: linear until data say otherwise."""

    weight: Float[Array, "outputs dim"]
    bias: Float[Array, " outputs"]
    network: MLP

    def __init__(self, weight: Array, bias: Array, hidden: tuple[int, ...], *, key: PRNGKeyArray):
        self.weight, self.bias = jnp.asarray(weight, float), jnp.asarray(bias, float)
        outputs, dim = weight.shape
        self.network = _silent(MLP(dim, outputs, hidden, activation=_tanh, key=key))

    def __call__(self, x: Float[Array, " dim"]) -> Float[Array, " outputs"]:
        return self.weight @ x + self.bias + self.network(x)


class TableEncoder(AbstractEncoder):
    """q(z | x_obs) = N(m + F d(x), F diag(e^{s(x)})^2 F'), around a factor analysis' exact posterior N(m, F F').

    P = I + sum_{j seen} w_j w_j' / psi_j,  m = P^-1 sum_{j seen} w_j (x_j - b_j) / psi_j,  F = chol(P)'^-1

    is right for every pattern of gaps, with nothing to learn; d and s, networks of cells, mask and m that are zero at
    the start, learn what the bent decoder adds. Categories take part as indicators of their levels.
    """

    weight: Float[Array, "indicators dim"]
    bias: Float[Array, " indicators"]
    log_noise: Float[Array, " indicators"]
    network: MLP
    shape: Shape

    def __init__(
        self,
        weight: Float[Array, "indicators dim"],
        bias: Float[Array, " indicators"],
        noise: Float[Array, " indicators"],
        shape: Shape,
        hidden: tuple[int, ...],
        *,
        key: PRNGKeyArray,
    ):
        self.weight, self.bias, self.log_noise = weight, bias, jnp.log(noise)
        self.shape = shape
        dim = weight.shape[1]
        self.network = _silent(MLP(2 * shape.indicators + dim, 2 * dim, hidden, activation=_tanh, key=key))

    def __call__(self, x: Float[Array, "columns 3"]) -> FactorGaussian:
        return jax.tree.map(lambda a: a[0], self.batch(x[None]).family)

    def batch(self, xs: Float[Array, "data columns 3"]) -> Batch:
        numbers, mask = pseudo_numbers(self.shape, xs)
        dim = self.weight.shape[1]
        scaled = mask * jnp.exp(-self.log_noise)
        centred = mask * (numbers - self.bias)
        outer = (self.weight[:, :, None] * self.weight[:, None, :]).reshape(-1, dim * dim)
        precision = jnp.eye(dim) + (scaled @ outer).reshape(-1, dim, dim)
        lower, inverse = triangular_factors(precision)
        factor = jnp.swapaxes(inverse, 1, 2)
        pulled = (scaled * centred) @ self.weight
        mean = jnp.einsum("nij,nj->ni", factor, jnp.einsum("nij,nj->ni", inverse, pulled))
        bent = self.network.batch(jnp.concatenate([centred, mask, mean], axis=1))
        shift, log_stretch = bent[:, :dim], 2.0 * jnp.tanh(bent[:, dim:] / 2.0)
        mean = mean + jnp.einsum("nij,nj->ni", factor, shift)
        unbent = jnp.swapaxes(lower, 1, 2) * jnp.exp(-log_stretch)[:, :, None]
        return Batch(jax.vmap(FactorGaussian)(mean, factor * jnp.exp(log_stretch)[:, None, :], unbent))


def _tanh(x: Array) -> Array:
    return jnp.tanh(x)  # under a name of its own, since `jnp.tanh` cannot be pickled


def _silent(network: MLP) -> MLP:
    last = network.layers[-1]
    return eqx.tree_at(lambda n: n.layers[-1].weight, network, jnp.zeros_like(last.weight))
