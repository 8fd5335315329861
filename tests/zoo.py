"""Densities of z whose evidence and posterior are known: what bounds and solvers are tested against."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, Float, PRNGKeyArray
from numpyro.distributions import biject_to, constraints
from scipy import stats
from scipy.special import betaln

from latent_zoo import gamma_poisson_evidence
from qphi.bounds import FactoredDensity
from qphi.families import AbstractFamily, DiagonalGaussian, FromNumPyro, FullRankGaussian, StandardNormal
from qphi.targets import AbstractTarget, LogDensity, as_target

Params = dict[str, Array]


@dataclasses.dataclass(frozen=True)
class Known:
    """A density with its log evidence, and a family with its exact KL to the posterior.

    `family(posterior)` is the posterior itself, or `posterior` is None where the family does not contain it;
    `family(elsewhere)` is another member. `kl` takes a family's parameters, and can be differentiated.
    """

    density: Any
    log_evidence: float
    family: Callable[[Params], AbstractFamily]
    posterior: Params | None
    elsewhere: Params
    kl: Callable[[Params], Array]


class GaussianTarget(AbstractTarget):
    """evidence * N(z | mean, precision^-1), and NaN where z[0] > edge."""

    mean: Float[Array, " dim"]
    precision: Float[Array, "dim dim"]
    log_evidence: Float[Array, ""]
    edge: Float[Array, ""]
    dim: int = eqx.field(static=True)

    def __init__(self, mean: Any, precision: Any, log_evidence: float = -3.0, edge: float = np.inf):
        self.mean, self.precision = jnp.asarray(mean, float), jnp.asarray(precision, float)
        self.log_evidence, self.edge = jnp.asarray(log_evidence, float), jnp.asarray(edge, float)
        self.dim = self.mean.shape[0]

    def log_density(self, z: Float[Array, " dim"]) -> Float[Array, ""]:
        q, log_det = z - self.mean, jnp.linalg.slogdet(self.precision)[1]
        value = 0.5 * (log_det - q @ self.precision @ q - self.dim * jnp.log(2 * jnp.pi)) + self.log_evidence
        return jnp.where(z[0] > self.edge, jnp.nan, value)

    def constrain(self, z: Float[Array, " dim"]) -> dict[str, Array]:
        return {"z": z}

    def start(self, key: PRNGKeyArray) -> Float[Array, " dim"]:
        return jnp.zeros(self.dim)


class LinearGaussianDensity(FactoredDensity):
    """z ~ N(0, I), x ~ N(W z, scale^2 I) for one datum x."""

    weights: Float[Array, "size dim"]
    x: Float[Array, " size"]
    scale: float

    @property
    def prior(self) -> AbstractFamily:
        return StandardNormal(self.weights.shape[1])

    def log_likelihood_many(self, z: Float[Array, "particles dim"]) -> Float[Array, " particles"]:
        return jnp.sum(jax.scipy.stats.norm.logpdf(self.x, z @ self.weights.T, self.scale), axis=-1)


def gaussian_kl(mean: Array, covariance: Array, to_mean: np.ndarray, to_covariance: np.ndarray) -> Array:
    """KL between two Gaussians, the textbook formula."""
    precision = jnp.linalg.inv(jnp.asarray(to_covariance))
    shift = to_mean - mean
    log_dets = jnp.linalg.slogdet(to_covariance)[1] - jnp.linalg.slogdet(covariance)[1]
    return 0.5 * (jnp.trace(precision @ covariance) + shift @ precision @ shift - mean.size + log_dets)


def _linear_gaussian(full_rank: bool) -> Known:
    weights, x, scale = np.array([[1.0, 0.5], [-0.3, 0.8], [0.6, 0.9]]), np.array([0.7, -1.1, 0.4]), 0.6
    covariance = np.linalg.inv(np.eye(2) + weights.T @ weights / scale**2)
    mean = covariance @ weights.T @ x / scale**2
    density = LinearGaussianDensity(jnp.asarray(weights, float), jnp.asarray(x, float), scale)
    marginal = stats.multivariate_normal(np.zeros(3), weights @ weights.T + scale**2 * np.eye(3))
    if full_rank:
        return Known(
            density,
            marginal.logpdf(x),
            lambda p: FullRankGaussian(p["mean"], p["tril"]),
            {"mean": jnp.asarray(mean, float), "tril": jnp.asarray(np.linalg.cholesky(covariance), float)},
            {"mean": jnp.array([0.1, -0.4]), "tril": jnp.array([[0.5, 0.0], [0.2, 0.4]])},
            lambda p: gaussian_kl(p["mean"], jnp.tril(p["tril"]) @ jnp.tril(p["tril"]).T, mean, covariance),
        )
    return Known(
        density,
        marginal.logpdf(x),
        lambda p: DiagonalGaussian(p["mean"], p["log_scale"]),
        None,  # the posterior's coordinates are correlated
        {"mean": jnp.array([0.1, -0.4]), "log_scale": jnp.array([-0.5, -0.9])},
        lambda p: gaussian_kl(p["mean"], jnp.diag(jnp.exp(2 * p["log_scale"])), mean, covariance),
    )


def _conjugate_normal() -> Known:
    y, scale, prior_mean, prior_scale = np.array([1.2, 0.3, 0.8, 1.9]), 0.7, -0.5, 1.5

    def program(y):
        m = numpyro.sample("m", dist.Normal(prior_mean, prior_scale))
        numpyro.sample("y", dist.Normal(m, scale), obs=y)

    variance = 1 / (1 / prior_scale**2 + y.size / scale**2)
    mean = variance * (prior_mean / prior_scale**2 + y.sum() / scale**2)
    spread = scale**2 * np.eye(4) + prior_scale**2
    return Known(
        as_target(program, y),
        stats.multivariate_normal(np.full(4, prior_mean), spread).logpdf(y),
        lambda p: DiagonalGaussian(p["mean"], p["log_scale"]),
        {"mean": jnp.array([mean], float), "log_scale": jnp.array([0.5 * np.log(variance)], float)},
        {"mean": jnp.array([0.2]), "log_scale": jnp.array([-1.5])},
        lambda p: gaussian_kl(
            p["mean"], jnp.diag(jnp.exp(2 * p["log_scale"])), np.array([mean]), np.array([[variance]])
        ),
    )


def _transformed(law: dist.Distribution, support: constraints.Constraint) -> FromNumPyro:
    """`law`, moved from its support to the unconstrained scale."""
    return FromNumPyro(dist.TransformedDistribution(law, biject_to(support).inv).to_event(1))


def _gamma_poisson() -> Known:
    counts, shape, rate = np.array([3, 0, 2, 4, 1]), 2.0, 1.5

    def program(counts):
        r = numpyro.sample("r", dist.Gamma(shape, rate))
        numpyro.sample("counts", dist.Poisson(r), obs=counts)

    exact = dist.Gamma(shape + counts.sum(), rate + counts.size)
    return Known(
        as_target(program, counts),
        gamma_poisson_evidence(counts, shape, rate),
        lambda p: _transformed(dist.Gamma(p["concentration"], p["rate"]), constraints.positive),
        {"concentration": jnp.array([shape + counts.sum()], float), "rate": jnp.array([rate + counts.size])},
        {"concentration": jnp.array([6.0]), "rate": jnp.array([4.0])},
        lambda p: jnp.sum(dist.kl_divergence(dist.Gamma(p["concentration"], p["rate"]), exact)),
    )


def _beta_bernoulli() -> Known:
    tosses, a, b = np.array([1.0, 1.0, 0.0, 1.0, 0.0, 1.0]), 2.0, 1.5

    def log_joint(values, tosses):
        p = values["p"]
        return dist.Beta(a, b).log_prob(p) + jnp.sum(tosses * jnp.log(p) + (1 - tosses) * jnp.log1p(-p))

    exact = dist.Beta(a + 4, b + 2)
    return Known(
        LogDensity(log_joint, {"p": 0.5}, supports={"p": constraints.unit_interval}, args=(tosses,)),
        betaln(a + 4, b + 2) - betaln(a, b),
        lambda p: _transformed(dist.Beta(p["a"], p["b"]), constraints.unit_interval),
        {"a": jnp.array([a + 4]), "b": jnp.array([b + 2])},
        {"a": jnp.array([3.0]), "b": jnp.array([4.0])},
        lambda p: jnp.sum(dist.kl_divergence(dist.Beta(p["a"], p["b"]), exact)),
    )


KNOWN: dict[str, Known] = {
    "linear Gaussian, full rank": _linear_gaussian(True),
    "linear Gaussian, mean field": _linear_gaussian(False),
    "conjugate normal": _conjugate_normal(),
    "Gamma-Poisson": _gamma_poisson(),
    "Beta-Bernoulli": _beta_bernoulli(),
}
