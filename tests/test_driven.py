"""The map whose scales follow a few coordinates: its algebra, and the funnels it is there for."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats

import qphi
from qphi.precision import double
from qphi.search import EFFORTS
from qphi.solvers.driven import Driven, WarpedOracle, fit_driven
from qphi.solvers.exact import Gaussian
from qphi.targets import LogDensity
from qphi.targets.oracle import Oracle

KEY = jax.random.key(0)
DIM = 4


def some_map() -> Driven:
    random = np.random.default_rng(1)
    earlier = np.tril(np.ones((DIM, DIM)), -1)[:, :2]
    used = np.concatenate([earlier, earlier], axis=1)
    return Driven(
        random.normal(size=DIM),
        np.eye(DIM) + np.tril(random.normal(size=(DIM, DIM)), -1),
        0.3 * random.normal(size=DIM),
        0.5 * used * random.normal(size=used.shape),
        used * random.normal(size=used.shape),
        np.array([2, 0, 3, 1]),
    )


def family(warp: Driven) -> qphi.DrivenGaussian:
    return qphi.DrivenGaussian(**{name: jnp.asarray(value) for name, value in vars(warp).items()})


def test_host_map_is_the_family_and_its_inverse():
    warp, u = some_map(), np.random.default_rng(0).normal(size=(5, DIM))
    with double():
        q = family(warp)
        z, log_det = warp.with_log_det(u)
        np.testing.assert_allclose(z, jax.vmap(q.transport)(jnp.asarray(u)), rtol=1e-12)
        expected = jax.vmap(lambda e: jnp.linalg.slogdet(jax.jacobian(q.transport)(e))[1])(jnp.asarray(u))
        np.testing.assert_allclose(log_det, expected, rtol=1e-10)
        log_q = stats.norm.logpdf(u).sum(axis=1) - log_det
        np.testing.assert_allclose(q.log_prob_many(jnp.asarray(z)), log_q, rtol=1e-10)
    np.testing.assert_allclose(warp.inverse(z), u, rtol=1e-9, atol=1e-9)


def test_gradient_in_warped_coordinates():
    with double():
        target = LogDensity(lambda v: -jnp.sum(jnp.cosh(v["x"])) + v["x"][0] * v["x"][1], example={"x": np.zeros(DIM)})
        oracle, u = WarpedOracle(Oracle(target), some_map()), np.random.default_rng(0).normal(size=(3, DIM))
    value, gradient = oracle.gradients(u)
    np.testing.assert_allclose(value, oracle.values(u), rtol=1e-12)
    for j in range(DIM):
        step = 1e-6 * np.eye(DIM)[j]
        difference = (oracle.values(u + step) - oracle.values(u - step)) / 2e-6
        np.testing.assert_allclose(gradient[:, j], difference, rtol=1e-5, atol=1e-6)


def funnel(v, width=3.0):
    # x ~ N(0, exp(v)), v ~ N(0, width); normalised
    return jnp.sum(dist.Normal(0, jnp.exp(v["v"] / 2)).log_prob(v["x"])) + dist.Normal(0, width).log_prob(v["v"])


FUNNEL = {"x": np.zeros(9), "v": 0.0}


def test_fit_finds_the_driver_and_the_evidence_of_a_funnel():
    # The family contains the funnel: the ELBO on fresh draws is the log evidence, 0, but for what 1,024 draws overfit
    with double():
        oracle = Oracle(LogDensity(funnel, example=FUNNEL))
    fit = fit_driven(oracle, Gaussian(np.zeros(10), np.eye(10)), np.random.default_rng(0))
    assert fit is not None
    assert fit.warp.order[0] == 9
    warped, u = WarpedOracle(oracle, fit.warp), np.random.default_rng(1).normal(size=(4000, 10))
    gap = -np.mean(warped.values(u) - stats.norm.logpdf(u).sum(axis=1))
    assert -0.05 < gap < 0.4, gap


def test_a_map_that_runs_out_of_time_is_the_best_so_far():
    with double():
        oracle = Oracle(LogDensity(funnel, example=FUNNEL))
    start = Gaussian(np.zeros(10), np.eye(10))
    fit, whole = (fit_driven(oracle, start, np.random.default_rng(0), deadline=end) for end in (0.0, math.inf))
    assert fit is not None
    assert whole is not None
    assert not fit.finished
    assert math.isfinite(fit.elbo)
    assert fit.elbo < whole.elbo


def test_no_fit_where_no_gradient_is_finite():
    with double():
        oracle = Oracle(LogDensity(lambda v: jnp.sum(v["x"]) ** 1.5, example={"x": np.zeros(2)}))
    assert fit_driven(oracle, Gaussian(np.full(2, -9.0), np.eye(2)), np.random.default_rng(0)) is None


def test_funnel_is_right_without_chains():
    # Narrower than Neal's, so that the sds of x can be told from the draws. E v = 0, sd v = 1.5; with an ESS of
    # thousands 0.15 is beyond 4 standard errors. With one key in four the tail of an x leaves its sd to chains
    posterior = qphi.fit(funnel, 1.5, example=FUNNEL, key=jax.random.key(1))
    assert posterior.verdict.trust.usable, posterior.verdict
    assert isinstance(posterior.q, qphi.DrivenGaussian)
    assert posterior.pool.made_by == "importance weights"
    v = np.asarray(posterior.sample(KEY, 10_000)["v"])
    assert abs(v.mean()) < 0.15
    assert abs(v.std() - 1.5) < 0.15


def schools(sigma, y):
    mu, tau = numpyro.sample("mu", dist.Normal(0, 5)), numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("school", len(sigma)):
        numpyro.sample("y", dist.Normal(numpyro.sample("theta", dist.Normal(mu, tau)), sigma), obs=y)


def test_centred_schools_are_bent_and_come_back_from_a_file(tmp_path, monkeypatch):
    # a budget of moves, not of seconds: these are few on a machine that has other work
    standard = dataclasses.replace(EFFORTS["standard"], seconds_of_chains=300.0)
    monkeypatch.setitem(EFFORTS, "standard", standard)
    sigma = np.array([15.0, 10, 16, 11, 9, 11, 10, 18])
    y = np.array([28.0, 8, -3, 7, -1, 1, 18, 12])
    posterior = qphi.fit(schools, sigma, y, key=KEY)
    assert posterior.verdict.trust.usable, posterior.verdict
    tau = np.asarray(posterior.sample(KEY, 10_000)["tau"])
    assert abs(tau.mean() - 3.6) < 0.35  # by long NUTS runs of the non-centred form: 3.6, sd 3.2
    posterior.save(tmp_path / "schools")
    back = qphi.load(tmp_path / "schools")
    z = posterior.pool.z[:5]
    with double():
        np.testing.assert_allclose(back.q.log_prob_many(jnp.asarray(z)), posterior.q.log_prob_many(jnp.asarray(z)))


def test_two_real_modes_are_not_bent_into_one():
    # A map cannot cover both; the one that it covers has half of the evidence
    def two(v):
        x = v["x"]
        return jnp.logaddexp(jnp.sum(dist.Normal(-6, 1).log_prob(x)), jnp.sum(dist.Normal(6, 1).log_prob(x)))

    posterior = qphi.fit(two, example={"x": np.zeros(3)}, key=KEY)
    assert isinstance(posterior.q, qphi.GaussianMixture)


@pytest.mark.parametrize(("groups", "heart"), [(60, 0.3), (120, 1.0)])
def test_many_dimensions_are_bent_by_what_drives_them(groups, heart):
    """log p is normalised, so that the ELBO is minus the KL divergence; that of `start` is about -10 and -20 nats."""

    def funnel(values):
        z, normal = values["z"], jax.scipy.stats.norm.logpdf
        return normal(z[0]) + jnp.sum(normal(z[1:], 0.0, jnp.exp(0.5 * z[0])))

    with double():
        oracle = Oracle(LogDensity(funnel, {"z": jnp.zeros(groups + 1)}))
    start = Gaussian(np.zeros(groups + 1), 0.8 * np.eye(groups + 1))
    fit = fit_driven(oracle, start, np.random.default_rng(0))
    assert fit is not None
    u = np.random.default_rng(1).normal(size=(4000, groups + 1))
    z, log_det = fit.warp.with_log_det(u)
    log_weight = oracle.values(z) + log_det + 0.5 * np.sum(u**2, axis=1) + 0.5 * (groups + 1) * np.log(2 * np.pi)
    assert -1.0 < np.mean(log_weight) < 0.05
    assert fit.elbo < np.mean(log_weight) + heart  # on its own draws, not learned by heart
