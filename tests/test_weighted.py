"""Weights and weighted moments under the defensive proposal, against targets with exact answers."""

from __future__ import annotations

import dataclasses
import math

import jax
import numpy as np
import pytest
from scipy import stats

from qphi.assess import without_idle
from qphi.checks.judge import beyond_help
from qphi.checks.proposal import Proposal
from qphi.checks.tails import with_own_tails
from qphi.checks.weighted import check_weights, weighted_moments
from qphi.noise import generator
from qphi.solvers.exact import Gaussian


def checked(log_p, mean, tril, pairs=4096, seed=0):
    """Draws, check and weights of one Gaussian against a log density of rows."""
    proposal = Proposal((Gaussian(np.asarray(mean), np.asarray(tril)),), np.ones(1))
    draws = proposal.draw(generator(jax.random.key(seed)), pairs)
    check, weights = check_weights(log_p(draws.z), draws.log_r, proposal.log_gaussian(draws.z), draws.is_gaussian)
    return draws, check, weights


MEAN, TRIL = np.array([1.0, -2.0]), np.array([[2.0, 0.0], [-0.7, 0.5]])
GAUSSIAN = stats.multivariate_normal(MEAN, TRIL @ TRIL.T)


def test_a_scale_that_overflows_without_a_weight_is_no_tail():
    values = np.random.default_rng(0).standard_normal((1024, 2))
    weights = np.full(1024, 1 / 1023)
    values[7, 1], weights[7] = np.inf, 0.0
    assert np.isposinf(weighted_moments(values, weights).mean_khat[1])
    kept = weighted_moments(without_idle(values, weights), weights)
    assert np.isfinite(kept.mean_khat).all()
    rest = np.delete(values, 7, axis=0)
    np.testing.assert_allclose([kept.mean[1], kept.sd[1]], [rest[:, 1].mean(), rest[:, 1].std()], rtol=1e-9)
    weights[7] = 1e-9  # it counts
    assert np.isinf(without_idle(values, weights)[7, 1])
    values[7, 1], weights[7] = np.nan, 0.0  # nobody knows what it stands for
    assert np.isnan(without_idle(values, weights)[7, 1])


def test_what_no_draws_would_make_believable():
    random = np.random.default_rng(0)
    values = np.stack([random.standard_normal(8192), random.pareto(1.7, 8192)], axis=1)
    even = np.full(8192, 1 / 8192)
    _, check, _ = checked(GAUSSIAN.logpdf, MEAN, TRIL)

    def helpless(columns, check=check):
        moments = weighted_moments(columns, even)
        return beyond_help(check, with_own_tails(moments, columns, even, 8192))

    assert helpless(values)
    assert not helpless(values[:, :1])  # nothing is doubtful
    assert not helpless(values, dataclasses.replace(check, ess=100.0))  # the weights are
    light = with_own_tails(weighted_moments(values[:, :1], even), values[:, :1], even, 8192)
    few = dataclasses.replace(light, mean_error=light.sd)
    assert not beyond_help(check, few)  # more draws would help
    assert not beyond_help(check, weighted_moments(values, even))  # nobody has looked at the values' own tails


def test_the_proposals_density_integrates_to_one_and_is_the_one_drawn_from():
    parts = (Gaussian(np.array([-3.0]), np.array([[0.5]])), Gaussian(np.array([2.0]), np.array([[1.5]])))
    proposal = Proposal(parts, np.array([0.3, 0.7]))
    grid = np.linspace(-60, 60, 200_001)[:, None]
    density = np.exp(proposal.log_prob(grid))
    assert np.trapezoid(density, grid[:, 0]) == pytest.approx(1, abs=1e-3)
    draws = proposal.draw(generator(jax.random.key(0)), 20_000)
    cdf = np.cumsum(density) * (grid[1, 0] - grid[0, 0])
    distance = np.max(
        np.abs(np.interp(np.sort(draws.z[:, 0]), grid[:, 0], cdf) - np.arange(len(draws.z)) / len(draws.z))
    )
    assert distance < 1.95 / math.sqrt(20_000)  # Kolmogorov-Smirnov, false alarm 1e-3
    gaussian = np.log(0.3 * stats.norm(-3, 0.5).pdf(0.4) + 0.7 * stats.norm(2, 1.5).pdf(0.4))
    assert proposal.log_gaussian(np.array([[0.4]]))[0] == pytest.approx(gaussian)


def test_draws_come_in_reflected_pairs():
    draws, _, _ = checked(GAUSSIAN.logpdf, MEAN, TRIL)
    half = len(draws.z) // 2
    np.testing.assert_allclose(draws.z[:half] + draws.z[half:], np.tile(2 * MEAN, (half, 1)))
    np.testing.assert_allclose(draws.log_r[:half], draws.log_r[half:])


def test_at_the_posterior_the_weights_are_constant_and_the_evidence_exact():
    _, check, _ = checked(lambda z: GAUSSIAN.logpdf(z) - 7.0, MEAN, TRIL)
    assert check.elbo == pytest.approx(-7, abs=1e-10)
    assert check.log_weight_variance < 1e-20
    assert abs(check.log_evidence + 7) < 4 * check.log_evidence_standard_error
    assert check.ess > 0.85 * check.pairs


@pytest.mark.parametrize("seed", range(5))
def test_shifted_gaussians_have_the_kl_and_moments_of_the_target(seed):
    # q = N(m, S), p = N(m + delta, S): KL = delta' S^-1 delta / 2. 4 standard errors, 5 seeds, 4 figures: 1e-3
    shift = TRIL @ np.array([0.3, -0.4])
    draws, check, weights = checked(lambda z: GAUSSIAN.logpdf(z - shift), MEAN, TRIL, seed=seed)
    assert check.kl == pytest.approx(0.125, abs=0.02)
    moments = weighted_moments(draws.z, weights)
    assert np.all(np.abs(moments.mean - MEAN - shift) < 4 * moments.mean_error + 1e-12)
    assert np.all(np.abs(moments.sd - np.sqrt(np.diag(GAUSSIAN.cov))) < 4 * moments.sd_error)
    assert np.all(moments.sd_khat < 0.7)


def test_a_skew_normal_is_lifted_exactly():
    # 2 phi(z) Phi(3 z) is 2 q(z) a(z): the weights of reflected pairs are constant
    def log_p(z):
        return math.log(2) + stats.norm.logpdf(z[:, 0]) + stats.norm.logcdf(3 * z[:, 0])

    draws, check, weights = checked(log_p, [0.0], [[1.0]])
    assert check.log_weight_variance < 1e-20
    delta = 3 / math.sqrt(10)
    mean = delta * math.sqrt(2 / math.pi)
    moments = weighted_moments(draws.z, weights)
    assert moments.mean[0] == pytest.approx(mean, abs=0.01)
    assert moments.sd[0] == pytest.approx(math.sqrt(1 - mean**2), abs=0.01)


def test_tails_without_a_variance_are_seen_on_the_scale_that_is_reported():
    # log z logistic: z has no mean. The joint weights are fine; only the functional's tail tells.
    draws, check, weights = checked(lambda z: stats.logistic.logpdf(z[:, 0]), [0.0], [[1.6]])
    assert check.log_weight_variance < 0.1
    moments = weighted_moments(np.exp(draws.z), weights)
    assert moments.mean_khat[0] > 0.7
    assert moments.sd_khat[0] > 1
    inner = weighted_moments(draws.z, weights)
    assert inner.sd_khat[0] < 0.7


def test_a_density_that_is_zero_or_nan_somewhere():
    draws, check, weights = checked(lambda z: np.where(z[:, 0] < 1, -np.inf, GAUSSIAN.logpdf(z)), MEAN, TRIL)
    assert check.log_weight_variance == math.inf or check.log_weight_variance < 1e-20  # one of each pair has none
    assert check.elbo == -math.inf
    assert weights.sum() == pytest.approx(1)
    assert np.all(weights[draws.z[:, 0] < 1] == 0)
    _, broken, weights = checked(lambda z: np.where(z[:, 0] < 1, np.nan, GAUSSIAN.logpdf(z)), MEAN, TRIL)
    assert math.isnan(broken.elbo)
    assert broken.khat == math.inf
    assert not np.isfinite(weights).any()
