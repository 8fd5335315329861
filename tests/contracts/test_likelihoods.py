"""What every likelihood must do. Densities are held against sums and quadrature over one element of x.

Stochastic tests compare at 4 standard errors: 1 comparison in 16,000 fails by chance when all is well, so 1.5 % of
fresh sets of seeds would fail one of the 200 or so here. Seeds are fixed; every comparison is made for 3 of them.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contracts.registry import LIKELIHOODS
from qphi.autoencoders import ContinuousBernoulli, FromDistribution, Gaussian, implied_kl_weight

DRAWS = 4096
every_likelihood = pytest.mark.parametrize("name", LIKELIHOODS)


@functools.cache
def nodes(support):
    """Values of x and their weights, such that weighted sums are integrals (sums, where x is discrete)."""
    if support == "binary":
        return np.array([0.0, 1.0]), np.ones(2)
    if support == "counts":
        return np.arange(200.0), np.ones(200)
    if support == "unit":
        x, weights = np.polynomial.legendre.leggauss(200)
        return (x + 1) / 2, weights / 2
    x = np.linspace(-30, 30, 60_001)
    return x, np.full_like(x, x[1] - x[0])


@functools.cache
def mass(name):
    """p(x | output) times the quadrature weight, (outputs, nodes)."""
    case = LIKELIHOODS[name]
    x, weights = nodes(case.support)
    log_prob = jax.jit(jax.vmap(jax.vmap(case.likelihood.log_prob, (None, 0)), (0, None)))
    outputs = jnp.asarray(case.outputs, float)[:, None]
    return np.exp(np.asarray(log_prob(outputs, jnp.asarray(x, float)[:, None]), float)) * weights


@every_likelihood
def test_density_sums_to_one(name):
    np.testing.assert_allclose(mass(name).sum(axis=1), 1.0, atol=2e-5)


@every_likelihood
def test_mean_is_the_expectation(name):
    case = LIKELIHOODS[name]
    expected = mass(name) @ nodes(case.support)[0]
    mean = case.likelihood.mean(jnp.asarray(case.outputs, float))
    np.testing.assert_allclose(mean, expected, rtol=2e-5, atol=2e-5)


@every_likelihood
def test_samples_have_the_densitys_moments(name):
    case = LIKELIHOODS[name]
    x, outputs = nodes(case.support)[0], jnp.asarray(case.outputs, float)
    sample = jax.jit(jax.vmap(lambda key: case.likelihood.sample(key, outputs)))
    for seed in range(3):
        draws = np.asarray(sample(jax.random.split(jax.random.key(seed), DRAWS)), float)
        assert draws.shape == (DRAWS, outputs.size)
        for power in (1, 2):
            values, expected = draws**power, mass(name) @ x**power
            spread = np.sqrt(mass(name) @ x ** (2 * power) - expected**2)  # of the density: rare values may be missed
            error = np.abs(values.mean(axis=0) - expected)
            np.testing.assert_array_less(error, 4 * spread / math.sqrt(DRAWS) + 1e-4)


@every_likelihood
def test_elements_are_summed_never_averaged(name):
    """Twice the pixels, twice the log density: nothing is divided by the number of pixels."""
    case = LIKELIHOODS[name]
    outputs = jnp.asarray(case.outputs, float)
    x = (
        jnp.round(case.likelihood.mean(outputs))
        if case.support in ("binary", "counts")
        else jnp.full(outputs.shape, 0.3)
    )

    @jax.jit
    def log_probs(outputs, x):
        once = case.likelihood.log_prob(outputs, x)
        twice = case.likelihood.log_prob(jnp.stack([outputs, outputs]), jnp.stack([x, x]))
        return once, twice, jax.vmap(case.likelihood.log_prob)(outputs[:, None], x[:, None])

    once, twice, one_by_one = log_probs(outputs, x)
    assert once.shape == twice.shape == ()
    np.testing.assert_allclose(twice, 2 * once, rtol=1e-5)
    np.testing.assert_allclose(once, one_by_one.sum(), rtol=1e-5)


@pytest.mark.parametrize("name", [name for name, case in LIKELIHOODS.items() if case.any_output])
def test_extreme_outputs_stay_finite(name):
    case = LIKELIHOODS[name]
    outputs = jnp.array([-1e4, -300.0, -90.0, -20.0, 20.0, 90.0, 300.0, 1e4])
    value_and_gradient = jax.jit(jax.value_and_grad(case.likelihood.log_prob))
    for x in (0.0, 1.0):
        value, gradient = value_and_gradient(outputs, jnp.full_like(outputs, x))
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()
    mean, draw = case.likelihood.mean(outputs), case.likelihood.sample(jax.random.key(0), outputs)
    assert np.isfinite(mean).all()
    assert np.isfinite(draw).all()
    if case.support in ("binary", "unit"):
        for values in (mean, draw):
            assert ((values >= 0) & (values <= 1)).all()
    assert np.isfinite(jax.grad(lambda o: jnp.sum(case.likelihood.mean(o)))(outputs)).all()


LOGITS = np.array([0.0, 1e-6, 1e-3, 0.05, 0.0999, 0.1001, 0.2, 1.0, 8.0, 40.0])
LOGITS = np.concatenate([-LOGITS[::-1], LOGITS])


def test_continuous_bernoulli_is_exact_through_zero():
    """The series near 0 and the formula elsewhere against float64, value and gradient: no seam where they meet."""
    x = 0.3
    safe = np.where(LOGITS == 0, 1e-9, LOGITS)
    exact = x * safe - np.logaddexp(0, safe) + np.log(safe / np.tanh(safe / 2))
    # d/dl of log(l / tanh(l/2)) is 1/l - 1/sinh(l); its own series where float64 cancels
    near = np.abs(safe) < 1e-2
    slope = np.where(near, safe / 6 - 7 * safe**3 / 360, 1 / safe - 1 / np.sinh(safe))
    gradient = x - 1 / (1 + np.exp(-safe)) + slope

    def log_prob(logit):
        return ContinuousBernoulli().log_prob(logit, jnp.asarray(x))

    values, gradients = jax.vmap(jax.value_and_grad(log_prob))(jnp.asarray(LOGITS, float))
    np.testing.assert_allclose(values, exact, rtol=1e-5, atol=2e-6)
    np.testing.assert_allclose(gradients, gradient, rtol=1e-4, atol=1e-5)


def test_continuous_bernoulli_at_zero_is_uniform():
    assert float(ContinuousBernoulli().log_prob(jnp.zeros(3), jnp.array([0.0, 0.4, 1.0]))) == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(ContinuousBernoulli().mean(jnp.zeros(2)), 0.5)


def test_learned_gaussian_scale_has_a_soft_floor_and_a_gradient():
    floor = math.exp(-6)
    tiny = Gaussian(start=1e-12)
    assert floor <= float(tiny.scale) < 1.001 * floor
    assert float(Gaussian(start=0.3).scale) == pytest.approx(0.3, rel=0.01)

    def log_prob(likelihood):
        return likelihood.log_prob(jnp.zeros(5), jnp.full(5, 2.0))

    assert float(jax.grad(log_prob)(Gaussian(start=1.0)).raw_log_scale) > 0  # residuals of 2 ask for a larger scale
    assert float(jax.grad(log_prob)(Gaussian(1.0)).raw_log_scale) == 0  # given: not learned
    assert float(Gaussian(1e-4).scale) == pytest.approx(1e-4)  # given: no floor


@pytest.mark.parametrize("scale", [0.0, -1.0, math.inf, math.nan])
def test_impossible_scales_are_refused(scale):
    with pytest.raises(ValueError, match="must be positive and finite"):
        Gaussian(scale)


def test_a_callable_that_gives_no_distribution_is_refused():
    with pytest.raises(TypeError, match="must return a numpyro"):
        FromDistribution(lambda o: o).log_prob(jnp.zeros(2), jnp.zeros(2))


def test_implied_kl_weight_of_the_textbook_loss_is_one():
    assert implied_kl_weight(math.sqrt(0.5)) == pytest.approx(1.0)
    assert implied_kl_weight(1.0) == 2.0
