"""The two halves of a convolutional autoencoder: image to features, and features to image."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .convolutions import half, strided_conv, strided_conv_transpose
from .networks import AbstractNetwork
from .residual import ResidualConv

__all__ = ["ConvFeatures", "ConvImage"]

SMALLEST_SIDE = 4  # the kernel's


class ConvFeatures(AbstractNetwork):
    """An image to a flat vector of features: one `strided_conv` and a ReLU for each entry of `channels`.

    Each level halves height and width (rounding up): 28 x 28 x 1 with channels 32, 64 gives 64 x 7 x 7 = 3136
    features, none negative, ordered (channel, row, column). Follow it with a linear layer to what you need.

    With `residual` each level is followed by a `ResidualConv` block.

    Use `batch` for more than one image: layers hold the batch in their last axis, so it is far faster than
    `jax.vmap`. ReLU, because it costs one comparison where SiLU or GELU take an exponential at every point of
    the largest arrays and keep one more of them for the gradient.

    Kernels start at N(0, 2 / fan in), biases at zero. Source: He et al. (2015), eq. 10.
    """

    kernels: tuple[Float[Array, "4 4 _ _"], ...]
    biases: tuple[Float[Array, " _"], ...]
    blocks: tuple[ResidualConv, ...]  # one after each level, or none
    shape: tuple[int, int, int] = eqx.field(static=True)
    out_size: int = eqx.field(static=True)

    def __init__(
        self, shape: tuple[int, ...], channels: Sequence[int] = (32, 64), *, residual: bool = False, key: PRNGKeyArray
    ):
        _check(shape, channels)
        sizes = (shape[2], *channels)
        keys = jax.random.split(key, len(channels))
        self.kernels = tuple(
            _kernel(k, c, o, variance=2 / (16 * c)) for k, (c, o) in zip(keys, itertools.pairwise(sizes), strict=True)
        )
        self.biases = tuple(jnp.zeros(o, jnp.float32) for o in channels)
        self.blocks = _blocks(channels, key) if residual else ()
        height, width, colours = shape
        self.shape = (height, width, colours)
        self.out_size = channels[-1] * math.prod(_sides(shape, len(channels))[-1])

    def __call__(self, x: Float[Array, "h w c"]) -> Float[Array, " out"]:
        """The features of one image."""
        return self.batch(x[None])[0]

    def batch(self, xs: Float[Array, "n h w c"]) -> Float[Array, "n out"]:
        """The features of each image, all at once: the fast way."""
        if xs.shape[1:] != self.shape:
            raise ValueError(
                f"These features are for images of shape {self.shape}, got {xs.shape[1:]}. "
                f"Reshape the images, or build `ConvFeatures({xs.shape[1:]}, ...)`."
            )
        h = xs.transpose(3, 1, 2, 0)
        for level, (kernel, bias) in enumerate(zip(self.kernels, self.biases, strict=True)):
            h = jax.nn.relu(strided_conv(h, kernel) + bias[:, None, None, None])
            h = self.blocks[level](h) if self.blocks else h
        return h.reshape(self.out_size, -1).T


class ConvImage(AbstractNetwork):
    """A flat vector to an image, mirroring `ConvFeatures`: a linear layer, then transposed convolutions.

    The linear layer gives a small image with `channels[0]` channels; each level doubles it by a ReLU and a
    `strided_conv_transpose`. So 20 numbers become 28 x 28 x 1 by way of 7 x 7 x 64 and 14 x 14 x 32. Sides
    that are no multiple of 2^levels are cropped at each level, as `ConvFeatures` rounds them up. The result
    is unbounded: read it as logits, or as a mean.

    With `residual` a `ResidualConv` block comes before each level.

    Use `batch` for more than one vector: it is far faster than `jax.vmap`.

    Weights start at N(0, 2 / fan in), the last kernel's at half that variance, biases at zero. A pixel sees
    four of the 16 taps, so a kernel's fan in is 4 times its input channels. Source: He et al. (2015), eq. 10.
    """

    weight: Float[Array, "small in"]
    bias: Float[Array, " small"]
    kernels: tuple[Float[Array, "4 4 _ _"], ...]
    biases: tuple[Float[Array, " _"], ...]
    blocks: tuple[ResidualConv, ...]  # one before each level, or none
    shape: tuple[int, int, int] = eqx.field(static=True)
    in_size: int = eqx.field(static=True)

    def __init__(
        self,
        in_size: int,
        shape: tuple[int, ...],
        channels: Sequence[int] = (64, 32),
        *,
        residual: bool = False,
        key: PRNGKeyArray,
    ):
        _check(shape, channels)
        if in_size < 1:
            raise ValueError(f"`ConvImage` needs at least one input, got in_size={in_size}. Give it the latent size.")
        levels = len(channels)
        key, *keys = jax.random.split(key, levels + 1)
        sizes = tuple(itertools.pairwise((*channels, shape[2])))
        small = channels[0] * math.prod(_sides(shape, levels)[-1])
        self.weight = jax.random.normal(key, (small, in_size), jnp.float32) * math.sqrt(2 / in_size)
        self.bias = jnp.zeros(small, jnp.float32)
        self.kernels = tuple(
            _kernel(k, c, o, variance=(1 if level == levels else 2) / (4 * o))
            for level, (k, (o, c)) in enumerate(zip(keys, sizes, strict=True), start=1)
        )
        self.biases = tuple(jnp.zeros(c, jnp.float32) for _, c in sizes)
        self.blocks = _blocks(channels, key) if residual else ()
        height, width, colours = shape
        self.shape = (height, width, colours)
        self.in_size = in_size

    def __call__(self, x: Float[Array, " in"]) -> Float[Array, "h w c"]:
        """The image of one vector."""
        return self.batch(x[None])[0]

    def batch(self, xs: Float[Array, "n in"]) -> Float[Array, "n h w c"]:
        """The image of each vector, all at once: the fast way."""
        sides = _sides(self.shape, len(self.kernels))
        h = (self.weight @ xs.T + self.bias[:, None]).reshape(-1, *sides[-1], xs.shape[0])
        for level, (kernel, bias, size) in enumerate(zip(self.kernels, self.biases, sides[-2::-1], strict=True)):
            h = self.blocks[level](h) if self.blocks else h
            h = strided_conv_transpose(jax.nn.relu(h), kernel, size) + bias[:, None, None, None]
        return h.transpose(3, 1, 2, 0)


def _sides(shape: tuple[int, ...], levels: int) -> list[tuple[int, int]]:
    """Height and width of the image itself and after each of `levels` halvings."""
    sides = [(shape[0], shape[1])]
    for _ in range(levels):
        sides.append((half(sides[-1][0]), half(sides[-1][1])))
    return sides


def _blocks(channels: Sequence[int], key: PRNGKeyArray) -> tuple[ResidualConv, ...]:
    keys = jax.random.split(jax.random.fold_in(key, 1), len(channels))
    return tuple(ResidualConv(c, key=k) for c, k in zip(channels, keys, strict=True))


def _kernel(key: PRNGKeyArray, c: int, o: int, *, variance: float) -> Float[Array, "4 4 c o"]:
    return jax.random.normal(key, (4, 4, c, o), jnp.float32) * math.sqrt(variance)


def _check(shape: tuple[int, ...], channels: Sequence[int]) -> None:
    if len(shape) != 3:
        raise ValueError(
            f"An image's shape is (height, width, channels), got {tuple(shape)}. Grey images have 1 channel."
        )
    if min(shape[:2]) < SMALLEST_SIDE:
        raise ValueError(
            f"A 4x4 convolution needs images of at least 4 x 4, got {shape[0]} x {shape[1]}. "
            "Pad or enlarge the images, or use `MLP` for so few pixels."
        )
    if not channels or min(shape[2], *channels) < 1:
        raise ValueError(
            f"Every level needs at least one channel, got an image with {shape[2]} and levels with "
            f"{tuple(channels)}. Give positive numbers, for example channels=(32, 64)."
        )
