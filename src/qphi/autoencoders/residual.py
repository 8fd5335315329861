"""Networks whose layers add to what they are given: easier to train when deep."""

from __future__ import annotations

import math
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from qphi.autoencoders.networks import AbstractNetwork, linear

__all__ = ["ResidualConv", "ResidualMLP"]


class ResidualMLP(AbstractNetwork):
    """h <- h + W2 relu(W1 norm(h)) for each width of `hidden` after a first layer; all blocks have the first width.

    norm takes the mean off and divides by the standard deviation over units. W2 starts at zero, so at the start the
    network is one linear layer deep whatever its depth (He et al. 2016; Zhang et al. 2019, arXiv 1901.09321).
    """

    layers: tuple[eqx.nn.Linear, ...]
    blocks: tuple[tuple[eqx.nn.Linear, eqx.nn.Linear], ...]
    out_shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(
        self, in_size: int, out_shape: int | Sequence[int], hidden: Sequence[int] = (512, 512), *, key: PRNGKeyArray
    ):
        self.out_shape = (out_shape,) if isinstance(out_shape, int) else tuple(out_shape)
        width, *inner = hidden
        first, last, *keys = jax.random.split(key, 2 + len(hidden))
        self.layers = (
            linear(in_size, width, key=first),
            linear(width, math.prod(self.out_shape), key=last),
        )
        self.blocks = tuple(_block(width, size, key=k) for size, k in zip([width, *inner], keys, strict=True))

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        h = self.layers[0](x.reshape(-1))
        for wide, narrow in self.blocks:
            h = h + narrow(jax.nn.relu(wide(_norm(h))))
        return self.layers[-1](_norm(h)).reshape(self.out_shape)


def _block(width: int, inner: int, *, key: PRNGKeyArray) -> tuple[eqx.nn.Linear, eqx.nn.Linear]:
    wide, narrow = linear(width, inner, gain=2.0, key=key), linear(inner, width, key=key)
    return wide, eqx.tree_at(lambda m: m.weight, narrow, jnp.zeros_like(narrow.weight))


def _norm(h: Float[Array, " width"]) -> Float[Array, " width"]:
    centred = h - jnp.mean(h)
    return centred / jnp.sqrt(jnp.mean(centred**2) + 1e-5)


class ResidualConv(eqx.Module):
    """x + conv(relu(conv(x))), two 3x3 convolutions of equal channels, for images (channels, height, width, batch).

    The second kernel starts at zero: at the start the block does nothing. Source: He et al. (2016), section 3.
    """

    first: Float[Array, "3 3 c c"]
    second: Float[Array, "3 3 c c"]
    biases: tuple[Float[Array, " c"], Float[Array, " c"]]

    def __init__(self, channels: int, *, key: PRNGKeyArray):
        spread = math.sqrt(2 / (9 * channels))
        self.first = spread * jax.random.normal(key, (3, 3, channels, channels), jnp.float32)
        self.second = jnp.zeros((3, 3, channels, channels), jnp.float32)
        self.biases = (jnp.zeros(channels, jnp.float32), jnp.zeros(channels, jnp.float32))

    def __call__(self, x: Float[Array, "c h w n"]) -> Float[Array, "c h w n"]:
        h = jax.nn.relu(same_conv(x, self.first) + self.biases[0][:, None, None, None])
        return x + same_conv(h, self.second) + self.biases[1][:, None, None, None]


def same_conv(x: Float[Array, "c h w n"], kernel: Float[Array, "3 3 c o"]) -> Float[Array, "o h w n"]:
    """3x3 correlation with padding 1: nine shifted copies and one matrix product (see `convolutions` for why)."""
    c, height, width, n = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    patches = jnp.concatenate([padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)])
    rows = kernel.reshape(9 * c, -1).T @ patches.reshape(9 * c, -1)
    return rows.reshape(-1, height, width, n)
