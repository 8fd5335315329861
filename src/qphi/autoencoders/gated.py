"""Gated layers: a linear layer times the sigmoid of another."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from qphi.autoencoders.networks import MLP, AbstractNetwork, linear, relu

__all__ = ["ACTIVATIONS", "GatedMLP", "mlp"]


def tanh(x: Array) -> Array:
    """A plain function, because JAX's own, being compiled, cannot be pickled."""
    return jnp.tanh(x)


def silu(x: Array) -> Array:
    """x sigmoid(x)."""
    return jax.nn.silu(x)


ACTIVATIONS = {"relu": relu, "tanh": tanh, "silu": silu, "gated": None}


class GatedMLP(AbstractNetwork):
    """h <- (A h + a) * sigmoid(B h + b) in each hidden layer, linear at the end unless `activate_last`.

    Flattens its input, shapes its output. Source: Dauphin et al. (2017), eq. 1, as in Tomczak & Welling (2018).
    """

    layers: tuple[eqx.nn.Linear, ...]
    gates: tuple[eqx.nn.Linear, ...]
    out_shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(
        self,
        in_size: int,
        out_shape: int | Sequence[int],
        hidden: Sequence[int],
        *,
        activate_last: bool = False,
        key: PRNGKeyArray,
    ):
        self.out_shape = (out_shape,) if isinstance(out_shape, int) else tuple(out_shape)
        sizes = [in_size, *hidden, math.prod(self.out_shape)]
        pairs = list(itertools.pairwise(sizes))
        gated = len(pairs) if activate_last else len(pairs) - 1
        keys = jax.random.split(key, 2 * len(pairs))
        # a gate starts near one half: gain 4 keeps the size of what passes
        self.layers = tuple(linear(a, b, gain=4.0 if i < gated else 1.0, key=keys[i]) for i, (a, b) in enumerate(pairs))
        self.gates = tuple(linear(a, b, key=keys[len(pairs) + i]) for i, (a, b) in enumerate(pairs[:gated]))

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        h = x.reshape(-1)
        for index, layer in enumerate(self.layers):
            h = layer(h) * jax.nn.sigmoid(self.gates[index](h)) if index < len(self.gates) else layer(h)
        return h.reshape(self.out_shape)


def mlp(
    activation: str,
    in_size: int,
    out_shape: int | Sequence[int],
    hidden: Sequence[int],
    *,
    activate_last: bool = False,
    key: PRNGKeyArray,
) -> AbstractNetwork:
    """Fully connected layers by the name of what is between them, one of `ACTIVATIONS`."""
    function = ACTIVATIONS[activation]
    if function is None:
        return GatedMLP(in_size, out_shape, hidden, activate_last=activate_last, key=key)
    return MLP(in_size, out_shape, hidden, activation=function, activate_last=activate_last, key=key)
