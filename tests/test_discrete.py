"""Discrete latents: sums over every point, and score gradients, against sums made by hand.

Stochastic tests compare at 4 standard errors: 1 comparison in 16,000 fails by chance when all is well; 30 or so here.
"""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float

from qphi import InputError
from qphi.bounds import ELBO, ClosedFormKL, Enumerated, FactoredDensity, LeaveOneOut
from qphi.families import AbstractFamily, Categorical, DiagonalGaussian, StandardNormal, kl_divergence
from qphi.targets import LogDensity

RANDOM = np.random.default_rng(0)
WEIGHTS, X = RANDOM.normal(size=(3, 12)), RANDOM.normal(size=3)
QUICK = {"xla_backend_optimization_level": 0}  # these programs take longer to compile than to run
LOGITS, PRIOR = RANDOM.normal(size=(6, 2)), RANDOM.normal(size=(6, 2))


class Sixfold(FactoredDensity):
    """Six binary variables, x ~ N(slope W z, I)."""

    slope: Float[Array, ""]

    @property
    def prior(self) -> AbstractFamily:
        return Categorical(jnp.asarray(PRIOR, float))

    def log_likelihood_many(self, z: Float[Array, "particles dim"]) -> Float[Array, " particles"]:
        return -0.5 * jnp.sum((jnp.asarray(X, float) - self.slope * z @ jnp.asarray(WEIGHTS.T, float)) ** 2, axis=-1)


def by_hand(logits, slope):
    """The ELBO as a sum over 64 points, in NumPy."""
    log_q, log_p = (np.log(np.exp(a) / np.exp(a).sum(axis=1, keepdims=True)) for a in (logits, PRIOR))
    total = 0.0
    for values in itertools.product((0, 1), repeat=6):
        one = np.eye(2)[list(values)]
        log_joint = -0.5 * np.sum((X - slope * WEIGHTS @ one.ravel()) ** 2) + np.sum(one * log_p)
        total += np.exp(np.sum(one * log_q)) * (log_joint - np.sum(one * log_q))
    return total


def slopes(step=1e-5):
    """Central differences of the sum."""
    to_logits = np.zeros_like(LOGITS)
    for place in np.ndindex(LOGITS.shape):
        up, down = LOGITS.copy(), LOGITS.copy()
        up[place] += step
        down[place] -= step
        to_logits[place] = (by_hand(up, 0.8) - by_hand(down, 0.8)) / (2 * step)
    return to_logits, (by_hand(LOGITS, 0.8 + step) - by_hand(LOGITS, 0.8 - step)) / (2 * step)


def climb(bound, key):
    def value(logits, slope):
        estimate = bound(Categorical(logits), Sixfold(slope), key)
        return estimate.surrogate, estimate

    (_, estimate), gradient = jax.value_and_grad(value, (0, 1), has_aux=True)(
        jnp.asarray(LOGITS, float), jnp.array(0.8)
    )
    return estimate, gradient


def test_enumeration_is_exact():
    estimate, gradient = jax.jit(lambda key: climb(Enumerated(), key), compiler_options=QUICK)(jax.random.key(0))
    np.testing.assert_allclose(estimate.elbo, by_hand(LOGITS, 0.8), rtol=1e-5)
    np.testing.assert_allclose(estimate.parts["log_likelihood"] - estimate.parts["kl"], estimate.elbo, rtol=1e-5)
    for found, exact in zip(gradient, slopes(), strict=True):
        np.testing.assert_allclose(found, exact, rtol=1e-3, atol=1e-4)
    assert estimate.elbo < jax.nn.logsumexp(
        estimate.log_weights
        + Categorical(jnp.asarray(LOGITS, float)).log_prob_many(Categorical(jnp.asarray(LOGITS, float)).support())
    )  # log p(x)


def test_leave_one_out_is_unbiased():
    each = jax.jit(jax.vmap(lambda key: climb(LeaveOneOut(4), key)), compiler_options=QUICK)
    estimates, gradients = each(jax.random.split(jax.random.key(0), 2000))
    for values, exact in zip((estimates.elbo, *gradients), (by_hand(LOGITS, 0.8), *slopes()), strict=True):
        error = np.std(values, axis=0, ddof=1) / np.sqrt(len(values))
        np.testing.assert_array_less(np.abs(np.mean(values, axis=0) - exact), 4 * error + 1e-4)


def test_leave_one_out_serves_a_density_that_does_not_tell_its_factors():
    """To the mean of N(m, s^2) on exp(-z^2 / 2): d ELBO / dm = -m, d ELBO / dlog s = 1 - s^2."""
    density = LogDensity(lambda v: -0.5 * v["z"] ** 2, {"z": 0.0})

    def value(parameters, key):
        q = DiagonalGaussian(parameters[:1], parameters[1:])
        return LeaveOneOut(8)(q, density, key).surrogate

    at = jnp.array([0.6, -0.4])
    keys = jax.random.split(jax.random.key(1), 4000)
    found = np.asarray(jax.jit(jax.vmap(jax.grad(value), (None, 0)))(at, keys), float)
    error = found.std(axis=0, ddof=1) / np.sqrt(len(found))
    np.testing.assert_array_less(np.abs(found.mean(axis=0) - [-0.6, 1 - np.exp(-0.8)]), 4 * error)


def test_the_family_is_a_distribution():
    q = Categorical(jnp.asarray(LOGITS, float))
    points = q.support()
    assert points.shape == (64, 12) == (q.support_size, q.dim)
    log_q = np.asarray(q.log_prob_many(points), float)
    assert np.exp(log_q).sum() == pytest.approx(1, abs=1e-5)
    assert float(q.entropy()) == pytest.approx(-np.sum(np.exp(log_q) * log_q), abs=1e-4)
    p = Categorical(jnp.asarray(PRIOR, float))
    kl = np.sum(np.exp(log_q) * (log_q - np.asarray(p.log_prob_many(points))))
    assert float(kl_divergence(q, p)) == pytest.approx(kl, abs=1e-4)
    draws = np.asarray(q.sample_many(jax.random.key(0), 4000), float)
    share = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)
    error = np.sqrt(share * (1 - share) / len(draws)).ravel()
    np.testing.assert_array_less(np.abs(draws.mean(axis=0) - share.ravel()), 4 * error)


def test_the_elbo_chooses_and_the_impossible_is_refused():
    p = Sixfold(jnp.array(0.8))
    assert ELBO(1).form(Categorical(jnp.zeros((6, 2))), p) == Enumerated()
    assert ELBO(2).form(Categorical(jnp.zeros((7, 2))), p) == LeaveOneOut(4)
    assert ELBO(9).form(Categorical(jnp.zeros((7, 2))), p) == LeaveOneOut(9)
    with pytest.raises(InputError, match="8192 points; at most 4096"):
        Categorical(jnp.zeros((13, 2))).support()
    with pytest.raises(InputError, match="particles=1: leave-one-out compares"):
        LeaveOneOut(1)
    with pytest.raises(TypeError, match="is continuous: it has no points"):
        Enumerated()(StandardNormal(12), p, jax.random.key(0))
    with pytest.raises(TypeError, match="discrete q"):
        ClosedFormKL()(Categorical(jnp.zeros((6, 2))), p, jax.random.key(0))
