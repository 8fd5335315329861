"""A variational autoencoder from plain values: what a model file records, and what `VAE` chooses."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from qphi.autoencoders.choices import check, make_encoder, make_prior
from qphi.autoencoders.conv_networks import ConvFeatures, ConvImage
from qphi.autoencoders.encoders import AbstractEncoder, FunctionEncoder
from qphi.autoencoders.gated import GatedMLP, mlp
from qphi.autoencoders.likelihoods import AbstractLikelihood, FromDistribution, named
from qphi.autoencoders.model import LatentVariableModel
from qphi.autoencoders.networks import MLP, AbstractNetwork, Chain
from qphi.autoencoders.residual import ResidualMLP
from qphi.autoencoders.rows import GivenDecoder, GivenEncoder, Rows, Shown, WithGiven
from qphi.data.kinds import KINDS
from qphi.errors import InputError

__all__ = ["NETWORKS", "Architecture", "attentive", "build", "centred", "choose_channels", "choose_network"]

NETWORKS = ("auto", "mlp", "residual-mlp", "conv", "residual-conv")


@dataclasses.dataclass(frozen=True)
class Architecture:
    """Everything that fixes the shape of a VAE."""

    shape: tuple[int, ...]  # (h, w, channels) or (d,)
    latent_dim: int
    likelihood: str
    network: str
    hidden: tuple[int, ...]
    channels: tuple[int, ...] = ()
    classes: int = 0  # values that coded data or levels can take
    covariates: int = 0
    sized: bool = False  # rows have size factors
    own: tuple[str, ...] = ()  # which of encoder, decoder and likelihood are the user's
    activation: str = "relu"
    prior: str = "normal"
    components: int = 1  # of a mixture, or pseudo-inputs
    posterior: str = "diagonal"
    levels: int = 1  # of a ladder
    categories: int = 2
    refine_steps: int = 0

    def __post_init__(self):
        if self.network not in NETWORKS[1:]:
            raise ValueError(f"network={self.network!r} is not one of {', '.join(NETWORKS[1:])}.")

    @property
    def convolutional(self) -> bool:
        """Whether the networks are."""
        return self.network.endswith("conv")

    @property
    def rows(self) -> Rows | None:
        """How rows lie in a conditional model; None in others."""
        return Rows(self.shape, self.covariates, self.sized) if self.covariates or self.sized else None

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of what the encoder is given: a datum, or a row of a conditional model."""
        return self.shape if self.rows is None else (math.prod(self.shape) + self.rows.given,)

    def to_json(self) -> dict[str, Any]:
        """Plain values, for a model file."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(values: dict[str, Any]) -> Architecture:
        """The inverse of `to_json`."""
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return Architecture(**fields)


def choose_network(shape: tuple[int, ...], network: str) -> str:
    """'mlp' for vectors and small grey images, 'conv' from 40x40 pixels or with colours up, unless told."""
    if network not in NETWORKS:
        raise InputError(f"network={network!r} is not known. Use one of {', '.join(NETWORKS)}.")
    image = len(shape) == 3
    if network.endswith("conv") and (not image or min(shape[:2]) < 4):
        raise InputError(f"network={network!r} needs images of at least 4x4 pixels, got {shape}. Use 'mlp' or 'auto'.")
    if network != "auto":
        return network
    return "conv" if image and min(shape[:2]) >= 8 and math.prod(shape) >= 1600 else "mlp"


def choose_channels(shape: tuple[int, ...], network: str) -> tuple[int, ...]:
    """Channels of each stride-2 level: 32, 64, 128, 128, ..., until the shorter side is 8 or less; none for an MLP."""
    if not network.endswith("conv"):
        return ()
    levels = max(1, math.ceil(math.log2(min(shape[:2]) / 8)))
    return tuple(min(32 * 2**level, 128) for level in range(levels))


def build(
    architecture: Architecture,
    key: PRNGKeyArray,
    *,
    scale: float | Float[Array, ""] = 1.0,
    own: dict[str, Any] | None = None,
) -> LatentVariableModel:
    """A fresh model. `scale` is where a Gaussian decoder's learned scale starts, in the model's units; `own` holds the
    user's encoder, decoder and likelihood, those that `architecture.own` names."""
    encoder_key, head_key, decoder_key = jax.random.split(key, 3)
    check(architecture)
    a, own = architecture, own or {}
    likelihood = _likelihood(a, own.get("likelihood"), scale)
    if "encoder" in own:
        encoder = _own_encoder(a, own["encoder"])
    else:
        encoder = make_encoder(a, *_encoder_features(a, encoder_key), head_key)
    if "decoder" in own:
        decoder = GivenDecoder(own["decoder"], a.latent_dim) if a.covariates else own["decoder"]
    else:
        decoder = _decoder(a, likelihood.per_element, decoder_key)
    prior = make_prior(a, jax.random.fold_in(key, 0))
    return LatentVariableModel(prior, encoder, decoder, likelihood, a.rows, refine_steps=a.refine_steps)


def centred(model: LatentVariableModel, mean: Float[np.ndarray, " columns"]) -> LatentVariableModel:
    """The model of counts with its decoder's last biases at the log mean of each column.

    Columns whose means differ by orders of magnitude are then learned at the same pace. Networks that do not end in a
    linear layer of qphi's stay as they are.
    """
    decoder = model.decoder
    if not isinstance(decoder, MLP | GatedMLP | ResidualMLP):
        return model
    bias = np.zeros((mean.size, model.likelihood.per_element), np.float32)
    bias[:, 0] = np.log(mean + 1e-3)
    return eqx.tree_at(lambda m: m.decoder.layers[-1].bias, model, jnp.asarray(bias.ravel()))


def attentive(model: LatentVariableModel, x: Float[np.ndarray, "data columns"]) -> LatentVariableModel:
    """The model of counts whose encoder starts as if what it is shown, log(1 + x), had been standardised: each column's
    mean taken off, one scale for all. Otherwise what all rows share drowns what they differ in."""

    def first(model: Any) -> eqx.nn.Linear:
        return model.encoder.features.parts[-1].layers[0]  # what is shown comes before it

    shown = np.log1p(x)
    mean = shown.mean(axis=0)
    weight = np.array(first(model).weight)
    weight[:, : mean.size] /= np.std(shown - mean) or 1.0  # columns after the counts' are covariates
    bias = -weight[:, : mean.size] @ mean
    return eqx.tree_at(lambda m: (first(m).weight, first(m).bias), model, (jnp.asarray(weight), jnp.asarray(bias)))


def _own_encoder(a: Architecture, encoder: Callable) -> AbstractEncoder:
    if a.rows is not None:
        return GivenEncoder(encoder, a.rows)
    return encoder if isinstance(encoder, AbstractEncoder) else FunctionEncoder(encoder)


def _encoder_features(a: Architecture, key: PRNGKeyArray) -> tuple[AbstractNetwork, int]:
    """The network from a row to features, and how many: what is shown of x, its convolutions, the rest on top."""
    conv_key, top_key = jax.random.split(key)
    shown = Shown(a.likelihood, KINDS.get(a.likelihood, "own"), a.classes)
    parts: list[AbstractNetwork] = [shown] if shown.kind in ("counts", "codes") else []
    shape = (*a.shape[:-1], a.shape[-1] * shown.widening)
    size = math.prod(shape)
    if a.convolutional:
        residual = a.network == "residual-conv"
        parts.append(ConvFeatures(shape, a.channels, residual=residual, key=conv_key))
        size = parts[-1].out_size  # pyright: ignore[reportAttributeAccessIssue]
    if a.rows is not None:
        parts = [WithGiven(Chain(tuple(parts)), a.rows)]
        size += a.rows.given
    if a.convolutional:
        top = mlp(a.activation, size, a.hidden[-1], (), activate_last=True, key=top_key)
    elif a.network == "residual-mlp":
        top = ResidualMLP(size, a.hidden[-1], a.hidden, key=key)
    else:
        top = mlp(a.activation, size, a.hidden[-1], a.hidden[:-1], activate_last=True, key=key)
    return Chain((*parts, top)) if parts else top, a.hidden[-1]


def _decoder(a: Architecture, per_element: int, key: PRNGKeyArray) -> AbstractNetwork:
    inputs, shape = a.latent_dim + a.covariates, (*a.shape[:-1], a.shape[-1] * per_element)
    if a.convolutional:
        bottom_key, conv_key = jax.random.split(key)
        bottom = mlp(a.activation, inputs, a.hidden[-1], (), activate_last=True, key=bottom_key)
        residual = a.network == "residual-conv"
        conv = ConvImage(a.hidden[-1], shape, a.channels[::-1], residual=residual, key=conv_key)
        return Chain((bottom, conv))
    if a.network == "residual-mlp":
        return ResidualMLP(inputs, shape, a.hidden[::-1], key=key)
    return mlp(a.activation, inputs, shape, a.hidden[::-1], key=key)


def _likelihood(a: Architecture, own: Any, scale: float | Float[Array, ""]) -> AbstractLikelihood:
    if own is None:
        return named(a.likelihood, a.shape, levels=a.classes, scale=scale)
    return own if isinstance(own, AbstractLikelihood) else FromDistribution(own)
