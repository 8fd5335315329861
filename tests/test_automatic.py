"""`qphi.fit` with nothing but a model: known answers, and a verdict on each that is never silently wrong."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints
from scipy import stats

import qphi
from qphi.verdict import Trust

KEY = jax.random.key(0)
GOOD_MEAN, GOOD_SD = 0.1, 0.1  # posterior sds, and log ratio: what a usable answer must keep


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
    "kink": Known(lambda x: -jnp.sum(jnp.abs(x)), 2, 0.0, math.sqrt(2), USABLE, log_evidence=2 * math.log(2)),
    "banana": Known(
        lambda x: -0.5 * x[0] ** 2 - 0.5 * ((x[1] - x[0] ** 2) / 0.5) ** 2, 2,
        np.array([0.0, 1.0]), np.array([1.0, 1.5]), (*USABLE, "unreliable"),
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
    "steps": Known(lambda x: jnp.sum(-0.5 * jnp.floor(x) ** 2), 1),
    "zero below zero": Known(lambda x: jnp.where(x[0] < 0, -jnp.inf, normal(x)), 2),
    "too many modes": Known(
        lambda x: jnp.sum(jnp.logaddexp(math.log(0.2) - 2 * (x + 3) ** 2, math.log(0.8) - 2 * (x - 3) ** 2)), 5
    ),
    "diagonal": Known(lambda x: -0.5 * (x[0] + x[1] - 1) ** 2, 2),
    "heavier than integrable": Known(lambda x: -0.5 * jnp.sum(jnp.log1p(x**2)), 2),
    "ring": Known(lambda x: -0.5 * ((jnp.sqrt(jnp.sum(x**2)) - 5) / 0.1) ** 2, 2),
}


def fitted(known: Known, seed: int = 0, **options):
    example = jnp.full(known.dim, 0.0 if known.support is None else 0.4)
    supports = None if known.support is None else {"x": known.support}
    return qphi.fit(
        lambda values: known.log_density(values["x"]),
        example={"x": example},
        supports=supports,
        key=jax.random.key(seed),
        **options,
    )


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_usable_is_right(name):
    known = RIGHT[name]
    posterior = fitted(known)
    assert posterior.verdict.trust in known.verdicts
    sd = posterior.sd(allow_unreliable=True)["x"]
    assert np.max(np.abs(posterior.mean()["x"] - known.mean) / known.sd) < GOOD_MEAN
    assert np.max(np.abs(np.log(sd / known.sd))) < GOOD_SD
    if known.log_evidence is not None:
        error = posterior.log_evidence_standard_error
        assert abs(posterior.log_evidence - known.log_evidence) < 4 * error + 0.02
        assert posterior.elbo <= known.log_evidence + 4 * posterior.elbo_standard_error + 1e-9


@pytest.mark.parametrize("name", DOUBTFUL)
def test_what_cannot_be_trusted_is_not(name):
    posterior = fitted(DOUBTFUL[name])
    assert posterior.verdict.trust in ("unreliable", "failed")
    assert posterior.verdict.reasons
    assert posterior.verdict.advice
    with pytest.raises(qphi.UnreliableError, match="allow_unreliable=True"):
        posterior.quantiles([0.1])
    assert np.isfinite(posterior.sample(KEY, 10)["x"]).all()


def test_an_edge_comes_with_the_advice_to_declare_it():
    posterior = fitted(DOUBTFUL["zero below zero"])
    assert any("log p jumps to -inf" in reason for reason in posterior.verdict.reasons)
    assert "Declare the support" in posterior.verdict.advice


def test_tails_that_floats_cut_off_are_not_trusted():
    # above a logit of 36, p is 1 - 2^-53: 4 % of the mass of Beta(0.05, 0.05) on that side is lost, and the mean is off
    posterior = qphi.fit(lambda: numpyro.sample("p", dist.Beta(0.05, 0.05)), key=KEY)
    assert posterior.verdict.trust is Trust.UNRELIABLE
    assert any("draws of p are so near the edge of the support that they are rounded" in r
               for r in posterior.verdict.reasons)  # fmt: skip
    assert "unconstrained scale" in posterior.verdict.advice
    fine = qphi.fit(lambda: numpyro.sample("p", dist.Beta(0.5, 0.5)), key=KEY)
    assert fine.verdict.trust.usable
    assert fine.mean()["p"] == pytest.approx(0.5, abs=0.02)


def test_two_data_with_flat_priors_have_no_moments():
    def model(y):
        mean = numpyro.sample("mean", dist.ImproperUniform(constraints.real, (), ()))
        log_sd = numpyro.sample("log_sd", dist.ImproperUniform(constraints.real, (), ()))
        numpyro.sample("y", dist.Normal(mean, jnp.exp(log_sd)), obs=y)

    posterior = qphi.fit(model, np.array([0.0, 1.0]), key=KEY)
    assert posterior.verdict.trust is Trust.UNRELIABLE
    assert not bool(posterior.verdict.sd_ok["mean"])


def test_a_censored_normal_is_right_or_not_trusted():
    y, censored = np.array([1.0, 2.0, 3.5, 4.2, 4.9, 0.3]), 3

    def model(y):
        mean = numpyro.sample("mean", dist.Normal(0, 10))
        sd = numpyro.sample("sd", dist.HalfNormal(10))
        numpyro.sample("y", dist.Normal(mean, sd), obs=y)
        numpyro.factor("above five", censored * jnp.log1p(-jax.scipy.stats.norm.cdf(5.0, mean, sd)))

    posterior = qphi.fit(model, y, key=KEY)
    # by quadrature on a grid; without `usable` nothing is promised
    if posterior.verdict.trust.usable:
        assert posterior.mean()["mean"] == pytest.approx(4.262, abs=0.15)
        assert posterior.sd()["mean"] == pytest.approx(1.452, rel=0.1)


def test_the_improper_direction_is_named():
    def model():
        numpyro.sample("known", dist.Normal(0, 1))
        numpyro.sample("free", dist.ImproperUniform(constraints.real, (), (2,)))

    posterior = qphi.fit(model, key=KEY)
    assert posterior.verdict.trust is Trust.UNRELIABLE
    assert "log p does not fall far out along free: the posterior is improper" in posterior.verdict.reasons
    assert "Give it a prior" in posterior.verdict.advice


def test_only_the_values_with_bad_tails_are_marked():
    def model():
        numpyro.sample("fine", dist.Normal(2, 3))
        u = numpyro.sample("u", dist.Logistic(0, 1))
        numpyro.deterministic("heavy", jnp.exp(u))

    posterior = qphi.fit(model, key=KEY)
    assert posterior.verdict.trust is Trust.UNRELIABLE
    assert bool(posterior.verdict.sd_ok["fine"])
    assert bool(posterior.verdict.sd_ok["u"])
    assert not bool(posterior.verdict.mean_ok["heavy"])
    assert not bool(posterior.verdict.sd_ok["heavy"])
    assert "the mean of heavy (see posterior.verdict.mean_ok)" in repr(posterior)


def conjugate(y, scale):
    x = numpyro.sample("x", dist.Normal(0, 1))
    numpyro.sample("y", dist.Normal(x, scale), obs=y)


def test_a_single_surprising_datum():
    # x ~ N(0, 1), y = 10 ~ N(x, 0.5): the posterior is N(8, sqrt(0.2)), the evidence N(10 | 0, sqrt(1.25))
    posterior = qphi.fit(conjugate, 10.0, 0.5, key=KEY)
    assert posterior.verdict.trust is Trust.TRUSTED
    assert posterior.mean()["x"] == pytest.approx(8, abs=1e-6)
    assert posterior.sd()["x"] == pytest.approx(math.sqrt(0.2), rel=0.02)
    assert posterior.elbo == pytest.approx(stats.norm(0, math.sqrt(1.25)).logpdf(10), abs=1e-6)
    assert posterior.quantiles([0.05, 0.95])["x"] == pytest.approx(
        stats.norm(8, math.sqrt(0.2)).ppf([0.05, 0.95]), abs=0.03
    )


def test_gamma_poisson_on_the_constrained_scale():
    counts = np.array([3, 0, 2, 4, 1, 5, 2])

    def model(counts):
        rate = numpyro.sample("rate", dist.Gamma(2.0, 1.5))
        numpyro.sample("counts", dist.Poisson(rate), obs=counts)

    posterior = qphi.fit(model, counts, key=KEY)
    exact = stats.gamma(2 + counts.sum(), scale=1 / (1.5 + len(counts)))
    assert posterior.verdict.trust is Trust.TRUSTED
    assert posterior.mean()["rate"] == pytest.approx(exact.mean(), abs=0.02 * exact.std())
    assert posterior.sd()["rate"] == pytest.approx(exact.std(), rel=0.03)
    draws = posterior.sample(KEY, 4000)["rate"]
    # Kolmogorov-Smirnov, false alarm 1e-3; draws are better spread than independent ones
    assert stats.kstest(draws, exact.cdf).statistic < 1.95 / math.sqrt(4000)


def eight_schools(y, sigma):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("schools", len(y)):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.sample("y", dist.Normal(theta, sigma), obs=y)


def wave(v):
    # x0 ~ N(0, 1), x1 ~ N(sin(2 x0), 0.4): no Gaussian, and no mean that follows x0 by a bend, comes near
    x = v["x"]
    return dist.Normal(0, 1).log_prob(x[0]) + dist.Normal(jnp.sin(2 * x[0]), 0.4).log_prob(x[1])


def test_what_no_weights_correct_chains_do():
    posterior = qphi.fit(wave, example={"x": np.zeros(2)}, key=KEY)
    # Var x1 = (1 - exp(-8)) / 2 + 0.16. Thousands of states of 256 chains: 0.1 is beyond 4 standard errors
    mean, sd = posterior.mean()["x"], posterior.sd()["x"]
    np.testing.assert_allclose(mean, 0, atol=0.1)
    np.testing.assert_allclose(sd, [1, 0.812], atol=0.1)
    assert posterior.verdict.trust is Trust.CORRECTED
    assert posterior.made_by == "Markov chains"
    assert "Markov chains from q" in repr(posterior)


def test_the_same_key_gives_the_same_bits():
    first, second, other = (fitted(RIGHT["skew"], seed) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first.pool.z, second.pool.z)
    np.testing.assert_array_equal(first.sample(KEY, 100)["x"], second.sample(KEY, 100)["x"])
    assert not np.array_equal(first.pool.z, other.pool.z)


def test_a_second_fit_of_the_same_shapes_traces_nothing():
    runs = []

    def model(y):
        runs.append(1)
        mu = numpyro.sample("mu", dist.Normal(0, 2))
        numpyro.sample("y", dist.Normal(mu, 1), obs=y)

    qphi.fit(model, np.zeros(4), key=KEY)
    before = len(runs)
    qphi.fit(model, np.ones(4), key=jax.random.key(1))
    assert len(runs) == before + 1  # the new target's own look at its sites


def test_double_precision_stays_inside():
    posterior = qphi.fit(conjugate, 1.0, 1.0, key=KEY)
    assert posterior.sample(KEY, 3)["x"].dtype == np.float64
    assert jnp.zeros(()).dtype == jnp.float32


def test_no_time_is_never_trusted():
    posterior = qphi.fit(conjugate, 1.0, 1.0, key=KEY, max_time=1e-9)
    assert not posterior.verdict.trust.usable
    assert any("time budget" in reason for reason in posterior.verdict.reasons)


def test_quick_does_not_run_chains_and_thorough_always_does():
    quick = fitted(RIGHT["banana"], effort="quick")
    assert quick.made_by == "importance weights"
    assert "correct" not in quick.stages
    thorough = fitted(RIGHT["standard"], effort="thorough")
    assert "correct" in thorough.stages
    assert thorough.verdict.trust is Trust.TRUSTED
    assert {"values", "gradients", "hessians"} <= set(thorough.evaluations)
    with pytest.raises(qphi.InputError, match=r"effort='medium' is not known\. Use 'quick', 'standard', 'thorough'"):
        fitted(RIGHT["standard"], effort="medium")


def test_a_density_that_is_finite_nowhere_is_refused_with_the_site_to_blame():
    def model(y):
        x = numpyro.sample("x", dist.Normal(0, 1))
        numpyro.factor("broken", jnp.log(-1.0 - x**2))
        numpyro.sample("y", dist.Normal(x, 1), obs=y)

    with pytest.raises(qphi.InputError, match=r"None of 100 starts has a finite log density.*broken = nan"):
        qphi.fit(model, 1.0, key=KEY)


@pytest.mark.parametrize("family", ["low-rank", "student-t"])
def test_chosen_families_by_stochastic_gradients(family):
    # a strongly correlated Gaussian of 3: the low-rank family contains it, the t nearly
    covariance = np.array([[1.0, 0.9, 0.0], [0.9, 1.0, 0.0], [0.0, 0.0, 0.25]])
    precision = np.linalg.inv(covariance)
    example = {"x": jnp.ones(3)}
    posterior = qphi.fit(lambda v: -0.5 * v["x"] @ precision @ v["x"], example=example, key=KEY, family=family)
    draws = posterior.sample(KEY, 4000)["x"]
    np.testing.assert_allclose(draws.mean(axis=0), 0, atol=0.1)
    np.testing.assert_allclose(np.cov(draws.T), covariance, atol=0.15)


def test_arguments_without_effect_are_refused():
    with pytest.raises(TypeError, match="watch has no effect on an automatic fit"):
        qphi.fit(conjugate, 1.0, 1.0, key=KEY, watch=print)
    with pytest.raises(TypeError, match="effort has no effect on stochastic gradients"):
        qphi.fit(conjugate, 1.0, 1.0, key=KEY, family="mean-field", effort="thorough")
