"""A variational autoencoder from plain values: what a model file records, and what `VAE` chooses."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
from jaxtyping import Array, Float, PRNGKeyArray

from qphi.autoencoders.choices import check, make_encoder, make_prior
from qphi.autoencoders.conv_networks import ConvFeatures, ConvImage
from qphi.autoencoders.gated import mlp
from qphi.autoencoders.likelihoods import AbstractLikelihood, Bernoulli, ContinuousBernoulli, Gaussian
from qphi.autoencoders.model import LatentVariableModel
from qphi.autoencoders.networks import AbstractNetwork, Chain
from qphi.errors import InputError

__all__ = ["NETWORKS", "Architecture", "build", "choose_channels", "choose_network"]

NETWORKS = ("auto", "mlp", "conv")


@dataclasses.dataclass(frozen=True)
class Architecture:
    """Everything that fixes the shape of a VAE."""

    shape: tuple[int, ...]  # (h, w, channels) or (d,)
    latent_dim: int
    likelihood: str
    network: str
    hidden: tuple[int, ...]
    channels: tuple[int, ...] = ()
    activation: str = "relu"
    prior: str = "normal"
    components: int = 1  # of a mixture, or pseudo-inputs
    posterior: str = "diagonal"
    levels: int = 1
    categories: int = 2
    refine_steps: int = 0

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
    if network == "conv" and (not image or min(shape[:2]) < 4):
        raise InputError(f"network='conv' needs images of at least 4x4 pixels, got {shape}. Use 'mlp' or 'auto'.")
    if network != "auto":
        return network
    return "conv" if image and min(shape[:2]) >= 8 and math.prod(shape) >= 1600 else "mlp"


def choose_channels(shape: tuple[int, ...], network: str) -> tuple[int, ...]:
    """Channels of each stride-2 level: 32, 64, 128, 128, ..., until the shorter side is 8 or less; none for an MLP."""
    if network != "conv":
        return ()
    levels = max(1, math.ceil(math.log2(min(shape[:2]) / 8)))
    return tuple(min(32 * 2**level, 128) for level in range(levels))


def build(
    architecture: Architecture, key: PRNGKeyArray, *, scale: float | Float[Array, ""] = 1.0
) -> LatentVariableModel:
    """A fresh model. `scale` is where a Gaussian decoder's learned scale starts, in the model's units."""
    encoder_key, head_key, decoder_key = jax.random.split(key, 3)
    check(architecture)
    a = architecture
    features, size = _encoder_features(a, encoder_key)
    return LatentVariableModel(
        prior=make_prior(a, jax.random.fold_in(key, 0)),
        encoder=make_encoder(a, features, size, head_key),
        decoder=_decoder(a, decoder_key),
        likelihood=_likelihood(a.likelihood, scale),
        refine_steps=a.refine_steps,
    )


def _encoder_features(a: Architecture, key: PRNGKeyArray) -> tuple[AbstractNetwork, int]:
    if a.network == "conv":
        conv_key, top_key = jax.random.split(key)
        conv = ConvFeatures(a.shape, a.channels, key=conv_key)  # pyright: ignore[reportArgumentType]
        top = mlp(a.activation, conv.out_size, a.hidden[-1], (), activate_last=True, key=top_key)
        return Chain((conv, top)), a.hidden[-1]
    size = math.prod(a.shape)
    return mlp(a.activation, size, a.hidden[-1], a.hidden[:-1], activate_last=True, key=key), a.hidden[-1]


def _decoder(a: Architecture, key: PRNGKeyArray) -> AbstractNetwork:
    if a.network == "conv":
        bottom_key, conv_key = jax.random.split(key)
        bottom = mlp(a.activation, a.latent_dim, a.hidden[-1], (), activate_last=True, key=bottom_key)
        conv = ConvImage(a.hidden[-1], a.shape, a.channels[::-1], key=conv_key)  # pyright: ignore[reportArgumentType]
        return Chain((bottom, conv))
    return mlp(a.activation, a.latent_dim, a.shape, a.hidden[::-1], key=key)


def _likelihood(name: str, scale: float | Float[Array, ""]) -> AbstractLikelihood:
    if name == "gaussian":
        return Gaussian(start=scale)
    return {"bernoulli": Bernoulli, "continuous-bernoulli": ContinuousBernoulli}[name]()
