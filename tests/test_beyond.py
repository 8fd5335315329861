"""Mass beyond all draws: found where a neck hides it, and not where there is none."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats

import qphi
from qphi.checks.beyond import mass_beyond
from qphi.checks.judge import Circumstances, Judgement, outreached
from qphi.checks.weighted import weighted_moments
from qphi.precision import double
from qphi.solvers.exact import Gaussian
from qphi.targets import LogDensity
from qphi.targets.oracle import Oracle
from qphi.verdict import Trust


def oracle_of(log_density, dim):
    with double():
        return Oracle(LogDensity(lambda v: log_density(v["z"]), {"z": jnp.zeros(dim)}))


def neck(z):
    """z0 ~ t with 5 degrees of freedom; z1, z2 given z0 ~ N(z0, 1 / (1 + z0^2)): ever narrower."""
    squared = 1 + z[0] ** 2
    return -3 * jnp.log1p(z[0] ** 2 / 5) - 0.5 * squared * jnp.sum((z[1:] - z[0]) ** 2) + jnp.log(squared)


def test_what_draws_cut_off_is_added_up():
    """Draws with |z0| below 3 alone; the share of the variance beyond them is known by quadrature."""
    rng = np.random.default_rng(0)
    z0 = stats.t(5).rvs(200_000, random_state=0)
    z0 = z0[np.abs(z0) < 3][:8000]
    z = np.column_stack([z0, z0[:, None] + rng.normal(size=(8000, 2)) / np.sqrt(1 + z0[:, None] ** 2)])
    log_evidence = -stats.t(5).logpdf(0) + np.log(2 * np.pi)
    even = np.full(8000, 1 / 8000)
    oracle = oracle_of(neck, 3)
    added = mass_beyond(oracle, oracle.mean_curvature, z, even, log_evidence, [0])
    grid = np.linspace(3, 300, 1_000_001)
    exact = 2 * np.trapezoid(grid**2 * stats.t(5).pdf(grid), grid) / z0.var()
    # a coarse sum, from two fifths beyond the outermost draw to where a ten-thousandth of the mass is left
    assert 0.4 * exact < added[0] < exact
    assert added[1] * z[:, 1].var() == pytest.approx(added[0] * z0.var(), rel=0.1)  # goes with it
    differenced = mass_beyond(oracle, oracle.differenced, z, even, log_evidence, [0])
    np.testing.assert_allclose(differenced, added, rtol=1e-2)


def test_a_gaussian_has_nothing_beyond_its_draws():
    z = np.random.default_rng(0).normal(size=(4096, 3))
    oracle = oracle_of(lambda z: -0.5 * jnp.sum(z**2), 3)
    even = np.full(4096, 1 / 4096)
    added = mass_beyond(oracle, oracle.mean_curvature, z, even, 1.5 * np.log(2 * np.pi), range(3))
    assert (added < 0.01).all()


def test_where_a_climb_does_not_end_nothing_is_added():
    z = np.random.default_rng(0).normal(size=(512, 2))
    oracle = oracle_of(lambda z: jnp.where(z[0] > 0, jnp.nan, -0.5 * jnp.sum(z**2) + z[1] ** 2), 2)
    added = mass_beyond(oracle, oracle.mean_curvature, z, np.full(512, 1 / 512), 0.0, [0])
    assert (added == 0).all()


def test_mass_beyond_takes_the_trust_away_from_its_sds_alone():
    case = Circumstances(Gaussian(np.zeros(2), np.eye(2)), 1, True, 0.0, False, False, 0.0, False)
    moments = weighted_moments(np.random.default_rng(0).normal(size=(512, 2)), np.full(512, 1 / 512))
    usable = Judgement(Trust.CORRECTED, ("chains",))
    assert outreached(case, usable, moments, np.array([0.2, 0.9])) == (usable, moments)
    judgement, marked = outreached(case, usable, moments, np.array([0.2, 3.0]))
    assert judgement.trust is Trust.UNRELIABLE
    assert "1 sd(s) would be larger (by 2.0 or so)" in judgement.reasons[0]
    assert list(np.isinf(marked.sd_error)) == [False, True]
    assert np.isfinite(moments.sd_error).all()


def exposures(ill, children, measured):
    a, b = numpyro.sample("a", dist.Normal(0, 32)), numpyro.sample("b", dist.Normal(0, 32))
    with numpyro.plate("groups", 3):
        exposure = numpyro.sample("exposure", dist.Normal(4.48 + 0.76 * measured, 9.0))
        numpyro.sample("ill", dist.Binomial(children, logits=a + b * exposure), obs=ill)


@pytest.mark.parametrize("seed", [0, 3])
def test_a_slope_whose_tail_is_narrow_is_not_silently_too_certain(seed):
    """BUGS' example `air`: few slopes are steep, where the three exposures have to be equal; chains settle
    without them, and say 0.03. The sd is 0.064 by 40,000 draws of NUTS."""
    data = [np.array(column) for column in ([21, 20, 15], [48, 34, 21], [10, 30, 50])]
    posterior = qphi.fit(exposures, *data, key=jax.random.key(seed))
    sd = float(posterior.sd(allow_unreliable=True)["b"])
    assert not posterior.verdict.trust.usable or 0.045 < sd < 0.09
