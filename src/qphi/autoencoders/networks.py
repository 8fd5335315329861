"""Small networks between data and latents. Written for one point; vectorised here."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

__all__ = ["MLP", "AbstractNetwork", "Chain", "apply_many", "linear", "relu"]


def relu(x: Array) -> Array:
    """max(x, 0). A plain function, because JAX's own, being compiled, cannot be pickled."""
    return jax.nn.relu(x)


class AbstractNetwork(eqx.Module):
    """A map from one array to another, and its vectorised form, which networks with a faster one override."""

    @abc.abstractmethod
    def __call__(self, x: Array) -> Array:
        """The map, for one point."""

    def batch(self, xs: Array) -> Array:
        """The map, for each row."""
        return jax.vmap(self)(xs)


def apply_many(network: Callable, xs: Array):
    """`network` of each row: by its own `batch` if it is an `AbstractNetwork`, by vmap otherwise."""
    return network.batch(xs) if isinstance(network, AbstractNetwork) else eqx.filter_vmap(network)(xs)


class MLP(AbstractNetwork):
    """Fully connected layers with one activation between them: flattens its input, shapes its output.

    Weights start at N(0, gain / fan_in) and biases at zero (He et al. 2015 for ReLU, gain 2; gain 1 for the last
    layer and for tanh), so that activations neither grow nor shrink with width.
    """

    layers: tuple[eqx.nn.Linear, ...]
    activation: Callable[[Array], Array] = eqx.field(static=True)
    activate_last: bool = eqx.field(static=True)
    out_shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(
        self,
        in_size: int,
        out_shape: int | Sequence[int],
        hidden: Sequence[int] = (512, 512),
        *,
        activation: Callable[[Array], Array] = relu,
        activate_last: bool = False,
        key: PRNGKeyArray,
    ):
        self.out_shape = (out_shape,) if isinstance(out_shape, int) else tuple(out_shape)
        sizes = [in_size, *hidden, math.prod(self.out_shape)]
        if min(sizes) < 1:
            raise ValueError(f"Layer sizes must be positive, got {sizes}. Give every layer at least one unit.")
        gain = 2.0 if activation in (relu, jax.nn.relu) else 1.0
        layers = []
        for index, layer_key in enumerate(jax.random.split(key, len(sizes) - 1)):
            last = index == len(sizes) - 2 and not activate_last
            layers.append(linear(sizes[index], sizes[index + 1], gain=1.0 if last else gain, key=layer_key))
        self.layers = tuple(layers)
        self.activation = activation
        self.activate_last = activate_last  # on when the output is itself a hidden layer

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        h = x.reshape(-1)
        for layer in self.layers[:-1]:
            h = self.activation(layer(h))
        h = self.layers[-1](h)
        if self.activate_last:
            h = self.activation(h)
        return h.reshape(self.out_shape)


class Chain(AbstractNetwork):
    """One network after another, each by its fast vectorised form."""

    parts: tuple[AbstractNetwork, ...]

    def __call__(self, x: Array) -> Array:
        for part in self.parts:
            x = part(x)
        return x

    def batch(self, xs: Array) -> Array:
        for part in self.parts:
            xs = part.batch(xs)
        return xs


def linear(in_size: int, out_size: int, *, gain: float = 1.0, key: PRNGKeyArray) -> eqx.nn.Linear:
    """A linear layer with weights N(0, gain / in_size) and zero bias."""
    layer = eqx.nn.Linear(in_size, out_size, key=key)
    weight = jax.random.normal(key, (out_size, in_size)) * math.sqrt(gain / in_size)
    return eqx.tree_at(lambda m: (m.weight, m.bias), layer, (weight, jnp.zeros(out_size)))
