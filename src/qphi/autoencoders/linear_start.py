"""Where an autoencoder of vectors starts: probabilistic PCA, which its networks then bend."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from qphi.autoencoders.encoders import GaussianEncoder
from qphi.autoencoders.likelihoods import Gaussian, StudentT
from qphi.autoencoders.model import LatentVariableModel
from qphi.autoencoders.networks import MLP, relu
from qphi.families import StandardNormal

__all__ = ["PPCA", "linear_start", "ppca"]

LEAST_NOISE = 1e-4  # variance of the noise over the mean variance of a column
SHARE = 4  # of a layer's units, one in so many may carry the linear part
EXPLAINED = 0.8  # share of the variance of x
FEWEST_ROWS = 20  # for each column: a covariance of fewer is overfit as it is
ROWS = 100_000  # a covariance needs no more
REACH = 3.0  # quartile ranges: four standard deviations of a Gaussian


@dataclasses.dataclass(frozen=True)
class PPCA:
    """x = mean + W z + noise: W has columns axes_j (variance_j - noise)^(1/2); variances in falling order.

    `explained`: the share of the variance of x that lies along the axes.
    """

    mean: Float[np.ndarray, " columns"]
    axes: Float[np.ndarray, "rank columns"]
    variance: Float[np.ndarray, " rank"]
    noise: float
    explained: float

    def log_prob(self, x: Float[np.ndarray, "rows columns"]) -> Float[np.ndarray, " rows"]:
        """log N(x; mean, W W' + noise I), nats."""
        centred = x - self.mean
        along = centred @ self.axes.T
        rank, columns = self.axes.shape
        log_det = np.sum(np.log(self.variance)) + (columns - rank) * math.log(self.noise)
        across = np.sum(centred**2, axis=1) - np.sum(along**2, axis=1)
        square = np.sum(along**2 / self.variance, axis=1) + np.maximum(across, 0.0) / self.noise
        return -0.5 * (columns * math.log(2 * math.pi) + log_det + square)

    def bic(self, x: Float[np.ndarray, "rows columns"]) -> float:
        """log p(x) less half of log(rows) for each free number (Schwarz 1978): higher is better."""
        rank, columns = self.axes.shape
        numbers = columns + columns * rank - rank * (rank - 1) / 2 + 1
        return float(np.sum(self.log_prob(x))) - 0.5 * numbers * math.log(len(x))


def ppca(x: Float[np.ndarray, "rows columns"], most: int) -> list[PPCA]:
    """The maximum likelihood fits of rank 1 to `most`, fewer than columns, whose axes all rise above the noise.

    Source: Tipping & Bishop (1999), eqs. 7 and 8.
    """
    mean, columns = x.mean(axis=0), x.shape[1]
    rising, directions = np.linalg.eigh(np.atleast_2d(np.cov(x.T, bias=True)))
    variance, axes = np.maximum(rising[::-1], 0.0), directions[:, ::-1].T
    total, found = float(variance.sum()), []
    for r in range(1, min(most, columns - 1) + 1):
        left = total - float(variance[:r].sum())
        noise = max(left / (columns - r), LEAST_NOISE * total / columns)
        if variance[r - 1] > noise:
            found.append(PPCA(mean, axes[:r], variance[:r], noise, 1 - left / total))
    return found


def linear_start(model: LatentVariableModel, x: np.ndarray) -> LatentVariableModel:
    """The model with its networks at the probabilistic PCA of x: q(z|x) and p(x|z) are those of the linear model, to
    rounding, of the rank with the best BIC; latents beyond it start as they were.

    A rectified unit and its mirror image carry each linear feature through the layers; all other units start unheard,
    and bend encoder and decoder as training goes. So steps are not spent on what is known in closed form, and noise
    starts at its own scale. For vectors under a Gaussian or Student's t (outliers are drawn in first), MLPs with relu
    and a standard normal prior, and where this explains four fifths of the variance of at least 20 rows a column: fewer
    latents than that have to lie along bent sheets, and a linear start would hold them. Other models are given back as
    they are.
    """
    if not _is_plain(model) or x.ndim != 2 or len(x) < FEWEST_ROWS * x.shape[1]:
        return model
    x = np.asarray(x[:: -(-len(x) // ROWS)], np.float64)
    x = _drawn_in(x) if isinstance(model.likelihood, StudentT) else x
    best = max(ppca(x, _most(model)), key=lambda fit: fit.bic(x), default=None)
    return model if best is None or best.explained < EXPLAINED else _at(model, best)


def _is_plain(model: LatentVariableModel) -> bool:
    encoder = model.encoder
    return (
        isinstance(encoder, GaussianEncoder)
        and all(isinstance(net, MLP) and net.activation is relu for net in (encoder.features, model.decoder))
        and _learns_scale(model.likelihood)
        and isinstance(model.given_prior, StandardNormal)
        and model.rows is None
    )


def _learns_scale(likelihood: Any) -> bool:
    return isinstance(likelihood, StudentT) or (isinstance(likelihood, Gaussian) and likelihood.learned)


def _drawn_in(x: Float[np.ndarray, "rows columns"]) -> Float[np.ndarray, "rows columns"]:
    """x with no value further from its column's median than some quartile ranges; columns mostly of one value stay."""
    low, middle, high = np.quantile(x, (0.25, 0.5, 0.75), axis=0)
    reach = np.where(high > low, REACH * (high - low), np.inf)
    return np.clip(x, middle - reach, middle + reach)


def _most(model: Any) -> int:
    """How many linear features there are latents and units for."""
    layers = [*model.encoder.features.layers, *model.decoder.layers[:-1]]
    narrowest = min(layer.out_features for layer in layers)
    return min(model.encoder.mean.out_features, narrowest // (2 * SHARE))


def _at(model: Any, fit: PPCA) -> LatentVariableModel:
    r, encoder, decoder = len(fit.variance), model.encoder, model.decoder
    seen = fit.axes / np.sqrt(fit.variance)[:, None]
    explained = np.sqrt((fit.variance - fit.noise) / fit.variance)
    log_scale = 0.5 * np.log(fit.noise / fit.variance)

    features = _carried(encoder.features.layers, seen, -seen @ fit.mean)
    drawn = _carried(decoder.layers[:-1], np.eye(r, encoder.mean.out_features), np.zeros(r))
    heads = (
        _first_units(encoder.mean, _read(np.diag(explained)), np.zeros(r)),
        _first_units(encoder.log_scale, np.zeros((r, 0)), log_scale),
        _first_units(decoder.layers[-1], _read(fit.axes.T * np.sqrt(fit.variance - fit.noise)), fit.mean),
    )
    noise = math.sqrt(fit.noise) / float(np.exp(np.mean(np.log(np.asarray(model.likelihood.scale)))))
    return eqx.tree_at(
        lambda m: (m.encoder.features.layers, m.encoder.mean, m.encoder.log_scale, m.decoder.layers, m.likelihood),
        model,
        (features, *heads[:2], (*drawn, heads[2]), model.likelihood.times(noise)),
    )


def _carried(layers: tuple[eqx.nn.Linear, ...], weight: np.ndarray, bias: np.ndarray) -> tuple[eqx.nn.Linear, ...]:
    """Layers whose first units are features of their input and the mirrors of these, handed on from layer to layer."""
    first, *others = layers
    both = 2 * len(weight)
    begin = _first_units(first, np.concatenate([weight, -weight]), np.concatenate([bias, -bias]))
    return (begin, *(_first_units(layer, np.eye(both), np.zeros(both)) for layer in others))


def _read(weight: np.ndarray) -> np.ndarray:
    """weight @ features, from rectified features and their mirrors."""
    return np.concatenate([weight, -weight], axis=1)


def _first_units(layer: eqx.nn.Linear, weight: np.ndarray, bias: np.ndarray) -> eqx.nn.Linear:
    """The layer whose first units see only its first inputs, with these weights."""
    whole, shift = np.array(layer.weight), np.array(layer.bias)
    whole[: len(weight)] = np.pad(weight, ((0, 0), (0, whole.shape[1] - weight.shape[1])))
    shift[: len(bias)] = bias
    arrays = jnp.asarray(whole, layer.weight.dtype), jnp.asarray(shift, layer.weight.dtype)
    return eqx.tree_at(lambda each: (each.weight, each.bias), layer, arrays)
