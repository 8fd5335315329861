"""The model of tables: the factor analysis it starts from, its likelihood, and what it draws."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from qphi.bounds import ELBO, IWAE
from qphi.tables.build import TableArchitecture, build, choose, linear_start
from qphi.tables.likelihood import TableLikelihood, log_interval
from qphi.tables.linear import FactorAnalysis, factor_analysis
from qphi.tables.objective import TableObjective
from qphi.tables.rows import Shape
from qphi.tables.training import with_weights
from qphi.tables.uses import draw_given, encode_rows, sample_rows, score_cells

TRUE = FactorAnalysis(np.array([[0.9, 0.0], [0.8, 0.3], [-0.7, 0.5], [0.1, 0.9]]), np.zeros(4), np.full(4, 0.2))


def gaussian(rows: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, 2)) @ TRUE.weight.T + np.sqrt(0.2) * rng.normal(size=(rows, 4))


def gappy(rows: int = 6) -> np.ndarray:
    x = gaussian(rows, 1)
    x[np.random.default_rng(2).random(x.shape) < 0.4] = np.nan
    return x


def conditional(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gaussian conditional means and sds of the gaps, and log p of the observed cells, from the joint covariance."""
    covariance = TRUE.weight @ TRUE.weight.T + np.diag(TRUE.noise)
    mean, sd, log_p = np.zeros(x.shape), np.zeros(x.shape), np.zeros(len(x))
    for i, row in enumerate(x):
        o, m = ~np.isnan(row), np.isnan(row)
        gain = covariance[np.ix_(m, o)] @ np.linalg.inv(covariance[np.ix_(o, o)])
        mean[i, m] = gain @ row[o]
        sd[i, m] = np.sqrt(np.diag(covariance[np.ix_(m, m)] - gain @ covariance[np.ix_(o, m)]))
        seen = covariance[np.ix_(o, o)]
        log_p[i] = -0.5 * (row[o] @ np.linalg.inv(seen) @ row[o] + np.linalg.slogdet(2 * np.pi * seen)[1])
    return mean, sd, log_p


@pytest.fixture(scope="module")
def model():
    architecture = TableArchitecture(4, (), 2, (8,))
    return eqx.filter_jit(build)(architecture, TRUE, jax.random.key(0))


def rows_of(x: np.ndarray) -> np.ndarray:
    return np.repeat(x[..., None], 3, axis=2).astype(np.float32)


def test_factor_analysis_fills_gaps_with_the_gaussian_conditional_mean():
    x = gappy(50)
    np.testing.assert_allclose(TRUE.fill(x)[np.isnan(x)], conditional(x)[0][np.isnan(x)], atol=1e-10)


def test_factor_analysis_finds_the_covariance_of_data_missing_at_random():
    # 4,000 rows, 30 % missing: entries of the covariance err by about 0.03 (1 sd); the bound is 4 of them
    x = gaussian(4000)
    x[np.random.default_rng(3).random(x.shape) < 0.3] = np.nan
    found = factor_analysis(x, 2, iterations=200)
    covariance = found.weight @ found.weight.T + np.diag(found.noise)
    np.testing.assert_allclose(covariance, TRUE.weight @ TRUE.weight.T + np.diag(TRUE.noise), atol=0.12)


def test_at_the_start_the_bound_is_the_evidence_for_every_pattern_of_gaps(model):
    # q is the exact posterior of the linear model, so every draw's weight is p(x_obs), whatever the noise
    x = gappy(16)
    xs = jnp.asarray(rows_of(x))
    for bound in (ELBO(1), IWAE(3)):
        estimate = bound(model.posterior(xs), model.observe(xs), jax.random.key(1))
        np.testing.assert_allclose(estimate.log_weights[0], conditional(x)[2], atol=2e-3)
    np.testing.assert_allclose(estimate.surrogate, conditional(x)[2], atol=2e-3)


def test_draws_of_gaps_have_the_conditional_moments(model):
    # 4,000 independent draws: means err by sd / 63 and sds by sd / 89; 5 standard errors over about 30 gaps fail by
    # chance once in 60,000 runs. Systematic resampling only makes that smaller
    x = gappy(16)
    drawn = draw_given(model, rows_of(x), 4000)
    mean, sd, _ = conditional(x)
    gap = np.isnan(x)
    np.testing.assert_array_less(np.abs(drawn.mean(axis=1) - mean)[gap], (5 * sd / 63)[gap])
    np.testing.assert_array_less(np.abs(drawn.std(axis=1) - sd)[gap], (5 * sd / 89)[gap])


def test_draws_of_a_row_do_not_depend_on_its_neighbours(model):
    x = rows_of(gappy(6))
    np.testing.assert_array_equal(draw_given(model, x, 20)[4], draw_given(model, x[4:5], 20)[0])
    assert not np.array_equal(draw_given(model, x, 20, seed=1), draw_given(model, x, 20))


def test_rows_with_uneven_weights_are_drawn_from_more_particles(monkeypatch, model):
    x = rows_of(gappy(6))
    worth = {64: np.array([64, 31, 33, np.nan, 64, 1.0]), 256: np.full(6, 1.0)}

    def block(model, xs, seed, draws, particles):  # which rows come, told by their first numbers
        of = [next(i for i in range(6) if np.array_equal(x[i], row, equal_nan=True)) for row in np.asarray(xs)]
        return np.full((len(xs), draws, x.shape[1]), float(particles)), worth[particles][of]

    monkeypatch.setattr("qphi.tables.uses._draw_block", block)
    np.testing.assert_array_equal(draw_given(model, x, 20)[:, 0, 0], [64, 256, 64, 256, 64, 256])


def test_a_rare_level_does_not_put_the_start_far_from_the_prior():
    # two columns have their rare level in the same 6 of 2,000 rows: a factor of Gaussian indicators would be theirs
    rng = np.random.default_rng(0)
    rare = np.arange(2000) % 333 == 7
    levels = np.stack([np.where(rare, 2, rng.integers(0, 2, 2000)) for _ in range(2)], axis=1)
    x = np.repeat(np.concatenate([rng.normal(size=(2000, 2)), levels], axis=1)[:, :, None], 3, axis=2)
    x = x.astype(np.float32)
    architecture = choose(Shape(2, (3, 3)), 3, (8,), 2000)
    start = build(architecture, linear_start(x, architecture, np.random.default_rng(0)), jax.random.key(0))
    means, _ = encode_rows(start, x[rare])
    assert np.abs(means).max() < 10
    drawn = sample_rows(start, 4000, 0)[:, 2:]  # and levels come as often as in the data: 2 standard errors are 0.016
    for level in range(3):
        np.testing.assert_allclose(np.mean(drawn == level, axis=0), np.mean(levels == level, axis=0), atol=0.03)


def test_interval_probabilities_hold_in_both_tails():
    low = np.array([-1.0, 0.0, 8.0, -9.0, -30.0, 3.0])
    high = np.array([1.0, 0.001, 8.5, -8.9, 30.0, 40.0])
    mirrored = np.where(low + high > 0, -1, 1)
    a, b = np.minimum(mirrored * low, mirrored * high), np.maximum(mirrored * low, mirrored * high)
    exact = np.log(norm.cdf(b) - norm.cdf(a))
    np.testing.assert_allclose(log_interval(jnp.asarray(low), jnp.asarray(high)), exact, rtol=2e-3, atol=1e-4)


def test_slopes_of_interval_probabilities_are_those_of_their_definition():
    low, high = np.array([-1.0, 0.0, 2.5, -3.0]), np.array([1.0, 0.5, 3.0, -2.0])
    slopes = jax.grad(lambda a, b: log_interval(a, b).sum(), (0, 1))(jnp.asarray(low), jnp.asarray(high))
    probability = norm.cdf(high) - norm.cdf(low)
    np.testing.assert_allclose(slopes[0], -norm.pdf(low) / probability, rtol=1e-3)
    np.testing.assert_allclose(slopes[1], norm.pdf(high) / probability, rtol=1e-3)
    far = jax.grad(log_interval, (0, 1))(jnp.asarray(29.0), jnp.asarray(30.0))
    assert np.isfinite(far).all()
    assert far[0] == pytest.approx(-29.03, rel=1e-2)  # phi(t) / (1 - Phi(t)) = t + 1/t - ...


def test_mixed_cells_are_the_log_probabilities_of_their_kinds():
    shape = Shape(2, (3, 2), (1,))
    likelihood = TableLikelihood(shape, jnp.array([0.5, 1.0]))
    outputs = jnp.array([0.3, -0.2, 0.0, 0.0, 1.0, 0.0, -1.0, 0.5, 0.5])
    x = jnp.array([[1.0] * 3, [-1.0, 0.5, -0.2], [2.0] * 3, [jnp.nan] * 3])
    scale = np.asarray(likelihood.numbers(outputs)[1])
    expected = [
        norm.logpdf(1.0, 0.3, scale[0]),
        np.log(norm.cdf((0.5 + 0.2) / scale[1]) - norm.cdf((-1 + 0.2) / scale[1])),
        -1.0 - np.log(np.exp(1) + 1 + np.exp(-1)),
        0.0,  # a gap
    ]
    np.testing.assert_allclose(likelihood.cells(outputs, x), expected, rtol=1e-5)
    np.testing.assert_allclose(scale, [0.5, 1.0], rtol=1e-5)


def test_strays_follow_nothing_and_the_density_is_still_one():
    shape, outputs = Shape(1, ()), jnp.array([1.0, 0.0])
    likelihood = TableLikelihood(shape, jnp.array([0.1]), stray=0.125)
    u = np.linspace(-15, 15, 30_001)
    x = jnp.asarray(np.repeat(u[:, None, None], 3, axis=2))
    density = np.exp(jax.vmap(lambda row: likelihood.cells(outputs, row))(x)[:, 0])
    assert np.trapezoid(density, u) == pytest.approx(1, abs=1e-4)
    expected = 0.875 * norm.pdf(u, 1, 0.1) + 0.125 * norm.pdf(u, 0, 2)
    np.testing.assert_allclose(density, expected, rtol=1e-3, atol=1e-7)
    whole = TableLikelihood(Shape(1, (), (0,)), jnp.array([0.1]), stray=0.125)
    inside = float(whole.cells(outputs, jnp.array([[2.0, 3.0, 2.5]]))[0])
    assert inside == pytest.approx(np.log(0.125 * (norm.cdf(1.5) - norm.cdf(1))), abs=1e-4)
    # 20,000 draws: 4 standard errors of their share beyond 5 core sds are 0.0084
    drawn = np.asarray(likelihood.sample_many(jax.random.key(0), jnp.tile(outputs, (20_000, 1))))[:, 0]
    beyond = norm.cdf(0.5, 0, 2) + norm.sf(1.5, 0, 2)
    assert np.mean(np.abs(drawn - 1) > 0.5) == pytest.approx(0.125 * beyond, abs=0.0084)


def test_strays_are_as_rare_as_rows_that_had_none_say():
    assert choose(Shape(2, ()), None, (8,), 100).stray == 2.0**-8
    assert choose(Shape(2, ()), None, (8,), 10**6).stray == 2.0**-21


def test_rows_that_the_encoder_is_wrong_about_are_scored_by_more_draws(model, monkeypatch):
    x = gaussian(64)
    other = FactorAnalysis(TRUE.weight, np.array([3.0, -3.0, 3.0, 1.5]), TRUE.noise)
    elsewhere = eqx.filter_jit(build)(TableArchitecture(4, (), 2, (8,)), other, jax.random.key(0))
    wrong = eqx.tree_at(lambda m: m.encoder, model, elsewhere.encoder)
    exact = conditional(x)[2]

    def error(particles):
        return np.mean(np.abs(score_cells(wrong, rows_of(x), particles)[0] - exact))

    more = error(64)
    monkeypatch.setattr("qphi.tables.uses.MORE", 1)
    assert more < 0.6 * error(64)


def test_levels_are_sampled_with_their_probabilities():
    # 4 standard errors of 20,000 draws of a 16.6 % level are 1.05 points
    likelihood = TableLikelihood(Shape(0, (3, 2)), jnp.zeros(0))
    shares = np.array([0.7, 0.134, 0.166])
    outputs = jnp.concatenate([jnp.log(jnp.asarray(shares)), jnp.zeros(2)])
    keys = jax.random.split(jax.random.key(0), 20_000)
    drawn = np.asarray(jax.vmap(likelihood.sample, in_axes=(0, None))(keys, outputs))[:, 0, 0]
    np.testing.assert_allclose(np.bincount(drawn.astype(int)) / 20_000, shares, atol=0.0105)


def test_weights_count_rows_and_hidden_cells_are_left_out(model):
    x = rows_of(gappy(16))
    objective = TableObjective(IWAE(2), jnp.asarray(1.0))
    key = jax.random.key(3)
    weights = np.where(np.arange(16) < 8, 2.0, 0.0)
    whole = objective.score(model, jnp.asarray(with_weights(x, np.ones(16))), key)
    half = objective.score(model, jnp.asarray(with_weights(x, weights)), key)
    np.testing.assert_allclose(half.items, weights * np.asarray(whole.items), rtol=1e-6)
    trained = objective.score(model, jnp.asarray(with_weights(x, np.ones(16))), key, jnp.asarray(0))
    assert np.mean(np.asarray(trained.items) == np.asarray(whole.items)) < 0.7  # cells were hidden: other bounds
    assert np.isfinite(trained.surrogate)
