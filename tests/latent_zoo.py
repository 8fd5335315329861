"""Latent-variable models whose evidence and posteriors are known: to test autoencoding bounds and fits."""

from __future__ import annotations

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float
from scipy import stats
from scipy.special import betaln, gammaln

from qphi.autoencoders import Gaussian, LatentVariableModel
from qphi.families import DiagonalGaussian, FullRankGaussian, StandardNormal


@dataclasses.dataclass(frozen=True)
class KnownModel:
    """A latent-variable model whose encoder is the exact posterior, data, and the log evidence of each datum."""

    model: LatentVariableModel
    xs: np.ndarray
    log_evidence: np.ndarray


class LinearEncoder(eqx.Module):
    """q(z|x) = N(W x + b, diag(exp(log_scale))^2)."""

    weights: Float[Array, "dim size"]
    bias: Float[Array, " dim"]
    log_scale: Float[Array, " dim"]

    def __call__(self, x: Float[Array, " size"]) -> DiagonalGaussian:
        return DiagonalGaussian(self.weights @ x + self.bias, self.log_scale)


class LinearDecoder(eqx.Module):
    """E[x|z] = W z + b."""

    weights: Float[Array, "size dim"]
    bias: Float[Array, " size"]

    def __call__(self, z: Float[Array, " dim"]) -> Float[Array, " size"]:
        return self.weights @ z + self.bias


def linear_vae(size: int, latent_dim: int, key: PRNGKeyArray, scale: float | None = None) -> LatentVariableModel:
    """A linear VAE with random weights; its decoder's scale is learned unless it is given."""
    keys = jax.random.split(key, 5)
    encoder = LinearEncoder(
        0.5 * jax.random.normal(keys[0], (latent_dim, size)),
        0.5 * jax.random.normal(keys[1], (latent_dim,)),
        0.3 * jax.random.normal(keys[2], (latent_dim,)),
    )
    decoder = LinearDecoder(
        0.5 * jax.random.normal(keys[3], (size, latent_dim)), 0.5 * jax.random.normal(keys[4], (size,))
    )
    return LatentVariableModel(StandardNormal(latent_dim), encoder, decoder, Gaussian(scale))


def linear_vae_elbo(model: LatentVariableModel, xs: Float[Array, "data size"]) -> Float[Array, " data"]:
    """The exact ELBO of a linear VAE, nats per datum."""
    encoder, decoder, variance = model.encoder.function, model.decoder, model.likelihood.scale**2
    mean = xs @ encoder.weights.T + encoder.bias
    spread = jnp.exp(2 * encoder.log_scale)
    misfit = jnp.sum((xs - mean @ decoder.weights.T - decoder.bias) ** 2, axis=1)
    misfit += jnp.sum(decoder.weights**2 @ spread)
    log_likelihood = -0.5 * (xs.shape[1] * jnp.log(2 * jnp.pi * variance) + misfit / variance)
    return log_likelihood - 0.5 * jnp.sum(mean**2 + spread - 2 * encoder.log_scale - 1, axis=1)


def linear_gaussian_evidence(weights: Any, bias: Any, variance: Any, xs: np.ndarray) -> np.ndarray:
    """log p(x) of each row under x ~ N(bias, W W' + variance I): probabilistic PCA."""
    weights = np.asarray(weights, float)
    covariance = weights @ weights.T + float(variance) * np.eye(len(weights))
    return stats.multivariate_normal(np.asarray(bias, float), covariance).logpdf(xs)


def ppca_maximum_likelihood(xs: np.ndarray, latent_dim: int) -> tuple[float, float]:
    """Exact maximum of the log likelihood of probabilistic PCA, nats per datum, and its noise variance.

    Tipping & Bishop (1999): sigma^2 is the mean of the discarded eigenvalues of the covariance.
    """
    values = np.linalg.eigvalsh(np.cov(xs.T, bias=True))[::-1]
    variance = values[latent_dim:].mean()
    kept, discarded = values[:latent_dim], len(values) - latent_dim
    log_det = np.sum(np.log(kept)) + discarded * np.log(variance)
    return -0.5 * (len(values) * np.log(2 * np.pi) + log_det + len(values)), variance


def gamma_poisson_evidence(counts: np.ndarray, shape: float, rate: float) -> Any:
    """log p(counts) over the last axis, with a Gamma(shape, rate) prior on their common rate."""
    total, n = counts.sum(axis=-1), counts.shape[-1]
    posterior = gammaln(shape + total) - (shape + total) * np.log(rate + n)
    return shape * np.log(rate) - gammaln(shape) + posterior - gammaln(counts + 1).sum(axis=-1)


def _ppca_model() -> KnownModel:
    weights, bias, scale = np.array([[1.0, 0.5], [-0.3, 0.8], [0.6, 0.9]]), np.array([0.2, -0.1, 0.4]), 0.6
    covariance = np.linalg.inv(np.eye(2) + weights.T @ weights / scale**2)
    tril = jnp.asarray(np.linalg.cholesky(covariance), float)
    gain = jnp.asarray(covariance @ weights.T / scale**2, float)

    def encoder(x):
        return FullRankGaussian(gain @ (x - jnp.asarray(bias, float)), tril)

    decoder = LinearDecoder(jnp.asarray(weights, float), jnp.asarray(bias, float))
    xs = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    model = LatentVariableModel(StandardNormal(2), encoder, decoder, Gaussian(scale))
    return KnownModel(model, xs, linear_gaussian_evidence(weights, bias, scale**2, xs))


def _gamma_poisson_model() -> KnownModel:
    model = LatentVariableModel(
        prior=dist.Gamma(2.0, 1.5).expand([1]).to_event(1),
        encoder=lambda x: dist.Gamma(2.0 + jnp.sum(x, keepdims=True), jnp.array([1.5 + 3])).to_event(1),
        decoder=lambda z: jnp.broadcast_to(z, (3,)),
        likelihood=dist.Poisson,
    )
    xs = np.array([[0, 1, 2], [4, 2, 2], [0, 0, 0], [1, 0, 5]], np.float32)
    return KnownModel(model, xs, gamma_poisson_evidence(xs.astype(float), 2.0, 1.5))


def _beta_bernoulli_model() -> KnownModel:
    def encoder(x):
        ones = jnp.sum(x, keepdims=True)
        return dist.Beta(2.0 + ones, 1.5 + x.size - ones).to_event(1)

    model = LatentVariableModel(
        prior=dist.Beta(jnp.array([2.0]), jnp.array([1.5])).to_event(1),
        encoder=encoder,
        decoder=lambda z: jnp.broadcast_to(z, (4,)),
        likelihood=lambda p: dist.Bernoulli(probs=p),
    )
    xs = np.array([[0, 1, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 1, 0]], np.float32)
    ones = xs.sum(axis=1).astype(float)
    return KnownModel(model, xs, betaln(2.0 + ones, 1.5 + 4 - ones) - betaln(2.0, 1.5))


MODELS: dict[str, KnownModel] = {
    "probabilistic PCA": _ppca_model(),
    "Gamma-Poisson": _gamma_poisson_model(),
    "Beta-Bernoulli": _beta_bernoulli_model(),
}
