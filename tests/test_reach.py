"""Draws that reach far out: their density, how far they go, what they say of tails, and fits that need them."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.distributions import constraints
from scipy import stats

from posterior_zoo import Known, fitted
from qphi.assess import assess_fits
from qphi.auto import EFFORTS, explore
from qphi.checks.proposal import Proposal
from qphi.checks.reaching import Reaching, with_ends
from qphi.checks.weighted import weighted_moments
from qphi.precision import double
from qphi.reach import reach
from qphi.solvers.exact import Gaussian
from qphi.targets import LogDensity
from qphi.targets.oracle import Oracle

Q = Gaussian(np.array([1.0, -2.0, 0.5]), np.array([[2.0, 0, 0], [-0.7, 0.5, 0], [0.3, 0.1, 0.2]]))
COVARIANCE = Q.tril @ Q.tril.T


def oracle_of(log_density, dim):
    with double():
        return Oracle(LogDensity(lambda v: log_density(v["z"]), {"z": jnp.zeros(dim)}))


def reaching(q, furthest):
    return Reaching(Proposal((q,), np.ones(1)), q, np.arange(len(q.mean)), np.asarray(furthest))


def test_its_density_integrates_to_one():
    proposal = reaching(Gaussian(np.array([1.0]), np.array([[2.0]])), [1e3])
    out = np.exp(np.linspace(-9, 8.5, 200_001))
    z = 1 + np.concatenate([-out[::-1], out])
    assert np.trapezoid(np.exp(proposal.log_prob(z[:, None])), z) == pytest.approx(1, abs=1e-4)
    flat = reaching(Gaussian(np.zeros(2), np.array([[1.0, 0], [0.8, 0.6]])), [5.0, 12.0])
    grid = np.linspace(-32, 32, 1281)
    places = np.stack(np.meshgrid(grid, grid), axis=-1).reshape(-1, 2)
    assert np.exp(flat.log_prob(places)).sum() * 0.05**2 == pytest.approx(1, abs=0.015)  # it has edges


def test_draws_are_its_own_and_come_in_pairs():
    """Weights of a t about their mean of one: a false alarm, five standard errors, is one in a million."""
    proposal = reaching(Q, [1e4, 1e4, 1e4])
    draws = proposal.draw(np.random.default_rng(0), 20_000)
    half = len(draws.z) // 2
    np.testing.assert_allclose(draws.z[:half] + draws.z[half:], np.broadcast_to(2 * Q.mean, (half, 3)), atol=1e-9)
    np.testing.assert_allclose(draws.log_r, proposal.log_prob(draws.z))
    assert draws.is_gaussian.mean() == pytest.approx(0.45 / 2, abs=0.01)
    weights = np.exp(stats.multivariate_t(Q.mean, COVARIANCE, df=2.5).logpdf(draws.z) - draws.log_r)
    paired = weights.reshape(2, -1).mean(axis=0)
    assert abs(paired.mean() - 1) < 5 * paired.std() / math.sqrt(half)
    assert weights.max() < 10  # a Gaussian's grow without bounds
    assert proposal.at_the_end(draws.z).mean() == pytest.approx(0.55 / 3, abs=0.02)


def test_it_reaches_as_far_as_there_is_anything():
    base, along = Proposal((Q,), np.ones(1)), np.array([0, 2])
    normal = oracle_of(lambda z: jax.scipy.stats.multivariate_normal.logpdf(z, Q.mean, COVARIANCE), 3)
    assert np.all(
        (Reaching.of(base, Q, along, normal).furthest > 14) & (Reaching.of(base, Q, along, normal).furthest < 35)
    )
    heavy = oracle_of(lambda z: -2 * jnp.log1p(jnp.sum((z - Q.mean) ** 2)), 3)
    assert list(Reaching.of(base, Q, along, heavy).furthest) == [1e4, 1e4]
    # NaN from some distance on: there is nothing to see there
    ends = oracle_of(lambda z: jnp.where(jnp.abs(z[0]) > 50, jnp.nan, -2 * jnp.log1p(jnp.sum(z**2))), 3)
    round_ = Gaussian(np.zeros(3), np.eye(3))
    proposal = Reaching.of(Proposal((round_,), np.ones(1)), round_, along, ends)
    first, second = proposal.furthest
    assert 50 < first < 70
    assert second == 1e4
    far = np.array([[49.0, 0, 0], [0, 0, 3e3], [7, 0, 3]])
    assert list(proposal.at_the_end(far)) == [True, True, False]
    assert not Reaching.of(base, Q, along, normal).at_the_end(far).any()  # a light tail has no end far out


@pytest.mark.parametrize(("index", "ends"), [(1.0, False), (2.0, False), (3.0, True), (6.0, True)])
def test_a_tail_that_does_not_end_has_moments_left_far_out(index, ends):
    """The variance of x^-(1 + index), index <= 2, is infinite, and draws of any proposal have a finite one."""
    out = np.exp(np.linspace(0, math.log(1e4), 5000))
    values = np.concatenate([-out, out])[:, None]
    weights = np.concatenate([out, out]) ** -index
    weights /= weights.sum()
    last = np.abs(values[:, 0]) > 1e4 ** (2 / 3)
    moments = weighted_moments(values, weights)
    found = with_ends(moments, values, weights, last)
    assert (found.sd_khat[0] < 0.9) == ends
    assert (found.mean_khat[0] < 0.9) == (index > 1)
    if ends:
        assert found.sd_khat[0] == moments.sd_khat[0]


def assessed(log_density, dim, seed=0):
    """The search and the weights of a fit, before any rung."""
    search = explore(oracle_of(log_density, dim), jax.random.key(seed), effort=EFFORTS["standard"])
    return search, assess_fits(search)


def test_only_fair_weights_of_few_dimensions_are_reached_for():
    search, plain = assessed(lambda z: -2.3 * jnp.log1p(jnp.sum(z**2) / 2.6), 2)
    assert not plain.judgement.trust.usable
    reached = reach(search, plain)
    assert reached is not plain
    assert reached.judgement.trust.usable
    assert reached.weighed.check.pairs > 1.9 * plain.weighed.check.pairs
    poor = dataclasses.replace(plain.weighed.check, ess=0.01 * plain.weighed.check.pairs)
    unfair = dataclasses.replace(plain, weighed=dataclasses.replace(plain.weighed, check=poor))
    assert reach(search, unfair) is unfair
    more = dataclasses.replace(plain, case=dataclasses.replace(plain.case, modes_left=True))
    assert reach(search, more) is more
    search.deadline = 0.0
    assert reach(search, plain) is plain


def student(dim, df):
    return Known(lambda x: -0.5 * (df + dim) * jnp.log1p(jnp.sum(x**2) / df), dim, 0.0, math.sqrt(df / abs(df - 2)))


def test_what_does_not_vary_has_no_tail():
    """As the diagonal of a correlation matrix: chains that check such weights would call its sd unknown."""
    values, weights = np.ones((100, 1)), np.full(100, 0.01)
    moments = weighted_moments(values, weights)
    assert (with_ends(moments, values, weights, np.arange(100) > 50).sd_khat == moments.sd_khat).all()


@pytest.mark.parametrize("seed", range(2))
def test_heavy_tails_are_known_to_a_few_hundredths(seed):
    """Without draws far out sds were a third short, or in doubt."""
    posterior = fitted(student(4, 2.6), seed)
    assert posterior.verdict.trust.usable
    np.testing.assert_allclose(posterior.sd()["x"], math.sqrt(2.6 / 0.6), rtol=0.12)
    assert posterior.stages.keys() >= {"reach"}
    assert "correct" not in posterior.stages  # no chains


def test_moments_on_the_constrained_scale_too():
    """Inverse gamma variables, with variances and no fourth moments."""
    shape = np.array([2.6, 3.0, 8.0])
    inverse_gamma = Known(
        lambda x: jnp.sum(-(shape + 1) * jnp.log(x) - 1 / x),
        3,
        1 / (shape - 1),
        1 / ((shape - 1) * np.sqrt(shape - 2)),
        support=constraints.positive,
    )
    posterior = fitted(inverse_gamma)
    assert posterior.verdict.trust == "trusted"
    np.testing.assert_allclose(posterior.mean()["x"], inverse_gamma.mean, rtol=0.03)
    np.testing.assert_allclose(posterior.sd()["x"], inverse_gamma.sd, rtol=0.1)


@pytest.mark.parametrize("df", [1.2, 2.02])
def test_no_sd_where_there_is_none_or_next_to_none(df):
    posterior = fitted(student(2, df))
    assert not posterior.verdict.trust.usable
    assert not posterior.verdict.sd_ok["x"].any()


def test_what_is_wide_and_rare_is_found():
    """Three hundredths of the mass are twenty times as wide as the rest, and all of the variance."""
    dim, share, wide = 3, 0.03, 30.0

    def log_density(x):
        square = jnp.sum(x**2)
        return jnp.logaddexp(
            math.log(1 - share) - 0.5 * square, math.log(share) - 0.5 * square / wide**2 - dim * math.log(wide)
        )

    known = Known(log_density, dim, 0.0, math.sqrt(1 - share + share * wide**2))
    posterior = fitted(known)
    assert posterior.verdict.trust.usable
    np.testing.assert_allclose(posterior.sd()["x"], known.sd, rtol=0.1)
