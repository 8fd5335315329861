"""What every likelihood must do. Densities are held against sums and quadrature over one element of x.

Stochastic tests compare at 4 standard errors: 1 comparison in 16,000 fails by chance when all is well, so 1.5 % of
fresh sets of seeds would fail one of the 200 or so here. Seeds are fixed; every comparison is made for 3 of them.
"""

from __future__ import annotations

import functools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from contracts.registry import LIKELIHOODS
from qphi.autoencoders import (
    Bernoulli,
    ContinuousBernoulli,
    DiscretisedLogistic,
    FromDistribution,
    Gaussian,
    NegativeBinomial,
    Ordinal,
    Poisson,
    StudentT,
    ZeroInflatedNegativeBinomial,
    implied_kl_weight,
)
from qphi.autoencoders.likelihoods import named
from qphi.data.scaling import KINDS

DRAWS = 4096
QUICK = {"xla_backend_optimization_level": 0}  # these programs take longer to compile than to run
every_likelihood = pytest.mark.parametrize("name", LIKELIHOODS)


@functools.cache
def nodes(support, levels=0):
    """Values of x and their weights, such that weighted sums are integrals (sums, where x is discrete)."""
    if support == "binary":
        return np.array([0.0, 1.0]), np.ones(2)
    if support == "counts":
        return np.arange(400.0), np.ones(400)
    if support in ("levels", "codes"):
        return np.arange(levels) / (levels - 1 if support == "levels" else 1), np.ones(levels)
    if support == "unit":
        x, weights = np.polynomial.legendre.leggauss(200)
        return (x + 1) / 2, weights / 2
    x = np.linspace(-30, 30, 60_001)
    return x, np.full_like(x, x[1] - x[0])


def values_of(case):
    return nodes(case.support, case.levels)[0]


def one_by_one(case):
    """Outputs with an axis for elements: (elements, outputs of one element)."""
    return jnp.asarray(case.outputs, float).reshape(len(case.outputs), -1)


def together(case):
    """Outputs of one datum that has all these elements."""
    return one_by_one(case).reshape(-1)


@functools.cache
def mass(name):
    """p(x | output) times the quadrature weight, (outputs, nodes)."""
    case = LIKELIHOODS[name]
    x, weights = nodes(case.support, case.levels)
    log_prob = jax.jit(jax.vmap(jax.vmap(case.likelihood.log_prob, (None, 0)), (0, None)), compiler_options=QUICK)
    return np.exp(np.asarray(log_prob(one_by_one(case), jnp.asarray(x, float)[:, None]), float)) * weights


@every_likelihood
def test_density_sums_to_one(name):
    np.testing.assert_allclose(mass(name).sum(axis=1), 1.0, atol=3e-5)


@every_likelihood
def test_mean_is_the_expectation(name):
    case = LIKELIHOODS[name]
    mean = jax.jit(lambda o: case.likelihood.mean(o), compiler_options=QUICK)(together(case))
    if case.nominal:
        assert np.array_equal(mean, mass(name).argmax(axis=1))
        return
    np.testing.assert_allclose(mean, mass(name) @ values_of(case), rtol=5e-5, atol=2e-5)


@every_likelihood
def test_samples_have_the_densitys_moments(name):
    case = LIKELIHOODS[name]
    x, outputs = values_of(case), together(case)
    sample = jax.jit(jax.vmap(lambda key: case.likelihood.sample(key, outputs)), compiler_options=QUICK)
    for seed in range(3):
        draws = np.asarray(sample(jax.random.split(jax.random.key(seed), DRAWS)), float)
        assert draws.shape == (DRAWS, len(case.outputs))
        for power in (1, 2):
            values, expected = draws**power, mass(name) @ x**power
            spread = np.sqrt(mass(name) @ x ** (2 * power) - expected**2)  # of the density: rare values may be missed
            error = np.abs(values.mean(axis=0) - expected)
            np.testing.assert_array_less(error, 4 * spread / math.sqrt(DRAWS) + 1e-4)


@every_likelihood
def test_elements_are_summed_never_averaged(name):
    """Twice the pixels, twice the log density: nothing is divided by the number of pixels."""
    case = LIKELIHOODS[name]
    outputs = together(case)
    middle = values_of(case)[np.argmax(mass(name), axis=1)]
    x = jnp.asarray(middle if case.support not in ("real", "unit") else np.full(middle.shape, 0.3), float)

    @functools.partial(jax.jit, compiler_options=QUICK)
    def log_probs(outputs, x):
        once = case.likelihood.log_prob(outputs, x)
        twice = case.likelihood.log_prob(jnp.stack([outputs, outputs]), jnp.stack([x, x]))
        return once, twice, jax.vmap(case.likelihood.log_prob)(outputs.reshape(len(x), -1), x[:, None])

    once, twice, apart = log_probs(outputs, x)
    assert once.shape == twice.shape == ()
    np.testing.assert_allclose(twice, 2 * once, rtol=1e-5)
    np.testing.assert_allclose(once, apart.sum(), rtol=1e-5)


@pytest.mark.parametrize("name", [name for name, case in LIKELIHOODS.items() if case.any_output])
def test_extreme_outputs_stay_finite(name):
    case = LIKELIHOODS[name]
    extremes = jnp.array([-1e4, -300.0, -90.0, -20.0, 20.0, 90.0, 300.0, 1e4])
    outputs = jnp.concatenate([jnp.repeat(extremes, case.likelihood.per_element), together(case)])
    learned, fixed = eqx.partition(case.likelihood, eqx.is_inexact_array)

    @functools.partial(jax.jit, compiler_options=QUICK)
    def everything(learned, outputs, x):
        def log_prob(learned, outputs):
            return eqx.combine(learned, fixed).log_prob(outputs, x)

        likelihood = eqx.combine(learned, fixed)
        of_mean = jax.grad(lambda o: jnp.sum(likelihood.mean(o)))(outputs)
        draw = likelihood.sample(jax.random.key(0), outputs)
        return likelihood.mean(outputs), draw, of_mean, jax.value_and_grad(log_prob, (0, 1))(learned, outputs)

    for x in (0.0, 1.0):
        found = everything(learned, outputs, jnp.full(len(extremes) + len(case.outputs), x))
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    if case.support != "real":
        top = np.inf if case.support == "counts" else values_of(case).max() if case.levels else 1
        for values in found[:2]:
            assert ((values >= 0) & (values <= top)).all()


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


# ---------------------------------------------------------------- known answers


def test_counts_are_scipys():
    x, log_mean = np.array([0.0, 1, 7, 60, 900]), np.array([-3.0, 0.4, 2.0, 4.1, 6.5])
    for r in (0.05, 3.0, 9.99, 10.01, 4000.0):  # both sides of the switch to Stirling's series
        likelihood = NegativeBinomial(start=r)
        r = float(likelihood.concentration)
        exact = stats.nbinom.logpmf(x, r, r / (r + np.exp(log_mean)))
        found = jax.jit(jax.vmap(likelihood.log_prob))(jnp.asarray(log_mean, float), jnp.asarray(x, float))
        np.testing.assert_allclose(found, exact, rtol=2e-5, atol=2e-4)
    np.testing.assert_allclose(
        jax.vmap(Poisson().log_prob)(jnp.asarray(log_mean, float), jnp.asarray(x, float)),
        stats.poisson.logpmf(x, np.exp(log_mean)),
        rtol=2e-5,
    )


def test_a_size_factor_multiplies_the_mean():
    for likelihood, outputs in (
        (Poisson(), jnp.array([0.3, 1.0])),
        (NegativeBinomial(), jnp.array([0.3, 1.0])),
        (ZeroInflatedNegativeBinomial(), jnp.array([0.3, -1.0, 1.0, 2.0])),
    ):
        resized = likelihood.mean(likelihood.resized(outputs, jnp.log(2.5)))
        np.testing.assert_allclose(resized, 2.5 * likelihood.mean(outputs), rtol=1e-5)


def test_student_t_is_scipys_and_tends_to_a_gaussian():
    likelihood = StudentT(start=0.7)
    x = np.array([-40.0, -1.0, 0.2, 3.0])
    exact = stats.t.logpdf(x, float(likelihood.df), 0.2, float(likelihood.scale))
    np.testing.assert_allclose(jax.vmap(likelihood.log_prob)(jnp.full(4, 0.2), jnp.asarray(x, float)), exact, rtol=1e-5)


def test_a_bin_far_in_the_tail_keeps_its_digits():
    """One logistic against float64: masses down to e^-479, and both edge bins with the tails in them."""
    likelihood = DiscretisedLogistic()
    outputs = np.array([-0.4, -5.0])
    _, centre, scale = (float(a[0, 0]) for a in likelihood._parts(jnp.asarray(outputs, float)))
    level = np.arange(256.0)
    a, b = (level + 0.5 - centre) / scale, (level - 0.5 - centre) / scale
    # log [F(a) - F(b)], from the side where F is small
    side = np.where(centre < level, -1.0, 1.0)
    low, high = np.where(side > 0, b, -a), np.where(side > 0, a, -b)
    exact = -np.logaddexp(0, -high) + np.log1p(-np.exp(np.logaddexp(0, -high) - np.logaddexp(0, -low)))
    exact[0], exact[-1] = -np.logaddexp(0, -a[0]), -np.logaddexp(0, b[-1])
    found = jax.vmap(lambda x: likelihood.log_prob(jnp.asarray(outputs, float), x))(jnp.asarray(level / 255)[:, None])
    assert exact.min() < -400
    np.testing.assert_allclose(found, exact, rtol=2e-4)


def test_two_ordered_grades_are_a_bernoulli():
    outputs, x = jnp.array([-2.0, 0.3, 4.0]), jnp.array([0.0, 1.0, 1.0])
    assert float(Ordinal(2).log_prob(outputs, x)) == pytest.approx(float(Bernoulli().log_prob(outputs, x)), rel=1e-5)


def test_ordinal_starts_with_equal_grades():
    log_p = jax.vmap(lambda x: Ordinal(7).log_prob(jnp.zeros(1), x[None]))(jnp.arange(7.0))
    np.testing.assert_allclose(np.exp(log_p), 1 / 7, rtol=2e-3)


def test_every_name_makes_a_likelihood_of_that_name():
    for name in KINDS:
        made = named(name, (3,), levels=5)
        assert made.name == name
        assert jax.eval_shape(made.mean, jnp.zeros(3 * made.per_element)).shape == (3,)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: DiscretisedLogistic(0), "at least 1 component"),
        (lambda: Ordinal(1), "at least 2 grades"),
        (lambda: NegativeBinomial(start=0.0), "positive and finite"),
    ],
)
def test_impossible_parameters_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
