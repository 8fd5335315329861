"""Many small Gaussians over a place that no single one fits, and how many modes are enough."""

from __future__ import annotations

import dataclasses
import math
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qphi.unseen
from posterior_zoo import HARD, Known, fitted, gaussians
from qphi.assess import assess_fits
from qphi.auto import explore
from qphi.checks.proposal import Proposal
from qphi.cover import _Mixture, _parted, cover
from qphi.precision import double
from qphi.search import EFFORTS, Search
from qphi.solvers.exact import Fit, Gaussian
from qphi.targets import LogDensity
from qphi.targets.oracle import Oracle
from qphi.unseen import more_are_left, seek_more
from qphi.verdict import Trust

RING = HARD["ring"]


def explored(known: Known, seed: int = 0) -> Search:
    with double():
        oracle = Oracle(LogDensity(lambda v: known.log_density(v["z"]), {"z": jnp.zeros(known.dim)}))
    return explore(oracle, jax.random.key(seed), effort=EFFORTS["standard"])


@pytest.mark.parametrize("name", ["ring", "two branches", "sixteen modes"])
def test_what_patches_cover_is_right_by_weights_alone(name):
    """The bounds are ten times the errors over five seeds, or more (`benchmarks/zoo.py`)."""
    known = HARD[name]
    posterior = fitted(known)
    assert posterior.verdict.trust is Trust.CORRECTED
    assert posterior.made_by == "importance weights"
    assert np.abs(posterior.mean()["x"] - known.mean).max() < 0.1 * np.max(known.sd)
    assert np.abs(np.log(posterior.sd()["x"] / known.sd)).max() < 0.1
    if known.log_evidence is not None:
        error = posterior.log_evidence_standard_error
        assert abs(posterior.log_evidence - known.log_evidence) < 5 * error < 0.2


def test_em_finds_the_parts_that_weighted_draws_come_from():
    random = np.random.default_rng(0)
    z = random.uniform(-8, 8, (20_000, 2))
    first, second = np.array([-3.0, 0.0]), np.array([3.0, 1.0])
    weights = 0.3 * np.exp(-0.5 * np.sum((z - first) ** 2, 1)) + 0.7 * np.exp(-2 * np.sum((z - second) ** 2, 1)) * 4
    start = _Mixture((Gaussian(first + 0.7, np.eye(2)), Gaussian(second - 0.7, np.eye(2))), np.array([0.5, 0.5]))
    parts, shares = _parted(z, weights / weights.sum(), start, 20)
    # standard errors of some hundred effective draws a part
    np.testing.assert_allclose([q.mean for q in parts], [first, second], atol=0.1)
    np.testing.assert_allclose([q.sd for q in parts], [[1, 1], [0.5, 0.5]], atol=0.07)
    np.testing.assert_allclose(shares, [0.3, 0.7], atol=0.03)


def test_a_patch_without_draws_is_dropped_and_the_last_one_is_not():
    z = np.random.default_rng(0).standard_normal((500, 2))
    lost, there = Gaussian(np.array([1e3, 0.0]), np.eye(2)), Gaussian(np.zeros(2), np.eye(2))
    even = np.full(500, 1 / 500)
    parts, shares = _parted(z, even, _Mixture((lost, there), np.array([0.5, 0.5])), 2)
    assert len(parts) == 1
    assert np.abs(parts[0].mean).max() < 0.3
    np.testing.assert_array_equal(shares, [1.0])
    one = np.zeros(500)
    one[0] = 1.0  # of which nothing can be learnt
    assert _parted(z, one, _Mixture((there,), np.ones(1)), 1).parts == (there,)


def test_there_are_no_patches_where_they_have_nothing_to_win_or_no_time():
    search = explored(RING)
    plain = assess_fits(search)
    assert cover(search, plain) is not plain
    good = dataclasses.replace(plain.weighed.check, ess=0.9 * plain.weighed.check.pairs)
    already = dataclasses.replace(plain, weighed=dataclasses.replace(plain.weighed, check=good))
    assert cover(search, already) is already
    search.deadline = time.monotonic()
    assert cover(search, plain) is plain
    wide = explored(gaussians(np.zeros((2, 7)), [[1] * 7, [5] * 7], [0.5, 0.5]))
    assert cover(wide, other := assess_fits(wide)) is other


def test_patches_that_miss_a_mode_do_not_end_the_search_for_modes():
    """A round of 16 climbs that misses one of two modes as easy to find is one in 65,000."""
    pair = gaussians([[-4, 0], [4, 0]], [[1, 1], [1, 1]], [0.5, 0.5])
    search = explored(pair)
    left, right = (Gaussian(np.array([at, 0.0]), np.eye(2)) for at in (-4.0, 4.0))
    both, evidence = Proposal((left, right), np.array([0.5, 0.5])), math.log(2 * math.pi)
    assert not more_are_left(search, both.log_prob, evidence)
    assert more_are_left(search, Proposal((left,), np.ones(1)).log_prob, evidence)
    assert more_are_left(search, lambda z: np.full(len(z), np.nan), evidence)


def test_as_many_rounds_of_starts_as_there_are_modes(monkeypatch):
    search = explored(gaussians([[-4, 0], [4, 0]], [[1, 1], [1, 1]], [0.5, 0.5]))
    rounds = []
    monkeypatch.setattr(qphi.unseen, "_climbs", lambda search: rounds.append(1) or [])
    search.fits = [Fit(Gaussian(np.array([4.0 * i, 0.0]), np.eye(2)), 0.0, 0.0) for i in range(9)]
    seek_more(search)
    assert len(rounds) == 9
    assert not search.modes_left
    search.oracle.one_by_one = True  # dear: a round for four
    seek_more(search)
    assert len(rounds) == 9 + 3
    search.fits = search.fits * 2
    seek_more(search)
    assert len(rounds) == 9 + 3
    assert search.modes_left
