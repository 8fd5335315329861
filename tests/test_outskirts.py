"""Places outside of a fit: what they say of the evidence, and what is made of it."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from qphi.auto import EFFORTS, explore
from qphi.checks.judge import Circumstances, Judgement, outdone
from qphi.noise import generator
from qphi.outskirts import Estimate, outskirts
from qphi.precision import double
from qphi.solvers.exact import Gaussian
from qphi.targets import LogDensity
from qphi.targets.oracle import Oracle
from qphi.verdict import Trust

KEY = jax.random.key(0)
Q = Gaussian(np.array([1.0, -2.0, 0.5]), np.array([[2.0, 0, 0], [-0.7, 0.5, 0], [0.3, 0.1, 0.2]]))


def oracle_of(log_density, dim):
    with double():
        return Oracle(LogDensity(lambda v: log_density(v["z"]), {"z": jnp.zeros(dim)}))


def cross(z):
    sds = jnp.array([[10, 0.1, 1], [0.1, 10, 1]])
    return jax.scipy.special.logsumexp(-0.5 * jnp.sum((z / sds) ** 2, axis=1) + jnp.log(jnp.array([0.4, 0.6])))


@pytest.mark.parametrize("seed", range(3))
def test_each_way_tells_the_evidence_of_what_it_covers(seed):
    """A false alarm, five standard errors, is one in a million; places that miss the mass would be too low by more."""
    places = outskirts(oracle_of(lambda z: 0.0 * z[0], 3), Q, generator(jax.random.key(seed)), 16)
    log_p = stats.multivariate_normal(Q.mean, Q.tril @ Q.tril.T).logpdf(places.z) + 3.0
    found = dataclasses.replace(places, log_p=log_p).evidences()
    assert len(found) == 3
    for estimate in (found[0], found[2]):  # the box may not hold it all
        assert estimate.error < 0.1
        assert abs(estimate.value - 3.0) < 5 * estimate.error
    assert dataclasses.replace(places, log_p=np.full(len(log_p), -np.inf)).evidences() == []
    log_p[::2] = np.nan  # half of them have no density, and count for nothing
    assert dataclasses.replace(places, log_p=log_p).evidences()[0].value == pytest.approx(3 - math.log(2), abs=0.3)


def test_places_along_an_axis_reach_as_far_as_the_widest():
    places = outskirts(oracle_of(lambda z: 0.0 * z[0], 3), Q, generator(KEY), 16)
    along = np.linalg.svd(Q.tril)[0].T @ (places.z[places.along] - Q.mean).T
    sds = np.linalg.svd(Q.tril)[1]
    furthest = np.abs(along).max(axis=1)
    assert (furthest > 3 * sds[0]).all()  # the narrow ones too
    assert (furthest < 5.5 * sds[0]).all()


@pytest.mark.parametrize("seed", range(3))
def test_a_mass_that_crosses_another_is_found(seed):
    search = explore(oracle_of(cross, 3), jax.random.key(seed), effort=EFFORTS["standard"])
    for wide in (0, 1):
        assert any(fit.q.sd[wide] > 1 and fit.q.sd[1 - wide] < 0.2 for fit in search.fits)


def test_evidence_outside_takes_the_trust_away():
    case = Circumstances(Q, 1, True, 0.0, False, False, 0.0, False)
    usable, evidence = Judgement(Trust.TRUSTED, ("near",)), Estimate(0.0, 0.01)
    more = outdone(case, usable, [Estimate(-3.0, 0.1), Estimate(0.4, 0.05)], evidence)
    assert more.trust is Trust.UNRELIABLE
    assert "0.40 nats" in more.reasons[0]
    assert more.advice
    assert outdone(case, usable, [Estimate(0.4, 0.2)], evidence) is usable  # by chance
    assert outdone(case, usable, [Estimate(6.0, 0.99)], evidence) is usable  # one place that fell on the peak
    assert outdone(case, usable, [Estimate(0.05, 0.001)], evidence) is usable  # too little to matter
    assert outdone(case, usable, [Estimate(0.4, 0.05)], Estimate(0.0, math.nan)) is usable
    failed = dataclasses.replace(usable, trust=Trust.FAILED)
    assert outdone(case, failed, [Estimate(0.4, 0.05)], evidence) is failed
