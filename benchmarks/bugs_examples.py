"""The examples of BUGS, with their data: is `qphi.fit` right, and does it say so, where a generation learned to model?

Small hierarchies, a curve, a mixture, trials of magnesium, an error of measurement: Spiegelhalter, Thomas, Best and
Gilks, BUGS 0.5 Examples, volumes 1 and 2 (1996). Priors are those of the examples, or proper ones on scales of group
effects where these are Gamma(0.001, 0.001) on a precision (`surgical` keeps it): seeds with that prior has an sd made
of the neck of its funnel, where NUTS does not settle; `long neck` of zoo.py is such a case with an exact answer.

Errors, silent failures and false alarms are those of everyday.py, against NUTS of 4 chains of 2,000 + 10,000, whose
figures are kept in benchmarks/results/bugs_examples.json. Writes its table of docs/verdicts.md.

    JAX_ENABLE_X64=1 python benchmarks/bugs_examples.py
    JAX_ENABLE_X64=1 python benchmarks/bugs_examples.py --only pumps dyes --seeds 1
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.scipy.special import logit

from _against_nuts import Program, compare

MODELS: dict[str, Program] = {}
VAGUE = 1e-3  # shape and rate of a precision's gamma prior


def model(*data: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Registers a program with its data."""

    def keep(program: Callable[..., None]) -> Callable[..., None]:
        MODELS[program.__name__] = Program(program, tuple(np.asarray(part, float) for part in data))
        return program

    return keep


def precision(name: str) -> Any:
    return numpyro.sample(name, dist.Gamma(VAGUE, VAGUE)) ** -0.5


@model(
    [5, 1, 5, 14, 3, 19, 1, 1, 4, 22],
    [94.3, 15.7, 62.9, 126, 5.24, 31.4, 1.05, 1.05, 2.1, 10.5],
)
def pumps(failures, hours):
    shape, rate = numpyro.sample("alpha", dist.Exponential(1.0)), numpyro.sample("beta", dist.Gamma(0.1, 1.0))
    with numpyro.plate("pumps", 10):
        theta = numpyro.sample("theta", dist.Gamma(shape, rate))
        numpyro.sample("failures", dist.Poisson(theta * hours), obs=failures)


@model(
    [10, 23, 23, 26, 17, 5, 53, 55, 32, 46, 10, 8, 10, 8, 23, 0, 3, 22, 15, 32, 3],
    [39, 62, 81, 51, 39, 6, 74, 72, 51, 79, 13, 16, 30, 28, 45, 4, 12, 41, 30, 51, 7],
    [0] * 11 + [1] * 10,  # seed
    [0] * 5 + [1] * 6 + [0] * 5 + [1] * 5,  # root extract
)
def seeds(sprouted, sown, seed, extract):
    a = numpyro.sample("a", dist.Normal(0, 10).expand([4]).to_event(1))
    spread = numpyro.sample("spread", dist.HalfCauchy(1.0))
    with numpyro.plate("plates", 21):
        b = numpyro.sample("b", dist.Normal(0, spread))
        odds = a[0] + a[1] * seed + a[2] * extract + a[3] * seed * extract + b
        numpyro.sample("sprouted", dist.Binomial(sown, logits=odds), obs=sprouted)


@model(
    [0, 18, 8, 46, 8, 13, 9, 31, 14, 8, 29, 24],
    [47, 148, 119, 810, 211, 196, 148, 215, 207, 97, 256, 360],
)
def surgical(deaths, operations):
    mean, spread = numpyro.sample("mean", dist.Normal(0, 1000)), precision("tau")
    with numpyro.plate("hospitals", 12):
        b = numpyro.sample("b", dist.Normal(mean, spread))
        numpyro.sample("deaths", dist.Binomial(operations, logits=b), obs=deaths)


@model(
    [
        [1545, 1440, 1440, 1520, 1580],
        [1540, 1555, 1490, 1560, 1495],
        [1595, 1550, 1605, 1510, 1560],
        [1445, 1440, 1595, 1465, 1545],
        [1595, 1630, 1515, 1635, 1625],
        [1520, 1455, 1450, 1480, 1445],
    ]
)
def dyes(y):
    theta = numpyro.sample("theta", dist.Normal(1500, 1000))
    between, within = numpyro.sample("between", dist.HalfNormal(200)), numpyro.sample("within", dist.HalfNormal(200))
    with numpyro.plate("batches", 6):
        mean = numpyro.sample("mean", dist.Normal(theta, between))
    numpyro.sample("y", dist.Normal(mean[:, None], within), obs=y)


@model(
    [1.6907, 1.7242, 1.7552, 1.7842, 1.8113, 1.8369, 1.861, 1.8839],
    [59, 60, 62, 56, 63, 59, 62, 60],
    [6, 13, 18, 28, 52, 53, 61, 60],
)
def beetles(dose, exposed, killed):
    a, b = numpyro.sample("a", dist.Normal(0, 1000)), numpyro.sample("b", dist.Normal(0, 1000))
    numpyro.sample("killed", dist.Binomial(exposed, logits=a + b * (dose - jnp.mean(dose))), obs=killed)


STACKS = (
    [42, 37, 37, 28, 18, 18, 19, 20, 15, 14, 14, 13, 11, 12, 8, 7, 8, 8, 9, 15, 15],
    [80, 80, 75, 62, 62, 62, 62, 62, 58, 58, 58, 58, 58, 58, 50, 50, 50, 50, 50, 56, 70],
    [27, 27, 25, 24, 22, 23, 24, 24, 23, 18, 18, 17, 18, 19, 18, 18, 19, 19, 20, 20, 20],
    [89, 88, 90, 87, 87, 87, 93, 93, 87, 80, 89, 88, 82, 93, 89, 86, 72, 79, 80, 82, 91],
)


def _plane(*columns: Any) -> Any:
    x = jnp.stack([(c - jnp.mean(c)) / jnp.std(c) for c in columns], axis=1)
    first = numpyro.sample("b0", dist.Normal(0, 300))
    return first + x @ numpyro.sample("b", dist.Normal(0, 300).expand([3]).to_event(1))


@model(*STACKS)
def stacks_t(y, air, water, acid):
    mean, freedom = _plane(air, water, acid), numpyro.sample("nu", dist.Gamma(2, 0.1))
    numpyro.sample("y", dist.StudentT(freedom, mean, precision("tau")), obs=y)


@model(*STACKS)
def stacks_laplace(y, air, water, acid):
    numpyro.sample("y", dist.Laplace(_plane(air, water, acid), precision("tau")), obs=y)


DUGONGS = (
    "1 1.5 1.5 1.5 2.5 4 5 5 7 8 8.5 9 9.5 9.5 10 12 12 13 13 14.5 15.5 15.5 16.5 17 22.5 29 31.5",
    "1.8 1.85 1.87 1.77 2.02 2.27 2.15 2.26 2.47 2.19 2.26 2.4 2.39 2.41 2.5 2.32 2.32 2.43 2.47 2.56 2.65 2.47 2.64 "
    "2.56 2.7 2.72 2.57",
)


@model(*(column.split() for column in DUGONGS))
def dugongs(age, length):
    alpha, beta = numpyro.sample("alpha", dist.Normal(0, 1000)), numpyro.sample("beta", dist.Normal(0, 1000))
    gamma = numpyro.sample("gamma", dist.Uniform(0.5, 1.0))
    numpyro.sample("length", dist.Normal(alpha - beta * gamma**age, precision("tau")), obs=length)


EYES = (
    "529 530 532 533.1 533.4 533.6 533.7 534.1 534.8 535.3 535.4 535.9 536.1 536.3 536.4 536.6 537 537.4 537.5 538.3 "
    "538.5 538.6 539.4 539.6 540.4 540.8 542 542.8 543 543.5 543.8 543.9 545.3 546.2 548.8 548.7 548.9 549 549.4 549.9 "
    "550.6 551.2 551.4 551.5 551.6 552.8 552.9 553.2"
)


@model(EYES.split())
def eyes(wavelength):
    first, shift = numpyro.sample("first", dist.Normal(540, 100)), numpyro.sample("shift", dist.HalfNormal(100))
    shares = numpyro.sample("shares", dist.Dirichlet(jnp.ones(2)))
    parts = dist.Normal(jnp.stack([first, first + shift]), precision("tau"))
    numpyro.sample("wavelength", dist.MixtureSameFamily(dist.Categorical(shares), parts), obs=wavelength)


MAGNESIUM = (
    [1, 9, 2, 1, 10, 1, 1, 90],
    [40, 135, 200, 48, 150, 59, 25, 1159],
    [2, 23, 7, 1, 8, 9, 3, 118],
    [36, 135, 200, 46, 148, 56, 23, 1157],
)


def _trials(mean: Any, spread: Any, treated: Any, of_treated: Any, control: Any, of_control: Any) -> None:
    with numpyro.plate("trials", 8):
        p = numpyro.sample("p", dist.Uniform(0, 1))
        theta = numpyro.sample("theta", dist.Normal(mean, spread))
        numpyro.sample("control", dist.Binomial(of_control, probs=p), obs=control)
        numpyro.sample("treated", dist.Binomial(of_treated, logits=theta + logit(p)), obs=treated)


@model(*MAGNESIUM)
def magnesium_uniform(*counts):
    _trials(numpyro.sample("mean", dist.Uniform(-10, 10)), numpyro.sample("tau", dist.Uniform(0, 50)), *counts)


@model(*MAGNESIUM)
def magnesium_half_normal(*counts):
    _trials(numpyro.sample("mean", dist.Uniform(-10, 10)), numpyro.sample("tau", dist.HalfNormal(0.6)), *counts)


@model([21, 20, 15], [48, 34, 21], [10, 30, 50])
def air(ill, children, measured):
    """Respiratory illness and nitrogen dioxide, which is measured with an error."""
    a, b = numpyro.sample("a", dist.Normal(0, 32)), numpyro.sample("b", dist.Normal(0, 32))
    with numpyro.plate("groups", 3):
        exposure = numpyro.sample("exposure", dist.Normal(4.48 + 0.76 * measured, 9.0))
        numpyro.sample("ill", dist.Binomial(children, logits=a + b * exposure), obs=ill)


if __name__ == "__main__":
    compare("bugs_examples", __doc__ or "", MODELS, smoke="beetles")
