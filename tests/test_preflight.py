"""Each check of a log density, failing on a target that fails it and only it."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints

from qphi.checks.preflight import preflight, saturated
from qphi.noise import generator
from qphi.precision import double
from qphi.targets import LogDensity, NumPyroTarget
from qphi.targets.oracle import Oracle


def findings(log_density, dim=3, example=0.0):
    with double():
        oracle = Oracle(LogDensity(log_density, {"a": jnp.full(dim, example), "b": jnp.asarray(0.5)}))
    random = generator(jax.random.key(0))
    starts = random.uniform(-2, 2, (64, oracle.dim))
    return {finding.name: finding for finding in preflight(oracle, starts, random)}


def smooth(v):
    return -0.5 * jnp.sum(v["a"] ** 2) - 0.5 * v["b"] ** 2


@jax.custom_jvp
def wrong_square(x):
    return x**2


@wrong_square.defjvp
def _(primals, tangents):
    return primals[0] ** 2, 3 * primals[0] * tangents[0]


FAILING = {
    "finite": (lambda v: jnp.where(v["b"] > 1, jnp.nan, smooth(v)), "NaN, 0 infinite"),
    "derivative": (lambda v: smooth(v) - 0.5 * wrong_square(v["b"]), r"central differences \(b\)"),
    "support": (
        lambda v: jnp.where(v["b"] < 0.3, -jnp.inf, smooth(v)),
        "of 64 starts: an edge of b$",
    ),
    "smooth": (lambda v: -0.5 * v["b"] ** 2 - 0.5 * jnp.sum(jnp.round(v["a"]) ** 2), "does not change with a"),
    "proper": (lambda v: smooth(v) + 0.5 * v["a"][1] ** 2 + 1e-3 * v["a"][1], "far out along 1 of a"),
}


def test_a_good_density_passes_everything():
    assert all(finding.passed for finding in findings(smooth).values())
    scales = jnp.array([1e-6, 1.0, 1e6])
    assert all(f.passed for f in findings(lambda v: -0.5 * jnp.sum((v["a"] / scales) ** 2) - v["b"] ** 2).values())
    # overflows, without an edge
    assert all(f.passed for f in findings(lambda v: smooth(v) - jnp.exp(600 * v["b"]) + 300 * v["b"]).values())
    assert all(f.passed for f in findings(lambda v: -jnp.sum(jnp.log1p(v["a"] ** 2)) - v["b"] ** 2).values())


@pytest.mark.parametrize("name", FAILING)
def test_each_check_fails_alone_and_says_why(name):
    log_density, words = FAILING[name]
    found = findings(log_density)
    failed = {other for other, finding in found.items() if not finding.passed}
    # a step function is also seen by differences, where one falls into the stride
    assert name in failed
    assert failed <= {name, *(["derivative"] if name == "smooth" else [])}
    assert found[name].advice
    assert re.search(words, found[name].found)
    assert str(found[name]).startswith(f"{name}: ")


def test_what_is_constant_is_not_rounded():
    """The corner of a Cholesky factor of correlations is one, whatever z."""

    def model():
        numpyro.sample("corr", dist.LKJCholesky(2, 2.0))

    with double():
        oracle = Oracle(NumPyroTarget(model))
    z = np.random.default_rng(0).normal(size=(100, 1))
    weights = np.full(100, 0.01)
    assert saturated(oracle, z, oracle.constrained(z), weights).passed
    z[:40] += 40.0  # correlations that are one, rounded
    assert not saturated(oracle, z, oracle.constrained(z), weights).passed


def test_a_logit_of_exactly_zero_is_no_wrong_derivative():
    """At the origin every logit is zero, where a branch decides what its slope is said to be."""
    x = np.random.default_rng(0).normal(size=(50, 2))

    def model(x, y):
        b = numpyro.sample("b", dist.Normal(0, 1).expand([2]).to_event(1))
        numpyro.sample("y", dist.Bernoulli(logits=x @ b), obs=y)

    with double():
        oracle = Oracle(NumPyroTarget(model, (x, (x[:, 0] > 0).astype(int))))
    found = preflight(oracle, np.zeros((3, 2)), np.random.default_rng(0))
    assert {f.name: f.passed for f in found}["derivative"]


def test_only_different_places_with_one_value_are_rounded():
    def target(values):
        return jnp.sum(values["p"])

    with double():
        oracle = Oracle(LogDensity(target, {"p": jnp.full(2, 0.5)}, supports={"p": constraints.unit_interval}))
    z = np.random.default_rng(0).normal(size=(100, 2))
    weights = np.full(100, 0.01)
    stuck = z.copy()
    stuck[:40] = [5.0, -5.0]  # a chain that refuses every move
    assert saturated(oracle, stuck, oracle.constrained(stuck), weights).passed
    z[:40] += 40.0
    assert not saturated(oracle, z, oracle.constrained(z), weights).passed
