"""Log densities drawn at random with known answers: a zoo without an end, for what nobody has thought of.

`benchmarks/random_zoo.py` counts silent failures and false alarms over them. A seed gives the same density always.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints
from scipy import stats

from posterior_zoo import Known, gaussians

ANY = ("trusted", "corrected", "unreliable")
_DRAWS = 200_000  # for moments that have no formula: means within a hundredth of an sd


def _turn(random: np.random.Generator, dim: int) -> np.ndarray:
    return stats.ortho_group.rvs(dim, random_state=random) if dim > 1 else np.ones((1, 1))


def _dim(random: np.random.Generator, most: int = 12) -> int:
    return int(math.exp(random.uniform(0, math.log(most + 1))))


def _spread(random: np.random.Generator, dim: int, nats: float = 3.0) -> np.ndarray:
    return np.exp(random.uniform(-nats, nats, dim))


def _factor(random: np.random.Generator) -> tuple[Callable, float, float]:
    """A log density of one number, its mean and its sd."""
    kind = random.integers(8)
    if kind == 0:
        df = random.uniform(2.2, 8)
        return lambda x: -0.5 * (df + 1) * jnp.log1p(x**2 / df), 0.0, math.sqrt(df / (df - 2))
    if kind == 1:
        slant = random.uniform(0, 8)
        delta = slant / math.sqrt(1 + slant**2)
        mean = delta * math.sqrt(2 / math.pi)
        return lambda x: -0.5 * x**2 + jax.scipy.stats.norm.logcdf(slant * x), mean, math.sqrt(1 - mean**2)
    if kind == 2:  # log of a gamma variable
        shape = math.exp(random.uniform(math.log(0.3), math.log(10)))
        found = stats.loggamma(shape)
        return lambda x: shape * x - jnp.exp(x), float(found.mean()), float(found.std())
    if kind == 3:
        return lambda x: -jnp.sqrt(0.01 + x**2), *_by_quadrature(lambda x: -np.sqrt(0.01 + x**2), 40)
    if kind == 4:  # flat with soft edges
        return lambda x: -0.5 * x**8, *_by_quadrature(lambda x: -0.5 * x**8, 3)
    if kind == 5:
        apart, share = random.uniform(0.5, 6), random.uniform(0.05, 0.95)
        mean = apart * (2 * share - 1)
        return (
            lambda x: jnp.logaddexp(
                math.log(share) - 0.5 * (x - apart) ** 2, math.log1p(-share) - 0.5 * (x + apart) ** 2
            ),
            mean,
            math.sqrt(1 + apart**2 - mean**2),
        )
    if kind == 6:
        return lambda x: -x - 2 * jax.nn.softplus(-x), 0.0, math.pi / math.sqrt(3)
    return lambda x: -0.5 * x**2, 0.0, 1.0


def _by_quadrature(log_density: Callable, end: float) -> tuple[float, float]:
    x = np.linspace(-end, end, 200_001)
    weight = np.exp(log_density(x))
    mean = float(weight @ x / weight.sum())
    return mean, math.sqrt(weight @ (x - mean) ** 2 / weight.sum())


def factors(random: np.random.Generator) -> Known:
    """Independent numbers of various shapes, turned and stretched."""
    dim = _dim(random)
    parts = [_factor(random) for _ in range(dim)]
    mix = _turn(random, dim) * _spread(random, dim)
    if random.uniform() < 0.5:
        mix = _turn(random, dim) @ mix.T
    shift, back = random.normal(0, 10, dim), np.linalg.inv(mix)

    def log_density(x):
        inner = back @ (x - shift)
        return sum(part(inner[i]) for i, (part, _, _) in enumerate(parts))

    mean, sd = (np.array([part[i] for part in parts]) for i in (1, 2))
    return Known(log_density, dim, shift + mix @ mean, np.sqrt(mix**2 @ sd**2), ANY)


def mixture(random: np.random.Generator) -> Known:
    """A few Gaussians of any covariance."""
    dim, count = _dim(random), int(random.integers(2, 6))
    apart = random.uniform(0, 6)
    means = apart * random.standard_normal((count, dim))
    roots = np.array([_turn(random, dim) * _spread(random, dim, 1.2) for _ in range(count)])
    shares = random.dirichlet(np.full(count, 1.5))
    shares = (shares + 0.02) / (shares + 0.02).sum()
    backs, log_dets = np.linalg.inv(roots), np.linalg.slogdet(roots)[1]

    def log_density(x):
        inner = jnp.einsum("kij,kj->ki", backs, x - means)
        return jax.scipy.special.logsumexp(-0.5 * jnp.sum(inner**2, axis=1) - log_dets + np.log(shares))

    variances = np.sum(roots**2, axis=2)
    mean = shares @ means
    return Known(log_density, dim, mean, np.sqrt(shares @ (variances + means**2) - mean**2), ANY)


def narrow(random: np.random.Generator) -> Known:
    """A Gaussian and a narrower one aside, of no less than a thousandth of its volume."""
    dim = _dim(random, 8)
    least = max(0.02, 1e-3 ** (1 / dim))
    place, width = random.uniform(2, 6) * _turn(random, dim)[0], math.exp(random.uniform(math.log(least), 0))
    share = random.uniform(0.1, 0.6)
    return gaussians([np.zeros(dim), place], [np.ones(dim), np.full(dim, width)], [1 - share, share])


def student(random: np.random.Generator) -> Known:
    """Student's t of several numbers, turned and stretched."""
    dim, df = _dim(random), random.uniform(2.1, 6)
    mix, shift = _turn(random, dim) * _spread(random, dim, 1.5), random.normal(0, 3, dim)
    back = np.linalg.inv(mix)
    return Known(
        lambda x: -0.5 * (df + dim) * jnp.log1p(jnp.sum((back @ (x - shift)) ** 2) / df),
        dim,
        shift,
        np.sqrt(np.sum(mix**2, axis=1) * df / (df - 2)),
        ANY,
    )


def bent(random: np.random.Generator) -> Known:
    """z ~ N(0, I) sent through x_i = z_i exp(a_i s_i) + b_i f_i, s_i and f_i of the x before; moments of draws."""
    dim = max(2, _dim(random))
    to_scale, to_place = (np.tril(random.standard_normal((dim, dim)), -1) / math.sqrt(dim) for _ in range(2))
    scale, bow = random.uniform(0, 1.2, dim), random.uniform(-1.5, 1.5, dim)
    waves = random.uniform(size=dim) < 0.3

    def scale_and_place(x, numbers):
        s, f = x @ to_scale.T, x @ to_place.T
        return scale * numbers.tanh(s), bow * numbers.where(waves, numbers.sin(2 * f), f**2 / (1 + 0.1 * f**2))

    z = random.standard_normal((_DRAWS, dim))
    x = np.zeros_like(z)
    for i in range(dim):
        log_scale, place = scale_and_place(x[:, :i] @ np.eye(dim)[:i], np)
        x[:, i] = z[:, i] * np.exp(log_scale[:, i]) + place[:, i]
    turn = _turn(random, dim) if random.uniform() < 0.5 else np.eye(dim)
    x = x @ turn.T

    def log_density(x):
        inner = turn.T @ x
        log_scale, place = scale_and_place(inner, jnp)
        return -0.5 * jnp.sum(((inner - place) / jnp.exp(log_scale)) ** 2) - jnp.sum(log_scale)

    return Known(log_density, dim, x.mean(axis=0), x.std(axis=0), ANY)


def positive(random: np.random.Generator) -> Known:
    """Gamma, inverse gamma and log-normal variables and F ratios, each independent of the others."""
    dim = _dim(random, 6)
    parts = []
    for kind in random.integers(4, size=dim):
        scale = math.exp(random.uniform(-3, 3))
        if kind == 0:
            shape = math.exp(random.uniform(math.log(0.3), math.log(20)))
            found = stats.gamma(shape, scale=scale)
            part = _of(lambda x, a, c: (a - 1) * jnp.log(x) - x / c, shape, scale)
        elif kind == 1:
            shape = random.uniform(2.2, 12)
            found = stats.invgamma(shape, scale=scale)
            part = _of(lambda x, a, c: -(a + 1) * jnp.log(x) - c / x, shape, scale)
        elif kind == 2:
            wide = random.uniform(0.1, 1.2)
            found = stats.lognorm(wide, scale=scale)
            part = _of(lambda x, s, c: -jnp.log(x) - 0.5 * (jnp.log(x / c) / s) ** 2, wide, scale)
        else:
            first, second = random.uniform(1, 10), random.uniform(5, 20)
            found = stats.f(first, second, scale=scale)
            part = _of(
                lambda x, m, n, c: (m / 2 - 1) * jnp.log(x) - 0.5 * (m + n) * jnp.log1p(m * x / (n * c)),
                first,
                second,
                scale,
            )
        parts.append((part, float(found.mean()), float(found.std())))
    mean, sd = (np.array([part[i] for part in parts]) for i in (1, 2))
    return Known(
        lambda x: sum(part(x[i]) for i, (part, _, _) in enumerate(parts)), dim, mean, sd, ANY, constraints.positive
    )


def _of(log_density: Callable, *given: float) -> Callable:
    return lambda x: log_density(x, *given)


KINDS = {kind.__name__: kind for kind in (factors, mixture, narrow, student, bent, positive)}


def drawn(kind: str, seed: int) -> Known:
    """The density of this kind and seed."""
    return KINDS[kind](np.random.default_rng([list(KINDS).index(kind), seed]))
