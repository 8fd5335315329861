"""Tails: whether moments exist, by weighted draws and by chains that have been there."""

from __future__ import annotations

import dataclasses

import numpy as np

from qphi.checks.tails import heavy, missed, with_ease, with_own_tails, with_reach, with_tails
from qphi.checks.weighted import believable, noisy, weighted_moments


def test_heavy_weights_say_nothing_of_light_values_that_chains_have_visited():
    """A few rows of weights without a mean lie around 2: light for a value, though weight times value is not.

    The second value has a tail of shape 1.5, and its estimate a scatter of 0.2: below 0.9 in one of a thousand seeds.
    """
    rng = np.random.default_rng(0)
    rows = 8000
    values = np.stack([rng.normal(size=rows), rng.uniform(size=rows) ** -1.5], axis=1)
    weights = np.ones(rows)
    apart = rng.choice(rows, 60, replace=False)
    values[apart, 0] = rng.normal(2, 0.3, size=60)
    weights[apart] += 2 / rng.uniform(size=60)
    weights /= weights.sum()
    alone = weighted_moments(values, weights)
    assert (alone.mean_khat > 0.9).all()
    told = with_own_tails(alone, values, weights, 1 / np.sum(weights**2))
    assert told.mean_own is not None
    assert told.sd_own is not None
    assert list(heavy(told.mean_own)) == [False, True]
    assert not heavy(told.sd_own)[0]
    chains = weighted_moments(rng.normal(size=(2000, 2)), np.full(2000, 1 / 2000))
    assert (with_tails(chains, alone).mean_khat > 0.9).all()
    assert list(with_tails(chains, told).mean_khat > 0.9) == [False, True]


def test_bounded_weights_make_no_tail_that_values_have_not():
    """Two light modes far from each other; a product of weight and value that looked heavy, as it may, is no proof."""
    rng = np.random.default_rng(0)
    values = np.where(rng.uniform(size=8192) < 0.1, rng.normal(9, 0.3, 8192), rng.normal(0, 0.5, 8192))[:, None]
    even = np.full(8192, 1 / 8192)
    alone = weighted_moments(values, even)
    doubted = dataclasses.replace(alone, mean_khat=np.array([1.7]), sd_khat=np.array([0.1]))
    assert with_own_tails(doubted, values, even, 8192, khat=0.2).mean_khat[0] == 1.7
    told = with_own_tails(doubted, values, even, 8192, khat=-0.3)
    assert told.mean_own is not None
    assert told.mean_khat[0] == max(told.mean_own[0], 0.0) < 0.7
    assert told.sd_khat[0] <= 0.1
    heavy_values = rng.uniform(size=(8192, 1)) ** -1.5
    alone = weighted_moments(heavy_values, even)
    assert with_own_tails(alone, heavy_values, even, 8192, khat=-0.3).mean_khat[0] > 0.9


def test_chains_that_have_been_as_far_as_a_moment_lies_need_no_other_tails():
    """E x^2 of N(0, 1) has 0.2 beyond 2.15 and 0.03 beyond 3; five of 64 chains of 32 states have been beyond 2.8 (all
    but once in a million)."""
    rng = np.random.default_rng(0)
    values, weights = rng.normal(size=(8192, 2)), np.full(8192, 1 / 8192)
    doubted = dataclasses.replace(weighted_moments(values, weights), mean_khat=np.full(2, 1.5), sd_khat=np.full(2, 1.5))
    told = with_own_tails(doubted, values, weights, 8192)
    told = dataclasses.replace(told, mean_own=np.full(2, 0.7), sd_own=np.full(2, 0.7))
    states = rng.normal(size=(2048, 2))
    states[:, 1] = np.clip(states[:, 1], -2.15, 2.15)  # these have not been there
    states[::64, 1] = np.tile([-50.0, 50.0], 16)  # but one of them: for as long as it was run
    alone = weighted_moments(states, np.full(2048, 1 / 2048), 64)
    chains = with_reach(alone, states, 64)
    first, second = missed(chains, told)
    assert second[0] < 0.08 < 0.15 < second[1] < 0.25
    assert (first < second).all()
    assert list(with_tails(chains, told).sd_khat > 0.9) == [False, True]
    assert np.isnan(missed(alone, told)).all()  # of no chains
    assert (with_tails(alone, told).sd_khat > 0.9).all()
    near = dataclasses.replace(chains, reach=np.zeros(2))
    assert np.isnan(missed(near, told)).all()  # further in than all draws that were kept


def test_chains_that_hardly_move_where_a_moment_lies_do_not_know_it():
    """Forty of 4,000 states, thirty times as far out as the others, have nine tenths of a variance and a quarter of
    the mean distance: trajectories there are accepted once in ten times."""
    rng = np.random.default_rng(0)
    values, even = rng.normal(size=(4000, 3)), np.full(4000, 1 / 4000)
    values[:40, 1] *= 30
    values[:, 2] = 1.0
    chances = np.full(4000, 0.85)
    plain = weighted_moments(values, even)
    easy = with_ease(plain, values, chances)
    assert np.array_equal(easy.sd_error, plain.sd_error, equal_nan=True)
    chances[:40] = 0.1
    known = with_ease(plain, values, chances)
    assert list(np.isposinf(known.sd_error)) == [False, True, False]
    assert not np.isposinf(known.mean_error).any()
    assert np.isfinite(plain.sd_error[1])  # nothing of the one before was changed
    light = dataclasses.replace(known, mean_khat=np.zeros(3), sd_khat=np.zeros(3))  # so that no tail speaks against it
    assert [list(ok) for ok in believable(light)] == [[True, True, True], [True, False, True]]
    assert not noisy(light)  # more of the same would not help
    assert noisy(dataclasses.replace(light, sd_error=np.full(3, 9.0)))
    chances[:40] = 0.0
    values[:40, 1] *= 30
    assert np.isposinf(with_ease(weighted_moments(values, even), values, chances).mean_error[1])
