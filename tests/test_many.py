"""More than a thousand dimensions: Gaussians with few directions, and an automatic fit that is not silently wrong."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import qphi
from qphi.families import SpikedGaussian
from qphi.many import sized
from qphi.noise import fixed_draws, generator
from qphi.precision import double
from qphi.search import EFFORTS
from qphi.solvers.exact import Gaussian, Spiked, solve
from qphi.solvers.spiked import SpikedMeanField, add_spikes
from qphi.targets import LogDensity
from qphi.targets.oracle import Oracle
from qphi.verdict import Trust

KEY = jax.random.key(0)
DIM = 1200


def spiked(dim=6, seed=0, spikes=(3.0, 0.4)):
    random = np.random.default_rng(seed)
    directions = np.linalg.qr(random.standard_normal((dim, len(spikes))))[0]
    return Spiked(random.standard_normal(dim), random.uniform(0.1, 3, dim), directions, np.array(spikes))


def as_matrix(q):
    return q.stretch(np.eye(len(q.mean))).T


def test_a_spiked_gaussian_agrees_with_its_matrix():
    q = spiked()
    c = as_matrix(q)
    dense = Gaussian(q.mean, np.linalg.cholesky(c @ c.T))
    z = np.random.default_rng(1).standard_normal((5, 6))
    np.testing.assert_allclose(q.transport(q.whiten(z)), z)
    np.testing.assert_allclose(q.pull(z), z @ c)
    np.testing.assert_allclose(q.radius(z), dense.radius(z))
    np.testing.assert_allclose(q.sd, dense.sd)
    assert q.entropy == pytest.approx(dense.entropy)
    assert abs(q.widest @ dense.widest) == pytest.approx(1, abs=1e-6)
    with double():
        family = SpikedGaussian(*map(jnp.asarray, (q.mean, np.log(q.scale), q.directions, q.spikes - 1)))
        log_q = -0.5 * q.radius(z) - q.log_det - 3 * math.log(2 * math.pi)
        np.testing.assert_allclose(family.log_prob_many(jnp.asarray(z)), log_q)
        np.testing.assert_allclose(jax.vmap(family.transport)(jnp.asarray(z)), q.transport(z))
        np.testing.assert_allclose(family.scale, q.sd)
        assert float(family.entropy()) == pytest.approx(q.entropy)


def oracle_of(log_density, dim):
    with double():
        return Oracle(LogDensity(lambda v: log_density(v["z"]), {"z": jnp.zeros(dim)}))


def gaussian_oracle(q):
    """The target N(q.mean, C C'), without a matrix."""
    mean, scale, v, w = (jnp.asarray(a) for a in (q.mean, q.scale, q.directions, 1 / q.spikes - 1))

    def log_density(z):
        u = (z - mean) / scale
        return -0.5 * jnp.sum((u + v @ (w * (v.T @ u))) ** 2)

    return oracle_of(log_density, len(q.mean))


def test_mean_field_on_independent_coordinates_is_exact():
    scale = np.geomspace(1e-3, 1e3, 40)
    oracle = oracle_of(lambda z: -0.5 * jnp.sum((z / scale - 2) ** 2), 40)
    solver = SpikedMeanField(fixed_draws(generator(KEY), 16, 40))
    state, _ = solve(oracle, solver, Spiked.diagonal(np.zeros(40), np.full(40, 0.1)), max_steps=500)
    assert solver.finished(state)
    np.testing.assert_allclose(state.q.mean / scale, 2, atol=1e-3)
    np.testing.assert_allclose(state.q.scale / scale, 1, rtol=1e-3)
    assert state.elbo == pytest.approx(np.sum(np.log(scale)) + 20 * math.log(2 * math.pi), abs=1e-4)


def test_mean_field_scales_are_those_of_the_precision():
    # sigma_i^2 = 1 / P_ii on whitened draws (4 dim of them)
    precision = np.array([[2.0, 0.7, 0.0], [0.7, 1.0, -0.3], [0.0, -0.3, 4.0]])
    oracle = oracle_of(lambda z: -0.5 * z @ precision @ z, 3)
    solver = SpikedMeanField(fixed_draws(generator(KEY), 12, 3))
    state, _ = solve(oracle, solver, Spiked.diagonal(np.ones(3), np.ones(3)), max_steps=200)
    np.testing.assert_allclose(state.q.scale, np.diag(precision) ** -0.5, rtol=1e-3)


def test_spikes_are_the_outer_eigenvectors():
    truth = spiked(50, spikes=(10.0, 4.0, 0.2))
    start = Spiked.diagonal(truth.mean, truth.scale)
    found = add_spikes(gaussian_oracle(truth), start, fixed_draws(generator(KEY), 4, 50), generator(KEY), rank=8)
    np.testing.assert_allclose(sorted(found.spikes), [0.2, 4.0, 10.0], rtol=1e-4)
    np.testing.assert_allclose(as_matrix(found), as_matrix(truth), atol=1e-3)
    few = add_spikes(gaussian_oracle(truth), start, fixed_draws(generator(KEY), 4, 50), generator(KEY), rank=1)
    assert few.spikes == pytest.approx([0.2], rel=1e-4)  # the most nats: (25 - 1 - log 25) / 2


def test_effort_is_as_it_was_up_to_a_thousand_dimensions_and_bounded_above():
    standard = EFFORTS["standard"]
    assert sized(standard, 1000) is standard
    many, more = sized(standard, 10_000), sized(standard, 100_000)
    assert 10_000 * many.pairs <= 2**24
    assert more.pairs == 128
    assert many.chains < standard.chains


def test_a_gaussian_with_few_directions_is_right():
    random = np.random.default_rng(0)
    directions = np.linalg.qr(random.standard_normal((DIM, 3)))[0]
    truth = Spiked(
        5 * random.standard_normal(DIM), 10.0 ** random.uniform(-2, 2, DIM), directions, np.array([9, 3, 0.2])
    )
    oracle = gaussian_oracle(truth)
    posterior = qphi.fit(oracle.target, key=KEY)
    assert posterior.verdict.trust.usable
    assert isinstance(posterior.q, SpikedGaussian)
    # a thousand draws of chains: errors of 0.035 sd, of which the largest of 1,200 exceeds 0.17 in one of 1,000 runs
    np.testing.assert_allclose((posterior.mean()["z"] - truth.mean) / truth.sd, 0, atol=0.17)
    np.testing.assert_allclose(np.log(posterior.sd()["z"] / truth.sd), 0, atol=0.17)
    error = posterior.log_evidence_standard_error
    assert abs(posterior.log_evidence - truth.log_det - 0.5 * DIM * math.log(2 * math.pi)) < 4 * error + 0.02


def groups(y, scale):
    mu = numpyro.sample("mu", dist.Normal(0, 10))
    tau = numpyro.sample("tau", dist.HalfNormal(5))
    with numpyro.plate("groups", y.shape[0]):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
    numpyro.sample("y", dist.Normal(theta[:, None], scale), obs=y)


def exact_groups(y, scale):
    """Means and sds of mu, tau and theta: tau on a grid, the rest is conjugate."""
    n, m = y.shape
    v, bar = scale**2 / m, y.mean(axis=1)
    tau = np.linspace(0.6, 1.6, 2001)
    t2 = tau**2
    precision = n / (t2 + v) + 1 / 100
    mu = bar.sum() / (t2 + v) / precision
    log_p = -0.5 * n * np.log(t2 + v) - 0.5 * np.log(precision) - tau**2 / 50
    log_p += -0.5 * (np.sum(bar**2) / (t2 + v) - mu**2 * precision)
    w = np.exp(log_p - log_p.max())
    w /= w.sum()
    b = t2 / (t2 + v)
    theta = b[:, None] * bar + ((1 - b) * mu)[:, None]
    spread = (b * v + (1 - b) ** 2 / precision)[:, None]

    def moments(mean, variance):
        first = w @ mean
        return first, np.sqrt(w @ (variance + mean**2) - first**2)

    return {"mu": moments(mu, 1 / precision), "tau": moments(tau, 0 * tau), "theta": moments(theta, spread)}


def simulated_groups(n=DIM, m=3, seed=0):
    random = np.random.default_rng(seed)
    return 2 + random.standard_normal((n, 1)) + random.standard_normal((n, m))


@pytest.fixture(scope="module")
def hierarchy():
    y = simulated_groups()
    return y, qphi.fit(groups, y, 1.0, key=KEY)


def test_a_hierarchical_model_is_right(hierarchy):
    y, posterior = hierarchy
    assert posterior.verdict.trust.usable
    for name, (mean, sd) in exact_groups(y, 1.0).items():
        assert np.max(np.abs(posterior.mean()[name] - mean) / sd) < 0.15
        assert np.max(np.abs(np.log(posterior.sd()[name] / sd))) < 0.15


def test_its_posterior_is_used_as_any_other(hierarchy, tmp_path):
    _, posterior = hierarchy
    z = posterior.pool.z[:3]
    assert posterior.log_prob(z).shape == (3,)
    again = qphi.load(posterior.save(tmp_path / "saved"))
    np.testing.assert_allclose(again.log_prob(z), posterior.log_prob(z))
    np.testing.assert_array_equal(again.mean()["theta"], posterior.mean()["theta"])
    size = sum(path.stat().st_size for path in (tmp_path / "saved").iterdir())
    assert size < 2.5 * posterior.pool.z.nbytes  # draws, named draws, and no matrix
    assert "more of theta left out" in repr(posterior)
    starts, options = posterior.for_nuts(KEY, 2)
    assert starts["theta"].shape == (2, DIM)
    ((names, variances),) = options["inverse_mass_matrix"].items()
    assert set(names) == {"mu", "tau", "theta"}
    assert variances.shape == (DIM + 2,)


def test_what_is_skewed_is_corrected_by_chains():
    # x = exp(z): Gamma(3) each; the mean of z is digamma(3), its variance trigamma(3)
    from scipy.special import digamma, polygamma

    posterior = qphi.fit(lambda v: jnp.sum(3 * v["z"] - jnp.exp(v["z"])), example={"z": jnp.zeros(DIM)}, key=KEY)
    assert posterior.verdict.trust is Trust.CORRECTED
    assert posterior.made_by == "Markov chains"
    mean, sd = digamma(3), math.sqrt(polygamma(1, 3))
    # 768 draws or more: five standard errors
    assert np.max(np.abs(posterior.mean()["z"] - mean)) / sd < 0.2
    assert np.max(np.abs(np.log(posterior.sd()["z"] / sd))) < 0.2


def test_two_modes_are_both_found_or_neither_is_trusted():
    def log_density(values):
        return jnp.logaddexp(*(-0.5 * jnp.sum((values["z"] - mean) ** 2) for mean in (-1, 1)))

    posterior = qphi.fit(log_density, example={"z": jnp.zeros(DIM)}, key=KEY)
    if posterior.verdict.trust.usable:
        assert posterior.verdict.numbers["modes"] == 2
        np.testing.assert_allclose(posterior.mean()["z"], 0, atol=0.3)
        np.testing.assert_allclose(posterior.sd()["z"], math.sqrt(2), rtol=0.15)


def wrongly_shaped(log_density, **options):
    posterior = qphi.fit(lambda v: log_density(v["z"]), example={"z": jnp.zeros(DIM)}, key=KEY, **options)
    assert not posterior.verdict.trust.usable
    assert np.isfinite(posterior.sample(KEY, 10)["z"]).all()
    return " ".join(posterior.verdict.reasons)


def test_a_funnel_is_not_trusted():
    wrongly_shaped(
        lambda z: -0.5 * (z[0] / 3) ** 2 - 0.5 * jnp.sum(z[1:] ** 2) * jnp.exp(-z[0]) - 0.5 * (DIM - 1) * z[0]
    )


def test_a_coordinate_that_nothing_holds_is_named():
    reasons = wrongly_shaped(lambda z: -0.5 * jnp.sum(z[1:] ** 2), effort="quick")
    assert "log p does not fall far out along 1 of z: the posterior is improper" in reasons


@pytest.mark.slow
def test_heavy_tails_are_not_trusted():
    assert "have not settled" in wrongly_shaped(lambda z: -jnp.sum(jnp.log1p(z**2)))


def test_an_edge_beyond_which_there_is_nothing_is_not_trusted():
    wrongly_shaped(lambda z: jnp.where(z[0] > 1, jnp.nan, -0.5 * jnp.sum(z**2)), effort="quick")


def test_a_budget_that_ended_is_never_trusted():
    posterior = qphi.fit(groups, simulated_groups(), 1.0, key=KEY, max_time=1e-9)
    assert not posterior.verdict.trust.usable


def test_one_long_ridge_is_exact():
    """Every coordinate meets every other, along one direction: draws must not make up more relations than that."""

    def ridge(z):
        return -0.5 * (100 * jnp.sum((z - z.mean()) ** 2) + 1e-3 * z.size * z.mean() ** 2)

    posterior = qphi.fit(oracle_of(ridge, DIM).target, key=KEY)
    assert str(posterior.verdict.trust) == "trusted"
    assert posterior.verdict.numbers["modes"] == 1
    sd = math.sqrt(1 / (1e-3 * DIM) + (1 - 1 / DIM) / 100)
    np.testing.assert_allclose(posterior.sd()["z"] / sd, 1, atol=0.1)
    log_det = (DIM - 1) * math.log(100) + math.log(1e-3)
    exact = 0.5 * (DIM * math.log(2 * math.pi) - log_det)
    assert posterior.log_evidence == pytest.approx(exact, abs=0.05)
