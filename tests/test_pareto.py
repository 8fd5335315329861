"""Tails of importance weights, against distributions whose tail shape is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from qphi.checks.pareto import khat_threshold, smooth_log_weights, tail_shape, tail_shape_of_largest, tail_size

RANDOM = np.random.default_rng


def exponential_log_weights(rate: float, draws: int, seed: int) -> np.ndarray:
    """q = Exp(1), p = Exp(rate): w = rate exp((1 - rate) z) is Pareto with shape 1 - rate."""
    z = RANDOM(seed).exponential(size=draws)
    return math.log(rate) + (1 - rate) * z


@pytest.mark.parametrize(("rate", "shape"), [(0.5, 0.5), (0.2, 0.8)])
def test_the_shape_of_an_exponential_tail(rate, shape):
    # sd of k is about (1 + k) / sqrt(tail): 4 standard errors of the mean over 40 seeds, plus 0.02 for the prior
    draws = 20_000
    found = [smooth_log_weights(exponential_log_weights(rate, draws, seed))[1] for seed in range(40)]
    allowed = 4 * (1 + shape) / math.sqrt(tail_size(draws) * 40) + 0.02
    assert abs(np.mean(found) - shape) < allowed


def test_smoothing_keeps_order_and_the_largest_weight():
    raw = exponential_log_weights(0.2, 4000, 0)
    smoothed, _ = smooth_log_weights(raw)
    assert smoothed.max() <= raw.max()
    changed = smoothed != raw
    assert tail_size(4000) - 1 <= changed.sum() <= tail_size(4000)  # the largest may be cut to itself
    cutoff = np.sort(raw)[-tail_size(4000)]
    assert raw[changed].min() >= cutoff
    assert np.all(np.diff(smoothed[np.argsort(raw)]) >= -1e-12)
    for shift in (-1e4, 1e4):
        np.testing.assert_allclose(smooth_log_weights(raw + shift)[0] - shift, smoothed, atol=1e-6)


def test_smoothing_makes_the_evidence_less_noisy():
    # E w = 1 exactly; k = 0.8, so that the raw mean has no variance
    raw, smooth = [], []
    for seed in range(100):
        log_w = exponential_log_weights(0.2, 1000, seed)
        raw.append(np.mean(np.exp(log_w)))
        smooth.append(np.mean(np.exp(smooth_log_weights(log_w)[0])))
    assert np.mean(np.abs(np.array(smooth) - 1)) < np.mean(np.abs(np.array(raw) - 1))


def test_weights_that_say_nothing():
    constant = np.full(1000, -3.0)
    np.testing.assert_array_equal(smooth_log_weights(constant)[0], constant)
    assert smooth_log_weights(constant)[1] == -math.inf
    for bad in (np.nan, np.inf):
        log_w = constant.copy()
        log_w[3] = bad
        assert smooth_log_weights(log_w)[1] == math.inf
    assert smooth_log_weights(np.full(1000, -np.inf))[1] == math.inf
    some_zero = np.where(np.arange(1000) < 300, -np.inf, RANDOM(0).normal(size=1000))
    smoothed, shape = smooth_log_weights(some_zero)
    assert np.isneginf(smoothed).sum() == 300
    assert shape < 0.7


def test_tail_shapes_of_columns():
    z = RANDOM(1).standard_normal((20_000, 1))
    cauchy = np.abs(RANDOM(2).standard_cauchy((20_000, 1)))
    broken = np.where(np.arange(20_000)[:, None] == 7, np.nan, z)
    shapes = tail_shape(np.hstack([z**2, cauchy, cauchy**2, np.ones_like(z), broken]))
    assert shapes[0] < 0.4
    assert abs(shapes[1] - 1) < 0.4  # 4 standard deviations of one estimate
    assert shapes[2] > 1.4
    assert shapes[3] == -math.inf
    assert shapes[4] == math.inf


def test_the_threshold_asks_more_of_fewer_draws():
    assert khat_threshold(100) == pytest.approx(0.5)
    assert khat_threshold(10**5) == 0.7


def test_the_largest_weights_are_enough_for_the_tail():
    log_w = np.random.default_rng(5).normal(size=(3, 800)) * np.array([[0.3], [1.5], [4.0]])
    largest = -np.sort(-log_w, axis=1)[:, :200]
    of_all = [smooth_log_weights(row)[1] for row in log_w]
    np.testing.assert_allclose(tail_shape_of_largest(largest, 800), of_all, rtol=1e-8)
    assert tail_shape_of_largest(np.full((1, 50), np.nan), 100)[0] == np.inf
    assert tail_shape_of_largest(np.zeros((1, 50)), 100)[0] == -np.inf
    assert np.isnan(tail_shape_of_largest(np.zeros((1, 50)), 8)[0])
