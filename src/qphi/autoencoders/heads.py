"""What an encoder says of z, once features of x are computed: one head for each kind of posterior."""

from __future__ import annotations

import abc
import dataclasses
import math
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from qphi.autoencoders.encoders import AbstractEncoder, soft_clip
from qphi.autoencoders.networks import AbstractNetwork, apply_many, linear
from qphi.errors import InputError
from qphi.families import AbstractFamily, AbstractFlow, Batch, Categorical, FullRankGaussian, Ladder, StudentT, TopDown

__all__ = ["AbstractHead", "CategoricalHead", "FlowHead", "FullRankHead", "HeadEncoder", "LadderHead", "StudentTHead"]

NARROWEST, WIDEST = -12.0, 8.0  # soft limits of log scales, as of `GaussianEncoder`


class AbstractHead(eqx.Module):
    """features of x -> q_phi(z|x), for one datum."""

    common: ClassVar[tuple[str, ...]] = ()  # fields of the family that do not depend on the datum

    @abc.abstractmethod
    def __call__(self, h: Float[Array, " features"]) -> AbstractFamily:
        """q_phi(z|x)."""

    def given(self, prior: AbstractFamily) -> AbstractHead:
        """The head with the prior in hand, for posteriors that are built on it."""
        return self


class HeadEncoder(AbstractEncoder):
    """q_phi(z|x) = head(features(x))."""

    features: AbstractNetwork
    head: AbstractHead

    def __call__(self, x: Float[Array, "..."]) -> AbstractFamily:
        return self.head(self.features(x))

    def given(self, prior: AbstractFamily) -> HeadEncoder:
        return dataclasses.replace(self, head=self.head.given(prior))

    def batch(self, xs: Float[Array, "data ..."]) -> Batch:
        return Batch.of(self.head, apply_many(self.features, xs), common=self.head.common)


class FullRankHead(AbstractHead):
    """N(mean(h), C(h) C(h)'), C(h) lower triangular with exp on its diagonal; C = I at the start. d (d + 3) / 2
    outputs.
    """

    mean: eqx.nn.Linear
    log_scale: eqx.nn.Linear
    lower: eqx.nn.Linear

    def __init__(self, features: int, dim: int, *, key: PRNGKeyArray):
        self.mean = linear(features, dim, key=key)
        self.log_scale = _zero(features, dim, key)
        self.lower = _zero(features, dim * (dim - 1) // 2, key)

    def __call__(self, h: Float[Array, " features"]) -> FullRankGaussian:
        diagonal = jnp.exp(soft_clip(self.log_scale(h), NARROWEST, WIDEST))
        lower = jnp.diag(diagonal).at[np.tril_indices(diagonal.size, -1)].set(self.lower(h))
        return FullRankGaussian(self.mean(h), lower)


class StudentTHead(AbstractHead):
    """A full-covariance Student-t; degrees of freedom of each datum between 2 and 150, 10 at the start."""

    gaussian: FullRankHead
    log_df: eqx.nn.Linear

    def __init__(self, features: int, dim: int, *, key: PRNGKeyArray):
        self.gaussian = FullRankHead(features, dim, key=key)
        self.log_df = _zero(features, 1, key)

    def __call__(self, h: Float[Array, " features"]) -> StudentT:
        q = self.gaussian(h)
        return StudentT(q.mean, q.tril, soft_clip(math.log(10.0) + self.log_df(h)[0], math.log(2.0), math.log(150.0)))


class FlowHead(AbstractHead):
    """A flow around N(mean(h), diag scale(h)^2) whose layers all data share; h enters each layer's hidden units.

    The identity at the start: then this is the VAE's Gaussian. Source: inverse autoregressive flow, Kingma et al.
    (2016), section 4, where the encoder hands each step a context.
    """

    common: ClassVar[tuple[str, ...]] = ("weights_in", "weights_out", "bias_out")
    flow: AbstractFlow
    mean: eqx.nn.Linear
    log_scale: eqx.nn.Linear
    context: eqx.nn.Linear

    def __init__(
        self,
        kind: type[AbstractFlow],
        features: int,
        dim: int,
        *,
        layers: int = 4,
        width: int = 64,
        key: PRNGKeyArray,
    ):
        flow_key, context_key, mean_key = jax.random.split(key, 3)
        self.flow = kind.around(jnp.zeros(dim), jnp.eye(dim), key=flow_key, layers=layers, width=width)
        self.mean = linear(features, dim, key=mean_key)
        self.log_scale = _zero(features, dim, mean_key)
        self.context = linear(features, layers * width, key=context_key)

    def __call__(self, h: Float[Array, " features"]) -> AbstractFlow:
        scale = jnp.exp(soft_clip(self.log_scale(h), NARROWEST, WIDEST))
        bias = self.flow.bias_in + self.context(h).reshape(self.flow.bias_in.shape)
        return dataclasses.replace(self.flow, mean=self.mean(h), tril=jnp.diag(scale), bias_in=bias)


class LadderHead(AbstractHead):
    """The message from below to every level of a ladder; the rest of q is the prior's own networks."""

    common: ClassVar[tuple[str, ...]] = ("prior",)
    mean: eqx.nn.Linear
    log_scale: eqx.nn.Linear
    prior: TopDown | None = None

    def __init__(self, features: int, dim: int, *, key: PRNGKeyArray, prior: TopDown | None = None):
        self.mean = linear(features, dim, key=key)
        self.log_scale = _zero(features, dim, key)
        self.prior = prior

    def given(self, prior: AbstractFamily) -> LadderHead:
        if not isinstance(prior, TopDown):
            raise InputError(f"A ladder posterior needs a TopDown prior, got {type(prior).__name__}. Use qphi.TopDown.")
        return eqx.tree_at(lambda head: head.prior, self, prior, is_leaf=lambda leaf: leaf is None)

    def __call__(self, h: Float[Array, " features"]) -> Ladder:
        if self.prior is None:
            raise InputError("A ladder posterior is built on its prior: ask the model for it, model.posterior(xs).")
        return Ladder(self.prior, self.mean(h), soft_clip(self.log_scale(h), NARROWEST, WIDEST))


class CategoricalHead(AbstractHead):
    """Independent categorical variables, each a one-hot block of z."""

    logits: eqx.nn.Linear
    values: int = eqx.field(static=True)

    def __init__(self, features: int, dim: int, values: int, *, key: PRNGKeyArray):
        self.logits = linear(features, dim, key=key)
        self.values = values

    def __call__(self, h: Float[Array, " features"]) -> Categorical:
        return Categorical(self.logits(h).reshape(-1, self.values))


def _zero(in_size: int, out_size: int, key: PRNGKeyArray) -> eqx.nn.Linear:
    if out_size == 0:  # one latent has nothing below its diagonal
        return eqx.nn.Linear(in_size, 0, key=key)
    layer = linear(in_size, out_size, key=key)
    return eqx.tree_at(lambda m: m.weight, layer, jnp.zeros_like(layer.weight))
