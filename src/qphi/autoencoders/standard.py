"""Latent units brought to the prior's mean and scale, in closed form."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from qphi.autoencoders.encoders import GaussianEncoder
from qphi.autoencoders.gated import GatedMLP
from qphi.autoencoders.latent import posterior_moments
from qphi.autoencoders.model import LatentVariableModel
from qphi.autoencoders.networks import MLP, Chain
from qphi.autoencoders.residual import ResidualMLP
from qphi.families import StandardNormal

__all__ = ["standardised"]

ROWS = 4096  # moments of 16 units need no more
QUIET = 0.01  # variance of a unit's means below which it says nothing: its scale is the prior's already


def standardised(model: LatentVariableModel, xs: np.ndarray) -> LatentVariableModel:
    """The model with z_j replaced by (z_j - m_j) / s_j, m_j and s_j the mean and standard deviation of q(z_j) over xs.

    Encoder and decoder move together, so p(x|z) at a datum's codes stays what it is, and the mean KL to N(0, I) over xs
    falls by sum_j ((s_j^2 + m_j^2 - 1) / 2 - log s_j) >= 0: the ELBO's own maximum over shifts and scales of the
    latent units. Gradients leave it undone, because those nats hardly show next to the reconstruction, and draws
    from the prior then decode to what no datum looks like. Units that say nothing stay. Models other than a
    `GaussianEncoder`, a standard normal prior and a decoder of qphi's are given back as they are.
    """
    encoder = model.encoder
    if not isinstance(encoder, GaussianEncoder) or not isinstance(_first(model), MLP | GatedMLP | ResidualMLP):
        return model
    if not isinstance(model.given_prior, StandardNormal) or model.refine_steps:
        return model
    means, scales = (np.asarray(a, np.float64) for a in posterior_moments(model, xs[:: -(-len(xs) // ROWS)]))
    speaks = means.var(axis=0) > QUIET
    shift = np.where(speaks, means.mean(axis=0), 0.0)
    scale = np.where(speaks, np.sqrt(means.var(axis=0) + np.mean(scales**2, axis=0)), 1.0)

    mean, log_scale = encoder.mean, encoder.log_scale
    mean = _changed(mean, mean.weight / scale[:, None], (mean.bias - shift) / scale)
    log_scale = _changed(log_scale, log_scale.weight, log_scale.bias - np.log(scale))
    opened = [_opened(layer, shift, scale) for layer in _inputs(model)]
    return eqx.tree_at(_moved, model, [mean, log_scale, *opened])


def _first(model: LatentVariableModel) -> Any:
    """The part of the decoder that z goes into."""
    return model.decoder.parts[0] if isinstance(model.decoder, Chain) else model.decoder


def _inputs(model: LatentVariableModel) -> list[eqx.nn.Linear]:
    first = _first(model)
    return [first.layers[0], *(first.gates[:1] if isinstance(first, GatedMLP) else ())]


def _moved(model: Any) -> list[eqx.nn.Linear]:
    return [model.encoder.mean, model.encoder.log_scale, *_inputs(model)]


def _opened(layer: eqx.nn.Linear, shift: np.ndarray, scale: np.ndarray) -> eqx.nn.Linear:
    """The layer that takes (z - shift) / scale where this one takes z; columns after the latents' are covariates."""
    weight = np.array(layer.weight, np.float64)
    latent = weight[:, : len(shift)]
    bias = np.asarray(layer.bias) + latent @ shift
    weight[:, : len(shift)] = latent * scale
    return _changed(layer, weight, bias)


def _changed(layer: eqx.nn.Linear, weight: ArrayLike, bias: ArrayLike) -> eqx.nn.Linear:
    arrays = jnp.asarray(weight, layer.weight.dtype), jnp.asarray(bias, layer.weight.dtype)
    return eqx.tree_at(lambda each: (each.weight, each.bias), layer, arrays)
