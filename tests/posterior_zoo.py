"""Log densities with known answers, right ones and such as no answer can be trusted for: the zoo of door 1.

`benchmarks/zoo.py` counts silent failures and false alarms over them.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints
from scipy import stats

import qphi


def normal(x, mean=0.0, sd=1.0):
    return jnp.sum(-0.5 * ((x - mean) / sd) ** 2)


@dataclasses.dataclass(frozen=True)
class Known:
    """A log density of x with its exact mean and sd; `verdicts` that are right for it."""

    log_density: Callable
    dim: int
    mean: float | np.ndarray = 0.0
    sd: float | np.ndarray = 1.0
    verdicts: tuple[str, ...] = ("trusted",)
    support: constraints.Constraint | None = None
    log_evidence: float | None = None


USABLE = ("trusted", "corrected")
SCALES = 10.0 ** np.arange(-6, 7, 2)
DELTA = 4 / math.sqrt(17)


def gaussians(means, sds, shares) -> Known:
    """A mixture with diagonal covariances; its moments are the parts'."""
    means, sds, shares = (np.asarray(part, float) for part in (means, sds, shares))

    def log_density(x):
        parts = -0.5 * jnp.sum(((x - means) / sds) ** 2, axis=1) - np.sum(np.log(sds), axis=1) + np.log(shares)
        return jax.scipy.special.logsumexp(parts)

    mean, dim = shares @ means, means.shape[1]
    sd = np.sqrt(shares @ (sds**2 + means**2) - mean**2)
    return Known(log_density, dim, mean, sd, ("corrected",), log_evidence=0.5 * dim * math.log(2 * math.pi))


def long_neck() -> Known:
    """Group effects under a vague precision: tau ~ Gamma(0.001, 0.001), b_i ~ N(0, 1/tau), y_i ~ N(b_i, 0.3^2), as x =
    (tau, exp b). One row in a hundred has a tau forty times its median, where all b are close together: few steps lead
    in there, and the sd of tau is made of these rows. Moments by quadrature over tau."""
    noise, y = 0.3, 0.45 * stats.norm.ppf((np.arange(20) + 0.5) / 20)

    def log_density(x):
        tau, b = x[0], jnp.log(x[1:])
        prior = normal(b, 0.0, tau**-0.5) + 10 * jnp.log(tau) - 0.999 * jnp.log(tau) - 0.001 * tau
        return prior + normal(y, b, noise) - jnp.sum(b)

    tau = np.exp(np.linspace(-8, 14, 8001))
    total = 1 / tau + noise**2
    log_weight = 0.001 * np.log(tau) - 0.001 * tau - 0.5 * np.sum(y[:, None] ** 2 / total + np.log(total), axis=0)
    weight = np.exp(log_weight - log_weight.max()) / np.sum(np.exp(log_weight - log_weight.max()))
    mean_b, var_b = y[:, None] / (tau * total), noise**2 / (tau * total)
    first = np.concatenate([[weight @ tau], np.exp(mean_b + var_b / 2) @ weight])
    second = np.concatenate([[weight @ tau**2], np.exp(2 * mean_b + 2 * var_b) @ weight])
    return Known(log_density, 21, first, np.sqrt(second - first**2), (*USABLE, "unreliable"), constraints.positive)


def product(factor, dim: int, low: float, high: float, **more) -> Known:
    """The same log density of each coordinate; its moments by quadrature between the two."""
    x = np.linspace(low, high, 100_001)
    weight = np.exp(np.asarray(factor(x)))
    mean = weight @ x / weight.sum()
    sd = math.sqrt(weight @ (x - mean) ** 2 / weight.sum())
    return Known(lambda z: jnp.sum(factor(z)), dim, float(mean), sd, ("corrected", "unreliable"), **more)


def branches() -> Known:
    """Two that bend away from each other, of which one is the other's reflection; by quadrature."""

    def log_density(x):
        return normal(x) + normal(x[0] * x[1], 3.0, 0.2)

    x = np.linspace(-7, 7, 4001)
    log_p = -0.5 * (x[:, None] ** 2 + x**2 + ((x[:, None] * x - 3) / 0.2) ** 2)
    weight = np.exp(log_p - log_p.max())
    sd = math.sqrt(np.sum(weight * x**2) / weight.sum())
    return Known(log_density, 2, 0.0, sd, ("corrected", "unreliable"))


RIGHT = {
    "standard": Known(normal, 3, log_evidence=1.5 * math.log(2 * math.pi)),
    "shifted": Known(lambda x: normal(x, 1e3, 0.1), 2, 1e3, 0.1),
    "scales": Known(lambda x: normal(x / SCALES - 3), 7, 3 * SCALES, SCALES),
    "correlated": Known(
        lambda x: -0.5 * (x[0] ** 2 - 2 * 0.999 * x[0] * x[1] + x[1] ** 2) / (1 - 0.999**2), 2,
        log_evidence=math.log(2 * math.pi * math.sqrt(1 - 0.999**2)),
    ),
    "ridge": Known(
        lambda x: -0.5 * ((x[0] + x[1]) / 1e-3) ** 2 - 0.5 * jnp.sum((x / 100) ** 2), 2, 0.0, 100 / math.sqrt(2)
    ),
    "many": Known(lambda x: normal(x, 1.0, jnp.linspace(0.1, 3, 100)), 100, 1.0, np.linspace(0.1, 3, 100)),
    "thousand": Known(lambda x: normal(x, 1.0, jnp.linspace(0.1, 3, 1000)), 1000, 1.0, np.linspace(0.1, 3, 1000)),
    "log-normal": Known(
        lambda x: normal(jnp.log(x)) - jnp.sum(jnp.log(x)), 2, math.exp(0.5), math.sqrt((math.e - 1) * math.e),
        support=constraints.positive,
    ),
    "exponential": Known(lambda x: -jnp.sum(x), 2, 1.0, 1.0, USABLE, constraints.positive, 0.0),
    "beta": Known(
        lambda x: jnp.sum(jnp.log1p(-x)), 1, 1 / 3, math.sqrt(1 / 18), USABLE, constraints.unit_interval, -math.log(2)
    ),
    "skew": Known(
        lambda x: normal(x) + jnp.sum(jax.scipy.stats.norm.logcdf(4 * x)), 1,
        DELTA * math.sqrt(2 / math.pi), math.sqrt(1 - 2 / math.pi * DELTA**2), USABLE,
    ),
    "two modes": Known(
        lambda x: jnp.logaddexp(normal(x, 4.0), normal(x, -4.0)), 1, 0.0, math.sqrt(17), ("corrected",),
        log_evidence=math.log(2) + 0.5 * math.log(2 * math.pi),
    ),
    "far modes": Known(
        lambda x: jnp.logaddexp(normal(x, 20.0), normal(x, -20.0)), 1, 0.0, math.sqrt(401), ("corrected",)
    ),
    "unequal modes": Known(
        lambda x: jnp.logaddexp(jnp.log(0.05) + normal(x, 5.0), jnp.log(0.95) + normal(x, -5.0)), 2,
        -4.5, math.sqrt(1 + 100 * 0.05 * 0.95), ("corrected",), log_evidence=math.log(2 * math.pi),
    ),
    "spike in a slab": Known(
        lambda x: jnp.logaddexp(normal(x), normal(x, 0.0, 0.001) - math.log(0.001)), 1,
        0.0, math.sqrt(0.5 + 0.5e-6), ("corrected",),
    ),
    "narrow mode aside": Known(
        lambda x: jnp.logaddexp(normal(x), normal(x, 4.0, 0.05) - math.log(0.05)), 1,
        2.0, math.sqrt(4 + 0.5 + 0.5 * 0.0025), ("corrected",),
    ),
    "outlying data": Known(  # moments by quadrature
        lambda x: -x[0] ** 2 / 200 - jnp.sum(jnp.log1p((jnp.array([-10, -9.5, 8, 9.2, 10]) - x[0]) ** 2)), 1,
        8.732, 1.918, ("corrected",),
    ),
    "far and tiny": Known(lambda x: normal(x, 1e6, 1e-6), 2, 1e6, 1e-6),
    # one peak in common, and each as wide as the other is narrow: climbs from either end at the same place
    "cross": gaussians(np.zeros((2, 2)), [[10, 0.1], [0.1, 10]], [0.5, 0.5]),
    "three in five": gaussians(
        [[0.5, -0.5, 2.5, 0.4, -2], [-2.5, 0.2, -9, -0.9, -5], [1.5, 5, 4, -3, -5]],
        [[1.5, 0.9, 1.2, 0.5, 1.4], [1.1, 1.7, 0.6, 1.6, 0.4], [1, 1.2, 1.6, 0.4, 1]],
        [0.2, 0.5, 0.3],
    ),
    "kink": Known(lambda x: -jnp.sum(jnp.abs(x)), 2, 0.0, math.sqrt(2), USABLE, log_evidence=2 * math.log(2)),
    "steps": Known(  # nothing to climb, and weights do: a rounded Gaussian, moments by summation
        lambda x: jnp.sum(-0.5 * jnp.floor(x) ** 2), 1, 0.5, math.sqrt(1 + 1 / 12), ("corrected",)
    ),
    "banana": Known(
        lambda x: -0.5 * x[0] ** 2 - 0.5 * ((x[1] - x[0] ** 2) / 0.5) ** 2, 2,
        np.array([0.0, 1.0]), np.array([1.0, 1.5]), (*USABLE, "unreliable"),
    ),
}  # fmt: skip

# with answers that are hard to get: usable ones come from maps and chains, and are less exact
HARD = {
    "product": Known(  # only x0 x1 is known, and two arms have to be walked to their ends; by quadrature
        lambda x: -((x[0] * x[1]) ** 2) - 0.05 * jnp.sum(x**2), 2, 0.0, 1.70761, (*USABLE, "unreliable")
    ),
    "waves": Known(
        lambda x: normal(x[0]) + normal(x[1], jnp.cos(3 * x[0]), 0.3), 2, np.array([0.0, math.exp(-4.5)]),
        np.array([1.0, math.sqrt((1 + math.exp(-18)) / 2 - math.exp(-9) + 0.09)]), (*USABLE, "unreliable"),
    ),
    "ring": Known(  # E r^2 = E_N(5, 0.1) r^3 / E r
        lambda x: -0.5 * ((jnp.sqrt(jnp.sum(x**2)) - 5) / 0.1) ** 2, 2, 0.0, math.sqrt((125 + 15 * 0.01) / 5 / 2),
        (*USABLE, "unreliable"), log_evidence=math.log((2 * math.pi) ** 1.5 * 0.1 * 5),
    ),
    "shell": Known(  # the same in three dimensions: E r^2 = E_N(5, 0.1) r^4 / E r^2
        lambda x: -0.5 * ((jnp.sqrt(jnp.sum(x**2)) - 5) / 0.1) ** 2, 3, 0.0,
        math.sqrt((625 + 6 * 25 * 0.01 + 3 * 0.0001) / 25.01 / 3), (*USABLE, "unreliable"),
        log_evidence=math.log(4 * math.pi * math.sqrt(2 * math.pi) * 0.1 * 25.01),
    ),
    "two bananas": Known(  # that cross each other, x1 = +-(x0^2 - 4)
        lambda x: jnp.logaddexp(
            normal(x[0]) + normal(x[1], x[0] ** 2 - 4, 0.3), normal(x[0]) + normal(x[1], 4 - x[0] ** 2, 0.3)
        ),
        2, 0.0, np.array([1.0, math.sqrt(3 - 8 + 16 + 0.09)]), (*USABLE, "unreliable"),
        log_evidence=math.log(4 * math.pi * 0.3),
    ),
    "two branches": branches(),
    "sixteen modes": product(lambda x: -2 * (x**2 - 4) ** 2 + 0.3 * x, 4, -6, 6),
    "hundreds of modes": product(lambda x: -0.5 * (x / 1.5) ** 2 + jnp.log(1.02 + jnp.cos(5 * x)), 3, -15, 15),
    "long neck": long_neck(),
    "zero below zero": Known(  # an edge that is not declared: no Gaussian has a finite ELBO
        lambda x: jnp.where(x[0] < 0, -jnp.inf, normal(x)), 2, np.array([math.sqrt(2 / math.pi), 0.0]),
        np.array([math.sqrt(1 - 2 / math.pi), 1.0]), (*USABLE, "unreliable"),
    ),
    "rare and wide": dataclasses.replace(  # looks like a heavy tail
        gaussians(np.zeros((2, 4)), [[1] * 4, [20] * 4], [0.97, 0.03]), verdicts=(*USABLE, "unreliable")
    ),
}  # fmt: skip

DOUBTFUL = {
    "funnel": Known(lambda x: -0.5 * (x[0] / 3) ** 2 + normal(x[1:] * jnp.exp(-x[0] / 2)) - 4.5 * x[0], 10),
    "cauchy": Known(lambda x: -jnp.sum(jnp.log1p(x**2)), 2),
    "no mean": Known(lambda x: -2 * jnp.sum(jnp.log1p(x)), 1, support=constraints.positive),
    "no variance": Known(lambda x: -2.5 * jnp.sum(jnp.log1p(x)), 1, support=constraints.positive),
    "flat": Known(lambda x: -0.5 * x[0] ** 2 + 0 * x[1], 2),
    "unbounded": Known(lambda x: jnp.sum(x), 2),
    "NaN beyond one": Known(lambda x: jnp.where(x[0] > 1, jnp.nan, normal(x)), 2),
    "too many modes": Known(
        lambda x: jnp.sum(jnp.logaddexp(math.log(0.2) - 2 * (x + 3) ** 2, math.log(0.8) - 2 * (x - 3) ** 2)), 5
    ),
    "diagonal": Known(lambda x: -0.5 * (x[0] + x[1] - 1) ** 2, 2),
    "heavier than integrable": Known(lambda x: -0.5 * jnp.sum(jnp.log1p(x**2)), 2),
}


@functools.cache
def of_values(log_density: Callable) -> Callable:
    """One function for each density, so that fits with other seeds compile nothing."""
    return lambda values: log_density(values["x"])


def fitted(known: Known, seed: int = 0, **options):
    example = jnp.full(known.dim, 0.0 if known.support is None else 0.4)
    supports = None if known.support is None else {"x": known.support}
    return qphi.fit(
        of_values(known.log_density),
        example={"x": example},
        supports=supports,
        key=jax.random.key(seed),
        **options,
    )
