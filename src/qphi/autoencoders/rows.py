"""Conditional models: rows that hold a datum and what is given with it, covariates and a size factor."""

from __future__ import annotations

import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from qphi.autoencoders.encoders import AbstractEncoder
from qphi.autoencoders.networks import AbstractNetwork, apply_many
from qphi.families import AbstractFamily, as_family

__all__ = ["GivenDecoder", "GivenEncoder", "Rows", "Shown", "WithGiven"]


class Rows(eqx.Module):
    """How a row lies in one vector: the datum's numbers, then its covariates, then the log of its size factor.

    One array then serves batches, slices and blocks as it does for plain data. p(x, z | c) = p(z) p(x | z, c).
    """

    shape: tuple[int, ...] = eqx.field(static=True)
    covariates: int = eqx.field(static=True)
    sized: bool = eqx.field(static=True)

    @property
    def given(self) -> int:
        """Numbers of a row that are given, not modelled."""
        return self.covariates + self.sized

    def split(self, row: Float[Array, " numbers"]) -> tuple[Float[Array, "..."], Float[Array, " given"]]:
        """One row's datum, in its shape, and what is given with it."""
        size = math.prod(self.shape)
        return row[:size].reshape(self.shape), row[size:]


class WithGiven(AbstractNetwork):
    """A network of the datum whose output, flat, is joined by what is given."""

    network: AbstractNetwork
    rows: Rows

    def __call__(self, x: Float[Array, " numbers"]) -> Float[Array, " joined"]:
        return self.batch(x[None])[0]

    def batch(self, xs: Float[Array, "data numbers"]) -> Float[Array, "data joined"]:
        data, given = jax.vmap(self.rows.split)(xs)
        return jnp.concatenate([apply_many(self.network, data).reshape(len(xs), -1), given], axis=1)


class Shown(AbstractNetwork):
    """What an encoder is shown of a datum: log(1 + x) of counts, a column for each code, grades within -1/2..1/2."""

    likelihood: str = eqx.field(static=True)
    kind: str = eqx.field(static=True)
    classes: int = eqx.field(static=True)

    @property
    def widening(self) -> int:
        """How many numbers each element becomes."""
        return self.classes if self.likelihood == "categorical" else 1

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        if self.kind == "counts":
            return jnp.sign(x) * jnp.log1p(jnp.abs(x))  # pseudo-inputs may stray below 0
        if self.likelihood == "categorical":
            codes = jax.nn.one_hot(jnp.round(x).astype(int), self.classes, dtype=x.dtype)
            return codes.reshape(*x.shape[:-1], -1)
        return x / (self.classes - 1) - 0.5 if self.kind == "codes" else x


class GivenEncoder(AbstractEncoder):
    """A callable of one's own, (x, covariates) -> q(z|x, c): a family or a NumPyro distribution over one vector."""

    function: Callable
    rows: Rows

    def __call__(self, x: Float[Array, " numbers"]) -> AbstractFamily:
        datum, given = self.rows.split(x)
        covariates = (given[: self.rows.covariates],) if self.rows.covariates else ()
        return as_family(self.function(datum, *covariates))


class GivenDecoder(eqx.Module):
    """A callable of one's own, (z, covariates) -> outputs, as a function of both in one vector."""

    function: Callable
    latent_dim: int = eqx.field(static=True)

    def __call__(self, inputs: Float[Array, " inputs"]) -> Array:
        return self.function(inputs[: self.latent_dim], inputs[self.latent_dim :])
