"""What the user holds: known evidences and moments, tables, warnings, and errors by message."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints
from scipy.stats import multivariate_normal, norm

from qphi.families import DiagonalGaussian, FullRankGaussian
from qphi.importance import ImportanceWeights
from qphi.posterior import posterior_from
from qphi.status import Status
from qphi.summary import draws_for
from qphi.targets import LogDensity, as_target
from qphi.verdict import Trust, UnreliableError

KEY = jax.random.key(0)
Y = np.array([0.3, -1.2, 2.0, 0.7])


def normal_mean(y):
    mu = numpyro.sample("mu", dist.Normal(0, 2))
    numpyro.sample("y", dist.Normal(mu, 1), obs=y)


def exact_normal(y):
    """Posterior mean and sd of mu, and log evidence: y ~ N(0, I + 4 11')."""
    precision = 1 / 4 + len(y)
    evidence = multivariate_normal(np.zeros(len(y)), np.eye(len(y)) + 4).logpdf(y)
    return y.sum() / precision, precision**-0.5, evidence


def diagonal(mean, sd):
    return DiagonalGaussian(jnp.asarray(mean), jnp.log(jnp.asarray(sd)))


def shapes_target(**sizes):
    example = {name: jnp.zeros(size) for name, size in sizes.items()}
    return LogDensity(lambda v: -0.5 * sum(jnp.sum(x**2) for x in v.values()), example)


def test_at_the_posterior_the_elbo_is_the_log_evidence():
    with jax.enable_x64(True):
        mean, sd, evidence = exact_normal(Y)
        q = diagonal([mean], [sd])
        posterior = posterior_from(as_target(normal_mean, Y), q, Status.CONVERGED, KEY)
        assert abs(posterior.elbo - evidence) < 1e-5
        assert posterior.elbo_standard_error < 1e-5
        assert abs(posterior.weights.log_evidence - evidence) < 1e-5
        assert posterior.weights.ess > 3999.9
        assert posterior.verdict.trust is Trust.TRUSTED


@pytest.mark.parametrize("seed", range(3))
def test_elsewhere_the_elbo_is_below_by_the_kl(seed):
    # 4 standard errors, 3 seeds, 2 figures: false alarm 4e-4
    mean, sd, evidence = exact_normal(Y)
    q_mean, q_sd = mean + 0.3 * sd, 1.2 * sd
    kl = 0.5 * (1.2**2 + 0.3**2 - 1) - math.log(1.2)
    posterior = posterior_from(
        as_target(normal_mean, Y), diagonal([q_mean], [q_sd]), Status.CONVERGED, jax.random.key(seed)
    )
    assert abs(posterior.elbo - (evidence - kl)) < 4 * posterior.elbo_standard_error
    weights = posterior.weights
    assert abs(weights.log_evidence - evidence) < 4 * weights.log_evidence_standard_error


def test_moments_of_unconstrained_values_are_exact():
    tril = jnp.array([[1.0, 0.0], [-2.0, 0.5]])
    posterior = posterior_from(shapes_target(x=2), FullRankGaussian(jnp.array([1.0, 2.0]), tril), Status.CONVERGED, KEY)
    with pytest.raises(UnreliableError, match=r"The posterior is unreliable: q is far .* give allow_unreliable=True"):
        posterior.sd()
    sd = np.sqrt([1.0, 4.25])
    np.testing.assert_allclose(posterior.mean()["x"], [1, 2], rtol=1e-6)
    np.testing.assert_allclose(posterior.sd(allow_unreliable=True)["x"], sd, rtol=1e-6)
    quantiles = posterior.quantiles([0.1, 0.9], allow_unreliable=True)["x"]
    np.testing.assert_allclose(quantiles, norm(np.array([1, 2]), sd).ppf([[0.1], [0.9]]), rtol=1e-6)


def test_moments_of_transformed_values_come_from_draws():
    # a log-normal, from 4,000 draws: 4 standard errors of the mean and of the quantiles
    target = LogDensity(lambda v: -v["s"], {"s": 1.0}, supports={"s": constraints.positive})
    posterior = posterior_from(target, diagonal([0.5], [0.25]), Status.CONVERGED, KEY)
    mean = math.exp(0.5 + 0.25**2 / 2)
    sd = mean * math.sqrt(math.expm1(0.25**2))
    assert abs(posterior.mean()["s"] - mean) < 4 * sd / math.sqrt(4000)
    assert abs(posterior.sd(allow_unreliable=True)["s"] / sd - 1) < 0.06
    median = posterior.quantiles([0.5], allow_unreliable=True)["s"][0]
    assert abs(math.log(median) - 0.5) < 4 * 0.25 * math.sqrt(math.pi / 2 / 4000)


def matrix_program():
    z = numpyro.sample("z", dist.Normal(jnp.zeros((2, 2)), 1).to_event(2))
    p = numpyro.sample("p", dist.Dirichlet(jnp.ones(3)))
    numpyro.deterministic("total", z.sum() + p[0])


def test_draws_are_named_constrained_and_the_same_whatever_their_number():
    posterior = posterior_from(as_target(matrix_program), diagonal(np.zeros(6), np.ones(6)), Status.CONVERGED, KEY)
    draws = posterior.sample(KEY, 1100)
    assert {name: x.shape for name, x in draws.items()} == {
        "z": (1100, 2, 2),
        "p": (1100, 3),
        "total": (1100,),
    }
    assert list(draws) == ["z", "p", "total"]
    np.testing.assert_allclose(draws["p"].sum(-1), 1, atol=1e-5)
    np.testing.assert_allclose(draws["total"], draws["z"].sum((1, 2)) + draws["p"][:, 0], atol=1e-5)
    np.testing.assert_array_equal(posterior.sample(KEY, 70)["z"], draws["z"][:70])
    assert len(np.unique(draws["total"])) > 1090


def test_log_prob_is_that_of_q_for_a_point_and_for_rows():
    q = diagonal([1.0, 2.0], [0.5, 2.0])
    posterior = posterior_from(shapes_target(x=2), q, Status.CONVERGED, KEY)
    z = np.array([[0.0, 1.0], [2.0, 3.0]])
    expected = norm([1, 2], [0.5, 2]).logpdf(z).sum(1)
    np.testing.assert_allclose(posterior.log_prob(jnp.asarray(z)), expected, rtol=1e-5)
    np.testing.assert_allclose(posterior.log_prob(jnp.asarray(z[0])), expected[0], rtol=1e-5)


def test_the_repr_has_status_advice_table_elbo_and_cost():
    mean, sd, evidence = exact_normal(Y)
    posterior = posterior_from(
        as_target(normal_mean, Y),
        diagonal([mean], [sd]),
        Status.MAX_STEPS,
        KEY,
        steps=1500,
        seconds=2.5,
        history={"elbo": [1.0]},
    )
    lines = repr(posterior).split("\n")
    assert lines[0] == f"Posterior: unreliable: {Status.MAX_STEPS.message}."
    assert lines[1] == f"The fit: {Status.MAX_STEPS.message}."
    assert lines[2] == f"Advice: {Status.MAX_STEPS.advice}"
    assert lines[5].split() == ["name", "mean", "sd", "5", "%", "50", "%", "95", "%"]
    low, middle, high = norm(mean, sd).ppf([0.05, 0.5, 0.95])
    cells = [f"{value:.3f}" for value in (mean, sd, low, middle, high)]
    assert lines[6].split() == ["mu", *cells]
    assert f"ELBO {evidence:.4f} ± 0.0000 nats; importance ESS 4000 of 4000" in lines[8]
    assert lines[9] == "DiagonalGaussian over 1 unconstrained coordinate; 1,500 steps in 2.5 seconds"
    assert posterior.history == {"elbo": [1.0]}
    assert repr(posterior) == repr(
        posterior_from(posterior.target, posterior.q, Status.MAX_STEPS, KEY, steps=1500, seconds=2.5)
    )


def test_the_html_says_the_same_and_is_escaped():
    target = LogDensity(lambda v: -(v["<b>"] ** 2), {"<b>": 0.0})
    posterior = posterior_from(target, diagonal([0.0], [0.7]), Status.CONVERGED, KEY, reason="all <well>.")
    html = posterior._repr_html_()
    assert html.startswith("<div><p>Posterior: trusted: q is within")
    assert "<p>The fit: all &lt;well&gt;.</p>" in html
    assert "<td>&lt;b&gt;</td><td>0.000</td>" in html
    assert "ELBO" in html
    assert "<b>" not in html


def test_a_long_table_is_shortened_and_says_by_how_much():
    target = shapes_target(a=100, b=(), c=(3, 5))
    posterior = posterior_from(target, diagonal(np.zeros(116), np.ones(116)), Status.CONVERGED, KEY)
    text = repr(posterior)
    assert "... 90 more of a left out" in text
    assert "... 6 more of c left out" in text
    assert "\nb " in text
    summary = posterior.summary(allow_unreliable=True)
    assert summary.text().count("\n") == 116
    assert len(summary.rows()) == 116
    assert summary.rows()[101] == {
        "name": "c[0,0]",
        "mean": 0.0,
        "sd": 1.0,
        "5 %": pytest.approx(-1.6448536),
        "50 %": 0.0,
        "95 %": pytest.approx(1.6448536),
    }
    many = posterior_from(
        shapes_target(**{f"x{i}": () for i in range(50)}),
        diagonal(np.zeros(50), np.ones(50)),
        Status.CONVERGED,
        KEY,
    )
    assert "... 30 rows of 30 more names left out" in repr(many)
    assert "x20" not in repr(many)


def test_a_q_far_from_the_posterior_is_flagged_in_words():
    mean, sd, _ = exact_normal(Y)
    posterior = posterior_from(as_target(normal_mean, Y), diagonal([mean + 6 * sd], [sd]), Status.CONVERGED, KEY)
    assert posterior.weights.ess < 400
    assert posterior.verdict.trust is Trust.UNRELIABLE
    assert "q is far from the posterior: Pareto k" in repr(posterior)
    assert "do not report its sds" in repr(posterior)


def test_a_nan_is_counted_and_never_becomes_a_number():
    target = LogDensity(lambda v: jnp.log(v["x"]), {"x": 1.0})
    posterior = posterior_from(target, diagonal([0.0], [1.0]), Status.CONVERGED, KEY)
    nan = posterior.weights.nan
    assert abs(nan - 2000) < 4 * math.sqrt(1000)
    assert all(map(math.isnan, (posterior.elbo, posterior.elbo_standard_error, posterior.weights.ess)))
    assert f"not finite at {nan} of 4000 draws of q ({nan} NaN, 0 infinite): do not trust" in repr(posterior)
    assert "ELBO not available" in repr(posterior)


def test_draws_that_overflow_are_counted_below_the_table():
    target = LogDensity(lambda v: -v["s"], {"s": 1.0}, supports={"s": constraints.positive})
    posterior = posterior_from(target, diagonal([85.0], [5.0]), Status.CONVERGED, KEY)
    overflowed = int(posterior.summary(allow_unreliable=True).block("s").not_finite[0])
    assert 0 < overflowed < 4000
    assert f"s: 1 component(s) with draws that are not finite, up to {overflowed} of 4000." in repr(posterior)
    assert posterior.mean()["s"] == math.inf


def test_weights_of_zero_and_none_at_all():
    some = ImportanceWeights.from_log_weights(np.array([0.0, 0.0, 0.0, -np.inf]))
    assert (some.zero, some.elbo, some.ess) == (1, -math.inf, 3)
    assert math.isclose(some.log_evidence, math.log(0.75))
    assert "density is zero at 1 of 4 draws" in some.warning
    none = ImportanceWeights.from_log_weights(np.full(4, -np.inf))
    assert (none.zero, none.elbo, none.ess) == (4, -math.inf, 0)
    assert "far from the posterior" in none.warning
    infinite = ImportanceWeights.from_log_weights(np.array([0.0, np.inf]))
    assert math.isnan(infinite.elbo)
    assert "0 NaN, 1 infinite" in infinite.warning


def test_weights_do_not_overflow_and_have_the_textbook_ess():
    log_w = np.array([0.0, math.log(3.0)])
    for shift in (-1e5, 0.0, 1e5):
        weights = ImportanceWeights.from_log_weights(log_w + shift)
        assert math.isclose(weights.ess, 16 / 10, rel_tol=1e-6)
        assert math.isclose(weights.log_evidence, math.log(2) + shift, rel_tol=1e-9)
        assert math.isclose(weights.elbo, math.log(3) / 2 + shift, rel_tol=1e-9)


def test_another_posterior_of_the_same_shapes_compiles_nothing():
    runs = []

    def model(y):
        runs.append(1)
        scale = numpyro.sample("scale", dist.HalfNormal(1))
        numpyro.sample("y", dist.Normal(0, scale), obs=y)

    def work(y, mean):
        posterior = posterior_from(as_target(model, y), diagonal([mean], [0.1]), Status.CONVERGED, KEY)
        posterior.sample(KEY, 10 if mean else 2000)
        return repr(posterior)

    first = work(np.zeros(3), 0.0)
    before = len(runs)
    assert work(np.ones(3), 0.5) != first
    assert len(runs) == before + 2  # the new target's own looks at its data and its sites; nothing is traced again


def test_the_number_of_draws_is_bounded_for_large_results():
    assert draws_for({"x": (10,)}) == 4000
    assert draws_for({"x": (100_000,)}) == 500
    assert draws_for({"x": (10**9,)}) == 100


def test_wrong_arguments_are_refused():
    posterior = posterior_from(shapes_target(x=2), diagonal(np.zeros(2), np.ones(2)), Status.CONVERGED, KEY)
    with pytest.raises(ValueError, match="n is 0; a whole number of draws, 1 or more"):
        posterior.sample(KEY, 0)
    with pytest.raises(ValueError, match=r"between 0 and 1, 5 % being 0\.05"):
        posterior.quantiles([5, 95])
    with pytest.raises(KeyError, match="'nu' is not in the table; it has x"):
        posterior.summary().block("nu")
