"""Noise made on the host: exact moments where they are promised, and the same bits for the same key."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from qphi.noise import fixed_draws, generator, stratified_normal, stratified_uniform

KEY = jax.random.key(3)


@pytest.mark.parametrize(("count", "dim"), [(64, 1), (64, 10), (40, 20)])
def test_fixed_draws_have_exact_moments(count, dim):
    eps = fixed_draws(generator(KEY), count, dim)
    assert eps.shape == (count, dim)
    np.testing.assert_allclose(eps.T @ eps / count, np.eye(dim), atol=1e-12)
    np.testing.assert_array_equal(eps[: count // 2], -eps[count // 2 :])


def test_too_few_draws_to_whiten_have_unit_variances():
    eps = fixed_draws(generator(KEY), 16, 20)
    np.testing.assert_allclose(np.mean(eps**2, axis=0), 1, atol=1e-12)


def test_a_latin_hypercube_has_one_point_in_each_slice():
    u = stratified_uniform(generator(KEY), 50, 3)
    np.testing.assert_array_equal(np.sort(np.floor(u * 50), axis=0), np.tile(np.arange(50)[:, None], (1, 3)))


def test_stratified_means_of_sums_are_better_than_independent_ones():
    # the standard error of 400 independent draws would be 0.05
    means = [stratified_normal(generator(KEY, i), 400, 2).mean() for i in range(20)]
    assert np.std(means) < 0.005


def test_noise_is_a_function_of_key_and_path():
    draws = [generator(*which).normal() for which in ((KEY,), (KEY,), (KEY, 1), (jax.random.key(4),))]
    assert draws[0] == draws[1]
    assert len(set(draws)) == 3
