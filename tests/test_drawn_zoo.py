"""The densities that are drawn at random have the moments that are said to be known."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from drawn_zoo import KINDS, drawn
from posterior_zoo import fitted


def _first(kind, dim):
    return next(found for found in (drawn(kind, seed) for seed in range(100)) if found.dim == dim)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "bent"])
def test_moments_of_one_number_by_quadrature(kind):
    known = _first(kind, 1)
    mean, sd = np.reshape(known.mean, ()), np.reshape(known.sd, ())
    out = sd * np.exp(np.linspace(-12, 16, 400_001))  # heavy tails need a long way
    x = np.concatenate([-out[::-1], out]) + mean
    x = x[x > 0] if known.support is not None else x
    with jax.enable_x64(True):
        log_p = np.asarray(jax.vmap(known.log_density)(x[:, None]))
    weight = np.exp(log_p - log_p.max())
    total = np.trapezoid(weight, x)
    found = np.trapezoid(weight * x, x) / total
    assert found == pytest.approx(mean, abs=0.01 * sd)
    assert np.sqrt(np.trapezoid(weight * (x - found) ** 2, x) / total) == pytest.approx(sd, rel=0.03)


def test_moments_of_what_is_bent_by_quadrature():
    known = _first("bent", 2)
    x = [mean + sd * np.linspace(-10, 10, 2001) for mean, sd in zip(known.mean, known.sd, strict=True)]
    places = np.stack(np.meshgrid(*x, indexing="ij"), axis=-1).reshape(-1, 2)
    log_p = np.asarray(jax.jit(jax.vmap(known.log_density))(places))
    weight = np.exp(log_p - log_p.max())
    mean = weight @ places / weight.sum()
    np.testing.assert_allclose(mean, known.mean, atol=0.02)
    np.testing.assert_allclose(np.sqrt(weight @ (places - mean) ** 2 / weight.sum()), known.sd, rtol=0.02)


def test_a_seed_gives_the_same_density():
    for kind in KINDS:
        one, same, other = drawn(kind, 3), drawn(kind, 3), drawn(kind, 4)
        np.testing.assert_array_equal(one.mean, same.mean)
        assert not np.array_equal(one.mean, other.mean) or not np.array_equal(one.sd, other.sd)


def test_modes_with_nothing_between_them_are_two():
    """Four Gaussians in eight dimensions, the largest two of which overlap and point another way: one was taken for
    the other, and three quarters of the mass for all of it, in every seed of five."""
    known = drawn("mixture", 1005)
    posterior = fitted(known, 3)
    assert posterior.verdict.trust.usable
    np.testing.assert_allclose(posterior.mean()["x"], known.mean, atol=0.1 * np.max(known.sd))
    np.testing.assert_allclose(posterior.sd()["x"], known.sd, rtol=0.1)
