"""Everyday models: is `qphi.fit` right, and does it say so, where people would otherwise run NUTS for a while?

NumPyro programs of the kinds that statisticians write (varying effects, counts, survival, item response, state space,
Gaussian process, mixtures, correlations, simplexes, ordinal, circular, shrinkage, differential equations, hidden
Markov, spatial, change points, capture and recapture), each with data drawn
for it with a fixed seed, as people write them first. The reference is NumPyro's NUTS, 4 chains of 2,000 +
10,000, float64, acceptance 0.95; its own R-hat is shown. An answer is right where every mean is within 0.3 reference
sds and every sd within a factor of 1.5. A silent failure is a wrong answer called `trusted` or `corrected`, a false
alarm a right one called `unreliable` or `failed`.

References take minutes and are kept in benchmarks/results/everyday.json; --references makes them again. Writes the
table of docs/verdicts.md.

    JAX_ENABLE_X64=1 python benchmarks/everyday.py
    JAX_ENABLE_X64=1 python benchmarks/everyday.py --only survival --seeds 1
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.experimental import ode
from jax.scipy.special import gammaln, logsumexp
from scipy.integrate import odeint

from _against_nuts import Program, compare

MODELS: dict[str, Program] = {}


def model(make_data: Callable[[np.random.Generator], tuple[Any, ...]]) -> Callable[[Callable[..., None]], Any]:
    """Registers a program with the data that `make_data` draws."""

    def keep(program: Callable[..., None]) -> Callable[..., None]:
        name = program.__name__
        MODELS[name] = Program(program, make_data(np.random.default_rng(len(MODELS))))
        return program

    return keep


def _grouped(rng: np.random.Generator, groups: int, each: int) -> tuple[Any, ...]:
    group = np.repeat(np.arange(groups), each)
    x = rng.normal(size=group.size)
    return group, x, rng.normal(size=groups)


def _varying(rng: np.random.Generator) -> tuple[Any, ...]:
    group, x, effect = _grouped(rng, 8, 12)
    p = 1 / (1 + np.exp(-(0.5 + 0.8 * effect[group] + x)))
    return group, x, rng.binomial(1, p)


@model(_varying)
def varying_logistic(group, x, y):
    a, b = numpyro.sample("a", dist.Normal(0, 2)), numpyro.sample("b", dist.Normal(0, 2))
    sd = numpyro.sample("sd", dist.HalfNormal(1))
    with numpyro.plate("groups", 8):
        effect = numpyro.sample("effect", dist.Normal(0, sd))
    numpyro.sample("y", dist.Bernoulli(logits=a + b * x + effect[group]), obs=y)


def _slopes(rng: np.random.Generator) -> tuple[Any, ...]:
    group, x, _ = _grouped(rng, 10, 10)
    effect = rng.multivariate_normal([0, 0], [[1, 0.5], [0.5, 0.6]], size=10)
    return group, x, 1 + effect[group, 0] + (0.5 + effect[group, 1]) * x + 0.7 * rng.normal(size=x.size)


@model(_slopes)
def correlated_slopes(group, x, y):
    mean = numpyro.sample("mean", dist.Normal(0, 2).expand([2]).to_event(1))
    sd = numpyro.sample("sd", dist.HalfNormal(1).expand([2]).to_event(1))
    corr = numpyro.sample("corr", dist.LKJCholesky(2, 2.0))
    noise = numpyro.sample("noise", dist.HalfNormal(1))
    with numpyro.plate("groups", 10):
        effect = numpyro.sample("effect", dist.MultivariateNormal(mean, scale_tril=sd[:, None] * corr))
    numpyro.sample("y", dist.Normal(effect[group, 0] + effect[group, 1] * x, noise), obs=y)


def _regression(rng: np.random.Generator, n: int = 100, p: int = 4) -> tuple[Any, ...]:
    x = rng.normal(size=(n, p))
    return x, x @ np.linspace(1, -1, p)


def _negative_binomial(rng: np.random.Generator) -> tuple[Any, ...]:
    x, eta = _regression(rng)
    return x, rng.negative_binomial(2, 2 / (2 + np.exp(0.5 + 0.5 * eta)))


@model(_negative_binomial)
def negative_binomial_regression(x, y):
    a, b = numpyro.sample("a", dist.Normal(0, 3)), numpyro.sample("b", dist.Normal(0, 1).expand([4]).to_event(1))
    concentration = numpyro.sample("concentration", dist.Exponential(0.2))
    numpyro.sample("y", dist.NegativeBinomial2(jnp.exp(a + x @ b), concentration), obs=y)


def _horseshoe(rng: np.random.Generator) -> tuple[Any, ...]:
    x = rng.normal(size=(60, 10))
    return x, 2 * x[:, 0] - x[:, 1] + rng.normal(size=60)


@model(_horseshoe)
def horseshoe_regression(x, y):
    overall = numpyro.sample("overall", dist.HalfCauchy(0.3))
    local = numpyro.sample("local", dist.HalfCauchy(1).expand([10]).to_event(1))
    z = numpyro.sample("z", dist.Normal(0, 1).expand([10]).to_event(1))
    b = numpyro.deterministic("b", z * overall * local)
    noise = numpyro.sample("noise", dist.HalfNormal(2))
    numpyro.sample("y", dist.Normal(x @ b, noise), obs=y)


@model(lambda rng: (np.concatenate([rng.normal(-1, 0.6, 40), rng.normal(1.5, 0.8, 60)]),))
def ordered_mixture(y):
    weight = numpyro.sample("weight", dist.Dirichlet(jnp.ones(2)))
    mean = numpyro.sample(
        "mean",
        dist.TransformedDistribution(dist.Normal(0, 1).expand([2]).to_event(1), dist.transforms.OrderedTransform()),
    )
    sd = numpyro.sample("sd", dist.HalfNormal(1).expand([2]).to_event(1))
    numpyro.sample("y", dist.MixtureSameFamily(dist.Categorical(weight), dist.Normal(mean, sd)), obs=y)


@model(lambda rng: (np.array([3, 11, 0, 26, 5]),))
def multinomial_shares(counts):
    shares = numpyro.sample("shares", dist.Dirichlet(0.5 * jnp.ones(5)))
    numpyro.sample("counts", dist.Multinomial(int(counts.sum()), shares), obs=counts)


def _volatility(rng: np.random.Generator) -> tuple[Any, ...]:
    h = np.zeros(60)
    for t in range(1, 60):
        h[t] = 0.9 * h[t - 1] + 0.4 * rng.normal()
    return (np.exp(h / 2) * rng.normal(size=60),)


@model(_volatility)
def stochastic_volatility(y):
    phi = numpyro.sample("phi", dist.Beta(20, 1.5))
    sd = numpyro.sample("sd", dist.HalfNormal(1))
    level = numpyro.sample("level", dist.Normal(0, 1))
    e = numpyro.sample("e", dist.Normal(0, 1).expand([len(y)]).to_event(1))
    h = [sd * e[0]]
    for t in range(1, len(y)):
        h.append(phi * h[-1] + sd * e[t])
    numpyro.sample("y", dist.Normal(0, jnp.exp((level + jnp.stack(h)) / 2)), obs=y)


def _answers(rng: np.random.Generator) -> tuple[Any, ...]:
    ability, hard, sharp = rng.normal(size=40), rng.normal(size=6), np.exp(0.3 * rng.normal(size=6))
    return (rng.binomial(1, 1 / (1 + np.exp(-sharp * (ability[:, None] - hard)))),)


@model(_answers)
def item_response(y):
    ability = numpyro.sample("ability", dist.Normal(0, 1).expand([40]).to_event(1))
    hard = numpyro.sample("hard", dist.Normal(0, 2).expand([6]).to_event(1))
    sharp = numpyro.sample("sharp", dist.LogNormal(0, 0.5).expand([6]).to_event(1))
    numpyro.sample("y", dist.Bernoulli(logits=sharp * (ability[:, None] - hard)), obs=y)


def _survival(rng: np.random.Generator) -> tuple[Any, ...]:
    x = rng.normal(size=80)
    t = rng.weibull(1.4, size=80) * np.exp(1 + 0.5 * x)
    return x, np.minimum(t, 4.0), (t < 4.0).astype(float)


@model(_survival)
def weibull_survival(x, t, seen):
    shape = numpyro.sample("shape", dist.Gamma(2, 1))
    a, b = numpyro.sample("a", dist.Normal(0, 3)), numpyro.sample("b", dist.Normal(0, 1))
    z = (t / jnp.exp(a + b * x)) ** shape
    hazard = jnp.log(shape) - (a + b * x) + (shape - 1) * (jnp.log(t) - a - b * x)
    numpyro.factor("t", jnp.sum(seen * hazard - z))


def _curve(rng: np.random.Generator) -> tuple[Any, ...]:
    x = np.sort(rng.uniform(-3, 3, 30))
    return x, np.sin(x) + 0.3 * rng.normal(size=30)


@model(_curve)
def gaussian_process(x, y):
    length, size = numpyro.sample("length", dist.InverseGamma(5, 5)), numpyro.sample("size", dist.HalfNormal(2))
    noise = numpyro.sample("noise", dist.HalfNormal(1))
    k = size**2 * jnp.exp(-0.5 * ((x[:, None] - x) / length) ** 2) + (noise**2 + 1e-8) * jnp.eye(len(x))
    numpyro.sample("y", dist.MultivariateNormal(jnp.zeros(len(x)), k), obs=y)


def _zeros(rng: np.random.Generator) -> tuple[Any, ...]:
    x = rng.normal(size=120)
    return x, np.where(rng.random(120) < 0.3, 0, rng.poisson(np.exp(0.8 + 0.4 * x)))


@model(_zeros)
def zero_inflated_poisson(x, y):
    gate = numpyro.sample("gate", dist.Beta(1, 1))
    a, b = numpyro.sample("a", dist.Normal(0, 2)), numpyro.sample("b", dist.Normal(0, 1))
    numpyro.sample("y", dist.ZeroInflatedPoisson(gate, jnp.exp(a + b * x)), obs=y)


def _walk(rng: np.random.Generator) -> tuple[Any, ...]:
    return (np.cumsum(0.3 * rng.normal(size=40)) + 0.5 * rng.normal(size=40),)


@model(_walk)
def local_level(y):
    drift, noise = numpyro.sample("drift", dist.HalfNormal(1)), numpyro.sample("noise", dist.HalfNormal(1))
    level = numpyro.sample("level", dist.GaussianRandomWalk(drift, num_steps=len(y)))
    numpyro.sample("y", dist.Normal(level, noise), obs=y)


def _robust(rng: np.random.Generator) -> tuple[Any, ...]:
    x, eta = _regression(rng)
    return x, eta + 0.5 * rng.standard_t(3, size=100)


@model(_robust)
def robust_regression(x, y):
    b = numpyro.sample("b", dist.Normal(0, 3).expand([4]).to_event(1))
    freedom, scale = numpyro.sample("freedom", dist.Gamma(2, 0.1)), numpyro.sample("scale", dist.HalfNormal(2))
    numpyro.sample("y", dist.StudentT(freedom, x @ b, scale), obs=y)


def _grades(rng: np.random.Generator) -> tuple[Any, ...]:
    x, eta = _regression(rng, p=2)
    return x, np.digitize(eta + rng.logistic(size=100), [-1.5, 0.0, 1.5])


@model(_grades)
def ordinal_regression(x, y):
    b = numpyro.sample("b", dist.Normal(0, 2).expand([2]).to_event(1))
    cuts = numpyro.sample(
        "cuts",
        dist.TransformedDistribution(dist.Normal(0, 2).expand([3]).to_event(1), dist.transforms.OrderedTransform()),
    )
    numpyro.sample("y", dist.OrderedLogistic(x @ b, cuts), obs=y)


@model(lambda rng: (rng.vonmises(1.0, 2.0, 25),))
def directions(y):
    mean = numpyro.sample("mean", dist.VonMises(0.0, 0.1))
    concentration = numpyro.sample("concentration", dist.Gamma(2, 0.5))
    numpyro.sample("y", dist.VonMises(mean, concentration), obs=y)


@model(lambda rng: (rng.binomial(20, rng.beta(4, 8, size=12)), 20))
def beta_binomial(y, total):
    mean, strength = numpyro.sample("mean", dist.Beta(1, 1)), numpyro.sample("strength", dist.Exponential(0.05))
    with numpyro.plate("rats", len(y)):
        rate = numpyro.sample("rate", dist.Beta(mean * strength, (1 - mean) * strength))
        numpyro.sample("y", dist.Binomial(total, rate), obs=y)


@model(lambda rng: (np.concatenate([rng.poisson(5, 30), rng.poisson(2, 30)]),))
def change_point(y):
    early, late = numpyro.sample("early", dist.Gamma(2, 0.5)), numpyro.sample("late", dist.Gamma(2, 0.5))
    t = jnp.arange(len(y))
    before = jnp.arange(1, len(y))[:, None] > t  # the change summed over
    rate = jnp.where(before, early, late)
    numpyro.factor("y", jnp.log(jnp.mean(jnp.exp(jnp.sum(dist.Poisson(rate).log_prob(y), axis=1) + 100))) - 100)


def _separated(rng: np.random.Generator) -> tuple[Any, ...]:
    x = rng.normal(size=(20, 2))
    return x, (x[:, 0] > 0).astype(int)


@model(_separated)
def separated_logistic(x, y):
    b = numpyro.sample("b", dist.Normal(0, 2.5).expand([2]).to_event(1))
    numpyro.sample("y", dist.Bernoulli(logits=x @ b), obs=y)


def _reaction(rng: np.random.Generator) -> tuple[Any, ...]:
    x = np.array([0.2, 0.4, 0.8, 1.6, 3.2, 6.4] * 2)
    return x, 10 * x / (1.5 + x) + 0.4 * rng.normal(size=12)


@model(_reaction)
def michaelis_menten(x, y):
    top, half = numpyro.sample("top", dist.LogNormal(2, 1)), numpyro.sample("half", dist.LogNormal(0, 1))
    noise = numpyro.sample("noise", dist.HalfNormal(2))
    numpyro.sample("y", dist.Normal(top * x / (half + x), noise), obs=y)


@model(lambda rng: (np.array([0.3, -0.1, 0.5, 0.9, 0.2]), np.array([0.2, 0.3, 0.25, 0.4, 0.15])))
def meta_analysis(y, error):
    mean, between = numpyro.sample("mean", dist.Normal(0, 1)), numpyro.sample("between", dist.HalfCauchy(0.5))
    with numpyro.plate("studies", len(y)):
        effect = numpyro.sample("effect", dist.Normal(mean, between))
        numpyro.sample("y", dist.Normal(effect, error), obs=y)


@model(lambda rng: (rng.poisson(np.exp(1 + 0.8 * rng.normal(size=40))),))
def overdispersed_counts(y):
    mean, sd = numpyro.sample("mean", dist.Normal(0, 2)), numpyro.sample("sd", dist.HalfNormal(1))
    with numpyro.plate("sites", len(y)):
        log_rate = numpyro.sample("log_rate", dist.Normal(mean, sd))
        numpyro.sample("y", dist.Poisson(jnp.exp(log_rate)), obs=y)


def _predators(rng: np.random.Generator) -> tuple[Any, ...]:
    def slope(z: np.ndarray, t: float) -> list[float]:
        return [(0.55 - 0.028 * z[1]) * z[0], (0.024 * z[0] - 0.8) * z[1]]

    return (odeint(slope, [33.0, 6.0], np.arange(21.0)) * np.exp(0.25 * rng.normal(size=(21, 2))),)


@model(_predators)
def predator_prey(y):
    typical = jnp.array([1.0, 0.05, 1.0, 0.05])
    rates = numpyro.sample("rates", dist.LogNormal(jnp.log(typical), 0.5).to_event(1))
    start = numpyro.sample("start", dist.LogNormal(jnp.log(10.0), 1.0).expand([2]).to_event(1))
    noise = numpyro.sample("noise", dist.LogNormal(-1.0, 1.0).expand([2]).to_event(1))

    def slope(z, t):
        return jnp.stack([(rates[0] - rates[1] * z[1]) * z[0], (rates[3] * z[0] - rates[2]) * z[1]])

    z = ode.odeint(slope, start, jnp.arange(21.0), rtol=1e-6, atol=1e-5, mxstep=1000)
    numpyro.sample("y", dist.LogNormal(jnp.log(jnp.maximum(z, 1e-10)), noise), obs=y)


def _epidemic(rng: np.random.Generator) -> tuple[Any, ...]:
    def slope(z: np.ndarray, t: float) -> list[float]:
        new = 0.9 * z[0] * z[1] / 1000
        return [-new, new - 0.4 * z[1]]

    return (rng.poisson(odeint(slope, [998.0, 2.0], np.arange(1.0, 21.0))[:, 1]),)


@model(_epidemic)
def epidemic(cases):
    contact = numpyro.sample("contact", dist.LogNormal(0, 1))
    recovery = numpyro.sample("recovery", dist.LogNormal(-1, 1))
    first = numpyro.sample("first", dist.Exponential(0.2))

    def slope(z, t):
        new = contact * z[0] * z[1] / 1000
        return jnp.stack([-new, new - recovery * z[1]])

    start = jnp.stack([1000 - first, first])
    ill = ode.odeint(slope, start, jnp.arange(1.0, 21.0), rtol=1e-6, atol=1e-6, mxstep=1000)[:, 1]
    numpyro.sample("cases", dist.Poisson(jnp.maximum(ill, 1e-6)), obs=cases)


def _counties(rng: np.random.Generator) -> tuple[Any, ...]:
    county = np.repeat(np.arange(40), rng.geometric(0.12, size=40))
    uranium = rng.normal(size=40)
    floor = rng.integers(2, size=county.size)
    level = 1.4 + 0.6 * uranium + 0.2 * rng.normal(size=40)
    return county, uranium, floor, level[county] - 0.6 * floor + 0.7 * rng.normal(size=county.size)


@model(_counties)
def radon_counties(county, uranium, floor, y):
    mean, slope = numpyro.sample("mean", dist.Normal(0, 5)), numpyro.sample("slope", dist.Normal(0, 1))
    between, noise = numpyro.sample("between", dist.HalfCauchy(1)), numpyro.sample("noise", dist.HalfCauchy(1))
    b = numpyro.sample("b", dist.Normal(0, 5))
    with numpyro.plate("counties", len(uranium)):
        level = numpyro.sample("level", dist.Normal(mean + slope * uranium, between))
    numpyro.sample("y", dist.Normal(level[county] + b * floor, noise), obs=y)


def _downloads(rng: np.random.Generator) -> tuple[Any, ...]:
    t = np.linspace(0, 1, 120)
    season = np.stack([f(2 * np.pi * k * t * 4) for k in (1, 2, 3) for f in (np.sin, np.cos)], axis=1)
    trend = 1.0 + 2 * t - 3 * np.maximum(t - 0.6, 0)
    return t, season, trend + season @ (0.2 * rng.normal(size=6)) + 0.2 * rng.normal(size=120)


@model(_downloads)
def trend_with_changes(t, season, y):
    level, rate = numpyro.sample("level", dist.Normal(0, 5)), numpyro.sample("rate", dist.Normal(0, 5))
    change = numpyro.sample("change", dist.Laplace(0, 0.5).expand([15]).to_event(1))
    b = numpyro.sample("b", dist.Normal(0, 1).expand([6]).to_event(1))
    noise = numpyro.sample("noise", dist.HalfNormal(0.5))
    bends = jnp.maximum(t[:, None] - jnp.linspace(0.05, 0.8, 15), 0)
    numpyro.sample("y", dist.Normal(level + rate * t + bends @ change + season @ b, noise), obs=y)


def _states(rng: np.random.Generator) -> tuple[Any, ...]:
    state = [0]
    for _ in range(99):
        state.append(state[-1] ^ int(rng.random() < (0.1, 0.25)[state[-1]]))
    return (np.where(state, 3.0, 0.5) + rng.normal(size=100),)


@model(_states)
def hidden_markov(y):
    stay = numpyro.sample("stay", dist.Beta(4, 2).expand([2]).to_event(1))
    mean = numpyro.sample(
        "mean",
        dist.TransformedDistribution(dist.Normal(1, 2).expand([2]).to_event(1), dist.transforms.OrderedTransform()),
    )
    noise = numpyro.sample("noise", dist.HalfNormal(2))
    move = jnp.log(jnp.stack([jnp.stack([stay[0], 1 - stay[0]]), jnp.stack([1 - stay[1], stay[1]])]))
    told = dist.Normal(mean, noise).log_prob(y[:, None])

    def forward(alpha, here):
        return logsumexp(alpha[:, None] + move, axis=0) + here, None

    last, _ = jax.lax.scan(forward, told[0] - jnp.log(2.0), told[1:])
    numpyro.factor("y", logsumexp(last))


def _areas(rng: np.random.Generator) -> tuple[Any, ...]:
    corner = np.arange(36).reshape(6, 6)
    pairs = np.concatenate([np.stack([corner[1:].ravel(), corner[:-1].ravel()], 1),
                            np.stack([corner[:, 1:].ravel(), corner[:, :-1].ravel()], 1)])  # fmt: skip
    smooth = np.add.outer(np.linspace(-0.6, 0.6, 6), np.linspace(-0.3, 0.3, 6)).ravel()
    expected = rng.uniform(5, 20, size=36)
    return pairs, expected, rng.poisson(expected * np.exp(smooth + 0.1 * rng.normal(size=36)))


@model(_areas)
def disease_map(pairs, expected, cases):
    mean = numpyro.sample("mean", dist.Normal(0, 1))
    spatial, alone = numpyro.sample("spatial", dist.HalfNormal(1)), numpyro.sample("alone", dist.HalfNormal(1))
    phi = numpyro.sample("phi", dist.ImproperUniform(dist.constraints.real, (), (len(cases),)))
    numpyro.factor("neighbours", -0.5 * jnp.sum((phi[pairs[:, 0]] - phi[pairs[:, 1]]) ** 2))
    numpyro.factor("centred", dist.Normal(0, 0.001 * len(cases)).log_prob(jnp.sum(phi)))
    theta = numpyro.sample("theta", dist.Normal(0, 1).expand([len(cases)]).to_event(1))
    numpyro.sample("cases", dist.Poisson(expected * jnp.exp(mean + spatial * phi + alone * theta)), obs=cases)


@model(lambda rng: (np.bincount(rng.binomial(5, rng.beta(2, 4, size=150)), minlength=6)[1:], 5))
def capture_recapture(times_caught, occasions):
    """Heterogeneous chances of capture, marginalised; the size of the population beyond those seen."""
    mean, strength = numpyro.sample("mean", dist.Beta(1, 1)), numpyro.sample("strength", dist.Gamma(2, 0.2))
    seen = jnp.sum(times_caught)
    unseen = numpyro.sample("unseen", dist.Gamma(1, 0.01))  # as a real number
    k = jnp.arange(occasions + 1)
    log_p = dist.BetaBinomial(mean * strength, (1 - mean) * strength, occasions).log_prob(k)
    numpyro.factor("size", gammaln(seen + unseen + 1) - gammaln(unseen + 1))
    numpyro.factor("caught", jnp.sum(times_caught * log_p[1:]) + unseen * log_p[0])


def _returns(rng: np.random.Generator) -> tuple[Any, ...]:
    factor = rng.normal(size=(60, 1))
    return (0.8 * factor @ rng.normal(size=(1, 5)) + rng.normal(size=(60, 5)) * np.array([0.5, 1, 1, 2, 3.0]),)


@model(_returns)
def covariance(y):
    mean = numpyro.sample("mean", dist.Normal(0, 5).expand([5]).to_event(1))
    scale = numpyro.sample("scale", dist.HalfNormal(5).expand([5]).to_event(1))
    corner = numpyro.sample("corner", dist.LKJCholesky(5, 2.0))
    numpyro.sample("y", dist.MultivariateNormal(mean, scale_tril=scale[:, None] * corner), obs=y)


if __name__ == "__main__":
    compare("everyday", __doc__ or "", MODELS, smoke="michaelis")
