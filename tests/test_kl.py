"""Closed-form KL(q || p) against Monte Carlo, and against NumPyro's formulas.

The Monte Carlo comparisons are at 4 standard errors on 3 seeds: 1 in 16,000 fails by chance when all is well, so 0.2 %
of fresh sets of seeds would fail one of the 27 here.
"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from qphi.families import (
    AbstractFamily,
    DiagonalGaussian,
    FromNumPyro,
    FullRankGaussian,
    StandardNormal,
    has_kl,
    kl_divergence,
    register_kl,
)

DIAGONAL = DiagonalGaussian(jnp.array([0.3, -1.2]), jnp.array([-0.4, 0.5]))
OTHER = DiagonalGaussian(jnp.array([-0.2, 0.1]), jnp.array([0.3, 0.1]))
FULL = FullRankGaussian(jnp.array([0.3, -1.2]), jnp.array([[0.8, 0.0], [-0.5, -0.6]]))  # a negative diagonal is allowed
STANDARD = StandardNormal(2)
PAIRS: dict[str, tuple[AbstractFamily, AbstractFamily]] = {
    "diagonal to standard": (DIAGONAL, STANDARD),
    "diagonal to diagonal": (DIAGONAL, OTHER),
    "full rank to standard": (FULL, STANDARD),
    "numpyro Normal": tuple(
        FromNumPyro(dist.Normal(loc, scale).to_event(1))
        for loc, scale in ((jnp.array([0.3, -1.2]), 0.7), (jnp.array([0.0, 0.4]), 1.3))
    ),
    "numpyro Gamma": tuple(
        FromNumPyro(dist.Gamma(a, b).to_event(1))
        for a, b in ((jnp.array([2.0, 5.0]), 1.5), (jnp.array([3.0, 4.0]), 1.0))
    ),
}


def as_numpyro(q):
    if isinstance(q, FromNumPyro):
        return q.distribution
    if isinstance(q, StandardNormal):
        return dist.MultivariateNormal(jnp.zeros(q.dim), jnp.eye(q.dim))
    if isinstance(q, DiagonalGaussian):
        return dist.MultivariateNormal(q.mean, scale_tril=jnp.diag(q.scale))
    return dist.MultivariateNormal(q.mean, q.covariance)


@pytest.mark.parametrize("name", PAIRS)
def test_against_monte_carlo(name):
    q, p = PAIRS[name]
    assert has_kl(q, p)
    exact = kl_divergence(q, p)
    assert exact.shape == ()
    for seed in range(3):
        log_ratio = np.asarray(_log_ratio(q, p, jax.random.key(seed)), float)
        assert abs(log_ratio.mean() - float(exact)) < 4 * log_ratio.std(ddof=1) / np.sqrt(log_ratio.size)


@eqx.filter_jit
def _log_ratio(q, p, key):
    z = q.sample_many(key, 4096)
    return q.log_prob_many(z) - p.log_prob_many(z)


@pytest.mark.parametrize("name", PAIRS)
def test_against_numpyro(name):
    q, p = PAIRS[name]
    np.testing.assert_allclose(kl_divergence(q, p), dist.kl_divergence(as_numpyro(q), as_numpyro(p)), rtol=1e-4)


def test_zero_for_equal_distributions_and_nowhere_below():
    assert float(kl_divergence(DIAGONAL, DIAGONAL)) == pytest.approx(0, abs=1e-6)
    assert float(kl_divergence(DiagonalGaussian(jnp.zeros(2), jnp.zeros(2)), STANDARD)) == pytest.approx(0, abs=1e-6)
    assert float(kl_divergence(FullRankGaussian(jnp.zeros(2), -jnp.eye(2)), STANDARD)) == pytest.approx(0, abs=1e-6)
    means, log_scales = jax.random.normal(jax.random.key(0), (2, 50, 2))
    assert np.all(jax.vmap(lambda m, s: kl_divergence(DiagonalGaussian(m, s), STANDARD))(means, log_scales) > 0)


def test_summed_over_latents_never_averaged():
    twice = DiagonalGaussian(jnp.tile(DIAGONAL.mean, 2), jnp.tile(DIAGONAL.log_scale, 2))
    np.testing.assert_allclose(
        kl_divergence(twice, StandardNormal(4)), 2 * kl_divergence(DIAGONAL, STANDARD), rtol=1e-6
    )


def test_unknown_pairs_are_refused_with_the_remedy():
    student = FromNumPyro(dist.StudentT(4.0, jnp.zeros(2), 1.0).to_event(1))
    assert not has_kl(student, STANDARD)
    assert not has_kl(student, FromNumPyro(dist.Normal(jnp.zeros(2), 1.0).to_event(1)))
    with pytest.raises(TypeError, match=r"No closed-form KL from FromNumPyro to StandardNormal. Use qphi.MonteCarlo"):
        kl_divergence(student, STANDARD)


def test_a_users_formula_is_used():
    class Mine(StandardNormal):
        pass

    assert not has_kl(Mine(2), STANDARD)

    @register_kl(Mine, StandardNormal)
    def formula(q, p):
        return jnp.asarray(7.0)

    assert float(kl_divergence(Mine(2), STANDARD)) == 7.0


def test_gradients_reach_both_sides():
    gradient_q, gradient_p = jax.grad(lambda q, p: kl_divergence(q, p), argnums=(0, 1))(DIAGONAL, OTHER)
    for leaf in jax.tree.leaves((gradient_q, gradient_p)):
        assert np.abs(leaf).min() > 1e-3
