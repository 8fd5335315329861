"""What a fit ends with, in closed form: latent units on the prior's scale, the noise on that of rows held out."""

from __future__ import annotations

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from qphi.autoencoders.blocks import in_blocks
from qphi.autoencoders.encoders import GaussianEncoder
from qphi.autoencoders.gated import GatedMLP
from qphi.autoencoders.latent import posterior_moments
from qphi.autoencoders.likelihoods import Gaussian
from qphi.autoencoders.model import LatentVariableModel
from qphi.autoencoders.networks import MLP, Chain
from qphi.autoencoders.residual import ResidualMLP
from qphi.families import StandardNormal

__all__ = ["rescaled", "standardised"]

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


def rescaled(model: LatentVariableModel, held_out: np.ndarray) -> LatentVariableModel:
    """The model with the learned scale of its Gaussian likelihood multiplied by c, c^2 the mean over held-out rows,
    elements and q of ((x - mean) / scale)^2: the held-out ELBO's own maximum over c.

    The scale that gradients learn is the maximum likelihood one of the training rows, which a decoder that overfits
    comes closer to than to any others: data drawn and intervals read from it are too narrow. Other likelihoods, and
    scales that were given, stay.
    """
    likelihood = model.likelihood
    if not isinstance(likelihood, Gaussian) or not likelihood.learned:
        return model
    numbers = math.prod(held_out.shape[1:] if model.rows is None else model.rows.shape)
    log_p = in_blocks(lambda block: _log_likelihood(model, jnp.asarray(block)), held_out, numbers)
    log_scale = np.log(np.asarray(likelihood.scale, np.float64)).mean()
    # log p = -numbers (log(2 pi) / 2 + log scale + c^2 / 2)
    c2 = -2 * (log_p.astype(np.float64).mean() / numbers + log_scale) - math.log(2 * math.pi)
    if not c2 > 0:  # NaN too: nothing to set it by
        return model
    return eqx.tree_at(lambda m: m.likelihood, model, likelihood.times(math.sqrt(c2)))


@eqx.filter_jit
def _log_likelihood(model: LatentVariableModel, xs: Float[Array, "data ..."]) -> Float[Array, " data"]:
    z = model.posterior(xs).sample_many(jax.random.key(0, impl="threefry2x32"), 1)
    return model.observe(xs).log_likelihood_many(z)[0]


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
